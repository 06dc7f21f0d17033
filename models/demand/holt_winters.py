"""river's Holt-Winters, one for each of the busiest items.

river learns; predictions are made from arrays that are read from it. A new member starts from the item's window: river would wait for a
season, and starts additive seasons from ratios. A shut bucket is passed by learning the model's own forecast, which changes nothing but the phase.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.demand.busiest import Busiest
from models.demand.expert import level_length, season_length
from models.demand.newborn import Newborn
from models.demand.window import Window
from models.protocol import DemandSpec, Float32, Float64, State
from models.rivers import time_series

_LEVEL_GAIN = 0.7  # over the season
_TREND_GAIN = 0.01
_SEASON_GAIN = 0.1
_SEASONS = 4  # that a new member's season is taken from
_BELIEVED = 0.5  # share of what they show
_LARGEST = 10.0  # times the recent level


class HoltWinters(Busiest[Any]):
    """Level, trend and an additive season."""

    name: ClassVar[str] = "holt_winters"

    def __init__(self, spec: DemandSpec, device: torch.device | None = None) -> None:
        """Makes an expert without slots.

        Args:
            spec: what is forecast.
            device: not used.
        """
        super().__init__(spec, device)
        self._short = season_length(spec)
        self._season = self._short if spec.seasons and self._short > 1 else 0
        self._level = level_length(spec)
        self._last = 0  # the newest bucket that the members know of
        self._read()

    @property
    def lookback(self) -> int:
        """What new members start from."""
        return max(_SEASONS * self._short, self._level, Newborn.lookback)

    def means(self, window: Window, horizon: int) -> Float32:
        """Holt-Winters' means for members, the recent level for others."""
        level = self._newborn.level(window, self._level)
        out = np.repeat(level[:, None], horizon, axis=1)
        mine, row = self._mine(window)
        if len(mine):
            table = self._table[row]
            largest = _LARGEST * (level[mine].astype(np.float64) + 1.0)
            passed = window.closed - self._last  # shut buckets since
            for step in range(horizon):
                total = table[:, 1] + (step + 1) * table[:, 3]
                if self._season:
                    total = total + table[:, 5 + (passed + step) % self._season]
                out[mine, step] = np.clip(total, 0.0, largest)
        return out

    def adapt(self, window: Window) -> None:
        """Each member learns the closed bucket."""
        expected = np.nan_to_num(self.slots.f32("next")[window.slots])
        wanted = window.wanted(expected)
        mine, row = self._mine(window)
        passed = min(window.closed - 1 - self._last, self.lookback) if self._season else 0
        for place, units in zip(row.tolist(), wanted[mine].astype(np.float64).tolist(), strict=True):
            model = self._members[place][1]
            for _ in range(passed):
                model.learn_one(model.forecast(1)[0])
            model.learn_one(units)
        self._last = window.closed
        self._newborn.learn(window)
        self._rank(window, wanted)
        self._read()

    def _fresh(self, window: Window, row: int) -> Any:
        level = float(self._newborn.level(window, self._level)[row])
        season = []
        for phase in range(self._season):
            buckets = [window.closed + 1 + phase - self._season * back for back in range(1, _SEASONS + 1)]
            lived = [bucket for bucket in buckets if bucket >= window.first[row] and not window.shut(bucket)]
            units = sum(float(window.row(bucket)[row]) for bucket in lived)
            season.append(_BELIEVED * (units / len(lived) - level) if lived else 0.0)
        # What is not a number is no earlier level, and tells readapt() that this model has learnt nothing yet.
        return self._model([np.nan, level], [np.nan, 0.0], [0.0, *season])

    def readapt(self, window: Window) -> None:
        """Takes the newest bucket back and learns its corrected value, by river's own equations."""
        mine, row = self._mine(window)
        units, stocked = window.row(window.closed)[mine].tolist(), (1 - window.censored(window.closed)[mine]).tolist()
        for at, place, sold, share in zip(mine.tolist(), row.tolist(), units, stocked, strict=True):
            slot, model = self._members[place]
            level, trend, season = model.level[0], model.trend[0], model.season[0] if self._season else 0.0
            if np.isnan(level):
                self._members[place] = (slot, self._fresh(window, at))
                continue
            y = sold + (1 - share) * max(level + trend + season, 0.0)
            model.level[-1] = model.alpha * (y - season) + (1 - model.alpha) * (level + trend)
            model.trend[-1] = model.beta * (model.level[-1] - level) + (1 - model.beta) * trend
            if self._season:
                model.season[-1] = model.gamma * (y - level - trend) + (1 - model.gamma) * season
        self._read()

    def _model(self, level: list[float], trend: list[float], season: list[float]) -> Any:
        model = time_series().HoltWinters(
            alpha=min(_LEVEL_GAIN / self._short, 0.5),
            beta=_TREND_GAIN,
            gamma=_SEASON_GAIN if self._season else None,
            seasonality=self._season,
        )
        model.level.extend(level)
        model.trend.extend(trend)
        if self._season:
            model.season.extend(season)
        model._initialized = True
        return model

    def _read(self) -> None:
        """float64[members, 4 + 1 + season]: the last two levels, the last two trends, the season's past values, oldest first."""
        rows = [[*model.level, *model.trend, *(model.season if self._season else [0.0])] for _, model in self._members]
        self._table: Float64 = np.array(rows, dtype=np.float64).reshape(len(rows), 5 + self._season)

    def shared_state(self) -> State:
        """The members' models as arrays, and the rates of new items."""
        slots = np.array([slot for slot, _ in self._members], dtype=np.int64)
        return {"slots": slots, "table": self._table.copy(), "last": np.array([self._last], dtype=np.int64)} | self._newborn.state()

    def restore_shared(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what shared_state() gave."""
        self._newborn.restore(state)
        self._last = int(np.asarray(state["last"], dtype=np.int64)[0])
        rows = zip(state["slots"].tolist(), state["table"].tolist(), strict=True)
        self._members = [(slot, self._model(row[:2], row[2:4], row[4:])) for slot, row in rows]
        self._read()
