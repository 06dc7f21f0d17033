"""What every demand expert has besides its means: an online dispersion, quantiles from it, and the storing of both.

An expert computes means from a window. Its dispersion is learnt from its own one-step forecasts when their bucket has
closed, per item and shrunk to its velocity class, since a rare item says little about its own variance.

Shut buckets are kept from every expert here: nothing is learnt from one, and whatever an expert says of one to come is made 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.counts import MAX_DISPERSION, counts, finish
from models.demand.window import CLASSES, Window, classify
from models.exact import SlotArrays, pooled, put, take
from models.protocol import DemandSpec, Distribution, Float32, Float64, Ints, Panel, State

if TYPE_CHECKING:
    from models.demand.network import Weights

_NEVER = np.iinfo(np.int64).min
_CLASS_MEMORY = 0.995
_ITEM_MEMORY = np.float32(0.98)
_PRIOR_DISPERSION = 0.5
_ITEM_SHRINKAGE = 3.0


class Expert(ABC):
    """A demand model (see protocol.DemandModel) that gives means; subclasses say how."""

    name: ClassVar[str]
    partial: ClassVar[bool] = False
    """Whether the expert knows only some items (see covers)."""
    active: bool = True
    """Whether it forecasts at all; experts whose weights are trained elsewhere are silent without them."""
    version: str = ""
    """Of weights that were trained elsewhere."""
    kin: ClassVar[str] = ""
    """Experts of one kin are variants of one model, which has one voice before anything is known of them."""

    def __init_subclass__(cls, **more: Any) -> None:
        """Wraps the class's own means() and raw(), so that no expert can forget that a shut step sells nothing."""
        super().__init_subclass__(**more)
        for name in ("means", "raw"):
            if name in cls.__dict__:
                setattr(cls, name, _nothing_while_shut(cls.__dict__[name]))

    def __init__(self, spec: DemandSpec, device: torch.device | None = None) -> None:
        """Makes an expert without slots.

        Args:
            spec: what is forecast.
            device: for the experts that have a network.
        """
        self.spec = spec
        self.device = device or torch.device("cpu")
        self.slots = SlotArrays()
        self.slots.add("next", np.float32, np.nan)
        self.slots.add("excess", np.float32)
        self.slots.add("weight", np.float32)
        self._closed = _NEVER
        self._spread: Float64 = np.zeros((2, CLASSES))

    @property
    @abstractmethod
    def lookback(self) -> int:
        """How many closed buckets the expert reads, the newest included: a ring must hold them beside its open ones."""

    @abstractmethod
    def means(self, window: Window, horizon: int) -> Float32:
        """float32[n, horizon], finite and at least 0. Pure; a row depends on that item alone, to the bit.

        Args:
            window: the items.
            horizon: at most the spec's.
        """

    def raw(self, window: Window, horizon: int, levels: tuple[float, ...]) -> Float32 | None:
        """float32[n, horizon, levels], the expert's own quantiles before they are rounded up and put in order (see counts: the real numbers
        at which a count's distribution function, joined linearly, reaches the levels, at least -1); None by default: its quantiles are those of
        a count distribution around its mean. Pure; a row depends on that item alone, to the bit.

        Args:
            window: the items.
            horizon: at most the spec's.
            levels: ascending.
        """
        return None

    def adapt(self, window: Window) -> None:
        """Learns from the newest closed bucket, which was not shut; nothing by default."""
        return

    def readapt(self, window: Window) -> None:
        """Learns the newest closed bucket, which was not shut, anew for these slots; nothing by default."""
        return

    def covers(self, window: Window) -> NDArray[np.bool_]:
        """bool[n], the items of which the expert has an opinion of its own; all by default."""
        return np.ones(len(window), dtype=np.bool_)

    def load(self, weights: Weights | None, keep: bool = False) -> bool:
        """Takes weights that were trained elsewhere; True if there were some for it.

        Args:
            weights: None: it has none any more.
            keep: the same weights, fitted a little further: what was learnt of them holds.
        """
        return False

    def shared_state(self) -> State:
        """What decides later results beside the slots; nothing by default."""
        return {}

    def restore_shared(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what shared_state() gave."""
        return

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity)."""
        self.slots.resize(capacity)

    def forget(self, slots: Ints) -> None:
        """Makes these slots cold."""
        self.slots.forget(slots)

    def predict(self, panel: Panel) -> Distribution:
        """Means and quantiles of the panel's items."""
        window = Window(panel)
        mean = self.means(window, self.spec.horizon)
        raw = self.raw(window, self.spec.horizon, self.spec.levels)
        if raw is not None:
            return Distribution(mean, finish(raw, window.whole))
        dispersion = self.dispersion(window, mean[:, 0])
        return Distribution(mean, counts(self.spec.levels).quantiles(mean, dispersion[:, None], window.whole))

    def dispersion(self, window: Window, one_step: Float32) -> Float32:
        """float32[n], dispersion of the items' demand around this expert's mean.

        Args:
            window: the items.
            one_step: float32[n], the mean of the next bucket.
        """
        by_class = ((self._spread[0] + _PRIOR_DISPERSION) / (self._spread[1] + 1.0)).clip(0.0, MAX_DISPERSION)
        group = by_class.astype(np.float32)[classify(one_step, window.whole)]
        shrinkage = np.float32(_ITEM_SHRINKAGE)
        item = (self.slots.f32("excess")[window.slots] + shrinkage * group) / (self.slots.f32("weight")[window.slots] + shrinkage)
        return np.asarray(np.clip(item, np.float32(0), np.float32(MAX_DISPERSION)), dtype=np.float32)

    def learn(self, panel: Panel) -> None:
        """Scores the one-step means that were held, lets the expert adapt, holds the next."""
        self.learn_window(Window(panel))

    def learn_window(self, window: Window) -> None:
        """learn() for callers that share a window between experts.

        Args:
            window: of all live items, at the newest closed bucket.
        """
        if not window.shut(window.closed):
            if self._closed == window.closed - 1:
                self._score(window)
            self.adapt(window)
        self.slots.f32("next")[window.slots] = self.means(window, 1)[:, 0]
        self._closed = window.closed

    def correct(self, panel: Panel) -> None:
        """Learns the newest closed bucket anew for the panel's slots, where the expert's state allows."""
        self.correct_window(Window(panel))

    def correct_window(self, window: Window) -> None:
        """correct() for callers that share a window between experts.

        Args:
            window: of the corrected items, at the newest closed bucket.
        """
        if not window.shut(window.closed):
            self.readapt(window)
        self.slots.f32("next")[window.slots] = self.means(window, 1)[:, 0]

    def state(self, copy: bool = True) -> State:
        """Everything that decides later results; copy=False: the large arrays themselves."""
        own: State = {"closed": np.array([self._closed], dtype=np.int64), "spread": self._spread.copy()}
        return own | put("slot.", self.slots.state(copy)) | put("shared.", self.shared_state())

    def restore(self, state: Mapping[str, NDArray[np.generic]], copy: bool = True) -> None:
        """Takes what state() gave; copy=False: the large arrays themselves, which nobody else may use from here on."""
        self._closed = int(np.asarray(state["closed"], dtype=np.int64)[0])
        self._spread = np.array(state["spread"], dtype=np.float64)
        self.slots.restore(take(state, "slot."), copy)
        self.restore_shared(take(state, "shared."))

    def _score(self, window: Window) -> None:
        mean32 = self.slots.f32("next")[window.slots]
        # A bucket that stock cut short says little about spread, and what it says is wrong.
        held = np.isfinite(mean32) & (window.censored(window.closed) == 0)
        if not held.any():
            return
        slots, mean, y, whole = window.slots[held], mean32[held].astype(np.float64), window.observed()[held], window.whole[held]
        # E (y - m)² = m + a m². Divided by (1 + m)², so that neither big nor small items decide; kilograms by their own size.
        size = np.where(whole, 1.0 + mean, mean + 0.2 * y + 1e-9)
        excess = np.minimum(((y - mean) / size) ** 2, 50.0) - np.where(whole, mean, 0.0) / (size * size)
        weight = (mean / size) ** 2
        group = classify(mean32[held], whole)
        self._spread *= _CLASS_MEMORY
        self._spread[0] += pooled(group, excess, CLASSES)
        self._spread[1] += pooled(group, weight, CLASSES)
        for name, values in (("excess", excess), ("weight", weight)):
            array = self.slots.f32(name)
            array[slots] = array[slots] * _ITEM_MEMORY + values.astype(np.float32)


def _nothing_while_shut(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, with zeros at the steps (the last axis) at which the shop is shut."""

    @wraps(method)
    def opened(self: Expert, window: Window, horizon: int, *more: Any, **named: Any) -> Float32 | None:
        found: Float32 | None = method(self, window, horizon, *more, **named)
        if found is not None:
            for step in range(horizon):
                if window.shut(window.closed + 1 + step):
                    found[:, step] = 0
        return found

    return opened


def turns(probes: tuple[int, ...], closed: int) -> list[int]:
    """A step of each horizon group to learn about when a bucket has closed. All steps of a group take turns: a regression that only ever learnt
    about the probes would know nothing of the steps between them, where another phase of the season is to be told from the same past.

    Args:
        probes: one a group, ascending.
        closed: the bucket.
    """
    found, last = [], 0
    for probe in probes:
        found.append(last + 1 + closed % (probe - last))
        last = probe
    return found


def groups_of(spec: DemandSpec) -> Ints:
    """int64[horizon], the horizon group of each step: that of the first probe at or after it; steps beyond the last probe are the last's.

    Args:
        spec: what is forecast.
    """
    return np.minimum(np.searchsorted(spec.probes, np.arange(1, spec.horizon + 1)), len(spec.probes) - 1).astype(np.int64)


def season_length(spec: DemandSpec) -> int:
    """Buckets over which a recent level is taken: the longest season of up to a day of hours or two weeks of days, else 12.

    Args:
        spec: what is forecast.
    """
    short = [season for season in spec.seasons if season <= 31]
    return max(short) if short else 12


def level_length(spec: DemandSpec) -> int:
    """Buckets over which an item's size is taken: four such seasons. One would be nothing but noise for what sells once a week.

    Args:
        spec: what is forecast.
    """
    return 4 * season_length(spec)


def lag_steps(season: int, horizon: int) -> Ints:
    """int64[horizon], how many buckets before step 1, 2, … its latest known seasonal lag stands relative to the closed bucket (<= 0).

    Args:
        season: length.
        horizon: steps.
    """
    step = np.arange(1, horizon + 1)
    return np.asarray(step - season * (-(-step // season)), dtype=np.int64)
