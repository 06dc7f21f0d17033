"""`nowcart alerts` as a process, on an embedded broker and on Kafka: who is told, how often, and what survives."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from stream.schemas import schemas
from tests.alerts.house import HOUR, START, House, Receiver, receivers, spike
from tests.kafka.conftest import embedded, real_kafka
from tests.shop_runs import Process, wait_until

__all__ = ["embedded", "real_kafka"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BROKERS = pytest.mark.parametrize("broker", ["embedded", pytest.param("real_kafka", marks=pytest.mark.kafka)])
SECRET = "correct horse"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    yield from receivers()


def settings(receiver: Receiver, **more: Any) -> dict[str, Any]:
    hook = {"name": "pager", "url": f"{receiver.url}/pager", "secret": SECRET}
    manager = {"url": receiver.url, "repost": "1s"}
    return {"cooldown": "0s", "alertmanager": manager, "webhooks": [hook], **more}


def told(receiver: Receiver) -> list[dict[str, Any]]:
    """Everything that Alertmanager was told, oldest first."""
    bodies: list[Any] = list(receiver.at("/api/v2/alerts"))
    return [alert for alerts in bodies for alert in alerts]


@BROKERS
def test_spikes_become_alerts_that_reach_everybody_once_over_restarts(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path, receiver: Receiver
) -> None:
    house = House(request.getfixturevalue(broker), tmp_path, **settings(receiver))
    house.send(spike("ghost", category="shoes"), abort=True)
    house.send(spike("red", category="shoes"), None, b"{", b'{"item": 3}', spike("blue", category="shoes"))
    with Process(house.file(), name="alerts") as process:
        wait_until(lambda: bool(told(receiver) and receiver.at("/pager") and house.pending() == 0), process)
        house.send(spike("red", category="shoes"), spike("blue", category="shoes", severity="critical", p_value=1e-9))
        wait_until(lambda: bool(len(receiver.at("/pager")) == 2 and house.pending() == 0), process)
        process.send(signal.SIGTERM)
        assert process.wait() == 0, process.lines
    with Process(house.file(), name="alerts") as process:
        house.send(
            spike("red", state="resolved", bucket_start_ms=START + HOUR), spike("blue", state="resolved", bucket_start_ms=START + HOUR)
        )
        wait_until(lambda: bool(len(receiver.at("/pager")) == 3 and house.pending() == 0), process)
        # Only now, behind all else, may it have been told a second time.
        wait_until(
            lambda: bool([alert for alert in told(receiver) if alert["endsAt"] < alert["startsAt"] or _over(alert, receiver)]), process
        )
        process.send(signal.SIGINT)
        assert process.wait() == 0, process.lines

    records = sorted(house.published("alerts"), key=lambda record: record["update"])
    for record in records:
        jsonschema.validate(record, schemas()["alerts"])
    assert len({record["alert"] for record in records}) == 1
    changes = [record["change"] for record in records]
    assert changes[0] == "opened" and changes[-1] == "resolved" and changes.count("escalated") == 1
    assert sorted(changes[1:-1]) == ["escalated", "joined", "left"]
    assert records[-1]["items"] == ["blue", "red"]
    assert "ghost" not in json.dumps(records) + json.dumps(told(receiver))
    assert sorted(letter["nowcart-reason"] for letter in house.dead()) == ["bad_value", "malformed", "malformed"]

    pages = receiver.at("/pager")
    assert [page["change"] for page in pages] == ["opened", "escalated", "resolved"]
    keys = set()
    for path, headers, body in receiver.requests:
        if path == "/pager":
            stamp, code = (part.split("=")[1] for part in headers["nowcart-signature"].split(","))
            assert hmac.compare_digest(code, hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest())
            keys.add(headers["idempotency-key"])
    assert keys == {f"{page['alert']}.{page['update']}" for page in pages}
    labels = {alert["labels"]["severity"] for alert in told(receiver)}
    assert labels == {"warning", "critical"}
    assert all(alert["labels"]["category"] == "shoes" for alert in told(receiver))


def paged(receiver: Receiver) -> list[tuple[str, str]]:
    """Item and change of each request to the webhook."""
    return [(page["worst"]["item"], page["change"]) for page in receiver.at("/pager")]


def _over(alert: dict[str, Any], receiver: Receiver) -> bool:
    """A critical alert's end: before the last time it was told to be open."""
    ends = [other["endsAt"] for other in told(receiver) if other["labels"] == alert["labels"]]
    return bool(alert["labels"]["severity"] == "critical" and alert["endsAt"] < max(ends))


@pytest.mark.kafka  # the embedded broker keeps the places of the dead
def test_nothing_is_lost_or_told_twice_whoever_is_down_killed_or_replaced(real_kafka: str, tmp_path: Path, receiver: Receiver) -> None:
    house = House(real_kafka, tmp_path, **settings(receiver))
    receiver.down()
    house.send(spike("red"))
    with Process(house.file(), name="alerts") as process:
        wait_until(lambda: bool(process.said("did not take") and process.said("was not told")), process)
        process.send(signal.SIGKILL)
        process.wait()
    house.send(spike("blue"), spike("red", severity="critical", p_value=1e-8))
    receiver.up()
    receiver.answers = [503, 503, 429]
    with Process(house.file(), name="alerts") as older:
        wait_until(
            lambda: (
                {("red", "escalated"), ("blue", "opened")} <= set(paged(receiver))
                and house.pending() == 0
                and {alert["labels"]["item"] for alert in told(receiver)} == {"red", "blue"}
            ),
            older,
        )
        with Process(house.file(), name="alerts") as newer:
            # A second one takes over, and the first says so and ends.
            wait_until(lambda: newer.said("alerts from"), newer)
            house.send(spike("blue", state="resolved"))
            assert older.wait() == 2, older.lines
            assert [line for line in older.lines if line.startswith("nowcart: ")], older.lines
            assert not older.said("Traceback")
            wait_until(lambda: ("blue", "resolved") in paged(receiver) and house.pending() == 0, newer)
            newer.send(signal.SIGTERM)
            assert newer.wait() == 0, newer.lines
    records = house.published("alerts")
    assert len({(record["alert"], record["update"]) for record in records}) == len(records) == 4
    pages = paged(receiver)
    assert sorted(pages) == [("blue", "opened"), ("blue", "resolved"), ("red", "escalated"), ("red", "opened")]
    assert pages.index(("red", "opened")) < pages.index(("red", "escalated"))
    assert receiver.refused == 3


def test_what_no_receiver_takes_is_a_dead_letter(embedded: str, tmp_path: Path, receiver: Receiver) -> None:
    hooks = [
        {"name": "refuses", "url": f"{receiver.url}/refuses"},
        {"name": "sleeps", "url": "http://127.0.0.1:9/", "give_up_after": "1s"},
        {"name": "grave", "url": f"{receiver.url}/grave", "severity": "critical"},
    ]
    house = House(embedded, tmp_path, cooldown="0s", webhooks=hooks, silences=[{"item": "quiet-*"}])
    receiver.answers = [422]
    house.send(spike("quiet-7"), spike("loud"))
    with Process(house.file(), name="alerts") as process:
        wait_until(lambda: len(house.dead()) == 2 and house.pending() == 0, process)
        process.send(signal.SIGTERM)
        assert process.wait() == 0, process.lines
    assert {letter["nowcart-reason"] for letter in house.dead()} == {"undelivered"}
    said = " ".join(letter["nowcart-detail"] for letter in house.dead())
    assert "'refuses'" in said and "HTTP 422" in said and "'sleeps'" in said and "given up" in said
    assert [record["items"] for record in house.published("alerts")] == [["loud"]]
    assert (receiver.refused, receiver.requests) == (1, [])
