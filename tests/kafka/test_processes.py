"""Several processes in one group: killed, stopped, back again; every message is copied once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from stream.kafka.log import Outcome, Partition, Position
from stream.kafka.reader import Tail
from tests.kafka.conftest import PATIENCE_S, BrokerCluster, Reading, unique, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)


class Copier:
    """A running copier.py, and what it has said."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.kafka.copier", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def said(self, start: str) -> bool:
        return any(line.startswith(start) for line in self.lines)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        self._thread.join(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


def wait_for(condition: Callable[[], bool], *copiers: Copier) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        time.sleep(0.01)
        if time.monotonic() > deadline:
            pytest.fail(f"it did not become so; said: {[copier.lines[-15:] for copier in copiers]}")


def copied(cluster: BrokerCluster, out: str, count: int) -> list[bytes | None]:
    """What is in the output once it holds `count` messages, and a moment later."""
    values: list[bytes | None] = []
    deadline = time.monotonic() + PATIENCE_S
    with Tail(cluster.properties, [out]) as tail:
        while len(values) < count and time.monotonic() < deadline:
            values += [v for batch in tail.fetch(1000, 0.05).batches for v in batch.values]
        values += [v for batch in tail.fetch(1000, 0.3).batches for v in batch.values]
    return values


def messages(cluster: BrokerCluster, topic: str, first: int, count: int) -> None:
    names: list[bytes | None] = [b"%d" % n for n in range(first, first + count)]
    cluster.send(topic, names, keys=names)


@pytest.mark.kafka
@pytest.mark.parametrize("assignment", ["range", "cooperative-sticky"])  # KIP-848 gives a dead member's partitions up after 45 s only
def test_a_killed_process_comes_back_and_nothing_is_lost_or_twice(kafka_cluster: BrokerCluster, root: Path, assignment: str) -> None:
    cluster, group = kafka_cluster, unique("group")
    source, out = cluster.create(4), cluster.create(4)
    shared = (cluster.properties["bootstrap.servers"], group)
    rest = (source, out, assignment, "static")
    messages(cluster, source, 0, 1500)
    with ExitStack() as stack:
        one = stack.enter_context(Copier(root, *shared, "one", *rest))
        two = stack.enter_context(Copier(root, *shared, "two", *rest))
        # Whichever came first may have copied all there was; once the other has its share too, both have something to do.
        wait_for(lambda: one.said("assigned") and two.said("assigned"), one, two)
        messages(cluster, source, 1500, 1500)
        wait_for(lambda: two.said("committed"), one, two)
        two.process.kill()
        messages(cluster, source, 3000, 500)
        back = stack.enter_context(Copier(root, *shared, "two", *rest))
        got = copied(cluster, out, 3500)
        assert Counter(got) == Counter(b"%d" % n for n in range(3500))
        wait_for(lambda: back.said("assigned"), one, back)
        for copier in (one, back):
            copier.process.send_signal(signal.SIGTERM)
        for copier in (one, back):
            assert copier.process.wait(20) == 0, copier.lines


@pytest.mark.parametrize("static", ["static", "dynamic"])
@pytest.mark.parametrize("broker", ["embedded", pytest.param("real_kafka", marks=pytest.mark.kafka)])
def test_a_process_that_stops_hands_over_at_once(request: pytest.FixtureRequest, root: Path, broker: str, static: str) -> None:
    cluster = BrokerCluster(broker, request.getfixturevalue(broker))
    source, out, group = cluster.create(4), cluster.create(4), unique("group")
    arguments = (cluster.properties["bootstrap.servers"], group)
    with ExitStack() as stack:
        one = stack.enter_context(Copier(root, *arguments, "one", source, out, "range", static))
        wait_for(lambda: one.said("assigned 0 1 2 3"), one)
        two = stack.enter_context(Copier(root, *arguments, "two", source, out, "range", static))
        wait_for(lambda: two.said("assigned"), one, two)
        messages(cluster, source, 0, 500)
        wait_for(lambda: two.said("committed"), one, two)
        before = len(one.lines)
        two.process.send_signal(signal.SIGTERM)
        assert two.process.wait(20) == 0, two.lines
        stopped = time.monotonic()
        wait_for(lambda: "assigned 0 1 2 3" in one.lines[before:], one, two)
        assert time.monotonic() - stopped < 30  # nobody waits for its session to time out: 45 s
        messages(cluster, source, 500, 500)
        assert Counter(copied(cluster, out, 1000)) == Counter(b"%d" % n for n in range(1000))


@pytest.mark.kafka
@pytest.mark.parametrize("assignment", ["cooperative-sticky", "kip848"])
def test_a_second_member_takes_only_what_it_gets(kafka_cluster: BrokerCluster, assignment: str) -> None:
    topic, group = kafka_cluster.create(4), unique("group")
    everything = {Partition(topic, n) for n in range(4)}
    first = Reading(kafka_cluster.member(group, assignment=assignment), [topic])
    until(lambda: first.told.owned == everything, first)
    second = Reading(kafka_cluster.member(group, assignment=assignment), [topic])
    until(lambda: len(first.told.owned) == 2 and len(second.told.owned) == 2, first, second)
    assert first.told.owned | second.told.owned == everything
    given_up = [p for kind, partitions in first.told.events if kind == "revoked" for p in partitions]
    assert set(given_up) == second.told.owned  # the others were never taken from it
    messages(kafka_cluster, topic, 0, 40)
    until(lambda: len(first.values) + len(second.values) == 40, first, second)
    second.member.close()
    until(lambda: first.told.owned == everything, first)
    messages(kafka_cluster, topic, 40, 40)
    first.forget()
    until(lambda: len(first.ends) == 4, first)
    for partition in everything:
        offsets = first.offsets(partition)
        assert offsets == sorted(set(offsets))


@pytest.mark.kafka
@pytest.mark.slow
def test_a_member_that_stood_still_is_refused_and_told(kafka_cluster: BrokerCluster) -> None:
    topic, out, group = kafka_cluster.create(2), kafka_cluster.create(1), unique("group")
    impatient = {**kafka_cluster.properties, "session.timeout.ms": 6000, "max.poll.interval.ms": 6000}
    still_cluster = BrokerCluster("kafka", kafka_cluster.properties["bootstrap.servers"])
    still_cluster.properties = impatient
    still = Reading(still_cluster.member(group), [topic])
    until(lambda: len(still.told.owned) == 2, still)
    successor = Reading(kafka_cluster.member(group), [topic])
    until(lambda: len(successor.told.owned) == 2, successor)  # the first does not fetch until the group gives it up
    stale = {Partition(topic, 0): Position(9, "stale")}
    assert still.member.transact([], stale) is Outcome.ABORTED
    assert successor.member.committed([Partition(topic, 0)]) == {Partition(topic, 0): None}
    # Which of the two it hears depends on whether the successor's coming or its own lateness was noticed first.
    until(lambda: any(kind in ("lost", "revoked") for kind, _ in still.told.events), still, successor)
    until(lambda: len(still.told.owned) == 1 and len(successor.told.owned) == 1, still, successor)
    mine = {p: Position(1, "") for p in still.told.owned}
    assert still.member.transact([], mine) is Outcome.COMMITTED
    assert kafka_cluster.visible(Partition(out, 0)) == []
    still_cluster.close_members()
