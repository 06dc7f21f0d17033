"""Messages of one source become columns: bytes -> Structs (framing) -> values (shape) -> Rows, and what is wrong with the others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import compress, repeat
from typing import Any, Protocol

import numpy as np

from stream.config import Time
from stream.engine.columns import MICRO, MISSING, Bools, Decoded, Event, Ints, Rejected, Rows, join
from stream.engine.time import Zone
from stream.mapping.faults import Fault, Faults, got
from stream.mapping.framing import Framing
from stream.mapping.numbers import LIMIT, LONGEST_ID, read_flags, read_ids, read_micro, read_reals
from stream.mapping.shape import Shape, pick
from stream.mapping.stamps import read_times
from stream.sources import EVENTS, Source

_AT_ONCE = 2_048
"""Messages that are taken to columns together: each field is picked out of objects that are still in the processor's cache. Of 5,000
or 20,000 at once each message took half as long again."""
_NOUNS = {"offers": "offer", "reviews": "review", "signals": "signal"}
_NEEDS_ITEM = (Event.VIEW, Event.CART, Event.REMOVE, Event.PURCHASE)
_NEEDS_NONE = ~np.isin(np.arange(len(Event)), _NEEDS_ITEM)
"""bool[events], by code."""
_TEXTS = ("name", "promotion", "category", "brand", "text")
_TIMES = ("starts", "ends", "launched")
_AMOUNTS = ("stock", "regular_price")
_REALS = ("value", "rating")


class Values(Protocol):
    """Consecutive messages of one partition, as far as decoding looks at them."""

    @property
    def offsets(self) -> list[int]: ...
    @property
    def stamps_ms(self) -> list[int]: ...
    @property
    def values(self) -> list[bytes | None]: ...


class Decoder:
    """Understands the messages of one source. What a message gives does not depend on those it is decoded with."""

    def __init__(self, source: Source, time: Time, zone: Zone) -> None:
        """
        Args:
            source: the mapping.
            time: bounds of event times.
            zone: of time stamps without one.
        """
        self.source = source
        self._max_future_ms = time.max_future_ms
        self._zone = zone
        self._shape = Shape(source)
        self._framing = Framing(self._shape.message, source.max_message_bytes)
        self._codes: dict[Any, int] = {}
        for theirs, ours in source.events.items():
            self._codes[theirs] = EVENTS.index(ours)
            if theirs.removeprefix("-").isdecimal() and theirs == str(int(theirs)):
                self._codes[int(theirs)] = EVENTS.index(ours)  # equal to their floats too

    def decode(self, messages: Values) -> Decoded:
        """Decodes a batch.

        Args:
            messages: of one partition, with ascending offsets.

        Returns:
            Rows and rejected messages, both in offset order; a message that is in neither
            is counted as ignored, or is an order without lines.
        """
        offsets, stamps_ms, values = messages.offsets, messages.stamps_ms, messages.values
        if len(offsets) <= _AT_ONCE:
            return _Batch(self, messages).decoded()
        parts = [
            _Batch(self, Piece(offsets[at : at + _AT_ONCE], stamps_ms[at : at + _AT_ONCE], values[at : at + _AT_ONCE])).decoded()
            for at in range(0, len(offsets), _AT_ONCE)
        ]
        counts: Counter[str] = Counter()
        for part in parts:
            counts.update(part.events)
        rejected = [bad for part in parts for bad in part.rejected]
        return Decoded(join([part.rows for part in parts]), rejected, dict(counts), parts[-1].next_offset)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some messages of a partition, as they stand in its log."""

    offsets: list[int]
    stamps_ms: list[int]
    values: list[bytes | None]


class _Batch:
    """One batch on its way to columns."""

    def __init__(self, decoder: Decoder, messages: Values) -> None:
        self.source = decoder.source
        self.shape = decoder._shape
        self.zone = decoder._zone
        self.max_future_ms = decoder._max_future_ms
        self.codes = decoder._codes
        self.offsets = np.array(messages.offsets, dtype=np.int64)
        self.stamps_ms = np.array(messages.stamps_ms, dtype=np.int64)
        self.counts: dict[str, int] = {}
        framed = decoder._framing.decode(messages.values)
        self.objects = framed.objects
        self.index = np.arange(len(self.offsets)) if framed.kept is None else np.array(framed.kept, dtype=np.int64)
        """int64[rows], which message of the batch a row came in."""
        self.rejected = framed.unreadable
        """Reason and detail by index into the batch."""
        # Where no message is as long as an id may be, no id needs to be measured.
        self.longest_id = LONGEST_ID if framed.longest > LONGEST_ID else None
        self.lines: list[Any] | None = None
        self.line_number: Ints | None = None
        self.faults = Faults()

    def decoded(self) -> Decoded:
        event = self._events() if self.source.kind == "clickstream" else None
        if self.shape.lines is not None:
            self._spread_lines()
        rows = self._rows(event)
        self._count(rows)
        rejected = [Rejected(int(self.offsets[index]), reason, detail) for index, (reason, detail) in sorted(self.rejected.items())]
        return Decoded(rows, rejected, self.counts, int(self.offsets[-1]) + 1 if len(self.offsets) else 0)

    # Which rows there are

    def _events(self) -> Ints:
        """Drops the rows whose event is not listed, or not there; the codes of the others, int64[rows]."""
        names = self._values("event")
        if {str, int, float}.issuperset(map(type, names)) and "" not in names:
            codes = np.fromiter(map(self.codes.get, names, repeat(-1)), dtype=np.int64, count=len(names))
            if (codes >= 0).all():
                return codes
        else:
            codes = np.array([self._event(row, name) for row, name in enumerate(names)], dtype=np.int64)
        ignored = int((codes < 0).sum()) - len(self.faults.by_row)
        if ignored:
            self.counts["ignored"] = ignored
        self._reject_faulty()
        self.faults = Faults()
        kept = np.flatnonzero(codes >= 0)
        self.objects = [self.objects[row] for row in kept.tolist()]
        self.index = self.index[kept]
        return codes[kept]

    def _event(self, row: int, name: Any) -> int:
        if name is None or name == "":
            self.faults.note(row, "missing_field", "event", "must be there and not be empty")
        elif type(name) not in (str, int, float):
            self.faults.note(row, "bad_value", "event", f"must be text or a number; got {got(name)}")
        else:
            return self.codes.get(name, -1)
        return -1

    def _spread_lines(self) -> None:
        """One row a line from here on."""
        assert self.shape.lines is not None
        path = self.shape.lines_path
        lists = pick(self.objects, self.shape.lines)
        for row, lines in enumerate(lists):
            if lines is None:
                self.rejected[int(self.index[row])] = ("missing_field", f'lines ("{path}") must be there: an array of lines')
        lengths = [0 if lines is None else len(lines) for lines in lists]
        self.lines = [line for lines in lists if lines is not None for line in lines]
        self.objects = [message for message, length in zip(self.objects, lengths, strict=True) for _ in range(length)]
        self.line_number = np.array([number for length in lengths for number in range(length)], dtype=np.int64)
        self.index = np.repeat(self.index, lengths)

    # Columns

    def _values(self, field: str) -> list[Any]:
        return self._part_values(field, 0)

    def _part_values(self, field: str, which: int) -> list[Any]:
        part = self.shape.parts[field][which]
        if self.lines is None or part.in_line is None:
            assert part.in_message is not None
            return pick(self.objects, part.in_message)
        values = pick(self.lines, part.in_line)
        if part.in_message is None or None not in values:
            return values
        return [own if own is not None else whole for own, whole in zip(values, pick(self.objects, part.in_message), strict=True)]

    def _has(self, field: str) -> bool:
        return field in self.source.fields

    def _ids(self, field: str, required: bool = False, longest: bool = True) -> list[str] | None:
        if not self._has(field):
            return None
        most = self.longest_id if longest else None
        parts = [
            read_ids(self._part_values(field, which), field, self.faults, required, most) for which in range(len(self.shape.parts[field]))
        ]
        return parts[0] if len(parts) == 1 else [":".join(part) if all(part) else "" for part in zip(*parts, strict=True)]

    def _micro(self, field: str, required: bool = False) -> Ints | None:
        return read_micro(self._values(field), field, self.faults, required) if self._has(field) else None

    def _times(self, field: str, required: bool = False) -> Ints:
        return read_times(self._values(field), field, self.faults, required, self.source.time_unit, self.zone)

    def _rows(self, event: Ints | None) -> Rows:
        kind = self.source.kind
        item = self._items(event)
        session = self._ids("session", required=kind == "clickstream")
        user = self._ids("user", required=kind == "clickstream" and session is None)
        order = self._ids("order")
        time_ms = self._times("time", required=True)
        price = self._micro("price")
        quantity = self._micro("quantity", required=kind == "orders")
        cancelled = read_flags(self._values("cancelled")) if self._has("cancelled") else None
        category = self._ids("category") if kind == "clickstream" else None
        extra = self._extra()
        self._check_amounts(price, quantity)
        if extra is not None:
            self._check_announced(time_ms, price, extra)
        stamps_ms = self.stamps_ms[self.index]
        self._check_future(time_ms, stamps_ms)
        if event is not None:
            quantity = _clickstream_quantity(event, quantity)
        self._reject_faulty()
        rows = Rows(
            offset=self.offsets[self.index],
            stamp_ms=stamps_ms,
            time_ms=time_ms,
            item=item,
            event=None if event is None else event.astype(np.int8),
            session=session,
            user=user,
            order=order,
            price=price,
            quantity=quantity,
            cancelled=cancelled,
            category=category,
            extra=extra,
        )
        if self.rejected:
            bad = np.zeros(len(self.offsets), dtype=np.bool_)
            bad[list(self.rejected)] = True
            faulty = bad[self.index]
            if faulty.any():
                rows = _select(rows, np.flatnonzero(~faulty))
        return rows

    def _items(self, event: Ints | None) -> list[str] | None:
        if event is None:
            return self._ids("item", required=True)
        searches = _NEEDS_NONE[event]
        if not searches.any():
            return self._ids("item", required=True)
        # What concerns no item may leave it out; the others may not.
        item = self._ids("item")
        assert item is not None
        if "" in item:
            missing = ~np.fromiter(map(bool, item), dtype=np.bool_, count=len(item)) & ~searches
            for row in np.flatnonzero(missing).tolist():
                self.faults.note(row, "missing_field", "item", "must be there and not be empty")
        return item

    def _extra(self) -> dict[str, list[object]] | None:
        if self.source.kind not in _NOUNS:
            return None
        extra: dict[str, list[object]] = {}
        for field in _TEXTS:
            if self._has(field):
                extra[field] = list(self._ids(field, required=field == "name", longest=field != "text") or ())
        for field in _TIMES:
            if self._has(field):
                extra[f"{field}_ms"] = _objects(self._times(field))
        for field in _AMOUNTS:
            amounts = self._micro(field)
            if amounts is not None:
                extra[field] = _objects(amounts)
        for field in _REALS:
            if self._has(field):
                extra[field] = read_reals(self._values(field), field, self.faults)
        return extra

    # What is wrong with rows

    def _check_amounts(self, price: Ints | None, quantity: Ints | None) -> None:
        if price is None or quantity is None:
            return
        there = (price != MISSING) & (quantity != MISSING)
        worth = np.abs(np.where(there, price, 0) / MICRO) * np.abs(np.where(there, quantity, 0) / MICRO)
        for row in np.flatnonzero(worth > LIMIT).tolist():
            self.faults.note(row, "bad_value", "price", f"times quantity must be from -{LIMIT} to {LIMIT}; got {worth[row]:.4g}")

    def _check_announced(self, time_ms: Ints, price: Ints | None, extra: dict[str, list[object]]) -> None:
        """What is announced must end after it starts, and neither prices nor stock are negative."""
        ends = extra.get("ends_ms")
        if ends is not None:
            starts = extra.get("starts_ms") or [None] * len(ends)
            for row, (start, end, told) in enumerate(zip(starts, ends, time_ms.tolist(), strict=True)):
                begin = told if start is None else start
                if isinstance(end, int) and isinstance(begin, int) and end <= begin:
                    since = "the announcement" if start is None else "starts"
                    self.faults.note(row, "bad_value", "ends", f"must be after {since}; got {(end - begin) / 1000:g} s after it")
        amounts: dict[str, list[object]] = {name: extra[name] for name in _AMOUNTS if name in extra}
        if price is not None:
            amounts["price"] = _objects(price)
        for field, values in amounts.items():
            for row, value in enumerate(values):
                if isinstance(value, int) and value < 0:
                    self.faults.note(row, "bad_value", field, f"must not be negative; got {value / MICRO:g}")

    def _check_future(self, time_ms: Ints, stamps_ms: Ints) -> None:
        # The message's own stamp is in the log, so a replay decides the same. Without one (-1) there is nothing to go by.
        future = (time_ms > stamps_ms + self.max_future_ms) & (stamps_ms >= 0)
        for row in np.flatnonzero(future).tolist():
            ahead_s = (int(time_ms[row]) - int(stamps_ms[row])) / 1000
            detail = f"must be at most {self.max_future_ms / 1000:g} s after the message's own stamp; got {ahead_s:g} s"
            self.faults.note(row, "future", "time", detail)

    def _reject_faulty(self) -> None:
        """A message with a faulty row is rejected as a whole, for its first one."""
        for row, fault in sorted(self.faults.by_row.items()):
            self.rejected.setdefault(int(self.index[row]), (fault.reason, self._detail(row, fault)))

    def _detail(self, row: int, fault: Fault) -> str:
        path = ", ".join(part.path for part in self.shape.parts[fault.field])
        line = (
            f"{self.shape.lines_path}[{self.line_number[row]}]: "
            if self.shape.in_lines(fault.field) and self.line_number is not None
            else ""
        )
        return f'{line}{fault.field} ("{path}") {fault.detail}'

    def _count(self, rows: Rows) -> None:
        kind = self.source.kind
        if rows.event is not None:
            for code, count in enumerate(np.bincount(rows.event, minlength=len(EVENTS)).tolist()):
                if count:
                    self.counts[EVENTS[code]] = count
        elif kind == "orders":
            assert rows.quantity is not None
            returns: Bools = rows.quantity < 0
            if rows.cancelled is not None:
                returns = returns | rows.cancelled
            returned = int(returns.sum())
            self.counts.update({noun: n for noun, n in (("order_line", len(rows) - returned), ("return_line", returned)) if n})
        elif len(rows):
            self.counts[_NOUNS[kind]] = len(rows)


def _clickstream_quantity(event: Ints, quantity: Ints | None) -> Ints:
    """A purchase is one unit where nothing else is said; other events order nothing."""
    said: Ints | int = MICRO if quantity is None else np.where(quantity == MISSING, MICRO, quantity)
    return np.where(event == Event.PURCHASE, said, 0).astype(np.int64)


def _objects(column: Ints) -> list[object]:
    return [None if value == MISSING else value for value in column.tolist()]


def _select(rows: Rows, kept: Ints) -> Rows:
    mask = np.zeros(len(rows), dtype=np.bool_)
    mask[kept] = True
    chosen = mask.tolist()

    def part(column: Any) -> Any:
        if column is None:
            return None
        return column[kept] if isinstance(column, np.ndarray) else list(compress(column, chosen))

    columns = ("offset", "stamp_ms", "time_ms", "item", "event", "session", "user", "order", "price", "quantity", "cancelled", "category")
    extra = None if rows.extra is None else {name: part(values) for name, values in rows.extra.items()}
    return Rows(**{name: part(getattr(rows, name)) for name in columns}, extra=extra)
