"""A stage of the benchmark's engine in a process of its own, as deployments run it.

    python -m stream.bench.worker '{"kafka": …, "topic": …, "stage": "forecast"}'

Says `loaded` on stdout and waits for a line on stdin; joins its group, says `ready` once it has its share of the partitions, and reads
nothing before the next line, so that processes that share a stage begin together. A forecast stage is done when another line has come in
(ingest is done) and all activity is forecast, an ingest stage at the ends of its partitions; then it says `done`, waits for one more line,
leaves, and says what it did as one JSON object. While it works it says `at` and how many events are done.
"""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Sequence

import msgspec

from stream.bench.shop import PARTITIONS, Snapshots, configuration
from stream.config import Config
from stream.kafka.client import KafkaMember
from stream.kafka.log import Fetched, Listener, Partition, Start
from stream.metrics import Metrics
from stream.runners.engine import Engine
from stream.runners.joining import open_members
from stream.runners.report import Report
from stream.runners.vault import StoreVault


class Place(msgspec.Struct, frozen=True):
    """Where it works."""

    kafka: dict[str, str | int | float | bool]
    topic: str
    stage: str
    instance: str = "0"
    members: int = 1
    """Processes that share the stage."""
    snapshots: Snapshots | None = None


class Told(msgspec.Struct, frozen=True):
    """What it did."""

    records: dict[str, int]
    commits: int
    step_seconds: dict[str, float]
    cpu_seconds: float
    peak_memory_bytes: int


class Gate:
    """A listener before another: partitions that are given rest until it is opened, and nobody leaves before all are done.

    Whoever left before the others would hand them its partitions, to be read again from their beginning.

    Args:
        listener: the loop's.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.resting: dict[Partition, int] = {}
        self.open = threading.Event()
        self.done = threading.Event()
        self.leave = threading.Event()

    def assigned(self, partitions: list[Partition]) -> dict[Partition, Start]:
        starts = self.listener.assigned(partitions)
        if self.open.is_set():
            return starts
        self.resting |= {partition: start.offset for partition, start in starts.items() if not start.waits}
        return {partition: Start(start.offset, waits=True) for partition, start in starts.items()}

    def revoked(self, partitions: list[Partition]) -> None:
        self.listener.revoked(partitions)
        for partition in partitions:
            self.resting.pop(partition, None)

    def lost(self, partitions: list[Partition]) -> None:
        self.listener.lost(partitions)
        for partition in partitions:
            self.resting.pop(partition, None)


class _Member(KafkaMember):
    """Reads nothing before its gate is open."""

    gate: Gate | None = None

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None:
        self.gate = Gate(listener)
        super().subscribe(topics, self.gate)

    def fetch(self, max_messages: int, timeout_s: float) -> Fetched:
        gate = self.gate
        if gate is not None and gate.resting and gate.open.is_set():
            resting, gate.resting = gate.resting, {}
            self.resume_at(resting)
        return super().fetch(max_messages, timeout_s)

    def close(self) -> None:
        if self.gate is not None:
            self.gate.done.set()
            self.gate.leave.wait(60)
        super().close()


def open_vault(config: Config) -> StoreVault:
    """The snapshots of a run, of which nobody is told anything.

    Args:
        config: the run's.
    """
    return StoreVault(config, taken=lambda seconds: None, age=lambda stage, partition, seconds: None)


def main(argument: str) -> None:
    """Runs until all is forecast.

    Args:
        argument: a Place as JSON.
    """
    place = msgspec.json.decode(argument, type=Place)
    report = Report(Metrics(process=False))
    upstream, done = threading.Event(), threading.Event()
    config = configuration(place.kafka, place.topic, place.snapshots)
    vault = None if place.snapshots is None else open_vault(config)
    joining = open_members(config, (place.stage,), place.instance, _Member)
    member = joining.members[place.stage]
    assert isinstance(member, _Member)
    engine = Engine(
        config,
        report,
        (place.stage,),
        place.instance,
        until_end=True,
        upstream=upstream if place.stage == "forecast" else None,
        vault=vault,
        joining=joining,
    )
    cpu = 0.0
    print("loaded", flush=True)
    sys.stdin.readline()

    share = PARTITIONS * (len(config.sources) if place.stage == "ingest" else 1) // place.members

    def talk() -> None:
        nonlocal cpu
        while (gate := member.gate) is None or len(gate.resting) != share:
            if done.wait(0.005):
                return
        print("ready", flush=True)
        sys.stdin.readline()
        cpu = time.process_time()
        gate.open.set()
        if place.stage == "forecast":
            sys.stdin.readline()
            upstream.set()
        while not gate.done.wait(0.5) and not done.is_set():
            print(f"at {report.total_events()}", flush=True)
        cpu = time.process_time() - cpu
        print("done", flush=True)
        sys.stdin.readline()
        gate.leave.set()

    talker = threading.Thread(target=talk, name="talk", daemon=True)
    talker.start()
    try:
        engine.run(threading.Event())
    finally:
        done.set()
    talker.join()
    told = Told(
        dict(report.records),
        sum(report.commits.values()),
        {step: took for (_, step), took in report.seconds.items()},
        cpu,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
    print(msgspec.json.encode(told).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
