"""Forecasts that wait for their buckets to close, kept small: one probe step a horizon group, relative to a scale.

A ring per probe step (a forecast issued s buckets ago for step s is due now) and one ring of what an issue's forecasts share. The council's quantiles
are float16. An expert's are its middle one as float16 and the distances of the others from it in a byte each, since they only say which expert is
better: below, of what there is down to the least that a quantile can be; above, on a grid of 16 steps an octave (errors of at most 3 %). Experts that
have nothing to say take no room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.exact import SlotArrays
from models.protocol import Float32, Ints, State

Float16 = NDArray[np.float16]
Bytes = NDArray[np.uint8]
_NEVER = np.iinfo(np.int32).min
_NOBODY = -1
_LARGEST = np.float32(60_000)  # float16 ends at 65,504
_FLOOR = np.float32(-1)
"""In units: no raw quantile is less."""
_TINY, _RESCALED = np.float32(1e-4), np.float32(8)
"""Units below which a distance is none, and the most that one grows or shrinks by."""
_NEAREST = np.float32(1 / 32)
"""Of the scale: the grid of distances above begins there."""
_STEP = 19
"""Bits of a float32 below the four of its fraction that the grid keeps."""
_FIRST = int(_NEAREST.view(np.int32)) >> _STEP
_ABOVE: Float32 = (np.arange(_FIRST, _FIRST + 256, dtype=np.int32) << _STEP).view(np.float32) - _NEAREST
"""float32[256], what a byte above stands for."""
_BELOW: Float32 = np.arange(256, dtype=np.float32) / np.float32(255)
"""float32[256], the same below."""


@dataclass(frozen=True, slots=True)
class Compared:
    """The levels at which experts are compared."""

    places: tuple[int, ...]
    """Among the configured levels, ascending."""
    middle: int
    """Which of them is nearest to the median."""

    @property
    def others(self) -> list[int]:
        """Those that are not the middle one, ascending."""
        return [level for level in range(len(self.places)) if level != self.middle]

    def rescaled(self, mixed: Float32, now: Sequence[Float32]) -> Float32:
        """What other weights would have made of a mixture, by what they make of it at the compared levels: its middle goes there, and its distances
        from it grow or shrink, on each side, as that side's outermost compared level says.

        Args:
            mixed: float32[levels, m], as it was.
            now: float32[m] a compared level.
        """
        middle = self.places[self.middle]
        out = np.empty_like(mixed)
        for level in range(len(mixed)):
            end = 0 if level < middle else len(self.places) - 1
            away, was = mixed[level] - mixed[middle], mixed[self.places[end]] - mixed[middle]
            wide = np.abs(was) > _TINY
            by = np.where(wide, np.abs(now[end] - now[self.middle]) / np.where(wide, np.abs(was), np.float32(1)), np.float32(1))
            out[level] = now[self.middle] + away * np.clip(by, 1 / _RESCALED, _RESCALED)
        return out


@dataclass(frozen=True, slots=True)
class Probes:
    """What hold() keeps of n forecasts, all relative to their scale."""

    mixed: Float16
    """float16[probes, levels, n], the council's quantiles."""
    middle: Float16
    """float16[probes, experts kept, n], NaN where an expert said nothing."""
    gaps: Bytes
    """uint8[probes, experts kept, compared levels - 1, n], distances from the middle."""

    @classmethod
    def empty(cls, probes: int, levels: int, experts: int, gaps: int, n: int) -> Probes:
        """Room for n forecasts.

        Args:
            probes: steps.
            levels: of the council.
            experts: that are kept.
            gaps: compared levels but the middle one.
            n: forecasts.
        """
        shape = (probes, experts, n)
        return cls(
            np.zeros((probes, levels, n), np.float16), np.full(shape, np.nan, np.float16), np.zeros((probes, experts, gaps, n), np.uint8)
        )

    def part(self, rows: slice) -> Probes:
        """Views of some forecasts.

        Args:
            rows: which.
        """
        return Probes(self.mixed[..., rows], self.middle[..., rows], self.gaps[..., rows])


@dataclass(frozen=True, slots=True)
class Due:
    """Forecasts whose bucket has just closed. m rows of the panel."""

    rows: Ints
    """int64[m], rows of the panel that had a forecast."""
    values: Float32
    """float32[levels, m], the council's quantiles; float32[1, m], the mean of a sum; in units."""
    said: Float32
    """float32[experts, compared levels, m], in units, NaN where an expert said nothing; of a sum nobody's."""
    scale: Float32
    """float32[m]."""
    classes: Ints
    """int64[m], the item's class when it was issued."""
    spread: Float32
    """float32[m], the dispersion that it was issued with."""

    def without(self, left_out: NDArray[np.bool_]) -> Due:
        """The other rows.

        Args:
            left_out: bool[m].
        """
        keep = ~left_out
        return Due(self.rows[keep], self.values[:, keep], self.said[:, :, keep], self.scale[keep], self.classes[keep], self.spread[keep])


class Pending:
    """What was held, by slot."""

    def __init__(self, probes: tuple[int, ...], totals: tuple[int, ...], levels: int, compared: Compared, experts: Sequence[bool]) -> None:
        """Makes empty rings.

        Args:
            probes: steps whose forecasts wait.
            totals: numbers of steps whose sums wait.
            levels: quantiles of the council.
            compared: at which levels experts are.
            experts: bool[experts], which of them have something to say.
        """
        self.probes, self.totals, self.levels, self.compared = probes, totals, levels, compared
        self.experts = len(experts)
        self.kept = [place for place, active in enumerate(experts) if active]
        """Experts whose forecasts are held."""
        self.depth = max([*probes, *totals])
        self.issues: NDArray[np.int64] = np.full(self.depth, _NEVER, np.int64)
        """int64[depth], the bucket after which a row's forecasts were issued."""
        self.slots = SlotArrays()
        self.slots.add("scale", np.uint16, 0, (self.depth,))
        self.slots.add("class", np.int8, _NOBODY, (self.depth,))
        self.slots.add("spread", np.float16, 0, (self.depth,))
        for probe in probes:
            self.slots.add(f"probe.{probe}.mixed", np.float16, 0, (probe, levels))
            self._add_experts(probe)
        for total in totals:
            self.slots.add(f"total.{total}", np.float16, 0, (total,))
        # The newest one-step forecast, for spikes.
        self.slots.add("one.issue", np.int32, _NEVER)
        self.slots.add("one.mean", np.float32)
        self.slots.add("one.dispersion", np.float32)
        self.slots.add("one.whole", np.bool_)

    def _add_experts(self, probe: int) -> None:
        self.slots.add(f"probe.{probe}.middle", np.float16, np.nan, (probe, len(self.kept)))
        self.slots.add(f"probe.{probe}.gaps", np.uint8, 0, (probe, len(self.kept), len(self.compared.others)))

    def keep(self, experts: Sequence[bool]) -> None:
        """Makes room for the experts that have something to say now, and takes it from those that have not any more.

        Args:
            experts: bool[experts].
        """
        before, self.kept = self.kept, [place for place, active in enumerate(experts) if active]
        if before == self.kept:
            return
        for probe in self.probes:
            old = {name: self.slots[f"probe.{probe}.{name}"] for name in ("middle", "gaps")}
            self._add_experts(probe)
            for name, array in old.items():
                for to, place in enumerate(self.kept):
                    if place in before:
                        self.slots[f"probe.{probe}.{name}"][:, to] = array[:, before.index(place)]

    def room(self, n: int) -> Probes:
        """For what hold() is to keep of n forecasts; experts have said nothing yet.

        Args:
            n: forecasts.
        """
        return Probes.empty(len(self.probes), self.levels, len(self.kept), len(self.compared.others), n)

    def fill(self, out: Probes, said: Sequence[Float32 | None], mixed: Float32, scale: Float32) -> None:
        """Writes forecasts as they are kept.

        Args:
            out: of room().
            said: by expert, float32[n, probes, compared levels] in units, None where it has nothing to say.
            mixed: float32[n, probes, levels] in units, the council's.
            scale: float32[n], of coarse().
        """
        for group in range(len(self.probes)):
            at = [None if found is None else found[:, group].T for found in said]
            self._fill(out.mixed[group], out.middle[group], out.gaps[group], at, mixed[:, group].T, scale)

    def _fill(self, out: Float16, middles: Float16, gaps: Bytes, said: Sequence[Float32 | None], mixed: Float32, scale: Float32) -> None:
        """One probe's: said is float32[compared levels, n] by expert, mixed float32[levels, n]."""
        out[...] = relative(mixed, scale)
        floor, middle = _FLOOR / scale, self.compared.middle
        for to, place in enumerate(self.kept):
            found = said[place]
            if found is None:
                continue
            middles[to] = relative(found[middle], scale)
            at = middles[to].astype(np.float32)
            for gap, level in enumerate(self.compared.others):
                there = found[level] / scale
                gaps[to, gap] = _below(at, there, floor) if level < middle else _above(at, there)

    def due(self, slots: Ints, closed: int, steps: int, kind: str) -> Due:
        """The forecasts for the bucket `closed` (or sums that end with it).

        Args:
            slots: int64[n], ascending.
            closed: the bucket that has just closed.
            steps: the probe, or how many steps the sum has.
            kind: "probe" or "total".
        """
        issue = closed - steps
        row = issue % self.depth
        classes = np.asarray(self.slots["class"][row, slots], dtype=np.int64)
        rows = np.flatnonzero(classes != _NOBODY) if self.issues[row] == issue else np.zeros(0, np.int64)
        at = slots[rows]
        scale = _scale(self.slots["scale"][row, at])
        name = f"{kind}.{steps}.mixed" if kind == "probe" else f"{kind}.{steps}"
        values = np.atleast_2d(self.slots[name][issue % steps][..., at]).astype(np.float32) * scale
        said = self._said(at, issue, steps, scale) if kind == "probe" else np.zeros((0, 0, len(rows)), np.float32)
        return Due(rows, values, said, scale, classes[rows], np.asarray(self.slots["spread"][row, at], dtype=np.float32))

    def _said(self, at: Ints, issue: int, steps: int, scale: Float32) -> Float32:
        out = np.full((self.experts, len(self.compared.places), len(at)), np.nan, np.float32)
        middles, gaps = (self.slots[f"probe.{steps}.{name}"][issue % steps] for name in ("middle", "gaps"))
        floor = _FLOOR / scale
        for of, place in enumerate(self.kept):
            middle = middles[of, at].astype(np.float32)
            out[place, self.compared.middle] = middle * scale
            for gap, level in enumerate(self.compared.others):
                code = gaps[of, gap, at]
                there = middle - _BELOW[code] * (middle - floor) if level < self.compared.middle else middle + _ABOVE[code]
                out[place, level] = there * scale
        return out

    def hold(
        self, slots: Ints, issue: int, scale: Float32, classes: Ints, spread: Float32, probes: Probes, totals: dict[int, Float32]
    ) -> None:
        """Keeps forecasts issued when a bucket closed; a second time for the same bucket overwrites.

        Args:
            slots: int64[n].
            issue: the bucket.
            scale: float32[n], of coarse().
            classes: int64[n].
            spread: float32[n], dispersion of one step.
            probes: of fill().
            totals: steps -> float32[n], mean of the sum in units.
        """
        row = issue % self.depth
        at = span(slots)
        if self.issues[row] != issue:
            self.issues[row] = issue
            self.slots["class"][row] = _NOBODY
        self.slots["scale"][row, at] = scale.view(np.uint32) >> 16
        self.slots["class"][row, at] = classes
        self.slots["spread"][row, at] = spread
        for index, probe in enumerate(self.probes):
            for name, values in (("mixed", probes.mixed), ("middle", probes.middle), ("gaps", probes.gaps)):
                self.slots[f"probe.{probe}.{name}"][issue % probe][..., at] = values[index]
        for steps, mean in totals.items():
            self.slots[f"total.{steps}"][issue % steps][at] = relative(mean, scale)

    def hold_one(self, slots: Ints, issue: int, mean: Float32, dispersion: Float32, whole: NDArray[np.bool_]) -> None:
        """Keeps the forecast of the next bucket.

        Args:
            slots: int64[n].
            issue: the bucket that closed last.
            mean: float32[n].
            dispersion: float32[n].
            whole: bool[n].
        """
        at = span(slots)
        self.slots["one.issue"][at] = issue
        self.slots["one.mean"][at] = mean
        self.slots["one.dispersion"][at] = dispersion
        self.slots["one.whole"][at] = whole

    def state(self, copy: bool = True) -> State:
        """All that waits: arrays by name.

        Args:
            copy: or the large arrays themselves.
        """
        return {"issues": self.issues.copy()} | self.slots.state(copy)

    def restore(self, state: Mapping[str, NDArray[np.generic]], copy: bool = True) -> None:
        """Takes what state() gave, while the same experts had something to say.

        Args:
            state: by name.
            copy: or the large arrays themselves, which nobody else may use from here on.

        Raises:
            ValueError: of another configuration.
        """
        if "issue" in state:
            state = self._of_version_3(state)
        issues = state.get("issues")
        if issues is None or issues.shape != self.issues.shape:
            raise ValueError(
                f"state of 'issues' must have {self.depth} rows; got {None if issues is None else len(issues)}: rebuild the state"
            )
        self.slots.restore(state, copy)
        self.issues = np.array(issues, np.int64)

    def _of_version_3(self, state: Mapping[str, NDArray[np.generic]]) -> State:
        """Version 3 kept all of them as float16 of a float32 scale, experts without anything to say too, and each slot its own issue."""
        new: State = {name: array for name, array in state.items() if name.startswith(("one.", "total.", "spread"))}
        issue, scale = np.asarray(state["issue"], np.int64), np.asarray(state["scale"], np.float32)
        if scale.shape[0] != self.depth or any(f"probe.{probe}" not in state for probe in self.probes):
            raise ValueError(f"state of 'scale' must have {self.depth} rows; got {scale.shape[0]}: rebuild the state")
        new["issues"] = issue.max(axis=1, initial=_NEVER)
        new["class"] = np.where((issue == new["issues"][:, None]) & (scale > 0), state["class"], np.int8(_NOBODY)).astype(np.int8)
        new["scale"] = (coarse(scale).view(np.uint32) >> 16).astype(np.uint16)
        capacity, width = scale.shape[1], len(self.compared.places)
        for probe in self.probes:
            held = np.asarray(state[f"probe.{probe}"], np.float32)
            experts = (held.shape[1] - self.levels) // width  # of that day: later ones came behind them
            if held.shape[1] != width * experts + self.levels or not max(self.kept, default=0) < experts <= self.experts:
                raise ValueError(f"state of 'probe.{probe}' must have {width * self.experts + self.levels} values; got {held.shape[1]}")
            made = Probes.empty(probe, self.levels, len(self.kept), len(self.compared.others), capacity)
            for place in range(probe):
                # The newest issue of this place of the ring; what is older waits no more.
                (mine,) = np.nonzero((new["issues"] % probe == place) & (new["issues"] != _NEVER))
                if len(mine):
                    at = mine[np.argmax(new["issues"][mine])]
                    units = held[place] * scale[at]
                    said = list(units[: width * experts].reshape(experts, width, capacity))
                    kept = np.maximum(coarse(scale[at]), np.float32(1e-6))
                    self._fill(made.mixed[place], made.middle[place], made.gaps[place], said, units[width * experts :], kept)
            new |= {f"probe.{probe}.{name}": getattr(made, name) for name in ("mixed", "middle", "gaps")}
        return new


def relative(values: Float32, scale: Float32) -> Float16:
    """float16, values over scale, cut where float16 ends."""
    return np.asarray(np.clip(values / scale, -_LARGEST, _LARGEST), dtype=np.float16)


def coarse(scale: Float32) -> Float32:
    """float32, a scale as it is kept: its first 16 bits, so that what is relative to it loses nothing by that.

    Args:
        scale: float32, at least 0.
    """
    return (scale.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def _scale(kept: NDArray[np.generic]) -> Float32:
    return (kept.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _below(middle: Float32, value: Float32, floor: Float32) -> Bytes:
    """uint8, how far a value lies below the middle, of the way down to the floor."""
    way = np.maximum(middle - floor, np.float32(1e-6))
    share = np.clip((middle - value) / way, np.float32(0), np.float32(1))
    return np.asarray(np.rint(np.nan_to_num(share) * np.float32(255)), dtype=np.uint8)


def _above(middle: Float32, value: Float32) -> Bytes:
    """uint8, how far a value lies above the middle, to the nearest of the grid."""
    distance = np.nan_to_num(np.maximum(value - middle, np.float32(0))) + _NEAREST
    steps = ((distance.view(np.int32) + (1 << (_STEP - 1))) >> _STEP) - _FIRST
    return np.asarray(np.clip(steps, 0, 255), dtype=np.uint8)


def span(slots: Ints) -> slice | Ints:
    """A slice where ascending slots have no gaps (most ticks): copying then needs no index."""
    if len(slots) and int(slots[-1]) - int(slots[0]) + 1 == len(slots):
        return slice(int(slots[0]), int(slots[-1]) + 1)
    return slots
