"""The council: how much each expert counts, per item class and horizon group.

Weights follow the Bernstein online aggregation (Wintenberger, Optimal learning with Bernstein online aggregation, 2017):
second-order regrets with a learning rate for each expert, on losses that are known only when a forecast's bucket has closed.
The losses are those that the gradient at the mixture makes of the experts' quantiles (the gradient trick of the same paper), so that what
is sought is the best mixture, not the best expert.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.protocol import Float32, Float64, State

_MEMORY = 0.99  # of regrets, a scored tick: shops change
_CAUTION = 0.6  # of the theory's learning rates: mixtures are better than winners that win by little
_FLOOR = 0.01  # no expert is ever silenced for good
_BORROWED = 30.0  # scored items that the pooled weights are worth to a class


class Council:
    """Weights of experts by horizon group and class, with a pooled row that classes borrow from."""

    def __init__(self, groups: int, classes: int, allowed: NDArray[np.bool_], prior: Float64 | None = None) -> None:
        """Starts with the prior's weights.

        Args:
            groups: horizon groups.
            classes: item classes.
            allowed: bool[classes, experts], which experts have forecasts for a class at all.
            prior: float64[experts], positive, how much each counts before anything is known of it; None: all alike.
        """
        self.groups, self.classes, self.experts = groups, classes, allowed.shape[1]
        self._prior: Float64 = np.ones(self.experts) if prior is None else prior
        self.allow(allowed)
        shape = (groups, classes + 1, self.experts)
        self._loss: Float64 = np.zeros(shape)
        self._square: Float64 = np.zeros(shape)
        self._range: Float64 = np.zeros(shape)
        self._items: Float64 = np.zeros((groups, classes + 1))

    def allow(self, allowed: NDArray[np.bool_]) -> None:
        """Says anew which experts have forecasts; one that comes back does so as it left.

        Args:
            allowed: bool[classes, experts], at least one expert a class.
        """
        self._allowed: NDArray[np.bool_] = np.vstack([allowed, np.any(allowed, axis=0, keepdims=True)])  # the pooled row comes last

    def reset(self, expert: int) -> None:
        """An expert is another from here on: it begins with the best's standing, and has to earn it.

        Args:
            expert: its place.
        """
        others = np.delete(np.arange(self.experts), expert)
        if not len(others):
            return
        best = others[self._loss[:, :, others].argmin(axis=2)][:, :, None]
        for values in (self._loss, self._square, self._range):
            values[:, :, expert] = np.take_along_axis(values, best, axis=2)[:, :, 0]

    def update(self, group: int, losses: Float64, items: Float64) -> None:
        """Takes what the experts lost at a tick.

        Args:
            group: horizon group.
            losses: float64[classes, experts], sums over the class's items of losses divided by the item's scale.
            items: float64[classes], how many were scored.
        """
        played = self.weights()[:, group].T.astype(np.float64)  # [classes, experts]
        raw = self._raw()[group]
        total = np.zeros(self.experts)
        count = np.zeros(self.experts)
        for row in range(self.classes):
            if items[row] > 0:
                self._step(group, row, losses[row] / items[row], played[row], self._allowed[row], items[row])
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
        powers = self._prior * rates * np.exp(exponent - exponent.max(axis=2, keepdims=True))
        return np.asarray(powers / powers.sum(axis=2, keepdims=True), dtype=np.float64)

    def _step(self, group: int, row: int, losses: Float64, played: Float64, known: NDArray[np.bool_], items: float) -> None:
        share = np.where(known, played, 0.0)
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
