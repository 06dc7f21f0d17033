"""Metrics as Prometheus reads them, and the port that answers."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from stream.config import UserError
from stream.kafka.log import Partition
from stream.metrics import Endpoint, Metrics, observe_many, serve
from stream.runners.forecast import ForecastObserver
from stream.runners.ingest import IngestObserver
from stream.runners.loop import Observer

Sample = tuple[str, frozenset[tuple[str, str]]]


def samples(metrics: Metrics) -> dict[Sample, float]:
    families = text_string_to_metric_families(metrics.text())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def sample(name: str, **labels: str) -> Sample:
    return f"nowcart_{name}", frozenset(labels.items())


def test_what_the_loop_tells_is_what_prometheus_reads() -> None:
    metrics = Metrics(process=False)
    loop: Observer = metrics
    loop.step("ingest", "decode", 0.003)
    loop.step("ingest", "decode", 0.004)
    loop.commit("ingest", "committed", 0.02)
    loop.commit("forecast", "aborted", 0.2)
    loop.batch("ingest", 5000)
    loop.batch("forecast", 3)  # blocks are no events
    loop.published("nowcart.intent", 12)
    loop.event_to_prediction("nowcart.intent", np.array([0.08, 0.2, 9000.0]))
    loop.rebalanced()
    loop.restored(1.5)
    loop.watermark("ingest", Partition("shop.events", 3), 31.5)
    loop.lag(Partition("shop.events", 3), 17)
    got = samples(metrics)
    assert got[sample("step_seconds_count", stage="ingest", step="decode")] == 2
    assert got[sample("step_seconds_sum", stage="ingest", step="decode")] == pytest.approx(0.007)
    assert got[sample("commits_total", stage="ingest", outcome="committed")] == 1
    assert got[sample("commits_total", stage="forecast", outcome="aborted")] == 1
    assert got[sample("commit_seconds_count")] == 2
    assert (got[sample("batch_events_sum")], got[sample("batch_events_count")]) == (5000, 1)
    assert got[sample("records_published_total", topic="nowcart.intent")] == 12
    assert got[sample("event_to_prediction_seconds_bucket", topic="nowcart.intent", le="0.1")] == 1
    assert got[sample("event_to_prediction_seconds_count", topic="nowcart.intent")] == 3
    assert got[sample("rebalances_total")] == 1
    assert got[sample("restore_seconds_sum")] == 1.5
    assert got[sample("watermark_lag_seconds", stage="ingest", partition="shop.events-3")] == 31.5
    assert got[sample("consumer_lag_events", topic="shop.events", partition="3")] == 17


def test_what_the_stages_tell_is_what_prometheus_reads() -> None:
    metrics = Metrics(process=False)
    ingest: IngestObserver = metrics
    forecast: ForecastObserver = metrics
    ingest.events("clicks", {"view": 90, "ignored": 2})
    ingest.dead_letter("clicks", "malformed", 3)
    ingest.late("orders", "corrected", 4)
    ingest.sessions_live(70)
    forecast.items_live(800)
    forecast.evicted("item", 5)
    forecast.spikes("critical", 1)
    forecast.forecast_quality(
        "1h",
        {
            "wape": {"ewma": {"1": 0.5, "24": 0.7}, "river": {}},
            "coverage": {"0.9": {"below": 0.85, "at_or_below": 0.95}, "0.5": {"below": 0.6, "at_or_below": 0.7}},
        },
    )
    got = samples(metrics)
    assert got[sample("events_total", source="clicks", event="view")] == 90
    assert got[sample("events_total", source="clicks", event="ignored")] == 2
    assert got[sample("dead_letters_total", source="clicks", reason="malformed")] == 3
    assert got[sample("late_events_total", source="orders", outcome="corrected")] == 4
    assert (got[sample("sessions_live")], got[sample("items_live")]) == (70, 800)
    assert got[sample("evictions_total", kind="item")] == 5
    assert got[sample("spikes_total", severity="critical")] == 1
    assert got[sample("forecast_wape_ratio", bucket="1h", expert="ewma")] == pytest.approx(0.6)
    assert sample("forecast_wape_ratio", bucket="1h", expert="river") not in got
    assert got[sample("forecast_coverage_ratio", bucket="1h", level="0.9")] == 0.9  # kept: the level lies between the shares
    assert got[sample("forecast_coverage_ratio", bucket="1h", level="0.5")] == 0.6


def test_a_model_shows_only_its_version_in_use_and_a_lost_partition_is_gone() -> None:
    metrics = Metrics(process=False)
    for version in ("1", "2", "2"):
        metrics.model("demand", version, "cpu")
    metrics.model("intent", "7", "cpu")
    metrics.lag(("a", 0), 5)
    metrics.lag(("a", 1), 6)
    metrics.watermark("ingest", ("a", 0), 1.0)
    metrics.forget("ingest", ("a", 0))
    metrics.forget("ingest", ("never", 9))
    got = samples(metrics)
    assert {dict(labels)["version"] for name, labels in got if name == "nowcart_model_info"} == {"2", "7"}
    assert {dict(labels)["partition"] for name, labels in got if name == "nowcart_consumer_lag_events"} == {"1"}
    assert not [labels for name, labels in got if name == "nowcart_watermark_lag_seconds"]


@given(arrays.arrays(np.float64, st.integers(0, 50), elements=st.floats(-1, 100) | st.sampled_from([0.1, 0.5, 2.0])))
def test_many_observations_at_once_are_as_one_by_one(values: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    texts = []
    for at_once in (True, False):
        registry = CollectorRegistry()
        histogram = Histogram("seconds", "Seconds.", buckets=(0.1, 0.5, 2.0), registry=registry)
        if at_once:
            observe_many(histogram, values)
        else:
            for value in values.tolist():
                histogram.observe(value)
        lines = generate_latest(registry).decode().splitlines()
        texts.append([line for line in lines if "_bucket" in line or "_count" in line])
        assert histogram._sum.get() == pytest.approx(float(values.sum()), abs=1e-9)
    assert texts[0] == texts[1]


class Probes:
    """A process whose state the test decides."""

    def __init__(self) -> None:
        self.healthy: tuple[bool, str] = (True, "")
        self.ready: tuple[bool, str] = (False, "restoring partition 3 of nowcart.activity")


@pytest.fixture
def probes() -> Probes:
    return Probes()


@pytest.fixture
def endpoint(probes: Probes) -> Iterator[Endpoint]:
    metrics = Metrics()
    metrics.published("nowcart.demand", 5)
    with serve(metrics, "127.0.0.1", 0, lambda: probes.healthy, lambda: probes.ready) as opened:
        yield opened


def get(endpoint: Endpoint, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{endpoint.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_port_tells_metrics_health_and_readiness(endpoint: Endpoint, probes: Probes) -> None:
    status, text = get(endpoint, "/metrics")
    assert status == 200
    assert 'nowcart_records_published_total{topic="nowcart.demand"} 5.0' in text
    assert "process_resident_memory_bytes" in text
    assert get(endpoint, "/metrics", "HEAD") == (200, "")
    assert get(endpoint, "/healthz") == (200, "ok\n")
    assert get(endpoint, "/readyz") == (503, "restoring partition 3 of nowcart.activity\n")
    probes.ready = (True, "")
    probes.healthy = (False, "the loop has not moved for 60 s")
    assert get(endpoint, "/readyz") == (200, "ok\n")
    assert get(endpoint, "/healthz") == (503, "the loop has not moved for 60 s\n")


def test_what_is_not_there_is_said_so(endpoint: Endpoint) -> None:
    assert get(endpoint, "/")[0] == 404
    assert get(endpoint, "/metricsx")[0] == 404
    assert get(endpoint, "/readyz", "POST")[0] == 405


def test_many_scrape_at_once_and_a_silent_reader_holds_nobody_up(endpoint: Endpoint) -> None:
    with socket.create_connection(("127.0.0.1", endpoint.port)), ThreadPoolExecutor(8) as pool:
        assert {status for status, _ in pool.map(lambda _: get(endpoint, "/metrics"), range(32))} == {200}


def test_a_closed_port_is_free_again_and_a_taken_one_is_a_clear_message(endpoint: Endpoint) -> None:
    fine = (True, "")
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:{endpoint.port}.*another process has it.*\[metrics\] port"):
        serve(Metrics(), "127.0.0.1", endpoint.port, lambda: fine, lambda: fine)
    port = endpoint.port
    endpoint.close()
    with serve(Metrics(), "127.0.0.1", port, lambda: fine, lambda: fine) as again:
        assert get(again, "/healthz") == (200, "ok\n")


@pytest.mark.parametrize(("host", "port"), [("no such host", 0), ("127.0.0.1", 99_999), ("192.0.2.1", 0)])
def test_an_address_that_cannot_be_is_a_clear_message(host: str, port: int) -> None:
    with pytest.raises(UserError, match="metrics must listen on"):
        serve(Metrics(), host, port, lambda: (True, ""), lambda: (True, ""))
