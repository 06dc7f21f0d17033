"""The demand forecaster of one bucket size of one partition: experts, their council, and the forecasts that wait to be scored.

At a tick: close(panel), then forecast(panel) in any pieces, then hold() what was issued. Nothing is learnt from a
bucket before it has closed, and no forecast depends on which others were asked for with it, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from models.council import Calibration, Council
from models.counts import MAX_DISPERSION, counts, finish, upper_tail, zero_probability
from models.demand.expert import Expert
from models.demand.pending import Due, Float16, Pending, relative
from models.demand.window import CLASSES, VELOCITY_EDGES, Window, classify
from models.exact import SlotArrays, pooled, put, take
from models.protocol import DemandSpec, Float32, Float64, Ints, Panel, State
from models.registry import DEMAND

VERSION = "builtin-1"
"""Of the fixed weights that come with the package; what is learnt in a partition has no version of its own."""

_EXPERT_LEVELS = (0.1, 0.5, 0.9)
_CHUNK = 4096
_SMALLEST_SCALE = np.float32(0.02)
_LARGEST_MEAN = np.float32(1e12)
_RATE_GAIN = np.float32(0.02)
_ERROR_MEMORY = 0.99


@dataclass(frozen=True, slots=True)
class Forecast:
    """Forecasts of n items, and what hold() keeps of them to score them later."""

    mean: Float32
    """float32[n, horizon]."""
    quantiles: Float32
    """float32[n, levels, horizon], ascending, at least 0, whole numbers for whole items."""
    p_zero: Float32
    """float32[n, horizon], consistent with the quantiles."""
    totals: dict[int, Float32]
    """steps -> float32[n, levels], quantiles of the sum of the next `steps` buckets."""
    weights_row: Ints
    """int64[n], index into `weights`."""
    weights: list[dict[str, dict[str, float]]]
    """Per class: horizon group (its probe step) -> expert -> weight."""
    issue: int
    """The bucket after which these were issued."""
    scale: Float32
    """float32[n], what probes are relative to."""
    spread: Float32
    """float32[n], dispersion before calibration."""
    dispersion: Float32
    """float32[n], dispersion of the first step."""
    probes: Float16
    """float16[probes, values, n]."""
    total_means: dict[int, Float32]
    """steps -> float32[n]."""


class DemandForecaster:
    """Forecasts demand of one bucket size of one partition."""

    version = VERSION

    def __init__(self, spec: DemandSpec, device: torch.device | None = None) -> None:
        """Makes the experts that the spec names.

        Args:
            spec: what is forecast.
            device: for the experts with networks; default CPU.

        Raises:
            ValueError: an expert that does not exist, or probes beyond the horizon.
        """
        unknown = [name for name in spec.experts if name not in DEMAND]
        if unknown or not spec.experts:
            raise ValueError(f"experts must be of {sorted(DEMAND)}; got {list(spec.experts)}: leave out {unknown}")
        if not spec.probes or list(spec.probes) != sorted(set(spec.probes)) or not 1 <= spec.probes[0] <= spec.probes[-1] <= spec.horizon:
            raise ValueError(f"probes must ascend within 1 … horizon ({spec.horizon}); got {spec.probes}")
        if any(not 1 <= steps <= spec.horizon for steps in spec.totals):
            raise ValueError(f"totals must be of 1 … horizon ({spec.horizon}) steps; got {spec.totals}")
        self.spec = spec
        self.experts: list[Expert] = [DEMAND[name](spec, device) for name in spec.experts]
        # Which probe's weights a step takes; steps beyond the last probe take the last's.
        self._group: Ints = np.minimum(np.searchsorted(spec.probes, np.arange(1, spec.horizon + 1)), len(spec.probes) - 1).astype(np.int64)
        # A class twice: items that the partial experts (river) do not know, then those that they do.
        allowed = np.ones((2 * CLASSES, len(self.experts)), dtype=np.bool_)
        partial = [index for index, expert in enumerate(self.experts) if expert.partial]
        if len(partial) < len(self.experts):
            allowed[:CLASSES, partial] = False
        groups = len(spec.probes)
        self._council = Council(groups, 2 * CLASSES, allowed)
        self._calibration = Calibration(groups, 2 * CLASSES, spec.levels)
        self._pending = Pending(spec.probes, spec.totals, len(_EXPERT_LEVELS) * len(self.experts) + len(spec.levels))
        self._slots = SlotArrays()
        self._slots.add("rate", np.float32, np.nan)
        self._slots.add("class", np.int8)
        self._totals: Float64 = np.zeros((len(spec.totals), 2, 2 * CLASSES))
        # Absolute errors of medians and units, per horizon group: one row an expert, the last is the council's.
        self._errors: Float64 = np.zeros((groups, len(self.experts) + 1, 2))
        self._counts = counts(spec.levels)
        self._expert_counts = counts(_EXPERT_LEVELS)

    @property
    def lookback(self) -> int:
        """Closed buckets that a ring must hold, beside the open ones."""
        return max(*(expert.lookback for expert in self.experts), self._pending.depth, 1)

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity); never shrinks."""
        for expert in self.experts:
            expert.resize(capacity)
        self._pending.slots.resize(capacity)
        self._slots.resize(capacity)

    def forget(self, slots: Ints) -> None:
        """Makes these slots as if never used."""
        for expert in self.experts:
            expert.forget(slots)
        self._pending.slots.forget(slots)
        self._slots.forget(slots)

    def close(self, panel: Panel) -> None:
        """The panel's closed bucket has just closed: scores what was pending for it, then lets experts learn.

        Args:
            panel: of all live slots.
        """
        window = Window(panel)
        if not len(window):
            return
        for group, probe in enumerate(self.spec.probes):
            self._score(group, probe, window)
        for index, steps in enumerate(self.spec.totals):
            self._score_total(index, steps, window)
        for expert in self.experts:
            expert.learn_window(window)
        y = window.row(window.closed)
        rate = self._slots.f32("rate")[window.slots]
        gain = np.maximum(_RATE_GAIN, 1 / (np.maximum(window.age(), 1).astype(np.float32) + 1))
        rate = np.where(np.isnan(rate), y * np.float32(0.3), rate + gain * (y - rate)).astype(np.float32)
        self._slots.f32("rate")[window.slots] = rate
        self._slots["class"][window.slots] = classify(rate, window.whole) + CLASSES * self._covered(window)

    def correct(self, panel: Panel) -> None:
        """The newest closed bucket has changed for these slots: experts learn it anew where their state allows; scores stay.

        Args:
            panel: of the corrected slots.
        """
        window = Window(panel)
        if len(window):
            for expert in self.experts:
                expert.correct_window(window)

    def forecast(self, panel: Panel) -> Forecast:
        """Forecasts from the newest closed bucket. Pure.

        Args:
            panel: any live slots.
        """
        weights = self._council.weights()  # [experts, groups, classes]
        factors = self._calibration.factors()  # [groups, classes]
        n, spec = len(panel.slots), self.spec
        out = Forecast(
            mean=np.empty((n, spec.horizon), np.float32),
            quantiles=np.empty((n, len(spec.levels), spec.horizon), np.float32),
            p_zero=np.empty((n, spec.horizon), np.float32),
            totals={steps: np.empty((n, len(spec.levels)), np.float32) for steps in spec.totals},
            weights_row=np.asarray(self._slots["class"][panel.slots], dtype=np.int64),
            weights=self._named(weights),
            issue=panel.closed,
            scale=np.empty(n, np.float32),
            spread=np.empty(n, np.float32),
            dispersion=np.empty(n, np.float32),
            probes=np.empty((len(spec.probes), len(_EXPERT_LEVELS) * len(self.experts) + len(spec.levels), n), np.float16),
            total_means={steps: np.empty(n, np.float32) for steps in spec.totals},
        )
        for start in range(0, n, _CHUNK):
            part = slice(start, min(start + _CHUNK, n))
            chunk = replace(panel, slots=panel.slots[part])
            self._forecast(Window(chunk), out, part, weights, factors)
        return out

    def hold(self, panel: Panel, forecast: Forecast) -> None:
        """Keeps an issued forecast's probes until their buckets close; a second time for the same slots and bucket overwrites.

        Args:
            panel: the one that was forecast.
            forecast: what forecast(panel) gave.
        """
        if forecast.issue != panel.closed or len(forecast.scale) != len(panel.slots):
            raise ValueError(
                f"a forecast must be held with its own panel; got issue {forecast.issue}, panel {panel.closed}: pass the same one"
            )
        self._pending.hold(
            panel.slots, panel.closed, forecast.scale, forecast.weights_row, forecast.spread, forecast.probes, forecast.total_means
        )
        self._pending.hold_one(panel.slots, panel.closed, forecast.mean[:, 0], forecast.dispersion, panel.whole[panel.slots])

    def tail(self, slots: Ints, observed: Float64, closed: int) -> tuple[Float64, Float64]:
        """How unlikely demand this high was by the forecast that was held one bucket earlier: (p_value, expected), float64[n] each.

        Args:
            slots: int64[n].
            observed: float64[n], units in the bucket.
            closed: the bucket; where no forecast for exactly this one is held, p is 1 and expected NaN.
        """
        held = self._pending.slots
        known = held["one.issue"][slots] == closed - 1
        p, expected = np.ones(len(slots)), np.full(len(slots), np.nan)
        at = slots[known]
        mean, dispersion = held.f32("one.mean")[at].astype(np.float64), held.f32("one.dispersion")[at].astype(np.float64)
        expected[known] = mean
        p[known] = upper_tail(observed[known], mean, dispersion, np.asarray(held["one.whole"][at], dtype=np.bool_))
        return p, expected

    def metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """Running scores: {"wape": {expert or "council": {group: ratio}}, "coverage": {level: {"below", "at_or_below"}}}."""
        wape: dict[str, dict[str, float]] = {}
        for index, name in enumerate([*self.spec.experts, "council"]):
            scored = {
                str(probe): float(self._errors[group, index, 0] / self._errors[group, index, 1])
                for group, probe in enumerate(self.spec.probes)
                if self._errors[group, index, 1] > 0
            }
            if scored:
                wape[name] = scored
        return {"wape": wape, "coverage": self._calibration.coverage()}

    def state(self, copy: bool = True) -> State:
        """Everything that decides later results: arrays by name; copy=False: the large ones themselves, not to be written to."""
        out: State = {"totals": self._totals.copy(), "errors": self._errors.copy()}
        out |= put("slot.", self._slots.state(copy)) | put("pending.", self._pending.slots.state(copy))
        out |= put("council.", self._council.state()) | put("calibration.", self._calibration.state())
        for expert in self.experts:
            out |= put(f"expert.{expert.name}.", expert.state(copy))
        return out

    def restore(self, state: Mapping[str, NDArray[np.generic]], copy: bool = True) -> None:
        """After this the forecaster is the one that gave state(), to the bit.

        Args:
            state: what state() gave.
            copy: or take the large arrays themselves, which nobody else may use from here on.

        Raises:
            ValueError: the state was made by another configuration.
        """
        self._slots.restore(take(state, "slot."), copy)
        self._pending.slots.restore(take(state, "pending."), copy)
        self._council.restore(take(state, "council."))
        self._calibration.restore(take(state, "calibration."))
        self._totals, self._errors = np.array(state["totals"], np.float64), np.array(state["errors"], np.float64)
        for expert in self.experts:
            expert.restore(take(state, f"expert.{expert.name}."), copy)

    def _covered(self, window: Window) -> NDArray[np.bool_]:
        covered = np.ones(len(window), dtype=np.bool_)
        some = [expert for expert in self.experts if expert.partial]
        for expert in some:
            covered &= expert.covers(window)
        return covered if some else np.zeros(len(window), dtype=np.bool_)

    def _named(self, weights: Float32) -> list[dict[str, dict[str, float]]]:
        return [
            {
                str(probe): {name: float(weights[e, group, row]) for e, name in enumerate(self.spec.experts) if weights[e, group, row] > 0}
                for group, probe in enumerate(self.spec.probes)
            }
            for row in range(weights.shape[2])
        ]

    def _forecast(self, window: Window, out: Forecast, part: slice, weights: Float32, factors: Float32) -> None:
        """Fills rows `part` of the forecast."""
        spec, n, experts = self.spec, len(window), len(self.experts)
        classes = out.weights_row[part]
        means = np.empty((experts, n, spec.horizon), np.float32)
        spread = np.empty((experts, n), np.float32)
        for e, expert in enumerate(self.experts):
            np.minimum(expert.means(window, spec.horizon), _LARGEST_MEAN, out=means[e])
            spread[e] = expert.dispersion(window, means[e, :, 0])
        share = np.empty_like(means)
        wide = factors.T[classes]  # [n, groups]
        factor = wide[:, self._group]  # [n, horizon]
        dispersion = np.empty_like(means)
        mean = np.zeros((n, spec.horizon), np.float32)
        average = np.zeros(n, np.float32)
        for e in range(experts):
            share[e] = weights[e].T[classes][:, self._group]
            np.minimum(spread[e][:, None] * factor, np.float32(MAX_DISPERSION), out=dispersion[e])
            mean += share[e] * means[e]
            average += share[e][:, 0] * spread[e]
        cells = n * spec.horizon
        mixed = self._counts.mix(
            means.reshape(experts, cells),
            dispersion.reshape(experts, cells),
            share.reshape(experts, cells),
            np.repeat(window.whole, spec.horizon),
        )
        quantiles = finish(mixed.reshape(n, spec.horizon, len(spec.levels)), window.whole)
        out.mean[part], out.quantiles[part] = mean, quantiles
        wide_average = np.minimum(average[:, None] * factor, np.float32(MAX_DISPERSION))
        out.p_zero[part] = self._zero(mean, wide_average, quantiles, window.whole)
        out.spread[part], out.dispersion[part] = average, wide_average[:, 0]
        scale = np.maximum(_row_mean(mean), _SMALLEST_SCALE)
        out.scale[part] = scale
        for index, steps in enumerate(spec.totals):
            total = mean[:, 0].copy()
            for step in range(1, steps):
                total += mean[:, step]
            narrow = np.minimum(average * self._total_factor(index)[classes], np.float32(MAX_DISPERSION))
            out.total_means[steps][part] = total
            out.totals[steps][part] = self._counts.quantiles(total[:, None], narrow[:, None], window.whole)[:, :, 0]
        self._probe(window, means, dispersion, quantiles, scale, out.probes[:, :, part])

    def _probe(self, window: Window, means: Float32, dispersion: Float32, quantiles: Float32, scale: Float32, out: Float16) -> None:
        at = [probe - 1 for probe in self.spec.probes]
        experts = len(self.experts)
        for e in range(experts):
            found = self._expert_counts.quantiles(
                np.ascontiguousarray(means[e][:, at]), np.ascontiguousarray(dispersion[e][:, at]), window.whole
            )  # [n, 3, probes]
            for level in range(len(_EXPERT_LEVELS)):
                for group in range(len(at)):
                    out[group, len(_EXPERT_LEVELS) * e + level] = relative(found[:, level, group], scale)
        for group, step in enumerate(at):
            out[group, len(_EXPERT_LEVELS) * experts :] = relative(quantiles[:, :, step].T, scale)

    def _zero(self, mean: Float32, dispersion: Float32, quantiles: Float32, whole: NDArray[np.bool_]) -> Float32:
        """P(no demand), within what the published quantiles leave: quantile p is 0 exactly where P(no demand) >= p."""
        zeros = np.zeros(mean.shape, dtype=np.intp)
        for level in range(quantiles.shape[1]):
            zeros += quantiles[:, level] == 0
        levels = np.array(self.spec.levels, dtype=np.float32)
        low, high = np.concatenate([[np.float32(0)], levels]), np.concatenate([levels, [np.float32(1)]])
        return np.asarray(np.clip(zero_probability(mean, dispersion, whole), low[zeros], high[zeros]), dtype=np.float32)

    def _score(self, group: int, probe: int, window: Window) -> None:
        due = self._pending.due(window.slots, window.closed, probe, "probe")
        if not len(due.rows):
            return
        experts, whole = len(self.experts), window.whole[due.rows]
        y = window.observed()[due.rows].astype(np.float32)
        items = np.bincount(due.classes, minlength=2 * CLASSES).astype(np.float64)
        losses = np.zeros((2 * CLASSES, experts))
        size = float(y.astype(np.float64).cumsum()[-1])  # cumsum goes one by one
        known = due.classes >= CLASSES
        size_of = self._loss_scale(window.slots[due.rows], due.classes)
        self._errors[group] *= _ERROR_MEMORY
        for e, expert in enumerate(self.experts):
            loss = np.zeros(len(y), np.float32)
            for level, p in enumerate(_EXPERT_LEVELS):
                over = y - due.values[len(_EXPERT_LEVELS) * e + level]
                loss += np.maximum(np.float32(p) * over, np.float32(p - 1) * over)
            losses[:, e] = pooled(due.classes, np.minimum(loss / size_of, np.float32(300)), 2 * CLASSES)
            error = np.abs(y - due.values[len(_EXPERT_LEVELS) * e + 1]).astype(np.float64)
            mine = known if expert.partial else slice(None)
            self._errors[group, e] += _total(error[mine]), _total(y[mine].astype(np.float64))
        self._council.update(group, losses, items)
        below, within = np.zeros((2 * CLASSES, len(self.spec.levels))), np.zeros((2 * CLASSES, len(self.spec.levels)))
        for level, p in enumerate(self.spec.levels):
            q = due.values[len(_EXPERT_LEVELS) * experts + level]
            q = np.where(whole, np.rint(q), q)
            below[:, level] = np.bincount(due.classes[y < q], minlength=2 * CLASSES)
            within[:, level] = np.bincount(due.classes[y <= q], minlength=2 * CLASSES)
            if p == 0.5:
                self._errors[group, -1] += _total(np.abs(y - q).astype(np.float64)), size
        self._calibration.update(group, below, within, items, self._rises(group, due, items))

    def _loss_scale(self, slots: Ints, classes: Ints) -> Float32:
        """float32[m], what losses are divided by: the class's upper edge, the item's own rate where a class has none.

        Not the forecast, and not a quick rate: where those are low by chance, every expert that says more would look bad.
        """
        rate = np.nan_to_num(self._slots.f32("rate")[slots])
        edges = np.append(VELOCITY_EDGES, [VELOCITY_EDGES[-1], np.float32(1e-3)]).astype(np.float32)
        kind = classes % CLASSES
        return np.where(kind < len(VELOCITY_EDGES), edges[kind], np.maximum(rate, edges[kind])).astype(np.float32)

    def _rises(self, group: int, due: Due, items: Float64) -> Float64:
        """float64[classes, levels], how a typical item's quantiles move with the dispersion, at most 1 either way."""
        n = np.maximum(items, 1.0)
        mean = (pooled(due.classes, np.minimum(due.scale, np.float32(1e3)), 2 * CLASSES) / n).astype(np.float32)
        spread = (pooled(due.classes, due.spread, 2 * CLASSES) / n).astype(np.float32) * self._calibration.factors()[group]
        whole = np.arange(2 * CLASSES) % CLASSES != CLASSES - 1
        one = np.ones((1, 2 * CLASSES), np.float32)
        wide, narrow = (
            self._counts.mix(mean[None], np.minimum(spread * np.float32(factor), np.float32(MAX_DISPERSION))[None], one, whole)
            for factor in (1.2, 1 / 1.2)
        )
        return np.asarray(np.clip((wide - narrow) / (0.02 + 0.04 * mean[:, None]), -1.0, 1.0), dtype=np.float64)

    def _score_total(self, index: int, steps: int, window: Window) -> None:
        due = self._pending.due(window.slots, window.closed, steps, "total")
        if not len(due.rows):
            return
        y = np.zeros(len(due.rows))
        for bucket in range(window.closed - steps + 1, window.closed + 1):
            y += window.row(bucket)[due.rows]
        mean, whole = due.values[0].astype(np.float64), window.whole[due.rows]
        size = np.where(whole, 1.0 + mean, mean + 0.2 * y + 1e-9)
        excess = np.minimum(((y - mean) / size) ** 2, 50.0) - np.where(whole, mean, 0.0) / (size * size)
        self._totals[index] *= _ERROR_MEMORY
        self._totals[index, 0] += pooled(due.classes, excess, 2 * CLASSES)
        self._totals[index, 1] += pooled(due.classes, due.spread * (mean / size) ** 2, 2 * CLASSES)

    def _total_factor(self, index: int) -> Float32:
        """float32[classes], dispersion of a sum relative to one step's: 1/sqrt(steps) until sums have been seen."""
        prior = 1 / np.sqrt(self.spec.totals[index])
        excess, predicted = self._totals[index]
        return np.asarray(np.clip((excess + 3 * prior) / (predicted + 3), 0.02, 8.0), dtype=np.float32)


def _row_mean(values: Float32) -> Float32:
    """float32[n], step by step: numpy's own mean sums in an order that depends on the layout."""
    total = np.zeros(len(values), np.float32)
    for step in range(values.shape[1]):
        total += values[:, step]
    return np.asarray(total / np.float32(values.shape[1]), dtype=np.float32)


def _total(values: Float64) -> float:
    """A sequential sum."""
    return float(values.cumsum()[-1]) if len(values) else 0.0
