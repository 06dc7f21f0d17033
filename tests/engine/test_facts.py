"""Facts: which of them counts at a moment, and what they make of a bucket, against a timeline painted minute by minute."""

from __future__ import annotations

import random

import numpy as np
import pytest

from stream.engine.activity import MAX_BLOCK_BYTES, facts_by_partition, merge, pack, stamp_source
from stream.engine.activity import Source as SourcePartition
from stream.engine.covariates import MOST_NAMES, Covariates
from stream.engine.facts import NEVER, SHARE, VALUE, FactRows, fact_rows, join_rows, read_facts
from stream.engine.rings import FactTable
from stream.engine.time import Grid, Zone

MINUTE = 60_000
LENGTH = 120
"""Minutes of the timeline; buckets are of 10."""

Fact = tuple[int, float, int, int, int, int]
"""key, value, kind, starts, ends, announced: minutes."""


def random_facts(chance: random.Random, count: int) -> list[Fact]:
    facts = []
    for number in range(count):
        starts = chance.randrange(LENGTH)
        ends = NEVER if chance.random() < 0.4 else starts + chance.randrange(0, 40)
        facts.append((chance.randrange(3), float(chance.randrange(4)), chance.choice([VALUE, SHARE]), starts, ends, number))
    return facts


def fill(table: FactTable, facts: list[Fact]) -> None:
    key, value, kind, starts, ends, announced = (np.array(column) for column in zip(*facts, strict=True))
    zeros = np.zeros(len(facts), np.int64)
    columns = {"starts": starts, "ends": ends, "announced": announced, "kind": kind, "source": zeros, "offset": zeros}
    table.add(key.astype(np.int64), value.astype(np.float64), {name: column.astype(np.int64) for name, column in columns.items()})


def painted(facts: list[Fact], key: int, begin: int, end: int) -> float | None:
    """What a bucket is, minute by minute."""
    winners = []
    for minute in range(begin, end):
        over = [fact for fact in facts if fact[0] == key and fact[3] <= minute < fact[4]]
        if over:
            winners.append(max(over, key=lambda fact: fact[5]))
    if not winners:
        return None
    share = any(fact[2] == SHARE for fact in winners)
    return sum(fact[1] for fact in winners) / (end - begin if share else len(winners))


@pytest.mark.parametrize("seed", range(60))
def test_buckets_are_what_a_painted_timeline_says_in_whatever_order_facts_came_and_after_tidying(seed: int) -> None:
    chance = random.Random(seed)
    facts = random_facts(chance, chance.randrange(1, 25))
    table, rest = FactTable(), facts.copy()
    chance.shuffle(rest)
    while rest:
        count = chance.randrange(1, 6)
        fill(table, rest[:count])
        rest = rest[count:]
    keep = chance.choice([0, 0, 30, 60])
    if chance.random() < 0.7:
        table.tidy(np.arange(len(table)), keep)
    for begin in range(-(-keep // 10) * 10, LENGTH + 40, 10):
        keys, values = table.render(np.arange(len(table)), begin, begin + 10)
        found = dict(zip(keys.tolist(), values.tolist(), strict=True))
        wanted = {key: painted(facts, key, begin, begin + 10) for key in range(3)}
        assert found == {key: pytest.approx(value, rel=1e-6) for key, value in wanted.items() if value is not None}, begin


def test_a_price_that_is_told_every_hour_takes_no_more_room() -> None:
    table = FactTable()
    for hour in range(500):
        fill(table, [(7, 5.0, VALUE, hour, NEVER, hour)])
        table.tidy(np.arange(len(table)), hour - 3)
    assert len(table) == 1
    for hour in range(500, 600):
        fill(table, [(7, float(hour), VALUE, hour, NEVER, hour)])
        table.tidy(np.arange(len(table)), hour - 3)
    assert len(table) <= 5


def rows_of(count: int) -> FactRows:
    return fact_rows(
        item=[f"item {i % 700}" if i % 5 else "" for i in range(count)],
        name=[f"name {i % 3}" for i in range(count)],
        category=["" if i % 5 or i % 2 else "x" for i in range(count)],
        value=np.arange(count, dtype=np.float64),
        announced_ms=np.arange(count, dtype=np.int64),
        offset=np.arange(count, dtype=np.int64),
    )


def plain(rows: FactRows) -> list[tuple[object, ...]]:
    items, names, texts = ([*part, None] for part in (rows.items, rows.names, rows.texts))
    return sorted(
        (items[i] or "", names[n] or "", texts[c] or "", v, s, e, a, o)
        for i, n, c, v, s, e, a, o in zip(
            rows.item.tolist(), rows.name.tolist(), rows.category.tolist(), rows.value.tolist(), rows.starts.tolist(), rows.ends.tolist(),
            rows.announced.tolist(), rows.offset.tolist(), strict=True,
        )
    )  # fmt: skip


def test_facts_survive_packing_splitting_and_merging_and_signals_go_to_every_partition() -> None:
    rows = rows_of(9_000)
    epoch = np.full(len(rows), 3, np.int64)
    source = SourcePartition("offers", 1)
    found = []
    for segments in facts_by_partition(epoch, rows, 3):
        blocks = list(pack(source, 0, segments))
        assert len(segments) > 1
        assert all(sum(map(len, s.facts.columns.values())) < MAX_BLOCK_BYTES for b in blocks for s in b.segments if s.facts)
        for segment in segments:
            stamp_source(segment, source)
        merged = merge(segments)
        assert merged.facts is not None and not merged.columns
        found.append(read_facts(merged.facts))
    everywhere = [row for row in plain(rows) if row[0] == ""]
    for part in found:
        assert [row for row in plain(part) if row[0] == ""] == everywhere
        assert set(part.source.tolist()) == {found[0].source[0]} != {0}
    own = sorted(row for part in found for row in plain(part) if row[0] != "")
    assert own == [row for row in plain(rows) if row[0] != ""]
    assert plain(join_rows([rows.pick(np.arange(10)), rows.pick(np.arange(10, 40))])) == plain(rows.pick(np.arange(40)))


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        fact_rows(item=["a", "b"], name="price", value=np.zeros(3), announced_ms=0)


def test_names_are_bounded_and_what_is_too_much_is_counted() -> None:
    covariates = Covariates([(Grid("1h", Zone("UTC")), 4, 2)])
    covariates.resize(8)
    covariates.advance(0, 10)
    names = [f"name {i:03}" for i in range(MOST_NAMES + 6)]
    covariates.tell(fact_rows(name=names, value=1.0, announced_ms=0), np.full(len(names), -1), 0)
    assert sorted(covariates.of_panel(0)) == names[:MOST_NAMES]
    assert covariates.names.ignored == 6
    assert not covariates.names.admit("one more")
