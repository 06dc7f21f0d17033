"""A reader that follows the outputs while everything around it dies: how long a published record cannot be read."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from stream.kafka.log import LogError
from stream.kafka.reader import Tail

LONG_S = 0.5


class Watcher:
    """Follows topics from a thread of its own, read_committed.

    Args:
        properties: librdkafka's.
        topics: their names.
    """

    def __init__(self, properties: Mapping[str, str], topics: Sequence[str]) -> None:
        self._properties, self._topics = dict(properties), list(topics)
        self.waits: list[float] = []
        """Seconds from a record's stamp to its being read."""
        self.long: list[tuple[float, float]] = []
        """(stamp, read) in epoch seconds, of those that took long."""
        self.seen: Counter[str] = Counter()
        self.failures: list[str] = []
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends it."""
        self._halt.set()
        self._thread.join(30)

    def held_beyond(self, outages: Sequence[tuple[float, float]]) -> list[float]:
        """How long records waited while nothing was down, of those that waited long.

        Args:
            outages: [from, until) in epoch seconds, in any order, overlapping or not.
        """
        merged: list[tuple[float, float]] = []
        for start, stop in sorted(outages):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
            else:
                merged.append((start, stop))
        return [read - stamp - sum(max(0.0, min(stop, read) - max(start, stamp)) for start, stop in merged) for stamp, read in self.long]

    def _run(self) -> None:
        try:
            with Tail(self._properties, self._topics) as tail:
                while not self._halt.is_set():
                    for batch in tail.fetch(5_000, 0.05).batches:
                        now = time.time()
                        stamps = np.array(batch.stamps_ms, dtype=np.float64) / 1000
                        self.waits += (now - stamps).tolist()
                        self.long += [(float(stamp), now) for stamp in np.unique(stamps[now - stamps > LONG_S])]
                        self.seen[batch.partition.topic] += len(batch)
        except LogError as error:
            self.failures.append(str(error))
