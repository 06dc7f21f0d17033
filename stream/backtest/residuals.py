"""Quantiles for methods that forecast points: those of their own out-of-sample residuals, horizon by horizon.

The method forecasts again from some earlier ends of the same history; its errors there, each divided by its item's scale, are pooled over items
and ends for each step of the horizon. An item's quantile is its point plus its scale times the pool's. Sums of steps have pools of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from stream.backtest.data import Floats, View
from stream.backtest.method import RoundForecast, Task, Tell
from stream.backtest.points import finish
from stream.backtest.scores import seasonal_scale

_ENOUGH = 4_000
"""Residuals a step that a pool should have."""
_FEWEST, _MOST = 4, 24
"""Ends at which they are taken."""

NOTE = "quantiles are those of its own out-of-sample residuals, per step, scaled by item"


class PointMethod(Protocol):
    """Forecasts points."""

    name: str

    def points(self, view: View, end: int, task: Task) -> Floats:
        """float64[items, horizon], from the columns before `end` alone; NaN for items without history there.

        Args:
            view: of the round.
            end: at most view.end; the first step forecast is `end` plus the view's gap.
            task: what is asked.
        """


class WithResiduals:
    """A method out of one that forecasts points.

    Args:
        inner: forecasts points.
        note: what a reader must know of it.
        ends: at most so many earlier ends, where a forecast is dear.
    """

    def __init__(self, inner: PointMethod, note: str = "", ends: int = _MOST) -> None:
        self.name = inner.name
        self.note = f"{note}{'; ' if note else ''}{NOTE}"
        self._inner = inner
        self._ends = ends

    def run(self, views: Sequence[View], task: Task, tell: Tell) -> Iterator[RoundForecast]:
        """As the protocol says."""
        for done, view in enumerate(views):
            ends = residual_ends(view, self._ends)
            scale = item_scale(view)
            residuals: list[Floats] = []
            sums: dict[int, list[Floats]] = {steps: [] for steps in task.totals}
            for number, end in enumerate(ends):
                made = self._inner.points(view, end, task)
                came = view.y[:, end + view.gap : end + view.gap + task.horizon]
                residuals.append((came - made) / scale[:, None])
                for steps in task.totals:
                    sums[steps].append((came[:, :steps] - made[:, :steps]).sum(axis=1) / scale)
                tell((done + (number + 1) / (len(ends) + 1)) / len(views))
            points = np.where(view.present[:, None], np.maximum(self._inner.points(view, view.end, task), 0.0), np.nan)
            pool = np.array([_pooled([r[:, h] for r in residuals], task.levels) for h in range(task.horizon)]).T  # [levels, horizon]
            quantiles = points[:, None, :] + scale[:, None, None] * pool[None]
            totals = {}
            for steps in task.totals:
                total = points[:, :steps].sum(axis=1)[:, None] + scale[:, None] * _pooled(sums[steps], task.levels)[None]
                totals[steps] = finish(total[:, :, None], view.whole)[:, :, 0]
            yield RoundForecast(view.round.number, points, finish(quantiles, view.whole), totals, points)


def residual_ends(view: View, most: int = _MOST) -> list[int]:
    """Earlier ends of a view from which the whole horizon lies in what is seen, spread over up to a season or four horizons, newest last.

    Args:
        view: of the round.
        most: of them.
    """
    newest = view.end - view.gap - view.horizon
    seen = np.isfinite(view.y).any(axis=0)
    oldest = int(seen.argmax()) if seen.any() else 0
    room = newest - oldest
    if room < 1:
        return []
    span = max(1, min(room // 2, max(view.season, 4 * view.horizon)))
    count = int(np.clip(-(-_ENOUGH // max(1, int(view.present.sum()))), _FEWEST, most))
    return sorted({int(end) for end in np.rint(np.linspace(newest - span + 1, newest, count))})


def item_scale(view: View) -> Floats:
    """float64[items], the in-sample mean absolute error of the seasonal naive; of the naive, or the mean, where that is 0 or unknown."""
    scale = seasonal_scale(view.y, view.season)
    for other in (
        seasonal_scale(view.y, 1),
        np.where(view.present, np.nansum(view.y, axis=1) / np.maximum(1, np.isfinite(view.y).sum(axis=1)), np.nan),
    ):
        scale = np.where(scale > 0, scale, other)
    return np.where(scale > 0, scale, 1.0)


def _pooled(parts: Sequence[Floats], levels: Sequence[float]) -> Floats:
    """float64[levels], quantiles of all finite values; zeros where there are none (a history too short for residuals)."""
    values = np.concatenate([np.zeros(0), *parts])
    values = values[np.isfinite(values)]
    return np.quantile(values, levels) if len(values) else np.zeros(len(levels))
