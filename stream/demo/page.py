"""The demo's live page: `nowcart serve` in a process of its own, beside the engine."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
import threading

import msgspec

from stream.demo.child import Child

log = logging.getLogger("nowcart.demo")


class Order(msgspec.Struct, frozen=True):
    """What the process is told."""

    bootstrap_servers: str
    port: int
    engine_metrics: str


class Page(Child):
    """The page's process, seen from ours. Use it in a with block.

    Args:
        bootstrap_servers: of the demo's broker; the topics exist.
        port: to listen on; another one where that is taken.
        engine_metrics: URL of the engine's own.
    """

    def __init__(self, bootstrap_servers: str, port: int, engine_metrics: str) -> None:
        super().__init__("stream.demo.page", Order(bootstrap_servers, port, engine_metrics), "page")
        self.url = ""
        """Where it listens, once it does."""

    def heard(self, line: bytes) -> None:
        """It says where it listens."""
        self.url = line.decode().strip()

    def fell_silent(self) -> None:
        """Says why there is no page, if there never was one."""
        if not self.url:
            lines = self.complaints()
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
