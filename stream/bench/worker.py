"""A stage of the benchmark's engine in a process of its own, as deployments run it.

    python -m stream.bench.worker '{"kafka": …, "topic": …, "stage": "forecast"}'

Says `loaded` on stdout and waits for a line on stdin; then says `ready` and the time once it works on its partitions. A forecast stage ends
when another line comes in (ingest is done) and all activity is forecast, an ingest stage at the ends of its partitions; then it says what it did
as one JSON object.
"""

from __future__ import annotations

import resource
import sys
import threading
import time

import msgspec

from stream.bench.shop import Snapshots, configuration
from stream.config import Config
from stream.metrics import Metrics
from stream.runners.engine import Engine
from stream.runners.report import Report
from stream.runners.vault import StoreVault


class Place(msgspec.Struct, frozen=True):
    """Where it works."""

    kafka: dict[str, str | int | float | bool]
    topic: str
    stage: str
    instance: str = "0"
    snapshots: Snapshots | None = None


class Told(msgspec.Struct, frozen=True):
    """What it did."""

    records: dict[str, int]
    commits: int
    step_seconds: dict[str, float]
    cpu_seconds: float
    peak_memory_bytes: int


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
    engine = Engine(
        config,
        report,
        (place.stage,),
        place.instance,
        until_end=True,
        upstream=upstream if place.stage == "forecast" else None,
        vault=vault,
    )
    cpu = 0.0
    print("loaded", flush=True)
    sys.stdin.readline()

    def talk() -> None:
        nonlocal cpu
        while not engine.ready()[0]:
            if done.wait(0.005):
                return
        cpu = time.process_time()
        print(f"ready {time.time()}", flush=True)
        if place.stage == "forecast":
            sys.stdin.readline()
            upstream.set()
        else:
            while not done.wait(0.5):
                print(f"at {report.total_events()}", flush=True)

    talker = threading.Thread(target=talk, name="talk", daemon=True)
    talker.start()
    try:
        engine.run(threading.Event())
    finally:
        done.set()
    if place.stage == "ingest":
        talker.join()
    told = Told(
        dict(report.records),
        sum(report.commits.values()),
        {step: took for (_, step), took in report.seconds.items()},
        time.process_time() - cpu,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
    print(msgspec.json.encode(told).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
