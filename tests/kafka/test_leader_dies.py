"""What only a cluster of several brokers shows: a partition whose leader dies."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from stream.kafka.admin import Admin, Topic
from stream.kafka.client import KafkaMember
from stream.kafka.log import Partition, Start
from stream.kafka.sender import Sender
from tests.chaos.cluster import Cluster
from tests.kafka.conftest import unique, until
from tests.real_kafka import NO_SCRIPT, script

COUNT, FROM = 1000, 500
WAITS_S = 0.7
"""Longer than librdkafka waits before it asks again where a partition ends."""


@pytest.fixture(scope="module")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    start = script()
    if start is None:
        pytest.skip(NO_SCRIPT)
    cluster = Cluster(start, tmp_path_factory.mktemp("three"))
    try:
        yield cluster
    finally:
        cluster.stop()


class Waits:
    """Its partition stands at FROM until it is resumed; the leader dies while it is given."""

    def __init__(self, cluster: Cluster, leader: int) -> None:
        self.cluster, self.leader, self.given = cluster, leader, False

    def assigned(self, partitions: list[Partition]) -> dict[Partition, Start]:
        if not self.given:
            self.cluster.kill(self.leader)
        self.given = True
        return {p: Start(FROM, waits=True) for p in partitions}

    def revoked(self, partitions: list[Partition]) -> None: ...

    def lost(self, partitions: list[Partition]) -> None: ...


@pytest.mark.kafka
@pytest.mark.slow
def test_a_partition_that_waits_goes_on_where_it_stood_when_its_leader_died_meanwhile(three_nodes: Cluster) -> None:
    properties = {"bootstrap.servers": three_nodes.servers}
    where = Partition(unique("topic"), 0)
    Admin(properties).create([Topic(where.topic, 1)])
    sender = Sender({**properties, "acks": "all"})
    sender.send(where.topic, [b"%d" % i for i in range(COUNT)])
    sender.flush()
    until(three_nodes.whole)
    member = KafkaMember(properties, unique("group"), unique("member"))
    listener = Waits(three_nodes, three_nodes.leader(where))
    try:
        member.subscribe([where.topic], listener)
        until(lambda: not member.fetch(100, 0.05).batches and listener.given)
        resume_at = time.monotonic() + WAITS_S
        until(lambda: not member.fetch(100, 0.05).batches and time.monotonic() >= resume_at)
        member.resume_at({where: FROM})
        offsets: list[int] = []

        def fetched_all() -> bool:
            fetched = member.fetch(COUNT, 0.1)
            offsets.extend(offset for batch in fetched.batches for offset in batch.offsets)
            return bool(fetched.ends) or len(offsets) >= COUNT - FROM

        until(fetched_all)
        assert offsets == list(range(FROM, COUNT))
    finally:
        member.close()
        three_nodes.revive(listener.leader)
        until(three_nodes.whole, seconds=90)
