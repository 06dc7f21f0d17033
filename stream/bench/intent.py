"""How fast intent is by itself: columns in, probabilities out, on so many cores, without Kafka, decoding or records."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from models.intent.scorer import IntentScorer
from models.protocol import IntentSpec, SessionRuns
from stream.bench.shop import configuration
from stream.config import Config
from stream.engine import activity
from stream.engine.columns import Rows
from stream.engine.features import FEATURES
from stream.engine.ingest import IngestShard, IngestSpec
from stream.engine.sessions import SessionBook, SessionSpec
from stream.engine.time import MINUTE_MS, Zone
from stream.mapping import Decoder, Piece
from stream.simulate.shop import Shop
from stream.simulate.spec import benchmark_spec

_BATCH = 20_000
_RATE = 70.0
"""Events a second of event time, as in the whole benchmark: in two hours most sessions end, and are learnt from."""


def measure_intent(events: int, processes: int) -> dict[str, Any]:
    """Events a second of the engine (sessions, features, scores, learning) and of scoring alone, summed over processes.

    Args:
        events: for each process, of a shop of its own.
        processes: one a core.
    """
    if processes == 1:
        found = [_measure((0, events))]
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            found = list(pool.map(_measure, [(seed, events) for seed in range(processes)]))
    return {
        "events": sum(each["events"] for each in found),
        "processes": processes,
        "engine_events_per_second": sum(each["events"] / each["engine_seconds"] for each in found),
        "score_events_per_second": sum(each["events"] / each["score_seconds"] for each in found),
        "engine_events_per_cpu_second": float(np.mean([each["events"] / each["engine_cpu_seconds"] for each in found])),
        "score_events_per_cpu_second": float(np.mean([each["events"] / each["score_cpu_seconds"] for each in found])),
    }


class _Timed:
    """Counts what scoring takes."""

    def __init__(self, scorer: IntentScorer) -> None:
        self.score_of, self.wall, self.cpu = scorer.score, 0.0, 0.0
        setattr(scorer, "score", self.score)  # noqa: B010  (on this scorer alone)

    def score(self, runs: SessionRuns) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        done = self.score_of(runs)
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        return done


def _measure(task: tuple[int, int]) -> dict[str, float]:
    seed, events = task
    config = configuration({}, "bench")
    batches = _batches(config, seed, events)
    _run(config, batches[: max(1, len(batches) // 10)])  # warms up
    return _run(config, batches)


def _batches(config: Config, seed: int, events: int) -> list[Rows]:
    decoder, batches, offset = Decoder(config.sources["clicks"], config.time, Zone(config.time.zone)), [], 0
    for chunk in Shop(benchmark_spec(seed=seed + 1, rate=_RATE)).events(count=events, chunk_events=_BATCH):
        messages = chunk.sources["clicks"]
        piece = Piece(list(range(offset, offset + len(messages))), messages.arrival_ms.tolist(), list(messages.values))
        batches.append(decoder.decode(piece).rows)
        offset += len(messages)
    return batches


def _run(config: Config, batches: list[Rows]) -> dict[str, float]:
    intent, moments = config.intent, config.time
    scorer = IntentScorer(IntentSpec(features=FEATURES))
    session = SessionSpec(intent.session_gap_ms, False, intent.publish_delta, intent.thresholds, False, expected=True)
    spec = IngestSpec(
        moments.out_of_orderness_ms,
        moments.allowed_lateness_ms,
        "1h",
        15 * MINUTE_MS,
        Zone(moments.zone),
        config.activity.partitions,
        sys.maxsize,
        False,
    )
    timed = _Timed(scorer)
    shard = IngestShard(activity.Source("clicks", 0), "clickstream", spec, SessionBook(session, scorer, scorer.version))
    wall, cpu = time.perf_counter(), time.process_time()
    for rows in batches:
        shard.step(rows)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "events": sum(map(len, batches)),
        "engine_seconds": wall, "engine_cpu_seconds": cpu, "score_seconds": timed.wall, "score_cpu_seconds": timed.cpu,
    }  # fmt: skip
