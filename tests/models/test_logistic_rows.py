"""The logistic regression learns from arrays what river learns from data frames."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from models.intent.logistic import _regression


@pytest.mark.parametrize("seed", range(4))
def test_rows_teach_what_frames_teach(seed: int) -> None:
    random = np.random.default_rng(seed)
    columns = [f"x{index:03d}" for index in range(7)]
    by_rows, by_frames = _regression(0.03), _regression(0.03)
    for _ in range(20):
        n = int(random.integers(1, 300))
        x = random.normal(size=(n, 7))
        y = (random.random(n) < 0.2).astype(np.float64)
        w = float(random.random())
        by_rows.learn_rows(x, columns, y, w)
        by_frames.learn_many(pd.DataFrame(x, columns=columns), pd.Series(y), w=w)
        assert by_rows.weights == pytest.approx(by_frames.weights, rel=1e-12, abs=1e-14)
        assert by_rows.intercept == pytest.approx(by_frames.intercept, rel=1e-12, abs=1e-14)
