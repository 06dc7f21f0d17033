"""The demo itself: a broker, a shop, the engine and a reader of its outputs, from the first to the last of them."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from stream.config import UserError
from stream.demo.board import BUCKET, Board
from stream.demo.page import Page, is_installed
from stream.demo.settings import demo_config, demo_shop, demo_topics, history_ms
from stream.demo.view import Figures
from stream.simulate import TOPICS, ShopSpec

if TYPE_CHECKING:
    from stream.config import Config
    from stream.demo.feeder import Feeder
    from stream.metrics import Endpoint
    from stream.runners.report import Report

log = logging.getLogger("nowcart.demo")

_WINDOW_SECONDS = 30.0
"""Latencies are those of so long."""
_RATE_SECONDS = 60
_PATIENCE_SECONDS = 10.0
"""The shop's past goes on after so long even if no forecast has been seen: there may be none in so short a past."""
_LIVE_LAG_SECONDS = 30.0


class Latencies:
    """Latencies of the last seconds. Told from one thread, asked from another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[tuple[float, NDArray[np.float64]]] = deque()

    def add(self, now: float, seconds: NDArray[np.float64]) -> None:
        """Takes some.

        Args:
            now: seconds, ever rising.
            seconds: float64[n].
        """
        with self._lock:
            self._kept.append((now, seconds))
            while self._kept[0][0] < now - _WINDOW_SECONDS:
                self._kept.popleft()

    def clear(self) -> None:
        """Forgets them."""
        with self._lock:
            self._kept.clear()

    def percentiles_ms(self, now: float) -> tuple[float | None, float | None]:
        """p50 and p99, milliseconds; None where there were none.

        Args:
            now: seconds.
        """
        with self._lock:
            kept = [seconds for at, seconds in self._kept if at >= now - _WINDOW_SECONDS]
        if not sum(map(len, kept)):
            return None, None
        p50, p99 = np.percentile(np.concatenate(kept), [50, 99]) * 1000
        return float(p50), float(p99)


class Demo:
    """Everything that runs. Use it in a with block: what it has started ends with that.

    Args:
        items: of the shop.
        rate: clickstream events a second.
        seed: the same one gives the same shop.
        serve_port: of the live page; 0: there is none.

    Raises:
        UserError: no shop can be so.
    """

    def __init__(self, items: int, rate: float, seed: int, serve_port: int = 0) -> None:
        self.began = time.monotonic()
        self.board = Board()
        self.lock = threading.Lock()
        """Holds the board while it changes or is drawn."""
        self.latencies = Latencies()
        self.figures = Figures(phase="starting the broker")
        self._shop = self._open(items, rate, seed)
        self._serve_port = serve_port
        self._page: Page | None = None
        self._past_seconds = history_ms(rate) / 1000
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo")
        self._failure: BaseException | None = None
        self._report: Report | None = None
        self._feeder: Feeder | None = None
        self._engine_began: float | None = None
        self._ticks: deque[tuple[float, int, int, int]] = deque(maxlen=_RATE_SECONDS + 1)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> Figures:
        """The figures as they are now; to be called several times a second, from one thread.

        Raises:
            Exception: whatever has ended the demo.
        """
        if self._failure is not None:
            raise self._failure
        if self._feeder is not None and not self._stop.is_set():
            self._feeder.check()
        now, figures, report = time.monotonic(), self.figures, self._report
        figures.page_url = self._page.url if self._page is not None else ""
        figures.up_seconds = now - self.began
        figures.now_ms = time.time_ns() // 1_000_000
        if report is None:
            return figures
        lags = [lag for (stage, _), lag in list(report.watermarks.items()) if stage == "ingest"]
        figures.watermark_seconds = max(lags) if lags else None
        self._say_phase(now)
        figures.sessions, figures.items = report.sessions, report.items
        figures.events = report.total_events()
        figures.dead_letters = sum(sum(reasons.values()) for reasons in list(report.reasons.values()))
        figures.p50_ms, figures.p99_ms = self.latencies.percentiles_ms(now)
        self._count(now, figures.events, sum(report.commits.values()), sum(report.records.values()))
        with self.lock:
            self.board.learning(report.wape.get(BUCKET, {}), report.coverage.get(BUCKET, {}))
        return figures

    def _count(self, now: float, events: int, commits: int, records: int) -> None:
        ticks, figures = self._ticks, self.figures
        if not ticks or now - ticks[-1][0] >= 1.0:
            if ticks:
                figures.rates = [*figures.rates, (events - ticks[-1][1]) / (now - ticks[-1][0])][-_RATE_SECONDS:]
            ticks.append((now, events, commits, records))
        then = ticks[max(0, len(ticks) - 6)]
        if now - then[0] >= 0.5:
            figures.commits_per_second = (commits - then[2]) / (now - then[0])
            figures.records_per_second = (records - then[3]) / (now - then[0])

    def _say_phase(self, now: float) -> None:
        figures, feeder, lag = self.figures, self._feeder, self.figures.watermark_seconds
        if figures.live or feeder is None:
            return
        late = self._engine_began is not None and now - self._engine_began > _PATIENCE_SECONDS
        if late or figures.first_forecast_seconds is not None:
            feeder.go_on()
        if lag is None:
            return
        if feeder.progress.live and lag < _LIVE_LAG_SECONDS:
            figures.phase = "live"
            figures.rates = []
            self.latencies.clear()  # of the past's messages: how old they were when they were sent says nothing
        else:
            done = max(0.0, self._past_seconds - lag) / 60
            figures.phase = f"playing the last {self._past_seconds / 60:.0f} minutes: {done:.0f}"

    @staticmethod
    def _open(items: int, rate: float, seed: int) -> ShopSpec:
        import msgspec

        try:
            return demo_shop(items, rate, seed, time.time_ns() // 1_000_000)
        except (ValueError, msgspec.ValidationError) as error:
            raise UserError(f"no shop can be so: {error}") from error

    # ---- in a thread of its own

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                self._work(stack)
        except BaseException as failure:  # noqa: BLE001 — carried to the main thread
            self._failure = failure

    def _work(self, stack: ExitStack) -> None:
        from stream.demo.feeder import Feeder
        from stream.kafka.admin import Admin
        from stream.kafka.embedded import EmbeddedBroker

        figures = self.figures
        broker = stack.enter_context(EmbeddedBroker())
        config = demo_config(broker.bootstrap_servers)
        Admin(config.kafka).create(demo_topics(config))
        figures.bootstrap_servers, figures.prefix = broker.bootstrap_servers, config.output.prefix
        figures.phase = "opening the shop"
        self._feeder = stack.enter_context(Feeder(broker.bootstrap_servers, self._shop))
        figures.phase = "loading the models"
        from stream.runners.engine import Engine

        report = _report(self.latencies)
        engine = Engine(config, report)
        endpoint = stack.enter_context(_serve(config, report, engine))
        figures.metrics_url = f"http://{config.metrics.host}:{endpoint.port}/metrics"
        if self._serve_port and is_installed():
            self._page = stack.enter_context(Page(broker.bootstrap_servers, self._serve_port, figures.metrics_url))
        reader = threading.Thread(target=self._read, args=(config,), name="reader")
        figures.phase = "waiting for the shop"
        while not self._feeder.wait(0.1):
            if self._stop.is_set():
                return
        self._engine_began = time.monotonic()
        self._report = report
        figures.phase = "joining the groups"
        reader.start()
        try:
            engine.run(self._stop)
        finally:
            self._stop.set()
            reader.join()

    def _read(self, config: Config) -> None:
        """Reads what the engine publishes, as any consumer would, and what the shop says of its prices and orders."""
        from stream.kafka.reader import Tail
        from stream.kafka.resting import REST

        board, prefix = self.board, config.output.prefix
        takers = {
            f"{prefix}demand": board.demand,
            f"{prefix}intent": board.intent,
            f"{prefix}spikes": board.spike,
            TOPICS["offers"]: board.offers,
            TOPICS["orders"]: board.orders,
        }
        try:
            with Tail({**config.kafka, REST: 150}, list(takers)) as tail:
                while not self._stop.is_set():
                    batches = tail.fetch(4096, 0.1).batches
                    for batch in batches:
                        with self.lock:
                            takers[batch.partition.topic]([value for value in batch.values if value])
                    if board.forecasts and self.figures.first_forecast_seconds is None:
                        self.figures.first_forecast_seconds = time.monotonic() - self.began
        except Exception as failure:  # noqa: BLE001 — carried to the main thread
            self._failure = failure
            self._stop.set()


def _report(latencies: Latencies) -> Report:
    from stream.metrics import Metrics
    from stream.runners.report import Report

    class Watched(Report):
        """Keeps the latencies of the last seconds, too."""

        def event_to_prediction(self, topic: str, seconds: NDArray[np.float64]) -> None:
            super().event_to_prediction(topic, seconds)
            if topic:
                latencies.add(time.monotonic(), seconds)

    return Watched(Metrics())


def _serve(config: Config, report: Report, engine: Any) -> Endpoint:
    from stream.metrics import serve

    host, port = config.metrics.host, config.metrics.port
    with contextlib.suppress(UserError):  # the port is somebody else's: any other will do
        return serve(report.metrics, host, port, engine.health, engine.ready)
    return serve(report.metrics, host, 0, engine.health, engine.ready)
