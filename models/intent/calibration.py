"""Calibration of intent by position in the session, learnt from outcomes as they become known.

Beta calibration (Kull et al., Beta calibration, 2017): logit q = a ln p - b ln(1 - p) + c, here by Newton steps on each tick's
outcomes against a fading curvature, so that a shop whose customers change is followed within a few thousand sessions. Beside it
the calibration error itself is measured, on what was said before the outcome was known.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.exact import pooled, products, solve
from models.intent.probes import HEADS, sigmoid
from models.protocol import Float64, Ints, State

_FADE = 1 / 12_000
"""Of what was learnt, an outcome."""
_TRUST = np.array([40.0, 40.0, 4.0])
"""How much a, b and c resist being moved, in units of curvature: slopes are learnt from much, the level from little."""
_GRID = 2.0**12
_BINS = 30
_LOWEST, _STEP = -9.0, 0.4
"""Log odds at which the bins of the error begin, and their width."""
_MEMORY = 20_000.0
"""Outcomes that the measured error looks back on."""


class Calibrators:
    """One calibration for each head and probe position."""

    def __init__(self, groups: int) -> None:
        """Starts with what it is given.

        Args:
            groups: probe positions.
        """
        self.groups = groups
        self._beta: Float64 = np.tile([1.0, 1.0, 0.0], (len(HEADS), groups, 1))
        self._curvature: Float64 = np.tile(np.diag(_TRUST), (len(HEADS), groups, 1, 1))
        self._bins: Float64 = np.zeros((groups, 3, _BINS))
        """Of purchase: outcomes, probabilities said, purchases."""

    def reset(self) -> None:
        """What is calibrated is another from here on: begins from what it is given; the measured error stays."""
        fresh = Calibrators(self.groups)
        self._beta, self._curvature = fresh._beta, fresh._curvature

    def apply(self, head: int, group: Ints, p: Float64) -> Float64:
        """float64[n], calibrated.

        Args:
            head: index into HEADS.
            group: int64[n], of the positions.
            p: float64[n], in (0, 1).
        """
        beta = self._beta[head]
        return sigmoid(beta[group, 0] * np.log(p) - beta[group, 1] * np.log1p(-p) + beta[group, 2])

    def learn(self, head: int, group: Ints, p: Float64, label: Float64) -> None:
        """Takes outcomes.

        Args:
            head: index into HEADS.
            group: int64[n].
            p: float64[n], what is said before calibration.
            label: float64[n], 0 or 1.
        """
        for place in np.unique(group).tolist():
            rows = np.flatnonzero(group == place)
            x = np.stack([np.log(p[rows]), -np.log1p(-p[rows]), np.ones(len(rows))], axis=1)
            x = np.rint(np.clip(x, -30, 30) * _GRID) / _GRID
            beta = self._beta[head, place]
            said = sigmoid(beta[0] * x[:, 0] + beta[1] * x[:, 1] + beta[2])
            residual = np.rint((said - label[rows]) * _GRID) / _GRID
            root = np.rint(x * np.sqrt(said * (1 - said))[:, None] * _GRID) / _GRID
            keep = (1 - _FADE) ** len(rows)
            fresh = self._curvature[head, place] * keep + np.diag(_TRUST) * (1 - keep)
            self._curvature[head, place] = fresh + products(root, root)
            step = solve(self._curvature[head, place], products(x, residual))
            self._beta[head, place] = beta - step * min(1.0, 0.5 / max(float(np.abs(step).max()), 1e-12))

    def measure(self, group: Ints, q: Float64, label: Float64) -> None:
        """Takes outcomes of purchase into the measured error.

        Args:
            group: int64[n].
            q: float64[n], what was said in the end.
            label: float64[n], 0 or 1.
        """
        place = np.clip((np.log(q / (1 - q)) - _LOWEST) / _STEP, 0, _BINS - 1).astype(np.int64)
        cell = group * _BINS + place
        counted = np.bincount(group, minlength=self.groups)
        self._bins *= (np.maximum(1 - 1 / _MEMORY, 0.0) ** counted)[:, None, None]
        for row, values in enumerate((np.ones(len(q)), q, label)):
            self._bins[:, row] += pooled(cell, values, self.groups * _BINS).reshape(self.groups, _BINS)

    def error(self) -> Float64:
        """float64[positions], the expected calibration error of purchase over its base rate, of the newest outcomes; NaN before any purchase."""
        count, said, bought = self._bins[:, 0].sum(axis=1), self._bins[:, 1], self._bins[:, 2]
        off = np.abs(said - bought).sum(axis=1)
        enough = (count > 0) & (bought.sum(axis=1) > 0)
        return np.where(enough, off / np.maximum(bought.sum(axis=1), 1e-9), np.nan)

    def state(self) -> State:
        """Everything that decides later results."""
        return {"beta": self._beta.copy(), "curvature": self._curvature.copy(), "bins": self._bins.copy()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what state() gave."""
        if state["beta"].shape != self._beta.shape:
            raise ValueError(f"calibration state must be {list(self._beta.shape)}; got {list(state['beta'].shape)}: rebuild the state")
        self._beta, self._curvature = np.array(state["beta"], np.float64), np.array(state["curvature"], np.float64)
        self._bins = np.array(state["bins"], np.float64)
