"""A pooled ridge regression for each horizon group: exact sums that fade, shrunk to a prior."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.exact import products, solve
from models.protocol import Float32, Float64, State

LARGEST = np.float32(10)
"""Times the level: what features and targets are cut at."""
_GRID = 2.0**10  # features in sums are multiples of 1/1024, so that BLAS adds them exactly in any order
_MEMORY = 0.99
_RIDGE = 300.0


class GroupRidge:
    """Regressions of what an item sells relative to its scale."""

    def __init__(self, groups: int, prior: Float64) -> None:
        """Says the prior.

        Args:
            groups: horizon groups.
            prior: float64[columns], weights before anything was learnt.
        """
        self._prior = prior
        columns = len(prior)
        self._matrix: Float64 = np.zeros((groups, columns, columns))
        self._right: Float64 = np.zeros((groups, columns))
        self.weights: Float64 = np.repeat(prior[None, :], groups, axis=0)
        """float64[groups, columns]."""

    def learn(self, group: int, x: Float64, y: Float64, scale: Float32) -> None:
        """Adds a tick's rows to a group's sums and solves for its weights.

        Args:
            group: horizon group.
            x: float64[rows, columns], relative to the scale.
            y: float64[rows], units.
            scale: float32[rows], units.
        """
        # A cap that rare items do not reach with a sale: cutting their sales would bias their mean.
        target = np.minimum(y, float(LARGEST) * (1 + scale)) / scale
        # A sale's noise relative to its level shrinks with the level: an item weighs what it can tell.
        weigh = np.sqrt(scale / (scale + 1))
        x = np.rint(x * weigh[:, None] * _GRID) / _GRID
        target = np.rint(target * weigh * _GRID) / _GRID
        self._matrix[group] = self._matrix[group] * _MEMORY + products(x, x)
        self._right[group] = self._right[group] * _MEMORY + products(x, target)
        ridge = _RIDGE * np.eye(x.shape[1])
        self.weights[group] = solve(self._matrix[group] + ridge, self._right[group] + _RIDGE * self._prior)

    def state(self) -> State:
        """The sums and the weights."""
        return {"matrix": self._matrix.copy(), "right": self._right.copy(), "weights": self.weights.copy()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what state() gave."""
        self._matrix, self._right = np.array(state["matrix"], np.float64), np.array(state["right"], np.float64)
        self.weights = np.array(state["weights"], np.float64)
