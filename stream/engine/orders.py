"""Orders told apart from the clickstream: they wait for their tick, find their session, and say where in it the sale stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stream.engine.columns import Ints

NEVER = np.iinfo(np.int64).max
"""No order yet."""

State = dict[str, NDArray[np.generic]]


class OrderBook:
    """What orders need to know of sessions: when each stood at the positions that are learnt from, and who ended lately.

    Args:
        positions: of events in a session, ascending.
    """

    def __init__(self, positions: Sequence[int]) -> None:
        self.positions = np.array(positions, dtype=np.int64)
        self.probe_ms: Ints = np.full((len(positions), 0), NEVER, np.int64)
        """int64[positions, capacity], when the session reached the position."""
        self.ordered_ms: Ints = np.full(0, NEVER, np.int64)
        """int64[capacity], its first order."""
        self.ended: dict[str, list[int]] = {}
        """Slots of ended sessions whose outcome is not settled, by key."""
        self.waiting: list[tuple[int, int, str]] = []
        """(time, offset, key) of orders that no tick has come by."""

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity)."""
        probes = np.full((len(self.positions), capacity), NEVER, np.int64)
        probes[:, : self.probe_ms.shape[1]] = self.probe_ms
        ordered = np.full(capacity, NEVER, np.int64)
        ordered[: len(self.ordered_ms)] = self.ordered_ms
        self.probe_ms, self.ordered_ms = probes, ordered

    def wait(self, keys: Sequence[str], time_ms: Ints, offset: Ints) -> None:
        """Takes orders.

        Args:
            keys: session, or user where sessions are cut from users.
            time_ms: int64[n], of the orders.
            offset: int64[n], in the partition's log.
        """
        self.waiting += zip(time_ms.tolist(), offset.tolist(), keys, strict=True)

    def due(self, boundary_ms: int, offset: int) -> list[tuple[str, int]]:
        """Takes out the orders before the boundary: (key, time), by time and offset.

        Args:
            boundary_ms: of their times.
            offset: of the row that brought the tick about: what stands behind it in the log is not known yet, however the log was cut.
        """
        due = sorted(order for order in self.waiting if order[0] < boundary_ms and order[1] < offset)
        gone = set(due)
        self.waiting = [order for order in self.waiting if order not in gone]
        return [(key, time_ms) for time_ms, _, key in due]

    def see(self, slots: Ints, position: Ints, time_ms: Ints, fresh: Ints) -> None:
        """Notes when sessions reach the positions.

        Args:
            slots: int64[rows].
            position: int64[rows].
            time_ms: int64[rows].
            fresh: int64[n], slots of sessions that begin with these rows.
        """
        self.probe_ms[:, fresh] = NEVER
        self.ordered_ms[fresh] = NEVER
        for row, at in enumerate(self.positions.tolist()):
            hit = position == at
            self.probe_ms[row, slots[hit]] = time_ms[hit]

    def positions_of(self, slots: Ints) -> Ints:
        """int64[n], where in the session the sale stands: behind the last of the positions that it had reached by then; 0 for none."""
        before = self.probe_ms[:, slots] <= self.ordered_ms[slots]
        reached = np.where(before, self.positions[:, None], 0).max(axis=0)
        return np.asarray(np.where(self.ordered_ms[slots] == NEVER, 0, reached + 1), dtype=np.int64)

    def forget(self, slots: Ints, keys: Sequence[str]) -> None:
        """These sessions are settled."""
        for slot, key in zip(slots.tolist(), keys, strict=True):
            left = [other for other in self.ended.get(key, []) if other != slot]
            if left:
                self.ended[key] = left
            else:
                self.ended.pop(key, None)
        self.ordered_ms[slots] = NEVER

    def restore(self, state: Mapping[str, NDArray[np.generic]], waiting: list[str], ended: dict[str, list[int]]) -> None:
        """Takes the arrays, the keys of what waits, and who has ended."""
        self.probe_ms = np.array(state["probe_ms"], np.int64)
        self.ordered_ms = np.array(state["ordered_ms"], np.int64)
        times, offsets = np.asarray(state["waiting"], np.int64).reshape(2, -1).tolist()
        self.waiting = list(zip(times, offsets, waiting, strict=True))
        self.ended = ended
