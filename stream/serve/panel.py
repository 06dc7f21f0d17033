"""One bucket size of all items as columns: the newest forecast of each, and a bounded past.

Rows are slots, given out by stream.serve.items. An item of a size takes 32 bytes for each closed bucket that is kept (4 of them its
observation, the others two past forecasts), 4 for each step of its horizon, some 60 for the rest, and the newest record as it came.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.engine.time import MINUTE_MS, SIZES

_BLOCK = 1024
"""Items whose past stands in one array: growing means one more, never a copy of hundreds of megabytes."""

_CELL = np.dtype([("start", "<i4"), ("observed", "<f4"), ("near", "<f4", (3,)), ("far", "<f4", (3,))])
"""A closed bucket: its start in minutes since 1970, the units, and low, middle and high of what was then forecast for the next bucket
and for one a quarter of the horizon ahead. 32 bytes."""

LEVELS = (0.1, 0.5, 0.9)
"""Of the low, the middle and the high; of the configured levels, those nearest to them."""

_EMPTY = -(2**31)


class DemandRecord(msgspec.Struct, frozen=True, gc=False):
    """What is read of a record of `demand`."""

    item: str
    bucket: str
    bucket_start_ms: int
    issued_at_ms: int
    observed: float = 0.0
    corrects: bool = False
    mean: list[float] | None = None
    quantiles: dict[str, list[float]] | None = None
    model_version: str = ""


class Past(msgspec.Struct, frozen=True):
    """An item's closed buckets, oldest first; forecasts stand where they were issued, at the bucket's end."""

    start_ms: list[int]
    observed: list[float]
    near: list[list[float | None]]
    """Low, middle and high of the bucket after this one."""
    far: list[list[float | None]]
    """The same for the bucket `far_steps` after this one."""
    far_steps: int


class Panel:
    """Items by slot.

    Args:
        bucket: the size.
        history: closed buckets of each item that are kept.
    """

    def __init__(self, bucket: str, history: int) -> None:
        self.bucket, self.size_ms, self.history = bucket, SIZES[bucket], history
        self.horizon = 0
        self.version = 0
        """Grows with every record."""
        self.raw: list[bytes | None] = []
        """The newest record with a forecast, as it came."""
        self.issued_ms = np.zeros(0, dtype=np.int64)
        """When it was issued; 0: the item is not there."""
        self.latest = np.zeros(0)
        """Units of the last closed bucket."""
        self.observed = np.zeros(0)
        """Units of the last closed buckets, as many as the horizon has (or the past holds)."""
        self.mean = np.zeros((0, 0), dtype=np.float32)
        """float32[slots, horizon], expected units a step."""
        self.expected = np.zeros(0)
        """Their sum."""
        self.totals: dict[int, float] = {}
        """Units of all items by start of the bucket."""
        self.newest_start_ms = 0
        self._blocks: list[NDArray[Any]] = []
        self._next = np.zeros(0, dtype=np.int32)
        """The cell that the next closed bucket takes."""

    def grow(self, slots: int) -> None:
        """Makes room.

        Args:
            slots: so many rows at least.
        """
        have = len(self.raw)
        if slots <= have:
            return
        more = max(slots, have + have // 2, _BLOCK) - have
        self.raw.extend([None] * more)
        self.issued_ms = np.concatenate([self.issued_ms, np.zeros(more, dtype=np.int64)])
        self.latest, self.observed, self.expected = (
            np.concatenate([column, np.zeros(more)]) for column in (self.latest, self.observed, self.expected)
        )
        self.mean = np.concatenate([self.mean, np.zeros((more, self.horizon), dtype=np.float32)])
        self._next = np.concatenate([self._next, np.zeros(more, dtype=np.int32)])

    def take(self, slot: int, record: DemandRecord, raw: bytes) -> None:
        """Takes a record of an item.

        Args:
            slot: the item's.
            record: read from `raw`.
            raw: as it came.
        """
        self.grow(slot + 1)
        self.version += 1
        cells = self._cells(slot)
        start = record.bucket_start_ms // MINUTE_MS
        before = self._observe(cells, slot, start, record.observed)
        self._add_total(record.bucket_start_ms, record.observed - before)
        if record.mean and record.issued_at_ms >= self.issued_ms[slot]:
            self._forecast(cells, slot, start, record, raw)
        self.observed[slot] = self._sum_of_last(cells, slot)

    def _forecast(self, cells: NDArray[Any], slot: int, start: int, record: DemandRecord, raw: bytes) -> None:
        mean, quantiles = record.mean or [], record.quantiles or {}
        if len(mean) > self.horizon:
            self.mean = np.pad(self.mean, ((0, 0), (0, len(mean) - self.horizon)))
            self.horizon = len(mean)
        self.raw[slot] = raw
        self.issued_ms[slot] = record.issued_at_ms
        self.latest[slot] = record.observed
        self.mean[slot, : len(mean)] = mean
        self.mean[slot, len(mean) :] = 0
        self.expected[slot] = sum(mean)
        cell = cells[np.nonzero(cells["start"] == start)[0][0]] if (cells["start"] == start).any() else None
        if cell is None or not quantiles:
            return
        levels = _nearest(tuple(quantiles))
        far = self.far_steps - 1
        for position, level in enumerate(levels):
            steps = quantiles[level]
            cell["near"][position] = steps[0]
            cell["far"][position] = steps[far] if far < len(steps) else np.nan

    @property
    def far_steps(self) -> int:
        """How many buckets ahead the farther of the kept forecasts looks."""
        return max(2, self.horizon // 4)

    def past(self, slot: int, buckets: int) -> Past:
        """The last closed buckets of an item.

        Args:
            slot: the item's.
            buckets: at most so many.
        """
        cells = self._sorted(slot)[-buckets:] if buckets else self._cells(slot)[:0]
        return Past(
            (cells["start"].astype(np.int64) * MINUTE_MS).tolist(),
            _clean(cells["observed"]),
            [_clean_or_none(row) for row in cells["near"]],
            [_clean_or_none(row) for row in cells["far"]],
            self.far_steps,
        )

    def spark(self, slot: int, buckets: int) -> list[float]:
        """Units of the last closed buckets of an item, oldest first; a bucket that nobody told of is 0.

        Args:
            slot: the item's.
            buckets: how many.
        """
        cells = self._cells(slot)
        size, issued = self.size_ms // MINUTE_MS, int(self.issued_ms[slot]) // MINUTE_MS
        # Local days may be an hour longer or shorter: the nearest place is theirs.
        places = buckets + np.rint((cells["start"].astype(np.int64) - issued) / size).astype(np.int64)
        fits = (cells["start"] != _EMPTY) & (places >= 0) & (places < buckets)
        units = np.zeros(buckets, dtype=np.float32)
        units[places[fits]] = cells["observed"][fits]
        return _clean(units)

    def forget(self, slot: int) -> None:
        """An item leaves.

        Args:
            slot: the item's.
        """
        if slot >= len(self.raw):
            return
        self.raw[slot] = None
        self.issued_ms[slot] = self.latest[slot] = self.observed[slot] = self.expected[slot] = 0
        self.mean[slot] = 0
        cells = self._cells(slot)
        cells["start"] = _EMPTY
        self._next[slot] = 0
        self.version += 1

    def expect(self, start_ms: int, steps: int) -> float | None:
        """Expected units of all items together, over some buckets.

        Args:
            start_ms: of the first, the newest issue or later.
            steps: how many buckets.

        Returns:
            None: no forecast reaches so far.
        """
        here = np.nonzero(self.issued_ms)[0]
        # Idle items are forecast now and then: theirs is a later step of an older forecast.
        first = np.rint((start_ms - self.issued_ms[here]) / self.size_ms).astype(np.int64)
        reached, total = False, 0.0
        for step in range(steps):
            wanted = first + step
            fits = (wanted >= 0) & (wanted < self.horizon)
            reached = reached or bool(fits.any())
            total += float(self.mean[here[fits], wanted[fits]].sum(dtype=np.float64))
        return total if reached else None

    def seen(self, start_ms: int, steps: int) -> float | None:
        """Units of all items together, over some closed buckets; None: not all of them are known.

        Args:
            start_ms: of the first.
            steps: how many buckets.
        """
        found = [self.totals.get(start_ms + step * self.size_ms) for step in range(steps)]
        return None if None in found else float(sum(value for value in found if value is not None))

    # ---- the past's cells

    def _cells(self, slot: int) -> NDArray[Any]:
        block, row = divmod(slot, _BLOCK)
        while block >= len(self._blocks):
            fresh = np.zeros((_BLOCK, self.history), dtype=_CELL)
            fresh["start"] = _EMPTY
            fresh["near"] = fresh["far"] = np.nan
            self._blocks.append(fresh)
        cells: NDArray[Any] = self._blocks[block][row]
        return cells

    def _sorted(self, slot: int) -> NDArray[Any]:
        cells = self._cells(slot)
        cells = cells[cells["start"] != _EMPTY]
        ordered: NDArray[Any] = cells[np.argsort(cells["start"], kind="stable")]
        return ordered

    def _observe(self, cells: NDArray[Any], slot: int, start: int, units: float) -> float:
        """Puts a bucket's units down; what stood there before."""
        starts = cells["start"]
        at = int(self._next[slot])
        if starts[at - 1] < start:  # the usual case: one later than the last
            cells[at] = (start, units, (np.nan,) * 3, (np.nan,) * 3)
            self._next[slot] = (at + 1) % self.history
            return 0.0
        known = np.nonzero(starts == start)[0]
        if not len(known):
            return units  # a correction of what is no longer kept: the total cannot be corrected either
        before = float(cells["observed"][known[0]])
        cells["observed"][known[0]] = units
        if start == starts.max():
            self.latest[slot] = units
        return before

    def _sum_of_last(self, cells: NDArray[Any], slot: int) -> float:
        since = (int(self.issued_ms[slot]) - self.horizon * self.size_ms) // MINUTE_MS
        return float(cells["observed"][cells["start"] >= since].sum(dtype=np.float64))

    def _add_total(self, start_ms: int, units: float) -> None:
        self.totals[start_ms] = self.totals.get(start_ms, 0.0) + units
        if start_ms > self.newest_start_ms:
            self.newest_start_ms = start_ms
            if len(self.totals) > 4 * _KEEP_TOTALS.get(self.bucket, 400):
                for old in sorted(self.totals)[: -2 * _KEEP_TOTALS.get(self.bucket, 400)]:
                    del self.totals[old]


_KEEP_TOTALS = {"1m": 11_000, "5m": 2_200, "15m": 800, "1h": 200}
"""Buckets that reach back a week."""


def _nearest(levels: tuple[str, ...]) -> tuple[str, ...]:
    found = _NEAREST.get(levels)
    if found is None:
        found = _NEAREST[levels] = tuple(min(levels, key=lambda text: abs(float(text) - level)) for level in LEVELS)
        if len(_NEAREST) > 64:
            _NEAREST.clear()
    return found


_NEAREST: dict[tuple[str, ...], tuple[str, ...]] = {}


def _clean(values: NDArray[Any]) -> list[float]:
    """float32 as the shortest float64 that prints the same."""
    return [float(f"{value:.7g}") for value in values.tolist()]


def _clean_or_none(values: NDArray[Any]) -> list[float | None]:
    return [None if value != value else float(f"{value:.7g}") for value in values.tolist()]
