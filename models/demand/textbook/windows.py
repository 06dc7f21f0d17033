"""What the textbook models have in common: windows of a history relative to their mean, and the shape of a forecast."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from models.protocol import Float32, Ints

History = Float32

_SMALLEST_SCALE = np.float32(0.1)
_LARGEST = np.float32(50)  # times the scale
_MOST = 16_000  # windows that are trained on


@dataclass(frozen=True, slots=True)
class Setting:
    """What a model is made for."""

    horizon: int
    levels: tuple[float, ...]
    """Ascending."""
    season: int
    """In buckets; 0 for none."""
    length: int
    """Buckets that a forecast is made from."""
    seed: int


@dataclass(frozen=True, slots=True)
class TextbookForecast:
    """Forecasts of n items."""

    mean: Float32
    """float32[n, horizon], at least 0."""
    quantiles: Float32
    """float32[n, levels, horizon], ascending over the levels, at least 0; whole numbers for items that have only sold such."""


class TextbookModel(Protocol):
    """A trained model."""

    def forecast(self, history: History) -> TextbookForecast:
        """Forecasts the steps after a history.

        Args:
            history: float32[n, steps], at least as long as the setting's length, its last step in the season's place after those trained on:
                step t stands at phase t % season of a history that begins where the trained one did.
        """


class Textbook(ABC):
    """A kind of model."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def fit(cls, history: History, setting: Setting) -> TextbookModel:
        """Trains one.

        Args:
            history: float32[items, steps], NaN before an item was first seen.
            setting: what for.
        """


@dataclass(frozen=True, slots=True)
class Windows:
    """Inputs and targets of m windows, relative to each window's scale."""

    inputs: Float32
    """float32[m, length]."""
    extra: Float32
    """float32[m, EXTRA]: logarithm of the scale; sine and cosine of the first target's phase (0 without a season)."""
    targets: Float32
    """float32[m, horizon]; empty where nothing is known yet."""
    scale: Float32
    """float32[m]."""


EXTRA = 3


def windows(history: History, setting: Setting, items: Ints, cuts: Ints, targets: bool = True) -> Windows:
    """Cuts windows.

    Args:
        history: float32[items, steps].
        setting: their length, the horizon, the season.
        items: int64[m], rows of the history.
        cuts: int64[m], the first target's step.
        targets: or leave them empty.
    """
    at = cuts[:, None] + np.arange(-setting.length, 0)
    inputs = np.nan_to_num(history[items[:, None], at], nan=0.0).astype(np.float32)
    scale = np.maximum(inputs.mean(axis=1), _SMALLEST_SCALE).astype(np.float32)
    extra = np.zeros((len(items), EXTRA), np.float32)
    extra[:, 0] = np.log(scale)
    if setting.season:
        phase = 2 * np.pi * (cuts % setting.season) / setting.season
        extra[:, 1], extra[:, 2] = np.sin(phase), np.cos(phase)
    ahead = np.empty((len(items), 0), np.float32)
    if targets:
        ahead = np.nan_to_num(history[items[:, None], cuts[:, None] + np.arange(setting.horizon)], nan=0.0)
        ahead = np.minimum(ahead / scale[:, None], _LARGEST * (1 + 1 / scale[:, None])).astype(np.float32)
    return Windows(np.minimum(inputs / scale[:, None], _LARGEST), extra, ahead, scale)


def split(history: History, setting: Setting) -> tuple[Windows, Windows]:
    """Windows to train on, and later ones to stop early by, whose targets begin where the others' end.

    Args:
        history: float32[items, steps].
        setting: their length, the horizon, the season.
    """
    items, steps = history.shape
    random = np.random.default_rng(setting.seed)
    last = steps - setting.horizon  # of the cuts whose targets are known
    held = max(1, min(setting.horizon, (last - setting.length) // 4))  # cuts that are held out
    first_held = max(last - held + 1, setting.length + 1)
    end = max(first_held - setting.horizon, setting.length) + 1  # of the training cuts
    found = []
    for low, high, most in ((setting.length, end, _MOST), (first_held, last + 1, _MOST // 4)):
        count = items * (high - low)
        chosen = np.sort(random.choice(count, most, replace=False)) if count > most else np.arange(count)
        rows, cuts = chosen // (high - low), low + chosen % (high - low)
        lived = ~np.isnan(history[rows, cuts - setting.length // 2 - 1])  # half a window of life at least
        if lived.any():
            rows, cuts = rows[lived], cuts[lived]
        found.append(windows(history, setting, rows, cuts))
    return found[0], found[1]


def newest(history: History, setting: Setting) -> Windows:
    """Every item's window at the end of its history.

    Args:
        history: float32[items, steps].
        setting: the windows' length and season.
    """
    items = np.arange(len(history))
    return windows(history, setting, items, np.full(len(items), history.shape[1]), targets=False)


def published(mean: Float32, quantiles: Float32, scale: Float32, history: History) -> TextbookForecast:
    """Forecasts in units.

    Args:
        mean: float32[n, horizon], relative to the scale.
        quantiles: float32[n, levels, horizon], relative to the scale, in any order.
        scale: float32[n].
        history: float32[n, steps], which says who sells whole numbers only.
    """
    units = np.maximum.accumulate(np.maximum(quantiles * scale[:, None, None], np.float32(0)), axis=1)
    whole = (np.isnan(history) | (history == np.rint(history))).all(axis=1)
    units = np.where(whole[:, None, None], np.rint(units), units)
    return TextbookForecast(np.maximum(mean * scale[:, None], np.float32(0)).astype(np.float32), units.astype(np.float32))
