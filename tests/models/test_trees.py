"""The trees beside the network: what they learn, that rows are their own, that they travel with the weights, and who falls silent without them."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from models.demand.encoder import Encoder, from_scale, layout_of
from models.demand.forecaster import DemandForecaster
from models.demand.trees import Trees, trees_of
from models.demand.window import Window
from models.train.boosting import boost
from models.train.fit import AT_LEAST, SEEN, Examples
from models.train.trainer import Trainer
from tests.models.shops import LEVELS, START, Shop, drawn_trees, seasonal, spec, weights
from tests.models.test_network import TINY, promoted, recorded, told


def test_they_learn_what_a_price_does_and_use_prices_that_are_known_ahead() -> None:
    wanted = spec()
    layout = layout_of(wanted, {"price": True})
    units, price = promoted(40, 90, 8, seed=5)
    recorder, shop = recorded(wanted, layout, units, price)
    trees = boost(recorder.examples(START + 89), layout, LEVELS, 0.0, 0, rounds=60)
    cheap, dear = price.copy(), price.copy()
    cheap[90:], dear[90:] = 1.0, 2.0
    found = []
    for ahead in (cheap, dear):
        encoded = Encoder(layout).encode(Window(told(shop, ahead, 89, 8)))
        out = trees.outputs(encoded.rows, layout)
        assert (np.diff(out, axis=2) >= 0).all()
        found.append(from_scale(out[..., 4], encoded.scale[:, None]).mean())
    assert 2.2 < found[0] / found[1] < 6.5  # four times as much is sold at half the price


def test_they_learn_what_an_item_is_and_say_something_of_one_never_seen() -> None:
    wanted = spec()
    layout = layout_of(wanted, statics=("kind",))
    random = np.random.default_rng(0)
    rows = random.normal(size=(3_000, layout.width)).astype(np.float32)
    rows[:, 0] = random.choice([5, 700_001, 900_000], 3_000)
    scale = np.full(3_000, 5, np.float32)
    units = random.poisson(np.where(rows[:, :1] == 700_001, 20.0, 2.0), (3_000, layout.horizon)).astype(np.float32)
    examples = Examples(rows, scale, units, np.full(units.shape, SEEN, np.int8), np.arange(3_000))
    trees = boost(examples, layout, LEVELS, 0.0, 0, rounds=60)
    asked = rows[:4].copy()
    asked[:, 0] = [5, 700_001, 900_000, 123]
    median = from_scale(trees.outputs(asked, layout)[:, :, 4], np.full((4, 1), 5, np.float32)).mean(axis=1)
    assert median[1] > 4 * median[0] and median[1] > 4 * median[2]
    assert np.isfinite(median[3])


def test_rows_stand_alone() -> None:
    wanted = spec()
    layout, trees = layout_of(wanted), drawn_trees(wanted)
    rows = np.random.default_rng(1).normal(size=(1_500, layout.width)).astype(np.float32)  # more than are asked at once
    whole = trees.outputs(rows, layout)
    some = np.array([0, 3, 1_023, 1_024, 1_499])
    assert trees.outputs(rows[some], layout).tobytes() == np.ascontiguousarray(whole[some]).tobytes()


def test_the_same_examples_and_seed_give_the_same_trees_and_what_stock_cut_off_teaches_nothing() -> None:
    wanted = spec(size="1d")
    layout = layout_of(wanted, {"price": True})
    units, price = promoted(10, 50, 8, seed=6)
    recorder, _ = recorded(wanted, layout, units, price)
    examples = recorder.examples(START + 49)
    one, other = (Trainer(wanted, layout, shape=TINY).train(examples, "x").trees for _ in range(2))
    assert one is not None and other is not None
    assert one.texts == other.texts
    says = examples.says.copy()
    says[::3, 2] = AT_LEAST
    low, high = examples.units.copy(), examples.units.copy()
    low[::3, 2], high[::3, 2] = 0, 99
    few, many = (boost(replace(examples, says=says, units=units), layout, LEVELS, 0.0, 0, rounds=10).texts for units in (low, high))
    assert few == many


def test_short_buckets_get_none_unless_they_are_asked_for() -> None:
    layout = layout_of(spec())
    assert not Trainer(spec(), layout).trees
    assert Trainer(spec(), layout, trees=True).trees
    assert Trainer(spec(size="1w"), layout).trees
    assert not Trainer(spec(size="1w"), layout, trees=False).trees


def test_they_travel_with_the_weights() -> None:
    wanted = spec()
    layout, trees = layout_of(wanted), drawn_trees(wanted)
    arrays = trees.arrays()
    again = trees_of(arrays, layout, len(LEVELS))
    assert again is not None
    rows = np.random.default_rng(2).normal(size=(20, layout.width)).astype(np.float32)
    assert again.outputs(rows, layout).tobytes() == trees.outputs(rows, layout).tobytes()
    assert trees_of({}, layout, len(LEVELS)) is None
    with pytest.raises(ValueError, match=r"there is no trees\.8"):
        trees_of({name: values for name, values in arrays.items() if name != "trees.8"}, layout, len(LEVELS))
    with pytest.raises(ValueError, match="must read"):
        trees_of(arrays, layout_of(wanted, {"price": True}), len(LEVELS))


def test_a_machine_without_openmp_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, layout = drawn_trees(spec()).arrays(), layout_of(spec())
    monkeypatch.setitem(sys.modules, "lightgbm", None)  # what an import that fails leaves to find
    with pytest.raises(ValueError, match="libgomp1"):
        trees_of(arrays, layout, len(LEVELS))


def test_the_expert_speaks_only_with_trees_of_its_bucket_size() -> None:
    wanted = spec(experts=("ewma", "network", "network_adapted", "boosted"))
    forecaster = DemandForecaster(wanted)
    shop = Shop(seasonal(20, 40, seed=7), wanted, forecaster.lookback)
    forecaster.resize(shop.capacity)
    with_trees = replace(weights(wanted, version="wooded"), trees=drawn_trees(wanted))
    speaks = []
    for bucket in range(40):
        if bucket == 10:
            forecaster.load(weights(wanted))
        if bucket == 20:
            forecaster.load(with_trees)
        if bucket == 25:
            forecaster.load(weights(spec(size="1d")))  # of another size: passes by
        if bucket == 30:
            forecaster.load(weights(wanted))
        panel = shop.panel(bucket)
        forecaster.close(panel)
        found = forecaster.forecast(panel)
        part = forecaster.forecast(shop.panel(bucket, np.array([3, 4])))
        assert part.quantiles.tobytes() == np.ascontiguousarray(found.quantiles[3:5]).tobytes()
        forecaster.hold(panel, found)
        speaks.append("boosted" in found.weights[int(found.weights_row[0])]["1"])
    assert speaks == [20 <= bucket < 30 for bucket in range(40)]


def test_a_state_from_before_they_existed_is_read_and_goes_on() -> None:
    before, after = spec(experts=("ewma", "tsb", "network")), spec(experts=("ewma", "tsb", "network", "boosted"))
    old, new = DemandForecaster(before), DemandForecaster(after)
    shop = Shop(seasonal(20, 60, seed=7), before, old.lookback)
    old.resize(shop.capacity)
    for bucket in range(30):
        panel = shop.panel(bucket)
        old.close(panel)
        old.hold(panel, old.forecast(panel))
    new.restore(old.state())
    one, other = old.forecast(shop.panel(29)), new.forecast(shop.panel(29))
    np.testing.assert_allclose(one.mean, other.mean, rtol=0.05)
    assert new.metrics()["wape"]["council"] == old.metrics()["wape"]["council"]
    for bucket in range(30, 40):
        panel = shop.panel(bucket)
        new.close(panel)
        new.hold(panel, new.forecast(panel))
    new.load(replace(weights(after), trees=drawn_trees(after)))
    assert "boosted" in new.forecast(shop.panel(39)).weights[0]["1"]
    with pytest.raises(ValueError, match="rebuild the state"):
        DemandForecaster(spec(experts=("ewma", "boosted", "tsb", "network"))).restore(old.state())  # one between the others


def test_a_text_is_read_once() -> None:
    trees = Trees(drawn_trees(spec()).texts, ())
    assert trees.boosters is trees.boosters
