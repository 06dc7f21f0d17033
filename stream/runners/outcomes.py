"""Orders among the clickstream: how they are written into the internal topic that both pass through, and found there again.

A session's outcome may be an order in another topic. Sessions are followed in one log alone, in its order, or a replay would
not be exact; so with [intent] label = "orders" the clickstream goes through its internal topic (see repartition), and each order
is put there too, keyed by session, where it stands in event time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream.engine.columns import Ints
from stream.kafka.log import Messages

_MARK = b"\x00nowcart-order "
"""No JSON begins like this."""


@dataclass(frozen=True, slots=True)
class Orders:
    """Orders in one partition's log."""

    keys: Sequence[str]
    time_ms: Ints
    offset: Ints
    """int64[n], ascending."""

    def cut(self, start: int, stop: int) -> Orders:
        """The orders [start, stop)."""
        return Orders(self.keys[start:stop], self.time_ms[start:stop], self.offset[start:stop])


NO_ORDERS = Orders((), np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class Kept:
    """Messages without the orders among them."""

    offsets: list[int]
    stamps_ms: list[int]
    values: list[bytes | None]


def write_order(time_ms: int) -> bytes:
    """An order's message; its key is the session (or user).

    Args:
        time_ms: when it was made.
    """
    return b"%b%d" % (_MARK, time_ms)


def split_orders(messages: Messages) -> tuple[Kept, Orders]:
    """Tells the orders from the clickstream.

    Args:
        messages: of the internal topic.
    """
    values = messages.values
    places = [i for i, value in enumerate(values) if value is not None and value.startswith(_MARK)]
    if not places:
        return Kept(messages.offsets, messages.stamps_ms, values), NO_ORDERS
    ours = set(places)
    others = [i for i in range(len(values)) if i not in ours]
    offsets, stamps = messages.offsets, messages.stamps_ms
    keys = [(messages.key(i) or b"").decode() for i in places]
    time_ms = np.array([int((values[i] or b"")[len(_MARK) :]) for i in places], dtype=np.int64)
    kept = Kept([offsets[i] for i in others], [stamps[i] for i in others], [values[i] for i in others])
    return kept, Orders(keys, time_ms, np.array([offsets[i] for i in places], dtype=np.int64))
