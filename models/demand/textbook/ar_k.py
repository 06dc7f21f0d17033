"""AR(k), pooled over all items: a ridge regression a step ahead on an item's latest buckets, quantiles from its residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from models.demand.textbook.windows import (
    History,
    Setting,
    Textbook,
    TextbookForecast,
    TextbookModel,
    Windows,
    newest,
    published,
    split,
)
from models.protocol import Float32, Float64

_RIDGE = 10.0
_ORDERS = 5  # quintiles of the scale, each with quantiles of its own residuals


@dataclass(frozen=True, slots=True)
class _Fitted:
    setting: Setting
    weights: Float64
    """float64[length + 1, horizon]; the last row is the constant's."""
    edges: Float32
    """float32[orders - 1], scales that part the orders."""
    residuals: Float32
    """float32[orders, levels, horizon], relative to the scale."""

    def forecast(self, history: History) -> TextbookForecast:
        """See TextbookModel."""
        now = newest(history, self.setting)
        mean = np.maximum(_design(now) @ self.weights, 0.0)
        quantiles = mean[:, None, :] + self.residuals[np.searchsorted(self.edges, now.scale)]
        return published(mean.astype(np.float32), quantiles.astype(np.float32), now.scale, history)


class ARK(Textbook):
    """Pooled AR(k)."""

    name: ClassVar[str] = "ar_k"

    @classmethod
    def fit(cls, history: History, setting: Setting) -> TextbookModel:
        """Solves for the weights; residuals are those of later windows."""
        train, held = split(history, setting)
        x, weight = _design(train), (train.scale / (train.scale + 1))[:, None].astype(np.float64)
        prior = np.zeros((setting.length + 1, setting.horizon))
        prior[:-1] = 1 / setting.length  # the mean
        matrix = x.T @ (x * weight) + _RIDGE * np.eye(x.shape[1])
        weights = np.asarray(np.linalg.solve(matrix, x.T @ (train.targets.astype(np.float64) * weight) + _RIDGE * prior), dtype=np.float64)
        errors = held.targets - np.maximum(_design(held) @ weights, 0.0)
        edges: Float32 = np.quantile(held.scale, np.arange(1, _ORDERS) / _ORDERS).astype(np.float32)
        order = np.searchsorted(edges, held.scale)
        everywhere = np.quantile(errors, setting.levels, axis=0)
        found = [np.quantile(errors[order == o], setting.levels, axis=0) if (order == o).any() else everywhere for o in range(_ORDERS)]
        return _Fitted(setting, weights, edges, np.asarray(found, dtype=np.float32))


def _design(found: Windows) -> Float64:
    return np.concatenate([found.inputs, np.ones((len(found.inputs), 1))], axis=1).astype(np.float64)
