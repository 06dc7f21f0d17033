"""Files as columns: CSV, TSV, Parquet and NDJSON, whole columns at a time. What the columns mean is stream.backtest.shape's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stream.replay.formats import Lines
from stream.tables import UserError, nearest

_EMPTY = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""What stands in a cell of text where there is no number."""
_NUMBER = r"^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?$"
_INFINITE = r"^[+-]?[iI]nf(inity)?$"
_SHOWN = 5
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True, slots=True)
class Columns:
    """The wanted columns of a file, by name, and how its rows are called."""

    path: Path
    table: pa.Table
    text: bool
    """The file is lines of text: row r is line r + first_line."""
    first_line: int

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def rows(self, rows: NDArray[np.int64]) -> str:
        """Where rows stand, in words: "line 17", "lines 17, 20 and 3 more".

        Args:
            rows: of the table, from 0.
        """
        named = [f"{int(row) + self.first_line:,}" for row in rows[:_SHOWN]]
        noun = ("line" if self.text else "row") + ("" if len(rows) == 1 else "s")
        more = f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
        return f"{noun} {', '.join(named)}{more}"


def read_columns(path: Path, wanted: Iterable[str]) -> Columns:
    """Reads columns of a file.

    Args:
        path: of a .csv, .tsv, .ndjson or .jsonl file, each perhaps with .gz behind it, or of a .parquet file.
        wanted: names of columns.

    Raises:
        UserError: no such file, not what its ending says, or a column that it lacks.
    """
    if not path.is_file():
        raise UserError(f"the file to read must be there; got {path}: {'a folder' if path.is_dir() else 'no such file'}")
    names = list(dict.fromkeys(wanted))
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    try:
        if path.suffix.lower() == ".parquet":
            _require(path, pq.ParquetFile(path).schema_arrow.names, names)
            return Columns(path, pq.read_table(path, columns=names), False, 1)
        if ending in _DELIMITERS:
            return Columns(path, _read_text(path, _DELIMITERS[ending], names), True, 2)
        if ending in (".ndjson", ".jsonl"):
            return Columns(path, _read_lines(path, names), True, 1)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} must be readable as what its ending says: {error}") from error
    raise UserError(f"the file must end in .csv, .tsv, .ndjson, .jsonl (each perhaps with .gz) or .parquet; got {path}")


def _require(path: Path, header: Sequence[str], names: Sequence[str]) -> None:
    for name in names:
        if name not in header:
            near = nearest(name, header)
            hint = f'; did you mean "{near}"?' if near else ""
            raise UserError(f'{path} must have the column "{name}"; it has {", ".join(header)}{hint}')
        if list(header).count(name) > 1:
            raise UserError(f'{path} must have different names in its first line; "{name}" stands there twice: rename one')


def _read_text(path: Path, delimiter: str, names: Sequence[str]) -> pa.Table:
    """Cells stay text, as ids with leading zeros must."""
    with pa.input_stream(str(path), compression="gzip" if path.suffix.lower() == ".gz" else None) as file:
        first = file.read(1 << 16).decode("utf-8-sig", "replace").splitlines()
    if not first or not first[0].strip():
        raise UserError(f"{path} must begin with a line of column names; it is empty")
    header = pcsv.read_csv(pa.BufferReader((first[0] + "\n").encode()), parse_options=pcsv.ParseOptions(delimiter=delimiter)).column_names
    _require(path, header, names)
    return pcsv.read_csv(
        str(path),
        parse_options=pcsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pcsv.ConvertOptions(
            include_columns=list(names), column_types={name: pa.string() for name in names}, strings_can_be_null=False
        ),
    )


def _read_lines(path: Path, names: Sequence[str]) -> pa.Table:
    found: dict[str, list[Any]] = {name: [] for name in names}
    for piece in Lines(path).pieces(names, messages=False):
        for name in names:
            found[name].extend(piece.columns[name])
    for name, values in found.items():
        if values and all(value is None for value in values):
            raise UserError(f'{path} must have the field "{name}" in its objects; it stands in none of {len(values):,} lines')
    return pa.table({name: _column(values) for name, values in found.items()})


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError):
        return pa.array([None if value is None else value if isinstance(value, str) else str(value) for value in values], pa.string())


def plain(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, dictionaries decoded."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], column.type)
    if pa.types.is_large_string(whole.type) or pa.types.is_string_view(whole.type):
        whole = whole.cast(pa.string())
    return whole


def is_text(column: pa.Array) -> bool:
    """Whether a column holds text."""
    return bool(pa.types.is_string(column.type))


def numbers(columns: Columns, name: str, role: str) -> NDArray[np.float64]:
    """A column of numbers: float64[rows], NaN where a cell is empty.

    Args:
        columns: of the file.
        name: of the column.
        role: the option that named it, for messages.

    Raises:
        UserError: text, or an infinite number; says in which rows.
    """
    column = plain(columns.table[name])
    kind = column.type
    if is_text(column):
        bad = not_numbers(column)
        if len(bad):
            cell = column[int(bad[0])].as_py()
            raise UserError(
                f'the column "{name}" ({role}) must hold numbers; got {cell!r} in {columns.rows(bad)} of '
                f"{columns.path}: mend these cells, or leave them empty"
            )
        trimmed = pc.utf8_trim_whitespace(column)
        cells = pc.if_else(pc.is_in(trimmed, value_set=pa.array(_EMPTY)), None, trimmed)
        infinite = pc.fill_null(pc.match_substring_regex(cells, _INFINITE), False)
        cells = pc.if_else(infinite, "1e999", cells)
        values = np.array(pc.cast(cells, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    elif (
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    ):
        values = np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    else:
        raise UserError(f'the column "{name}" ({role}) must hold numbers; it holds {kind}: name another column, or convert it')
    infinite_rows = np.flatnonzero(np.isinf(values))
    if len(infinite_rows):
        raise UserError(
            f'the column "{name}" ({role}) must hold finite numbers; got an infinite one in '
            f"{columns.rows(infinite_rows)} of {columns.path}: mend or empty these cells"
        )
    return values


def not_numbers(column: pa.Array) -> NDArray[np.int64]:
    """Rows of a column of text that hold something else than a number or nothing."""
    trimmed = pc.utf8_trim_whitespace(column)
    fine = pc.or_(pc.match_substring_regex(trimmed, _NUMBER), pc.match_substring_regex(trimmed, _INFINITE))
    fine = pc.or_(fine, pc.is_in(trimmed, value_set=pa.array(_EMPTY)))
    return np.flatnonzero(~pc.fill_null(fine, True).to_numpy(zero_copy_only=False))
