"""The spikes' yardstick: nowcart, an oracle and its peers on one simulated shop, at one budget of false alerts."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from stream.bench.spike_drive import EXPERTS, HORIZON, drive, make_shard
from stream.bench.spike_peers import charts, half_space_trees
from stream.bench.spike_score import Result, Target, at_budget, delays, match, oracle_scores, power, targets
from stream.bench.spike_shop import History, Progress, Size, make_history

FALSE_ALERTS = 1.0
"""In 1,000 item-days."""
SURE = 0.95
"""A spike counts where the oracle finds it with this chance."""
_STRENGTHS = ((1.0, 3.0), (3.0, 6.0), (6.0, 21.0))
_RATES = ((0.0, 0.3), (0.3, 3.0), (3.0, 14.0), (14.0, 60.0), (60.0, np.inf))
_FORESTS = 200


def measure(size: Size, tell: Progress, stop: threading.Event) -> dict[str, Any]:
    """Runs all of it; nothing where it was stopped.

    Args:
        size: of the shop.
        tell: is told how far it is.
        stop: ends it at the next hour.
    """

    def told(what: str, done: int, of: int) -> None:
        if stop.is_set():
            raise InterruptedError
        tell(what, done, of)

    try:
        return _measure(size, told)
    except InterruptedError:
        return {}


def _measure(size: Size, tell: Progress) -> dict[str, Any]:
    history = make_history(size, tell)
    touching, first = targets(history), size.first
    wanted = [target for target in touching if target.whole]
    budget = FALSE_ALERTS * size.items * size.days / 1000
    began = time.perf_counter()
    nowcart = match(alerts(history, tell), touching, first)
    seconds = time.perf_counter() - began
    tell("oracle", 0, 2)
    threshold, oracle = at_budget(oracle_scores(history), touching, first, budget)
    tell("oracle", 1, 2)
    chance = power(history, wanted, threshold)
    tell("oracle", 2, 2)
    sure = np.flatnonzero(chance >= SURE).tolist()
    sigma, chart = charts(history)
    busiest = np.sort(np.argsort(-history.usual[first:].sum(axis=0), kind="stable")[:_FORESTS])
    trees = half_space_trees(history, sigma, busiest, lambda done: tell("half-space trees", done, len(busiest)))
    among = [k for k, target in enumerate(wanted) if target.item in set(busiest.tolist())]
    share = len(busiest) / size.items
    found: dict[str, Any] = {
        "oracle": _summary(oracle, wanted, sure, budget),
        "nowcart": _summary(nowcart, wanted, sure, budget),
        "three_sigma": _summary(at_budget(sigma, touching, first, budget)[1], wanted, sure, budget),
        "ewma_chart": _summary(at_budget(chart, touching, first, budget)[1], wanted, sure, budget),
    }
    few = [wanted[k] for k in among] + [target for target in touching if not target.whole]
    few_sure = [place for place, k in enumerate(among) if chance[k] >= SURE]
    forest = at_budget(trees, few, first, budget * share)[1]
    mine = set(busiest.tolist())
    of_mine = Result({place: nowcart.found[k] for place, k in enumerate(among) if k in nowcart.found}, 0)
    return {
        "items": size.items,
        "days": size.days,
        "warm_up_days": size.warm_up_days,
        "lines": int(history.lines[first:].sum()),
        "bucket": "1h",
        "experts": list(EXPERTS),
        "horizon": HORIZON,
        "spikes": len(wanted),
        "sure": len(sure),
        "budget": budget,
        "seconds": round(seconds, 1),
        "detectors": found,
        "busiest": {
            "items": len(mine),
            "sure": len(few_sure),
            "half_space_trees": _summary(forest, few, few_sure, budget * share),
            "nowcart_share": _share(of_mine, few_sure),
        },
        "curve": _curve(nowcart, oracle, wanted, chance),
        "kinds": {
            kind: {"sure": len(places), "nowcart": _share(nowcart, places), "oracle": _share(oracle, places)}
            for kind in ("sudden", "slow", "drop")
            if (places := [k for k in sure if wanted[k].kind == kind])
        },
    }


def alerts(history: History, tell: Progress) -> list[tuple[int, int, int]]:
    """Nowcart's alerts as they opened: (hour, item, side).

    Args:
        history: the shop's.
        tell: is told of every hour.
    """
    number = {name: i for i, name in enumerate(history.ids)}
    opened: set[tuple[int, int]] = set()
    found = []
    for hour, made in drive(history, make_shard(history, FALSE_ALERTS), tell):
        for name, state, direction in zip(made.item, made.state, made.direction, strict=True):
            key = (number[name], int(direction == "down"))
            if state == "resolved":
                opened.discard(key)
            elif key not in opened:  # a record of an alert that is open says that it has grown
                opened.add(key)
                found.append((hour, *key))
    return found


def _share(result: Result, places: list[int]) -> float | None:
    return round(sum(k in result.found for k in places) / len(places), 4) if places else None


def _summary(result: Result, wanted: list[Target], sure: list[int], budget: float) -> dict[str, Any]:
    waited = delays(result, wanted, sure)
    return {
        "found": len(result.found),
        "of_sure": _share(result, sure),
        "false": result.false,
        "false_per_1000_item_days": round(result.false / budget * FALSE_ALERTS, 3) if budget else None,
        "delay_hours": {"median": round(float(np.median(waited)), 2), "mean": round(float(waited.mean()), 2)} if len(waited) else None,
    }


def _curve(nowcart: Result, oracle: Result, wanted: list[Target], chance: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """By strength and by how much the item sells in an hour."""
    rows = []
    for low, high in _STRENGTHS:
        for slow, busy in _RATES:
            places = [k for k, t in enumerate(wanted) if low <= max(t.factor, 1 / t.factor) < high and slow <= t.usual < busy]
            rows.append(
                {
                    "factor": [low, high],
                    "lines_per_hour": [slow, None if np.isinf(busy) else busy],
                    "spikes": len(places),
                    "power": round(float(chance[places].mean()), 3) if places else None,
                    "oracle": _share(oracle, places),
                    "nowcart": _share(nowcart, places),
                }
            )
    return rows
