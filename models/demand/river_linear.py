"""river's linear regression, one for each of the busiest items, learning one bucket at a time.

A learn_one costs 34 µs with its scaler, so only `river_items` items have one. Predictions never call river: its weights are
read into arrays. Everything is relative to the item's recent level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.demand.busiest import Busiest
from models.demand.expert import lag_steps, level_length, season_length, turns
from models.demand.newborn import Newborn
from models.demand.window import Window
from models.protocol import CALENDAR, DemandSpec, Float32, Float64, Ints, State
from models.rivers import linear_model, optim, preprocessing, utils

_RATE = 0.01
_CLIP = 4.0  # standard deviations of a feature
_LARGEST = 10.0  # times the level
_PARTS = ("counts", "means", "vars", "weights")


_Pair = tuple[preprocessing.StandardScaler, linear_model.LinearRegression]


class RiverLinear(Busiest[_Pair]):
    """A linear regression an item, by stochastic gradient descent, for the busiest items."""

    name: ClassVar[str] = "river"

    def __init__(self, spec: DemandSpec, device: torch.device | None = None) -> None:
        """Makes an expert without slots.

        Args:
            spec: what is forecast.
            device: not used.
        """
        super().__init__(spec, device)
        self._short = season_length(spec)
        self._recent = max(2, self._short // 4)
        self._level = level_length(spec)
        self._seasons = sorted(set(spec.seasons))
        self._names = ["recent", "week", *(f"lag_{season}" for season in self._seasons), *CALENDAR]
        self._read()

    @property
    def lookback(self) -> int:
        """Seasonal lags, and a level as it stood before the longest probe."""
        lags = [season * -(-self.spec.horizon // season) for season in self._seasons]
        return max([*lags, self.spec.probes[-1] + self._level, Newborn.lookback])

    def means(self, window: Window, horizon: int) -> Float32:
        """The regressions' means for members, the recent level for others."""
        level = self._newborn.level(window, self._level)
        out = np.repeat(level[:, None], horizon, axis=1)
        mine, row = self._mine(window)
        if not len(mine):
            return out
        scale = _scale(level[mine])
        mean, inverse, weight = (array[row] for array in self._arrays)  # [m, features]
        total = np.repeat(self._intercepts[row][:, None], horizon, axis=1)
        for index, values in enumerate(self._features(window, mine, scale, horizon)):
            part = (values - mean[:, index, None]) * inverse[:, index, None]
            total += weight[:, index, None] * np.clip(part, -_CLIP, _CLIP)
        out[mine] = np.clip(np.nan_to_num(total, nan=1.0), 0.0, _LARGEST) * scale[:, None]
        return out

    def _features(self, window: Window, mine: Ints, scale: Float64, horizon: int) -> list[Float64]:
        """One float64[m or 1, horizon or 1] a feature."""
        out: list[Float64] = [(window.mean(length)[mine] / scale)[:, None] for length in (self._recent, self._short)]
        for season in self._seasons:
            rows = [window.row(window.closed + int(lag))[mine] for lag in lag_steps(season, horizon)]
            out.append(np.minimum(np.stack(rows, axis=1) / scale[:, None], _LARGEST))
        steps = window.panel.steps[1 : horizon + 1].astype(np.float64)
        out.extend(steps[:, column][None, :] for column in range(len(CALENDAR)))
        return out

    def adapt(self, window: Window) -> None:
        """Each member learns the closed bucket once, from what was known some steps before it (all steps up to the last probe take turns)."""
        # A member's own one-step forecast of the closed bucket, where stock cut it short.
        y = window.wanted(np.nan_to_num(self.slots.f32("next")[window.slots]))
        self._newborn.learn(window)
        steps = turns(self.spec.probes, window.closed)
        probe = steps[window.closed % len(steps)]
        self._learn(window, probe, y.astype(np.float64))
        self._rank(window, y)
        self._read()

    def _learn(self, window: Window, probe: int, y: Float64) -> None:
        old = window.back(probe)
        mine = np.flatnonzero(self.covers(window) & (old.age() >= 2))
        if not len(mine):
            return
        scale = _scale(self._newborn.level(old, self._level)[mine])
        columns: list[Float64] = [old.mean(length)[mine] / scale for length in (self._recent, self._short)]
        for season in self._seasons:
            lag = int(lag_steps(season, probe)[-1])
            columns.append(np.minimum(old.row(old.closed + lag)[mine] / scale, _LARGEST))
        calendar = window.panel.steps[0].astype(np.float64)  # the bucket that closed is the one that was forecast
        columns.extend(np.full(len(mine), value) for value in calendar)
        x = np.stack(columns, axis=1).tolist()
        target = (np.minimum(y[mine], _LARGEST * (1 + scale)) / scale).tolist()
        rows = self.slots["row"][window.slots[mine]].tolist()
        for row, values, label in zip(rows, x, target, strict=True):
            scaler, model = self._members[row][1]
            features = dict(zip(self._names, values, strict=True))
            scaler.learn_one(features)
            scaled = {name: min(max(value, -_CLIP), _CLIP) for name, value in scaler.transform_one(features).items()}
            model.learn_one(scaled, label)

    def _fresh(self, window: Window, row: int) -> _Pair:
        return preprocessing.StandardScaler(), _regression()

    def _read(self) -> None:
        """Reads what river learnt into arrays: mean, 1 / standard deviation, weight, each [members, features]."""
        table = self._table()
        spread = table[2] > 1e-9
        self._arrays = (table[1], np.where(spread, 1 / np.sqrt(np.where(spread, table[2], 1.0)), 0.0), table[3])
        self._intercepts: Float64 = np.array([model.intercept for _, (_, model) in self._members], dtype=np.float64)

    def _table(self) -> Float64:
        """float64[parts, members, features]: the scalers' counts, means, variances, and the weights."""
        names = self._names
        out = np.zeros((len(_PARTS), len(self._members), len(names)))
        for row, (_, (scaler, model)) in enumerate(self._members):
            if scaler.counts:
                weights = model.weights
                out[:, row] = [[source.get(name, 0.0) for name in names] for source in (scaler.counts, scaler.means, scaler.vars, weights)]
        return out

    def shared_state(self) -> State:
        """The members' regressions as arrays, and the rates of new items."""
        iterations = [model.optimizer.n_iterations for _, (_, model) in self._members]
        return {
            "slots": np.array([slot for slot, _ in self._members], dtype=np.int64),
            "table": self._table(),
            "intercepts": self._intercepts.copy(),
            "iterations": np.array(iterations, dtype=np.int64),
        } | self._newborn.state()

    def restore_shared(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what shared_state() gave."""
        self._newborn.restore(state)
        self._members = []
        members = zip(
            state["slots"].tolist(),
            state["table"].transpose(1, 0, 2).tolist(),
            state["intercepts"].tolist(),
            state["iterations"].tolist(),
            strict=True,
        )
        for slot, parts, intercept, iterations in members:
            scaler, model = preprocessing.StandardScaler(), _regression()
            if iterations:
                counted, means, variances, weights = (dict(zip(self._names, values, strict=True)) for values in parts)
                scaler.counts.update({name: int(count) for name, count in counted.items()})
                scaler.means.update(means)
                scaler.vars.update(variances)
                model._weights = utils.VectorDict(weights)
            model.intercept, model.optimizer.n_iterations = intercept, iterations
            self._members.append((slot, (scaler, model)))
        self._read()


def _regression() -> linear_model.LinearRegression:
    # One is the level: an unlearnt regression says what was sold lately.
    return linear_model.LinearRegression(optimizer=optim.SGD(_RATE), intercept_init=1.0, intercept_lr=_RATE, l2=1e-3, clip_gradient=10.0)


def _scale(level: Float32) -> Float64:
    return level.astype(np.float64) + 0.05
