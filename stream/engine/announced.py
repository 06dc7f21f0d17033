"""What the rows of offers, signals and reviews say, as facts and measurements.

An offer says only what it mentions: what it leaves out stays as it was told before.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stream.engine.columns import MICRO, MISSING, Bools, Floats, Ints, Rows
from stream.engine.facts import NEVER, SHARE, STATIC, VALUE, FactRows, MeasuredRows, fact_rows, join_rows, measured_rows

STOCK, LAUNCHED, CATEGORY, BRAND = "stock", "launched", "category", "brand"
CLOSED = "closed"
"""The signal that declares the shop shut."""
HOLIDAY = "holiday"
"""The share of a bucket that is a public holiday; from the calendar where a country is configured, or told by the shop."""
_OFF = frozenset({"none", "no", "false", "off", "0", "null"})
"""Promotions that are none: they end one that was announced until further notice."""


def offer_facts(rows: Rows) -> FactRows | None:
    """Facts of offers: price, regular_price, promotion (and promotion.KIND), stock, and the statics category, brand and launched.

    Args:
        rows: of kind offers, with items.
    """
    assert rows.item is not None
    starts, ends = _validity(rows)
    parts: list[FactRows] = []

    def add(picked: Ints, **columns: Any) -> None:
        if len(picked):
            assert rows.item is not None
            item = [rows.item[i] for i in picked.tolist()]
            parts.append(fact_rows(item=item, announced_ms=rows.time_ms[picked], offset=rows.offset[picked], **columns))

    spoken = np.zeros(len(rows), np.bool_)
    prices = {
        "price": _micro(np.full(len(rows), MISSING) if rows.price is None else rows.price),
        "regular_price": _micro_objects(rows, "regular_price"),
    }
    for name, (value, there) in prices.items():
        spoken |= there
        at = np.flatnonzero(there)
        add(at, name=name, value=value[at], starts_ms=starts[at], ends_ms=ends[at])
    promotion = _texts(rows, "promotion")
    if promotion is not None:
        off = np.array([text.strip().lower() in _OFF for text in promotion], dtype=np.bool_)
        there = np.array([bool(text.strip()) for text in promotion], dtype=np.bool_)
        spoken |= there
        at = np.flatnonzero(there)
        add(at, name="promotion", value=np.where(off, 0.0, 1.0)[at], kind=SHARE, starts_ms=starts[at], ends_ms=ends[at])
        at = np.flatnonzero(there & ~off)
        names = [f"promotion.{promotion[i].strip()}" for i in at.tolist()]
        add(at, name=names, value=1.0, kind=SHARE, starts_ms=starts[at], ends_ms=ends[at])
    stock, there = _micro_objects(rows, STOCK)
    at = np.flatnonzero(there)
    # Beside a price or a promotion the dates are theirs, and the stock is what there is now.
    add(at, name=STOCK, value=stock[at], starts_ms=np.where(spoken, rows.time_ms, starts)[at], ends_ms=np.where(spoken, NEVER, ends)[at])
    for name in (CATEGORY, BRAND):
        texts = _texts(rows, name)
        if texts is not None:
            at = np.array([i for i, text in enumerate(texts) if text], dtype=np.int64)
            add(at, name=name, value=0.0, kind=STATIC, text=[texts[i] for i in at.tolist()])
    launched = _objects(rows, f"{LAUNCHED}_ms")
    if launched is not None:
        at = np.array([i for i, value in enumerate(launched) if value is not None], dtype=np.int64)
        begins = np.array([launched[i] for i in at.tolist()], dtype=np.int64)
        add(at, name=LAUNCHED, value=begins.astype(np.float64), kind=STATIC, starts_ms=begins)
    return join_rows(parts) if parts else None


def signal_facts(rows: Rows) -> FactRows | None:
    """Facts of signals: each under its own name, for all items or those of its category. One without a value is on (1).

    Args:
        rows: of kind signals.
    """
    if not len(rows):
        return None
    names = _texts(rows, "name")
    assert names is not None
    values = _objects(rows, "value") or [None] * len(rows)
    starts, ends = _validity(rows)
    return fact_rows(
        name=names,
        value=np.array([1.0 if value is None else value for value in values], dtype=np.float64),
        kind=np.array([SHARE if value is None else VALUE for value in values], dtype=np.int64),
        category=_texts(rows, CATEGORY),
        announced_ms=rows.time_ms,
        starts_ms=starts,
        ends_ms=ends,
        offset=rows.offset,
    )


def review_measures(rows: Rows, grain_ms: int) -> tuple[MeasuredRows, Ints]:
    """Measurements of reviews, how many (`reviews`) and their mean rating (`rating`); and int64[n], which row each came from.

    Args:
        rows: of kind reviews, with items.
        grain_ms: of activity.
    """
    assert rows.item is not None
    ratings = _objects(rows, "rating") or [None] * len(rows)
    rated = np.array([i for i, value in enumerate(ratings) if value is not None], dtype=np.int64)
    grain = rows.time_ms // grain_ms
    measured = measured_rows(
        item=[*rows.item, *(rows.item[i] for i in rated.tolist())],
        name=["reviews"] * len(rows) + ["rating"] * len(rated),
        grain=np.concatenate([grain, grain[rated]]),
        value=np.array([1.0] * len(rows) + [ratings[i] for i in rated.tolist()], dtype=np.float64),
        means={"reviews": False, "rating": True},
    )
    return measured, np.concatenate([np.arange(len(rows), dtype=np.int64), rated])


def _objects(rows: Rows, name: str) -> list[Any] | None:
    return None if rows.extra is None else rows.extra.get(name)


def _texts(rows: Rows, name: str) -> list[str] | None:
    return _objects(rows, name)


def _micro(column: Ints) -> tuple[Floats, Bools]:
    there = column != MISSING
    return np.where(there, column, 0) / MICRO, there


def _micro_objects(rows: Rows, name: str) -> tuple[Floats, Bools]:
    values = _objects(rows, name)
    if values is None:
        return np.zeros(len(rows)), np.zeros(len(rows), np.bool_)
    return _micro(np.array([MISSING if value is None else value for value in values], dtype=np.int64))


def _validity(rows: Rows) -> tuple[Ints, Ints]:
    """From when what a row announces holds, and until when: from now, until further notice, where it does not say."""
    bounds = []
    for name, otherwise in (("starts_ms", rows.time_ms), ("ends_ms", np.full(len(rows), NEVER, np.int64))):
        given = _objects(rows, name)
        if given is None:
            bounds.append(otherwise)
            continue
        bounds.append(
            np.array([int(o) if value is None else value for value, o in zip(given, otherwise.tolist(), strict=True)], dtype=np.int64)
        )
    return bounds[0], bounds[1]
