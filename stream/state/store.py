"""The state store: writes the state of a partition as a snapshot, and finds the newest intact one again.

    <url>/<namespace>/<stage>/<topic>/<partition>/parts/<sha256>.safetensors
                                                 /manifests/<offset>-<sequence>-<sha256 of itself>.json

Parts come first, their manifest last, so what is named is there. A part is not written again while this process knows that the store
has it: large arrays are cut along their first axis, and the rows of a ring that did not change cost their hashing only. A part that
this process has neither written nor verified is never relied on, however right its name.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.config import Config
from stream.engine.version import VERSION
from stream.kafka.log import Position
from stream.state import manifest as manifests
from stream.state import parallel, tensors
from stream.state.cutting import ROWS, plan
from stream.state.errors import Damaged, SnapshotFromElsewhere
from stream.state.folder import File, Folder
from stream.state.manifest import Array, Key, Manifest

logger = logging.getLogger("nowcart.state")

GRACE_MS = 3_600_000
"""So long a part without a manifest is left alone: another writer may be about to name it."""
State = dict[str, NDArray[Any]]

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all), from several threads."""


class Snapshot(NamedTuple):
    """A manifest that the store holds."""

    key: Key
    name: str
    """Of its file; names sort from the oldest to the newest."""
    manifest: Manifest | None
    """None: it cannot be used, and `problem` says why."""
    problem: str = ""
    newer: bool = False
    """A newer nowcart wrote it."""

    @property
    def offset(self) -> int:
        """The committed offset that it stands for."""
        return (manifests.place(self.name) or (0, 0))[0]


class Pruned(NamedTuple):
    """What was deleted."""

    snapshots: list[Snapshot]
    files: int
    bytes: int


class _Seen:
    """What this process knows to stand in the store, of one partition."""

    def __init__(self) -> None:
        self.named: frozenset[str] = frozenset()
        """Parts of the snapshot that this process wrote or read last: nobody deletes them."""
        self.unnamed_ms: dict[str, int] = {}
        """Parts that this process wrote, and when, for a snapshot that then failed: nobody deletes them yet."""
        self.whole: set[str] = set()
        """Names of manifests that this process wrote or verified."""


class Store:
    """The snapshots of one engine.

    Args:
        url: a folder or an fsspec URL.
        namespace: keeps the snapshots of several engines in one place apart.
        filesystem: in place of what the URL names (for tests).
        wall: epoch seconds.
        grace_ms: how long a part without a manifest is left alone; must be longer than any snapshot takes to write.
        write_threads: hash and write, beside the engine.
        read_threads: read and verify, while the engine waits.
        durable: wait for a local disk to have what was written.

    Raises:
        StoreUnavailable: a URL that nothing here can open.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        *,
        filesystem: Any = None,
        wall: Callable[[], float] = time.time,
        grace_ms: int = GRACE_MS,
        write_threads: int = 2,
        read_threads: int = 4,
        durable: bool = True,
    ) -> None:
        self.folder = Folder(url, filesystem, durable)
        self.namespace, self.wall, self.grace_ms = namespace, wall, grace_ms
        self.write_threads, self.read_threads = write_threads, read_threads
        self.cpu_seconds = 0.0
        """CPU time of all writes so far."""
        self._seen: defaultdict[Key, _Seen] = defaultdict(_Seen)
        self._read: dict[str, Manifest] = {}
        self._lock = threading.Lock()

    # -- write -------------------------------------------------------------------------------------------------------

    def write(
        self, stage: str, topic: str, partition: int, position: Position, checksum: str, state: Mapping[str, NDArray[Any]]
    ) -> Manifest:
        """Writes a snapshot. Once this has returned it is there whole; if it raises there is none of it but parts that prune takes later.

        Args:
            stage: ingest or forecast.
            topic: of the partition.
            partition: whose state it is.
            position: the committed position that the state stands for.
            checksum: of the configuration.
            state: arrays by name; not changed by anybody until this returns.

        Raises:
            StoreUnavailable: the store does not take it.
            TypeError: an array of a kind that has no place in a snapshot.
        """
        key = Key(stage, topic, partition)
        seen = self._seen[key]
        for name, array in state.items():
            tensors.require_kind(name, array)
        present = {file.name: file.size for file in self.folder.files(self._path(key, "parts"))}
        earlier = [place[1] for file in self.folder.files(self._path(key, "manifests")) if (place := manifests.place(file.name))]
        now_ms = self._now_ms()
        known = seen.named | {part for part, at_ms in seen.unnamed_ms.items() if 0 <= now_ms - at_ms < self.grace_ms // 2}
        cuts, parts = plan(state)
        begun: dict[str, int] = {}

        def store(part: Mapping[str, NDArray[Any]]) -> tuple[str, int]:
            began = time.thread_time()
            buffers = tensors.pieces(part)
            digest, size = _digest(buffers)
            with self._lock:
                new = digest not in begun and not (digest in known and present.get(_file(digest)) == size)
                if new:
                    begun[digest] = size
            if new:
                self.folder.put(self._path(key, "parts", _file(digest)), buffers)
                seen.unnamed_ms[digest] = now_ms
            with self._lock:
                self.cpu_seconds += time.thread_time() - began
            return digest, size

        stored = parallel.each(store, parts, self.write_threads)
        made = Manifest(
            version=VERSION,
            stage=stage,
            topic=topic,
            partition=partition,
            offset=position.offset,
            metadata=position.metadata,
            sequence=max(earlier, default=0) + 1,
            checksum=checksum,
            fingerprint=manifests.fingerprint(),
            created_ms=now_ms,
            bytes=sum(dict(stored).values()),
            new_bytes=sum(begun.values()),
            parts=dict(stored),
            arrays={
                name: Array(state[name].dtype.str, state[name].shape, tuple(stored[number][0] for number in cut.parts), cut.rows)
                for name, cut in cuts.items()
            },
        )
        name, content = manifests.encode(made)
        self.folder.put(self._path(key, "manifests", name), [content])
        seen.named, seen.unnamed_ms = frozenset(made.parts), {}
        seen.whole.add(name)
        return made

    # -- read --------------------------------------------------------------------------------------------------------

    def newest(
        self,
        stage: str,
        topic: str,
        partition: int,
        at_most_offset: int | None = None,
        *,
        checksum: str | None = None,
        progress: Progress | None = None,
    ) -> tuple[Manifest, State] | None:
        """The newest intact snapshot, every part of it verified; None where there is no intact one.

        Args:
            stage: ingest or forecast.
            topic: of the partition.
            partition: whose state is wanted.
            at_most_offset: the committed offset: snapshots beyond it are passed over; None: any.
            checksum: of the configuration that must have made it; None: any.
            progress: told how far it has come.

        Raises:
            SnapshotFromElsewhere: the newest is of another configuration, or a newer nowcart wrote it.
            StoreUnavailable: the store does not answer, so that it is not known what it holds.
        """
        key = Key(stage, topic, partition)
        for name in self._names(key):
            offset = (manifests.place(name) or (0, 0))[0]
            if at_most_offset is not None and offset > at_most_offset:
                logger.info("%s: the snapshot at offset %d is beyond the committed offset %d: passed over", key, offset, at_most_offset)
                continue
            try:
                found = self._manifest(key, name)
                if checksum is not None and found.checksum != checksum:
                    raise SnapshotFromElsewhere(
                        f"the snapshots of {key} in {self.folder.url} must be of this configuration ({checksum[:12]}…); got one of another "
                        f"({found.checksum[:12]}…), at offset {offset}: set [time], [sources], [demand], [intent], [models] and [activity] back "
                        "to what they were, or name another state.url, or another output.prefix, to begin anew"
                    )
                state = self._load(found, progress)
            except Damaged as problem:
                logger.warning("%s: the snapshot at offset %d is damaged, going back to the one before: %s", key, offset, problem)
                continue
            seen = self._seen[key]
            seen.named, seen.whole = frozenset(found.parts), seen.whole | {name}
            self._compare(found)
            return found, state
        return None

    def _load(self, found: Manifest, progress: Progress | None) -> State:
        """Every array, from parts that are what they were."""
        state: State = {}
        rows: dict[str, list[tuple[str, int]]] = defaultdict(list)
        packed: dict[str, list[str]] = defaultdict(list)
        for name, array in found.arrays.items():
            if array.dtype not in tensors.KINDS.values():
                raise Damaged(f"its manifest names the unknown kind {array.dtype}")
            state[name] = np.empty(array.shape, array.dtype)
            length = array.shape[0] if array.rows else 0
            if len(array.parts) != (-(-length // array.rows) if array.rows else 1):
                raise Damaged(f"its manifest does not name all rows of {name}")
            for index, part in enumerate(array.parts):
                if array.rows:
                    rows[part].append((name, index * array.rows))
                else:
                    packed[part].append(name)

        def place(name: str, start: int) -> NDArray[Any]:
            return state[name][start : start + found.arrays[name].rows]

        done, memory = 0, threading.local()

        def read(part: str) -> None:
            nonlocal done
            size = found.parts[part]
            if part in rows and part not in packed:  # one array: read where it belongs
                (name, start), *others = rows[part]
                first = place(name, start)
                head = memoryview(bytearray(max(0, size - first.nbytes)))
                self._read_part(found, part, [head, first.reshape(-1).view(np.uint8).data])
                if not tensors.is_head(head, ROWS, first):
                    raise Damaged(f"{name} is not in the part that should hold it")
                for other, at in others:
                    _copy(other, first, place(other, at))
            else:
                if size > len(getattr(memory, "buffer", b"")):
                    memory.buffer = bytearray(size)
                data = memoryview(memory.buffer)[:size]
                self._read_part(found, part, [data])
                held = dict(tensors.tensors(data))
                for name in packed.get(part, ()):
                    _copy(name, held.get(name), state[name])
                for name, start in rows.get(part, ()):
                    _copy(name, held.get(ROWS), place(name, start))
            with self._lock:
                done += size
                if progress is not None:
                    progress(done, found.bytes)

        parallel.each(read, found.parts, self.read_threads)
        return state

    def _read_part(self, found: Manifest, part: str, buffers: Sequence[memoryview]) -> None:
        """Reads a part and verifies it; several threads at once.

        Args:
            found: names it.
            part: its sha256.
            buffers: filled one after the other, of its size together.

        Raises:
            Damaged: it is not what was written.
        """
        hashing = hashlib.sha256()
        size = self.folder.get_into(self._path(found.key, "parts", _file(part)), buffers, hashing.update)
        if size != found.parts[part] or hashing.hexdigest() != part:
            self._seen[found.key].unnamed_ms.pop(part, None)
            raise Damaged(f"the part {part[:12]}… is not what was written")

    def _compare(self, found: Manifest) -> None:
        here = manifests.fingerprint()
        differ = [f"{name} {there}, here {here.get(name)}" for name, there in found.fingerprint.items() if here.get(name) != there]
        if differ:
            logger.warning("%s: made elsewhere; forecasts may differ in their last digits: %s", found.key, "; ".join(differ))

    # -- look and tidy -----------------------------------------------------------------------------------------------

    def keys(self) -> list[Key]:
        """Whose snapshots there are.

        Raises:
            StoreUnavailable: the store does not answer.
        """

        def folders(*names: str) -> list[str]:
            return [file.name for file in self.folder.files(self.folder.path(self.namespace, *names)) if file.is_folder]

        return sorted(
            Key(stage, topic, int(number))
            for stage in folders()
            for topic in folders(stage)
            for number in folders(stage, topic)
            if number.isdecimal()
        )

    def list(self, key: Key | None = None) -> list[Snapshot]:
        """What snapshots there are, by partition, the newest first. Missing and short parts are seen; what is in them is not read.

        Args:
            key: of one partition; None: of all.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        found = []
        for each in [key] if key is not None else self.keys():
            present = {file.name: file.size for file in self.folder.files(self._path(each, "parts"))}
            for snapshot in (self._snapshot(each, name) for name in self._names(each)):
                missing = _missing(snapshot, present)
                found.append(snapshot._replace(problem=f"{missing} of its parts are missing or short") if missing else snapshot)
        return found

    def verify(self, snapshot: Snapshot, progress: Progress | None = None) -> str:
        """Reads every part of a snapshot; what is wrong with it, "" if nothing is.

        Args:
            snapshot: as listed.
            progress: told how far it has come.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        if snapshot.manifest is None:
            return snapshot.problem
        try:
            self._load(snapshot.manifest, progress)
        except Damaged as problem:
            return str(problem)
        self._seen[snapshot.key].whole.add(snapshot.name)
        return ""

    def prune(self, keep: int, key: Key | None = None) -> Pruned:
        """Deletes old snapshots, and parts that none names. Only a partition's owner may, or somebody while no engine runs.

        Never deleted: the newest `keep` that seem whole, the newest that is known to be, what a newer nowcart wrote, and for
        `grace_ms` parts that no manifest has named yet.

        Args:
            keep: at least 1.
            key: of one partition; None: of all.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        total = Pruned([], 0, 0)
        for each in [key] if key is not None else self.keys():
            pruned = self._prune(each, max(1, keep))
            total = Pruned(total.snapshots + pruned.snapshots, total.files + pruned.files, total.bytes + pruned.bytes)
        return total

    def _prune(self, key: Key, keep: int) -> Pruned:
        parts = self.folder.files(self._path(key, "parts"))
        present = {file.name: file.size for file in parts}
        files = {file.name: file for file in self.folder.files(self._path(key, "manifests"))}
        snapshots = [self._snapshot(key, name) for name in sorted(files, reverse=True) if manifests.place(name)]
        if any(snapshot.newer for snapshot in snapshots):
            return Pruned([], 0, 0)  # its parts are not known, and it is not ours
        kept: list[Snapshot] = []
        sure = False
        for snapshot in snapshots:
            if snapshot.manifest is None or _missing(snapshot, present) or (len(kept) >= keep and sure):
                continue
            if not sure:
                sure = snapshot.name in self._seen[key].whole or not self.verify(snapshot)
                if len(kept) >= keep and not sure:
                    continue
            kept.append(snapshot)
        if not sure:
            return Pruned([], 0, 0)  # nothing is whole: nothing is deleted
        stay = {snapshot.name for snapshot in kept}
        gone = [snapshot for snapshot in snapshots if snapshot.name not in stay and (snapshot.manifest or self._old(files[snapshot.name]))]
        named = {_file(part) for snapshot in snapshots if snapshot.manifest and snapshot not in gone for part in snapshot.manifest.parts}
        freed = {_file(part) for snapshot in gone if snapshot.manifest for part in snapshot.manifest.parts}
        left = [file for name, file in files.items() if not manifests.place(name) and self._old(file)]
        left += [file for file in parts if file.name not in named and (file.name in freed or self._old(file))]
        for snapshot in gone:  # before their parts: a manifest without parts must never be
            self.folder.remove(self._path(key, "manifests", snapshot.name))
        for file in left:
            self.folder.remove(self._path(key, "parts" if file.name in present else "manifests", file.name))
        return Pruned(gone, len(gone) + len(left), sum(files[each.name].size for each in gone) + sum(file.size for file in left))

    def _old(self, file: File) -> bool:
        return file.modified_ms is not None and self._now_ms() - file.modified_ms > self.grace_ms

    def _snapshot(self, key: Key, name: str) -> Snapshot:
        try:
            return Snapshot(key, name, self._manifest(key, name))
        except Damaged as problem:
            return Snapshot(key, name, None, str(problem))
        except SnapshotFromElsewhere as problem:
            return Snapshot(key, name, None, str(problem), newer=True)

    def _manifest(self, key: Key, name: str) -> Manifest:
        """Reads a manifest; one that was read before is remembered, since its name holds its checksum."""
        if name not in self._read:
            found = manifests.decode(name, self.folder.get(self._path(key, "manifests", name)))
            if found.key != key:
                raise Damaged(f"its manifest is that of {found.key}")
            if len(self._read) > 1_000:
                self._read.clear()
            self._read[name] = found
        return self._read[name]

    def _names(self, key: Key) -> Sequence[str]:
        names = [file.name for file in self.folder.files(self._path(key, "manifests"))]
        return sorted((name for name in names if manifests.place(name)), reverse=True)

    def _path(self, key: Key, *names: str) -> str:
        return self.folder.path(self.namespace, key.stage, key.topic, str(key.partition), *names)

    def _now_ms(self) -> int:
        return int(self.wall() * 1000)


def open_store(config: Config) -> Store:
    """The store of a configuration's engine.

    Raises:
        StoreUnavailable: state.url cannot be opened.
    """
    return Store(config.state.url, config.output.prefix)


def _missing(snapshot: Snapshot, present: Mapping[str, int]) -> int:
    """How many of its parts are not there in their size."""
    return sum(present.get(_file(part)) != size for part, size in snapshot.manifest.parts.items()) if snapshot.manifest else 0


def _file(digest: str) -> str:
    return f"{digest}.safetensors"


def _digest(buffers: Sequence[memoryview]) -> tuple[str, int]:
    """(sha256 in hexadecimal, bytes) of the buffers one after the other."""
    hashing = hashlib.sha256()
    for buffer in buffers:
        hashing.update(buffer)
    return hashing.hexdigest(), sum(buffer.nbytes for buffer in buffers)


def _copy(name: str, source: NDArray[Any] | None, target: NDArray[Any]) -> None:
    if source is None or source.shape != target.shape or source.dtype != target.dtype:
        raise Damaged(f"{name} is not in the part that should hold it")
    np.copyto(target, source)
