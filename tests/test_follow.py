"""The trainer that goes on: trains, tests against the champion on live forecasts, promotes, rolls back, and begins where it was after a kill."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from models.demand.network import Shape
from models.train.learning import Options
from models.train.recorder import Recorder
from stream.config import Config
from stream.state.artefacts import Announcement, Artefacts, digest
from stream.train.course import deepened, most, survey
from stream.train.follow import Follower, Note, StoreNotes
from stream.train.run import Plan
from tests.train_shop import DAY_MS, LightHistory, light_history, sales, settings, spoilt

PLAN = Plan(options=Options(pretrain="never", epochs=6), shape=Shape(hidden=32, step=32))


class Told:
    """A follower over a history, without Kafka."""

    def __init__(self, history: LightHistory, shop: Config, announced: list[Announcement]) -> None:
        self.said: list[Announcement] = []
        self.artefacts = Artefacts(shop.state.url, "nowcart.")
        spec = deepened(history.spec)
        layout = survey(history, lambda what, share: None)["1d"].layout(spec.resolutions[0].demand)
        self.follower = Follower(
            shop,
            PLAN,
            30 * DAY_MS,
            spec,
            lambda: {"1d": Recorder(layout, most(layout), skip=7)},
            1,
            self.artefacts,
            StoreNotes(self.artefacts),
            self.said.append,
        )
        for announcement in announced:
            self.follower.hear(announcement)
        self.blocks = list(history.blocks(0))

    def go(self, start: int, end: int, began_at: int) -> None:
        """Takes the blocks one by one, as they come live once all that stood in the topic has been read."""
        for number, (at, block) in enumerate(self.blocks[start:end], start=start):
            self.follower.queue(0, at, block)
            self.follower.advance({0}, began=number >= began_at)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> LightHistory:
    path = tmp_path_factory.mktemp("sales")
    return light_history(settings(path), sales(path / "sales.csv", days=200, items=24))


def test_a_challenger_is_promoted_when_it_has_proved_better_and_survives_a_kill(history: LightHistory, tmp_path: Path) -> None:
    shop = settings(tmp_path)
    one = Told(history, shop, [])
    one.go(0, 92, began_at=90)
    challenger = one.follower.sizes["1d"].challenger
    assert challenger
    assert not one.said  # nothing was proved yet
    assert StoreNotes(one.artefacts).read() == {"1d": Note(challenger, "")}

    # kill -9: another process knows the topic and the notes, and tests the same challenger from where its training data end.
    two = Told(history, shop, [])
    two.go(0, len(two.blocks), began_at=400)
    (first, *_) = two.said
    assert first.version == challenger
    assert first.why.startswith("promoted: ")
    card, _ = two.artefacts.read(challenger)
    assert card.data.until_ms < first.from_ms
    state = two.follower.sizes["1d"]
    assert state.orders[0] == (first.from_ms, challenger)
    assert state.former in ("builtin-1", "", *(version for _, version in state.orders[:-1]))
    one.go(92, len(one.blocks), began_at=90)
    assert [(said.version, said.from_ms) for said in one.said[:1]] == [(first.version, first.from_ms)]


def test_a_champion_that_has_become_worse_gives_way_to_the_one_before(history: LightHistory, tmp_path: Path) -> None:
    shop = settings(tmp_path)
    one = Told(history, shop, [])
    one.go(0, 91, began_at=90)
    good = one.follower.sizes["1d"].challenger
    card, arrays = one.artefacts.read(good)
    # Somebody announces weights by hand that say nonsense.
    arrays = spoilt(arrays)
    sha256, size = digest(arrays)
    bad = Artefacts.write(one.artefacts, msgspec.structs.replace(card, version="demand-1d-bad", sha256=sha256, bytes=size), arrays)
    first = one.artefacts.announcement(good, "by hand")
    Path(tmp_path / "nowcart." / "models" / "trainer.json").write_bytes(b'{"1d": {"challenger": "", "former": "%s"}}' % good.encode())
    two = Told(history, shop, [first, msgspec.structs.replace(bad, from_ms=card.data.until_ms + 5 * DAY_MS)])
    two.go(0, 150, began_at=400)
    assert [(said.version, said.why.split(":")[0]) for said in two.said] == [(good, "rolled back")]


def test_a_hopeless_challenger_is_let_go(history: LightHistory, tmp_path: Path) -> None:
    shop = settings(tmp_path)
    one = Told(history, shop, [])
    one.go(0, 91, began_at=90)
    card, arrays = one.artefacts.read(one.follower.sizes["1d"].challenger)
    arrays = spoilt(arrays)
    sha256, size = digest(arrays)
    one.artefacts.write(msgspec.structs.replace(card, version="demand-1d-bad", sha256=sha256, bytes=size), arrays)
    StoreNotes(one.artefacts).write({"1d": Note("demand-1d-bad", "")})
    two = Told(history, shop, [])
    two.go(0, 125, began_at=400)
    assert not two.said
    assert StoreNotes(two.artefacts).read() == {"1d": Note("", "")}
