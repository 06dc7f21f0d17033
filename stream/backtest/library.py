"""Peers from statsforecast: one model an item, fitted anew in every round. Needs the extra `bench`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from stream.backtest.data import Floats, View
from stream.backtest.method import RoundForecast, Task, Tell
from stream.backtest.points import finish
from stream.tables import UserError

_SERIES = 32
"""Series handed to a process at a time."""
_ENOUGH = 200
"""Series from which on processes are worth their start."""


def load() -> Any:
    """The library's models.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("NIXTLA_ID_AS_COL", "1")
    try:
        from statsforecast import models
    except ImportError as error:
        raise UserError(
            f"auto_ets, auto_theta, auto_arima, croston_sba, tsb and mstl must have the package statsforecast; {error}: pip install 'nowcart[bench]'"
        ) from error
    return models


MAKERS: dict[str, Callable[[Any, int], Any]] = {
    "auto_ets": lambda models, season: models.AutoETS(season_length=season),
    "auto_theta": lambda models, season: models.AutoTheta(season_length=season),
    "auto_arima": lambda models, season: models.AutoARIMA(season_length=season, max_p=3, max_q=3, max_P=1, max_Q=1, max_order=4),
    "mstl": lambda models, season: models.MSTL(season_length=season, trend_forecaster=models.AutoETS(model="ZZN")),
    "croston_sba": lambda models, season: models.CrostonSBA(),
    "tsb": lambda models, season: models.TSB(alpha_d=0.1, alpha_p=0.1),
}
"""Models by name, for a season (1: none)."""

_LONGEST_SEASON = 24
"""Of exponential smoothing and ARIMA: beyond it the library's states make them slower by orders, and it falls back to no season by itself."""


def usable_season(name: str, season: int, steps: int) -> int:
    """The season that a model gets: none where two of them are not in the history, or where it is too long for the kind.

    Args:
        name: of the model.
        season: of the data, in steps.
        steps: of the item's history.
    """
    if steps < 2 * season + 1 or (name != "mstl" and season > _LONGEST_SEASON):
        return 1
    return season


def forecast_series(name: str, y: Floats, season: int, ahead: int, coverages: Sequence[float]) -> Floats:
    """float64[1 + 2 * coverages, ahead]: mean, then the lower and the upper end of each central interval; NaN ends where the model has none.

    Args:
        name: of the model.
        y: float64[steps], the history from the item's first known step, gaps filled.
        season: of the data.
        ahead: steps.
        coverages: of the intervals, in percent, ascending.
    """
    models = load()
    out = np.full((1 + 2 * len(coverages), ahead), np.nan)
    season = usable_season(name, season, len(y))
    if len(y) < 3 or not np.ptp(y):
        out[:] = y.mean()  # nothing to fit: what it has always been
        return out
    kind = "auto_ets" if name == "mstl" and season == 1 else name
    model = MAKERS[kind](models, season)
    intervals = name not in ("croston_sba", "tsb")
    try:
        made = model.forecast(y=y, h=ahead, level=list(coverages)) if intervals else model.forecast(y=y, h=ahead)
    except Exception:  # noqa: BLE001 — a series that the library cannot fit (singular, too short) must not end a run of hours
        out[0] = y[-min(len(y), 28) :].mean()
        spread = np.std(y)
        from scipy.stats import norm

        for k, coverage in enumerate(coverages):
            reach = float(norm.ppf(0.5 + coverage / 200)) * spread
            out[1 + 2 * k], out[2 + 2 * k] = out[0] - reach, out[0] + reach
        return out
    out[0] = made["mean"]
    if intervals:
        for k, coverage in enumerate(coverages):
            out[1 + 2 * k], out[2 + 2 * k] = _end(made, "lo", coverage), _end(made, "hi", coverage)
    return out


def _end(made: dict[str, Any], side: str, coverage: float) -> Any:
    for text in (f"{side}-{coverage}", f"{side}-{coverage:g}", f"{side}-{int(coverage)}"):
        if text in made:
            return made[text]
    raise KeyError(f"{side}-{coverage} of {sorted(made)}")


def _forecast_many(name: str, series: list[Floats], season: int, ahead: int, coverages: tuple[float, ...]) -> list[Floats]:
    return [forecast_series(name, y, season, ahead, coverages) for y in series]


def filled(y: Floats) -> Floats:
    """A history from its first known step on, unknown steps between interpolated, behind the last known one repeated.

    Args:
        y: float64[steps].
    """
    known = np.flatnonzero(np.isfinite(y))
    if not len(known):
        return np.zeros(0)
    return np.interp(np.arange(known[0], len(y)), known, y[known])


class _Pool:
    """Series through processes, or one after the other where they are few."""

    def __init__(self, name: str, workers: int) -> None:
        self._name = name
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def forecast(self, series: list[Floats], season: int, ahead: int, coverages: tuple[float, ...], tell: Tell) -> list[Floats]:
        """What forecast_series() gives for each."""
        parts = [series[start : start + _SERIES] for start in range(0, len(series), _SERIES)]
        made: list[Floats] = []
        if self._workers > 1 and len(series) >= _ENOUGH:
            self._pool = self._pool or ProcessPoolExecutor(self._workers, mp_context=get_context("spawn"))
            done: Iterator[list[Floats]] = self._pool.map(
                _forecast_many, *zip(*((self._name, part, season, ahead, coverages) for part in parts), strict=True)
            )
        else:
            done = (_forecast_many(self._name, part, season, ahead, coverages) for part in parts)
        for part in done:
            made += part
            tell(len(made) / len(series))
        return made

    def close(self) -> None:
        """Ends the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


class WithIntervals:
    """A model with prediction intervals of its own: their ends are its quantiles.

    Args:
        name: of the model.
    """

    def __init__(self, name: str) -> None:
        load()
        self.name = name
        self.note = "quantiles are the ends of its own intervals"

    def run(self, views: Sequence[View], task: Task, tell: Tell) -> Iterator[RoundForecast]:
        """As the protocol says."""
        # A level p is an end of the central interval of |2p - 1|; .5 itself is its forecast.
        coverages = tuple(sorted({round(abs(2 * p - 1) * 100, 6) for p in task.levels if abs(p - 0.5) > 1e-9}))
        pool = _Pool(self.name, task.workers)
        try:
            for done, view in enumerate(views):
                rows = np.flatnonzero(view.present)
                series = [filled(view.y[row]) for row in rows]
                before = done / len(views)
                made = pool.forecast(
                    series,
                    view.season,
                    view.gap + task.horizon,
                    coverages,
                    lambda share, b=before: tell(b + share / len(views)),  # type: ignore[misc]
                )
                yield self._assemble(view, task, rows.tolist(), made, coverages)
        finally:
            pool.close()

    def _assemble(self, view: View, task: Task, rows: list[int], made: list[Floats], coverages: tuple[float, ...]) -> RoundForecast:
        mean = np.full((len(view.items), task.horizon), np.nan)
        quantiles = np.full((len(view.items), len(task.levels), task.horizon), np.nan)
        if rows:
            ahead = np.array(made)[:, :, view.gap :]  # [rows, 1 + 2 * coverages, horizon]
            mean[rows] = np.maximum(ahead[:, 0], 0.0)
            for place, p in enumerate(task.levels):
                if abs(p - 0.5) <= 1e-9:
                    quantiles[rows, place] = ahead[:, 0]
                else:
                    k = coverages.index(round(abs(2 * p - 1) * 100, 6))
                    quantiles[rows, place] = ahead[:, 1 + 2 * k if p < 0.5 else 2 + 2 * k]
        return RoundForecast(view.round.number, mean, finish(quantiles, view.whole))


class Intermittent:
    """Croston's kin, which forecast points; for WithResiduals.

    Args:
        name: of the model.
    """

    def __init__(self, name: str) -> None:
        load()
        self.name = name

    def points(self, view: View, end: int, task: Task) -> Floats:
        """As the protocol says."""
        out = np.full((len(view.items), task.horizon), np.nan)
        for row in range(len(out)):
            y = filled(view.y[row, :end])
            if len(y):
                out[row] = forecast_series(self.name, y, view.season, view.gap + task.horizon, ())[0, view.gap :]
        return out
