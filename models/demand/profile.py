"""Seasonal profiles pooled by velocity class: how a bucket of a season compares with an item's level, longer seasons shrunk to shorter ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.demand.window import CLASSES, Window
from models.exact import pooled
from models.protocol import Float32, Float64, Ints, State

_MEMORY = 0.9  # a season
_SHRINKAGE = 2.0
_LARGEST = 50.0  # times the level


class Profile:
    """Factors on an item's level, by season, class and phase."""

    def __init__(self, seasons: tuple[int, ...]) -> None:
        """Starts flat.

        Args:
            seasons: lengths in buckets, possibly none.
        """
        self.seasons = sorted(set(seasons))
        # Per season and class and phase: sums of units and of level, both relative to the level.
        self._sums: dict[int, Float64] = {season: np.zeros((2, CLASSES, season)) for season in self.seasons}

    def learn(self, window: Window, units: Float32, level: Float32, group: Ints, known: NDArray[np.bool_]) -> None:
        """Takes the newest closed bucket.

        Args:
            window: of all live items.
            units: float32[n], what the bucket teaches.
            level: float32[n], before the bucket.
            group: int64[n], class by that level.
            known: bool[n], items whose level is worth comparing with.
        """
        if not known.any():
            return
        size = level[known].astype(np.float64) + 0.1
        told = pooled(group[known], np.minimum(units[known] / size, _LARGEST), CLASSES)
        worth = pooled(group[known], level[known] / size, CLASSES)
        for season, sums in self._sums.items():
            phase = window.closed % season
            sums[:, :, phase] *= _MEMORY
            sums[0, :, phase] += told
            sums[1, :, phase] += worth

    def factors(self, bucket: int, count: int) -> Float32:
        """float32[classes, count], factors of the buckets from `bucket` on.

        Args:
            bucket: the first one's number.
            count: how many.
        """
        phases: Ints = np.arange(bucket, bucket + count)
        out = np.ones((CLASSES, count))
        for season in self.seasons:
            part = self._sums[season][:, :, phases % season]
            out = (part[0] + _SHRINKAGE * out) / (part[1] + _SHRINKAGE)
        return out.astype(np.float32)

    def overall(self) -> Float64:
        """float64[shortest season], factors of its phases over all classes; [1] without seasons."""
        if not self.seasons:
            return np.ones(1)
        sums = self._sums[self.seasons[0]].cumsum(axis=1)[:, -1]
        return np.asarray((sums[0] + _SHRINKAGE) / (sums[1] + _SHRINKAGE), dtype=np.float64)

    def state(self) -> State:
        """The sums."""
        return {f"profile.{season}": sums.copy() for season, sums in self._sums.items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what state() gave."""
        self._sums = {season: np.array(state[f"profile.{season}"], dtype=np.float64) for season in self.seasons}
