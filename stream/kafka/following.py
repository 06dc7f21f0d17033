"""Follows whole topics from a point in the past on, and takes up again where it was: for those who show what was published.

A `Tail` with a memory: it says where each partition will be read from, how far it has come, and when that turned out not to be there.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import KafkaException, TopicPartition

from stream.kafka.admin import Admin
from stream.kafka.connect import START_TIMEOUT_S, log, reach, reason
from stream.kafka.log import LogError, Partition
from stream.kafka.reader import Tail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TIMES_TIMEOUT_S = 10.0


class Back(NamedTuple):
    """How far back the reading of a topic begins; whichever is nearer."""

    ms: int
    """By the messages' own stamps."""
    records: int
    """Over all partitions of a topic."""


class Follower(Tail):
    """Reads whole topics.

    Args:
        properties: librdkafka's.
        topics: their names.
        back: where to begin in partitions that were not read before.
        known: the next offsets of those that were.
        start_timeout_s: seconds to wait for a broker's first answer.

    Raises:
        TopicMissing: a topic does not exist.
        Unreachable: no broker answered.
        AccessDenied: the credentials were refused.
    """

    def __init__(
        self,
        properties: Mapping[str, Any],
        topics: Sequence[str],
        back: Back,
        known: Mapping[Partition, int],
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self._back, self._known = back, dict(known)
        self.restarted: dict[Partition, int] = {}
        """Partitions that do not hold the offset they were known to be read up to, and where they go on."""
        self.goal: dict[Partition, int] = {}
        """Where the partitions ended when reading began."""
        super().__init__(properties, topics, True, start_timeout_s)

    @property
    def places(self) -> dict[Partition, int]:
        """The next offset of each partition."""
        return dict(self._next)

    def probe(self, timeout_s: float = 1.0) -> bool:
        """Whether a broker answers now; a quiet topic says nothing of that by itself.

        Args:
            timeout_s: seconds to wait for it.
        """
        try:
            reach(self._consumer, self._errors, self._properties, timeout_s)
        except LogError:
            return False
        return True

    def _starts(self, spans: Mapping[Partition, tuple[int, int]], from_start: bool) -> dict[Partition, int]:
        self.goal = {p: high for p, (_, high) in spans.items()}
        counts = {topic: sum(p.topic == topic for p in spans) for topic in {p.topic for p in spans}}
        times = self._times([p for p in spans if p not in self._known])
        starts: dict[Partition, int] = {}
        for partition, (low, high) in spans.items():
            known = self._known.get(partition)
            if known is None:
                most = -(-self._back.records // counts[partition.topic])
                starts[partition] = max(low, high - most, times.get(partition, low))
            elif low <= known <= high:
                starts[partition] = known
            else:
                # Retention was faster, or the topic was made anew and is read from its beginning.
                starts[partition] = self.restarted[partition] = low
        return starts

    def _times(self, partitions: list[Partition]) -> dict[Partition, int]:
        """Their first offsets that are not too old."""
        if not partitions:
            return {}
        since_ms = max(0, time.time_ns() // 1_000_000 - self._back.ms)
        try:
            found = self._consumer.offsets_for_times([TopicPartition(*p, since_ms) for p in partitions], timeout=_TIMES_TIMEOUT_S)
        except KafkaException as caught:
            log.warning("offsets by time are not to be had, so reading begins by number: %s", reason(caught).str())
            return {}
        # -1: nothing is so new. Such a partition is read from where its number says, for what it last said is still true.
        return {Partition(place.topic, place.partition): place.offset for place in found if place.error is None and place.offset >= 0}


def existing(properties: Mapping[str, Any], topics: Sequence[str], timeout_s: float = START_TIMEOUT_S) -> dict[str, int]:
    """Which of some topics there are, and their partitions.

    Args:
        properties: librdkafka's.
        topics: their names.
        timeout_s: seconds to wait for a broker's first answer.

    Raises:
        Unreachable: no broker answered.
        AccessDenied: the credentials were refused.
    """
    admin = Admin(properties)
    admin.ping(timeout_s)
    found = admin.topics()
    return {topic: found[topic] for topic in topics if topic in found}
