"""How good probabilities of a purchase were: ranking, log loss, calibration, with weights, and how sure a difference is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 15
DRAWS = 1_000
_CUT = 1e-7


def log_losses(p: Floats, y: Floats) -> Floats:
    """float64[n], each row's log loss in nats; probabilities are cut at 1e-7.

    Args:
        p: float64[n].
        y: float64[n], 0 or 1.
    """
    p = np.clip(p, _CUT, 1 - _CUT)
    return np.asarray(-np.log(np.where(y > 0, p, 1 - p)), dtype=np.float64)


def reliability(p: Floats, y: Floats, w: Floats, bins: int = BINS) -> tuple[Floats, Floats, Floats]:
    """(mass, mean probability, share that bought) of bins of equal mass, float64[bins] each, by ascending probability; empty bins have mass 0.

    Args:
        p: float64[n].
        y: float64[n].
        w: float64[n], weights.
        bins: how many.
    """
    order = np.argsort(p, kind="stable")
    p, y, w = p[order], y[order], w[order]
    middle = (np.cumsum(w) - w / 2) / w.sum()
    place = np.minimum((middle * bins).astype(np.int64), bins - 1)
    mass = np.bincount(place, weights=w, minlength=bins)
    safe = np.maximum(mass, 1e-300)
    said, bought = np.bincount(place, weights=w * p, minlength=bins) / safe, np.bincount(place, weights=w * y, minlength=bins) / safe
    return mass / w.sum(), said, bought


def calibration_error(p: Floats, y: Floats, w: Floats) -> float:
    """The expected calibration error: mean gap between probability and share, over BINS bins of equal mass."""
    mass, said, bought = reliability(p, y, w)
    return float((mass * np.abs(said - bought)).sum())


def auc(p: Floats, y: Floats, w: Floats) -> float | None:
    """Area under the ROC curve, ties count half; None where all or none bought."""
    order = np.argsort(p, kind="stable")
    p, y, w = p[order], y[order], w[order]
    first = np.flatnonzero(np.concatenate([[True], p[1:] != p[:-1]]))
    good, bad = np.add.reduceat(w * y, first), np.add.reduceat(w * (1 - y), first)
    total = good.sum() * bad.sum()
    if total <= 0:
        return None
    below = np.cumsum(bad) - bad
    return float((good * (below + bad / 2)).sum() / total)


def average_precision(p: Floats, y: Floats, w: Floats) -> float | None:
    """Area under precision over recall, by steps; None where none bought."""
    order = np.argsort(-p, kind="stable")
    p, y, w = p[order], y[order], w[order]
    last = np.flatnonzero(np.concatenate([p[1:] != p[:-1], [True]]))
    good, all_ = np.cumsum(w * y)[last], np.cumsum(w)[last]
    if good[-1] <= 0:
        return None
    gained = np.diff(np.concatenate([[0.0], good]))
    return float((gained * good / all_).sum() / good[-1])


def scores(p: Floats, y: Floats, w: Floats, best: Floats | None = None) -> dict[str, Any]:
    """Everything of one method on one set of rows.

    Args:
        p: float64[n].
        y: float64[n].
        w: float64[n].
        best: float64[n], the oracle's probabilities, where there is one.

    Returns:
        Numbers by name; `calibration_error_ratio` is the error over the base rate, both of rows that weigh the same (weights that know how long a
        session became make even the oracle look wrong), `gain` the share of what the oracle gains in log loss over
        the base rate; None where undefined.
    """
    if not len(p):
        return {"n": 0}
    base = float((w * y).sum() / w.sum())
    loss = float((w * log_losses(p, y)).sum() / w.sum())
    flat = float((w * log_losses(np.full(len(p), base), y)).sum() / w.sum())
    even = np.ones(len(p))
    error, share = calibration_error(p, y, even), float(y.mean())
    found: dict[str, Any] = {
        "n": len(p), "base_rate": base, "log_loss": loss, "base_rate_log_loss": flat, "auc": auc(p, y, w),
        "average_precision": average_precision(p, y, w), "calibration_error": error,
        "calibration_error_ratio": error / share if share > 0 else None,
    }  # fmt: skip
    if best is not None:
        gain = flat - float((w * log_losses(best, y)).sum() / w.sum())
        found["gain"] = (flat - loss) / gain if gain > 0 else None
    return found


def paired(p: Floats, other: Floats, y: Floats, w: Floats, session: Ints, seed: int = 0) -> dict[str, float]:
    """The difference in log loss of two methods (below 0: the first is better), with its 95 % interval by bootstrap over sessions.

    Args:
        p: float64[n], of the first.
        other: float64[n], of the second.
        y: float64[n].
        w: float64[n].
        session: int64[n], rows of one are drawn together.
        seed: of the draws.
    """
    _, place = np.unique(session, return_inverse=True)
    gap = np.bincount(place, weights=w * (log_losses(p, y) - log_losses(other, y)))
    mass = np.bincount(place, weights=w)
    random = np.random.default_rng(seed)
    draws = np.empty(DRAWS)
    for i in range(DRAWS):
        count = random.poisson(1.0, len(gap))
        draws[i] = (count @ gap) / max(float(count @ mass), 1e-300)
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"difference": float(gap.sum() / mass.sum()), "low": float(low), "high": float(high)}
