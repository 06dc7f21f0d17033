"""What the tests of `nowcart serve` share: records as the engine publishes them, and a server whose Kafka is the test itself."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import threading
import tomllib
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import msgspec

from stream.config import Config, parse
from stream.serve.counters import Counters
from stream.serve.follow import Taken
from stream.serve.server import Server
from stream.serve.service import Service
from stream.simulate.mapping import sources

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
"""None: there is none here."""
HOUR_MS = 3_600_000
T0 = 1_750_000_000_000 - 1_750_000_000_000 % HOUR_MS
LEVELS = ("0.01", "0.05", "0.1", "0.25", "0.5", "0.75", "0.9", "0.95", "0.99")

_BUCKETS = """
[[demand.buckets]]
size = "1h"
horizon = 24
seasons = [24]
[[demand.buckets]]
size = "1d"
horizon = 14
"""


def config(serve: str = "", **kafka: Any) -> Config:
    """A configuration whose [serve] is as given, on any free port."""
    values = tomllib.loads(f"{_BUCKETS}\n[serve]\nmetrics_port = 0\n{serve}")
    values["serve"].setdefault("port", 0)
    values["sources"] = sources()
    values["kafka"] = kafka or {"bootstrap_servers": "127.0.0.1:1"}
    return parse(values)


def demand(item: str, hour: int, observed: float = 3, mean: float = 2.0, **more: Any) -> bytes:
    """A record of an hour that closed, `hour` hours after T0."""
    start = T0 + hour * HOUR_MS
    quantiles = {level: [round(mean * 2 * float(level), 3)] * 24 for level in LEVELS}
    record = {
        "item": item, "bucket": "1h", "bucket_start_ms": start, "observed": observed, "returned": 0, "orders": 1, "views": 9, "carts": 2,
        "censored": 0, "issued_at_ms": start + HOUR_MS, "mean": [mean] * 24, "quantiles": quantiles,
        "p_zero": [0.1] * 24, "totals": {"7": dict.fromkeys(LEVELS, 7 * mean)}, "model_version": "v1", "experts": {"1": {"ewma": 0.75, "tsb": 0.25}},
    }  # fmt: skip
    return json.dumps({**record, **more}).encode()


def correction(item: str, hour: int, observed: float) -> bytes:
    """A late row changed an hour that was published."""
    record = json.loads(demand(item, hour, observed))
    for name in ("mean", "quantiles", "p_zero", "totals", "experts"):
        del record[name]
    return json.dumps({**record, "corrects": True}).encode()


def intent(session: str, p: float, second: int = 0, **more: Any) -> bytes:
    """A record of a session."""
    record = {
        "session": session, "user": f"user of {session}", "issued_at_ms": T0 + second * 1000, "events": 3, "p_purchase": p, "p_cart": 0.5,
        "ended": False, "purchased": False, "bot": False, "model_version": "v1",
    }  # fmt: skip
    return json.dumps({**record, **more}).encode()


def spike(item: str, state: str = "open", severity: str = "critical", hour: int = 0) -> bytes:
    """A record of a spike."""
    record = {"item": item, "bucket": "1h", "bucket_start_ms": T0 + hour * HOUR_MS, "observed": 90, "expected": 2.5, "p_value": 1e-9}
    return json.dumps({**record, "severity": severity, "state": state, "model_version": "v1"}).encode()


class Given:
    """In place of the reading thread: the test gives the records."""

    def __init__(self) -> None:
        self.trouble = ""
        self.answered = 0.0
        self.failed: BaseException | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.started = threading.Event()

    @property
    def reachable(self) -> bool:
        return not self.trouble

    def open(self) -> None:
        pass

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.started.set()

    async def stop(self) -> None:
        pass


class Rig:
    """A server on a real port; use it in a with block."""

    def __init__(self, settings: Config | None = None, partitions: int = 2, access: Any = None) -> None:
        self.config = settings or config()
        self.counters = Counters(process=False)
        self.service = Service(self.config, self.counters, access)
        self.given = Given()
        self.service.following = self.given  # type: ignore[assignment]
        self.partitions = partitions
        self.streams: list[Events] = []
        self.closing = ExitStack()
        self.service.opened({topic: [0] * partitions for topic in ("demand", "intent", "spikes", "alerts")})
        self.server = Server(self.config, self.service)
        self.offsets = {topic: [0] * partitions for topic in ("demand", "intent", "spikes", "alerts")}

    def __enter__(self) -> Self:
        self.server.__enter__()
        assert self.given.started.wait(60)
        self.call(self.service.caught_up)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.closing.close()
        for stream in self.streams:
            stream.close()
        self.server.__exit__(None, None, None)

    @property
    def port(self) -> int:
        return int(self.server.url.rstrip("/").rpartition(":")[2])

    def call(self, function: Any, *args: Any) -> Any:
        """Calls it on the loop."""

        async def called() -> Any:
            return function(*args)

        assert self.given.loop is not None
        return asyncio.run_coroutine_threadsafe(called(), self.given.loop).result(30)

    def give(self, topic: str, raws: Sequence[bytes], partition: int = 0) -> None:
        """Records come, and have been taken when this returns."""
        first = self.offsets[topic][partition]
        offsets = list(range(first, first + len(raws)))
        self.offsets[topic][partition] += len(raws)
        assert self.given.loop is not None
        taken = Taken(topic, partition, offsets, list(raws), [T0] * len(raws))
        asyncio.run_coroutine_threadsafe(self.service.take([taken]), self.given.loop).result(60)

    def get(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Answer:
        """Asks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def json(self, path: str, headers: dict[str, str] | None = None) -> Any:
        """What it answers, which must be good."""
        answer = self.get(path, headers)
        assert answer.status == 200, answer
        return answer.json()

    def stream(self, query: str, headers: dict[str, str] | None = None) -> Events:
        """Opens a stream."""
        events = Events(self.port, query, headers or {})
        self.streams.append(events)
        return events


class Answer(msgspec.Struct):
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Event(msgspec.Struct):
    """An event of a stream."""

    name: str
    data: Any
    id: str


class Events:
    """A stream, read event by event."""

    def __init__(self, port: int, query: str, headers: dict[str, str]) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.connection.request("GET", f"/v1/stream?{query}", headers=headers)
        self.answer = self.connection.getresponse()
        self.last = headers.get("Last-Event-ID", "")
        """The last id that was read, as a browser keeps it: of events without data too."""

    def next(self) -> Event | None:
        """The next event with data; None: the stream has ended."""
        name, data, seen = "message", "", False
        while line := self.answer.readline():
            text = line.decode().rstrip("\n")
            field, _, value = text.partition(": ")
            if field == "id":
                self.last = value
            elif field == "event":
                name = value
            elif field == "data":
                data, seen = value, True
            elif text == "":
                if seen:
                    return Event(name, json.loads(data), self.last)
                name = "message"
        return None

    def joined(self) -> Self:
        """Returns when it has read where the stream stands: what comes from now on it gets."""
        while line := self.answer.readline():
            if line.startswith(b"id: "):
                self.last = line.decode()[4:].strip()
                self.answer.readline()
                return self
        raise AssertionError("the stream has ended")

    def take(self, count: int) -> list[Event]:
        """The next events."""
        found: list[Event] = []
        for _ in range(count):
            event = self.next()
            assert event is not None, f"the stream ended after {found}"
            found.append(event)
        return found

    def close(self) -> None:
        self.answer.close()
        self.connection.close()
