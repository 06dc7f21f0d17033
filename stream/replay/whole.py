"""A whole run in one go: an engine to the end of what has been sent, its outputs in files, and a summary."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from stream.config import Config
from stream.metrics import Metrics
from stream.replay.drain import Drain
from stream.runners.engine import Engine
from stream.runners.report import Report
from stream.topics import OUTPUTS

DEAD_LETTERS = "deadletter"


class WholeRun:
    """Runs the engine over everything that stands in the sources' topics.

    Args:
        config: with Kafka as it can be reached.
        out: folder for the files; made if it is not there.
    """

    def __init__(self, config: Config, out: Path) -> None:
        self.config = config
        self.out = out
        self.report = Report(Metrics(process=False))
        self.seconds = 0.0
        topics = {config.output.topic(name): out / f"{name}.ndjson" for name in (*OUTPUTS, DEAD_LETTERS)}
        self.files: Mapping[str, Path] = topics
        self.records: Mapping[str, int] = dict.fromkeys(topics, 0)

    def run(self, stop: threading.Event) -> bool:
        """Runs it.

        Args:
            stop: set from outside to end it early.

        Returns:
            Whether it came to the end; else the files hold what was published by then.

        Raises:
            UserError: a file cannot be written, or the engine refuses.
            LogError: Kafka cannot be used.
        """
        halt = threading.Event()
        plain = frozenset(self.config.output.topic(name) for name in OUTPUTS)
        engine = Engine(self.config, self.report, until_end=True)
        with Drain(self.config.kafka, self.files, plain, halt.set) as drain, _passing_on(stop, halt):
            began = time.monotonic()
            engine.run(halt)
            self.seconds = time.monotonic() - began
            drain.finish()
            self.records = dict(drain.records)
        return not stop.is_set()

    def event_time_ms(self) -> int | None:
        """How far the slowest partition of the forecasts has come, epoch milliseconds; None before it is known."""
        now_ms = time.time() * 1000
        marks = [now_ms - lag * 1000 for (stage, _), lag in list(self.report.watermarks.items()) if stage == "forecast"]
        return int(min(marks)) if marks else None

    def summary(self, rows: Mapping[str, int]) -> dict[str, Any]:
        """What contracts call summary.json.

        Args:
            rows: sent, by source.
        """
        report = self.report
        sources: dict[str, dict[str, Any]] = {}
        events = 0
        for name in self.config.sources:
            counts = report.event_counts.get(name, Counter())
            late = report.lateness.get(name, Counter())
            understood = sum(count for event, count in counts.items() if event != "ignored")
            events += understood
            sources[name] = {
                "rows": rows.get(name, 0),
                "events": understood,
                "dead_letters": dict(sorted(report.reasons.get(name, Counter()).items())),
                "late": {"corrected": late["corrected"], "dropped": late["dropped"]},
            }
        return {
            "sources": sources,
            "records": dict(self.records),
            "seconds": round(self.seconds, 3),
            "events_per_second": round(events / self.seconds, 1) if self.seconds else None,
            "commits": report.commits["committed"],
            "event_to_prediction_ms": report.latency_ms(),
        }

    def write_summary(self, rows: Mapping[str, int]) -> Path:
        """Writes summary.json; returns its path.

        Args:
            rows: sent, by source.
        """
        path = self.out / "summary.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self.summary(rows)), indent=2) + b"\n")
        return path


class _passing_on:  # noqa: N801 - used as a function
    """While it lasts, one event sets another."""

    def __init__(self, from_: threading.Event, to: threading.Event) -> None:
        self._from, self._to = from_, to
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stop-watch", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            if self._from.is_set():
                self._to.set()
                return
