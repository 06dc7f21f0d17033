"""Who found which spike, when, and at how many false alerts.

A match is an alert between a spike's onset and the bucket after its end, in its direction, one a spike; every other alert is false, a second one
for the same spike too. Alerts are compared at one budget of false alerts, never point by point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.tails import deviance, lower, upper
from stream.bench.spike_shop import History
from stream.engine.changes import Changes
from stream.simulate.spec import HOUR_MS

Scores = NDArray[np.float32]
"""float32[2, hours, items], how unusual an hour is, up and down; larger is more."""

WINDOW = 48
"""Hours that the oracle looks back."""
_DRAWS = 200
_BEFORE = 12


@dataclass(frozen=True, slots=True)
class Target:
    """A spike that counts."""

    item: int
    first: int
    """Hour of its onset."""
    last: int
    """The last hour in which an alert is a match."""
    side: int
    """0: up, 1: down."""
    kind: str
    factor: float
    usual: float
    """Expected lines an hour of its item without it, the mean over the spike."""
    start: float
    """Its onset, in hours."""
    whole: bool = True
    """It begins and ends within the hours that count. Another is not to be found, and an alert about it is not false."""


def targets(history: History) -> list[Target]:
    """The spikes that touch the hours that count, those that lie within them first.

    Args:
        history: the shop's.
    """
    found = []
    for spike in history.spikes:
        first = (spike.start_ms - history.start_ms) // HOUR_MS
        end = -(-(spike.end_ms - history.start_ms) // HOUR_MS)
        if end >= history.size.first and first < history.size.hours:
            usual = float(history.usual[first:end, spike.item].mean())
            start = (spike.start_ms - history.start_ms) / HOUR_MS
            whole = first >= history.size.first and end < history.size.hours
            found.append(Target(spike.item, first, end, int(spike.kind == "drop"), spike.kind, spike.factor, usual, start, whole))
    return sorted(found, key=lambda t: (not t.whole, t.first, t.item))


@dataclass(frozen=True, slots=True)
class Result:
    """What a detector did."""

    found: dict[int, int]
    """Place of a target -> hour of its alert."""
    false: int


def match(alerts: list[tuple[int, int, int]], wanted: list[Target], first: int) -> Result:
    """Matches alerts to spikes.

    Args:
        alerts: (hour, item, side), each when it opened, by hour.
        wanted: the spikes.
        first: the first hour that counts.
    """
    by_item: dict[int, list[int]] = {}
    for place, target in enumerate(wanted):
        by_item.setdefault(target.item, []).append(place)
    found: dict[int, int] = {}
    false = 0
    for hour, item, side in alerts:
        if hour < first:
            continue
        for place in by_item.get(item, ()):
            target = wanted[place]
            if place not in found and target.side == side and target.first <= hour <= target.last:
                if target.whole:
                    found[place] = hour
                break
        else:
            false += 1
    return Result(found, false)


def openings(scores: Scores, threshold: float, first: int, rest: int = 12) -> list[tuple[int, int, int]]:
    """Alerts of a detector that has no states of its own: an item is told of again when it has been below for some hours.

    Args:
        scores: of all hours.
        threshold: from which on there is an alert.
        first: the first hour that counts; what opened earlier and goes on opens no more.
        rest: hours below the threshold after which a further alert is one.
    """
    begin = max(0, first - WINDOW)
    side, hour, item = np.nonzero(scores[:, begin:] >= threshold)
    order = np.lexsort((hour, item, side))
    side, hour, item = side[order], hour[order] + begin, item[order]
    new = np.ones(len(hour), np.bool_)
    new[1:] = (side[1:] != side[:-1]) | (item[1:] != item[:-1]) | (hour[1:] - hour[:-1] > rest)
    new &= hour >= first
    alerts = zip(hour[new].tolist(), item[new].tolist(), side[new].tolist(), strict=True)
    return sorted(alerts)


def at_budget(scores: Scores, wanted: list[Target], first: int, budget: float) -> tuple[float, Result]:
    """The lowest threshold that keeps within a budget on these very data, which is generous; and what is found with it.

    Args:
        scores: of all hours.
        wanted: the spikes.
        first: the first hour that counts.
        budget: false alerts.
    """
    counted = scores[:, first:]
    # False alerts are no more than the hours above a threshold, and rarely fewer than a tenth of the budget's.
    some = np.sort(counted[counted > 0])[::-1]
    low, high = 0, min(len(some) - 1, int(60 * budget) + 60 * len(wanted))
    best = (float(some[0]) + 1.0, Result({}, 0))
    while low <= high:
        middle = (low + high) // 2
        result = match(openings(scores, float(some[middle]), first), wanted, first)
        if result.false <= budget:
            best, low = (float(some[middle]), result), middle + 1
        else:
            high = middle - 1
    return best


def oracle_scores(history: History) -> Scores:
    """-log10 of how unlikely everything since the most suspicious start is, by the true rates without spikes.

    Args:
        history: the shop's.
    """
    size = history.size
    out = np.zeros((2, size.hours, size.items), np.float32)
    slots = np.arange(size.items)
    sides = (Changes(True, WINDOW), Changes(False, WINDOW))
    none = np.zeros(size.items)
    for side, (changes, tail) in enumerate(zip(sides, (upper, lower), strict=True)):
        changes.resize(size.items)
        for hour in range(size.first - WINDOW, size.hours):
            mean = np.maximum(history.usual[hour].astype(np.float64), 1e-9)
            changes.add(slots, history.lines[hour].astype(np.float64), mean, hour)
            places, count, expected, _, far = changes.strongest(slots, none)
            some = far > 2
            p = tail(np.rint(count[some]), expected[some], none[: some.sum()])
            out[side, hour, places[some]] = -np.log10(np.maximum(p, 1e-300))
    return out


def power(history: History, wanted: list[Target], threshold: float, seed: int = 5) -> NDArray[np.float64]:
    """float64[targets], the chance that the oracle finds each spike, over draws of what its item might have sold.

    Args:
        history: the shop's.
        wanted: the spikes.
        threshold: of the oracle's scores.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    found = np.zeros(len(wanted))
    for place, target in enumerate(wanted):
        begin = target.first - _BEFORE
        rate = history.rate[begin : target.last + 1, target.item].astype(np.float64)
        usual = np.maximum(history.usual[begin : target.last + 1, target.item].astype(np.float64), 1e-9)
        drawn = rng.poisson(rate, (_DRAWS, len(rate))).astype(np.float64)
        hit = np.zeros(_DRAWS, np.bool_)
        for hour in range(_BEFORE, len(rate)):
            count = drawn[:, : hour + 1][:, ::-1].cumsum(axis=1)
            mean = np.broadcast_to(usual[: hour + 1][::-1].cumsum(), count.shape)
            far = deviance(count, mean, np.zeros(1))
            wrong = count <= mean if target.side == 0 else count >= mean
            far = np.where(wrong, -1.0, far)
            best = far.argmax(axis=1)
            rows = np.arange(_DRAWS)
            tail = (upper, lower)[target.side](count[rows, best], mean[rows, best], np.zeros(_DRAWS))
            hit |= (far[rows, best] > 2) & (-np.log10(np.maximum(tail, 1e-300)) >= threshold)
        found[place] = hit.mean()
    return found


def delays(result: Result, wanted: list[Target], places: list[int]) -> NDArray[np.float64]:
    """float64[found], hours from a spike's onset to the end of the bucket that told of it.

    Args:
        result: of a detector.
        wanted: the spikes.
        places: which of them are looked at.
    """
    return np.array([result.found[k] + 1 - wanted[k].start for k in places if k in result.found])
