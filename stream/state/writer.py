"""Writes snapshots beside the engine: one thread, one snapshot at a time. What fails is logged and counted, and tried again later."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from stream.kafka.log import Position
from stream.state.manifest import Key, Manifest
from stream.state.store import Store

logger = logging.getLogger("nowcart.state")

SHARE = 0.05
"""Of one core, that snapshots may take on average: a state so large that it costs more is written less often."""


@dataclass(frozen=True, slots=True)
class Job:
    """A snapshot to be written."""

    key: Key
    position: Position
    """The committed position that the state stands for."""
    checksum: str
    state: Mapping[str, NDArray[Any]]
    """Must not change until the snapshot is written."""


def _nothing(key: Key, seconds: float) -> None: ...


class SnapshotWriter:
    """One background thread. `offer` and `observe` are for the engine's; none of them waits for the store.

    Args:
        store: where to; the thread prunes it after each snapshot.
        keep: snapshots of a partition that stay.
        taken: told (key, seconds) of each snapshot written, from the thread.
        age: told (key, seconds since the state was offered) by `observe`.
        share: of one core that snapshots may take on average.
        monotonic: seconds.
    """

    def __init__(
        self,
        store: Store,
        keep: int,
        *,
        taken: Callable[[Key, float], None] = _nothing,
        age: Callable[[Key, float], None] = _nothing,
        share: float = SHARE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self.keep, self.share, self.monotonic = store, keep, share, monotonic
        self.written = 0
        self.failed = 0
        """Since the start."""
        self._taken, self._age = taken, age
        self._change = threading.Condition()
        self._job: Job | None = None
        self._closed = False
        self._rest_until = 0.0
        self._since: dict[Key, float] = {}
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether an offer would be taken now: ask before making a copy of a state."""
        with self._change:
            return self._job is None and not self._closed and self.monotonic() >= self._rest_until

    def offer(self, job: Job, urgent: bool = False) -> bool:
        """Gives the thread a snapshot to write; False if it is busy, or has taken its share: try later.

        Args:
            job: what to write.
            urgent: whatever the share (a partition is about to move).
        """
        with self._change:
            if self._job is not None or self._closed or (not urgent and self.monotonic() < self._rest_until):
                return False
            self._job = job
            self._since.setdefault(job.key, self.monotonic())
            self._change.notify_all()
            return True

    def observe(self) -> None:
        """Tells the age of each partition's newest snapshot; of a partition that has none yet, since its first offer."""
        with self._change:
            ages = [(key, self.monotonic() - since) for key, since in self._since.items()]
        for key, seconds in ages:
            self._age(key, seconds)

    def forget(self, key: Key) -> None:
        """The partition is no longer ours to tell about."""
        with self._change:
            self._since.pop(key, None)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until nothing is being written; False if that takes longer."""
        with self._change:
            return self._change.wait_for(lambda: self._job is None, timeout_s)

    def close(self, wait: bool = True, timeout_s: float | None = None) -> bool:
        """Takes no more offers; False if a snapshot is left being written.

        Args:
            wait: for the one being written; otherwise it ends with the process.
            timeout_s: at most so long; None: as long as it takes.
        """
        with self._change:
            self._closed = True
            self._change.notify_all()
        if wait:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._job is not None or self._closed)
                job = self._job
            if job is None:
                return
            began, offered_at = self.store.cpu_seconds, self.monotonic()
            try:
                self._write(job, offered_at)
            except Exception as failure:  # noqa: BLE001 — no failure of the store may end the engine
                with self._change:
                    self.failed += 1
                logger.warning("%s: no snapshot at offset %d: %s", job.key, job.position.offset, failure)
            finally:
                with self._change:
                    now = self.monotonic()
                    cost = self.store.cpu_seconds - began
                    self._rest_until = max(now, offered_at + cost / self.share)
                    self._job = None
                    self._change.notify_all()

    def _write(self, job: Job, offered_at: float) -> None:
        key = job.key
        made: Manifest = self.store.write(key.stage, key.topic, key.partition, job.position, job.checksum, job.state)
        seconds = self.monotonic() - offered_at
        with self._change:
            self.written += 1
            if key in self._since:
                self._since[key] = offered_at
        logger.debug("%s: snapshot at offset %d, %d of %d bytes new, %.2f s", key, made.offset, made.new_bytes, made.bytes, seconds)
        self._taken(key, seconds)
        try:
            self.store.prune(self.keep, key)
        except Exception as failure:  # noqa: BLE001 — the snapshot is there; what is old goes next time
            logger.warning("%s: old snapshots could not be deleted: %s", key, failure)
