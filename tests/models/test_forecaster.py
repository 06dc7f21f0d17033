"""The forecaster: the experts' council, what is pending, and what the engine relies on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.demand.forecaster import DemandForecaster, Forecast
from models.protocol import DemandSpec
from tests.models.shops import START, Shop, drawn_trees, seasonal, spec, weights
from tests.models.test_demand_suite import same


def run(units: NDArray[np.float64], buckets: int, wanted: DemandSpec | None = None, garbage: int = 7) -> tuple[DemandForecaster, Shop]:
    """A forecaster after some ticks, as the engine makes them."""
    forecaster = DemandForecaster(wanted or spec())
    shop = Shop(units, forecaster.spec, forecaster.lookback, garbage=garbage)
    forecaster.resize(shop.capacity)
    for bucket in range(buckets):
        tick(forecaster, shop, bucket)
    return forecaster, shop


def tick(forecaster: DemandForecaster, shop: Shop, bucket: int) -> Forecast:
    panel = shop.panel(bucket)
    forecaster.close(panel)
    forecast = forecaster.forecast(panel)
    forecaster.hold(panel, forecast)
    return forecast


def assert_rows(apart: Forecast, together: Forecast, rows: NDArray[np.int64]) -> None:
    for name in ("mean", "quantiles", "p_zero", "weights_row", "scale", "spread", "dispersion"):
        assert getattr(apart, name).tobytes() == np.ascontiguousarray(getattr(together, name)[rows]).tobytes(), name
    for steps, found in apart.totals.items():
        assert found.tobytes() == np.ascontiguousarray(together.totals[steps][rows]).tobytes()
    for name in ("mixed", "middle", "gaps"):
        assert getattr(apart.probes, name).tobytes() == np.ascontiguousarray(getattr(together.probes, name)[..., rows]).tobytes()


def check(found: Forecast, levels: tuple[float, ...]) -> None:
    assert np.isfinite(found.mean).all()
    assert (found.quantiles >= 0).all()
    assert np.isfinite(found.quantiles).all()
    assert (np.diff(found.quantiles, axis=1) >= 0).all()
    assert ((found.p_zero >= 0) & (found.p_zero <= 1)).all()
    for index, level in enumerate(levels):
        zero = found.quantiles[:, index] == 0
        assert (found.p_zero[zero] >= np.float32(level)).all()
        assert (found.p_zero[~zero] <= np.float32(level)).all()
    for total in found.totals.values():
        assert np.isfinite(total).all()
        assert (np.diff(total, axis=1) >= 0).all()


def test_forecasts_are_sane_from_the_first_tick() -> None:
    units = seasonal(30, 60)
    forecaster = DemandForecaster(spec())
    shop = Shop(units, forecaster.spec, forecaster.lookback)
    forecaster.resize(30)
    for bucket in range(60):
        found = tick(forecaster, shop, bucket)
        check(found, forecaster.spec.levels)
        assert (found.quantiles == np.rint(found.quantiles)).all()
        for groups in found.weights:
            assert set(groups) == {"1", "4", "8"}
            for shares in groups.values():
                assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert (found.weights_row >= 7).any()  # some are river's
    assert all("river" not in found.weights[row]["1"] for row in range(7))
    assert all("river" in found.weights[row]["1"] for row in range(7, 14))


@pytest.mark.parametrize("value", [0.0, 1e9])
def test_extremes(value: float) -> None:
    forecaster, shop = run(np.full((20, 3), value), 20)
    found = forecaster.forecast(shop.panel(19))
    check(found, forecaster.spec.levels)
    assert found.mean[0, 0] == pytest.approx(value, rel=0.2, abs=0.05)


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_chunks_do_not_matter(data: st.DataObject) -> None:
    if not _RUN:
        _RUN.append(run(seasonal(220, 24, seed=1), 24))
    forecaster, shop = _RUN[0]
    together = forecaster.forecast(shop.panel(23))
    some = np.array(sorted(data.draw(st.sets(st.integers(0, 219), min_size=1, max_size=50))), dtype=np.int64)
    assert_rows(forecaster.forecast(shop.panel(23, some)), together, some)


_RUN: list[tuple[DemandForecaster, Shop]] = []


def test_chunks_inside_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    forecaster, shop = run(seasonal(60, 24, seed=2), 24)
    together = forecaster.forecast(shop.panel(23))
    monkeypatch.setattr("models.demand.forecaster._CHUNK", 7)
    assert_rows(forecaster.forecast(shop.panel(23)), together, np.arange(60))


def test_forecast_is_pure_and_holding_in_pieces_is_holding_at_once() -> None:
    units = seasonal(30, 40, seed=3)
    forecaster, shop = run(units, 30)
    other = DemandForecaster(spec())
    other.restore(forecaster.state())
    for bucket in range(30, 40):
        tick(forecaster, shop, bucket)
        other.close(shop.panel(bucket))
        before = other.state()
        pieces = [shop.panel(bucket, np.arange(first, 30, 4)) for first in (2, 0, 3, 1)]
        forecasts = [other.forecast(piece) for piece in pieces]
        assert same(before, other.state())
        for piece, forecast in zip(pieces, forecasts, strict=True):
            other.hold(piece, forecast)
            other.hold(piece, forecast)  # overwrites
    assert same(forecaster.state(), other.state())


def test_state_round_trip() -> None:
    units = seasonal(25, 60, seed=4)
    forecaster, shop = run(units, 40)
    other = DemandForecaster(spec())
    other.restore(forecaster.state())
    for bucket in range(40, 60):
        left, right = tick(forecaster, shop, bucket), tick(other, shop, bucket)
        assert_rows(left, right, np.arange(25))
        assert left.weights == right.weights
    assert same(forecaster.state(), other.state())
    assert all(array.dtype != object for array in other.state().values())
    with pytest.raises(ValueError, match="rebuild"):
        DemandForecaster(spec(probes=(1, 8))).restore(forecaster.state())


def test_open_buckets_are_not_read() -> None:
    units = seasonal(12, 40, seed=5)
    one, _ = run(units, 40, garbage=0)
    two, _ = run(units, 40, garbage=5_000)
    assert same(one.state(), two.state())


def test_weights_move_only_when_a_forecast_has_come_due() -> None:
    wanted = spec(seasons=(6,), probes=(4, 8), totals=())
    forecaster, shop = run(seasonal(40, 30, seed=6), 4, wanted)
    fresh = forecaster.forecast(shop.panel(3)).weights
    for groups in fresh[:7]:
        for shares in groups.values():
            assert len(set(shares.values())) == 1
    # Issued after bucket 0, four steps ahead: known when bucket 4 has closed. Eight ahead: not before bucket 8.
    changed = tick(forecaster, shop, 4).weights
    assert any(len(set(groups["4"].values())) > 1 for groups in changed[:7])
    assert all(len(set(groups["8"].values())) == 1 for groups in changed[:7])
    for bucket in range(5, 9):
        changed = tick(forecaster, shop, bucket).weights
    assert any(len(set(groups["8"].values())) > 1 for groups in changed[:7])


def test_a_forgotten_item_is_not_scored() -> None:
    units = seasonal(10, 30, seed=7)
    forecaster, shop = run(units, 20)
    slots = np.array([2, 5])
    forecaster.forget(slots)
    p, expected = forecaster.tail(slots, np.full(2, 1e6), START + 20)
    assert (p == 1).all()
    assert np.isnan(expected).all()
    shop.first[slots] = START + 20
    found = tick(forecaster, shop, 20)
    check(found, forecaster.spec.levels)


def test_tail() -> None:
    forecaster, shop = run(seasonal(10, 40, seed=8), 30)
    slots = np.array([0, 4, 9])
    mean = forecaster.forecast(shop.panel(29)).mean[slots, 0]
    p, expected = forecaster.tail(slots, np.array([0.0, 1e4, float(mean[2])]), START + 30)
    np.testing.assert_allclose(expected, mean, rtol=1e-6)
    assert p[0] == 1
    assert p[1] < 1e-6
    assert p[2] > 0.2
    for other in (START + 29, START + 31):
        p, expected = forecaster.tail(slots, np.full(3, 1e4), other)
        assert (p == 1).all()
        assert np.isnan(expected).all()


def test_a_correction_changes_the_forecast() -> None:
    units = seasonal(10, 30, seed=9)
    forecaster, shop = run(units, 30)
    before = forecaster.forecast(shop.panel(29)).mean
    units[29, 3] += 500
    forecaster.correct(shop.panel(29, np.array([3])))
    after = forecaster.forecast(shop.panel(29)).mean
    assert after[3, 0] > before[3, 0] + 5
    rest = np.arange(10) != 3
    assert np.ascontiguousarray(after[rest]).tobytes() == np.ascontiguousarray(before[rest]).tobytes()


@pytest.mark.parametrize("kind", ["seasonal", "intermittent", "drifting"])
def test_the_council_is_about_as_good_as_its_best(kind: str) -> None:
    random = np.random.default_rng(10)
    units: NDArray[np.float64]
    if kind == "seasonal":
        units = seasonal(60, 150, seed=11, mean=15)
    elif kind == "intermittent":
        units = np.where(random.random((150, 60)) < 0.15, random.poisson(3.0, (150, 60)), 0).astype(np.float64)
    else:
        level = np.exp(np.cumsum(random.normal(0, 0.12, (150, 60)), axis=0) + 2)
        units = random.poisson(level).astype(np.float64)
    forecaster, shop = run(units, 60)
    names = (*forecaster.spec.experts,)
    losses = dict.fromkeys((*names, "council"), 0.0)
    levels = np.array(forecaster.spec.levels)[None, :, None]
    for bucket in range(60, 140):
        panel = shop.panel(bucket)
        found = tick(forecaster, shop, bucket)
        y = units[bucket + 1 : bucket + 9].T[:, None, :]
        quantiles = {"council": found.quantiles} | {expert.name: expert.predict(panel).quantiles for expert in forecaster.experts}
        for name, q in quantiles.items():
            losses[name] += float(np.maximum(levels * (y - q), (levels - 1) * (y - q)).sum())
    best = min(losses[name] for name in names)
    assert losses["council"] < 1.05 * best, losses


def test_calibration_keeps_levels() -> None:
    """Bursty demand that no expert's own dispersion sees at eight steps: levels come to be kept all the same."""
    random = np.random.default_rng(12)
    walk = np.exp(np.cumsum(random.normal(0, 0.15, (260, 80)), axis=0) * 0.6 + 3)
    units = random.poisson(walk).astype(np.float64)
    forecaster, shop = run(units, 160)
    at = [forecaster.spec.levels.index(level) for level in (0.05, 0.95)]
    inside = []
    for bucket in range(160, 250):
        found = tick(forecaster, shop, bucket).quantiles[:, at, 7]
        inside.append(((units[bucket + 8] >= found[:, 0]) & (units[bucket + 8] <= found[:, 1])).mean())
    assert 0.83 < np.mean(inside) < 0.97


def test_totals_are_wider_than_their_medians_sum() -> None:
    random = np.random.default_rng(13)
    units = random.poisson(0.2, (120, 100)).astype(np.float64)
    forecaster, shop = run(units, 110)
    found = forecaster.forecast(shop.panel(109))
    assert found.quantiles[:, 4].sum(axis=1).mean() < 0.5  # medians of rare demand are zero
    median, high = found.totals[8][:, 4], found.totals[8][:, 6]
    actual = units[110:118].sum(axis=0)
    assert 0.8 < median.mean() < 2.4
    assert 0.8 < (actual <= high).mean() < 0.995


def test_memory_an_item() -> None:
    wanted = replace(spec(), horizon=24, seasons=(24, 168), totals=(7, 14), probes=(1, 6, 24))
    forecaster = DemandForecaster(wanted)
    forecaster.resize(1000)
    fixed = sum(array.nbytes for array in DemandForecaster(wanted).state().values())
    assert sum(array.nbytes for array in forecaster.state().values()) - fixed <= 3_000 * 1000


def test_variants_of_one_network_have_one_voice_before_anything_is_known_of_them() -> None:
    wanted = spec(experts=("ewma", "network", "network_counts", "network_adapted", "boosted"))
    forecaster = DemandForecaster(wanted)
    forecaster.load(replace(weights(wanted), trees=drawn_trees(wanted)))
    shop = Shop(seasonal(4, 20), wanted, forecaster.lookback)
    forecaster.resize(shop.capacity)
    panel = shop.panel(19)
    forecaster.close(panel)
    (share,) = {tuple(row["1"].items()) for row in forecaster.forecast(panel).weights}
    told = dict(share)
    network = [told[name] for name in ("network", "network_counts", "network_adapted")]
    assert sum(network) == pytest.approx(told["boosted"], abs=0.01)
    assert told["boosted"] == pytest.approx(told["ewma"], abs=0.01)
    assert max(network) - min(network) < 1e-6


def test_metrics_name_every_expert() -> None:
    forecaster, _ = run(seasonal(20, 40, seed=14), 40)
    found = forecaster.metrics()
    assert set(found["wape"]) == {*forecaster.spec.experts, "council"}
    assert set(found["wape"]["council"]) == {"1", "4", "8"}
    assert all(0 < ratio < 3 for groups in found["wape"].values() for ratio in groups.values())
    assert found["coverage"]["0.9"]["below"] <= found["coverage"]["0.9"]["at_or_below"] <= 1


@pytest.mark.parametrize(
    "changes", [{"experts": ("oracle",)}, {"experts": ()}, {"probes": (1, 9)}, {"probes": (4, 1)}, {"probes": ()}, {"totals": (9,)}]
)
def test_impossible_specs_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        DemandForecaster(spec(**changes))


def test_a_ring_that_is_too_shallow_is_refused() -> None:
    forecaster, shop = run(seasonal(5, 40), 30)
    panel = shop.panel(30)
    with pytest.raises(ValueError, match="deeper"):
        forecaster.close(replace(panel, units=panel.units[:5]))
