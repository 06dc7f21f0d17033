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
from confluent_kafka import Message as RawMessage

REST = "nowcart.rest.ms"
"""The property that asks for it: how long at most, milliseconds. Ours, unknown to librdkafka."""

RESTED_DEFAULTS = {"queued.max.messages.kbytes": 4096}
"""A client that has read far ahead of its caller stands at the ends, asking, before the caller has come there and lets it rest."""

Message: Any = RawMessage
Place = tuple[str, int]
"""A topic and a partition of it."""

_BACKLOG = 10
"""Rests are so much longer while other partitions have a backlog."""
_LISTEN_S = 0.005
"""Between two rests, for what has come meanwhile: a fetch takes less than one millisecond on the machine itself."""


class Resting:
    """Wraps a Consumer: each partition with nothing left to read is paused most of the time.

    Args:
        consumer: librdkafka's, with enable.partition.eof.
        rest_s: length of a rest, seconds: so much later, at worst, a message is read while nothing else keeps the caller busy.
    """

    def __init__(self, consumer: Any, rest_s: float) -> None:
        self._consumer = consumer
        self._rest_s = rest_s
        self._full = False
        """The last batch was: there is a backlog, and asking the others costs as long as a batch takes."""
        self._at_end: set[Place] = set()
        self._stopped: set[Place] = set()
        self._resting: dict[Place, float] = {}
        """Until when those at their end are not asked for."""

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
            active = self._active() if self._resting else set()
            everywhere = bool(active) and self._at_end >= active
            due = [place for place, until in self._resting.items() if now >= until or place not in active]
            if due:
                messages = self._listen(list(self._resting) if everywhere else due, count, everywhere)
            else:
                wait = deadline - now
                if everywhere:  # meanwhile librdkafka calls back for rebalances
                    wait = min(wait, min(self._resting.values()) - now)
                messages = self._take(count, max(0.0, wait))
            if time.monotonic() >= deadline:
                break
        return messages

    def pause(self, places: list[TopicPartition]) -> None:
        """As the consumer's; no rest's end ends it."""
        for place in _places(places):
            self._stopped.add(place)
            self._forget(place)
        self._consumer.pause(places)

    def resume(self, places: list[TopicPartition]) -> None:
        """As the consumer's."""
        for place in _places(places):
            self._stopped.discard(place)
            self._forget(place)
        self._consumer.resume(places)

    def seek(self, place: TopicPartition) -> None:
        """As the consumer's."""
        rested = (place.topic, place.partition) in self._resting
        self._forget((place.topic, place.partition))
        self._consumer.seek(place)
        if rested:
            self._consumer.resume([place])

    def _active(self) -> set[Place]:
        """What it reads; those that were taken away are forgotten."""
        active = set(_places(self._consumer.assignment())) - self._stopped
        self._at_end &= active
        return active

    def _forget(self, place: Place) -> None:
        self._at_end.discard(place)
        self._resting.pop(place, None)

    def _take(self, count: int, timeout: float) -> list[Any]:
        messages: list[Any] = self._consumer.consume(count, timeout)
        self._full = len(messages) >= count
        if self._at_end:
            self._at_end.difference_update(zip(map(Message.topic, messages), map(Message.partition, messages), strict=True))
        if any(map(Message.error, messages)):
            errors = [(m, m.error()) for m in messages if m.error() is not None]
            ends = [(m.topic(), m.partition()) for m, error in errors if error.code() == KafkaError._PARTITION_EOF]
            self._at_end.update(ends)
            self._rest(ends)
        return messages

    def _listen(self, places: list[Place], count: int, everywhere: bool) -> list[Any]:
        """Asks whether there is something new for those that have rested; those without rest again before the caller goes on."""
        until = time.monotonic() + _LISTEN_S
        for place in places:
            del self._resting[place]
        given = [TopicPartition(*place) for place in places]
        with contextlib.suppress(KafkaException):  # one that was taken away meanwhile
            self._consumer.resume(given)
            if everywhere:
                # The broker's thread, with nothing to fetch, may sleep for a second: a request is what wakes it at once.
                self._consumer.get_watermark_offsets(given[0], timeout=1.0, cached=False)
        messages = self._take(count, _LISTEN_S)
        if (left := until - time.monotonic()) > 0:
            time.sleep(left)  # others have filled the batch: these need as long for an answer all the same
        self._rest([place for place in places if place in self._at_end and place not in self._resting])
        return messages

    def _rest(self, places: list[Place]) -> None:
        if places:
            until = time.monotonic() + self._rest_s * (_BACKLOG if self._full else 1)
            self._resting.update((place, until) for place in places)
            with contextlib.suppress(KafkaException):
                self._consumer.pause([TopicPartition(*place) for place in places])


def _places(places: list[TopicPartition]) -> list[Place]:
    return [(p.topic, p.partition) for p in places]
