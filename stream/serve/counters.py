"""What `nowcart serve` measures of itself. Labels stay bounded: routes and reasons, never an item, a session or a key."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_LATENCY_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 60, 300)


class Counters:
    """The metrics of one process.

    Args:
        process: with the process's own memory, processor time and garbage collections.
    """

    def __init__(self, process: bool = True) -> None:
        self.registry = registry = CollectorRegistry(auto_describe=True)
        if process:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            GCCollector(registry=registry)
        self._requests = Counter(
            "nowcart_serve_requests_total", "Requests answered, by route and status.", ("route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "nowcart_serve_request_seconds", "Time to answer, streams left out.", ("route",), buckets=_SECONDS, registry=registry
        )
        self._records = Counter("nowcart_serve_records_total", "Records read.", ("topic",), registry=registry)
        self._unreadable = Counter("nowcart_serve_unreadable_total", "Records that could not be read.", registry=registry)
        self._latency = Histogram(
            "nowcart_serve_record_seconds", "From a record's own stamp to its being served.", buckets=_LATENCY_SECONDS, registry=registry
        )
        self._events = Counter("nowcart_serve_events_sent_total", "Events handed to readers of streams.", registry=registry)
        self._ended = Counter("nowcart_serve_readers_ended_total", "Readers of streams that left, by why.", ("reason",), registry=registry)
        self._readers = Gauge("nowcart_serve_readers", "Readers of streams.", registry=registry)
        self._items = Gauge("nowcart_serve_items", "Items that are known.", registry=registry)
        self._sessions = Gauge("nowcart_serve_sessions", "Sessions that are known.", registry=registry)
        self._reachable = Gauge("nowcart_serve_broker_reachable", "1 while a Kafka broker answers.", registry=registry)
        self._refused = Counter("nowcart_serve_refused_total", "Requests of nobody we know.", registry=registry)

    def request(self, route: str, status: int, seconds: float | None) -> None:
        """Counts a request; None: a stream, whose length says nothing."""
        self._requests.labels(route, str(status)).inc()
        if status == 401:
            self._refused.inc()
        if seconds is not None:
            self._seconds.labels(route).observe(seconds)

    def records(self, topic: str, records: int, unreadable: int, newest_age_seconds: float | None) -> None:
        """Counts records; the age is that of the newest of them, None while the past is read."""
        self._records.labels(topic).inc(records)
        self._unreadable.inc(unreadable)
        if newest_age_seconds is not None:
            self._latency.observe(max(0.0, newest_age_seconds))

    def events_sent(self, events: int) -> None:
        """Counts events handed to connections."""
        self._events.inc(events)

    def reader_ended(self, reason: str) -> None:
        """Counts a reader that left: closed, dropped, expired."""
        self._ended.labels(reason).inc()

    def watch(
        self, readers: Callable[[], float], items: Callable[[], float], sessions: Callable[[], float], up: Callable[[], bool]
    ) -> None:
        """Names what the gauges are read from when somebody asks."""
        self._readers.set_function(readers)
        self._items.set_function(items)
        self._sessions.set_function(sessions)
        self._reachable.set_function(lambda: float(up()))
