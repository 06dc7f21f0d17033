"""Scores a forecaster's own forecasts when their buckets close: delay-honest, of what was really issued."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.demand.forecaster import DemandForecaster, Forecast
from models.demand.window import Window
from models.protocol import Float32, Float64, Ints, Panel


@dataclass(slots=True)
class Sums:
    """Of forecasts of one probe step."""

    pinball: float = 0.0
    """Twice the pinball loss, mean over the levels, sum over items."""
    absolute: float = 0.0
    """Errors of the median."""
    units: float = 0.0
    count: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.pinball + other.pinball, self.absolute + other.absolute, self.units + other.units, self.count + other.count)


@dataclass(slots=True)
class _Issue:
    slots: Ints
    first: Ints
    quantiles: Float32
    """float32[n, levels, probes]."""


@dataclass(slots=True)
class Judge:
    """Watches one forecaster: remembers what it issues for the probe steps, and scores that when the step's bucket has closed.

    Shut buckets, and what stock cut short, are not scored.
    """

    forecaster: DemandForecaster
    since: int = 0
    """Buckets of issue before this one are not scored."""
    sums: dict[int, dict[int, Sums]] = field(default_factory=dict)
    """Bucket -> probe step -> scores; taken out by whoever reads them."""
    _issues: dict[int, list[_Issue]] = field(default_factory=lambda: defaultdict(list))

    def attach(self) -> Judge:
        """Begins to watch, beside anybody who does already."""
        forecaster: Any = self.forecaster  # its methods are wrapped on it alone
        hold, watch = forecaster.hold, forecaster.watch

        def held(panel: Panel, forecast: Forecast) -> None:
            hold(panel, forecast)
            self._hold(panel, forecast)

        forecaster.hold = held
        forecaster.watch = _both(watch, self._close)
        return self

    def forget(self, keep: int) -> None:
        """Lets go of old scores.

        Args:
            keep: buckets.
        """
        if len(self.sums) > 2 * keep:
            for bucket in sorted(self.sums)[:-keep]:
                del self.sums[bucket]

    def _hold(self, panel: Panel, forecast: Forecast) -> None:
        if forecast.issue >= self.since:
            at = [probe - 1 for probe in self.forecaster.spec.probes]
            self._issues[forecast.issue].append(_Issue(panel.slots.copy(), panel.first[panel.slots], forecast.quantiles[:, :, at].copy()))

    def _close(self, window: Window) -> None:
        probes = self.forecaster.spec.probes
        found: dict[int, Sums] = {}
        if not window.shut(window.closed) and len(window):
            for number, probe in enumerate(probes):
                sums = Sums()
                taken = np.zeros(0, np.int64)
                for issue in reversed(self._issues.get(window.closed - probe, [])):  # a corrected forecast counts, not the one before
                    new = ~np.isin(issue.slots, taken)
                    taken = np.concatenate([taken, issue.slots])
                    sums = sums + self._score(window, issue, new, number)
                found[probe] = sums
        self.sums[window.closed] = found
        for old in [issue for issue in self._issues if issue <= window.closed - probes[-1]]:
            del self._issues[old]

    def _score(self, window: Window, issue: _Issue, new: Any, number: int) -> Sums:
        place = np.minimum(np.searchsorted(window.slots, issue.slots), len(window) - 1)
        fits = new & (window.slots[place] == issue.slots) & (window.first[place] == issue.first)
        fits &= window.censored(window.closed)[place] == 0
        if not fits.any():
            return Sums()
        y = window.row(window.closed)[place[fits]].astype(np.float64)
        said = issue.quantiles[fits, :, number].astype(np.float64)
        levels: Float64 = np.array(self.forecaster.spec.levels)
        off = y[:, None] - said
        pinball = 2 * np.maximum(levels * off, (levels - 1) * off).mean(axis=1)
        middle = int(np.argmin(np.abs(levels - 0.5)))
        return Sums(float(pinball.sum()), float(np.abs(off[:, middle]).sum()), float(y.sum()), len(y))


def _both(first: Callable[[Window], None] | None, second: Callable[[Window], None]) -> Callable[[Window], None]:
    def watch(window: Window) -> None:
        if first is not None:
            first(window)
        second(window)

    return watch


def scores(sums: Mapping[int, Mapping[int, Sums]]) -> dict[str, float | None]:
    """WQL and WAPE over buckets and probe steps: {"wql", "wape", "n"}; None where nothing was sold.

    Args:
        sums: of a judge.
    """
    total = Sums()
    for by_probe in sums.values():
        for each in by_probe.values():
            total = total + each
    there = total.units > 0
    return {
        "wql": total.pinball / total.units if there else None,
        "wape": total.absolute / total.units if there else None,
        "n": float(total.count),
    }
