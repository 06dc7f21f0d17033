"""The shop of the demo lives in a process of its own, so that making its messages takes nothing from the engine's threads."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

import msgspec

from stream.demo.child import Child
from stream.kafka.sender import Sender
from stream.simulate import TOPICS, Chunk, Shop, ShopSpec, pace

_CHUNK_MS = 20_000
"""Of the past, sent at once: the engine's partitions stay close together."""
_STEP_MS = 200
"""Of the present: each burst costs the engine a transaction a stage, and the demo is to leave the machine usable."""
_FIRST_MS = 180_000
"""So much of the past is enough for the first forecasts; the rest comes when they are out, so that they are out soon."""
_TELL_SECONDS = 0.25
_LIVE_MS = 2_000


class Progress(msgspec.Struct, frozen=True):
    """What the shop has sent so far."""

    clicks: int
    messages: int
    time_ms: int
    """Everything that arrives before it is sent."""
    live: bool
    """The past is over: messages are sent as they happen."""


class Order(msgspec.Struct, frozen=True):
    """What the process is told."""

    bootstrap_servers: str
    spec: ShopSpec


class ShopEnded(Exception):
    """The shop's process ended by itself."""


class Feeder(Child):
    """The shop's process, seen from ours. Use it in a with block.

    Args:
        bootstrap_servers: where it sends to; its topics exist.
        spec: the shop.
    """

    def __init__(self, bootstrap_servers: str, spec: ShopSpec) -> None:
        super().__init__("stream.demo.feeder", Order(bootstrap_servers, spec), "shop")
        self._began = threading.Event()
        self._going = False
        self.progress = Progress(0, 0, spec.start_ms, False)

    def wait(self, seconds: float) -> bool:
        """Waits until it has sent something; says whether it has.

        Args:
            seconds: at most.
        """
        return self._began.wait(seconds)

    def go_on(self) -> None:
        """The rest of the past, and then the present; a second call does nothing."""
        process = self._process
        if not self._going and process is not None and process.stdin is not None:
            self._going = True
            with contextlib.suppress(BrokenPipeError):  # check() tells why
                process.stdin.write(b"\n")
                process.stdin.flush()

    def check(self) -> None:
        """Returns while it lives.

        Raises:
            ShopEnded: with the last that it said.
        """
        assert self._process is not None
        if self._process.poll() is not None:
            raise ShopEnded(
                f"the simulated shop ended with status {self._process.returncode}, saying: {' / '.join(self.complaints()[-3:])}"
            )

    def heard(self, line: bytes) -> None:
        """It says how far it is."""
        self.progress = _decode(line)
        self._began.set()


_decode = msgspec.json.Decoder(Progress).decode


def feed(order: Order, go_on: threading.Event, stop: threading.Event) -> None:
    """Sends the shop's messages: the first of its past, when told so the rest at once, then each when it happens.

    Args:
        order: where to, and what.
        go_on: set once the rest may come.
        stop: ends it, and sets go_on.
    """
    clicks = messages = 0
    told = 0.0
    encode = msgspec.json.Encoder().encode

    def sleep(seconds: float) -> None:
        if stop.wait(seconds):
            raise _Stopped

    def chunks() -> Iterator[Chunk]:
        for chunk in Shop(order.spec).events(chunk_ms=_CHUNK_MS):
            if chunk.start_ms >= order.spec.start_ms + _FIRST_MS and not go_on.is_set():
                sender.flush()
                go_on.wait()
            if stop.is_set():
                raise _Stopped
            yield chunk

    with Sender({"bootstrap.servers": order.bootstrap_servers}) as sender, contextlib.suppress(_Stopped):
        for chunk in pace(chunks(), _now_ms, sleep, _STEP_MS):
            for name, batch in chunk.sources.items():
                sender.send(TOPICS[name], batch.values, batch.keys)
                messages += len(batch)
            clicks += len(chunk.sources["clicks"])
            now = time.monotonic()
            if now - told >= _TELL_SECONDS:
                told = now
                sys.stdout.buffer.write(encode(Progress(clicks, messages, chunk.end_ms, _now_ms() - chunk.end_ms < _LIVE_MS)) + b"\n")
                sys.stdout.buffer.flush()


class _Stopped(Exception):
    """Our standard input has ended."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def main() -> None:
    """The process."""
    go_on, stop = threading.Event(), threading.Event()

    def watch() -> None:
        while os.read(0, 1024):
            go_on.set()
        stop.set()
        go_on.set()

    threading.Thread(target=watch, daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        feed(msgspec.json.decode(sys.argv[1], type=Order), go_on, stop)


if __name__ == "__main__":
    main()
