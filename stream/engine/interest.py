"""Expected purchases: each live session's probability of buying, spread over the items it has looked at last, as a stock.

A session holds, of each of the items of its newest events, a share of its probability in micro-units (whole numbers, so that what
is added is taken back to the unit). What moves it is told as differences, by item; the sum of all differences so far is the stock.
Differences are taken between the states before and after a piece of rows, so cutting a piece adds up to the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from stream.engine.columns import MICRO, Event, Ints

WIDTH = 4
"""Newest events about an item whose items share a session's probability."""
_WEIGHT = np.zeros(len(Event), np.int64)
_WEIGHT[[Event.VIEW, Event.CART, Event.OTHER]] = 1, 3, 1
_SPARE_NAMES = 65_536

State = dict[str, NDArray[np.generic]]


class Interest:
    """Who is interested in what: `item` int32 and `weight`, `held` int64, [WIDTH, capacity], the newest event first."""

    ARRAYS = ("item", "weight", "held")

    def __init__(self) -> None:
        self.item: Ints = np.zeros((WIDTH, 0), np.int64)
        self.weight: Ints = np.zeros((WIDTH, 0), np.int64)
        self.held: Ints = np.zeros((WIDTH, 0), np.int64)
        self.names: list[str] = []
        self.index: dict[str, int] = {}

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity)."""
        for name in self.ARRAYS:
            old = getattr(self, name)
            grown = np.zeros((capacity, WIDTH), np.int64)  # sessions are read and written whole: side by side in memory
            grown[: old.shape[1]] = old.T
            setattr(self, name, grown.T)

    def number(self, names: Sequence[str]) -> Ints:
        """int64[names], a number for each item, the same while a session holds it.

        Args:
            names: distinct.
        """
        found = np.fromiter(map(self.index.get, names, repeat(-1)), np.int64, len(names))
        for at in np.flatnonzero(found < 0).tolist():
            found[at] = self.index[names[at]] = len(self.names)
            self.names.append(names[at])
        return found

    def move(
        self, slots: Ints, fresh: NDArray[np.bool_], run: Ints, starts: Ints, kind: NDArray[np.int8], item: Ints, p_micro: Ints
    ) -> tuple[Ints, Ints]:
        """Takes rows of sessions; tells what that changes.

        Args:
            slots: int64[runs], distinct.
            fresh: bool[runs], the session begins here.
            run: int64[rows], ascending.
            starts: int64[runs], first row of each.
            kind: int8[rows].
            item: int64[rows], number of the item, -1 for none.
            p_micro: int64[runs], probability after the run's last row, micro-units; 0 for who has bought, and for robots.

        Returns:
            (item, difference in micro-units), int64[n] each.
        """
        before_item, before_held = self.item[:, slots], np.where(fresh, 0, self.held[:, slots])
        before_weight = np.where(fresh, 0, self.weight[:, slots])
        rows = np.flatnonzero((item >= 0) & (_WEIGHT[kind] > 0))
        count = np.bincount(run[rows], minlength=len(starts))
        end = np.cumsum(count)  # one past each run's last row of these
        now_item, now_weight = np.empty_like(before_item), np.empty_like(before_weight)
        for j in range(WIDTH):
            new = count > j
            at = rows[np.where(new, end - 1 - j, 0)] if len(rows) else np.zeros(len(starts), np.int64)
            older = np.clip(j - count, 0, WIDTH - 1)
            each = np.arange(len(starts))
            now_item[j] = np.where(new, item[at], before_item[older, each])
            now_weight[j] = np.where(new, _WEIGHT[kind[at]], before_weight[older, each])
        now_held = p_micro * now_weight // np.maximum(now_weight.sum(axis=0), 1)
        self.item[:, slots], self.weight[:, slots], self.held[:, slots] = now_item, now_weight, now_held
        return self._differences(np.concatenate([before_item, now_item]), np.concatenate([-before_held, now_held]))

    def release(self, slots: Ints) -> tuple[Ints, Ints]:
        """These sessions are over: takes back what they hold.

        Args:
            slots: int64[n], distinct.

        Returns:
            As `move`.
        """
        found = self._differences(self.item[:, slots], -self.held[:, slots])
        self.held[:, slots] = 0
        self.weight[:, slots] = 0
        return found

    def _differences(self, item: Ints, change: Ints) -> tuple[Ints, Ints]:
        """Summed by item, ascending, zeros left out."""
        flat, values = item.reshape(-1), change.reshape(-1)
        if len(self.names) <= 4 * len(flat):  # in float64 by the number: exact below 2^53, 9 billion sessions that are sure to buy
            total = np.bincount(flat, weights=values, minlength=len(self.names)).astype(np.int64)
            kept = np.flatnonzero(total)
            return kept, total[kept]
        some = np.flatnonzero(values)
        flat, values = flat[some], values[some]
        if not len(flat):
            return flat, values
        order = np.argsort(flat, kind="stable")
        flat, values = flat[order], values[order]
        start = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
        total = np.add.reduceat(values, start)
        left = total != 0
        return flat[start][left], total[left]

    def tidy(self, live: NDArray[np.bool_]) -> None:
        """Forgets the names of items that nobody holds, once there are many. Numbers decide nothing, so this may happen any time.

        Args:
            live: bool[capacity], slots in use.
        """
        if len(self.names) < _SPARE_NAMES:
            return
        used = np.unique(self.item[:, live & (self.weight.sum(axis=0) > 0)])
        if len(used) * 2 > len(self.names):
            return
        place = np.zeros(len(self.names), np.int64)
        place[used] = np.arange(len(used))
        self.item = place[np.minimum(self.item.T, len(place) - 1)].T
        self.names = [self.names[i] for i in used.tolist()]
        self.index = {name: i for i, name in enumerate(self.names)}

    def restore(self, state: Mapping[str, NDArray[np.generic]], names: list[str]) -> None:
        """Takes the arrays and the names of the items, in order of their numbers."""
        for name in self.ARRAYS:
            setattr(self, name, np.array(state[name].T, np.int64, order="C").T)
        self.names, self.index = names, {name: i for i, name in enumerate(names)}


def micro(p: NDArray[np.float32]) -> Ints:
    """int64[n], probabilities in micro-units."""
    return np.asarray(np.rint(p.astype(np.float64) * MICRO), dtype=np.int64)
