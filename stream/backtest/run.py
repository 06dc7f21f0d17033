"""A backtest: methods over rounds, their forecasts side by side, and the scores of all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.backtest.data import Bools, Dataset, Floats, Ints, Round, View, without_censored
from stream.backtest.method import Method, Opinions, RoundForecast, Task
from stream.backtest.paired import Difference, paired_difference
from stream.backtest.points import point_mape
from stream.backtest.scores import Cells, Scores, median_of, pinball, score, score_total, seasonal_scale

Progress = Callable[[str, float], None]
"""Told a method's name and which share of its rounds is done."""


@dataclass(slots=True)
class Outcome:
    """What one method forecast."""

    name: str
    note: str
    mean: Floats
    """float64[rounds, items, horizon], NaN where it forecast nothing."""
    quantiles: Floats
    """float64[rounds, items, levels, horizon]."""
    point: Floats
    """float64[rounds, items, horizon], for MAPE."""
    totals: dict[int, Floats]
    """steps -> float64[rounds, items, levels]."""
    weights: dict[str, dict[str, float]] = field(default_factory=dict)
    """Horizon group -> expert -> weight, a mean over rounds."""
    seconds: float = 0.0
    opinions: list[Opinions] = field(default_factory=list)
    """One a round, of a method that was asked for them."""


@dataclass(slots=True)
class Backtest:
    """Everything that came out of one."""

    data: Dataset
    rounds: tuple[Round, ...]
    task: Task
    actual: Floats
    """float64[rounds, items, horizon]; NaN where unknown."""
    scored: Bools
    """bool[rounds, items, horizon]: known, not censored, and the item had been there before the cut."""
    scale: Floats
    """float64[rounds, items], of MASE."""
    outcomes: list[Outcome]


def backtest(
    data: Dataset, rounds: Sequence[Round], task: Task, methods: Sequence[Method], progress: Progress = lambda name, share: None
) -> Backtest:
    """Runs methods over rounds.

    Args:
        data: the history.
        rounds: in order of time.
        task: what is asked for.
        methods: with different names.
        progress: is told what is done.
    """
    views = [View(data, one) for one in rounds]
    open_views = views if data.censored is None else [View(without_censored(data), one) for one in rounds]
    actual = np.array([data.y[:, one.cut : one.cut + one.horizon] for one in rounds])
    scored = np.isfinite(actual) & np.array([view.present for view in views])[:, :, None]
    if data.censored is not None:
        scored &= ~np.array([data.censored[:, one.cut : one.cut + one.horizon] for one in rounds])
    scale = np.array([seasonal_scale(view.y, data.season) for view in views])
    result = Backtest(data, tuple(rounds), task, actual, scored, scale, [])
    for method in methods:
        progress(method.name, 0.0)
        began = time.monotonic()
        made = []
        mine = views if getattr(method, "learns_bounds", False) else open_views
        for one in method.run(mine, task, lambda share, name=method.name: progress(name, share)):  # type: ignore[misc]
            made.append(one)
            progress(method.name, len(made) / len(views))
        result.outcomes.append(_outcome(method, made, views, task, time.monotonic() - began))
    return result


def _outcome(method: Method, made: Sequence[RoundForecast], views: Sequence[View], task: Task, seconds: float) -> Outcome:
    if [one.number for one in made] != [view.round.number for view in views]:
        raise AssertionError(f"{method.name} must forecast every round once, in order; got {[one.number for one in made]}")
    quantiles = np.array([one.quantiles for one in made])
    points = []
    for one, view in zip(made, views, strict=True):
        if one.point is not None:
            points.append(one.point)
            continue
        cells = one.quantiles.transpose(0, 2, 1).reshape(-1, len(task.levels))
        points.append(point_mape(cells, task.levels, np.repeat(view.whole, task.horizon)).reshape(-1, task.horizon))
    totals = {steps: np.array([one.totals[steps] for one in made]) for steps in task.totals if all(steps in one.totals for one in made)}
    opinions = [one.opinions for one in made if one.opinions is not None]
    means = np.array([one.mean for one in made])
    return Outcome(method.name, method.note, means, quantiles, np.array(points), totals, _weights(made), seconds, opinions)


def _weights(made: Sequence[RoundForecast]) -> dict[str, dict[str, float]]:
    """Means over the rounds that tell any."""
    told = [one.weights for one in made if one.weights]
    groups = dict.fromkeys(group for weights in told for group in weights)
    mean: dict[str, dict[str, float]] = {}
    for group in groups:
        experts = dict.fromkeys(name for weights in told for name in weights.get(group, {}))
        mean[group] = {name: sum(weights.get(group, {}).get(name, 0.0) for weights in told) / len(told) for name in experts}
    return mean


# ---- scores


def cells_of(result: Backtest, outcome: Outcome, among: NDArray[np.bool_] | None = None) -> tuple[Cells, Ints, Ints, Ints]:
    """A method's scored cells, and of each its round, item and step (indices from 0).

    Args:
        result: of the backtest.
        outcome: of the method.
        among: bool[rounds, items, horizon], only these.
    """
    at = result.scored & np.isfinite(outcome.mean)
    if among is not None:
        at &= among
    r, i, h = np.nonzero(at)
    quantiles = outcome.quantiles[r, i, :, h]  # [n, levels]
    median = median_of(quantiles[:, :, None], result.task.levels)[:, 0]
    cells = Cells(result.actual[r, i, h], outcome.mean[r, i, h], median, outcome.point[r, i, h], quantiles, result.scale[r, i])
    return cells, r, i, h


def group_names(groups: Sequence[int]) -> list[str]:
    """Horizon groups as "1", "2-7", "8-14"."""
    begins = [1, *(last + 1 for last in groups[:-1])]
    return [f"{first}-{last}" if first < last else str(last) for first, last in zip(begins, groups, strict=True)]


def velocity_thirds(result: Backtest) -> NDArray[np.int8]:
    """int8[items]: 0 the slowest third of the items, 1, 2 the fastest, by mean demand before the first cut; -1 without history there."""
    seen = result.data.y[:, : result.rounds[0].end]
    some = np.isfinite(seen)
    count = some.sum(axis=1)
    mean = np.where(count > 0, np.where(some, seen, 0).sum(axis=1) / np.maximum(count, 1), np.nan)
    third = np.full(len(mean), -1, np.int8)
    ranked = np.argsort(mean, kind="stable")[: int((count > 0).sum())]
    third[ranked] = np.arange(len(ranked)) * 3 // max(1, len(ranked))
    return third


THIRDS = ("slow", "middle", "fast")


def summary(result: Backtest) -> dict[str, Any]:
    """Everything that --json writes.

    Args:
        result: of the backtest.
    """
    models: dict[str, Scores] = {}
    names, thirds = group_names(result.task.groups), velocity_thirds(result)
    group = np.searchsorted(result.task.groups, np.arange(1, result.task.horizon + 1))
    for outcome in result.outcomes:
        cells, r, i, h = cells_of(result, outcome)
        levels = result.task.levels
        scores = score(cells, levels)
        scores["totals"] = _totals(result, outcome)
        scores["seconds"] = round(outcome.seconds, 3)
        scores["rounds"] = {
            str(one.number): {**score(cells.pick(r == k), levels), "totals": _totals(result, outcome, k)}
            for k, one in enumerate(result.rounds)
        }
        scores["horizons"] = {name: score(cells.pick(group[h] == k), levels) for k, name in enumerate(names)}
        scores["velocity"] = {name: score(cells.pick(thirds[i] == k), levels) for k, name in enumerate(THIRDS)}
        if outcome.weights:
            scores["experts"] = outcome.weights
        if outcome.note:
            scores["note"] = outcome.note
        models[outcome.name] = scores
    return {"settings": settings(result), "models": models, "paired": paired(result)}


def settings(result: Backtest) -> dict[str, Any]:
    """What was asked, in words."""
    data, task = result.data, result.task
    first = data.first_step
    text = data.frequency.texts(first + np.array([0, data.steps - 1, *(one.cut for one in result.rounds)], dtype=np.int64), data.zone)
    return {
        "source": data.source,
        "items": len(data.items),
        "steps": data.steps,
        "first": text[0],
        "last": text[1],
        "freq": data.frequency.name,
        "season": list(data.seasons),
        "horizon": task.horizon,
        "gap": result.rounds[0].cut - result.rounds[0].end,
        "cuts": text[2:],
        "quantiles": list(task.levels),
        "known": list(data.known_columns),
        "past": list(data.past),
        "static": list(data.static),
        "retrain": task.retrain,
        "adapt": task.adapt,
        "cells": int(result.scored.sum()),
        "censored": 0
        if data.censored is None
        else int(sum(data.censored[:, one.cut : one.cut + one.horizon].sum() for one in result.rounds)),
    }


def _totals(result: Backtest, outcome: Outcome, number: int | None = None) -> dict[str, Scores]:
    found: dict[str, Scores] = {}
    for steps, quantiles in outcome.totals.items():
        at = result.scored[:, :, :steps].all(axis=2) & np.isfinite(quantiles).all(axis=2)
        if number is not None:
            at &= (np.arange(len(result.rounds)) == number)[:, None]
        found[str(steps)] = score_total(result.actual[:, :, :steps].sum(axis=2)[at], quantiles[at], result.task.levels)
    return found


def paired(result: Backtest) -> list[dict[str, Any]]:
    """Differences in WQL between every two methods, over the cells that both forecast."""
    found = []
    for k, one in enumerate(result.outcomes):
        for other in result.outcomes[k + 1 :]:
            difference = compare(result, one, other)
            if difference is not None:
                found.append(
                    {
                        "model": one.name,
                        "against": other.name,
                        "wql_difference": difference.value,
                        "low": difference.low,
                        "high": difference.high,
                        "standard_error": difference.error,
                        "n": difference.n,
                    }
                )
    return found


def compare(result: Backtest, one: Outcome, other: Outcome, among: NDArray[np.bool_] | None = None) -> Difference | None:
    """WQL of one method less that of another, over the cells that both forecast.

    Args:
        result: of the backtest.
        one: below 0: this one is better.
        other: the other.
        among: bool[rounds, items, horizon], only these.
    """
    both = np.isfinite(one.mean) & np.isfinite(other.mean)
    if among is not None:
        both &= among
    mine, r, i, _ = cells_of(result, one, both)
    theirs, *_ = cells_of(result, other, both)
    losses = [2 * pinball(cells.actual, cells.quantiles, result.task.levels).mean(axis=1) for cells in (mine, theirs)]
    return paired_difference(losses[0], losses[1], np.abs(mine.actual), i.astype(np.int64), r.astype(np.int64))
