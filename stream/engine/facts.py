"""Facts and measurements: what is announced about items, and what is counted beside units, as columns that travel in segments.

A *fact* is a covariate's value for a span of time, told at a moment: a price from Monday to Friday, a holiday, a closed day. It concerns
one item, all items of a category, or all items. Of facts that speak of the same moment the one that was announced last counts (the
largest announced time, source, offset). A *static* is a fact about what an item is. A *measurement* is a value of one item in one grain.

Nothing here applies them: that is stream.engine.covariates (facts, statics) and stream.engine.measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.engine.columns import Floats, Ints

NEVER = np.iinfo(np.int64).max
"""`ends_ms` of what holds until further notice."""
VALUE, SHARE, STATIC = 0, 1, 2
"""Kinds of facts. VALUE: a level (a price): a bucket takes its mean over the part of it that was spoken of. SHARE: something that is on or off
(a promotion): time that nothing was said of counts as off, so a bucket takes the share of it. STATIC: what an item is, from when it is told."""

_NUMBERS = {"value": "<f8", "kind": "|i1", "starts": "<i8", "ends": "<i8", "announced": "<i8", "offset": "<i8", "source": "<i8"}
_PLACES = {"item": "<i4", "category": "<i4", "name": "<i4", "text": "<i4"}
_BYTES_A_ROW = 64


class Facts(msgspec.Struct, array_like=True):
    """Facts as they travel: columns of little-endian arrays; `item`, `category`, `name` and `text` are places in the lists (-1: none)."""

    items: list[str]
    names: list[str]
    texts: list[str]
    columns: dict[str, bytes]


class Measured(msgspec.Struct, array_like=True):
    """Measurements as they travel: `item`, `name` (places), `grain` (number), `value` and `weight` (float64)."""

    items: list[str]
    names: list[str]
    means: list[bool]
    """For each name whether several values of a bucket give their weighted mean, or else their sum."""
    columns: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class FactRows:
    """Facts in memory; n rows."""

    items: list[str]
    names: list[str]
    texts: list[str]
    item: Ints
    """int64[n], place in items; -1: all items, or those of the category."""
    category: Ints
    """int64[n], place in texts; -1: of no category in particular."""
    name: Ints
    text: Ints
    """int64[n], place in texts: the value of a static that is a text; -1: it is a number."""
    value: Floats
    kind: Ints
    starts: Ints
    ends: Ints
    announced: Ints
    offset: Ints
    source: Ints
    """int64[n], a number of the source partition that orders sources the same everywhere (see activity.stamp_source)."""

    def __len__(self) -> int:
        return len(self.item)

    def pick(self, rows: Ints) -> FactRows:
        """Some of the rows, the lists shared."""
        return FactRows(self.items, self.names, self.texts, *(getattr(self, name)[rows] for name in (*_PLACES, *_NUMBERS)))


def number_texts(texts: Sequence[str] | str | None, rows: int, none: str | None = "") -> tuple[list[str], Ints]:
    """Each distinct text once, and which one each row has (-1 where it has none).

    Args:
        texts: one a row, or one for all rows; None: no row has one.
        rows: how many rows there are.
        none: the text that stands for none; None: there is no such text.
    """
    if texts is None:
        return [], np.full(rows, -1, np.int64)
    if isinstance(texts, str):
        return ([], np.full(rows, -1, np.int64)) if texts == none else ([texts], np.zeros(rows, np.int64))
    distinct = [text for text in dict.fromkeys(texts) if text != none]
    place = {text: i for i, text in enumerate(distinct)}
    return distinct, np.fromiter((place.get(text, -1) for text in texts), np.int64, rows)


def fact_rows(
    *,
    name: Sequence[str] | str,
    value: NDArray[np.generic] | float,
    announced_ms: NDArray[np.int64] | int,
    item: Sequence[str] | str | None = None,
    category: Sequence[str] | str | None = None,
    text: Sequence[str] | str | None = None,
    kind: NDArray[np.integer] | int = VALUE,
    starts_ms: NDArray[np.int64] | int | None = None,
    ends_ms: NDArray[np.int64] | int = NEVER,
    offset: NDArray[np.int64] | int = 0,
) -> FactRows:
    """Facts from columns; whatever is the same for all rows may be given once.

    Args:
        name: the covariate's.
        value: float64[n].
        announced_ms: int64[n], when it was told; a forecast uses it from then on.
        item: whom it concerns; '' or None: all items, or those of `category`.
        category: its items are concerned (where there is no item).
        text: the value of a static that is a text.
        kind: VALUE, SHARE or STATIC.
        starts_ms: int64[n], from when it holds; default: from when it was told.
        ends_ms: int64[n], until when, exclusive; NEVER: until further notice.
        offset: int64[n], decides between facts that were announced at once.
    """
    columns = [np.asarray(c) for c in (value, announced_ms, kind, ends_ms, offset, 0 if starts_ms is None else starts_ms)]
    texts = [c for c in (name, item, category, text) if c is not None and not isinstance(c, str)]
    lengths = {len(c) for c in columns if c.ndim} | {len(t) for t in texts}
    if len(lengths) > 1:
        raise ValueError(f"columns of facts must have one length; got {sorted(lengths)}: give each a value a row, or one for all")
    n = lengths.pop() if lengths else 1

    def ints(column: object) -> Ints:
        return np.broadcast_to(np.asarray(column, dtype=np.int64), n).copy()

    items, item_at = number_texts(item, n)
    names, name_at = number_texts(name, n, none=None)
    categories, category_at = number_texts(category, n)
    values, text_at = number_texts(text, n)
    announced = ints(announced_ms)
    return FactRows(
        items=items,
        names=names,
        texts=categories + values,
        item=item_at,
        category=category_at,
        name=name_at,
        text=np.where(text_at >= 0, text_at + len(categories), -1),
        value=np.broadcast_to(np.asarray(value, dtype=np.float64), n).copy(),
        kind=ints(kind),
        starts=announced.copy() if starts_ms is None else ints(starts_ms),
        ends=ints(ends_ms),
        announced=announced,
        offset=ints(offset),
        source=np.zeros(n, np.int64),
    )


def join_rows(parts: Sequence[FactRows]) -> FactRows:
    """The rows of all parts, in order.

    Args:
        parts: at least one.
    """
    if len(parts) == 1:
        return parts[0]

    def one_list(name: str) -> tuple[list[str], list[Ints]]:
        distinct = list(dict.fromkeys(text for part in parts for text in getattr(part, name)))
        place = {text: i for i, text in enumerate(distinct)}
        # One place more, so that -1 stays -1.
        return distinct, [np.array([*(place[text] for text in getattr(part, name)), -1], dtype=np.int64) for part in parts]

    items, item_map = one_list("items")
    names, name_map = one_list("names")
    texts, text_map = one_list("texts")
    maps = {"item": item_map, "name": name_map, "category": text_map, "text": text_map}
    columns = {
        name: np.concatenate([place[getattr(part, name)] for part, place in zip(parts, maps[name], strict=True)]) for name in _PLACES
    }
    columns |= {name: np.concatenate([getattr(part, name) for part in parts]) for name in _NUMBERS}
    return FactRows(items, names, texts, **columns)


def pack_facts(rows: FactRows) -> Facts:
    """Facts as they travel; lists hold only what the rows name."""

    def used(texts: list[str], *places: Ints) -> tuple[list[str], list[Ints]]:
        wanted = np.unique(np.concatenate([p[p >= 0] for p in places]))
        return [texts[i] for i in wanted.tolist()], [np.where(p >= 0, np.searchsorted(wanted, p), -1) for p in places]

    items, (item,) = used(rows.items, rows.item)
    names, (name,) = used(rows.names, rows.name)
    texts, (category, text) = used(rows.texts, rows.category, rows.text)
    places = {"item": item, "category": category, "name": name, "text": text}
    data = {key: places[key].astype(form).tobytes() for key, form in _PLACES.items()}
    data |= {key: getattr(rows, key).astype(form).tobytes() for key, form in _NUMBERS.items() if key != "source"}
    return Facts(items, names, texts, data)


def read_facts(facts: Facts) -> FactRows:
    """Facts in memory."""
    rows = len(facts.columns["item"]) // 4
    columns: dict[str, Any] = {}
    for name, form in (_PLACES | _NUMBERS).items():
        data = facts.columns.get(name)
        read = np.zeros(rows) if data is None else np.frombuffer(data, form)
        columns[name] = read.astype(np.float64 if name == "value" else np.int64)
    return FactRows(facts.items, facts.names, facts.texts, **columns)


def stamp_facts(facts: Facts, number: int) -> None:
    """Notes which source partition facts came from.

    Args:
        facts: changed in place.
        number: orders sources the same everywhere.
    """
    facts.columns["source"] = np.full(len(facts.columns["item"]) // 4, number, "<i8").tobytes()


def join_facts(parts: Sequence[Facts]) -> Facts:
    """All facts of several, in order; sources stay noted."""
    rows = join_rows([read_facts(part) for part in parts])
    joined = pack_facts(rows)
    joined.columns["source"] = rows.source.astype("<i8").tobytes()
    return joined


@dataclass(frozen=True, slots=True)
class MeasuredRows:
    """Measurements in memory; n rows."""

    items: list[str]
    names: list[str]
    means: list[bool]
    item: Ints
    name: Ints
    grain: Ints
    value: Floats
    weight: Floats

    def __len__(self) -> int:
        return len(self.item)

    def pick(self, rows: Ints) -> MeasuredRows:
        """Some of the rows, the lists shared."""
        return MeasuredRows(
            self.items, self.names, self.means, self.item[rows], self.name[rows], self.grain[rows], self.value[rows], self.weight[rows]
        )


def measured_rows(
    *,
    item: Sequence[str],
    name: Sequence[str] | str,
    grain: Ints,
    value: NDArray[np.generic],
    weight: NDArray[np.generic] | float = 1.0,
    means: bool | dict[str, bool] = True,
) -> MeasuredRows:
    """Measurements from columns.

    Args:
        item: one a row.
        name: the covariate's.
        grain: int64[n], number of the grain (time divided by the agreement's grain_ms).
        value: float64[n].
        weight: float64[n], how much a value counts in a mean.
        means: whether several values of a bucket give their mean, or else their sum; for all names, or by name.
    """
    n = len(item)
    items, item_at = number_texts(item, n, none=None)
    names, name_at = number_texts(name, n, none=None)
    rule = {text: means if isinstance(means, bool) else means[text] for text in names}
    return MeasuredRows(
        items,
        names,
        [rule[text] for text in names],
        item_at,
        name_at,
        np.asarray(grain, dtype=np.int64),
        np.asarray(value, dtype=np.float64),
        np.broadcast_to(np.asarray(weight, dtype=np.float64), n).copy(),
    )


def pack_measured(rows: MeasuredRows) -> Measured:
    """Measurements as they travel."""
    wanted = np.unique(rows.item)
    data = {
        "item": np.searchsorted(wanted, rows.item).astype("<i4").tobytes(),
        "name": rows.name.astype("<i4").tobytes(),
        "grain": rows.grain.astype("<i8").tobytes(),
        "value": rows.value.astype("<f8").tobytes(),
        "weight": rows.weight.astype("<f8").tobytes(),
    }
    return Measured([rows.items[i] for i in wanted.tolist()], rows.names, rows.means, data)


def read_measured(measured: Measured) -> MeasuredRows:
    """Measurements in memory."""
    forms = {"item": "<i4", "name": "<i4", "grain": "<i8", "value": "<f8", "weight": "<f8"}
    read = {name: np.frombuffer(measured.columns[name], form) for name, form in forms.items()}
    item, name, grain = (read[key].astype(np.int64) for key in ("item", "name", "grain"))
    return MeasuredRows(
        measured.items,
        measured.names,
        measured.means,
        item,
        name,
        grain,
        read["value"].astype(np.float64),
        read["weight"].astype(np.float64),
    )


def join_measured(parts: Sequence[Measured]) -> Measured:
    """All measurements of several, in order."""
    rows = [read_measured(part) for part in parts]
    means = {name: mean for part in rows for name, mean in zip(part.names, part.means, strict=True)}
    joined = measured_rows(
        item=[part.items[i] for part in rows for i in part.item.tolist()],
        name=[part.names[i] for part in rows for i in part.name.tolist()],
        grain=np.concatenate([part.grain for part in rows]),
        value=np.concatenate([part.value for part in rows]),
        weight=np.concatenate([part.weight for part in rows]),
        means=means,
    )
    return pack_measured(joined)


def pieces(places: Ints, texts: Sequence[str], room_bytes: int) -> Iterator[Ints]:
    """Rows [0, n) cut so that no piece exceeds a size.

    Args:
        places: int64[n], which text each row names; -1: none.
        texts: the names.
        room_bytes: of a piece.
    """
    if not len(places):
        return
    lengths = np.array([*(4 * len(text) for text in texts), 0], dtype=np.int64)
    piece = np.cumsum(lengths[places] + _BYTES_A_ROW) // room_bytes
    yield from np.split(np.arange(len(places), dtype=np.int64), np.flatnonzero(np.diff(piece)) + 1)


def weigh(facts: Facts | None, measured: Measured | None) -> int:
    """About how many bytes they take in a message."""
    total = 0
    if facts is not None:
        total += sum(map(len, facts.columns.values())) + sum(4 * len(t) for t in (*facts.items, *facts.names, *facts.texts))
    if measured is not None:
        total += sum(map(len, measured.columns.values())) + sum(4 * len(t) for t in (*measured.items, *measured.names))
    return total
