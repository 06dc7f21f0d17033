"""What price, promotion and whatever else is known ahead do to an item's usual demand.

Demand is level × season × exp(effect); the effect is linear in what differs from the item's own usual: log(price / usual price) for
columns called a price, the difference for others, relative to its size over all items. Coefficients are pooled over the partition,
shrunk to that by velocity class, and an item multiplies the effect by a factor of its own, shrunk to one. They are those of a log-linear
regression of counts, by one step of Fisher scoring a tick: zeros need no special care, and nothing is biased by taking logarithms of
sales. Without covariates the effect is nothing.

What had not been announced carries its last value on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.demand.expert import Expert, season_length
from models.demand.newborn import Newborn
from models.demand.pending import span
from models.demand.profile import Profile
from models.demand.window import CLASSES, Window, classify
from models.exact import pooled, products, solve
from models.protocol import DemandSpec, Float32, Float64, Ints, State

_COLUMNS = 8  # covariates that there is room for; of more, those that come first by name and time
_LARGEST = np.float32(8)  # of a feature
_STEEPEST = np.float32(3)  # of an effect: a factor of 20 either way
_GRID = 2.0**10  # features in sums are multiples of 1/1024, so that BLAS adds them exactly in any order
_MEMORY = 0.995
_ITEM_MEMORY = np.float32(0.99)
_RIDGE = 20.0  # of the partition's coefficients to none
_CLASS_RIDGE = 100.0  # of a class's to the partition's (by category instead: 5 % more WQL on a grocer's eleven brands)
_ITEM_RIDGE = np.float32(20)  # of an item's factor to one
_DISPERSION = np.float32(0.3)  # assumed for weights: a busy item's bucket tells no more than so much
_OUTLIER = np.float32(20)  # times the mean and one more


@dataclass(frozen=True, slots=True)
class _Column:
    """A covariate of n items."""

    index: int
    name: str
    usual: Float32
    """float32[n], NaN where none has been seen."""
    size: np.float32
    carried: Float32
    """float32[n], the feature where nothing is known: that of the last value, 0 without one."""


class Elasticity(Expert):
    """Level times season times the effect of what is known ahead."""

    name: ClassVar[str] = "elasticity"

    def __init__(self, spec: DemandSpec, device: torch.device | None = None) -> None:
        """Makes an expert without slots.

        Args:
            spec: what is forecast.
            device: not used.
        """
        super().__init__(spec, device)
        self._newborn = Newborn()
        self._short = season_length(spec)
        self._decay = np.float32(0.5 ** (1 / (2 * self._short)))
        self._profile = Profile(spec.seasons)
        # Decayed units, and decayed what season and effect made of a level of one; "told" and "due" are the item's factor's sums.
        for name in ("units", "worth", "told", "due"):
            self.slots.add(name, np.float32)
            self.slots.add(f"was_{name}", np.float32)
        self.slots.add("usual", np.float32, np.nan, (_COLUMNS,))
        self.slots.add("last", np.float32, np.nan, (_COLUMNS,))
        # The columns' names by their hash, 0 where there is none yet; sums of squared differences and how many; the size used.
        self._names: Ints = np.zeros(_COLUMNS, dtype=np.int64)
        self._squares: Float64 = np.zeros((2, _COLUMNS))
        self._size: Float64 = np.ones(_COLUMNS)
        # Column 0 is the constant: it takes up what the level gets wrong, and is not used to forecast.
        self._matrix: Float64 = np.zeros((CLASSES, _COLUMNS + 1, _COLUMNS + 1))
        self._right: Float64 = np.zeros((CLASSES, _COLUMNS + 1))
        self._weights: Float64 = np.zeros((CLASSES, _COLUMNS + 1))

    @property
    def lookback(self) -> int:
        """Only what the rates of new items take."""
        return Newborn.lookback

    def means(self, window: Window, horizon: int) -> Float32:
        """Level, times the step's factor, times the effect of what is known of the step."""
        level = self._level(window, "")
        group = classify(level, window.whole)
        factors = self._profile.factors(window.closed + 1, horizon)
        own = self._own(window, "")
        columns = self._columns(window)
        slopes = [own * self._weights[:, column.index + 1].astype(np.float32)[group] for column in columns]
        out = np.empty((len(window), horizon), np.float32)
        for step in range(horizon):
            out[:, step] = level * factors[:, step][group]
            if columns:
                effect = np.zeros(len(window), np.float32)
                for column, slope in zip(columns, slopes, strict=True):
                    effect += slope * self._feature(window, column, window.closed + 1 + step)
                out[:, step] *= np.exp(np.clip(effect, -_STEEPEST, _STEEPEST))
        return out

    def adapt(self, window: Window) -> None:
        """Adds the closed bucket to the item's level and factor, the usual values, the profile and the regressions."""
        at = span(window.slots)
        for name in ("units", "worth", "told", "due"):
            self.slots.f32(f"was_{name}")[at] = self.slots.f32(name)[at]
        self._name(window)
        columns = self._columns(window)
        features = self._features(window, columns)
        level, group, mean, effect = self._update(window, features)
        # A level is worth comparing with when it has seen a season.
        known = self.slots.f32("was_worth")[at] > np.float32(self._short / 2)
        wanted = window.wanted(mean)
        self._profile.learn(window, wanted / effect, level, group, known)
        if features:
            # Times the item's factor: else what that explains would be taken from the coefficients, tick after tick.
            own = self._own(window, "was_")
            self._regress([(column, own * values) for column, values in features], wanted, mean, group, known)
        self._newborn.learn(window)
        for column in columns:
            self._carry(window, column.index, column.name, at)
        if columns:
            self._resize_features()
            self._solve()

    def readapt(self, window: Window) -> None:
        """Takes the newest bucket back and adds its corrected value (to the item's own state; what is pooled stays)."""
        # The usual values have moved on by this bucket's: a difference that the level's own correction does not notice.
        self._update(window, self._features(window, self._columns(window)))

    def _update(self, window: Window, features: list[tuple[int, Float32]]) -> tuple[Float32, Ints, Float32, Float32]:
        """Moves level and factor from what they were before the newest bucket; (level, class, mean, effect on a factor) before it."""
        at = span(window.slots)
        level = self._level(window, "was_")
        group = classify(level, window.whole)
        factor = np.maximum(self._profile.factors(window.closed, 1)[:, 0][group], np.float32(0.01))
        linear = self._effect(features, group)
        times = np.ones(len(window), np.float32)
        if linear is not None:
            times = np.exp(np.clip(self._own(window, "was_") * linear, -_STEEPEST, _STEEPEST))
        mean = level * factor * times
        y = window.wanted(mean)
        cold = self.slots.f32("was_worth")[at] == 0
        # A first bucket counts only through the rate that it predicts, as if that had been seen for one bucket.
        units = self.slots.f32("was_units")[at] * self._decay + y
        self.slots.f32("units")[at] = np.where(cold, self._newborn.rate(window.row(window.closed)), units)
        self.slots.f32("worth")[at] = np.where(cold, np.float32(1), self.slots.f32("was_worth")[at] * self._decay + factor * times)
        if linear is not None:
            # The item's factor: its own slope on the pooled effect.
            weight = mean / (np.float32(1) + _DISPERSION * mean) * linear
            surprise = (np.minimum(y, _OUTLIER * (mean + 1)) - mean) / np.maximum(mean, np.float32(1e-3))
            told = self.slots.f32("was_told")[at] * _ITEM_MEMORY + weight * (surprise + (self._own(window, "was_") - 1) * linear)
            self.slots.f32("told")[at] = np.where(cold, np.float32(0), told)
            self.slots.f32("due")[at] = np.where(cold, np.float32(0), self.slots.f32("was_due")[at] * _ITEM_MEMORY + weight * linear)
        return level, group, mean, times

    def _level(self, window: Window, which: str) -> Float32:
        units, worth = self.slots.f32(f"{which}units")[window.slots], self.slots.f32(f"{which}worth")[window.slots]
        cold = worth == 0
        level = units / np.where(cold, np.float32(1), worth)
        if cold.any():
            level = np.where(cold, self._newborn.rate(window.row(window.closed)), level)
        return np.asarray(level, dtype=np.float32)

    def _own(self, window: Window, which: str) -> Float32:
        """float32[n], what the item multiplies the effect by."""
        told, due = self.slots.f32(f"{which}told")[window.slots], self.slots.f32(f"{which}due")[window.slots]
        return np.asarray(np.clip(1 + told / (due + _ITEM_RIDGE), np.float32(0), np.float32(3)), dtype=np.float32)

    def _name(self, window: Window) -> None:
        """Gives columns to covariates that have none yet."""
        for name in sorted(window.panel.known):
            free = np.flatnonzero(self._names == 0)
            if len(free) and _hash(name) not in self._names:
                self._names[free[0]] = _hash(name)

    def _columns(self, window: Window) -> list[_Column]:
        """The panel's covariates that have columns."""
        at = span(window.slots)
        out = []
        for name in sorted(window.panel.known):
            for index in np.flatnonzero(self._names == _hash(name)).tolist():
                usual = self.slots.f32("usual")[index, at]
                size = np.float32(self._size[index])
                carried = _scaled(_transform(name, self.slots.f32("last")[index, at]), usual, size)
                out.append(_Column(index, name, usual, size, np.where(np.isnan(carried), np.float32(0), carried)))
        return out

    def _feature(self, window: Window, column: _Column, bucket: int) -> Float32:
        """float32[n], a column's difference from the items' usual at a bucket, relative to the column's size."""
        found = _scaled(_transform(column.name, window.known(column.name, bucket)), column.usual, column.size)
        return np.where(np.isnan(found), column.carried, found)

    def _features(self, window: Window, columns: list[_Column]) -> list[tuple[int, Float32]]:
        """Each column's feature of the newest closed bucket."""
        return [(column.index, self._feature(window, column, window.closed)) for column in columns]

    def _effect(self, features: list[tuple[int, Float32]], group: Ints) -> Float32 | None:
        """float32[n], the linear effect by the pooled coefficients; None without covariates."""
        if not features:
            return None
        total = np.zeros(len(group), np.float32)
        for column, values in features:
            total += self._weights[:, column + 1].astype(np.float32)[group] * values
        return total

    def _carry(self, window: Window, column: int, name: str, at: slice | Ints) -> None:
        """Takes the closed bucket's value of a covariate into its last and usual ones."""
        value = window.known(name, window.closed)
        last = self.slots.f32("last")[column]
        told = ~np.isnan(value)
        last[at] = np.where(told, value, last[at])
        now, usual = _transform(name, last[at]), self.slots.f32("usual")[column]
        before = usual[at]
        difference = now - before
        seen = told & ~np.isnan(difference)
        self._squares[:, column] *= _MEMORY
        if seen.any():
            share = np.clip(difference[seen] / np.float32(self._size[column]), -_LARGEST, _LARGEST).astype(np.float64)
            none = np.zeros(len(share), dtype=np.int64)
            self._squares[0, column] += pooled(none, share * share, 1)[0] * self._size[column] ** 2
            self._squares[1, column] += len(share)
        gain = np.maximum(1 - self._decay, 1 / np.maximum(window.age(), 1).astype(np.float32))
        usual[at] = np.where(np.isnan(before), now, np.where(np.isnan(difference), before, before + gain * difference))

    def _regress(self, features: list[tuple[int, Float32]], wanted: Float32, mean: Float32, group: Ints, known: NDArray[np.bool_]) -> None:
        """Adds the bucket to each class's sums: weights and working responses of a Poisson regression, damped for dispersion."""
        self._matrix *= _MEMORY
        self._right *= _MEMORY
        weights = self._weights.astype(np.float32)
        rows = np.flatnonzero(known & (mean > 0))
        rows = rows[np.argsort(group[rows], kind="stable")]
        bounds = np.searchsorted(group[rows], np.arange(CLASSES + 1))
        for row in np.flatnonzero(np.diff(bounds)).tolist():
            mine = rows[bounds[row] : bounds[row + 1]]
            x = np.zeros((len(mine), _COLUMNS + 1))
            x[:, 0] = 1
            linear = np.full(len(mine), weights[row, 0], np.float32)
            for column, values in features:
                x[:, column + 1] = values[mine]
                linear += weights[row, column + 1] * values[mine]
            m = mean[mine]
            surprise = (np.minimum(wanted[mine], _OUTLIER * (m + 1)) - m) / np.maximum(m, np.float32(1e-3))
            root = np.sqrt(m / (np.float32(1) + _DISPERSION * m)).astype(np.float64)
            x = np.rint(x * root[:, None] * _GRID) / _GRID
            response = np.rint((surprise + linear).astype(np.float64) * root * _GRID) / _GRID
            self._matrix[row] += products(x, x)
            self._right[row] += products(x, response)

    def _resize_features(self) -> None:
        """Follows the columns' sizes in powers of two, by which sums and coefficients are changed without rounding."""
        rms = np.sqrt(self._squares[0] / np.maximum(self._squares[1], 1.0))
        wanted = np.exp2(np.rint(np.log2(np.maximum(rms, 1e-6))))
        for column in np.flatnonzero((self._squares[1] > 0) & (rms > 0)):
            ratio = self._size[column] / wanted[column]
            if 0.5 <= ratio <= 2:  # near enough
                continue
            self._matrix[:, column + 1] *= ratio
            self._matrix[:, :, column + 1] *= ratio
            self._right[:, column + 1] *= ratio
            self._size[column] = wanted[column]

    def _solve(self) -> None:
        ridge = np.eye(_COLUMNS + 1)
        shared = solve(self._matrix.cumsum(axis=0)[-1] + _RIDGE * ridge, self._right.cumsum(axis=0)[-1])
        self._weights[:] = shared
        for row in np.flatnonzero(self._matrix[:, 0, 0] > 0).tolist():
            self._weights[row] = solve(self._matrix[row] + _CLASS_RIDGE * ridge, self._right[row] + _CLASS_RIDGE * shared)

    def shared_state(self) -> State:
        """The regressions, what their columns are, the profile and the rates of new items."""
        own: State = {
            "names": self._names.copy(),
            "squares": self._squares.copy(),
            "size": self._size.copy(),
            "matrix": self._matrix.copy(),
            "right": self._right.copy(),
            "weights": self._weights.copy(),
        }
        return own | self._profile.state() | self._newborn.state()

    def restore_shared(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what shared_state() gave."""
        self._names = np.array(state["names"], dtype=np.int64)
        self._squares, self._size = np.array(state["squares"], np.float64), np.array(state["size"], np.float64)
        self._matrix, self._right = np.array(state["matrix"], np.float64), np.array(state["right"], np.float64)
        self._weights = np.array(state["weights"], np.float64)
        self._profile.restore(state)
        self._newborn.restore(state)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True) or 1


def _transform(name: str, value: Float32) -> Float32:
    """Logarithms of prices (of what is positive; else unknown), other columns as they are."""
    if "price" not in name.lower():
        return value
    return np.asarray(np.log(np.where(value > 0, value, np.float32(np.nan))), dtype=np.float32)


def _scaled(value: Float32, usual: Float32, size: np.float32) -> Float32:
    return np.asarray(np.clip((value - usual) / size, -_LARGEST, _LARGEST), dtype=np.float32)
