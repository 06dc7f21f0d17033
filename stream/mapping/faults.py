"""What is wrong with rows, noted while columns are read: the first fault of a row is the one that counts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress, count, repeat
from operator import is_
from typing import Any, NamedTuple

_SHOWN = 80


class Fault(NamedTuple):
    """Why a row cannot be used."""

    reason: str
    field: str
    """Ours."""
    detail: str


class Faults:
    """Faults by row."""

    def __init__(self) -> None:
        self.by_row: dict[int, Fault] = {}

    def note(self, row: int, reason: str, field: str, detail: str) -> None:
        """Keeps a row's first fault."""
        self.by_row.setdefault(row, Fault(reason, field, detail))


def got(value: Any) -> str:
    """A value in the words of a detail: short, whatever it is."""
    if isinstance(value, str):
        return f'"{value[:_SHOWN]}…"' if len(value) > _SHOWN else f'"{value}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if value is None:
        return "null"
    text = str(value)
    return text[:_SHOWN] + "…" if len(text) > _SHOWN else text


def by_type(values: list[Any], kinds: set[type] | None = None) -> Iterator[tuple[type, list[int] | None, list[Any]]]:
    """Splits a column by the types of its values, so that each part can be read at once.

    Args:
        values: any mixture.
        kinds: their types, where these are known.

    Yields:
        The type, the rows (None: all of them), their values.
    """
    kinds = set(map(type, values)) if kinds is None else kinds
    if len(kinds) == 1:
        yield next(iter(kinds)), None, values
        return
    types = list(map(type, values))
    for kind in kinds:
        mask = list(map(is_, types, repeat(kind)))
        yield kind, list(compress(count(), mask)), list(compress(values, mask))
