"""The background thread: one snapshot at a time, and nothing that the store does reaches the engine."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from stream.kafka.log import Position
from stream.state.manifest import Key
from stream.state.store import State, Store
from stream.state.writer import Job, SnapshotWriter
from tests.state.faulty import Faults, FaultyBucket
from tests.state.states import same

KEY = Key("forecast", "nowcart.activity", 0)
OTHER = Key("forecast", "nowcart.activity", 1)


class Desk:
    """A writer with a store that a test makes slow or broken, and a clock that it moves."""

    def __init__(self) -> None:
        self.faults, self.now = Faults(), 100.0
        self.filesystem = FaultyBucket(self.faults)
        self.store = self.open()
        self.taken: list[tuple[Key, float]] = []
        self.ages: dict[Key, float] = {}
        self.writer = SnapshotWriter(
            self.store,
            keep=2,
            taken=lambda key, seconds: self.taken.append((key, seconds)),
            age=self.ages.__setitem__,
            monotonic=lambda: self.now,
        )

    def open(self) -> Store:
        return Store("memory://bucket", "n.", filesystem=self.filesystem)

    def offer(self, offset: int, key: Key = KEY, urgent: bool = True, **more: Any) -> bool:
        return self.writer.offer(Job(key, Position(offset), "c", state_of(offset)), urgent=urgent, **more)


def state_of(offset: int) -> State:
    return {"a": np.full((1_000, 20), offset)}


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.faults.waits = lambda path: None
    assert desk.writer.close(timeout_s=60)


def test_what_is_offered_is_written_and_what_is_old_is_pruned(desk: Desk) -> None:
    for offset in range(1, 5):
        assert desk.offer(offset)
        assert desk.writer.wait(60)
    found = desk.open().newest(KEY.stage, KEY.topic, KEY.partition)
    assert found is not None and found[0].offset == 4 and same(found[1], state_of(4))
    assert [snapshot.offset for snapshot in desk.open().list()] == [4, 3]
    assert desk.writer.written == 4 and desk.writer.failed == 0
    assert [key for key, _ in desk.taken] == [KEY] * 4


def test_a_slow_store_holds_nobody_up(desk: Desk) -> None:
    gate, waiting = threading.Event(), threading.Event()

    def hold(_: str) -> None:
        waiting.set()
        assert gate.wait(60)

    desk.faults.waits = hold
    assert desk.offer(1)
    assert waiting.wait(60)
    assert not desk.writer.idle
    assert not desk.offer(2) and not desk.offer(3, OTHER)
    desk.now += 7
    desk.writer.observe()
    assert desk.ages == {KEY: 7}
    assert not desk.writer.wait(0) and not desk.writer.close(wait=False)
    gate.set()
    assert desk.writer.close(timeout_s=60)
    assert not desk.offer(4)
    assert [snapshot.offset for snapshot in desk.open().list()] == [1]
    assert desk.taken == [(KEY, 7.0)]


def test_failures_are_counted_and_logged_and_the_next_one_is_written(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.faults.fails_on = "parts"
    with caplog.at_level(logging.WARNING):
        assert desk.offer(1) and desk.writer.wait(60)
        assert desk.writer.offer(Job(KEY, Position(2), "c", {"names": np.array([None])}), urgent=True) and desk.writer.wait(60)
    assert desk.writer.failed == 2 and desk.writer.written == 0 and desk.taken == []
    assert "no snapshot at offset 1: the state store memory://bucket must answer" in caplog.text
    assert "no snapshot at offset 2: state may hold" in caplog.text
    desk.faults.fails_on = ""
    assert desk.offer(3) and desk.writer.wait(60)
    assert desk.writer.written == 1 and [snapshot.offset for snapshot in desk.open().list()] == [3]


def test_what_cannot_be_pruned_is_no_failed_snapshot(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> None:
        raise OSError("no deleting today")

    desk.filesystem.rm_file = broken  # type: ignore[method-assign, assignment]
    for offset in range(1, 5):
        assert desk.offer(offset) and desk.writer.wait(60)
    assert desk.writer.written == 4 and desk.writer.failed == 0
    assert "old snapshots could not be deleted" in caplog.text


def test_the_age_counts_from_the_last_snapshot_that_was_written(desk: Desk) -> None:
    assert desk.offer(1) and desk.writer.wait(60)
    desk.now += 30
    desk.faults.fails_on = "manifests"
    assert desk.offer(2) and desk.writer.wait(60)
    desk.writer.observe()
    assert desk.ages == {KEY: 30}
    desk.faults.fails_on = ""
    assert desk.offer(3) and desk.writer.wait(60)
    desk.now += 5
    desk.writer.observe()
    assert desk.ages == {KEY: 5}
    desk.writer.forget(KEY)
    desk.ages.clear()
    desk.writer.observe()
    assert desk.ages == {}


def test_snapshots_take_no_more_than_their_share(desk: Desk) -> None:
    assert desk.offer(1) and desk.writer.wait(60)
    cost = desk.store.cpu_seconds
    assert cost > 0
    desk.now += 0.9 * cost / desk.writer.share
    busy = not desk.writer.idle
    assert busy and not desk.offer(2, urgent=False)
    desk.now += 0.2 * cost / desk.writer.share
    idle = desk.writer.idle
    assert idle and desk.offer(2, urgent=False) and desk.writer.wait(60)
    assert desk.offer(3, urgent=True) and desk.writer.wait(60)  # a partition that moves does not wait
