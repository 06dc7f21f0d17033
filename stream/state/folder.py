"""Files in a store, wherever it is: the only importer of fsspec.

A file is there whole or not at all. Object stores promise that; elsewhere a file is written under another name, flushed to the disk,
and moved. Missing files and failing stores are told apart: a store that does not answer is not an empty one.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from stream.state.errors import Damaged, StoreUnavailable

Given = TypeVar("Given")

TEMPORARY = ".tmp"
_AT_ONCE = 512 * 1024
_WHOLE_PUTS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory"}


class File(NamedTuple):
    """An entry of a folder."""

    name: str
    size: int
    modified_ms: int | None
    """By the store's clock; None where it does not tell."""
    is_folder: bool


class Folder:
    """A folder of a store. Several threads may use it.

    Args:
        url: a path or an fsspec URL.
        filesystem: None: what the URL names, with its options from fsspec's own configuration and environment.
        durable: on a local disk, a file counts as written once the disk has it, so that a power cut takes none back.

    Raises:
        StoreUnavailable: a URL that nothing here can open.
    """

    def __init__(self, url: str, filesystem: Any = None, durable: bool = True) -> None:
        self.url = url
        if filesystem is None:
            try:
                filesystem, root = fsspec.url_to_fs(url)
            except (ImportError, ValueError) as error:
                hint = ": install nowcart[s3]" if url.startswith(("s3:", "s3a:")) else ""
                raise StoreUnavailable(
                    f'state.url must be a folder or an fsspec URL that can be opened; got "{url}": {error}{hint}'
                ) from error
        else:
            root = filesystem._strip_protocol(url)
        self.filesystem, self.root = filesystem, str(root).rstrip("/")
        self.local = isinstance(filesystem, LocalFileSystem)
        self.durable = durable and self.local
        protocols = {filesystem.protocol} if isinstance(filesystem.protocol, str) else set(filesystem.protocol)
        self.whole_puts = not self.local and bool(protocols & _WHOLE_PUTS)

    def path(self, *names: str) -> str:
        """Where a file stands inside the filesystem."""
        return "/".join((self.root, *filter(None, names)))

    def put(self, path: str, pieces: Sequence[bytes | memoryview]) -> None:
        """Writes a file, in place of any that is there.

        Args:
            path: as `path` gave it.
            pieces: its content.

        Raises:
            StoreUnavailable: it could not be written.
        """
        self._try(f"write {path}", lambda: self._put(path, pieces))

    def get(self, path: str) -> bytes:
        """Reads a file.

        Raises:
            Damaged: it is not there, or the disk cannot read it.
            StoreUnavailable: it could not be read.
        """
        return self._try(f"read {path}", lambda: _found(path, lambda: bytes(self.filesystem.cat_file(path))))

    def get_into(self, path: str, buffers: Sequence[memoryview], seen: Callable[[memoryview], object]) -> int:
        """Reads a file into memory that is already there, a piece at a time, each shown while it is still in the processor's cache; gives the
        file's size. Where that is not the buffers' size together, what they hold is not the file.

        Args:
            path: as `path` gave it.
            buffers: filled one after the other.
            seen: called with each piece, in order.

        Raises:
            Damaged: it is not there, or the disk cannot read it.
            StoreUnavailable: it could not be read.
        """
        pieces = [buffer[at : at + _AT_ONCE] for buffer in buffers for at in range(0, len(buffer), _AT_ONCE)]
        if not self.local:
            data = memoryview(self.get(path))
            if len(data) == sum(map(len, buffers)):
                end = 0
                for piece in pieces:
                    piece[:] = data[end : end + len(piece)]
                    seen(piece)
                    end += len(piece)
            return len(data)

        def read() -> int:
            end = 0
            with self.filesystem.open(path, "rb") as file:
                for piece in pieces:
                    filled = 0
                    while filled < len(piece) and (got := file.readinto(piece[filled:])):
                        filled += got
                    seen(piece)
                    end += filled
                    if filled < len(piece):
                        return end
                return end + len(file.read(1))

        return self._try(f"read {path}", lambda: _found(path, read))

    def files(self, path: str) -> list[File]:
        """What stands in a folder, by name; nothing where there is no such folder.

        Raises:
            StoreUnavailable: it could not be listed.
        """

        def listed() -> list[Any]:
            self.filesystem.invalidate_cache()
            try:
                return list(self.filesystem.ls(path, detail=True))
            except (FileNotFoundError, NotADirectoryError):
                return []

        found = []
        for entry in self._try(f"list {path}", listed):
            name = str(entry["name"]).rstrip("/").rpartition("/")[2]
            if str(entry["name"]).rstrip("/") != path:  # object stores list an empty marker of the folder itself
                found.append(File(name, int(entry.get("size") or 0), _modified_ms(entry), entry["type"] == "directory"))
        return sorted(found)

    def remove(self, path: str) -> None:
        """Deletes a file, if it is there.

        Raises:
            StoreUnavailable: it could not be deleted.
        """

        def removed() -> None:
            with suppress(FileNotFoundError):
                self.filesystem.rm_file(path)

        self._try(f"delete {path}", removed)

    def _put(self, path: str, pieces: Sequence[bytes | memoryview]) -> None:
        if self.whole_puts:
            self.filesystem.pipe_file(path, b"".join(pieces))
            return
        parent = path.rpartition("/")[0]
        self.filesystem.makedirs(parent, exist_ok=True)
        temporary = f"{path}.{uuid.uuid4().hex}{TEMPORARY}"
        try:
            with self.filesystem.open(temporary, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                if self.durable:
                    file.flush()
                    os.fsync(file.fileno())
            self.filesystem.mv(temporary, path)
            if self.durable:
                _flush_folder(parent)
        except BaseException:
            with suppress(Exception):  # a full disk gets its space back; where that fails too, prune takes it later
                self.filesystem.rm_file(temporary)
            raise

    def _try(self, what: str, action: Callable[[], Given]) -> Given:
        try:
            return action()
        except Damaged:
            raise
        except Exception as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
            raise StoreUnavailable(f"the state store {self.url} must answer; could not {what}: {reason}") from error


def _found(path: str, read: Callable[[], Given]) -> Given:
    """A file that is not there, or that the disk cannot read, is damaged; every other failure is the store's."""
    try:
        return read()
    except FileNotFoundError as error:
        raise Damaged(f"{path.rpartition('/')[2]} is missing") from error
    except OSError as error:
        if error.errno == errno.EIO:
            raise Damaged(f"the disk cannot read {path}") from error
        raise


def _flush_folder(path: str) -> None:
    """A file that was moved is in its folder for good only when the folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _modified_ms(entry: dict[str, Any]) -> int | None:
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = entry.get(key)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                continue
        if isinstance(value, datetime):
            return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1000)
        if isinstance(value, (int, float)):
            return int(value * 1000)
    return None
