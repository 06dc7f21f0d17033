"""Several sources' messages as one stream in event-time order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stream.replay.rows import Messages


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive messages of the merged stream that come from one stream."""

    stream: int
    """Which: its place among those merged."""
    messages: Messages


def merge(streams: Sequence[Iterator[Messages]]) -> Iterator[Stretch]:
    """Merges streams that are ascending in time; of messages of the same time those of the earlier stream come first.

    Args:
        streams: read lazily, a batch of each at a time.
    """
    heads: dict[int, Messages] = {}
    for number, stream in enumerate(streams):
        _advance(heads, number, stream)
    while heads:
        if len(heads) == 1:
            ((number, head),) = heads.items()
            yield Stretch(number, head)
            _advance(heads, number, streams[number])
            continue
        # Nothing below the smallest of the heads' last times can come behind them. At that time itself, only streams up to the first
        # that ends there may go on: its next batch may begin with the same time.
        bound, ends_first = min((int(head.times_ms[-1]), number) for number, head in heads.items())
        taken: list[tuple[int, int]] = []
        for number, head in sorted(heads.items()):
            taken.append((number, int(np.searchsorted(head.times_ms, bound, side="right" if number <= ends_first else "left"))))
        yield from _interleaved({number: heads[number].cut(0, count) for number, count in taken if count})
        for number, count in taken:
            head = heads[number]
            if count == len(head):
                _advance(heads, number, streams[number])
            elif count:
                heads[number] = head.cut(count, len(head))


def _advance(heads: dict[int, Messages], number: int, stream: Iterator[Messages]) -> None:
    heads.pop(number, None)
    for messages in stream:
        if len(messages):
            heads[number] = messages
            return


def _interleaved(parts: dict[int, Messages]) -> Iterator[Stretch]:
    numbers = np.repeat(np.array(list(parts), dtype=np.int64), [len(part) for part in parts.values()])
    times = np.concatenate([part.times_ms for part in parts.values()])
    merged = numbers[np.argsort(times, kind="stable")]
    at = dict.fromkeys(parts, 0)
    edges = [0, *(np.flatnonzero(np.diff(merged)) + 1).tolist(), len(merged)]
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        number = int(merged[start])
        begin = at[number]
        at[number] = begin + stop - start
        yield Stretch(number, parts[number].cut(begin, at[number]))
