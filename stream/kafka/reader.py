"""Readers outside any group: a range of one partition again, or topics from now on. Committed records only.

For rebuilding state (`read`), and for those who watch the outputs (`Tail`). They commit nothing and nobody sees them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from stream.kafka.admin import Admin
from stream.kafka.connect import START_TIMEOUT_S, Errors, count_partitions, is_not_yet, log, reason, servers, settings, translated
from stream.kafka.fetching import CHUNK, KafkaMessages, batches, cut_before, split
from stream.kafka.log import Fetched, OffsetGone, Partition, Unreachable
from stream.kafka.resting import REST, RESTED_DEFAULTS, Resting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

PATIENCE_S = 60.0
"""How long a reader of a range waits without an answer: as long as a broker takes to come back from a restart."""

CONSUMER_DEFAULTS = {
    "fetch.queue.backoff.ms": 5,  # librdkafka's 1000 makes a reader that catches up wait a second each time its queue was full
    "queued.max.messages.kbytes": 65_536,
    "fetch.message.max.bytes": 1_048_576,
    "fetch.max.bytes": 52_428_800,
    "fetch.wait.max.ms": 100,
}
CONSUMER_REQUIRED = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "isolation.level": "read_committed",
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
}


class Record(NamedTuple):
    """One published record."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: list[tuple[str, bytes]]


def open_consumer(properties: Mapping[str, Any], errors: Errors, defaults: Mapping[str, Any], required: Mapping[str, Any]) -> Consumer:
    """A consumer that has not connected yet.

    Args:
        properties: the user's librdkafka properties.
        errors: hears the client's errors.
        defaults: over CONSUMER_DEFAULTS.
        required: over CONSUMER_REQUIRED.
    """
    rest_ms = float(properties.get(REST, 0))
    rested = RESTED_DEFAULTS if rest_ms > 0 else {}
    config = settings(properties, errors, {**CONSUMER_DEFAULTS, **rested, **defaults}, {**CONSUMER_REQUIRED, **required})
    try:
        consumer = Consumer(config)
        return Resting(consumer, rest_ms / 1000) if rest_ms > 0 else consumer  # type: ignore[return-value]  # as good as one
    except KafkaException as caught:
        raise translated(reason(caught), properties, "reading [kafka]") from None


def span_of(consumer: Consumer, partition: Partition, properties: Mapping[str, Any], timeout_s: float = 10.0) -> tuple[int, int]:
    """First offset and end of a partition, as a read_committed reader sees them, asked of the broker now.

    Args:
        consumer: any.
        partition: which.
        properties: the client's, for the names in the message.
        timeout_s: seconds to wait.
    """
    place = TopicPartition(partition.topic, partition.partition)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            found = consumer.get_watermark_offsets(place, timeout=max(0.1, deadline - time.monotonic()), cached=False)
        except KafkaException as caught:
            if not is_not_yet(reason(caught)) or time.monotonic() >= deadline:
                raise translated(reason(caught), properties, f"asking for the offsets of {place.topic}[{place.partition}]") from None
            time.sleep(0.05)
        else:
            break
    if found is None:
        raise Unreachable(
            f"Kafka at {servers(properties)} did not tell the offsets of {place.topic}[{place.partition}] within {timeout_s:g} s"
        )
    low, high = found
    return int(low), int(high)


def read(
    properties: Mapping[str, Any], partition: Partition, start: int, stop: int, max_messages: int, spare: list[Consumer] | None = None
) -> Iterator[KafkaMessages]:
    """The committed messages with offsets in [start, stop).

    Args:
        properties: librdkafka's.
        partition: which.
        start: first offset.
        stop: one past the last.
        max_messages: most in one batch.
        spare: readers of ranges before that reached their end: one of them is taken, and this one is put there in turn. A new one
            takes a tenth of a second to connect and to close. None: this one is closed.

    Raises:
        OffsetGone: the partition does not hold that range.
        Unreachable: no broker answered for a minute.
    """
    # The group is a name that librdkafka wants and nobody sees.
    consumer = spare.pop() if spare else open_consumer(properties, Errors(), {}, {"group.id": "nowcart.reader"})
    where = f"{partition.topic}[{partition.partition}]"
    reached = False
    try:
        low, high = span_of(consumer, partition, properties)
        if start < low or stop > high:
            raise OffsetGone(f"{where} holds offsets {low} to {high}; {start} to {stop} were asked for")
        reached = start >= stop
        if not reached:
            consumer.assign([TopicPartition(partition.topic, partition.partition, start)])
        answered = time.monotonic()
        while not reached:
            found: dict[Partition, list[Any]] = {}
            events = split(consumer.consume(min(max_messages, CHUNK), 0.02), found)
            raw = found.get(partition, [])
            ended = bool(raw) and raw[-1].offset() >= stop - 1
            if ended:
                raw = [m for m in raw if m.offset() < stop]
            if raw:
                yield KafkaMessages(partition, raw)
            reached = ended
            for event in events:
                error = event.error()
                if error.code() == KafkaError._PARTITION_EOF:
                    # The last offsets may be transaction markers: no message ever comes for them.
                    reached |= event.offset() >= stop and (event.topic(), event.partition()) == partition
                elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                    raise translated(error, properties, f"reading {where} from {start} to {stop}")
                elif not error.retriable() and error.code() not in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                    raise translated(error, properties, f"reading {where}")
            now = time.monotonic()
            if raw or events:
                answered = now
            elif now - answered > PATIENCE_S:
                raise Unreachable(f"Kafka at {servers(properties)} brought nothing of {where} for {PATIENCE_S:g} s, before offset {stop}")
        consumer.unassign()
    finally:
        if reached and spare is not None:
            spare.append(consumer)
        else:
            consumer.close()


def newest(properties: Mapping[str, Any], topic: str, most: int, patience_s: float = 10.0) -> dict[Partition, KafkaMessages]:
    """The newest committed messages of a topic, spread over its partitions; no group is joined, nothing is committed.

    Args:
        properties: librdkafka's.
        topic: its name.
        most: messages in all; what one partition does not have the others give.
        patience_s: seconds to wait without an answer.

    Returns:
        The messages of each partition that has any, in offset order.

    Raises:
        TopicMissing: the topic does not exist.
        Unreachable: no broker answered.
        AccessDenied: the credentials were refused.
    """
    errors = Errors()
    consumer = open_consumer(properties, errors, {}, {"group.id": "nowcart.reader"})
    try:
        count = count_partitions(consumer, errors, [topic], properties)[topic]
        spans = {p: span_of(consumer, p, properties) for p in (Partition(topic, number) for number in range(count))}
        stops = {p: high for p, (low, high) in spans.items() if high > low}
        shares = _shares([high - low for low, high in spans.values() if high > low], most)
        starts = [TopicPartition(topic, p.partition, stop - share) for (p, stop), share in zip(stops.items(), shares, strict=True)]
        found: dict[Partition, list[Any]] = {}
        if not starts:
            return {}
        consumer.assign(starts)
        answered = time.monotonic()
        open_ends = dict(stops)
        while open_ends:
            before = {p: len(raw) for p, raw in found.items()}
            events = split(consumer.consume(CHUNK, 0.02), found)
            for partition, raw in found.items():
                if len(raw) > before.get(partition, 0):
                    answered = time.monotonic()
                    if raw[-1].offset() >= stops[partition] - 1:
                        open_ends.pop(partition, None)
            for event in events:
                error = event.error()
                if error.code() == KafkaError._PARTITION_EOF:
                    # The last offsets may be transaction markers: no message ever comes for them.
                    answered = time.monotonic()
                    open_ends.pop(Partition(event.topic(), event.partition()), None)
                elif not error.retriable() and error.code() not in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                    raise translated(error, properties, f"reading '{topic}'")
            if time.monotonic() - answered > patience_s:
                raise Unreachable(f"Kafka at {servers(properties)} brought nothing of '{topic}' for {patience_s:g} s")
        kept = {p: [m for m in raw if m.offset() < stops[p]] for p, raw in found.items()}
        return {p: KafkaMessages(p, raw) for p, raw in sorted(kept.items()) if raw}
    finally:
        consumer.close()


def _shares(sizes: list[int], most: int) -> list[int]:
    """How many to take of each, together at most so many, as evenly as the sizes allow."""
    shares = [0] * len(sizes)
    left = most
    for done, place in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        shares[place] = min(sizes[place], -(-left // (len(sizes) - done)))
        left -= shares[place]
    return shares


class Tail:
    """Reads whole topics, from their start or from now on.

    Args:
        properties: librdkafka's.
        topics: their names.
        from_start: False: only what comes from now on.
        start_timeout_s: seconds to wait for a broker's first answer.

    Raises:
        TopicMissing: a topic does not exist.
        Unreachable: no broker answered.
        AccessDenied: the credentials were refused.
    """

    def __init__(
        self, properties: Mapping[str, Any], topics: Sequence[str], from_start: bool = True, start_timeout_s: float = START_TIMEOUT_S
    ) -> None:
        self._properties = dict(properties)
        self._errors = Errors()
        self._consumer = open_consumer(properties, self._errors, {}, {"group.id": "nowcart.reader"})
        try:
            counts = count_partitions(self._consumer, self._errors, topics, properties, start_timeout_s)
            self.partitions = [Partition(topic, number) for topic, count in counts.items() for number in range(count)]
            # Asked for now: what is sent after this constructor has returned is seen, however long the first fetch takes. And never a
            # logical offset (beginning, end): librdkafka may ask for it once more when it has long begun, and go back to it.
            spans = {p: span_of(self._consumer, p, properties) for p in self.partitions}
            self._next = self._starts(spans, from_start)
            self._consumer.assign([TopicPartition(p.topic, p.partition, offset) for p, offset in self._next.items()])
        except BaseException:
            self._consumer.close()
            raise

    def _starts(self, spans: Mapping[Partition, tuple[int, int]], from_start: bool) -> dict[Partition, int]:
        """Where each partition is read from, given its first offset and its end."""
        return {p: low if from_start else high for p, (low, high) in spans.items()}

    @property
    def reachable(self) -> bool:
        """False while no broker answers."""
        return not self._errors.down

    def fetch(self, max_messages: int, timeout_s: float) -> Fetched:
        """What there is, as columns.

        Args:
            max_messages: most messages.
            timeout_s: seconds to wait for that many.

        Raises:
            LogError: on anything but a broker that is away for a while.
        """
        found: dict[Partition, list[Any]] = {}
        ends: dict[Partition, int] = {}
        for event in split(self._consumer.consume(min(max_messages, CHUNK), timeout_s), found):
            error = event.error()
            if error.code() == KafkaError._PARTITION_EOF:
                ends[Partition(event.topic(), event.partition())] = event.offset()
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                # Retention was faster than we: whoever watches goes on with the oldest there is.
                place = Partition(event.topic(), event.partition())
                log.warning("%s[%d] no longer holds the next offset; going on with the oldest it has", *place)
                low = span_of(self._consumer, place, self._properties)[0]
                self._next[place] = low  # it may be smaller: a topic that was made anew
                self._consumer.seek(TopicPartition(place.topic, place.partition, low))
            elif error.fatal() or not (error.retriable() or error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)):
                raise translated(error, self._properties, "reading")
        if found or ends:
            self._errors.down = False
        for partition, raw in found.items():
            found[partition] = cut_before(raw, self._next[partition])
            self._next[partition] = max(self._next[partition], raw[-1].offset() + 1)
        return Fetched(list(batches(found)), ends)

    def ends(self) -> dict[Partition, int]:
        """Where each partition ends now, with what is being committed: a commit returns before all may see what it wrote."""
        return Admin(self._properties).written_ends(self.partitions)

    def close(self) -> None:
        """Disconnects."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def follow(
    properties: Mapping[str, Any],
    topics: Sequence[str],
    from_start: bool = True,
    *,
    until_end: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Record]:
    """The topics' records, one by one, as they come.

    Args:
        properties: librdkafka's.
        topics: their names.
        from_start: False: only what comes from now on.
        until_end: ends where the topics end at the moment of the call, once what was being committed then is; else it waits for
            more, for ever.
        stop: asked ten times a second; True ends it.

    Raises:
        TopicMissing: a topic does not exist.
        Unreachable: no broker answered.
    """
    with Tail(properties, topics, from_start) as tail:
        open_ends = {p: end for p, end in tail.ends().items() if end > 0} if until_end else {}
        while not stop() and not (until_end and not open_ends):
            fetched = tail.fetch(CHUNK, 0.02 if until_end else 0.1)
            for batch in fetched.batches:
                topic, number = batch.partition
                for i, (offset, stamp, value) in enumerate(zip(batch.offsets, batch.stamps_ms, batch.values, strict=True)):
                    yield Record(topic, number, offset, batch.key(i), value, stamp, batch.headers(i))
                if batch.offsets[-1] + 1 >= open_ends.get(batch.partition, 1 << 62):
                    del open_ends[batch.partition]
            for partition, end in fetched.ends.items():
                if end >= open_ends.get(partition, 1 << 62):
                    del open_ends[partition]
