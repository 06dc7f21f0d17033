"""A process of the demo's own beside the engine. It ends when its standard input does: because we say so, or because we are gone in whatever way."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

import msgspec

_PATIENCE_S = 5.0


class Child(ABC):
    """The process, seen from ours. Use it in a with block.

    Args:
        module: that is its program; it reads its order, JSON, as its only argument.
        order: what it is told.
        name: of the thread that listens to it.
    """

    def __init__(self, module: str, order: msgspec.Struct, name: str) -> None:
        self._module, self._order = module, order
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 — closed in __exit__
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._listen, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module, msgspec.json.encode(self._order).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            start_new_session=True,  # Ctrl-C in the terminal is ours to handle
        )
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._thread.join()
        assert process.stdout is not None
        process.stdout.close()
        self._said.close()

    @abstractmethod
    def heard(self, line: bytes) -> None:
        """A line of its standard output, in the thread that listens."""

    def fell_silent(self) -> None:
        """Its standard output has ended, in the same thread; nothing by default."""
        return

    def complaints(self) -> list[str]:
        """The lines of its standard error so far."""
        self._said.seek(0)
        return self._said.read().decode(errors="replace").strip().splitlines()

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.heard(line)
        self.fell_silent()
