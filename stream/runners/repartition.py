"""Repartitioning: a clickstream whose sessions are spread over partitions, once through an internal topic keyed by session.

Sessions can only be followed where all of their events are. The messages go on byte for byte, a session's (or user's) to
one partition; what cannot be read goes to the dead letters here, and events that the configuration does not list end here.
The partitions are merged by event time (those of other processes by their committed watermarks, within one out_of_orderness),
so what ingest finds is not more disordered than it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stream.config import Config, Source
from stream.engine.columns import Rows
from stream.kafka.log import Messages, Partition, Records
from stream.runners.ingest import IngestObserver, IngestStage, IngestWork, Taken, read_topic
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


class RepartitionStage(IngestStage):
    """Opens the partitions of the sources that say `repartition = true`.

    Args:
        config: the user's.
        partitions: how many partitions each topic has.
        observer: is told what happens.
    """

    name = "repartition"
    merges = True

    def __init__(self, config: Config, partitions: Mapping[str, int], observer: IngestObserver) -> None:
        super().__init__(config, partitions, observer)
        self.by_topic = {source.topic: source for source in config.sources.values() if source.repartition}
        self.topics = tuple(self.by_topic)
        self.max_lead_ms = config.time.out_of_orderness_ms

    def open(self, partition: Partition) -> Shard:
        return RepartitionWork(partition, self.by_topic[partition.topic], self)
