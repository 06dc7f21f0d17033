"""The textbook models (AR(k), MLP, LSTM, GRU) as methods: trained anew before every cut, from the history alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from models.demand.textbook import fit
from stream.backtest.data import Floats, View
from stream.backtest.method import RoundForecast, Task, Tell
from stream.tables import UserError


class TextbookMethod:
    """One of models.demand.textbook by its name.

    Args:
        name: ar_k, mlp, lstm or gru.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.note = "a textbook model: the history alone, quantiles by pinball loss; an unknown step counts as the last known one"

    def run(self, views: Sequence[View], task: Task, tell: Tell) -> Iterator[RoundForecast]:
        """As the protocol says.

        Raises:
            UserError: the history is too short for it.
        """
        for number, view in enumerate(views):
            ahead = view.gap + task.horizon
            rows = np.flatnonzero(view.present)
            history = _filled(view)[rows].astype(np.float32)
            season = view.season if 1 < view.season <= 31 else 0
            try:
                model = fit(self.name, history, ahead, task.levels, season=season, seed=task.seed)
            except ValueError as error:
                raise UserError(
                    f"--models {self.name}: {error}: bring a longer history, ask for a shorter horizon, or leave it out"
                ) from error
            found = model.forecast(history)
            mean = np.full((len(view.items), task.horizon), np.nan)
            quantiles = np.full((len(view.items), len(task.levels), task.horizon), np.nan)
            mean[rows] = found.mean[:, view.gap :]
            quantiles[rows] = found.quantiles[:, :, view.gap :]
            tell((number + 1) / len(views))
            yield RoundForecast(view.round.number, mean, quantiles)


def _filled(view: View) -> Floats:
    """float64[items, end], unknown steps as the last known one; NaN before an item's first."""
    place = np.where(np.isfinite(view.y), np.arange(view.end), -1)
    np.maximum.accumulate(place, axis=1, out=place)
    values = np.take_along_axis(view.y, np.maximum(place, 0), axis=1)
    return np.asarray(np.where(place >= 0, values, np.nan))
