"""What an average of two methods would have been worth, from the forecasts that a backtest wrote."""

from __future__ import annotations

import pyarrow as pa
import pytest

from benchmarks.mixture import mixtures
from stream.tables import UserError


def told(**more: float | None) -> pa.Table:
    """Two items, two rounds; `low` says 2, `high` says 6, of both quantiles, and what came was 4."""
    rows: list[dict[str, float | str | None]] = [
        {"store": store, "brand": 1, "round": number, "horizon": 1, "model": model, "q0.25": said, "q0.75": said, "actual": 4.0, **more}
        for store in (1, 2)
        for number in (1, 2)
        for model, said in (("low", 2.0), ("high", 6.0))
    ]
    return pa.Table.from_pylist(rows)


def test_what_errs_on_either_side_is_best_in_the_middle() -> None:
    found = {mixed.share: mixed for mixed in mixtures(told(), "low", "high")}
    assert found[0.0].wql == found[1.0].wql == pytest.approx(2 * 2 * 0.5 / 4)
    assert found[0.5].wql == 0
    assert found[0.2].wql == pytest.approx(0.25)  # 2.8, a count: 3
    half = found[0.5].less
    assert half is not None and half.value == pytest.approx(-0.5) and half.n == 4
    assert half.high is not None and half.high < 0


def test_only_cells_that_both_forecast_and_whose_actual_is_known_count() -> None:
    lone = pa.Table.from_pylist(
        [{"store": 9, "brand": 9, "round": 1, "horizon": 1, "model": "low", "q0.25": 0.0, "q0.75": 0.0, "actual": 99.0}]
    )
    unknown = told(store=7, actual=None).cast(told().schema)
    found = mixtures(pa.concat_tables([told(), lone, unknown.slice(0, 2)]), "low", "high")
    assert [mixed.wql for mixed in found] == [mixed.wql for mixed in mixtures(told(), "low", "high")]


def test_a_method_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"'median'.*\['high', 'low'\]"):
        mixtures(told(), "low", "median")
    with pytest.raises(UserError, match="no cell"):
        mixtures(told(actual=None), "low", "high")
