"""The command: what it refuses, what it says, how it ends; and what it makes of the engine's own metrics."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from stream.cli.main import main
from stream.kafka.admin import Admin
from stream.kafka.embedded import EmbeddedBroker
from stream.metrics import Metrics
from stream.serve.engine import summary
from stream.topics import own_topics
from tests.serve.rig import config

SHOP = """
[kafka]
bootstrap_servers = "{servers}"
[sources.clicks]
kind = "clickstream"
topic = "shop.clicks"
fields = {{ time = "t", event = "e", session = "s", item = "i" }}
events = {{ buy = "purchase" }}
[demand]
from = "clickstream"
[serve]
port = 0
metrics_port = 0
"""


def write(folder: Path, text: str) -> str:
    (folder / "shop.toml").write_text(text, encoding="utf-8")
    return str(folder / "shop.toml")


def test_it_refuses_to_be_open_to_everybody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, SHOP.format(servers="127.0.0.1:1"))
    assert main(["serve", path, "--host", "0.0.0.0"]) == 2
    said = capsys.readouterr().err
    assert "add [[serve.keys]]" in said
    assert "Traceback" not in said


def test_a_port_that_is_taken_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", write(tmp_path, SHOP.format(servers="127.0.0.1:1")), "--port", str(port)]) == 2
    assert f"127.0.0.1:{port}, but another process has it" in capsys.readouterr().err


def test_missing_topics_are_said_and_a_signal_ends_it_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EmbeddedBroker() as broker:
        path = write(tmp_path, SHOP.format(servers=broker.bootstrap_servers))
        assert main(["serve", path]) == 2
        assert "nowcart topics CONFIG create" in capsys.readouterr().err
        Admin({"bootstrap.servers": broker.bootstrap_servers}).create(own_topics(config()))
        process = subprocess.Popen(
            [sys.executable, "-m", "stream.cli.main", "serve", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            found = re.match(r"nowcart serves on (\S+)", process.stdout.readline())
            assert found
            assert urllib.request.urlopen(found[1] + "healthz", timeout=20).status == 200
            with urllib.request.urlopen(found[1] + "v1/stream?topics=spikes", timeout=20) as stream:
                process.send_signal(signal.SIGTERM)
                assert b"event: closing" in stream.read()
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert "never" not in errors  # asyncio's word for a task that nobody ended


def test_the_engines_processes_are_added_up() -> None:
    first, second = Metrics(process=False), Metrics(process=False)
    for metrics, events in ((first, 1_000), (second, 500)):
        metrics.events("clicks", {"view": events})
        metrics.lag(("shop.clicks", 0), 7)
        metrics.sessions_live(10)
        metrics.watermark("forecast", ("activity", 0), 3.5)
        metrics.model("demand", "v7", "cpu")
        metrics.forecast_quality("1h", {"wape": {"ewma": {"1": 0.4}}, "coverage": {"0.9": {"below": 0.8, "at_or_below": 0.85}}})
    engine, before = summary([first.text(), second.text()], 3, 100.0, None)
    assert (engine.processes, engine.asked, engine.events_per_second) == (2, 3, None)
    assert (engine.lag_events, engine.sessions, engine.watermark_lag_seconds) == (14, 20, 3.5)
    assert engine.coverage == {"1h": {"0.9": 0.85}}
    assert engine.wape == {"1h": {"ewma": 0.4}}
    assert [model.version for model in engine.models] == ["v7"]
    import numpy as np

    first.events("clicks", {"view": 400})
    first.event_to_prediction("demand", np.array([0.02] * 98 + [0.9, 0.9]))
    engine, before = summary([first.text(), second.text()], 3, 104.0, before)
    assert engine.events_per_second == 100.0
    assert engine.latency_p50_ms is not None
    assert 10 <= engine.latency_p50_ms <= 25
    assert engine.latency_p99_ms is not None
    assert 750 <= engine.latency_p99_ms <= 1000
    engine, _ = summary([second.text()], 3, 108.0, before)  # one has gone: a rate of what is left would be nonsense
    assert engine.events_per_second is None
