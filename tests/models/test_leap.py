"""A change of all demand at once: found within a few ticks, followed while experts catch up, let go of; and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.demand.forecaster import DemandForecaster
from models.demand.leap import Leap
from tests.models.shops import LEVELS, Shop, spec

WEEKS = {"size": "1w", "seasons": (52,), "horizon": 3, "probes": (1, 2, 3), "totals": ()}


def told(leap: Leap, y: NDArray[np.float64], expected: float, whole: bool = True) -> None:
    """A tick whose forecasts were all the quantiles of a Poisson demand of the expected mean, about."""
    z = np.array([-2.33, -1.64, -1.28, -0.67, 0, 0.67, 1.28, 1.64, 2.33])
    said = np.maximum(expected + z * np.sqrt(expected) - 0.5, -1).astype(np.float32)
    leap.learn(np.repeat(said[:, None], len(y), axis=1), y.astype(np.float32), np.full(len(y), whole))


def shop_of(ticks: int, seed: int, common: float = 0.1) -> NDArray[np.float64]:
    """float64[ticks, 60], Poisson demand of 5 with what moves all items alike."""
    random = np.random.default_rng(seed)
    return random.poisson(5 * np.exp(random.normal(0, common, ticks))[:, None], (ticks, 60)).astype(np.float64)


@pytest.mark.parametrize("factor", [2.0, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_a_change_for_good_is_found_within_four_ticks_and_let_go_of_when_the_mixture_is_right(factor: float, seed: int) -> None:
    leap, sold = Leap(spec(**WEEKS)), shop_of(80, seed)
    for tick in range(40):
        told(leap, sold[tick], 5)
        assert leap.level == 0
    found = []
    for tick in range(40, 60):
        told(leap, sold[tick] * factor, 5)
        found.append(leap.level)
    assert all(abs(level - np.log(factor)) < 0.25 for level in found[3:])
    for tick in range(60, 80):  # the mixture has caught up
        told(leap, sold[tick] * factor, 5 * factor)
    assert leap.level == 0


@pytest.mark.parametrize("seed", range(6))
def test_noise_and_one_great_order_and_one_great_week_are_no_such_change(seed: int) -> None:
    leap, sold = Leap(spec(**WEEKS)), shop_of(200, seed, common=0.2)
    sold[60, 7] = 50_000
    sold[61, 8] = 50_000
    sold[90] *= 2
    for tick in range(200):
        told(leap, sold[tick], 5)
        assert leap.level == 0, tick


def test_short_buckets_are_left_alone_and_a_beginning_is_no_change() -> None:
    assert not Leap(spec()).watches
    leap = Leap(spec(**WEEKS))
    for tick, sold in enumerate(shop_of(8, 1)):
        told(leap, sold * 3, 5)
        assert leap.level == 0, tick


def test_the_order_of_items_does_not_matter_to_the_bit() -> None:
    levels = []
    for order in (np.arange(60), np.random.default_rng(1).permutation(60)):
        leap, sold = Leap(spec(**WEEKS)), shop_of(50, 3) * np.linspace(0.1, 1e3, 60)
        for tick in range(50):
            mean = np.linspace(0.5, 5e3, 60)[order]
            said = (mean[None] * np.linspace(0.5, 1.6, len(LEVELS))[:, None]).astype(np.float32)
            leap.learn(said, (sold[tick] * (2 if tick >= 40 else 1))[order].astype(np.float32), np.ones(60, np.bool_))
        levels.append(leap.level)
    assert levels[0] == levels[1] > 0.3


def test_a_state_goes_on_where_it_stood() -> None:
    one, sold = Leap(spec(**WEEKS)), shop_of(60, 2)
    for tick in range(42):
        told(one, sold[tick] * (2 if tick >= 40 else 1), 5)
    other = Leap(spec(**WEEKS))
    other.restore(one.state())
    for tick in range(42, 60):
        for each in (one, other):
            told(each, sold[tick] * 2, 5)
        assert one.level == other.level
    assert one.level > 0.4
    other.restore({})
    assert other.level == 0


def test_forecasts_follow_a_doubling_of_weeks_sooner_than_experts_do() -> None:
    wanted = spec(**WEEKS, experts=("ewma", "tsb", "empirical"))
    random = np.random.default_rng(5)
    units = random.poisson(2_000 * np.exp(random.normal(0, 0.08, 90))[:, None] * np.exp(random.normal(0, 0.6, 40)), (90, 40)).astype(
        np.float64
    )
    units[60:] *= 2
    shares = []
    for watching in (True, False):
        forecaster = DemandForecaster(wanted)
        forecaster._leap.watches = watching
        shop = Shop(units, wanted, forecaster.lookback)
        forecaster.resize(shop.capacity)
        share = []
        for bucket in range(86):
            panel = shop.panel(bucket)
            forecaster.close(panel)
            made = forecaster.forecast(panel)
            forecaster.hold(panel, made)
            share.append(made.mean[:, 0].sum() / units[bucket + 1].sum())
            low, high = made.quantiles[:, LEVELS.index(0.1), 0], made.quantiles[:, LEVELS.index(0.9), 0]
            if watching and bucket >= 63:
                assert ((low <= units[bucket + 1]) & (units[bucket + 1] <= high)).mean() > 0.5, bucket
        shares.append(np.array(share))
    assert (np.abs(np.log(shares[0][62:])) < 0.35).all()
    assert np.abs(np.log(shares[0][62:72])).mean() < 0.4 * np.abs(np.log(shares[1][62:72])).mean()
