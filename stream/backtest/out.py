"""What a backtest writes: forecasts as Parquet, scores as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stream.backtest.run import Backtest, Outcome
from stream.backtest.times import Times, time_values
from stream.tables import UserError

_OWN = ("round", "cut", "time", "horizon", "model", "mean", "point_mape", "actual")


def write_json(path: Path, scores: dict[str, Any]) -> None:
    """Writes what summary() gave.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.write_text(json.dumps(scores, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} must be writable: {error.strerror}") from error


def write_predictions(path: Path, result: Backtest, times: Times) -> int:
    """Writes a row a forecast: item columns, round, cut, time, horizon, model, mean, point_mape, a column a level, actual (null where unknown).

    An item column that is called as one of these is written as item.NAME.

    Args:
        path: of the Parquet file.
        result: of the backtest.
        times: of the file that was read: the times are written as they were read.

    Returns:
        Rows written.

    Raises:
        UserError: it cannot be written.
    """
    rows = 0
    try:
        writer = None
        for table in _tables(result, times):
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            rows += table.num_rows
        if writer is not None:
            writer.close()
    except OSError as error:
        raise UserError(f"{path} must be writable: {error}") from error
    return rows


def _tables(result: Backtest, times: Times) -> Iterator[pa.Table]:
    """One a method and round."""
    data = result.data
    keys = {(f"item.{name}" if name in _OWN else name): pa.array(values) for name, values in zip(data.item_columns, data.keys, strict=True)}
    for outcome in result.outcomes:
        for k, one in enumerate(result.rounds):
            item, step = np.nonzero(np.isfinite(outcome.mean[k]))
            columns: dict[str, pa.Array] = {name: values.take(pa.array(item)) for name, values in keys.items()}
            columns["round"] = pa.array(np.full(len(item), one.number, np.int32))
            columns["cut"] = time_values(times, data.frequency, np.full(len(item), data.first_step + one.cut, np.int64))
            columns["time"] = time_values(times, data.frequency, data.first_step + one.cut + step.astype(np.int64))
            columns["horizon"] = pa.array((step + 1).astype(np.int32))
            columns["model"] = pa.array([outcome.name] * len(item), pa.string())
            columns |= _forecasts(result, outcome, k, item, step)
            yield pa.table(columns)


def _forecasts(result: Backtest, outcome: Outcome, k: int, item: Any, step: Any) -> dict[str, pa.Array]:
    columns = {"mean": pa.array(outcome.mean[k, item, step]), "point_mape": pa.array(outcome.point[k, item, step])}
    for place, level in enumerate(result.task.levels):
        columns[f"q{level:.10g}"] = pa.array(outcome.quantiles[k, item, place, step])
    columns["actual"] = pa.array(result.actual[k, item, step], from_pandas=True)
    return columns
