"""Training beside a running engine, on a broker: history from the activity topic, the swap, the way back, and what a lost version does."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stream.cli.main import main
from stream.config import load
from stream.kafka.admin import Admin, Topic
from stream.kafka.embedded import EmbeddedBroker
from stream.kafka.reader import follow
from stream.kafka.sender import Sender
from stream.state.artefacts import decode_announcement
from stream.topics import own_topics

DAY_MS = 86_400_000
START = 1_704_067_200_000
SHOP = """
[kafka]
bootstrap_servers = "{broker}"
[time]
idle_after = "1h"
[sources.orders]
kind = "orders"
topic = "shop.orders"
fields = {{ order = "o", time = "at", item = "sku", quantity = "n" }}
[demand]
quantiles = [0.1, 0.5, 0.9]
totals = [2]
[[demand.buckets]]
size = "1d"
horizon = 2
seasons = [7]
[activity]
partitions = 2
[metrics]
port = 0
[state]
url = "{folder}/state"
snapshot_interval = "1s"
"""


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with EmbeddedBroker() as embedded:
        yield embedded.bootstrap_servers


def send(broker: str, first: int, days: int) -> None:
    random = np.random.default_rng(first)
    values = []
    for day in range(first, first + days):
        for item in range(10):
            count = int(random.poisson(4 * np.exp(np.sin(2 * np.pi * day / 7)) * (1 + item % 3)))
            values.append(
                b'{"o": "%d-%d", "at": %d, "sku": "i%d", "n": %d}' % (day, item, START + day * DAY_MS + item * 1000, item, max(1, count))
            )
    with Sender({"bootstrap.servers": broker}) as sender:
        sender.send("shop.orders", values, partitions=0)


def versions(broker: str) -> list[tuple[int, str]]:
    """(day issued, version) of what was forecast, in order."""
    records = [json.loads(record.value or b"") for record in follow({"bootstrap.servers": broker}, ["nowcart.demand"], until_end=True)]
    return sorted({((value["issued_at_ms"] - START) // DAY_MS, value["model_version"]) for value in records})


def test_a_shop_trains_swaps_goes_back_and_says_what_is_missing(
    broker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nowcart")
    path = tmp_path / "shop.toml"
    path.write_text(SHOP.format(broker=broker, folder=tmp_path))
    Admin({"bootstrap.servers": broker}).create([*own_topics(load(path)), Topic("shop.orders", 1)])
    send(broker, 0, 60)
    assert main(["run", str(path), "--until-end"]) == 0
    assert {version for _, version in versions(broker)} == {"builtin-1"}

    quick = ["--members", "1", "--epochs", "1", "--pretrain", "never"]
    assert main(["train", str(path), *quick, "--dry-run"]) == 0
    assert main(["train", str(path), *quick]) == 0
    announced = [decode_announcement(r.value or b"") for r in follow({"bootstrap.servers": broker}, ["nowcart.models"], until_end=True)]
    (first,) = announced
    assert first.version in capsys.readouterr().out

    send(broker, 60, 8)
    assert main(["run", str(path), "--until-end"]) == 0
    later = {version for day, version in versions(broker) if day > 62}
    assert later == {first.version}

    assert main(["train", str(path), "--announce", "builtin-1"]) == 0
    send(broker, 68, 8)
    assert main(["run", str(path), "--until-end"]) == 0
    assert {version for day, version in versions(broker) if day > 70} == {"builtin-1"}

    assert main(["train", str(path), *quick, "--follow", "--until-end", "--dry-run"]) == 0
    assert "challenges builtin-1" in caplog.text or "was trained on" in caplog.text or "takes the place" in caplog.text
    assert main(["train", str(path), "--list"]) == 0
    assert first.version in capsys.readouterr().out

    # The journal names the first version, and without snapshots its part of the log has to be replayed with it.
    assert main(["snapshots", str(path), "prune", "--keep", "1"]) == 0
    for file in (tmp_path / "state" / "nowcart.").glob("forecast/**/manifests/*.json"):
        file.unlink()
    send(broker, 76, 2)
    weights = next((tmp_path / "state" / "nowcart." / "models" / first.version).glob("*.safetensors"))
    kept = weights.read_bytes()
    weights.unlink()
    capsys.readouterr()
    assert main(["run", str(path), "--until-end"]) == 2
    assert f"the model {first.version} must stand whole at" in capsys.readouterr().err
    weights.write_bytes(kept)
    assert main(["run", str(path), "--until-end"]) == 0
