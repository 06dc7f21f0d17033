"""Demand spikes, first version: the tail of the forecast that was made one bucket ago.

An item's spike opens when so much demand had at most the warning probability, escalates at the critical one, and is
resolved when demand is ordinary again.
"""

from __future__ import annotations

import numpy as np

from stream.engine.columns import Floats, Ints

WARNING, CRITICAL, ORDINARY = 1e-4, 1e-7, 0.05
_QUIET, _WARNED, _CRITICAL = 0, 1, 2


class SpikeDetector:
    """Which items are in a spike, for one bucket size."""

    def __init__(self) -> None:
        self.level = np.zeros(0, np.int8)

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity)."""
        grown = np.zeros(capacity, np.int8)
        grown[: len(self.level)] = self.level
        self.level = grown

    def forget(self, slots: Ints) -> None:
        """Makes these slots quiet."""
        self.level[slots] = _QUIET

    def judge(self, slots: Ints, p_value: Floats) -> tuple[Ints, list[str], list[str]]:
        """What changes with this bucket.

        Args:
            slots: int64[n], all live items.
            p_value: float64[n], probability of at least the observed demand; 1 where nothing was forecast.

        Returns:
            Places in slots that publish, their severities and their states.
        """
        level = self.level[slots]
        reached = np.where(p_value <= CRITICAL, _CRITICAL, np.where(p_value <= WARNING, _WARNED, _QUIET)).astype(np.int8)
        over = (level > _QUIET) & (p_value > ORDINARY)
        rises = reached > level
        self.level[slots] = np.where(over, _QUIET, np.maximum(level, reached))
        places = np.flatnonzero(over | rises)
        peak = np.maximum(level, reached)[places]
        return (
            places,
            ["critical" if value == _CRITICAL else "warning" for value in peak.tolist()],
            ["resolved" if done else "open" for done in over[places].tolist()],
        )
