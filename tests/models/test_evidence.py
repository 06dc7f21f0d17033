"""The test by which challengers are promoted: its error rate under peeking, and what it takes to win."""

from __future__ import annotations

import numpy as np
import pytest

from models.train.evidence import ALPHA, Bettor, difference

RUNS, BUCKETS = 1_500, 300


def null(kind: str, random: np.random.Generator) -> np.ndarray:
    """float64[RUNS, BUCKETS] in [-1, 1], mean 0 given what came before, however it came about."""
    shape = (RUNS, BUCKETS)
    if kind == "coin":
        return random.choice([-1.0, 1.0], shape)
    if kind == "small":
        return np.clip(random.normal(0, 0.1, shape), -1, 1)
    if kind == "skewed":  # often a little better, now and then much worse
        return np.where(random.random(shape) < 0.1, -0.9, 0.1)
    # The spread of a bucket depends on the one before: quiet and wild times.
    out = random.choice([-1.0, 1.0], shape)
    wild = np.abs(random.normal(0, 0.3, shape)).cumsum(axis=1) % 1.0
    return out * wild


@pytest.mark.parametrize("kind", ["coin", "small", "skewed", "wild"])
def test_a_challenger_that_is_no_better_is_hardly_ever_promoted_however_often_one_looks(kind: str) -> None:
    found = 0
    for row in null(kind, np.random.default_rng(7)):
        bettor = Bettor()
        for value in row:
            bettor.see(float(value))
            if bettor.better:
                found += 1
                break
    # Three standard errors above α would be 0.067: what is found must not even come near.
    assert found / RUNS <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def test_a_plain_comparison_of_means_would_be_fooled_where_the_bettor_is_not() -> None:
    """Looking every day at a t statistic above 1.64, as one would with a fixed sample."""
    rows = null("small", np.random.default_rng(7))
    count = np.arange(1, BUCKETS + 1)
    mean = rows.cumsum(axis=1) / count
    spread = np.sqrt(np.maximum((rows**2).cumsum(axis=1) / count - mean**2, 1e-12) / count)
    assert ((mean / spread)[:, 10:] > 1.64).any(axis=1).mean() > 4 * ALPHA


@pytest.mark.parametrize(("advantage", "buckets"), [(0.5, 20), (0.25, 60), (0.1, 300)])
def test_a_better_challenger_wins_in_time(advantage: float, buckets: int) -> None:
    random, won = np.random.default_rng(3), 0
    for _ in range(200):
        bettor = Bettor()
        for value in np.clip(random.normal(advantage, 0.3, buckets), -1, 1):
            bettor.see(float(value))
        won += bettor.better
    assert won / 200 > 0.8


def test_differences_are_relative_capped_and_fair() -> None:
    assert difference(0.0, 0.0) == 0.0
    assert difference(100.0, 99.0) == pytest.approx(-difference(99.0, 100.0))
    assert difference(100.0, 99.0) == pytest.approx(1 / 99.5 / 0.2)
    assert difference(100.0, 1.0) == 1.0
