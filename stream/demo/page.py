"""The demo's live page: `nowcart serve` in a process of its own, beside the engine.

It ends when its standard input does: because we say so, or because we are gone in whatever way.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import threading
from types import TracebackType

import msgspec

log = logging.getLogger("nowcart.demo")

_PATIENCE_S = 5.0


class Order(msgspec.Struct, frozen=True):
    """What the process is told."""

    bootstrap_servers: str
    port: int
    engine_metrics: str


class Page:
    """The page's process, seen from ours. Use it in a with block.

    Args:
        bootstrap_servers: of the demo's broker; the topics exist.
        port: to listen on; another one where that is taken.
        engine_metrics: URL of the engine's own.
    """

    def __init__(self, bootstrap_servers: str, port: int, engine_metrics: str) -> None:
        self._order = Order(bootstrap_servers, port, engine_metrics)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 — closed in __exit__
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._listen, name="page", daemon=True)
        self.url = ""
        """Where it listens, once it does."""

    def __enter__(self) -> Page:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stream.demo.page", msgspec.json.encode(self._order).decode()],
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

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.url = line.decode().strip()
        if not self.url:
            self._said.seek(0)
            lines = self._said.read().decode(errors="replace").strip().splitlines()
            log.warning("there is no live page: %s", lines[-1] if lines else "its process ended")


def is_installed() -> bool:
    """Whether what it needs is there."""
    return all(importlib.util.find_spec(name) is not None for name in ("aiohttp", "jwt", "uvloop"))


def serve(order: Order, stop: threading.Event) -> None:
    """Serves until it is stopped.

    Args:
        order: where, and what.
        stop: ends it.
    """
    from stream.config import UserError
    from stream.demo.settings import demo_config
    from stream.serve.counters import Counters
    from stream.serve.server import Server
    from stream.serve.service import Service

    config = demo_config(order.bootstrap_servers)
    settings = msgspec.structs.replace(config.serve, port=order.port, engine_metrics=(order.engine_metrics,))
    config = msgspec.structs.replace(config, serve=settings)
    try:
        server = Server(config, Service(config, Counters()))
    except UserError:  # the port is somebody else's: any other will do
        config = msgspec.structs.replace(config, serve=msgspec.structs.replace(settings, port=0))
        server = Server(config, Service(config, Counters()))
    with server:
        print(server.url, flush=True)
        server.wait(stop)


def main() -> None:
    """The process."""
    stop = threading.Event()

    def watch() -> None:
        while os.read(0, 1024):
            pass
        stop.set()

    threading.Thread(target=watch, daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        serve(msgspec.json.decode(sys.argv[1], type=Order), stop)


if __name__ == "__main__":
    main()
