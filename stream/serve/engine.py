"""What the engine says of itself, asked at its /metrics now and then, for the overview and the page's health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import aiohttp
import msgspec

from stream.metrics import read_exposition

log = logging.getLogger("nowcart.serve")

EVERY_S = 5.0
_TIMEOUT_S = 3.0
_LARGEST = 4_194_304
_FAMILIES = (
    "nowcart_events_total", "nowcart_event_to_prediction_seconds", "nowcart_consumer_lag_events", "nowcart_watermark_lag_seconds",
    "nowcart_sessions_live", "nowcart_items_live", "nowcart_dead_letters_total", "nowcart_commits_total", "nowcart_forecast_coverage_ratio",
    "nowcart_forecast_wape_ratio", "nowcart_model_info", "nowcart_intent_calibration_error_ratio",
)  # fmt: skip


class Model(msgspec.Struct, frozen=True):
    """A model in use."""

    model: str
    version: str
    device: str


class Engine(msgspec.Struct, frozen=True):
    """What all processes of the engine say, together."""

    processes: int
    asked: int
    """Processes that were asked."""
    events_per_second: float | None = None
    commits_per_second: float | None = None
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    lag_events: float | None = None
    watermark_lag_seconds: float | None = None
    sessions: float | None = None
    items: float | None = None
    dead_letters: float | None = None
    intent_calibration_error: float | None = None
    coverage: dict[str, dict[str, float]] = {}
    """Share of outcomes at or below a quantile, by bucket size and level."""
    wape: dict[str, dict[str, float]] = {}
    """Of each expert and of the council, by bucket size."""
    models: list[Model] = []


Sample = tuple[str, Mapping[str, str], float]


class Totals(NamedTuple):
    """Counters at a moment."""

    at: float
    events: float
    commits: float
    latency: dict[float, float]
    """Records by upper bound, cumulative."""


def summary(pages: Iterable[str], asked: int, at: float, before: Totals | None) -> tuple[Engine, Totals]:
    """Adds up what the processes say.

    Args:
        pages: their metrics, in Prometheus's text format.
        asked: how many were asked.
        at: seconds, ever rising.
        before: as of the last time.
    """
    read = [list(read_exposition(page, _FAMILIES)) for page in pages]
    samples = [sample for page in read for sample in page]

    def total(name: str) -> float | None:
        found = [value for named, _, value in samples if named == name]
        return sum(found) if found else None

    def largest(name: str, **labels: str) -> float | None:
        found = [value for named, given, value in samples if named == name and labels.items() <= given.items()]
        return max(found) if found else None

    def by(name: str, outer: str, inner: str) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, list[float]]] = {}
        for named, given, value in samples:
            if named == name:
                found.setdefault(given[outer], {}).setdefault(given[inner], []).append(value)
        return {key: {name: round(sum(values) / len(values), 4) for name, values in sorted(rows.items())} for key, rows in found.items()}

    latency: dict[float, float] = {}
    for name, labels, value in samples:
        if name == "nowcart_event_to_prediction_seconds_bucket":
            bound = float(labels["le"])
            latency[bound] = latency.get(bound, 0.0) + value
    now = Totals(at, total("nowcart_events_total") or 0.0, total("nowcart_commits_total") or 0.0, latency)
    p50 = p99 = events = commits = None
    if before is not None and at > before.at and now.events >= before.events:
        events, commits = (now.events - before.events) / (at - before.at), (now.commits - before.commits) / (at - before.at)
        fresh = {bound: count - before.latency.get(bound, 0.0) for bound, count in latency.items()}
        p50, p99 = _quantile(fresh, 0.5), _quantile(fresh, 0.99)
    models = {(g["model"], g["version"], g["device"]) for name, g, value in samples if name == "nowcart_model_info" and value}
    return (
        Engine(
            processes=len(read),
            asked=asked,
            events_per_second=None if events is None else round(events, 1),
            commits_per_second=None if commits is None else round(commits, 2),
            latency_p50_ms=p50,
            latency_p99_ms=p99,
            lag_events=total("nowcart_consumer_lag_events"),
            watermark_lag_seconds=largest("nowcart_watermark_lag_seconds", stage="forecast") or largest("nowcart_watermark_lag_seconds"),
            sessions=total("nowcart_sessions_live"),
            items=total("nowcart_items_live"),
            dead_letters=total("nowcart_dead_letters_total"),
            intent_calibration_error=largest("nowcart_intent_calibration_error_ratio"),
            coverage=by("nowcart_forecast_coverage_ratio", "bucket", "level"),
            wape=by("nowcart_forecast_wape_ratio", "bucket", "expert"),
            models=[Model(*known) for known in sorted(models)],
        ),
        now,
    )


def _quantile(cumulative: Mapping[float, float], level: float) -> float | None:
    """Milliseconds, between the bounds by a straight line, as Prometheus does it."""
    bounds = sorted(cumulative)
    count = cumulative[bounds[-1]] if bounds else 0.0
    if count <= 0:
        return None
    low = seen = 0.0
    for bound in bounds:
        if cumulative[bound] >= level * count:
            if bound == float("inf"):
                return round(low * 1000, 1)
            share = (level * count - seen) / max(cumulative[bound] - seen, 1e-9)
            return round((low + (bound - low) * share) * 1000, 1)
        low, seen = bound, cumulative[bound]
    return None


class Asking:
    """Asks again and again.

    Args:
        urls: of the processes' metrics.
    """

    def __init__(self, urls: tuple[str, ...]) -> None:
        self._urls = urls
        self.engine: Engine | None = None
        self.asked_at: float | None = None
        """When somebody last answered, by the loop's clock."""

    async def run(self) -> None:
        """Until it is cancelled."""
        if not self._urls:
            return
        loop = asyncio.get_running_loop()
        before: Totals | None = None
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                pages = [page for page in await asyncio.gather(*(self._page(session, url) for url in self._urls)) if page is not None]
                try:
                    self.engine, before = summary(pages, len(self._urls), loop.time(), before)
                except (ValueError, KeyError) as error:  # somebody else answers there
                    log.debug("what stands at [serve] engine_metrics are not the engine's metrics: %s", error)
                if pages:
                    self.asked_at = loop.time()
                await asyncio.sleep(EVERY_S if before is None or before.latency else 1.0)

    @staticmethod
    async def _page(session: aiohttp.ClientSession, url: str) -> str | None:
        try:
            async with session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    return None
                page = bytearray()
                async for chunk in answer.content.iter_chunked(65_536):
                    page += chunk
                    if len(page) > _LARGEST:
                        return None
                return page.decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.debug("the engine's metrics at %s: %s", url, error)
            return None
