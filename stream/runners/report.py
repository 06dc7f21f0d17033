"""What the loops tell: forwarded to Prometheus, and summed up for summaries, the benchmark and the terminal."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.kafka.log import Partition
from stream.metrics import Metrics

_LATENCIES = 200_000
"""Latencies kept for the percentiles: the newest."""


class Report:
    """Observer of both stages. Several loops' threads tell it things.

    Args:
        metrics: where everything is forwarded to.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self._lock = threading.Lock()
        self.event_counts: dict[str, Counter[str]] = {}
        self.reasons: dict[str, Counter[str]] = {}
        self.lateness: dict[str, Counter[str]] = {}
        self.records: Counter[str] = Counter()
        self.commits: Counter[str] = Counter()
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.restores = 0
        self.sessions = 0
        self.items = 0
        self.wape: dict[str, Mapping[str, Mapping[str, float]]] = {}
        self.coverage: dict[str, Mapping[str, Any]] = {}
        self.watermarks: dict[tuple[str, Partition], float] = {}
        self._latencies: list[NDArray[np.float64]] = []
        self._kept = 0

    # -- the loops ---------------------------------------------------------------------------------------------------

    def step(self, stage: str, step: str, seconds: float) -> None:
        self.metrics.step(stage, step, seconds)
        self.seconds[stage, step] += seconds

    def commit(self, stage: str, outcome: str, seconds: float) -> None:
        self.metrics.commit(stage, outcome, seconds)
        self.seconds[stage, "commit"] += seconds
        with self._lock:
            self.commits[outcome] += 1

    def batch(self, stage: str, events: int) -> None:
        self.metrics.batch(stage, events)

    def published(self, topic: str, records: int) -> None:
        self.metrics.published(topic, records)
        with self._lock:
            self.records[topic] += records

    def event_to_prediction(self, topic: str, seconds: NDArray[np.float64]) -> None:
        if not topic:
            return
        self.metrics.event_to_prediction(topic, seconds)
        with self._lock:
            self._latencies.append(seconds)
            self._kept += len(seconds)
            while self._kept - len(self._latencies[0]) > _LATENCIES:
                self._kept -= len(self._latencies.pop(0))

    def rebalanced(self) -> None:
        self.metrics.rebalanced()

    def restored(self, seconds: float) -> None:
        self.metrics.restored(seconds)
        self.restores += 1

    def reachable(self, stage: str, answer: bool) -> None:
        self.metrics.reachable(stage, answer)

    def lag(self, partition: Partition, events: int) -> None:
        self.metrics.lag(partition, events)

    def watermark(self, stage: str, partition: Partition, lag_seconds: float) -> None:
        self.metrics.watermark(stage, partition, lag_seconds)
        self.watermarks[stage, partition] = lag_seconds

    def forget(self, stage: str, partition: Partition) -> None:
        self.metrics.forget(stage, partition)
        self.watermarks.pop((stage, partition), None)

    # -- ingest ------------------------------------------------------------------------------------------------------

    def events(self, source: str, counts: Mapping[str, int]) -> None:
        self.metrics.events(source, counts)
        with self._lock:
            self.event_counts.setdefault(source, Counter()).update(counts)

    def dead_letter(self, source: str, reason: str, messages: int) -> None:
        self.metrics.dead_letter(source, reason, messages)
        with self._lock:
            self.reasons.setdefault(source, Counter())[reason] += messages

    def late(self, source: str, outcome: str, events: int) -> None:
        self.metrics.late(source, outcome, events)
        with self._lock:
            self.lateness.setdefault(source, Counter())[outcome] += events

    def sessions_live(self, sessions: int) -> None:
        self.metrics.sessions_live(sessions)
        self.sessions = sessions

    def intent_calibration_error(self, ratio: float) -> None:
        self.metrics.intent_calibration_error(ratio)

    def model(self, model: str, version: str, device: str) -> None:
        self.metrics.model(model, version, device)

    # -- forecast ----------------------------------------------------------------------------------------------------

    def items_live(self, items: int) -> None:
        self.metrics.items_live(items)
        self.items = items

    def evicted(self, kind: str, slots: int) -> None:
        self.metrics.evicted(kind, slots)

    def spikes(self, severity: str, spikes: int) -> None:
        self.metrics.spikes(severity, spikes)

    def forecast_quality(self, bucket: str, metrics: Mapping[str, Any]) -> None:
        self.metrics.forecast_quality(bucket, metrics)
        self.wape[bucket] = metrics.get("wape", {})
        self.coverage[bucket] = metrics.get("coverage", {})

    # -- summaries ---------------------------------------------------------------------------------------------------

    def latency_ms(self) -> dict[str, float | None]:
        """Percentiles of event to prediction (from the event's Kafka time stamp to its prediction's commit), milliseconds."""
        with self._lock:
            kept = np.concatenate(self._latencies) if self._latencies else np.zeros(0)
        if not len(kept):
            return {"p50": None, "p99": None}
        p50, p99 = np.percentile(kept, [50, 99]) * 1000
        return {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}

    def forget_latencies(self) -> None:
        """Starts the percentiles anew."""
        with self._lock:
            self._latencies, self._kept = [], 0

    def total_events(self) -> int:
        """Rows taken from all sources."""
        with self._lock:
            return sum(sum(counts.values()) for counts in self.event_counts.values())
