"""`nowcart bench`, small: everything runs, and what it writes is what is promised. No figure is tested: those are a machine's."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from stream.bench.shop import configuration
from stream.cli.bench import STEPS
from stream.cli.main import main


def test_the_benchmark_measures_the_whole_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("noida_db") is None:
        pytest.skip("the embedded broker is not installed: pip install 'nowcart[local]'")
    out = tmp_path / "bench.json"
    assert main(["bench", "--events", "20000", "--latency-seconds", "2", "--rate", "500", "--json", str(out)]) == 0
    said = capsys.readouterr().out
    results = json.loads(out.read_text(encoding="utf-8"))
    assert set(results) == {
        "broker",
        "events",
        "events_per_second",
        "limit_events_per_second",
        "steps",
        "latency_ms",
        "steady_cores",
        "peak_memory_bytes",
    }
    assert results["broker"] == "embedded"
    assert results["events"] > 20_000  # orders and offers beside the clicks
    assert results["events_per_second"] > 0
    assert results["limit_events_per_second"] > 0
    assert set(results["steps"]) == {f"{stage}.{step}" for stage in ("ingest", "forecast") for step in STEPS}
    assert sum(results["steps"].values()) == pytest.approx(1, abs=0.01)
    assert results["steps"]["ingest.decode"] > 0
    assert results["steps"]["ingest.model"] > 0
    assert results["steps"]["forecast.model"] > 0
    assert results["steps"]["forecast.publish"] > 0
    assert results["latency_ms"]["rate"] == 500
    assert 0 < results["latency_ms"]["p50"] <= results["latency_ms"]["p99"]
    assert 0 < results["steady_cores"] < 8
    assert results["peak_memory_bytes"] > 50 * 2**20
    # Forecasts were made, at every hour of the four and at midnight.
    assert "1 of 1d" in said
    assert "4 of 1h" in said or "5 of 1h" in said
    assert "demand" in said


def test_a_file_that_cannot_be_is_refused_before_anything_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--json", str(tmp_path / "nowhere" / "bench.json")]) == 2
    assert "--json must name a file in a folder that is there" in capsys.readouterr().err


def test_runs_beside_one_another_share_no_topic() -> None:
    one, other = (configuration({"bootstrap.servers": "nowhere"}, name) for name in ("bench-1", "bench-2"))
    assert one.output.prefix != other.output.prefix
    assert not {source.topic for source in one.sources.values()} & {source.topic for source in other.sources.values()}


def test_restoring_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("noida_db") is None:
        pytest.skip("the embedded broker is not installed: pip install 'nowcart[local]'")
    out = tmp_path / "restore.json"
    assert main(["bench", "--restore", "--items", "2000", "--events", "20000", "--json", str(out)]) == 0
    results = json.loads(out.read_text(encoding="utf-8"))
    assert results["items"] == 2000
    assert 0 < results["restore_seconds"] < results["seconds_to_first_commit"]
    assert 1_000 < results["bytes_per_item"] < 20_000
    assert results["written_bytes"] > 1_000_000
    assert results["events_per_second"] > 0
    assert results["events_per_second_with_snapshots"] > 0
    assert "bytes an item with all its state" in capsys.readouterr().out


def test_forecasts_a_second_are_measured_without_kafka(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = tmp_path / "forecast.json"
    assert main(["bench", "--forecast", "--forecast-items", "400", "--json", str(found)]) == 0
    results = json.loads(found.read_text(encoding="utf-8"))
    assert set(results["line_ups"]) == {"vectorised experts", "with the global network"}
    for line_up in results["line_ups"].values():
        assert line_up["series_per_second"] >= line_up["series_per_second_with_learning"] > 0
        assert sum(line_up["shares"].values()) == pytest.approx(1, abs=1e-3)
    assert "forecast: network" in results["line_ups"]["with the global network"]["shares"]
    assert "series/s" in capsys.readouterr().out
