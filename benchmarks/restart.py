"""How long a stage that was killed with -9 takes, from its process's start, until it commits again.

    python benchmarks/restart.py --kafka localhost:9092 --kills 10

A simulated shop sends at an even pace; one process of ingest and one of forecast run as `nowcart run` does, with a snapshot every five
seconds. Each is killed at a random moment, most often in mid-transaction, and started again at once with the same name. Times are
taken from committed offsets, asked for every 10 ms.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from pathlib import Path

import msgspec

from stream.bench.shop import PARTITIONS, Task, configuration
from stream.kafka.admin import Admin, Topic
from stream.kafka.client import KafkaMember
from stream.kafka.log import LogError, Partition, Position
from stream.simulate.mapping import sources
from stream.tables import as_toml
from stream.topics import own_topics

PATIENCE_S = 60.0
BETWEEN_S = (4.0, 8.0)


def text(servers: str, topic: str, folder: Path) -> str:
    """The configuration file of a run: a minute's buckets, so that there is always something to forecast."""
    return as_toml(
        {
            "sources": sources(topic),
            "kafka": {"bootstrap_servers": servers},
            "time": {"zone": "Europe/London", "out_of_orderness": "2s"},
            "demand": {"from": "orders", "buckets": [{"size": "1m", "horizon": 30, "seasons": [30]}]},
            "output": {"prefix": f"{topic}.nowcart."},
            "state": {"url": f"file:{folder}/state", "snapshot_interval": "5s"},
            "metrics": {"port": 0},
        }
    )


class Stage:
    """A stage's process, and where its group has committed.

    Args:
        name: ingest | forecast.
        servers: of the Kafka.
        prefix: of nowcart's topics.
        topics: that it reads, with their partitions.
        path: of the configuration.
    """

    def __init__(self, name: str, servers: str, prefix: str, topics: dict[str, int], path: Path) -> None:
        self.name, self.path = name, path
        self.places = [Partition(topic, partition) for topic, count in topics.items() for partition in range(count)]
        self.looker = KafkaMember({"bootstrap.servers": servers}, f"{prefix}{name}", f"looks-on-{name}")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Starts the process; when."""
        began = time.monotonic()
        self.process = subprocess.Popen([sys.executable, "-m", "stream.cli.main", "run", str(self.path), "--stage", self.name])
        return began

    def kill(self) -> None:
        """Kills it with -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def committed(self) -> dict[Partition, Position | None]:
        """Where its group stands."""
        return self.looker.committed(self.places)

    def first_commit(self, since: float, before: dict[Partition, Position | None]) -> float:
        """Seconds from `since` until anything is committed beyond `before`.

        Raises:
            LogError: it took too long, or the process ended.
        """
        assert self.process is not None
        while self.committed() == before:
            if self.process.poll() is not None or time.monotonic() > since + PATIENCE_S:
                raise LogError(f"{self.name} has committed nothing within {time.monotonic() - since:.0f} s")
            time.sleep(0.01)
        return time.monotonic() - since


def measure(servers: str, kills: int, rate: float, seed: int) -> dict[str, list[float]]:
    """Does it.

    Args:
        servers: of a Kafka.
        kills: of each stage.
        rate: clickstream events a second.
        seed: of the moments.

    Returns:
        Seconds by stage.
    """
    topic = f"restart-{uuid.uuid4().hex[:8]}"
    kafka: dict[str, str | int | float | bool] = {"bootstrap.servers": servers}
    config = configuration(kafka, topic)
    admin = Admin(kafka)
    topics = [*own_topics(config), *(Topic(source.topic, PARTITIONS) for source in config.sources.values())]
    admin.create(topics)
    draw = random.Random(seed)
    took: dict[str, list[float]] = {"ingest": [], "forecast": []}
    with ExitStack() as stack:
        stack.callback(admin.delete, [each.name for each in topics])
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nowcart-restart-")))
        path = folder / "shop.toml"
        path.write_text(text(servers, topic, folder), encoding="utf-8")
        events = int(rate * (60 + 2 * kills * (BETWEEN_S[1] + 5)))
        task = Task(kafka=kafka, topic=topic, task="steady", events=events, rate=rate)
        command = [sys.executable, "-m", "stream.bench.shop", msgspec.json.encode(task).decode()]
        shop = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(shop.kill)
        assert shop.stdout is not None
        shop.stdout.readline()  # it sends
        prefix = config.output.prefix
        reads = {
            "ingest": {source.topic: PARTITIONS for source in config.sources.values()},
            "forecast": {f"{prefix}activity": config.activity.partitions},
        }
        stages = [Stage(name, servers, prefix, places, path) for name, places in reads.items()]
        for stage in stages:
            before = stage.committed()
            stack.callback(stage.kill)
            print(f"{stage.name}: first start, until the first commit: {stage.first_commit(stage.start(), before):.2f} s", flush=True)
        for number in range(kills):
            for stage in stages:
                time.sleep(draw.uniform(*BETWEEN_S))
                stage.kill()
                seconds = stage.first_commit(stage.start(), stage.committed())
                took[stage.name].append(seconds)
                print(f"{stage.name}: kill {number + 1} of {kills}: {seconds:.2f} s until it commits again", flush=True)
    return took


def main() -> None:
    """From a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", required=True, metavar="HOST:PORT", help="an Apache Kafka; topics of its own names, deleted at the end")
    parser.add_argument("--kills", type=int, default=10, help="of each stage (default: 10)")
    parser.add_argument("--rate", type=float, default=1_000.0, help="events a second (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    args = parser.parse_args()
    for stage, seconds in measure(args.kafka, args.kills, args.rate, args.seed).items():
        ordered = sorted(seconds)
        print(f"{stage}: {len(ordered)} kills; until it commits again p50 {ordered[len(ordered) // 2]:.2f} s, longest {ordered[-1]:.2f} s")


if __name__ == "__main__":
    main()
