"""Rows of CSV, TSV, Parquet and NDJSON files as the JSON messages that the shop would have sent.

A row becomes an object with the file's own column names; a line of NDJSON goes on byte for byte. Nothing here knows what a
column means: whoever reads asks for some columns' values beside the messages.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import msgspec
import numpy as np

from stream.config import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS = 10_000
"""Rows in a piece: enough that the cost of a piece is none, few enough that a hundred pieces in memory are no burden."""
_LONGEST_CELL = 64 << 20
_encode = msgspec.json.Encoder(decimal_format="number").encode


@dataclass(slots=True)
class Piece:
    """Consecutive rows of a file."""

    values: list[bytes]
    """The messages, JSON; lines of NDJSON as they stand, readable or not."""
    columns: dict[str, list[Any]] = field(default_factory=dict)
    """Values of the columns (NDJSON: top-level fields) that were asked for, None where a row has none."""

    def __len__(self) -> int:
        return len(self.values)


class Table:
    """A file of rows.

    Args:
        path: of the file.
    """

    header: tuple[str, ...] | None = None
    """Column names, where all rows have the same."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pieces(self, wanted: Collection[str], messages: bool = True) -> Iterator[Piece]:
        """Reads the file from its start, a piece at a time.

        Args:
            wanted: columns whose values are needed beside the messages; those that a row lacks are None.
            messages: False: only the wanted columns; the values are empty bytes.

        Raises:
            UserError: the file cannot be read.
        """
        raise NotImplementedError


def open_table(path: Path) -> Table:
    """Opens a file by the ending of its name.

    Args:
        path: of a .csv, .tsv, .ndjson or .jsonl file, each perhaps with .gz behind it, or of a .parquet file.

    Raises:
        UserError: no such file, another ending, or its beginning is not what the ending says.
    """
    if not path.is_file():
        raise UserError(f"the file to replay must be there; got {path}: {'a folder' if path.is_dir() else 'no such file'}")
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    kinds: dict[str, Callable[[Path], Table]] = {
        ".csv": lambda path: Delimited(path, ","),
        ".tsv": lambda path: Delimited(path, "\t"),
        ".ndjson": Lines,
        ".jsonl": Lines,
    }
    if path.suffix.lower() == ".parquet":
        return Parquet(path)
    if ending not in kinds:
        raise UserError(f"a file to replay must end in .csv, .tsv, .ndjson, .jsonl (each perhaps with .gz) or .parquet; got {path}")
    return kinds[ending](path)


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


def _unreadable(path: Path, error: Exception) -> UserError:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UserError(f"{path} must be readable from its first byte to its last: {said}")


class Lines(Table):
    """NDJSON: a message a line. An empty line is an empty message, except behind the last line's end."""

    def pieces(self, wanted: Collection[str], messages: bool = True) -> Iterator[Piece]:
        names = list(wanted)
        # Everything else in a line is skipped without an object being made of it.
        part = msgspec.defstruct(
            "Part", [(f"f{i}", Any, None) for i in range(len(names))], rename={f"f{i}": n for i, n in enumerate(names)}
        )
        decode = msgspec.json.Decoder(part).decode

        def fields(line: bytes) -> Any:
            try:
                return decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return part()

        def piece(lines: list[bytes]) -> Piece:
            found = [fields(line) for line in lines] if names else []
            columns = {name: [getattr(one, f"f{i}") for one in found] for i, name in enumerate(names)}
            return Piece(lines if messages else [b""] * len(lines), columns)

        lines: list[bytes] = []
        try:
            with _open(self.path) as file:
                for line in file:
                    lines.append(line.removesuffix(b"\n").removesuffix(b"\r"))
                    if len(lines) == ROWS:
                        yield piece(lines)
                        lines = []
        except (OSError, EOFError) as error:
            raise _unreadable(self.path, error) from error
        if lines:
            yield piece(lines)


class Delimited(Table):
    """CSV and TSV, UTF-8, with a header. Cells stay text, as ids with leading zeros must; an empty one is null.

    A row with more or fewer cells than the header is sent as the array of its cells, which no mapping takes for a row.
    """

    def __init__(self, path: Path, delimiter: str) -> None:
        super().__init__(path)
        self._delimiter = delimiter
        with self._reader() as rows:
            self.header = tuple(next(rows, ()))
        if not self.header:
            raise UserError(f"{path} must begin with a line of column names; it is empty")
        if len(set(self.header)) < len(self.header):
            twice = sorted({name for name in self.header if self.header.count(name) > 1})
            raise UserError(f"{path} must have different names in its first line; twice there: {', '.join(twice)}")

    def pieces(self, wanted: Collection[str], messages: bool = True) -> Iterator[Piece]:
        header = self.header
        assert header is not None
        places = {name: header.index(name) for name in wanted if name in header}
        width = len(header)
        with self._reader() as reader:
            next(reader)
            rows: list[list[str]] = []

            def piece() -> Piece:
                cells: list[list[str | None]] = [[cell or None for cell in row] for row in rows]
                values = [_encode(dict(zip(header, row, strict=True)) if len(row) == width else row) for row in cells] if messages else None
                columns = {name: [row[place] if len(row) == width else None for row in cells] for name, place in places.items()}
                columns |= {name: [None] * len(rows) for name in wanted if name not in places}
                return Piece([b""] * len(rows) if values is None else values, columns)

            for row in reader:
                if row:
                    rows.append(row)
                if len(rows) == ROWS:
                    yield piece()
                    rows = []
            if rows:
                yield piece()

    def _reader(self) -> _Csv:
        return _Csv(self.path, self._delimiter)


class _Csv:
    """A csv.reader whose errors name the file and the line."""

    def __init__(self, path: Path, delimiter: str) -> None:
        self._path = path
        self._delimiter = delimiter

    def __enter__(self) -> Iterator[list[str]]:
        csv.field_size_limit(_LONGEST_CELL)
        self._file = io.TextIOWrapper(_open(self._path), encoding="utf-8-sig", newline="")
        return self._rows()

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _rows(self) -> Iterator[list[str]]:
        rows = csv.reader(self._file, delimiter=self._delimiter)
        try:
            yield from rows
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self._path} must be UTF-8 text; behind line {rows.line_num} it is not ({error.reason}): convert it, "
                f"as with `iconv -f latin1 -t utf8`"
            ) from error
        except csv.Error as error:
            raise UserError(f"{self._path} must be CSV; at line {rows.line_num} it is not: {error}") from error
        except (OSError, EOFError) as error:
            raise _unreadable(self._path, error) from error


class Parquet(Table):
    """Parquet, in batches of rows. Times become text: what a program without a type for them would have sent."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with self._open() as file:
            self.header = tuple(file.schema_arrow.names)

    def pieces(self, wanted: Collection[str], messages: bool = True) -> Iterator[Piece]:
        import pyarrow as pa

        header = self.header
        assert header is not None
        present = [name for name in header if name in wanted]
        with self._open() as file:
            try:
                for batch in file.iter_batches(ROWS, columns=None if messages else present):
                    cells = {name: _values(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
                    values = [b""] * batch.num_rows
                    if messages:
                        values = [_encode(dict(zip(header, row, strict=True))) for row in zip(*cells.values(), strict=True)]
                    columns = {name: cells[name] for name in present}
                    columns |= {name: [None] * batch.num_rows for name in wanted if name not in columns}
                    yield Piece(values, columns)
            except (pa.ArrowException, OSError) as error:
                raise _unreadable(self.path, error) from error

    def _open(self) -> pq.ParquetFile:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self.path} must be a Parquet file, and cannot be read as one: {error}") from error


def _values(column: pa.Array) -> list[Any]:
    """A column as values that JSON has."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        return _values(column.dictionary_decode())
    if pa.types.is_timestamp(kind):
        return _stamps(column, "" if kind.tz is None else "Z")
    if pa.types.is_date(kind):
        return [None if day is None else day.isoformat() for day in column.to_pylist()]
    values: list[Any] = column.to_pylist()
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return [_plain(value) for value in values]
    return values


def _stamps(column: pa.Array, suffix: str) -> list[str | None]:
    """ "2010-12-01 08:26:00", with as much of a fraction as there is; "2010-12-01T08:26:00Z" where the column has a zone."""
    import pyarrow as pa

    unit = column.type.unit
    moments = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).astype(f"datetime64[{unit}]")
    whole = moments.astype("datetime64[s]")
    texts = np.datetime_as_string(whole, "s").tolist()
    for row in np.flatnonzero(moments != whole).tolist():
        texts[row] = str(moments[row]).rstrip("0")
    missing = column.is_null().to_numpy(zero_copy_only=False).tolist()
    if suffix:
        return [None if null else text + suffix for text, null in zip(texts, missing, strict=True)]
    return [None if null else text.replace("T", " ") for text, null in zip(texts, missing, strict=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):  # a map is a list of pairs
        return [_plain(inner) for inner in value]
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, (str, int, float, Decimal)) else str(value)
