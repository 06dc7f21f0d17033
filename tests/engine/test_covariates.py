"""The road of what is announced: from the bytes of offers, signals and reviews to what models are shown at each issue, and never earlier."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.engine.activity import Block, Source, decode_block, encode_block, facts_segment
from stream.engine.covariates import stable_hash
from stream.engine.facts import fact_rows, measured_rows
from stream.engine.forecast import ForecastShard, ForecastSpec
from stream.engine.ingest import IngestShard, IngestSpec
from stream.engine.resolution import ResolutionSpec
from stream.engine.state import forecast_state, restore_forecast
from stream.engine.time import Grid, Zone
from tests.engine.test_forecast import BASE, HOUR, MINUTE, blocks_of, encoded, interleave, order_rows, roster, run, spec
from tests.engine.told import Shown, decoded, shown, told

QUARTER = 15 * MINUTE
FIRST = BASE // QUARTER
"""Number of the quarter of an hour that begins at BASE."""


def lines(hours: float, items: str = "a", start: int = BASE) -> list[tuple[int, str, float]]:
    """An order of each item every five minutes."""
    return [(start + i * 5 * MINUTE, item, 1.0) for i in range(int(hours * 12) + 1) for item in items]


def offer(at: int, item: str = "a", **what: object) -> dict[str, object]:
    return {"time": at, "item": item} | what


def test_an_announced_price_shows_in_its_buckets_from_when_it_was_told_and_no_forecast_earlier() -> None:
    at = BASE + 50 * MINUTE  # in the fourth quarter
    announced = told(
        "offers", [offer(BASE, price=5), offer(at, price="3.5", promotion="sale", starts=BASE + 90 * MINUTE, ends=BASE + 2 * HOUR)]
    )
    run = shown(lines(3), announced)
    assert run.known("15m", FIRST + 2, "price", "a", range(5)) == [5] * 5, "issued at minute 45, five minutes before it was told"
    assert run.known("15m", FIRST + 2, "promotion", "a", [4]) == [None]
    assert run.known("15m", FIRST + 3, "price", "a", range(5)) == [5, 5, 5, 3.5, 3.5]
    assert run.known("15m", FIRST + 3, "promotion", "a", range(5)) == [None, None, None, 1, 1]
    assert run.known("15m", FIRST + 3, "promotion.sale", "a", [2, 3]) == [None, 1]
    assert run.known("15m", FIRST + 6, "price", "a", range(-5, 5)) == [5, 5, 5, 5, 5, 3.5, 3.5, 5, 5, 5], "and is over after its end"


def test_what_is_told_at_the_very_end_of_a_bucket_is_known_to_the_forecast_issued_then() -> None:
    at = BASE + HOUR
    for later, wanted in ((0, 7), (1, None)):
        run = shown(lines(2), told("offers", [offer(at + later, price=7, starts=at + 2)]))
        assert run.known("15m", FIRST + 3, "price", "a", [1]) == [wanted]


def test_a_corrected_forecast_knows_nothing_of_what_was_told_after_its_issue() -> None:
    night = BASE + 24 * HOUR
    late = [*lines(1, "a", night - HOUR), (night + 40 * MINUTE, "a", 1.0), (night - 10 * MINUTE, "a", 9.0), (night + 2 * HOUR, "a", 1.0)]
    run = shown(late, told("offers", [offer(night - HOUR, stock=3), offer(night + 35 * MINUTE, price=7, starts=night - HOUR)]))
    day = Grid("1d", Zone("UTC")).number_of(BASE)
    assert [c.corrects for c in run.columns if c.bucket == "1d" and c.forecast is not None] == [False, True]
    panels = [panel for size, panel, _ in run.panels if size == "1d" and panel.closed == day]
    assert [float(panel.observed()[0]) for panel in panels] == [12, 21]
    assert all("price" not in panel.known for panel in panels)
    assert run.known("15m", night // QUARTER + 2, "price", "a", [-4, 1]) == [7, 7], "while the bucket that closed with its epoch knows it"


def test_the_last_told_wins_whatever_the_order_and_a_late_one_takes_effect_at_the_next_issue() -> None:
    messages = [offer(BASE + 61 * MINUTE, price=9), offer(BASE + 10 * MINUTE, price=4), offer(BASE + 20 * MINUTE, price=6)]
    run = shown(lines(3), told("offers", messages))
    # The first message moved its partition's watermark to one hour: the others are told late, and count from that epoch on.
    assert run.known("15m", FIRST + 3, "price", "a", [0, 1]) == [None, None]
    found = run.known("15m", FIRST + 4, "price", "a", range(-4, 2))
    assert found == [pytest.approx(x, rel=1e-6) for x in (4, 16 / 3, 6, 6, (6 + 14 * 9) / 15, 9)]
    after = shown(lines(3), told("offers", [offer(BASE, price=2)]), first=False)
    assert len(after.shard.covariates.table) + len(after.shard.held) == 1, "told when all was over: it waits for a log that goes on"


def test_part_of_a_bucket_is_a_price_by_its_time_and_a_promotion_by_its_share() -> None:
    starts = BASE + HOUR + 5 * MINUTE
    messages = [offer(BASE, price=9), offer(BASE + MINUTE, price=3, promotion="two", starts=starts, ends=starts + 5 * MINUTE)]
    run = shown(lines(2), told("offers", messages))
    assert run.known("15m", FIRST + 3, "price", "a", [1, 2]) == [7, 9]
    assert run.known("15m", FIRST + 3, "promotion", "a", [1, 2]) == [pytest.approx(1 / 3), None]
    run = shown(lines(2), told("offers", [offer(BASE, price=3, starts=starts)]))
    assert run.known("15m", FIRST + 3, "price", "a", [0, 1, 2]) == [None, 3, 3], "of a part nothing was said"


def test_another_promotion_takes_the_place_of_the_first_and_none_ends_it() -> None:
    messages = [
        offer(BASE, promotion="sale"),
        offer(BASE + 20 * MINUTE, promotion="gift"),
        offer(BASE + 50 * MINUTE, promotion="none", starts=BASE + HOUR + QUARTER),
    ]
    run = shown(lines(2), told("offers", messages))
    assert [run.known("15m", FIRST + 2, f"promotion{kind}", "a", [0, 2]) for kind in ("", ".sale", ".gift")] == [[1, 1], [0, 0], [1, 1]]
    assert [run.known("15m", FIRST + 3, f"promotion{kind}", "a", [1, 2]) for kind in ("", ".sale", ".gift")] == [[1, 0], [0, 0], [1, 0]]


def test_signals_are_about_all_items_or_those_of_their_category_whenever_it_is_told() -> None:
    signals = told("signals", [
        {"time": BASE, "name": "holiday", "starts": BASE + HOUR, "ends": BASE + 2 * HOUR},
        {"time": BASE, "name": "rain", "value": 2.5},
        {"time": BASE + MINUTE, "name": "rain", "value": 0.5, "category": "boots", "starts": BASE + HOUR},
    ])  # fmt: skip
    offers = told("offers", [offer(BASE + 2 * MINUTE, category="boots", brand="Acme"), offer(BASE + 35 * MINUTE, "b", category="boots")])
    run = shown(lines(2, "ab"), [*signals, *offers])
    panel, index = run.at("15m", FIRST + 2)
    assert panel.known["holiday"].shape[1] == 1
    assert run.known("15m", FIRST + 2, "holiday", "a", [1, 2, 3]) == [None, 1, 1]
    assert run.known("15m", FIRST + 1, "rain", "a", [1, 2, 3, 4]) == [2.5, 2.5, 0.5, 0.5]
    assert run.known("15m", FIRST + 1, "rain", "b", [1, 2, 3, 4]) == [2.5] * 4
    assert run.known("15m", FIRST + 2, "rain", "b", [1, 2, 3]) == [2.5, 0.5, 0.5], "its category was told since"
    assert panel.statics["category"][index["a"]] == panel.statics["category"][index["b"]] == stable_hash("boots")
    assert (panel.statics["brand"][index["a"]], panel.statics["brand"][index["b"]]) == (stable_hash("Acme"), 0)


def test_a_closed_signal_shuts_the_buckets_that_it_covers() -> None:
    run = shown(lines(3), told("signals", [{"time": BASE, "name": "closed", "starts": BASE + HOUR, "ends": BASE + HOUR + 20 * MINUTE}]))
    panel, _ = run.at("15m", FIRST + 2)
    assert panel.shut is not None
    assert [bool(panel.shut[(FIRST + 2 + step) % len(panel.shut)]) for step in range(5)] == [False, False, True, False, False]
    assert run.known("15m", FIRST + 2, "closed", "a", [2, 3]) == [1, pytest.approx(1 / 3)]


def test_stock_makes_the_censored_share_of_closed_buckets() -> None:
    messages = [
        offer(BASE, stock=4),
        offer(BASE + 20 * MINUTE, stock=0, price=3, starts=BASE + 9 * HOUR),
        offer(BASE + 55 * MINUTE, stock=7),
    ]
    run = shown(lines(2, "ab"), told("offers", messages))
    first = {c.bucket_start_ms: c for c in run.columns if c.bucket == "15m" and not c.corrects}
    shares = {i: dict(zip(c.item, c.censored.tolist(), strict=True)) for i, c in enumerate(first.values())}
    assert [shares[i]["a"] for i in range(5)] == pytest.approx([0, 2 / 3, 1, 2 / 3, 0])
    assert all(shares[i]["b"] == 0 for i in range(5))
    panel, index = run.at("15m", FIRST + 3)
    assert panel.censored is not None and len(panel.censored) == len(panel.units)
    assert panel.censored[(FIRST + 2) % len(panel.censored), index["a"]] == 1
    assert "stock" not in panel.known


def test_reviews_views_carts_and_seen_prices_are_past_covariates() -> None:
    reviews = [
        {"time": BASE + m * MINUTE, "item": item, "rating": r}
        for m, item, r in [(20, "a", 5), (22, "a", "2"), (25, "a", None), (26, "z", 1)]
    ]
    shop = shown(lines(2), told("reviews", reviews))
    panel, index = shop.at("15m", FIRST + 3)
    reviews_of, rating = (panel.past[name][:, index["a"]] for name in ("reviews", "rating"))
    assert [float(reviews_of[b % len(reviews_of)]) for b in (FIRST, FIRST + 1, FIRST + 2)] == [0, 3, 0]
    assert [float(rating[b % len(rating)]) for b in (FIRST + 1,)] == [3.5]
    assert np.isnan(rating[(FIRST + 2) % len(rating)])
    assert "z" not in index, "a review alone makes no item known"

    rows = replace(order_rows(lines(1.5), 0), price=np.where(np.arange(19) < 8, 4_000_000, 6_000_000))
    shard = IngestShard(Source("orders", 0), "orders", IngestSpec(30_000, 2 * HOUR, "15m", QUARTER, Zone("UTC"), 1, 10, True), None)
    priced = Shown().take([roster(1), *shard.step(rows).blocks[0], *shard.finish().blocks[0]])
    panel, index = priced.at("15m", FIRST + 4)
    seen = panel.past["price_seen"]
    assert [float(seen[b % len(seen), index["a"]]) for b in range(FIRST, FIRST + 4)] == [4, 4, 6, 6]

    assert len(panel.past["views"]) == len(panel.past["carts"]) == 28


@pytest.mark.parametrize(("day", "hours"), [("2023-03-26", 23), ("2023-10-29", 25)])
def test_days_of_23_and_25_hours_and_weeks_take_their_shares(day: str, hours: int) -> None:
    zone = "Europe/London"
    begin = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000) - (HOUR if hours == 25 else 0)
    small = spec(zone, "1h")
    sizes = tuple(
        ResolutionSpec(replace(small.resolutions[0].demand, size=size, horizon=h, probes=(1, h), seasons=()), 20)
        for size, h in (("1h", 30), ("1d", 3), ("1w", 2))
    )
    which = replace(small, resolutions=sizes)
    start = begin - 9 * 24 * HOUR
    grid = Grid("1d", Zone(zone))
    number = grid.number_of(begin)
    assert grid.end_of(number) - grid.start_of(number) == hours * HOUR
    begin = grid.start_of(number)
    signals = told("signals", [
        {"time": start, "name": "fair", "starts": begin, "ends": begin + 6 * HOUR},
        {"time": start, "name": "closed", "starts": begin, "ends": grid.end_of(number)},
    ], zone, "1h")  # fmt: skip
    shard = Shown(which).take([replace_agreement(roster(1), which), *signals, *hourly(start, 9 * 24 + 2, zone)])
    assert shard.known("1d", number - 1, "fair", "a", [0, 1, 2]) == [None, pytest.approx(6 / hours), None]
    panel, _ = shard.at("1d", number - 1)
    assert panel.shut is not None
    assert [bool(panel.shut[(number + i) % len(panel.shut)]) for i in (-1, 0, 1)] == [False, True, False]
    weeks = Grid("1w", Zone(zone))
    week = weeks.number_of(begin)
    span = weeks.end_of(week) - weeks.start_of(week)
    assert span == (7 * 24 + hours - 24) * HOUR
    assert shard.known("1w", week - 1, "fair", "a", [1]) == [pytest.approx(6 * HOUR / span)]


def replace_agreement(block: Block, which: ForecastSpec) -> Block:
    block.agreement = which.agreement
    return block


def hourly(start: int, hours: int, zone: str) -> list[Block]:
    shard = IngestShard(Source("orders", 0), "orders", IngestSpec(30_000, 2 * HOUR, "1h", QUARTER, Zone(zone), 1, 10, True), None)
    rows = order_rows([(start + i * HOUR, "a", 1.0) for i in range(hours)], 0)
    return [*shard.step(rows).blocks[0], *shard.finish().blocks[0]]


def test_an_item_that_is_only_offered_is_known_but_never_forecast_and_forgotten_in_time() -> None:
    day = 24 * HOUR
    offers = [offer(BASE, "new", price=5, launched=BASE + 3 * day), offer(BASE, "dull", price=2)]
    blocks = blocks_of([(BASE + d * 6 * HOUR, "a", 1.0) for d in range(24)], 0, list(range(24)))
    run = Shown(replace(spec(), forget_after_ms=2 * day)).take([roster(1), *told("offers", offers)])
    at: dict[str, float] = {}
    for block in blocks:
        run.take([block])
        at |= {item: (run.shard.watermark_ms or BASE) - BASE for item in ("new", "dull") if item in run.shard.index}
    assert {item for columns in run.columns for item in columns.item} == {"a"}
    assert sorted(run.shard.index) == ["a"]
    assert run.shard.counters.evicted == 2
    assert len(run.shard.covariates.table) == 0
    assert 1.5 * day < at["dull"] < 2 * day
    assert 4.5 * day < at["new"] < 5 * day, "it stays as long after its launch"


def test_an_item_that_is_offered_before_it_sells_starts_with_what_was_told_of_it() -> None:
    orders = [*lines(2, "a"), (BASE + 2 * HOUR, "new", 1.0), *lines(1, "a", BASE + 2 * HOUR + MINUTE)]
    run = shown(orders, told("offers", [offer(BASE + MINUTE, "new", price=8, launched=BASE + HOUR)]))
    panel, index = run.at("15m", FIRST + 8)
    assert index["new"] in panel.slots
    assert panel.first[index["new"]] == FIRST + 8
    assert run.known("15m", FIRST + 8, "price", "new", [-2, 0, 4]) == [8, 8, 8]
    assert panel.statics["launched"][index["new"]] == BASE + HOUR


def test_beyond_the_cap_items_that_never_sold_go_first_and_prices_do_not_keep_a_sleeper() -> None:
    offers = [offer(BASE + HOUR, f"only offered {i}", price=1) for i in range(8)]
    run = Shown(spec(max_items=5)).take([roster(1), *told("offers", offers), *blocks_of(lines(2, "abcd"), 0, [])])
    assert set("abcd") < set(run.shard.index)
    assert len(run.shard.index) == 5
    hourly_prices = told("offers", [offer(BASE + h * HOUR, "a", price=h) for h in range(60)])
    orders = [(BASE, "a", 1.0), *((BASE + h * HOUR, "b", 1.0) for h in range(60))]
    sleeper = shown(orders, hourly_prices, replace(spec(), forget_after_ms=24 * HOUR))
    last = max(c.bucket_start_ms for c in sleeper.columns if "a" in c.item)
    assert 23 * HOUR < last - BASE < 25 * HOUR


def test_years_of_offers_before_the_first_order_are_gone_through_quickly_and_kept() -> None:
    early = BASE - 3 * 365 * 24 * HOUR
    run = shown(lines(1), told("offers", [offer(early, price=3), offer(BASE - HOUR, "a", regular_price=4)]))
    assert run.shard.changes < 100
    assert run.known("15m", FIRST + 2, "regular_price", "a", [-8, 0, 4]) == [None, 4, 4]


@pytest.mark.parametrize(
    ("kind", "message", "reason"),
    [
        ("offers", {"time": BASE, "item": "a", "price": "much"}, "bad_value"),
        ("offers", {"time": BASE, "item": "", "price": 1}, "missing_field"),
        ("offers", {"time": BASE, "item": "a", "ends": "some day"}, "bad_time"),
        ("offers", {"time": BASE, "item": "a", "price": 1, "starts": BASE + 5, "ends": BASE + 5}, "bad_value"),
        ("offers", {"time": BASE, "item": "a", "price": 1, "ends": BASE - 5}, "bad_value"),
        ("offers", {"time": BASE, "item": "a", "price": -1}, "bad_value"),
        ("signals", {"time": BASE, "name": "rain", "value": "wet"}, "bad_value"),
        ("signals", {"time": BASE, "name": ""}, "missing_field"),
        ("signals", {"time": BASE, "name": "fair", "starts": BASE + 5, "ends": BASE + 4}, "bad_value"),
        ("reviews", {"time": BASE, "item": "a", "rating": [5]}, "bad_value"),
    ],
)
def test_what_cannot_be_used_is_a_dead_letter_alone(kind: str, message: dict[str, object], reason: str) -> None:
    good = {"time": BASE, "name": "n"} if kind == "signals" else {"time": BASE, "item": "b"}
    rows, rejected = decoded(kind, [good, message, good])
    assert rows.offset.tolist() == [0, 2]
    assert [(bad.offset, bad.reason) for bad in rejected] == [(1, reason)]


def test_blocks_of_arbitrary_columns_reach_the_panel() -> None:
    """As a backtest makes them: known columns by item and bucket, past columns, statics, without any message."""
    epoch, names = FIRST + 2, ["deal"] * 6 + ["feat"] * 6
    starts = np.tile((FIRST + 2 + np.arange(6)) * QUARTER, 2)
    known = fact_rows(
        item="a", name=names, value=np.arange(12.0), announced_ms=(epoch + 1) * QUARTER, starts_ms=starts, ends_ms=starts + QUARTER
    )
    past = measured_rows(item=["a", "a"], name=["temperature", "visits"], grain=np.full(2, epoch), value=np.array([21.5, 1e9]))
    blocks = [Block(1, "facts", Source("backtest", 0), None, [facts_segment(epoch, known, past)])]
    run = shown(lines(2), blocks)
    assert run.known("15m", epoch - 1, "deal", "a", [1]) == [None]
    assert run.known("15m", epoch, "deal", "a", range(5)) == [0, 1, 2, 3, 4]
    assert run.known("15m", epoch + 1, "feat", "a", range(-1, 5)) == [6, 7, 8, 9, 10, 11]
    panel, index = run.at("15m", epoch)
    assert [float(panel.past[name][epoch % len(panel.past[name]), index["a"]]) for name in ("temperature", "visits")] == [21.5, 1e9]


announcements = st.lists(
    st.tuples(
        st.integers(-90, 200), st.sampled_from("abz"), st.sampled_from(["price", "promotion", "stock", "closed", "rain", "category"]),
        st.integers(-60, 300), st.one_of(st.none(), st.integers(1, 200)), st.integers(0, 2),
    ),
    max_size=25,
)  # fmt: skip


def both(drawn: list[tuple[int, str, str, int, int | None, int]], cuts: list[int] = []) -> list[Block]:  # noqa: B006 - only read
    """Blocks of an offers and a signals source."""
    offers, signals = [], []
    for at, item, what, starts, length, value in drawn:
        begin = BASE + (at + starts) * MINUTE
        message: dict[str, object] = {"time": BASE + at * MINUTE, "starts": begin} | ({} if length is None else {"ends": begin + length * MINUTE})
        if what in ("closed", "rain"):
            signals.append(message | {"name": what} | ({"value": value} if value else {"category": item}))
        else:
            offers.append(message | {"item": item, what: value if what in ("price", "stock") else f"{what}{value}"})
    return [
        *told("offers", offers, cuts=[c for c in cuts if c < len(offers)]),
        *told("signals", signals, cuts=[c for c in cuts if c < len(signals)]),
    ]


@settings(max_examples=10, deadline=None)
@given(announcements, st.lists(st.integers(1, 24), max_size=5), st.integers(0, 1 << 30))
def test_cutting_and_interleaving_change_nothing_of_what_is_shown(drawn, cuts, seed):  # type: ignore[no-untyped-def]
    logs = [lines(3, "a"), lines(3.5, "b")]
    orders = [blocks_of(log, p, []) for p, log in enumerate(logs)]
    whole = Shown().take([roster(2), *both(drawn), *orders[0], *orders[1]])
    pieces = both(drawn, cuts)
    chance = random.Random(seed)
    # Ingest keeps orders behind what has been told; among each other offers and signals come in any order.
    offers, signals = ([b for b in pieces if b.source is not None and b.source.name == name] for name in ("offers", "signals"))
    parts = [blocks_of(log, p, [chance.randrange(40) for _ in range(3)]) for p, log in enumerate(logs)]
    mixed = Shown().take([roster(2), *interleave([offers, signals], seed), *interleave(parts, seed)])
    one, other = (
        {(size, p.closed): [p.known, p.past, p.statics, p.censored, p.shut, p.slots, p.units] for size, p, _ in s.panels}
        for s in (whole, mixed)
    )
    np.testing.assert_equal(other, one)
    state, again = forecast_state(whole.shard), forecast_state(mixed.shard)
    assert state.keys() == again.keys()
    for name in state.keys() - {"note"}:
        np.testing.assert_array_equal(again[name], state[name], err_msg=name)


@settings(max_examples=6, deadline=None)
@given(announcements, st.integers(0, 1 << 30))
def test_a_shard_that_was_restored_in_mid_log_goes_on_to_the_bit(drawn, seed):  # type: ignore[no-untyped-def]
    chance = random.Random(seed)
    reviews = told("reviews", [{"time": BASE + m * MINUTE, "item": "a", "rating": m % 5 / 3} for m in range(1, 150, 7)])
    announced = [*both(drawn, list(range(24))), *reviews]
    blocks = [roster(1), *interleave([announced, blocks_of(lines(3, "ab"), 0, list(range(0, 74, 5)))], seed)]
    cut = chance.randrange(1, len(blocks))
    one, two = ForecastShard(spec()), ForecastShard(spec())
    for block in blocks[:cut]:
        list(one.step(decode_block(encode_block(block))))
    restore_forecast(two, forecast_state(one))
    records = []
    for shard in (one, two):
        records.append(
            [pair for block in blocks[cut:] for columns in shard.step(decode_block(encode_block(block))) for pair in encoded(columns)]
        )
    assert records[0] == records[1]
    state, again = forecast_state(one), forecast_state(two)
    assert state.keys() == again.keys()
    assert all(state[name].tobytes() == again[name].tobytes() for name in state)


def test_waiting_facts_are_merged_without_changing_anything() -> None:
    messages = [offer(BASE + i * 1_000, "ab"[i % 2], price=i % 7) for i in range(300)]
    one, many = told("offers", messages), told("offers", messages, cuts=range(1, 300))
    assert len(many) > 64 > len(one)
    orders = blocks_of(lines(2, "ab"), 0, [])
    assert run([roster(1), *many, *orders]) == run([roster(1), *one, *orders])
    assert Shown().take([roster(1), *many, *orders]).known("15m", FIRST + 1, "price", "a", [0]) == [pytest.approx(4.0, abs=3.0)]
