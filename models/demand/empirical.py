"""Quantiles of what an item sold in its latest open buckets: no shape is assumed where enough has been seen to need none.

Young items, and levels beyond what so many buckets can tell, borrow from a count distribution around the item's level: the two
quantile functions are averaged by how many buckets there are. Buckets of a season are compared with their like only: its phases fall into bands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.counts import counts
from models.demand.expert import Expert, season_length
from models.demand.newborn import Newborn
from models.demand.profile import Profile
from models.demand.window import CLASSES, Window, classify
from models.protocol import DemandSpec, Float32, Ints, State

_SEASONS = 10  # looked back on (WQL of a daily shop: 8 .481, 10 .479, 14 .481, 20 .486), within …
_DEEPEST = 168  # … so many buckets
_BORROWED = np.float32(10)  # buckets that the shape around a level is worth
_LIKE = 3.0  # the factors of a band's phases differ by no more: splitting a week whose days differ by less cost 2 % WQL
_BANDS = 4
_NEVER = np.float32(1e30)  # sorts behind everything that can be sold


@dataclass(frozen=True, slots=True)
class _Band:
    """A band of phases, and its open buckets looked back on."""

    buckets: list[int]
    """Ascending."""
    steps: list[int]
    factor: Float32
    """float32[n], mean factor of the buckets."""
    rows: list[Float32]
    """float32[n] a bucket."""
    lived: Ints
    """int64[n], in how many of them an item existed."""
    mean: Float32


@dataclass(frozen=True, slots=True)
class _Looked:
    """Items' latest buckets."""

    level: Float32
    group: Ints
    ahead: Float32
    """float32[classes, horizon]."""
    bands: list[_Band]


class Empirical(Expert):
    """The latest open buckets themselves."""

    name: ClassVar[str] = "empirical"

    def __init__(self, spec: DemandSpec, device: torch.device | None = None) -> None:
        """Makes an expert without slots.

        Args:
            spec: what is forecast.
            device: not used.
        """
        super().__init__(spec, device)
        self._newborn = Newborn()
        self._short = season_length(spec) if spec.seasons else 1
        self._length = max(min(_SEASONS * season_length(spec), _DEEPEST), season_length(spec))
        self._profile = Profile((self._short,) if self._short > 1 else ())

    @property
    def lookback(self) -> int:
        """The buckets whose quantiles are taken."""
        return max(self._length, Newborn.lookback)

    def means(self, window: Window, horizon: int) -> Float32:
        """Means of the like buckets, scaled to each step's factor."""
        looked = self._look(window, horizon)
        window.shared[self.name] = (horizon, looked)  # raw() is asked about the same, unless something is learnt before
        out = np.empty((len(window), horizon), np.float32)
        for band in looked.bands:
            scaled = band.mean / band.factor
            for step in band.steps:
                out[:, step] = scaled * looked.ahead[:, step][looked.group]
        return out

    def raw(self, window: Window, horizon: int, levels: tuple[float, ...]) -> Float32:
        """The like buckets' own quantiles, averaged with those of a count distribution around their mean."""
        kept, looked = window.shared.pop(self.name, (0, None))
        if looked is None or kept != horizon:
            looked = self._look(window, horizon)
        spread = self.dispersion(window, looked.level)
        one = np.ones((1, len(window)), np.float32)
        # Whole demand k stands for the real numbers in (k - 1, k], as in `counts`, so that averaging and scaling have no bias.
        half = np.where(window.whole, np.float32(0.5), np.float32(0))
        mixed = np.empty((len(levels), horizon, len(window)), np.float32)
        for band in looked.bands:
            shape = counts(levels).mix(band.mean[None], spread[None], one, window.whole)  # [n, levels]
            found, seen = _sorted(window, band)
            count = seen.astype(np.float32)
            share = count / (count + _BORROWED)
            scale = [looked.ahead[:, step][looked.group] / band.factor for step in band.steps]
            for index, p in enumerate(levels):
                own = _at(found, seen, count * np.float32(p) - np.float32(0.5)) - half
                value = share * own + (1 - share) * shape[:, index]
                for step, times in zip(band.steps, scale, strict=True):
                    mixed[index, step] = value * times
        return np.ascontiguousarray(mixed.transpose(2, 1, 0))

    def _look(self, window: Window, horizon: int) -> _Looked:
        """What means and quantiles are made of, with what is learnt by now."""
        level = self._newborn.level(window, self._length)
        group = classify(level, window.whole)
        bands = []
        for buckets, steps in self._bands(window, horizon):
            factor = self._factor(buckets)[group]
            expected = level * factor
            rows = _rows(window, buckets, expected)
            # Their mean; of few, shrunk to what the level says of them.
            units = _BORROWED * expected
            for row in rows:
                units += row
            lived = _lived(window, buckets)
            mean = np.asarray(units / (_BORROWED + lived.astype(np.float32)), dtype=np.float32)
            bands.append(_Band(buckets, steps, factor, rows, lived, mean))
        return _Looked(level, group, self._profile.factors(window.closed + 1, horizon), bands)

    def _bands(self, window: Window, horizon: int) -> list[tuple[list[int], list[int]]]:
        """For each band of phases that a step is in: its open buckets looked back on, its steps."""
        factors = self._profile.overall()
        band_of = np.zeros(self._short, dtype=np.int64)
        band, order = 0, np.argsort(factors, kind="stable")
        low = factors[order[0]]
        for phase in order:
            if factors[phase] > low * _LIKE and band < _BANDS - 1:
                band, low = band + 1, factors[phase]
            band_of[phase] = band
        past = [bucket for bucket in range(window.closed - self._length + 1, window.closed + 1) if not window.shut(bucket)]
        out = []
        for band in range(int(band_of.max()) + 1):
            steps = [step for step in range(horizon) if band_of[(window.closed + 1 + step) % self._short] == band]
            if steps:
                out.append(([bucket for bucket in past if band_of[bucket % self._short] == band], steps))
        return out

    def _factor(self, band: list[int]) -> Float32:
        """float32[classes], the mean factor of a band's buckets."""
        if not band:
            return np.ones(CLASSES, np.float32)
        factors = self._profile.factors(band[0], band[-1] - band[0] + 1)[:, np.array(band) - band[0]]
        mean = factors.astype(np.float64).cumsum(axis=1)[:, -1] / len(band)
        return np.maximum(mean, 0.01).astype(np.float32)

    def adapt(self, window: Window) -> None:
        """Only the profile and the rates of new items are learnt."""
        window.shared.pop(self.name, None)
        level = self._newborn.level(window, self._length)
        expected = self.slots.f32("next")[window.slots]
        known = np.isfinite(expected) & (window.age() > self._short)
        self._profile.learn(window, window.wanted(expected), level, classify(level, window.whole), known)
        self._newborn.learn(window)

    def shared_state(self) -> State:
        """The profile and the rates of new items."""
        return self._profile.state() | self._newborn.state()

    def restore_shared(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what shared_state() gave."""
        self._profile.restore(state)
        self._newborn.restore(state)


def _lived(window: Window, buckets: list[int]) -> Ints:
    """int64[n], in how many of the buckets (ascending) each item existed."""
    return np.asarray(len(buckets) - np.searchsorted(np.array(buckets, np.int64), window.first), dtype=np.int64)


def _rows(window: Window, buckets: list[int], expected: Float32) -> list[Float32]:
    """float32[n] a bucket: its units, with what is expected of its share without stock."""
    rows = window.rows(buckets)
    for index, cut in enumerate(window.cuts(buckets)):
        if cut is not None:
            missed = cut * expected
            rows[index] = np.asarray(rows[index] + np.where(window.whole, np.rint(missed), missed), dtype=np.float32)
    return rows


def _sorted(window: Window, band: _Band) -> tuple[Float32, Ints]:
    """What was sold in a band's buckets in which an item existed, ascending: float32[n, at least 1]; and how many those are: int64[n]."""
    some = int(band.lived.max(initial=0))  # in the buckets before those nobody existed
    values = np.full((max(some, 1), len(window)), _NEVER, np.float32)
    for out, row, bucket in zip(values, band.rows[len(band.rows) - some :], band.buckets[len(band.rows) - some :], strict=False):
        np.copyto(out, row, where=window.first <= bucket)
    by_item = np.ascontiguousarray(values.T)
    by_item.sort(axis=1)
    return by_item, band.lived


def _at(found: Float32, seen: Ints, place: Float32) -> Float32:
    """float32[n], values at real-numbered places of sorted rows, joined linearly; 0 where a row has none.

    Args:
        found: float32[n, width], ascending.
        seen: int64[n], how many values of each row count.
        place: float32[n], cut to [0, seen - 1].
    """
    n, width = found.shape
    last = np.maximum(seen - 1, 0)
    place = np.clip(place, np.float32(0), last.astype(np.float32))
    low = place.astype(np.int64)
    start = np.arange(n) * width
    flat = found.ravel()
    value, upper = flat.take(start + low), flat.take(start + np.minimum(low + 1, last))
    value += (place - low.astype(np.float32)) * (upper - value)
    return np.where(seen > 0, value, np.float32(0))
