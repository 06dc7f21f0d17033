"""What only the log in memory can do: crash where a test says, evict, expire, cut at random."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.kafka.log import Fenced, LogError, OffsetGone, Outcome, Partition, Position, Records
from stream.kafka.memory import STEPS, Crash, MemoryLog, MemoryMember, random_cuts
from tests.kafka.conftest import Reading

SOURCE = Partition("in", 0)


class FailAt:
    """Does one thing at one step, once."""

    def __init__(self, step: str, what: str) -> None:
        self.step, self.what, self.armed = step, what, True

    def on(self, member: MemoryMember, step: str) -> str | None:
        if step != self.step or not self.armed:
            return None
        self.armed = False
        if self.what == "crash":
            raise Crash
        return self.what


def values(log: MemoryLog, topic: str = "out") -> list[bytes | None]:
    return [entry.value for entry in log.visible(Partition(topic, 0))]


def records(*wanted: bytes) -> list[Records]:
    return [Records("out", [None] * len(wanted), list(wanted), partition=0)]


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_leaves_all_or_nothing_to_whoever_comes_next(step: str) -> None:
    log = MemoryLog({"in": 1, "out": 1})
    member = MemoryMember(log, "g", "m", faults=FailAt(step, "crash"))
    with pytest.raises(Crash):
        member.transact(records(b"a", b"b"), {SOURCE: Position(5, "t")})
    hidden = MemoryMember(log, "g", "reader")
    log.append("out", [b"later"], partition=0)
    assert (b"later" in values(log)) == (step in ("begin", "produce", "done"))  # else it waits behind the open transaction
    again = MemoryMember(log, "g", "m")
    committed = hidden.committed([SOURCE])[SOURCE]
    if step == "done":
        assert values(log) == [b"a", b"b", b"later"]
        assert committed == Position(5, "t")
    else:
        assert values(log) == [b"later"]
        assert committed is None
    assert again.transact(records(b"c"), {SOURCE: Position(6)}) is Outcome.COMMITTED
    with pytest.raises(Fenced):
        member.transact(records(b"zombie"), {})


@pytest.mark.parametrize(
    ("step", "fault", "outcome", "committed"),
    [(s, "abort", Outcome.ABORTED, False) for s in STEPS[:-1]]
    + [(s, "unknown_aborted", Outcome.UNKNOWN, False) for s in STEPS[:-1]]
    + [(s, "unknown_committed", Outcome.UNKNOWN, True) for s in STEPS[-2:]],
)
def test_after_an_unknown_outcome_the_committed_position_tells(step: str, fault: str, outcome: Outcome, committed: bool) -> None:
    log = MemoryLog({"in": 1, "out": 1})
    member = MemoryMember(log, "g", "m", faults=FailAt(step, fault))
    assert member.transact(records(b"a"), {SOURCE: Position(5)}) is outcome
    if outcome is Outcome.UNKNOWN:
        with pytest.raises(LogError, match="renew"):
            member.transact(records(b"b"), {})
        member.renew()
    assert (member.committed([SOURCE])[SOURCE] == Position(5)) is committed
    assert values(log) == ([b"a"] if committed else [])
    assert member.transact(records(b"b"), {SOURCE: Position(6)}) is Outcome.COMMITTED
    assert values(log) == ([b"a", b"b"] if committed else [b"b"])


def test_an_open_transaction_hides_what_comes_after_it_until_it_expires() -> None:
    log = MemoryLog({"in": 1, "out": 1})
    dead = MemoryMember(log, "g", "dead", faults=FailAt("commit", "crash"))
    with pytest.raises(Crash):
        dead.transact(records(b"x"), {SOURCE: Position(1)})
    reading = Reading(MemoryMember(log, "g2", "r"), ["out"])
    log.append("out", [b"y"], partition=0)
    reading.fetch()
    assert reading.values == []
    assert reading.ends == {Partition("out", 0): 0}
    log.expire()
    reading.fetch()
    assert reading.values == [b"y"]
    assert reading.offsets(Partition("out", 0)) == [1]  # 0 was aborted, 2 is its marker
    assert reading.ends == {Partition("out", 0): 3}


def test_an_evicted_member_is_refused_told_and_taken_back() -> None:
    log = MemoryLog({"in": 2, "out": 1})
    a, b = MemoryMember(log, "g", "a"), MemoryMember(log, "g", "b")
    one, two = Reading(a, ["in"]), Reading(b, ["in"])
    for _ in range(3):
        one.fetch()
        two.fetch()
    mine = sorted(one.told.owned)
    log.evict(a)
    for _ in range(2):
        two.fetch()
    assert len(two.told.owned) == 2
    assert a.transact(records(b"stale"), {mine[0]: Position(1)}) is Outcome.ABORTED
    assert a.transact(records(b"not fenced"), {}) is Outcome.COMMITTED  # the trap: without offsets nothing is checked
    assert values(log) == [b"not fenced"]
    one.fetch()
    assert ("lost", mine) in one.told.events
    for _ in range(3):
        two.fetch()
        one.fetch()
    assert len(one.told.owned) == len(two.told.owned) == 1


def test_a_group_waits_for_a_member_that_does_not_fetch() -> None:
    log = MemoryLog({"in": 2})
    silent = Reading(MemoryMember(log, "g", "a"), ["in"])
    silent.fetch()
    waiting = Reading(MemoryMember(log, "g", "b"), ["in"])
    for _ in range(5):
        waiting.fetch()
    assert waiting.told.events == []
    silent.fetch()
    waiting.fetch()
    assert len(waiting.told.owned) == 1


def test_a_static_member_that_comes_back_takes_its_place_without_a_rebalance() -> None:
    log = MemoryLog({"in": 2})
    old = Reading(MemoryMember(log, "g", "p1", instance_id="i1"), ["in"])
    other = Reading(MemoryMember(log, "g", "p2", instance_id="i2"), ["in"])
    for _ in range(3):
        old.fetch()
        other.fetch()
    before = list(other.told.events)
    new = Reading(MemoryMember(log, "g", "p1", instance_id="i1"), ["in"])
    new.fetch()
    other.fetch()
    assert new.told.owned == old.told.owned
    assert other.told.events == before
    with pytest.raises(Fenced):
        old.fetch()


def test_a_broker_that_is_away_brings_nothing_and_says_so() -> None:
    log = MemoryLog({"in": 1})
    log.append("in", [b"x"], partition=0)
    reading = Reading(MemoryMember(log, "g", "a", faults=FailAt("fetch", "away")), ["in"])
    reading.fetch()
    seen = [(reading.member.reachable, list(reading.values))]
    reading.fetch()
    seen.append((reading.member.reachable, list(reading.values)))
    assert seen == [(False, []), (True, [b"x"])]


def test_what_was_truncated_is_gone() -> None:
    log = MemoryLog({"in": 1})
    log.append("in", [b"%d" % i for i in range(10)], partition=0)
    log.delete_records(SOURCE, 7)
    assert [entry.offset for entry in log.visible(SOURCE)] == [7, 8, 9]
    with pytest.raises(OffsetGone):
        Reading(MemoryMember(log, "g", "a"), ["in"]).fetch()


@given(st.integers(0, 2**32), st.lists(st.integers(0, 2), max_size=60), st.integers(1, 7))
def test_however_it_is_cut_and_shared_every_message_comes_once_and_in_order(seed: int, sends: list[int], most: int) -> None:
    log = MemoryLog({"in": 3})
    readings: list[Reading] = []
    seen: dict[Partition, list[int]] = {Partition("in", n): [] for n in range(3)}
    for turn, number in enumerate(sends):
        log.append("in", [b"%d" % turn], partition=number)
        if turn % 20 == 0 and len(readings) < 3:
            name = f"m{len(readings)}"
            readings.append(Reading(MemoryMember(log, "g", name, cut=random_cuts(seed + turn)), ["in"]))
        for reading in readings:
            take(reading, seen, most)
    for _ in range(400):
        for reading in readings:
            take(reading, seen, most)
    assert {p.partition: len(offsets) for p, offsets in seen.items()} == {n: Counter(sends)[n] for n in range(3)}
    for offsets in seen.values():
        assert offsets == list(range(len(offsets)))


def take(reading: Reading, seen: dict[Partition, list[int]], most: int) -> None:
    """Fetches, and commits what it got, so that whoever owns the partition next goes on there."""
    fetched = reading.member.fetch(most, 0)
    assert sum(len(batch) for batch in fetched.batches) <= most
    for batch in fetched.batches:
        seen[batch.partition] += batch.offsets
        reading.member.transact([], {batch.partition: Position(batch.offsets[-1] + 1)})
