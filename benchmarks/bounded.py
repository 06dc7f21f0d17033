"""Does memory stay where it is while ever new sessions and items come by? The engines alone, in this process.

    python benchmarks/bounded.py                                    # 100 million sessions, 5 million items: half an hour
    python benchmarks/bounded.py --sessions 5000000 --items 500000

Each session looks at one thing and is never seen again; the sessions of a gap are more than `max_sessions`. Each item is sold once, and
there are more of them than `max_items`. Resident memory is printed as it goes: it must not grow with how many there have been.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models.device import pick
from models.intent.scorer import IntentScorer
from models.protocol import DemandSpec, IntentSpec
from stream.engine.activity import VERSION, Agreement, Block, Source, decode_block, encode_block
from stream.engine.columns import MICRO, Ints, Rows
from stream.engine.forecast import ForecastShard, ForecastSpec, ResolutionSpec
from stream.engine.ingest import IngestShard, IngestSpec
from stream.engine.sessions import FEATURES, SessionBook, SessionSpec
from stream.engine.time import Zone

START_MS = 1_736_186_400_000
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
ZONE = Zone("UTC")
AT_ONCE = 20_000
TIMES = 10
"""Lines printed."""


def resident_mib() -> float:
    """Of this process, now."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def engine(kind: str, max_sessions: int, book: SessionBook | None) -> IngestShard:
    """One partition's ingest."""
    spec = IngestSpec(30_000, HOUR_MS, "1h", 15 * MINUTE_MS, ZONE, 1, max_sessions, True)
    return IngestShard(Source("shop", 0), kind, spec, book)


def rows(first: int, time_ms: Ints, item: list[str], session: list[str] | None) -> Rows:
    """Views of sessions, or orders."""
    count = len(item)
    return Rows(
        offset=np.arange(first, first + count, dtype=np.int64),
        stamp_ms=time_ms,
        time_ms=time_ms,
        item=item,
        event=None if session is None else np.zeros(count, np.int8),
        session=session,
        quantity=np.full(count, MICRO, np.int64),
    )


def batches(total: int, span_ms: int, each: int) -> Iterator[tuple[int, Ints]]:
    """(first, times) of batches whose event times pass evenly: `each` in `span_ms`."""
    for first in range(0, total, AT_ONCE):
        yield first, START_MS + (np.arange(first, min(first + AT_ONCE, total), dtype=np.int64) * span_ms) // each


class Lines:
    """Prints how far it is, and what it takes."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.next, self.began = what, total, 0.0, time.monotonic()

    def at(self, done: int, live: int) -> None:
        """So many are done, and so many are kept."""
        if done >= self.next or done == self.total:
            self.next += self.total / TIMES
            seconds = time.monotonic() - self.began
            print(f"{done:>13,} {self.what}, {live:>9,} kept, {resident_mib():>7,.0f} MiB, {seconds:,.0f} s", flush=True)


def sessions(total: int, most: int) -> None:
    """Ever new sessions through one clickstream partition: twice as many within a gap as may be kept."""
    gap_ms = 30 * MINUTE_MS
    scorer = IntentScorer(IntentSpec(features=FEATURES), pick("cpu"))
    shard = engine("clickstream", most, SessionBook(SessionSpec(gap_ms, False, 0.05, (0.5,), False), scorer, scorer.version))
    assert shard.book is not None
    lines = Lines("sessions", total)
    for first, times in batches(total, gap_ms, 2 * most):
        count = len(times)
        shard.step(rows(first, times, [f"item-{number % 1000}" for number in range(count)], [f"s{first + i}" for i in range(count)]))
        lines.at(first + count, shard.book.live)


def items(total: int, most: int) -> None:
    """Ever new items through one activity partition, a tenth of what may be kept an hour."""
    ingest = engine("orders", 1, None)
    demand = DemandSpec("1h", 24, (24,), (0.1, 0.5, 0.9), (7,), (1, 6, 24), 10, experts=("seasonal_naive", "ewma", "tsb"))
    agreement = Agreement(15 * MINUTE_MS, "1h", "UTC")
    spec = ForecastSpec(agreement, ZONE, (ResolutionSpec(demand, 168),), 30_000, HOUR_MS, HOUR_MS, 400 * 24 * HOUR_MS, most, "cpu", "none")
    shard = ForecastShard(spec)
    lines = Lines("items", total)
    for _ in shard.step(Block(VERSION, "roster", roster=[Source("shop", 0)], agreement=agreement)):
        pass
    for first, times in batches(total, HOUR_MS, most // 10):
        count = len(times)
        for block in ingest.step(rows(first, times, [f"i{first + i}" for i in range(count)], None)).blocks[0]:
            for _ in shard.step(decode_block(encode_block(block))):
                pass
        lines.at(first + count, shard.items_live)


def main() -> None:
    """From a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=100_000_000, help="distinct ones in all (default: 100000000)")
    parser.add_argument("--max-sessions", type=int, default=100_000, help="that may be kept (default: 100000)")
    parser.add_argument("--items", type=int, default=5_000_000, help="distinct ones in all (default: 5000000)")
    parser.add_argument("--max-items", type=int, default=100_000, help="that may be kept (default: 100000)")
    args = parser.parse_args()
    sessions(args.sessions, args.max_sessions)
    items(args.items, args.max_items)


if __name__ == "__main__":
    main()
