"""What experts make of a panel that tells more than units: shut days, stock that ran out, prices; and of what it does not tell yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from models.demand.expert import Expert
from models.demand.window import Window
from models.registry import DEMAND
from tests.models.shops import SCALE, START, Shop, expert_of, seasonal, spec
from tests.models.test_demand_suite import equal, same

honours = pytest.mark.parametrize("name", sorted(set(DEMAND) - {"global"}))
"""The network reads its window as it stands, what a shut bucket is said to have sold too."""
every = pytest.mark.parametrize("name", sorted(DEMAND))
WEEK = 7


def learnt(name: str, units: NDArray[np.float64], buckets: int, told: Mapping[str, object], **changes: object) -> tuple[Expert, Shop]:
    """An expert that has learnt the first buckets of a shop that tells more."""
    wanted = spec(**({"seasons": (WEEK,), "horizon": 14, "probes": (1, 7, 14), "totals": ()} | changes))
    expert = expert_of(name, wanted)
    shop = Shop(units, wanted, expert.lookback, **told)  # type: ignore[arg-type]
    expert.resize(shop.capacity)
    for bucket in range(buckets):
        expert.learn(shop.panel(bucket))
    return expert, shop


def sundays(buckets: int) -> NDArray[np.bool_]:
    return np.asarray(np.arange(buckets) % WEEK == 3)


@every
def test_a_shut_step_sells_nothing_and_a_shut_bucket_teaches_nothing(name: str) -> None:
    shut = sundays(80)
    units = np.where(shut[:60, None], 0, seasonal(20, 60, seed=1, season=WEEK, mean=8, depth=0))
    expert, shop = learnt(name, units, 60, {"shut": shut}, river_items=20)
    found = expert.predict(shop.panel(59))
    ahead = shut[60:74]
    assert ahead.sum() == 2
    assert (found.mean[:, ahead] == 0).all()
    assert (found.quantiles[:, :, ahead] == 0).all()
    if name.startswith("network"):
        return  # drawn and never trained, it has no level
    # The others are level with what was sold on open days, not with a week's mean.
    opened = units[~shut[:60]].mean()
    np.testing.assert_allclose(found.mean[:, ~ahead].mean(), opened, rtol=0.08)


@honours
def test_what_a_shut_bucket_is_said_to_have_sold_changes_nothing(name: str) -> None:
    shut = sundays(80)
    units = seasonal(20, 60, seed=1, season=WEEK, mean=8)
    expert, shop = learnt(name, units, 60, {"shut": shut}, river_items=20)
    changed = np.where(shut[:60, None], 5, units)
    other, after = learnt(name, changed, 60, {"shut": shut}, river_items=20)
    assert equal(other.predict(after.panel(59)), expert.predict(shop.panel(59)))


@honours
def test_a_correction_of_a_shut_bucket_teaches_nothing(name: str) -> None:
    shut = sundays(80)
    units = seasonal(10, 60, seed=2, season=WEEK)
    at = int(np.flatnonzero(shut[:60])[-1])
    expert, shop = learnt(name, units, at + 1, {"shut": shut}, river_items=10)
    before = expert.predict(shop.panel(at))
    changed = units.copy()
    changed[at] += 30
    late = Shop(changed, expert.spec, expert.lookback, shut=shut)
    expert.correct(late.panel(at))
    assert equal(expert.predict(late.panel(at)), before)


@pytest.mark.parametrize(
    "name", ["ewma", "tsb", "empirical", "decomposition", "elasticity", "holt_winters", "ar", "ar_k", "river", "seasonal_naive"]
)
def test_stock_that_ran_out_is_no_lack_of_demand(name: str) -> None:
    """Half of the items are out of stock for the last six buckets: their forecasts stay where the others' are."""
    random = np.random.default_rng(3)
    units = random.poisson(10.0, (63, 40)).astype(np.float64)
    units[57:, :20] = 0
    out = np.zeros((63, 40), np.float32)
    out[57:, :20] = 1
    told, shop = learnt(name, units, 63, {"censored": out}, river_items=40)
    untold, plain = learnt(name, units, 63, {}, river_items=40)
    knows, not_told = told.predict(shop.panel(62)).mean, untold.predict(plain.panel(62)).mean
    kept, lost = (found[:20, :7].mean() / found[20:, :7].mean() for found in (knows, not_told))
    assert 0.85 < kept < 1.15
    assert lost < kept - 0.06


def test_half_a_bucket_of_stock_teaches_its_half() -> None:
    """Sales of a share of a bucket are a share of its demand: with half of it always without stock, twice what is sold was wanted."""
    random = np.random.default_rng(4)
    units = random.poisson(5.0, (140, 30)).astype(np.float64)
    half = np.full((140, 30), 0.5, np.float32)
    for name in ("ewma", "decomposition", "elasticity"):
        expert, shop = learnt(name, units, 140, {"censored": half}, seasons=())
        assert 8 < expert.predict(shop.panel(139)).mean.mean() < 11.5


def test_a_level_is_of_open_buckets_with_stock() -> None:
    units = np.full((20, 2), 6.0)
    units[15:18] = 0
    shut = np.zeros(40, np.bool_)
    shut[15:17] = True
    out = np.zeros((20, 2), np.float32)
    out[17, 0] = 1
    window = Window(Shop(units, spec(), 16, shut=shut, censored=out).panel(19))
    assert window.worth(10).tolist() == [7, 8]
    assert window.mean(10).tolist() == [6, 42 / 8]


def priced(seed: int, buckets: int = 120, items: int = 60) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Units of a shop with an elasticity of -2.5, and prices that are cut by a third in a fifth of an item's weeks."""
    random = np.random.default_rng(seed)
    cut = random.random((buckets // WEEK + 5, items)) < 0.2
    price = np.where(cut.repeat(WEEK, axis=0), 2 / 3, 1.0) * random.uniform(2, 40, items)
    rate = 6 * np.exp(random.normal(0, 0.5, items)) * np.where(price < price.max(axis=0) * 0.99, (2 / 3) ** -2.5, 1.0)
    return random.poisson(rate[:buckets]).astype(np.float64), price.astype(np.float32)


def test_elasticity_finds_what_a_price_cut_does_and_uses_one_that_is_announced() -> None:
    units, price = priced(5)
    expert, shop = learnt("elasticity", units, 119, {"known": {"price": price}})
    usual, cut = price.copy(), price.copy()
    usual[119:], cut[119:] = price.max(axis=0), price.max(axis=0) * 2 / 3
    before, after = (
        expert.predict(Shop(units, expert.spec, expert.lookback, known={"price": values}).panel(118)).mean for values in (usual, cut)
    )
    lift = after.sum() / before.sum()
    assert 2.2 < lift < 3.4  # (2/3)^-2.5 = 2.76
    # And that is worth having: next to the same model without prices.
    blind, plain = learnt("elasticity", units, 60, {})
    seeing, shop = learnt("elasticity", units, 60, {"known": {"price": price}})
    errors = np.zeros(2)
    for bucket in range(60, 100, 5):
        actual = units[bucket : bucket + 14].T
        for index, (one, there) in enumerate(((seeing, shop), (blind, plain))):
            errors[index] += np.abs(one.predict(there.panel(bucket - 1)).mean - actual).sum()
            for step in range(5):
                one.learn(there.panel(bucket + step))
    assert errors[0] < 0.75 * errors[1]


def test_elasticity_carries_on_what_is_not_announced() -> None:
    units, price = priced(6)
    expert, _ = learnt("elasticity", units, 100, {"known": {"price": price}})
    silent, same_price = price.copy(), price.copy()
    silent[100:], same_price[100:] = np.nan, price[99]
    found = [expert.predict(Shop(units, expert.spec, expert.lookback, known={"price": story}).panel(99)) for story in (silent, same_price)]
    assert equal(*found)


def test_elasticity_without_covariates_is_level_times_season() -> None:
    units = seasonal(30, 90, seed=7, season=WEEK, mean=10)
    nothing = {"known": {"promotion": np.full((110, 30), np.nan, np.float32)}}
    expert, shop = learnt("elasticity", units, 90, {})
    other, silent = learnt("elasticity", units, 90, nothing)
    assert equal(expert.predict(shop.panel(89)), other.predict(silent.panel(89)))
    ewma, there = learnt("ewma", units, 90, {})
    assert np.corrcoef(expert.predict(shop.panel(89)).mean.ravel(), ewma.predict(there.panel(89)).mean.ravel())[0, 1] > 0.9


@every
def test_nothing_leaks_from_what_is_not_known_yet(name: str) -> None:
    """Every value after the cut is other: units, stock, and what is announced for buckets beyond the horizon. No bit of a forecast changes."""
    random = np.random.default_rng(8)
    cut = 50
    units = seasonal(15, 90, seed=8, season=WEEK)
    stories = {
        "shut": sundays(120),
        "censored": (random.random((90, 15)) < 0.1).astype(np.float32),
        "known": {"price": np.exp(random.normal(0, 0.2, (120, 15))).astype(np.float32), "holiday": np.ones((120, 1), np.float32)},
    }
    other = {
        "shut": stories["shut"].copy(),  # type: ignore[attr-defined]
        "censored": stories["censored"].copy(),  # type: ignore[attr-defined]
        "known": {key: value.copy() for key, value in stories["known"].items()},  # type: ignore[attr-defined]
    }
    other["shut"][cut + 14 :] ^= True
    other["censored"][cut:] = 1 - other["censored"][cut:]
    for values in other["known"].values():
        values[cut + 14 :] *= 3
    changed = units.copy()
    changed[cut:] = 1_000
    expert, shop = learnt(name, units, cut, stories, river_items=15)
    also, after = learnt(name, changed, cut, other, river_items=15)
    assert same(expert.state(), also.state())
    assert equal(expert.predict(shop.panel(cut - 1)), also.predict(after.panel(cut - 1)))


@every
def test_rows_stand_alone_with_all_that_a_panel_can_tell(name: str) -> None:
    random = np.random.default_rng(9)
    told = {
        "shut": sundays(90),
        "censored": (random.random((60, 40)) < 0.1).astype(np.float32),
        "known": {"price": np.exp(random.normal(0, 0.2, (90, 40))).astype(np.float32)},
    }
    units = seasonal(40, 60, seed=9, season=WEEK)
    expert, shop = learnt(name, units, 60, told, river_items=10)
    panel = replace(shop.panel(59), statics={"category": np.arange(40) % 5})
    some = np.array([0, 3, 17, 18, 39])
    together, apart = expert.predict(panel), expert.predict(replace(panel, slots=some))
    assert apart.mean.tobytes() == np.ascontiguousarray(together.mean[some]).tobytes()
    assert apart.quantiles.tobytes() == np.ascontiguousarray(together.quantiles[some]).tobytes()
    restored = expert_of(name, expert.spec)
    restored.restore(expert.state())
    assert equal(restored.predict(panel), together)


def yearly(seed: int) -> tuple[NDArray[np.float64], list[int]]:
    """Nearly three years of weeks with a trend and a season that items of a category share; half of the items came in the third."""
    random = np.random.default_rng(seed)
    weeks = np.arange(142)[:, None]
    growth = random.normal(0.004, 0.002, 40)
    rate = (
        30
        * np.exp(random.normal(0, 0.4, 40))
        * np.exp(growth * weeks)
        * np.exp(0.6 * np.sin(2 * np.pi * weeks / 52 + (np.arange(40) % 2) * np.pi))
    )
    return random.poisson(rate).astype(np.float64), [0 if item < 20 else 104 for item in range(40)]


def test_decomposition_beats_the_season_again_where_there_is_a_trend() -> None:
    random = np.random.default_rng(10)
    day = np.arange(140)[:, None]
    rate = 20 * np.exp(random.normal(0, 0.5, 40) + 0.008 * day * random.choice([-1, 1], 40)) * (1 + 0.6 * np.sin(2 * np.pi * day / WEEK))
    units = random.poisson(rate).astype(np.float64)
    errors = {}
    for name in ("decomposition", "seasonal_naive", "ewma"):
        expert, shop = learnt(name, units, 100, {})
        errors[name] = 0.0
        for bucket in range(100, 126):
            errors[name] += float(np.abs(expert.predict(shop.panel(bucket - 1)).mean.T - units[bucket : bucket + 14]).sum())
            expert.learn(shop.panel(bucket))
    assert errors["decomposition"] < 0.9 * errors["seasonal_naive"]
    assert errors["decomposition"] < 0.9 * errors["ewma"]


def test_a_young_item_has_its_categorys_year() -> None:
    """The two categories are in season at opposite times; a young item is forecast the half year that it has never seen."""
    units, first = yearly(11)
    wanted = spec(seasons=(52,), horizon=26, probes=(1, 13, 26), totals=())
    errors = []
    for statics in ({"category": np.arange(40) % 2}, {}):
        expert = DEMAND["decomposition"](wanted)
        shop = Shop(units, wanted, expert.lookback)
        shop.first[:] = START + np.array(first)
        expert.resize(40)
        for bucket in range(104 + 12):
            expert.learn(replace(shop.panel(bucket), statics=statics))
        found = expert.predict(replace(shop.panel(115), statics=statics)).mean[20:]
        errors.append(float(np.abs(found - units[116:142, 20:].T).sum()))
    assert errors[0] < 0.75 * errors[1]


def test_empirical_quantiles_are_those_of_the_open_buckets() -> None:
    """Demand that no count distribution has: 0 or 20, half each. A negative binomial's median lies between, where nothing ever is."""
    random = np.random.default_rng(12)
    units = np.where(random.random((100, 80)) < 0.4, 20.0, 0.0)
    expert, shop = learnt("empirical", units, 100, {})
    found = expert.predict(shop.panel(99)).quantiles[:, :, 0]
    assert np.median(found[:, 4]) <= 2
    assert np.median(found[:, 5]) >= 18
    assert (found[:, 8] >= 18).all()
    assert (found[:, 8] <= 30).all()


def test_what_is_in_the_ring_is_what_was_sold() -> None:
    """The shop of these tests itself: a panel's rings say what the story says."""
    units = seasonal(3, 30, seed=13)
    panel = Shop(units, spec(), 10, known={"price": np.arange(60, dtype=np.float32)[:, None]}).panel(20)
    window = Window(panel)
    assert (panel.units[panel.closed % len(panel.units)] / SCALE == units[20]).all()
    assert [window.known("price", START + bucket)[0] for bucket in (15, 20, 28)] == [15, 20, 28]
    assert np.isnan(window.known("price", START + 29)).all()
