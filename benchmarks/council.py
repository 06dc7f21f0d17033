"""Is the council worth its experts? What each of them would have forecast alone, by item class and horizon group, beside what was published."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.shops import Verdict
from stream.backtest.run import Backtest, Outcome, group_names
from stream.backtest.scores import pinball

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Losses:
    """Sums of losses by cell; a cell is a round, an item class and a horizon group."""

    experts: tuple[str, ...]
    own: Floats
    """float64[experts, rounds, classes, groups], NaN where an expert left out an item of the cell."""
    council: Floats
    """float64[rounds, classes, groups]."""
    demand: Floats
    """float64[rounds, classes, groups], units."""


def losses_of(result: Backtest, outcome: Outcome) -> Losses:
    """What the council and its experts lost.

    Args:
        result: of a backtest.
        outcome: of a method that was asked for its experts' opinions.
    """
    levels = result.task.levels
    experts = tuple(dict.fromkeys(name for one in outcome.opinions for name in one.quantiles))
    classes = 1 + max(int(one.classes.max()) for one in outcome.opinions)
    shape = (len(result.rounds), classes, len(result.task.groups))
    own = np.zeros((len(experts), *shape))
    council, demand = np.zeros(shape), np.zeros(shape)
    group = np.searchsorted(result.task.groups, np.arange(1, result.task.horizon + 1))
    for k, opinions in enumerate(outcome.opinions):
        i, h = np.nonzero(result.scored[k] & np.isfinite(outcome.mean[k]) & (opinions.classes >= 0)[:, None])
        y = result.actual[k, i, h]
        cell = opinions.classes[i] * shape[2] + group[h]

        def summed(values: Floats, cell: NDArray[np.int64] = cell) -> Floats:
            return np.asarray(np.bincount(cell, weights=values, minlength=shape[1] * shape[2]).reshape(shape[1:]), dtype=np.float64)

        def lost(quantiles: Floats, i: NDArray[np.int64] = i, h: NDArray[np.int64] = h, y: Floats = y) -> Floats:
            return np.asarray(2 * pinball(y, quantiles[i, :, h], levels).mean(axis=1))

        demand[k] = summed(np.abs(y))
        council[k] = summed(lost(outcome.quantiles[k]))
        for e, name in enumerate(experts):
            own[e, k] = summed(lost(opinions.quantiles[name])) if name in opinions.quantiles else np.nan
    return Losses(experts, own, council, demand)


def print_council(result: Backtest, outcome: Outcome) -> list[Verdict]:
    """Tables of WQL by horizon group and by class; what is asked of a council and what it reached.

    Args:
        result: of a backtest.
        outcome: of a method that was asked for its experts' opinions.
    """
    told = losses_of(result, outcome)
    groups = group_names(result.task.groups)
    print(f"\n{outcome.name}: WQL of its experts alone, and of the council, by horizon group")
    print(f"  {'':<16}{'all':>9}" + "".join(f"{name:>9}" for name in groups))
    by_group = told.demand.sum(axis=(0, 1))
    rows = sorted(zip(told.experts, told.own, strict=True), key=lambda row: np.nan_to_num(row[1].sum(), nan=np.inf))
    for name, lost in [("council", told.council), *rows]:
        cells = [lost.sum() / told.demand.sum(), *(lost.sum(axis=(0, 1)) / by_group)]
        print(f"  {name:<16}" + "".join(f"{'–':>9}" if np.isnan(value) else f"{value:9.4f}" for value in cells))
    best = np.nanmin(told.own.sum(axis=(1, 2, 3)))
    hindsight, before = _hindsight(told), _before(told)
    return [
        Verdict("WQL no worse than the best expert's", f"{told.council.sum() / best - 1:+.1%}", bool(told.council.sum() <= best)),
        Verdict("within 2 % of the best in hindsight in 95 % of (class, horizon group)", *_share(hindsight <= 1.02, 0.95)),
        Verdict("no worse than the best before the round in 80 % of (round, class, horizon group)", *_share(before <= 1, 0.8)),
    ]


def _share(good: NDArray[np.bool_], least: float) -> tuple[str, bool]:
    return f"{good.sum()} of {len(good)}", bool(len(good) and good.mean() >= least)


def _hindsight(told: Losses) -> Floats:
    """What the council lost over what the best expert lost, by (class, horizon group) in which there was demand."""
    own, council = told.own.sum(axis=1), told.council.sum(axis=0)  # [experts, classes, groups]
    some = (told.demand.sum(axis=0) > 0) & np.isfinite(own).any(axis=0)
    return np.asarray(council[some] / np.nanmin(own[:, some], axis=0))


def _before(told: Losses) -> Floats:
    """What the council lost in a round over what that expert lost which had been best in all rounds before, by (round, class, horizon group)."""
    found = []
    for k in range(1, told.own.shape[1]):
        earlier = told.own[:, :k].sum(axis=1)  # [experts, classes, groups]
        some = (told.demand[k] > 0) & (told.demand[:k].sum(axis=0) > 0) & np.isfinite(earlier).any(axis=0)
        best = np.nanargmin(earlier[:, some], axis=0)
        theirs = np.take_along_axis(told.own[:, k][:, some], best[None], axis=0)[0]
        found.append((told.council[k][some] / theirs)[np.isfinite(theirs)])
    return np.concatenate(found) if found else np.zeros(0)
