"""Peers of the intent models on the very same counters: logistic regression, XGBoost, LightGBM. The last two need the extra `bench`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from stream.backtest.boosted import load
from stream.tables import UserError

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Predict = Callable[[Floats32], Floats]

TREES = 150
_RATE = 0.06
_RIDGE = 1.0
_STEPS = 12
_FARTHEST = 6.0


def logistic(x: Floats32, y: Floats) -> Predict:
    """Logistic regression with a small ridge, to convergence by Newton steps.

    Args:
        x: float32[n, features].
        y: float64[n].
    """
    mean, deviation = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0.0)

    def prepared(rows: Floats32) -> Floats:
        z = np.clip((rows.astype(np.float64) - mean) * scale, -_FARTHEST, _FARTHEST)
        return np.concatenate([z, np.ones((len(z), 1))], axis=1)

    z = prepared(x)
    beta = np.zeros(z.shape[1])
    rate = float(np.clip(y.mean(), 1e-6, 1 - 1e-6))
    beta[-1] = np.log(rate / (1 - rate))
    ridge = np.full(z.shape[1], _RIDGE)
    ridge[-1] = 1e-9
    for _ in range(_STEPS):
        p = expit(z @ beta)
        curvature = (z * (p * (1 - p))[:, None]).T @ z + np.diag(ridge)
        step = np.linalg.solve(curvature, z.T @ (p - y) + ridge * beta)
        beta -= step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-6:
            break
    return lambda rows: expit(prepared(rows) @ beta)


def lightgbm(x: Floats32, y: Floats) -> Predict:
    """LightGBM, binary log loss.

    Args:
        x: float32[n, features].
        y: float64[n].

    Raises:
        UserError: it is not installed.
    """
    library = load("lightgbm")
    params: dict[str, Any] = {
        "objective": "binary", "learning_rate": _RATE, "num_leaves": 15, "min_data_in_leaf": 100, "feature_fraction": 0.7, "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5.0, "verbosity": -1, "num_threads": 1, "force_row_wise": True, "deterministic": True, "max_bin": 127, "seed": 1,
    }  # fmt: skip
    model = library.train(params, library.Dataset(x, y, params=params), num_boost_round=TREES)
    return lambda rows: np.asarray(model.predict(rows, num_threads=1), dtype=np.float64)


def xgboost(x: Floats32, y: Floats) -> Predict:
    """XGBoost, binary log loss.

    Args:
        x: float32[n, features].
        y: float64[n].

    Raises:
        UserError: it is not installed.
    """
    try:
        import xgboost as library
    except ImportError as error:
        raise UserError(f"xgboost must have the package xgboost-cpu (or xgboost); {error}: pip install 'nowcart[bench]'") from error
    params: dict[str, Any] = {
        "objective": "binary:logistic", "eta": _RATE, "max_depth": 5, "min_child_weight": 5, "subsample": 0.8, "colsample_bytree": 0.7, "lambda": 5.0,
        "nthread": 1,
        "tree_method": "hist", "max_bin": 128, "seed": 1, "base_score": float(np.clip(y.mean(), 1e-6, 1 - 1e-6)),
    }  # fmt: skip
    model = library.train(params, library.DMatrix(x, y), num_boost_round=TREES)
    return lambda rows: np.asarray(model.predict(library.DMatrix(rows)), dtype=np.float64)


PEERS: dict[str, Callable[[Floats32, Floats], Predict]] = {"logistic_regression": logistic, "xgboost": xgboost, "lightgbm": lightgbm}
"""By name."""
