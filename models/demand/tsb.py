"""Teunter-Syntetos-Babai: how often an item sells times how much, for intermittent demand; it lets obsolete items go.

Source: Teunter, Syntetos, Babai: Intermittent demand: linking forecasting to inventory obsolescence (EJOR 2011).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.demand.expert import Expert, season_length
from models.demand.newborn import Newborn
from models.demand.window import Window
from models.protocol import DemandSpec, Float32, State

_SIZE_GAIN = np.float32(0.1)


class TSB(Expert):
    """Exponentially smoothed probability of a sale, and its size."""

    name: ClassVar[str] = "tsb"

    def __init__(self, spec: DemandSpec, device: torch.device | None = None) -> None:
        """Makes an expert without slots.

        Args:
            spec: what is forecast.
            device: not used.
        """
        super().__init__(spec, device)
        self._newborn = Newborn()
        # A gain that remembers two seasons: .04 for hours with a season of 24, .13 for days with one of 7.
        self._gain = np.float32(1 / (1 + season_length(spec)))
        # "lived" is buckets learnt (as float); the rest NaN or 0 until then. "was_*" is before the newest bucket, for corrections.
        for name in ("chance", "size", "lived"):
            self.slots.add(name, np.float32)
            self.slots.add(f"was_{name}", np.float32)

    @property
    def lookback(self) -> int:
        """Only what the rates of new items take."""
        return Newborn.lookback

    def means(self, window: Window, horizon: int) -> Float32:
        """The same for every step: chance times size."""
        rate = self.slots.f32("chance")[window.slots] * self.slots.f32("size")[window.slots]
        cold = self.slots.f32("lived")[window.slots] == 0
        if cold.any():
            rate = np.where(cold, self._newborn.rate(window.row(window.closed)), rate)
        return np.repeat(rate.astype(np.float32)[:, None], horizon, axis=1)

    def adapt(self, window: Window) -> None:
        """Smooths with the closed bucket."""
        for name in ("chance", "size", "lived"):
            self.slots.f32(f"was_{name}")[window.slots] = self.slots.f32(name)[window.slots]
        self._update(window)
        self._newborn.learn(window)

    def readapt(self, window: Window) -> None:
        """Takes the newest bucket back and smooths with its corrected value."""
        self._update(window)

    def _update(self, window: Window) -> None:
        chance, size, lived = (self.slots.f32(f"was_{name}")[window.slots] for name in ("chance", "size", "lived"))
        y = window.row(window.closed)
        out_of_stock = window.censored(window.closed)
        sold = y > 0
        cold = lived == 0
        # Means while young, smoothing afterwards.
        gain = np.maximum(self._gain, 1 / (lived + np.float32(1)))
        size_gain = np.maximum(_SIZE_GAIN, 1 / (lived * chance + np.float32(1)))
        rate = self._newborn.rate(y)
        # Stock cut a sale short: it was one of at least this size; nothing sold while there was stock says so of that share only.
        next_size = np.where(sold, size + size_gain * (window.wanted(chance * size) - size), size)
        next_size = np.where(cold | (size == 0), np.where(sold, y, np.maximum(size, 1)), next_size)
        next_chance = chance + gain * (np.where(sold, np.float32(1), out_of_stock * chance) - chance)
        next_chance = np.where(cold, np.minimum(rate / np.maximum(next_size, np.float32(1e-6)), 1), next_chance)
        self.slots.f32("chance")[window.slots] = next_chance
        self.slots.f32("size")[window.slots] = next_size
        self.slots.f32("lived")[window.slots] = np.minimum(lived + 1, np.float32(1e6))

    def shared_state(self) -> State:
        """The rates of new items."""
        return self._newborn.state()

    def restore_shared(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what shared_state() gave."""
        self._newborn.restore(state)
