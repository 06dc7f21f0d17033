"""One bucket size of all items as columns: the newest forecast of each, and a bounded past.

Rows are slots, given out by stream.serve.items. An item of a size takes 32 bytes for each closed bucket that is kept (4 of them its
observation, the others two past forecasts), 4 for each step of its horizon, some 60 for the rest, and the newest record as it came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.engine.time import MINUTE_MS, SIZES

LEVELS = (0.1, 0.5, 0.9)
"""Of the low, the middle and the high; of the configured levels, those nearest to them."""

_LEAST_SLOTS = 1024
_EMPTY = 0
"""The start of a cell that holds nothing: 1970."""


class DemandRecord(msgspec.Struct, frozen=True, gc=False):
    """What is read of a record of `demand`."""

    item: str
    bucket: str
    bucket_start_ms: int
    issued_at_ms: int
    observed: float = 0.0
    mean: list[float] | None = None
    quantiles: Any = None
    """Those that are kept: `low`, `middle`, `high`, each a number a step, or None."""
    model_version: str = ""


def demand_decoder(levels: Sequence[float]) -> msgspec.json.Decoder[DemandRecord]:
    """Reads of a record what is kept of it: three quantiles of nine, so half the numbers are passed over.

    Args:
        levels: the configured ones.
    """
    near = [min(levels, key=lambda level: abs(level - wanted)) for wanted in LEVELS]
    names = dict(zip(("low", "middle", "high"), map(str, near), strict=True))
    if len(set(names.values())) < len(names):  # so few are configured that one stands for two
        names = {"middle": names["middle"]}
    quantiles = msgspec.defstruct("Quantiles", [(name, list[float] | None, None) for name in names], rename=names, frozen=True, gc=False)
    record = msgspec.defstruct("Record", [("quantiles", quantiles | None, None)], bases=(DemandRecord,), frozen=True, gc=False)
    return msgspec.json.Decoder(record)


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
        self._starts = np.zeros((0, history), dtype=np.int32)
        """int32[slots, history], the past's buckets by their starts in minutes; a ring for each item."""
        self._units = np.zeros((0, history), dtype=np.float32)
        self._near = np.zeros((0, history, 3), dtype=np.float32)
        """Low, middle and high of what was forecast, at the bucket's end, for the next bucket."""
        self._far = np.zeros((0, history, 3), dtype=np.float32)
        """The same for the bucket `far_steps` ahead."""
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
        more = max(slots, 2 * have, _LEAST_SLOTS) - have
        self.raw.extend([None] * more)
        # Zeros that nobody touches take no memory, so doubling costs a copy and nothing more.
        for name in ("issued_ms", "latest", "observed", "expected", "mean", "_starts", "_units", "_near", "_far", "_next"):
            column = getattr(self, name)
            longer = np.zeros((have + more, *column.shape[1:]), dtype=column.dtype)
            longer[:have] = column
            setattr(self, name, longer)

    def take(self, slots: Sequence[int], records: Sequence[DemandRecord], raws: Sequence[bytes]) -> None:
        """Takes records of one bucket, of different items.

        Args:
            slots: the items'.
            records: read from `raws`; the same bucket_start_ms in all.
            raws: as they came.
        """
        self.grow(max(slots) + 1)
        self.version += 1
        start_ms = records[0].bucket_start_ms
        start = start_ms // MINUTE_MS
        rows = np.array(slots, dtype=np.intp)
        units = np.array([record.observed for record in records])
        last = self._starts[rows, self._next[rows] - 1]
        fresh = last < start
        if fresh.all():
            self._append(rows, start, units)
            added = float(units.sum())
        else:
            self._append(rows[fresh], start, units[fresh])
            added = float(units[fresh].sum())
            for slot, value in zip(rows[~fresh].tolist(), units[~fresh].tolist(), strict=True):
                added += self._correct(slot, start, value)
        if fresh.any() or start_ms in self.totals:
            self._add_total(start_ms, added)
        forecasts = [i for i, record in enumerate(records) if record.mean and record.issued_at_ms >= self.issued_ms[slots[i]]]
        if forecasts:
            self._forecast([slots[i] for i in forecasts], [records[i] for i in forecasts], [raws[i] for i in forecasts], start)
        since = (self.issued_ms[rows] - self.horizon * self.size_ms) // MINUTE_MS
        recent = self._starts[rows] >= np.maximum(since, 1)[:, None]
        self.observed[rows] = np.where(recent, self._units[rows], 0).sum(axis=1, dtype=np.float64)

    def _append(self, rows: NDArray[np.intp], start: int, units: NDArray[np.float64]) -> None:
        at = self._next[rows]
        self._starts[rows, at] = start
        self._units[rows, at] = units
        self._near[rows, at] = np.nan
        self._far[rows, at] = np.nan
        self._next[rows] = (at + 1) % self.history

    def _correct(self, slot: int, start: int, units: float) -> float:
        """Puts down what a bucket that is known already holds now; returns the difference."""
        known = np.nonzero(self._starts[slot] == start)[0]
        if not len(known):
            return 0.0  # no longer kept: by how much it changes cannot be said
        at = int(known[0])
        before = float(self._units[slot, at])
        self._units[slot, at] = units
        if start == self._starts[slot].max():
            self.latest[slot] = units
        return units - before

    def _forecast(self, slots: list[int], records: list[DemandRecord], raws: list[bytes], start: int) -> None:
        longest = max(len(record.mean or ()) for record in records)
        if longest > self.horizon:
            self.mean = np.pad(self.mean, ((0, 0), (0, longest - self.horizon)))
            self.horizon = longest
        rows = np.array(slots, dtype=np.intp)
        for slot, raw in zip(slots, raws, strict=True):
            self.raw[slot] = raw
        self.issued_ms[rows] = [record.issued_at_ms for record in records]
        self.latest[rows] = [record.observed for record in records]
        mean = _matrix([record.mean or [] for record in records], self.horizon, 0.0)
        self.mean[rows] = mean
        self.expected[rows] = mean.sum(axis=1)
        here, at = np.nonzero(self._starts[rows] == start)
        far = min(self.far_steps, self.horizon) - 1
        for place, name in enumerate(("low", "middle", "high")):
            steps = _matrix([getattr(record.quantiles, name, None) or [] for record in records], self.horizon, np.nan)
            self._near[rows[here], at, place] = steps[here, 0]
            self._far[rows[here], at, place] = steps[here, far]

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
        starts = self._starts[slot]
        order = np.argsort(starts, kind="stable")
        order = order[starts[order] != _EMPTY]
        order = order[max(0, len(order) - buckets) :]
        return Past(
            (starts[order].astype(np.int64) * MINUTE_MS).tolist(),
            _clean(self._units[slot, order]),
            [_clean_or_none(row) for row in self._near[slot, order]],
            [_clean_or_none(row) for row in self._far[slot, order]],
            self.far_steps,
        )

    def spark(self, slot: int, buckets: int) -> list[float]:
        """Units of the last closed buckets of an item, oldest first; a bucket that nobody told of is 0.

        Args:
            slot: the item's.
            buckets: how many.
        """
        starts = self._starts[slot]
        size, issued = self.size_ms // MINUTE_MS, int(self.issued_ms[slot]) // MINUTE_MS
        # Local days may be an hour longer or shorter: the nearest place is theirs.
        places = buckets + np.rint((starts.astype(np.int64) - issued) / size).astype(np.int64)
        fits = (starts != _EMPTY) & (places >= 0) & (places < buckets)
        units = np.zeros(buckets, dtype=np.float32)
        units[places[fits]] = self._units[slot, fits]
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
        self._starts[slot] = _EMPTY
        self._next[slot] = 0
        self.version += 1

    def expect(self, start_ms: int, steps: int) -> list[float]:
        """Expected units of all items together.

        Args:
            start_ms: of the first bucket.
            steps: how many buckets.

        Returns:
            A bucket each, as far as the newest forecasts reach.
        """
        here = np.nonzero(self.issued_ms)[0]
        # Idle items are forecast now and then: theirs is a later step of an older forecast.
        first = np.rint((start_ms - self.issued_ms[here]) / self.size_ms).astype(np.int64)
        sums = np.zeros(steps)
        reach = 0
        for ahead in np.unique(first[(first > -steps) & (first < self.horizon)]).tolist():
            low, high = max(ahead, 0), min(ahead + steps, self.horizon)
            sums[low - ahead : high - ahead] += self.mean[here[first == ahead], low:high].sum(axis=0, dtype=np.float64)
            reach = max(reach, high - ahead)
        return [float(f"{value:.7g}") for value in sums[:reach].tolist()]

    def seen(self, start_ms: int, steps: int) -> float | None:
        """Units of all items together, over some closed buckets; None: not all of them are known.

        Args:
            start_ms: of the first.
            steps: how many buckets.
        """
        found = [self.totals.get(start_ms + step * self.size_ms) for step in range(steps)]
        return None if None in found else float(sum(value for value in found if value is not None))

    def seen_before(self, end_ms: int, buckets: int) -> tuple[list[int], list[float]]:
        """Units of all items together in the last closed buckets, oldest first.

        Args:
            end_ms: where they end.
            buckets: at most so many.
        """
        starts = sorted(start for start in self.totals if start < end_ms)[-buckets:] if buckets else []
        return starts, [float(f"{self.totals[start]:.7g}") for start in starts]

    def _add_total(self, start_ms: int, units: float) -> None:
        self.totals[start_ms] = self.totals.get(start_ms, 0.0) + units
        if start_ms > self.newest_start_ms:
            self.newest_start_ms = start_ms
            if len(self.totals) > 4 * _KEEP_TOTALS.get(self.bucket, 400):
                for old in sorted(self.totals)[: -2 * _KEEP_TOTALS.get(self.bucket, 400)]:
                    del self.totals[old]


_KEEP_TOTALS = {"1m": 11_000, "5m": 2_200, "15m": 800, "1h": 200}
"""Buckets that reach back a week."""


def _matrix(rows: list[list[float]], width: int, missing: float) -> NDArray[np.float64]:
    """float64[rows, width]; rows that are shorter are filled up."""
    if all(len(row) == width for row in rows):
        return np.array(rows, dtype=np.float64).reshape(len(rows), width)
    return np.array([row[:width] + [missing] * (width - len(row)) for row in rows], dtype=np.float64).reshape(len(rows), width)


def _clean(values: NDArray[Any]) -> list[float]:
    """float32 as the shortest float64 that prints the same."""
    return [float(f"{value:.7g}") for value in values.tolist()]


def _clean_or_none(values: NDArray[Any]) -> list[float | None]:
    return [None if value != value else float(f"{value:.7g}") for value in values.tolist()]
