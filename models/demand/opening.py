"""When the shop is shut: learnt from buckets in which nobody bought anything, and told ahead by its weeks and by signals.

A bucket in which the partition's items sold nothing at all, where they usually sell enough to make that no chance, was shut. To come is shut what
the same place of the last weeks was every time, and what carries a signal under which the shop has always been shut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.exact import pooled
from models.protocol import DemandSpec, Float64, Ints, Panel, State

_ENOUGH = 12.0  # order-weighted units that an open bucket must sell for none to be no chance: exp(-12)
_WEEKS = 5
_SURE = 4  # of the last five weeks, all of which must have been shut
_SIGNALS = 3
_MEMORY = 0.95


class Opening:
    """Shut buckets of one bucket size, past and to come."""

    def __init__(self, spec: DemandSpec) -> None:
        """Knows nothing.

        Args:
            spec: what is forecast.
        """
        weeks = [season for season in spec.seasons if season in (7, 24 * 7, 7 * 96)]
        self._week = weeks[0] if weeks else 0
        self.depth = max(_WEEKS * self._week + 1, 64)
        self._horizon = spec.horizon
        self._total: Float64 = np.full(self.depth, np.nan)  # a ring: bucket b in place b % depth
        self._number: Ints = np.full(self.depth, np.iinfo(np.int64).min, dtype=np.int64)
        self._shut: NDArray[np.bool_] = np.zeros(self.depth, dtype=np.bool_)
        self._usual = 0.0

    def learn(self, panel: Panel) -> None:
        """Takes the bucket that has just closed, for all live items.

        Args:
            panel: of all live slots.
        """
        # No item counts for more than a few: one bulk order does not make a busy day of it.
        sold = np.minimum(panel.observed(), 3.0)
        total = float(pooled(np.zeros(len(sold), np.int64), sold, 1)[0])
        place = panel.closed % self.depth
        self._total[place], self._number[place] = total, panel.closed
        self._shut[place] = total == 0 and self._expected(panel.closed) >= _ENOUGH
        if total > 0:
            self._usual = total if self._usual == 0 else self._usual * _MEMORY + total * (1 - _MEMORY)

    def correct(self, panel: Panel) -> None:
        """The newest bucket has changed: something was sold in it after all.

        Args:
            panel: of the corrected slots.
        """
        place = panel.closed % self.depth
        if self._number[place] == panel.closed and panel.observed().any():
            self._total[place] = max(self._total[place], 1.0)
            self._shut[place] = False

    def _expected(self, bucket: int) -> float:
        """Units that the partition would sell in a bucket that is open: as in the same place of the last weeks, or where those say nothing, as
        usual. A quiet hour of the night in which nobody happened to buy is not shut.
        """
        same = [bucket - self._week * turn for turn in range(1, _WEEKS + 1)] if self._week else []
        known = [then % self.depth for then in same if self._number[then % self.depth] == then]
        opened = [float(self._total[place]) for place in known if not self._shut[place]]
        if not opened:
            return self._usual
        return sum(opened) / len(opened)

    def extend(self, panel: Panel) -> Panel:
        """The panel with what is declared and what is learnt together.

        Args:
            panel: any.
        """
        shut = self._past(panel.closed)
        ahead = panel.closed + len(panel.steps) - 1
        declared = panel.shut
        if not shut.any() and declared is None:
            return panel
        span = max(self.depth + self._horizon, len(declared) if declared is not None else 0)
        ring = np.zeros(span, dtype=np.bool_)
        if declared is not None:
            for bucket in range(ahead - len(declared) + 1, ahead + 1):
                ring[bucket % span] = declared[bucket % len(declared)]
        for back in range(self.depth):
            bucket = panel.closed - back
            ring[bucket % span] |= shut[bucket % self.depth]
        signals = self._signals(panel, ring)
        for bucket in range(panel.closed + 1, ahead + 1):
            ring[bucket % span] |= self._by_week(shut, panel.closed, bucket) or any(values[bucket % len(values)] > 0 for values in signals)
        return replace(panel, shut=ring if ring.any() else None)

    def _past(self, closed: int) -> NDArray[np.bool_]:
        """bool[depth], by place: shut buckets up to the closed one."""
        known = (self._number <= closed) & (self._number > closed - self.depth)
        return np.asarray(known & self._shut, dtype=np.bool_)

    def _by_week(self, shut: NDArray[np.bool_], closed: int, bucket: int) -> bool:
        if not self._week:
            return False
        before = bucket - self._week * (-(-(bucket - closed) // self._week))
        seen = 0
        for turn in range(_WEEKS):
            then = before - turn * self._week
            if then <= closed - self.depth or self._number[then % self.depth] != then:
                break
            if not shut[then % self.depth]:
                return False
            seen += 1
        return seen >= _SURE

    def _signals(self, panel: Panel, ring: NDArray[np.bool_]) -> list[NDArray[np.float32]]:
        """Signals for all items under which the shop has been shut each time, often enough to tell, and not always anyway."""
        found = []
        for values in panel.known.values():
            if values.shape[1] != 1 or len(values) < 2:
                continue
            column = values[:, 0]
            oldest = panel.closed + len(panel.steps) - len(column)
            on = [
                bucket for bucket in range(max(oldest, panel.closed - self.depth + 1), panel.closed + 1) if column[bucket % len(column)] > 0
            ]
            if len(on) >= _SIGNALS and all(ring[bucket % len(ring)] for bucket in on):
                found.append(column)
        return found

    def state(self) -> State:
        """Everything that decides later answers."""
        return {"total": self._total.copy(), "number": self._number.copy(), "shut": self._shut.copy(), "usual": np.array([self._usual])}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what state() gave."""
        if state["total"].shape != self._total.shape:
            raise ValueError(f"opening must be {list(self._total.shape)}; got {list(state['total'].shape)}: rebuild the state")
        self._total, self._number = np.array(state["total"], np.float64), np.array(state["number"], np.int64)
        self._shut = np.array(state["shut"], np.bool_)
        self._usual = float(np.asarray(state["usual"], np.float64)[0])
