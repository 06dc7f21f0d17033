"""An exponentially weighted level times a seasonal profile.

The level is a ratio of two decayed sums, units over what the profile expected of a level of one, so that a young item's
mean is a plain mean (age-debiased) and a quiet hour does not pull a level down. Profiles are pooled by velocity class, longer seasons
shrunk to shorter ones; a busy item has its own for the short season.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.demand.expert import Expert, season_length
from models.demand.newborn import Newborn
from models.demand.profile import Profile
from models.demand.window import Window, classify
from models.protocol import DemandSpec, Float32, State

_OWN_GAIN = np.float32(0.15)
_OWN_EVENTS = np.float32(4)
_OWN_SEASONS = np.float32(6)


class EWMA(Expert):
    """Decayed level times profile."""

    name: ClassVar[str] = "ewma"

    def __init__(self, spec: DemandSpec, device: torch.device | None = None) -> None:
        """Makes an expert without slots.

        Args:
            spec: what is forecast.
            device: not used.
        """
        super().__init__(spec, device)
        self._newborn = Newborn()
        self._decay = np.float32(0.5 ** (1 / (2 * season_length(spec))))
        self._seasons = sorted(set(spec.seasons))
        self._own = next((season for season in self._seasons if season <= 31), 0)
        # Decayed units, decayed profile; "was_*" before the newest bucket, for corrections. "own" is units by phase.
        for name in ("units", "worth"):
            self.slots.add(name, np.float32)
            self.slots.add(f"was_{name}", np.float32)
        self.slots.add("own", np.float32, np.nan, (max(self._own, 1),))
        self.slots.add("was_own", np.float32, np.nan)
        self._profile = Profile(spec.seasons)

    @property
    def lookback(self) -> int:
        """Only what the rates of new items take."""
        return Newborn.lookback

    def means(self, window: Window, horizon: int) -> Float32:
        """Level times the profile of each step's phase."""
        level = self._level(window, "")
        group = classify(level, window.whole)
        pooled_profile = self._profile.factors(window.closed + 1, horizon)  # [classes, horizon]
        out = np.empty((len(window), horizon), dtype=np.float32)
        own = self.slots.f32("own")
        for step in range(horizon):
            shared = pooled_profile[:, step][group]
            if self._own:
                shared = _blend(shared, own[(window.closed + 1 + step) % self._own][window.slots], level)
            out[:, step] = level * shared
        return out

    def adapt(self, window: Window) -> None:
        """Adds the closed bucket to level and profiles."""
        for name in ("units", "worth"):
            self.slots.f32(f"was_{name}")[window.slots] = self.slots.f32(name)[window.slots]
        if self._own:
            self.slots.f32("was_own")[window.slots] = self.slots.f32("own")[window.closed % self._own][window.slots]
        level = self._level(window, "was_")
        self._update(window, level)
        group = classify(level, window.whole)
        known = self.slots.f32("was_worth")[window.slots] > np.float32(min(self._seasons, default=0) / 2)
        wanted = window.wanted(self.slots.f32("next")[window.slots])
        self._profile.learn(window, wanted, level, group, known)
        self._newborn.learn(window)

    def readapt(self, window: Window) -> None:
        """Takes the newest bucket back and adds its corrected value (to the item's own state; pooled profiles stay)."""
        self._update(window, self._level(window, "was_"))

    def _update(self, window: Window, level: Float32) -> None:
        slots = window.slots
        units, worth = self.slots.f32("was_units")[slots], self.slots.f32("was_worth")[slots]
        cold = worth == 0
        profile = self._profile.factors(window.closed, 1)[:, 0][classify(level, window.whole)]
        if self._own:
            before = self.slots.f32("was_own")[slots]
            profile = _blend(profile, before, level)
        y = window.wanted(level * profile)
        if self._own:
            own = self.slots.f32("own")[window.closed % self._own]
            own[slots] = np.where(cold, before, np.where(np.isnan(before), y, before + _OWN_GAIN * (y - before)))
        profile = np.maximum(profile, np.float32(0.01))
        # A first bucket counts only through the rate that it predicts, as if that had been seen for one bucket.
        self.slots.f32("units")[slots] = np.where(cold, self._newborn.rate(window.row(window.closed)), units * self._decay + y)
        self.slots.f32("worth")[slots] = np.where(cold, np.float32(1), worth * self._decay + profile)

    def _level(self, window: Window, which: str) -> Float32:
        units, worth = self.slots.f32(f"{which}units")[window.slots], self.slots.f32(f"{which}worth")[window.slots]
        cold = worth == 0
        level = units / np.where(cold, np.float32(1), worth)
        if cold.any():
            level = np.where(cold, self._newborn.rate(window.row(window.closed)), level)
        return np.asarray(level, dtype=np.float32)

    def shared_state(self) -> State:
        """Profiles and the rates of new items."""
        return self._profile.state() | self._newborn.state()

    def restore_shared(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what shared_state() gave."""
        self._profile.restore(state)
        self._newborn.restore(state)


def _blend(shared: Float32, own: Float32, level: Float32) -> Float32:
    """The item's own profile at a phase, as far as it has sold enough to have one (gamma prior of four units)."""
    expected = level * shared
    known = np.where(np.isnan(own), expected, own)
    factor = (_OWN_SEASONS * known + _OWN_EVENTS) / (_OWN_SEASONS * expected + _OWN_EVENTS)
    return np.asarray(shared * factor, dtype=np.float32)
