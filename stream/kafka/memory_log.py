"""The cluster in this process: partitions, groups, transactions, as tests and the failure simulator need them.

The members that use it are in stream.kafka.memory. Neither threads nor a clock: time passes only when a test says so,
by `MemoryLog.now_ms`, `MemoryLog.evict` (a session timeout) and `MemoryLog.expire` (a transaction timeout).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stream.kafka.log import LogError, OffsetGone, Partition, Position, TopicMissing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stream.kafka.memory import MemoryMember


@dataclass(slots=True)
class Entry:
    """One record in a partition."""

    offset: int
    stamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    visible: bool
    """False: of an aborted, or a still open, transaction."""


@dataclass(slots=True)
class PartitionLog:
    """The records of one partition, in offset order, and what is still open on it."""

    entries: list[Entry] = field(default_factory=list)
    start: int = 0
    end: int = 0
    open: dict[str, int] = field(default_factory=dict)
    """First offset of each open transaction, by transactional id."""

    @property
    def stable(self) -> int:
        """Where read_committed stops (the last stable offset)."""
        return min(self.open.values(), default=self.end)

    def first_at(self, offset: int) -> int:
        """Index of the first entry at or after the offset."""
        low, high = 0, len(self.entries)
        while low < high:
            middle = (low + high) // 2
            if self.entries[middle].offset < offset:
                low = middle + 1
            else:
                high = middle
        return low

    def visible(self, start: int, stop: int) -> list[Entry]:
        return [e for e in self.entries[self.first_at(start) : self.first_at(min(stop, self.stable))] if e.visible]


@dataclass(slots=True)
class OpenTransaction:
    """What a producer has sent and not yet ended."""

    entries: list[Entry] = field(default_factory=list)
    touched: set[Partition] = field(default_factory=set)
    positions: dict[Partition, Position] = field(default_factory=dict)
    group: str = ""


@dataclass(slots=True)
class Group:
    """A consumer group: who is in it, the running generation, and the committed positions."""

    members: dict[str, MemoryMember] = field(default_factory=dict)
    generation: int = 0
    preparing: bool = False
    joined: set[str] = field(default_factory=set)
    assignment: dict[str, list[Partition]] = field(default_factory=dict)
    positions: dict[Partition, Position] = field(default_factory=dict)


class MemoryLog:
    """Topics, groups and transactions of a cluster, in this process.

    Args:
        topics: partitions by topic name; more with create().
    """

    def __init__(self, topics: Mapping[str, int] | None = None) -> None:
        self.now_ms = 0
        self.max_message_bytes: dict[str, int] = {}
        self.topics: dict[str, list[PartitionLog]] = {}
        self.groups: dict[str, Group] = {}
        self.epochs: dict[str, int] = {}
        self.transactions: dict[str, OpenTransaction] = {}
        self._spread = 0
        for name, partitions in (topics or {}).items():
            self.create(name, partitions)

    def create(self, topic: str, partitions: int, max_message_bytes: int = 8 * 1024 * 1024) -> None:
        """Makes a topic.

        Args:
            topic: its name; must be new.
            partitions: how many.
            max_message_bytes: the largest record that it takes, key and value.
        """
        if topic in self.topics:
            raise LogError(f"topic '{topic}' exists already")
        self.max_message_bytes[topic] = max_message_bytes
        self.topics[topic] = [PartitionLog() for _ in range(partitions)]

    def append(
        self,
        topic: str,
        values: Sequence[bytes | None],
        *,
        keys: Sequence[bytes | None] | None = None,
        stamps_ms: Sequence[int] | None = None,
        partition: int = -1,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Publishes outside any transaction, as a shop does.

        Args:
            topic: where to.
            values: one a record.
            keys: one a record; None: without.
            stamps_ms: Kafka's own time stamps, epoch milliseconds; None: now_ms.
            partition: -1: by key.
            headers: of every record.
        """
        for i, value in enumerate(values):
            key = keys[i] if keys is not None else None
            log = self.at(self.choose(topic, key, partition))
            log.entries.append(
                Entry(log.end, stamps_ms[i] if stamps_ms is not None else self.now_ms, key, value, tuple(headers), visible=True)
            )
            log.end += 1

    def visible(self, partition: Partition) -> list[Entry]:
        """What a read_committed reader would see of a partition, all of it.

        Args:
            partition: which.
        """
        log = self.at(partition)
        return log.visible(log.start, log.end)

    def delete_records(self, partition: Partition, before: int) -> None:
        """Forgets the records before an offset, as retention does.

        Args:
            partition: which.
            before: the new start.
        """
        log = self.at(partition)
        if before > log.end:
            raise OffsetGone(f"{partition.topic}[{partition.partition}] ends at {log.end}; got {before}")
        log.start = max(log.start, before)
        del log.entries[: log.first_at(log.start)]

    def evict(self, member: MemoryMember) -> None:
        """A member's session times out: it is no longer in its group, and does not know yet.

        Args:
            member: who went silent.
        """
        group = self.group(member.group)
        if group.members.get(member.name) is member:
            del group.members[member.name]
            group.assignment.pop(member.name, None)
            self.rebalance(group)

    def expire(self, transactional_id: str | None = None) -> None:
        """Open transactions time out and are aborted.

        Args:
            transactional_id: whose; None: everybody's.
        """
        for name in [transactional_id] if transactional_id is not None else list(self.transactions):
            if name in self.transactions:
                self.epochs[name] += 1  # as Kafka does: whoever still holds it is fenced
                self.end_transaction(name, commit=False)

    def at(self, partition: Partition) -> PartitionLog:
        logs = self.topics.get(partition.topic)
        if logs is None:
            raise TopicMissing(f"topic '{partition.topic}' must exist; create it")
        if not 0 <= partition.partition < len(logs):
            raise LogError(f"topic '{partition.topic}' has {len(logs)} partitions; got partition {partition.partition}")
        return logs[partition.partition]

    def group(self, name: str) -> Group:
        return self.groups.setdefault(name, Group())

    def choose(self, topic: str, key: bytes | None, partition: int) -> Partition:
        if partition >= 0:
            return Partition(topic, partition)
        if topic not in self.topics:
            raise TopicMissing(f"topic '{topic}' must exist; create it")
        self._spread += key is None
        return Partition(topic, (murmur2(key) & 0x7FFFFFFF if key is not None else self._spread) % len(self.topics[topic]))

    def end_transaction(self, transactional_id: str, *, commit: bool) -> None:
        """Ends the open transaction of this id, if there is one; the marker takes an offset in every partition it touched."""
        transaction = self.transactions.pop(transactional_id, None)
        if transaction is None:
            return
        for entry in transaction.entries:
            entry.visible = commit
        for partition in transaction.touched:
            log = self.at(partition)
            del log.open[transactional_id]
            log.end += 1
        if commit and transaction.positions:
            self.group(transaction.group).positions.update(transaction.positions)

    def rebalance(self, group: Group) -> None:
        group.preparing = True
        group.joined.clear()
        self.settle(group)

    def settle(self, group: Group) -> None:
        """Assigns, once every member has joined again: range, topic by topic, over the members sorted by name."""
        if not group.preparing or group.joined != set(group.members):
            return
        group.preparing = False
        group.generation += 1
        group.assignment = {name: [] for name in group.members}
        for topic in sorted({t for m in group.members.values() for t in m.topics}):
            names = sorted(name for name, m in group.members.items() if topic in m.topics)
            count = len(self.topics.get(topic, ()))
            share, extra = divmod(count, len(names))
            first = 0
            for i, name in enumerate(names):
                stop = first + share + (i < extra)
                group.assignment[name] += [Partition(topic, p) for p in range(first, stop)]
                first = stop


def murmur2(key: bytes) -> int:
    """Kafka's hash of a key, as the Java client computes it (unsigned 32 bits); its partition is (hash & 0x7fffffff) % partitions.

    Args:
        key: the record's key.
    """
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = (0x9747B28C ^ len(key)) & mask
    whole = len(key) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(key[i : i + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    if whole < len(key):
        h = (h ^ int.from_bytes(key[whole:], "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)
