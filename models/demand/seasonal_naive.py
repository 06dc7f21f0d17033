"""Seasonal naive: what was sold one season earlier, of the largest season of which the item has lived a whole one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.demand.expert import Expert, lag_steps, season_length
from models.demand.newborn import Newborn
from models.demand.window import Window
from models.protocol import DemandSpec, Float32, State


class SeasonalNaive(Expert):
    """The last season again; a shorter one, then the mean so far, for items that are too young."""

    name: ClassVar[str] = "seasonal_naive"

    def __init__(self, spec: DemandSpec, device: torch.device | None = None) -> None:
        """Makes an expert without slots.

        Args:
            spec: what is forecast.
            device: not used.
        """
        super().__init__(spec, device)
        self._newborn = Newborn()
        self._short = season_length(spec)
        self._seasons = sorted(set(spec.seasons))

    @property
    def lookback(self) -> int:
        """The longest season, or what a mean takes."""
        return max([*self._seasons, self._short, Newborn.lookback])

    def means(self, window: Window, horizon: int) -> Float32:
        """Copies of past buckets, by item the oldest season that it has."""
        age = window.age()
        flat = self._newborn.level(window, self._short)
        out = np.repeat(flat[:, None], horizon, axis=1)
        for season in self._seasons:
            old = age >= season
            if not old.any():
                break
            for step, lag in enumerate(lag_steps(season, horizon)):
                bucket = window.closed + int(lag)
                if not window.shut(bucket):  # else what a shorter season says
                    row = window.row(bucket) + window.censored(bucket) * flat
                    out[:, step] = np.where(old, row, out[:, step])
        return out

    def adapt(self, window: Window) -> None:
        """Only the rates of new items are learnt."""
        self._newborn.learn(window)

    def shared_state(self) -> State:
        """The rates of new items."""
        return self._newborn.state()

    def restore_shared(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what shared_state() gave."""
        self._newborn.restore(state)
