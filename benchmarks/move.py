"""How long a partition of many items takes from one live process to another, and whether the others stand still meanwhile.

    python benchmarks/move.py --kafka localhost:9092 --items 100000

Two processes of the forecast stage, two activity partitions, cooperative-sticky: the first has both, the second joins and gets one.
Needs an Apache Kafka; the embedded broker knows no cooperative groups. Times are taken from committed offsets, asked for every
10 ms, while a small block a partition comes every 20 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable

import msgspec
import numpy as np

from stream.bench.restore import Task, configuration, make
from stream.bench.worker import open_vault
from stream.engine.activity import VERSION, Block, Source, encode_block
from stream.kafka.admin import Admin, Topic
from stream.kafka.client import KafkaMember
from stream.kafka.log import LogError, Partition, Position
from stream.kafka.sender import Sender
from stream.metrics import Metrics
from stream.runners.engine import Engine
from stream.runners.report import Report
from stream.topics import own_topics

PARTITIONS = 2
CALM_S = 3.0
PATIENCE_S = 120.0


class Moves(Report):
    """Says when partitions come and go."""

    def __init__(self) -> None:
        super().__init__(Metrics(process=False))

    def forget(self, stage: str, partition: Partition) -> None:
        print(f"gone {partition.partition} {time.time()}", flush=True)
        super().forget(stage, partition)

    def restored(self, seconds: float) -> None:
        print(f"restored - {time.time()}", flush=True)
        super().restored(seconds)


def work(task: Task, instance: str) -> None:
    """One process of the forecast stage, until it is killed."""
    config = configuration(task)
    Engine(config, Moves(), ("forecast",), instance=instance, vault=open_vault(config)).run(threading.Event())


class Worker:
    """Such a process, and what it said."""

    def __init__(self, task: Task, instance: str) -> None:
        command = [sys.executable, __file__, "--work", instance, msgspec.json.encode(task).decode()]
        self.said: list[list[str]] = []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.split())

    def times(self, what: str) -> list[tuple[str, float]]:
        """Of what it said of a kind: which partition, and when."""
        return [(words[1], float(words[2])) for words in self.said if words[:1] == [what]]


class Offsets:
    """Asks for the committed offsets, and keeps when each moved on."""

    def __init__(self, member: KafkaMember, places: list[Partition]) -> None:
        self.member, self.places = member, places
        self.last: dict[Partition, Position | None] = {}
        self.moved: dict[Partition, list[float]] = {place: [] for place in places}

    def ask(self) -> None:
        """Once."""
        for place, position in self.member.committed(self.places).items():
            if position != self.last.get(place):
                self.last[place] = position
                self.moved[place].append(time.time())


def wait(condition: Callable[[], bool], what: str, meanwhile: Callable[[], None]) -> None:
    """Until it is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        meanwhile()
        time.sleep(0.01)
        if time.monotonic() > deadline:
            raise LogError(f"waited {PATIENCE_S:g} s for {what}")


def longest(times: list[float], since: float, until: float) -> float:
    """The longest time between two of them, in a span."""
    inside = [since, *(moment for moment in times if since < moment < until), until]
    return float(np.diff(inside).max())


def measure(task: Task) -> None:
    """Does it, and prints it."""
    config = configuration(task)
    admin = Admin(config.kafka)
    topics = [*own_topics(config), Topic(f"{task.topic}.orders", 1)]
    admin.create(topics)
    workers: list[Worker] = []
    halt = threading.Event()
    topic = f"{config.output.prefix}activity"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # how far it is
            made = make(task)
        print(f"{made.items:,} items in {PARTITIONS} partitions, {made.state_bytes / made.items:,.0f} bytes each")
        # A source that says where it is: nothing to count, and yet a block to be read and committed.
        block = encode_block(Block(VERSION, "idle", Source("nobody", 0)))

        def feed() -> None:
            with Sender(config.kafka) as sender:
                while not halt.wait(0.02):
                    for partition in range(PARTITIONS):
                        sender.send(topic, [block], partitions=partition)

        threading.Thread(target=feed, daemon=True).start()
        offsets = Offsets(
            KafkaMember({"bootstrap.servers": str(config.kafka["bootstrap.servers"])}, f"{config.output.prefix}forecast", "looks-on"),
            [Partition(topic, partition) for partition in range(PARTITIONS)],
        )
        workers.append(Worker(task, "one"))
        wait(lambda: len(workers[0].times("restored")) == PARTITIONS, "the first process to have both partitions", offsets.ask)
        calm = time.time() + CALM_S
        wait(lambda: time.time() > calm, "calm", offsets.ask)
        began = time.time()
        workers.append(Worker(task, "two"))
        wait(lambda: bool(workers[1].times("restored")), "the second process to have one", offsets.ask)
        ((moved, gone),) = workers[0].times("gone")
        mover, stayer = (Partition(topic, p) for p in sorted(range(PARTITIONS), key=lambda p: p != int(moved)))
        wait(lambda: offsets.moved[mover][-1] > workers[1].times("restored")[0][1], "its first commit", offsets.ask)
        first = next(moment for moment in offsets.moved[mover] if moment > workers[1].times("restored")[0][1])
        calm = time.time() + 1.0
        wait(lambda: time.time() > calm, "calm", offsets.ask)
        print(f"from the first owner's revoke to the second's first commit: {first - gone:.2f} s")
        before, during = longest(offsets.moved[stayer], began - CALM_S, began), longest(offsets.moved[stayer], began, first + 1.0)
        print(f"longest time without a commit of the partition that stayed: {during * 1000:.0f} ms, {before * 1000:.0f} ms before")
    finally:
        halt.set()
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
        admin.delete([topic.name for topic in topics])


def main() -> None:
    """From a command line."""
    if sys.argv[1:2] == ["--work"]:
        work(msgspec.json.decode(sys.argv[3], type=Task), sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", required=True, metavar="HOST:PORT", help="an Apache Kafka; topics of its own names, deleted at the end")
    parser.add_argument("--items", type=int, default=100_000, help="of each partition (default: 100000)")
    args = parser.parse_args()
    kafka: dict[str, str | int | float | bool] = {"bootstrap.servers": args.kafka, "partition.assignment.strategy": "cooperative-sticky"}
    with tempfile.TemporaryDirectory(prefix="nowcart-move-") as folder:
        measure(
            Task(role="make", kafka=kafka, topic=f"move-{uuid.uuid4().hex[:8]}", folder=folder, items=args.items, partitions=PARTITIONS)
        )


if __name__ == "__main__":
    main()
