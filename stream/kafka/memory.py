"""A log in this process: the same promises as a Kafka cluster, with neither threads nor a clock.

For tests and the failure simulator. It passes the suite that the real brokers pass, and is as unhelpful as they are:
offsets have gaps (a transaction's marker takes one, aborted records keep theirs), an open transaction hides everything
behind it, a group waits for members that do not fetch, a stale member's offsets are refused.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from stream.kafka.log import Fenced, Fetched, LogError, OffsetGone, Outcome, Partition, Position, Span, TopicMissing
from stream.kafka.memory_log import Entry, MemoryLog, OpenTransaction, murmur2

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from stream.kafka.log import Listener, Messages, Records

__all__ = [
    "STEPS",
    "Crash",
    "Cut",
    "Entry",
    "Faults",
    "MemoryLog",
    "MemoryMember",
    "MemoryMessages",
    "everything",
    "murmur2",
    "random_cuts",
    "record_headers",
]

Cut = Callable[[dict[Partition, int], int], dict[Partition, int]]
"""(messages available by partition, most to take) -> how many to take of each."""

STEPS = ("begin", "produce", "offsets", "commit", "done")
"""Where transact() consults its faults: before it begins, before each topic's records, before the offsets, before the commit, after it."""


class Crash(Exception):
    """Raised by a fault hook: the process dies here. Nothing is cleaned up; its open transaction stays open."""


class Faults(Protocol):
    """Decides what goes wrong."""

    def on(self, member: MemoryMember, step: str) -> str | None:
        """Consulted at every one of STEPS, and at "fetch".

        Args:
            member: who is at it.
            step: one of STEPS, or "fetch".

        Returns:
            None: all is well. In a transaction: "abort", "unknown_committed" or "unknown_aborted" ("done": only
            "unknown_committed"). At "fetch": "away", no broker answers.

        Raises:
            Crash: the process dies here.
        """


@dataclass(frozen=True, slots=True)
class MemoryMessages:
    """Messages of one partition, as columns."""

    partition: Partition
    offsets: list[int]
    stamps_ms: list[int]
    values: list[bytes | None]
    keys: list[bytes | None]
    all_headers: list[tuple[tuple[str, bytes], ...]]

    def key(self, index: int) -> bytes | None:
        return self.keys[index]

    def headers(self, index: int) -> list[tuple[str, bytes]]:
        return list(self.all_headers[index])

    def __len__(self) -> int:
        return len(self.offsets)


class MemoryMember:
    """A member of a group on a MemoryLog, with its transactional producer. Starting one fences whoever held its id.

    Args:
        log: the cluster.
        group: the consumer group.
        transactional_id: its producer's; its name in the group too, unless instance_id says otherwise.
        instance_id: static membership: a member that starts with the id of another takes its place without a rebalance.
        faults: what goes wrong, and when.
        cut: how fetch() cuts batches.
    """

    def __init__(
        self,
        log: MemoryLog,
        group: str,
        transactional_id: str,
        *,
        instance_id: str | None = None,
        faults: Faults | None = None,
        cut: Cut | None = None,
    ) -> None:
        self.log = log
        self.group = group
        self.transactional_id = transactional_id
        self.name = instance_id if instance_id is not None else transactional_id
        self.topics: tuple[str, ...] = ()
        self.faults = faults
        self._static = instance_id is not None
        self._cut = cut if cut is not None else everything()
        self._listener: Listener | None = None
        self._owned: dict[Partition, int] = {}
        self._paused: set[Partition] = set()
        self._told_end: dict[Partition, int] = {}
        self._generation = -1
        self._epoch = -1
        self._in_doubt = False
        self._reachable = True
        self.renew()

    @property
    def reachable(self) -> bool:
        return self._reachable

    @property
    def owned(self) -> list[Partition]:
        """What it was assigned."""
        return sorted(self._owned)

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None:
        self.partitions(topics)
        self.topics, self._listener = tuple(topics), listener
        group = self.log.group(self.group)
        old = group.members.get(self.name)
        if old is not None and not self._static:
            raise LogError(f"group '{self.group}' has a member '{self.name}' already; evict it, or use instance_id")
        group.members[self.name] = self
        if old is None or old.topics != self.topics or group.preparing:
            self.log.rebalance(group)

    def fetch(self, max_messages: int, timeout_s: float) -> Fetched:
        if self.faults is not None and self.faults.on(self, "fetch") == "away":
            self._reachable = False
            return Fetched([])
        self._reachable = True
        self._follow_group()
        available: dict[Partition, list[Entry]] = {}
        for partition, position in self._owned.items():
            if partition in self._paused:
                continue
            log = self.log.at(partition)
            if not log.start <= position <= log.end:
                raise OffsetGone(
                    f"{partition.topic}[{partition.partition}] holds offsets {log.start} to {log.end}; the next one to read is {position}"
                )
            available[partition] = log.visible(position, log.end)
        takes = self._cut({p: len(entries) for p, entries in available.items()}, max_messages)
        batches: list[Messages] = []
        ends: dict[Partition, int] = {}
        for partition, entries in available.items():
            take = takes.get(partition, 0)
            if take:
                batches.append(_columns(partition, entries[:take]))
                self._owned[partition] = entries[take - 1].offset + 1
            if take == len(entries):
                end = self._owned[partition] = max(self._owned[partition], self.log.at(partition).stable)
                if self._told_end.get(partition) != end:
                    ends[partition] = self._told_end[partition] = end
        return Fetched(batches, ends)

    def pause(self, partitions: Sequence[Partition]) -> None:
        self._paused.update(p for p in partitions if p in self._owned)

    def resume_at(self, positions: Mapping[Partition, int]) -> None:
        for partition, offset in positions.items():
            if partition in self._owned:
                self._owned[partition] = offset
                self._paused.discard(partition)
                self._told_end.pop(partition, None)

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        for topic in topics:
            if topic not in self.log.topics:
                raise TopicMissing(f"topic '{topic}' must exist; create it")
        return {topic: len(self.log.topics[topic]) for topic in topics}

    def spans(self, partitions: Sequence[Partition]) -> dict[Partition, Span]:
        return {p: Span(self.log.at(p).start, self.log.at(p).stable) for p in partitions}

    def known_end(self, partition: Partition) -> int | None:
        return self.log.at(partition).stable

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Position | None]:
        wanted = set(partitions)
        for name, transaction in list(self.log.transactions.items()):
            if transaction.group == self.group and wanted & set(transaction.positions):
                self.log.expire(name)  # it waits for the open transaction to end; without a clock, that is its timeout
        positions = self.log.group(self.group).positions
        return {p: positions.get(p) for p in partitions}

    def transact(self, records: Sequence[Records], positions: Mapping[Partition, Position]) -> Outcome:
        if self._in_doubt:
            raise LogError("the last transaction's outcome is unknown: renew() must come first")
        for batch in records:
            self.partitions([batch.topic])
        if (end := self._fault("begin")) is not None:
            return end
        self._check_epoch()
        for batch in records:
            if (end := self._fault("produce")) is not None:
                return end
            self._check_epoch()
            self._produce(batch)
        if (end := self._fault("offsets")) is not None:
            return end
        self._check_epoch()
        if positions:
            group = self.log.group(self.group)
            if self._listener is not None and (group.members.get(self.name) is not self or group.generation != self._generation):
                self.log.end_transaction(self.transactional_id, commit=False)
                return Outcome.ABORTED
            transaction = self._transaction()
            transaction.group = self.group
            transaction.positions.update(positions)
        if (end := self._fault("commit")) is not None:
            return end
        self._check_epoch()
        self.log.end_transaction(self.transactional_id, commit=True)
        return self._fault("done") or Outcome.COMMITTED

    def renew(self) -> None:
        self.log.end_transaction(self.transactional_id, commit=False)
        self._epoch = self.log.epochs[self.transactional_id] = self.log.epochs.get(self.transactional_id, -1) + 1
        self._in_doubt = False

    def read(self, partition: Partition, start: int, stop: int, max_messages: int = 10_000) -> Iterator[Messages]:
        log = self.log.at(partition)
        if not log.start <= start or not stop <= log.stable:
            raise OffsetGone(
                f"{partition.topic}[{partition.partition}] holds offsets {log.start} to {log.stable}; {start} to {stop} were asked for"
            )
        entries = log.visible(start, stop)
        while entries:
            take = max(1, self._cut({partition: len(entries)}, max_messages).get(partition, 0))
            yield _columns(partition, entries[:take])
            entries = entries[take:]

    def read_enough(self) -> None: ...

    def close(self) -> None:
        group = self.log.group(self.group)
        if self._owned and self._listener is not None:
            owned = sorted(self._owned)
            if group.members.get(self.name) is self:
                self._listener.revoked(owned)
            else:
                self._listener.lost(owned)
            self._owned.clear()
        self.log.evict(self)
        if self.log.epochs.get(self.transactional_id) == self._epoch:
            self.log.end_transaction(self.transactional_id, commit=False)
        self._listener = None

    def _follow_group(self) -> None:
        """One member's part in a rebalance: give all up and join, then take what the new generation brings."""
        listener = self._listener
        if listener is None:
            return
        group = self.log.group(self.group)
        if (holder := group.members.get(self.name)) is not self:
            owned = self._drop()
            if owned:
                listener.lost(owned)
            if holder is not None:
                raise Fenced(f"group.instance.id '{self.name}' was taken over by another process: stop this one")
            group.members[self.name] = self
            self.log.rebalance(group)
        if group.preparing and self.name not in group.joined:
            if self._owned:
                listener.revoked(sorted(self._owned))  # the old generation still counts in here
                self._drop()
            group.joined.add(self.name)
            self.log.settle(group)
        if not group.preparing and self._generation != group.generation:
            if self._owned:  # it took part in no rebalance since: somebody joined for it under its name
                listener.lost(self._drop())
            self._generation = group.generation
            mine = sorted(group.assignment.get(self.name, []))
            self._owned = dict.fromkeys(mine, 0)
            self._paused = set(mine)
            if mine:
                self.resume_at({p: start.offset for p, start in listener.assigned(mine).items() if not start.waits})

    def _drop(self) -> list[Partition]:
        owned = sorted(self._owned)
        self._owned.clear()
        self._paused.clear()
        self._told_end.clear()
        return owned

    def _check_epoch(self) -> None:
        if self.log.epochs[self.transactional_id] != self._epoch:
            raise Fenced(f"transactional.id '{self.transactional_id}' was taken over by another process: stop this one")

    def _transaction(self) -> OpenTransaction:
        return self.log.transactions.setdefault(self.transactional_id, OpenTransaction())

    def _produce(self, batch: Records) -> None:
        transaction = self._transaction()
        for i, value in enumerate(batch.values):
            size = len(value or b"") + len(batch.keys[i] or b"")
            most = self.log.max_message_bytes[batch.topic]
            if size > most:
                self.log.end_transaction(self.transactional_id, commit=False)
                raise LogError(f"a record for '{batch.topic}' must have at most {most} bytes; got {size}")
            partition = self.log.choose(batch.topic, batch.keys[i], batch.partition)
            log = self.log.at(partition)
            log.open.setdefault(self.transactional_id, log.end)
            transaction.touched.add(partition)
            entry = Entry(log.end, self.log.now_ms, batch.keys[i], value, tuple(record_headers(batch, i)), visible=False)
            log.entries.append(entry)
            transaction.entries.append(entry)
            log.end += 1

    def _fault(self, step: str) -> Outcome | None:
        fault = self.faults.on(self, step) if self.faults is not None else None
        if fault is None:
            return None
        if fault not in ("abort", "unknown_committed", "unknown_aborted") or (step == "done" and fault != "unknown_committed"):
            raise ValueError(f"at '{step}' a fault cannot be '{fault}'")
        if fault == "abort":
            self.log.end_transaction(self.transactional_id, commit=False)
            return Outcome.ABORTED
        self._in_doubt = True
        if fault == "unknown_committed":
            if step not in ("commit", "done"):
                raise ValueError(f"at '{step}' nothing has been committed yet")
            self.log.end_transaction(self.transactional_id, commit=True)
        return Outcome.UNKNOWN  # unknown_aborted: it stays open until renew() or expire()


def everything() -> Cut:
    """As much as there is, up to the limit, shared fairly; every call begins with another partition."""
    calls = 0

    def cut(available: dict[Partition, int], most: int) -> dict[Partition, int]:
        nonlocal calls
        calls += 1
        names = [p for p in available if available[p]]
        takes: dict[Partition, int] = {}
        for i in range(len(names)):
            partition = names[(i + calls) % len(names)]
            takes[partition] = min(available[partition], -(-most // (len(names) - i)))
            most -= takes[partition]
        return takes

    return cut


def random_cuts(seed: int) -> Cut:
    """Some partitions, some of their messages: any cut that a broker might make.

    Args:
        seed: of the random numbers.
    """
    rng = random.Random(seed)

    def cut(available: dict[Partition, int], most: int) -> dict[Partition, int]:
        names = [p for p in available if available[p]]
        rng.shuffle(names)
        takes: dict[Partition, int] = {}
        for partition in names[: rng.randint(min(1, len(names)), len(names))]:
            limit = min(available[partition], most)
            takes[partition] = rng.choice((min(1, limit), rng.randint(0, limit), limit))
            most -= takes[partition]
        return takes

    return cut


def record_headers(records: Records, index: int) -> Sequence[tuple[str, bytes]]:
    """The headers of one record.

    Args:
        records: the batch.
        index: of the record in it.
    """
    if records.headers is None:
        return ()
    return records.headers[index] if records.each_headers else records.headers  # type: ignore[return-value]


def _columns(partition: Partition, entries: list[Entry]) -> MemoryMessages:
    return MemoryMessages(
        partition,
        [e.offset for e in entries],
        [e.stamp_ms for e in entries],
        [e.value for e in entries],
        [e.key for e in entries],
        [e.headers for e in entries],
    )
