"""The forecast engine: what it publishes depends on what the sources said, not on how their blocks were interleaved or cut."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.protocol import DemandSpec
from stream.engine.activity import Agreement, Block, Source, decode_block, encode_block
from stream.engine.columns import MICRO, DemandColumns, Event, Rows, SpikeColumns
from stream.engine.forecast import AgreementError, ForecastShard, ForecastSpec, ResolutionSpec
from stream.engine.ingest import IngestShard, IngestSpec
from stream.engine.time import Zone
from stream.records import encode_demand, encode_spikes

MINUTE = 60_000
HOUR = 60 * MINUTE
BASE = 1_700_006_400_000 // (24 * HOUR) * 24 * HOUR
LATE, ALLOWED = 30_000, 2 * HOUR
LEVELS = (0.1, 0.5, 0.9)


def spec(zone: str = "UTC", smallest: str = "15m", max_items: int = 1_000) -> ForecastSpec:
    def resolution(size: str, horizon: int, seasons: tuple[int, ...]) -> ResolutionSpec:
        return ResolutionSpec(DemandSpec(size, horizon, seasons, LEVELS, (2,), (1, horizon), 0, ("seasonal_naive", "ewma", "tsb")), 28)

    return ForecastSpec(
        Agreement(15 * MINUTE, smallest, zone),
        Zone(zone),
        (resolution("15m", 4, (4,)), resolution("1d", 3, ())),
        LATE,
        ALLOWED,
        2 * HOUR,
        90 * 24 * HOUR,
        max_items,
        "cpu",
        "v",
    )


def order_rows(lines: list[tuple[int, str, float]], first_offset: int) -> Rows:
    n = len(lines)
    return Rows(
        offset=np.arange(first_offset, first_offset + n, dtype=np.int64),
        stamp_ms=np.zeros(n, np.int64),
        time_ms=np.array([t for t, _, _ in lines], dtype=np.int64),
        item=[item for _, item, _ in lines],
        quantity=np.array([round(q * MICRO) for _, _, q in lines], dtype=np.int64),
    )


def blocks_of(lines: list[tuple[int, str, float]], partition: int, cuts: list[int]) -> list[Block]:
    """What ingest sends about one source partition, its log cut as told; ends included."""
    shard = IngestShard(
        Source("orders", partition), "orders", IngestSpec(LATE, ALLOWED, "15m", 15 * MINUTE, Zone("UTC"), 1, 1_000, True), None
    )
    bounds = sorted({0, len(lines), *[c % (len(lines) + 1) for c in cuts]})
    blocks = [b for lo, hi in zip(bounds[:-1], bounds[1:], strict=True) for b in shard.step(order_rows(lines[lo:hi], lo)).blocks[0]]
    return [*blocks, *shard.finish().blocks[0]]


def roster(partitions: int) -> Block:
    return Block(1, "roster", roster=[Source("orders", p) for p in range(partitions)], agreement=spec().agreement)


def encoded(columns: DemandColumns | SpikeColumns) -> list[tuple[bytes, bytes]]:
    if isinstance(columns, SpikeColumns):
        return list(zip(*encode_spikes(columns), strict=True))
    return [pair for keys, values, _ in encode_demand(columns) for pair in zip(keys, values, strict=True)]


def run(blocks: list[Block], which: ForecastSpec | None = None) -> dict[bytes, list[bytes]]:
    """Records by item, in order."""
    shard = ForecastShard(which or spec())
    out: dict[bytes, list[bytes]] = defaultdict(list)
    for block in blocks:
        for columns in shard.step(decode_block(encode_block(block))):
            for key, value in encoded(columns):
                out[key].append(value)
    return dict(out)


def interleave(parts: list[list[Block]], seed: int) -> list[Block]:
    chance, queues, mixed = random.Random(seed), [list(p) for p in parts], []
    while any(queues):
        queue = chance.choice([q for q in queues if q])
        mixed.append(queue.pop(0))
    return mixed


lines = st.lists(
    st.tuples(st.integers(-20 * MINUTE, 50 * MINUTE), st.sampled_from("abc"), st.sampled_from([1.0, 2.0, -1.0, 0.5])), max_size=25
)


def absolute(stream: list[tuple[int, str, float]]) -> list[tuple[int, str, float]]:
    time, result = BASE + 20 * MINUTE, []
    for step, item, quantity in stream:
        time = max(BASE, time + step)
        result.append((time, item, quantity))
    return result


@settings(max_examples=40, deadline=None)
@given(lines, lines, st.lists(st.integers(0, 99), max_size=4), st.integers(0, 1 << 30))
def test_interleaving_and_cutting_change_nothing(one, two, cuts, seed):  # type: ignore[no-untyped-def]
    logs = [absolute(one), absolute(two)]
    whole = run([roster(2), *[b for p, log in enumerate(logs) for b in blocks_of(log, p, [])]])
    mixed = run([roster(2), *interleave([blocks_of(log, p, cuts) for p, log in enumerate(logs)], seed), roster(2)])
    assert mixed == whole


@settings(max_examples=40, deadline=None)
@given(lines)
def test_observed_is_the_sum_of_what_was_ordered_however_late(stream):  # type: ignore[no-untyped-def]
    import msgspec

    log = absolute(stream)
    expected: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    high = None
    for time, item, quantity in log:
        high = time if high is None else max(high, time)
        if time < high - LATE - ALLOWED:
            continue
        expected[(item, time // (15 * MINUTE) * 15 * MINUTE)][quantity < 0] += abs(quantity)
    last: dict[tuple[str, int], list[float]] = {}
    for values in run([roster(1), *blocks_of(log, 0, [3, 7])]).values():
        for value in values:
            record: dict[str, Any] = msgspec.json.decode(value)
            if record.get("bucket") == "15m" and "returned" in record:
                last[(record["item"], record["bucket_start_ms"])] = [record["observed"], record["returned"]]
    closed = {key: value for key, value in expected.items() if high is not None and key[1] + 15 * MINUTE <= high}
    assert {key: value for key, value in last.items() if key in closed} == closed
    assert all(value == [0, 0] for key, value in last.items() if key not in closed)


def records(blocks: list[Block]) -> list[dict[str, Any]]:
    import msgspec

    return [msgspec.json.decode(value) for values in run(blocks).values() for value in values]


def test_a_late_row_corrects_an_older_bucket_without_a_forecast_and_the_newest_with_one() -> None:
    log = [(BASE, "a", 1.0), (BASE + 26 * HOUR, "a", 1.0), (BASE + 25 * HOUR, "a", 2.0), (BASE + 24 * HOUR + 1, "a", 4.0)]
    log += [(BASE + 26 * HOUR + 30 * MINUTE, "a", 1.0)]
    corrections = [r for r in records([roster(1), *blocks_of(log, 0, [])]) if r.get("corrects")]
    assert [(r["bucket_start_ms"] - BASE, r["observed"]) for r in corrections] == [(24 * HOUR, 4), (25 * HOUR, 2)]
    assert all("quantiles" not in r for r in corrections)


def test_a_late_row_of_yesterday_forecasts_yesterdays_bucket_anew() -> None:
    log = [(BASE + 23 * HOUR, "a", 1.0), (BASE + 24 * HOUR + 40 * MINUTE, "a", 1.0), (BASE + 23 * HOUR + 50 * MINUTE, "a", 5.0)]
    log += [(BASE + 26 * HOUR, "a", 1.0)]
    days = [r for r in records([roster(1), *blocks_of(log, 0, [])]) if r["bucket"] == "1d"]
    assert [(r["observed"], r.get("corrects", False), "quantiles" in r) for r in days] == [(1, False, True), (6, True, True)]


def test_a_silent_source_holds_the_watermark_until_it_is_idle_and_all_idle_hold_it() -> None:
    shard = ForecastShard(spec())
    first, second = Source("orders", 0), Source("orders", 1)
    block = blocks_of([(BASE, "a", 1.0), (BASE + 2 * HOUR, "a", 1.0)], 0, [])[0]
    assert list(shard.step(roster(2))) == []
    assert list(shard.step(block)) == [], "the second source has not spoken"
    assert list(shard.step(Block(1, "idle", second))), "it is idle: the first one's time counts"
    mark = shard.watermark_ms
    assert list(shard.step(Block(1, "idle", first))) == []
    assert shard.watermark_ms == mark


def test_a_source_that_comes_back_from_idleness_with_old_rows_loses_nothing() -> None:
    old = [(BASE + 10 * MINUTE, "b", 3.0)]
    blocks = [roster(2), Block(1, "idle", Source("orders", 1)), *blocks_of([(BASE, "a", 1.0), (BASE + 2 * HOUR, "a", 1.0)], 0, [])[:-1]]
    blocks += [*blocks_of(old, 1, []), Block(1, "end", Source("orders", 0), max_ms=BASE + 2 * HOUR)]
    found = [r for r in records(blocks) if r["item"] == "b" and r["bucket_start_ms"] == BASE and r["bucket"] == "15m"]
    assert [r["observed"] for r in found] == [3]


def test_stages_that_disagree_are_refused() -> None:
    shard = ForecastShard(spec())
    with pytest.raises(AgreementError, match="same configuration"):
        list(shard.step(Block(1, "roster", roster=[], agreement=Agreement(60_000, "1m", "UTC"))))


def test_waiting_segments_are_merged_without_changing_anything() -> None:
    log = [(BASE + i * 100, "abc"[i % 3], float(1 + i % 4)) for i in range(400)] + [(BASE + 2 * HOUR, "a", 1.0)]
    assert run([roster(1), *blocks_of(log, 0, list(range(400)))]) == run([roster(1), *blocks_of(log, 0, [])])


def test_an_item_that_sleeps_long_is_forgotten_and_returns_as_new() -> None:
    log = (
        [(BASE, "a", 1.0), (BASE, "b", 1.0)] + [(BASE + d * 24 * HOUR, "b", 1.0) for d in range(1, 8)] + [(BASE + 7 * 24 * HOUR, "a", 7.0)]
    )
    shard = ForecastShard(replace(spec(), forget_after_ms=4 * 24 * HOUR))
    for block in [roster(1), *blocks_of(log[:-1], 0, [])]:
        for _ in shard.step(block):
            pass
    assert shard.items_live == 1
    assert shard.counters.evicted == 1


def test_events_of_the_clickstream_are_counted_apart() -> None:
    from tests.engine.fakes import click_rows
    from tests.engine.test_ingest import make_shard

    shard = make_shard()
    done = shard.step(
        click_rows([(BASE + i, "s", kind, "x") for i, kind in enumerate([Event.VIEW, Event.VIEW, Event.CART, Event.PURCHASE])])
    )
    blocks = [b for part in done.blocks for b in part] + list(shard.finish().blocks[0])
    end = Block(1, "end", Source("clicks", 0), max_ms=BASE + HOUR)
    found = [
        r
        for r in records([Block(1, "roster", roster=[Source("clicks", 0)], agreement=spec().agreement), *blocks[:-1], end])
        if r["bucket"] == "15m"
    ]
    assert (found[0]["views"], found[0]["carts"], found[0]["orders"], found[0]["observed"]) == (2, 1, 1, 1)


def test_the_cap_forgets_the_longest_unseen_items() -> None:
    log = [(BASE + i * 20 * MINUTE, f"i{i:02}", 1.0) for i in range(30)]
    shard = ForecastShard(spec(max_items=5))
    for block in [roster(1), *blocks_of(log, 0, [])]:
        for _ in shard.step(block):
            pass
    assert sorted(shard.index) == [f"i{i}" for i in range(25, 30)]
    assert shard.counters.evicted == 25
