"""Level, damped trend and seasons of every item, updated as buckets close: what MSTL with ETS does, one bucket at a time.

The seasons' common part is pooled (by velocity class, and by category where items have one), so that a young item knows its Decembers; what
an item does differently is its own. Three variants run side by side (multiplicative, slow and quick; additive) and count as well as
they have forecast the item.

Source: Hyndman, Koehler, Ord, Snyder: Forecasting with exponential smoothing (2008), in error-correction form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.demand.expert import Expert, season_length
from models.demand.newborn import Newborn
from models.demand.pending import span
from models.demand.profile import CATEGORIES, Profile, category
from models.demand.window import CLASSES, Window, classify
from models.exact import put, take
from models.protocol import DemandSpec, Float32, Ints, State

_VARIANTS = 3
_MULTIPLICATIVE = 2  # the first two; the last is additive
_LEVEL_GAIN = 0.25  # over the short season
_QUICK = 4.0
_TREND_GAIN = np.float32(0.1)  # of the level's
_STEEPEST = np.float32(0.05)  # a bucket, of the level
_DAMPING = 0.9
_OWN_VARIANCE = np.float32(0.03)  # of an item's own factors: against its noise, what a bucket says of them
_OWN_GAIN = np.float32(0.5)  # at most
_OWN_LONGEST = 60  # buckets: longer seasons are pooled only, their factors would be most of a state
_OUTLIER = np.float32(5)  # standard deviations
_ERROR_MEMORY = np.float32(0.97)


class Decomposition(Expert):
    """Level, damped trend, seasons."""

    name: ClassVar[str] = "decomposition"

    def __init__(self, spec: DemandSpec, device: torch.device | None = None) -> None:
        """Makes an expert without slots.

        Args:
            spec: what is forecast.
            device: not used.
        """
        super().__init__(spec, device)
        self._newborn = Newborn()
        self._short = season_length(spec)
        self._own = [season for season in sorted(set(spec.seasons)) if season <= _OWN_LONGEST]
        slow = _LEVEL_GAIN / self._short
        self._gains = [np.float32(slow), np.float32(min(_QUICK * slow, 0.5)), np.float32(slow)]
        # A trend fades over two short seasons.
        self._damping = _DAMPING ** (7 / self._short)
        self._class_profile, self._category_profile = Profile(spec.seasons), Profile(spec.seasons, CATEGORIES)
        for name in ("level", "trend", "error"):
            self.slots.add(name, np.float32, 0, (_VARIANTS,))
            self.slots.add(f"was_{name}", np.float32, 0, (_VARIANTS,))
        # A level that outlasts the longest season, for profiles: a quicker one would follow the season that it is to be compared with.
        self._longest = max([*spec.seasons, self._short])
        self._base_decay = np.float32(0.5 ** (1 / self._longest))
        self.slots.add("base", np.float32, 0, (2,))
        self.slots.add("lived", np.float32)
        self.slots.add("was_lived", np.float32)
        # What an item's own season adds: to one (multiplicative) or to nothing.
        for season in self._own:
            self.slots.add(f"season.{season}", np.float32, 0, (_VARIANTS, season))
            self.slots.add(f"was_season.{season}", np.float32, 0, (_VARIANTS,))

    @property
    def lookback(self) -> int:
        """Only what the rates of new items take."""
        return Newborn.lookback

    def means(self, window: Window, horizon: int) -> Float32:
        """The variants' forecasts, each as it has earned."""
        at = span(window.slots)
        lived = self.slots.f32("lived")[at]
        cold = lived == 0
        shares = _shares(self.slots.f32("error")[:, at])
        level, trend = self.slots.f32("level")[:, at], self.slots.f32("trend")[:, at]
        pooled, row = self._pooled(window, level[0], window.closed + 1, horizon)
        out = np.empty((len(window), horizon), np.float32)
        reach = 0.0
        for step in range(horizon):
            reach += self._damping ** (step + 1)
            factor = pooled[:, step][row]
            total = np.zeros(len(window), np.float32)
            for variant in range(_VARIANTS):
                ahead = np.maximum(level[variant] + np.float32(reach) * trend[variant], np.float32(0))
                own = [self.slots.f32(f"season.{season}")[variant, (window.closed + 1 + step) % season, at] for season in self._own]
                total += shares[variant] * _mean(variant, ahead * factor, own)
            out[:, step] = total
        if cold.any():
            out[cold] = self._newborn.rate(window.row(window.closed))[cold][:, None]
        return out

    def adapt(self, window: Window) -> None:
        """Moves level, trend, season and errors by the closed bucket's surprise."""
        at = span(window.slots)
        for name in ("level", "trend", "error", "lived"):
            self.slots.f32(f"was_{name}")[..., at] = self.slots.f32(name)[..., at]
        for season in self._own:
            self.slots.f32(f"was_season.{season}")[:, at] = self.slots.f32(f"season.{season}")[:, window.closed % season, at]
        self._update(window)
        base = self.slots.f32("base")
        level: Float32 = (base[0, at] / np.maximum(base[1, at], np.float32(1e-6))).astype(np.float32)
        # A profile compares with levels that have seen half a season's worth.
        known = self.slots.f32("was_lived")[at] > np.float32(max(self._short, self._longest // 2))
        wanted = window.wanted(np.nan_to_num(self.slots.f32("next")[at]))
        self._class_profile.learn(window, wanted, level, classify(level, window.whole), known)
        rows = category(window)
        if rows is not None:
            self._category_profile.learn(window, wanted, level, rows, known)
        base[:, at] *= self._base_decay
        base[0, at] += wanted
        base[1, at] += np.float32(1)
        self._newborn.learn(window)

    def readapt(self, window: Window) -> None:
        """Takes the newest bucket back and moves by its corrected value (the item's own state; pooled profiles stay)."""
        self._update(window)

    def _update(self, window: Window) -> None:
        at = span(window.slots)
        lived = self.slots.f32("was_lived")[at]
        cold = lived == 0
        rate = self._newborn.rate(window.row(window.closed))
        pooled, row = self._pooled(window, self.slots.f32("was_level")[0, at], window.closed, 1)
        factor = pooled[:, 0][row]
        settled = lived >= self._short
        for variant in range(_VARIANTS):
            level, trend, error = (self.slots.f32(f"was_{name}")[variant, at] for name in ("level", "trend", "error"))
            own = [self.slots.f32(f"was_season.{season}")[variant, at] for season in self._own]
            base = np.maximum(level + np.float32(self._damping) * trend, np.float32(0))
            expected = base * factor
            mean = _mean(variant, expected, own)
            surprise = window.wanted(mean) - mean
            limit = np.where(settled, _OUTLIER * np.sqrt(error) + np.float32(0.1), np.float32(3e38))
            surprise = np.clip(surprise, -limit, limit)
            gain = np.maximum(np.float32(1) - _ERROR_MEMORY, 1 / (lived + 1))
            self._put("error", variant, at, error + gain * (surprise * surprise - error), cold, np.float32(0))
            scale = factor.copy()  # how much of a level shows in this bucket
            if variant < _MULTIPLICATIVE:
                for part in own:
                    scale *= np.float32(1) + part
            step = np.maximum(self._gains[variant], 1 / (lived + 1)) * surprise * scale / np.maximum(scale * scale, np.float32(1))
            after = np.maximum(base + step, np.float32(0))
            self._put("level", variant, at, after, cold, rate)
            sure = np.where(lived >= np.float32(2 * self._short), mean / (mean + np.float32(2)), np.float32(0))
            slope = np.float32(self._damping) * trend + _TREND_GAIN * sure * step
            self._put("trend", variant, at, np.clip(slope, -_STEEPEST * after, _STEEPEST * after), cold, np.float32(0))
            # As a Kalman filter weighs: an item's own season is told from its noise, or not at all.
            signal = _OWN_VARIANCE * expected * expected
            share = np.where(settled, np.minimum(signal / (signal + error + np.float32(1e-12)), _OWN_GAIN), np.float32(0))
            share /= np.float32(max(len(own), 1))
            for season, part in zip(self._own, own, strict=True):
                if variant < _MULTIPLICATIVE:
                    moved = part + share * surprise / np.maximum(expected, np.float32(1e-6))
                    moved = np.clip(moved, np.float32(-0.98), np.float32(9))
                else:
                    moved = part + share * surprise
                self.slots.f32(f"season.{season}")[variant, window.closed % season, at] = np.where(cold, np.float32(0), moved)
        self.slots.f32("lived")[at] = np.minimum(lived + 1, np.float32(1e6))

    def _put(
        self, name: str, variant: int, at: slice | Ints, values: Float32, cold: NDArray[np.bool_], first: Float32 | np.float32
    ) -> None:
        self.slots.f32(name)[variant, at] = np.where(cold, first, values)

    def _pooled(self, window: Window, level: Float32, bucket: int, count: int) -> tuple[Float32, Ints]:
        """Pooled factors of the buckets from `bucket` on, float32[rows, count], and each item's row, int64[n]."""
        group = classify(level, window.whole)
        rows = category(window)
        if rows is None:
            return self._class_profile.factors(bucket, count), group
        table = self._category_profile.within(self._class_profile, bucket, count)
        return table.reshape(CATEGORIES * CLASSES, count), rows * CLASSES + group

    def shared_state(self) -> State:
        """The profiles and the rates of new items."""
        categories = self._category_profile.state()
        return self._class_profile.state() | put("category.", categories) | self._newborn.state()

    def restore_shared(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what shared_state() gave."""
        self._class_profile.restore(state)
        self._category_profile.restore(take(state, "category."))
        self._newborn.restore(state)


def _mean(variant: int, expected: Float32, own: list[Float32]) -> Float32:
    """float32[n], with the item's own seasons: factors less one, or what is added."""
    for part in own:
        expected = expected * (np.float32(1) + part) if variant < _MULTIPLICATIVE else expected + part
    return np.maximum(expected, np.float32(0))


def _shares(error: Float32) -> Float32:
    """float32[variants, n], adding up to one: inverse to the fourth power of the mean squared error."""
    tiny = np.float32(1e-12)
    ratio = (error.min(axis=0) + tiny) / (error + tiny)
    earned = ratio * ratio
    earned *= earned
    total = earned[0].copy()
    for variant in range(1, _VARIANTS):
        total += earned[variant]
    return np.asarray(earned / total, dtype=np.float32)
