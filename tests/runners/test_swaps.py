"""Trained weights are swapped while the engine runs: what is published is what a replay by the journal publishes, and snapshots know the weights."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest

from stream.config import UserError
from stream.kafka.log import Partition
from stream.kafka.memory import MemoryMember
from stream.runners.forecast import ForecastStage, ForecastWork
from stream.runners.loop import Bookmark, Loop, _decode
from stream.runners.weights import Order
from tests.runners import schedules
from tests.runners.harness import BASE, MINUTE, FakeVault, Silent, World, config, filled_log, messages
from tests.runners.swaps import PlannedForecast, Shelf
from tests.runners.test_loop import Trouble

EXPERTS = ("seasonal_naive", "ewma", "network")
KINDS = ("abort", "unknown_committed", "unknown_aborted", "crash", "crash", "away")


class RestlessShelf(Shelf):
    """Orders change at any moment: forward, and back."""

    def order(self, size: str) -> Order | None:
        if size == "15m" and self.chance.random() < 0.05:
            names = ["v1", "v2", "v3", "builtin-1"]
            self.newest = Order(size, self.chance.choice(names), self.chance.choice([0, 0, BASE + 60 * MINUTE]))
        return super().order(size)


class Restless(ForecastStage):
    """Takes whatever is on such a shelf."""

    chance = random.Random(0)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        light = tuple(replace(r, demand=replace(r.demand, experts=EXPERTS)) for r in self.spec.resolutions)
        self.spec = replace(self.spec, resolutions=light)
        self.room = RestlessShelf(light[0].demand, self.chance)


def bookmark_of(world: World, partition: Partition) -> tuple[int, Bookmark]:
    position = world.log.group("nowcart.forecast").positions[partition]
    return position.offset, _decode(position.metadata)


def replayed(world: World, stage: ForecastStage) -> dict[bytes | None, list[bytes | None]]:
    """The demand records that the activity topic and the journals give, from the beginning, in one go."""
    found: dict[bytes | None, list[bytes | None]] = defaultdict(list)
    for number in range(world.counts["nowcart.activity"]):
        partition = Partition("nowcart.activity", number)
        end, bookmark = bookmark_of(world, partition)
        assert not bookmark.told_before
        work, told = ForecastWork(partition, stage), list(bookmark.told)
        for messages_ in MemoryMember(world.log, "readers", "reader").read(partition, 0, end, 1):
            while told and told[0].offset <= messages_.offsets[0]:
                work.tell(told.pop(0).text)
            work.accept(messages_)
            while work.waiting:
                for records in (r for output in work.step(0, 1).outputs for r in output if r.topic == stage.demand_topic):
                    for key, value in zip(records.keys, records.values, strict=True):
                        found[key].append(value)
    return dict(found)


@pytest.mark.parametrize("seed", range(4))
def test_whenever_weights_are_swapped_and_whatever_goes_wrong_the_journal_gives_the_same_bytes(seed: int) -> None:
    Restless.chance = random.Random(seed)
    settings, lives = config(), iter(range(1_000_000))
    world = World(
        filled_log(messages(seed % 4, 120), 2, settings),
        settings,
        seed=seed,
        members=1 + seed % 2,
        faults=lambda name: Trouble(seed * 991 + next(lives), 0.05, KINDS) if next(lives) < 40 else None,
        vault=FakeVault(seed) if seed % 3 else None,
        forecast=Restless,
    ).run()
    told = [each for p in range(2) for each in bookmark_of(world, Partition("nowcart.activity", p))[1].told]
    assert told
    assert world.output("demand") == replayed(world, Restless(settings, Silent()))
    versions = {
        version for values in world.output("demand").values() for value in values for version in VERSIONS if version in (value or b"")
    }
    assert len(versions) > 1


VERSIONS = [f'"model_version":"{name}"'.encode() for name in ("v1", "v2", "v3", "builtin-1")]


def test_a_swap_counts_from_its_event_time_and_every_record_names_its_version() -> None:
    settings = config()
    world = World(filled_log(messages(0, 60), 1, settings), settings, forecast=schedules.SwappingForecast).run()
    seen = defaultdict(set)
    for values in world.output("demand").values():
        for record in map(json.loads, filter(None, values)):
            if record["bucket"] == "15m" and not record.get("corrects"):
                seen[record["model_version"]].add((record["issued_at_ms"] - BASE) // MINUTE)
    assert seen["builtin-1"]
    assert max(seen["builtin-1"]) <= 15 < 30 <= min(seen["v2"], default=30)
    assert {"v1", "v2"} <= seen.keys()


def test_a_journal_that_no_longer_reaches_back_is_said_and_ends_the_start() -> None:
    class Fickle(PlannedForecast):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            light = tuple(replace(r, demand=replace(r.demand, experts=EXPERTS)) for r in self.spec.resolutions)
            self.spec = replace(self.spec, resolutions=light)
            shelf = Shelf(light[0].demand, random.Random(1))
            self.plan = tuple(Order("15m", f"v{n}", 0) for n in range(40))
            shelf.known = {f"v{n}": replace(shelf.known["v1"], version=f"v{n}") for n in range(40)}
            self.room = shelf

    settings = config()
    log = filled_log(messages(1, 60), 1, settings)
    vault = FakeVault(0, trouble=0.0, interval_s=0.001)
    world = World(log, settings, forecast=Fickle, vault=vault).run()
    activity = Partition("nowcart.activity", 0)
    bookmark = bookmark_of(world, activity)[1]
    assert (bookmark.told_before, len(bookmark.told)) == (8, 32)
    log.append("shop.orders", [b'{"at": %d, "sku": "item1", "n": 1}' % (BASE + 200 * MINUTE)], keys=[b"o"])
    assert isinstance(World(log, settings, seed=1, forecast=Fickle, vault=vault).run().loops["forecast-0"], Loop)
    vault.kept["forecast", activity] = vault.kept["forecast", Partition("nowcart.activity", 1)] = []
    with pytest.raises(UserError, match="was told of 40 models"):
        World(log, settings, seed=2, forecast=Fickle, vault=vault).run()


def test_a_process_without_a_store_of_models_refuses_what_was_run_with_some() -> None:
    settings = config()
    log = filled_log(messages(1, 60), 1, settings)
    World(log, settings, forecast=schedules.SwappingForecast).run()
    with pytest.raises(UserError, match="has run with the models v1, v2, v3"):
        World(log, settings, seed=1).run()
