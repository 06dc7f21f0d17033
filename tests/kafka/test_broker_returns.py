"""A broker that was away and takes one member for two when it is back: the member joins anew, once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError

from stream.kafka.admin import Admin, Topic
from stream.kafka.client import KafkaMember
from stream.kafka.log import Displaced, Outcome, Partition, Position, Records, Start
from tests.kafka.conftest import unique, until
from tests.real_kafka import NO_SCRIPT, RealKafka, script

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


@pytest.fixture
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealKafka]:
    start = script()
    if start is None:
        pytest.skip(NO_SCRIPT)
    kafka = RealKafka(start, tmp_path_factory.mktemp("kafka"))
    try:
        yield kafka
    finally:
        kafka.stop()


class Owner:
    """A member that says what it has."""

    def __init__(self, kafka: RealKafka, topic: str, name: str) -> None:
        self.have: set[Partition] = set()
        self.member = KafkaMember({"bootstrap.servers": kafka.servers}, "group", name, name)
        self.member.subscribe([topic], self)

    def assigned(self, partitions: list[Partition]) -> dict[Partition, Start]:
        self.have |= set(partitions)
        return {p: Start(0) for p in partitions}

    def revoked(self, partitions: list[Partition]) -> None:
        self.have -= set(partitions)

    def lost(self, partitions: list[Partition]) -> None:
        self.have -= set(partitions)

    def has_all(self) -> bool:
        self.member.fetch(100, 0.05)
        return len(self.have) == 2

    def ends(self) -> None:
        """Reads until it is told that it has lost its place."""
        with pytest.raises(Displaced):
            until(lambda: self.member.fetch(100, 0.05) is None, seconds=60)


def test_a_fence_after_a_broker_was_away_is_forgiven_once(kafka: RealKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.kafka.client.TROUBLED_S", 600.0)  # a busy machine takes its time to bring a broker back
    topic, name = unique("topic"), unique("name")
    Admin({"bootstrap.servers": kafka.servers}).create([Topic(topic, 2)])
    first = Owner(kafka, topic, name)
    until(first.has_all, seconds=60)
    # As when a connection is refused, which librdkafka tells of at times of its own.
    first.member._errors.heard(KafkaError(KafkaError._TRANSPORT))
    second = Owner(kafka, topic, name)  # as the broker sees it: two requests to join under one name
    try:
        until(second.has_all, seconds=60)
        until(lambda: not first.has_all(), seconds=60)
        until(first.has_all, seconds=60)
        second.ends()
        until(lambda: first.member.transact([], {Partition(topic, 0): Position(0)}) is Outcome.COMMITTED, seconds=60)
        assert (
            first.member.transact([Records(topic, [None], [b"mine"], partition=0)], {Partition(topic, 0): Position(1)}) is Outcome.COMMITTED
        )
        third = Owner(kafka, topic, name)
        try:
            until(third.has_all, seconds=60)
            first.ends()
        finally:
            third.member.close()
    finally:
        second.member.close()
        first.member.close()
