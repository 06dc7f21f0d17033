"""The load of benchmarks/serve.py, in a process of its own: readers of streams and askers of REST.

Bare connections, written and counted by hand: a client library takes several times what `nowcart serve` takes for the same answer, and on
a machine of two cores that would be what is measured. Told what to do by one line of JSON on stdin; prints a line when all
readers are connected, then one with what came back every `report_s` seconds.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import resource
import sys
from collections import deque
from functools import partial
from typing import Any, cast

import msgspec
import uvloop

_SETTLE_S = 5.0
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TAG = re.compile(rb'\r\netag: *("[^"]*")', re.IGNORECASE)


class Load(msgspec.Struct, frozen=True):
    """What is to be asked."""

    port: int
    readers: int
    requests: int
    """A second."""
    seconds: float
    report_s: float
    items: list[str]


class Tally:
    """What came back since the last report."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.failed = self.not_modified = self.events = self.bytes = self.dropped = self.gaps = self.lost = 0

    def told(self) -> dict[str, Any]:
        """As JSON's own kinds."""
        return {
            "milliseconds": [round(1000 * value, 2) for value in self.seconds],
            **{name: getattr(self, name) for name in ("failed", "not_modified", "events", "bytes", "dropped", "gaps", "lost")},
        }


class Reader(asyncio.Protocol):
    """One stream."""

    def __init__(self, run: Run, query: str) -> None:
        self._run, self._query, self._begun = run, query, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writing = cast(asyncio.WriteTransport, transport)  # uvloop's own is no subclass
        writing.write(f"GET /v1/stream?{self._query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        tally = self._run.tally
        if not self._begun:
            self._begun = True
            if not data.startswith(b"HTTP/1.1 200"):
                sys.exit(f"a reader got {data[:300]!r}")
            self._run.connected += 1
        tally.bytes += len(data)
        tally.events += data.count(b"\nevent: ")
        if b"event: gap" in data:
            tally.gaps += data.count(b"event: gap")
        if b"event: dropped" in data:
            tally.dropped += data.count(b"event: dropped")

    def connection_lost(self, error: Exception | None) -> None:
        if not self._run.over:
            self._run.tally.lost += 1


class Asker(asyncio.Protocol):
    """One connection of REST: a question at a time."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._got = b""
        self._needed = 0
        self._due = 0.0
        self._path = ""
        self._busy = False
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def ask(self, path: str, due: float) -> None:
        """Sends a question that was due at a time of the loop."""
        self._path, self._due, self._busy = path, due, True
        assert self._transport is not None
        tag = self._run.tags.get(path, "")
        self._transport.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nIf-None-Match: {tag}\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self._got = self._got + data if self._got else data
        if not self._needed:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._got[: end + 2]
            length = _LENGTH.search(head)
            self._needed = end + 4 + (int(length[1]) if length else 0)
            status = _STATUS.match(head)
            tally = self._run.tally
            code = int(status[1]) if status else 0
            tally.not_modified += code == 304
            tally.failed += code not in (200, 304)
            if tag := _TAG.search(head):
                self._run.tags[self._path] = tag[1].decode()
            if code == 304:
                self._needed = end + 4
        if len(self._got) >= self._needed:
            self._got, self._needed, self._busy = b"", 0, False
            self._run.tally.seconds.append(asyncio.get_running_loop().time() - self._due)
            self._run.answered(self)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._run.over:
            self._run.tally.failed += self._busy  # an idle connection may be closed by either side
            self._run.gone(self)


class Run:
    """Readers and askers."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.tally = Tally()
        self.connected = 0
        self.over = False
        self.tags: dict[str, str] = {}
        self._idle: list[Asker] = []
        self._waiting: deque[tuple[str, float]] = deque()
        self._chance = random.Random(1)

    def answered(self, asker: Asker) -> None:
        """A connection is free again."""
        if self._waiting:
            asker.ask(*self._waiting.popleft())
        else:
            self._idle.append(asker)

    def gone(self, asker: Asker) -> None:
        """A connection is no more."""
        if asker in self._idle:
            self._idle.remove(asker)

    async def run(self) -> None:
        """All of it."""
        loop, load = asyncio.get_running_loop(), self.load
        for start in range(0, load.readers, 50):
            for number in range(start, min(start + 50, load.readers)):
                await loop.create_connection(partial(Reader, self, self._query(number)), "127.0.0.1", load.port)
        while self.connected < load.readers:
            await asyncio.sleep(0.05)
        for _ in range(20 if load.requests else 0):
            self._idle.append((await loop.create_connection(lambda: Asker(self), "127.0.0.1", load.port))[1])
        await asyncio.sleep(_SETTLE_S)  # a thousand who come in one second are another measurement
        self.tally = Tally()
        print("connected", flush=True)
        began = due = loop.time()
        report = began + load.report_s
        while loop.time() < began + load.seconds or loop.time() < report - load.report_s / 2:
            # At an even pace, whether the last answer has come or not: a server that stands still is seen in every question.
            now = loop.time()
            while load.requests and due <= now:
                await self._ask(self._path(), due)
                due += 1 / load.requests
            if now >= report:
                self._report()
                report += load.report_s
            await asyncio.sleep(max(0.0, min(due if load.requests else report, report) - loop.time()))
        self._report()
        self.over = True

    def _report(self) -> None:
        tally, self.tally = self.tally, Tally()
        if tally.seconds or tally.events:
            print(json.dumps(tally.told()), flush=True)

    async def _ask(self, path: str, due: float) -> None:
        if self._idle:
            self._idle.pop().ask(path, due)
        else:  # HTTP/1.1 has one question a connection at a time, and who asks opens as many as are needed; some hundreds, then it waits
            self._waiting.append((path, due))
            if len(self._waiting) % 20 == 0 and len(self._waiting) < 4_000:
                self.answered((await asyncio.get_running_loop().create_connection(lambda: Asker(self), "127.0.0.1", self.load.port))[1])

    def _query(self, number: int) -> str:
        share = number % 100
        if share < 20:
            return "topics=spikes,alerts"
        if share < 30:
            return "topics=overview,spikes"
        if share < 31:
            return "topics=intent"
        return f"topics=demand,spikes&item={self.load.items[number % len(self.load.items)]}"

    def _path(self) -> str:
        item = self._chance.choice(self.load.items)
        kinds = [
            f"/v1/items/{item}/demand",
            f"/v1/items/{item}/demand?history=48",
            "/v1/items?sort=expected&limit=50",
            f"/v1/items?q={item[:4]}&limit=20",
            "/v1/overview",
            "/v1/sessions?limit=20",
            "/v1/spikes",
        ]
        return self._chance.choices(kinds, [8, 2, 2, 1, 2, 1, 2])[0]


def main() -> None:
    load = msgspec.json.decode(sys.stdin.readline(), type=Load)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard == resource.RLIM_INFINITY else min(hard, load.readers + 1_000), hard))
    uvloop.run(Run(load).run())


if __name__ == "__main__":
    main()
