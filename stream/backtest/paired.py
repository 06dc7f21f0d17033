"""How sure a difference between two methods is: the same cells, their losses paired, errors clustered by item and by round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two ratios Σ loss / Σ weight, and its interval of 95 %."""

    value: float
    low: float | None
    """None where there are fewer than two clusters of either kind."""
    high: float | None
    error: float | None
    """Standard error."""
    n: int
    """Cells."""


def paired_difference(loss: Floats, other: Floats, weight: Floats, item: Ints, number: Ints, level: float = 0.95) -> Difference | None:
    """Σ(loss − other) / Σ weight, with errors that may be correlated within an item and within a round.

    The ratio is linearised; the variance is that of sums by item, plus that of sums by round, less that of sums by both
    (Cameron, Gelbach and Miller, Robust inference with multiway clustering, 2011), each with the factor G / (G − 1). Where that is
    smaller than either one-way variance, the larger of these stands.

    Args:
        loss: float64[n].
        other: float64[n], the other method's.
        weight: float64[n], at least 0.
        item: int64[n].
        number: int64[n], of the round.
        level: of the interval.

    Returns:
        None where no weight is above 0.
    """
    total = weight.sum()
    if total <= 0:
        return None
    value = float((loss - other).sum() / total)
    influence = ((loss - other) - value * weight) / total
    by_item, items = _variance(influence, item)
    by_round, rounds = _variance(influence, number)
    fewest = min(items, rounds)
    if fewest < 2:
        return Difference(value, None, None, None, len(loss))
    _, both = np.unique(item * (int(number.max()) + 1) + number, return_inverse=True)
    crossed, _ = _variance(influence, both)
    error = float(np.sqrt(max(by_item + by_round - crossed, by_item, by_round)))
    reach = float(student.ppf(0.5 + level / 2, fewest - 1)) * error
    return Difference(value, value - reach, value + reach, error, len(loss))


def _variance(influence: Floats, cluster: Ints) -> tuple[float, int]:
    """Of the sum over clusters, and how many there are."""
    _, place = np.unique(cluster, return_inverse=True)
    sums = np.bincount(place, weights=influence)
    count = len(sums)
    return float(np.square(sums).sum()) * count / max(1, count - 1), count
