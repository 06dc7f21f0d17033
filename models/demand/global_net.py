"""One torch network for all items: a body on scale-free windows, a last layer learnt inside the partition.

The body has the fixed weights "builtin-1" (drawn from a seed, never trained) and turns an item's recent window into features; a trained body
takes the same place. The last layer is a ridge regression for each horizon group on those features and what is known of
the step (seasonal lags, calendar). It learns at ticks, from windows as they stood some steps before the bucket that has just closed.
"""

from __future__ import annotations

from models.device import Tiles

# isort: split
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.demand.expert import Expert, groups_of, lag_steps, level_length, season_length, turns
from models.demand.group_ridge import LARGEST, GroupRidge
from models.demand.newborn import Newborn
from models.demand.window import Window
from models.protocol import CALENDAR, DemandSpec, Float32, State

_SEED = 20_240_611
_HIDDEN, _WIDTH = 48, 16
_OWN = 4  # columns of the last layer that are an item's own and the same for every step
_ROWS = 4096  # learnt from at a tick and horizon group


class GlobalNet(Expert):
    """A network over all items with an in-partition ridge for a last layer."""

    name: ClassVar[str] = "global"

    def __init__(self, spec: DemandSpec, device: torch.device | None = None) -> None:
        """Makes the body, proves it on the device, and a last layer that says level and season.

        Args:
            spec: what is forecast.
            device: where the body is computed; default CPU.

        Raises:
            models.device.DeviceError: the device rounds rows by their place.
        """
        super().__init__(spec, device)
        self._newborn = Newborn()
        self._lags = season_length(spec)
        self._recent = max(2, self._lags // 4)
        self._level = level_length(spec)
        self._seasons = sorted(set(spec.seasons))
        inputs = self._lags + 3
        random = np.random.default_rng(_SEED)
        drawn = [
            random.normal(size=(inputs, _HIDDEN)) / np.sqrt(inputs) * 1.5,
            random.normal(size=_HIDDEN) * 0.5,
            random.normal(size=(_HIDDEN, _WIDTH)) / np.sqrt(_HIDDEN) * 1.5,
            random.normal(size=_WIDTH) * 0.3,
        ]
        first, first_bias, second, second_bias = (torch.from_numpy(values.astype(np.float32)).to(self.device) for values in drawn)

        def body(x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(torch.addmm(second_bias, torch.tanh(torch.addmm(first_bias, x, first)), second))

        self._tiles = Tiles(body, inputs, _WIDTH, self.device, graph=True)
        self._tiles.prove("global network")
        self._group = groups_of(spec)
        # Columns of the last layer: one, newest, recent, the last season's mean, a seasonal lag a season, the calendar, then the body's.
        self._columns = _OWN + len(self._seasons) + len(CALENDAR) + _WIDTH
        prior = np.zeros(self._columns)
        prior[0] = 0.4
        prior[3] = 0.3 if self._seasons else 0.6
        if self._seasons:
            prior[_OWN : _OWN + len(self._seasons)] = 0.3 / len(self._seasons)
        self._ridge = GroupRidge(len(spec.probes), prior)

    @property
    def lookback(self) -> int:
        """Seasonal lags, and windows as they stood before the longest probe."""
        lags = [season * -(-self.spec.horizon // season) for season in self._seasons]
        return max([*lags, self.spec.probes[-1] + self._level, Newborn.lookback])

    def means(self, window: Window, horizon: int) -> Float32:
        """Level times the last layer, never below zero."""
        level, scale = self._scaled(window)
        weights = self._ridge.weights.astype(np.float32)
        newest, recent, week = self._own(window, scale)
        body = np.ascontiguousarray(self._body(window, level, scale, recent).T)  # [width, n]
        groups = int(self._group[horizon - 1]) + 1
        at = _OWN + len(self._seasons)
        by_group = []
        for group in range(groups):  # what does not depend on the step
            total = weights[group, 0] + weights[group, 1] * newest + weights[group, 2] * recent + weights[group, 3] * week
            for column in range(_WIDTH):
                total += weights[group, at + len(CALENDAR) + column] * body[column]
            by_group.append(total)
        out = np.empty((len(window), horizon), np.float32)
        for step in range(horizon):
            weight = weights[self._group[step]]
            total = by_group[self._group[step]].copy()
            for index, season in enumerate(self._seasons):
                lag = step + 1 - season * -(-(step + 1) // season)
                total += weight[_OWN + index] * np.minimum(window.row(window.closed + lag) / scale, LARGEST)
            calendar = np.float32(0)
            for index in range(len(CALENDAR)):
                calendar += weight[at + index] * window.panel.steps[step + 1, index]
            total += calendar
            out[:, step] = np.clip(total, np.float32(0), LARGEST) * scale
        return out

    def adapt(self, window: Window) -> None:
        """Adds the closed bucket to each horizon group's sums, as a step of the group (they take turns), and solves for its last layer."""
        self._newborn.learn(window)
        y = window.observed()
        stride = -(-len(window) // _ROWS)
        at = _OWN + len(self._seasons)
        for group, probe in enumerate(turns(self.spec.probes, window.closed)):
            turn = (window.slots + window.closed) % stride == 0  # a big partition's items take turns
            rows = np.flatnonzero(turn & (window.age() >= probe + 2))
            if not len(rows):
                continue
            part = window.of(rows).back(probe)
            level, scale = self._scaled(part)
            newest, recent, week = self._own(part, scale)
            x = np.empty((len(rows), self._columns))
            x[:, 0], x[:, 1], x[:, 2], x[:, 3] = 1, newest, recent, week
            for index, season in enumerate(self._seasons):
                lag = int(lag_steps(season, probe)[-1])
                x[:, _OWN + index] = np.minimum(part.row(part.closed + lag) / scale, LARGEST)
            x[:, at : at + len(CALENDAR)] = window.panel.steps[0]
            x[:, at + len(CALENDAR) :] = self._body(part, level, scale, recent)
            self._ridge.learn(group, x, y[rows], scale)

    def _scaled(self, window: Window) -> tuple[Float32, Float32]:
        level = self._newborn.level(window, self._level)
        return level, level + np.float32(0.005)

    def _own(self, window: Window, scale: Float32) -> tuple[Float32, Float32, Float32]:
        newest = np.minimum(window.row(window.closed) / scale, LARGEST)
        recent, week = (np.minimum(window.mean(length) / scale, LARGEST) for length in (self._recent, self._lags))
        return newest, recent, week

    def _body(self, window: Window, level: Float32, scale: Float32, recent: Float32) -> Float32:
        """float32[n, width], from lags relative to the level, the level and the age, in tiles."""
        x = np.empty((self._lags + 3, len(window)), np.float32)
        for lag in range(self._lags):
            x[lag] = np.minimum(window.row(window.closed - lag) / scale, LARGEST)
        x[: self._lags] = np.sqrt(x[: self._lags]) - np.float32(0.7)
        x[-3] = np.log1p(level) * np.float32(0.3)
        x[-2] = np.log1p(np.maximum(window.age(), 0).astype(np.float32)) * np.float32(0.2)
        x[-1] = np.sqrt(recent) - np.float32(1)
        return self._tiles(np.ascontiguousarray(x.T))

    def shared_state(self) -> State:
        """The last layer's sums and weights, and the rates of new items."""
        return self._ridge.state() | self._newborn.state()

    def restore_shared(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what shared_state() gave."""
        self._newborn.restore(state)
        self._ridge.restore(state)
