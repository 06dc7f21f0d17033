"""Which items come next: counts of what followed what, by item and by category, in tables of fixed size that change at ticks only.

Each cell keeps its likeliest followers (space-saving: a newcomer takes the place of the least, and its count; Metwally et al., 2005).
Co-occurrence was preferred to a sampled softmax of the recurrent state: it needs no gradient on the ingest path, knows an item from
its first tick on, and costs only what is asked for: where no record is published nothing is ranked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.engine.columns import Floats, Ints

ITEM_CELLS, CATEGORY_CELLS = 1 << 15, 1 << 10
_ITEM_WIDTH, _CATEGORY_WIDTH, _SHOP_WIDTH = 48, 48, 64
_PRIOR = 60.0
"""Followers of an item that its category's are worth, and of a category that the whole shop's are."""
_SECOND = 0.35
"""What the item before the last one says, of the whole."""
_KEEP_AN_HOUR = 0.998

State = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Shown:
    """What sessions look at, int64[n] each: hashes, 0 for none."""

    item: Ints
    category: Ints
    second: Ints
    """The item before that one."""

    def cut(self, rows: Ints) -> Shown:
        """Of these rows."""
        return Shown(self.item[rows], self.category[rows], self.second[rows])


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
        if not len(cell):
            return
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
    """Followers by item, by category and of anything, and the names of all items that stand in them."""

    def __init__(self) -> None:
        self.by_item = Followers(ITEM_CELLS, _ITEM_WIDTH)
        self.by_category = Followers(CATEGORY_CELLS, _CATEGORY_WIDTH)
        self.by_shop = Followers(1, _SHOP_WIDTH)
        self.names: dict[int, str] = {}
        self.pairs: list[Ints] = []
        """int64[4, n] each: item before, its category, item after, item before the one before; wait for the tick."""
        self.back: Floats = np.array([1.0, 10.0])
        """How often the next item was the one before the last, and how often it could have been."""
        self.hour = -1

    def meet(self, names: Sequence[str], hashes: Ints) -> None:
        """Takes the names of a batch's items; those that nobody follows are forgotten first.

        Args:
            names: distinct.
            hashes: int64[names].
        """
        if len(self.names) > 8 * ITEM_CELLS:
            used = (
                set(np.unique(self.by_item.who).tolist())
                | set(np.unique(self.by_category.who).tolist())
                | set(self.by_shop.who[0].tolist())
            )
            used |= {int(item) for pair in self.pairs for item in pair[2].tolist()}
            self.names = {item: name for item, name in self.names.items() if item in used}
        self.names.update(zip(hashes.tolist(), names, strict=True))

    def see(self, before: Ints, category: Ints, item: Ints, second: Ints) -> None:
        """Counts what followed what, from the next tick on.

        Args:
            before: int64[rows], the item shown before, 0 for none.
            category: int64[rows], of the item before.
            item: int64[rows], another than before.
            second: int64[rows], the item before the one before, 0 for none.
        """
        if len(item):
            self.pairs.append(np.stack([before, category, item, second]))

    def tick(self, hour: int) -> None:
        """Takes what was seen; the older fades by the hour."""
        if self.hour >= 0 and hour > self.hour:
            keep = _KEEP_AN_HOUR ** min(hour - self.hour, 10_000)
            for table in (self.by_item, self.by_category, self.by_shop):
                table.count *= keep
                table.total *= keep
            self.back *= keep
        self.hour = hour
        if self.pairs:
            before, category, item, second = np.concatenate(self.pairs, axis=1)
            self.back += [float(((second != 0) & (second == item)).sum()), float((second != 0).sum())]
            # Both ways, and over one in between: what belongs together is rarely seen in one order alone.
            left, right = np.concatenate([before, second]), np.concatenate([item, item])
            some = np.flatnonzero((left != 0) & (left != right))
            left, right = left[some], right[some]
            self.by_item.add(np.concatenate([left, right]) % ITEM_CELLS, np.concatenate([right, left]))
            known = category != 0
            self.by_category.add(category[known] % CATEGORY_CELLS, item[known])
            later = item[before != 0]
            self.by_shop.add(np.zeros(len(later), np.int64), later)
            self.pairs = []

    def rank(self, shown: Shown, most: int) -> tuple[Ints, Floats]:
        """The likeliest next items.

        Args:
            shown: n sessions.
            most: how many.

        Returns:
            Hashes int64[n, most] (0 where there are fewer) and their probabilities, descending.
        """
        item, category = shown.item, shown.category
        shop = self.by_shop
        every = np.broadcast_to(shop.who[0], (len(item), _SHOP_WIDTH))
        share = np.broadcast_to(shop.count[0] / max(float(shop.total[0]), 1.0), every.shape)
        who, p = self._smoothed(self.by_category, category % CATEGORY_CELLS, category != 0, every, share)
        two, q = self._smoothed(self.by_item, shown.second % ITEM_CELLS, shown.second != 0, who[:, :0], p[:, :0])
        who, p = self._smoothed(self.by_item, item % ITEM_CELLS, item != 0, who, p)
        who, p = _joined(two, q * _SECOND, who, p * (1 - _SECOND))
        back = np.where(shown.second != 0, self.back[0] / self.back[1], 0.0)[:, None]
        who, p = _joined(shown.second[:, None], back, who, p * (1 - back))
        p = np.where((who == 0) | (who == item[:, None]), 0.0, p)
        order = np.lexsort((who, -p), axis=1)[:, :most]
        found, p = np.take_along_axis(who, order, axis=1), np.take_along_axis(p, order, axis=1)
        return np.where(p > 0, found, 0), np.minimum(p, 1.0)

    @staticmethod
    def _smoothed(table: Followers, cell: Ints, known: NDArray[np.bool_], who: Ints, p: Floats) -> tuple[Ints, Floats]:
        """A cell's own followers, and others' shares in the place of what it has not seen."""
        weight = 1 / (np.where(known, table.total[cell], 0.0) + _PRIOR)[:, None]
        return _joined(table.who[cell], np.where(known[:, None], table.count[cell], 0.0) * weight, who, p * _PRIOR * weight)

    def told(self, shown: Shown, most: int) -> list[list[tuple[str, float]]]:
        """As rank, by name, for records."""
        who, p = self.rank(shown, most)
        names = self.names
        return [
            [(names[w], float(f"{share:.4g}")) for w, share in zip(ws, ps, strict=True) if w and w in names]
            for ws, ps in zip(who.tolist(), p.tolist(), strict=True)
        ]

    def state(self) -> State:
        """All but the names, copied."""
        out: State = {
            "hour": np.array(self.hour),
            "back": self.back.copy(),
            "pairs": np.concatenate([np.zeros((4, 0), np.int64), *self.pairs], axis=1),
        }
        for name, table in (("item", self.by_item), ("category", self.by_category), ("shop", self.by_shop)):
            out |= {f"{name}.who": table.who.copy(), f"{name}.count": table.count.copy(), f"{name}.total": table.total.copy()}
        out["names"] = np.fromiter(self.names, np.int64, len(self.names))
        return out

    def restore(self, state: Mapping[str, NDArray[np.generic]], names: Sequence[str]) -> None:
        """Takes what state() gave, and the names in its order."""
        self.hour, self.back = int(state["hour"]), np.array(state["back"], np.float64)
        pairs = np.array(state["pairs"], np.int64)
        self.pairs = [pairs] if pairs.shape[1] else []
        for name, table in (("item", self.by_item), ("category", self.by_category), ("shop", self.by_shop)):
            table.who, table.count = np.array(state[f"{name}.who"], np.int64), np.array(state[f"{name}.count"], np.float64)
            table.total = np.array(state[f"{name}.total"], np.float64)
        self.names = dict(zip(np.asarray(state["names"], np.int64).tolist(), names, strict=True))


def _joined(who: Ints, p: Floats, others: Ints, lent: Floats) -> tuple[Ints, Floats]:
    """Two lists of items and their shares [n, a], [n, b] as one [n, a + b]: an item in both has its shares together, and 0 the second time."""
    own, rest = p.copy(), lent.copy()
    for at in range(who.shape[1]):
        same = others == who[:, at][:, None]
        row, place = np.nonzero(same & (rest > 0))  # each item once: its second time has no share
        own[row, at] += rest[row, place]
        rest[row, place] = 0.0
    return np.concatenate([who, others], axis=1), np.concatenate([own, rest], axis=1)
