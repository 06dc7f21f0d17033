"""The experts that the trained global network is: its quantiles as they are, its counts, and its quantiles adapted in the partition.

All three read one forward pass. They are silent until weights are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.conformal import reached
from models.counts import counts
from models.demand.encoder import from_scale, layout_of
from models.demand.expert import Expert, groups_of
from models.demand.network import LOG_DISPERSION, LOG_VARIANCE, Network, Weights
from models.demand.window import CLASSES, Window, classify
from models.drift import Drift
from models.exact import SlotArrays, products, put, solve, take
from models.protocol import DemandSpec, Float32, Float64, Ints, State

_NEVER = np.iinfo(np.int32).min
_COLUMNS = 4  # one, the item's bias, its trend, the network's median
_GRID = 2.0**10
_LEVELS = (0.25, 0.5, 0.75, 0.9)
_RIDGE = 400.0
_MEMORY, _HASTE = 0.99, 0.93
"""Of the ridge sums, a tick: usually, and for a while after drift."""
_ITEMS = 30.0
_ITEM_GAIN = np.float32(0.1)
_LARGEST = np.float32(0.7)


class NetworkExpert(Expert):
    """The global network's quantiles, frozen."""

    name: ClassVar[str] = "network"
    kin: ClassVar[str] = "network"
    active = False

    def __init__(self, spec: DemandSpec, device: torch.device | None = None) -> None:
        """Makes a silent expert.

        Args:
            spec: what is forecast.
            device: where the network is computed.
        """
        super().__init__(spec, device)
        self._network: Network | None = None

    def load(self, weights: Weights | None, keep: bool = False) -> bool:
        """Takes a network that was trained for this bucket size; those for others pass by.

        Args:
            weights: None: falls silent.
            keep: what was learnt of the weights before holds.

        Raises:
            ValueError: trained for other levels, or for a shorter horizon.
        """
        if weights is None:
            self._network, self.active, self.version = None, False, ""
            return False
        if weights.size != self.spec.size:
            return False
        if weights.levels != self.spec.levels or weights.layout.horizon != self.spec.horizon:
            raise ValueError(
                f"the network {weights.version} must have been trained for horizon {self.spec.horizon} and levels {list(self.spec.levels)}; "
                f"got {weights.layout.horizon} and {list(weights.levels)}: train it anew"
            )
        self._network, self.active, self.version = Network(weights, self.device), True, weights.version
        return True

    @property
    def lookback(self) -> int:
        """What its encoder reads, loaded or not: rings do not grow when weights are swapped in."""
        return layout_of(self.spec).lookback

    def _outputs(self, window: Window, horizon: int) -> tuple[Float32, Float32]:
        assert self._network is not None
        out, scale = self._network.outputs_of(window)
        return out[:, :horizon], scale

    def means(self, window: Window, horizon: int) -> Float32:
        """The mean of its quantile function."""
        return mean_of(self.raw(window, horizon, self.spec.levels), self.spec.levels, window.whole)

    def raw(self, window: Window, horizon: int, levels: tuple[float, ...]) -> Float32:
        """Its quantiles."""
        out, scale = self._outputs(window, horizon)
        return as_units(out[..., : len(levels)], scale, window.whole)

    def dispersion(self, window: Window, one_step: Float32) -> Float32:
        """As its likelihood has it, of the first step."""
        out, _ = self._outputs(window, 1)
        return spread_of(out[:, 0, -1], window.whole)

    def learn_window(self, window: Window) -> None:
        """Nothing: the weights are trained elsewhere."""
        return

    def correct_window(self, window: Window) -> None:
        """Nothing either."""
        return


class NetworkCounts(NetworkExpert):
    """A count distribution around the network's mean: what rare items want."""

    name: ClassVar[str] = "network_counts"

    def means(self, window: Window, horizon: int) -> Float32:
        """The mean that its likelihood was trained for."""
        out, scale = self._outputs(window, horizon)
        return np.asarray(np.exp(np.clip(out[..., -2], -6.0, 4.0)) * (scale + np.float32(0.05))[:, None], dtype=np.float32)

    def raw(self, window: Window, horizon: int, levels: tuple[float, ...]) -> Float32:
        """Quantiles of counts with the mean and dispersion of each step."""
        out, _ = self._outputs(window, horizon)
        mean = np.ascontiguousarray(NetworkCounts.means(self, window, horizon)).reshape(1, -1)
        spread = spread_of(out[..., -1], window.whole[:, None]).reshape(1, -1)
        found = counts(levels).mix(mean, spread, np.ones_like(mean), np.repeat(window.whole, horizon))
        return found.reshape(len(window), horizon, len(levels))


class Boosted(NetworkExpert):
    """The quantiles of the trees that were trained beside the network; silent where there are none."""

    name: ClassVar[str] = "boosted"
    kin: ClassVar[str] = ""

    def load(self, weights: Weights | None, keep: bool = False) -> bool:
        """As every network's, of weights with trees."""
        without = weights is not None and weights.size == self.spec.size and weights.trees is None
        return super().load(None if without else weights, keep)

    def raw(self, window: Window, horizon: int, levels: tuple[float, ...]) -> Float32:
        """The trees' quantiles."""
        assert self._network is not None
        out, scale = self._network.trees_of(window)
        return as_units(out[:, :horizon], scale, window.whole)


class NetworkAdapted(NetworkExpert):
    """The network's quantiles, moved by what its medians have lately got wrong: per item a bias, per class a ridge regression on it.

    A forecast is learnt from when its bucket has closed, with the features as they stood when it was made. How fast old errors are forgotten
    is decided by drift of the errors (ADWIN).
    """

    name: ClassVar[str] = "network_adapted"

    def __init__(self, spec: DemandSpec, device: torch.device | None = None) -> None:
        """Makes a silent expert without slots.

        Args:
            spec: what is forecast.
            device: where the network is computed.
        """
        super().__init__(spec, device)
        self._group = groups_of(spec)
        self._held = SlotArrays()
        """Without slots until there are weights."""
        groups = len(spec.probes)
        for group, probe in enumerate(spec.probes):
            self._held.add(f"features.{group}", np.float16, 0, (probe, _COLUMNS - 1))
            self._held.add(f"said.{group}", np.float16, 0, (probe, len(_LEVELS)))
            self._held.add(f"scale.{group}", np.float32, 0, (probe,))
            self._held.add(f"issue.{group}", np.int32, _NEVER, (probe,))
            self._held.add(f"bias.{group}", np.float32)
        self._matrix: Float64 = np.zeros((groups, CLASSES, _COLUMNS, _COLUMNS))
        self._right: Float64 = np.zeros((groups, CLASSES, _COLUMNS))
        self._weights: Float64 = np.zeros((groups, CLASSES, _COLUMNS))
        self._drift = [Drift() for _ in spec.probes]
        self._compared = [int(np.argmin(np.abs(np.array(spec.levels) - p))) for p in _LEVELS]

    def load(self, weights: Weights | None, keep: bool = False) -> bool:
        """As every network's; what was learnt about other weights is forgotten."""
        if not super().load(weights):
            return False
        self._held.resize(self.slots.capacity)
        if keep:
            return True
        self._matrix[:], self._right[:], self._weights[:] = 0, 0, 0
        self._held.forget(np.arange(self._held.capacity))
        self._drift = [Drift() for _ in self.spec.probes]
        return True

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity)."""
        super().resize(capacity)
        if self.active or self._held.capacity:
            self._held.resize(capacity)

    def forget(self, slots: Ints) -> None:
        """Makes these slots cold."""
        super().forget(slots)
        if self._held.capacity:
            self._held.forget(slots)

    def raw(self, window: Window, horizon: int, levels: tuple[float, ...]) -> Float32:
        """The network's quantiles, moved."""
        out, scale = self._outputs(window, horizon)
        moved = out[..., : len(levels)].copy()
        classes = classify(scale, window.whole)
        by_group = []
        for group in range(int(self._group[horizon - 1]) + 1):
            features = self._features(window, out, scale, group)
            weights = self._weights[group].astype(np.float32)[classes]  # [n, columns]
            total = np.zeros(len(window), np.float32)
            for column, values in enumerate(features):
                total += weights[:, column] * values
            by_group.append(np.clip(total, -_LARGEST, _LARGEST))
        for step in range(horizon):
            moved[:, step] += by_group[self._group[step]][:, None]
        return as_units(moved, scale, window.whole)

    def _features(self, window: Window, out: Float32, scale: Float32, group: int) -> list[Float32]:
        step = min(self.spec.probes[group], out.shape[1]) - 1
        middle = len(self.spec.levels) // 2
        recent = np.clip(np.log((window.mean(max(2, len(self.spec.probes))) + 0.05) / (scale + 0.05)), -2, 2).astype(np.float32)
        bias = self._held.f32(f"bias.{group}")[window.slots]
        return [np.ones(len(window), np.float32), bias, recent, np.clip(out[:, step, middle], -3, 3)]

    def learn_window(self, window: Window) -> None:
        """Takes what became of the forecasts that were due, then holds new ones."""
        if not window.shut(window.closed):
            for group, probe in enumerate(self.spec.probes):
                self._learn(window, group, probe)
        out, scale = self._outputs(window, self.spec.horizon)
        for group, probe in enumerate(self.spec.probes):
            row = window.closed % probe
            features = self._features(window, out, scale, group)
            for column, place in enumerate(self._compared):
                self._held[f"said.{group}"][row, column, window.slots] = out[:, probe - 1, place].astype(np.float16)
            for column, values in enumerate(features[1:]):
                self._held[f"features.{group}"][row, column, window.slots] = values.astype(np.float16)
            self._held[f"scale.{group}"][row, window.slots] = scale
            self._held[f"issue.{group}"][row, window.slots] = window.closed

    def _learn(self, window: Window, group: int, probe: int) -> None:
        row = window.closed % probe
        issue = self._held[f"issue.{group}"][row, window.slots]
        mine = np.flatnonzero((issue == window.closed - probe) & (window.censored(window.closed) == 0))
        if not len(mine):
            return
        slots = window.slots[mine]
        scale = np.asarray(self._held[f"scale.{group}"][row, slots], dtype=np.float32)
        held = np.asarray(self._held[f"features.{group}"][row][:, slots], dtype=np.float32)
        y = window.row(window.closed)[mine]
        whole = window.whole[mine]
        # By how much all quantiles have to move together: how far each was from being kept, in proportion to its size (that is the gradient
        # of the pinball loss), times two, about one over the density. Not the distance to the median: its mean is not zero where demand is skewed.
        quantiles = np.asarray(self._held[f"said.{group}"][row][:, slots], dtype=np.float32)
        error, size = np.zeros(len(mine), np.float32), np.zeros(len(mine), np.float32)
        for values, place in zip(quantiles, self._compared, strict=True):
            said = from_scale(values, scale)
            error += (said + np.float32(1)) * (np.float32(self.spec.levels[place]) - reached(said, y, whole))
            size += said + np.float32(1)
        error = (np.float32(2) * error / np.maximum(size, np.float32(1e-6))).astype(np.float32)
        bias = self._held.f32(f"bias.{group}")
        bias[slots] = bias[slots] + _ITEM_GAIN * (error - bias[slots])
        classes = classify(scale, whole)
        # Less of a rare item's error is its own than is chance.
        trust = np.sqrt(scale / (scale + np.float32(0.5)))
        # What moves all items at once in one bucket does not average out over them: a tick is worth no more than so many.
        trust *= np.float32(np.sqrt(min(1.0, _ITEMS / len(mine))))
        x = np.column_stack([np.ones(len(mine), np.float32), *held]).astype(np.float64)
        predicted = (self._weights[group][classes] * x).sum(axis=1)
        total = float(np.abs(error - predicted).cumsum()[-1]) / len(mine)
        memory = _HASTE if self._drift[group].update(total) else _MEMORY
        fixed = np.rint(x * trust[:, None] * _GRID) / _GRID
        target = np.rint(error.astype(np.float64) * trust * _GRID) / _GRID
        for kind in np.unique(classes).tolist():
            part = classes == kind
            self._matrix[group, kind] = self._matrix[group, kind] * memory + products(fixed[part], fixed[part])
            self._right[group, kind] = self._right[group, kind] * memory + products(fixed[part], target[part])
            self._weights[group, kind] = solve(self._matrix[group, kind] + _RIDGE * np.eye(_COLUMNS), self._right[group, kind])

    def shared_state(self) -> State:
        """The regressions, their drift, and what is held."""
        out: State = {"matrix": self._matrix.copy(), "right": self._right.copy(), "weights": self._weights.copy()}
        for group, drift in enumerate(self._drift):
            out |= put(f"drift.{group}.", drift.state())
        return out

    def restore_shared(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what shared_state() gave."""
        self._matrix, self._right = np.array(state["matrix"], np.float64), np.array(state["right"], np.float64)
        self._weights = np.array(state["weights"], np.float64)
        for group, drift in enumerate(self._drift):
            drift.restore(take(state, f"drift.{group}."))

    def state(self, copy: bool = True) -> State:
        """Everything that decides later results."""
        return super().state(copy) | put("held.", self._held.state(copy))

    def restore(self, state: Mapping[str, NDArray[np.generic]], copy: bool = True) -> None:
        """Takes what state() gave."""
        super().restore(state, copy)
        self._held.restore(take(state, "held."), copy)


def spread_of(out: Float32, whole: NDArray[np.bool_]) -> Float32:
    """float32, dispersions by the network's last output; relative variances of kilograms.

    Args:
        out: float32, logarithms.
        whole: bool, broadcast against out.
    """
    low = np.where(whole, np.float32(LOG_DISPERSION[0]), np.float32(LOG_VARIANCE[0]))
    high = np.where(whole, np.float32(LOG_DISPERSION[1]), np.float32(LOG_VARIANCE[1]))
    return np.ascontiguousarray(np.exp(np.clip(out, low, high)), dtype=np.float32)


def as_units(values: Float32, scale: Float32, whole: NDArray[np.bool_]) -> Float32:
    """float32[n, horizon, levels], units of values on the network's scale; kilograms are never below zero.

    Args:
        values: float32[n, horizon, levels].
        scale: float32[n].
        whole: bool[n].
    """
    units = from_scale(values, scale[:, None, None])
    return units if whole.all() else np.asarray(np.where(whole[:, None, None], units, np.maximum(units, np.float32(0))), dtype=np.float32)


def mean_of(raw: Float32, levels: tuple[float, ...], whole: NDArray[np.bool_]) -> Float32:
    """float32[n, horizon], means of quantile functions joined linearly, with an exponential tail beyond the last level.

    Args:
        raw: float32[n, horizon, levels].
        levels: ascending.
        whole: bool[n]: a count y stands for (y - 1, y].
    """
    p = np.array(levels, dtype=np.float32)
    total = raw[..., 0] * p[0]
    for level in range(1, len(levels)):
        total = total + (raw[..., level] + raw[..., level - 1]) * (np.float32(0.5) * (p[level] - p[level - 1]))
    excess = np.float32(0)
    if len(levels) > 1:
        beyond = np.maximum(raw[..., -1] - raw[..., -2], 0) / np.float32(np.log((1 - levels[-2]) / (1 - levels[-1])))
        excess = beyond
    total = total + (raw[..., -1] + excess) * (1 - p[-1])
    mean: Float32 = np.maximum(total + np.where(whole[:, None], np.float32(0.5), np.float32(0)), np.float32(0)).astype(np.float32)
    return mean
