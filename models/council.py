"""The council: how much each expert counts, per item class and horizon group, and how wide their mixture has to be.

Weights follow the Bernstein online aggregation (Wintenberger, Optimal learning with Bernstein online aggregation, 2017):
second-order regrets with a learning rate for each expert, on losses that are known only when a forecast's bucket has closed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.protocol import Float32, Float64, State

_MEMORY = 0.995  # of regrets, a scored tick: shops change
_CAUTION = 0.15  # of the theory's learning rates: mixtures are better than winners that win by little
_FLOOR = 0.01  # no expert is ever silenced for good
_BORROWED = 30.0  # scored items that the pooled weights are worth to a class
_CALIBRATION_MEMORY = 0.97
_CALIBRATION_GAIN = 0.06
_CALIBRATION_ITEMS = 50.0
_WIDEST = np.log(6.0)


class Council:
    """Weights of experts by horizon group and class, with a pooled row that classes borrow from."""

    def __init__(self, groups: int, classes: int, allowed: NDArray[np.bool_]) -> None:
        """Starts with equal weights.

        Args:
            groups: horizon groups.
            classes: item classes.
            allowed: bool[classes, experts], which experts have forecasts for a class at all.
        """
        self.groups, self.classes, self.experts = groups, classes, allowed.shape[1]
        self._allowed: NDArray[np.bool_] = np.vstack([allowed, np.any(allowed, axis=0, keepdims=True)])  # the pooled row comes last
        shape = (groups, classes + 1, self.experts)
        self._loss: Float64 = np.zeros(shape)
        self._square: Float64 = np.zeros(shape)
        self._range: Float64 = np.zeros(shape)
        self._items: Float64 = np.zeros((groups, classes + 1))

    def update(self, group: int, losses: Float64, items: Float64) -> None:
        """Takes what the experts lost at a tick.

        Args:
            group: horizon group.
            losses: float64[classes, experts], sums over the class's items of losses divided by the item's scale.
            items: float64[classes], how many were scored.
        """
        raw = self._raw()[group]
        total = np.zeros(self.experts)
        count = np.zeros(self.experts)
        for row in range(self.classes):
            if items[row] > 0:
                self._step(group, row, losses[row] / items[row], raw[row], self._allowed[row], items[row])
                total = total + np.where(self._allowed[row], losses[row], 0.0)
                count = count + np.where(self._allowed[row], items[row], 0.0)
        seen = count > 0
        if seen.any():
            self._step(group, self.classes, total / np.maximum(count, 1.0), raw[-1], seen & self._allowed[-1], float(items.sum()))

    def weights(self) -> Float32:
        """float32[experts, groups, classes], adding up to one over the experts."""
        raw = self._raw()
        own = self._items[:, :-1, None]
        shared = np.where(self._allowed[None, :-1], raw[:, -1:], 0.0)
        shared = shared / shared.sum(axis=2, keepdims=True)
        mixed = (own * raw[:, :-1] + _BORROWED * shared) / (own + _BORROWED)
        allowed = self._allowed[None, :-1]
        floored = np.where(allowed, mixed * (1 - _FLOOR) + _FLOOR / allowed.sum(axis=2, keepdims=True), 0.0)
        return np.ascontiguousarray((floored / floored.sum(axis=2, keepdims=True)).transpose(2, 0, 1), dtype=np.float32)

    def _rates(self) -> Float64:
        spread = np.sqrt(np.log(max(self.experts, 2)) / np.maximum(self._square, 1e-12))
        return np.asarray(_CAUTION * np.minimum(0.5 / np.maximum(self._range, 1e-6), spread), dtype=np.float64)

    def _raw(self) -> Float64:
        rates = self._rates()
        exponent = np.where(self._allowed, np.clip(-rates * self._loss, -60.0, 60.0), -np.inf)
        # Of two equally good experts the one with the smaller learning rate (the more erratic) counts less; before losses, none does.
        rates = np.where(self._square > 0, rates / rates.max(axis=2, keepdims=True), 1.0)
        powers = rates * np.exp(exponent - exponent.max(axis=2, keepdims=True))
        return np.asarray(powers / powers.sum(axis=2, keepdims=True), dtype=np.float64)

    def _step(self, group: int, row: int, losses: Float64, raw: Float64, known: NDArray[np.bool_], items: float) -> None:
        share = np.where(known, raw, 0.0)
        share = share / share.sum()
        mixed = 0.0
        for weight, loss in zip(share, losses, strict=True):  # one after the other: a dot product may round by place
            mixed += float(weight) * float(loss)
        regret = np.where(known, losses - mixed, 0.0)
        at = (group, row)
        rates = self._rates()[at]
        self._range[at] = np.maximum(self._range[at] * _MEMORY, np.abs(regret))
        self._square[at] = self._square[at] * _MEMORY + regret * regret
        self._loss[at] = self._loss[at] * _MEMORY + regret * (1 + np.minimum(rates * np.abs(regret), 1.0) * np.sign(regret))
        self._items[at] = min(self._items[at] * _MEMORY + min(items, 10.0), 1e6)

    def state(self) -> State:
        """Everything that decides later weights."""
        return {"loss": self._loss.copy(), "square": self._square.copy(), "range": self._range.copy(), "items": self._items.copy()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what state() gave."""
        shapes = self._loss.shape
        if state["loss"].shape != shapes:
            raise ValueError(f"council state must be {list(shapes)}; got {list(state['loss'].shape)}: rebuild the state")
        self._loss, self._square = np.array(state["loss"], np.float64), np.array(state["square"], np.float64)
        self._range, self._items = np.array(state["range"], np.float64), np.array(state["items"], np.float64)


class Calibration:
    """A factor on the dispersion for each horizon group and class, moved by how often the council's quantiles were kept.

    Of counts, level p is kept when share(y < q) <= p <= share(y <= q): within that, nothing moves.
    """

    def __init__(self, groups: int, classes: int, levels: Sequence[float]) -> None:
        """Starts with factors of one.

        Args:
            groups: horizon groups.
            classes: item classes.
            levels: ascending.
        """
        self.levels = np.array(levels)
        self._below: Float64 = np.zeros((groups, classes, len(levels)))
        self._within: Float64 = np.zeros((groups, classes, len(levels)))
        self._items: Float64 = np.zeros((groups, classes))
        self._log: Float64 = np.zeros((groups, classes))
        self._noise = np.sqrt(self.levels * (1 - self.levels))

    def update(self, group: int, below: Float64, within: Float64, items: Float64, rises: Float64) -> None:
        """Takes how often the levels were kept at a tick.

        Args:
            group: horizon group.
            below: float64[classes, levels], items with y < q.
            within: float64[classes, levels], items with y <= q.
            items: float64[classes].
            rises: float64[classes, levels], in -1 … 1, how the class's quantiles move when the dispersion grows. Not simply up above the
                median: the wider a distribution of rare demand, the more of it is zero, and its 90 % quantile falls.
        """
        scored = items > 0
        fade = np.where(scored, _CALIBRATION_MEMORY, 1.0)
        self._below[group] = self._below[group] * fade[:, None] + below
        self._within[group] = self._within[group] * fade[:, None] + within
        self._items[group] = self._items[group] * fade + items
        n = np.maximum(self._items[group], 1.0)[:, None]
        low, high = self._below[group] / n, self._within[group] / n
        # Positive: the quantile stands too low.
        error = np.maximum(self.levels - high, 0.0) - np.maximum(low - self.levels, 0.0)
        pull = np.zeros(len(n))
        for level, noise in enumerate(self._noise):
            pull += error[:, level] * rises[:, level] / noise
        trust = self._items[group] / (self._items[group] + _CALIBRATION_ITEMS)
        moved = self._log[group] + np.where(scored, _CALIBRATION_GAIN * trust * np.clip(pull, -1.0, 1.0), 0.0)
        self._log[group] = np.clip(moved, -_WIDEST, _WIDEST)

    def factors(self) -> Float32:
        """float32[groups, classes], to multiply dispersions with."""
        return np.exp(self._log).astype(np.float32)

    def coverage(self) -> dict[str, dict[str, float]]:
        """Per level the recent shares below and at or below, over all groups and classes; no entry before anything was scored."""
        items = float(self._items.sum())
        if items <= 0:
            return {}
        below, within = self._below.sum(axis=(0, 1)) / items, self._within.sum(axis=(0, 1)) / items
        return {
            f"{p:g}": {"below": float(low), "at_or_below": float(high)} for p, low, high in zip(self.levels, below, within, strict=True)
        }

    def state(self) -> State:
        """Everything that decides later factors."""
        return {"below": self._below.copy(), "within": self._within.copy(), "items": self._items.copy(), "log": self._log.copy()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what state() gave."""
        self._below, self._within = np.array(state["below"], np.float64), np.array(state["within"], np.float64)
        self._items, self._log = np.array(state["items"], np.float64), np.array(state["log"], np.float64)
