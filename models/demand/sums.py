"""Quantiles of sums over lead times: per-step quantiles do not add up (the sum of 14 daily medians is under half of demand).

A sum is a count distribution around the sum of the means. Its dispersion relative to one step's is learnt from sums that have passed, per lead time
and class, and so is the correction of each of its quantiles (see models.conformal).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.conformal import Conformal, corrected
from models.counts import MAX_DISPERSION, counts, finish
from models.demand.pending import Due
from models.demand.window import Window
from models.exact import pooled, put, take
from models.protocol import DemandSpec, Float32, Float64, Ints, State

_MEMORY = 0.99


class Sums:
    """Sums of the next buckets, for one bucket size."""

    def __init__(self, spec: DemandSpec, classes: int) -> None:
        """Nothing has passed yet.

        Args:
            spec: with its totals.
            classes: item classes.
        """
        self.spec, self.classes = spec, classes
        self._spread: Float64 = np.zeros((len(spec.totals), 2, classes))
        self._conformal = Conformal(len(spec.totals), classes, spec.levels)
        self._counts = counts(spec.levels)

    def forecast(
        self, index: int, steps: int, mean: Float32, spread: Float32, classes: Ints, whole: NDArray[np.bool_]
    ) -> tuple[Float32, Float32]:
        """The sum's mean, float32[n], and its quantiles, float32[n, levels].

        Args:
            index: of the lead time.
            steps: the lead time.
            mean: float32[n, horizon].
            spread: float32[n], dispersion of one step.
            classes: int64[n].
            whole: bool[n].
        """
        total = mean[:, 0].copy()
        for step in range(1, steps):
            total += mean[:, step]
        raw = self._raw(index, total, spread, classes, whole)
        factor = self._conformal.corrections().factors(index, classes, self._conformal.width(raw.T, whole))  # [n, levels]
        final = corrected(raw, factor, whole[:, None])
        return total, finish(np.ascontiguousarray(final[:, None]), whole)[:, :, 0]

    def score(self, index: int, steps: int, window: Window, due: Due) -> None:
        """Takes what became of a sum.

        Args:
            index: of the lead time.
            steps: the lead time.
            window: of all live items, at the newest closed bucket.
            due: the sums that end with it.
        """
        cut = np.zeros(len(window), np.bool_)
        buckets = range(window.closed - steps + 1, window.closed + 1)
        for bucket in buckets:
            cut |= window.censored(bucket) > 0
        due = due.without(cut[due.rows]) if cut.any() else due
        if not len(due.rows):
            return
        y = np.zeros(len(due.rows))
        for bucket in buckets:
            y += window.row(bucket)[due.rows]
        mean, whole = due.values[0].astype(np.float64), window.whole[due.rows]
        raw = self._raw(index, due.values[0], due.spread, due.classes, whole)
        self._conformal.update(index, due.classes, np.ascontiguousarray(raw.T), y.astype(np.float32), whole)
        size = np.where(whole, 1.0 + mean, mean + 0.2 * y + 1e-9)
        excess = np.minimum(((y - mean) / size) ** 2, 50.0) - np.where(whole, mean, 0.0) / (size * size)
        self._spread[index] *= _MEMORY
        self._spread[index, 0] += pooled(due.classes, excess, self.classes)
        self._spread[index, 1] += pooled(due.classes, due.spread * (mean / size) ** 2, self.classes)

    def _raw(self, index: int, total: Float32, spread: Float32, classes: Ints, whole: NDArray[np.bool_]) -> Float32:
        narrow = np.minimum(spread * self._factor(index)[classes], np.float32(MAX_DISPERSION))
        one = np.ones((1, len(total)), np.float32)
        return self._counts.mix(total[None].astype(np.float32), narrow[None].astype(np.float32), one, whole)

    def _factor(self, index: int) -> Float32:
        """float32[classes], dispersion of a sum relative to one step's: 1/sqrt(steps) until sums have been seen."""
        prior = 1 / np.sqrt(self.spec.totals[index])
        excess, predicted = self._spread[index]
        return np.asarray(np.clip((excess + 3 * prior) / (predicted + 3), 0.02, 8.0), dtype=np.float32)

    def state(self) -> State:
        """Everything that decides later sums."""
        return {"spread": self._spread.copy()} | put("conformal.", self._conformal.state())

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what state() gave."""
        self._spread = np.array(state["spread"], np.float64)
        self._conformal.restore(take(state, "conformal."))
