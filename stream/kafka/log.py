"""The log as the loop sees it: partitions of messages, a group's member, one transaction at a time.

Implemented by stream.kafka.client (confluent_kafka, against any Kafka) and stream.kafka.memory (in this process, for
tests and the failure simulator). Both pass the same suite. Nothing here knows what a message means.

    LogError                 the log cannot be used; carries a message for the user
    ├── Unreachable          no broker answered in time
    ├── AccessDenied         wrong password, missing right
    ├── TopicMissing         names the topic
    ├── OffsetGone           an offset that the log no longer (or not yet) holds
    └── Fenced               another process with the same transactional id took over: stop at once
        └── Displaced        another member of the group with the same instance id did
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol


class LogError(Exception):
    """The log cannot be used; the message says what must hold, what was got, what to do."""


class Unreachable(LogError):
    """No broker answered in time."""


class AccessDenied(LogError):
    """The broker refused the credentials or the operation."""


class TopicMissing(LogError):
    """A topic does not exist."""


class OffsetGone(LogError):
    """An offset outside what the log holds."""


class Fenced(LogError):
    """Another process with the same transactional id took over."""


class Displaced(Fenced):
    """Another member of the group with the same instance id took over."""


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Position(NamedTuple):
    """A committed offset: the next message to read, and the text committed with it."""

    offset: int
    metadata: str = ""


class Span(NamedTuple):
    """What a partition holds: offsets [start, end). The end is where committed records end: before the first open transaction."""

    start: int
    end: int


class Messages(Protocol):
    """Consecutive messages of one partition, as columns. Keys and headers are looked up only where they are needed."""

    @property
    def partition(self) -> Partition: ...
    @property
    def offsets(self) -> list[int]: ...
    @property
    def stamps_ms(self) -> list[int]: ...
    @property
    def values(self) -> list[bytes | None]: ...
    def key(self, index: int) -> bytes | None: ...
    def headers(self, index: int) -> list[tuple[str, bytes]]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one fetch brought."""

    batches: list[Messages]
    """At most one batch a partition, in no particular order of partitions."""
    ends: dict[Partition, int] = field(default_factory=dict)
    """Partitions whose end (at this offset) a fetch has reached since the last call."""


@dataclass(frozen=True, slots=True)
class Records:
    """Records to publish to one topic, as columns."""

    topic: str
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    partition: int = -1
    """-1: by key (murmur2, as the Java client does it)."""
    headers: Sequence[Sequence[tuple[str, bytes]]] | Sequence[tuple[str, bytes]] | None = None
    """One list for all records, or (each_headers=True) one list a record."""
    each_headers: bool = False
    bytes: int = 0
    """Total size of keys and values, for slicing; 0: not known."""

    def __len__(self) -> int:
        return len(self.values)


class Outcome(Enum):
    """How a transaction ended."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    """Nothing of it will ever be read; the same records may be sent again by whoever owns the partitions now."""
    UNKNOWN = "unknown"
    """A request timed out: call renew(), then the committed positions say which it was."""


class Start(NamedTuple):
    """Where a newly owned partition begins."""

    offset: int
    waits: bool = False
    """It stands there, paused, until resume_at() is called for it."""


class Listener(Protocol):
    """Told, inside fetch() or close(), how the member's partitions change."""

    def assigned(self, partitions: list[Partition]) -> dict[Partition, Start]:
        """Newly owned partitions; returns where each begins. One that is left out waits."""

    def revoked(self, partitions: list[Partition]) -> None:
        """About to be given up in order: what is uncommitted may still be committed inside this call.

        A member that was late may be told so although the group has gone on: its transaction is then ABORTED, as after lost().
        """

    def lost(self, partitions: list[Partition]) -> None:
        """Already owned by somebody else: nothing may be committed for them."""


class Member(Protocol):
    """A member of a consumer group with its transactional producer. One thread uses it."""

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None: ...

    def fetch(self, max_messages: int, timeout_s: float) -> Fetched:
        """Up to max_messages messages of the owned, unpaused partitions; returns early with what there is after timeout_s.

        Never raises for a broker that is away for a while: it returns nothing, and `reachable` turns False."""

    @property
    def reachable(self) -> bool: ...

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Stop fetching these. Messages already inside the client may be dropped; they come again after resume_at."""

    def resume_at(self, positions: Mapping[Partition, int]) -> None:
        """Fetch these from the given offsets on."""

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        """How many partitions each topic has. Raises TopicMissing, Unreachable, AccessDenied."""

    def spans(self, partitions: Sequence[Partition]) -> dict[Partition, Span]:
        """Asked of the broker now, behind whatever it waits for on the same connection: up to a tenth of a second. Raises Unreachable."""

    def known_end(self, partition: Partition) -> int | None:
        """Where a partition that is owned ends, as the newest fetch told; asks nobody. None: not known."""

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Position | None]:
        """The group's committed positions, of any partitions, owned or not. Waits for pending transactions to end. Raises Unreachable."""

    def transact(self, records: Sequence[Records], positions: Mapping[Partition, Position]) -> Outcome:
        """Publishes the records and commits the positions in one transaction, or neither.

        positions must name every partition whose results the records carry. Raises Fenced; LogError on anything that no retry mends."""

    def renew(self) -> None:
        """Throw the producer away and make one with the same transactional id: fences and aborts what the old one left open."""

    def read(self, partition: Partition, start: int, stop: int, max_messages: int = 10_000) -> Iterator[Messages]:
        """The committed messages with offsets in [start, stop), by a reader outside the group. Raises OffsetGone."""

    def read_enough(self) -> None:
        """Lets go of what reading took: nothing will be read for a while."""

    def close(self) -> None:
        """Leaves the group and closes the producer."""
