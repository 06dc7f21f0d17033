"""Sends files' rows to their sources' topics as the shop would have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from zlib import crc32

import numpy as np

from stream.engine.columns import Ints
from stream.kafka.sender import Sender
from stream.replay.merge import merge
from stream.replay.rows import FIRST_MS, Messages, SourceFile

_SLICE = 5_000
"""Messages between two looks at whether to stop."""
_SHORTEST_S = 0.02
"""Waits are at least this long, so that a busy shop comes in small batches rather than one by one."""


class Pace:
    """Lets event time pass as fast as it is told to.

    Args:
        speed: times real time; None: as fast as it goes.
        clock: seconds.
        wait: waits for a number of seconds; True: stop.
    """

    def __init__(self, speed: float | None, clock: Callable[[], float], wait: Callable[[float], bool]) -> None:
        self._speed = speed
        self._clock = clock
        self._wait = wait
        self._began: tuple[float, int] | None = None
        """By the clock, and the event time then."""

    def due(self, times_ms: Ints) -> int:
        """Waits until the first of some messages may be sent.

        Args:
            times_ms: int64[n], ascending, at least one.

        Returns:
            How many may be sent by then; 0: told to stop.
        """
        if self._speed is None:
            return 0 if self._wait(0) else len(times_ms)
        first_ms = int(times_ms[0])
        if self._began is None and first_ms != FIRST_MS:
            self._began = (self._clock(), first_ms)
        while True:
            now_ms = FIRST_MS
            if self._began is not None:
                now_ms = self._began[1] + int((self._clock() - self._began[0]) * 1000 * self._speed)
            short_ms = first_ms - now_ms
            if self._wait(0 if short_ms <= 0 else max(_SHORTEST_S, short_ms / 1000 / self._speed)):
                return 0
            if short_ms <= 0:
                return int(np.searchsorted(times_ms, now_ms, side="right"))


def send(
    files: Sequence[SourceFile], sender: Sender, partitions: Mapping[str, int], pace: Pace, told: Callable[[SourceFile, Messages], None]
) -> bool:
    """Sends all files' rows, merged in event-time order.

    Args:
        files: of one source or several.
        sender: to the cluster.
        partitions: how many each topic has.
        pace: of event time.
        told: called with what has been handed over.

    Returns:
        Once the broker has everything, True; False if it was told to stop before.
    """
    for stretch in merge([file.messages() for file in files]):
        file, rest = files[stretch.stream], stretch.messages
        while len(rest):
            count = pace.due(rest.times_ms[:_SLICE])
            if count == 0:
                sender.flush()
                return False
            part, rest = rest.cut(0, count), rest.cut(count, len(rest))
            sender.send(file.source.topic, part.values, part.keys, _places(part, partitions[file.source.topic]))
            told(file, part)
    sender.flush()
    return True


def _places(messages: Messages, partitions: int) -> list[int]:
    """By key; what has none goes where its bytes say, so that two replays are alike."""
    return [-1 if key is not None else crc32(value) % partitions for key, value in zip(messages.keys, messages.values, strict=True)]
