"""The loop of both stages over the log in memory: whatever goes wrong, what is published is what the undisturbed run publishes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from stream.config import UserError
from stream.engine.activity import decode_block
from stream.kafka.log import Partition
from stream.kafka.memory import STEPS, Crash, MemoryMember
from stream.runners.loop import Loop
from tests.runners.harness import World, config, filled_log, messages

TOPICS = ("intent", "demand", "spikes")


class Trouble:
    """Faults at random places, each life with a budget, so that every schedule ends."""

    def __init__(self, seed: int, share: float, kinds: tuple[str, ...]) -> None:
        self.chance = random.Random(seed)
        self.share, self.kinds, self.left = share, kinds, 6

    def on(self, member: MemoryMember, step: str) -> str | None:
        if self.left <= 0 or self.chance.random() > self.share:
            return None
        kind = self.chance.choice(self.kinds)
        if step == "fetch":
            if kind == "crash":
                self.left -= 1
                raise Crash
            return "away" if kind == "away" else None
        fits = {"away": False, "unknown_committed": step in ("commit", "done"), "crash": True}
        if not fits.get(kind, step != "done"):
            return None
        self.left -= 1
        if kind == "crash":
            raise Crash
        return kind


def undisturbed(seed: int, partitions: int) -> World:
    settings = config()
    return World(filled_log(messages(seed), partitions, settings), settings).run()


@pytest.mark.parametrize("seed", range(6))
def test_cuts_and_members_change_nothing(seed: int) -> None:
    settings = config()
    truth = undisturbed(seed, 2)
    assert truth.output("demand")
    assert truth.output("intent")
    for members in (1, 2):
        world = World(filled_log(messages(seed), 2, settings), settings, seed=seed, members=members).run()
        for topic in TOPICS:
            assert world.output(topic) == truth.output(topic), topic
        assert sorted(map(str, world.output("deadletter").items())) == sorted(map(str, truth.output("deadletter").items()))


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_lost_or_doubled_by_aborts_doubts_and_crashes(seed: int) -> None:
    settings = config()
    truth = undisturbed(seed % 4, 2)
    kinds = ("abort", "unknown_committed", "unknown_aborted", "crash", "away")
    lives = iter(range(1_000_000))
    world = World(
        filled_log(messages(seed % 4), 2, settings),
        settings,
        seed=seed,
        members=1 + seed % 2,
        faults=lambda name: Trouble(seed * 1_000 + next(lives), 0.08 if next(lives) < 40 else 0.0, kinds),
    ).run()
    for topic in TOPICS:
        assert world.output(topic) == truth.output(topic), (topic, seed)
    assert world.observer.counts["commit:aborted"] + world.observer.counts["commit:unknown"] + world.crashes > 0


def test_steps_where_faults_may_strike_are_all_struck() -> None:
    assert set(STEPS) == {"begin", "produce", "offsets", "commit", "done"}


def test_dead_letters_keep_their_bytes_and_say_why() -> None:
    world = undisturbed(1, 1)
    log = world.log
    letters = log.visible(Partition("nowcart.deadletter", 0))
    source = {e.offset: e for e in log.visible(Partition("shop.events", 0))}
    assert letters
    for letter in letters:
        headers = dict(letter.headers)
        if headers["nowcart-topic"] == b"shop.events":
            assert letter.value == source[int(headers["nowcart-offset"])].value
    assert {dict(e.headers)["nowcart-reason"] for e in letters} >= {b"malformed", b"missing_field", b"bad_time", b"too_late"}


def test_a_log_that_no_longer_reaches_back_is_refused() -> None:
    settings = config()
    world = undisturbed(1, 1)
    world.log.delete_records(Partition("shop.events", 0), 5)
    with pytest.raises(UserError, match=r"must reach back to offset 0.*starts at 5"):
        World(world.log, settings, seed=9).run()


def test_more_data_after_an_end_goes_on_from_there() -> None:
    """Two runs until the end, one after the other, publish each event once and count it once."""
    settings = config()
    shop = messages(2)
    log = filled_log({topic: rows[: len(rows) // 2] for topic, rows in shop.items()}, 1, settings)
    World(log, settings).run()
    for topic, rows in shop.items():
        for key, value in rows[len(rows) // 2 :]:
            log.append(topic, [value], keys=[key.encode()])
    world = World(log, settings, seed=3).run()
    positions = {p.topic: at.offset for p, at in log.group("nowcart.ingest").positions.items()}
    assert positions["shop.events"] == len(shop["shop.events"])
    assert world.output("demand")


def test_a_running_engine_marks_silence_and_goes_on_when_data_comes() -> None:
    settings = config()
    shop = messages(3)
    log = filled_log({topic: rows[:100] for topic, rows in shop.items()}, 1, settings)
    world = World(log, settings, until_end=False)

    def settle() -> None:
        for _ in range(60):
            for name in world.loops:
                world.turn(name)
            world.now += 1.0

    settle()
    before = len(log.visible(Partition("nowcart.activity", 0)))
    settle()
    assert len(log.visible(Partition("nowcart.activity", 0))) == before, "idleness is said once"
    for key, value in shop["shop.events"][100:]:
        log.append("shop.events", [value], keys=[key.encode()])
    settle()
    assert len(log.visible(Partition("nowcart.activity", 0))) > before
    assert log.group("nowcart.ingest").positions[Partition("shop.events", 0)].offset == len(shop["shop.events"])


@pytest.mark.parametrize("seed", range(12))
def test_large_steps_are_published_in_slices_that_survive_crashes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny limits cut every step into slices of one transaction each; a restart goes on behind the last one that was published."""
    settings = config()
    truth = undisturbed(seed % 3, 2)
    monkeypatch.setattr("stream.runners.loop.SLICE_BYTES", 700)
    monkeypatch.setattr("stream.runners.loop.TRANSACTION_BYTES", 900)
    cursors = []
    piece = Loop._piece

    def noted(self: Loop, *args: Any) -> Any:
        cursors.extend([args[3]] if args[3] is not None else [])
        return piece(self, *args)

    monkeypatch.setattr(Loop, "_piece", noted)
    lives = iter(range(1_000_000))
    log = filled_log(messages(seed % 3), 2, settings)
    world = World(
        log,
        settings,
        seed=seed,
        members=1 + seed % 2,
        faults=lambda name: Trouble(seed * 77 + next(lives), 0.03, ("crash", "abort", "unknown_aborted")) if next(lives) < 60 else None,
    ).run()
    for topic in TOPICS:
        assert world.output(topic) == truth.output(topic), (topic, seed)
    assert cursors, "nothing was cut"


def test_a_zombie_that_wakes_after_its_group_has_given_it_up_publishes_nothing_not_even_that_it_is_idle() -> None:
    settings = config()
    world = World(filled_log(messages(3, 60), 2, settings), settings, members=2, until_end=False)
    ingest = [name for name in world.loops if name.startswith("ingest")]
    for _ in range(400):
        for name in ingest:
            world.turn(name)
    zombie, other = (world.loops[name] for name in ingest)
    mine = [partition for partition in zombie.owned if zombie.owned[partition].shard.holds]
    last = world.log.visible(mine[0])[-1]

    def heard() -> None:
        world.log.append(mine[0].topic, [last.value], keys=[last.key], partition=mine[0].partition)

    heard()
    for _ in range(5):
        world.turn(ingest[0])
    assert not zombie.owned[mine[0]].bookmark.idle
    assert isinstance(zombie.member, MemoryMember)
    world.log.evict(zombie.member)
    for _ in range(50):
        world.turn(ingest[1])
    assert set(mine) <= set(other.owned)
    heard()
    for _ in range(20):
        world.turn(ingest[1])
    assert not other.owned[mine[0]].bookmark.idle
    activity = [Partition("nowcart.activity", number) for number in range(2)]

    def written() -> list[int]:
        return [len(world.log.visible(partition)) for partition in activity]

    before = written()
    world.now += 3_600.0  # by its own clock all of its partitions have been silent for long
    world.turn(ingest[0])
    assert written() == before
    for _ in range(20):
        world.turn(ingest[0])
        world.turn(ingest[1])
        world.now += 10.0
    later = [decode_block(entry.value or b"") for p, count in zip(activity, before, strict=True) for entry in world.log.visible(p)[count:]]
    assert any(block.kind == "idle" for block in later)  # whoever owns them says so, in the end
