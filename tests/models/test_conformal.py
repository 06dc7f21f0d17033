"""Calibration of quantiles: levels are kept on counts and on kilograms, and a change is followed whatever the delay."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtri

from models.conformal import Conformal, corrected, reached
from models.counts import counts

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def kept(said: NDArray[np.float32], y: NDArray[np.float32], level: float) -> float:
    """How far a level is from being kept, in points: share(y < q) <= p <= share(y <= q)."""
    q = np.maximum(np.ceil(said - 1e-4), 0)
    return 100 * (max(0.0, float((y < q).mean()) - level) + max(0.0, level - float((y <= q).mean())))


def poisson_said(mean: float, items: int) -> NDArray[np.float32]:
    one = np.full((1, items), mean, np.float32)
    return counts(LEVELS).mix(one, np.zeros_like(one), np.ones_like(one), np.ones(items, np.bool_)).T


def factors(conformal: Conformal, said: NDArray[np.float32], whole: bool, kind: int = 0) -> NDArray[np.float32]:
    """float32[levels], of the first forecast."""
    wide = conformal.width(said[:, :1], np.array([whole]))
    (found,) = conformal.corrections().factors(0, np.array([kind]), wide)
    return np.asarray(found, np.float32)


@pytest.mark.parametrize("mean", [0.4, 3.0, 40.0])
@pytest.mark.parametrize("off", [0.5, 1.6])
def test_a_forecast_that_is_off_is_put_right(mean: float, off: float) -> None:
    random = np.random.default_rng(1)
    items = 200
    conformal = Conformal(1, 2, LEVELS)
    said, whole, classes = poisson_said(mean * off, items), np.ones(items, np.bool_), np.zeros(items, np.int64)
    for _ in range(250):
        conformal.update(0, classes, said, random.poisson(mean, items).astype(np.float32), whole)
    y = random.poisson(mean, 20_000).astype(np.float32)
    for place, level in enumerate(LEVELS):
        factor = factors(conformal, said, True)[place]
        x = corrected(np.full(len(y), said[place, 0]), np.full(len(y), factor), np.ones(len(y), np.bool_))
        assert kept(x, y, level) < 4, (level, factor)


def test_a_perfect_forecast_is_left_alone() -> None:
    random = np.random.default_rng(2)
    items = 300
    conformal = Conformal(1, 1, LEVELS)
    said, whole, classes = poisson_said(2.0, items), np.ones(items, np.bool_), np.zeros(items, np.int64)
    for _ in range(300):
        conformal.update(0, classes, said, random.poisson(2.0, items).astype(np.float32), whole)
    assert np.abs(np.log(factors(conformal, said, True))).max() < 0.12
    coverage = conformal.coverage()
    for level in LEVELS:
        held = coverage[f"{level:g}"]
        assert held["below"] - 0.03 <= level <= held["at_or_below"] + 0.03


def test_a_class_that_was_never_seen_borrows_from_the_others() -> None:
    random = np.random.default_rng(3)
    items = 100
    conformal = Conformal(1, 2, LEVELS)
    said, whole, classes = poisson_said(10.0, items), np.ones(items, np.bool_), np.zeros(items, np.int64)
    for _ in range(200):
        conformal.update(0, classes, said, random.poisson(20.0, items).astype(np.float32), whole)
    assert factors(conformal, said, True, 1)[2] == pytest.approx(factors(conformal, said, True)[2], rel=0.1)
    assert factors(conformal, said, True, 1)[2] > 1.5


def test_counts_are_spread_evenly_below_themselves() -> None:
    x = np.array([-0.5, 0.25, 1.0, 1.75, 7.0], np.float32)
    y = np.array([0.0, 1.0, 1.0, 1.0, 1.0], np.float32)
    assert reached(x, y, np.ones(5, np.bool_)).tolist() == [0.5, 0.25, 1.0, 1.0, 1.0]
    assert reached(x, y, np.zeros(5, np.bool_)).tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]


def test_state_goes_on_to_the_bit() -> None:
    random = np.random.default_rng(4)
    one, other = Conformal(2, 3, LEVELS), Conformal(2, 3, LEVELS)
    said, whole = poisson_said(3.0, 50), np.ones(50, np.bool_)
    classes = random.integers(0, 3, 50)
    for tick in range(20):
        one.update(tick % 2, classes, said, random.poisson(4.0, 50).astype(np.float32), whole)
    other.restore(one.state())
    y = random.poisson(4.0, 50).astype(np.float32)
    for conformal in (one, other):
        conformal.update(0, classes, said, y, whole)
    assert factors(one, said, True).tobytes() == factors(other, said, True).tobytes()
    with pytest.raises(ValueError, match="rebuild the state"):
        Conformal(1, 3, LEVELS).restore(one.state())


def test_narrow_forecasts_are_put_right_without_being_thrown_about() -> None:
    """Sales that vary by 5 %, and by 3 % for all items together, said 10 % too high and half as wide as they are."""
    random = np.random.default_rng(4)
    items = 200
    conformal = Conformal(1, 1, LEVELS)
    whole, classes = np.zeros(items, np.bool_), np.zeros(items, np.int64)
    said = np.repeat(1000 * 1.1 * np.exp(0.03 * ndtri(np.array(LEVELS)))[:, None], items, axis=1).astype(np.float32)

    def sold() -> NDArray[np.float32]:
        return np.asarray(1000 * np.exp(random.normal(0, 0.03) + random.normal(0, 0.05, items)), np.float32)

    off = []
    for tick in range(80):
        conformal.update(0, classes, said, sold(), whole)
        if tick >= 15:
            off.append(np.log(said[:, 0] * factors(conformal, said, False) / 1000) - 0.058 * ndtri(np.array(LEVELS)))
    assert np.abs(np.mean(off, axis=0)).max() < 0.02
    assert np.std(off, axis=0).max() < 0.03


def around(mean: float, spread: float, items: int) -> NDArray[np.float32]:
    return np.repeat(mean * np.exp(spread * ndtri(np.array(LEVELS)))[:, None], items, axis=1).astype(np.float32)


def test_what_was_learnt_of_wide_forecasts_holds_for_narrow_ones() -> None:
    """Kilograms that vary by 5 %, said four times as wide; then by a forecaster that says twice as wide."""
    random = np.random.default_rng(5)
    items = 200
    conformal = Conformal(1, 1, LEVELS)
    whole, classes = np.zeros(items, np.bool_), np.zeros(items, np.int64)
    for _ in range(60):
        conformal.update(0, classes, around(1000, 0.2, items), (1000 * np.exp(random.normal(0, 0.05, items))).astype(np.float32), whole)
    z = ndtri(np.array(LEVELS))
    wide = np.log(around(1000, 0.2, 1)[:, 0] * factors(conformal, around(1000, 0.2, 1), False) / 1000)
    narrow = np.log(around(1000, 0.1, 1)[:, 0] * factors(conformal, around(1000, 0.1, 1), False) / 1000)
    assert np.abs(wide - 0.05 * z).max() < 0.06
    assert (np.diff(narrow) > 0).all()  # subtracting what the wide ones had too much would turn them inside out
    np.testing.assert_allclose(narrow, wide / 2, atol=0.01)


def test_corrections_that_turned_forecasts_inside_out_come_back() -> None:
    random = np.random.default_rng(6)
    items = 200
    conformal = Conformal(1, 1, LEVELS)
    whole, classes = np.zeros(items, np.bool_), np.zeros(items, np.int64)
    state = conformal.state()
    state["shift"] = np.broadcast_to(-0.2 * ndtri(np.array(LEVELS)), state["shift"].shape).copy()
    state["items"][:], state["ticks"][:], state["wide"][:] = 4000, 40, 2 * 0.05 * 1.645
    conformal.restore(state)
    said = around(1000, 0.05, items)
    for _ in range(250):
        conformal.update(0, classes, said, (1000 * np.exp(random.normal(0, 0.05, items))).astype(np.float32), whole)
    assert np.abs(np.log(factors(conformal, said, False))).max() < 0.02


def test_a_voice_that_was_silent_voids_its_share_of_what_was_learnt() -> None:
    conformal = Conformal(2, 1, LEVELS)
    said, whole, classes = poisson_said(10.0, 100), np.ones(100, np.bool_), np.zeros(100, np.int64)
    for group in (0, 1):
        for _ in range(50):
            conformal.update(group, classes, said, np.full(100, 30, np.float32), whole)
    before = np.log(factors(conformal, said, True))
    conformal.renew(np.array([0.5, 0.0]))
    np.testing.assert_allclose(np.log(factors(conformal, said, True)), before / 2, rtol=1e-3)
    assert conformal.corrections().place[1, 0] == pytest.approx(conformal.corrections().place[0, 0] * 2, rel=0.2)
