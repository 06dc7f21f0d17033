"""What a spike detector is compared with: a three-sigma rule, an EWMA chart, and half-space trees.

The first two know the hour of the day: each item's mean and deviation of the same hour over about two weeks. All see order lines, as nowcart does.
Their thresholds are set on the very data that they are scored on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stream.bench.spike_score import Scores
from stream.bench.spike_shop import History

_MEMORY = 14
_SMOOTH = 0.3


def charts(history: History) -> tuple[Scores, Scores]:
    """(three sigma, EWMA chart): standard deviations above and below.

    Args:
        history: the shop's.
    """
    size = history.size
    sigma = np.zeros((2, size.hours, size.items), np.float32)
    chart = np.zeros_like(sigma)
    mean, variance = np.zeros((24, size.items)), np.zeros((24, size.items))
    smooth = np.zeros(size.items)
    for hour in range(size.hours):
        y, at = history.lines[hour].astype(np.float64), hour % 24
        if hour >= 3 * 24:
            # Counts vary by at least their mean; without that the rule alarms at the first sale of every slow item.
            z = (y - mean[at]) / np.sqrt(np.maximum(variance[at], mean[at] + 0.05))
            smooth = (1 - _SMOOTH) * smooth + _SMOOTH * z
            sigma[0, hour], sigma[1, hour] = z, -z
            chart[0, hour], chart[1, hour] = smooth, -smooth
        gain = 1 / min(hour // 24 + 1, _MEMORY)
        off = y - mean[at]
        mean[at] += gain * off
        variance[at] = (1 - gain) * (variance[at] + gain * off * off)
    return np.maximum(sigma, 0), np.maximum(chart, 0)


def half_space_trees(history: History, sigma: Scores, items: NDArray[np.int64], tell: Callable[[int], None]) -> Scores:
    """River's half-space trees, one forest an item, over its standardised residual of this hour and the hour before; 0 for all other items.

    Args:
        history: the shop's.
        sigma: of the three-sigma rule.
        items: int64[m], which items: a forest takes a Python call an item and hour.
        tell: is told of every item done.
    """
    from river.anomaly import HalfSpaceTrees

    size = history.size
    out = np.zeros((2, size.hours, size.items), np.float32)
    z = (sigma[0] - sigma[1]).astype(np.float64)
    limits = {"now": (0.0, 1.0), "before": (0.0, 1.0)}
    for done, item in enumerate(items.tolist()):
        forest = HalfSpaceTrees(n_trees=10, height=8, window_size=168, limits=limits, seed=1)  # type: ignore[arg-type]
        # Squeezed into the unit square that the trees cut: the middle is the usual, the rim ten deviations and more.
        squeezed = 0.5 + np.clip(z[:, item], -10, 10) / 20
        for hour in range(3 * 24 + 1, size.hours):
            point = {"now": float(squeezed[hour]), "before": float(squeezed[hour - 1])}
            if hour >= size.first:
                score = forest.score_one(point)  # type: ignore[no-untyped-call]
                out[int(squeezed[hour] < 0.5), hour, item] = score
            forest.learn_one(point)  # type: ignore[no-untyped-call]
        tell(done + 1)
    return out
