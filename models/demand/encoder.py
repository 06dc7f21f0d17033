"""What the global network sees of an item, its past and the steps ahead: scale-free columns, computed the same live and in training.

Everything reads a Window, so a column can only know what had closed or been announced when the window's bucket closed.
Rows are computed elementwise: a row's bits do not depend on which others are encoded with it. Group means (what the neighbours in
a category do) come from the panel's rings over all slots, not from the rows asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.demand.expert import lag_steps, season_length
from models.demand.window import Window
from models.protocol import CALENDAR, DemandSpec, Float32, Ints

_SOFT = np.float32(0.1)
"""Added within the logarithm of the network's scale: at a tenth of the level one unit more or less stops mattering."""
_TINY = np.float32(0.05)
_KNOWN_LAGS = 8
_HASHES = 1 << 20
"""Statics travel as float32 columns, exact up to 2^24."""
_NEAR = np.float32(0.06)
_USUAL_PRICE, _RATIO = np.float32(0.3), np.float32(3)
"""What logarithms of prices and of their ratios are multiplied with."""
_OTHER_FLAG = np.float32(1.6)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns there are: fixed when a network is trained, stored with it."""

    lags: int
    means: tuple[int, ...]
    """Lengths in buckets of the recent means, ascending; the last but one is the scale's."""
    seasons: tuple[int, ...]
    horizon: int
    known: tuple[str, ...] = ()
    """Covariates that may be known ahead."""
    positive: tuple[str, ...] = ()
    """Those of them that are prices: always above zero, compared as ratios."""
    past: tuple[str, ...] = ()
    statics: tuple[str, ...] = ()

    @property
    def own(self) -> int:
        """Columns that are an item's own, the statics' hashes not counted."""
        return self._first_known + len(self.known) * (_KNOWN_LAGS + 2) + 3 * len(self.past)

    @property
    def _first_known(self) -> int:
        """The first own column of a covariate known ahead."""
        return self.lags + 2 * len(self.means) + 6 + len(_OWN_LEVELS)

    @property
    def _first_told(self) -> int:
        """The first column of a step of a covariate known ahead."""
        return 2 + len(CALENDAR) + 6 + 3 * len(self.seasons) + 2

    @property
    def usual(self) -> list[int]:
        """Of each covariate known ahead, the own column that tells what it usually is: see raw_known()."""
        return [self._first_known + number * (_KNOWN_LAGS + 2) + _KNOWN_LAGS for number in range(len(self.known))]

    @property
    def against_usual(self) -> list[int]:
        """Of each covariate known ahead, the step's column that compares it with what it usually is."""
        return [self._first_told + number * (4 + len(self.statics)) for number in range(len(self.known))]

    @property
    def year(self) -> tuple[int, ...]:
        """Columns of a step that tell the day of the year."""
        sine = 2 + CALENDAR.index("year_sin")
        harmonics = 2 + len(CALENDAR)
        return sine, sine + 1, harmonics + 4, harmonics + 5

    @property
    def step(self) -> int:
        """Columns of each step."""
        known = len(self.known) * (4 + len(self.statics)) + (2 if self.known else 0)
        return self._first_told + known

    @property
    def width(self) -> int:
        """Columns of a row: statics, own, then the steps."""
        return len(self.statics) + self.own + self.horizon * self.step

    @property
    def scale_length(self) -> int:
        """Buckets over which an item's size is taken."""
        return self.means[-2]

    @property
    def lookback(self) -> int:
        """Closed buckets that encoding reads."""
        lags = [season * -(-self.horizon // season) + 1 for season in self.seasons]
        weeks = [season * (_POSITIONS + -(-self.horizon // season)) for season in self.seasons if season <= 31]
        return max([self.lags, self.means[-1], *lags, *weeks]) + _BRIDGED


_OWN_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97)
"""Levels of an item's own quantiles over the scale's buckets."""
_BRIDGED = 4
"""So many buckets that say nothing are bridged with the one before them."""
_POSITIONS = 6
"""Earlier buckets of the same place in a short season, whose mean is a column."""


def layout_of(
    spec: DemandSpec,
    known: Mapping[str, bool] | None = None,
    past: tuple[str, ...] = (),
    statics: tuple[str, ...] = (),
) -> Layout:
    """The columns for what is forecast and what there is to know.

    Args:
        spec: what is forecast.
        known: covariates by name, and whether they are prices.
        past: names of what is counted beside units.
        statics: names of what items are.
    """
    short = season_length(spec)
    return Layout(
        lags=int(np.clip(2 * short, 12, 28)),
        means=(max(2, short // 2), short, 2 * short, 4 * short, 8 * short),
        seasons=tuple(sorted(set(spec.seasons))),
        horizon=spec.horizon,
        known=tuple(sorted(known or ())),
        positive=tuple(sorted(name for name, price in (known or {}).items() if price)),
        past=tuple(sorted(past)),
        statics=tuple(sorted(statics)),
    )


Usual = Mapping[str, tuple[Float32, NDArray[np.bool_]]]
"""By covariate its mean over the scale's buckets, and whether it has been told for any of them."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows for the network."""

    rows: Float32
    """float32[n, width]."""
    scale: Float32
    """float32[n], units a bucket; what outputs are relative to."""


def to_scale(units: Float32, scale: Float32) -> Float32:
    """The network's own scale of demand: log((units + 1) / (scale + 1) + 0.1), so that -1 is where a count's jittered values begin.

    Args:
        units: float32, at least -1.
        scale: float32, broadcast against units.
    """
    return np.asarray(np.log((units + np.float32(1)) / (scale + np.float32(1)) + _SOFT), dtype=np.float32)


def from_scale(values: Float32, scale: Float32) -> Float32:
    """Units of values on the network's scale; at least -1.

    Args:
        values: float32.
        scale: float32, broadcast against values.
    """
    return np.asarray(np.maximum(np.exp(values) - _SOFT, np.float32(0)) * (scale + np.float32(1)) - np.float32(1), dtype=np.float32)


class Encoder:
    """Computes a layout's columns."""

    def __init__(self, layout: Layout) -> None:
        """Takes what to compute.

        Args:
            layout: the columns.
        """
        self.layout = layout

    def encode(self, window: Window) -> Encoded:
        """Rows of a window's items.

        Args:
            window: at any closed bucket that leaves `lookback` ones in the ring.
        """
        layout, n = self.layout, len(window)
        past = _Past(window, layout.means[-1])
        scale = past.mean(layout.scale_length)
        rows = np.empty((layout.width, n), np.float32)
        at = 0
        for name in layout.statics:
            hashes = window.panel.statics.get(name)
            rows[at] = 0 if hashes is None else hashes[window.slots] % _HASHES
            at += 1
        usual = {name: self._usual(window, name) for name in layout.known}
        for values in self._own(window, past, scale, usual):
            rows[at] = values
            at += 1
        assert at == len(layout.statics) + layout.own, (at, layout)
        for values in self._steps(window, past, scale, usual):
            rows[at] = values
            at += 1
        assert at == layout.width, (at, layout.width)
        return Encoded(np.ascontiguousarray(rows.T), scale)

    # -- the item's own ----------------------------------------------------------------------------------------------

    def _own(self, window: Window, past: _Past, scale: Float32, usual: Usual) -> list[Float32]:
        layout = self.layout
        out = [to_scale(past.filled(lag), scale) for lag in range(layout.lags)]
        for length in layout.means:
            out.append(np.log((past.mean(length) + _TINY) / (scale + _TINY)))
            out.append(past.zeros(length))
        out.append(np.log(scale + _TINY) * np.float32(0.25))
        out.append(np.log1p(past.spread(layout.scale_length, scale)))
        out.append(np.log1p(past.silence()) * np.float32(0.5))
        out.append(np.log1p(np.clip(window.age(), 0, 10_000).astype(np.float32)) * np.float32(0.2))
        out.append(to_scale(past.largest(layout.scale_length), scale))
        out.append(past.lived(layout.scale_length))
        out.extend(to_scale(values, scale) for values in past.quantiles(layout.scale_length))
        for name in layout.known:
            out.extend(self._known_own(window, name, *usual[name]))
        for name in layout.past:
            out.extend(self._past_own(window, name, scale))
        return out

    def _known_own(self, window: Window, name: str, usual: Float32, seen: NDArray[np.bool_]) -> list[Float32]:
        price = name in self.layout.positive
        out = [_compared(self._value(window, name, window.closed - lag, usual), usual, price) for lag in range(_KNOWN_LAGS)]
        out.append(np.log(np.maximum(usual, np.float32(1e-6))) * _USUAL_PRICE if price else np.clip(usual, -10, 10).astype(np.float32))
        out.append(seen.astype(np.float32))
        return out

    def _past_own(self, window: Window, name: str, scale: Float32) -> list[Float32]:
        short, long = self.layout.means[1], self.layout.scale_length
        means = {}
        total, count = np.zeros(len(window), np.float32), np.zeros(len(window), np.float32)
        if name in window.panel.past:
            for lag in range(long):
                value = window.past(name, window.closed - lag)
                there = ~np.isnan(value)  # of a mean, such as a rating, a bucket without any says nothing
                total = total + np.where(there, value, np.float32(0))
                count = count + there
                if lag + 1 in (1, short, long):
                    means[lag + 1] = total / np.maximum(count, np.float32(1))
        newest, recent, usual = (means.get(length, total) for length in (1, short, long))
        return [
            np.log((newest + _TINY) / (usual + _TINY)),
            np.log((recent + _TINY) / (usual + _TINY)),
            np.clip(np.log((usual + _TINY) / (scale + _TINY)) * np.float32(0.3), -3, 3).astype(np.float32),
        ]

    # -- the steps ---------------------------------------------------------------------------------------------------

    def _steps(self, window: Window, past: _Past, scale: Float32, usual: Usual) -> list[Float32]:
        layout, n = self.layout, len(window)
        lowest = {name: self._extreme(window, name) for name in layout.known}
        positions = {season: _Positions(past, season) for season in layout.seasons if season <= 31}
        told = [  # of the newest bucket, then of the steps
            {name: self._value(window, name, window.closed + step, usual[name][0]) for name in layout.known}
            for step in range(layout.horizon + 1)
        ]
        alike = self._alike(window, past, scale, told[1:], usual) if layout.known else []
        out: list[Float32] = []
        for step in range(1, layout.horizon + 1):
            bucket = window.closed + step
            out.append(_full(n, step / layout.horizon))
            out.append(_full(n, np.log1p(step) * 0.3))
            calendar = window.calendar(step)
            out.extend(_full(n, value) for value in calendar)
            out.extend(_full(n, value) for value in _harmonics(calendar))
            for season in layout.seasons:
                lag = int(lag_steps(season, step)[-1])
                out.append(to_scale(past.filled(-lag), scale))
                out.append(past.counts(-lag))
                out.append(positions[season](step, scale) if season in positions else past.around(-lag, scale))
            out.append(_full(n, float(window.shut(bucket))))
            out.append(_full(n, float(window.shut(bucket - 1))))
            if layout.known:
                out.extend(self._known_step(window, told, step, usual, lowest))
                like, weight = alike[step - 1]
                out.append(like)
                out.append(np.log(weight + np.float32(0.1)))
        return out

    def _known_step(
        self, window: Window, told: Sequence[Mapping[str, Float32]], step: int, usual: Usual, lowest: Mapping[str, Float32]
    ) -> list[Float32]:
        layout = self.layout
        out: list[Float32] = []
        for name in layout.known:
            value, price = told[step][name], name in layout.positive
            out.append(_compared(value, usual[name][0], price))
            out.append(_compared(value, told[0][name], price))
            out.append(_compared(value, told[step - 1][name], price))
            out.append(_compared(value, lowest[name], price))
            for static in layout.statics:
                out.append(_compared(value, self._group(window, name, static, window.closed + step, value), price))
        return out

    def _alike(
        self, window: Window, past: _Past, scale: Float32, ahead: Sequence[Mapping[str, Float32]], usual: Usual
    ) -> list[tuple[Float32, Float32]]:
        """For each step: demand in past buckets whose covariates were like the step's, weighted by how like they were; and the weight."""
        totals, weights = (np.zeros((len(ahead), len(window)), np.float32) for _ in range(2))
        for lag in range(self.layout.scale_length):
            then = {name: self._value(window, name, window.closed - lag, usual[name][0]) for name in self.layout.known}
            counts, demand = past.counts(lag), to_scale(past.filled(lag), scale)
            for step, values in enumerate(ahead):
                far = np.zeros(len(window), np.float32)
                for name in self.layout.known:
                    if name in self.layout.positive:
                        far += np.abs(_compared(then[name], values[name], True)) / (_RATIO * _NEAR)
                    else:
                        far += np.abs(then[name] - values[name]) * _OTHER_FLAG
                near = np.exp(-far) * counts
                totals[step] += near * demand
                weights[step] += near
        prior = to_scale(scale, scale)
        return [
            ((total + np.float32(0.3) * prior) / (weight + np.float32(0.3)), weight) for total, weight in zip(totals, weights, strict=True)
        ]

    # -- covariates --------------------------------------------------------------------------------------------------

    def _value(self, window: Window, name: str, bucket: int, usual: Float32) -> Float32:
        """float32[n], a covariate in a bucket; as usual (0 for an event) where nothing is known."""
        if name not in window.panel.known:
            return np.zeros(len(window), np.float32)
        value = window.known(name, bucket)
        return np.asarray(np.where(np.isnan(value), usual, value), dtype=np.float32)

    def _usual(self, window: Window, name: str) -> tuple[Float32, NDArray[np.bool_]]:
        """Mean over the scale's buckets, and whether the covariate has been told for any of them.

        What is no price and was told for less than half of an item's buckets is an event: holidays, a storm. It is usually off, and where
        nothing is told it is.
        """
        n = len(window)
        if name not in window.panel.known:
            return np.zeros(n, np.float32), np.zeros(n, np.bool_)
        total, count = np.zeros(n, np.float32), np.zeros(n, np.float32)
        for lag in range(self.layout.scale_length):
            value = window.known(name, window.closed - lag)
            there = ~np.isnan(value)
            total += np.where(there, value, np.float32(0))
            count += there
        mean = total / np.maximum(count, np.float32(1))
        if name not in self.layout.positive:
            lived = np.clip(window.age(), 1, self.layout.scale_length).astype(np.float32)
            mean = np.where(count * 2 < lived, np.float32(0), mean)
        return mean.astype(np.float32), count > 0

    def _extreme(self, window: Window, name: str) -> Float32:
        """The lowest price, or the largest other value, of the scale's buckets."""
        n = len(window)
        if name not in window.panel.known:
            return np.zeros(n, np.float32)
        price = name in self.layout.positive
        out = np.full(n, np.nan, np.float32)
        for lag in range(self.layout.scale_length):
            value = window.known(name, window.closed - lag)
            out = np.fmin(out, value) if price else np.fmax(out, value)
        return np.nan_to_num(out, nan=0.0)

    def _group(self, window: Window, name: str, static: str, bucket: int, own: Float32) -> Float32:
        """float32[n], the covariate's mean in that bucket over all items of the same static; the item's own where none is known."""
        panel = window.panel
        if name not in panel.known or static not in panel.statics:
            return own
        code, mean = _means(panel.statics[static], window.all_of(name, bucket))
        if not len(code):
            return own
        mine = panel.statics[static][window.slots]
        found = np.minimum(np.searchsorted(code, mine), len(code) - 1)
        return np.asarray(np.where(code[found] == mine, mean[found], own), dtype=np.float32)


class _Past:
    """Past buckets of a window's items as the network wants them: open ones with stock count, others repeat the one before."""

    def __init__(self, window: Window, depth: int) -> None:
        self.window = window
        self.depth = depth
        self._counts: dict[int, Float32] = {}
        self._filled: dict[int, Float32] = {}
        self._sums: dict[int, tuple[Float32, Float32, Float32]] = {}

    def counts(self, lag: int) -> Float32:
        """float32[n], 1 where the bucket so many before the newest says what was wanted: after first seen, open, with stock."""
        found = self._counts.get(lag)
        if found is None:
            bucket = self.window.closed - lag
            if self.window.shut(bucket):
                found = np.zeros(len(self.window), np.float32)
            else:
                found = ((self.window.first <= bucket) & (self.window.censored(bucket) < np.float32(0.5))).astype(np.float32)
            self._counts[lag] = found
        return found

    def filled(self, lag: int) -> Float32:
        """float32[n], units; of a bucket that does not count those of the last one before it that does (within a few), else its own."""
        known = self._filled.get(lag)
        if known is not None:
            return known
        value = self.window.row(self.window.closed - lag)
        there = self.counts(lag) > 0
        for back in range(1, _BRIDGED + 1):
            if there.all():
                break
            older = self.counts(lag + back) > 0
            value = np.where(~there & older, self.window.row(self.window.closed - lag - back), value)
            there = there | older
        self._filled[lag] = value
        return value

    def _sum(self, length: int) -> tuple[Float32, Float32, Float32]:
        """Units, buckets that count and buckets without a sale, over the newest `length`."""
        found = self._sums.get(length)
        if found is None:
            total, count, zero = (np.zeros(len(self.window), np.float32) for _ in range(3))
            start = 0
            for shorter in sorted(self._sums):
                if shorter < length:
                    start = shorter
                    total, count, zero = (part.copy() for part in self._sums[shorter])
            for lag in range(start, length):
                there = self.counts(lag)
                value = self.window.row(self.window.closed - lag)
                total += there * value
                count += there
                zero += there * (value == 0)
            found = self._sums[length] = (total, count, zero)
        return found

    def mean(self, length: int) -> Float32:
        """float32[n], units a bucket that counts; of the whole memory where the newest buckets say nothing."""
        total, count, _ = self._sum(length)
        return np.asarray(total / np.maximum(count, np.float32(1)), dtype=np.float32)

    def zeros(self, length: int) -> Float32:
        """float32[n], share of buckets without a sale."""
        _, count, zero = self._sum(length)
        return np.asarray(zero / np.maximum(count, np.float32(1)), dtype=np.float32)

    def lived(self, length: int) -> Float32:
        """float32[n], share of the newest buckets that count."""
        return np.asarray(self._sum(length)[1] / np.float32(length), dtype=np.float32)

    def spread(self, length: int, scale: Float32) -> Float32:
        """float32[n], squares around the scale, relative to what counts would have."""
        total, count = np.zeros(len(self.window), np.float32), np.zeros(len(self.window), np.float32)
        for lag in range(length):
            there = self.counts(lag)
            off = (self.window.row(self.window.closed - lag) - scale) / (scale + np.float32(0.5))
            total += there * np.minimum(off * off, np.float32(100))
            count += there
        return np.asarray(total / np.maximum(count, np.float32(1)), dtype=np.float32)

    def largest(self, length: int) -> Float32:
        """float32[n], units of the best bucket."""
        out = np.zeros(len(self.window), np.float32)
        for lag in range(length):
            np.maximum(out, self.counts(lag) * self.window.row(self.window.closed - lag), out=out)
        return out

    def quantiles(self, length: int) -> list[Float32]:
        """float32[n] for each of the own levels: of the buckets that count, the value at which so many of them lie at or below."""
        never = np.float32(np.inf)
        cells = np.empty((len(self.window), length), np.float32)
        seen = np.zeros(len(self.window), np.float32)
        for lag in range(length):
            there = self.counts(lag) > 0
            cells[:, lag] = np.where(there, self.window.row(self.window.closed - lag), never)
            seen += there
        cells.sort(axis=1)
        out = []
        for level in _OWN_LEVELS:
            place = np.clip(np.ceil(seen * np.float32(level)) - 1, 0, length - 1).astype(np.int64)
            value = cells[np.arange(len(cells)), place]
            out.append(np.where(seen > 0, value, np.float32(0)).astype(np.float32))
        return out

    def silence(self) -> Float32:
        """float32[n], buckets since the last sale, as far as the means reach."""
        out = np.full(len(self.window), self.depth, np.float32)
        for lag in range(self.depth - 1, -1, -1):
            out = np.where(self.counts(lag) * self.window.row(self.window.closed - lag) > 0, np.float32(lag), out)
        return out

    def around(self, lag: int, scale: Float32) -> Float32:
        """The mean of three buckets around a lag of a long season."""
        total, count = np.zeros(len(self.window), np.float32), np.zeros(len(self.window), np.float32)
        for near in (lag - 1, lag, lag + 1):
            if near >= 0:
                there = self.counts(near)
                total += there * self.window.row(self.window.closed - near)
                count += there
        return to_scale(np.where(count > 0, total / np.maximum(count, np.float32(1)), scale).astype(np.float32), scale)


class _Positions:
    """Demand at one place in a short season (a weekday, an hour), on the network's scale."""

    def __init__(self, past: _Past, season: int) -> None:
        self.past, self.season = past, season
        self._known: dict[int, Float32] = {}

    def __call__(self, step: int, scale: Float32) -> Float32:
        first = -int(lag_steps(self.season, step)[-1])
        found = self._known.get(first)
        if found is None:
            window = self.past.window
            total, count = np.zeros(len(window), np.float32), np.zeros(len(window), np.float32)
            for turn in range(_POSITIONS):
                there = self.past.counts(first + turn * self.season)
                total += there * window.row(window.closed - first - turn * self.season)
                count += there
            level = (total + scale) / (count + np.float32(1))
            found = self._known[first] = to_scale(level.astype(np.float32), scale)
        return found


def _compared(value: Float32, other: Float32, price: bool) -> Float32:
    """How a covariate differs: three times the log ratio of prices, else the difference, bounded."""
    if price:
        there = (value > 0) & (other > 0)
        ratio = np.log(np.where(there, value, np.float32(1)) / np.where(there, other, np.float32(1)))
        return np.asarray(np.clip(_RATIO * ratio, -6, 6), dtype=np.float32)
    return np.asarray(np.clip(value - other, -10, 10), dtype=np.float32)


def raw_known(layout: Layout, own: Float32, step: Float32) -> Float32:
    """float32[cells, known], covariates of a step as they were told, of prices the logarithm: what the columns say in two parts.

    Args:
        layout: of the columns.
        own: float32[cells, own].
        step: float32[cells, step].
    """
    found = np.empty((len(own), len(layout.known)), np.float32)
    for number, (name, usual, against) in enumerate(zip(layout.known, layout.usual, layout.against_usual, strict=True)):
        if name in layout.positive:
            found[:, number] = own[:, usual] / _USUAL_PRICE + step[:, against] / _RATIO
        else:
            found[:, number] = own[:, usual] + step[:, against]
    return found


def _means(codes: Ints, values: Float32) -> tuple[Ints, Float32]:
    """Means by code over all slots that have both, in slot order: int64[codes], ascending, and float32[codes]."""
    there = ~np.isnan(values) & (codes != 0)
    if not there.any():
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    code, inverse = np.unique(codes[there], return_inverse=True)
    total = np.bincount(inverse, weights=values[there].astype(np.float64))
    return code, (total / np.bincount(inverse)).astype(np.float32)


def _harmonics(calendar: Float32) -> list[float]:
    """Second and third harmonics of the weekday and the second of the year: with the first, any pattern of seven days."""
    weekday_sin, weekday_cos, year_sin, year_cos = (float(value) for value in calendar[2:6])
    second = (2 * weekday_sin * weekday_cos, 2 * weekday_cos**2 - (weekday_cos**2 + weekday_sin**2))
    third = (
        weekday_sin * second[1] + weekday_cos * second[0],
        weekday_cos * second[1] - weekday_sin * second[0],
    )
    year = (2 * year_sin * year_cos, 2 * year_cos**2 - (year_cos**2 + year_sin**2))
    return [*second, *third, *year]


def _full(n: int, value: float) -> Float32:
    return np.full(n, value, np.float32)
