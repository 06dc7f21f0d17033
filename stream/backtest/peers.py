"""Methods by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from stream.backtest.boosted import ENDS, Boosted, BoostedMape
from stream.backtest.data import Dataset, View, select, without_censored
from stream.backtest.library import Intermittent, WithIntervals
from stream.backtest.method import Method, RoundForecast, Task, Tell
from stream.backtest.nowcart import Nowcart
from stream.backtest.residuals import WithResiduals
from stream.backtest.simple import EmpiricalQuantiles, Mean, Naive, SeasonalNaive, Zeros
from stream.backtest.textbook import TextbookMethod
from stream.tables import UserError, nearest

METHODS: dict[str, Callable[[], Method]] = {
    "nowcart": Nowcart,
    "mean": lambda: WithResiduals(Mean()),
    "naive": lambda: WithResiduals(Naive()),
    "seasonal_naive": lambda: WithResiduals(SeasonalNaive()),
    "zeros": Zeros,
    "empirical_quantiles": lambda: EmpiricalQuantiles("empirical_quantiles", 84),
    "empirical_quantiles_56": lambda: EmpiricalQuantiles("empirical_quantiles_56", 56),
    "empirical_quantiles_84": lambda: EmpiricalQuantiles("empirical_quantiles_84", 84),
    "auto_ets": lambda: WithIntervals("auto_ets"),
    "auto_theta": lambda: WithIntervals("auto_theta"),
    "auto_arima": lambda: WithIntervals("auto_arima"),
    "mstl": lambda: WithIntervals("mstl"),
    "croston_sba": lambda: WithResiduals(Intermittent("croston_sba"), ends=6),
    "tsb": lambda: WithResiduals(Intermittent("tsb"), ends=6),
    "ar_k": lambda: TextbookMethod("ar_k"),
    "mlp": lambda: TextbookMethod("mlp"),
    "lstm": lambda: TextbookMethod("lstm"),
    "gru": lambda: TextbookMethod("gru"),
    "lightgbm": Boosted,
    "lightgbm_mape": lambda: WithResiduals(BoostedMape(), "trained on MAPE itself", ENDS),
}
"""Every name of --models."""

_SAMPLED = re.compile(r"(\w+)@([1-9][0-9]*)")


def make_methods(names: Sequence[str], data: Dataset) -> list[Method]:
    """Methods for names.

    Args:
        names: of --models; NAME@N forecasts a sample of N items.
        data: that they are for.

    Raises:
        UserError: no such method, one named twice, or its library is not installed.
    """
    made: list[Method] = []
    for asked in names:
        found = _SAMPLED.fullmatch(asked)
        name = found[1] if found else asked
        if name not in METHODS:
            near = nearest(name, list(METHODS))
            hint = f'; did you mean "{near}"?' if near else ""
            raise UserError(f"--models must be of {', '.join(METHODS)} (each perhaps with @N: on a sample of N items); got {asked!r}{hint}")
        if asked in names[: len(made)]:
            raise UserError(f"--models must name a method once; {asked} stands there twice")
        method = METHODS[name]()
        made.append(Sampled(method, asked, data, int(found[2])) if found else method)
    return made


class Sampled:
    """A method on some of the items only, where all would take hours: evenly spaced among the items in order of their volume.

    Args:
        method: forecasts.
        name: as asked for.
        data: that it is for.
        items: so many.
    """

    def __init__(self, method: Method, name: str, data: Dataset, items: int) -> None:
        self.name = name
        count = min(items, len(data.items))
        sample = f"on a sample of {count} of {len(data.items)} items, evenly spaced by volume: compare it by the paired differences"
        self.note = f"{method.note}; {sample}" if method.note else sample
        self._method = method
        self.learns_bounds: bool = getattr(method, "learns_bounds", False)
        self._data = data if self.learns_bounds else without_censored(data)
        ranked = np.argsort(np.nansum(data.y, axis=1), kind="stable")
        self._rows = np.sort(ranked[np.linspace(0, len(ranked) - 1, count).round().astype(np.int64)])

    def run(self, views: Sequence[View], task: Task, tell: Tell) -> Iterator[RoundForecast]:
        """As the protocol says."""
        part = select(self._data, self._rows)
        for made in self._method.run([View(part, view.round) for view in views], task, tell):
            n, horizon, levels = len(self._data.items), task.horizon, len(task.levels)
            mean = np.full((n, horizon), np.nan)
            quantiles = np.full((n, levels, horizon), np.nan)
            mean[self._rows], quantiles[self._rows] = made.mean, made.quantiles
            totals = {}
            for steps, values in made.totals.items():
                totals[steps] = np.full((n, levels), np.nan)
                totals[steps][self._rows] = values
            point = None
            if made.point is not None:
                point = np.full((n, horizon), np.nan)
                point[self._rows] = made.point
            yield RoundForecast(made.number, mean, quantiles, totals, point, made.weights)
