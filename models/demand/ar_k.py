"""A pooled autoregression: what an item sells is linear in its latest buckets, with the same coefficients for all items.

A ridge regression for each horizon group, relative to the item's level, on its last k buckets, their mean and its seasonal lags. It learns at
ticks, from windows as they stood some steps before the bucket that has just closed; its sums are exact in any order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.demand.expert import Expert, groups_of, lag_steps, level_length, season_length, turns
from models.demand.group_ridge import LARGEST, GroupRidge
from models.demand.newborn import Newborn
from models.demand.window import Window
from models.protocol import DemandSpec, Float32, State

_ROWS = 4096  # learnt from at a tick and horizon group
_OWN = 2  # columns before the lags: one, the last season's mean


class ARK(Expert):
    """Pooled AR(k), a step group at a time."""

    name: ClassVar[str] = "ar_k"

    def __init__(self, spec: DemandSpec, device: torch.device | None = None) -> None:
        """Makes an expert without slots.

        Args:
            spec: what is forecast.
            device: not used.
        """
        super().__init__(spec, device)
        self._newborn = Newborn()
        self._order = min(season_length(spec), 14)
        self._level = level_length(spec)
        self._seasons = sorted(set(spec.seasons))
        self._group = groups_of(spec)
        self._columns = _OWN + self._order + len(self._seasons)
        prior = np.zeros(self._columns)
        prior[0], prior[1] = 0.4, 0.3 if self._seasons else 0.6
        if self._seasons:
            prior[_OWN + self._order :] = 0.3 / len(self._seasons)
        self._ridge = GroupRidge(len(spec.probes), prior)

    @property
    def lookback(self) -> int:
        """Seasonal lags, and windows as they stood before the longest probe."""
        lags = [season * -(-self.spec.horizon // season) for season in self._seasons]
        return max([*lags, self.spec.probes[-1] + self._level, Newborn.lookback])

    def means(self, window: Window, horizon: int) -> Float32:
        """Level times the regression, never below zero."""
        scale = self._scale(window)
        weights = self._ridge.weights.astype(np.float32)
        lags = self._lags(window, scale)
        by_group = []
        for group in range(int(self._group[horizon - 1]) + 1):  # what does not depend on the step
            total = np.full(len(window), weights[group, 0], np.float32)
            for column, values in enumerate(lags, start=1):
                total += weights[group, column] * values
            by_group.append(total)
        out = np.empty((len(window), horizon), np.float32)
        for step in range(horizon):
            total = by_group[self._group[step]].copy()
            for index, season in enumerate(self._seasons):
                lag = int(lag_steps(season, step + 1)[-1])
                total += weights[self._group[step], _OWN + self._order + index] * self._relative(window, window.closed + lag, scale)
            out[:, step] = np.clip(total, np.float32(0), LARGEST) * scale
        return out

    def adapt(self, window: Window) -> None:
        """Adds the closed bucket to each horizon group's sums, as a step of the group (they take turns), and solves for its weights."""
        self._newborn.learn(window)
        y = window.wanted(np.nan_to_num(self.slots.f32("next")[window.slots])).astype(np.float64)
        stride = -(-len(window) // _ROWS)
        for group, probe in enumerate(turns(self.spec.probes, window.closed)):
            turn = (window.slots + window.closed) % stride == 0  # a big partition's items take turns
            rows = np.flatnonzero(turn & (window.age() >= probe + 2))
            if not len(rows):
                continue
            part = window.of(rows).back(probe)
            scale = self._scale(part)
            x = np.ones((len(rows), self._columns))
            for column, values in enumerate(self._lags(part, scale), start=1):
                x[:, column] = values
            for index, season in enumerate(self._seasons):
                x[:, _OWN + self._order + index] = self._relative(part, part.closed + int(lag_steps(season, probe)[-1]), scale)
            self._ridge.learn(group, x, y[rows], scale)

    def _scale(self, window: Window) -> Float32:
        return self._newborn.level(window, self._level) + np.float32(0.005)

    def _lags(self, window: Window, scale: Float32) -> list[Float32]:
        """The last season's mean, then the last k buckets, relative to the scale: float32[n] each."""
        mean = np.minimum(window.mean(season_length(self.spec)) / scale, LARGEST)
        return [mean, *(self._relative(window, window.closed - lag, scale) for lag in range(self._order))]

    def _relative(self, window: Window, bucket: int, scale: Float32) -> Float32:
        """float32[n], a bucket relative to the scale; the scale itself while shut, and for the share without stock."""
        if window.shut(bucket):
            return np.ones(len(window), np.float32)
        return np.asarray(np.minimum(window.row(bucket) / scale + window.censored(bucket), LARGEST), dtype=np.float32)

    def shared_state(self) -> State:
        """The regressions' sums and weights, and the rates of new items."""
        return self._ridge.state() | self._newborn.state()

    def restore_shared(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what shared_state() gave."""
        self._newborn.restore(state)
        self._ridge.restore(state)
