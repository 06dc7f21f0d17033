"""When all demand changes at once and for good: a lockdown, a new market, a shop that doubles overnight.

Experts follow such a change in their own time, and the network not before the windows that it measures items by have filled with it: in weeks of
buckets, after half a year. So the whole partition's demand beside what the mixture expected one step ahead is watched. Where their log ratio
leaves what it has always been for some ticks on end (a cumulative sum of its deviations: Page 1954), every forecast is moved by it, follows it as
experts catch up, and stands by itself again once the mixture is right. Before calibration, which therefore need not learn of it level by level.

For buckets of a day or a week: a rush of some hours is no new level, and experts follow a change of hours within days.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.conformal import corrected
from models.demand.network_experts import mean_of
from models.protocol import DemandSpec, Float32, Float64, State

_SIZES = ("1d", "1w")
_MEMORY = 0.95
"""Of what the ratio has always been, a tick."""
_USUAL, _WORTH = 0.15, 8.0
"""Its standard deviation before anything is known, and the ticks that this is worth."""
_FIRST = 10.0
"""Ticks before which nothing is done."""
_SLACK, _LIMIT = 1.5, 5.0
"""Of the cumulative sum, in standard deviations: what is forgiven a tick, and where it has left."""
_OVER = 0.7
"""Standard deviations from which on down a level is none."""
_LEAST = float(np.log(1.25))
"""A smaller change is left to experts and calibration."""
_FOLLOW = 3.0
"""Ticks over which a change is followed."""
_ENOUGH = 20.0
"""Units that must have been expected of a tick, or it says nothing."""
_GRID, _MOST = 2.0**10, 1e9
_ITEM = np.float32(4)
"""An item counts at most as this many times what was expected of it, and this many more: one bulk order is no change of all demand."""


class Leap:
    """The level by which a partition's forecasts are moved; 0 nearly always."""

    def __init__(self, spec: DemandSpec) -> None:
        """Knows nothing.

        Args:
            spec: what is forecast.
        """
        self.spec = spec
        self.watches = spec.size in _SIZES and spec.probes[0] == 1
        self.level = 0.0
        """Logarithm of what forecasts are multiplied with."""
        self._ticks = self._sum = self._square = 0.0  # of the ratio while nothing had changed, decayed
        self._gone: Float64 = np.zeros(2)  # cumulative sums, upwards and downwards
        self._run: Float64 = np.zeros((2, 2))  # of each: ticks, and their ratios, since it was last nothing
        self._near = self._held = 0.0  # ticks on end in which the mixture was suddenly right; ticks since the change began

    def learn(self, mixed: Float32, y: Float32, whole: NDArray[np.bool_]) -> None:
        """Takes what became of forecasts one step ahead.

        Args:
            mixed: float32[levels, m], raw quantiles as the mixture said them, not moved.
            y: float32[m], units.
            whole: bool[m].
        """
        mean = mean_of(np.ascontiguousarray(mixed.T)[:, None], self.spec.levels, whole)[:, 0]
        expected, sold = _total(mean), _total(np.minimum(y, _ITEM * mean + _ITEM))
        if expected < _ENOUGH:
            return
        ratio = float(np.log((sold + 1.0) / (expected + 1.0)))
        usual, spread = self._usual()
        off = ratio - usual
        if self.level:
            self._follow(off, spread)
        elif not self._left(off, spread):
            off = min(max(off, -3 * spread), 3 * spread)
            self._ticks = self._ticks * _MEMORY + 1
            self._sum = self._sum * _MEMORY + usual + off
            self._square = self._square * _MEMORY + off * off

    def move(self, mixed: Float32, whole: NDArray[np.bool_]) -> Float32:
        """Raw quantiles, moved.

        Args:
            mixed: float32, at least -1.
            whole: bool, broadcast against mixed.
        """
        return corrected(mixed, np.array(np.exp(self.level), np.float32), whole) if self.level else mixed

    def renew(self) -> None:
        """The forecasts are others from here on: what was usual of them is not known."""
        self._ticks = self._sum = self._square = 0.0
        self._forget()

    def _usual(self) -> tuple[float, float]:
        weight = self._ticks + _WORTH
        return self._sum / weight, float(np.sqrt((self._square + _WORTH * _USUAL**2) / weight))

    def _left(self, off: float, spread: float) -> bool:
        """Whether the ratio has left what it always was; from then on there is a level."""
        if self._ticks < _FIRST:
            return False
        for side, sign in enumerate((1.0, -1.0)):
            total = max(0.0, float(self._gone[side]) + sign * off / spread - _SLACK)
            self._gone[side] = total
            self._run[side] = self._run[side] + (1.0, off) if total > 0 else 0.0
            ticks, ratios = self._run[side].tolist()
            if total > _LIMIT and ticks >= 2 and abs(ratios / ticks) > _LEAST:
                self.level, self._held = ratios / ticks, ticks
                return True
        return False

    def _follow(self, off: float, spread: float) -> None:
        # Experts catch up little by little. What is right again all of a sudden was no change for good: it is not followed, but let go of.
        sudden = abs(off) < _SLACK * spread and abs(self.level) > 2 * _SLACK * spread
        self._near = self._near + 1 if sudden else 0.0
        self._held += 1
        self.level += (off - self.level) / min(self._held, _FOLLOW)
        if self._near >= 2 or abs(self.level) < _OVER * spread:
            self._forget()

    def _forget(self) -> None:
        self.level = self._near = self._held = 0.0
        self._gone, self._run = np.zeros(2), np.zeros((2, 2))

    def state(self) -> State:
        """Everything that decides later levels."""
        own = [self.level, self._ticks, self._sum, self._square, *self._gone.tolist(), self._near, self._held]
        return {"own": np.array(own), "run": self._run.copy()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what state() gave.

        Args:
            state: empty from a version that did not know of this.
        """
        if not state:
            self.renew()
            return
        own = np.asarray(state["own"], np.float64).tolist()
        self.level, self._ticks, self._sum, self._square, high, low, self._near, self._held = own
        self._gone = np.array([high, low])
        self._run = np.array(state["run"], np.float64)


def _total(values: Float32) -> float:
    """A sum in fixed point: the same in any order of rows."""
    fixed = np.rint(np.minimum(values.astype(np.float64), _MOST) * _GRID)
    return float(fixed.astype(np.int64).sum()) / _GRID
