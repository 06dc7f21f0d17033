"""The shop of the benchmark: its configuration, and the process that sends its messages.

    python -m stream.bench.shop '{"task": "backlog", …}'

It is a process of its own so that neither its memory nor its time is counted as the engine's. On stdout it says how far
it is: a line `sent N` now and then, at last one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
import tomllib

import msgspec
import numpy as np

from stream.config import Config, parse
from stream.kafka.sender import Sender
from stream.simulate import TOPICS, Shop, benchmark_spec
from stream.simulate.mapping import sources

PARTITIONS = 4
ITEMS = 10_000
SPAN_MS = 4 * 3_600_000
"""Of the backlog's event time: four hourly ticks, and a daily one, since it begins three hours before midnight."""
START_MS = 1_736_197_200_000
"""2025-01-06 21:00 in the shop's zone."""
_CHUNK = 20_000
_STEP_S = 0.01
_OPENED_MS = 15_000
_READY_AT = 60_000
"""Messages a second that may be counted on to be made before a steady stream begins."""

_CONFIG = """
[time]
zone = "Europe/London"
[demand]
from = "orders"
totals = [7, 14]
[[demand.buckets]]
size = "1h"
horizon = 24
seasons = [24, 168]
[[demand.buckets]]
size = "1d"
horizon = 14
seasons = [7]
[metrics]
port = 0
"""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What the sending process is to do."""

    kafka: dict[str, str | int | float | bool]
    topic: str
    """The topics' names begin so."""
    task: str
    """backlog | steady."""
    events: int
    rate: float = 0.0
    """Steady: clickstream events a second."""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What it did."""

    messages: dict[str, int]
    """By source."""
    sessions: int
    seconds: float
    late_ms: float
    """Steady: how far it was behind its pace at the worst, after its first second."""


class Snapshots(msgspec.Struct, frozen=True):
    """Where snapshots go, and how often."""

    folder: str
    every_s: float


def configuration(kafka: dict[str, str | int | float | bool], topic: str, snapshots: Snapshots | None = None) -> Config:
    """The engine's configuration for this shop.

    Args:
        kafka: librdkafka's properties.
        topic: how the shop's topics and nowcart's own begin.
        snapshots: None: as by default, for an engine that takes none.
    """
    values = tomllib.loads(_CONFIG)
    values["kafka"] = {"bootstrap_servers": "replaced"}
    values["sources"] = sources(topic)
    values["output"] = {"prefix": f"{topic}.nowcart."}
    if snapshots is not None:
        values["state"] = {"url": f"file:{snapshots.folder}", "snapshot_interval": f"{snapshots.every_s * 1000:.0f}ms"}
    return msgspec.structs.replace(parse(values), kafka=kafka)


def send(task: Task) -> Sent:
    """Sends the messages.

    Args:
        task: which.
    """
    return _backlog(task) if task.task == "backlog" else _steady(task)


def _topics(task: Task) -> dict[str, str]:
    return {source: f"{task.topic}.{name.split('.')[1]}" for source, name in TOPICS.items()}


def _say(count: int) -> None:
    print(f"sent {count}", flush=True)


def _backlog(task: Task) -> Sent:
    """As many events as asked for in SPAN_MS, and what the sessions begun by then still do."""
    began = time.monotonic()
    shop = Shop(benchmark_spec(items=ITEMS, start_ms=START_MS, rate=task.events / (SPAN_MS / 1000)))
    sent, sessions = dict.fromkeys(TOPICS, 0), 0
    with Sender(task.kafka) as sender:
        for chunk in shop.events(START_MS + SPAN_MS, chunk_events=_CHUNK, drain=True):
            sessions += len(chunk.sessions)
            for source, topic in _topics(task).items():
                messages = chunk.sources[source]
                sender.send(topic, messages.values, messages.keys)
                sent[source] += len(messages)
            _say(sent["clicks"])
    return Sent(messages=sent, sessions=sessions, seconds=time.monotonic() - began, late_ms=0.0)


def _steady(task: Task) -> Sent:
    """A shop that lives now, at an even pace. All is made beforehand, or making it would come in bursts between the sending."""
    begin_ms = int(time.time() * 1000) + 3_000 + int((task.events + task.rate * _OPENED_MS / 1000) / _READY_AT * 1000)
    # A shop begins empty, and with people's dwell times its rate rises for many minutes: these click three hundred times as fast,
    # and the shop opens a little before now.
    opened_ms = begin_ms - _OPENED_MS
    spec = benchmark_spec(
        items=ITEMS, start_ms=opened_ms, rate=task.rate, dwell=0.003, jitter_ms=1.0, jitter_max_ms=2, late_max_ms=60_000, slot_ms=60_000
    )
    keys: dict[str, list[bytes]] = {source: [] for source in TOPICS}
    values: dict[str, list[bytes]] = {source: [] for source in TOPICS}
    arrivals: dict[str, list[np.ndarray]] = {source: [] for source in TOPICS}
    sessions = 0
    for chunk in Shop(spec).events(begin_ms + int(task.events / task.rate * 1000), chunk_events=_CHUNK):
        sessions += len(chunk.sessions)
        for source, messages in chunk.split(begin_ms)[1].sources.items():
            keys[source] += messages.keys
            values[source] += messages.values
            arrivals[source].append(messages.arrival_ms)
    times = {source: np.concatenate(parts) for source, parts in arrivals.items()}
    at = dict.fromkeys(TOPICS, 0)
    behind = 0.0
    with Sender({"linger.ms": 2, **task.kafka}) as sender:
        while any(at[source] < len(times[source]) for source in TOPICS):
            now_ms = time.time() * 1000
            for source, topic in _topics(task).items():
                start, stop = at[source], int(np.searchsorted(times[source], now_ms))
                if stop > start:
                    if now_ms > begin_ms + 1000:
                        behind = max(behind, now_ms - float(times[source][start]))
                    sender.send(topic, values[source][start:stop], keys[source][start:stop])
                    at[source] = stop
            _say(at["clicks"])
            time.sleep(_STEP_S)
    return Sent(messages=at, sessions=sessions, seconds=time.time() - begin_ms / 1000, late_ms=behind)


if __name__ == "__main__":
    print(msgspec.json.encode(send(msgspec.convert(json.loads(sys.argv[1]), Task))).decode(), flush=True)
