"""What expected purchases are worth to demand an hour ahead: a simulated shop's sessions go through the ingest engine, and the same hours are
forecast with and without the level of expected purchases at each hour's end as a past covariate.

    python -m benchmarks.expected
    python -m benchmarks.expected --days 5 --rounds 12

Prints the scores of both, beside a naive model, and the difference with its interval.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.shops import run
from models.intent.scorer import IntentScorer
from models.protocol import IntentSpec
from stream.backtest.data import cut_rounds
from stream.backtest.method import Task
from stream.backtest.peers import make_methods
from stream.backtest.run import Backtest, compare, summary
from stream.backtest.shape import Layout, read_table
from stream.bench.shop import configuration
from stream.cli.backtest import LEVELS, print_table
from stream.engine import activity
from stream.engine.activity import Block, read_expected
from stream.engine.columns import MICRO
from stream.engine.features import FEATURES
from stream.engine.ingest import IngestShard, IngestSpec
from stream.engine.sessions import SessionBook, SessionSpec
from stream.engine.time import Zone
from stream.mapping import Decoder, Piece
from stream.runners.forecast import probes
from stream.simulate.shop import Shop

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
_GRAIN_MS = 900_000
PAST: dict[str, tuple[str, ...]] = {"without": (), "views": ("views",), "expected": ("expected",), "both": ("views", "expected")}


class _Hours:
    """What the activity blocks say of each item and hour."""

    def __init__(self, start_ms: int, hours: int) -> None:
        self.first, self.hours = start_ms // HOUR_MS, hours
        self.items: dict[str, int] = {}
        self.sums: dict[str, NDArray[np.int64]] = {name: np.zeros((0, hours), np.int64) for name in ("units", "views", "moved")}

    def take(self, block: Block) -> None:
        """Adds a block's rows, and its moves of expected purchases in the epoch that they belong to."""
        for segment in block.segments:
            if segment.items:
                item, grain = (
                    np.frombuffer(segment.columns[name], kind).astype(np.int64) for name, kind in (("item", "<u4"), ("grain", "<i8"))
                )
                for name in ("units", "views"):
                    if name in segment.columns:
                        self._add(name, segment.items, item, grain * _GRAIN_MS // HOUR_MS, np.frombuffer(segment.columns[name], "<i8"))
            if segment.expected is not None:
                told = segment.expected
                hour = np.full(len(told.items), segment.epoch)
                self._add("moved", told.items, np.arange(len(told.items)), hour, read_expected(told))

    def _add(self, name: str, names: list[str], item: NDArray[np.int64], hour: NDArray[np.int64], values: NDArray[np.int64]) -> None:
        place = np.array([self.items.setdefault(each, len(self.items)) for each in names], dtype=np.int64)
        for key, cells in self.sums.items():
            if len(self.items) > len(cells):
                self.sums[key] = np.concatenate([cells, np.zeros((2 * len(self.items) - len(cells), self.hours), np.int64)])
        at = hour - self.first
        good = (at >= 0) & (at < self.hours)
        np.add.at(self.sums[name], (place[item[good]], at[good]), values[good])

    def table(self) -> pa.Table:
        """item, hour, units, views, expected: a row an item and hour."""
        count = len(self.items)
        level = self.sums["moved"][:count].cumsum(axis=1) / MICRO
        hours = np.array((self.first + np.arange(self.hours)) * HOUR_MS, dtype="datetime64[ms]")
        return pa.table(
            {
                "item": np.repeat(np.array(list(self.items)), self.hours),
                "hour": np.tile(hours, count),
                "units": self.sums["units"][:count].ravel() / MICRO,
                "views": self.sums["views"][:count].ravel().astype(np.float64),
                "expected": level.ravel(),
            }
        )


def history(days: int, items: int, rate: float, conversion: float) -> pa.Table:
    """A simulated shop's hours, as the ingest engine tells them.

    Args:
        days: how long.
        items: of the shop.
        rate: clickstream events a second.
        conversion: share of sessions that buy.
    """
    config = configuration({}, "expected")
    shop = Shop(items=items, rate=rate, conversion=conversion, zone="UTC")
    scorer = IntentScorer(IntentSpec(features=FEATURES))
    session = SessionSpec(config.intent.session_gap_ms, False, 1.0, (), False, expected=True)
    spec = IngestSpec(config.time.out_of_orderness_ms, config.time.allowed_lateness_ms, "1h", _GRAIN_MS, Zone("UTC"), 1, sys.maxsize, True)
    shard = IngestShard(activity.Source("clicks", 0), "clickstream", spec, SessionBook(session, scorer, scorer.version))
    decoder = Decoder(config.sources["clicks"], config.time, Zone("UTC"))
    hours, offset = _Hours(shop.spec.start_ms, days * 24), 0
    for chunk in shop.events(shop.spec.start_ms + days * DAY_MS, chunk_events=20_000):
        messages = chunk.sources["clicks"]
        rows = decoder.decode(Piece(list(range(offset, offset + len(messages))), messages.arrival_ms.tolist(), list(messages.values))).rows
        offset += len(messages)
        for block in shard.step(rows).blocks[0]:
            hours.take(block)
        print(f"\r{offset:,} events", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return hours.table()


def main() -> int:
    """Makes the history, forecasts it, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--rate", type=float, default=4.0)
    parser.add_argument("--conversion", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=48, help="hours that are forecast, the last ones")
    parser.add_argument(
        "--past", default=",".join(PAST), help=f"which of {', '.join(PAST)} to compare; the first is compared with (default: all)"
    )
    args = parser.parse_args()
    wanted = args.past.split(",")
    if not set(wanted) <= set(PAST):
        parser.error(f"--past must be of {', '.join(PAST)}; got {args.past}")
    table = history(args.days, args.items, args.rate, args.conversion)
    joined: Backtest | None = None
    for name in wanted:
        past = PAST[name]
        layout = Layout(("item",), "hour", "units", frequency="h", past=past, fill="zero", seasons=(24,))
        data = read_table(table, layout, name).data
        rounds = cut_rounds(data, 1, args.rounds, 1, 0)
        task = Task(1, LEVELS, (1,), probes(1), workers=os.cpu_count() or 1)
        result = run(data, rounds, task, make_methods(["nowcart"] if joined else ["nowcart", "seasonal_naive"], data))
        result.outcomes[0] = replace(result.outcomes[0], name=f"nowcart, {name}")
        if joined is None:
            joined = result
        else:
            joined.outcomes.append(result.outcomes[0])
    assert joined is not None
    print_table(summary(joined))
    without = joined.outcomes[0]
    print(f"\nWQL less that of {without.name}, 95 %, clustered by item and hour (below 0: it helps)")
    for outcome in joined.outcomes[1:]:
        gap = compare(joined, outcome, without)
        if gap is not None:
            print(f"  {outcome.name:20} {gap.value:+.4f}  [{gap.low:+.4f}, {gap.high:+.4f}]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
