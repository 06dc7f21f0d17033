"""Snapshots as the loop takes them: copied a little at a time between iterations, handed to a writer, never waited for.

A forecast shard's item arrays stand still between two epochs, so they are copied in pieces of at most PIECE_SECONDS; an
epoch that comes in between makes the copy begin anew, and after RETRIES of them the rest is copied at once. Of an ingest
shard's sessions those that had events meanwhile are copied again. What changes with every block is small and taken last, in
an iteration in which everything computed is committed: so a snapshot is always the state at a committed position, and nothing
that was computed and not committed is ever in one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stream.kafka.log import Partition, Position

State = dict[str, NDArray[Any]]

PIECE_SECONDS = 0.02
PIECE_BYTES = 8 * 1024 * 1024
RETRIES = 3
LONG_RESTORE_S = 2.0
"""After a restore that took so long the next snapshot is due at once."""
MOST_SLOTS = 8192
"""So many session slots may be copied again in the iteration that ends a snapshot; where more have changed, they are and it goes on."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A snapshot that was read."""

    offset: int
    metadata: str
    """The committed position that it stands for."""
    state: State


class Vault(Protocol):
    """Where snapshots go. Calls return at once; the work is done elsewhere."""

    @property
    def interval_s(self) -> float: ...

    def load(self, stage: str, partition: Partition, at_most_offset: int | None) -> Future[Saved | None]:
        """The newest intact snapshot at or before an offset (None: at all); None where there is none. May fail with UserError."""

    def has(self, stage: str, partition: Partition) -> bool:
        """Whether there is any snapshot of the partition."""

    def offer(self, stage: str, partition: Partition, position: Position, state: State) -> bool:
        """Takes a snapshot to write; False: still busy with another."""

    @property
    def busy(self) -> bool:
        """Whether an offer would be refused."""

    def forget(self, stage: str, partition: Partition) -> None:
        """The partition is another member's now."""

    def observe(self) -> None:
        """Called about once a second."""


class Stateful(Protocol):
    """What is copied of a shard."""

    @property
    def changes(self) -> int: ...
    def still(self) -> Mapping[str, NDArray[Any]]: ...
    def mend(self, copied: State, most: int) -> bool: ...
    def moving(self) -> State: ...


@dataclass(slots=True)
class _Copy:
    """A copy in progress."""

    changes: int
    pieces: Iterator[None]
    done: State = field(default_factory=dict)
    restarts: int = 0
    mended: int = 0


class Keeper:
    """Takes snapshots of one loop's shards, one shard at a time.

    Args:
        vault: where they go.
        stage: the loop's.
        clock: monotonic seconds.
    """

    def __init__(self, vault: Vault, stage: str, clock: Callable[[], float]) -> None:
        self.vault = vault
        self.stage = stage
        self.clock = clock
        self._taken: dict[Partition, tuple[float, Position | None]] = {}
        self._copy: tuple[Partition, _Copy] | None = None

    def forget(self, partition: Partition) -> None:
        """The partition was given up."""
        self.vault.forget(self.stage, partition)
        self._taken.pop(partition, None)
        if self._copy is not None and self._copy[0] == partition:
            self._copy = None

    def began(self, partition: Partition, seconds: float) -> None:
        """The partition's state was rebuilt.

        Args:
            partition: which.
            seconds: that it took. The next snapshot comes the sooner the longer it was: or a process that dies more often than one is due
                would never take any, and each of its lives would begin with a longer restore.
        """
        early = self.vault.interval_s * min(1.0, seconds / LONG_RESTORE_S)
        self._taken[partition] = (self.clock() - early, None)

    def due(self, partition: Partition, committed: Position | None) -> bool:
        """Whether a snapshot of the partition should be begun or gone on with."""
        if self._copy is not None:
            return self._copy[0] == partition
        if committed is None or self.vault.busy:
            return False
        at, last = self._taken.setdefault(partition, (self.clock(), None))
        return committed != last and self.clock() - at >= self.vault.interval_s

    def tend(self, partition: Partition, shard: Stateful, committed: Position) -> None:
        """Copies a little; when all is copied, hands the snapshot over.

        Args:
            partition: for which due() said so, with nothing computed and uncommitted.
            shard: the partition's.
            committed: where its state stands.
        """
        copy = self._copy[1] if self._copy is not None else None
        if copy is None or copy.changes != shard.changes:
            restarts = 0 if copy is None else copy.restarts + 1
            copy = _Copy(shard.changes, iter(()), restarts=restarts)
            copy.pieces = _pieces(shard.still(), copy.done)
            self._copy = (partition, copy)
        until = self.clock() + (PIECE_SECONDS if copy.restarts < RETRIES else np.inf)
        for _ in copy.pieces:
            if self.clock() >= until:
                return
        copy.mended += 1
        if not shard.mend(copy.done, MOST_SLOTS if copy.mended <= RETRIES else sys.maxsize):
            return
        if self.vault.offer(self.stage, partition, committed, copy.done | shard.moving()):
            self._taken[partition] = (self.clock(), committed)
        self._copy = None


def _pieces(arrays: Mapping[str, NDArray[Any]], done: State) -> Iterator[None]:
    """Copies arrays, yielding after every few megabytes."""
    size = 0
    for name, array in arrays.items():
        copy = np.empty_like(array)
        done[name] = copy
        rows = max(1, PIECE_BYTES // max(1, array.nbytes // max(1, len(array)))) if array.ndim else 1
        for start in range(0, len(array), rows):
            copy[start : start + rows] = array[start : start + rows]
            size += copy[start : start + rows].nbytes
            if size >= PIECE_BYTES:
                size = 0
                yield
