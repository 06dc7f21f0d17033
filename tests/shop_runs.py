"""What the end-to-end tests share: a small shop on a real or embedded broker, engines over it, and what they published."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from stream.config import Config, parse
from stream.kafka.admin import Admin, Topic
from stream.kafka.reader import Record, Tail, follow
from stream.kafka.sender import Sender
from stream.metrics import Metrics
from stream.runners.engine import Engine
from stream.runners.report import Report
from stream.tables import as_toml
from stream.topics import own_topics

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0
MINUTE = 60_000
START_MS = 1_700_006_400_000
"""A whole hour, in UTC."""

SHOP: dict[str, Any] = {
    "time": {"out_of_orderness": "30s", "allowed_lateness": "1h", "max_lead": "1h", "idle_after": "10m"},
    "demand": {
        "totals": [2],
        "quantiles": [0.1, 0.5, 0.9],
        "buckets": [{"size": "15m", "horizon": 4, "seasons": [4]}, {"size": "1h", "horizon": 3}],
    },
    "models": {"river_items": 2},
    "activity": {"partitions": 2},
    "metrics": {"port": 0},
}
CLICKS = {
    "kind": "clickstream",
    "fields": {"time": "t", "event": "e", "session": "s", "item": "i", "price": "p", "user": "u"},
    "events": {"view": "view", "cart": "cart", "buy": "purchase"},
}
ORDERS = {"kind": "orders", "lines": "lines", "fields": {"time": "at", "item": "sku", "quantity": "n", "price": "each", "order": "id"}}


class Shop:
    """A shop's topics on a broker, and the configuration that reads them; every one has names of its own.

    Args:
        broker: bootstrap servers.
        folder: for its configuration file.
        partitions: of each of its topics.
        message_bytes: what its topics accept.
    """

    def __init__(self, broker: str, folder: Path, partitions: int = 4, message_bytes: int = 10 << 20) -> None:
        self.broker = broker
        self.folder = folder
        self.demand: dict[str, Any] = dict(SHOP["demand"])
        self.name = f"shop-{uuid.uuid4().hex[:8]}"
        self.clicks, self.orders = f"{self.name}.clicks", f"{self.name}.orders"
        self.admin = Admin({"bootstrap.servers": broker})
        settings = {"max.message.bytes": str(message_bytes)}
        self.admin.create([Topic(topic, partitions, settings) for topic in (self.clicks, self.orders)])

    def values(self, run: str = "own", **kafka: Any) -> dict[str, Any]:
        """What the configuration file says, for a run with outputs of its own."""
        sources = {"clicks": CLICKS | {"topic": self.clicks}, "orders": ORDERS | {"topic": self.orders}}
        return {
            **SHOP,
            "demand": self.demand,
            "state": {"url": f"file:{self.folder / 'state' / run}"},
            "kafka": {"bootstrap_servers": self.broker, **kafka},
            "sources": sources,
            "output": {"prefix": f"{self.name}.{run}.", "partitions": 2},
        }

    def config(self, run: str = "own", **kafka: Any) -> Config:
        """The configuration of a run, its topics created."""
        config = parse(self.values(run, **kafka))
        self.admin.create(own_topics(config))
        return config

    def file(self, run: str = "own", **kafka: Any) -> Path:
        """The same as a file."""
        self.config(run, **kafka)
        path = self.folder / f"{run}.toml"
        path.write_text(as_toml(self.values(run, **kafka)), encoding="utf-8")
        return path

    def send(
        self, topic: str, values: Sequence[bytes | None], keys: Sequence[bytes | None] | None = None, partitions: Sequence[int] | int = -1
    ) -> None:
        """Sends messages of any size."""
        with Sender({"bootstrap.servers": self.broker, "message.max.bytes": 12 << 20}) as sender:
            sender.send(topic, values, keys, partitions)


def run_to_end(config: Config, instance: str = "0") -> Report:
    """One engine in this process, until everything that is there is done."""
    report = Report(Metrics(False))
    stop = threading.Event()
    timer = threading.Timer(PATIENCE_S, stop.set)
    timer.start()
    try:
        Engine(config, report, instance=instance, until_end=True).run(stop)
    finally:
        timer.cancel()
    assert not stop.is_set(), f"the engine was not done after {PATIENCE_S:g} s"
    return report


def published(config: Config, topic: str) -> list[Record]:
    """Every committed record of an output topic."""
    return list(follow(config.kafka, [config.output.topic(topic)], until_end=True))


def by_key(config: Config, topic: str) -> dict[bytes | None, list[bytes | None]]:
    """Committed values of an output topic by key, in the order in which they stand."""
    found: dict[bytes | None, list[bytes | None]] = defaultdict(list)
    for record in published(config, topic):
        found[record.key].append(record.value)
    return dict(found)


def trade(seed: int, sessions: int, minutes: int = 300, items: int = 12) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]:
    """(key, value) of clicks and orders of a few hours, in the order of their times, some of them late."""
    chance = random.Random(seed)
    clicks: list[tuple[int, bytes, bytes]] = []
    orders: list[tuple[int, bytes, bytes]] = []
    for n in range(sessions):
        at = START_MS + int(chance.random() * minutes * MINUTE)
        name, user = f"s{n}", f"u{n % 50}"
        for _ in range(chance.randrange(1, 9)):
            sent = at + (chance.randrange(45 * MINUTE) if chance.random() < 0.02 else 0)
            event = chance.choices(["view", "cart", "buy", "scroll"], [8, 2, 1, 1])[0]
            value = {"t": at, "e": event, "s": name, "i": chance.randrange(items), "p": chance.choice([1.5, "2.25", None]), "u": user}
            clicks.append((sent, name.encode(), json.dumps(value).encode()))
            at += chance.randrange(1, 3 * MINUTE)
        if chance.random() < 0.6:
            lines = [
                {"sku": chance.randrange(items), "n": chance.choice([1, 1, 2, 3, -1]), "each": 9.95} for _ in range(chance.randrange(1, 4))
            ]
            orders.append((at, f"o{n}".encode(), json.dumps({"id": f"o{n}", "at": at, "lines": lines}).encode()))
    return [(key, value) for _, key, value in sorted(clicks)], [(key, value) for _, key, value in sorted(orders)]


class Process:
    """A `nowcart run`, and what it says.

    Args:
        config: its configuration file.
        arguments: more of the command line.
        name: another command than run.
    """

    def __init__(self, config: Path, *arguments: str, name: str = "run") -> None:
        command = [sys.executable, "-m", "stream.cli.main", name, str(config), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment)
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def said(self, text: str) -> bool:
        """Whether any line so far has the text in it."""
        return any(text in line for line in self.lines)

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit status; all that it said is there."""
        try:
            status = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end; it said {self.lines[-20:]}")
        self._thread.join(10)
        return status

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        self._thread.join(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


def wait_until(condition: Callable[[], bool], *processes: Process, seconds: float = PATIENCE_S) -> None:
    """Waits for processes to bring something about."""
    deadline = time.monotonic() + seconds
    while not condition():
        time.sleep(0.02)
        if time.monotonic() > deadline:
            pytest.fail(f"it did not become so within {seconds:g} s; they said {[process.lines[-20:] for process in processes]}")


OUTPUTS = ("intent", "demand", "spikes", "deadletter")


def outputs(config: Config) -> dict[str, dict[bytes | None, list[bytes | None]]]:
    """Everything that was published, by topic and key."""
    return {topic: by_key(config, topic) for topic in OUTPUTS}


class Watch:
    """Counts the records of an output topic as they are committed; one reader for all the looks at it.

    Args:
        config: of the run.
        topic: without prefix.
    """

    def __init__(self, config: Config, topic: str = "intent") -> None:
        self._tail = Tail(config.kafka, [config.output.topic(topic)])
        self.count = 0
        self._seen = 0

    def grown(self) -> bool:
        """Whether any came since `mark`."""
        self.count += sum(len(batch) for batch in self._tail.fetch(4096, 0.05).batches)
        return self.count > self._seen

    def mark(self) -> None:
        """From now on."""
        while True:
            before = self.count
            self.grown()
            if self.count == before:
                break
        self._seen = self.count

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._tail.close()
