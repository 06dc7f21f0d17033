"""Weights of the intent models at each probe position: Bayes' posterior over which of them is right, forgetting slowly.

Log loss is mixable: with weights that fall as exp(-sum of losses) the mixture loses hardly more than the best model, on any sequence, with
nothing to tune (Vovk, Aggregating strategies, 1990). The council of quantiles (`models.council`) counts a tick as one round, whatever
was known at it; here every outcome counts as one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.protocol import Float64, State

_FADE = 1 / 20_000
"""Of what was lost, an outcome."""
_SHARED = 0.25
"""What an outcome at one position says about the others."""
_FLOOR = 0.01
"""No model is ever silenced for good."""


class Mixture:
    """Weights by position, head and model."""

    def __init__(self, positions: int, heads: int, models: int) -> None:
        """Starts with equal weights.

        Args:
            positions: probe positions.
            heads: questions.
            models: answers to each.
        """
        self._loss: Float64 = np.zeros((positions, heads, models))
        """Log loss beyond the best model's."""

    def reset(self, model: int) -> None:
        """A model is another from here on: it begins with the best's standing.

        Args:
            model: its place.
        """
        self._loss[:, :, model] = np.delete(self._loss, model, axis=2).min(axis=2)
        self._loss -= self._loss.min(axis=2, keepdims=True)

    def update(self, losses: Float64, outcomes: Float64) -> None:
        """Takes what the models lost.

        Args:
            losses: float64[positions, heads, models], sums over outcomes.
            outcomes: float64[positions, heads], how many.
        """
        self._loss = self._loss * ((1 - _FADE) ** outcomes)[:, :, None] + losses
        self._loss -= self._loss.min(axis=2, keepdims=True)

    def weights(self) -> Float64:
        """float64[positions, heads, models], adding up to one over the models."""
        total = np.zeros(self._loss.shape[1:])
        for position in self._loss:  # one after the other: a sum may round by shape
            total = total + position
        lost = self._loss * (1 - _SHARED) + total * _SHARED
        powers = np.exp(-np.minimum(lost - lost.min(axis=2, keepdims=True), 700.0))
        share = powers / powers.sum(axis=2, keepdims=True)
        return np.asarray(share * (1 - _FLOOR) + _FLOOR / share.shape[2], dtype=np.float64)

    def state(self) -> State:
        """Everything that decides later weights."""
        return {"loss": self._loss.copy()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what state() gave."""
        if state["loss"].shape != self._loss.shape:
            raise ValueError(
                f"state of the intent models' weights must be {list(self._loss.shape)}; got {list(state['loss'].shape)}: rebuild the state"
            )
        self._loss = np.array(state["loss"], np.float64)
