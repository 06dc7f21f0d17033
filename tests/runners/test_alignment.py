"""Source partitions that are read one after the other, as librdkafka reads a backlog, must not run ahead of each other."""

from __future__ import annotations

import json
import random
from functools import lru_cache

import msgspec
import pytest

from stream.config import Config
from stream.kafka.log import Partition
from stream.kafka.memory import MemoryLog
from stream.runners.loop import Loop, LoopOptions
from tests.runners.harness import BASE, World, config, filled_log

DAY = 86_400_000
MINUTE = 60_000
TIME = {"out_of_orderness": "30s", "allowed_lateness": "2h", "max_lead": "2h"}


def year(settings: Config, partitions: int, count: int = 4_000) -> MemoryLog:
    """A year of a slow shop, spread over the partitions by session."""
    chance = random.Random(5)
    step = 365 * DAY // count
    clicks = []
    for i in range(count):
        session = f"s{i}"
        click = {"t": BASE + i * step + chance.randrange(step), "e": "buy" if i % 3 == 0 else "view", "s": session, "i": f"item{i % 7}"}
        clicks.append((session, json.dumps(click).encode()))
    return filled_log({"shop.events": clicks}, partitions, settings)


def one_after_the_other(available: dict[Partition, int], most: int) -> dict[Partition, int]:
    """The first partition that has anything, all of it; then the next."""
    for partition, count in sorted(available.items()):
        if count:
            return {partition: min(count, most)}
    return {}


class Watched(World):
    """Reads one partition after the other with short queues, and notes how far ahead and how full things get."""

    lead_ms = 0
    queued = 0

    def _start(self, name: str) -> Loop:
        loop = super()._start(name)
        loop.options = LoopOptions(until_end=True, queue_high=300, queue_low=100, fetch_messages=200, iteration_rows=150)
        loop.member._cut = one_after_the_other  # type: ignore[attr-defined]
        return loop

    def run(self, most: int = 400_000) -> Watched:
        super().run(most)
        return self

    def turn(self, name: str) -> None:
        super().turn(name)
        loop = self.loops[name]
        if name.startswith("ingest"):
            waiting = [o for o in loop.owned.values() if o.bookmark.done is None]
            marks = [o.shard.watermark_ms for o in waiting if o.shard.watermark_ms > 0]
            if len(marks) > 1 and len(marks) == len(waiting):
                self.lead_ms = max(self.lead_ms, max(marks) - min(marks))
            self.queued = max([self.queued, *(o.shard.queued for o in loop.owned.values())])


def sources() -> dict[str, object]:
    from tests.runners.harness import CONFIG

    return {"clicks": CONFIG["sources"]["clicks"]}  # type: ignore[index]


BACKLOG = config(
    sources=sources(),
    demand={"from": "clickstream", "totals": [2], "quantiles": [0.1, 0.5, 0.9], "buckets": [{"size": "1d", "horizon": 2}]},
    time=TIME | {"max_lead": "6h"},
    models={"river_items": 0},
)


@lru_cache(maxsize=1)
def from_one_partition() -> dict[bytes | None, list[bytes | None]]:
    """Demand of the same year from a source of one partition."""
    return World(year(BACKLOG, 1), BACKLOG, seed=1).run(400_000).output("demand")


@pytest.mark.parametrize("members", [1, 2])
def test_a_years_backlog_loses_nothing_and_stays_small(members: int) -> None:
    world = Watched(year(BACKLOG, 4), BACKLOG, seed=1, members=members).run()
    assert world.observer.counts["late:clicks:dropped"] == 0
    assert world.observer.counts["late:clicks:corrected"] == 0
    assert world.observer.counts["events:clicks:purchase"] == sum(1 for i in range(4_000) if i % 3 == 0)
    assert world.output("demand") == from_one_partition(), "the layout of the source changes no forecast"
    assert world.queued <= 300 + 200
    gap = 365 * DAY // 4_000 * 60  # the longest silence between two messages of one partition, generously
    assert world.lead_ms <= 6 * 3_600_000 + gap
    days = [msgspec.json.decode(v) for values in world.output("demand").values() for v in values if v]
    assert sum(d["observed"] for d in days if not d.get("corrects")) > 1_300
