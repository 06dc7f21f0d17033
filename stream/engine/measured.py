"""What was measured beside units in one bucket size: reviews, ratings, any column that is known only afterwards; and the last price seen.

Closed and open buckets stand apart, as in stream.engine.windows: a model cannot see a bucket before it has closed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream.engine.columns import MICRO, MISSING, Bools, Floats, Ints

STAMPS = ("price_ms", "price_source", "price_offset")
"""What decides which price was the last."""


class Measure:
    """One measured covariate of one bucket size.

    Args:
        depth: closed buckets kept.
        ahead: open buckets kept.
        capacity: slots.
        mean: several values of a bucket give their weighted mean (NaN where there is none), or else their sum.
    """

    def __init__(self, depth: int, ahead: int, capacity: int, mean: bool) -> None:
        self.mean = mean
        self.empty = np.float32(np.nan if mean else 0.0)
        self.closed: NDArray[np.float32] = np.full((depth, capacity), self.empty, np.float32)
        self.open: NDArray[np.float32] = np.full((ahead, capacity), self.empty, np.float32)
        self.closed_weight: NDArray[np.float32] = np.zeros((depth if mean else 0, capacity), np.float32)
        self.open_weight: NDArray[np.float32] = np.zeros((ahead if mean else 0, capacity), np.float32)

    def resize(self, capacity: int) -> None:
        for name, empty in (("closed", self.empty), ("open", self.empty), ("closed_weight", 0), ("open_weight", 0)):
            old = getattr(self, name)
            grown = np.full((len(old), capacity), empty, np.float32)
            grown[:, : old.shape[1]] = old
            setattr(self, name, grown)

    def forget(self, slots: Ints) -> None:
        self.closed[:, slots] = self.open[:, slots] = self.empty
        self.closed_weight[:, slots] = self.open_weight[:, slots] = 0

    def add(self, newest: int, bucket: Ints, slots: Ints, value: Floats, weight: Floats) -> None:
        """Takes measurements; those of buckets that are no longer kept are left out.

        Args:
            newest: the newest closed bucket.
            bucket: int64[n].
            slots: int64[n].
            value: float64[n].
            weight: float64[n].
        """
        if int(bucket.max()) > newest + len(self.open):
            raise AssertionError(f"a measurement of bucket {int(bucket.max())} is beyond the {len(self.open)} open buckets after {newest}")
        # In one order whatever order they came in: sums of fractions round by it.
        order = np.lexsort((weight, value, slots, bucket))
        order = order[bucket[order] > newest - len(self.closed)]
        bucket, slots, value, weight = bucket[order], slots[order], value[order], weight[order]
        if not len(bucket):
            return
        start = np.flatnonzero(np.concatenate([[True], (bucket[1:] != bucket[:-1]) | (slots[1:] != slots[:-1])]))
        total = np.add.reduceat(value * weight if self.mean else value, start)
        weights = np.add.reduceat(weight, start)
        bucket, slots = bucket[start], slots[start]
        for to_open in (True, False):
            at = np.flatnonzero((bucket > newest) == to_open)
            cells, held = (self.open, self.open_weight) if to_open else (self.closed, self.closed_weight)
            rows, columns = bucket[at] % len(cells), slots[at]
            if not self.mean:
                cells[rows, columns] = (cells[rows, columns] + total[at]).astype(np.float32)
                continue
            before = held[rows, columns].astype(np.float64)
            sums = np.where(before > 0, cells[rows, columns] * before, 0.0) + total[at]
            after = before + weights[at]
            some = after > 0
            cells[rows[some], columns[some]] = (sums[some] / after[some]).astype(np.float32)
            held[rows, columns] = after.astype(np.float32)

    def close(self, bucket: int) -> None:
        """The oldest open bucket becomes the newest closed one.

        Args:
            bucket: its number.
        """
        pairs = ((self.closed, self.open, self.empty), (self.closed_weight, self.open_weight, np.float32(0)))
        for closed, ahead, empty in pairs[: 1 + self.mean]:
            row = ahead[bucket % len(ahead)]
            closed[bucket % len(closed)] = row
            row[:] = empty


class PriceSeen:
    """The last price of each item in orders and the clickstream: the largest (time, source, offset) before a moment."""

    def __init__(self) -> None:
        self.price: NDArray[np.float32] = np.zeros(0, np.float32)
        """float32[capacity], NaN where none was seen; empty until the first price."""
        self.stamps: dict[str, Ints] = {name: np.zeros(0, np.int64) for name in STAMPS}
        self.ahead: dict[str, Ints] = {name: np.zeros(0, np.int64) for name in ("slot", "price", *STAMPS)}
        """Prices of times that no epoch has reached yet."""

    def resize(self, capacity: int) -> None:
        if not len(self.price):
            return
        grown = np.full(capacity, np.nan, np.float32)
        grown[: len(self.price)] = self.price
        self.price = grown
        for name, old in self.stamps.items():
            self.stamps[name] = np.zeros(capacity, np.int64)
            self.stamps[name][: len(old)] = old

    def forget(self, slots: Ints) -> None:
        if len(self.price):
            self.price[slots] = np.nan
            for stamps in self.stamps.values():
                stamps[slots] = 0
        if len(self.ahead["slot"]):
            kept = ~np.isin(self.ahead["slot"], slots)
            self.ahead = {name: values[kept] for name, values in self.ahead.items()}

    def add(self, rows: dict[str, Ints], before_ms: int, capacity: int) -> None:
        """Takes the prices of an epoch.

        Args:
            rows: int64[n] by name: slot, price (micro-units, MISSING for none), and STAMPS.
            before_ms: end of the epoch: later prices wait.
            capacity: slots.
        """
        has = np.flatnonzero(rows["price"] != MISSING)
        if not len(has) and not len(self.ahead["slot"]):
            return
        if not len(self.price):
            self.price = np.full(capacity, np.nan, np.float32)
            self.stamps = {name: np.zeros(capacity, np.int64) for name in STAMPS}
        rows = {name: np.concatenate([waiting, rows[name][has]]) for name, waiting in self.ahead.items()}
        later: Bools = rows["price_ms"] >= before_ms
        self.ahead = {name: values[later] for name, values in rows.items()}
        now = np.flatnonzero(~later)
        order = now[np.lexsort((*(rows[name][now] for name in reversed(STAMPS)), rows["slot"][now]))]
        slot = rows["slot"][order]
        last = order[np.concatenate([slot[1:] != slot[:-1], [True]])] if len(order) else order
        slot = rows["slot"][last]
        newer: Bools = np.isnan(self.price[slot])
        equal: Bools = ~newer
        for name in STAMPS:
            newer |= equal & (rows[name][last] > self.stamps[name][slot])
            equal &= rows[name][last] == self.stamps[name][slot]
        slot, last = slot[newer], last[newer]
        self.price[slot] = (rows["price"][last] / MICRO).astype(np.float32)
        for name in STAMPS:
            self.stamps[name][slot] = rows[name][last]
