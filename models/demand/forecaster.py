"""The demand forecaster of one bucket size of one partition: experts, their council, and the forecasts that wait to be scored.

At a tick: close(panel), then forecast(panel) in any pieces, then hold() what was issued. Nothing is learnt from a
bucket before it has closed, and no forecast depends on which others were asked for with it, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from models.conformal import Conformal, Corrections, corrected, reached, rounded
from models.council import Council
from models.counts import MAX_DISPERSION, counts, finish, some_counts, upper_tail, zero_probability
from models.demand.expert import Expert, groups_of
from models.demand.leading import Leading
from models.demand.leap import Leap
from models.demand.network import Weights
from models.demand.network_experts import mean_of
from models.demand.opening import Opening
from models.demand.pending import Compared, Pending, Probes, coarse
from models.demand.sums import Sums
from models.demand.window import CLASSES, VELOCITY_EDGES, Window, classify
from models.exact import SlotArrays, pooled, put, take
from models.protocol import DemandSpec, Float32, Float64, Ints, Panel, State
from models.registry import DEMAND

VERSION = "builtin-1"
"""Of the fixed weights that come with the package; what is learnt in a partition has no version of its own."""

_EXPERT_LEVELS = (0.1, 0.5, 0.9)
"""Levels at which experts are compared: the nearest of the configured ones."""
_CHUNK = 4096
_SMALLEST_SCALE = np.float32(0.02)
_LARGEST_MEAN = np.float32(1e12)
_SHARED = 200_000
"""Items up to which the network's outputs of a tick are kept for its forecasts: a kilobyte an item."""
_RATE_GAIN = np.float32(0.02)
_ERROR_MEMORY = 0.99
_SAME = np.float32(0.5)
"""Share of today's weights that must have spoken when a forecast was issued, for calibration to learn from it."""


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
    """float32[n], what probes are relative to, as it is kept."""
    spread: Float32
    """float32[n], dispersion of the experts."""
    dispersion: Float32
    """float32[n], dispersion of the first step."""
    probes: Probes
    """What waits for the probes' buckets."""
    total_means: dict[int, Float32]
    """steps -> float32[n]."""
    usual: Float32
    """float32[n], mean of the first step had nobody looked at the live sessions: what spikes are judged by."""


class DemandForecaster:
    """Forecasts demand of one bucket size of one partition."""

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
        self._group = groups_of(spec)
        nearest = [int(np.argmin(np.abs(np.array(spec.levels) - p))) for p in _EXPERT_LEVELS]
        compared = sorted(set(nearest))
        middle = int(np.argmin(np.abs(np.array([spec.levels[place] for place in compared]) - 0.5)))
        self._compared = Compared(tuple(compared), middle)
        groups = len(spec.probes)
        kin = [expert.kin or expert.name for expert in self.experts]
        self._council = Council(groups, 2 * CLASSES, self._allowed(), np.array([1 / kin.count(name) for name in kin]))
        self._conformal = Conformal(groups, 2 * CLASSES, spec.levels)
        # A probe keeps the experts' raw quantiles at the compared levels and the mixture's at all levels.
        self._pending = Pending(spec.probes, spec.totals, len(spec.levels), self._compared, self._active())
        self._slots = SlotArrays()
        self._slots.add("rate", np.float32, np.nan)
        self._slots.add("class", np.int8)
        self._sums = Sums(spec, 2 * CLASSES)
        self._opening = Opening(spec)
        self._leading = Leading(spec)
        self._leap = Leap(spec)
        self.watch: Callable[[Window], None] | None = None
        """Told of every tick's window, when it has been learnt from: whoever trains elsewhere records here."""
        # Absolute errors of medians and units, per horizon group: one row an expert, the last is the council's.
        self._errors: Float64 = np.zeros((groups, len(self.experts) + 1, 2))
        self._ticked: Window | None = None
        """The window of the newest tick, with what the network said of it; dropped by whatever changes that."""
        self._counts = counts(spec.levels)
        # The mean is that of the mixture's quantile function, where its levels say enough; else the experts'. (That of the calibrated one
        # is 5 to 10 % worse: the correction of the highest level is the least certain.)
        self._tells_mean = len(spec.levels) >= 5 and spec.levels[0] <= 0.1 and spec.levels[-1] >= 0.9
        self._compared_counts = some_counts(spec.levels, self._compared.places)

    @property
    def version(self) -> str:
        """Of the weights that its experts came with; what is learnt in a partition has no version of its own."""
        return next((expert.version for expert in self.experts if expert.version), VERSION)

    @property
    def lookback(self) -> int:
        """Closed buckets that a ring must hold, beside the open ones."""
        return max(*(expert.lookback for expert in self.experts), self._pending.depth, 1)

    def load(self, weights: Weights | None, keep: bool = False) -> None:
        """Gives the experts that come with trained weights other ones; between two ticks.

        Args:
            weights: of a network; None: those experts fall silent.
            keep: the same network, fitted a little further: what the council and the calibration have learnt of it still holds.
        """
        self._ticked = None
        before = np.array(self._active())
        for place, expert in enumerate(self.experts):
            if expert.load(weights, keep) and not keep:
                self._council.reset(place)
        self._council.allow(self._allowed())
        self._pending.keep(self._active())
        if not keep:
            new = np.array(self._active()) & ~before
            self._conformal.renew(self._council.weights()[new].astype(np.float64).sum(axis=0).mean(axis=1))
            self._leap.renew()

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity); never shrinks."""
        for expert in self.experts:
            expert.resize(capacity)
        self._pending.slots.resize(capacity)
        self._leading.resize(capacity)
        self._slots.resize(capacity)

    def forget(self, slots: Ints) -> None:
        """Makes these slots as if never used."""
        self._ticked = None
        for expert in self.experts:
            expert.forget(slots)
        self._pending.slots.forget(slots)
        self._leading.forget(slots)
        self._slots.forget(slots)

    def close(self, panel: Panel) -> None:
        """The panel's closed bucket has just closed: scores what was pending for it, then lets experts learn.

        Args:
            panel: of all live slots.
        """
        if not len(panel.slots):
            return
        self._opening.learn(panel)
        window = Window(self._opening.extend(panel))
        if not window.shut(window.closed):  # nothing is scored by a day on which nobody could buy
            for group, probe in enumerate(self.spec.probes):
                self._score(group, probe, window)
        for index, steps in enumerate(self.spec.totals):
            self._sums.score(index, steps, window, self._pending.due(window.slots, window.closed, steps, "total"))
        for expert in self.experts:
            if expert.active:
                expert.learn_window(window)
        if not window.shut(window.closed):
            y = window.row(window.closed)
            rate = self._slots.f32("rate")[window.slots]
            gain = np.maximum(_RATE_GAIN, 1 / (np.maximum(window.age(), 1).astype(np.float32) + 1))
            rate = np.where(np.isnan(rate), y * np.float32(0.3), rate + gain * (y - rate)).astype(np.float32)
            self._slots.f32("rate")[window.slots] = rate
            self._leading.close(window)
        rate = np.nan_to_num(self._slots.f32("rate")[window.slots])
        self._slots["class"][window.slots] = classify(rate, window.whole) + CLASSES * self._covered(window)
        self._ticked = window if "network" in window.shared and len(window) <= _SHARED else None
        if self.watch is not None:
            self.watch(window)

    def correct(self, panel: Panel) -> None:
        """The newest closed bucket has changed for these slots: experts learn it anew where their state allows; scores stay.

        Args:
            panel: of the corrected slots.
        """
        self._ticked = None
        if len(panel.slots):
            self._opening.correct(panel)
            window = Window(self._opening.extend(panel))
            for expert in self.experts:
                if expert.active:
                    expert.correct_window(window)

    def forecast(self, panel: Panel) -> Forecast:
        """Forecasts from the newest closed bucket. Pure.

        Args:
            panel: any live slots.
        """
        weights = self._council.weights()  # [experts, groups, classes]
        n, spec = len(panel.slots), self.spec
        out = Forecast(
            mean=np.empty((n, spec.horizon), np.float32),
            quantiles=np.empty((n, len(spec.levels), spec.horizon), np.float32),
            p_zero=np.empty((n, spec.horizon), np.float32),
            totals={steps: np.empty((n, len(spec.levels)), np.float32) for steps in spec.totals},
            weights_row=self.classes(panel.slots),
            weights=self._named(weights),
            issue=panel.closed,
            scale=np.empty(n, np.float32),
            spread=np.empty(n, np.float32),
            dispersion=np.empty(n, np.float32),
            probes=self._pending.room(n),
            total_means={steps: np.empty(n, np.float32) for steps in spec.totals},
            usual=np.empty(n, np.float32),
        )
        opened = self._opening.extend(panel)
        corrections = self._conformal.corrections()
        for start in range(0, n, _CHUNK):
            part = slice(start, min(start + _CHUNK, n))
            window = Window(replace(opened, slots=panel.slots[part]))
            self._share(window)
            self._forecast(window, out, part, weights, corrections)
        return out

    def opinions(self, panel: Panel) -> dict[str, Float32]:
        """What each expert alone would publish: float32[n, levels, horizon] by name, not calibrated, NaN for items that it does not know.

        Args:
            panel: any live slots.
        """
        extended = self._opening.extend(panel)
        window = Window(extended)
        found: dict[str, Float32] = {}
        for expert in self.experts:
            if expert.active:
                made = expert.predict(extended).quantiles
                found[expert.name] = np.where(expert.covers(window)[:, None, None], made, np.float32(np.nan))
        return found

    def classes(self, slots: Ints) -> Ints:
        """int64[n], what the items' weights go by: their velocity, since the newest tick.

        Args:
            slots: int64[n].
        """
        return np.asarray(self._slots["class"][slots], dtype=np.int64)

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
        self._pending.hold_one(panel.slots, panel.closed, forecast.usual, forecast.dispersion, panel.whole[panel.slots])

    def tail(self, slots: Ints, observed: Float64, closed: int) -> tuple[Float64, Float64]:
        """How unlikely demand this high was by the forecast that was held one bucket earlier: (p_value, expected), float64[n] each.

        Args:
            slots: int64[n].
            observed: float64[n], units in the bucket.
            closed: the bucket; where no forecast for exactly this one is held, p is 1 and expected NaN.
        """
        held, expected = self._pending.slots, self.expected(slots, closed)
        known = ~np.isnan(expected)
        at = slots[known]
        p = np.ones(len(slots))
        dispersion, whole = held.f32("one.dispersion")[at].astype(np.float64), np.asarray(held["one.whole"][at], dtype=np.bool_)
        p[known] = upper_tail(observed[known], expected[known], dispersion, whole)
        return p, expected

    def expected(self, slots: Ints, closed: int) -> Float64:
        """float64[n], units that the forecast held one bucket earlier expected; NaN where none for exactly this bucket is held.

        Args:
            slots: int64[n].
            closed: the bucket.
        """
        held = self._pending.slots
        return np.where(held["one.issue"][slots] == closed - 1, held.f32("one.mean")[slots].astype(np.float64), np.nan)

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
        return {"wape": wape, "coverage": self._conformal.coverage()}

    def state(self, copy: bool = True) -> State:
        """Everything that decides later results: arrays by name; copy=False: the large ones themselves, not to be written to."""
        out: State = {"errors": self._errors.copy()}
        out |= put("slot.", self._slots.state(copy)) | put("pending.", self._pending.state(copy))
        out |= put("council.", self._council.state()) | put("conformal.", self._conformal.state())
        out |= put("sums.", self._sums.state()) | put("opening.", self._opening.state())
        out |= put("leading.", self._leading.state(copy)) | put("leap.", self._leap.state())
        for expert in self.experts:
            out |= put(f"expert.{expert.name}.", expert.state(copy))
        return out

    def restore(self, state: Mapping[str, NDArray[np.generic]], copy: bool = True) -> None:
        """After this the forecaster is the one that gave state(), to the bit; weights must have been loaded before.

        Args:
            state: what state() gave.
            copy: or take the large arrays themselves, which nobody else may use from here on.

        Raises:
            ValueError: the state was made by another configuration.
        """
        state = self._with_all_experts(state)
        self._slots.restore(take(state, "slot."), copy)
        self._pending.restore(take(state, "pending."), copy)
        self._council.restore(take(state, "council."))
        self._conformal.restore(take(state, "conformal."))
        self._sums.restore(take(state, "sums."))
        self._opening.restore(take(state, "opening."))
        self._leading.restore(take(state, "leading."), self._slots.capacity, copy)
        self._leap.restore(take(state, "leap."))
        self._errors = np.array(state["errors"], np.float64)
        for expert in self.experts:
            expert.restore(take(state, f"expert.{expert.name}."), copy)

    def _with_all_experts(self, state: Mapping[str, NDArray[np.generic]]) -> Mapping[str, NDArray[np.generic]]:
        """A state from before the last experts of the line-up existed: they come in as they would have begun, and those need weights to speak."""
        places = range(len(self.experts))
        new = [place for place in places if not take(state, f"expert.{self.experts[place].name}.")]
        if not new or new != list(places[-len(new) :]) or any(self.experts[place].active for place in new):
            return state
        grown = dict(state)
        for name in ("loss", "square", "range"):
            values = np.asarray(state[f"council.{name}"])
            grown[f"council.{name}"] = np.concatenate([values, np.zeros((*values.shape[:2], len(new)))], axis=2)
        errors = np.asarray(state["errors"])  # the last row is the council's
        grown["errors"] = np.concatenate([errors[:, :-1], np.zeros((len(errors), len(new), 2)), errors[:, -1:]], axis=1)
        for place in new:
            mine = self.experts[place]
            mine.resize(np.asarray(state["slot.rate"]).shape[-1])
            grown |= put(f"expert.{mine.name}.", mine.state())
        return grown

    def _share(self, window: Window) -> None:
        """What the network said of these items when it learnt at this tick: the same bits as asking again, rows being their own."""
        ticked = self._ticked
        if ticked is None or ticked.closed != window.closed or not len(window):
            return
        place = np.minimum(np.searchsorted(ticked.slots, window.slots), len(ticked) - 1)
        if (ticked.slots[place] == window.slots).all():
            for name in ("network", "trees"):
                if name in ticked.shared:
                    out, scale = ticked.shared[name]
                    window.shared[name] = (out[place], scale[place])

    def _active(self) -> list[bool]:
        return [expert.active for expert in self.experts]

    def _allowed(self) -> NDArray[np.bool_]:
        """bool[classes, experts]. A class twice: items that the partial experts (river) do not know, then those that they do."""
        allowed = np.ones((2 * CLASSES, len(self.experts)), dtype=np.bool_)
        allowed[:, [place for place, expert in enumerate(self.experts) if not expert.active]] = False
        partial = [place for place, expert in enumerate(self.experts) if expert.partial]
        if allowed[:CLASSES, [place for place in range(len(self.experts)) if place not in partial]].any():
            allowed[:CLASSES, partial] = False
        if not allowed.any(axis=1).all():
            raise ValueError(f"at least one expert must need no trained weights; got {list(self.spec.experts)}: add seasonal_naive")
        return allowed

    def _covered(self, window: Window) -> NDArray[np.bool_]:
        covered = np.zeros(len(window), dtype=np.bool_)
        for expert in self.experts:
            if expert.partial:
                covered |= expert.covers(window)
        return covered

    def _named(self, weights: Float32) -> list[dict[str, dict[str, float]]]:
        return [
            {
                str(probe): {name: float(weights[e, group, row]) for e, name in enumerate(self.spec.experts) if weights[e, group, row] > 0}
                for group, probe in enumerate(self.spec.probes)
            }
            for row in range(weights.shape[2])
        ]

    def _forecast(self, window: Window, out: Forecast, part: slice, weights: Float32, corrections: Corrections) -> None:
        """Fills rows `part` of the forecast."""
        spec, n = self.spec, len(window)
        classes = out.weights_row[part]
        mean = np.zeros((n, spec.horizon), np.float32)
        average = np.zeros(n, np.float32)
        mixed = np.zeros((n, spec.horizon, len(spec.levels)), np.float32)
        means: list[Float32] = []
        spreads: list[Float32] = []
        shares: list[Float32] = []
        compared: list[Float32 | None] = []
        steps_at = [probe - 1 for probe in spec.probes]
        for e, expert in enumerate(self.experts):
            if not expert.active:
                compared.append(None)
                continue
            share = weights[e].T[classes][:, self._group]  # [n, horizon]
            said = np.minimum(expert.means(window, spec.horizon), _LARGEST_MEAN)
            spread = expert.dispersion(window, said[:, 0])
            raw = expert.raw(window, spec.horizon, spec.levels)
            mean += share * said
            average += share[:, 0] * spread
            if raw is None:
                means.append(said)
                spreads.append(spread)
                shares.append(share)
                compared.append(self._probed(said[:, steps_at], spread, window.whole))
            else:
                np.minimum(raw, _LARGEST_MEAN, out=raw)
                mixed += share[:, :, None] * raw
                compared.append(raw[:, steps_at][:, :, list(self._compared.places)])
        if means:
            cells = n * spec.horizon
            mixed += self._counts.mix(
                np.stack(means).reshape(-1, cells),
                np.stack(spreads),
                np.stack(shares).reshape(-1, cells),
                np.repeat(window.whole, spec.horizon),
            ).reshape(n, spec.horizon, len(spec.levels))
        scale = coarse(np.maximum(_row_mean(mean), _SMALLEST_SCALE))
        self._pending.fill(out.probes.part(part), compared, mixed[:, steps_at], scale)
        out.scale[part], out.spread[part] = scale, average
        out.usual[part] = mean_of(mixed[:, :1], spec.levels, window.whole)[:, 0] if self._tells_mean else mean[:, 0]
        mixed = self._leap.move(mixed, window.whole[:, None, None])
        self._leading.move(window, mixed)
        by_group = []
        for group, step in enumerate(steps_at):
            wide = self._conformal.width(mixed[:, step].T, window.whole)
            by_group.append(corrections.factors(group, classes, wide))
        factor = np.stack(by_group, axis=1)[:, self._group]  # [n, horizon, levels]
        final = corrected(mixed, factor, window.whole[:, None, None])
        if self._tells_mean:
            mean = mean_of(mixed, spec.levels, window.whole)
        for step in range(spec.horizon):
            if window.shut(window.closed + 1 + step):
                mean[:, step], final[:, step] = 0, 0
        if window.shut(window.closed + 1):
            out.usual[part] = 0
        quantiles = finish(final, window.whole)
        out.mean[part], out.quantiles[part] = mean, quantiles
        wide = np.minimum(average, np.float32(MAX_DISPERSION))
        out.p_zero[part] = self._zero(mean, wide[:, None], quantiles, window.whole)
        out.dispersion[part] = wide
        for index, steps in enumerate(spec.totals):
            total, found = self._sums.forecast(index, steps, mean, average, classes, window.whole)
            out.total_means[steps][part], out.totals[steps][part] = total, found

    def _probed(self, mean: Float32, spread: Float32, whole: NDArray[np.bool_]) -> Float32:
        """float32[n, probes, compared levels], raw quantiles of counts around a mean."""
        n, probes = mean.shape
        flat = np.ascontiguousarray(mean, dtype=np.float32).reshape(1, -1)
        found = self._compared_counts.mix(flat, spread[None], np.ones_like(flat), np.repeat(whole, probes))
        return found.reshape(n, probes, len(self._compared.places))

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
        # Sales that stock cut short say nothing of what was wanted.
        cut = window.censored(window.closed)[due.rows] > 0
        due = due.without(cut) if cut.any() else due
        if not len(due.rows):
            return
        experts, whole = len(self.experts), window.whole[due.rows]
        y = window.observed()[due.rows].astype(np.float32)
        items = np.bincount(due.classes, minlength=2 * CLASSES).astype(np.float64)
        losses = np.zeros((2 * CLASSES, experts))
        known = due.classes >= CLASSES
        size_of = self._loss_scale(window.slots[due.rows], due.classes)
        self._errors[group] *= _ERROR_MEMORY
        mixed, said, middle = due.values, due.said, self._compared.middle
        there = np.isfinite(said[:, middle])  # [experts, m]
        # The gradient at what today's weights would have made of the forecasts, not at what was published then: with yesterday's, a long
        # horizon would make the weights swing.
        share = np.where(there, self._council.weights()[:, group][:, due.classes], np.float32(0))
        total = share[0].copy()
        for e in range(1, experts):
            total += share[e]
        off, slopes = [], []
        for level, place in enumerate(self._compared.places):
            now = np.zeros(len(y), np.float32)
            for e in range(experts):
                now += np.where(there[e], share[e] * said[e, level], np.float32(0))
            now = np.where(total > 0, now / np.maximum(total, np.float32(1e-9)), mixed[place]).astype(np.float32)
            off.append(now)
            slopes.append(reached(now, y, whole) - np.float32(self.spec.levels[place]))
        for e, expert in enumerate(self.experts):
            if not there[e].any():
                continue
            loss = np.zeros(len(y), np.float32)
            for level, slope in enumerate(slopes):
                # What was not said yet is taken to have been the mixture's.
                loss += slope * np.where(there[e], said[e, level] - off[level], np.float32(0))
            losses[:, e] = pooled(due.classes, np.clip(loss / size_of, np.float32(-300), np.float32(300)), 2 * CLASSES)
            mine = (known if expert.partial else np.ones(len(y), np.bool_)) & there[e]
            error = np.abs(y - rounded(said[e, middle], whole)).astype(np.float64)
            self._errors[group, e] += _total(error[mine]), _total(y[mine].astype(np.float64))
        self._council.update(group, losses, items)
        mixed = self._compared.rescaled(mixed, off)
        if group == 0 and self._leap.watches:
            self._leap.learn(mixed, y, whole)
        mixed = self._leap.move(mixed, whole)
        if self._leading.learns(group):
            mixed = self._leading.learn(group, window, due.rows, mixed, y)
        factor = np.exp(self._conformal.corrections().place[group][due.classes])
        median = rounded(corrected(mixed[self._compared.places[middle]], factor, whole), whole)
        self._errors[group, -1] += _total(np.abs(y - median).astype(np.float64)), _total(y.astype(np.float64))
        # A mixture that lacked most of what speaks today says nothing of how far today's is off.
        same = np.flatnonzero(total >= _SAME)
        if len(same):
            self._conformal.update(group, due.classes[same], mixed[:, same], y[same], whole[same])

    def _loss_scale(self, slots: Ints, classes: Ints) -> Float32:
        """float32[m], what losses are divided by: the class's upper edge, the item's own rate where a class has none.

        Not the forecast, and not a quick rate: where those are low by chance, every expert that says more would look bad.
        """
        rate = np.nan_to_num(self._slots.f32("rate")[slots])
        edges = np.append(VELOCITY_EDGES, [VELOCITY_EDGES[-1], np.float32(1e-3)]).astype(np.float32)
        kind = classes % CLASSES
        return np.where(kind < len(VELOCITY_EDGES), edges[kind], np.maximum(rate, edges[kind])).astype(np.float32)


def _row_mean(values: Float32) -> Float32:
    """float32[n], step by step: numpy's own mean sums in an order that depends on the layout."""
    total = np.zeros(len(values), np.float32)
    for step in range(values.shape[1]):
        total += values[:, step]
    return np.asarray(total / np.float32(values.shape[1]), dtype=np.float32)


def _total(values: Float64) -> float:
    """A sequential sum."""
    return float(values.cumsum()[-1]) if len(values) else 0.0
