"""Expected purchases in a demand forecast: what they move, how much of them is believed, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.demand.forecaster import DemandForecaster
from models.demand.leading import Leading
from models.protocol import DemandSpec
from tests.models.shops import START, Shop, spec
from tests.models.test_demand_suite import same
from tests.models.test_forecaster import assert_rows, check, tick

ITEMS, BUCKETS = 60, 90
Told = NDArray[np.float64]


def story(seed: int = 0, packs: bool = False, told: bool = True) -> tuple[Told, NDArray[np.float32]]:
    """(units, level), float[buckets, items]: rises of two to five buckets whose level stands a bucket before their sales.

    Args:
        seed: of it all.
        packs: some items sell ten at a time.
        told: the level knows of the rises; else it is noise of the same size.
    """
    random = np.random.default_rng(seed)
    usual = np.exp(random.normal(0.7, 0.8, ITEMS))
    rise = np.ones((BUCKETS + 1, ITEMS))
    for item in range(ITEMS):
        for start in np.flatnonzero(random.random(BUCKETS) < 0.03).tolist():
            rise[start : start + int(random.integers(2, 6)), item] = random.uniform(3, 10)
    size = np.where(np.arange(ITEMS) % 3 == 0, 10, 1) if packs else np.ones(ITEMS)
    units = random.poisson(usual * rise[:BUCKETS]) * size
    known = rise[1:] if told else random.permutation(rise[1:].ravel()).reshape(BUCKETS, ITEMS)
    level = random.gamma(20, usual * known * 0.3 / 20)
    return units.astype(np.float64), level.astype(np.float32)


def run(units: Told, level: NDArray[np.float32] | None, buckets: int, wanted: DemandSpec | None = None) -> tuple[DemandForecaster, Shop]:
    forecaster = DemandForecaster(wanted or spec())
    shop = Shop(units, forecaster.spec, forecaster.lookback, past={} if level is None else {"expected": level})
    forecaster.resize(shop.capacity)
    for bucket in range(buckets):
        tick(forecaster, shop, bucket)
    return forecaster, shop


def losses(units: Told, level: NDArray[np.float32] | None, first: int = 40, wanted: DemandSpec | None = None) -> NDArray[np.float64]:
    """float64[horizon], pinball losses of the forecasts from a bucket on."""
    forecaster, shop = run(units, level, first, wanted)
    levels, horizon = np.array(forecaster.spec.levels)[None, :, None], forecaster.spec.horizon
    total = np.zeros(horizon)
    for bucket in range(first, BUCKETS - horizon):
        found = tick(forecaster, shop, bucket)
        check(found, forecaster.spec.levels)
        off = units[bucket + 1 : bucket + 1 + horizon].T[:, None, :] - found.quantiles
        total += np.maximum(levels * off, (levels - 1) * off).sum(axis=(0, 1))
    return total


@pytest.mark.parametrize("packs", [False, True])
def test_a_rise_is_forecast_before_it_has_sold_anything(packs: bool) -> None:
    units, level = story(packs=packs)
    without, with_it = losses(units, None), losses(units, level)
    assert with_it[0] < 0.85 * without[0]
    assert (with_it[1:4] < 1.005 * without[1:4]).all()
    # Beyond four hours live sessions say nothing: the same bits.
    assert with_it[4:].tobytes() == without[4:].tobytes()


def test_a_level_that_says_nothing_is_not_believed() -> None:
    for seed in range(3):
        units, level = story(seed, told=False)
        without, with_it = losses(units, None), losses(units, level)
        assert (with_it < 1.005 * without).all(), with_it / without


def test_days_are_not_moved() -> None:
    units, level = story()
    wanted = spec(size="1d")
    assert losses(units, level, wanted=wanted).tobytes() == losses(units, None, wanted=wanted).tobytes()


def test_spikes_are_judged_by_what_was_usual() -> None:
    """A forecast that saw the rise coming must not hide it: what is held for spikes does not know of the live sessions."""
    units, level = story()
    level[-1, 7] = 12 * level[:, 7].mean()
    forecaster, shop = run(units, level, BUCKETS - 1)
    found = tick(forecaster, shop, BUCKETS - 1)
    expected = forecaster.expected(np.arange(ITEMS), START + BUCKETS)
    assert expected.astype(np.float32).tobytes() == found.usual.tobytes()
    assert found.mean[7, 0] > 3 * found.usual[7]
    assert found.quantiles[7, 4, 0] > 2 * found.usual[7]
    assert found.totals[3][7, 4] > found.usual[7] * 3 * 1.5
    p, _ = forecaster.tail(np.array([7]), np.array([12 * units[:, 7].mean()]), START + BUCKETS)
    assert p[0] < 1e-3


def test_rows_stand_alone_and_the_state_goes_round() -> None:
    units, level = story(1)
    forecaster, shop = run(units, level, 60)
    together = forecaster.forecast(shop.panel(59))
    some = np.array([3, 4, 9, 40])
    apart = forecaster.forecast(shop.panel(59, some))
    assert_rows(apart, together, some)
    assert apart.usual.tobytes() == together.usual[some].tobytes()
    other = DemandForecaster(spec())
    other.restore(forecaster.state())
    for bucket in range(60, 80):
        left, right = tick(forecaster, shop, bucket), tick(other, shop, bucket)
        assert_rows(left, right, np.arange(ITEMS))
    assert same(forecaster.state(), other.state())


def test_state_from_before_the_column_is_read_and_the_column_may_come_and_go() -> None:
    units, level = story(2)
    forecaster, shop = run(units, None, 30)
    assert not [name for name in forecaster.state() if name.startswith("leading.")]
    other = DemandForecaster(spec())
    other.restore(forecaster.state())
    shop.past = {"expected": level}
    for bucket in range(30, 60):
        left, right = tick(forecaster, shop, bucket), tick(other, shop, bucket)
        assert_rows(left, right, np.arange(ITEMS))
    found = forecaster.state()
    assert found["leading.slot.units"].shape == (ITEMS,)
    forecaster.forget(np.array([5]))
    assert forecaster.state()["leading.slot.units"][5] == forecaster.state()["leading.slot.stock"][5] == 0
    forecaster.resize(2 * ITEMS)
    assert forecaster.state()["leading.slot.units"].shape == (2 * ITEMS,)
    shop.past = {}
    check(tick(forecaster_of(found), shop, 60), spec().levels)


def forecaster_of(state: dict[str, NDArray[np.generic]]) -> DemandForecaster:
    made = DemandForecaster(spec())
    made.restore(state)
    return made


def test_open_buckets_and_censored_ones_teach_nothing() -> None:
    units, level = story(3)
    cut = np.zeros((BUCKETS, ITEMS), np.float32)
    cut[:, 4] = 1  # never any stock
    forecaster = DemandForecaster(spec())
    shop = Shop(units, forecaster.spec, forecaster.lookback, censored=cut, past={"expected": level})
    forecaster.resize(ITEMS)
    for bucket in range(30):
        tick(forecaster, shop, bucket)
    state = forecaster.state()
    assert state["leading.slot.stock"][4] == 0
    assert np.delete(state["leading.slot.stock"], 4).all()


def test_how_far_it_reaches() -> None:
    for size, horizon, reach in (("1h", 24, 4), ("15m", 96, 16), ("5m", 12, 12), ("1d", 14, 0)):
        made = Leading(spec(size=size, horizon=horizon, probes=(1, 6, horizon)))
        assert made.reach == reach
        assert made.learns(0) == (reach > 0)
