"""Peers that need no library: mean, naive, seasonal naive, zeros, empirical quantiles of open days."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stream.backtest.data import Bools, Floats, View
from stream.backtest.method import RoundForecast, Task, Tell
from stream.backtest.points import sample_quantiles

_TIMES_SHUT = 4
"""So often in a row a place of the season must have been shut to be taken for shut."""


class Mean:
    """The mean of all that is known of an item."""

    name = "mean"

    def points(self, view: View, end: int, task: Task) -> Floats:
        """As the protocol says."""
        return np.repeat(known_mean(view.y[:, :end])[:, None], task.horizon, axis=1)


class Naive:
    """The last known value of an item, however long ago."""

    name = "naive"

    def points(self, view: View, end: int, task: Task) -> Floats:
        """As the protocol says."""
        return np.repeat(last_known(view.y[:, :end])[:, None], task.horizon, axis=1)


class SeasonalNaive:
    """The newest known value at the same place of the season; the last known value where there is none."""

    name = "seasonal_naive"

    def points(self, view: View, end: int, task: Task) -> Floats:
        """As the protocol says."""
        y, season = view.y[:, :end], view.season
        out = np.empty((len(y), task.horizon))
        fallback = last_known(y)
        for h in range(task.horizon):
            step = end + view.gap + h
            newest = step - season * -(-(step - end + 1) // season)
            values = last_known(y[:, newest % season : newest + 1 : season]) if newest >= 0 else np.full(len(y), np.nan)
            out[:, h] = np.where(np.isnan(values), fallback, values)
        return out


class Zeros:
    """Nothing is ever sold: what a score is worth on demand that is mostly zero."""

    name = "zeros"
    note = "all quantiles are 0"

    def run(self, views: Sequence[View], task: Task, tell: Tell) -> Iterator[RoundForecast]:
        """As the protocol says."""
        for view in views:
            zeros = np.where(view.present[:, None], 0.0, np.nan) * np.ones((1, task.horizon))
            quantiles = np.repeat(zeros[:, None, :], len(task.levels), axis=1)
            totals = {steps: quantiles[:, :, 0].copy() for steps in task.totals}
            yield RoundForecast(view.round.number, zeros, quantiles, totals, zeros)


class EmpiricalQuantiles:
    """The quantiles of an item's last open steps: those in which the shop as a whole sold something. Steps at a place of the season that has
    been shut lately are forecast as shut.

    Args:
        name: as asked for.
        steps: so many of an item's last known open steps.
    """

    def __init__(self, name: str, steps: int) -> None:
        self.name = name
        self.note = f"of each item's last {steps} open steps"
        self._steps = steps

    def run(self, views: Sequence[View], task: Task, tell: Tell) -> Iterator[RoundForecast]:
        """As the protocol says."""
        for view in views:
            sold = np.nansum(view.y, axis=0) > 0
            y = view.y[:, sold] if sold.any() else view.y
            rank = np.cumsum(np.isfinite(y)[:, ::-1], axis=1)[:, ::-1]
            recent = np.where((rank <= self._steps) & np.isfinite(y), y, np.nan)
            used = np.isfinite(recent).any(axis=0)
            recent = recent[:, int(used.argmax()) if used.any() else 0 :]
            shut = shut_ahead(view, task.horizon)
            mean = np.where(shut[None, :], 0.0, known_mean(recent)[:, None])
            flat = sample_quantiles(recent, task.levels)
            quantiles = np.where(shut[None, None, :], 0.0, flat[:, :, None])
            quantiles[~view.present] = np.nan
            mean[~view.present] = np.nan
            totals = {}
            for steps in task.totals:
                width = int((~shut[:steps]).sum())
                if 0 < width <= recent.shape[1] // 2:
                    sums = np.lib.stride_tricks.sliding_window_view(recent, width, axis=1).sum(axis=2)
                    totals[steps] = sample_quantiles(sums, task.levels)
            yield RoundForecast(view.round.number, mean, quantiles, totals)


def shut_ahead(view: View, horizon: int) -> Bools:
    """bool[horizon], steps in which the shop will be shut, as far as its last seasons tell: nobody sold anything at that place of the season
    the last few times."""
    sold = np.nansum(view.y, axis=0) > 0
    shut = np.zeros(horizon, np.bool_)
    for h in range(horizon):
        step = view.end + view.gap + h
        before = np.arange(step % view.season, view.end, view.season)[-_TIMES_SHUT:]
        shut[h] = view.season > 1 and len(before) == _TIMES_SHUT and not sold[before].any()
    return shut


def known_mean(y: Floats) -> Floats:
    """float64[items], the mean of each row's known values, NaN where there are none."""
    some = np.isfinite(y)
    count = some.sum(axis=1)
    return np.where(count > 0, np.where(some, y, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def last_known(y: Floats) -> Floats:
    """float64[items], each row's last known value, NaN where there is none."""
    if not y.shape[1]:
        return np.full(len(y), np.nan)
    some = np.isfinite(y)
    at = y.shape[1] - 1 - some[:, ::-1].argmax(axis=1)
    return np.where(some.any(axis=1), y[np.arange(len(y)), at], np.nan)
