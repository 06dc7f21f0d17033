"""How a state is cut into parts, so that what did not change stays where it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

PART_BYTES = 16 * 1024 * 1024
SMALL_BYTES = 1024 * 1024
"""Arrays below this are packed together into parts."""
ROWS = "rows"
"""The one tensor of a part that holds rows of a large array: rows that are the same are the same part, whosever they are."""


class Cut(NamedTuple):
    """Where an array goes."""

    parts: list[int]
    """Numbers of its parts."""
    rows: int
    """Of each part; 0: it stands whole in its one part, under its own name."""


def plan(state: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Cut], Iterator[dict[str, NDArray[Any]]]]:
    """Where each array goes, and the parts' arrays by name, as views.

    Args:
        state: arrays by name.
    """
    cuts: dict[str, Cut] = {}
    parts: list[dict[str, slice | None]] = []
    pack: dict[str, slice | None] = {}
    number = size = 0
    for name, array in sorted(state.items()):
        if array.nbytes >= SMALL_BYTES:
            rows = max(1, PART_BYTES // (array.nbytes // len(array)))
            starts = range(0, len(array), rows)
            cuts[name] = Cut(list(range(len(parts), len(parts) + len(starts))), rows)
            parts += [{name: slice(start, start + rows)} for start in starts]
            continue
        if not pack or size + array.nbytes > PART_BYTES:
            pack, number, size = {}, len(parts), 0
            parts.append(pack)
        pack[name] = None
        size += array.nbytes
        cuts[name] = Cut([number], 0)

    def views(part: dict[str, slice | None]) -> dict[str, NDArray[Any]]:
        return {(name if rows is None else ROWS): (state[name] if rows is None else state[name][rows]) for name, rows in part.items()}

    return cuts, (views(part) for part in parts)
