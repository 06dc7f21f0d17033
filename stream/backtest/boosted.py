"""LightGBM as a peer: one regression for each quantile level and one for the mean, over all items and steps at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from stream.backtest.data import Floats, View
from stream.backtest.features import Features, Samples
from stream.backtest.method import RoundForecast, Task, Tell
from stream.backtest.residuals import residual_ends
from stream.tables import UserError

ROWS = 80_000
"""Rows trained on, at most: the newest issues, all horizons."""
_PARAMS: dict[str, Any] = {
    "learning_rate": 0.08,
    "num_leaves": 31,
    "min_data_in_leaf": 40,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "cat_smooth": 20,
    "max_cat_threshold": 16,
    "verbosity": -1,
    "force_row_wise": True,
    "deterministic": True,
    "max_bin": 63,
}
TREES = 160


def load(who: str) -> Any:
    """The library.

    Args:
        who: must have it.

    Raises:
        UserError: it cannot be loaded; its wheel leaves OpenMP to the system.
    """
    try:
        import lightgbm
    except (ImportError, OSError) as error:
        raise UserError(f"{who} must have the package lightgbm and OpenMP; {error}: apt-get install libgomp1") from error
    return lightgbm


class Boosted:
    """Quantile objectives on log1p(units) less log1p(level); a Tweedie objective on units / level for the mean."""

    name = "lightgbm"

    def __init__(self) -> None:
        self._lightgbm = load("lightgbm")
        self.note = f"one quantile objective a level, Tweedie for the mean, {TREES} trees each, at most {ROWS:,} rows"
        self.trees = TREES
        self.params = dict(_PARAMS)

    def run(self, views: Sequence[View], task: Task, tell: Tell) -> Iterator[RoundForecast]:
        """As the protocol says."""
        models: list[Any] = []
        for done, view in enumerate(views):
            features = Features(view)
            if not models or task.retrain == "always":
                models = []
                for model in self._train(features, task):
                    models.append(model)
                    tell((done + len(models) / (len(task.levels) + 1)) / len(views))
            yield self._forecast(features, task, models)

    def _train(self, features: Features, task: Task) -> Iterator[Any]:
        rows = training_rows(features, task.horizon)
        base = np.log1p(rows.level)
        some = np.isfinite(rows.y)
        weight = np.sqrt(rows.level + 0.1)[some]
        x, categorical = rows.x[some], features.categorical
        params = {**self.params, "seed": task.seed + 1, "num_threads": 1}
        data = self._lightgbm.Dataset(
            x, (np.log1p(rows.y) - base)[some], weight=weight, categorical_feature=categorical, free_raw_data=False, params=params
        )
        for level in task.levels:
            yield self._lightgbm.train({**params, "objective": "quantile", "alpha": level}, data, self.trees)
        ratio = self._lightgbm.Dataset(
            x, (rows.y / (rows.level + 0.1))[some], weight=(rows.level + 0.1)[some], categorical_feature=categorical, params=params
        )
        yield self._lightgbm.train({**params, "objective": "tweedie", "tweedie_variance_power": 1.5}, ratio, self.trees)

    def _forecast(self, features: Features, task: Task, models: Sequence[Any]) -> RoundForecast:
        view = features.view
        rows = features.samples([view.end], range(view.gap, view.gap + task.horizon))
        shape = (task.horizon, len(view.items))
        base = np.log1p(rows.level)
        found = np.array([np.expm1(model.predict(rows.x) + base) for model in models[:-1]])  # [levels, horizon * items]
        quantiles = np.sort(found, axis=0).reshape(-1, *shape).transpose(2, 0, 1)
        mean = (models[-1].predict(rows.x) * (rows.level + 0.1)).reshape(shape).T
        quantiles = np.maximum(quantiles, 0.0)
        # To the nearest: a fitted quantile scatters around the whole number that it is an estimate of.
        quantiles = np.where(view.whole[:, None, None], np.rint(quantiles), quantiles)
        quantiles[~view.present] = np.nan
        mean = np.where(view.present[:, None], mean, np.nan)
        return RoundForecast(view.round.number, mean, quantiles)


class BoostedMape:
    """The absolute percentage error itself as objective: weights 1 / units on the absolute error of units / level."""

    name = "lightgbm_mape"

    def __init__(self) -> None:
        self._lightgbm = load("lightgbm_mape")
        self._trained: tuple[View, int, Any] | None = None
        self._features: tuple[View, Features] | None = None

    def points(self, view: View, end: int, task: Task) -> Floats:
        """As the protocol says: residuals at earlier ends come from a model that was trained before the first of them."""
        if self._features is None or self._features[0] is not view:
            self._features = (view, Features(view))
        features = self._features[1]
        before = view.end if end == view.end else residual_ends(view, ENDS)[0]
        if self._trained is None or self._trained[:2] != (view, before):
            self._trained = (view, before, self._train(features, before, task))
        rows = features.samples([end], range(view.gap, view.gap + task.horizon))
        made = self._trained[2].predict(rows.x) * (rows.level + 0.1)
        return np.asarray(np.maximum(made, 0.0).reshape(task.horizon, len(view.items)).T)

    def _train(self, features: Features, before: int, task: Task) -> Any:
        rows = training_rows(features, task.horizon, before)
        some = np.isfinite(rows.y) & (rows.y > 0)
        level = rows.level + 0.1
        params = {**_PARAMS, "seed": task.seed + 1, "num_threads": 1, "objective": "l1"}
        label, weight = (rows.y / level)[some], (level / np.where(rows.y > 0, rows.y, 1))[some]
        data = self._lightgbm.Dataset(rows.x[some], label, weight=weight, categorical_feature=features.categorical, params=params)
        return self._lightgbm.train(params, data, TREES)


ENDS = 6
"""Earlier ends for the residuals of lightgbm_mape."""


def training_rows(features: Features, horizon: int, before: int | None = None) -> Samples:
    """Rows of issues whose whole horizon lies before an end; of long horizons some steps of each issue, so that many issues are in.

    Args:
        features: of the view.
        horizon: steps.
        before: column; None: the view's end.
    """
    view = features.view
    end = view.end if before is None else before
    last = end - view.gap - 1
    some = np.isfinite(view.y).any(axis=0)
    oldest = min(last, int(some.argmax()) + max(2, min(view.season, last // 4)))
    origins = np.arange(last, oldest - 1, -1)
    items = max(1, len(view.items))
    room = max(1, ROWS // items)
    steps = max(1, min(horizon, room // max(1, len(origins))))
    kept = origins[: max(1, room // steps)]
    chance = np.random.default_rng(7)
    parts = []
    for origin in kept.tolist():
        inside = min(horizon, end - view.gap - origin)
        chosen = np.sort(chance.permutation(inside)[:steps]) if steps < horizon else np.arange(inside)
        parts.append(features.samples([origin], [view.gap + int(step) for step in chosen]))
    return Samples(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "level", "y")))
