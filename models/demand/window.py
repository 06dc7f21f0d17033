"""What experts read of a panel: past buckets by number, each read from the ring once however many experts want it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.protocol import Float32, Float64, Ints, Panel

VELOCITY_EDGES = np.array([0.03, 0.1, 0.3, 1.0, 5.0], dtype=np.float32)
"""Units a bucket that separate the velocity classes of items with whole demand."""
CLASSES = len(VELOCITY_EDGES) + 2
"""Velocity classes, and a last one for items with fractional demand (kilograms have no natural scale)."""

_CELLS = 65_536
"""Numbers that are looked up together: half a megabyte, which stays in the cache."""


def classify(rate: Float32, whole: NDArray[np.bool_]) -> Ints:
    """int64[n], the class of items by units a bucket.

    Args:
        rate: float32[n].
        whole: bool[n].
    """
    return np.asarray(np.where(whole, np.searchsorted(VELOCITY_EDGES, rate, side="right"), CLASSES - 1), dtype=np.int64)


class Window:
    """A panel's items as they stood when a bucket had just closed."""

    def __init__(self, panel: Panel) -> None:
        """Looks at the panel's newest closed bucket; see back() for earlier ones.

        Args:
            panel: not changed.
        """
        self.panel = panel
        self.closed = panel.closed
        self.slots = panel.slots
        self.whole: NDArray[np.bool_] = panel.whole[panel.slots]
        self.first: Ints = panel.first[panel.slots]
        self.shared: dict[str, Any] = {}
        """What experts that have something in common compute once a window, by name."""
        self._rows: dict[int, Float32] = {}
        self._cuts: dict[int, Float32 | None] = {}
        self._sold: dict[tuple[int, int], Float32] = {}
        self._worth: dict[tuple[int, int], Float32] = {}

    def __len__(self) -> int:
        return len(self.slots)

    def back(self, buckets: int) -> Window:
        """The same items so many buckets earlier (only past values differ; `steps` and `whole` are the panel's).

        Args:
            buckets: at least 0.
        """
        other = object.__new__(Window)
        other.panel, other.slots, other.whole, other.first, other._rows = self.panel, self.slots, self.whole, self.first, self._rows
        other._sold, other._worth, other._cuts = self._sold, self._worth, self._cuts
        other.closed = self.closed - buckets
        other.shared = {} if buckets else self.shared
        return other

    def of(self, rows: Ints) -> Window:
        """Some of the items, at the same bucket.

        Args:
            rows: int64[m], ascending.
        """
        other = Window(replace(self.panel, slots=self.slots[rows]))
        other.closed = self.closed
        return other

    def age(self) -> Ints:
        """int64[n], closed buckets since the item was first seen, the newest included."""
        return np.asarray(self.closed - self.first + 1, dtype=np.int64)

    def row(self, bucket: int) -> Float32:
        """float32[n], units in a closed bucket; zeros before an item was first seen. Not to be written to.

        Args:
            bucket: at most the newest closed one, and within the ring.

        Raises:
            ValueError: the ring holds another bucket there; it would be read as if it were this one.
        """
        known = self._rows.get(bucket)
        if known is not None:
            return known
        ring = self.panel.units
        if bucket > self.closed or bucket <= self.panel.closed - len(ring):
            raise ValueError(
                f"bucket {bucket} must be closed and in the ring (closed {self.closed}, depth {len(ring)}): make the ring deeper"
            )
        values: Float32 = (np.asarray(ring[bucket % len(ring)].take(self.slots), np.float64) / self.panel.scale).astype(np.float32)
        self._rows[bucket] = values
        return values

    def rows(self, buckets: Sequence[int]) -> list[Float32]:
        """As row() of each bucket. One by one, a call a bucket would cost as much as a thousand items.

        Args:
            buckets: as for row().
        """
        ring = self.panel.units
        oldest = self.panel.closed - len(ring)
        # What is not in the ring is left to row(), which says what is wrong.
        for part, found in self._taken(ring, [bucket for bucket in buckets if bucket not in self._rows and oldest < bucket <= self.closed]):
            units = (np.asarray(found, np.float64) / self.panel.scale).astype(np.float32)  # [buckets, n]
            self._rows.update(zip(part, units, strict=True))
        return [self.row(bucket) for bucket in buckets]

    def _taken(self, ring: NDArray[Any], buckets: Sequence[int]) -> Iterator[tuple[Sequence[int], NDArray[Any]]]:
        """Some of the buckets, all in the ring, and its cells of them and the items, [buckets, n]: in pieces of _CELLS numbers."""
        at_once = max(1, _CELLS // max(len(self), 1))
        for start in range(0, len(buckets), at_once):
            part = buckets[start : start + at_once]
            found = np.empty((len(part), len(self)), ring.dtype)
            for bucket, out in zip(part, found, strict=True):
                ring[bucket % len(ring)].take(self.slots, out=out, mode="clip")  # any other mode makes a copy first
            yield part, found

    def known(self, name: str, bucket: int) -> Float32:
        """float32[n], a covariate that may be known ahead; NaN where nothing had been announced when the panel was made.

        Args:
            name: one of the panel's.
            bucket: at most horizon steps after the panel's newest closed one.
        """
        ring = self.panel.known[name]
        ahead = self.panel.closed + len(self.panel.steps) - 1
        if bucket > ahead or bucket <= ahead - len(ring):
            return np.full(len(self), np.nan, dtype=np.float32)
        row = ring[bucket % len(ring)]
        return np.repeat(row, len(self)) if len(row) == 1 else np.asarray(row.take(self.slots), dtype=np.float32)

    def all_of(self, name: str, bucket: int) -> Float32:
        """float32[capacity], a covariate of every slot, live or not; NaN where nothing is known.

        Args:
            name: one of the panel's.
            bucket: as for known().
        """
        ring = self.panel.known[name]
        capacity = len(self.panel.first)
        ahead = self.panel.closed + len(self.panel.steps) - 1
        if bucket > ahead or bucket <= ahead - len(ring):
            return np.full(capacity, np.nan, dtype=np.float32)
        row: Float32 = ring[bucket % len(ring)]
        return np.repeat(row, capacity) if len(row) == 1 else row

    def calendar(self, step: int) -> Float32:
        """float32[calendar], the calendar of a step after this window's newest closed bucket.

        Args:
            step: from 1; the panel knows the calendar from its own closed bucket to its horizon.
        """
        at = step - (self.panel.closed - self.closed)
        if not 0 <= at < len(self.panel.steps):
            raise ValueError(f"the panel knows the calendar of steps 0 to {len(self.panel.steps) - 1} of its own; got step {at}")
        step_of: Float32 = self.panel.steps[at]
        return step_of

    def past(self, name: str, bucket: int) -> Float32:
        """float32[n], what was counted beside units in a closed bucket; zeros for buckets that its ring no longer holds.

        Args:
            name: one of the panel's.
            bucket: at most the newest closed one.
        """
        ring = self.panel.past[name]
        if bucket > self.closed or bucket <= self.panel.closed - len(ring):
            return np.zeros(len(self), dtype=np.float32)
        return np.asarray(ring[bucket % len(ring)].take(self.slots), dtype=np.float32)

    def censored(self, bucket: int) -> Float32:
        """float32[n], share of a closed bucket without stock. Not to be written to.

        Args:
            bucket: at most the newest closed one.
        """
        cut = self.cut(bucket)
        return np.zeros(len(self), dtype=np.float32) if cut is None else cut

    def cut(self, bucket: int) -> Float32 | None:
        """As censored(); None where no item lacked stock, which is so of most buckets.

        Args:
            bucket: at most the newest closed one.
        """
        return self.cuts((bucket,))[0]

    def cuts(self, buckets: Sequence[int]) -> list[Float32 | None]:
        """As cut() of each bucket.

        Args:
            buckets: as for cut().
        """
        ring = self.panel.censored
        if ring is None:
            return [None] * len(buckets)
        oldest = self.panel.closed - len(ring)
        for part, found in self._taken(ring, [bucket for bucket in buckets if bucket not in self._cuts and oldest < bucket <= self.closed]):
            lacked = np.any(found, axis=1)  # bool[buckets]
            for place, bucket in enumerate(part):
                self._cuts[bucket] = np.asarray(found[place], dtype=np.float32) if lacked[place] else None
        return [self._cuts.get(bucket) if bucket <= self.closed else None for bucket in buckets]

    def shut(self, bucket: int) -> bool:
        """Whether the shop sells nothing at all in a bucket, past or to come.

        Args:
            bucket: at most horizon steps after the panel's newest closed one.
        """
        ring = self.panel.shut
        ahead = self.panel.closed + len(self.panel.steps) - 1
        return ring is not None and ahead - len(ring) < bucket <= ahead and bool(ring[bucket % len(ring)])

    def observed(self) -> Float64:
        """float64[n], units in the newest closed bucket."""
        return self.panel.observed() if self.closed == self.panel.closed else self.row(self.closed).astype(np.float64)

    def wanted(self, expected: Float32) -> Float32:
        """float32[n], units that the newest closed bucket teaches: what was sold, and for the share without stock what was expected of it.

        So a bucket without any stock teaches nothing, and no bucket teaches less than it sold. (Of a Poisson demand with the expected
        rate this is the mean, given what was sold in the share with stock.)

        Args:
            expected: float32[n], the learner's own forecast of the bucket.
        """
        sold = self.row(self.closed)
        if self.panel.censored is None:
            return sold
        return np.asarray(sold + self.censored(self.closed) * expected, dtype=np.float32)

    def worth(self, length: int) -> Float32:
        """float32[n], how many of the last `length` buckets an item could sell in: since it was first seen (at least one, the newest,
        as if it were), open, and each less its share without stock. At least a quarter. Not to be written to.

        Args:
            length: at least 1.
        """
        known = self._worth.get((self.closed, length))
        if known is not None:
            return known
        buckets = range(self.closed, self.closed - length, -1)
        opened = np.cumsum([not self.shut(bucket) for bucket in buckets]).astype(np.float32)  # of the newest 1, 2, … buckets
        worth: Float32 = np.maximum(opened, np.float32(1))[np.clip(self.age(), 1, length) - 1]
        if self.panel.censored is not None:
            for bucket, cut in zip(buckets, self.cuts(buckets), strict=True):
                if cut is not None and not self.shut(bucket):
                    worth -= np.where(self.first <= bucket, cut, np.float32(0))
            worth = np.maximum(worth, np.float32(0.25))
        self._worth[self.closed, length] = worth
        return worth

    def sold(self, length: int) -> Float32:
        """float32[n], units in the open ones of the last `length` buckets. Not to be written to.

        Args:
            length: at least 1.
        """
        known = self._sold.get((self.closed, length))
        if known is not None:
            return known
        total = np.zeros(len(self), dtype=np.float32)
        buckets = range(self.closed - length + 1, self.closed + 1)
        for row in self.rows([bucket for bucket in buckets if not self.shut(bucket)]):
            total += row
        self._sold[self.closed, length] = total
        return total

    def mean(self, length: int) -> Float32:
        """float32[n], units a bucket that was open and had stock, over the last `length` buckets or since the item was first seen.

        Args:
            length: at least 1.
        """
        return np.asarray(self.sold(length) / self.worth(length), dtype=np.float32)

    def at_first(self, oldest: int) -> Float32:
        """float32[n], units in the bucket in which each item was first seen; zeros where that is older than `oldest`.

        Args:
            oldest: bucket number.
        """
        ring = self.panel.units
        out = np.zeros(len(self), dtype=np.float32)
        young = np.flatnonzero((self.first >= oldest) & (self.first <= self.closed))
        rows = self.first[young] % len(ring)
        out[young] = (np.asarray(ring[rows, self.slots[young]], np.float64) / self.panel.scale).astype(np.float32)
        return out
