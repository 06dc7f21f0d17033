"""river's SNARIMAX as an autoregression with a season, one for each of the busiest items.

river learns one step ahead; predictions feed on themselves, for all members at once, from arrays that are read from it. A shut bucket is
passed as SNARIMAX's own forecasts pass a step: with the forecast for a value, and no error. Everything is relative to the item's recent
level, the lags too: they are held relative to the newest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.demand.busiest import Busiest
from models.demand.expert import level_length, season_length
from models.demand.newborn import Newborn
from models.demand.window import Window
from models.protocol import DemandSpec, Float32, Float64, State
from models.rivers import linear_model, optim, preprocessing, time_series, utils

_RATE = 0.01
_CLIP = 4.0  # standard deviations of a feature
_LARGEST = 10.0  # times the level
_PARTS = ("counts", "means", "vars", "weights")


class _Regressor:
    """What SNARIMAX learns with: a scaler whose outliers are cut, and a linear regression."""

    def __init__(self) -> None:
        self.scaler = preprocessing.StandardScaler()
        # One is the level: an unlearnt regression says what was sold lately.
        self.model = linear_model.LinearRegression(
            optimizer=optim.SGD(_RATE), intercept_init=1.0, intercept_lr=_RATE, l2=1e-3, clip_gradient=10.0
        )

    def _scaled(self, x: dict[str, float]) -> dict[str, float]:
        return {name: min(max(value, -_CLIP), _CLIP) for name, value in self.scaler.transform_one(x).items()}

    def predict_one(self, x: dict[str, float]) -> float:
        return float(self.model.predict_one(self._scaled(x)))

    def learn_one(self, x: dict[str, float], y: float) -> None:
        self.scaler.learn_one(x)
        self.model.learn_one(self._scaled(x), y)


class Autoregression(Busiest[tuple[float, Any]]):
    """Recent and seasonal lags and the last error; a member is its scale and its SNARIMAX."""

    name: ClassVar[str] = "ar"

    def __init__(self, spec: DemandSpec, device: torch.device | None = None) -> None:
        """Makes an expert without slots.

        Args:
            spec: what is forecast.
            device: not used.
        """
        super().__init__(spec, device)
        self._short = season_length(spec)
        self._level = level_length(spec)
        self._order = min(3, self._short)
        self._seasonal = 2 if spec.seasons and self._short > 1 else 0
        self._depth = max(self._order, self._short * self._seasonal)
        lags = [*range(1, self._order + 1), *(self._short * k for k in range(1, self._seasonal + 1))]
        self._lags = lags
        self._names = [f"y-{lag}" for lag in lags[: self._order]] + [f"sy-{lag}" for lag in lags[self._order :]] + ["e-1"]
        self._last = 0  # the newest bucket that the members know of
        self._read()

    @property
    def lookback(self) -> int:
        """What new members start from."""
        return max(self._depth, self._level, Newborn.lookback)

    def means(self, window: Window, horizon: int) -> Float32:
        """The regressions' means for members, the recent level for others."""
        level = self._newborn.level(window, self._level)
        out = np.repeat(level[:, None], horizon, axis=1)
        mine, row = self._mine(window)
        if len(mine):
            passed = window.closed - self._last  # shut buckets since
            found = self._ahead(row, passed + horizon)[:, passed:]
            largest = _LARGEST * (level[mine].astype(np.float64) + 1.0)
            out[mine] = np.clip(found * self._scale[row][:, None], 0.0, largest[:, None])
        return out

    def _ahead(self, row: NDArray[np.int64], steps: int) -> Float64:
        """float64[m, steps], relative to the scale: each step from those before."""
        past = self._past[row]  # [m, depth], newest first
        mean, inverse, weight = (array[row] for array in self._arrays)
        out = np.empty((len(row), steps))
        for step in range(steps):
            total = self._intercepts[row]
            for index, lag in enumerate(self._lags):
                value = out[:, step - lag] if lag <= step else past[:, lag - step - 1]
                total = total + weight[:, index] * np.clip((value - mean[:, index]) * inverse[:, index], -_CLIP, _CLIP)
            error = self._error[row] if step == 0 else 0.0
            total = total + weight[:, -1] * np.clip((error - mean[:, -1]) * inverse[:, -1], -_CLIP, _CLIP)
            out[:, step] = np.clip(np.nan_to_num(total, nan=1.0), 0.0, _LARGEST)
        return out

    def adapt(self, window: Window) -> None:
        """Each member learns the closed bucket, one step ahead."""
        wanted = window.wanted(np.nan_to_num(self.slots.f32("next")[window.slots]))
        mine, row = self._mine(window)
        passed = min(window.closed - 1 - self._last, self._depth)
        skipped = self._ahead(row, passed)[:, ::-1]
        before = self._scale[row]
        after = _scale(self._newborn.level(window, self._level)[mine])
        ratio = (before / after)[:, None]
        past = np.minimum(np.concatenate([skipped, self._past[row]], axis=1)[:, : self._depth] * ratio, _LARGEST)
        error = np.where(passed, 0.0, np.clip(self._error[row] * ratio[:, 0], -_LARGEST, _LARGEST))
        y = _relative(wanted[mine].astype(np.float64), after)
        for place, scale, lags, missed, units in zip(*(part.tolist() for part in (row, after, past, error, y)), strict=True):
            slot, (_, model) = self._members[place]
            model.y_diff.extend(lags)  # as many as it holds: what was there leaves on the other side
            model.errors.append(missed)
            model.learn_one(units)
            self._members[place] = (slot, (scale, model))
        self._last = window.closed
        self._newborn.learn(window)
        self._rank(window, wanted)
        self._read()

    def readapt(self, window: Window) -> None:
        """Corrects the newest lag and error; what the regression has learnt stays."""
        mine, row = self._mine(window)
        units, stocked = window.row(window.closed)[mine].astype(np.float64), 1 - window.censored(window.closed)[mine].astype(np.float64)
        expected = (self._past[row, 0] - self._error[row]) * self._scale[row]
        y = _relative(units + (1 - stocked) * np.maximum(expected, 0.0), self._scale[row])
        for at, place, value in zip(mine.tolist(), row.tolist(), y.tolist(), strict=True):
            slot, (_, model) = self._members[place]
            if not model.regressor.model.optimizer.n_iterations:
                self._members[place] = (slot, self._fresh(window, at))
                continue
            model.errors[0] += value - model.y_diff[0]
            model.y_diff[0] = value
        self._read()

    def _fresh(self, window: Window, row: int) -> tuple[float, Any]:
        scale = float(_scale(self._newborn.level(window, self._level)[row : row + 1])[0])
        past = []
        for bucket in range(window.closed, window.closed - self._depth, -1):
            lived = bucket >= window.first[row] and not window.shut(bucket)
            past.append(min(float(window.row(bucket)[row]) / scale, _LARGEST) if lived else 1.0)
        return scale, self._model(past, 0.0)

    def _model(self, past: list[float], error: float) -> Any:
        model = time_series().SNARIMAX(p=self._order, d=0, q=1, m=self._short, sp=self._seasonal, regressor=_Regressor())
        model.y_diff.extend(past)
        model.errors.append(error)
        return model

    def _read(self) -> None:
        """Reads what river learnt into arrays: mean, 1 / standard deviation, weight, each [members, features]; past and error."""
        table = self._table()
        spread = table[2] > 1e-9
        self._arrays = (table[1], np.where(spread, 1 / np.sqrt(np.where(spread, table[2], 1.0)), 0.0), table[3])
        models = [model for _, (_, model) in self._members]
        self._scale: Float64 = np.array([scale for _, (scale, _) in self._members], dtype=np.float64)
        self._intercepts: Float64 = np.array([model.regressor.model.intercept for model in models], dtype=np.float64)
        self._past: Float64 = np.array([list(model.y_diff) for model in models], dtype=np.float64).reshape(len(models), self._depth)
        self._error: Float64 = np.array([model.errors[0] for model in models], dtype=np.float64)

    def _table(self) -> Float64:
        """float64[parts, members, features]: the scalers' counts, means, variances, and the weights."""
        names = self._names
        out = np.zeros((len(_PARTS), len(self._members), len(names)))
        for row, (_, (_, model)) in enumerate(self._members):
            scaler = model.regressor.scaler
            if scaler.counts:
                weights = model.regressor.model.weights
                out[:, row] = [[source.get(name, 0.0) for name in names] for source in (scaler.counts, scaler.means, scaler.vars, weights)]
        return out

    def shared_state(self) -> State:
        """The members' regressions as arrays, and the rates of new items."""
        iterations = [model.regressor.model.optimizer.n_iterations for _, (_, model) in self._members]
        return {
            "slots": np.array([slot for slot, _ in self._members], dtype=np.int64),
            "scale": self._scale.copy(),
            "table": self._table(),
            "intercepts": self._intercepts.copy(),
            "iterations": np.array(iterations, dtype=np.int64),
            "past": self._past.copy(),
            "error": self._error.copy(),
            "last": np.array([self._last], dtype=np.int64),
        } | self._newborn.state()

    def restore_shared(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what shared_state() gave."""
        self._newborn.restore(state)
        self._last = int(np.asarray(state["last"], dtype=np.int64)[0])
        self._members = []
        names = ("slots", "scale", "past", "error", "intercepts", "iterations")
        parts = state["table"].transpose(1, 0, 2).tolist()
        for slot, scale, past, error, intercept, iterations, table in zip(*(state[name].tolist() for name in names), parts, strict=True):
            model = self._model(past, error)
            regressor = model.regressor
            if iterations:
                counted, means, variances, weights = (dict(zip(self._names, values, strict=True)) for values in table)
                regressor.scaler.counts.update({name: int(count) for name, count in counted.items()})
                regressor.scaler.means.update(means)
                regressor.scaler.vars.update(variances)
                regressor.model._weights = utils.VectorDict(weights)
            regressor.model.intercept, regressor.model.optimizer.n_iterations = intercept, iterations
            self._members.append((slot, (scale, model)))
        self._read()


def _scale(level: Float32) -> Float64:
    return level.astype(np.float64) + 0.05


def _relative(units: Float64, scale: Float64) -> Float64:
    # A cap that rare items do not reach with a sale: cutting their sales would bias their mean.
    return np.asarray(np.minimum(units / scale, _LARGEST * (1 + 1 / scale)), dtype=np.float64)
