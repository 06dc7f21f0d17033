"""What nowcart measures of itself, and the port on which it tells: GET /metrics, /healthz, /readyz.

`Metrics` is one process's registry with a small method for each thing that happens; loops call it, engines never do. Labels
stay bounded: never an item or a session.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from types import TracebackType
from typing import Any, Protocol, Self, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, make_wsgi_app
from prometheus_client.gc_collector import GCCollector
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from stream.tables import UserError

log = logging.getLogger("nowcart.metrics")

Probe = Callable[[], tuple[bool, str]]
"""Whether all is well, and a sentence that says what is not."""

_STEP_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LATENCY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30, 60, 300, 3600)
_BATCH_EVENTS = (1, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000)


class Metrics:
    """The metrics of one process. Methods may be called from any thread."""

    def __init__(self, process: bool = True) -> None:
        """An empty registry.

        Args:
            process: with the process's own memory, processor time and garbage collections.
        """
        self.registry = registry = CollectorRegistry(auto_describe=True)
        if process:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            GCCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"nowcart_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"nowcart_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"nowcart_{name}", text, labels, buckets=buckets, registry=registry)

        self._events = counter("events_total", "Events understood, by source and what happened.", "source", "event")
        self._dead_letters = counter("dead_letters_total", "Messages that could not be used, by reason.", "source", "reason")
        self._late = counter("late_events_total", "Events behind the watermark: corrected or dropped.", "source", "outcome")
        self._published = counter("records_published_total", "Records committed to an output topic.", "topic")
        self._commits = counter("commits_total", "Transactions by how they ended.", "stage", "outcome")
        self._commit_seconds = histogram("commit_seconds", "Time of a transaction, from its first record to its end.", _STEP_SECONDS)
        self._batch_events = histogram("batch_events", "Events of one iteration of the loop.", _BATCH_EVENTS)
        self._step_seconds = histogram("step_seconds", "Time of each step of an iteration.", _STEP_SECONDS, "stage", "step")
        self._event_to_prediction = histogram(
            "event_to_prediction_seconds",
            "From the stamp of the newest message that a record rests on to the commit of the record.",
            _LATENCY_SECONDS,
            "topic",
        )
        self._lag = gauge("consumer_lag_events", "Messages of a partition that are not yet committed.", "topic", "partition")
        self._watermark_lag = gauge("watermark_lag_seconds", "Now less the watermark of a partition.", "stage", "partition")
        self._sessions_live = gauge("sessions_live", "Sessions that have not ended.")
        self._items_live = gauge("items_live", "Items with state.")
        self._evictions = counter("evictions_total", "State given up, by what it was of.", "kind")
        self._rebalances = counter("rebalances_total", "Changes of this process's partitions.")
        self._restore = histogram("restore_seconds", "Time to rebuild a partition's state.", (*_STEP_SECONDS[9:], 30, 60, 300, 1800))
        self._snapshot = histogram(
            "snapshot_seconds", "Time to write a snapshot of a partition's state.", (*_STEP_SECONDS[9:], 30, 60, 300, 1800)
        )
        self._snapshot_age = gauge(
            "snapshot_age_seconds", "Age of the state in a partition's newest snapshot.", "stage", "topic", "partition"
        )
        self._reachable = gauge("broker_reachable", "1 while a Kafka broker answers.", "stage")
        self._model_info = gauge("model_info", "1 for each model in use.", "model", "version", "device")
        self._model_rows = counter("model_rows_total", "Rows that a model scored or learnt.", "model")
        self._model_seconds = counter("model_seconds", "Time that a model took.", "model")
        self._models: dict[str, tuple[str, str]] = {}
        self._device_memory = gauge("device_memory_bytes", "Memory in use on the compute device.")
        self._coverage = gauge(
            "forecast_coverage_ratio", "Share of outcomes at or below a quantile, lately; the level itself where kept.", "bucket", "level"
        )
        self._wape = gauge("forecast_wape_ratio", "Absolute error over demand, lately, mean of the horizon groups.", "bucket", "expert")
        self._intent_error = gauge("intent_calibration_error_ratio", "Mean gap between predicted and seen purchase rates, lately.")
        self._spikes = counter("spikes_total", "Spikes opened, by severity.", "severity")
        self._alerts = counter("alerts_total", "Alerts by what became of them; silenced: spikes that nobody was told of.", "state")
        self._alerts_open = gauge("alerts_open", "Alerts that are open.")
        self._deliveries = counter("alert_deliveries_total", "Attempts to tell a receiver, by outcome.", "receiver", "outcome")
        self._deliveries_pending = gauge("alert_deliveries_pending", "Requests that a webhook has not taken yet.", "receiver")

    # ---- what came in

    def events(self, source: str, counts: Mapping[str, int]) -> None:
        """Counts rows of a source by event name."""
        for event, count in counts.items():
            self._events.labels(source, event).inc(count)

    def dead_letter(self, source: str, reason: str, messages: int) -> None:
        """Counts messages that could not be used."""
        self._dead_letters.labels(source, reason).inc(messages)

    def late(self, source: str, outcome: str, events: int) -> None:
        """Counts late rows: `corrected` or `dropped`."""
        self._late.labels(source, outcome).inc(events)

    def lag(self, partition: tuple[str, int], events: int) -> None:
        """Says how many messages of a partition are not yet committed.

        Args:
            partition: topic and number.
            events: messages.
        """
        self._lag.labels(*partition).set(events)

    def watermark(self, stage: str, partition: tuple[str, int], lag_seconds: float) -> None:
        """Says how far a partition's watermark is behind the clock.

        Args:
            stage: ingest or forecast.
            partition: topic and number; one stage reads several topics, so the label is `topic-number`.
            lag_seconds: may be negative for a shop whose clock is ahead.
        """
        self._watermark_lag.labels(stage, _named(partition)).set(lag_seconds)

    # ---- what was done

    def published(self, topic: str, records: int) -> None:
        """Counts committed records."""
        self._published.labels(topic).inc(records)

    def commit(self, stage: str, outcome: str, seconds: float) -> None:
        """Counts a transaction that ended `committed`, `aborted` or `unknown`."""
        self._commits.labels(stage, outcome).inc()
        self._commit_seconds.observe(seconds)

    def batch(self, stage: str, events: int) -> None:
        """Says how many events (ingest) or blocks (forecast) an iteration took; only ingest's are a metric."""
        if stage == "ingest":
            self._batch_events.observe(events)

    def step(self, stage: str, step: str, seconds: float) -> None:
        """Says how long a step took: decode, columns, engine, model, publish or commit."""
        self._step_seconds.labels(stage, step).observe(seconds)

    def event_to_prediction(self, topic: str, seconds: NDArray[np.float64]) -> None:
        """Says how old the newest messages were on which records rest, when these were committed.

        Args:
            topic: of the records.
            seconds: float64[n], one a record.
        """
        observe_many(self._event_to_prediction.labels(topic), seconds)

    def rebalanced(self) -> None:
        """Counts a change of this process's partitions."""
        self._rebalances.inc()

    def restored(self, seconds: float) -> None:
        """Says how long it took to rebuild a partition's state."""
        self._restore.observe(seconds)

    def snapshot_taken(self, seconds: float) -> None:
        """Counts a snapshot.

        Args:
            seconds: from the copy of the state to the manifest.
        """
        self._snapshot.observe(seconds)

    def snapshot_age(self, stage: str, partition: tuple[str, int], seconds: float) -> None:
        """Says how old a partition's newest snapshot is."""
        self._snapshot_age.labels(stage, *map(str, partition)).set(seconds)

    def reachable(self, stage: str, answers: bool) -> None:
        """Says whether a broker answers a stage."""
        self._reachable.labels(stage).set(answers)

    def forget(self, stage: str, partition: tuple[str, int]) -> None:
        """Takes a partition that somebody else owns now out of the gauges, so that no old lag stays up."""
        self._lag.remove_by_labels({"topic": partition[0], "partition": str(partition[1])})
        self._watermark_lag.remove_by_labels({"stage": stage, "partition": _named(partition)})

    # ---- what is kept

    def sessions_live(self, sessions: int) -> None:
        """Says how many sessions have not ended."""
        self._sessions_live.set(sessions)

    def items_live(self, items: int) -> None:
        """Says how many items have state."""
        self._items_live.set(items)

    def evicted(self, kind: str, slots: int) -> None:
        """Counts state given up: of a `session` or an `item`."""
        self._evictions.labels(kind).inc(slots)

    # ---- what was predicted

    def model(self, model: str, version: str, device: str) -> None:
        """Names a model in use; its older versions no longer are."""
        if self._models.get(model) == (version, device):
            return
        self._model_info.remove_by_labels({"model": model})
        self._model_info.labels(model, version, device).set(1)
        self._models[model] = (version, device)

    def model_work(self, model: str, rows: int, seconds: float) -> None:
        """Counts rows that a model scored or learnt, and the time that it took."""
        self._model_rows.labels(model).inc(rows)
        self._model_seconds.labels(model).inc(seconds)

    def device_memory(self, used_bytes: int) -> None:
        """Says how much of the compute device's memory is in use."""
        self._device_memory.set(used_bytes)

    def forecast_quality(self, bucket: str, metrics: Mapping[str, object]) -> None:
        """Publishes a forecaster's running scores.

        Args:
            bucket: its size.
            metrics: "wape": {expert: {horizon group: ratio}}, whose mean over the groups is shown, and "coverage": {level: {"below",
                "at_or_below"}}, of which the share nearest to the level is: it differs from the level only where that is not kept.
        """
        scores = cast("Mapping[str, Mapping[str, Mapping[str, float]]]", metrics)
        for expert, groups in scores.get("wape", {}).items():
            if groups:
                self._wape.labels(bucket, expert).set(sum(groups.values()) / len(groups))
        for level, shares in scores.get("coverage", {}).items():
            self._coverage.labels(bucket, level).set(min(max(float(level), shares["below"]), shares["at_or_below"]))

    def intent_calibration_error(self, ratio: float) -> None:
        """Says how far predicted purchase rates are from those seen."""
        self._intent_error.set(ratio)

    def spikes(self, severity: str, spikes: int) -> None:
        """Counts opened spikes."""
        self._spikes.labels(severity).inc(spikes)

    # ---- who was told

    def alert(self, state: str) -> None:
        """Counts a change of an alert: `open`, `updated`, `escalated` or `resolved`."""
        self._alerts.labels(state).inc()

    def alerts_silenced(self, spikes: int) -> None:
        """Counts spikes that a rule silenced."""
        self._alerts.labels("silenced").inc(spikes)

    def alerts_open(self, alerts: int) -> None:
        """Says how many alerts are open."""
        self._alerts_open.set(alerts)

    def delivery(self, receiver: str, outcome: str) -> None:
        """Counts an attempt to tell a receiver: `delivered`, `retry` or `refused`."""
        self._deliveries.labels(receiver, outcome).inc()

    def deliveries_pending(self, receiver: str, requests: int) -> None:
        """Says how many requests a receiver has not taken yet."""
        self._deliveries_pending.labels(receiver).set(requests)

    def text(self) -> str:
        """Everything in Prometheus's text format."""
        return generate_latest(self.registry).decode()


def _named(partition: tuple[str, int]) -> str:
    return f"{partition[0]}-{partition[1]}"


def observe_many(histogram: Histogram, values: NDArray[np.floating[Any]]) -> None:
    """Observes all values at once: `observe` takes 1 µs a value, and a commit has thousands.

    Args:
        histogram: one child (its labels given).
        values: floating[n].
    """
    if not len(values):
        return
    # prometheus_client has no public call for this; a child's buckets are counters that hold values of (bound[i - 1], bound[i]].
    counts = np.bincount(np.searchsorted(histogram._upper_bounds, values, side="left"), minlength=len(histogram._upper_bounds))
    histogram._sum.inc(float(values.sum()))
    for at in np.nonzero(counts)[0].tolist():
        histogram._buckets[at].inc(int(counts[at]))


def read_exposition(text: str, families: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Reads what `Metrics.text` writes: name, labels and value of each sample.

    Args:
        text: in Prometheus's text format.
        families: how the names of those that are wanted begin; the others are not looked at.

    Raises:
        ValueError: it is no such text.
    """
    lines = [line for line in text.splitlines() if line.startswith(families)]
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            yield sample.name, sample.labels, float(sample.value)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_address = True

    def server_bind(self) -> None:
        # Without http.server's look-up of the host's full name, which waits for a name server that may not answer.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        # A scraper that hangs up is no news; http.server would print a traceback to stderr.
        log.debug("a request from %s failed", client_address, exc_info=True)  # noqa: LOG014 — called while the exception is handled


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = 10.0  # a reader that says nothing must not keep its thread

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        log.debug(format, *args)


class Endpoint:
    """The open port. Close it, or use it in a with block."""

    def __init__(self, server: WSGIServer) -> None:
        self._server = server
        self._thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port in use (another than asked for where that was 0)."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Answers nobody any more; a second call does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Registered(Protocol):
    """Whatever has a registry of metrics."""

    @property
    def registry(self) -> CollectorRegistry: ...


def serve(metrics: Registered, host: str, port: int, health: Probe, ready: Probe, key: str = "[metrics] port") -> Endpoint:
    """Answers GET /metrics, /healthz and /readyz in threads of its own.

    Args:
        metrics: what to tell.
        host: address to listen on.
        port: 0 for any free one.
        health: whether the process should live on; False makes Kubernetes restart it.
        ready: whether it does its work now.
        key: what to change where the port is taken.

    Raises:
        UserError: the address cannot be listened on.
    """
    application = _application(metrics, health, ready)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        server = (_Server6 if family == socket.AF_INET6 else _Server)((host, port), _Quiet)
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        why = "another process has it" if taken else str(error)
        raise UserError(f"metrics must listen on {host}:{port}, but {why}: choose another {key}, or 0 for none") from error
    server.set_app(application)
    return Endpoint(server)


def _application(metrics: Registered, health: Probe, ready: Probe) -> WSGIApplication:
    exposition: WSGIApplication = make_wsgi_app(metrics.registry)
    probes = {"/healthz": health, "/readyz": ready}

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        if path != "/metrics" and path not in probes:
            return _plain(start_response, "404 Not Found", "here are /metrics, /healthz and /readyz")
        if method not in ("GET", "HEAD"):
            return _plain(start_response, "405 Method Not Allowed", "GET only", ("Allow", "GET, HEAD"))
        if path == "/metrics":
            body = exposition({**environ, "REQUEST_METHOD": "GET"}, start_response)
        else:
            good, reason = probes[path]()
            body = _plain(start_response, "200 OK" if good else "503 Service Unavailable", reason or ("ok" if good else "not ok"))
        return body if method == "GET" else []

    return answer


def _plain(start_response: StartResponse, status: str, text: str, *headers: tuple[str, str]) -> list[bytes]:
    body = (text + "\n").encode()
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), *headers])
    return [body]
