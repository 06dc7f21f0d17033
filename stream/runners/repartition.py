"""Repartitioning: a clickstream whose sessions are spread over partitions, once through an internal topic keyed by session.

Sessions can only be followed where all of their events are. The messages go on byte for byte, a session's (or user's) to
one partition; what cannot be read goes to the dead letters here, and events that the configuration does not list end here.
The partitions are merged by event time (those of other processes by their committed watermarks, within one out_of_orderness),
so what ingest finds is not more disordered than it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from stream.config import Config, Source
from stream.engine.columns import Rows
from stream.kafka.log import Messages, Partition, Records
from stream.runners.ingest import IngestObserver, IngestStage, IngestWork, Taken, read_topic
from stream.runners.outcomes import write_order
from stream.runners.stage import Shard


class RepartitionWork(IngestWork):
    """One partition of the user's topic."""

    def __init__(self, partition: Partition, source: Source, stage: RepartitionStage) -> None:
        super().__init__(partition, source, stage)
        self.target = read_topic(source, stage.config)
        self.engine.book = None

    def accept(self, messages: Messages) -> None:
        super().accept(messages)
        kept = self.queue[-1].bytes_of
        for i, (offset, value) in enumerate(zip(messages.offsets, messages.values, strict=True)):
            kept[offset] = (messages.key(i), value)

    def count(self, events: Mapping[str, int]) -> None:
        ignored = {name: count for name, count in events.items() if name == "ignored"}
        if ignored:  # the others are counted where they are used
            super().count(ignored)

    def outputs(self, rows: Rows | None, taken: Taken) -> Iterator[list[Records]]:
        if taken.rejected:
            yield self.dead_letters(taken.rejected, taken.bytes_of)
        if rows is None or not len(rows):
            return
        self.engine.max_ms = max(self.engine.max_ms, int(rows.time_ms.max()))
        names = rows.session if rows.session is not None else rows.user
        assert names is not None
        keys = [name.encode() for name in names]
        values = [taken.bytes_of[offset][1] for offset in rows.offset.tolist()]
        size = sum(map(len, keys)) + sum(len(value or b"") for value in values)
        yield [Records(self.target, keys, values, bytes=size)]

    def finish(self) -> list[Records]:
        return []

    def idle(self) -> list[Records]:
        return []

    def greet(self) -> list[Records]:
        return []


class OrderWork(RepartitionWork):
    """One partition of orders that are outcomes of sessions: each is put among the clickstream. What cannot be read is ingest's to say."""

    def __init__(self, partition: Partition, source: Source, stage: RepartitionStage) -> None:
        super().__init__(partition, source, stage)
        clicks = [other for other in stage.config.sources.values() if other.kind == "clickstream"]
        self.targets = [read_topic(other, stage.config) for other in clicks]
        self.by_user = "session" not in clicks[0].fields

    def accept(self, messages: Messages) -> None:
        IngestWork.accept(self, messages)

    def count(self, events: Mapping[str, int]) -> None:
        """Ingest counts them."""

    def outputs(self, rows: Rows | None, taken: Taken) -> Iterator[list[Records]]:
        if rows is None or not len(rows):
            return
        self.engine.max_ms = max(self.engine.max_ms, int(rows.time_ms.max()))
        names = rows.user if self.by_user else rows.session
        assert names is not None and rows.quantity is not None
        bought = rows.quantity > 0
        if rows.cancelled is not None:
            bought &= ~rows.cancelled
        # One an order, however many lines it has.
        lines = {(rows.offset[i], names[i]): int(rows.time_ms[i]) for i in np.flatnonzero(bought).tolist() if names[i]}
        if not lines:
            return
        keys = [name.encode() for _, name in lines]
        values = [write_order(time_ms) for time_ms in lines.values()]
        size = sum(map(len, keys)) + sum(map(len, values))
        yield [Records(target, keys, values, bytes=size) for target in self.targets]


class RepartitionStage(IngestStage):
    """Opens the partitions of the sources that say `repartition = true`, and those of orders where they are outcomes of sessions.

    Args:
        config: the user's.
        partitions: how many partitions each topic has.
        observer: is told what happens.
    """

    name = "repartition"
    merges = True

    def __init__(self, config: Config, partitions: Mapping[str, int], observer: IngestObserver) -> None:
        super().__init__(config, partitions, observer)
        labels = config.intent.label == "orders"
        self.by_topic = {
            source.topic: source for source in config.sources.values() if source.repartition or (labels and source.kind == "orders")
        }
        self.topics = tuple(self.by_topic)
        self.max_lead_ms = config.time.out_of_orderness_ms

    def open(self, partition: Partition) -> Shard:
        source = self.by_topic[partition.topic]
        return OrderWork(partition, source, self) if source.kind == "orders" else RepartitionWork(partition, source, self)
