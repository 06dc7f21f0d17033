"""What forecasts were worth: pure functions of what was forecast and what came.

n cells (an item, a step, a round) everywhere; whoever calls has left out what is unknown or censored. None where undefined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scores = dict[str, Any]

_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Cells:
    """Scored cells of one method."""

    actual: Floats
    """float64[n]."""
    mean: Floats
    """float64[n]."""
    median: Floats
    """float64[n]."""
    point: Floats
    """float64[n], the point for MAPE."""
    quantiles: Floats
    """float64[n, levels]."""
    scale: Floats
    """float64[n], the item's MASE scale in the round; NaN where it has none."""

    def pick(self, rows: NDArray[Any]) -> Cells:
        """Some of the cells.

        Args:
            rows: bool[n] or int64[m].
        """
        return Cells(self.actual[rows], self.mean[rows], self.median[rows], self.point[rows], self.quantiles[rows], self.scale[rows])


def wape(actual: Floats, forecast: Floats) -> float | None:
    """Σ|actual − forecast| / Σ|actual|."""
    return _ratio(np.abs(actual - forecast).sum(), np.abs(actual).sum())


def bias(actual: Floats, mean: Floats) -> float | None:
    """Σ(mean − actual) / Σ actual."""
    return _ratio((mean - actual).sum(), actual.sum())


def rmse(actual: Floats, mean: Floats) -> float | None:
    """The root of the mean squared error."""
    return float(np.sqrt(np.square(actual - mean).mean())) if len(actual) else None


def mape(actual: Floats, point: Floats) -> float | None:
    """The mean of |actual − point| / actual over actual > 0."""
    some = actual > 0
    return float((np.abs(actual - point)[some] / actual[some]).mean()) if some.any() else None


def mase(actual: Floats, median: Floats, scale: Floats) -> float | None:
    """The mean of |actual − median| / scale; cells without a scale above 0 are left out."""
    some = scale > 0
    return float((np.abs(actual - median)[some] / scale[some]).mean()) if some.any() else None


def pinball(actual: Floats, quantiles: Floats, levels: Sequence[float]) -> Floats:
    """float64[n, levels], the pinball loss: (p − 1{y < q})(y − q)."""
    error = actual[:, None] - quantiles
    p = np.asarray(levels)
    return np.asarray(np.maximum(p * error, (p - 1) * error))


def wql(actual: Floats, quantiles: Floats, levels: Sequence[float]) -> float | None:
    """The mean over the levels of 2 Σ pinball / Σ|actual|."""
    return _ratio(2 * pinball(actual, quantiles, levels).sum(axis=0).mean(), np.abs(actual).sum()) if len(levels) else None


def level_kept(actual: Floats, quantile: Floats, level: float) -> dict[str, float | None]:
    """How a quantile was kept: the shares of y < q and of y ≤ q, and how far the level lies from between them."""
    if not len(actual):
        return {"below": None, "at_or_below": None, "error": None}
    below, at_or_below = float((actual < quantile).mean()), float((actual <= quantile).mean())
    return {"below": below, "at_or_below": at_or_below, "error": max(0.0, below - level, level - at_or_below)}


def intervals(levels: Sequence[float]) -> list[tuple[str, int, int]]:
    """Central intervals among the levels: (nominal coverage as text, index of the lower end, of the upper)."""
    found = []
    for low, p in enumerate(levels):
        for high, q in enumerate(levels):
            if p < 0.5 < q and abs(p + q - 1) < _TOLERANCE:
                found.append((f"{q - p:.10g}", low, high))
    return sorted(found, key=lambda one: float(one[0]))


def coverage(actual: Floats, low: Floats, high: Floats, ends: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """How an interval was kept: the shares of low ≤ y ≤ high and of low < y < high, and the sum of its two ends' errors.

    Args:
        actual: float64[n].
        low: float64[n].
        high: float64[n].
        ends: what level_kept() said of both.
    """
    if not len(actual):
        return {"closed": None, "open": None, "error": None}
    closed, opened = float(((low <= actual) & (actual <= high)).mean()), float(((low < actual) & (actual < high)).mean())
    return {"closed": closed, "open": opened, "error": sum(float(end["error"] or 0.0) for end in ends)}


def score(cells: Cells, levels: Sequence[float]) -> Scores:
    """All scores of some cells.

    Args:
        cells: of one method.
        levels: of its quantiles.
    """
    kept = {f"{p:.10g}": level_kept(cells.actual, cells.quantiles[:, i], p) for i, p in enumerate(levels)}
    spans = {
        name: coverage(
            cells.actual, cells.quantiles[:, low], cells.quantiles[:, high], [kept[f"{levels[low]:.10g}"], kept[f"{levels[high]:.10g}"]]
        )
        for name, low, high in intervals(levels)
    }
    return {
        "wape": wape(cells.actual, cells.median),
        "wape_mean": wape(cells.actual, cells.mean),
        "mape": mape(cells.actual, cells.point),
        "mase": mase(cells.actual, cells.median, cells.scale),
        "rmse": rmse(cells.actual, cells.mean),
        "wql": wql(cells.actual, cells.quantiles, levels),
        "levels": kept,
        "coverage": spans,
        "bias": bias(cells.actual, cells.mean),
        "n": len(cells.actual),
        "n_mape": int((cells.actual > 0).sum()),
        "n_mase": int((cells.scale > 0).sum()),
    }


def score_total(actual: Floats, quantiles: Floats, levels: Sequence[float]) -> Scores:
    """Scores of the quantiles of sums.

    Args:
        actual: float64[m], sums.
        quantiles: float64[m, levels].
        levels: of them.
    """
    return {
        "wql": wql(actual, quantiles, levels),
        "wape": wape(actual, median_of(quantiles[:, :, None], levels)[:, 0]),
        "levels": {f"{p:.10g}": level_kept(actual, quantiles[:, i], p) for i, p in enumerate(levels)},
        "n": len(actual),
    }


def median_of(quantiles: Floats, levels: Sequence[float]) -> Floats:
    """The median by quantiles: the level .5, or the line between its neighbours (beyond the outermost levels: the outermost).

    Args:
        quantiles: float64[items, levels, horizon].
        levels: ascending.
    """
    right = int(np.searchsorted(levels, 0.5 - _TOLERANCE))
    if right == len(levels):
        return np.asarray(quantiles[:, -1])
    if right == 0 or abs(levels[right] - 0.5) < _TOLERANCE:
        return np.asarray(quantiles[:, right])
    share = (0.5 - levels[right - 1]) / (levels[right] - levels[right - 1])
    return np.asarray(quantiles[:, right - 1] * (1 - share) + quantiles[:, right] * share)


def seasonal_scale(y: Floats, season: int) -> Floats:
    """The mean absolute error of the seasonal naive within a history: float64[items], NaN where it has no two values a season apart.

    Args:
        y: float64[items, steps], NaN where unknown.
        season: in steps.
    """
    if y.shape[1] <= season:
        return np.full(len(y), np.nan)
    errors = np.abs(y[:, season:] - y[:, :-season])
    some = np.isfinite(errors)
    count = some.sum(axis=1)
    return np.asarray(np.where(count > 0, np.where(some, errors, 0).sum(axis=1) / np.maximum(count, 1), np.nan))


def _ratio(above: Any, below: Any) -> float | None:
    return float(above / below) if below > 0 else None
