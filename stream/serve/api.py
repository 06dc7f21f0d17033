"""REST: what each path answers. Nothing here knows Kafka, and nothing waits: all of it is looked up."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Hashable, Iterable
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from stream.engine.time import SIZES
from stream.serve.access import Identity
from stream.serve.answers import Query, Trouble, answered, shortened
from stream.serve.items import SORTS, Row
from stream.serve.kept import Body, body_of
from stream.serve.panel import Past
from stream.serve.service import Service
from stream.serve.sessions import Session

SERVICE: web.AppKey[Service] = web.AppKey("service", Service)
IDENTITY: web.RequestKey[Identity] = web.RequestKey("identity", Identity)
"""Where a request's Identity stands in it."""

MOST_ROWS = 200
MOST_SESSIONS = 500
MOST_SPIKES = 1_000
MOST_PAST = 10_000
MOST_TOTALS = 2_000
LONGEST_ID = 1_024
"""As the engine takes them."""


class Forecasts(msgspec.Struct, frozen=True):
    """What is known of an item in one bucket size."""

    record: msgspec.Raw
    """The newest record of nowcart.demand, as published."""
    history: Past | None = None


class ItemDemand(msgspec.Struct, frozen=True):
    """An item."""

    item: str
    buckets: dict[str, Forecasts]
    spikes: list[msgspec.Raw]
    price: msgspec.Raw | None = None


class ItemList(msgspec.Struct, frozen=True):
    """Some items of a list."""

    bucket: str
    window: int
    """Buckets that `observed` looks back over, and `expected` ahead."""
    total: int
    offset: int
    items: list[Row]
    next_cursor: str | None


class SessionIntent(msgspec.Struct, frozen=True):
    """A session, and how it came to be so."""

    record: msgspec.Raw
    way_ms: list[int]
    way_p_purchase: list[float]


class SessionList(msgspec.Struct, frozen=True):
    """Sessions."""

    live: int
    sessions: list[SessionIntent]


class RecordList(msgspec.Struct, frozen=True):
    """Records, newest first."""

    records: list[msgspec.Raw]


def _service(request: web.Request) -> Service:
    return request.app[SERVICE]


def _sizes(service: Service) -> list[str]:
    """The bucket sizes that may be asked for: those configured, and those that were published all the same."""
    sizes = [bucket.size for bucket in service.config.demand.buckets]
    return sizes + [size for size in service.view.items.panels if size not in sizes]


def _reply(request: web.Request, body: Any, version: Hashable = None) -> web.Response:
    """An answer; with the version of what it is made of it is kept until that changes."""
    made = body_of(msgspec.json.encode(body))
    if version is not None:
        _service(request).kept.keep(request.raw_path, version, made)
    return _told(request, made)


def _told(request: web.Request, body: Body) -> web.Response:
    return answered(request, body, {"Nowcart-Age-Seconds": f"{_service(request).age_seconds:g}"})


def _kept(request: web.Request, version: Hashable) -> web.Response | None:
    """The answer that was given to the same question, if it is still true."""
    body = _service(request).kept.find(request.raw_path, version)
    return None if body is None else _told(request, body)


def _named(request: web.Request, kind: str) -> str:
    name = request.match_info[kind]
    if len(name) > LONGEST_ID:
        raise Trouble(422, f"no such {kind}", f"an id has at most {LONGEST_ID} characters; got {len(name)}", parameter=kind)
    return name


def _raws(records: Iterable[bytes]) -> list[msgspec.Raw]:
    return [msgspec.Raw(record) for record in records]


async def item_demand(request: web.Request) -> web.Response:
    """GET /v1/items/{item}/demand."""
    view, name = _service(request).view, _named(request, "item")
    slot = view.items.slots.get(name)
    price = view.prices.get(name)
    version = (slot, view.items.changed(slot), view.records["spikes"], price) if slot is not None else None
    if version is not None and (same := _kept(request, version)) is not None:
        return same
    query, sizes = Query(request, ("bucket", "history")), _sizes(_service(request))
    wanted = query.choice("bucket", sizes, "") if "bucket" in query else ""
    history = query.whole("history", 0, 0, MOST_PAST)
    if slot is None:
        near = view.items.near(name)
        raise Trouble(
            404,
            "unknown item",
            "nothing was published of this item lately" + (f"; did you mean {near}?" if near else ""),
            parameter="item",
            got=shortened(name),
            did_you_mean=near,
        )
    buckets: dict[str, Forecasts] = {}
    for size, panel in view.items.panels.items():
        raw = panel.raw[slot] if slot < len(panel.raw) else None
        if raw is not None and wanted in ("", size):
            buckets[size] = Forecasts(msgspec.Raw(raw), panel.past(slot, history) if history else None)
    spikes = _raws(view.spikes.list("all", name, None, 20))
    return _reply(request, ItemDemand(name, buckets, spikes, msgspec.Raw(price) if price is not None else None), version)


async def item_list(request: web.Request) -> web.Response:
    """GET /v1/items."""
    service = _service(request)
    version = (service.view.records["demand"], service.view.records["spikes"])
    if (same := _kept(request, version)) is not None:
        return same
    items, query = service.view.items, Query(request, ("bucket", "sort", "order", "q", "limit", "cursor", "offset", "spark"))
    sizes = _sizes(service)
    bucket = query.choice("bucket", sizes, next(iter(items.panels), sizes[0]))
    sort = query.choice("sort", SORTS, "expected")
    descending = query.choice("order", ("asc", "desc"), "asc" if sort == "name" else "desc") == "desc"
    text, limit = query.text("q", 100), query.whole("limit", 50, 1, MOST_ROWS)
    offset, spark = query.whole("offset", 0, 0, 10**9), query.whole("spark", 0, 0, 100)
    cursor = query.text("cursor", 4_096)
    if cursor is not None and "offset" in query:
        raise query.wrong("cursor", "and offset exclude each other")
    place = _read_cursor(query, cursor, bucket, sort, descending) if cursor is not None else None
    panel = items.panels.get(bucket)
    if panel is None:
        return _reply(request, ItemList(bucket, 0, 0, 0, [], None))
    order = items.order(bucket, sort, descending)
    slots, places = order.slots, np.arange(len(order.slots))
    if place is not None:
        offset = items.after(order, sort, descending, *place)
    if text is not None:
        keep = items.matching(text)[slots]
        if place is not None:
            offset = int(np.count_nonzero(keep[:offset]))
        slots, places = slots[keep], places[keep]
    rows = [items.row(bucket, slot, spark) for slot in slots[offset : offset + limit].tolist()]
    end, cursor = offset + len(rows), None
    if rows and end < len(slots):
        value = float(order.values[places[end - 1]])
        cursor = _cursor(bucket, sort, descending, -value if descending else value, rows[-1].item)
    found = ItemList(bucket, min(panel.horizon, panel.history), len(slots), offset, rows, cursor)
    # An order may be a little older than what it orders: such an answer is not kept.
    return _reply(request, found, version if items.is_new(bucket, order) else None)


def _cursor(bucket: str, sort: str, descending: bool, value: float, name: str) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode([bucket, sort, descending, value, name])).decode().rstrip("=")


def _read_cursor(query: Query, cursor: str, bucket: str, sort: str, descending: bool) -> tuple[float, str]:
    try:
        read = msgspec.json.decode(
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True), type=tuple[str, str, bool, float, str]
        )
    except (binascii.Error, msgspec.DecodeError, ValueError):
        raise query.wrong("cursor", "must be the next_cursor of an answer") from None
    if read[:3] != (bucket, sort, descending):
        raise query.wrong("cursor", "must come from an answer to the same bucket, sort and order")
    return read[3], read[4]


class Totals(msgspec.Struct, frozen=True):
    """Units of all items together."""

    bucket: str
    size_ms: int
    issued_at_ms: int
    """Where the past ends and the forecast begins."""
    start_ms: list[int]
    observed: list[float]
    expected: list[float]
    """A bucket each from issued_at_ms on."""


async def totals(request: web.Request) -> web.Response:
    """GET /v1/totals."""
    service = _service(request)
    version = service.view.records["demand"]
    if (same := _kept(request, version)) is not None:
        return same
    items, query = service.view.items, Query(request, ("bucket", "history"))
    sizes = _sizes(service)
    bucket = query.choice("bucket", sizes, next(iter(items.panels), sizes[0]))
    history = query.whole("history", 72, 0, MOST_TOTALS)
    panel = items.panels.get(bucket)
    if panel is None:
        return _reply(request, Totals(bucket, SIZES[bucket], 0, [], [], []))
    issued_ms = int(panel.issued_ms.max(initial=0))
    starts, observed = panel.seen_before(issued_ms or panel.newest_start_ms + 1, history)
    expected = panel.expect(issued_ms, panel.horizon) if issued_ms else []
    return _reply(request, Totals(bucket, panel.size_ms, issued_ms, starts, observed, expected), version)


# ---- sessions


def _masked(request: web.Request) -> bool:
    return request[IDENTITY].masked


def _intent(request: web.Request, session: Session) -> SessionIntent:
    mask = _service(request).mask
    raw = mask.record(session.raw) if _masked(request) and mask is not None else session.raw
    return SessionIntent(msgspec.Raw(raw), [int(at) for at in session.way[::2]], session.way[1::2].tolist())


async def session_intent(request: web.Request) -> web.Response:
    """GET /v1/sessions/{session}/intent."""
    Query(request, ())
    name = _named(request, "session")
    session = _service(request).view.sessions.find(name, _masked(request))
    if session is None:
        raise Trouble(404, "unknown session", "no such session is live, or it ended a while ago", parameter="session", got=shortened(name))
    return _reply(request, _intent(request, session))


async def session_list(request: web.Request) -> web.Response:
    """GET /v1/sessions."""
    sessions, query = _service(request).view.sessions, Query(request, ("sort", "limit"))
    sort, limit = query.choice("sort", ("p_purchase", "recent"), "p_purchase"), query.whole("limit", 50, 1, MOST_SESSIONS)
    found = sessions.hot(limit) if sort == "p_purchase" else sessions.recent(limit)
    return _reply(request, SessionList(sessions.live, [_intent(request, session) for session in found]))


# ---- spikes, alerts, and the whole


async def spike_list(request: web.Request) -> web.Response:
    """GET /v1/spikes."""
    version = _service(request).view.records["spikes"]
    if (same := _kept(request, version)) is not None:
        return same
    query = Query(request, ("state", "item", "severity", "limit"))
    state = query.choice("state", ("open", "resolved", "all"), "open")
    severity = query.choice("severity", ("warning", "critical"), "") if "severity" in query else None
    found = _service(request).view.spikes.list(state, query.text("item", LONGEST_ID), severity, query.whole("limit", 100, 1, MOST_SPIKES))
    return _reply(request, RecordList(_raws(found)), version)


async def alert_list(request: web.Request) -> web.Response:
    """GET /v1/alerts."""
    query = Query(request, ("state", "limit"))
    found = _service(request).view.alerts.list(
        query.choice("state", ("open", "resolved", "all"), "open"), query.whole("limit", 100, 1, MOST_SPIKES)
    )
    return _reply(request, RecordList(_raws(found)))


async def overview(request: web.Request) -> web.Response:
    """GET /v1/overview."""
    Query(request, ())
    service = _service(request)
    return _told(request, service.overview())


async def health(request: web.Request) -> web.Response:
    """GET /v1/health."""
    Query(request, ())
    return _reply(request, _service(request).health())
