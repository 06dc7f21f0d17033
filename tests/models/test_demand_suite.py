"""The conformance suite of demand experts: what every registered model must do, and that every model is registered."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import models.demand
from models.demand.expert import Expert
from models.protocol import Distribution
from models.registry import DEMAND
from tests.models.shops import START, Shop, expert_of, seasonal, spec

every = pytest.mark.parametrize("name", sorted(DEMAND))
learners = pytest.mark.parametrize("name", sorted(name for name in DEMAND if not name.startswith("network") and name != "boosted"))
"""Those that learn in the partition: a network, and trees, that have seen nothing of this demand know nothing of it."""


def trained(name: str, units: NDArray[np.float64], buckets: int, **changes: object) -> tuple[Expert, Shop]:
    """An expert that has learnt the first buckets of a shop."""
    wanted = spec(**changes)
    expert = expert_of(name, wanted)
    shop = Shop(units, wanted, expert.lookback)
    expert.resize(shop.capacity)
    for bucket in range(buckets):
        expert.learn(shop.panel(bucket))
    return expert, shop


def same(left: Mapping[str, NDArray[np.generic]], right: Mapping[str, NDArray[np.generic]]) -> bool:
    """The same names, types, shapes and bits."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and left[name].shape == right[name].shape and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


def equal(left: Distribution, right: Distribution) -> bool:
    return left.mean.tobytes() == right.mean.tobytes() and left.quantiles.tobytes() == right.quantiles.tobytes()


def check(found: Distribution, items: int, whole: bool = True) -> None:
    """What holds for every forecast of every model."""
    wanted = spec()
    assert found.mean.shape == (items, wanted.horizon)
    assert found.quantiles.shape == (items, len(wanted.levels), wanted.horizon)
    assert found.mean.dtype == found.quantiles.dtype == np.float32
    assert np.isfinite(found.mean).all()
    assert np.isfinite(found.quantiles).all()
    assert (found.mean >= 0).all()
    assert (found.quantiles >= 0).all()
    assert (np.diff(found.quantiles, axis=1) >= 0).all()
    if whole:
        assert (found.quantiles == np.rint(found.quantiles)).all()


def test_every_model_is_registered() -> None:
    found: set[type] = set()
    for module in pkgutil.iter_modules(models.demand.__path__):
        for _, kind in inspect.getmembers(importlib.import_module(f"models.demand.{module.name}"), inspect.isclass):
            if issubclass(kind, Expert) and not inspect.isabstract(kind):
                found.add(kind)
    assert found == set(DEMAND.values())
    assert all(DEMAND[name].name == name for name in DEMAND)


@every
def test_predicts_before_it_has_learnt(name: str) -> None:
    expert, shop = trained(name, seasonal(5, 3), 0)
    check(expert.predict(shop.panel(0)), 5)
    check(expert.predict(shop.panel(0, np.array([], dtype=np.int64))), 0)


@every
def test_prediction_is_pure(name: str) -> None:
    expert, shop = trained(name, seasonal(20, 40), 40)
    before = expert.state()
    first = expert.predict(shop.panel(39))
    assert same(before, expert.state())
    assert equal(first, expert.predict(shop.panel(39)))


@every
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_row_does_not_depend_on_the_others(name: str, data: st.DataObject) -> None:
    units = seasonal(230, 20, seed=1)  # more rows than a tile has
    key = f"chunks-{name}"
    if key not in _TRAINED:
        _TRAINED[key] = trained(name, units, 20)
    expert, shop = _TRAINED[key]
    together = expert.predict(shop.panel(19))
    some = np.array(sorted(data.draw(st.sets(st.integers(0, 229), min_size=1, max_size=60))), dtype=np.int64)
    apart = expert.predict(shop.panel(19, some))
    assert apart.mean.tobytes() == np.ascontiguousarray(together.mean[some]).tobytes()
    assert apart.quantiles.tobytes() == np.ascontiguousarray(together.quantiles[some]).tobytes()


_TRAINED: dict[str, tuple[Expert, Shop]] = {}


@every
def test_a_forgotten_slot_is_a_fresh_one(name: str) -> None:
    units = seasonal(12, 40, seed=2)
    units[:, 11] = units[:, 3]  # the slot that was never used sees what the forgotten one sees
    wanted = spec()
    expert = expert_of(name, wanted)
    shop = Shop(units, wanted, expert.lookback)
    expert.resize(12)
    shop.first[11] = START + 1_000_000  # not live until the other is forgotten
    for bucket in range(30):
        expert.learn(shop.panel(bucket))
    expert.forget(np.array([3]))
    shop.first[3] = shop.first[11] = START + 30
    for bucket in range(30, 34):
        expert.learn(shop.panel(bucket))
    found = expert.predict(shop.panel(33))
    assert found.mean[3].tobytes() == found.mean[11].tobytes()
    assert found.quantiles[3].tobytes() == found.quantiles[11].tobytes()


@every
def test_state_round_trip(name: str) -> None:
    units = seasonal(20, 60, seed=3)
    expert, shop = trained(name, units, 40)
    other = expert_of(name, spec())
    other.restore(expert.state())
    assert same(expert.state(), other.state())
    for bucket in range(40, 60):
        expert.learn(shop.panel(bucket))
        other.learn(shop.panel(bucket))
    assert same(expert.state(), other.state())
    assert equal(expert.predict(shop.panel(59)), other.predict(shop.panel(59)))


@every
def test_state_of_another_configuration_is_refused(name: str) -> None:
    expert, _ = trained(name, seasonal(4, 5), 5)
    state = {key: array for key, array in expert.state().items() if key != "slot.next"}
    with pytest.raises(ValueError, match="next"):
        expert_of(name, spec()).restore(state)


@every
def test_nothing_that_is_not_closed_is_read(name: str) -> None:
    units = seasonal(10, 40, seed=4)
    wanted = spec()
    experts = [expert_of(name, wanted) for _ in range(2)]
    shops = [Shop(units, wanted, experts[0].lookback, garbage=garbage) for garbage in (0, 1_000)]
    for expert, shop in zip(experts, shops, strict=True):
        expert.resize(10)
        for bucket in range(40):
            expert.learn(shop.panel(bucket))
    assert same(experts[0].state(), experts[1].state())
    assert equal(experts[0].predict(shops[0].panel(39)), experts[1].predict(shops[1].panel(39)))


@every
def test_the_past_matters_and_the_future_does_not(name: str) -> None:
    units = seasonal(10, 40, seed=5)
    changed = units.copy()
    changed[30:] += 50
    expert, shop = trained(name, units, 30)
    other, after = trained(name, changed, 30)
    assert equal(expert.predict(shop.panel(29)), other.predict(after.panel(29)))
    expert.learn(shop.panel(30))
    other.learn(after.panel(30))
    moved = (expert.predict(shop.panel(30)), other.predict(after.panel(30)))
    assert (moved[0].mean.sum(axis=1) < moved[1].mean.sum(axis=1)).all()


@every
@pytest.mark.parametrize(
    "units",
    [
        np.zeros((30, 4)),
        np.full((30, 4), 1e9),
        np.where(np.arange(30)[:, None] % 7 == 3, 1e9, 0.0).repeat(4, axis=1),
        np.eye(30, 4),
        np.concatenate([np.full((15, 4), 1e9), np.zeros((15, 4))]),
    ],
    ids=["zeros", "billions", "rare billions", "one sale", "collapse"],
)
def test_extreme_demand(name: str, units: NDArray[np.float64]) -> None:
    wanted = spec()
    expert = expert_of(name, wanted)
    shop = Shop(units, wanted, expert.lookback)
    expert.resize(4)
    for bucket in range(30):
        expert.learn(shop.panel(bucket))
        check(expert.predict(shop.panel(bucket)), 4)


@every
def test_kilograms(name: str) -> None:
    random = np.random.default_rng(6)
    units = np.round(random.gamma(2.0, 0.4, (40, 6)), 3)
    wanted = spec()
    expert = expert_of(name, wanted)
    shop = Shop(units, wanted, expert.lookback, fractional=True)
    expert.resize(6)
    for bucket in range(40):
        expert.learn(shop.panel(bucket))
    found = expert.predict(shop.panel(39))
    check(found, 6, whole=False)
    assert (found.quantiles[:, 4] != np.rint(found.quantiles[:, 4])).any()
    assert 0.4 < found.mean.mean() < 1.6


@learners
def test_a_new_item_borrows_what_new_items_sold(name: str) -> None:
    """Items sell 9 when they are first seen and nearly nothing later; a new one must not be expected to sell 9."""
    wanted = spec(experts=(name,))
    expert = expert_of(name, wanted)
    units = np.zeros((80, 60))
    units[np.arange(60), np.arange(60)] = 9
    shop = Shop(units, wanted, expert.lookback)
    shop.first[:] = START + np.arange(60)
    expert.resize(60)
    for bucket in range(60):
        expert.learn(shop.panel(bucket))
    found = expert.predict(shop.panel(59, np.array([59])))
    assert found.mean[0].max() < 1.5


@every
def test_memory_is_bounded(name: str) -> None:
    expert, shop = trained(name, seasonal(20, 90, seed=7), 30)
    before = sum(array.nbytes for array in expert.state().values())
    for bucket in range(30, 90):
        expert.learn(shop.panel(bucket))
    assert sum(array.nbytes for array in expert.state().values()) == before


@every
def test_a_correction_is_as_if_it_had_been_known(name: str) -> None:
    right = seasonal(10, 40, seed=8)
    wrong = right.copy()
    wrong[39] = 0
    expert, shop = trained(name, right, 39)
    other, _ = trained(name, right, 39)
    late = Shop(wrong, spec(), other.lookback)
    expert.learn(shop.panel(39))
    other.learn(late.panel(39))
    uncorrected = other.predict(shop.panel(39)).mean
    other.correct(shop.panel(39))
    wanted, found = expert.predict(shop.panel(39)).mean, other.predict(shop.panel(39)).mean
    # What items of a class share is not taken back, nor what a regression has learnt; the rest of each item's own state is.
    assert np.abs(found - wanted).sum() <= np.abs(uncorrected - wanted).sum()
    np.testing.assert_allclose(found, wanted, rtol=0.35, atol=0.4 if name == "ar" else 0.2)


@pytest.mark.parametrize("name", ["seasonal_naive", "ewma", "river", "global"])
def test_seasons_are_learnt(name: str) -> None:
    """On a strongly seasonal shop a seasonal model's mean is well below a seasonless one's error."""
    units = seasonal(30, 120, seed=9, mean=20)
    errors = {}
    for model in (name, "tsb"):
        expert, shop = trained(model, units, 90, river_items=30)
        total = 0.0
        for bucket in range(90, 110):
            found = expert.predict(shop.panel(bucket)).mean
            total += float(np.abs(found.T - units[bucket + 1 : bucket + 9]).sum())
            expert.learn(shop.panel(bucket + 1))
        errors[model] = total
    assert errors[name] < 0.6 * errors["tsb"]


def test_dispersion_is_learnt() -> None:
    """The 90 % interval of a bursty shop is wide and holds; that of a Poisson shop is narrow and holds."""
    random = np.random.default_rng(10)
    calm = random.poisson(20.0, (150, 60)).astype(np.float64)
    wild = random.negative_binomial(1.0, 1 / 21, (150, 60)).astype(np.float64)
    widths = []
    for units in (calm, wild):
        expert, shop = trained("ewma", units, 140, seasons=())
        found = expert.predict(shop.panel(139)).quantiles[:, [1, 7], 0]
        inside = (units[140:] >= found[:, 0]) & (units[140:] <= found[:, 1])
        assert 0.84 < inside.mean() < 0.985
        widths.append(float((found[:, 1] - found[:, 0]).mean()))
    assert widths[1] > 2.5 * widths[0]


def test_river_keeps_the_busiest() -> None:
    from models.demand.river_linear import RiverLinear
    from models.demand.window import Window

    units = seasonal(20, 60, seed=11)
    units[:, 7] += 100
    expert, shop = trained("river", units, 60)
    assert isinstance(expert, RiverLinear)
    covered = expert.covers(Window(shop.panel(59)))
    assert covered.sum() == 5
    assert covered[7]
    expert.forget(np.array([7]))
    assert not expert.covers(Window(shop.panel(59)))[7]
