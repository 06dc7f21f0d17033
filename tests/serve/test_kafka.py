"""`nowcart serve` on a broker: it reads back, follows, outlives the broker, and any instance goes on where another one's stream ended."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.config import Config
from stream.kafka.admin import Admin
from stream.kafka.embedded import EmbeddedBroker
from stream.kafka.following import Back, Follower
from stream.kafka.log import Partition, TopicMissing
from stream.kafka.sender import Sender
from stream.serve.counters import Counters
from stream.serve.server import Server
from stream.serve.service import Service
from stream.topics import own_topics
from tests.serve.rig import Events, Rig, config, demand, intent, spike

PATIENCE_S = 40.0


class Instance(Rig):
    """A server that reads Kafka by itself."""

    def __init__(self, settings: Config) -> None:
        self.config = settings
        self.streams: list[Events] = []
        self.service = Service(settings, Counters(process=False))
        self.server = Server(settings, self.service)

    def __enter__(self) -> Instance:
        self.server.__enter__()
        until(lambda: self.get("/readyz").status == 200)
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self.streams:
            stream.close()
        self.server.__exit__()


def until(true: Callable[[], bool]) -> None:
    """Returns once it is so."""
    deadline = time.monotonic() + PATIENCE_S
    waited = threading.Event()
    while not true():
        assert time.monotonic() < deadline, "it never came to that"
        waited.wait(0.05)


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


def send(settings: Config, topic: str, *records: tuple[str, bytes]) -> None:
    with Sender(settings.kafka) as sender:
        sender.send(settings.output.topic(topic), [raw for _, raw in records], [key.encode() for key, _ in records])


def on(broker: EmbeddedBroker, prefix: str, serve: str = "") -> Config:
    settings = config(serve, bootstrap_servers=broker.bootstrap_servers)
    return msgspec.structs.replace(settings, output=msgspec.structs.replace(settings.output, prefix=prefix, partitions=2))


def test_two_instances_know_the_same_and_streams_move_between_them(broker: EmbeddedBroker) -> None:
    settings = on(broker, "two.")
    Admin(settings.kafka).create(own_topics(settings))
    names = [f"i{n}" for n in range(20)]
    send(settings, "demand", *((name, demand(name, hour)) for hour in range(3) for name in names))
    send(settings, "intent", ("s", intent("s", 0.5)))
    with Instance(settings) as one, Instance(settings) as two:
        assert one.json("/v1/items?sort=name&limit=100") == two.json("/v1/items?sort=name&limit=100")
        assert [row["item"] for row in one.json("/v1/items?sort=name&limit=100")["items"]] == sorted(names)
        assert two.json("/v1/sessions/s/intent")["record"]["p_purchase"] == 0.5
        stream = one.stream("topics=demand,spikes").joined()
        send(settings, "spikes", *((name, spike(name)) for name in names))
        first = stream.take(7)
        stream.close()
        send(settings, "demand", *((name, demand(name, 3)) for name in names))
        rest = two.stream("topics=demand,spikes", {"Last-Event-ID": first[-1].id}).take(33)
        told = [(event.name, event.data["item"]) for event in first + rest]
        assert sorted(told) == sorted([("demand", name) for name in names] + [("spikes", name) for name in names])


def test_alerts_are_found_when_their_topic_comes(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    from stream.kafka.admin import Topic

    monkeypatch.setattr("stream.serve.follow._LOOK_AGAIN_S", 0.3)
    settings = on(broker, "late.")
    with pytest.raises(TopicMissing, match=r"late\.demand, late\.intent, late\.spikes must exist: create them"):
        Server(settings, Service(settings, Counters(process=False)))
    Admin(settings.kafka).create(own_topics(settings))
    send(settings, "spikes", ("a", spike("a")))
    with Instance(settings) as served:
        stream = served.stream("topics=alerts,spikes").joined()
        Admin(settings.kafka).create([Topic("late.alerts", 1)])
        with Sender(settings.kafka) as sender:
            sender.send("late.alerts", [b'{\n "alert": "x",\n "state": "open"\n}'])
        until(lambda: bool(served.json("/v1/alerts")["records"]))
        assert stream.take(1)[0].data == {"alert": "x", "state": "open"}
        assert len(served.json("/v1/spikes")["records"]) == 1


def test_only_so_much_of_the_past_is_read(broker: EmbeddedBroker) -> None:
    settings = on(broker, "past.")
    Admin(settings.kafka).create(own_topics(settings))
    now = int(time.time() * 1000)
    topic = "past.demand"
    with Sender(settings.kafka) as sender:
        sender.send(topic, [b"{}"] * 10, [b"k"] * 10, partitions=0, timestamps_ms=[now - 3_600_000] * 10)
        sender.send(topic, [b"{}"] * 30, [b"k"] * 30, partitions=0, timestamps_ms=[now] * 30)

    def start(ms: int, records: int, known: dict[Partition, int] | None = None) -> int:
        with Follower(settings.kafka, [topic], Back(ms, records), known or {}) as follower:
            return follower.places[Partition(topic, 0)]

    assert start(10**12, 10**6) == 0
    assert start(60_000, 10**6) == 10
    assert start(10**12, 40) == 20  # shared by two partitions
    assert start(60_000, 10**6, {Partition(topic, 0): 33}) == 33
    with Follower(settings.kafka, [topic], Back(0, 0), {Partition(topic, 0): 41}) as follower:
        assert follower.restarted == {Partition(topic, 0): 0}  # another log than the one that was known: from its beginning


def test_it_outlives_its_broker(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start()
    port = int(broker.bootstrap_servers.rpartition(":")[2])
    try:
        settings = on(broker, "gone.")
        Admin(settings.kafka).create(own_topics(settings))
        send(settings, "demand", ("a", demand("a", 0)))
        with Instance(settings) as served:
            stream = served.stream("topics=demand").joined()
            broker.stop()
            until(lambda: served.json("/v1/health")["status"] == "stale")
            assert served.json("/v1/items/a/demand")["item"] == "a"
            assert served.json("/v1/overview")["age_seconds"] >= 0
            broker = EmbeddedBroker(tmp_path / "broker", port)
            broker.start()
            Admin(settings.kafka).create(own_topics(settings))  # what it had in memory may be gone
            until(lambda: served.json("/v1/health")["status"] == "ok")
            send(settings, "demand", ("a", demand("a", 1, mean=77.0)))

            def is_there() -> bool:
                record: Any = served.json("/v1/items/a/demand")["buckets"]["1h"]["record"]
                return bool(record["mean"][0] == 77.0)

            until(is_there)
            while json.dumps(stream.take(1)[0].data).find("77.0") < 0:
                pass
    finally:
        broker.stop()
