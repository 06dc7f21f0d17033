"""Pooled seasonal profiles: how a bucket of a season compares with an item's level, longer seasons shrunk to shorter ones.

Pooled by velocity class, and where items have a category by that too (categories share a bounded number of rows by their hash).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.demand.window import CLASSES, Window
from models.exact import pooled
from models.protocol import Float32, Float64, Ints, State

_MEMORY = 0.9  # a season
_SHRINKAGE = 2.0
_COMMON = 2.0  # seasons: what moves all items at once in one season does not average out over them
_ITEMS = 10.0  # of a category, and of its busy ones, before it is half believed
_LONG = 31  # buckets: the phases of longer seasons also tell of their neighbours
_KERNEL = (1.0, 2 / 3, 1 / 3)  # what a phase, the next ones, the ones after tell
_LARGEST = 50.0  # times the level
CATEGORIES = 64
"""Rows that categories share."""


class Profile:
    """Factors on an item's level, by season, group (a velocity class, unless told otherwise) and phase."""

    def __init__(self, seasons: tuple[int, ...], groups: int = CLASSES) -> None:
        """Starts flat.

        Args:
            seasons: lengths in buckets, possibly none.
            groups: how many groups of items there are.
        """
        self.seasons = sorted(set(seasons))
        self.groups = groups
        # Per season and group and phase: sums of units and of level, both relative to the level.
        self._sums: dict[int, Float64] = {season: np.zeros((2, groups, season)) for season in self.seasons}
        self._seen: dict[int, Float64] = {season: np.zeros(season) for season in self.seasons}  # how many seasons told of a phase

    def learn(self, window: Window, units: Float32, level: Float32, group: Ints, known: NDArray[np.bool_]) -> None:
        """Takes the newest closed bucket.

        Args:
            window: of all live items.
            units: float32[n], what the bucket teaches.
            level: float32[n], before the bucket.
            group: int64[n].
            known: bool[n], items whose level is worth comparing with.
        """
        if not known.any():
            return
        size = level[known].astype(np.float64) + 0.1
        told = pooled(group[known], np.minimum(units[known] / size, _LARGEST), self.groups)
        worth = pooled(group[known], level[known] / size, self.groups)
        for season, sums in self._sums.items():
            phase = window.closed % season
            sums[:, :, phase] *= _MEMORY
            self._seen[season][phase] = self._seen[season][phase] * _MEMORY + 1
            sums[0, :, phase] += told
            sums[1, :, phase] += worth

    def factors(self, bucket: int, count: int) -> Float32:
        """float32[groups, count], factors of the buckets from `bucket` on.

        Args:
            bucket: the first one's number.
            count: how many.
        """
        phases: Ints = np.arange(bucket, bucket + count)
        out = np.ones((self.groups, count))
        for season in self.seasons:
            part = _smooth(self._sums[season])[:, :, phases % season]
            told = (part[0] + _SHRINKAGE * out) / (part[1] + _SHRINKAGE)
            out = out + self._trust(season, phases) * (told - out)
        return out.astype(np.float32)

    def within(self, other: Profile, bucket: int, count: int) -> Float32:
        """float32[groups, other's groups, count], these factors shrunk to those of the other grouping; for items in one group of each.

        Args:
            other: with the same seasons.
            bucket: the first one's number.
            count: how many.
        """
        out = np.repeat(other.factors(bucket, count)[None].astype(np.float64), self.groups, axis=0)
        if self.seasons:
            season = self.seasons[-1]
            phases: Ints = np.arange(bucket, bucket + count)
            part = _smooth(self._sums[season])[:, :, phases % season]
            told = (part[0][:, None] + _ITEMS * out) / (part[1][:, None] + _ITEMS)
            out = out + self._trust(season, phases) * (told - out)
        return out.astype(np.float32)

    def _trust(self, season: int, buckets: Ints) -> Float64:
        seen = _smooth(self._seen[season])[buckets % season]
        return np.asarray(seen / (seen + _COMMON), dtype=np.float64)

    def overall(self) -> Float64:
        """float64[shortest season], factors of its phases over all groups; [1] without seasons."""
        if not self.seasons:
            return np.ones(1)
        season = self.seasons[0]
        sums = self._sums[season].cumsum(axis=1)[:, -1]
        told = (sums[0] + _SHRINKAGE) / (sums[1] + _SHRINKAGE)
        return np.asarray(1 + self._trust(season, np.arange(season)) * (told - 1), dtype=np.float64)

    def state(self) -> State:
        """The sums."""
        sums: State = {f"profile.{season}": sums.copy() for season, sums in self._sums.items()}
        return sums | {f"profile_seen.{season}": seen.copy() for season, seen in self._seen.items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what state() gave."""
        self._sums = {season: np.array(state[f"profile.{season}"], dtype=np.float64) for season in self.seasons}
        self._seen = {season: np.array(state[f"profile_seen.{season}"], dtype=np.float64) for season in self.seasons}


def _smooth(sums: Float64) -> Float64:
    """The same with a long season's phases (the last axis) added to their neighbours', so that a week's chance is not taken for its season."""
    if sums.shape[-1] <= _LONG:
        return sums
    out = sums.copy()
    for distance, share in enumerate(_KERNEL[1:], start=1):
        out += share * (np.roll(sums, distance, axis=-1) + np.roll(sums, -distance, axis=-1))
    return out


def category(window: Window) -> Ints | None:
    """int64[n], the row of each item's category in [0, CATEGORIES): of what the panel calls that, else its brand, else its first static.

    Args:
        window: the items.
    """
    statics = window.panel.statics
    name = next((name for name in ("category", "brand", *sorted(statics)) if name in statics), None)
    return None if name is None else np.asarray(statics[name][window.slots] % CATEGORIES, dtype=np.int64)
