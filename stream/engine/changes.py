"""Since when has an item sold more (or less) than expected: a changepoint statistic in bounded memory, for all items at once.

The statistic is that of FOCuS with a known mean before the change (Romano et al. 2023; for counts Ward et al.): the maximum over all
starts of the likelihood ratio of everything since. A start can only ever win where the ratio of sold to expected rises from block to block
behind it, so the starts that are kept form a stack of blocks with rising ratios, all above one. A new bucket is a block of its own and is
merged into the one before as long as its ratio is not higher (pool adjacent violators). For falls everything is mirrored. The stack's depth grows
with the logarithm of time; here it is bounded, and where it is full the two oldest blocks become one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.tails import deviance
from stream.engine.columns import Bools, Floats, Ints

DEPTH = 5
"""Blocks that an item keeps."""

_ARRAYS = (("count", np.float32), ("mean", np.float32), ("start", np.int32))


class Changes:
    """The stacks of all slots, for one direction.

    Args:
        up: rises, or else falls.
        window: buckets beyond which nothing is looked back.
    """

    def __init__(self, up: bool, window: int) -> None:
        self.up, self.window = up, window
        self.count: NDArray[np.float32] = np.zeros((DEPTH, 0), np.float32)
        """float32[DEPTH, capacity], sold in each block, the oldest first."""
        self.mean: NDArray[np.float32] = np.zeros((DEPTH, 0), np.float32)
        """float32[DEPTH, capacity], expected."""
        self.start: NDArray[np.int32] = np.zeros((DEPTH, 0), np.int32)
        """int32[DEPTH, capacity], the block's first bucket."""
        self.depth: NDArray[np.int8] = np.zeros(0, np.int8)

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity)."""
        for name, kind in _ARRAYS:
            grown = np.zeros((DEPTH, capacity), kind)
            grown[:, : len(self.depth)] = getattr(self, name)
            setattr(self, name, grown)
        self.depth = np.concatenate([self.depth, np.zeros(capacity - len(self.depth), np.int8)])

    def forget(self, slots: Ints) -> None:
        """Nothing has changed here."""
        self.depth[slots] = 0

    def add(self, slots: Ints, count: Floats, mean: Floats, bucket: int) -> None:
        """Takes a bucket.

        Args:
            slots: int64[n], without repeats.
            count: float64[n], sold.
            mean: float64[n], expected, above 0.
            bucket: its number.
        """
        beyond = count > mean if self.up else count < mean
        some = np.flatnonzero((self.depth[slots] > 0) | beyond)
        at = slots[some]
        full = at[self.depth[at] == DEPTH]
        if len(full):
            self.count[1, full] += self.count[0, full]
            self.mean[1, full] += self.mean[0, full]
            self.start[1, full] = self.start[0, full]
            self._shift(full)
        top = self.depth[at].astype(np.int64)
        self.count[top, at], self.mean[top, at], self.start[top, at] = count[some], mean[some], bucket
        self.depth[at] += 1
        self._merge(at[top > 0])
        alone = at[self.depth[at] == 1]
        ordinary = self.count[0, alone] <= self.mean[0, alone] if self.up else self.count[0, alone] >= self.mean[0, alone]
        self.depth[alone[ordinary]] = 0
        while True:
            at = at[(self.depth[at] > 0) & (self.start[0, at] <= bucket - self.window)]
            if not len(at):
                return
            self._shift(at)

    def _merge(self, at: Ints) -> None:
        """Merges the newest block into the one before it, as long as it goes no further."""
        while len(at):
            top = self.depth[at].astype(np.int64) - 1
            newer = self.count[top, at].astype(np.float64) * self.mean[top - 1, at]
            older = self.count[top - 1, at].astype(np.float64) * self.mean[top, at]
            merged = newer <= older if self.up else newer >= older
            at, top = at[merged], top[merged]
            self.count[top - 1, at] += self.count[top, at]
            self.mean[top - 1, at] += self.mean[top, at]
            self.depth[at] -= 1
            at = at[top > 1]

    def _shift(self, at: Ints) -> None:
        """Drops the oldest block."""
        for name, _ in _ARRAYS:
            array = getattr(self, name)
            for row in range(1, DEPTH):
                array[row - 1, at] = array[row, at]
        self.depth[at] -= 1

    def strongest(self, slots: Ints, dispersion: Floats) -> tuple[Ints, Floats, Floats, Ints, Floats]:
        """Where something has changed, and since when most likely: (places in slots, sold and expected since, first bucket, deviance).

        Args:
            slots: int64[n].
            dispersion: float64[n], how far the expectation itself may be off, relative variance.
        """
        places = np.flatnonzero(self.depth[slots] > 0)
        at, spread = slots[places], dispersion[places]
        depth = self.depth[at]
        n = len(places)
        count, mean = np.zeros(n), np.zeros(n)
        best = (np.zeros(n), np.ones(n), np.zeros(n, np.int64), np.full(n, -1.0))
        for row in range(DEPTH - 1, -1, -1):
            there: Bools = depth > row
            mine = np.flatnonzero(there)
            if not len(mine):
                continue
            count[mine] += self.count[row, at[mine]]
            mean[mine] += self.mean[row, at[mine]]
            found = deviance(count[mine], mean[mine], spread[mine])
            wins = found > best[3][mine]
            better = mine[wins]
            best[3][better] = found[wins]
            best[0][better], best[1][better], best[2][better] = count[better], mean[better], self.start[row, at[better]]
        return places, best[0], best[1], best[2], best[3]

    def state(self, copy: bool) -> dict[str, NDArray[np.generic]]:
        """Everything, by name."""
        names = [name for name, _ in _ARRAYS] + ["depth"]
        return {name: getattr(self, name).copy() if copy else getattr(self, name) for name in names}

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """What state() gave."""
        for name, kind in (*_ARRAYS, ("depth", np.int8)):
            setattr(self, name, np.array(state[name], dtype=kind))
