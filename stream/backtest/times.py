"""The time column: whole numbers, dates or stamps, as epoch milliseconds or as the numbers that they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stream.backtest.read import Columns, is_text, plain
from stream.backtest.steps import Frequency
from stream.engine.columns import MISSING
from stream.engine.time import DAY_MS, Zone
from stream.mapping.faults import Faults
from stream.mapping.stamps import read_times
from stream.tables import UserError

Ints = NDArray[np.int64]

_WHOLE = r"^[+-]?[0-9]+$"
_COMPACT = (19000101, 22000101)
"""Whole numbers that are dates written without signs: 20240131."""


@dataclass(frozen=True, slots=True)
class Times:
    """A time for every row."""

    zone: Zone
    numbers: bool
    """They are whole numbers, 1 a step."""
    compact: bool
    """They are dates written as 20240131."""
    code: Ints
    """int64[rows], index into `distinct`."""
    distinct: Ints
    """int64[m], ascending: epoch milliseconds, or the whole numbers."""

    def steps(self, frequency: Frequency) -> Ints:
        """int64[rows], step numbers."""
        return (self.distinct if self.numbers else frequency.number(self.distinct, self.zone))[self.code]

    def parse(self, text: str, frequency: Frequency) -> int:
        """The step number of a time as a user writes it.

        Raises:
            UserError: not a time of this kind.
        """
        if self.numbers:
            try:
                return int(text)
            except ValueError:
                raise UserError(f"--until must be a whole number, as the times are; got {text!r}") from None
        if self.compact and text.isdigit() and len(text) == 8:
            text = f"{text[:4]}-{text[4:6]}-{text[6:]}"
        found, wrong = _read_texts([text], self.zone)
        if wrong:
            raise UserError(f"--until must be a time such as 2011-12-08 or 2011-12-08 09:00; got {text!r}")
        return int(frequency.number(found, self.zone)[0])


def read_time_column(columns: Columns, name: str, zone: Zone) -> Times:
    """Reads the time column.

    Args:
        columns: of the file.
        name: of the column.
        zone: of stamps without one.

    Raises:
        UserError: cells that are empty or no times; says in which rows.
    """
    column = plain(columns.table[name])
    kind = column.type
    if pa.types.is_floating(kind):
        whole = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        if np.isfinite(whole).all() and (whole == np.floor(whole)).all() and (np.abs(whole) < 2**53).all():
            column = pa.array(whole.astype(np.int64))
            kind = column.type
    if is_text(column):
        trimmed = pc.utf8_trim_whitespace(column)
        column = pc.if_else(pc.equal(trimmed, ""), None, trimmed)
    if column.null_count:
        raise UserError(
            f'the column "{name}" (--time) must hold a time in every row; it is empty in {columns.rows(_nulls(column))} of {columns.path}'
        )
    encoded = column.dictionary_encode()
    values, code = encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    numeric = compact = False
    if is_text(column) and pc.all(pc.match_substring_regex(values, _WHOLE)).as_py():
        values = pc.cast(values, pa.int64())
    if pa.types.is_integer(values.type):
        moments = values.cast(pa.int64()).to_numpy(zero_copy_only=False).astype(np.int64)
        compact = _is_compact(moments)
        numeric = not compact
        if compact:
            moments, _ = _read_texts([f"{v // 10000:04}-{v // 100 % 100:02}-{v % 100:02}" for v in moments.tolist()], zone)
    elif pa.types.is_date(kind):
        moments = zone.day_starts(values.cast(pa.date32()).cast(pa.int32()).to_numpy(zero_copy_only=False).astype(np.int64))
    elif pa.types.is_timestamp(kind):
        moments = values.cast(pa.timestamp("ms", kind.tz), safe=False).cast(pa.int64()).to_numpy(zero_copy_only=False).astype(np.int64)
        if kind.tz is None:
            moments = zone.to_utc_ms(moments)
    elif is_text(column):
        moments, wrong = _read_texts(values.to_pylist(), zone)
        if wrong:
            rows = np.flatnonzero(np.isin(code, wrong))
            raise UserError(
                f'the column "{name}" (--time) must hold whole numbers, dates or stamps such as 2011-12-08 or 2011-12-08 09:00; got '
                f"{values[wrong[0]].as_py()!r} in {columns.rows(rows)} of {columns.path}: write them so"
            )
    else:
        raise UserError(
            f'the column "{name}" (--time) must hold whole numbers, dates or stamps; it holds {kind}: name another column, or convert it'
        )
    distinct, place = np.unique(moments, return_inverse=True)
    return Times(zone, numeric, compact, place[code].astype(np.int64), distinct)


def _nulls(column: pa.Array) -> Ints:
    return np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))


def _is_compact(values: Ints) -> bool:
    low, high = _COMPACT
    if not len(values) or values.min() < low or values.max() >= high:
        return False
    months = (values // 10000 - 1970) * 12 + values // 100 % 100 - 1
    days = values % 100
    start = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    end = (months + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    month = values // 100 % 100
    return bool(((month >= 1) & (month <= 12) & (days >= 1) & (days <= end - start)).all())


def _read_texts(texts: list[Any], zone: Zone) -> tuple[Ints, list[int]]:
    """Epoch milliseconds, and which texts are no times."""
    faults = Faults()
    moments = read_times([text.strip() for text in texts], "time", faults, False, "ms", zone)
    wrong = set(faults.by_row) | set(np.flatnonzero(moments == MISSING).tolist())
    return moments, sorted(wrong)


def time_values(times: Times, frequency: Frequency, numbers: Ints) -> pa.Array:
    """Steps as values of a result's time column: whole numbers, dates, or stamps in UTC.

    Args:
        times: of the file.
        frequency: of the data.
        numbers: int64[n], step numbers.
    """
    if times.numbers:
        return pa.array(numbers, pa.int64())
    moments = frequency.start_ms(numbers, times.zone)
    if frequency.unit in ("min", "h"):
        return pa.array(moments, pa.int64()).cast(pa.timestamp("ms", "UTC"))
    days = (times.zone.to_local_ms(moments) + DAY_MS // 2) // DAY_MS
    return pa.array(days.astype(np.int32), pa.int32()).cast(pa.date32())
