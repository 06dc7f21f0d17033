"""Filesystems that fail: at the n-th operation, with half of a file written, with a full disk, or slowly.

`FaultyDisk` is a local folder (files are moved into place), `FaultyBucket` an object store in memory. Where `tears`, a failing put of a
new object leaves half of it, which no good object store does and a bad one might; what was there before stays whole.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem


class Faults:
    """Decides which operations fail. Threads share it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.operations = 0
        self.fails_at: set[int] = set()
        self.tears = False
        """A failing write leaves half of what it should have written."""
        self.fails_on = ""
        """Every operation on a path that contains this fails."""
        self.room: int | None = None
        """Bytes that the disk still takes."""
        self.waits: Callable[[str], None] = lambda path: None

    def step(self, path: str) -> None:
        """Counts an operation; fails if it is its turn."""
        self.waits(path)
        with self.lock:
            self.operations += 1
            if self.operations in self.fails_at or (self.fails_on and self.fails_on in path):
                raise OSError(errno.ENETDOWN, "the store has failed", path)

    def take(self, size: int) -> int:
        """How many of these bytes the disk takes."""
        with self.lock:
            taken = size if self.room is None else min(size, self.room)
            if self.room is not None:
                self.room -= taken
            return taken


class _File:
    """A file being written whose writes may fail, halfway."""

    def __init__(self, faults: Faults, file: Any, path: str) -> None:
        self.faults, self.file, self.path = faults, file, path

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: Any) -> int:
        view = memoryview(data)
        try:
            self.faults.step(self.path)
        except OSError:
            if self.faults.tears:
                self.file.write(view[: len(view) // 2])
            raise
        taken = self.faults.take(len(view))
        self.file.write(view[:taken])
        if taken < len(view):
            raise OSError(errno.ENOSPC, "No space left on device", self.path)
        return taken


class FaultyDisk(LocalFileSystem):  # type: ignore[misc]
    """A local folder."""

    cachable = False

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self.faults = faults

    def open(self, path: str, mode: str = "rb", *args: Any, **more: Any) -> Any:
        self.faults.step(path)
        file = super().open(path, mode, *args, **more)
        return _File(self.faults, file, path) if "w" in mode else file

    def mv(self, path1: str, path2: str, **more: Any) -> None:
        self.faults.step(path2)
        super().mv(path1, path2, **more)

    def ls(self, path: str, detail: bool = False, **more: Any) -> Any:
        self.faults.step(path)
        return super().ls(path, detail, **more)

    def rm_file(self, path: str) -> None:
        self.faults.step(path)
        super().rm_file(path)


class FaultyBucket(MemoryFileSystem):  # type: ignore[misc]
    """An object store."""

    cachable = False

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self.faults = faults
        self.store: dict[str, Any] = {}
        self.pseudo_dirs: list[str] = [""]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        try:
            self.faults.step(path)
        except OSError:
            if self.faults.tears and not super().exists(path):
                super().pipe_file(path, value[: len(value) // 2], mode, **more)
            raise
        taken = self.faults.take(len(value))
        if taken < len(value):
            if self.faults.tears and not super().exists(path):
                super().pipe_file(path, value[:taken], mode, **more)
            raise OSError(errno.ENOSPC, "the bucket is full", path)
        super().pipe_file(path, value, mode, **more)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        self.faults.step(path)
        return bytes(super().cat_file(path, start, end, **more))

    def ls(self, path: str, detail: bool = True, **more: Any) -> Any:
        self.faults.step(path)
        return super().ls(path, detail, **more)

    def rm_file(self, path: str) -> None:
        self.faults.step(path)
        super().rm_file(path)
