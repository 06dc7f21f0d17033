"""The state store as the loop sees it: reads and writes happen in threads of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from stream.config import Config
from stream.kafka.log import Partition, Position
from stream.runners.keeping import Saved, State
from stream.state.manifest import Key
from stream.state.store import open_store
from stream.state.writer import Job, SnapshotWriter

CLOSE_SECONDS = 10.0


class StoreVault:
    """Snapshots of one process's loops.

    Args:
        config: names the store, the interval and what must have made a snapshot for it to be of use.
        taken: told the seconds that a snapshot took.
        age: told (stage, partition, seconds) about the newest snapshot of each partition by observe().

    Raises:
        StoreUnavailable: state.url cannot be opened.
    """

    def __init__(self, config: Config, taken: Callable[[float], None], age: Callable[[str, Partition, float], None]) -> None:
        self.interval_s = config.state.snapshot_interval_ms / 1000
        self._checksum = config.checksum()
        self._store = open_store(config)
        self._writer = SnapshotWriter(
            self._store,
            config.state.keep,
            taken=lambda key, seconds: taken(seconds),
            age=lambda key, seconds: age(key.stage, Partition(key.topic, key.partition), seconds),
            monotonic=time.monotonic,
        )
        # Two at a time: each reads with several threads itself.
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="restore")

    @property
    def busy(self) -> bool:
        return not self._writer.idle

    def has(self, stage: str, partition: Partition) -> bool:
        return bool(self._store.list(Key(stage, partition.topic, partition.partition)))

    def load(self, stage: str, partition: Partition, at_most_offset: int | None) -> Future[Saved | None]:
        return self._readers.submit(self._load, stage, partition, at_most_offset)

    def _load(self, stage: str, partition: Partition, at_most_offset: int | None) -> Saved | None:
        found = self._store.newest(stage, partition.topic, partition.partition, at_most_offset, checksum=self._checksum)
        if found is None:
            return None
        manifest, state = found
        return Saved(manifest.offset, manifest.metadata, state)

    def offer(self, stage: str, partition: Partition, position: Position, state: State) -> bool:
        return self._writer.offer(Job(Key(stage, partition.topic, partition.partition), position, self._checksum, state))

    def forget(self, stage: str, partition: Partition) -> None:
        self._writer.forget(Key(stage, partition.topic, partition.partition))

    def observe(self) -> None:
        """Tells the ages; cheap."""
        self._writer.observe()

    def close(self) -> None:
        """Waits a little for the snapshot that is being written."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._writer.close(timeout_s=CLOSE_SECONDS)
