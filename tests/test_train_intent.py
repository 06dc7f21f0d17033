"""The intent model trained beside a running engine, on a broker: from the topic or a file, the swap, and mistakes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.cli.main import main
from stream.config import load
from stream.kafka.admin import Admin, Topic
from stream.kafka.embedded import EmbeddedBroker
from stream.kafka.reader import follow
from stream.kafka.sender import Sender
from stream.simulate.shop import Shop
from stream.state.artefacts import decode_announcement
from stream.topics import own_topics

CONFIG = """
[kafka]
bootstrap_servers = "{broker}"
[time]
idle_after = "1h"
[sources.clicks]
kind = "clickstream"
topic = "shop.events"
fields = {{ time = "ts", event = "type", session = "sid", user = "uid", item = "sku", price = "price", category = "category" }}
events = {{ view = "view", search = "search", add_to_cart = "cart", remove_from_cart = "remove", purchase = "purchase", page = "other" }}
[demand]
from = "clickstream"
[[demand.buckets]]
size = "1h"
horizon = 2
[intent]
next_items = 3
[activity]
partitions = 2
[metrics]
port = 0
[state]
url = "{folder}/state"
"""


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with EmbeddedBroker() as embedded:
        yield embedded.bootstrap_servers


def test_sessions_begin_on_what_the_topic_has_taught(broker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(CONFIG.format(broker=broker, folder=tmp_path), encoding="utf-8")
    properties = {"bootstrap.servers": broker}
    Admin(properties).create([*own_topics(load(path)), Topic("shop.events", 2)])
    shop = Shop(items=200, rate=4.0, conversion=0.2, daily_swing=0.0)
    chunks = [chunk.sources["clicks"] for chunk in shop.events(count=40_000, chunk_events=10_000)]
    with Sender(properties) as sender:
        for chunk in chunks[:-1]:
            sender.send("shop.events", chunk.values, chunk.keys)
    assert main(["run", str(path), "--until-end"]) == 0
    assert main(["train", str(path), "--intent", "--epochs", "1"]) == 0
    (announced,) = [decode_announcement(record.value or b"") for record in follow(properties, ["nowcart.models"], until_end=True)]
    assert (announced.model, announced.size) == ("intent", "sessions")
    assert announced.version in capsys.readouterr().out
    assert main(["train", str(path), "--list"]) == 0
    assert f"{announced.version}  sessions, " in capsys.readouterr().out
    before = len(list(follow(properties, ["nowcart.intent"], until_end=True)))
    with Sender(properties) as sender:
        sender.send("shop.events", chunks[-1].values, chunks[-1].keys)
    assert main(["run", str(path), "--until-end"]) == 0
    records = [json.loads(record.value or b"") for record in follow(properties, ["nowcart.intent"], until_end=True)]
    assert {record["model_version"] for record in records} == {"builtin-2", announced.version}
    assert len(records) > before
    named = [record["next_items"] for record in records if record["model_version"] == announced.version and not record["ended"]]
    assert any(len(items) == 3 for items in named)

    # The same from a file, which needs neither topic nor store where nothing is kept.
    file = tmp_path / "clicks.ndjson"
    file.write_bytes(b"\n".join(bytes(value) for chunk in chunks for value in chunk.values) + b"\n")
    assert main(["train", str(path), "--intent", "--source", f"clicks={file}", "--epochs", "1", "--dry-run"]) == 0
    assert "log loss of the newest" in capsys.readouterr().out
    assert main(["train", str(path), "--announce", "builtin-2"]) == 0
    assert "announced builtin-2 for sessions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source", "clicks=x"], "--intent"),
        (["--intent", "--follow"], "--follow"),
        (["--intent", "--source", "clicks"], "NAME=FILE"),
        (["--intent", "--source", "nobody=x.ndjson", "--dry-run"], "nobody"),
        (["--intent", "--source", "clicks=nowhere.ndjson", "--dry-run"], "nowhere"),
    ],
)
def test_mistakes_end_with_what_to_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(CONFIG.format(broker="localhost:1", folder=tmp_path), encoding="utf-8")
    assert main(["train", str(path), *arguments]) == 2
    assert words in capsys.readouterr().err
