"""The measurements of restoring: a shard of very many items is made, written as a snapshot, and taken up by a fresh process.

    python -m stream.bench.restore '{"role": "make", …}'

Making and restoring are processes of their own, so that neither's memory is counted as the other's. On stdout a process says how
far it is: lines `at N`, at last one JSON object.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
import numpy as np

from stream.bench.worker import open_vault
from stream.collector import calm_collector
from stream.config import Config, parse
from stream.engine import activity
from stream.engine.activity import Block, decode_block, encode_block
from stream.engine.columns import MICRO, Ints, Rows
from stream.engine.forecast import ForecastShard
from stream.engine.state import State, forecast_arrays, forecast_note, size_bytes
from stream.kafka.admin import Admin, Topic
from stream.kafka.client import KafkaMember
from stream.kafka.log import LogError, Outcome, Partition, Position
from stream.kafka.sender import Sender
from stream.metrics import Metrics
from stream.runners.engine import Engine
from stream.runners.forecast import ForecastStage
from stream.runners.ingest import IngestStage
from stream.runners.loop import Bookmark
from stream.runners.report import Report
from stream.state.store import open_store
from stream.topics import own_topics

START_MS = 1_736_186_400_000
"""2025-01-06 18:00 UTC."""
HOUR_MS = 3_600_000
HOURS = 7
"""Of orders: six hourly ticks and, at midnight, a daily one, so that forecasts of both sizes wait."""
RETURNING = 0.05
"""Of the items, so many are sold again in each later hour."""
MORE = 1_000
"""Rows that stand behind the snapshot: the first commit takes them."""
_AT_ONCE = 60_000
_FOREVER = "1000d"

Progress = Callable[[str, int, int], None]
Answer = TypeVar("Answer")


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is to do."""

    role: str
    """make | restore."""
    kafka: dict[str, str | int | float | bool]
    topic: str
    """How its topics begin."""
    folder: str
    """For the snapshot."""
    items: int
    """Of each partition, about."""
    partitions: int = 1
    """Of the activity topic."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What was made."""

    items: int
    state_bytes: int
    written_bytes: int
    write_seconds: float


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What taking it up took."""

    restore_seconds: float
    """From the partition's assignment until its state is there."""
    peak_memory_bytes: int


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    made: Made
    taken: Taken
    seconds: float
    """From the process's start to its first commit."""


def configuration(task: Task) -> Config:
    """The engine's configuration: an hourly ring of 168 buckets and a daily one of 400.

    Args:
        task: says where.
    """
    values: dict[str, Any] = {
        "kafka": {"bootstrap_servers": "replaced"},
        # Idleness would end the wait for more by the clock.
        "time": {"idle_after": _FOREVER},
        "sources": {
            "orders": {
                "kind": "orders",
                "topic": f"{task.topic}.orders",
                "fields": {"time": "t", "item": "i", "quantity": "n"},
            }
        },
        "demand": {
            "max_items": 2 * task.items * task.partitions,
            "totals": [7, 14],
            "buckets": [
                {"size": "1h", "horizon": 24, "history": 168, "seasons": [24]},
                {"size": "1d", "horizon": 28, "history": 400, "seasons": [7]},
            ],
        },
        "activity": {"partitions": task.partitions},
        "output": {"prefix": f"{task.topic}.nowcart.", "partitions": 1},
        "state": {"url": f"file:{task.folder}", "snapshot_interval": _FOREVER},
        "metrics": {"port": 0},
    }
    return msgspec.structs.replace(parse(values), kafka=task.kafka)


def restore(task: Task, progress: Progress, stop: threading.Event) -> Restored:
    """Makes a snapshot of so many items, and takes it up in a fresh process.

    Args:
        task: where, and how many items.
        progress: told how far it is.
        stop: set from outside.

    Raises:
        LogError: a process failed; what it said stands on stderr.
        KeyboardInterrupt: stop was set.
    """
    config = configuration(task)
    admin = Admin(config.kafka)
    topics = [*own_topics(config), Topic(f"{task.topic}.orders", 1)]
    admin.create(topics)
    try:
        made = _run(msgspec.structs.replace(task, role="make"), Made, lambda at: progress("making items", at, task.items * HOURS), stop)
        began = time.monotonic()
        first = 0.0

        def committed(at: int) -> None:
            nonlocal first
            first = first or time.monotonic() - began
            progress("restoring", at, 1)

        taken = _run(msgspec.structs.replace(task, role="restore"), Taken, committed, stop)
        return Restored(made=made, taken=taken, seconds=first)
    finally:
        admin.delete([topic.name for topic in topics])


def _run(task: Task, answer: type[Answer], said: Callable[[int], None], stop: threading.Event) -> Answer:
    command = [sys.executable, "-m", "stream.bench.restore", msgspec.json.encode(task).decode()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = ""
        try:
            for line in process.stdout:
                last = line
                if line.startswith("at "):
                    said(int(line[3:]))
                if stop.is_set():
                    raise KeyboardInterrupt
            if process.wait() != 0:
                raise LogError(f"the benchmark's process that was to {task.role} failed; what it said stands above")
            return msgspec.json.decode(last, type=answer)
        finally:
            if process.poll() is None:
                process.kill()


def _say(at: int) -> None:
    print(f"at {at}", flush=True)


# -- making ----------------------------------------------------------------------------------------------------------


def make(task: Task) -> Made:
    """Brings a shard's state about, by its own engine, and writes it; then what stands behind it goes into the log.

    Args:
        task: where, and how many items.
    """
    config = configuration(task)
    ingest_stage = IngestStage(config, {f"{task.topic}.orders": 1}, Report(Metrics(process=False)))
    stage = ForecastStage(config, Report(Metrics(process=False)))
    source = config.sources["orders"]
    ingest = ingest_stage.engine(Partition(source.topic, 0), source)
    shards = [ForecastShard(stage.spec) for _ in range(task.partitions)]
    roster = encode_block(Block(activity.VERSION, "roster", roster=ingest_stage.roster, agreement=ingest_stage.agreement))
    for shard in shards:
        feed(shard, roster)
    done = 0
    rows: Rows | None = None
    for rows in orders(task.items * task.partitions):
        for shard, blocks in zip(shards, ingest.step(rows).blocks, strict=True):
            for block in blocks:
                feed(shard, encode_block(block))
        done += len(rows)
        _say(done)
    assert rows is not None
    topic = f"{config.output.prefix}activity"
    # The log's first record stands for all that made the state; what comes next is not in it yet.
    position = Position(1, msgspec.json.encode(Bookmark(count=1, origin=0)).decode())
    store, seconds, written, sizes = open_store(config), 0.0, 0, 0
    for partition, shard in enumerate(shards):
        state = forecast_arrays(shard) | forecast_note(shard)
        season(state)
        began = time.monotonic()
        written += store.write("forecast", topic, partition, position, config.checksum(), state).bytes
        seconds += time.monotonic() - began
        sizes += size_bytes(state)
    with Sender(config.kafka) as sender:
        for partition, blocks in enumerate(ingest.step(_after(rows)).blocks):
            sender.send(topic, [roster, *(encode_block(block) for block in blocks)], partitions=partition)
    member = KafkaMember(config.kafka, f"{config.output.prefix}forecast", f"{config.output.prefix}making")
    try:
        if member.transact([], {Partition(topic, p): position for p in range(task.partitions)}) is not Outcome.COMMITTED:
            raise LogError("the position of the snapshot could not be committed")
    finally:
        member.close()
    return Made(items=sum(len(shard.index) for shard in shards), state_bytes=sizes, written_bytes=written, write_seconds=seconds)


def feed(shard: ForecastShard, data: bytes) -> None:
    """Steps a shard; what it would publish is made and thrown away."""
    for _ in shard.step(decode_block(data)):
        pass


def season(state: State) -> None:
    """Fills the rings and the waiting forecasts as in a shop that has been open for long: a store passes over what is all zero."""
    random = np.random.default_rng(2)
    for name, array in state.items():
        for row in array.reshape(-1, array.shape[-1]) if name.endswith("units.closed") or ".pending.probe." in name else ():
            row[:] = random.integers(0, 5, len(row), dtype=np.uint8)


def orders(items: int) -> Iterator[Rows]:
    """Order lines of so many items in pieces, ascending in time: every item in the first hour, some of them later."""
    random = np.random.default_rng(1)
    names = [f"item-{number:07d}" for number in range(items)]
    offset = 0
    for hour in range(HOURS):
        which = np.arange(items) if hour == 0 else np.sort(random.choice(items, max(1, int(items * RETURNING)), replace=False))
        time_ms = START_MS + hour * HOUR_MS + np.sort(random.integers(0, HOUR_MS, len(which)))
        quantity = random.integers(1, 4, len(which)) * MICRO
        for start in range(0, len(which), _AT_ONCE):
            cut = slice(start, min(start + _AT_ONCE, len(which)))
            picked = [names[number] for number in which[cut].tolist()]
            yield _lines(offset, time_ms[cut], picked, quantity[cut])
            offset += len(picked)


def _after(rows: Rows) -> Rows:
    """A few more lines of the same items at the same time."""
    assert rows.item is not None
    count = min(MORE, len(rows))
    last = np.full(count, int(rows.time_ms[-1]), np.int64)
    return _lines(int(rows.offset[-1]) + 1, last, rows.item[:count], np.full(count, MICRO, np.int64))


def _lines(offset: int, time_ms: Ints, item: list[str], quantity: Ints) -> Rows:
    return Rows(
        offset=np.arange(offset, offset + len(item), dtype=np.int64),
        stamp_ms=time_ms,
        time_ms=time_ms,
        item=item,
        quantity=quantity,
    )


# -- taking it up ----------------------------------------------------------------------------------------------------


class _Restores(Report):
    """Keeps how long the restore took."""

    def __init__(self) -> None:
        super().__init__(Metrics(process=False))
        self.restore_seconds = 0.0

    def restored(self, seconds: float) -> None:
        self.restore_seconds = seconds
        super().restored(seconds)


def take_up(task: Task) -> Taken:
    """Runs the forecast stage until its first commit.

    Args:
        task: as it was made.
    """
    calm_collector()
    config = configuration(task)
    report = _Restores()
    engine = Engine(config, report, ("forecast",), instance="restore", vault=open_vault(config))
    stop = threading.Event()

    def watch() -> None:
        while not report.commits["committed"] and not stop.wait(0.005):
            pass
        _say(1)
        stop.set()

    watcher = threading.Thread(target=watch, name="watch", daemon=True)
    watcher.start()
    try:
        engine.run(stop)
    finally:
        stop.set()
    watcher.join()
    return Taken(restore_seconds=report.restore_seconds, peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main(argument: str) -> None:
    """Does one task.

    Args:
        argument: a Task as JSON.
    """
    task = msgspec.json.decode(argument, type=Task)
    answer = make(task) if task.role == "make" else take_up(task)
    print(msgspec.json.encode(answer).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
