"""A whole engine over the log in memory: any number of members, one turn at a time, in the order that a seed says."""

from __future__ import annotations

import functools
import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.demand.forecaster import DemandForecaster
from stream.config import Config, parse
from stream.engine.activity import Source as SourcePartition
from stream.kafka.log import Partition, Position
from stream.kafka.memory import Crash, Cut, Faults, MemoryLog, MemoryMember, everything, random_cuts
from stream.runners.forecast import ForecastStage
from stream.runners.ingest import IngestStage
from stream.runners.joining import stages_of
from stream.runners.keeping import Saved, Vault
from stream.runners.loop import Loop, LoopOptions
from stream.runners.repartition import RepartitionStage
from stream.runners.stage import Stage
from tests.engine.fakes import CountingScorer

MINUTE = 60_000
BASE = 1_700_006_400_000

CONFIG = {
    "time": {"out_of_orderness": "30s", "allowed_lateness": "1h", "max_lead": "1h"},
    "sources": {
        "clicks": {
            "kind": "clickstream",
            "topic": "shop.events",
            "fields": {"time": "t", "event": "e", "session": "s", "item": "i", "price": "p"},
            "events": {"view": "view", "cart": "cart", "buy": "purchase"},
        },
        "orders": {
            "kind": "orders",
            "topic": "shop.orders",
            "fields": {"time": "at", "item": "sku", "quantity": "n"},
        },
        "offers": {
            "kind": "offers",
            "topic": "shop.offers",
            "fields": {
                "time": "told",
                "item": "sku",
                "price": "p",
                "promotion": "promo",
                "starts": "from",
                "ends": "to",
                "stock": "stock",
                "category": "cat",
                "launched": "new",
            },
        },
        "signals": {
            "kind": "signals",
            "topic": "shop.signals",
            "fields": {"time": "told", "name": "what", "starts": "from", "ends": "to", "value": "v", "category": "cat"},
        },
        "reviews": {"kind": "reviews", "topic": "shop.reviews", "fields": {"time": "at", "item": "sku", "rating": "stars"}},
    },
    "demand": {
        "totals": [2],
        "quantiles": [0.1, 0.5, 0.9],
        "buckets": [{"size": "15m", "horizon": 4, "seasons": [4]}, {"size": "1d", "horizon": 2}],
    },
    "models": {"river_items": 2},
    "activity": {"partitions": 2},
    "output": {"partitions": 2},
}


class Silent:
    """An observer that counts what a test asks about."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = defaultdict(int)

    def step(self, stage: str, step: str, seconds: float) -> None: ...
    def commit(self, stage: str, outcome: str, seconds: float) -> None:
        self.counts[f"commit:{outcome}"] += 1

    def batch(self, stage: str, events: int) -> None: ...
    def published(self, topic: str, records: int) -> None:
        self.counts[f"published:{topic}"] += records

    def event_to_prediction(self, topic: str, seconds: NDArray[np.float64]) -> None: ...
    def rebalanced(self) -> None:
        self.counts["rebalanced"] += 1

    def restored(self, seconds: float) -> None:
        self.counts["restored"] += 1

    def lag(self, partition: Partition, events: int) -> None: ...
    def watermark(self, stage: str, partition: Partition, lag_seconds: float) -> None: ...
    def reachable(self, stage: str, answer: bool) -> None: ...
    def forget(self, stage: str, partition: Partition) -> None: ...
    def events(self, source: str, counts: Mapping[str, int]) -> None:
        for name, count in counts.items():
            self.counts[f"events:{source}:{name}"] += count

    def dead_letter(self, source: str, reason: str, messages: int) -> None:
        self.counts[f"dead:{source}:{reason}"] += messages

    def late(self, source: str, outcome: str, events: int) -> None:
        self.counts[f"late:{source}:{outcome}"] += events

    def sessions_live(self, sessions: int) -> None: ...
    def intent_calibration_error(self, ratio: float) -> None: ...
    def items_live(self, items: int) -> None: ...
    def evicted(self, kind: str, slots: int) -> None: ...
    def spikes(self, severity: str, spikes: int) -> None: ...
    def model(self, model: str, version: str, device: str) -> None: ...
    def forecast_quality(self, bucket: str, metrics: Mapping[str, object]) -> None: ...


class FakeVault:
    """Keeps snapshots in memory, and is slow, busy and forgetful in an order that a seed says.

    Args:
        seed: of what goes wrong.
        trouble: how often an offer is refused, a load takes several turns, and the newest snapshot turns out damaged.
        interval_s: between two snapshots of a partition.
    """

    def __init__(self, seed: int, trouble: float = 0.3, interval_s: float = 0.02) -> None:
        self.chance = random.Random(seed)
        self.trouble = trouble
        self.interval_s = interval_s
        self.kept: dict[tuple[str, Partition], list[Saved]] = defaultdict(list)
        self.loaded = 0

    @property
    def busy(self) -> bool:
        return self.chance.random() < self.trouble

    def forget(self, stage: str, partition: Partition) -> None: ...
    def observe(self) -> None: ...
    def has(self, stage: str, partition: Partition) -> bool:
        return bool(self.kept[stage, partition])

    def offer(self, stage: str, partition: Partition, position: Position, state: dict[str, NDArray[Any]]) -> bool:
        if self.busy:
            return False
        frozen = {name: array.copy() for name, array in state.items()}
        self.kept[stage, partition].append(Saved(position.offset, position.metadata, frozen))
        return True

    def load(self, stage: str, partition: Partition, at_most_offset: int | None) -> Future[Saved | None]:
        fits = [s for s in self.kept[stage, partition] if at_most_offset is None or s.offset <= at_most_offset]
        if fits and self.chance.random() < self.trouble:
            fits.pop()  # damaged: the one before
        self.loaded += bool(fits)
        answer = _Slow(self.chance.randrange(4) if self.chance.random() < self.trouble else 0)
        # As a store: whoever loads a snapshot gets arrays of its own.
        answer.set_result(replace(fits[-1], state={name: array.copy() for name, array in fits[-1].state.items()}) if fits else None)
        return answer


class _Slow(Future[Saved | None]):
    """Done only after it was asked a few times."""

    def __init__(self, asks: int) -> None:
        super().__init__()
        self.asks = asks

    def done(self) -> bool:
        self.asks -= 1
        return self.asks < 0


class LightIngest(IngestStage):
    """With a scorer that costs nothing, so that thousands of schedules fit into a test."""

    def scorer(self, spec: Any) -> Any:
        return CountingScorer()


def messages(seed: int, count: int = 300) -> dict[str, list[tuple[str, bytes]]]:
    """(key, value) by topic: a few hours of a small shop, some events late, some too late, some broken."""
    chance = random.Random(seed)
    clicks, orders = [], []
    time = BASE
    for i in range(count):
        time += chance.choice([500, 20_000, 90_000])
        at = time - (chance.choice([40_000, 50 * MINUTE, 90 * MINUTE]) if chance.random() < 0.05 else 0)
        session = f"s{chance.randrange(12)}-{i // 60}"
        event = chance.choices(["view", "cart", "buy", "scroll"], [8, 2, 1, 1])[0]
        click = {"t": at, "e": event, "s": session, "i": f"item{chance.randrange(5)}", "p": chance.choice([1.5, "2.25", None])}
        value = (
            json.dumps(click).encode()
            if chance.random() > 0.03
            else chance.choice([b"{", b"", b'{"t": 1}', b'{"t":"x","e":"view","s":"a","i":"b"}'])
        )
        clicks.append((session, value))
        if chance.random() < 0.5:
            orders.append(
                (f"o{i}", json.dumps({"at": at, "sku": f"item{chance.randrange(6)}", "n": chance.choice([1, 2, -1, 0.5])}).encode())
            )
    return {"shop.events": clicks, "shop.orders": orders} | announcements(seed, BASE, time, count // 4)


def announcements(seed: int, begin: int, end: int, count: int) -> dict[str, list[tuple[str, bytes]]]:
    """Offers, signals and reviews by topic: of things to come and of things past, some told late, some out of order, some broken."""
    chance = random.Random(f"announcements {seed}")
    told: dict[str, list[tuple[str, bytes]]] = {"shop.offers": [], "shop.signals": [], "shop.reviews": []}
    for i in range(count):
        at = begin + (end - begin) * i // count
        at -= chance.choice([0, 0, 0, 10_000, 50 * MINUTE, 5 * 60 * MINUTE])
        starts = at + chance.choice([0, 0, 20 * MINUTE, 3 * 60 * MINUTE, 40 * 24 * 60 * MINUTE, -90 * MINUTE])
        ends = starts + chance.choice([10 * MINUTE, 45 * MINUTE, 26 * 60 * MINUTE])
        span = {"from": starts} | ({"to": ends} if chance.random() < 0.6 else {})
        item = f"item{chance.randrange(8)}"  # two of them are never sold
        offer = (
            {"told": at, "sku": item}
            | span
            | chance.choice(
                [
                    {"p": chance.choice([1.5, 2, "3.25"])},
                    {"promo": chance.choice(["sale", "two", "none"])},
                    {"stock": chance.choice([0, 0, 5])},
                ]
            )
        )
        offer |= {"cat": chance.choice("xy")} if chance.random() < 0.3 else {}
        offer |= {"new": starts} if chance.random() < 0.1 else {}
        told["shop.offers"].append((item, json.dumps(offer if chance.random() > 0.03 else {"told": at, "sku": item, "p": "much"}).encode()))
        if chance.random() < 0.4:
            name = chance.choice(["holiday", "rain", "closed"])
            signal = {"told": at, "what": name} | span | ({"v": chance.choice([0, 0.5, 12])} if name == "rain" else {})
            signal |= {"cat": chance.choice("xyz")} if chance.random() < 0.4 else {}
            told["shop.signals"].append((name, json.dumps(signal).encode()))
        if chance.random() < 0.5:
            told["shop.reviews"].append((item, json.dumps({"at": at, "sku": item, "stars": chance.choice([1, 4.5, 3.3, None])}).encode()))
    return told


def filled_log(shop: Mapping[str, list[tuple[str, bytes]]], partitions: int, config: Config) -> MemoryLog:
    """A log with the shop's messages in it, keyed, and empty output topics."""
    prefix = config.output.prefix
    log = MemoryLog(dict.fromkeys(shop, partitions))
    log.create(f"{prefix}activity", config.activity.partitions)
    for name in ("intent", "demand", "spikes"):
        log.create(prefix + name, config.output.partitions)
    log.create(f"{prefix}deadletter", 1)
    for source in config.sources.values():
        if source.repartition:
            log.create(f"{prefix}repartitioned.{source.name}", config.activity.partitions)
    log.now_ms = BASE + 365 * 24 * 60 * MINUTE
    for topic, rows in shop.items():
        for key, value in rows:
            log.append(topic, [value], keys=[key.encode()])
    return log


class World:
    """Members of both stages over one log, ticked in a seeded order.

    Args:
        log: with the input in it.
        config: the engine's.
        seed: of the order of turns and of how fetches are cut.
        members: how many of each stage.
        faults: of each member, by its name; made anew for each life.
        ingest: the ingest stage.
        until_end: all members end at the input's end.
        vault: where snapshots are kept.
        forecast: the forecast stage.
    """

    def __init__(
        self,
        log: MemoryLog,
        config: Config,
        seed: int = 0,
        members: int = 1,
        faults: Callable[[str], Faults | None] | None = None,
        ingest: type[IngestStage] = LightIngest,
        until_end: bool = True,
        vault: Vault | None = None,
        forecast: type[ForecastStage] = ForecastStage,
    ) -> None:
        self.vault = vault
        self.log, self.config, self.until_end = log, config, until_end
        self.ingest, self.forecast = ingest, forecast
        self.chance = random.Random(seed)
        self.faults = faults or (lambda name: None)
        self.observer = Silent()
        self.now = 0.0
        self.counts = {topic: len(partitions) for topic, partitions in log.topics.items()}
        self.crashes = 0
        self.loops: dict[str, Loop] = {}
        for stage in stages_of(config):
            for i in range(members):
                self.loops[f"{stage}-{i}"] = self._start(f"{stage}-{i}")

    def _start(self, name: str) -> Loop:
        stage = name.split("-", maxsplit=1)[0]
        prefix = self.config.output.prefix
        member = MemoryMember(self.log, prefix + stage, prefix + name, instance_id=name, faults=self.faults(name), cut=self.cut())
        work: Stage
        if stage == "repartition":
            work = RepartitionStage(self.config, self.counts, self.observer)
        else:
            work = self.ingest(self.config, self.counts, self.observer) if stage == "ingest" else self.forecast(self.config, self.observer)
        before = {"ingest": "repartition", "forecast": "ingest"}.get(stage)
        targets = None
        if before in stages_of(self.config) and self.until_end:
            targets = functools.partial(self._ends_after, str(before), work.topics)
        options = LoopOptions(until_end=self.until_end, idle_after_s=5.0, iteration_rows=self.chance.choice([1, 7, 60_000]))
        loop = Loop(member, work, options, self.observer, self._clock, lambda: 0.0, targets, vault=self.vault)
        loop.start()
        return loop

    def cut(self) -> Cut:
        """How a life's fetches are cut."""
        return random_cuts(self.chance.randrange(1 << 30)) if self.chance.random() < 0.8 else everything()

    def _clock(self) -> float:
        self.now += 0.001
        return self.now

    def _ends_after(self, before: str, topics: Sequence[str]) -> Mapping[Partition, int] | None:
        if not all(loop.finished() for name, loop in self.loops.items() if name.startswith(before)):
            return None
        return {Partition(topic, p): self.log.at(Partition(topic, p)).end for topic in topics for p in range(self.counts[topic])}

    def turn(self, name: str) -> None:
        """One turn of one member; a crash starts it anew under its name."""
        try:
            self.loops[name].turn()
        except Crash:
            self.crashes += 1
            self.restart(name)

    def restart(self, name: str) -> None:
        """A new life of a member, under its name."""
        while True:
            try:
                self.loops[name] = self._start(name)
            except Crash:
                continue
            break

    def run(self, most: int = 20_000) -> World:
        """Turns until every member is done."""
        for _ in range(most):
            unfinished = [name for name, loop in self.loops.items() if not loop.finished()]
            if not unfinished:
                return self
            self.turn(self.chance.choice(list(self.loops)))
            if self.chance.random() < 0.05:
                self.now += 1.5
        raise AssertionError(f"not done after {most} turns: {unfinished}")

    def output(self, topic: str) -> dict[bytes | None, list[bytes | None]]:
        """Committed values of an output topic by key, in order."""
        found: dict[bytes | None, list[bytes | None]] = defaultdict(list)
        name = self.config.output.prefix + topic
        for p in range(self.counts[name]):
            for entry in self.log.visible(Partition(name, p)):
                found[entry.key].append(entry.value)
        return dict(found)


def config(**changes: Any) -> Config:
    """The shop's configuration."""
    return parse(CONFIG | changes)


__all__ = ["BASE", "MINUTE", "DemandForecaster", "Silent", "SourcePartition", "World", "config", "filled_log", "messages"]
