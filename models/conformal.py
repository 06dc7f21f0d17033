"""Calibration of quantiles: by how much each published quantile has to move so that it keeps its level, learnt online.

One tracker for each horizon group, class and level. It follows the level's own quantile of log((y + 1) / (x + 1)), where x is what the
council said: adding it makes x the quantile that it claims to be (adaptive conformal inference by quantile tracking: Gibbs and Candès
2021; Angelopoulos, Candès, Tibshirani 2023). What waits is kept as the council said it, before calibration, so that the tracker is compared with
today's correction and a long horizon brings delay but no swinging.

A level's correction is the median's, for all of them, and its own beside that, in proportion to how wide the forecast says that it is: what was
learnt of wide forecasts holds for narrow ones, those of a network that has been trained on twice as much, say.

Counts: x is the real number whose ceiling is the quantile, y is spread evenly over (y - 1, y]. The level p is then kept exactly when
share(y < q) <= p <= share(y <= q), and there is no clipping at zero to stand still for: x + 1 is always positive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special as sp
from numpy.typing import NDArray

from models.exact import pooled
from models.protocol import Float32, Float64, Ints, State

_GAIN = 0.015
_FIRST_GAIN = 0.3
_FIRST_TICKS = 4.0
"""Beginnings, and new experts, are learnt quickly: the gain falls from the first to the steady one as 1 / (1 + ticks / this)."""
_EXPECTED = 3.0
"""A tick in which so many items are expected beyond a level (on its rarer side) moves its tracker half as far as one with very many."""
_WIDE = 0.5
"""Standard deviation, on the trackers' scale, from which on forecasts move them by whole gains; a tracker of narrower ones moves by as much less."""
_LEAST_WIDE = 0.01
_LEAST_SHARE = 0.25
"""Of the width before corrections, what the width with them counts at least."""
_LEAP = 0.03
"""A step longer than this is looked at: it ends where those that were missed lie, on average. Far levels come back from beyond by a twentieth of what
brought them there."""
_WIDEST = 1.5
_FLATTEST = 0.2
"""Of the normal density that the gains are divided by: beyond it a level is so rare that its tracker would leap."""
_UNKNOWN_WIDTH, _WIDTH_TICKS = 1.0, 20.0
"""Mean width of forecasts where nobody knows it, and the ticks over which it is taken."""
_MOST_WIDE = np.float32(5)
_NOTHING = np.float32(1e-6)
_MEMORY = 0.97
_BORROWED = 300.0
"""Scored items that the correction of all classes together is worth to one."""


@dataclass(frozen=True, slots=True)
class Corrections:
    """Of quantiles, as they are known now."""

    place: Float32
    """float32[groups, classes], logarithms: by how much all levels move."""
    spread: Float32
    """float32[groups, classes, levels]: by how much of a forecast's width each moves beside that; the median not at all."""

    def factors(self, group: int, classes: Ints, wide: Float32) -> Float32:
        """float32[m, levels], to multiply x + 1 (x of kilograms) with.

        Args:
            group: horizon group.
            classes: int64[m].
            wide: float32[m], see width().
        """
        exponent = self.place[group][classes][:, None] + self.spread[group][classes] * wide[:, None]
        return np.asarray(np.exp(np.ascontiguousarray(exponent, dtype=np.float32)), dtype=np.float32)


class Conformal:
    """Corrections of quantiles, on the scale of log(x + 1); log(x) for kilograms."""

    def __init__(self, groups: int, classes: int, levels: Sequence[float]) -> None:
        """Starts without corrections.

        Args:
            groups: horizon groups.
            classes: item classes.
            levels: ascending.
        """
        self.levels = np.array(levels)
        self.classes = classes
        shape = (groups, classes + 1, len(levels))  # the last class is all of them
        self._shift: Float64 = np.zeros(shape)
        self._items: Float64 = np.zeros((groups, classes + 1))
        self._ticks: Float64 = np.zeros((groups, classes + 1))
        self._wide: Float64 = np.zeros((groups, classes + 1))
        """How wide the forecasts were that corrections were learnt of; 0 where nobody knows."""
        # Of what was published: for metrics.
        self._below: Float64 = np.zeros(shape)
        self._within: Float64 = np.zeros(shape)
        self._scored: Float64 = np.zeros((groups, classes + 1))
        self._ends = int(np.argmin(np.abs(self.levels - 0.1))), int(np.argmin(np.abs(self.levels - 0.9)))
        """Places of the levels whose distance tells how wide a forecast is."""
        self._middle = int(np.argmin(np.abs(self.levels - 0.5)))
        self._slope = np.maximum(np.exp(-(sp.ndtri(self.levels) ** 2) / 2) / np.sqrt(2 * np.pi), _FLATTEST)

    def corrections(self) -> Corrections:
        """Those of classes, already mixed with what is borrowed from all."""
        items = self._items[:, :-1, None]
        own = self._relative()
        return self._told((items * own[:, :-1] + _BORROWED * own[:, -1:]) / (items + _BORROWED))

    def _told(self, relative: Float64) -> Corrections:
        """The corrections that stand in an array of _relative()'s kind, of any groups and classes."""
        place, spread = relative[:, :, self._middle].astype(np.float32), relative.astype(np.float32)
        spread[:, :, self._middle] = 0
        return Corrections(place, spread)

    def _relative(self) -> Float64:
        """float64[groups, classes + 1, levels]: the median's correction, those of the others beside it, in widths."""
        middle = self._shift[:, :, self._middle, None]
        own = (self._shift - middle) / np.where(self._wide > 0, self._wide, _UNKNOWN_WIDTH)[:, :, None]
        own[:, :, self._middle] = middle[:, :, 0]
        return own

    def width(self, said: Float32, whole: NDArray[np.bool_]) -> Float32:
        """float32[m], how wide forecasts are: the logarithm of the ratio of their .9 to their .1 quantile, or of the levels nearest to those.

        Args:
            said: float32[levels, m], x of each level before calibration.
            whole: bool[m].
        """
        unit = np.where(whole, np.float32(1), np.float32(0))
        low, high = (np.maximum(np.ascontiguousarray(said[place] + unit), _NOTHING) for place in self._ends)
        return np.asarray(np.clip(np.log(high / low), np.float32(0), _MOST_WIDE), dtype=np.float32)

    def renew(self, new: Float64) -> None:
        """The forecasts are others from here on: what was learnt is a beginning, and moves quickly again.

        Args:
            new: float64[groups], how much of what is said comes from experts that were silent until now; so much of what was learnt is void.
        """
        self._ticks[:] = 0
        self._shift *= 1 - new[:, None, None]

    def update(self, group: int, classes: Ints, said: Float32, y: Float32, whole: NDArray[np.bool_]) -> None:
        """Takes what became of forecasts at a tick.

        Args:
            group: horizon group.
            classes: int64[m].
            said: float32[levels, m], x of each level before calibration.
            y: float32[m].
            whole: bool[m].
        """
        wide = self.width(said, whole)
        both = np.concatenate([classes, np.full(len(classes), self.classes, dtype=np.int64)])
        count = np.bincount(both, minlength=self.classes + 1).astype(np.float64)
        scored = count > 0
        n = np.maximum(count, 1.0)
        self._seen(group, pooled(both, np.concatenate([wide, wide]), self.classes + 1) / n, scored)
        factor = self.corrections().factors(group, classes, wide)  # [m, levels]
        # By the class's own correction, then by that of all.
        alone = self._told(self._relative())
        own_factor = [alone.factors(group, part, wide) for part in (classes, both[len(classes) :])]
        steady = _GAIN + (_FIRST_GAIN - _GAIN) / (1.0 + self._ticks[group] / _FIRST_TICKS)
        steady = steady * self._width(wide, own_factor[0], both, n)
        self._scored[group] = self._scored[group] * np.where(scored, _MEMORY, 1.0) + count
        for level, p in enumerate(self.levels):
            published = corrected(said[level], factor[:, level], whole)
            tracked = [corrected(said[level], f[:, level], whole) for f in own_factor]
            share = pooled(both, np.concatenate([reached(x, y, whole) for x in tracked]), self.classes + 1) / n
            rare = count * min(p, 1 - p)
            step = np.where(scored, steady * rare / (rare + _EXPECTED), 0.0) * (p - share) / self._slope[level]
            if (np.abs(step) > _LEAP).any():
                step = _bounded(step, both, np.concatenate([_off(x, y, whole) for x in tracked]))
            self._shift[group, :, level] = np.clip(self._shift[group, :, level] + step, -_WIDEST, _WIDEST)
            q = rounded(published, whole)
            fade = np.where(scored, _MEMORY, 1.0)
            for kept, hit in ((self._below, y < q), (self._within, y <= q)):
                hits = np.bincount(both, weights=np.concatenate([hit, hit]).astype(np.float64), minlength=self.classes + 1)
                kept[group, :, level] = kept[group, :, level] * fade + hits
        self._items[group] = np.minimum(self._items[group] * _MEMORY + count, 1e6)
        self._ticks[group] += scored

    def _seen(self, group: int, wide: Float64, scored: NDArray[np.bool_]) -> None:
        """Takes how wide forecasts were, on average; corrections stay what they are relative to it."""
        before = self._wide[group]
        known = before > 0
        after = np.where(known, before + (wide - before) / (1.0 + np.minimum(self._ticks[group], _WIDTH_TICKS)), wide)
        after = np.where(scored, np.maximum(after, _LEAST_WIDE), before)
        middle = self._shift[group, :, self._middle, None]
        grown = np.where(known, after / np.where(known, before, 1.0), 1.0)
        self._shift[group] = middle + (self._shift[group] - middle) * grown[:, None]
        self._wide[group] = after

    def _width(self, wide: Float32, factor: Float32, both: Ints, n: Float64) -> Float64:
        """float64[classes + 1], at most 1: how wide forecasts are, with their corrections, beside _WIDE.

        A tracker has to move by shares of what it corrects: by 20 % a tick, the sales of a department that vary by 10 % are never found.
        What is asked is how wide they say that they are, not how far off they were: errors that move a tracker by their size move it to
        another level. Forecasts that corrections turned inside out count by how far: a tracker that took no width for a reason to stand
        still would never come back.
        """
        low, high = self._ends
        z = float(sp.ndtri(self.levels[high]) - sp.ndtri(self.levels[low]))
        if z <= 0:
            return np.ones(self.classes + 1)
        moved = np.abs(wide + np.log(factor[:, high] / factor[:, low]))
        moved = np.clip(np.maximum(moved, _LEAST_SHARE * wide), 0.0, z).astype(np.float64)
        mean = pooled(both, np.concatenate([moved, moved]), self.classes + 1) / n / z
        return np.clip(mean, _LEAST_WIDE, _WIDE) / _WIDE

    def coverage(self) -> dict[str, dict[str, float]]:
        """Per level the recent shares below and at or below, over all groups and classes; no entry before anything was scored."""
        items = float(self._scored[:, -1].sum())
        if items <= 0:
            return {}
        below, within = self._below[:, -1].sum(axis=0) / items, self._within[:, -1].sum(axis=0) / items
        return {
            f"{p:g}": {"below": float(low), "at_or_below": float(high)} for p, low, high in zip(self.levels, below, within, strict=True)
        }

    def state(self) -> State:
        """Everything that decides later corrections."""
        return {
            "shift": self._shift.copy(),
            "items": self._items.copy(),
            "ticks": self._ticks.copy(),
            "wide": self._wide.copy(),
            "below": self._below.copy(),
            "within": self._within.copy(),
            "scored": self._scored.copy(),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what state() gave.

        Raises:
            ValueError: of another configuration.
        """
        if state["shift"].shape != self._shift.shape:
            raise ValueError(f"calibration must be {list(self._shift.shape)}; got {list(state['shift'].shape)}: rebuild the state")
        self._shift, self._items = np.array(state["shift"], np.float64), np.array(state["items"], np.float64)
        self._ticks, self._scored = np.array(state["ticks"], np.float64), np.array(state["scored"], np.float64)
        # Versions up to 5 did not keep how wide forecasts are: the first tick tells.
        self._wide = np.array(state.get("wide", np.zeros(self._ticks.shape)), np.float64)
        self._below, self._within = np.array(state["below"], np.float64), np.array(state["within"], np.float64)


def _off(x: Float32, y: Float32, whole: NDArray[np.bool_]) -> Float64:
    """float64, by how much demand lies above a quantile, on the trackers' scale.

    Args:
        x: float32, with its correction.
        y: float32.
        whole: bool.
    """
    tiny = 1e-6
    told = np.where(whole, x + np.float32(1), x).astype(np.float64)
    came = np.where(whole, y + np.float32(0.5), y).astype(np.float64)
    return np.asarray(np.clip(np.log(np.maximum(came, tiny) / np.maximum(told, tiny)), -_WIDEST, _WIDEST), dtype=np.float64)


def _bounded(step: Float64, both: Ints, off: Float64) -> Float64:
    """float64[classes + 1], steps that end no farther than the mean of those that were missed on their side."""
    reach = []
    for side in (off, -off):
        there = np.maximum(side, 0.0)
        count = np.bincount(both, weights=(side > 0).astype(np.float64), minlength=len(step))
        reach.append(pooled(both, there, len(step)) / np.maximum(count, 1.0))
    return np.asarray(np.clip(step, -reach[1], reach[0]), dtype=np.float64)


def corrected(x: Float32, factor: Float32, whole: NDArray[np.bool_]) -> Float32:
    """float32, x with its correction.

    Args:
        x: float32, at least -1.
        factor: float32, see Corrections.factors, broadcast against x.
        whole: bool, broadcast against x.
    """
    return np.asarray(np.where(whole, (x + np.float32(1)) * factor - np.float32(1), x * factor), dtype=np.float32)


def rounded(x: Float32, whole: NDArray[np.bool_]) -> Float32:
    """float32, quantiles as they are published: whole where demand is, not negative.

    Args:
        x: float32.
        whole: bool.
    """
    return np.asarray(np.maximum(np.where(whole, np.ceil(x - np.float32(1e-4)), x), np.float32(0)), dtype=np.float32)


def reached(x: Float32, y: Float32, whole: NDArray[np.bool_]) -> Float32:
    """float32, the probability that demand, spread over (y - 1, y] where it is whole, lies below x: between 0 and 1 only where y = ceil(x).

    Args:
        x: float32.
        y: float32.
        whole: bool.
    """
    return np.asarray(np.where(whole, np.clip(x - y + np.float32(1), 0, 1), y < x), dtype=np.float32)
