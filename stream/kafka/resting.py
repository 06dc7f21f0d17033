"""A consumer that rests at the end of its partitions, for brokers that do not hold a fetch back until there is something.

noida-db 0.2.3 answers a fetch at once, whatever `fetch.wait.max.ms` and `fetch.min.bytes` say, and librdkafka sends the next one at
once: 10,000 fetches a second and consumer were measured, a core and a half burnt by three consumers with nothing to read. Apache
Kafka waits, and never sees this.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

REST = "nowcart.rest.ms"
"""The property that asks for it: how long at most, milliseconds. Ours, unknown to librdkafka."""

_LISTEN_S = 0.005
"""Between two rests, for what has come meanwhile."""


class Resting:
    """Wraps a Consumer: while nothing is left to read, its partitions are paused most of the time.

    Args:
        consumer: librdkafka's, with enable.partition.eof.
        rest_s: length of a rest, seconds: so much later, at worst, a message is read.
    """

    def __init__(self, consumer: Any, rest_s: float) -> None:
        self._consumer = consumer
        self._rest_s = rest_s
        self._at_end: set[tuple[str, int]] = set()
        self._stopped: set[tuple[str, int]] = set()
        self._until: float | None = None
        """When the rest ends; None: it does not rest."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def consume(self, count: int, timeout: float) -> list[Any]:
        """As the consumer's.

        Args:
            count: most messages.
            timeout: seconds.
        """
        deadline = time.monotonic() + timeout
        messages: list[Any] = []
        while not messages:
            now = time.monotonic()
            if self._until is not None and (now >= self._until or not self._all_at_end()):
                self._wake()
            wait = _LISTEN_S if self._all_at_end() else timeout
            if self._until is not None:
                wait = self._until - now  # librdkafka still calls back for rebalances
            messages = self._take(count, max(0.0, min(wait, deadline - now)))
            if self._until is None and not messages and self._all_at_end():
                self._until = time.monotonic() + self._rest_s
                self._consumer.pause([TopicPartition(*place) for place in self._at_end])
            if time.monotonic() >= deadline:
                break
        return messages

    def pause(self, places: list[TopicPartition]) -> None:
        """As the consumer's; no rest's end ends it."""
        self._stopped.update((p.topic, p.partition) for p in places)
        self._consumer.pause(places)

    def resume(self, places: list[TopicPartition]) -> None:
        """As the consumer's."""
        self._stopped.difference_update((p.topic, p.partition) for p in places)
        self._consumer.resume(places)

    def seek(self, place: TopicPartition) -> None:
        """As the consumer's."""
        self._at_end.discard((place.topic, place.partition))
        self._consumer.seek(place)

    def _take(self, count: int, timeout: float) -> list[Any]:
        messages: list[Any] = self._consumer.consume(count, timeout)
        for message in messages:
            error, place = message.error(), (message.topic(), message.partition())
            if error is None:
                self._at_end.discard(place)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._at_end.add(place)
        return messages

    def _active(self) -> set[tuple[str, int]]:
        return {(p.topic, p.partition) for p in self._consumer.assignment()} - self._stopped

    def _all_at_end(self) -> bool:
        return bool(self._at_end) and self._at_end >= (active := self._active()) and bool(active)

    def _wake(self) -> None:
        self._until = None
        active = [TopicPartition(*place) for place in self._active()]
        self._at_end.intersection_update((p.topic, p.partition) for p in active)
        if active:
            self._consumer.resume(active)
            # The broker's thread, with nothing to fetch, may sleep for a second: a request is what wakes it at once.
            with contextlib.suppress(KafkaException):
                self._consumer.get_watermark_offsets(active[0], timeout=1.0, cached=False)
