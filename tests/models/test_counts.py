"""The tables against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from models.counts import Counts, _hurdle_table, counts, finish, upper_tail, zero_probability
from tests.models.shops import LEVELS


def nb(mean: float, dispersion: float):  # type: ignore[no-untyped-def]
    if dispersion < 1e-6:
        return stats.poisson(mean)
    return stats.nbinom(1 / dispersion, 1 / (1 + dispersion * mean))


def looked_up(mean: float, dispersion: float, whole: bool = True) -> np.ndarray:
    found = counts(LEVELS).quantiles(np.array([[mean]], np.float32), np.array([[dispersion]], np.float32), np.array([whole]))
    return found[0, :, 0].astype(np.float64)


@settings(max_examples=300, deadline=None)
@given(st.floats(-8, 13), st.sampled_from([0.0, 2**-6, 0.125, 0.25, 0.5, 0.8125, 1.0, 2.0, 4.0, 8.0]))
def test_whole_quantiles_are_scipys(log_mean: float, dispersion: float) -> None:
    """The smallest whole k with F(k) >= level, or one beside it where the level is met to a third of a point."""
    mean = float(np.float32(np.exp(log_mean)))
    true = nb(mean, dispersion)
    for level, k in zip(LEVELS, looked_up(mean, dispersion), strict=True):
        wanted = true.ppf(level)
        if mean < 120:
            assert abs(k - wanted) <= 1
            if k != wanted:
                assert abs(true.cdf(min(k, wanted)) - level) < 0.003
        else:
            assert abs(k - wanted) <= 1 + 0.006 * wanted


def test_nothing_is_expected_of_nothing() -> None:
    assert (looked_up(0.0, 0.5) == 0).all()
    assert (looked_up(1e-4, 16.0) == 0).all()
    assert (looked_up(0.0, 0.5, whole=False) == 0).all()


@pytest.mark.parametrize("mean", [1e6, 1e9])
def test_huge_means(mean: float) -> None:
    np.testing.assert_allclose(looked_up(mean, 0.25), stats.gamma(4, scale=mean / 4).ppf(LEVELS), rtol=2e-3)
    np.testing.assert_allclose(looked_up(mean, 0.0), stats.norm(mean, mean**0.5).ppf(LEVELS), rtol=1e-4)


def test_kilograms_have_a_mean_a_variance_and_zeros() -> None:
    fine = (np.arange(1000) + 0.5) / 1000
    for dispersion in (0.05, 0.5, 2.0):
        found = 3 * _hurdle_table(np.array([dispersion]), fine)[0]
        np.testing.assert_allclose(looked_up(3.0, dispersion, whole=False), np.interp(LEVELS, fine, found), rtol=0.01, atol=0.03)
        assert abs(found.mean() - 3.0) < 0.06
        assert abs(found.var() / 9 - dispersion) < 0.12 * dispersion
        zero = float(zero_probability(np.array([[3.0]], np.float32), np.array([[dispersion]], np.float32), np.array([False]))[0, 0])
        assert abs((found == 0).mean() - zero) < 0.002


@settings(max_examples=100, deadline=None)
@given(st.floats(0.001, 1000), st.sampled_from([0.0, 0.1, 1.0, 6.0]))
def test_zero_probability(mean: float, dispersion: float) -> None:
    found = zero_probability(np.array([[mean]], np.float32), np.array([[dispersion]], np.float32), np.array([True]))
    assert abs(float(found[0, 0]) - nb(mean, dispersion).pmf(0)) < 1e-3


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 300), st.floats(0.01, 60), st.sampled_from([0.0, 0.2, 3.0]))
def test_upper_tail_is_exact_where_it_is_small(observed: int, mean: float, dispersion: float) -> None:
    found = upper_tail(np.array([float(observed)]), np.array([mean]), np.array([dispersion]), np.array([True]))[0]
    true = nb(mean, dispersion).sf(observed - 1)
    if observed > mean + 1.5001 * (mean + dispersion * mean**2) ** 0.5:
        assert found == pytest.approx(true, rel=1e-6, abs=1e-300)
    else:
        assert true - 1e-12 <= found <= 1  # never below the truth: no false alert


def test_upper_tail_of_kilograms() -> None:
    found = upper_tail(np.array([9.5]), np.array([2.0]), np.array([0.5]), np.array([False]))[0]
    assert found == pytest.approx(stats.gamma(2, scale=1.0).sf(9.5), rel=1e-9)


def test_a_mixture_of_one_kind_is_that_kind() -> None:
    """Averaging equal quantile functions changes nothing; averaging whole numbers would round every mixture up."""
    table = counts(LEVELS)
    means = np.full((3, 1), 2.7, np.float32)
    spread = np.full((3, 1), 0.5, np.float32)
    mixed = table.mix(means, spread, np.array([[0.2], [0.5], [0.3]], np.float32), np.array([True]))
    np.testing.assert_array_equal(finish(mixed.reshape(1, 1, -1), np.array([True]))[0, :, 0], looked_up(2.7, 0.5))


def test_a_mixture_lies_between_its_parts() -> None:
    low, high = looked_up(3.0, 0.5), looked_up(9.0, 0.5)
    mixed = counts(LEVELS).mix(
        np.array([[3.0], [9.0]], np.float32), np.full((2, 1), 0.5, np.float32), np.full((2, 1), 0.5, np.float32), np.array([True])
    )
    middle = finish(mixed.reshape(1, 1, -1), np.array([True]))[0, :, 0]
    assert (middle >= low).all()
    assert (middle <= high).all()
    np.testing.assert_allclose(middle, (low + high) / 2, atol=1)


@pytest.mark.parametrize("levels", [(), (0.5, 0.1), (0.0, 0.5), (0.5, 1.0), (0.5, 0.5)])
def test_levels_must_ascend(levels: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="levels must ascend"):
        Counts(levels)
