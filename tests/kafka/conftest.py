"""One fixture, `cluster`: the log in memory, the embedded broker, a real Apache Kafka. Each is started once a session."""

from __future__ import annotations

import importlib.util
import os
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Producer

from stream.kafka.admin import Admin, Topic
from stream.kafka.client import KafkaMember
from stream.kafka.embedded import EmbeddedBroker
from stream.kafka.log import Partition, Records, Start
from stream.kafka.memory import Crash, MemoryLog, MemoryMember
from stream.kafka.sender import Sender
from tests.real_kafka import RealKafka, script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stream.kafka.log import Member, Messages

PATIENCE_S = 30.0


class Told:
    """A listener that starts each partition where the group left it, and remembers what it was told."""

    def __init__(self, member: Member, start: int | None = 0) -> None:
        self.member = member
        self.start = start
        self.owned: set[Partition] = set()
        self.events: list[tuple[str, list[Partition]]] = []
        self.on_revoked: Callable[[list[Partition]], None] | None = None

    def assigned(self, partitions: list[Partition]) -> dict[Partition, Start]:
        self.events.append(("assigned", partitions))
        self.owned.update(partitions)
        committed = self.member.committed(partitions)
        starts: dict[Partition, Start] = {}
        for partition in partitions:
            position = committed[partition]
            if position is not None:
                starts[partition] = Start(position.offset)
            elif self.start is not None:
                starts[partition] = Start(self.start)
        return starts

    def revoked(self, partitions: list[Partition]) -> None:
        self.events.append(("revoked", partitions))
        if self.on_revoked is not None:
            self.on_revoked(partitions)
        self.owned.difference_update(partitions)

    def lost(self, partitions: list[Partition]) -> None:
        self.events.append(("lost", partitions))
        self.owned.difference_update(partitions)


class Reading:
    """A member in use: fetches until something is so, and keeps what came."""

    def __init__(self, member: Member, topics: Sequence[str], start: int | None = 0) -> None:
        self.member = member
        self.told = Told(member, start)
        self.batches: list[Messages] = []
        self.ends: dict[Partition, int] = {}
        member.subscribe(topics, self.told)

    @property
    def values(self) -> list[bytes | None]:
        return [value for batch in self.batches for value in batch.values]

    def offsets(self, partition: Partition) -> list[int]:
        return [offset for batch in self.batches if batch.partition == partition for offset in batch.offsets]

    def fetch(self, timeout_s: float = 0.05) -> None:
        fetched = self.member.fetch(1000, timeout_s)
        self.batches += fetched.batches
        self.ends.update(fetched.ends)

    def forget(self) -> None:
        self.batches, self.ends = [], {}


def until(condition: Callable[[], bool], *readings: Reading, seconds: float = PATIENCE_S) -> None:
    """Lets the members fetch, turn by turn, until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        for reading in readings:
            reading.fetch()
        if time.monotonic() > deadline:
            told = [(r.told.events, r.ends, len(r.values)) for r in readings]
            pytest.fail(f"it did not become so within {seconds:g} s; told: {told}")


class Cluster:
    """What the suite needs of a cluster. `name` is memory, embedded or kafka."""

    name: str
    properties: dict[str, Any]

    def __init__(self) -> None:
        self._open: list[Member] = []

    def create(self, partitions: int = 2, **config: str) -> str:
        raise NotImplementedError

    def send(self, topic: str, values: Sequence[bytes | None], partition: int = -1, keys: Sequence[bytes | None] | None = None) -> None:
        raise NotImplementedError

    def delete_records(self, partition: Partition, before: int) -> None:
        raise NotImplementedError

    def open_transaction(self, topic: str, value: bytes) -> Callable[[], None]:
        """Leaves a record in partition 0 that is neither committed nor aborted; what it returns aborts it."""
        raise NotImplementedError

    def member(self, group: str, name: str = "", **options: Any) -> Member:
        member = self._member(group, name or unique("member"), **options)
        self._open.append(member)
        return member

    def _member(self, group: str, name: str, **options: Any) -> Member:
        raise NotImplementedError

    def visible(self, partition: Partition) -> list[tuple[int, bytes | None]]:
        """(offset, value) of everything that is committed."""
        member = self.member(unique("reader"))
        span = member.spans([partition])[partition]
        return [pair for batch in member.read(partition, *span) for pair in zip(batch.offsets, batch.values, strict=True)]

    def close_members(self) -> None:
        for member in self._open:
            member.close()
        self._open.clear()


class MemoryCluster(Cluster):
    name = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.log = MemoryLog()
        self.properties = {}

    def create(self, partitions: int = 2, **config: str) -> str:
        topic = unique("topic")
        self.log.create(topic, partitions, int(config.get("max_message_bytes", 8 << 20)))
        return topic

    def send(self, topic: str, values: Sequence[bytes | None], partition: int = -1, keys: Sequence[bytes | None] | None = None) -> None:
        self.log.append(topic, values, keys=keys, partition=partition)

    def delete_records(self, partition: Partition, before: int) -> None:
        self.log.delete_records(partition, before)

    def open_transaction(self, topic: str, value: bytes) -> Callable[[], None]:
        class CrashAtCommit:
            def on(self, member: MemoryMember, step: str) -> None:
                if step == "commit":
                    raise Crash

        name = unique("open")
        with pytest.raises(Crash):
            MemoryMember(self.log, name, name, faults=CrashAtCommit()).transact([Records(topic, [None], [value], 0)], {})
        return lambda: self.log.expire(name)

    def _member(self, group: str, name: str, **options: Any) -> Member:
        return MemoryMember(self.log, group, name, **options)


class BrokerCluster(Cluster):
    def __init__(self, name: str, bootstrap_servers: str) -> None:
        super().__init__()
        self.name = name
        self.properties = {"bootstrap.servers": bootstrap_servers}
        self.admin = Admin(self.properties)
        self.admin.ping()
        self._sender = Sender(self.properties)

    def create(self, partitions: int = 2, **config: str) -> str:
        topic = unique("topic")
        self.admin.create([Topic(topic, partitions, {name.replace("_", "."): value for name, value in config.items()})])
        return topic

    def send(self, topic: str, values: Sequence[bytes | None], partition: int = -1, keys: Sequence[bytes | None] | None = None) -> None:
        self._sender.send(topic, values, keys, partition)
        self._sender.flush()

    def delete_records(self, partition: Partition, before: int) -> None:
        self.admin.delete_records({partition: before})

    def open_transaction(self, topic: str, value: bytes) -> Callable[[], None]:
        producer = Producer({**self.properties, "transactional.id": unique("open")})
        producer.init_transactions(PATIENCE_S)
        producer.begin_transaction()
        producer.produce(topic, value, partition=0)
        assert producer.flush(PATIENCE_S) == 0
        return lambda: producer.abort_transaction(PATIENCE_S)

    def visible(self, partition: Partition) -> list[tuple[int, bytes | None]]:
        """Once no transaction hides the end: a commit returns a little before its markers stand in the partitions."""
        until(lambda: self.admin.committed_ends([partition]) == self.admin.written_ends([partition]))
        return super().visible(partition)

    def _member(self, group: str, name: str, **options: Any) -> Member:
        return KafkaMember(self.properties, group, name, **options)


def unique(what: str) -> str:
    return f"{what}-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def real_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a real Apache Kafka."""
    if named := os.environ.get("NOWCART_TEST_KAFKA"):
        yield named
        return
    start = script()
    if start is None:
        pytest.skip("no real Kafka: name one in NOWCART_TEST_KAFKA, or a script that starts one in NOWCART_KAFKA_SCRIPT")
    kafka = RealKafka(start, tmp_path_factory.mktemp("kafka"))
    try:
        yield kafka.servers
    finally:
        kafka.stop()


@pytest.fixture(scope="session")
def embedded() -> Iterator[str]:
    """Bootstrap servers of an embedded broker."""
    if importlib.util.find_spec("noida_db") is None:
        pytest.skip("the embedded broker is not installed: pip install 'nowcart[local]'")
    with EmbeddedBroker() as broker:
        yield broker.bootstrap_servers


@pytest.fixture(
    scope="session",
    params=["memory", "embedded", pytest.param("kafka", marks=pytest.mark.kafka)],
)
def started_cluster(request: pytest.FixtureRequest) -> Cluster:
    if request.param == "memory":
        return MemoryCluster()
    return BrokerCluster(request.param, request.getfixturevalue("real_kafka" if request.param == "kafka" else "embedded"))


@pytest.fixture
def cluster(started_cluster: Cluster) -> Iterator[Cluster]:
    yield started_cluster
    started_cluster.close_members()


@pytest.fixture
def kafka_cluster(real_kafka: str) -> Iterator[BrokerCluster]:
    """For what only real Kafka does."""
    cluster = BrokerCluster("kafka", real_kafka)
    yield cluster
    cluster.close_members()
