"""A broker that dies or comes back and takes one member for two: the member joins anew, once."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from stream.kafka.client import KafkaMember
from stream.kafka.log import Displaced, Outcome, Partition, Position, Records
from tests.kafka.conftest import BrokerCluster, Reading, unique, until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


def has_all(reading: Reading) -> bool:
    reading.fetch()
    return len(reading.told.owned) == 2


def ends(reading: Reading) -> None:
    """Reads until it is told that it has lost its place."""
    with pytest.raises(Displaced):
        until(lambda: reading.fetch() is not None, seconds=60)  # type: ignore[func-returns-value]


def test_a_fence_after_a_broker_was_away_is_forgiven_once(kafka_cluster: BrokerCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.kafka.client.TROUBLED_S", 600.0)  # a busy machine takes its time
    topic, group, name = kafka_cluster.create(2), unique("group"), unique("name")

    def joins() -> Reading:
        return Reading(kafka_cluster.member(group, name, instance_id=name), [topic])

    first = joins()
    until(lambda: has_all(first), seconds=60)
    # As when a connection is refused, which librdkafka tells of at times of its own.
    assert isinstance(first.member, KafkaMember)
    first.member._errors.heard(KafkaError(KafkaError._TRANSPORT))
    second = joins()  # as the broker sees it: two requests to join under one name
    until(lambda: has_all(second), seconds=60)
    until(lambda: not has_all(first), seconds=60)
    until(lambda: has_all(first), seconds=60)
    ends(second)
    until(lambda: first.member.transact([], {Partition(topic, 0): Position(0)}) is Outcome.COMMITTED, seconds=60)
    mine = Records(topic, [None], [b"mine"], partition=0)
    assert first.member.transact([mine], {Partition(topic, 0): Position(1)}) is Outcome.COMMITTED
    third = joins()
    until(lambda: has_all(third), seconds=60)
    ends(first)
