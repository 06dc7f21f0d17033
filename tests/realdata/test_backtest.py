"""The published baselines on orange juice come out to the second decimal: the protocol is the published one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import online_retail, orange_juice
from benchmarks.shops import cut
from stream.backtest.peers import make_methods
from stream.backtest.residuals import WithResiduals
from stream.backtest.run import backtest, cells_of, summary
from stream.backtest.scores import mape
from tests.realdata.conftest import RealFile

pytestmark = pytest.mark.realdata


def folder(real_file: RealFile, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = real_file(name).parent
    monkeypatch.setenv("NOWCART_TEST_DATA", str(path))
    return path


def test_orange_juice_baselines_are_the_published_ones(real_file: RealFile, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(real_file, "orange_juice.parquet", monkeypatch)
    data, rounds, task = cut(orange_juice.prepare(), orange_juice.PROTOCOL)
    result = backtest(data, rounds, task, [WithResiduals(orange_juice.MeanOfLogs()), *make_methods(["naive"], data)])
    scores = summary(result)["models"]
    assert scores["mean_of_logs"]["n"] == 17_534
    assert round(100 * scores["mean_of_logs"]["mape"], 2) == 69.77
    assert round(100 * scores["naive"]["mape"], 2) == 110.20
    naive = result.outcomes[1]
    # The published naive leaves out rows whose series lacks the last training week.
    last = np.array([np.isfinite(data.y[:, one.end - 1]) for one in rounds])
    cells, *_ = cells_of(result, naive, np.repeat(last[:, :, None], task.horizon, axis=2))
    assert len(cells.actual) == 17_061
    published = mape(cells.actual, cells.point)
    assert published is not None
    assert round(100 * published, 2) == 109.89


def test_online_retail_baselines(real_file: RealFile, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(real_file, "online_retail.parquet", monkeypatch)
    data, rounds, task = cut(online_retail.prepare(), online_retail.PROTOCOL)
    scores = summary(backtest(data, rounds, task, make_methods(["zeros", "empirical_quantiles_84"], data)))["models"]
    assert scores["zeros"]["wape"] == 1.0
    assert 0.48 < scores["empirical_quantiles_84"]["wql"] < 0.50
