"""Points and quantiles out of distributions that are given by quantiles or by samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_GRID = 400
_CHUNK = 20_000


def point_mape(quantiles: Floats, levels: Sequence[float], whole: NDArray[np.bool_]) -> Floats:
    """The point with the smallest expected |y − point| / y, over y > 0: the median of the density f(y)/y, by the quantiles.

    Between two levels the quantile function is joined linearly, then rounded up to the next whole number for whole items (the smallest
    whole k with F(k) ≥ level); beyond the outermost levels it stays where it is.

    Args:
        quantiles: float64[n, levels].
        levels: ascending.
        whole: bool[n], the demand is whole numbers.

    Returns:
        float64[n]: 1 for whole demand that is 0 at every level (the smallest y that MAPE sees), else 0 there; NaN where quantiles are.

    Source: Gneiting, Making and evaluating point forecasts, JASA 106 (2011), theorem 5 with β = −1.
    """
    u = (np.arange(_GRID) + 0.5) / _GRID
    right = np.clip(np.searchsorted(levels, u), 0, len(levels) - 1)
    left = np.maximum(right - 1, 0)
    p = np.asarray(levels, dtype=np.float64)
    width = np.where(right > left, p[right] - p[left], 1.0)
    share = np.clip((u - p[left]) / width, 0, 1)
    share = np.where(right > left, share, 0.0)
    out = np.empty(len(quantiles))
    for start in range(0, len(quantiles), _CHUNK):
        q = quantiles[start : start + _CHUNK]
        ceil = whole[start : start + _CHUNK]
        y = q[:, left] * (1 - share) + q[:, right] * share  # [cells, grid]
        y = np.where(ceil[:, None], np.ceil(y - 1e-6), y)
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = np.where(y > 0, 1 / y, 0.0)
        reached = np.cumsum(weight, axis=1)
        total = reached[:, -1]
        at = (reached < total[:, None] / 2 * (1 - 1e-12)).sum(axis=1)
        found = y[np.arange(len(q)), np.minimum(at, _GRID - 1)]
        found = np.where(total > 0, found, np.where(ceil, 1.0, 0.0))
        out[start : start + _CHUNK] = np.where(np.isnan(q).any(axis=1), np.nan, found)
    return out


def sample_quantiles(samples: Floats, levels: Sequence[float]) -> Floats:
    """Each row's quantiles: the smallest of its values with F(value) ≥ level.

    Args:
        samples: float64[n, values], NaN where there is none.
        levels: in (0, 1).

    Returns:
        float64[n, levels], NaN for rows without values.
    """
    ordered = np.sort(samples, axis=1)  # NaN last
    count = np.isfinite(samples).sum(axis=1)
    out = np.full((len(samples), len(levels)), np.nan)
    some = count > 0
    for i, p in enumerate(levels):
        at = np.maximum(np.ceil(p * count - 1e-9).astype(np.int64) - 1, 0)
        out[some, i] = ordered[np.flatnonzero(some), at[some]]
    return out


def finish(quantiles: Floats, whole: NDArray[np.bool_]) -> Floats:
    """Quantiles as they must be: at least 0, never crossing, whole numbers for whole items (rounded up: the smallest k with F(k) ≥ level).

    Args:
        quantiles: float64[items, levels, horizon].
        whole: bool[items].
    """
    out = np.maximum(quantiles, 0.0) + 0.0
    out = np.where(whole[:, None, None], np.ceil(out - 1e-6) + 0.0, out)
    return np.asarray(np.maximum.accumulate(out, axis=1))
