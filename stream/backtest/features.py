"""What a regression may know of (item, issue, step): lags, rolling statistics, calendar, known columns at the step, what an item is.

Everything of an issue at column `origin` comes from columns before it, but for the known columns and the calendar of the step forecast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stream.backtest.data import Floats, Ints, View
from stream.engine.time import DAY_MS, HOUR_MS

Float32 = NDArray[np.float32]

_MOST_CODES = 2_000
_WINDOWS = (2, 4, 8, 13, 28, 56, 84)
_LAGS = 8
_SHARES = (0.25, 0.5, 0.75, 0.9, 0.97)


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows for a regression."""

    x: Float32
    """float32[n, features], NaN where unknown."""
    level: Floats
    """float64[n], the item's mean over its last known steps at the issue: what its demand is relative to."""
    y: Floats
    """float64[n], units; NaN where unknown."""


class Features:
    """The features of one view.

    Args:
        view: of the round.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        y = view.y
        self._known = np.isfinite(y)
        filled = np.where(self._known, y, 0.0)
        zero = np.zeros((len(y), 1))
        self._sum = np.hstack([zero, np.cumsum(filled, axis=1)])
        self._count = np.hstack([zero, np.cumsum(self._known, axis=1)])
        self._squares = np.hstack([zero, np.cumsum(filled * filled, axis=1)])
        self._sold = np.hstack([zero, np.cumsum(filled > 0, axis=1)])
        place = np.where(filled > 0, np.arange(y.shape[1])[None, :], -1)
        self._last_sale = np.hstack([np.full((len(y), 1), -1), np.maximum.accumulate(place, axis=1)])
        shop = filled.sum(axis=0)
        self._shop = np.concatenate([[0.0], np.cumsum(shop)])
        self.codes = self._codes()

    def samples(self, origins: Sequence[int], steps: Sequence[int]) -> Samples:
        """Rows for all items, each origin, each step: in the order origin, step, item.

        Args:
            origins: columns; what lies before one is known there.
            steps: steps ahead of an origin, from 0 on (the view's gap counted in).
        """
        x, level, y = [], [], []
        for origin in origins:
            now, mean = self._at(origin)
            for ahead in steps:
                column = origin + ahead
                x.append(np.hstack([now, self._ahead(origin, column, mean), self.codes]))
                level.append(mean)
                y.append(self.view.y[:, column] if column < self.view.end else np.full(len(mean), np.nan))
        return Samples(np.concatenate(x), np.concatenate(level), np.concatenate(y))

    @property
    def categorical(self) -> list[int]:
        """Which features are codes; they stand last."""
        width = self.samples([self.view.end], [self.view.gap]).x.shape[1]
        return list(range(width - self.codes.shape[1], width))

    def _mean(self, origin: int, window: int, what: Floats) -> Floats:
        low = max(0, origin - window)
        count = self._count[:, origin] - self._count[:, low]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((what[:, origin] - what[:, low]) / np.where(count > 0, count, np.nan))

    def _at(self, origin: int) -> tuple[Float32, Floats]:
        """Of the issue: float32[items, features], and each item's level."""
        y = self.view.y
        window = max(28, min(56, 2 * self.view.season)) if self.view.season > 1 else 28
        level = self._mean(origin, window, self._sum)
        level = np.where(np.isnan(level), self._mean(origin, origin, self._sum), level)
        base = np.where(level > 0, level, np.nan)
        columns = [np.log1p(level), self._count[:, origin]]
        columns += [_relative(y[:, origin - lag], base) if lag <= origin else np.full(len(y), np.nan) for lag in range(1, _LAGS + 1)]
        means = [self._mean(origin, width, self._sum) for width in _WINDOWS]
        columns += [_relative(mean, base) for mean in means]
        columns += [self._mean(origin, width, self._sold) for width in (7, 28, 84)]
        variance = np.maximum(self._mean(origin, 56, self._squares) - self._mean(origin, 56, self._sum) ** 2, 0)
        columns.append(np.sqrt(variance) / base)
        columns.append(origin - self._last_sale[:, origin].astype(np.float64))
        low = max(0, origin - 84)
        with np.errstate(invalid="ignore"):
            ordered = np.sort(y[:, low:origin], axis=1)
        count = np.isfinite(ordered).sum(axis=1)
        for share in _SHARES:
            at = np.clip(np.ceil(share * count).astype(np.int64) - 1, 0, max(0, ordered.shape[1] - 1))
            value = ordered[np.arange(len(y)), at] if ordered.shape[1] else np.full(len(y), np.nan)
            columns.append(_relative(value, base))
        shop = [(self._shop[origin] - self._shop[max(0, origin - width)]) / max(1, min(width, origin)) for width in (7, 56)]
        columns.append(np.full(len(y), shop[0] / shop[1] if shop[1] > 0 else np.nan))
        for values in self.view.past.values():
            columns += [values[:, origin - lag] if lag <= origin else np.full(len(y), np.nan) for lag in (1, 2)]
        return np.column_stack(columns).astype(np.float32), np.where(np.isnan(level), 0.0, level)

    def _ahead(self, origin: int, column: int, level: Floats) -> Float32:
        """Of the step: float32[items, features]."""
        y, season = self.view.y, self.view.season
        items = len(y)
        base = np.where(level > 0, level, np.nan)
        columns = [np.full(items, float(column - origin))]
        columns += [np.full(items, value) for value in self._calendar[column]]
        if season > 1:
            newest = column - season * -(-(column - origin + 1) // season)
            for back in range(3):
                at = newest - back * season
                columns.append(_relative(y[:, at], base) if at >= 0 else np.full(items, np.nan))
            if season <= 31:
                same = y[:, newest % season : newest + 1 : season][:, -8:] if newest >= 0 else np.full((items, 1), np.nan)
                count = np.isfinite(same).sum(axis=1)
                columns.append(_relative(np.where(count > 0, np.nansum(same, axis=1) / np.maximum(count, 1), np.nan), base))
                shop = np.nansum(self._filled[:, newest % season : newest + 1 : season][:, -4:]) if newest >= 0 else np.nan
                columns.append(np.full(items, float(shop > 0)))
        for values, kind in self._columns:
            value = values[:, column]
            before = values[:, column - 1] if column else np.full(items, np.nan)
            columns.append(value)
            if kind == "flag":
                columns += [before, self._conditional(values, origin, value) / base]
            else:
                low = max(0, origin - 26)
                seen = values[:, low:origin]
                count = np.isfinite(seen).sum(axis=1)
                usual = np.where(count > 0, np.nansum(seen, axis=1) / np.maximum(count, 1), np.nan)
                with np.errstate(invalid="ignore", divide="ignore"):
                    columns += [
                        value / usual,
                        value / before,
                        value / np.nanmax(np.where(np.isfinite(seen), seen, -np.inf), axis=1, initial=-np.inf),
                    ]
        return np.column_stack(columns).astype(np.float32)

    def _conditional(self, values: Floats, origin: int, value: Floats) -> Floats:
        """float64[items], the mean of an item's past steps at which a flag stood as it will."""
        same = self._known[:, :origin] & (values[:, :origin] == value[:, None])
        count = same.sum(axis=1)
        return np.asarray(np.where(count > 0, (self._filled[:, :origin] * same).sum(axis=1) / np.maximum(count, 1), np.nan))

    @cached_property
    def _filled(self) -> Floats:
        return np.where(self._known, self.view.y, 0.0)

    @cached_property
    def _columns(self) -> list[tuple[Floats, str]]:
        """Known columns, and whether each is a flag (two values at most) or a number."""
        found = []
        for values in self.view.known.values():
            seen = values[:, : self.view.end]
            distinct = np.unique(seen[np.isfinite(seen)])
            found.append((np.asarray(values), "flag" if len(distinct) <= 2 else "number"))
        return found

    @cached_property
    def _calendar(self) -> Floats:
        """float64[columns, features], of the local calendar; only the place in the season where times are numbers."""
        columns = np.arange(self.view.end + self.view.gap + self.view.horizon)
        features = []
        enough = self.view.end >= 2 * self.view.season
        if self.view.season > 1 and enough:
            features.append(columns % self.view.season)
        if not self.view.frequency.numbers:
            local = self.view.zone.to_local_ms(self.view.start_ms) + HOUR_MS // 2
            days = local // DAY_MS
            months = days.astype("datetime64[D]").astype("datetime64[M]")
            if self.view.frequency.unit in ("min", "h"):
                features.append(local % DAY_MS // HOUR_MS)
            if self.view.frequency.unit in ("min", "h", "D"):
                features += [(days + 3) % 7, days - months.astype("datetime64[D]").astype(np.int64)]
            if (self.view.start_ms[self.view.end - 1] - self.view.start_ms[0]) >= 400 * DAY_MS:
                features.append(days - days.astype("datetime64[D]").astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64))
        return np.array(features, dtype=np.float64).T if features else np.zeros((len(columns), 0))

    def _codes(self) -> Float32:
        """float32[items, codes], what an item is, and the parts of its key where several make it."""
        texts = list(self.view.static.values())
        parts = list(zip(*(item.split(":") for item in self.view.items), strict=True)) if _even(self.view.items) else []
        if len(parts) > 1:
            texts += [tuple(part) for part in parts]
        found: list[Ints] = []
        for values in texts:
            distinct, code = np.unique(np.array(values), return_inverse=True)
            if 1 < len(distinct) <= _MOST_CODES:
                found.append(code.astype(np.int64))
        return np.column_stack(found).astype(np.float32) if found else np.zeros((len(self.view.items), 0), np.float32)


def _even(items: Sequence[str]) -> bool:
    return len({item.count(":") for item in items}) == 1


def _relative(value: Floats, base: Floats) -> Floats:
    """A value against the item's level, on a scale that zero has a place on."""
    return np.asarray(np.log1p(value / base))
