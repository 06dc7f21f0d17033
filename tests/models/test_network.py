"""The global network: what it may see, what it learns, how it is swapped, and what adapting it is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.demand.encoder import Encoder, Layout, from_scale, layout_of, to_scale
from models.demand.forecaster import DemandForecaster
from models.demand.network import Shape
from models.demand.window import Window
from models.protocol import DemandSpec, Panel
from models.train.fit import AT_LEAST, IGNORED, SEEN, Recipe, fit, members
from models.train.recorder import Recorder
from models.train.trainer import Trainer
from tests.models.shops import LEVELS, START, Shop, seasonal, spec, weights

TINY = Shape(hidden=24, step=16)


def promoted(items: int, buckets: int, ahead: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """float64[buckets, items] units that double when the price is halved, and float32[buckets + ahead, items] prices, known ahead."""
    random = np.random.default_rng(seed)
    price = np.where(random.random((buckets + ahead, items)) < 0.2, 1.0, 2.0).astype(np.float32)
    rate = np.exp(random.normal(1.2, 0.5, items)) * (2.0 / price[:buckets]) ** 2
    return random.poisson(rate).astype(np.float64), price


def told(shop: Shop, price: NDArray[np.float32], bucket: int, horizon: int) -> Panel:
    """A panel that knows prices up to the horizon."""
    span = shop.depth + horizon
    ring = np.full((span, shop.capacity), np.nan, np.float32)
    for at in range(max(0, bucket + horizon - span + 1), bucket + horizon + 1):
        ring[(START + at) % span] = price[at]
    return replace(shop.panel(bucket), known={"price": ring})


def recorded(wanted: DemandSpec, layout: Layout, units: NDArray[np.float64], price: NDArray[np.float32]) -> tuple[Recorder, Shop]:
    shop = Shop(units, wanted, layout.lookback)
    recorder = Recorder(layout)
    for bucket in range(len(units)):
        recorder(Window(told(shop, price, bucket, wanted.horizon)))
    return recorder, shop


def test_the_networks_scale_goes_there_and_back() -> None:
    units = np.array([-1.0, -0.3, 0.0, 4.0, 1e5], np.float32)
    for scale in (0.0, 0.2, 50.0):
        there = to_scale(units, np.full(5, scale, np.float32))
        np.testing.assert_allclose(from_scale(there, np.full(5, scale, np.float32)), units, rtol=1e-4, atol=1e-4)


def test_a_row_knows_nothing_that_came_after_it_and_everything_that_was_announced() -> None:
    wanted = spec()
    layout = layout_of(wanted, {"price": True})
    units, price = promoted(12, 60, 8, seed=1)
    shop = Shop(units, wanted, layout.lookback)
    encoder = Encoder(layout)
    before = encoder.encode(Window(told(shop, price, 50, 8))).rows
    changed = units.copy()
    changed[51:] = 1_000
    later = price.copy()
    later[59:] *= 3  # beyond the horizon of bucket 50: not announced yet
    after = Encoder(layout).encode(Window(told(Shop(changed, wanted, layout.lookback, garbage=99), later, 50, 8))).rows
    assert after.tobytes() == before.tobytes()
    soon = price.copy()
    soon[51:59] *= 3
    assert (Encoder(layout).encode(Window(told(shop, soon, 50, 8))).rows != before).any()


def test_rows_stand_alone() -> None:
    wanted = spec()
    layout = layout_of(wanted, {"price": True}, (), ("category",))
    units, price = promoted(30, 60, 8, seed=2)
    panel = replace(told(Shop(units, wanted, layout.lookback), price, 55, 8), statics={"category": np.arange(30) % 4 + 1})
    some = np.array([0, 7, 8, 29])
    whole = Encoder(layout).encode(Window(panel)).rows
    apart = Encoder(layout).encode(Window(replace(panel, slots=some))).rows
    assert apart.tobytes() == np.ascontiguousarray(whole[some]).tobytes()


def test_what_was_not_measured_is_no_number_that_the_network_could_trip_over() -> None:
    wanted = spec()
    layout = layout_of(wanted, past=("rating", "views"))
    shop = Shop(seasonal(6, 60, seed=9), wanted, layout.lookback)
    random = np.random.default_rng(9)
    rating = np.where(random.random((shop.depth, 6)) < 0.7, np.nan, 4.0).astype(np.float32)
    rating[:, 5] = np.nan
    views = random.poisson(3.0, (shop.depth, 6))
    panel = replace(shop.panel(50), past={"rating": rating, "views": views})
    rows = Encoder(layout).encode(Window(panel)).rows
    assert np.isfinite(rows).all()
    never = Encoder(layout).encode(Window(replace(panel, past={"views": views}))).rows
    assert rows[5].tobytes() == never[5].tobytes()  # never measured is as if nobody had ever told
    assert (rows[:5] != never[:5]).any()


def test_targets_are_what_came_and_nothing_after_the_cut() -> None:
    wanted = spec()
    layout = layout_of(wanted, {"price": True})
    units, price = promoted(10, 40, 8, seed=3)
    recorder, _ = recorded(wanted, layout, units, price)
    examples = recorder.examples(START + 30)
    assert examples.issue.max() == START + 29
    for issue in (START + 12, START + 27, START + 29):
        rows = np.flatnonzero(examples.issue == issue)
        for step in range(1, 9):
            known = issue + step <= START + 30
            assert (examples.says[rows, step - 1] == (SEEN if known else IGNORED)).all()
            if known:
                assert examples.units[rows, step - 1].tolist() == units[issue + step - START].tolist()


def test_empty_shelves_are_lower_bounds_and_a_lower_bound_pulls_only_up() -> None:
    wanted = spec()
    layout = layout_of(wanted)
    units = seasonal(10, 60, seed=4)
    shop = Shop(units, wanted, layout.lookback)
    recorder = Recorder(layout)
    for bucket in range(60):
        censored = np.zeros((shop.depth, 10), np.float32)
        censored[(START + 30) % shop.depth] = 1
        recorder(Window(replace(shop.panel(bucket), censored=censored if bucket == 30 else None)))
    examples = recorder.examples(START + 59)
    at = examples.issue == START + 29
    assert (examples.says[at, 0] == AT_LEAST).all() and (examples.says[at, 1] == SEEN).all()


def test_it_learns_what_a_price_does_and_uses_prices_that_are_known_ahead() -> None:
    wanted = spec()
    layout = layout_of(wanted, {"price": True})
    units, price = promoted(60, 90, 8, seed=5)
    recorder, shop = recorded(wanted, layout, units, price)
    (member,) = members(layout, LEVELS, TINY, 0)
    examples = recorder.examples(START + 89)
    loss = fit(member, examples, LEVELS, Recipe(epochs=6, batch=128, raw=0.9, volume=0.0), seed=0)
    assert np.isfinite(loss)
    cheap, dear = price.copy(), price.copy()
    cheap[90:], dear[90:] = 1.0, 2.0
    found = []
    for ahead in (cheap, dear):
        encoded = Encoder(layout).encode(Window(told(shop, ahead, 89, 8)))
        with torch.inference_mode():
            out = member(torch.from_numpy(encoded.rows)).numpy()
        found.append(from_scale(out[..., 4], encoded.scale[:, None]).mean())
    assert 2.2 < found[0] / found[1] < 6.5  # four times as much is sold at half the price


def test_what_kilograms_it_expects_and_how_far_they_vary_is_learnt() -> None:
    wanted = spec()
    layout = layout_of(wanted)
    random = np.random.default_rng(6)
    rate = np.exp(random.normal(5.0, 1.0, 60))
    units = rate * random.gamma(100, 0.01, (90, 60)) + 0.001  # they vary by a tenth
    shop = Shop(units, wanted, layout.lookback, fractional=True)
    recorder = Recorder(layout)
    for bucket in range(len(units)):
        recorder(Window(shop.panel(bucket)))
    (member,) = members(layout, LEVELS, TINY, 0)
    fit(member, recorder.examples(START + 89), LEVELS, Recipe(epochs=12, batch=128, raw=0.9, volume=0.0), seed=0)
    encoded = Encoder(layout).encode(Window(shop.panel(89)))
    with torch.inference_mode():
        out = member(torch.from_numpy(encoded.rows)).numpy()
    expected = np.exp(out[..., -2]) * (encoded.scale[:, None] + 0.05)
    assert np.abs(np.log(expected / rate[:, None])).mean() < 0.1
    assert 0.004 < np.median(np.exp(out[..., -1])) < 0.04


def test_beyond_what_it_has_seen_nothing_changes_until_it_has_been_fitted_there() -> None:
    wanted = spec()
    layout = layout_of(wanted, {"price": True})
    units, price = promoted(20, 60, 8, seed=5)
    recorder, _ = recorded(wanted, layout, units, price)
    (member,) = members(layout, LEVELS, TINY, 0)
    examples = recorder.examples(START + 59)
    once = Recipe(epochs=1, batch=128)
    fit(member, examples, LEVELS, once, seed=0)
    column = int(examples.rows[:, : layout.own].std(0).argmax())
    farthest, beyond = examples.rows[:64].copy(), examples.rows[:64].copy()
    farthest[:, column] = examples.rows[:, column].max()
    beyond[:, column] = 2 * farthest[:, column] + 1

    def apart() -> float:
        with torch.inference_mode():
            near, far = (member(torch.from_numpy(rows)) for rows in (farthest, beyond))
        return float((near - far).abs().max())

    assert apart() == 0
    later = replace(examples, rows=np.concatenate([examples.rows[64:], beyond]))
    fit(member, later, LEVELS, once, seed=0, fresh=False)
    assert apart() > 0


def test_an_event_that_is_told_for_its_own_time_alone_is_off_for_the_rest() -> None:
    wanted = spec()
    layout = layout_of(wanted, {"holiday": False})
    units, _ = promoted(5, 90, 8, seed=5)
    shop = Shop(units, wanted, layout.lookback)
    span = shop.depth + 8
    marks: NDArray[np.float32] = np.full((span, 1), np.nan, np.float32)

    def rows() -> NDArray[np.float32]:
        return Encoder(layout).encode(Window(replace(shop.panel(89), known={"holiday": marks.copy()}))).rows

    marks[(START + 92) % span] = 1
    future = rows()
    marks[(START + 80) % span] = 1
    both = rows()
    marks[(START + 92) % span] = np.nan
    past = rows()
    assert (both != past).any(), "the next one, announced, looks as any other day once there has been one"
    marks[np.isnan(marks)] = 0
    marks[(START + 92) % span] = 1
    seen = layout.own - 3 * len(layout.past) - 1  # whether it has been told for any of them: no zero was, before
    told_off = rows()
    keep = np.arange(both.shape[1]) != seen
    np.testing.assert_allclose(both[:, keep], told_off[:, keep], atol=0.05)
    assert (future != told_off).any()


def test_the_same_examples_and_seed_give_the_same_weights() -> None:
    wanted = spec()
    layout = layout_of(wanted, {"price": True})
    units, price = promoted(20, 50, 8, seed=6)
    recorder, _ = recorded(wanted, layout, units, price)
    examples = recorder.examples(START + 49)
    one, other = (Trainer(wanted, layout, members=2, shape=TINY).train(examples, "x").members for _ in range(2))
    for left, right in zip(one, other, strict=True):
        for name, values in left.state_dict().items():
            assert values.numpy().tobytes() == right.state_dict()[name].numpy().tobytes(), name


def test_a_network_of_another_horizon_is_refused_and_one_of_another_size_passes_by() -> None:
    forecaster = DemandForecaster(spec(experts=("ewma", "network")))
    with pytest.raises(ValueError, match="train it anew"):
        forecaster.load(weights(spec(horizon=6, totals=(3,), probes=(1, 6))))
    forecaster.load(weights(spec(size="1d")))
    assert forecaster.version != "tiny-1"
    forecaster.load(weights(spec()))
    assert forecaster.experts[1].version == forecaster.version == "tiny-1"


def test_weights_are_swapped_between_ticks_and_taken_away_again() -> None:
    units = seasonal(20, 60, seed=7)
    wanted = spec(experts=("ewma", "network", "network_adapted"))
    forecaster = DemandForecaster(wanted)
    shop = Shop(units, wanted, forecaster.lookback)
    forecaster.resize(shop.capacity)
    shares = []
    for bucket in range(60):
        if bucket == 20:
            forecaster.load(weights(wanted))
        if bucket == 50:
            forecaster.load(None)
        panel = shop.panel(bucket)
        forecaster.close(panel)
        found = forecaster.forecast(panel)
        forecaster.hold(panel, found)
        shares.append(found.weights[int(found.weights_row[0])]["1"])
    assert "network" not in shares[19] and "network" in shares[20] and "network" not in shares[50]
    assert shares[20]["network"] > 0.05  # it begins with the best's standing
    assert shares[49]["network"] < shares[20]["network"]  # and loses it where it is worth nothing
    assert all(abs(sum(share.values()) - 1) < 1e-5 for share in shares)


def test_calibration_learns_nothing_from_forecasts_that_most_of_todays_voices_had_no_part_in() -> None:
    wanted = spec(experts=("ewma", "network", "network_counts", "network_adapted"))
    forecaster = DemandForecaster(wanted)
    shop = Shop(seasonal(20, 40, seed=7), wanted, forecaster.lookback)
    forecaster.resize(shop.capacity)
    ticks, learnt = [], []
    for bucket in range(40):
        if bucket == 20:
            forecaster.load(weights(wanted))
            learnt.append(np.abs(forecaster.state()["conformal.shift"]).max())
        panel = shop.panel(bucket)
        forecaster.close(panel)
        forecaster.hold(panel, forecaster.forecast(panel))
        if bucket == 19:
            learnt.append(np.abs(forecaster.state()["conformal.shift"]).max())
        ticks.append(float(forecaster.state()["conformal.ticks"][-1, -1]))
    assert ticks[19] > 5
    assert ticks[20:28] == [0] * 8  # those due were issued before there was a network, 8 buckets earlier
    assert ticks[28] > 0
    assert 0 < learnt[1] < 0.5 * learnt[0]


def test_adapting_puts_a_network_right_that_is_off() -> None:
    wanted = spec(experts=("network", "network_adapted", "ewma"))
    units = np.random.default_rng(8).poisson(6.0, (170, 60)).astype(np.float64)
    forecaster = DemandForecaster(wanted)
    shop = Shop(units, wanted, forecaster.lookback)
    forecaster.resize(shop.capacity)
    drawn = weights(wanted, seed=3)
    with torch.no_grad():
        drawn.members[0].out.bias[: len(LEVELS)] += 0.5  # says two thirds too much
    forecaster.load(drawn)
    levels = np.array(LEVELS)[None, :, None]
    losses = np.zeros(2)
    for bucket in range(160):
        forecaster.close(shop.panel(bucket))
        if bucket >= 100:
            y = units[bucket + 1 : bucket + 9].T[:, None, :]
            for place in range(2):
                q = forecaster.experts[place].predict(shop.panel(bucket)).quantiles
                losses[place] += np.maximum(levels * (y - q), (levels - 1) * (y - q)).sum()
    assert losses[1] < 0.85 * losses[0]
