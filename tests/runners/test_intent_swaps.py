"""Trained weights of the intent model are swapped while the engine runs: the journal gives the same bytes, whatever goes wrong."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from models.intent.weights import EMBEDDED, INNER, WIDTH, drawn
from models.train.card import Card, Data
from stream.config import UserError
from stream.engine.features import FEATURES
from stream.kafka.log import Partition
from stream.kafka.memory import MemoryMember
from stream.runners.ingest import IngestStage, IngestWork
from stream.runners.loop import _decode
from stream.runners.weights import INTENT, IntentLibrary, Order, TrainedIntent
from stream.state.artefacts import Announcement, Artefacts, ArtefactUnusable, digest
from tests.runners.harness import FakeVault, Silent, World, config, filled_log, messages
from tests.runners.test_loop import Trouble
from tests.runners.test_swaps import KINDS

NAMES = ("i1", "i2", "builtin-2")


def trained(version: str, features: int = FEATURES) -> TrainedIntent:
    weights = drawn(features, version)
    weights.heads[:, 0] = 1.0 + len(version) + int(version[-1])
    sha256, size = digest(weights.arrays())
    card = Card(
        model="intent",
        version=version,
        size=INTENT,
        horizon=0,
        levels=(),
        layout={},
        shape={"width": WIDTH, "inner": INNER, "embedded": EMBEDDED},
        data=Data(source="a test", first_ms=0, until_ms=0, examples=1, items=1),
        metrics={},
        recipe={},
        seed=0,
        checksum="",
        versions={},
        sha256=sha256,
        bytes=size,
    )
    return TrainedIntent(card, weights)


class Shelf:
    """Has everything, though now and then not yet; its orders change at any moment, forward and back."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.known = {name: trained(name) for name in NAMES[:2]}
        self.newest: Order | None = None

    def order(self, size: str) -> Order | None:
        assert size == INTENT
        if self.chance.random() < 0.05:
            self.newest = Order(size, self.chance.choice(NAMES))
        return self.newest

    def ready(self, versions: Iterable[str]) -> bool:
        assert set(versions) <= set(NAMES[:2])
        return self.chance.random() < 0.7

    def get(self, version: str) -> TrainedIntent:
        return self.known[version]


class Restless(IngestStage):
    """Takes whatever is on such a shelf."""

    chance = random.Random(0)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.room = Shelf(self.chance)


def replayed(world: World, stage: IngestStage) -> dict[bytes | None, list[bytes | None]]:
    """The intent records that the clickstream and the journals give, from the beginning, in one go."""
    found: dict[bytes | None, list[bytes | None]] = defaultdict(list)
    for number in range(world.counts["shop.events"]):
        partition = Partition("shop.events", number)
        position = world.log.group("nowcart.ingest").positions[partition]
        work, told = stage.open(partition), list(_decode(position.metadata).told)
        assert isinstance(work, IngestWork)
        outputs = []
        for batch in MemoryMember(world.log, "readers", "reader").read(partition, 0, position.offset, 1):
            while told and told[0].offset <= batch.offsets[0]:
                work.tell(told.pop(0).text)
            work.accept(batch)
            while work.waiting:
                outputs += [records for output in work.step(np.iinfo(np.int64).max, 1).outputs for records in output]
        for each in (each for each in told if each.ends == 0):  # behind the last message, before the end
            work.tell(each.text)
        outputs += work.finish()
        for records in (records for records in outputs if records.topic == stage.intent_topic):
            for key, value in zip(records.keys, records.values, strict=True):
                found[key].append(value)
    return dict(found)


@pytest.mark.parametrize("seed", range(3))
def test_whenever_weights_are_swapped_the_journal_gives_the_same_bytes(seed: int) -> None:
    Restless.chance = random.Random(seed)
    settings, lives = config(), iter(range(1_000_000))
    world = World(
        filled_log(messages(seed, 120), 2, settings),
        settings,
        seed=seed,
        members=1 + seed % 2,
        faults=lambda name: Trouble(seed * 991 + next(lives), 0.05, KINDS) if next(lives) < 40 else None,
        vault=FakeVault(seed) if seed % 3 else None,
        ingest=Restless,
    ).run()
    assert world.output("intent") == replayed(world, Restless(settings, world.counts, Silent()))
    said = b"".join(value or b"" for values in world.output("intent").values() for value in values)
    assert sum(f'"model_version":"{name}"'.encode() in said for name in NAMES) > 1


def test_a_process_without_a_store_of_models_refuses_what_was_run_with_some() -> None:
    Restless.chance = random.Random(1)
    settings = config()
    log = filled_log(messages(1, 60), 1, settings)
    world = World(log, settings, ingest=Restless).run()
    assert any("i1" in str(p.metadata) or "i2" in str(p.metadata) for p in world.log.group("nowcart.ingest").positions.values())
    with pytest.raises(UserError, match="has run with the models"):
        World(log, settings, seed=1, ingest=IngestStage).run()


def test_what_does_not_fit_is_said(tmp_path: Any) -> None:
    store = Artefacts(f"file:{tmp_path}", "shop")
    library = IntentLibrary(store, FEATURES)
    good, other = trained("i1"), trained("i2", FEATURES - 1)
    for each in (good, other):
        store.write(each.card, each.weights.arrays())
    heard = library.hear(store.announcement("i1"))
    assert heard is not None
    heard.result(10)
    assert library.order(INTENT) == Order(INTENT, "i1")
    assert library.get("i1").weights.heads.tobytes() == good.weights.heads.tobytes()
    with pytest.raises(ArtefactUnusable, match=f"{FEATURES} features .* it is for {FEATURES - 1}: train it anew"):
        library.get("i2")
    assert library.hear(Announcement(model="demand", version="d", size="1h")) is None
    library.close()
