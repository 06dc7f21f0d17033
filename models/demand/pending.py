"""Forecasts that wait for their buckets to close, kept small: one probe step a horizon group, float16 relative to a scale.

A ring per probe step (a forecast issued s buckets ago for step s is due now) and one ring of what an issue's forecasts share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.exact import SlotArrays
from models.protocol import Float32, Ints

Float16 = NDArray[np.float16]
_NEVER = np.iinfo(np.int32).min
_LARGEST = np.float32(60_000)  # float16 ends at 65,504


@dataclass(frozen=True, slots=True)
class Due:
    """Forecasts whose bucket has just closed. m rows of the panel."""

    rows: Ints
    """int64[m], rows of the panel that had a forecast."""
    values: Float32
    """float32[values, m], in units."""
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
        return Due(self.rows[keep], self.values[:, keep], self.scale[keep], self.classes[keep], self.spread[keep])


class Pending:
    """What was held, by slot."""

    def __init__(self, probes: tuple[int, ...], totals: tuple[int, ...], values: int) -> None:
        """Makes empty rings.

        Args:
            probes: steps whose forecasts wait.
            totals: numbers of steps whose sums wait.
            values: numbers a probe keeps (experts' and council's quantiles).
        """
        self.probes, self.totals, self.values = probes, totals, values
        self.depth = max([*probes, *totals])
        self.slots = SlotArrays()
        self.slots.add("issue", np.int32, _NEVER, (self.depth,))
        self.slots.add("scale", np.float32, 0, (self.depth,))
        self.slots.add("class", np.int8, 0, (self.depth,))
        self.slots.add("spread", np.float16, 0, (self.depth,))
        for probe in probes:
            self.slots.add(f"probe.{probe}", np.float16, 0, (probe, values))
        for total in totals:
            self.slots.add(f"total.{total}", np.float16, 0, (total,))
        # The newest one-step forecast, for spikes.
        self.slots.add("one.issue", np.int32, _NEVER)
        self.slots.add("one.mean", np.float32)
        self.slots.add("one.dispersion", np.float32)
        self.slots.add("one.whole", np.bool_)

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
        issues = self.slots["issue"][row, slots]
        rows = np.flatnonzero(issues == issue)
        at = slots[rows]
        scale = np.asarray(self.slots["scale"][row, at], dtype=np.float32)
        held = self.slots[f"{kind}.{steps}"][issue % steps]
        values = np.atleast_2d(held[..., at]).astype(np.float32) * scale
        classes = np.asarray(self.slots["class"][row, at], dtype=np.int64)
        return Due(rows, values, scale, classes, np.asarray(self.slots["spread"][row, at], dtype=np.float32))

    def hold(
        self, slots: Ints, issue: int, scale: Float32, classes: Ints, spread: Float32, probes: Float16, totals: dict[int, Float32]
    ) -> None:
        """Keeps forecasts issued when a bucket closed; a second time for the same bucket overwrites.

        Args:
            slots: int64[n].
            issue: the bucket.
            scale: float32[n].
            classes: int64[n].
            spread: float32[n], dispersion of one step.
            probes: float16[probes, values, n], relative to the scale.
            totals: steps -> float32[n], mean of the sum in units.
        """
        row = issue % self.depth
        at = span(slots)
        self.slots["issue"][row, at] = issue
        self.slots["scale"][row, at] = scale
        self.slots["class"][row, at] = classes
        self.slots["spread"][row, at] = spread
        for index, probe in enumerate(self.probes):
            self.slots[f"probe.{probe}"][issue % probe][:, at] = probes[index]
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


def relative(values: Float32, scale: Float32) -> Float16:
    """float16, values over scale, cut where float16 ends."""
    return np.asarray(np.clip(values / scale, -_LARGEST, _LARGEST), dtype=np.float16)


def span(slots: Ints) -> slice | Ints:
    """A slice where ascending slots have no gaps (most ticks): copying then needs no index."""
    if len(slots) and int(slots[-1]) - int(slots[0]) + 1 == len(slots):
        return slice(int(slots[0]), int(slots[-1]) + 1)
    return slots
