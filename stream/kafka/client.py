"""A member of a consumer group with its transactional producer, on librdkafka: stream.kafka.log.Member against any Kafka.

Two parts: what it owns and reads (the consumer), and how a transaction ends (the producer, stream.kafka.transactions).
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from stream.kafka import reader
from stream.kafka.connect import START_TIMEOUT_S, Errors, count_partitions, is_away, log, reach, reason, servers, translated
from stream.kafka.fetching import CHUNK, batches, cut_before, split
from stream.kafka.log import Displaced, Fetched, OffsetGone, Outcome, Partition, Position, Span, Start, Unreachable
from stream.kafka.transactions import Transactions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from stream.kafka.log import Listener, Messages, Records

Assignment = Literal["range", "cooperative-sticky", "kip848"]

REQUEST_TIMEOUT_S = 10.0
COMMITTED_TIMEOUT_S = 30.0
"""Longer than a dead member's open transaction can hide committed offsets."""
WAKE_S = 0.005
"""How long a resume waits for the answer to the request that wakes the client. Sending it is what wakes; the answer stands behind a fetch
that may take a tenth of a second."""
PROBE_EVERY_S = 1.0
TROUBLED_S = 60.0
"""So long after a connection broke, a member that is taken for two joins anew."""
FORGIVES_EVERY_S = 300.0
"""And not again so soon: of two processes with one name, one has to end."""
HOLD = 2 * CHUNK
"""Messages kept for a paused partition before librdkafka is told to stop."""


class KafkaMember:
    """A member of a consumer group with its transactional producer. One thread uses it.

    Args:
        properties: librdkafka's, as the user gave them.
        group: the consumer group.
        transactional_id: its producer's; stable across restarts, and nobody else's.
        instance_id: static membership (group.instance.id): a restart keeps its partitions; None: dynamic, as always with "kip848".
        assignment: how the group shares partitions. "range" is the one that every broker knows.
        transaction_timeout_ms: after which the broker aborts what a dead member left open.
        start_timeout_s: seconds to wait for a broker's first answer.

    Raises:
        Unreachable: no broker answered in time.
        AccessDenied: the credentials or a right were refused.
        LogError: a property that librdkafka does not know.
    """

    def __init__(
        self,
        properties: Mapping[str, Any],
        group: str,
        transactional_id: str,
        instance_id: str | None = None,
        assignment: Assignment = "range",
        transaction_timeout_ms: int = 10_000,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self._properties = dict(properties)
        self._errors = Errors()
        self._group = group
        if assignment == "kip848":
            instance_id = None  # a killed member's name stays taken for its session's 45 s, and its restart ends in a fatal error
        self._static = instance_id is not None
        self._eager = assignment == "range"
        self._listener: Listener | None = None
        self._next: dict[Partition, int] = {}
        """What it owns, and the next offset of each: whatever comes from below was asked for in another life."""
        self._paused: set[Partition] = set()
        self._stopped: set[Partition] = set()
        """Those of the paused that librdkafka was told of."""
        self._held: dict[Partition, list[Any]] = {}
        """What came for a paused partition before librdkafka was told."""
        self._ready: dict[Partition, list[Any]] = {}
        """What was held for a partition that goes on: the next fetch begins with it."""
        self._held_ends: dict[Partition, int] = {}
        self._told_ends: dict[Partition, int] = {}
        self._readers: list[Any] = []
        """Of ranges of partitions, with nothing to do now."""
        self._touched: set[Partition] = set()
        """Given or taken since the running fetch began."""
        self._said_down = False
        self._forgiven = -math.inf
        """When this member last joined anew, monotonic."""
        self._topics: list[str] = []
        self._stale = False
        """The broker was away: the producer may hang on what it knew of it."""
        self._probed = 0.0
        required: dict[str, Any] = {"group.id": group}
        defaults: dict[str, Any] = {}
        if instance_id is not None:
            required["group.instance.id"] = instance_id
        if assignment == "kip848":
            required["group.protocol"] = "consumer"
        else:
            required["partition.assignment.strategy"] = assignment
            defaults["heartbeat.interval.ms"] = 200  # a partition that moves has no owner for one interval
        self._open = partial(reader.open_consumer, self._properties, self._errors, defaults, required)
        self._consumer: Any = self._open()
        try:
            reach(self._consumer, self._errors, properties, start_timeout_s)
            self._transactions = Transactions(properties, transactional_id, transaction_timeout_ms)
        except BaseException:
            self._consumer.close()
            raise

    @property
    def reachable(self) -> bool:
        return not self._errors.down

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None:
        self.partitions(topics)
        self._listener, self._topics = listener, list(topics)
        self._join()

    def _join(self) -> None:
        self._consumer.subscribe(self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    def fetch(self, max_messages: int, timeout_s: float) -> Fetched:
        self._touched.clear()
        found = self._take_ready(max_messages)
        left = max_messages - sum(map(len, found.values()))
        ends = {p: self._held_ends.pop(p) for p in list(self._held_ends) if p not in self._paused and p not in self._ready}
        deadline = time.monotonic() + (0.0 if found or ends else timeout_s)
        while left > 0:
            most = min(left, CHUNK)
            messages = self._consumer.consume(most, max(0.0, deadline - time.monotonic()))
            for event in split(messages, found):
                self._event(event, ends)
            left -= len(messages)
            if len(messages) < most or self._touched:
                break
        for partition in self._touched:  # what was read before it was given or taken may be mixed with what came after
            came = ends.pop(partition, None) is not None
            came |= bool(found.pop(partition, None))
            if came and partition in self._next and partition not in self._paused:
                self._seek(partition, self._next[partition])
        for partition, raw in list(found.items()):
            start = self._next.get(partition)
            if start is None or partition in self._paused:
                del found[partition]
                if start is not None and partition not in self._stopped:
                    self._hold(partition, raw)
                continue
            if raw[0].offset() < start:
                raw = found[partition] = cut_before(raw, start)
                if not raw:
                    continue
            self._next[partition] = raw[-1].offset() + 1
        reached: dict[Partition, int] = {}
        for partition, end in ends.items():
            # An end with messages after it in the same fetch is one no more.
            if partition in self._paused or partition in self._ready:
                self._held_ends[partition] = end
            elif end >= self._next.get(partition, end + 1):
                reached[partition] = self._next[partition] = self._told_ends[partition] = end
        if found or reached:
            self._answered()
        elif self._errors.down:
            self._probe()
        return Fetched(list(batches(found)), reached)

    def pause(self, partitions: Sequence[Partition]) -> None:
        # librdkafka drops all it has fetched ahead for a partition that it pauses: a loop that pauses and resumes one at every
        # fetch ran at 0.27 M messages/s instead of 1.4 M. So what comes is held back here, and only a long pause is told.
        for partition in partitions:
            if partition in self._next and partition not in self._paused:
                self._paused.add(partition)
                self._held[partition] = self._ready.pop(partition, [])

    def resume_at(self, positions: Mapping[Partition, int]) -> None:
        for partition, offset in positions.items():
            if partition not in self._next:
                continue
            held = self._held.pop(partition, None) or self._ready.pop(partition, [])
            stopped = partition in self._stopped
            if (held or not stopped) and self._next[partition] <= offset <= (end := _end(held, self._next[partition])):
                if stopped:
                    self._seek(partition, end)
                if left := cut_before(held, offset):
                    self._ready[partition] = left
                elif offset == self._told_ends.get(partition):
                    self._held_ends[partition] = offset  # without a seek nobody would say again that this is the end
            else:
                self._held_ends.pop(partition, None)
                self._seek(partition, offset)
            self._next[partition] = offset
            self._paused.discard(partition)
            if stopped:
                self._stopped.discard(partition)
                self._consumer.resume([TopicPartition(*partition)])
                if not held:
                    # A broker's thread with nothing to fetch may sleep for another second: a request is what wakes it at once.
                    with suppress(KafkaException):
                        self._consumer.get_watermark_offsets(TopicPartition(*partition), timeout=WAKE_S, cached=False)

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        return count_partitions(self._consumer, self._errors, topics, self._properties)

    def spans(self, partitions: Sequence[Partition]) -> dict[Partition, Span]:
        spans = {p: Span(*reader.span_of(self._consumer, p, self._properties, REQUEST_TIMEOUT_S)) for p in partitions}
        if spans and self._said_down:
            self._answered()
        return spans

    def known_end(self, partition: Partition) -> int | None:
        place = TopicPartition(partition.topic, partition.partition)
        with suppress(KafkaException):
            _, end = self._consumer.get_watermark_offsets(place, cached=True)
            return int(end) if end >= 0 else None
        return None

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Position | None]:
        wanted = [TopicPartition(p.topic, p.partition) for p in partitions]
        doing = f"asking for the committed offsets of group '{self._group}'"
        deadline = time.monotonic() + COMMITTED_TIMEOUT_S
        while wanted:
            error: KafkaError | None = None
            try:
                answer = self._consumer.committed(wanted, timeout=min(REQUEST_TIMEOUT_S, max(0.1, deadline - time.monotonic())))
                error = next((place.error for place in answer if place.error is not None), None)
                if error is None:
                    return {
                        Partition(place.topic, place.partition): Position(place.offset, place.metadata or "") if place.offset >= 0 else None
                        for place in answer
                    }
            except KafkaException as caught:
                error = reason(caught)
            # An offset that a pending transaction may yet change is not stable: the broker says so until that one has ended.
            if not (error.retriable() or is_away(error) or error.code() == KafkaError.UNSTABLE_OFFSET_COMMIT):
                raise translated(error, self._properties, doing)
            if time.monotonic() >= deadline:
                raise Unreachable(
                    f"Kafka at {servers(self._properties)} gave no answer within {COMMITTED_TIMEOUT_S:g} s while {doing}: {error}"
                )
            time.sleep(0.02)
        return {}

    def transact(self, records: Sequence[Records], positions: Mapping[Partition, Position]) -> Outcome:
        if self._stale:
            try:
                self.renew()
            except Unreachable:
                return Outcome.ABORTED  # nothing was sent
        try:
            # The group's metadata is asked for by the transaction, just before it is used: an older one would be refused, or not fence.
            outcome = self._transactions.transact(records, positions, self._consumer.consumer_group_metadata)
        except Displaced:
            if not self._forgives():
                raise
            return Outcome.ABORTED  # the next fetch is told as well, and joins anew
        if outcome is Outcome.UNKNOWN:
            self._errors.broken = time.monotonic()  # the consumer's own connections may not have been tried yet
        return outcome

    def renew(self) -> None:
        self._stale = True  # until it is done
        self._transactions.renew()
        self._stale = False

    def read(self, partition: Partition, start: int, stop: int, max_messages: int = 10_000) -> Iterator[Messages]:
        return reader.read(self._properties, partition, start, stop, max_messages, self._readers)

    def read_enough(self) -> None:
        while self._readers:
            self._readers.pop().close()

    def close(self) -> None:
        try:
            if self._listener is not None and self._static:
                # close() alone leaves a static member in the group until its session times out, and its partitions with nobody.
                with suppress(KafkaException):  # fenced: the name and what it owned are another's
                    self._consumer.unsubscribe()
                deadline = time.monotonic() + REQUEST_TIMEOUT_S
                while self._next and self._errors.fatal is None and time.monotonic() < deadline:
                    self._consumer.poll(0.02)
            self._consumer.close()
        finally:
            self._listener = None
            self._next.clear()
            self.read_enough()
            self._transactions.close()

    def _on_assign(self, consumer: Any, given: list[Any]) -> None:
        partitions = sorted(Partition(p.topic, p.partition) for p in given)
        starts = self._listener.assigned(partitions) if self._listener is not None and partitions else {}
        self._touched.update(partitions)
        places = {p: starts.get(p, Start(0, waits=True)) for p in partitions}
        self._next.update((p, start.offset) for p, start in places.items())
        waiting = [p for p, start in places.items() if start.waits]
        # Never at a logical offset (the end): where the leader does not answer, librdkafka 2.16 asks again for it 0.5 s later, and
        # goes there although a seek has come in between. What lies before was skipped: in five of twelve trials with a killed leader.
        given = [TopicPartition(p.topic, p.partition, start.offset) for p, start in places.items()]
        if self._eager:
            consumer.assign(given)
        else:
            consumer.incremental_assign(given)
        self._forget(partitions)
        if waiting:
            self._paused.update(waiting)
            self._stopped.update(waiting)
            consumer.pause([TopicPartition(p.topic, p.partition) for p in waiting])

    def _on_revoke(self, consumer: Any, places: list[Any]) -> None:
        self._give_up(consumer, places, lost=False)

    def _on_lost(self, consumer: Any, places: list[Any]) -> None:
        self._give_up(consumer, places, lost=True)

    def _give_up(self, consumer: Any, places: list[Any], *, lost: bool) -> None:
        try:
            self._part(sorted(p for p in (Partition(place.topic, place.partition) for place in places) if p in self._next), lost=lost)
        finally:
            if self._eager:
                consumer.unassign()
            else:
                consumer.incremental_unassign(places)

    def _part(self, partitions: list[Partition], *, lost: bool) -> None:
        """These are another's from here on, whatever the listener makes of it."""
        try:
            if self._listener is not None and partitions:
                if lost:
                    self._listener.lost(partitions)
                else:
                    self._listener.revoked(partitions)
        finally:
            self._touched.update(partitions)
            for partition in partitions:
                del self._next[partition]
            self._forget(partitions)

    def _event(self, event: Any, ends: dict[Partition, int]) -> None:
        error: KafkaError = event.error()
        code = error.code()
        partition = Partition(event.topic() or "", event.partition() if event.partition() is not None else -1)
        if code == KafkaError._PARTITION_EOF:
            ends[partition] = event.offset()
        elif code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            if partition in self._next and partition not in self._stopped:
                self._check_next(partition)
        elif code == KafkaError._BAD_MSG and not event.topic():
            # An answer about the group that could not be read, once in a while from the embedded broker under load: it is asked again.
            log.warning("an answer of Kafka at %s could not be read: %s", servers(self._properties), error)
        elif error.fatal() or not (error.retriable() or is_away(error) or code == KafkaError._MAX_POLL_EXCEEDED):
            failure = translated(error, self._properties, f"reading as a member of group '{self._group}'")
            if not isinstance(failure, Displaced) or not self._forgives():
                self._errors.fatal = error  # nobody waits for it to leave
                raise failure
            self._rejoin()
        elif code == KafkaError._MAX_POLL_EXCEEDED:
            log.warning("no fetch for longer than max.poll.interval.ms: the group has given this member's partitions to others")
        elif code == KafkaError._ALL_BROKERS_DOWN:
            self._errors.down = True

    def _forgives(self) -> bool:
        """True if this fence may be of our own making: a request to join that was under way when a session timed out, or when the group's
        broker died, and the next one are two processes' to the broker that has the group then."""
        now = time.monotonic()
        troubled = self._errors.down or now - self._errors.broken < TROUBLED_S
        return self._static and troubled and now - self._forgiven > FORGIVES_EVERY_S

    def _rejoin(self) -> None:
        """Joins anew, under the same name. If there was another after all, it is fenced in turn, and has the place once it is started again."""
        at = servers(self._properties)
        log.warning("Kafka at %s took this member of group '%s' for two after a broker was away: joining anew", at, self._group)
        self._forgiven, self._stale = time.monotonic(), True
        self._part(sorted(self._next), lost=True)
        self._consumer.close()
        self._errors.fatal = None
        self._consumer = self._open()
        self._join()

    def _take_ready(self, most: int) -> dict[Partition, list[Any]]:
        """Up to so many of the messages that were held for partitions that go on."""
        found: dict[Partition, list[Any]] = {}
        for partition, raw in list(self._ready.items()):
            if most <= 0:
                break
            found[partition] = raw[:most]
            if len(raw) > most:
                self._ready[partition] = raw[most:]
            else:
                del self._ready[partition]
            most -= len(found[partition])
        return found

    def _hold(self, partition: Partition, raw: list[Any]) -> None:
        """Keeps what came for a paused partition; when that is much, librdkafka is told to stop."""
        held = self._held.setdefault(partition, [])
        held += cut_before(raw, _end(held, self._next[partition]))
        if len(held) >= HOLD:
            self._stopped.add(partition)
            self._consumer.pause([TopicPartition(*partition)])

    def _forget(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            self._paused.discard(partition)
            self._stopped.discard(partition)
            for kept in (self._held, self._ready, self._held_ends, self._told_ends):
                kept.pop(partition, None)

    def _check_next(self, partition: Partition) -> None:
        """Raises OffsetGone if the partition does not hold the next offset; an error event may be of an earlier life."""
        low, high = reader.span_of(self._consumer, partition, self._properties)
        offset = _end(self._held.get(partition) or self._ready.get(partition) or [], self._next[partition])
        if not low <= offset <= high:
            where = f"{partition.topic}[{partition.partition}]"
            raise OffsetGone(
                f"{where} holds offsets {low} to {high}; group '{self._group}' must go on at {offset}: "
                "retention was faster than this group, or the topic was made anew"
            )

    def _seek(self, partition: Partition, offset: int) -> None:
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            try:
                self._consumer.seek(TopicPartition(partition.topic, partition.partition, offset))
            except KafkaException as caught:
                # Just assigned, and librdkafka's own thread has not begun with it yet.
                if reason(caught).code() != KafkaError._STATE or time.monotonic() > deadline:
                    raise translated(
                        reason(caught), self._properties, f"seeking {partition.topic}[{partition.partition}] to {offset}"
                    ) from None
                time.sleep(0.002)
            else:
                return

    def _probe(self) -> None:
        """Asks whether a broker is back: an idle group gets no event that says so."""
        if not self._said_down:
            self._said_down = True
            log.warning("Kafka at %s is away: %s; waiting for it", servers(self._properties), self._errors.last)
        now = time.monotonic()
        if now - self._probed < PROBE_EVERY_S:
            return
        try:
            self._consumer.list_topics(timeout=0.3)
        except KafkaException:
            self._probed = time.monotonic()
        else:
            self._answered()

    def _answered(self) -> None:
        self._errors.down = False
        if self._said_down:
            self._said_down, self._stale = False, True
            log.warning("Kafka at %s is back", servers(self._properties))


def _end(raw: list[Any], otherwise: int) -> int:
    """One past the last of these messages."""
    return raw[-1].offset() + 1 if raw else otherwise
