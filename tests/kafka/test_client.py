"""What the clients of real brokers do beyond the suite: say what is wrong at the start, wait for a broker, send, follow, administer."""

from __future__ import annotations

import importlib.util
import random
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer

from stream.kafka.admin import Admin, Topic
from stream.kafka.client import KafkaMember
from stream.kafka.embedded import EmbeddedBroker
from stream.kafka.log import AccessDenied, LogError, Outcome, Partition, Position, Records, TopicMissing, Unreachable
from stream.kafka.reader import Tail, follow
from stream.kafka.sender import Sender
from tests.kafka.conftest import BrokerCluster, Reading, unique, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(params=["embedded", pytest.param("real_kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> BrokerCluster:
    return BrokerCluster(request.param, request.getfixturevalue(request.param))


@pytest.fixture
def nowhere() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize(
    "start",
    [
        lambda p: Admin(p).ping(1),
        lambda p: KafkaMember(p, "group", "name", start_timeout_s=1),
        lambda p: Sender(p, start_timeout_s=1),
        lambda p: Tail(p, ["topic"], start_timeout_s=1),
    ],
    ids=["admin", "member", "sender", "tail"],
)
def test_a_broker_that_is_not_there_is_named_soon(nowhere: str, start: Callable[[dict[str, Any]], object]) -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match=nowhere):
        start({"bootstrap.servers": nowhere})
    assert time.monotonic() - began < 10


@pytest.mark.kafka
def test_refused_credentials_are_no_missing_broker(kafka_cluster: BrokerCluster) -> None:
    wrong = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "shop", "sasl.password": "guess"}
    began = time.monotonic()
    with pytest.raises(AccessDenied, match=r"sasl\.\*"):
        KafkaMember({**kafka_cluster.properties, **wrong}, "group", unique("name"))
    assert time.monotonic() - began < 10


def test_an_unknown_property_is_named(nowhere: str) -> None:
    for start in (Admin, Sender, lambda p: KafkaMember(p, "group", "name")):
        with pytest.raises(LogError, match=r"foo\.bar"):
            start({"bootstrap.servers": nowhere, "foo.bar": 1})


def test_a_broker_that_goes_away_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if importlib.util.find_spec("noida_db") is None:
        pytest.skip("the embedded broker is not installed")
    broker = EmbeddedBroker(tmp_path)
    broker.start()
    port = int(broker.bootstrap_servers.rpartition(":")[2])
    cluster = BrokerCluster("embedded", broker.bootstrap_servers)
    again = EmbeddedBroker(tmp_path, port)
    try:
        topic = cluster.create(1)
        cluster.send(topic, [b"before"])
        member = cluster.member(unique("group"))
        reading = Reading(member, [topic])
        until(lambda: len(reading.values) == 1 and bool(reading.ends), reading)
        broker.stop()
        until(lambda: not member.reachable, reading)
        began = time.monotonic()
        reading.fetch()
        assert time.monotonic() - began < 2
        outcome = member.transact([Records(topic, [None], [b"never"], partition=0)], {Partition(topic, 0): Position(1)})
        assert outcome is not Outcome.COMMITTED
        again.start()
        until(lambda: member.reachable, reading)
        assert [r.getMessage() for r in caplog.records if "is away" in r.getMessage()][1:] == []  # said once
        member.renew()
        where = Partition(topic, 0)
        assert member.committed([where])[where] is None
        reading.forget()
        with Sender(cluster.properties) as sender:
            sender.send(topic, [b"after"])
        until(lambda: b"after" in reading.values, reading)
        assert b"never" not in reading.values
        cluster.close_members()
    finally:
        again.stop()
        broker.stop()


def test_what_is_sent_arrives_in_order_with_its_stamps(broker: BrokerCluster) -> None:
    topic = broker.create(3)
    rng = random.Random(7)
    count = 5000
    stamps = [1_600_000_000_000 + n for n in range(count)]
    partitions = [rng.randrange(3) for _ in range(count)]
    with Sender(broker.properties) as sender:
        sender.send(topic, [b"%d" % n for n in range(count)], [b"k%d" % n for n in range(count)], partitions, stamps)
    records = list(follow(broker.properties, [topic], until_end=True))
    for number in range(3):
        mine = [r for r in records if r.partition == number]
        expected = [n for n in range(count) if partitions[n] == number]
        assert [r.value for r in mine] == [b"%d" % n for n in expected]
        assert [r.key for r in mine] == [b"k%d" % n for n in expected]
        assert [r.timestamp_ms for r in mine] == [stamps[n] for n in expected]
        assert [r.offset for r in mine] == list(range(len(expected)))


def test_a_full_queue_is_waited_out(broker: BrokerCluster) -> None:
    topic = broker.create(1)
    narrow = {**broker.properties, "queue.buffering.max.messages": 100}
    with Sender(narrow) as sender:
        sender.send(topic, [b"%d" % n for n in range(2000)])
    member = KafkaMember(narrow, unique("group"), unique("name"))
    numbers: list[bytes | None] = [b"%d" % n for n in range(2000, 4000)]
    assert member.transact([Records(topic, [None] * 2000, numbers, partition=0)], {}) is Outcome.COMMITTED
    member.close()
    assert [r.value for r in follow(broker.properties, [topic], until_end=True)] == [b"%d" % n for n in range(4000)]


def test_a_reader_to_the_end_waits_for_what_is_being_committed(broker: BrokerCluster) -> None:
    topic = broker.create(1)
    with Sender(broker.properties) as sender:
        sender.send(topic, [b"before"])
    producer = Producer({**broker.properties, "transactional.id": unique("name")})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, b"being committed", partition=0)
    producer.flush(20)
    found: list[bytes | None] = []
    reading = threading.Thread(target=lambda: found.extend(r.value for r in follow(broker.properties, [topic], until_end=True)))
    reading.start()
    reading.join(1.0)
    assert reading.is_alive()
    producer.commit_transaction(20)
    reading.join(20)
    assert found == [b"before", b"being committed"]


def test_what_cannot_be_delivered_is_raised(broker: BrokerCluster) -> None:
    with pytest.raises(LogError), Sender(broker.properties) as sender:
        sender.send(broker.create(1), [random.Random(1).randbytes(12 << 20)])


def test_a_follower_sees_what_comes_and_ends_when_told(broker: BrokerCluster) -> None:
    one, two = broker.create(1), broker.create(2)
    broker.send(one, [b"old"])
    seen: list[bytes | None] = []
    with Tail(broker.properties, [one, two], from_start=False) as tail:
        broker.send(one, [b"new"])
        broker.send(two, [b"other"])
        deadline = time.monotonic() + 20
        while len(seen) < 2 and time.monotonic() < deadline:
            seen += [value for batch in tail.fetch(100, 0.05).batches for value in batch.values]
    assert sorted(value or b"" for value in seen) == [b"new", b"other"]
    stopping = threading.Event()
    followed = []
    for record in follow(broker.properties, [one, two], stop=stopping.is_set):
        followed.append((record.topic, record.value))
        if len(followed) == 3:
            stopping.set()
    assert sorted(followed) == sorted([(one, b"old"), (one, b"new"), (two, b"other")])


def test_following_to_the_end_passes_markers_and_empty_partitions(broker: BrokerCluster) -> None:
    topic, empty = broker.create(3), broker.create(2)
    member = broker.member(unique("group"))
    for n in range(3):
        assert member.transact([Records(topic, [None], [b"%d" % n], partition=1)], {}) is Outcome.COMMITTED
    assert [r.value for r in follow(broker.properties, [topic, empty], until_end=True)] == [b"0", b"1", b"2"]
    assert list(follow(broker.properties, [empty], until_end=True)) == []
    with pytest.raises(TopicMissing, match="topic-none"):
        next(follow(broker.properties, ["topic-none"]))
    broker.close_members()


def test_topics_are_created_compared_and_deleted(broker: BrokerCluster) -> None:
    admin = broker.admin
    one, two = unique("topic"), unique("topic")
    wanted = [Topic(one, 3, {"retention.ms": "86400000"}), Topic(two, 1)]
    assert [name in " ".join(admin.check(wanted)) for name in (one, two)] == [True, True]
    assert sorted(admin.create(wanted)) == sorted([one, two])
    assert admin.create(wanted) == []
    assert admin.check(wanted) == []
    assert admin.partitions([one, two]) == {one: 3, two: 1}
    assert admin.config(one)["retention.ms"] == "86400000"
    complaints = admin.check([Topic(one, 4, {"retention.ms": "1"})])
    assert len(complaints) == 2
    assert "4 partitions; it has 3" in complaints[0]
    assert "retention.ms = 1; it has 86400000" in complaints[1]
    assert sorted(admin.delete([one, two, unique("never")])) == sorted([one, two])
    with pytest.raises(TopicMissing, match=f"{one}.*{two}"):
        admin.partitions([one, two])
