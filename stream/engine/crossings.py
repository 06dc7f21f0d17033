"""How often items cross a level of unlikeliness by chance, counted over all items, and the level that they cross as seldom as is wanted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream.engine.columns import Floats, Ints

_STEP = 0.25
_LEVELS = 20
"""Levels at 0.25, 0.5, … 5 of -log10(p)."""
_NEAR, _FAR = 1.75, 3.0
"""Between these the tail's slope is read: often enough crossed by chance, too often for spikes to matter."""
_PRIOR = 30_000.0
"""Items and buckets that are taken to have been counted before the first, crossing each level as often as its probability says."""


class Crossings:
    """The counts of one direction.

    Args:
        memory: buckets after which all but a third is forgotten.
    """

    def __init__(self, memory: int) -> None:
        self.keep = 1 - 1 / memory
        self.steps = _STEP * np.arange(1, _LEVELS + 1)
        self.counts: NDArray[np.float64] = np.asarray(_PRIOR * 10.0**-self.steps, dtype=np.float64)
        """float64[levels], crossings, decayed."""
        self.seen = _PRIOR
        """Items and buckets, decayed."""

    def learn(self, before: Floats, now: Floats, seen: int) -> None:
        """Takes a bucket.

        Args:
            before: float[n], -log10 of how unlikely things had been one bucket earlier.
            now: float64[n], and are now.
            seen: items that could have crossed.
        """
        rises = np.flatnonzero(now > before)
        self.counts *= self.keep
        self.seen = self.seen * self.keep + seen
        self.counts += _reached(now[rises]) - _reached(before[rises])

    def _line(self) -> tuple[float, float]:
        """(logarithm of the rate at level 0, its slope), of the tail."""
        rates = np.log10(np.maximum(self.counts, 1e-9) / self.seen)
        near, far = round(_NEAR / _STEP) - 1, round(_FAR / _STEP) - 1
        slope = min(float(rates[far] - rates[near]) / (_FAR - _NEAR), -0.2)
        return float(rates[far]) - slope * _FAR, slope

    def level(self, chance: float) -> float:
        """The level that an item crosses with this chance in a bucket.

        Args:
            chance: in (0, 1).
        """
        start, slope = self._line()
        return max(float(np.log10(chance) - start) / slope, 1.0)

    def chance(self, level: Floats) -> Floats:
        """The chance of an item to cross a level in a bucket: float64[n].

        Args:
            level: float64[n].
        """
        start, slope = self._line()
        return np.asarray(10.0 ** np.minimum(start + slope * level, 0.0))

    def state(self) -> NDArray[np.float64]:
        """Everything."""
        return np.append(self.counts, self.seen)

    def restore(self, state: NDArray[np.float64]) -> None:
        """What state() gave."""
        self.counts, self.seen = np.array(state[:-1], dtype=np.float64), float(state[-1])


def _reached(values: Floats) -> NDArray[np.float64]:
    """float64[levels], how many values reach each level."""
    place: Ints = np.clip(np.floor(np.asarray(values, np.float64) / _STEP).astype(np.int64), 0, _LEVELS)
    return np.asarray(np.bincount(place, minlength=_LEVELS + 1)[::-1].cumsum()[::-1][1:], dtype=np.float64)
