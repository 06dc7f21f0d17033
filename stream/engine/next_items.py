"""Which items come next: counts of what followed what, by item and by category, in tables of fixed size that change at ticks only.

Each cell keeps its likeliest followers (space-saving: a newcomer takes the place of the least, and its count; Metwally et al., 2005).
Co-occurrence was preferred to a sampled softmax of the recurrent state: it needs no gradient on the ingest path, knows an item from
its first tick on, and costs only what is asked for: where no record is published nothing is ranked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stream.engine.columns import Floats, Ints

ITEM_CELLS, CATEGORY_CELLS = 1 << 14, 1 << 9
_ITEM_WIDTH, _CATEGORY_WIDTH = 8, 24
_PRIOR = 20.0
"""Followers of an item that its category's are worth."""
_KEEP_AN_HOUR = 0.99

State = dict[str, NDArray[np.generic]]


class Followers:
    """For each cell the followers seen most: `who` int64 hashes (0: none) and `count` float64, [cells, width]; `total` float64[cells]."""

    def __init__(self, cells: int, width: int) -> None:
        self.who: Ints = np.zeros((cells, width), np.int64)
        self.count: Floats = np.zeros((cells, width))
        self.total: Floats = np.zeros(cells)

    def add(self, cell: Ints, who: Ints) -> None:
        """Counts followers.

        Args:
            cell: int64[n].
            who: int64[n], hashes, not 0.
        """
        order = np.lexsort((who, cell))
        cell, who = cell[order], who[order]
        begin = np.flatnonzero(np.concatenate([[True], (cell[1:] != cell[:-1]) | (who[1:] != who[:-1])]))
        times = np.diff(np.append(begin, len(cell))).astype(np.float64)
        cell, who = cell[begin], who[begin]
        np.add.at(self.total, cell, times)
        match = self.who[cell] == who[:, None]
        known = match.any(axis=1)
        self.count[cell[known], match[known].argmax(axis=1)] += times[known]
        # Of those that are new to a cell the most frequent take the least places, one a cell at a time, the smaller hash first.
        cell, who, times = cell[~known], who[~known], times[~known]
        order = np.lexsort((who, -times, cell))
        cell, who, times = cell[order], who[order], times[order]
        for _ in range(3):
            if not len(cell):
                return
            first = np.concatenate([[True], cell[1:] != cell[:-1]])
            at = cell[first]
            least = self.count[at].argmin(axis=1)
            self.who[at, least] = who[first]
            self.count[at, least] += times[first]
            cell, who, times = cell[~first], who[~first], times[~first]


class NextItems:
    """Followers by item and by category, and the names of all items that stand in them."""

    def __init__(self) -> None:
        self.by_item = Followers(ITEM_CELLS, _ITEM_WIDTH)
        self.by_category = Followers(CATEGORY_CELLS, _CATEGORY_WIDTH)
        self.names: dict[int, str] = {}
        self.pairs: list[Ints] = []
        """int64[3, n] each: item before, its category, item after; wait for the tick."""
        self.hour = -1

    def meet(self, names: Sequence[str], hashes: Ints) -> None:
        """Takes the names of a batch's items; those that nobody follows are forgotten first.

        Args:
            names: distinct.
            hashes: int64[names].
        """
        if len(self.names) > 8 * ITEM_CELLS:
            used = set(np.unique(self.by_item.who).tolist()) | set(np.unique(self.by_category.who).tolist())
            used |= {int(item) for pair in self.pairs for item in pair[2].tolist()}
            self.names = {item: name for item, name in self.names.items() if item in used}
        self.names.update(zip(hashes.tolist(), names, strict=True))

    def see(self, before: Ints, category: Ints, item: Ints) -> None:
        """Counts what followed what, from the next tick on.

        Args:
            before: int64[rows], the item shown before, 0 for none.
            category: int64[rows], of the item before.
            item: int64[rows], 0 for none.
        """
        some = np.flatnonzero((before != 0) & (item != 0) & (before != item))
        if len(some):
            self.pairs.append(np.stack([before[some], category[some], item[some]]))

    def tick(self, hour: int) -> None:
        """Takes what was seen; the older fades by the hour."""
        if self.hour >= 0 and hour > self.hour:
            keep = _KEEP_AN_HOUR ** min(hour - self.hour, 10_000)
            for table in (self.by_item, self.by_category):
                table.count *= keep
                table.total *= keep
        self.hour = hour
        if self.pairs:
            before, category, item = np.concatenate(self.pairs, axis=1)
            self.by_item.add(before % ITEM_CELLS, item)
            self.by_category.add(category % CATEGORY_CELLS, item)
            self.pairs = []

    def rank(self, item: Ints, category: Ints, most: int) -> tuple[Ints, Floats]:
        """The likeliest next items.

        Args:
            item: int64[n], shown last, 0 for none.
            category: int64[n], of that item.
            most: how many.

        Returns:
            Hashes int64[n, most] (0 where there are fewer) and their probabilities, descending.
        """
        cell, shelf = item % ITEM_CELLS, category % CATEGORY_CELLS
        who, count = self.by_item.who[cell], np.where(item[:, None] != 0, self.by_item.count[cell], 0.0)
        total = np.where(item != 0, self.by_item.total[cell], 0.0)
        others, share = self.by_category.who[shelf], self.by_category.count[shelf] / np.maximum(self.by_category.total[shelf], 1.0)[:, None]
        lent = _PRIOR * share / (total + _PRIOR)[:, None]
        own = count / (total + _PRIOR)[:, None]
        same = who[:, :, None] == others[:, None, :]  # an item in both: its two shares together
        own = own + np.where(same, lent[:, None, :], 0.0).sum(axis=2)
        lent = np.where(same.any(axis=1), 0.0, lent)
        all_who, all_p = np.concatenate([who, others], axis=1), np.concatenate([own, lent], axis=1)
        all_p = np.where((all_who == 0) | (all_who == item[:, None]), 0.0, all_p)
        order = np.lexsort((all_who, -all_p), axis=1)[:, :most]
        found, p = np.take_along_axis(all_who, order, axis=1), np.take_along_axis(all_p, order, axis=1)
        return np.where(p > 0, found, 0), np.minimum(p, 1.0)

    def told(self, item: Ints, category: Ints, most: int) -> list[list[tuple[str, float]]]:
        """As rank, by name, for records."""
        who, p = self.rank(item, category, most)
        names = self.names
        return [
            [(names[w], float(f"{share:.4g}")) for w, share in zip(ws, ps, strict=True) if w and w in names]
            for ws, ps in zip(who.tolist(), p.tolist(), strict=True)
        ]

    def state(self) -> State:
        """All but the names, copied."""
        out: State = {"hour": np.array(self.hour), "pairs": np.concatenate([np.zeros((3, 0), np.int64), *self.pairs], axis=1)}
        for name, table in (("item", self.by_item), ("category", self.by_category)):
            out |= {f"{name}.who": table.who.copy(), f"{name}.count": table.count.copy(), f"{name}.total": table.total.copy()}
        out["names"] = np.fromiter(self.names, np.int64, len(self.names))
        return out

    def restore(self, state: Mapping[str, NDArray[np.generic]], names: Sequence[str]) -> None:
        """Takes what state() gave, and the names in its order."""
        self.hour = int(state["hour"])
        pairs = np.array(state["pairs"], np.int64)
        self.pairs = [pairs] if pairs.shape[1] else []
        for name, table in (("item", self.by_item), ("category", self.by_category)):
            table.who, table.count = np.array(state[f"{name}.who"], np.int64), np.array(state[f"{name}.count"], np.float64)
            table.total = np.array(state[f"{name}.total"], np.float64)
        self.names = dict(zip(np.asarray(state["names"], np.int64).tolist(), names, strict=True))
