"""The measurements: the limit of fetching and decoding, the whole engine over a backlog, and latencies at a steady rate."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.bench.shop import PARTITIONS, Sent, Snapshots, Task, configuration
from stream.bench.worker import Place, Told
from stream.collector import calm_collector
from stream.config import Config
from stream.engine.time import Zone
from stream.kafka.admin import Admin, Topic
from stream.kafka.client import KafkaMember
from stream.kafka.log import LogError, Partition, Start
from stream.kafka.reader import follow
from stream.mapping import Decoder
from stream.metrics import Metrics
from stream.runners.engine import Engine
from stream.runners.report import Report
from stream.topics import own_topics

logger = logging.getLogger("nowcart.bench")

Progress = Callable[[str, int, int], None]
"""Told (what is being done, how much is done, of how much)."""

WARM_UP_SECONDS = 5.0
"""Of the steady stream: its latencies are not counted."""
_FETCH = 20_000


class Latencies(Report):
    """A report that keeps every latency once told to, not the newest alone."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(metrics)
        self.kept: list[NDArray[np.float64]] = []
        self.counting = False

    def event_to_prediction(self, topic: str, seconds: NDArray[np.float64]) -> None:
        if self.counting and topic:
            self.kept.append(seconds)
        super().event_to_prediction(topic, seconds)

    def percentiles_ms(self) -> dict[str, float | None]:
        """The median and the 99th percentile of those kept."""
        if not self.kept:
            return {"p50": None, "p99": None}
        p50, p99 = np.percentile(np.concatenate(self.kept), [50, 99]) * 1000
        return {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}


class Processes(msgspec.Struct, frozen=True, kw_only=True):
    """How many share a stage; each a divisor of the partitions."""

    ingest: int = 1
    forecast: int = 1


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """What a backlog cost."""

    messages: int
    limit_seconds: float
    seconds: float
    ingest_seconds: float
    """Until all was ingested; what is left is forecast."""
    cpu_seconds: dict[str, float]
    """By stage, of all its processes, their clients' threads and all; the broker apart."""
    step_seconds: dict[str, dict[str, float]]
    """Stage -> step -> seconds."""
    records: dict[str, int]
    commits: int
    ticks: dict[str, int]
    """Bucket size -> buckets that closed, as the records in `demand` say."""
    peak_memory_bytes: int
    broker_memory_bytes: int | None


def prepare(kafka: dict[str, str | int | float | bool], topic: str, snapshots: Snapshots | None = None) -> Config:
    """Creates the topics of one run; returns its configuration.

    Args:
        kafka: librdkafka's properties.
        topic: how all its topics begin.
        snapshots: where they go, where some are taken.
    """
    config = configuration(kafka, topic, snapshots)
    Admin(kafka).create([*own_topics(config), *[Topic(source.topic, PARTITIONS) for source in config.sources.values()]])
    return config


def clean(config: Config) -> None:
    """Deletes the topics of a run.

    Args:
        config: the run's.
    """
    Admin(config.kafka).delete([*(topic.name for topic in own_topics(config)), *(source.topic for source in config.sources.values())])


@contextmanager
def sending(task: Task, progress: Callable[[int], None]) -> Iterator[Callable[[], Sent]]:
    """The shop in a process of its own, ended with the block; gives what waits for it.

    Args:
        task: what it sends.
        progress: told how many clickstream messages are sent.

    Raises:
        LogError: it failed.
    """
    command = [sys.executable, "-m", "stream.bench.shop", msgspec.json.encode(task).decode()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout

        def wait() -> Sent:
            last = ""
            for line in lines:
                last = line
                if line.startswith("sent "):
                    progress(int(line[5:]))
            if process.wait() != 0:
                raise LogError("the benchmark's shop could not send its messages; what it said stands above")
            return msgspec.json.decode(last, type=Sent)

        try:
            yield wait
        finally:
            if process.poll() is None:
                process.kill()


class _FromStart:
    """A listener that begins every partition at 0."""

    def assigned(self, partitions: list[Partition]) -> dict[Partition, Start]:
        return dict.fromkeys(partitions, Start(0))

    def revoked(self, partitions: list[Partition]) -> None: ...

    def lost(self, partitions: list[Partition]) -> None: ...


def limit(config: Config, messages: int) -> float:
    """Seconds to fetch and decode everything, with the engine's own client and decoders and nothing behind them.

    Args:
        config: the run's.
        messages: in the sources' topics.
    """
    calm_collector()
    zone = Zone(config.time.zone)
    decoders = {source.topic: Decoder(source, config.time, zone) for source in config.sources.values()}
    member = KafkaMember(config.kafka, f"{config.output.prefix}limit", f"{config.output.prefix}limit")
    try:
        member.subscribe(list(decoders), _FromStart())
        seen, began = 0, 0.0
        while seen < messages:
            fetched = member.fetch(_FETCH, 0.02)
            if not began and fetched.batches:
                began = time.perf_counter()  # joining the group is not what is measured
            for batch in fetched.batches:
                decoders[batch.partition.topic].decode(batch)
                seen += len(batch)
        return time.perf_counter() - began
    finally:
        member.close()


class _Worker:
    """A stage in a process of its own."""

    def __init__(self, place: Place) -> None:
        command = [sys.executable, "-m", "stream.bench.worker", msgspec.json.encode(place).decode()]
        self.stage = place.stage
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.report: Told | None = None

    def line(self, start: str) -> str:
        """Waits for its next line.

        Args:
            start: how it begins.

        Raises:
            LogError: it said something else, or ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line.startswith(start):
            raise LogError(f"the benchmark's {self.stage} process could not go on; what it said stands above")
        return line

    def tell(self, line: str) -> None:
        """Sends it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def done(self, at: Callable[[int], None] = lambda _: None) -> None:
        """Waits until it has done its work.

        Args:
            at: told how many events are done.
        """
        while (line := self.line("")).startswith("at "):
            at(int(line[3:]))
        if line != "done":
            raise LogError(f"the benchmark's {self.stage} process ended early; what it said stands above")

    def told(self) -> Told:
        """Lets it leave; what it did."""
        self.tell("leave")
        return msgspec.json.decode(self.line("{"), type=Told)

    def close(self) -> None:
        """Ends it, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def throughput(
    config: Config,
    topic: str,
    messages: int,
    progress: Progress,
    stop: threading.Event,
    processes: Processes,
    snapshots: Snapshots | None = None,
) -> Throughput:
    """Runs the whole engine over the backlog, in processes of its own, after measuring the limit.

    Time runs from all processes having joined their groups, with nothing read yet, until the last forecast is committed.

    Args:
        config: the run's.
        topic: how its topics begin.
        messages: in the sources' topics.
        progress: told how far it is.
        stop: set from outside.
        processes: how many of each stage.
        snapshots: as in the configuration; None: none are taken.

    Raises:
        LogError: a process failed.
    """
    alone = limit(config, messages)

    def start(stage: str, members: int) -> list[_Worker]:
        return [_Worker(Place(config.kafka, topic, stage, str(number), members, snapshots)) for number in range(members)]

    forecast, ingest = start("forecast", processes.forecast), start("ingest", processes.ingest)
    workers = [*forecast, *ingest]
    counts = [0] * len(ingest)

    def follow(number: int) -> None:
        def at(count: int) -> None:
            counts[number] = count
            progress("engine", min(messages, sum(counts)), messages)
            if stop.is_set():
                for worker in workers:
                    worker.process.kill()

        ingest[number].done(at)

    try:
        for awaited in ("loaded", "ready"):
            for worker in workers:
                worker.line(awaited)
            began = time.perf_counter()
            for worker in workers:
                worker.tell("go")
        with ThreadPoolExecutor(len(ingest)) as pool:
            list(pool.map(follow, range(len(ingest))))
        ingested = time.perf_counter() - began
        for worker in forecast:
            worker.tell("ingest is done")
        for worker in forecast:
            worker.done()
        seconds = time.perf_counter() - began
        told = {"ingest": [worker.told() for worker in ingest], "forecast": [worker.told() for worker in forecast]}
    finally:
        for worker in workers:
            worker.close()
    steps: dict[str, dict[str, float]] = {}
    records: Counter[str] = Counter()
    for stage, each in told.items():
        steps[stage] = {step: sum(one.step_seconds.get(step, 0.0) for one in each) / len(each) for step in each[0].step_seconds}
        for one in each:
            records.update(one.records)
    everyone = [one for each in told.values() for one in each]
    return Throughput(
        messages=messages,
        limit_seconds=alone,
        seconds=seconds,
        ingest_seconds=ingested,
        cpu_seconds={stage: sum(one.cpu_seconds for one in each) for stage, each in told.items()},
        step_seconds=steps,
        records={name.removeprefix(config.output.prefix): count for name, count in records.items()},
        commits=sum(one.commits for one in everyone),
        peak_memory_bytes=sum(one.peak_memory_bytes for one in everyone),
        broker_memory_bytes=broker_memory(),
        ticks=ticks(config),
    )


class _Bucket(msgspec.Struct):
    bucket: str
    bucket_start_ms: int
    corrects: bool = False


def ticks(config: Config) -> dict[str, int]:
    """How many buckets of each size have been closed, by what stands in the demand topic.

    Args:
        config: the run's.
    """
    decode = msgspec.json.Decoder(_Bucket).decode
    seen: set[tuple[str, int]] = set()
    for record in follow(config.kafka, [config.output.topic("demand")], until_end=True):
        bucket = decode(record.value or b"")
        if not bucket.corrects:
            seen.add((bucket.bucket, bucket.bucket_start_ms))
    return dict(Counter(size for size, _ in sorted(seen)))


def latency(config: Config, topic: str, rate: float, seconds: float, progress: Progress, stop: threading.Event) -> dict[str, float | None]:
    """Latencies while a shop sends at a steady rate: from an event's Kafka time stamp to the commit of what was predicted from it.

    Args:
        config: the run's.
        topic: how its topics begin.
        rate: clickstream events a second.
        seconds: how long is measured, after a warm-up.
        progress: told how far it is.
        stop: set from outside.

    Returns:
        p50 and p99 in ms, and cores: how many the engine, both stages with their clients, kept busy meanwhile.
    """
    report = Latencies(Metrics(process=False))
    engine = Engine(config, report)
    events = int(rate * (WARM_UP_SECONDS + seconds))
    begun = counted = cpu = 0.0
    halt = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            engine.run(halt)
        except BaseException as failure:  # noqa: BLE001 - carried to the caller
            failures.append(failure)

    def sent(count: int) -> None:
        nonlocal begun, counted, cpu
        begun = begun or time.monotonic()
        report.counting = time.monotonic() - begun >= WARM_UP_SECONDS
        if report.counting and not counted:
            counted, cpu = time.monotonic(), time.process_time()
        if stop.is_set():
            raise KeyboardInterrupt
        progress("latency", min(count, events), events)

    thread = threading.Thread(target=run, name="engine")
    thread.start()
    try:
        with sending(Task(kafka=config.kafka, topic=topic, task="steady", events=events, rate=rate), sent) as wait:
            done = wait()
        cores = (time.process_time() - cpu) / (time.monotonic() - counted) if counted else None
        if done.late_ms > 200:
            logger.warning("the shop could not keep its pace: it was up to %.0f ms late, so its messages came in bursts", done.late_ms)
        _settle(report, done.messages)
    finally:
        halt.set()
        thread.join()
    if failures:
        raise failures[0]
    return {**report.percentiles_ms(), "cores": None if cores is None else round(cores, 2)}


def _settle(report: Report, messages: Mapping[str, int]) -> None:
    """Waits until what was sent last is predicted from, for as long as that goes on."""
    before = -1
    while (now := report.total_events()) != before and now < sum(messages.values()):
        before = now
        time.sleep(0.5)


def broker_memory() -> int | None:
    """Resident bytes of the embedded broker that this process started; None without one."""
    parents: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            pid, fields = int(folder.name), rest.split()
        except (OSError, ValueError):
            continue
        parents[pid] = int(fields[1])
        if name.startswith("noida-db"):
            sizes[pid] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    total = 0
    for pid, size in sizes.items():
        at = pid
        while at in parents and at != os.getpid():
            at = parents[at]
        total += size if at == os.getpid() else 0
    return total or None
