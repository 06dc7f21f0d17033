"""A source's file as keyed messages in event-time order, without holding more of it than its disorder needs.

Two readings. The first looks at times alone, and keeps the smallest of every piece: from these the second knows, behind each
piece, up to which time nothing can come any more. A sorted file passes through piece by piece; a shuffled one waits in memory
for as long as its order demands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stream.config import Config, Source, UserError
from stream.engine.columns import MISSING, Ints
from stream.engine.time import Zone
from stream.mapping.faults import Faults
from stream.mapping.numbers import read_ids
from stream.mapping.stamps import read_times
from stream.replay.formats import Piece, Table, open_table
from stream.sources import REQUIRED
from stream.tables import nearest

FIRST_MS = MISSING
"""Stands for the time of rows that precede every readable one."""

_KEYS = {
    "clickstream": ("session", "user"),
    "orders": ("order", "item"),
    "offers": ("item",),
    "reviews": ("item",),
    "signals": ("name",),
}
"""What a shop keys its messages by: the first that is mapped and there."""


@dataclass(slots=True)
class Messages:
    """Messages of one source, in the order in which they are to be sent."""

    values: list[bytes]
    keys: list[bytes | None]
    times_ms: Ints
    """int64[n], ascending: where each stands in event time; a row without a readable time stands with the one before it."""

    def __len__(self) -> int:
        return len(self.values)

    def cut(self, start: int, stop: int) -> Messages:
        """The messages [start, stop)."""
        return Messages(self.values[start:stop], self.keys[start:stop], self.times_ms[start:stop])


def join(parts: list[Messages]) -> Messages:
    """Several one behind the other."""
    if len(parts) == 1:
        return parts[0]
    values = [value for part in parts for value in part.values]
    keys = [key for part in parts for key in part.keys]
    return Messages(values, keys, np.concatenate([np.zeros(0, np.int64), *(part.times_ms for part in parts)]))


class SourceFile:
    """One file of one source. Opening it reads it through once.

    Args:
        config: says how times without a zone are read.
        source: whose rows the file holds.
        path: of the file.
        now_ms: epoch milliseconds. A row from further in the future than ingest takes stands with the one before it: nobody waits for
            the year 2100 to replay the rest.

    Raises:
        UserError: it cannot be read, or lacks a column that the source needs.
    """

    def __init__(self, config: Config, source: Source, path: Path, now_ms: int) -> None:
        self.source = source
        self.path = path
        self.rows = 0
        self.first_ms: int | None = None
        self.last_ms: int | None = None
        self._zone = Zone(config.time.zone)
        self._latest_ms = now_ms + config.time.max_future_ms
        self._table = open_table(path)
        _check_columns(self._table, source)
        time = source.fields["time"]
        assert isinstance(time, str)
        self._time = time
        self._smallest_ms: list[int] = []
        """Of each piece."""
        self._survey()

    def _survey(self) -> None:
        last = FIRST_MS
        for piece in self._table.pieces({_top(self._time)}, messages=False):
            times = self._times(piece, last)
            readable = times[times != FIRST_MS]
            self.rows += len(piece)
            self._smallest_ms.append(int(times.min()))
            if len(readable):
                self.first_ms = int(readable.min()) if self.first_ms is None else min(self.first_ms, int(readable.min()))
                self.last_ms = int(readable.max()) if self.last_ms is None else max(self.last_ms, int(readable.max()))
            last = int(times[-1])

    def messages(self) -> Iterator[Messages]:
        """All of it in event-time order; rows of the same time in the file's."""
        paths = [path for field in _KEYS[self.source.kind] for path in _paths(self.source, field)]
        wanted = {_top(path) for path in [self._time, *paths]}
        # What is still to come behind each piece, at the earliest: nothing behind the last.
        later = np.minimum.accumulate(np.array([*self._smallest_ms[1:], np.iinfo(np.int64).max], dtype=np.int64)[::-1])[::-1]
        held: list[Messages] = []
        last = FIRST_MS
        for number, piece in enumerate(self._table.pieces(wanted)):
            if number >= len(later):
                raise UserError(f"{self.path} must not change while it is replayed: it has grown")
            times = self._times(piece, last)
            last = int(times[-1])
            held.append(Messages(piece.values, self._keys(piece), times))
            ready, held = _split(held, int(later[number]))
            if ready:
                yield _sorted(join(ready))

    def _times(self, piece: Piece, last: int) -> Ints:
        """Where each row stands: its own time, or the nearest readable one above it."""
        values = _at(piece, self._time)
        faults = Faults()
        times = read_times(values, "time", faults, True, self.source.time_unit, self._zone)
        times[list(faults.by_row)] = MISSING
        times[times > self._latest_ms] = MISSING
        above = np.maximum.accumulate(np.where(times != MISSING, np.arange(len(times)), -1))
        return np.where(above >= 0, times[np.maximum(above, 0)], last)

    def _keys(self, piece: Piece) -> list[bytes | None]:
        texts = [""] * len(piece)
        for field in _KEYS[self.source.kind]:
            found = [read_ids(_at(piece, path), field, Faults(), False, None) for path in _paths(self.source, field)]
            if not found:
                continue
            whole = found[0] if len(found) == 1 else [":".join(parts) if all(parts) else "" for parts in zip(*found, strict=True)]
            texts = [text or other for text, other in zip(texts, whole, strict=True)]
            if all(texts):
                break
        return [text.encode("utf-8", "replace") if text else None for text in texts]


def _split(held: list[Messages], limit_ms: int) -> tuple[list[Messages], list[Messages]]:
    """Those up to the limit, and the rest, both in the file's order."""
    ready, rest = [], []
    for part in held:
        due = part.times_ms <= limit_ms
        if due.all():
            ready.append(part)
        elif not due.any():
            rest.append(part)
        else:
            ready.append(_picked(part, np.flatnonzero(due)))
            rest.append(_picked(part, np.flatnonzero(~due)))
    return ready, rest


def _sorted(messages: Messages) -> Messages:
    times = messages.times_ms
    if bool((times[1:] >= times[:-1]).all()):
        return messages
    return _picked(messages, np.argsort(times, kind="stable"))


def _picked(messages: Messages, places: Ints) -> Messages:
    picks = places.tolist()
    return Messages([messages.values[i] for i in picks], [messages.keys[i] for i in picks], messages.times_ms[places])


def _paths(source: Source, field: str) -> tuple[str, ...]:
    path = source.fields.get(field, ())
    return (path,) if isinstance(path, str) else path


def _top(path: str) -> str:
    return path.partition(".")[0]


def _at(piece: Piece, path: str) -> list[Any]:
    """The values at a path; of an array (an order's lines) the first entry's."""
    top, *rest = path.split(".")
    values = piece.columns[top]
    for key in rest:
        values = [_step(value, key) for value in values]
    return values


def _step(value: Any, key: str) -> Any:
    if isinstance(value, list) and value:
        value = value[0]
    return value.get(key) if isinstance(value, dict) else None


def _check_columns(table: Table, source: Source) -> None:
    if table.header is None:
        return
    for field in REQUIRED[source.kind]:
        for path in _paths(source, field):
            column = _top(source.lines) if source.lines is not None and field != "time" else _top(path)
            if column not in table.header:
                near = nearest(column, table.header)
                hint = f'; did you mean "{near}"?' if near else ""
                raise UserError(
                    f'{table.path} must have the column "{column}", which sources.{source.name}.fields.{field} names; it has '
                    f"{', '.join(table.header)}{hint}"
                )
