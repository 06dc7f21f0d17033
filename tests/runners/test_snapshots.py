"""Snapshots in the loop: taken at committed positions, whatever goes wrong; restored to the byte; refused where they must be."""

from __future__ import annotations

import pytest

from stream.config import UserError
from stream.kafka.log import Partition, Position
from stream.runners.keeping import Keeper
from tests.runners.harness import FakeVault, World, config, filled_log, messages
from tests.runners.test_loop import TOPICS, Trouble, undisturbed

KINDS = ("abort", "unknown_committed", "unknown_aborted", "crash", "crash", "away")


@pytest.mark.parametrize("seed", range(30))
def test_restarts_from_snapshots_publish_what_the_undisturbed_run_does(seed: int) -> None:
    settings = config()
    truth = undisturbed(seed % 4, 2)
    vault = FakeVault(seed)
    lives = iter(range(1_000_000))
    world = World(
        filled_log(messages(seed % 4), 2, settings),
        settings,
        seed=seed,
        members=1 + seed % 2,
        faults=lambda name: Trouble(seed * 991 + next(lives), 0.08, KINDS) if next(lives) < 60 else None,
        vault=vault,
    ).run()
    for topic in TOPICS:
        assert world.output(topic) == truth.output(topic), (topic, seed)
    assert world.crashes == 0 or vault.loaded > 0 or not vault.kept


def test_a_log_cut_behind_the_snapshots_is_enough_and_one_cut_further_is_refused() -> None:
    settings = config()
    shop = messages(5)
    half = {topic: rows[: len(rows) // 2] for topic, rows in shop.items()}
    log = filled_log(half, 1, settings)
    vault = FakeVault(0, trouble=0.0, interval_s=0.001)
    World(log, settings, vault=vault).run()
    for topic, rows in shop.items():
        for key, value in rows[len(rows) // 2 :]:
            log.append(topic, [value], keys=[key.encode()])
    clicks = Partition("shop.events", 0)
    newest = vault.kept["ingest", clicks][-1].offset
    log.delete_records(clicks, newest)
    world = World(log, settings, seed=1, vault=vault).run()
    assert vault.loaded > 0
    assert world.output("demand")

    vault.kept["ingest", clicks] = []
    log.delete_records(clicks, newest + 1)
    with pytest.raises(UserError, match="no intact snapshot is newer"):
        World(log, settings, seed=2, vault=vault).run()


def test_snapshots_without_committed_offsets_are_refused() -> None:
    settings = config()
    log = filled_log(messages(5, 50), 1, settings)
    vault = FakeVault(0, trouble=0.0, interval_s=0.001)
    World(log, settings, vault=vault).run()
    fresh = filled_log(messages(5, 50), 1, settings)
    with pytest.raises(UserError, match="has no committed offset"):
        World(fresh, settings, vault=vault).run()


@pytest.mark.parametrize(("seconds", "due"), [(0.0, False), (0.9, False), (2.0, True), (30.0, True)])
def test_after_a_long_restore_the_next_snapshot_is_not_waited_for(seconds: float, due: bool) -> None:
    """Or a process that dies more often than snapshots are taken would replay more of the log in each of its lives."""
    now = 1000.0
    keeper = Keeper(FakeVault(0, trouble=0.0, interval_s=60.0), "ingest", lambda: now)
    where = Partition("shop.events", 0)
    keeper.began(where, seconds)
    assert keeper.due(where, Position(7, "committed")) is due
    now += 60.0
    assert keeper.due(where, Position(7, "committed"))
