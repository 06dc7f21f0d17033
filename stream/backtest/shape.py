"""A file's columns become a Dataset: items, steps, targets, and what is known beside them. Bad input ends here, with its rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stream.backtest.data import KEY_SEPARATOR, Bools, Dataset, Floats, Ints
from stream.backtest.read import Columns, is_text, not_numbers, numbers, plain, read_columns
from stream.backtest.steps import Frequency, anchored, infer_frequency, parse_frequency
from stream.backtest.times import Times, read_time_column
from stream.calendar import holiday_days, holiday_shares
from stream.engine.announced import HOLIDAY
from stream.engine.time import Zone
from stream.tables import UserError

_MOST_CELLS = 400_000_000
_MOST_CATEGORIES = 20
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Layout:
    """What the columns of a file mean."""

    item: tuple[str, ...]
    time: str
    target: str
    frequency: str | None = None
    """As --freq; None: seen from the times."""
    known: tuple[str, ...] = ()
    holidays: str = ""
    """Country whose public holidays are known ahead, as the covariate `holiday`."""
    past: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    censored: str | None = None
    fill: Literal["zero", "none"] = "none"
    """What a missing row means: no demand, or nothing known."""
    seasons: tuple[int, ...] | None = None
    zone: str = "UTC"

    @property
    def columns(self) -> tuple[str, ...]:
        """All of them."""
        censored = () if self.censored is None else (self.censored,)
        return (*self.item, self.time, self.target, *self.known, *self.past, *self.static, *censored)


@dataclass(frozen=True, slots=True)
class Read:
    """A history, and what was decided while it was read."""

    data: Dataset
    rows: int
    times: Times
    notes: tuple[str, ...]


def read_dataset(path: Path, layout: Layout) -> Read:
    """Reads a history.

    Args:
        path: of the file.
        layout: what its columns mean.

    Raises:
        UserError: what the file holds cannot be used; says which column, which rows, and what to do.
    """
    _require_apart(layout)
    return shape(read_columns(path, layout.columns), layout)


def read_table(table: pa.Table, layout: Layout, name: str = "table") -> Read:
    """The same of a table in memory.

    Args:
        table: with the layout's columns.
        layout: what they mean.
        name: of the table, for messages and reports.
    """
    return shape(Columns(Path(name), table, False, 1), layout)


def shape(columns: Columns, layout: Layout) -> Read:
    """Turns columns into a history.

    Args:
        columns: of a file.
        layout: what they mean.

    Raises:
        UserError: as read_dataset().
    """
    if not len(columns):
        raise UserError(f"{columns.path} must have rows; it has none")
    try:
        zone = Zone(layout.zone)
    except ValueError as error:
        raise UserError(f"--zone: {error}") from error
    notes: list[str] = []
    item, items, keys = _items(columns, layout.item)
    times = read_time_column(columns, layout.time, zone)
    frequency, note = _frequency(times, layout, zone)
    notes += note
    number = times.steps(frequency)
    target = numbers(columns, layout.target, "--target")
    negative = np.flatnonzero(target < 0)
    if len(negative):
        notes.append(
            f'the column "{layout.target}" (--target) is negative in {columns.rows(negative)}, as where returns exceed sales: methods see 0 '
            "there, as demand is never less, and are scored by what stands there"
        )
    has = ~np.isnan(target)
    if not has.any():
        raise UserError(f'the column "{layout.target}" (--target) must hold numbers; it is empty in all {len(columns):,} rows')
    first_step, last = int(number.min()), int(number[has].max())
    steps, span = last - first_step + 1, int(number.max()) - first_step + 1
    if len(items) * span > _MOST_CELLS:
        raise UserError(
            f"{len(items):,} items times {span:,} steps of {frequency.name} (from {_text(times, frequency, first_step)} to "
            f"{_text(times, frequency, first_step + span - 1)}) must be at most {_MOST_CELLS:,} cells: is --freq right, and are there "
            "wrong times, or times that are epoch numbers?"
        )
    place = item * span + (number - first_step)
    _require_single(columns, layout, place, items, frequency, times)

    def scatter(values: NDArray[Any], empty: Any, width: int) -> NDArray[Any]:
        cells = np.full(len(items) * span, empty, dtype=values.dtype)
        cells[place] = values
        whole = cells.reshape(len(items), span)[:, :width]
        whole.flags.writeable = False
        return whole

    y = np.array(scatter(target, np.nan, steps))
    has_row = scatter(np.ones(len(place), np.bool_), False, steps)
    seen = np.isfinite(y)
    first = np.where(seen.any(axis=1), seen.argmax(axis=1), steps).astype(np.int64)
    from_first = np.arange(steps) >= first[:, None]
    missing = int((from_first & ~has_row).sum())
    if layout.fill == "zero":
        y[from_first & ~has_row] = 0
    elif missing:
        share = missing / max(1, int(from_first.sum()))
        notes.append(
            f"{missing:,} steps behind an item's first row have no row ({share:.1%}): unknown, neither learnt from nor "
            "scored; --fill zero if a missing row means no demand"
        )
    y.flags.writeable = False
    with np.errstate(invalid="ignore"):
        whole = ~(seen & (y != np.floor(y))).any(axis=1)
    known: dict[str, Floats] = {}
    for name in layout.known:
        for made, values in _known(columns, name):
            known[made] = scatter(values, np.nan, span)
    if layout.holidays:
        known[HOLIDAY] = _holidays(layout, frequency, zone, first_step, (len(items), span))
    seasons = frequency.seasons if layout.seasons is None else tuple(season for season in layout.seasons if season > 1)
    data = Dataset(
        item_columns=layout.item,
        keys=keys,
        items=items,
        frequency=frequency,
        zone=zone,
        seasons=seasons,
        first_step=first_step,
        y=y,
        reach=span - steps,
        first=first,
        known=known,
        past={name: scatter(numbers(columns, name, "--past"), np.nan, steps) for name in layout.past},
        static={name: _static(columns, name, item, items) for name in layout.static},
        censored=None if layout.censored is None else _censored(columns, layout.censored, scatter, steps),
        whole=whole,
        source=str(columns.path),
        time_column=layout.time,
        target_column=layout.target,
        known_columns=layout.known,
    )
    return Read(data, len(columns), times, tuple(notes))


def step_of(read: Read, text: str) -> int:
    """The column of the data at which a time stands, as --until names it.

    Raises:
        UserError: not a time, or outside the history.
    """
    data = read.data
    number = read.times.parse(text, data.frequency)
    column = number - data.first_step
    if not 0 <= column < data.steps:
        ends = [data.frequency.texts(np.array([data.first_step + k]), data.zone)[0] for k in (0, data.steps - 1)]
        raise UserError(f"--until must lie within the history, {ends[0]} to {ends[1]}; got {text}")
    return column


def _require_apart(layout: Layout) -> None:
    used: dict[str, str] = {}
    roles = [
        ("--item", layout.item),
        ("--time", (layout.time,)),
        ("--target", (layout.target,)),
        ("--known", layout.known),
        ("--past", layout.past),
    ]
    for role, names in [*roles, ("--censored", (layout.censored,) if layout.censored else ())]:
        for name in names:
            if name in used and not (role == "--known" and used[name] == "--item"):
                raise UserError(f'a column must have one meaning; "{name}" is named by {used[name]} and {role}: leave it out of one')
            used[name] = role


def _items(columns: Columns, names: tuple[str, ...]) -> tuple[Ints, tuple[str, ...], tuple[tuple[object, ...], ...]]:
    """int64[rows], each row's item; the items' joined keys, ascending; their values of each key column."""
    code = np.zeros(len(columns), np.int64)
    dictionaries = []
    for name in names:
        column = plain(columns.table[name])
        empty = pc.is_null(column, nan_is_null=True).to_numpy(zero_copy_only=False)
        if is_text(column):
            empty = empty | (pc.utf8_length(pc.fill_null(column, "")).to_numpy(zero_copy_only=False) == 0)
        if empty.any():
            raise UserError(
                f'the column "{name}" (--item) must name an item in every row; it is empty in {columns.rows(np.flatnonzero(empty))} of {columns.path}'
            )
        encoded = column.dictionary_encode()
        dictionaries.append(encoded.dictionary.to_pylist())
        code = code * len(dictionaries[-1]) + encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    distinct, number = np.unique(code, return_inverse=True)
    parts: list[list[object]] = []
    rest = distinct
    for values in reversed(dictionaries):
        parts.insert(0, [values[i] for i in (rest % len(values)).tolist()])
        rest = rest // len(values)
    joined = [KEY_SEPARATOR.join(map(str, whole)) for whole in zip(*parts, strict=True)]
    if len(set(joined)) < len(joined):
        twice = next(name for name in joined if joined.count(name) > 1)
        raise UserError(
            f'the columns of --item must make different keys; two items are both called "{twice}" when joined with "{KEY_SEPARATOR}"'
        )
    order = sorted(range(len(joined)), key=joined.__getitem__)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[number], tuple(joined[i] for i in order), tuple(tuple(values[i] for i in order) for values in parts)


def _frequency(times: Times, layout: Layout, zone: Zone) -> tuple[Frequency, list[str]]:
    given = None if layout.frequency is None else parse_frequency(layout.frequency)
    if times.numbers:
        frequency = replace(given or Frequency("D"), numbers=True)
        if given is None:
            return frequency, ["times are whole numbers, 1 a step; --freq is left out: steps are taken for days"]
        return frequency, []
    if given is not None:
        return anchored(given, times.distinct, zone), []
    frequency = infer_frequency(times.distinct, zone)
    return frequency, [f"--freq is left out: the times stand on {frequency.name}"]


def _text(times: Times, frequency: Frequency, number: int) -> str:
    return frequency.texts(np.array([number]), times.zone)[0]


def _require_single(columns: Columns, layout: Layout, place: Ints, items: tuple[str, ...], frequency: Frequency, times: Times) -> None:
    order = np.argsort(place, kind="stable")
    again = np.flatnonzero(place[order][1:] == place[order][:-1])
    if not len(again):
        return
    first, second = int(order[again[0]]), int(order[again[0] + 1])
    column = plain(columns.table[layout.time])
    rows = np.sort(order[again + 1])
    same = column[first].as_py() == column[second].as_py()
    advice = "keep one of them" if same else f"they fall into one step of {frequency.name}: sum them up first, or give a shorter --freq"
    raise UserError(
        f'an item must have one row a time; {", ".join(layout.item)} = "{items[int(place[first]) // _width(place, items)]}" has {layout.time} = '
        f"{column[first].as_py()} in {columns.rows(np.array([first, second]))} of {columns.path}"
        f"{f', and {len(rows):,} rows in all stand there again ({columns.rows(rows)})' if len(rows) > 1 else ''}: {advice}"
    )


def _width(place: Ints, items: tuple[str, ...]) -> int:
    return int(place.max()) // len(items) + 1 if len(items) else 1


def _holidays(layout: Layout, frequency: Frequency, zone: Zone, first_step: int, shape: tuple[int, int]) -> Floats:
    """float64[items, steps], the same for every item."""
    if frequency.numbers:
        raise UserError(f'--holidays needs dates; the column "{layout.time}" (--time) holds whole numbers')
    if HOLIDAY in layout.known:
        raise UserError(f'--holidays makes a covariate "{HOLIDAY}", and a column of that name is in --known: leave one of them out')
    try:
        days = holiday_days(layout.holidays)
    except UserError as error:
        raise UserError(f"--holidays {error}") from error
    edges = frequency.start_ms(np.arange(first_step, first_step + shape[1] + 1), zone)
    return np.broadcast_to(holiday_shares(days, edges, zone), shape)


def _known(columns: Columns, name: str) -> list[tuple[str, Floats]]:
    """A known column, or one of 0 and 1 for each of its categories: what a text means, no order of codes could say."""
    column = plain(columns.table[name])
    if not is_text(column):
        return [(name, numbers(columns, name, "--known"))]
    bad = not_numbers(column)
    if not len(bad):
        return [(name, numbers(columns, name, "--known"))]
    trimmed = pc.utf8_trim_whitespace(column)
    values = sorted(value for value in pc.unique(trimmed).to_pylist() if value)
    numeric = len(columns) - len(bad) - int(pc.sum(pc.equal(pc.utf8_length(pc.fill_null(trimmed, "")), 0)).as_py() or 0)
    if numeric or len(values) > _MOST_CATEGORIES:
        reason = (
            "numbers, or a few categories" if numeric else f"numbers, or at most {_MOST_CATEGORIES} categories (it has {len(values):,})"
        )
        raise UserError(
            f'the column "{name}" (--known) must hold {reason}; got {column[int(bad[0])].as_py()!r} in {columns.rows(bad)} of {columns.path}: '
            f"mend these cells, or leave the column out"
        )
    empty = pc.is_null(trimmed).to_numpy(zero_copy_only=False) | (
        pc.utf8_length(pc.fill_null(trimmed, "")).to_numpy(zero_copy_only=False) == 0
    )
    made = []
    for value in values:
        hit = pc.fill_null(pc.equal(trimmed, value), False).to_numpy(zero_copy_only=False).astype(np.float64)
        hit[empty] = np.nan
        made.append((f"{name}={value}", hit))
    return made


def _static(columns: Columns, name: str, item: Ints, items: tuple[str, ...]) -> tuple[str, ...]:
    """What each item says in all of its rows that say anything."""
    encoded = plain(columns.table[name]).dictionary_encode()
    texts = ["" if value is None else str(value) for value in encoded.dictionary.to_pylist()]
    code = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    told = np.flatnonzero(code >= 0)
    value = np.full(len(items), -1, np.int64)
    value[item[told][::-1]] = code[told][::-1]
    other = told[value[item[told]] != code[told]]
    if len(other):
        row = int(other[0])
        raise UserError(
            f'the column "{name}" (--static) must not change for an item; "{items[int(item[row])]}" has {texts[int(value[item[row]])]!r} and, in '
            f"{columns.rows(other[:1])} of {columns.path}, {texts[int(code[row])]!r}: name it in --known or --past if it changes"
        )
    return tuple("" if i < 0 else texts[i] for i in value.tolist())


def _censored(columns: Columns, name: str, scatter: Any, steps: int) -> Bools:
    column = plain(columns.table[name])
    if is_text(column):
        words = {"true": 1.0, "yes": 1.0, "t": 1.0, "y": 1.0, "false": 0.0, "no": 0.0, "f": 0.0, "n": 0.0}
        lower = pc.utf8_lower(pc.utf8_trim_whitespace(column))
        if not pc.all(pc.is_in(pc.drop_null(lower), value_set=pa.array([*words, ""]))).as_py():
            values = numbers(columns, name, "--censored")
        else:
            values = np.array([words.get(text or "", 0.0) for text in lower.to_pylist()])
    else:
        values = numbers(columns, name, "--censored")
    flagged: Bools = scatter(np.nan_to_num(values) > 0, False, steps)
    return flagged
