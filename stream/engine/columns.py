"""The columns that travel between decoding, the engines and the encoders: struct-of-arrays, never an object an event.

Only data lives here; no decoding (stream.mapping), no Kafka, no clock. Money, quantities and expected purchases are
fixed point: int64 micro-units, so that sums commute and no batching can change a total.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

MICRO = 1_000_000
"""Micro-units in one unit (of money, of quantity, of expected purchases)."""

MISSING = np.iinfo(np.int64).min
"""Marks an absent value in an int64 column (a price that an event does not carry)."""

UNKNOWN = np.iinfo(np.int64).min // 2
"""A watermark before any event; sums with any duration stay in range."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Event(IntEnum):
    """What a clickstream row says happened; the codes in `Rows.event`."""

    VIEW = 0
    SEARCH = 1
    CART = 2
    REMOVE = 3
    PURCHASE = 4
    OTHER = 5


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one source partition, in offset order. Several rows may share an offset (an order's lines).

    Every array and list has one entry a row. Columns that a source does not map are None.
    """

    offset: Ints
    """int64[rows], of the message the row came in."""
    stamp_ms: Ints
    """int64[rows], the Kafka message's own time stamp, epoch milliseconds."""
    time_ms: Ints
    """int64[rows], event time, epoch milliseconds."""
    item: list[str] | None = None
    """'' where the row has none (a search)."""
    event: NDArray[np.int8] | None = None
    """int8[rows], an `Event` (clickstream only)."""
    session: list[str] | None = None
    user: list[str] | None = None
    """'' where the row has none."""
    order: list[str] | None = None
    price: Ints | None = None
    """int64[rows], micro-units of money for one unit; MISSING where the row has none."""
    quantity: Ints | None = None
    """int64[rows], micro-units ordered, or returned where negative. A clickstream purchase without a mapped quantity is 1 unit."""
    cancelled: Bools | None = None
    """bool[rows], the row takes an order back (its quantity counts as returned whatever its sign)."""
    category: list[str] | None = None
    """Of the item ('' where the row tells none); clickstream only."""
    extra: dict[str, list[object]] | None = None
    """Other mapped columns by our name (offers, signals, reviews: promotion, starts_ms, ends_ms, stock, text, …)."""

    def __len__(self) -> int:
        return len(self.offset)

    def cut(self, start: int, stop: int) -> Rows:
        """The rows [start, stop) as views (lists are copied).

        Args:
            start: first row.
            stop: one past the last row.
        """

        def part(column: Any) -> Any:
            return None if column is None else column[start:stop]

        return Rows(
            offset=self.offset[start:stop],
            stamp_ms=self.stamp_ms[start:stop],
            time_ms=self.time_ms[start:stop],
            item=part(self.item),
            event=part(self.event),
            session=part(self.session),
            user=part(self.user),
            order=part(self.order),
            price=part(self.price),
            quantity=part(self.quantity),
            cancelled=part(self.cancelled),
            category=part(self.category),
            extra=None if self.extra is None else {name: values[start:stop] for name, values in self.extra.items()},
        )


def join(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, in order; the parts are of one source.

    Args:
        parts: at least one.
    """
    if len(parts) == 1:
        return parts[0]

    def column(name: str) -> Any:
        columns = [getattr(part, name) for part in parts]
        if columns[0] is None:
            return None
        return list(chain.from_iterable(columns)) if isinstance(columns[0], list) else np.concatenate(columns)

    names = ("offset", "stamp_ms", "time_ms", "item", "event", "session", "user", "order", "price", "quantity", "cancelled", "category")
    extra = parts[0].extra
    merged = None if extra is None else {name: [v for part in parts for v in (part.extra or {})[name]] for name in extra}
    return Rows(**{name: column(name) for name in names}, extra=merged)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that cannot be used: where it stands and why. Its bytes stay with whoever fetched it."""

    offset: int
    reason: str
    """malformed | missing_field | bad_value | bad_time | future | too_late | too_large | unknown_schema."""
    detail: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """A fetched batch of one source partition, understood."""

    rows: Rows
    rejected: list[Rejected]
    """In offset order."""
    events: dict[str, int]
    """Rows by event name, for the metric nowcart_events_total{source,event}: ours for a mapped clickstream event, 'ignored' for
    one that the configuration does not list, the kind's own noun (order_line, return_line, offer, signal, review) for others."""
    next_offset: int
    """One past the last message of the batch."""


@dataclass(frozen=True, slots=True)
class IntentColumns:
    """Intent records to publish, in the order in which a session's must appear."""

    session: list[str]
    user: list[str] | None
    issued_at_ms: Ints
    events: Ints
    p_purchase: Floats
    p_cart: Floats
    ended: Bools
    purchased: Bools
    bot: Bools
    model_version: str
    next_items: list[list[tuple[str, float]]] | None = None
    """Of each record the items that are likely to come next, the likeliest first; None where they are not asked for."""

    def __len__(self) -> int:
        return len(self.session)

    def cut(self, start: int, stop: int) -> IntentColumns:
        """The records [start, stop)."""
        part = slice(start, stop)
        return IntentColumns(
            self.session[part],
            None if self.user is None else self.user[part],
            self.issued_at_ms[part],
            self.events[part],
            self.p_purchase[part],
            self.p_cart[part],
            self.ended[part],
            self.purchased[part],
            self.bot[part],
            self.model_version,
            None if self.next_items is None else self.next_items[part],
        )


@dataclass(frozen=True, slots=True)
class ForecastColumns:
    """Forecasts of n items; see contracts of nowcart.demand for the meaning."""

    mean: NDArray[np.float32]
    """float32[n, horizon]."""
    quantiles: NDArray[np.float32]
    """float32[n, levels, horizon], whole numbers where `whole`; never crossing, never negative."""
    p_zero: NDArray[np.float32]
    """float32[n, horizon]."""
    totals: dict[int, NDArray[np.float32]]
    """steps -> float32[n, levels], quantiles of the sum of the next `steps` buckets."""
    weights_row: NDArray[np.int64]
    """int64[n], index into `weights`: the item's class."""
    weights: list[dict[str, dict[str, float]]]
    """Per class: horizon group -> expert -> weight."""


@dataclass(frozen=True, slots=True)
class DemandColumns:
    """Demand records to publish: n items of one bucket (or corrections of it)."""

    item: list[str]
    bucket: str
    """The bucket's size as configured ("1h")."""
    bucket_start_ms: int
    issued_at_ms: int
    """The bucket's end."""
    observed: Ints
    """int64[n], micro-units."""
    returned: Ints
    """int64[n], micro-units."""
    orders: Ints
    views: Ints
    carts: Ints
    censored: Floats
    """float64[n], share of the bucket without stock."""
    whole: Bools
    """bool[n], the item's demand has only ever been whole numbers."""
    corrects: bool
    forecast: ForecastColumns | None
    """None for a correction of an older bucket."""
    levels: tuple[float, ...]
    model_version: str

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True, slots=True)
class SpikeColumns:
    """Spike records to publish: n items of one bucket."""

    item: list[str]
    bucket: str
    bucket_start_ms: int
    observed: Ints
    """int64[n], micro-units."""
    expected: Floats
    p_value: Floats
    severity: list[str]
    """warning | critical."""
    state: list[str]
    """open | resolved."""
    model_version: str
    direction: list[str]
    """up | down."""
    orders: Ints
    """int64[n], order lines."""
    orders_expected: Floats
    factor: Floats
    """float64[n], order lines over those expected since it began."""
    since_ms: Ints
    """int64[n], start of the bucket in which it began, most likely."""
    together: Ints
    """int64[n], items of the same category in an alert of the same direction, this one included."""
    category: list[str | None] | None = None
    """Of each item, where known; None: of none."""

    def __len__(self) -> int:
        return len(self.item)
