"""Spike detection: what opens an alert, what does not, and that chance alone opens no more than the budget allows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tails import deviance, lower, upper
from stream.engine.changes import DEPTH, Changes
from stream.engine.spikes import CRITICAL, DOWN, UP, Bucket, Changed, SpikeDetector, spike_spec

HOUR_MS = 3_600_000
CALM = 60
"""Hours in which nothing happens before something does."""


def bucket(number: int, lines: np.ndarray, usual: np.ndarray, **more: object) -> Bucket:
    n = len(lines)
    plain = Bucket(
        slots=np.arange(n),
        number=number,
        lines=lines.astype(np.float64),
        forecast=usual * 1.5,
        age=np.full(n, number + 1),
        group=np.zeros(n, np.int64),
        stocked=np.ones(n),
        price=np.zeros(n),
        promoted=np.zeros(n, np.bool_),
        event=np.zeros(n, np.bool_),
        shut=False,
    )
    return replace(plain, **more)  # type: ignore[arg-type]


class Shop:
    """Items with Poisson demand, and a detector."""

    def __init__(self, usual: np.ndarray, seed: int = 1, false_alerts: float = 1.0) -> None:
        self.usual, self.rng = usual, np.random.default_rng(seed)
        self.detector = SpikeDetector(spike_spec(false_alerts, HOUR_MS, (24, 168)))
        self.detector.resize(len(usual))
        self.hour = 0

    def tick(self, factor: np.ndarray | float = 1.0, **more: object) -> Changed:
        lines = self.rng.poisson(self.usual * factor)
        found = self.detector.judge(bucket(self.hour, lines, self.usual, **more))
        self.hour += 1
        return found

    def calm(self, hours: int = CALM) -> int:
        return sum(int((~self.tick().over).sum()) for _ in range(hours))


def busy(n: int = 60, rate: float = 20.0) -> np.ndarray:
    return np.full(n, rate)


def only(n: int, item: int, factor: float) -> np.ndarray:
    out = np.ones(n)
    out[item] = factor
    return out


def of(found: Changed, item: int) -> int | None:
    at = np.flatnonzero(found.places == item)
    return int(at[0]) if len(at) else None


def test_a_spike_opens_says_what_it_is_and_is_resolved_once_over() -> None:
    shop = Shop(busy())
    shop.calm()
    began = shop.hour
    found = shop.tick(only(60, 7, 6.0))
    at = of(found, 7)
    assert at is not None and not found.over[at]
    assert found.direction[at] == UP and found.level[at] == CRITICAL and found.since[at] == began
    assert found.expected_lines[at] == pytest.approx(20, rel=0.3)
    assert found.factor[at] > 4
    ends = [of(found, 7) is not None and bool(found.over[of(found, 7)]) for found in (shop.tick() for _ in range(4))]
    assert ends.count(True) == 1


def test_an_alert_grows_to_critical_when_it_does() -> None:
    shop = Shop(busy())
    shop.calm()
    levels = [int(found.level[at]) for _ in range(8) for found in [shop.tick(only(60, 3, 2.1))] for at in [of(found, 3)] if at is not None]
    assert levels == sorted(set(levels)) and levels[-1] == CRITICAL


def test_a_drop_is_found_and_says_so() -> None:
    shop = Shop(busy())
    shop.calm()
    seen = [
        (int(found.direction[at]), bool(found.over[at]))
        for _ in range(3)
        for found in [shop.tick(only(60, 5, 0.05))]
        if (at := of(found, 5)) is not None
    ]
    assert seen and seen[0] == (DOWN, False)


def test_a_slow_rise_is_found_that_no_single_hour_would_show() -> None:
    shop = Shop(busy(60, 8.0))
    shop.calm()
    for hour in range(14):
        found = shop.tick(only(60, 9, 1 + min(hour, 6) / 6 * 1.4))
        at = of(found, 9)
        if at is not None:
            break
    assert at is not None and found.direction[at] == UP
    assert upper(np.array([19.0]), np.array([8.0]), np.zeros(1))[0] > 1e-4


def test_announced_stock_promotions_and_events_explain_what_they_do() -> None:
    for factor, known in ((0.0, {"stocked": 0.0}), (2.2, {"promoted": True}), (2.2, {"event": True}), (1.9, {"price": np.log(0.8)})):
        shop = Shop(busy())
        shop.calm()
        more = {}
        for name, value in known.items():
            plain = getattr(bucket(0, busy(), busy()), name).copy()
            plain[4] = value
            more[name] = plain
        assert all(of(shop.tick(only(60, 4, factor), **more), 4) is None for _ in range(5)), known
    shop = Shop(busy())
    shop.calm()
    assert any(of(shop.tick(only(60, 4, 0.0)), 4) is not None for _ in range(3))


def test_a_promotion_explains_no_run_on_an_item() -> None:
    shop = Shop(busy())
    shop.calm()
    promoted = np.zeros(60, np.bool_)
    promoted[4] = True
    assert of(shop.tick(only(60, 4, 30.0), promoted=promoted), 4) is not None


def test_what_a_whole_category_does_is_told_as_together() -> None:
    shop = Shop(busy(200))
    shop.calm()
    group = np.repeat([0, 1], 100)
    factor = np.ones(200)
    factor[:8] = 5.0
    found = shop.tick(factor, group=group)
    assert set(range(8)) <= set(found.places.tolist())
    assert found.together[of(found, 0)] == 8


def test_a_checkout_that_is_broken_is_found_though_all_items_fall() -> None:
    shop = Shop(busy(200))
    shop.calm()
    found = shop.tick(0.0)
    assert (found.direction == DOWN).sum() > 150


def test_a_new_level_is_taken_for_what_it_is_in_the_end() -> None:
    shop = Shop(busy())
    shop.calm()
    records = [found for _ in range(80) for found in [shop.tick(only(60, 2, 3.0))]]
    told = [(n, bool(found.over[of(found, 2)])) for n, found in enumerate(records) if of(found, 2) is not None]
    assert told[0] == (0, False) and told[-1][1] and told[-1][0] <= 60
    assert shop.detector.level[2] == 0


@pytest.mark.parametrize("rate", [0.3, 3.0, 30.0])
def test_chance_alone_opens_no_more_than_the_budget(rate: float) -> None:
    items, hours = 600, 150
    shop = Shop(busy(items, rate), seed=int(rate * 10), false_alerts=20.0)
    shop.calm(CALM)
    allowed = 20.0 * items * hours / 24 / 1000
    assert shop.calm(hours) <= allowed + 3 * allowed**0.5


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0.5, 10)), min_size=1, max_size=60), st.booleans())
def test_the_stack_finds_the_most_unlikely_start_of_all(rows: list[tuple[int, float]], up: bool) -> None:
    changes = Changes(up, 1_000)
    changes.resize(1)
    slot, none = np.zeros(1, np.int64), np.zeros(1)
    full = False
    for number, (count, mean) in enumerate(rows):
        full |= bool(changes.depth[0] == DEPTH)
        changes.add(slot, np.array([float(count)]), np.array([mean]), number)
        counts, means = (np.array(column, dtype=np.float64)[: number + 1][::-1].cumsum() for column in zip(*rows, strict=True))
        beyond = counts > means if up else counts < means
        every = np.where(beyond, deviance(counts, means, np.zeros(1)), 0.0)
        places, _, _, _, far = changes.strongest(slot, none)
        got = float(far[0]) if len(places) else 0.0
        assert got <= every.max() + 1e-3 * (1 + every.max())
        if not full:  # within its room the stack loses nothing
            assert got == pytest.approx(every.max(), rel=1e-3, abs=1e-3)


@given(st.floats(0.05, 200), st.floats(0, 2), st.integers(0, 300))
def test_tails_add_up(mean: float, dispersion: float, count: int) -> None:
    at, m, a = np.array([float(count)]), np.array([mean]), np.array([dispersion])
    assert upper(at + 1, m, a)[0] + lower(at, m, a)[0] == pytest.approx(1, abs=1e-6)
    assert upper(at, m, a)[0] >= upper(at + 1, m, a)[0]


def test_a_detector_goes_on_from_its_state_to_the_bit() -> None:
    one = Shop(busy(), seed=4)
    one.calm(40)
    one.tick(only(60, 1, 5.0))
    other = SpikeDetector(one.detector.spec)
    other.restore(one.detector.level.copy(), one.detector.state(copy=True))
    for hour in range(40, 60):
        lines = one.rng.poisson(one.usual * only(60, 8, 2.0))
        mine, theirs = (d.judge(bucket(hour + 1, lines, one.usual)) for d in (one.detector, other))
        for name in ("places", "p_value", "factor", "level", "direction", "over", "since", "together"):
            assert np.array_equal(getattr(mine, name), getattr(theirs, name)), name
    for name, array in one.detector.state().items():
        assert array.tobytes() == other.state()[name].tobytes(), name


def test_a_state_of_an_earlier_version_is_quiet_and_stays_what_it_was_until_something_is_judged() -> None:
    detector = SpikeDetector(spike_spec(1.0, HOUR_MS, (24,)))
    detector.restore(np.array([0, 2, 1], np.int8), {})
    assert detector.state() == {} and detector.level.tolist() == [0, 2, 1]
