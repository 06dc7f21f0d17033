"""The ingest engine against a slow, obvious reference that takes one event at a time, and against itself cut differently."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.engine.activity import Source, column
from stream.engine.columns import MICRO, Event, IntentColumns
from stream.engine.ingest import Ingested, IngestShard, IngestSpec
from stream.engine.sessions import SessionBook, SessionSpec
from stream.engine.time import Zone
from tests.engine.fakes import CountingScorer, click_rows

MINUTE = 60_000
BASE = 1_700_000_000_000 // (15 * MINUTE) * (15 * MINUTE)
GAP = 30 * MINUTE
LATE = 60_000
ALLOWED = 40 * MINUTE


def make_shard(by_user: bool = False, every_event: bool = False, max_sessions: int = 1_000) -> IngestShard:
    spec = IngestSpec(LATE, ALLOWED, "15m", 15 * MINUTE, Zone("UTC"), 3, max_sessions, True)
    session = SessionSpec(GAP, every_event, 0.02, (0.1,), by_user)
    return IngestShard(Source("clicks", 0), "clickstream", spec, SessionBook(session, CountingScorer(), "test"))


def records_of(columns: list[IntentColumns]) -> list[dict[str, Any]]:
    return [
        {
            "session": c.session[i],
            "at": int(c.issued_at_ms[i]),
            "events": int(c.events[i]),
            "p": float(c.p_purchase[i]),
            "ended": bool(c.ended[i]),
            "purchased": bool(c.purchased[i]),
        }
        for c in columns
        for i in range(len(c))
    ]


def sums_of(results: list[Ingested]) -> dict[tuple[str, int, int], tuple[int, ...]]:
    """(item, epoch, grain) -> (views, carts, lines, units) over all blocks."""
    sums: dict[tuple[str, int, int], tuple[int, ...]] = {}
    for done in results:
        for blocks in done.blocks:
            for block in blocks:
                for segment in block.segments:
                    item = np.frombuffer(segment.columns["item"], "<u4")
                    grain = np.frombuffer(segment.columns["grain"], "<i8")
                    values = [column(segment, name, len(item)) for name in ("views", "carts", "lines", "units")]
                    for i in range(len(item)):
                        key = (segment.items[item[i]], segment.epoch, int(grain[i]))
                        old = sums.get(key, (0, 0, 0, 0))
                        sums[key] = tuple(o + int(v[i]) for o, v in zip(old, values, strict=True))
    return sums


class Reference:
    """One event at a time, dictionaries and ifs."""

    def __init__(self, every_event: bool) -> None:
        self.every_event = every_event
        self.max_ms: int | None = None
        self.sessions: dict[str, dict[str, Any]] = {}
        self.over: list[dict[str, Any]] = []
        self.learnt = 0
        self.grain: int | None = None
        self.records: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.sums: dict[tuple[str, int, int], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        self.dropped = 0

    def end(self, key: str) -> None:
        s = self.sessions.pop(key)
        at = s["last"] + GAP
        self.records[key].append(
            {"session": key, "at": at, "events": s["n"], "p": float(s["bought"]), "ended": True, "purchased": s["bought"]}
        )
        self.over.append(s)

    def take(self, time: int, key: str, event: Event, item: str) -> None:
        before = None if self.max_ms is None else self.max_ms - LATE
        self_max = time if self.max_ms is None else max(self.max_ms, time)
        after = self_max - LATE
        if time < after - ALLOWED:
            self.dropped += 1
            return
        self.max_ms = self_max
        grain = after // (15 * MINUTE)
        if self.grain is None or grain > self.grain:
            self.grain = grain
            boundary = grain * 15 * MINUTE
            for other in [k for k, s in self.sessions.items() if s["last"] + GAP <= boundary]:
                self.end(other)
            done = [s for s in self.over if s["last"] + GAP <= boundary]
            self.over = [s for s in self.over if s["last"] + GAP > boundary]
            self.learnt += len(done)
        s = self.sessions.get(key)
        if s is not None and (time > s["last"] + GAP or (before is not None and before >= s["last"] + GAP)):
            self.end(key)
            s = None
        if s is None:
            s = self.sessions[key] = {"last": time, "n": 0, "bought": False, "published": 0.0}
        s["n"] += 1
        s["last"] = max(s["last"], time)
        turned = event is Event.PURCHASE and not s["bought"]
        s["bought"] |= event is Event.PURCHASE
        p = 1.0 if s["bought"] else ((s["n"] % 64) + (self.learnt % 8) * 8) / 256
        moved = abs(np.float32(p) - np.float32(s["published"])) >= np.float32(0.02)
        if self.every_event or turned or moved or (p >= 0.1) != (s["published"] >= 0.1):
            s["published"] = p
            self.records[key].append({"session": key, "at": time, "events": s["n"], "p": p, "ended": False, "purchased": s["bought"]})
        if item:
            row = self.sums[(item, grain, time // (15 * MINUTE))]
            row[0] += event is Event.VIEW
            row[1] += event is Event.CART
            row[2] += event is Event.PURCHASE
            row[3] += MICRO * (event is Event.PURCHASE)

    def finish(self) -> None:
        for key in list(self.sessions):
            self.end(key)


steps = st.one_of(st.integers(0, 3_000), st.integers(0, 4 * MINUTE), st.integers(-50 * MINUTE, 40 * MINUTE))
streams = st.lists(
    st.tuples(
        steps,
        st.sampled_from("abcd"),
        st.sampled_from([Event.VIEW, Event.CART, Event.PURCHASE, Event.SEARCH]),
        st.sampled_from(["", "x", "y", "z"]),
    ),
    min_size=1,
    max_size=80,
)


def absolute(stream: list[tuple[int, str, Event, str]]) -> list[tuple[int, str, Event, str]]:
    time, events = BASE, []
    for step, session, event, item in stream:
        time += step
        events.append((time, session, event, item))
        time = max(time, BASE)
    return events


def run_cut(events: list[tuple[int, str, Event, str]], cuts: list[int], every_event: bool) -> tuple[list[Ingested], CountingScorer]:
    shard = make_shard(every_event=every_event)
    bounds = sorted({0, len(events), *[c % (len(events) + 1) for c in cuts]})
    results = [shard.step(click_rows(events[a:b], a)) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    results.append(shard.finish())
    assert shard.book is not None
    model = shard.book.model
    assert isinstance(model, CountingScorer)
    return results, model


@settings(max_examples=200, deadline=None)
@given(streams, st.lists(st.integers(0, 1000), max_size=8), st.booleans())
def test_engine_is_the_reference_however_the_log_is_cut(stream, cuts, every_event):  # type: ignore[no-untyped-def]
    events = absolute(stream)
    reference = Reference(every_event)
    for event in events:
        reference.take(*event)
    reference.finish()
    results, _ = run_cut(events, cuts, every_event)

    by_session: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for done in results:
        for record in records_of(done.intents):
            by_session[record["session"]].append(record)
    assert dict(by_session) == dict(reference.records)
    assert sums_of(results) == {key: tuple(value) for key, value in reference.sums.items()}
    assert sum(done.late_dropped for done in results) == reference.dropped


@settings(max_examples=100, deadline=None)
@given(streams, st.lists(st.integers(0, 1000), max_size=8))
def test_learning_does_not_depend_on_the_cut(stream, cuts):  # type: ignore[no-untyped-def]
    events = absolute(stream)
    assert run_cut(events, cuts, False)[1].settled == run_cut(events, [], False)[1].settled


def test_epochs_are_announced_to_every_partition_once() -> None:
    shard = make_shard()
    events = [(BASE + LATE + i * 20 * MINUTE, "a", Event.VIEW, "x") for i in range(4)]
    done = shard.step(click_rows(events))
    first = BASE // (15 * MINUTE)
    assert {blocks[-1].reached for blocks in done.blocks} == {first + 4}
    assert all(len(blocks) == 1 for blocks in done.blocks)
    again = shard.step(click_rows([(BASE + LATE + 60 * MINUTE, "a", Event.SEARCH, "")], 4))
    assert all(not blocks for blocks in again.blocks), "the epoch has not moved and there is nothing to tell"


def test_a_session_cut_from_the_user_is_named_by_user_and_start() -> None:
    shard = make_shard(by_user=True, every_event=True)
    events = [(BASE, "a", Event.VIEW, "x"), (BASE + GAP + 1, "a", Event.VIEW, "x")]
    names = [r["session"] for r in records_of(shard.step(click_rows(events)).intents)]
    assert names == [f"ua:{BASE}", f"ua:{BASE}", f"ua:{BASE + GAP + 1}"]


def test_a_session_of_many_events_is_one_session() -> None:
    shard = make_shard()
    events = [(BASE + i * 10, "bot", Event.VIEW, "x") for i in range(100_000)]
    records = records_of(shard.step(click_rows(events)).intents) + records_of(shard.finish().intents)
    assert records[-1]["events"] == 100_000
    assert records[-1]["ended"]


@pytest.mark.parametrize("limit", [BASE - 1, BASE + 5_000])
def test_rows_until_keeps_the_watermark_below_the_limit_but_always_moves(limit: int) -> None:
    shard = make_shard()
    times = np.array([BASE + LATE, BASE + LATE + 4_000, BASE + LATE + 9_000], dtype=np.int64)
    assert shard.rows_until(times, limit) == (1 if limit < BASE else 2)


def test_the_cap_ends_the_longest_silent_sessions_at_ticks_however_the_log_is_cut() -> None:
    events = [(BASE + LATE + i * 1_000, f"s{i}", Event.VIEW, "x") for i in range(40)]
    events += [(BASE + LATE + 16 * MINUTE, "s0", Event.VIEW, "x"), (BASE + LATE + 17 * MINUTE, "s39", Event.VIEW, "x")]
    ended: list[list[dict[str, Any]]] = []
    for cuts in ([0, 42], [0, 5, 41, 42]):
        shard = make_shard(max_sessions=10)
        results = [shard.step(click_rows(events[a:b], a)) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
        ended.append([r for done in results for r in records_of(done.intents) if r["ended"]])
        assert shard.book is not None
        assert shard.book.evicted == 30
        assert shard.book.live == 11, "s0 came back as a new session after the tick"
    assert ended[0] == ended[1]
    assert [r["session"] for r in ended[0]] == [f"s{i}" for i in range(30)]
