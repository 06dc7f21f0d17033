"""How many order lines an item should have had in a bucket, had nothing happened to it; and how wrong that may be.

An item's own forecast follows a spike within a bucket or two, so a spike cannot be told by it alone. What is expected here is an item's level,
which is learnt slowly and only from ordinary buckets, times the shape of the day that the forecasts of its category have together, put right
within bounds by what its category really sold: no single item can bend that. Levels are of order lines: a bulk order of one customer is one line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.engine.columns import Bools, Floats, Ints

CLASSES = 24
"""Classes of items by octaves of expected lines."""
_LOWEST_OCTAVE = -10
_GROUP = 30
"""Items of a category below which it goes with all others."""
_COMMON, _LEAST_COMMON, _MOST_COMMON = 3.0, 0.2, 1.6
"""A whole category off its forecasts is news about its items from so many standard deviations on (of log sold over expected), within bounds."""
_ROUNDS = 2
_COMMON_PRIOR = 30.0
"""Lines of the shop that go into a category's ratio."""
_MOST_SHARE = 0.05
"""Of a group's sum that one item may have."""
_PRIOR = 0.5
"""Lines that an item is taken to have sold before anything is known of it: what makes young levels uncertain."""
_YOUNG = 8.0
"""Ordinary buckets before which an item says nothing of others."""
_PRICE_GAIN = 1 / 24
_RELEARN = 0.25
"""How quickly a level is forgotten by how far its price (logarithm) lies from the one it was learnt at."""
_OWN_PRIOR = 10_000.0
"""Squared expected lines after which an item's own dispersion counts half."""
_MOST_DISPERSION = 4.0
_CLIP = 3.0
"""Standard deviations beyond which a bucket teaches no more."""

_ARRAYS = (("sold", np.float64), ("shown", np.float64), ("excess", np.float32), ("square", np.float32), ("price", np.float32))


@dataclass(frozen=True, slots=True)
class Expected:
    """Of n items in one bucket."""

    mean: Floats
    """float64[n], order lines, stock and all counted as usual."""
    dispersion: Floats
    """float64[n], relative variance of what the mean itself may be off by."""
    shape: Floats
    """float64[n], the bucket's part of the mean: level times shape."""
    off: Floats
    """float64[groups], logarithm of what each category sold over what was expected of it."""
    kind: Ints
    """int64[n], class by mean."""
    units: Floats
    """float64[n], units a line by which forecasts are turned to lines."""


class Baseline:
    """Levels and dispersions of all slots, for one bucket size.

    Args:
        memory: buckets after which a level has forgotten all but a third.
    """

    def __init__(self, memory: int) -> None:
        self.keep = 1 - 1 / memory
        self.sold: NDArray[np.float64] = np.zeros(0)
        """float64[capacity], order lines, decayed."""
        self.shown: NDArray[np.float64] = np.zeros(0)
        """float64[capacity], shapes of the same buckets, decayed."""
        self.excess: NDArray[np.float32] = np.zeros(0, np.float32)
        self.square: NDArray[np.float32] = np.zeros(0, np.float32)
        self.price: NDArray[np.float32] = np.zeros(0, np.float32)
        """float32[capacity], logarithm of the price that the level was learnt at; NaN before any."""
        self.classes: NDArray[np.float64] = np.zeros((2, CLASSES))
        """Excess over Poisson's variance and squared means, by class, decayed."""
        self.common: NDArray[np.float64] = np.array([5.0, 5.0])
        """Squared logarithms of what categories sold over what was expected of them, and how many, decayed."""
        self.ratio: NDArray[np.float64] = np.zeros(2)
        """Order lines, and the units that forecasts had expected, of all items, decayed."""

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity)."""
        for name, kind in _ARRAYS:
            grown = np.full(capacity, np.nan if name == "price" else 0, kind)
            old = getattr(self, name)
            grown[: len(old)] = old
            setattr(self, name, grown)

    def forget(self, slots: Ints) -> None:
        """These slots are anybody's again."""
        for name, _ in _ARRAYS:
            getattr(self, name)[slots] = np.nan if name == "price" else 0

    def expect(self, slots: Ints, lines: Floats, forecast: Floats, group: Ints, ordinary: Bools) -> Expected:
        """What a bucket should have had.

        Args:
            slots: int64[n], ascending.
            lines: float64[n], what it had.
            forecast: float64[n], units by the forecast of one bucket ago; NaN where there was none.
            group: int64[n], a number of the item's category.
            ordinary: bool[n], nothing is known to be going on: only these shape their group.
        """
        sold, shown = self.sold[slots], self.shown[slots]
        level = (sold + _PRIOR * 0.1) / (shown + 0.1)
        known = ordinary & (shown >= _YOUNG) & np.isfinite(forecast)
        a_unit = max(float(self.ratio[0] / self.ratio[1]), 1e-6) if self.ratio[1] > 0 else 1.0
        shape = _shape(np.where(known, np.nan_to_num(forecast) * a_unit, 0.0), np.where(known, level, 0.0), group)
        mean = np.maximum(level * shape, 1e-6)
        kind = np.clip(np.floor(np.log2(mean)).astype(np.int64) - _LOWEST_OCTAVE, 0, CLASSES - 1)
        total = self.classes.sum(axis=1)
        every = (total[0] + 5.0) / (total[1] + 100.0)  # 5 % until there is something to go by
        common = (self.classes[0] + 500.0 * every) / (self.classes[1] + 500.0)
        common = np.clip(common, 0.002, _MOST_DISPERSION)[kind]
        own = (self.excess[slots] + _OWN_PRIOR * common) / (self.square[slots] + _OWN_PRIOR)
        dispersion = np.maximum(common, np.minimum(own, _MOST_DISPERSION)) + 1 / (sold + _PRIOR)
        counted = np.where(known, mean, 0.0)
        weight = _weights(counted, group)
        sold_by, meant_by = lines * weight, counted * weight
        off, alone = _off(np.where(known, sold_by, 0.0), meant_by, group)
        for _ in range(_ROUNDS):  # What one item sells out of the ordinary says little of its category.
            about = mean * np.exp(off)[group]
            far = 3 * np.sqrt(about + dispersion * about * about)
            sold_by = weight * np.clip(lines, about - far, about + far + 1)
            off, alone = _off(np.where(known, sold_by, 0.0), meant_by, group)
        bound = np.clip(_COMMON * np.sqrt(self.common[0] / self.common[1]), _LEAST_COMMON, _MOST_COMMON)
        factor = np.exp(np.clip(alone, -bound, bound))
        mean, shape = mean * factor, shape * factor
        return Expected(mean, dispersion, shape, off, kind, np.full(len(slots), 1 / a_unit))

    def learn(
        self, slots: Ints, lines: Floats, forecast: Floats, expected: Expected, stocked: Floats, taught: Bools, price: Floats
    ) -> None:
        """Takes a bucket.

        Args:
            slots: int64[n].
            lines: float64[n], order lines.
            forecast: float64[n], as for expect().
            expected: what expect() gave.
            stocked: float64[n], share of the bucket with stock.
            taught: bool[n], nothing is going on, known or found.
            price: float64[n], logarithm of the price; NaN where nobody has told one.
        """
        mean = expected.mean * stocked
        spread = np.sqrt(mean + expected.dispersion * mean * mean)
        young = self.shown[slots] < _YOUNG
        bounded = np.where(young, lines, np.clip(lines, mean - _CLIP * spread, mean + _CLIP * spread + 1))
        at = slots[taught]
        held = self.price[at].astype(np.float64)
        moved = np.where(np.isfinite(held) & np.isfinite(price[taught]), np.abs(price[taught] - held), 0.0)
        keep = self.keep * np.exp(-_RELEARN * np.minimum(moved, 2.0))
        self.sold[at] = self.sold[at] * keep + bounded[taught]
        self.shown[at] = self.shown[at] * keep + (expected.shape * stocked)[taught]
        told = np.where(np.isfinite(held), held + _PRICE_GAIN * np.nan_to_num(price[taught] - held), price[taught])
        self.price[at] = told.astype(np.float32)
        good = taught & ~young & (stocked > 0)
        off = bounded - mean
        excess, square = off * off - mean, mean * mean
        at = slots[good]
        self.excess[at] = (self.excess[at] * self.keep + excess[good]).astype(np.float32)
        self.square[at] = (self.square[at] * self.keep + square[good]).astype(np.float32)
        self.classes *= self.keep
        self.classes[0] += np.bincount(expected.kind[good], excess[good], CLASSES)
        self.classes[1] += np.bincount(expected.kind[good], square[good], CLASSES)
        self.common = self.common * self.keep
        if len(expected.off):
            self.common += np.square(np.clip(expected.off, -_MOST_COMMON, _MOST_COMMON)).mean(), 1.0
        known = taught & np.isfinite(forecast)
        self.ratio *= self.keep
        self.ratio += bounded[known].sum(), (np.nan_to_num(forecast) * stocked)[known].sum()

    def adopt(self, slots: Ints, lines: Floats, expected: Floats) -> None:
        """What went on for so long is the new level.

        Args:
            slots: int64[n].
            lines: float64[n], sold since it began.
            expected: float64[n], expected since.
        """
        factor = np.clip(lines / np.maximum(expected, 1e-6), 0.01, 100.0)
        self.sold[slots] *= 0.1 * factor
        self.shown[slots] *= 0.1

    def state(self, copy: bool) -> dict[str, NDArray[np.generic]]:
        """Everything, by name."""
        names = [name for name, _ in _ARRAYS] + ["classes", "common", "ratio"]
        return {name: getattr(self, name).copy() if copy else getattr(self, name) for name in names}

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """What state() gave."""
        for name, kind in (*_ARRAYS, ("classes", np.float64), ("common", np.float64), ("ratio", np.float64)):
            setattr(self, name, np.array(state[name], dtype=kind))


def _off(lines: Floats, mean: Floats, group: Ints) -> tuple[Floats, Floats]:
    """Logarithm of what items sold over what was expected of them, by group, and for each item that of the others of its group:
    (float64[groups], float64[n]); towards all items' where a group is small.

    Args:
        lines: float64[n]; 0 where it does not count.
        mean: float64[n], expected; 0 where it does not count.
        group: int64[n].
    """
    sold, meant = np.bincount(group, lines), np.bincount(group, mean)
    every = (sold.sum() + 1) / (meant.sum() + 1)
    others = np.maximum(sold[group] - lines, 0) + _COMMON_PRIOR * every
    alone = np.log(others / (np.maximum(meant[group] - mean, 0) + _COMMON_PRIOR))
    return np.log((sold + _COMMON_PRIOR * every) / (meant + _COMMON_PRIOR)), alone


def _weights(size: Floats, group: Ints) -> Floats:
    """float64[n], at most 1: what makes no item more than a small share of its group.

    Args:
        size: float64[n]; 0 where it does not count.
        group: int64[n].
    """
    items, total = np.bincount(group, size > 0), np.bincount(group, size)
    room = np.maximum(_MOST_SHARE, 1 / np.maximum(items, 1)) * total
    return np.asarray(np.minimum(1.0, room[group] / np.maximum(size, 1e-300)), dtype=np.float64)


def _shape(forecast: Floats, level: Floats, group: Ints) -> Floats:
    """float64[n], forecasts over levels, pooled by group: of all items where a group is small, 1 where nothing is known at all.

    Args:
        forecast: float64[n], lines; 0 where it does not count.
        level: float64[n]; 0 where it does not count.
        group: int64[n].
    """
    groups = int(group.max()) + 1 if len(group) else 0
    counted = level > 0
    items = np.bincount(group, counted, groups)
    weight = _weights(level, group)
    top, bottom = np.bincount(group, weight * forecast, groups), np.bincount(group, weight * level, groups)
    every = top.sum() / bottom.sum() if bottom.sum() > 0 else 1.0
    small = (items < _GROUP) | (bottom <= 0)
    by_group = np.where(small, every, top / np.maximum(bottom, 1e-300))
    return np.asarray(np.maximum(by_group, 1e-3)[group], dtype=np.float64)
