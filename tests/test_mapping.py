"""Decoding against a slow and obvious reference: json.loads, message by message, value by value."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream.config import Source, Time
from stream.engine.columns import MICRO, MISSING, Decoded, Event, Rows
from stream.engine.time import Zone
from stream.mapping import Decoder, framing

MANY = settings(max_examples=5 * settings().max_examples)
ZONE = "Europe/London"
STAMP_MS = int(datetime(2024, 5, 1, tzinfo=UTC).timestamp() * 1000)
EVENTS = {"view": "view", "addtocart": "cart", "transaction": "purchase", "find": "search", "7": "remove", "ping": "other"}
CODES = {"view": 0, "search": 1, "cart": 2, "remove": 3, "purchase": 4, "other": 5}
CLICKS = Source(
    "clicks",
    "clickstream",
    "shop.events",
    {"time": "at", "event": "what.name", "session": "sid", "user": "who.id", "item": "what.item", "price": "price", "quantity": "n"},
    events=EVENTS,
    max_message_bytes=3_000,
)
ORDERS = Source(
    "orders",
    "orders",
    "shop.orders",
    {
        "time": "created",
        "item": ("shop", "items.sku"),
        "quantity": "items.qty",
        "price": "price",
        "user": "customer.id",
        "cancelled": "void",
    },
    lines="items",
    time_unit="s",
)


@dataclass
class Batch:
    """Messages without a broker."""

    offsets: list[int]
    stamps_ms: list[int]
    values: list[bytes | None]


def batch(values: list[bytes | None], first: int = 0, stamp_ms: int = STAMP_MS) -> Batch:
    return Batch([first + 2 * index for index in range(len(values))], [stamp_ms] * len(values), values)


def decoder(source: Source) -> Decoder:
    return Decoder(source, Time(zone=ZONE, max_future_ms=300_000), Zone(ZONE))


# The reference


class Bad(Exception):
    pass


NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def is_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def ref_id(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (bool, list, dict)):
        raise Bad("bad_value")
    if isinstance(value, float) and value == math.floor(value):
        value = int(value)
    if len(str(value)) > 1024:
        raise Bad("bad_value")
    return str(value)


def ref_required_id(value: Any) -> str:
    text = ref_id(value)
    if text == "":
        raise Bad("missing_field")
    return text


def ref_micro(value: Any) -> int:
    if is_none(value):
        return MISSING
    if isinstance(value, (bool, list, dict)) or (isinstance(value, str) and not NUMBER.fullmatch(value.strip())):
        raise Bad("bad_value")
    with localcontext() as context:
        context.prec = 500
        number = Decimal(value.strip() if isinstance(value, str) else repr(value))
        if abs(number) > 10**11:
            raise Bad("bad_value")
        return int((number * MICRO).to_integral_value(ROUND_HALF_EVEN))


def ref_time(value: Any, unit: str) -> int:
    if is_none(value):
        raise Bad("missing_field")
    if isinstance(value, (bool, list, dict)):
        raise Bad("bad_time")
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]+", value.strip()):
        value = int(value)
    if isinstance(value, (int, float)):
        per_second = {"s": 1, "ms": 1_000, "us": 10**6, "ns": 10**9}[unit]
        micros = Decimal(repr(value)) * 10**6 / per_second
        time_ms = math.floor(micros.to_integral_value() / 1000) if isinstance(value, float) else math.floor(micros / 1000)
    else:
        text = re.sub(r" ?(Z|z|UTC|GMT)$", "+00:00", value.strip())
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise Bad("bad_time") from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=ZoneInfo(ZONE))
        time_ms = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    if not datetime(1980, 1, 1, tzinfo=UTC).timestamp() * 1000 <= time_ms < datetime(2200, 1, 1, tzinfo=UTC).timestamp() * 1000:
        raise Bad("bad_time")
    return time_ms


def strict(_: str) -> Any:
    raise ValueError("not JSON")


def ref_object(value: bytes | None, source: Source) -> dict[str, Any]:
    if value is not None and len(value) > source.max_message_bytes:
        raise Bad("too_large")
    try:
        parsed = json.loads((value or b"").decode(), parse_constant=strict)
        json.dumps(parsed, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        raise Bad("malformed") from None
    if not isinstance(parsed, dict):
        raise Bad("malformed")
    return parsed


def ref_at(parsed: dict[str, Any], path: str) -> Any:
    value: Any = parsed
    for key in path.split("."):
        value = None if value is None else value.get(key)
    return value


def ref_click(value: bytes | None, stamp_ms: int) -> tuple[str, tuple[Any, ...] | None]:
    parsed = ref_object(value, CLICKS)
    for inner in ("what", "who"):
        if not isinstance(parsed.get(inner), (dict, type(None))):
            raise Bad("bad_value")
    if any(isinstance(ref_at(parsed, str(path)), float) and math.isinf(ref_at(parsed, str(path))) for path in CLICKS.fields.values()):
        raise Bad("bad_value")
    event = ref_at(parsed, "what.name")
    if event is None or event == "":
        raise Bad("missing_field")
    if isinstance(event, (bool, list, dict)):
        raise Bad("bad_value")
    name = str(int(event)) if isinstance(event, float) and event == int(event) else str(event)
    if name not in EVENTS:
        return "ignored", None
    ours = EVENTS[name]
    item = (ref_id if ours in ("search", "other") else ref_required_id)(ref_at(parsed, "what.item"))
    session = ref_required_id(parsed.get("sid"))
    user = ref_id(ref_at(parsed, "who.id"))
    time_ms = ref_time(parsed.get("at"), CLICKS.time_unit)
    price, quantity = ref_micro(parsed.get("price")), ref_micro(parsed.get("n"))
    if MISSING not in (price, quantity) and abs(price * quantity) > 10**11 * MICRO * MICRO:
        raise Bad("bad_value")
    if time_ms > stamp_ms + 300_000:
        raise Bad("future")
    if ours != "purchase":
        quantity = 0
    elif quantity == MISSING:
        quantity = MICRO
    return ours, (time_ms, CODES[ours], item, session, user, price, quantity)


# Messages

unlikely_numbers = st.sampled_from(
    [0, -0.0, 12345.0, 1e11, 1e11 + 1, -1e11, 10**30, -(10**30), 2**63, 1e300, 0.0000005, 1.0000015, 2.5e-6, 99999999999.999999, 1e-400]
)
unlikely_texts = st.sampled_from(
    [
        "",
        " ",
        "abc",
        "12",
        " 7.5 ",
        "1_000",
        "١٢",
        "nan",
        "NaN",
        "inf",
        "-Infinity",
        "1e3",
        "1e999",
        "1e",
        ".5",
        "5.",
        "+3",
        "--1",
        "0x1",
        "é",
    ]
)
wrong = st.one_of(st.none(), st.booleans(), st.just([]), st.just({}), st.just([1]), st.just({"a": 1}), unlikely_texts, unlikely_numbers)
moments = st.one_of(
    st.datetimes(datetime(2005, 1, 1), datetime(2024, 5, 1, 0, 5)),
    st.datetimes(datetime(1970, 1, 2), datetime(2205, 1, 1)),
    st.datetimes(datetime(2011, 10, 30, 0), datetime(2011, 10, 30, 3)),  # the clocks go back
    st.datetimes(datetime(2011, 3, 27, 0), datetime(2011, 3, 27, 3)),  # and forward
)
forms = st.sampled_from(
    [
        lambda at: at.strftime("%Y-%m-%d %H:%M:%S UTC"),
        lambda at: at.strftime("%Y-%m-%d %H:%M:%S"),
        lambda at: at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        lambda at: at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z",
        lambda at: at.strftime("%Y-%m-%dT%H:%M:%S.%f+05:30"),
        lambda at: at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-5] + "-0300",
        lambda at: at.strftime("%Y-%m-%d %H:%M"),
        lambda at: at.strftime("%Y-%m-%d"),
        lambda at: at.strftime(" %Y-%m-%d %H:%M:%S GMT "),
        lambda at: int(at.replace(tzinfo=UTC).timestamp() * 1000),
        lambda at: str(int(at.replace(tzinfo=UTC).timestamp() * 1000)),
        lambda at: at.replace(tzinfo=UTC).timestamp() * 1000,
        lambda at: int(at.replace(tzinfo=UTC).timestamp()),
    ]
)
no_stamps = st.sampled_from(
    ["yesterday", "2019-13-01", "2019-02-29 00:00:00", "2019-10-01T25:00:00Z", "2019-10-01T00:61:00Z", "2019-1-1", "01.10.2019", "9" * 70]
)
ats = st.one_of(st.builds(lambda at, form: form(at), moments, forms), no_stamps, wrong)
usual_at = st.builds(lambda at: int(at.replace(tzinfo=UTC).timestamp() * 1000), st.datetimes(datetime(2005, 1, 1), datetime(2024, 4, 30)))
ids = st.one_of(st.integers(-5, 10**12), st.text(max_size=6), st.floats(0, 100), st.just("x" * 1_030))
amounts = st.one_of(
    st.integers(-1000, 1000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(-(10**6), 10**6, places=2).map(str),
    st.decimals(-(10**6), 10**6, places=7).map(float),
    st.decimals(-(10**6), 10**6, places=7).map(str),
)


def often(usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(usual, usual, usual, usual, usual, other)


clicks = st.fixed_dictionaries(
    {
        "at": often(usual_at, ats),
        "what": often(
            st.fixed_dictionaries(
                {"name": often(st.sampled_from([*EVENTS, 7, 7.0]), st.one_of(wrong, st.just("unlisted"))), "item": often(ids, wrong)}
            ),
            wrong,
        ),
        "sid": often(ids, wrong),
        "price": often(amounts, wrong),
    },
    optional={"who": often(st.builds(lambda value: {"id": value}, ids), wrong), "n": often(amounts, wrong), "else": wrong},
)
GOOD = b'{"at":1500000000000,"what":{"name":"view","item":1},"sid":"s"}'
fragments: st.SearchStrategy[list[bytes | None]] = st.sampled_from(
    [
        [b'{"else":[1', b"2]}"],
        [b'{"else":"', b'"}'],
        [GOOD + b"," + GOOD],
        [GOOD + b",5," + GOOD, b'{"at":[1', b"2]}"],
        [GOOD[:-1], b"}" + GOOD],
        [b"5"],
        [b"null", None],
        [b"[]", b""],
        [b'"text"', b"   "],
        [b"{}", GOOD + b"]", b"[" + GOOD],
        [b'{"at":NaN,"sid":1}'],
        [b'{"at":1500000000000,"what":{"name":"view","item":1},"sid":"s","price":1e999}'],
        [b'{"at":1500000000000,"what":5,"sid":"s"', b'{"what":"view"} x'],
        [b'{"else":' + b"[" * 100_000 + b"]" * 100_000 + b"}"],
        [b'{"else":' + b"[" * 1_200 + b"}"],
        [b'{"else":"' + b"x" * 3_000 + b'"}', b"\xff\xfe", b'{"sid":"\xff"}', b'\xef\xbb\xbf{"sid":1}'],
        [b' \n{"at":1500000000000,\t"what":{"name":"view","item":"\\u00e9\\ud83d\\ude00"},"sid":"s"} \r\n'],
        [b'{"sid":"\\ud800"}', b'{"sid":1,"sid":2,"at":1500000000000,"what":{"name":"find"}}'],
    ]
)
messages = st.lists(
    st.one_of(clicks.map(lambda click: [json.dumps(click).encode()]), clicks.map(lambda click: [json.dumps(click).encode()]), fragments),
    max_size=14,
).map(lambda parts: [value for part in parts for value in part])


def columns(rows: Rows) -> list[tuple[Any, ...]]:
    assert rows.event is not None
    assert rows.item is not None
    assert rows.session is not None
    assert rows.user is not None
    assert rows.price is not None
    assert rows.quantity is not None
    numbers = (rows.time_ms.tolist(), rows.event.tolist(), rows.item, rows.session, rows.user, rows.price.tolist(), rows.quantity.tolist())
    return list(zip(rows.offset.tolist(), rows.stamp_ms.tolist(), *numbers, strict=True))


@MANY
@given(messages, st.sampled_from([1, 2, 512]))
@example([GOOD, b'{"else":[1', b"2]}", GOOD + b",5," + GOOD, GOOD], 512)
def test_a_batch_is_what_its_messages_are_one_by_one(values: list[bytes | None], together: int) -> None:
    sent = batch(values, first=40)
    with patch.object(framing, "_TOGETHER", together):
        decoded = decoder(CLICKS).decode(sent)
    rows, rejected, events = [], [], Counter[str]()
    for offset, value in zip(sent.offsets, values, strict=True):
        try:
            event, row = ref_click(value, STAMP_MS)
        except Bad as error:
            rejected.append((offset, str(error)))
            continue
        events[event] += 1
        if row is not None:
            rows.append((offset, STAMP_MS, *row))
    assert columns(decoded.rows) == rows
    assert [(one.offset, one.reason) for one in decoded.rejected] == rejected
    assert decoded.events == events
    assert decoded.next_offset == (sent.offsets[-1] + 1 if values else 0)
    assert all(len(one.detail) < 400 for one in decoded.rejected)
    for one in (decoded.rows.offset, decoded.rows.stamp_ms, decoded.rows.time_ms, decoded.rows.price, decoded.rows.quantity):
        assert one is not None
        assert one.dtype == np.int64


@given(messages, st.data())
def test_how_a_log_is_cut_into_batches_changes_nothing(values: list[bytes | None], data: st.DataObject) -> None:
    whole = decoder(CLICKS).decode(batch(values))
    cut = data.draw(st.integers(0, len(values)))
    one = decoder(CLICKS)
    parts = [one.decode(batch(values[:cut])), one.decode(batch(values[cut:], first=2 * cut))]
    assert columns(whole.rows) == columns(parts[0].rows) + columns(parts[1].rows)
    assert whole.rejected == parts[0].rejected + parts[1].rejected
    assert Counter(whole.events) == Counter(parts[0].events) + Counter(parts[1].events)


def test_a_long_batch_keeps_its_good_rows_in_order() -> None:
    values: list[bytes | None] = [
        json.dumps({"at": 1_500_000_000_000 + index, "what": {"name": "view", "item": index}, "sid": "s"}).encode()
        for index in range(3_000)
    ]
    values[700], values[701], values[2_999] = b'{"at":[1', b"2]}", None
    decoded = decoder(CLICKS).decode(batch(values))
    assert decoded.rows.item == [str(index) for index in range(3_000) if index not in (700, 701, 2_999)]
    assert [(one.offset, one.reason) for one in decoded.rejected] == [(1400, "malformed"), (1402, "malformed"), (5998, "malformed")]


# Orders with lines


def ref_order(value: bytes, stamp_ms: int) -> list[tuple[Any, ...]]:
    parsed = json.loads(value)
    lines = parsed.get("items")
    if lines is None:
        raise Bad("missing_field")
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise Bad("bad_value")
    rows = []
    for line in lines:
        item = ref_required_id(parsed.get("shop")) + ":" + ref_required_id(line.get("sku"))
        user = ref_id((parsed.get("customer") or {}).get("id"))
        time_ms = ref_time(parsed.get("created"), "s")
        price = ref_micro(line["price"] if line.get("price") is not None else parsed.get("price"))
        quantity = ref_micro(line.get("qty"))
        if quantity == MISSING:
            raise Bad("missing_field")
        void = line["void"] if line.get("void") is not None else parsed.get("void")
        cancelled = void.strip().lower() not in ("", "0", "false", "no") if isinstance(void, str) else bool(void)
        if time_ms > stamp_ms + 300_000:
            raise Bad("future")
        rows.append((time_ms, item, user, price, quantity, cancelled))
    return rows


small = st.one_of(st.integers(-9, 9), st.decimals(-9, 9, places=3).map(str), st.none())
voids: st.SearchStrategy[Any] = st.sampled_from([None, True, False, 0, 1, "", "false", "No", "0", "yes", {}, {"by": "shop"}, []])
lines = st.one_of(
    st.fixed_dictionaries(
        {"sku": often(ids, wrong), "qty": often(small, wrong)}, optional={"price": often(small, wrong), "void": voids, "else": wrong}
    ),
    st.fixed_dictionaries({"sku": st.just("a"), "qty": st.integers(-3, 3)}, optional={"price": small}),
)
orders = st.fixed_dictionaries(
    {
        "created": often(st.integers(10**9, 17 * 10**8), ats),
        "shop": often(st.integers(1, 3), wrong),
        "items": often(often(st.lists(lines, max_size=4), st.none()), st.sampled_from([5, [5], {"sku": 1}, [None]])),
    },
    optional={
        "price": small,
        "void": voids,
        "customer": st.one_of(st.none(), st.builds(lambda value: {"id": value}, st.one_of(st.none(), st.integers(1, 99)))),
    },
)


@MANY
@given(st.lists(orders.map(lambda order: json.dumps(order).encode()), max_size=10))
def test_orders_become_lines_and_one_bad_line_spoils_its_order(values: list[bytes]) -> None:
    decoded = decoder(ORDERS).decode(batch(list(values)))
    expected, rejected = [], []
    for index, value in enumerate(values):
        try:
            expected += [(2 * index, *row) for row in ref_order(value, STAMP_MS)]
        except Bad as error:
            rejected.append((2 * index, str(error)))
    rows = decoded.rows
    assert rows.item is not None
    assert rows.user is not None
    assert rows.price is not None
    assert rows.quantity is not None
    assert rows.cancelled is not None
    got = zip(rows.offset, rows.time_ms, rows.item, rows.user, rows.price, rows.quantity, rows.cancelled, strict=True)
    assert list(got) == expected
    assert [(one.offset, one.reason) for one in decoded.rejected] == rejected
    returns = sum(1 for row in expected if row[-1] or row[-2] < 0)
    assert decoded.events == {name: n for name, n in (("order_line", len(expected) - returns), ("return_line", returns)) if n}


def only(source: Source, message: Any, stamp_ms: int = STAMP_MS) -> Decoded:
    return decoder(source).decode(batch([json.dumps(message).encode()], stamp_ms=stamp_ms))


def test_the_bad_line_is_named() -> None:
    order = {"created": 1_500_000_000, "shop": 1, "items": [{"sku": "a", "qty": 1}, {"sku": "b", "qty": "many"}]}
    (rejected,) = only(ORDERS, order).rejected
    assert rejected.reason == "bad_value"
    assert rejected.detail == 'items[1]: quantity ("items.qty") must be a number; got "many"'


def test_the_line_is_asked_before_the_order_only_where_the_path_allows_it() -> None:
    order = {
        "created": 1_500_000_000,
        "shop": 1,
        "price": 5,
        "sku": "x",
        "items": [{"sku": "a", "qty": 1, "price": 7}, {"sku": "b", "qty": 1}],
    }
    rows = only(ORDERS, order).rows
    assert rows.price is not None
    assert rows.price.tolist() == [7 * MICRO, 5 * MICRO]
    order["items"] = [{"qty": 1}]  # the path begins with the lines': the order's own sku is not meant
    assert only(ORDERS, order).rejected[0].reason == "missing_field"
    # An object where the order's price might have stood matters only to lines without a price of their own.
    order |= {"price": {"total": 9}, "items": [{"sku": "a", "qty": 1, "price": 7}]}
    assert len(only(ORDERS, order).rows) == 1


# The other kinds


def test_offers_bring_what_was_announced() -> None:
    fields: dict[str, str | tuple[str, ...]] = {
        name: name
        for name in ("time", "item", "price", "regular_price", "promotion", "starts", "ends", "stock", "category", "brand", "launched")
    }
    source = Source("offers", "offers", "offers", fields)
    full = {
        "time": "2024-04-30T12:00:00Z",
        "item": 5,
        "price": "9.99",
        "regular_price": 12.5,
        "promotion": "flyer",
        "starts": "2024-05-05",
        "ends": "9999-12-31",
        "stock": 0,
        "category": 17,
        "brand": "acme",
        "launched": "1979-01-01",
    }
    decoded = decoder(source).decode(batch([json.dumps(full).encode(), b'{"time":1500000000000,"item":"b","stock":""}']))
    assert decoded.rejected == []
    assert decoded.events == {"offer": 2}
    rows = decoded.rows
    assert rows.price is not None
    assert rows.price.tolist() == [9_990_000, MISSING]
    assert rows.extra == {
        "promotion": ["flyer", ""],
        "category": ["17", ""],
        "brand": ["acme", ""],
        # Local midnights; those outside 1980 to 2199 are what such columns hold for "always".
        "starts_ms": [int(datetime(2024, 5, 5, tzinfo=ZoneInfo(ZONE)).timestamp() * 1000), None],
        "ends_ms": [int(datetime(9999, 12, 31, tzinfo=UTC).timestamp() * 1000), None],
        "launched_ms": [int(datetime(1979, 1, 1, tzinfo=UTC).timestamp() * 1000), None],
        "stock": [0, None],
        "regular_price": [12_500_000, None],
    }
    assert rows.cut(1, 2).extra is not None
    for name, value in (("starts", "soon"), ("stock", "plenty"), ("brand", ["acme"])):
        (rejected,) = only(source, full | {name: value}).rejected
        assert (rejected.reason, name in rejected.detail) == ("bad_time" if name == "starts" else "bad_value", True)


def test_signals_and_reviews() -> None:
    signals = Source("days", "signals", "days", {"time": "t", "name": "n", "value": "v", "starts": "s"})
    values: list[bytes | None] = [
        b'{"t":1500000000000,"n":"rain","v":"3.5","s":1500000000000}',
        b'{"t":1500000000000,"n":"x"}',
        b'{"t":1500000000000}',
    ]
    decoded = decoder(signals).decode(batch(values))
    assert decoded.rows.extra == {"name": ["rain", "x"], "starts_ms": [1_500_000_000_000, None], "value": [3.5, None]}
    assert decoded.events == {"signal": 2}
    assert [one.reason for one in decoded.rejected] == ["missing_field"]
    assert only(signals, {"t": 1_500_000_000_000, "n": "x", "v": "wet"}).rejected[0].reason == "bad_value"

    reviews = Source("reviews", "reviews", "reviews", {"time": "date", "item": "sku", "text": "body", "rating": "stars"})
    decoded = only(reviews, {"date": "2018-07-31", "sku": "echo", "body": "Love it! " * 500, "stars": 5})
    assert decoded.rows.extra == {"text": ["Love it! " * 500], "rating": [5.0]}
    assert decoded.rows.item == ["echo"]
    assert decoded.events == {"review": 1}


def test_a_shop_without_sessions_needs_users() -> None:
    source = replace_fields(CLICKS, {"time": "ts", "event": "event", "user": "visitor", "item": "itemid"})
    good = {"ts": 1_433_221_332_117, "visitor": 257_597, "event": "view", "itemid": 355_908}
    rows = only(source, good).rows
    assert (rows.session, rows.user, rows.item, rows.price) == (None, ["257597"], ["355908"], None)
    assert only(source, good | {"visitor": None}).rejected[0].reason == "missing_field"


def replace_fields(source: Source, fields: dict[str, str | tuple[str, ...]]) -> Source:
    return Source(source.name, source.kind, source.topic, fields, events=source.events)


@pytest.mark.parametrize(("event", "needs"), [("view", True), ("addtocart", True), ("transaction", True), ("find", False), ("ping", False)])
def test_what_concerns_an_item_must_name_it(event: str, needs: bool) -> None:
    decoded = only(CLICKS, {"at": 1_500_000_000_000, "what": {"name": event}, "sid": "s"})
    assert [one.reason for one in decoded.rejected] == (["missing_field"] if needs else [])
    assert decoded.rows.item == ([] if needs else [""])


def test_a_purchase_is_one_unit_where_nothing_is_said() -> None:
    source = replace_fields(CLICKS, {"time": "at", "event": "e", "session": "sid", "item": "i"})
    values: list[bytes | None] = [f'{{"at":1500000000000,"e":"{event}","sid":1,"i":1}}'.encode() for event in ("view", "transaction")]
    rows = decoder(source).decode(batch(values)).rows
    assert rows.quantity is not None
    assert rows.event is not None
    assert rows.event.tolist() == [Event.VIEW, Event.PURCHASE]
    assert rows.quantity.tolist() == [0, MICRO]


# Times and numbers that deserve to be named


@pytest.mark.parametrize(
    ("unit", "number", "expected_ms"),
    [
        ("s", 1_500_000_000, 1_500_000_000_000),
        ("s", 1_500_000_000.1239, 1_500_000_000_123),
        ("s", 1_569_888_000.123, 1_569_888_000_123),
        ("ms", 1_500_000_000_123, 1_500_000_000_123),
        ("ms", "1500000000123", 1_500_000_000_123),
        ("us", 1_500_000_000_123_999, 1_500_000_000_123),
        ("ns", 1_500_000_000_123_999_999, 1_500_000_000_123),
        ("ns", "1500000000123999999", 1_500_000_000_123),
        ("s", "1500000000.5", 1_500_000_000_500),
        ("ms", "2016-12-31T23:59:60Z", 1_483_228_800_000),
        ("ms", "2010-10-31 01:30:00", 1_288_485_000_000),
        ("ms", "2019-10-01T12:00:00.123456789+00", 1_569_931_200_123),
        ("ms", "2019-10-01t12:00:00,5z", 1_569_931_200_500),
    ],
)
def test_times(unit: str, number: Any, expected_ms: int) -> None:
    source = Source("r", "reviews", "r", {"time": "t", "item": "i"}, time_unit=unit)
    decoded = only(source, {"t": number, "i": 1})
    assert decoded.rejected == []
    assert decoded.rows.time_ms.tolist() == [expected_ms]


@MANY
@given(st.lists(ats, max_size=30), st.sampled_from(["s", "ms", "us", "ns"]))
@example(
    [f"2019-{day} 00:00:00" for day in ("02-28", "02-29", "2a-01", "0:-01", "13-01", "00-01", "01-00", "04-31", "12-31")]
    + ["2020-02-29 00:00:00"],
    "ms",
)
@example(
    [f"2019-10-01T{time}" for time in ("00:00:00+01:00", "00:00:00-01:00", "00:00:00 01:00", "24:00:00+01:00", "00:60:00+01:00")], "ms"
)
@example(["2019-10-01 00:00:00", "2019-10-01T00:00:00", "٢019-10-01 00:00:00", "0000-10-01 00:00:00"], "ms")
@example(["1" * 20, "1500000000000", "1500000000", "+1500000000", "-1"], "ns")
def test_a_time_is_read_the_same_in_any_company(times: list[Any], unit: str) -> None:
    source = Source("r", "reviews", "r", {"time": "t", "item": "i"}, time_unit=unit)
    decoded = decoder(source).decode(batch([json.dumps({"t": time, "i": 1}).encode() for time in times], stamp_ms=-1))
    expected, reasons = [], []
    for time in times:
        try:
            expected.append(ref_time(time, unit))
        except Bad as error:
            reasons.append(str(error))
    assert decoded.rows.time_ms.tolist() == expected
    assert [one.reason for one in decoded.rejected] == reasons


def test_the_future_is_measured_by_the_messages_own_stamp() -> None:
    click = {"at": STAMP_MS + 300_000, "what": {"name": "view", "item": 1}, "sid": "s"}
    assert len(only(CLICKS, click).rows) == 1
    (rejected,) = only(CLICKS, click | {"at": STAMP_MS + 300_001}).rejected
    assert rejected.reason == "future"
    assert "300 s" in rejected.detail
    assert len(only(CLICKS, click, stamp_ms=STAMP_MS + 1).rows) == 1
    assert len(only(CLICKS, click, stamp_ms=-1).rows) == 1  # a message without a stamp


@MANY
@given(st.lists(st.one_of(amounts, wrong), max_size=30))
@example([519.8703555, 132.5438735, 128.3574565, 65.9577605])  # the product with a million lies on the wrong side of the tie
@example(["519.8703555", "132.5438735", "0.0000005", "0.00000050000000000000000001"])
@example(["1_0", "2"])
@example(["nan", "2"])
@example([100_000_000_000, 100_000_000_001, 2**64, -(2**64)])
def test_money_is_rounded_once_and_right(prices: list[Any]) -> None:
    source = Source("orders", "orders", "orders", {"time": "t", "item": "i", "price": "p", "quantity": "q"})
    values: list[bytes | None] = [json.dumps({"t": 1_500_000_000_000, "i": 1, "p": price, "q": 1}).encode() for price in prices]
    decoded = decoder(source).decode(batch(values))
    expected, reasons = [], []
    for price in prices:
        try:
            expected.append(ref_micro(price))
        except Bad as error:
            reasons.append(str(error))
    assert decoded.rows.price is not None
    assert decoded.rows.price.tolist() == expected
    assert [one.reason for one in decoded.rejected] == reasons


def test_a_row_is_never_worth_more_than_sums_can_hold() -> None:
    click = {"at": 1_500_000_000_000, "what": {"name": "transaction", "item": 1}, "sid": "s", "price": 1e6, "n": 1e6}
    (rejected,) = only(CLICKS, click).rejected
    assert rejected.reason == "bad_value"
    assert "times quantity" in rejected.detail


def test_equal_mappings_need_no_equal_field_order() -> None:
    turned = {"who": {"id": 3}, "price": 1, "sid": "s", "what": {"item": 9, "name": "view"}, "at": 1_500_000_000_000}
    straight = {key: turned[key] for key in reversed(turned)}
    assert columns(only(CLICKS, turned).rows) == columns(only(CLICKS, straight).rows)


def test_keys_that_are_no_python_names() -> None:
    source = replace_fields(CLICKS, {"time": "event-time", "event": "class", "session": "ga:session id", "item": "ünïcode.0"})
    rows = only(source, {"event-time": 1_500_000_000_000, "class": "view", "ga:session id": 1, "ünïcode": {"0": "x"}}).rows
    assert (rows.item, rows.session) == (["x"], ["1"])


def test_one_shops_decoder_knows_nothing_of_anothers() -> None:
    numeric = Source("n", "clickstream", "n", CLICKS.fields, events={"0": "view", "007": "cart", "1.5": "search"})
    values: list[bytes | None] = [
        json.dumps({"at": 1_500_000_000_000, "what": {"name": name, "item": 1}, "sid": "s"}).encode()
        for name in (0, 0.0, "0", "007", 7, "view")
    ]
    assert decoder(numeric).decode(batch(values)).events == {"view": 3, "cart": 1, "ignored": 2}
