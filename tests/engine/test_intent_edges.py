"""Sessions at their edges: outcomes that arrive late, robots, endless sessions, crowded users, clocks that run backwards, expected purchases."""

from __future__ import annotations

import random
import zlib
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from models.intent.scorer import IntentScorer
from models.protocol import IntentSpec
from stream.engine.activity import Block, Source, read_expected
from stream.engine.columns import MICRO, Event, Rows
from stream.engine.features import FEATURES
from stream.engine.ingest import Ingested, IngestShard, IngestSpec
from stream.engine.sessions import SessionBook, SessionSpec
from stream.engine.state import ingest_state, restore_ingest
from stream.engine.time import Zone
from stream.records import encode_intent
from tests.engine.fakes import CountingScorer, click_rows

MINUTE = 60_000
BASE = 1_700_006_400_000
GAP = 5 * MINUTE
Click = tuple[int, str, Event, str]


def make(real: bool = False, **more: object) -> IngestShard:
    spec = IngestSpec(30_000, 60 * MINUTE, "1m", MINUTE, Zone("Europe/London"), 2, 100_000, True)
    model = IntentScorer(IntentSpec(features=FEATURES)) if real else CountingScorer()
    session = replace(SessionSpec(GAP, False, 0.002, (0.5,), False, expected=True), **more)  # type: ignore[arg-type]
    return IngestShard(Source("clicks", 0), "clickstream", spec, SessionBook(session, model, "test"))


def settled(shard: IngestShard) -> list[tuple[int, int]]:
    assert shard.book is not None and isinstance(shard.book.model, CountingScorer)
    return shard.book.model.settled


def later(ms: int, number: int = 0) -> Click:
    """An event of somebody else, for the watermark."""
    return (BASE + ms, f"other{number}", Event.VIEW, "z")


# -- outcomes ------------------------------------------------------------------------------------------------------------


def test_an_outcome_is_unknown_until_the_session_has_ended_and_the_delay_has_passed() -> None:
    shard = make(label_delay_ms=10 * MINUTE)
    shard.step(click_rows([(BASE, "a", Event.VIEW, "x"), (BASE + 1_000, "a", Event.PURCHASE, "x"), later(7 * MINUTE, 1)]))
    shard.step(click_rows([later(15 * MINUTE, 2)], 3))
    assert settled(shard) == []  # over, and bought, but orders could still come for another ten minutes
    shard.step(click_rows([later(17 * MINUTE, 3)], 4))
    assert settled(shard) == [(2, 0)]


def orders_shard() -> IngestShard:
    return make(label="orders", label_delay_ms=10 * MINUTE)


def test_an_order_told_minutes_later_is_joined_to_where_the_session_stood_when_it_was_made() -> None:
    shard = orders_shard()
    clicks: list[Click] = [(BASE + i * 20_000, "a", Event.VIEW, "x") for i in range(6)]
    shard.step(click_rows([*clicks, later(3 * MINUTE)]))
    shard.take_orders(["a"], np.array([BASE + 70_000]), np.array([7]))  # after the fourth event, before the fifth
    done = shard.step(click_rows([later(8 * MINUTE, 1), later(20 * MINUTE, 2)], 8))
    assert settled(shard)[0] == (4, 0)  # at risk at positions 1, 2 and 3, not at 5
    told = [c for c in done.intents if "a" in c.session]
    bought = [
        (at, e, p) for c in told for s, at, e, p in zip(c.session, c.issued_at_ms.tolist(), c.ended, c.purchased, strict=True) if s == "a"
    ]
    # Told at the first tick behind it, which here is also the session's end: first that it is over, then that it had bought.
    assert bought == [(BASE + 100_000 + GAP, True, False), (BASE + 70_000, True, True)]


def test_without_an_order_the_ended_session_is_not_said_to_have_failed_yet() -> None:
    shard = orders_shard()
    shard.step(click_rows([(BASE, "a", Event.VIEW, "x")]))
    done = shard.step(click_rows([later(8 * MINUTE)], 1))
    ended = next(c for c in done.intents if c.session[0] == "a" and c.ended[0])
    assert 0 < ended.p_purchase[0] < 1
    assert not ended.purchased[0]


def test_an_order_counts_for_the_session_that_it_fits_and_none_else() -> None:
    shard = orders_shard()
    shard.step(click_rows([(BASE, "a", Event.VIEW, "x"), (BASE + 7 * MINUTE, "a", Event.VIEW, "x"), later(9 * MINUTE)]))
    shard.take_orders(["a", "a", "nobody"], np.array([BASE + 1_000, BASE - MINUTE, BASE]), np.array([3, 4, 5]))
    shard.step(click_rows([later(40 * MINUTE, 1), later(60 * MINUTE, 2)], 6))
    assert sorted(settled(shard))[-1] == (2, 0)  # the first session, after its first event
    assert [s for s in settled(shard) if s[0]] == [(2, 0)]


@pytest.mark.parametrize("seed", range(2))
def test_orders_give_the_same_records_however_the_log_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    events: list[Click] = []
    orders, time = [], BASE
    for i in range(600):
        time += chance.choice([300, 2_000, 9_000])
        name = f"s{chance.randrange(40)}"
        if chance.random() < 0.05:
            orders.append((name, time - chance.choice([0, 1_000, 4 * MINUTE]), i))
        events.append(
            (time - chance.choice([0, 0, 20_000]), name, chance.choice([Event.VIEW, Event.CART, Event.SEARCH]), f"i{chance.randrange(9)}")
        )

    def run(bounds: list[int]) -> tuple[list[bytes], list[tuple[int, int]]]:
        shard, out = orders_shard(), []
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
            mine = [o for o in orders if start <= o[2] < stop]
            # An order stands in the log right behind the row of its number.
            shard.take_orders(
                [o[0] for o in mine], np.array([o[1] for o in mine], dtype=np.int64), np.array([o[2] * 2 + 1 for o in mine], dtype=np.int64)
            )
            rows = click_rows(events[start:stop], start)
            out.append(shard.step(replace(rows, offset=rows.offset * 2)))
        out.append(shard.finish())
        by_session = defaultdict(list)
        for done in out:
            for columns in done.intents:
                for key, value in zip(*encode_intent(columns), strict=True):
                    by_session[key].append(value)
        return sorted(value for values in by_session.values() for value in values), settled(shard)

    whole = run([0, len(events)])
    assert sum(1 for s in whole[1] if s[0]) > 5
    for pieces in (3, 60):
        assert run([0, *sorted(chance.sample(range(1, len(events)), pieces)), len(events)]) == whole


# -- robots --------------------------------------------------------------------------------------------------------------


def test_robots_are_marked_and_teach_nothing_and_a_missing_cart_is_no_sign() -> None:
    shard = make(every_event=True)
    robot: list[Click] = [(BASE + i * 1_100, "robot", Event.VIEW, f"i{i}") for i in range(30)]
    hasty: list[Click] = [(BASE + i * 1_100, "hasty", Event.VIEW, "same") for i in range(30)]  # reloads one page
    buyer: list[Click] = [
        *((BASE + i * 9_000, "buyer", Event.VIEW, f"i{i}") for i in range(30)),
        (BASE + 280_000, "buyer", Event.PURCHASE, "i3"),
    ]
    done = [shard.step(click_rows(sorted([*robot, *hasty, *buyer]))), shard.finish()]
    last = {c.session[i]: bool(c.bot[i]) for d in done for c in d.intents for i in range(len(c))}
    assert last == {"robot": True, "hasty": False, "buyer": False}
    assert sorted(settled(shard)) == [(0, 0), (1, 1), (31, 0)]  # the robot: at risk nowhere


# -- extremes ------------------------------------------------------------------------------------------------------------


def test_a_session_of_100_000_events_and_one_of_things_never_seen() -> None:
    shard = make(real=True)
    events: list[Click] = [(BASE + i * 40, "long", Event.VIEW, f"i{i % 50}") for i in range(100_000)]
    done = [shard.step(click_rows(events[start : start + 20_000], start)) for start in range(0, 100_000, 20_000)]
    done.append(shard.step(click_rows([(BASE + 4_000_000, "new", Event.CART, "never seen")], 100_000)))
    ended = [
        (s, e)
        for d in [*done, shard.finish()]
        for c in d.intents
        for s, e, over in zip(c.session, c.events.tolist(), c.ended, strict=True)
        if over
    ]
    assert sorted(ended) == [("long", 100_000), ("new", 1)]
    for result in done:
        for columns in result.intents:
            assert ((columns.p_purchase >= 0) & (columns.p_purchase <= 1)).all()


def test_a_user_with_10_000_sessions_is_known_and_costs_no_more_than_one_with_two() -> None:
    shard = make()
    assert shard.book is not None
    before = sum(array.nbytes for array in ingest_state(shard).values())
    events: list[Click] = []
    for i in range(10_000):
        events.append((BASE + i * 10_000, f"s{i}", Event.PURCHASE if i % 4 == 0 else Event.VIEW, "x"))
    rows = click_rows(events)
    shard.step(replace(rows, user=["always me"] * len(rows)))
    shard.finish()
    hashed = np.array([zlib.crc32(b"always me") + 1])
    assert [int(n[0]) for n in shard.book.history.of(hashed)] == [10_000, 2_500]
    assert sum(array.nbytes for array in ingest_state(shard).values()) < before * 1.2


def test_a_clock_that_runs_backwards_within_a_session_breaks_nothing() -> None:
    shard = make(real=True, every_event=True)
    steps = [0, 5_000, -4_000, 100, -9_000, 20_000, -1]
    times = np.cumsum(steps)
    done = [shard.step(click_rows([(BASE + int(t), "a", Event.VIEW, "x") for t in times])), shard.finish()]
    records = [
        (e, float(p), bool(over))
        for d in done
        for c in d.intents
        for e, p, over in zip(c.events.tolist(), c.p_purchase, c.ended, strict=True)
    ]
    assert [e for e, _, _ in records] == [1, 2, 3, 4, 5, 6, 7, 7]
    assert all(0 < p < 1 for _, p, over in records if not over)
    assert done[1].intents[0].issued_at_ms[0] == BASE + int(times.max()) + GAP


# -- expected purchases --------------------------------------------------------------------------------------------------


def stock_of(results: list[Ingested]) -> dict[str, int]:
    stock: dict[str, int] = defaultdict(int)
    for block in (block for done in results for part in done.blocks for block in part):
        for segment in block.segments:
            if segment.expected is not None:
                for item, change in zip(segment.expected.items, read_expected(segment.expected).tolist(), strict=True):
                    stock[item] += change
    return {item: value for item, value in stock.items() if value}


def test_expected_purchases_are_the_live_sessions_probabilities_spread_over_what_they_looked_at() -> None:
    shard = make()
    done = [
        shard.step(click_rows([(BASE, "a", Event.VIEW, "x"), (BASE + 1_000, "a", Event.CART, "y"), (BASE + 2_000, "b", Event.VIEW, "x")]))
    ]
    a, b = round(2 / 256 * MICRO), round(1 / 256 * MICRO)  # as the counting scorer says
    assert stock_of(done) == {"x": a * 1 // 4 + b, "y": a * 3 // 4}
    done.append(shard.step(click_rows([(BASE + 3_000, "b", Event.PURCHASE, "x")], 3)))
    assert stock_of(done) == {"x": a * 1 // 4, "y": a * 3 // 4}  # who has bought is expected to buy no more
    done.append(shard.step(click_rows([(BASE + 20 * MINUTE, "c", Event.SEARCH, "")], 4)))
    assert stock_of(done) == {}  # and who has left, nothing


@pytest.mark.parametrize("seed", range(2))
def test_expected_purchases_are_the_same_by_epoch_however_the_log_is_cut(seed: int) -> None:
    chance, time = random.Random(seed), BASE
    events: list[Click] = []
    for _ in range(1_500):
        time += chance.choice([50, 300, 6_000])
        kind = chance.choices([Event.VIEW, Event.CART, Event.PURCHASE, Event.SEARCH], [8, 2, 1, 1])[0]
        events.append((time - chance.choice([0, 0, 9_000, 100_000]), f"s{chance.randrange(60)}", kind, f"i{chance.randrange(30)}"))

    def by_epoch(bounds: list[int]) -> dict[tuple[int, str], int]:
        shard = make(real=True)
        found: dict[tuple[int, str], int] = defaultdict(int)
        blocks: list[Block] = []
        for i, (start, stop) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            if i == 2:  # and from a snapshot
                state, shard = ingest_state(shard), make(real=True)
                restore_ingest(shard, state)
            blocks += [block for part in shard.step(click_rows(events[start:stop], start)).blocks for block in part]
        for segment in (segment for block in blocks for segment in block.segments if segment.expected is not None):
            assert segment.expected is not None
            for item, change in zip(segment.expected.items, read_expected(segment.expected).tolist(), strict=True):
                found[segment.epoch, item] += change
        return {place: change for place, change in found.items() if change}

    whole = by_epoch([0, len(events)])
    assert len(whole) > 200
    for pieces in (4, 70):
        assert by_epoch([0, *sorted(chance.sample(range(1, len(events)), pieces)), len(events)]) == whole


# -- next items ----------------------------------------------------------------------------------------------------------


def test_records_name_the_items_that_usually_follow() -> None:
    shard = make(every_event=True, next_items=2)
    events: list[Click] = []
    for i in range(120):
        at = BASE + i * 30_000
        events += [(at, f"s{i}", Event.VIEW, "tea"), (at + 5_000, f"s{i}", Event.VIEW, "pot" if i % 3 else "cup")]
    done = shard.step(click_rows(events))
    last = [c for c in done.intents if not c.ended.any()][-1]
    named = {last.session[i]: last.next_items[i] for i in range(len(last)) if last.next_items is not None and last.events[i] == 1}
    items = next(reversed(named.values()))
    assert [item for item, _ in items] == ["pot", "cup"]
    assert items[0][1] > items[1][1] > 0


def test_categories_of_the_clickstream_reach_the_models() -> None:
    shard = make(real=True, every_event=True)
    rows = click_rows([(BASE + i * 9_000, "a", Event.VIEW, f"i{i}") for i in range(6)])
    other = make(real=True, every_event=True)
    told: Rows = replace(rows, category=["shoes", "shoes", "hats", "", "shoes", "shoes"])
    one, two = shard.step(told), other.step(rows)
    assert shard.book is not None and other.book is not None
    assert shard.book.in_category.max() == 2  # of an unnamed category after a named one nothing is known
    assert other.book.in_category.max() == 0
    assert sum(map(len, one.intents)) == sum(map(len, two.intents)) == 6
