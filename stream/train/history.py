"""Histories to train on, as blocks: the activity topic's partitions, or a file on the backtest's road. Both are read as often as it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from stream.backtest.data import Round, View
from stream.backtest.drive import Drive
from stream.backtest.method import Task
from stream.backtest.shape import Layout, read_dataset
from stream.config import Bucket, Config, UserError
from stream.engine.activity import Block
from stream.engine.forecast import ForecastSpec
from stream.kafka.admin import Admin
from stream.kafka.log import Partition
from stream.kafka.reader import read
from stream.runners.forecast import block_of, probes, spec_of


class History(Protocol):
    """Blocks of several parts; each part is a forecast shard's world."""

    @property
    def source(self) -> str:
        """What it is read from."""

    @property
    def spec(self) -> ForecastSpec:
        """Of the shards that take the blocks."""

    @property
    def ends(self) -> list[int]:
        """Where each part ends."""

    def blocks(self, part: int, start: int = 0) -> Iterator[tuple[int, Block]]:
        """(where the next block stands, block), from `start` to the part's end."""


@dataclass(frozen=True, slots=True)
class ActivityHistory:
    """The activity topic, as it stands now: read only, without a group."""

    config: Config
    spec: ForecastSpec
    starts: list[int]
    ends: list[int]

    @property
    def source(self) -> str:
        return self.config.output.topic("activity")

    @staticmethod
    def open(config: Config) -> ActivityHistory:
        """Looks at the topic.

        Raises:
            UserError: there is no topic, or it no longer begins at its start.
            LogError: Kafka cannot be used.
        """
        admin = Admin(config.kafka)
        admin.ping()
        topic = config.output.topic("activity")
        if topic not in admin.topics():
            raise UserError(
                f"the topic '{topic}' must exist: run the engine first (nowcart run CONFIG), or train from a file (--history FILE)"
            )
        places = [Partition(topic, number) for number in range(admin.partitions([topic])[topic])]
        written = admin.written_ends(places)
        return ActivityHistory(config, spec_of(config), [0] * len(places), [written[place] for place in places])

    def blocks(self, part: int, start: int = 0) -> Iterator[tuple[int, Block]]:
        place = Partition(self.source, part)
        for messages in read(self.config.kafka, place, start, self.ends[part], 10_000):
            for offset, value in zip(messages.offsets, messages.values, strict=True):
                yield offset + 1, block_of(place, offset, value)


class FileHistory:
    """A file with a row an item and time.

    Args:
        config: has the bucket size that the file's steps are.
        path: of the file.
        layout: what its columns mean.

    Raises:
        UserError: the file cannot be used, or its steps are no bucket size of the configuration.
    """

    def __init__(self, config: Config, path: Path, layout: Layout) -> None:
        self.source = str(path)
        data = read_dataset(path, layout).data
        bucket = bucket_of(config, data.frequency.size, data.frequency.name)
        data = replace(data, seasons=bucket.seasons)
        self._view = View(data, Round(1, data.steps, data.steps, bucket.horizon))
        totals = tuple(steps for steps in config.demand.totals if steps <= bucket.horizon)
        task = Task(bucket.horizon, config.demand.quantiles, totals, probes(bucket.horizon), device=config.device.name)
        self._drive = Drive(self._view, task, 1)
        self.spec = self._drive.shard.spec
        self.ends = [data.steps + 1]

    def blocks(self, part: int, start: int = 0) -> Iterator[tuple[int, Block]]:
        if start == 0:
            yield 1, self._drive.roster
        begin = max(0, start - 1)
        for step, block in enumerate(self._drive.blocks(self._view, begin), start=begin):
            yield step + 2, block


def bucket_of(config: Config, size: str | None, name: str) -> Bucket:
    """The configuration's bucket of a file's steps.

    Raises:
        UserError: there is none.
    """
    for bucket in config.demand.buckets:
        if bucket.size == size:
            return bucket
    sizes = ", ".join(bucket.size for bucket in config.demand.buckets)
    raise UserError(f"the file's steps must be of a bucket size of [demand] ({sizes}); they are {name}: name --freq, or add such a bucket")
