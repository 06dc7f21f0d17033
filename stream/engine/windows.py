"""Item windows of one bucket size: integer rings of closed buckets, and the few buckets that are still open.

Integers only (counts; quantities in whole units until a fraction or a large value shows up, then in micro-units): sums
commute, so no order of arrival can change a window, and a late row corrects it exactly. Closed and open buckets live in
separate arrays, so that a model that reads the ring cannot see a bucket before it has closed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.engine.columns import MICRO, Ints
from stream.engine.time import Grid

QUANTITIES = ("units", "returns")
COUNTS = ("lines", "views", "carts")
CHANNELS = QUANTITIES + COUNTS
PAST = 28
"""Closed buckets of views, carts and the last price seen that models may look back on."""
_LARGE = np.iinfo(np.int32).max


class Channel:
    """One number an item and bucket.

    Args:
        depth: closed buckets kept.
        ahead: open buckets kept.
        fractional: holds micro-units outside (a quantity), whatever it does inside.
    """

    def __init__(self, depth: int, ahead: int, fractional: bool) -> None:
        self.depth, self.ahead, self.fractional = depth, ahead, fractional
        self.scale = 1
        """How many of the stored integers make one unit."""
        self.closed: NDArray[Any] = np.zeros((depth, 0), np.int32)
        self.open: NDArray[Any] = np.zeros((ahead, 0), np.int32)

    def resize(self, capacity: int) -> None:
        """Room for more slots; new ones are zero."""
        for name in ("closed", "open"):
            old = getattr(self, name)
            grown = np.zeros((len(old), capacity), old.dtype)
            grown[:, : old.shape[1]] = old
            setattr(self, name, grown)

    def forget(self, slots: Ints) -> None:
        """Zeroes these slots."""
        self.closed[:, slots] = 0
        self.open[:, slots] = 0

    def add(self, rows: Ints, slots: Ints, values: Ints, to_open: bool) -> None:
        """Adds values to cells; cells may repeat.

        Args:
            rows: int64[n], ring rows.
            slots: int64[n].
            values: int64[n], micro-units for a quantity, else counts.
            to_open: into the open buckets, else into the closed.
        """
        if self.fractional:
            if self.scale == 1 and (values % MICRO).any():
                self._widen()
            if self.scale == 1:
                values = values // MICRO
        cells = self.open if to_open else self.closed
        flat = rows * cells.shape[1] + slots
        order = np.argsort(flat, kind="stable")
        flat = flat[order]
        start = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
        where = flat[start]
        total = np.add.reduceat(values[order], start) + cells.reshape(-1)[where]
        if cells.dtype == np.int32 and len(total) and int(total.max()) > _LARGE:
            self._widen_bits()
            cells = self.open if to_open else self.closed
        cells.reshape(-1)[where] = total

    def _widen_bits(self) -> None:
        self.closed, self.open = self.closed.astype(np.int64), self.open.astype(np.int64)

    def _widen(self) -> None:
        self._widen_bits()
        self.closed *= MICRO
        self.open *= MICRO
        self.scale = MICRO

    def close(self, bucket: int) -> None:
        """The oldest open bucket becomes the newest closed one.

        Args:
            bucket: its number.
        """
        row = self.open[bucket % self.ahead]
        self.closed[bucket % self.depth] = row
        row[:] = 0

    def values(self, bucket: int, slots: Ints) -> Ints:
        """int64[slots], of a closed bucket; micro-units for a quantity, else counts."""
        stored: Ints = self.closed[bucket % self.depth, slots].astype(np.int64)
        return stored * (MICRO // self.scale) if self.fractional else stored


class Windows:
    """All channels of one bucket size.

    Args:
        grid: numbers the buckets.
        depth: closed buckets that the models may see.
        room: closed buckets that late rows may correct; the channels that no model reads keep just these, views and carts PAST.
        ahead: open buckets.
    """

    def __init__(self, grid: Grid, depth: int, room: int, ahead: int) -> None:
        self.grid = grid
        self.depth, self.ahead = depth, ahead
        self.room = min(depth, room)
        self.past = min(depth, max(room, PAST))
        self.closed: int | None = None
        """Number of the newest closed bucket; None before the first row."""
        depths = {"units": depth, "views": self.past, "carts": self.past}
        self.channels = {name: Channel(depths.get(name, self.room), ahead, name in QUANTITIES) for name in CHANNELS}

    def begin(self, bucket: int) -> None:
        """The bucket that is open now: the first, or the first after a time without items."""
        self.closed = bucket - 1

    def resize(self, capacity: int) -> None:
        for channel in self.channels.values():
            channel.resize(capacity)

    def forget(self, slots: Ints) -> None:
        for channel in self.channels.values():
            channel.forget(slots)

    def add(self, bucket: Ints, slots: Ints, columns: dict[str, Ints]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Adds rows.

        Args:
            bucket: int64[n], bucket numbers.
            slots: int64[n].
            columns: int64[n] by channel.

        Returns:
            bool[n], the row lies in a closed bucket; bool[n], it lies before what can still be corrected and was left out.

        Raises:
            AssertionError: a row beyond the open buckets: epochs promise that there is none.
        """
        assert self.closed is not None
        is_open = bucket > self.closed
        gone = bucket <= self.closed - self.room
        if len(bucket) and int(bucket.max()) > self.closed + self.ahead:
            raise AssertionError(f"a row of bucket {int(bucket.max())} is beyond the {self.ahead} open buckets after {self.closed}")
        for to_open, mask in ((True, is_open), (False, ~is_open & ~gone)):
            picked = np.flatnonzero(mask)
            if not len(picked):
                continue
            for name, channel in self.channels.items():
                values = columns[name][picked]
                some = np.flatnonzero(values)
                if len(some):
                    rows = picked[some]
                    depth = channel.ahead if to_open else channel.depth
                    channel.add(bucket[rows] % depth, slots[rows], values[some], to_open)
        return ~is_open, gone

    def close(self) -> int:
        """Closes the oldest open bucket and returns its number."""
        assert self.closed is not None
        self.closed += 1
        for channel in self.channels.values():
            channel.close(self.closed)
        return self.closed
