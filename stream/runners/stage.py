"""What the loop runs: a stage opens a shard for each input partition, and a shard turns messages into records.

Implemented by stream.runners.ingest and stream.runners.forecast; stream.runners.loop knows nothing else of them.
"""

from __future__ import annotations

import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stream.kafka.log import Messages, Partition, Records


class Stopwatch:
    """Tells the parts of a step apart: seconds by part since they were last taken. One thread uses it.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def add(self, part: str, since: float) -> None:
        """Counts the time since then.

        Args:
            part: decode, columns, engine, model, publish or commit.
            since: what `clock` said.
        """
        self._seconds[part] += self.clock() - since

    def watch(self, part: str, whom: object, *methods: str) -> None:
        """Counts the time that an object's methods take from now on; they must not call one another.

        Args:
            part: as for add.
            whom: the object; its methods are wrapped on it alone.
            methods: their names.
        """
        for name in methods:
            setattr(whom, name, self._timed(part, whom, getattr(type(whom), name)))

    def _timed(self, part: str, whom: object, function: Callable[..., Any]) -> Callable[..., Any]:
        # An object that held itself would stay, with all of a lost partition's state, until the collector looks at old objects.
        weak = weakref.ref(whom)

        def timed(*args: Any, **more: Any) -> Any:
            began = self.clock()
            try:
                return function(weak(), *args, **more)
            finally:
                self.add(part, began)

        return timed

    def take(self) -> Mapping[str, float]:
        """Seconds by part since the last call."""
        taken, self._seconds = self._seconds, defaultdict(float)
        return taken


@dataclass(slots=True)
class Step:
    """Some consecutive messages of one partition, being turned into records.

    The same messages [start, next_offset) always give the same records in the same order, whatever came before in this process.
    """

    next_offset: int
    outputs: Iterator[list[Records]]
    """Must be exhausted before the shard's next step; pulling it is what computes."""
    rows: int = 0
    stamps_ms: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Kafka time stamps of the rows that go into records, for the latency metric."""
    latency_topic: str = ""


class Shard(Protocol):
    """The state of one input partition and the messages that wait for it."""

    quiet: bool
    """A replay: what happened was counted when it happened."""

    def accept(self, messages: Messages) -> None:
        """Decodes messages and queues them, in offset order."""

    @property
    def queued(self) -> int:
        """Rows (or blocks) that wait."""

    @property
    def waiting(self) -> bool:
        """Whether any message waits, even one without rows."""

    @property
    def watermark_ms(self) -> int:
        """Event time up to which the partition has come; UNKNOWN before any event."""

    @property
    def holds(self) -> bool:
        """Whether other partitions must wait for this one's watermark."""

    @property
    def next_ms(self) -> int | None:
        """Event time of the next row that waits; None where none does."""

    @property
    def next_mark_ms(self) -> int | None:
        """The watermark after the next row that waits; None where none does."""

    def step(self, limit_ms: int, max_rows: int, before: int | None = None) -> Step:
        """Takes waiting messages: at least one, while the watermark stays at or below the limit.

        Args:
            limit_ms: how far the watermark may go.
            max_rows: about how many rows at the most.
            before: take no message at or beyond this offset; all that wait below it belong to this one step.
        """

    def finish(self) -> list[Records]:
        """The partition has ended."""

    def idle(self) -> list[Records]:
        """The partition has fallen silent."""

    @property
    def changes(self) -> int:
        """Grows whenever what still() gave is to be copied anew."""

    def still(self) -> Mapping[str, NDArray[Any]]:
        """The large part of the state, which stands still or changes here and there: the arrays themselves."""

    def mend(self, copied: dict[str, NDArray[Any]], most: int) -> bool:
        """Copies again what has changed here and there since still(); False where that was more than so many slots."""

    def moving(self) -> dict[str, NDArray[Any]]:
        """The rest of the state, copied."""

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Makes this fresh shard the one that gave still() and moving()."""

    def news(self) -> str | None:
        """What the shard should be told from outside the log between two steps; None: nothing new. It is asked for until it says so."""

    def tell(self, text: str) -> None:
        """Takes what news() gave, in this life or an earlier one: the loop keeps it with the offset, and a replay tells it there again."""

    def ready(self, texts: Sequence[str], state: Mapping[str, NDArray[Any]] | None = None) -> bool:
        """Whether restore() and tell() would find what they need; where not, it is being fetched.

        Args:
            texts: that will be told.
            state: that will be restored.

        Raises:
            UserError: it cannot be had.
        """

    def greet(self) -> list[Records]:
        """What has to stand before this shard's first records in this process."""


class Stage(Protocol):
    """One stage of the engine."""

    @property
    def name(self) -> str:
        """Ingest | forecast."""

    @property
    def topics(self) -> Sequence[str]: ...

    @property
    def stopwatch(self) -> Stopwatch:
        """Tells the parts of its shards' steps apart."""

    @property
    def max_lead_ms(self) -> int | None:
        """How far a partition's watermark may lead the group's smallest; None: partitions do not wait for each other."""

    def holds(self, partition: Partition) -> bool:
        """Whether a partition, ours or another member's, holds the others' watermarks back."""

    @property
    def merges(self) -> bool:
        """Whether rows of all partitions must be taken in the order of their times, as near as can be."""

    def open(self, partition: Partition) -> Shard:
        """A shard before its first message."""

    def observe(self, shards: Mapping[Partition, Shard]) -> None:
        """Called about once a second, to publish gauges."""
