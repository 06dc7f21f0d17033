"""The ingest engine: one shard per source partition. Rows in; intent records, activity and late rows out.

Pure: no Kafka, no clock, no logging. What a shard gives depends on its partition's log alone, not on how the log was cut
into calls: rows are cut again here wherever the partition's own watermark crosses an epoch (the end of a smallest
bucket; segments of activity) or, with sessions, a grain (ticks, at which the intent models learn).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stream.engine.activity import (
    VERSION,
    Block,
    ItemColumn,
    Moved,
    Segment,
    Source,
    clickstream_sums,
    expected_by_partition,
    facts_by_partition,
    measured_by_partition,
    number_items,
    order_sums,
    pack,
    segments_by_partition,
)
from stream.engine.announced import offer_facts, review_measures, signal_facts
from stream.engine.columns import UNKNOWN, IntentColumns, Ints, Rejected, Rows
from stream.engine.sessions import SessionBook
from stream.engine.time import Grid, Zone


@dataclass(frozen=True, slots=True)
class IngestSpec:
    """What shapes an ingest shard's results."""

    out_of_orderness_ms: int
    allowed_lateness_ms: int
    smallest: str
    """The smallest bucket size: its buckets are the epochs."""
    grain_ms: int
    """Row size of activity, at most 15 minutes."""
    zone: Zone
    partitions: int
    """Of the activity topic."""
    max_sessions: int
    """Live sessions that the partition may keep at a tick."""
    counts_demand: bool
    """This source's orders or purchases are the demand."""


@dataclass(slots=True)
class Ingested:
    """What a step gave."""

    intents: list[IntentColumns] = field(default_factory=list)
    """In the order in which they must be published."""
    blocks: list[list[Block]] = field(default_factory=list)
    """For each activity partition."""
    rejected: list[Rejected] = field(default_factory=list)
    """Rows too late to count."""
    late_corrected: int = 0
    late_dropped: int = 0
    accepted: Counter[str] = field(default_factory=Counter)


class IngestShard:
    """The state of one source partition.

    Args:
        source: which partition of which source.
        kind: clickstream | orders | offers | reviews | signals.
        spec: what shapes the results.
        book: the live sessions (clickstream only).
    """

    def __init__(self, source: Source, kind: str, spec: IngestSpec, book: SessionBook | None) -> None:
        self.source = source
        self.kind = kind
        self.spec = spec
        self.book = book
        self.epochs = Grid(spec.smallest, spec.zone)
        self.max_ms = UNKNOWN
        self.reached: int | None = None
        self.grain = UNKNOWN

    @property
    def holds(self) -> bool:
        """Whether this source holds the watermark back."""
        return self.kind in ("clickstream", "orders")

    @property
    def watermark_ms(self) -> int:
        """The largest event time less out_of_orderness; UNKNOWN before any event."""
        return UNKNOWN if self.max_ms == UNKNOWN else self.max_ms - self.spec.out_of_orderness_ms

    def rows_until(self, time_ms: Ints, limit_ms: int) -> int:
        """How many rows keep the watermark at or below the limit; at least one.

        Args:
            time_ms: int64[rows], event times of the rows to come, at least one.
            limit_ms: how far the watermark may go.
        """
        if not self.holds:
            return len(time_ms)
        watermark = np.maximum(np.maximum.accumulate(time_ms), self.max_ms) - self.spec.out_of_orderness_ms
        return max(1, int(np.searchsorted(watermark, limit_ms, side="right")))

    def step(self, rows: Rows) -> Ingested:
        """Takes the next rows of the partition.

        Args:
            rows: in offset order; may be empty.
        """
        done = Ingested(blocks=[[] for _ in range(self.spec.partitions)])
        if not len(rows):
            return done
        if not self.holds:
            self._announce(rows, done)
            return done
        lateness = self.spec.out_of_orderness_ms
        high = np.maximum(np.maximum.accumulate(rows.time_ms), self.max_ms)
        after = high - lateness
        before = np.concatenate([[self.watermark_ms], after[:-1]])
        late = rows.time_ms < after
        if late.any():
            dropped = rows.time_ms < after - self.spec.allowed_lateness_ms
            done.late_dropped = int(dropped.sum())
            done.late_corrected = int(late.sum()) - done.late_dropped
            if done.late_dropped:
                done.rejected = _too_late(rows, after, np.flatnonzero(dropped))
                keep = np.flatnonzero(~dropped)
                # A dropped row is behind its watermark, so it moved nothing: the others' watermarks stand.
                rows, after, before = _take(rows, keep), after[keep], before[keep]
                if not len(rows):
                    return done
        self.max_ms = int(high[-1])

        items = number_items(rows.item, len(rows))
        epoch = self.epochs.number(after)
        segments: list[list[Segment]] = [[] for _ in range(self.spec.partitions)]
        if self.kind == "orders":
            sums = order_sums(rows) if self.spec.counts_demand else None
        else:
            sums = clickstream_sums(rows, self.spec.counts_demand)
            self._sessions(rows, items, before, after, epoch, done, segments)
        if sums is not None:
            grain = rows.time_ms // self.spec.grain_ms
            for start, stop in _stretches(epoch):
                part = segments_by_partition(
                    int(epoch[start]),
                    rows.cut(start, stop),
                    ItemColumn(items.number[start:stop], items.names, items.crc),
                    grain[start:stop],
                    {name: values[start:stop] for name, values in sums.items()},
                    self.spec.partitions,
                )
                for mine, more in zip(segments, part, strict=True):
                    mine.extend(more)
        reached = int(epoch[-1])
        for p, mine in enumerate(segments):
            mine.sort(key=lambda segment: segment.epoch)  # stable: rows stay in front of what they moved
            if mine or reached != self.reached:
                done.blocks[p] = list(pack(self.source, reached, mine))
        self.reached = reached
        return done

    def take_orders(self, keys: Sequence[str], time_ms: Ints, offset: Ints) -> None:
        """Takes orders that stand in this partition's log between its rows; before `step` takes the rows around them.

        Args:
            keys: session, or user where sessions are cut from users.
            time_ms: int64[n], of the orders.
            offset: int64[n], ascending.
        """
        assert self.book is not None and self.book.orders is not None
        self.book.orders.wait(keys, time_ms, offset)

    def next_mark_ms(self, time_ms: int) -> int:
        """The watermark after a row of this time."""
        return max(self.watermark_ms, time_ms - self.spec.out_of_orderness_ms)

    def _announce(self, rows: Rows, done: Ingested) -> None:
        """Offers, signals and reviews: facts and measurements, each in the epoch that ends with or after its being told.

        What is told at the very end of a bucket is known to the forecast issued then. Out of order by more than out_of_orderness it
        goes into the epoch that the partition's own watermark has reached, so that its log alone decides.
        """
        after = np.maximum(np.maximum.accumulate(rows.time_ms), self.max_ms) - self.spec.out_of_orderness_ms
        self.max_ms = int(after[-1]) + self.spec.out_of_orderness_ms
        epoch = np.maximum(self.epochs.number(rows.time_ms - 1), self.epochs.number(after - 1))
        segments: list[list[Segment]] = [[] for _ in range(self.spec.partitions)]
        if self.kind == "reviews":
            measured, row = review_measures(rows, self.spec.grain_ms)
            segments = measured_by_partition(epoch[row], measured, self.spec.partitions)
        else:
            facts = offer_facts(rows) if self.kind == "offers" else signal_facts(rows)
            if facts is not None:
                row = np.searchsorted(rows.offset, facts.offset)  # a message is a row
                segments = facts_by_partition(epoch[row], facts, self.spec.partitions)
        for blocks, mine in zip(done.blocks, segments, strict=True):
            if mine:
                blocks.extend(Block(VERSION, "facts", self.source, None, block.segments) for block in pack(self.source, 0, mine))

    def _sessions(
        self, rows: Rows, items: ItemColumn, before: Ints, after: Ints, epoch: Ints, done: Ingested, segments: list[list[Segment]]
    ) -> None:
        """Cuts the rows at ticks, where sessions whose outcome is known are learnt from before anything later is scored."""
        book = self.book
        assert book is not None
        hashes = items.hashes()
        shelves = number_items(rows.category, len(rows)).hashes()
        numbers = items.number
        if book.interest is not None and items.names:
            numbers = np.where(items.number >= 0, book.interest.number(items.names)[items.number], -1)
        if book.next_items is not None:
            book.next_items.meet(items.names, items.crc + 1)
        local_ms = self.spec.zone.to_local_ms(rows.time_ms)
        grain = after // self.spec.grain_ms
        moved: list[Moved] = []
        for start, stop in _stretches(grain):
            now, place = int(grain[start]), int(epoch[start])
            if now > self.grain:
                self.grain = now
                boundary = now * self.spec.grain_ms
                done.intents += book.end(boundary)
                told, released = book.tick(boundary, int(rows.offset[start]))
                done.intents += told + book.cap(self.spec.max_sessions)
                _note(moved, book, place, released)
            stepped = book.step(
                rows.cut(start, stop),
                before[start:stop],
                hashes[start:stop],
                shelves[start:stop],
                local_ms[start:stop],
                numbers[start:stop],
            )
            done.intents += stepped.intents
            _note(moved, book, place, stepped.moved)
        done.intents += book.end(self.watermark_ms)
        for mine, more in zip(segments, expected_by_partition(moved, self.spec.partitions), strict=True):
            mine.extend(more)

    def finish(self) -> Ingested:
        """The source has ended: ends all live sessions at their last event plus the gap, and says so in every activity partition."""
        done = Ingested(blocks=[[] for _ in range(self.spec.partitions)])
        if self.book is not None:
            forever = np.iinfo(np.int64).max
            done.intents = self.book.end(forever)
            if self.book.orders is not None:
                done.intents += self.book.tick(forever, forever)[0]
            self.book.settle(forever)
        if self.holds:
            max_ms = None if self.max_ms == UNKNOWN else self.max_ms
            done.blocks = [[Block(1, "end", self.source, max_ms=max_ms)] for _ in range(self.spec.partitions)]
        return done

    def idle(self) -> Ingested:
        """The source has fallen silent (the caller's wall clock says so): every activity partition is told."""
        blocks = [[Block(1, "idle", self.source)] if self.holds else [] for _ in range(self.spec.partitions)]
        return Ingested(blocks=blocks)


def _note(moved: list[Moved], book: SessionBook, epoch: int, change: tuple[Ints, Ints] | None) -> None:
    """Keeps what expected purchases have moved by, with the list of names that the numbers are of: by the next tick it may be another."""
    if change is not None and len(change[0]):
        assert book.interest is not None
        moved.append(Moved(epoch, book.interest.names, *change))


def _stretches(numbers: Ints) -> list[tuple[int, int]]:
    """[start, stop) of each stretch of equal numbers."""
    edges = np.flatnonzero(np.diff(numbers)) + 1
    bounds = [0, *edges.tolist(), len(numbers)]
    return list(zip(bounds[:-1], bounds[1:], strict=True))


def _too_late(rows: Rows, watermark: Ints, dropped: Ints) -> list[Rejected]:
    """One dead letter a message, however many of its lines are late (they share its time)."""
    offsets, first = np.unique(rows.offset[dropped], return_index=True)
    return [
        Rejected(offset, "too_late", f"event time {time} ms is {lag} ms behind the partition's watermark, more than allowed_lateness")
        for offset, time, lag in zip(
            offsets.tolist(), rows.time_ms[dropped][first].tolist(), (watermark - rows.time_ms)[dropped][first].tolist(), strict=True
        )
    ]


def _take(rows: Rows, keep: Ints) -> Rows:
    """The rows at these places."""
    picks = keep.tolist()

    def some(column: list[str] | None) -> list[str] | None:
        return None if column is None else [column[i] for i in picks]

    return Rows(
        offset=rows.offset[keep],
        stamp_ms=rows.stamp_ms[keep],
        time_ms=rows.time_ms[keep],
        item=some(rows.item),
        event=None if rows.event is None else rows.event[keep],
        session=some(rows.session),
        user=some(rows.user),
        order=some(rows.order),
        price=None if rows.price is None else rows.price[keep],
        quantity=None if rows.quantity is None else rows.quantity[keep],
        cancelled=None if rows.cancelled is None else rows.cancelled[keep],
        category=some(rows.category),
    )
