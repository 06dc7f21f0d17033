"""What the sessions live now tell of the next hours: expected purchases turned into units, and how much of them to believe.

The level of expected purchases at a bucket's end (the panel's past column `expected`) times the units that an item has sold per expected
purchase says what it would sell in the next bucket if the shop went on as it is. A forecast moves towards that by a share: the closed-form slope
of what was sold beyond the forecast on what the level said beyond it, shrunk to none, pooled over the partition for each horizon group. Half an
hour of clicks sees a rise before its orders are many, and says nothing of tomorrow: from the last group that is near enough the share falls in a
straight line to nothing.

The share counts only so far as it has helped: its gain in likelihood, tick by tick and before each was learnt from, must stand out of noise.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.conformal import corrected
from models.demand.network_experts import mean_of
from models.demand.window import Window
from models.exact import SlotArrays, pooled, products, put, take
from models.protocol import MINUTES, DemandSpec, Float32, Float64, Ints, State

COLUMN = "expected"
_REACH = 240  # minutes; in simulated shops the slope is half after one to two hours and nothing after five
_MEMORY_MINUTES = 8 * 24 * 60  # of what items sell per expected purchase
_BORROWED = np.float32(2)  # expected purchases that the partition's ratio is worth to an item's
_MEMORY = 0.995
_RIDGE = 30.0
_NOISE = 4.0  # a gain of two standard errors is none yet
_DISPERSION = 0.3  # assumed for weights and likelihoods: a busy item's bucket tells no more than so much
_SMALLEST = np.float32(0.01)
_GRID = 2.0**10  # features in sums are multiples of 1/1024, so that BLAS adds them exactly in any order
_NAMES = ("units", "stock")


class Leading:
    """Moves the nearest steps of a partition's forecasts by what its live sessions are expected to buy."""

    def __init__(self, spec: DemandSpec) -> None:
        """Knows nothing, and takes no room before the column is there.

        Args:
            spec: what is forecast.
        """
        self.spec = spec
        minutes = MINUTES[spec.size]
        self._fade = np.float32(1 - minutes / _MEMORY_MINUTES)
        self.reach = min(_REACH // minutes, spec.horizon)
        """Steps that are moved."""
        self._end = _REACH // minutes + 1
        """The step at which nothing is left."""
        self._groups = [group for group, probe in enumerate(spec.probes) if probe <= self.reach]
        self.slots = SlotArrays()
        """Decayed units and levels, of items; arrays only once the column has been seen."""
        groups = len(spec.probes)
        self._ratio: Float64 = np.zeros((2, 2))  # the same, pooled; of fractional, whole items
        self._sums: Float64 = np.zeros((groups, 2))  # of squares, of products
        self._gain: Float64 = np.zeros((groups, 2))  # of ticks' gains, of their squares

    def learns(self, group: int) -> bool:
        """Whether forecasts of a horizon group's probe are near enough to be moved.

        Args:
            group: its number.
        """
        return group in self._groups

    def move(self, window: Window, mixed: Float32) -> None:
        """Moves raw quantiles, in place.

        Args:
            window: the items, at the bucket after which is forecast.
            mixed: float32[n, horizon, levels], of all steps.
        """
        shares = self._shares()
        if not shares.any() or COLUMN not in window.panel.past:
            return
        said = self._said(window, window.closed)
        near = mixed[:, : self.reach]
        mean = mean_of(near, self.spec.levels, window.whole)
        for step, share in enumerate(shares.tolist()):
            if share > 0:
                near[:, step] = _moved(near[:, step], mean[:, step], said, np.float32(share), window.whole)

    def learn(self, group: int, window: Window, rows: Ints, mixed: Float32, y: Float32) -> Float32:
        """Takes what became of a group's probe; what its forecasts would have been by what had been learnt before: float32[levels, m].

        Args:
            group: one that it learns of.
            window: of all live items, at the newest closed bucket.
            rows: int64[m], the window's items that had been forecast.
            mixed: float32[levels, m], their raw quantiles, not moved.
            y: float32[m], units.
        """
        issue = window.closed - self.spec.probes[group]
        if (
            COLUMN not in window.panel.past
            or issue <= window.panel.closed - len(window.panel.past[COLUMN])
            or not len(self.slots.state(False))
        ):
            return mixed
        whole = window.whole[rows]
        raw = np.ascontiguousarray(mixed.T)  # [m, levels]
        mean = mean_of(raw[:, None], self.spec.levels, whole)[:, 0]
        said = self._said(window, issue)[rows]
        moved = _moved(raw, mean, said, np.float32(self._share(group)), whole)
        m = np.maximum(mean, _SMALLEST).astype(np.float64)
        beyond = _bounded(mean, said).astype(np.float64) - m
        sold = np.minimum(y.astype(np.float64), 20.0 * (m + 1))
        self._judge(group, m, np.maximum(m + self._slope(group) * beyond, 0.1 * m), sold)
        root = np.sqrt(1 / (m * (1 + _DISPERSION * m)))
        x = np.rint(beyond * root * _GRID) / _GRID
        target = np.rint((sold - m) * root * _GRID) / _GRID
        told = products(np.stack([x, target], axis=1), x)
        self._sums[group] = self._sums[group] * _MEMORY + told
        return np.ascontiguousarray(moved.T)

    def close(self, window: Window) -> None:
        """Adds the newest closed bucket to what items sell per expected purchase.

        Args:
            window: of all live items, at a bucket that was not shut.
        """
        if self.reach < 1 or COLUMN not in window.panel.past:
            return
        if not self.slots.state(copy=False):
            for name in _NAMES:
                self.slots.add(name, np.float32)
        stocked = window.censored(window.closed) == 0
        for index, values in enumerate((window.row(window.closed), window.past(COLUMN, window.closed))):
            held = self.slots.f32(_NAMES[index])
            before = held[window.slots]
            held[window.slots] = np.where(stocked, before * self._fade + values, before)
            told = pooled(window.whole.astype(np.int64), np.where(stocked, values, np.float32(0)), 2)
            self._ratio[index] = self._ratio[index] * float(self._fade) + told

    def _said(self, window: Window, bucket: int) -> Float32:
        """float32[n], units a bucket by the level at a bucket's end, as what is sold per expected purchase is known now."""
        ratio = self._ratio[0] / np.maximum(self._ratio[1], 1e-6)
        usual = ratio.astype(np.float32)[window.whole.astype(np.int64)]
        units, stock = (self.slots.f32(name)[window.slots] for name in _NAMES)
        level = window.past(COLUMN, bucket)
        return np.asarray(level * ((units + _BORROWED * usual) / (stock + _BORROWED)), dtype=np.float32)

    def _slope(self, group: int) -> float:
        squares, product = self._sums[group].tolist()
        return float(min(max(product / (squares + _RIDGE), 0.0), 1.0))

    def _share(self, group: int) -> float:
        """The slope, less what its gain has of noise."""
        gain, squares = self._gain[group].tolist()
        return self._slope(group) * max(0.0, 1.0 - _NOISE * squares / (gain * gain)) if gain > 0 else 0.0

    def _shares(self) -> Float64:
        """float64[reach]: the groups' own at their probes, straight lines between them, and from the last one down to nothing."""
        if not self._groups:
            return np.zeros(0)
        steps = [*(self.spec.probes[group] for group in self._groups), self._end]
        return np.interp(np.arange(1, self.reach + 1), steps, [*(self._share(group) for group in self._groups), 0.0])

    def _judge(self, group: int, before: Float64, after: Float64, sold: Float64) -> None:
        """The tick's gain in log likelihood of a negative binomial of assumed dispersion, of the whole slope: one spike does not decide it."""
        size = 1 / _DISPERSION
        gains = sold * np.log(after / before) - (sold + size) * np.log((size + after) / (size + before))
        gain = float(pooled(np.zeros(len(gains), np.int64), gains, 1)[0])
        self._gain[group] = self._gain[group] * _MEMORY + (gain, gain * gain)

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity)."""
        self.slots.resize(capacity)

    def forget(self, slots: Ints) -> None:
        """Makes these slots cold."""
        self.slots.forget(slots)

    def state(self, copy: bool = True) -> State:
        """Everything that decides later forecasts; nothing before the column was there."""
        if not self.slots.state(copy=False):
            return {}
        own: State = {"ratio": self._ratio.copy(), "sums": self._sums.copy(), "gain": self._gain.copy()}
        return own | put("slot.", self.slots.state(copy))

    def restore(self, state: Mapping[str, NDArray[np.generic]], capacity: int, copy: bool = True) -> None:
        """Takes what state() gave.

        Args:
            state: possibly empty.
            capacity: slots.
            copy: or take the large arrays themselves.
        """
        self.slots = SlotArrays()
        self.slots.resize(capacity)
        if not state:
            self._ratio, self._sums, self._gain = np.zeros_like(self._ratio), np.zeros_like(self._sums), np.zeros_like(self._gain)
            return
        for name in _NAMES:
            self.slots.add(name, np.float32)
        self.slots.restore(take(state, "slot."), copy)
        self._ratio = np.array(state["ratio"], np.float64)
        self._sums, self._gain = np.array(state["sums"], np.float64), np.array(state["gain"], np.float64)


def _bounded(mean: Float32, said: Float32) -> Float32:
    """Units by the level, at most what a forecast is moved towards: eight times the mean and two more."""
    return np.asarray(np.minimum(said, np.float32(8) * mean + np.float32(2)), dtype=np.float32)


def _moved(raw: Float32, mean: Float32, said: Float32, share: np.float32, whole: NDArray[np.bool_]) -> Float32:
    """float32[n, levels], raw quantiles scaled to the mean that lies by the share between theirs and what the level says."""
    to = mean + share * (_bounded(mean, said) - mean)
    # A count's raw quantiles have the mean less a half: it is spread over (y - 1, y].
    half = np.where(whole, np.float32(0.5), np.float32(1e-6))
    factor = ((to + half) / (mean + half)).astype(np.float32)
    return corrected(raw, factor[:, None], whole[:, None])
