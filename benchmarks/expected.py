"""What expected purchases are worth to demand in the next hour: simulated shops' sessions go through the ingest engine, and the same hours are
forecast by the engine as it runs live, tick after tick, with and without the level of expected purchases at each bucket's end as a past
covariate; in hours also with a network that has been trained.

    python -m benchmarks.expected
    python -m benchmarks.expected --shops spikes --days 5 --hours 48

Three shops: one in which nothing happens to an item but its hours and weekdays, an ordinary one, and one of many spikes. Prints, in hours and in
quarters of an hour, the WQL of the next hour, the difference with its interval, and that difference by how strong a rise was under way. Ten
minutes of one core.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.shops import run
from models.intent.scorer import IntentScorer
from models.protocol import IntentSpec
from stream.backtest.data import View, cut_rounds
from stream.backtest.drive import Drive
from stream.backtest.method import Method, RoundForecast, Task, Tell
from stream.backtest.nowcart import forecast_of
from stream.backtest.peers import make_methods
from stream.backtest.run import Backtest, cells_of, compare
from stream.backtest.scores import wql
from stream.backtest.shape import Layout, read_table
from stream.bench.shop import configuration
from stream.cli.backtest import LEVELS
from stream.engine import activity
from stream.engine.activity import Block, read_expected
from stream.engine.columns import MICRO
from stream.engine.features import FEATURES
from stream.engine.ingest import IngestShard, IngestSpec
from stream.engine.sessions import SessionBook, SessionSpec
from stream.engine.time import Zone
from stream.mapping import Decoder, Piece
from stream.runners.forecast import probes
from stream.simulate.plan import Spike
from stream.simulate.shop import Shop

DAY_MS = 86_400_000
GRAIN_MS = 900_000
SIZES = {"1h": 4, "15m": 1}
"""Grains in a bucket."""
TRAINED = "1h"
"""The size for which the comparison is made with a trained network too, which sees views in any case."""
_QUIET = {"spikes_per_day": 0.0, "promotions_per_day": 0.0, "stockouts_per_day": 0.0, "price_changes_per_day": 0.0}
_SPIKES = {"spikes_per_day": 0.5, "spike_hours": (1.0, 6.0), "spike_factor": (3.0, 20.0), "rise_hours": 3.0, "promotions_per_day": 0.05}
SHOPS: dict[str, dict[str, Any]] = {"quiet": _QUIET, "ordinary": {}, "spikes": _SPIKES}
STRENGTHS = (
    (0.0, 0.8, "a fall"),
    (0.8, 1.2, "nothing"),
    (1.2, 4.0, "1.2 to 4 times"),
    (4.0, 10.0, "4 to 10 times"),
    (10.0, np.inf, "more than 10 times"),
)
"""By how much an item's demand has risen, on average over the bucket that is forecast."""


@dataclass(frozen=True, slots=True)
class History:
    """A shop as the ingest engine tells it, [items, grains], and what had happened to its items."""

    start_ms: int
    names: list[str]
    units: NDArray[np.float64]
    views: NDArray[np.float64]
    level: NDArray[np.float64]
    """Expected purchases at each grain's end."""
    factor: NDArray[np.float64]
    """What a spike multiplies an item's demand by, mean over the grain; 1 without one."""

    def table(self, grains: int) -> pa.Table:
        """item, time, units, views, expected: a row an item and bucket.

        Args:
            grains: in a bucket.
        """
        items, buckets = len(self.names), self.units.shape[1] // grains
        cut = [values[:, : buckets * grains].reshape(items, buckets, grains) for values in (self.units, self.views, self.level)]
        times = np.array(self.start_ms + np.arange(buckets) * grains * GRAIN_MS, dtype="datetime64[ms]")
        return pa.table(
            {
                "item": np.repeat(np.array(self.names), buckets),
                "time": np.tile(times, items),
                "units": cut[0].sum(axis=2).ravel(),
                "views": cut[1].sum(axis=2).ravel(),
                "expected": cut[2][:, :, -1].ravel(),
            }
        )

    def rise(self, grains: int) -> NDArray[np.float64]:
        """float64[items, buckets], the mean factor."""
        buckets = self.factor.shape[1] // grains
        return np.asarray(self.factor[:, : buckets * grains].reshape(len(self.names), buckets, grains).mean(axis=2))


class _Grains:
    """What the activity blocks say of each item and grain."""

    def __init__(self, start_ms: int, grains: int) -> None:
        self.first, self.grains = start_ms // GRAIN_MS, grains
        self.items: dict[str, int] = {}
        self.sums: dict[str, NDArray[np.int64]] = {name: np.zeros((0, grains), np.int64) for name in ("units", "views", "moved")}

    def take(self, block: Block) -> None:
        """Adds a block's rows, and its moves of expected purchases in the epoch that they belong to."""
        for segment in block.segments:
            if segment.items:
                item, grain = (
                    np.frombuffer(segment.columns[name], kind).astype(np.int64) for name, kind in (("item", "<u4"), ("grain", "<i8"))
                )
                for name in ("units", "views"):
                    if name in segment.columns:
                        self._add(name, segment.items, item, grain, np.frombuffer(segment.columns[name], "<i8"))
            if segment.expected is not None:
                told = segment.expected
                epoch = np.full(len(told.items), segment.epoch)
                self._add("moved", told.items, np.arange(len(told.items)), epoch, read_expected(told))

    def _add(self, name: str, names: list[str], item: NDArray[np.int64], grain: NDArray[np.int64], values: NDArray[np.int64]) -> None:
        place = np.array([self.items.setdefault(each, len(self.items)) for each in names], dtype=np.int64)
        for key, cells in self.sums.items():
            if len(self.items) > len(cells):
                self.sums[key] = np.concatenate([cells, np.zeros((2 * len(self.items) - len(cells), self.grains), np.int64)])
        at = grain - self.first
        good = (at >= 0) & (at < self.grains)
        np.add.at(self.sums[name], (place[item[good]], at[good]), values[good])


def history(days: int, changes: dict[str, Any]) -> History:
    """A simulated shop, as the ingest engine tells it.

    Args:
        days: how long.
        changes: of the shop's parameters.
    """
    config = configuration({}, "expected")
    shop = Shop(zone="UTC", **changes)
    scorer = IntentScorer(IntentSpec(features=FEATURES))
    session = SessionSpec(config.intent.session_gap_ms, False, 1.0, (), False, expected=True)
    spec = IngestSpec(config.time.out_of_orderness_ms, config.time.allowed_lateness_ms, "15m", GRAIN_MS, Zone("UTC"), 1, sys.maxsize, True)
    shard = IngestShard(activity.Source("clicks", 0), "clickstream", spec, SessionBook(session, scorer, scorer.version))
    decoder = Decoder(config.sources["clicks"], config.time, Zone("UTC"))
    start_ms = shop.spec.start_ms
    seen, offset = _Grains(start_ms, days * DAY_MS // GRAIN_MS), 0
    for chunk in shop.events(start_ms + days * DAY_MS, chunk_events=20_000):
        messages = chunk.sources["clicks"]
        rows = decoder.decode(Piece(list(range(offset, offset + len(messages))), messages.arrival_ms.tolist(), list(messages.values))).rows
        offset += len(messages)
        for block in shard.step(rows).blocks[0]:
            seen.take(block)
        print(f"\r{offset:,} events", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    names = sorted(seen.items)
    rows_of = np.array([seen.items[name] for name in names])
    factor = np.ones((len(names), seen.grains))
    number = {name: row for row, name in enumerate(names)}
    for spike in shop.plan.spikes:
        name = shop.catalog.ids[spike.item]
        if name in number:
            factor[number[name]] *= _factors(spike, start_ms, seen.grains)
    units, views, moved = (seen.sums[name][rows_of] for name in ("units", "views", "moved"))
    return History(start_ms, names, units / MICRO, views.astype(np.float64), moved.cumsum(axis=1) / MICRO, factor)


def _factors(spike: Spike, start_ms: int, grains: int) -> NDArray[np.float64]:
    """float64[grains], what the spike multiplies by, looked at each minute."""
    minute = start_ms + (np.arange(grains * 15) + 0.5) * 60_000
    risen = np.clip((minute - spike.start_ms) / spike.rise_ms, 0, 1) if spike.rise_ms else np.ones(len(minute))
    value = np.where((minute >= spike.start_ms) & (minute < spike.end_ms), 1 + (spike.factor - 1) * risen, 1.0)
    return np.asarray(value.reshape(grains, 15).mean(axis=1))


class _Untrained:
    """The engine as it runs live before anybody has trained a network: one shard, tick after tick."""

    name = "untrained"
    note = ""

    def run(self, views: Sequence[View], task: Task, tell: Tell) -> Iterator[RoundForecast]:
        """As the protocol says."""
        drive = Drive(views[0], task, 1)
        for number, view in enumerate(views):
            yield forecast_of(view, task, drive.go(view, view.end))
            tell((number + 1) / len(views))


def forecast(told: History, size: str, hours: int) -> Backtest:
    """The engine learning on as it does live, with and without expected purchases; each hour a forecast of the hour to come.

    Args:
        told: the history.
        size: of the buckets.
        hours: that are forecast, the last ones.
    """
    grains = SIZES[size]
    steps = 4 // grains
    ways: list[tuple[str, tuple[str, ...]]] = [("untrained", ()), ("untrained", ("expected",))]
    if size == TRAINED:
        ways += [("trained", ("views",)), ("trained", ("views", "expected"))]
    joined: Backtest | None = None
    for name, past in ways:
        frequency = {"1h": "h", "15m": "15min"}[size]
        layout = Layout(("item",), "time", "units", frequency=frequency, past=past, fill="zero", seasons=(24 * steps,))
        data = read_table(told.table(grains), layout, name).data
        rounds = cut_rounds(data, steps, hours, steps, 0)
        task = Task(steps, LEVELS, (), probes(steps), retrain="never", adapt=True, workers=os.cpu_count() or 1)
        methods: list[Method] = [_Untrained()] if name == "untrained" else list(make_methods(["nowcart"], data))
        result = run(data, rounds, task, methods)
        result.outcomes[0] = replace(result.outcomes[0], name=f"{name}, {'with' if 'expected' in past else 'without'}")
        if joined is None:
            joined = result
        else:
            joined.outcomes.append(result.outcomes[0])
    assert joined is not None
    return joined


def report(shop: str, size: str, told: History, result: Backtest) -> None:
    """Prints what came out.

    Args:
        shop: its name.
        size: of the buckets.
        told: the history.
        result: of forecast().
    """
    by_name = {outcome.name: outcome for outcome in result.outcomes}
    rise = told.rise(SIZES[size])
    if told.names != list(result.data.items):
        raise AssertionError("the history's items and the backtest's must be the same, in the same order")
    strength = np.array([rise[:, one.cut : one.cut + one.horizon] for one in result.rounds])
    print(f"\n{shop}, buckets of {size}: WQL of the next hour, {int(result.scored.sum()):,} cells")
    for name in ("untrained", "trained"):
        if f"{name}, with" not in by_name:
            continue
        on, off = by_name[f"{name}, with"], by_name[f"{name}, without"]
        print(
            f"  {name}: without; with less without (below 0: it helps; 95 %, clustered by item and hour), by how demand stood to its usual"
        )
        for low, high, words in ((-np.inf, np.inf, "all"), *STRENGTHS):
            among = (strength >= low) & (strength < high)
            gap = compare(result, on, off, among)
            if gap is None or gap.low is None:
                continue
            before = _wql(result, off, among)
            share = f"{gap.value / before:+7.1%}"
            print(f"    {words:20} {before:.4f} {gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}] {share}  {gap.n:8,} cells")


def _wql(result: Backtest, outcome: Any, among: NDArray[np.bool_] | None) -> float:
    cells, *_ = cells_of(result, outcome, among)
    return float(wql(cells.actual, cells.quantiles, result.task.levels) or np.nan)


def main() -> int:
    """Makes the histories, forecasts them, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--shops", default=",".join(SHOPS), help=f"of {', '.join(SHOPS)} (default: all)")
    parser.add_argument("--sizes", default=",".join(SIZES), help=f"of buckets, of {', '.join(SIZES)} (default: both)")
    parser.add_argument("--days", type=int, default=8)
    parser.add_argument("--items", type=int, default=80)
    parser.add_argument("--rate", type=float, default=6.0)
    parser.add_argument("--conversion", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hours", type=int, default=120, help="that are forecast, the last ones")
    args = parser.parse_args()
    shops, sizes = args.shops.split(","), args.sizes.split(",")
    if not set(shops) <= set(SHOPS) or not set(sizes) <= set(SIZES):
        parser.error(f"--shops must be of {', '.join(SHOPS)} and --sizes of {', '.join(SIZES)}; got {args.shops} and {args.sizes}")
    for shop in shops:
        told = history(args.days, SHOPS[shop] | {"items": args.items, "rate": args.rate, "conversion": args.conversion, "seed": args.seed})
        for size in sizes:
            report(shop, size, told, forecast(told, size, args.hours))
    return 0


if __name__ == "__main__":
    sys.exit(main())
