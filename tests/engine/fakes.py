"""A scorer that is easy to compute by hand, and rows made from plain tuples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from models.protocol import Scores, SessionRuns, State
from stream.engine.columns import MICRO, MISSING, Event, Rows


class CountingScorer:
    """P(purchase) climbs with the session's events and with what earlier sessions taught; exact in float32."""

    name: ClassVar[str] = "counting"
    version = "counting"

    def __init__(self) -> None:
        self.settled: list[tuple[int, int]] = []
        self.learnt = 0

    def resize(self, capacity: int) -> None:
        pass

    def score(self, runs: SessionRuns) -> Scores:
        p = ((runs.position % 64) + (self.learnt % 8) * 8) / 256
        return Scores(p.astype(np.float32), (p / 2).astype(np.float32))

    def settle(self, slots: NDArray[np.int64], purchase_position: NDArray[np.int64], cart_position: NDArray[np.int64]) -> None:
        self.settled += list(zip(purchase_position.tolist(), cart_position.tolist(), strict=True))
        self.learnt += len(slots)

    def slot_state(self) -> State:
        return {}

    def shared_state(self) -> State:
        return {"learnt": np.array([self.learnt])}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self.learnt = int(state["learnt"][0])


def click_rows(events: Sequence[tuple[int, str, Event, str]], first_offset: int = 0) -> Rows:
    """Clickstream rows of (time_ms, session, event, item), one a message."""
    n = len(events)
    return Rows(
        offset=np.arange(first_offset, first_offset + n, dtype=np.int64),
        stamp_ms=np.zeros(n, np.int64),
        time_ms=np.array([e[0] for e in events], dtype=np.int64),
        event=np.array([e[2] for e in events], dtype=np.int8),
        session=[e[1] for e in events],
        user=["u" + e[1] for e in events],
        item=[e[3] for e in events],
        price=np.where(np.arange(first_offset, first_offset + n) % 3 == 0, MISSING, 5 * MICRO),
        quantity=np.full(n, MICRO, np.int64),
    )
