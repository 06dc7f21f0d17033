"""Output topics into files while they fill, one line a record; the broker forgets what has been written."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec

from stream.config import UserError
from stream.kafka.admin import Admin
from stream.kafka.log import Messages, Partition
from stream.kafka.reader import Tail

_FORGET_BYTES = 64 << 20
"""Written between two requests that the broker forget what it has."""
_encode = msgspec.json.Encoder().encode


class Drain:
    """Copies topics to files in a thread of its own, from their first record on.

    Args:
        kafka: librdkafka's properties.
        files: where each topic goes.
        plain: topics whose values are ours, JSON on one line; the others' values may be any bytes, and their headers matter.
        failed: called from the thread if it cannot go on.

    Raises:
        UserError: a file cannot be written.
        LogError: Kafka cannot be read.
    """

    def __init__(self, kafka: Mapping[str, Any], files: Mapping[str, Path], plain: frozenset[str], failed: Callable[[], None]) -> None:
        self.records = dict.fromkeys(files, 0)
        self._plain = plain
        self._failed = failed
        self._admin = Admin(kafka)
        self._open = ExitStack()
        self._error: BaseException | None = None
        self._finish = threading.Event()
        self._abandon = threading.Event()
        self._reached: dict[Partition, int] = {}
        self._written = 0
        try:
            self._files: dict[str, IO[bytes]] = {topic: self._open.enter_context(_create(path)) for topic, path in files.items()}
            self._tail = self._open.enter_context(Tail(kafka, list(files)))
        except BaseException:
            self._open.close()
            raise
        self._thread = threading.Thread(target=self._run, name="drain")
        self._thread.start()

    def finish(self) -> None:
        """Returns when everything that the topics hold now is in the files.

        Raises:
            UserError: a file could not be written.
            LogError: Kafka could not be read.
        """
        self._finish.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Drain:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._abandon.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with self._open:
                self._copy()
        except OSError as error:
            self._error = UserError(f"--out must be a folder that can be written to, with room for the results: {error.strerror or error}")
            self._error.__cause__ = error
            self._failed()
        except BaseException as error:  # noqa: BLE001 - carried to whoever calls finish()
            self._error = error
            self._failed()

    def _copy(self) -> None:
        ends: dict[Partition, int] | None = None
        while not self._abandon.is_set():
            if ends is None and self._finish.is_set():
                ends = self._tail.ends()
            fetched = self._tail.fetch(20_000, 0.05)
            for messages in fetched.batches:
                self._write(messages)
                self._reached[messages.partition] = messages.offsets[-1] + 1
            for partition, offset in fetched.ends.items():  # what is left may be markers of transactions, which are no messages
                self._reached[partition] = max(offset, self._reached.get(partition, 0))
            if self._written >= _FORGET_BYTES:
                self._forget()
            if ends is not None and all(self._reached.get(partition, 0) >= end for partition, end in ends.items()):
                return

    def _write(self, messages: Messages) -> None:
        topic, partition = messages.partition
        lines = _plain_lines(messages, partition) if topic in self._plain else _any_lines(messages, partition)
        data = b"".join(lines)
        self._files[topic].write(data)
        self.records[topic] += len(messages)
        self._written += len(data)

    def _forget(self) -> None:
        self._written = 0
        self._admin.delete_records({partition: offset for partition, offset in self._reached.items() if offset})


def _create(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
    except OSError as error:
        raise UserError(f"--out must be a folder that can be written to; got {path.parent}: {error.strerror}") from error


def _plain_lines(messages: Messages, partition: int) -> Iterator[bytes]:
    # The value is JSON already, on one line: decoding it to encode it again would take ten times as long.
    for i, (offset, stamp, value) in enumerate(zip(messages.offsets, messages.stamps_ms, messages.values, strict=True)):
        key = messages.key(i)
        yield b'{"key":%b,"value":%b,"timestamp_ms":%d,"partition":%d,"offset":%d}\n' % (
            b"null" if key is None else _encode(key.decode()),
            value if value is not None else b"null",
            stamp,
            partition,
            offset,
        )


def _any_lines(messages: Messages, partition: int) -> Iterator[bytes]:
    for i, (offset, stamp, value) in enumerate(zip(messages.offsets, messages.stamps_ms, messages.values, strict=True)):
        line: dict[str, Any] = {}
        _put(line, "key", messages.key(i), text=True)
        _put(line, "value", value, text=False)
        line |= {"timestamp_ms": stamp, "partition": partition, "offset": offset}
        line["headers"] = {name: content.decode("utf-8", "replace") for name, content in messages.headers(i)}
        yield _encode(line) + b"\n"


def _put(line: dict[str, Any], name: str, content: bytes | None, text: bool) -> None:
    """A key as text and a value as JSON where they are that; else null, with the bytes beside it."""
    line[name] = None
    if content is None:
        return
    try:
        if text:
            line[name] = content.decode()
        else:
            msgspec.json.decode(content)
            content.decode()  # inside what it skips, the decoder does not look at it
            line[name] = msgspec.Raw(msgspec.json.format(content, indent=-1))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        line[f"{name}_base64"] = base64.b64encode(content).decode()
