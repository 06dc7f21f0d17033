"""Scores are what their definitions say, computed here the slow way, one cell at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.backtest.paired import paired_difference
from stream.backtest.points import finish, point_mape, sample_quantiles
from stream.backtest.scores import Cells, median_of, score, score_total, seasonal_scale

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)


@st.composite
def cells(draw: st.DrawFn) -> Cells:
    n = draw(st.integers(0, 12))
    units = st.integers(0, 6).map(float)
    quantiles = [sorted(draw(st.lists(units, min_size=5, max_size=5))) for _ in range(n)]
    column = st.lists(units, min_size=n, max_size=n).map(np.array)
    scale = draw(st.lists(st.sampled_from([0.0, 0.5, 2.0, math.nan]), min_size=n, max_size=n))
    q = np.array(quantiles).reshape(n, 5)
    return Cells(
        draw(column).astype(float), draw(column).astype(float), q[:, 2], draw(column).astype(float), q, np.array(scale, dtype=float)
    )


def same(got: float | None, want: float | None) -> None:
    assert (got is None) == (want is None)
    if want is not None:
        assert got == pytest.approx(want, rel=1e-9, abs=1e-12)


@given(cells())
def test_scores_follow_their_definitions(c: Cells) -> None:
    found = score(c, LEVELS)
    rows = range(len(c.actual))
    total = sum(abs(c.actual[r]) for r in rows)
    same(found["wape"], sum(abs(c.actual[r] - c.median[r]) for r in rows) / total if total else None)
    same(found["wape_mean"], sum(abs(c.actual[r] - c.mean[r]) for r in rows) / total if total else None)
    same(found["bias"], sum(c.mean[r] - c.actual[r] for r in rows) / total if total else None)
    same(found["rmse"], math.sqrt(sum((c.mean[r] - c.actual[r]) ** 2 for r in rows) / len(c.actual)) if len(c.actual) else None)
    sold = [r for r in rows if c.actual[r] > 0]
    same(found["mape"], sum(abs(c.actual[r] - c.point[r]) / c.actual[r] for r in sold) / len(sold) if sold else None)
    scaled = [r for r in rows if c.scale[r] > 0]
    same(found["mase"], sum(abs(c.actual[r] - c.median[r]) / c.scale[r] for r in scaled) / len(scaled) if scaled else None)
    assert (found["n"], found["n_mape"], found["n_mase"]) == (len(c.actual), len(sold), len(scaled))
    losses = []
    for k, p in enumerate(LEVELS):
        loss = 0.0
        for r in rows:
            y, q = c.actual[r], c.quantiles[r, k]
            loss += p * (y - q) if y >= q else (1 - p) * (q - y)
        losses.append(2 * loss)
    same(found["wql"], sum(losses) / len(LEVELS) / total if total else None)


@given(cells())
def test_a_level_is_kept_between_the_shares_below_and_at_or_below(c: Cells) -> None:
    found = score(c, LEVELS)
    n = len(c.actual)
    for k, p in enumerate(LEVELS):
        kept = found["levels"][str(p)]
        if not n:
            assert kept == {"below": None, "at_or_below": None, "error": None}
            continue
        below = sum(c.actual[r] < c.quantiles[r, k] for r in range(n)) / n
        at = sum(c.actual[r] <= c.quantiles[r, k] for r in range(n)) / n
        same(kept["below"], below)
        same(kept["at_or_below"], at)
        same(kept["error"], 0 if below <= p <= at else min(abs(p - below), abs(p - at)))
    assert list(found["coverage"]) == ["0.5", "0.8"]
    for name, low, high in (("0.5", 1, 3), ("0.8", 0, 4)):
        kept = found["coverage"][name]
        if n:
            same(kept["closed"], sum(c.quantiles[r, low] <= c.actual[r] <= c.quantiles[r, high] for r in range(n)) / n)
            same(kept["open"], sum(c.quantiles[r, low] < c.actual[r] < c.quantiles[r, high] for r in range(n)) / n)
            same(kept["error"], sum(found["levels"][str(LEVELS[end])]["error"] for end in (low, high)))


def test_a_perfect_forecast_of_zeros_keeps_every_level_and_has_no_ratio() -> None:
    zeros = np.zeros(3)
    found = score(Cells(zeros, zeros, zeros, zeros, np.zeros((3, 5)), np.ones(3)), LEVELS)
    assert [kept["error"] for kept in found["levels"].values()] == [0.0] * 5
    assert (found["wape"], found["wql"], found["mape"], found["bias"], found["mase"]) == (None, None, None, None, 0.0)


def test_sums_are_scored_as_sums() -> None:
    found = score_total(np.array([4.0, 0.0]), np.array([[2.0, 3.0, 6.0], [0.0, 0.0, 1.0]]), (0.1, 0.5, 0.9))
    assert found["wql"] == pytest.approx(2 * ((0.1 * 2) + (0.5 * 1) + (0.1 * 2 + 0.1 * 1)) / 3 / 4)
    assert found["levels"]["0.5"] == {"below": 0.0, "at_or_below": 0.5, "error": 0.0}


@given(st.lists(st.lists(st.sampled_from([math.nan, 0.0, 1.0, 5.0]), min_size=7, max_size=7), min_size=1, max_size=4), st.integers(1, 8))
def test_the_scale_is_the_seasonal_naive_s_error_within_the_history(rows: list[list[float]], season: int) -> None:
    for got, row in zip(seasonal_scale(np.array(rows), season).tolist(), rows, strict=True):
        errors = [abs(row[t] - row[t - season]) for t in range(season, len(row)) if not math.isnan(row[t] - row[t - season])]
        assert got == pytest.approx(sum(errors) / len(errors) if errors else math.nan, nan_ok=True)


def test_the_median_lies_on_the_line_between_its_neighbours() -> None:
    q = np.array([[[1.0], [5.0]]])
    assert median_of(q, (0.25, 0.75)).tolist() == [[3.0]]
    assert median_of(q, (0.6, 0.9)).tolist() == [[1.0]]
    assert median_of(q, (0.1, 0.4)).tolist() == [[5.0]]


# ---- points


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_the_point_for_mape_has_the_least_percentage_error(samples: list[int]) -> None:
    """Levels as fine as the point's own grid: the quantiles are then the distribution itself."""
    levels = tuple((np.arange(400) + 0.5) / 400)
    q = sample_quantiles(np.array([samples], dtype=float), levels)
    found = float(point_mape(q, levels, np.array([True]))[0])
    sold = q[0][q[0] > 0]
    if not len(sold):
        assert found == 1.0
        return
    least = min(float((np.abs(sold - f) / sold).mean()) for f in range(1, 10))
    assert float((np.abs(sold - found) / sold).mean()) == pytest.approx(least, abs=1e-9)


@given(st.lists(st.floats(0.5, 50), min_size=5, max_size=5).map(sorted))
def test_the_point_for_mape_of_fractional_demand(quantiles: list[float]) -> None:
    found = float(point_mape(np.array([quantiles]), LEVELS, np.array([False]))[0])
    u = (np.arange(400) + 0.5) / 400
    y = np.interp(u, LEVELS, quantiles)
    error = [float((np.abs(y - f) / y).mean()) for f in np.linspace(quantiles[0], quantiles[-1], 300)]
    assert float((np.abs(y - found) / y).mean()) <= min(error) + 1e-9


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.sampled_from(LEVELS))
def test_an_empirical_quantile_is_the_smallest_value_that_reaches_its_level(samples: list[int], level: float) -> None:
    padded = np.array([[*map(float, samples), math.nan, math.nan]])
    reached = [k for k in sorted(samples) if sum(s <= k for s in samples) / len(samples) >= level - 1e-9]
    assert sample_quantiles(padded, (level,))[0, 0] == reached[0]


def test_quantiles_are_finished_whole_ascending_and_not_negative() -> None:
    raw = np.array([[[-1.0], [0.2], [0.1], [2.0]]] * 2)
    assert finish(raw, np.array([True, False]))[:, :, 0].tolist() == [[0, 1, 1, 2], [0, 0.2, 0.2, 2.0]]


# ---- paired differences


def one_way(influence: np.ndarray, names: list[object]) -> float:
    sums = {name: sum(z for z, other in zip(influence, names, strict=True) if other == name) for name in names}
    return float(sum(s * s for s in sums.values()) * len(sums) / (len(sums) - 1))


@given(st.integers(0, 1 << 30))
def test_a_difference_is_clustered_both_ways(seed: int) -> None:
    chance = np.random.default_rng(seed)
    item, number = chance.integers(0, 4, 40), chance.integers(0, 3, 40)
    loss, other, weight = chance.random(40) + item, chance.random(40) + number, chance.random(40)
    found = paired_difference(loss, other, weight, item, number)
    assert found is not None
    assert found.value == pytest.approx((loss.sum() - other.sum()) / weight.sum())
    z = (loss - other - found.value * weight) / weight.sum()
    ways = [one_way(z, item.tolist()), one_way(z, number.tolist())]
    both = one_way(z, list(zip(item.tolist(), number.tolist(), strict=True)))
    assert found.error == pytest.approx(math.sqrt(max(sum(ways) - both, *ways)))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_one_round_has_no_interval_and_no_demand_no_difference() -> None:
    ones = np.ones(4)
    found = paired_difference(ones, 0 * ones, ones, np.arange(4), np.zeros(4, np.int64))
    assert found is not None
    assert (found.value, found.low, found.high) == (1.0, None, None)
    assert paired_difference(ones, ones, 0 * ones, np.arange(4), np.arange(4)) is None
