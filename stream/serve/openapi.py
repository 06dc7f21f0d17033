"""The OpenAPI document, made from the structs that answer and the schemas of the records inside them."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from stream.config import Config
from stream.schemas import schemas
from stream.serve.answers import JSON, PROBLEM, Problem
from stream.serve.api import (
    LONGEST_ID,
    MOST_PAST,
    MOST_ROWS,
    MOST_SESSIONS,
    MOST_SPIKES,
    MOST_TOTALS,
    ItemDemand,
    ItemList,
    SessionIntent,
    SessionList,
    Totals,
)
from stream.serve.items import SORTS
from stream.serve.service import Health, Overview
from stream.serve.streaming import STREAMED

Schema = dict[str, Any]

_ALERT: Schema = {
    "title": "alert",
    "description": "A record of nowcart.alerts, as published; more fields may come.",
    "type": "object",
    "properties": {
        "alert": {"type": "string"},
        "category": {"type": ["string", "null"]},
        "items": {"type": "array", "items": {"type": "string"}},
        "severity": {"type": "string"},
        "state": {"type": "string"},
        "started_ms": {"type": "integer"},
        "updated_ms": {"type": "integer"},
        "summary": {"type": "string"},
    },
    "required": ["alert"],
}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _records(name: str) -> Schema:
    listed = {"type": "array", "items": _ref(name)}
    return {"title": f"{name} list", "type": "object", "properties": {"records": listed}, "required": ["records"]}


def _components() -> Schema:
    structs = [Problem, ItemDemand, ItemList, SessionIntent, SessionList, Totals, Overview, Health]
    _, found = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    published = {name: schema for name, schema in schemas().items() if name in ("demand", "intent", "spikes")}
    # A record inside an answer goes through as bytes, so its struct does not know what it is.
    found["Forecasts"]["properties"]["record"] = _ref("demand")
    found["ItemDemand"]["properties"]["spikes"]["items"] = _ref("spikes")
    found["ItemDemand"]["properties"]["price"] = {"type": ["object", "null"]}
    found["SessionIntent"]["properties"]["record"] = _ref("intent")
    return {**found, **published, "alert": _ALERT, "spike_list": _records("spikes"), "alert_list": _records("alert")}


def _parameter(name: str, description: str, schema: Schema, where: str = "query") -> Schema:
    return {"name": name, "in": where, "required": where == "path", "description": description, "schema": schema}


def _whole(least: int, most: int, default: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most, "default": default}


_TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": LONGEST_ID, "pattern": "^[!-~]+$"}
_IF_NONE_MATCH = _parameter(
    "If-None-Match", "the ETag of what you have: 304 if it is still so", {"type": "string", "pattern": '^"[a-z0-9]*"$'}, "header"
)


def _operation(summary: str, answer: Schema, parameters: list[Schema], *statuses: int, locked: bool) -> Schema:
    words = {
        401: "no valid key",
        404: "unknown",
        414: "the address is too long",
        422: "a parameter is not as it must be",
        503: "not now; see Retry-After",
    }
    problems = {
        str(status): {"description": words[status], "content": {PROBLEM: {"schema": _ref("Problem")}}}
        for status in sorted({*statuses, 414, 422, *((401, 503) if locked else ())})
    }
    headers = {
        "ETag": {"description": "of this very answer", "schema": {"type": "string"}},
        "Nowcart-Age-Seconds": {"description": "since Kafka was last heard; 0 while it answers", "schema": {"type": "string"}},
    }
    return {
        "summary": summary,
        "parameters": [*parameters, _IF_NONE_MATCH],
        "responses": {
            "200": {"description": "as asked", "headers": headers, "content": {JSON: {"schema": answer}}},
            "304": {"description": "you have it already"},
            **problems,
        },
    }


def document(config: Config, locked: bool) -> Schema:
    """The OpenAPI 3.1 document.

    Args:
        config: for the bucket sizes.
        locked: whether a key is needed.
    """
    sizes: Schema = {"type": "string", "enum": [bucket.size for bucket in config.demand.buckets]}
    words = {
        "name": "name", "observed": "units of the last buckets", "expected": "units of the next ones", "change": "expected less observed",
        "latest": "units of the last bucket", "next": "expected units of the next", "spikes": "open spikes", "updated": "newest forecast",
    }  # fmt: skip
    sorts = "; ".join(f"{sort}: {words[sort]}" for sort in SORTS)
    states: Schema = {"type": "string", "enum": ["open", "resolved", "all"], "default": "open"}

    def get(summary: str, answer: Schema, parameters: list[Schema], *statuses: int) -> Schema:
        return {"get": _operation(summary, answer, parameters, *statuses, locked=locked)}

    paths: Schema = {
        "/v1/overview": get("All of it at a glance", _ref("Overview"), []),
        "/v1/health": get("How it stands with this process", _ref("Health"), []),
        "/v1/items": get(
            "Items, sorted, found by name, a page at a time",
            _ref("ItemList"),
            [
                _parameter("bucket", "size; by default the smallest", sizes),
                _parameter("sort", sorts, {"type": "string", "enum": list(SORTS), "default": "expected"}),
                _parameter("order", "by default the largest first, names from a to z", {"type": "string", "enum": ["asc", "desc"]}),
                _parameter("q", "what the name contains, whatever the case", {**_TEXT, "maxLength": 100}),
                _parameter("limit", "rows", _whole(1, MOST_ROWS, 50)),
                _parameter(
                    "offset", "rows to pass over; for windows of a list. To walk through all of it use the cursor", _whole(0, 10**9, 0)
                ),
                _parameter("spark", "add the units of so many last buckets to each row", _whole(0, 100, 0)),
                _parameter(
                    "cursor",
                    "next_cursor of the last answer: goes on behind its last item, whatever has moved since",
                    {"type": "string", "minLength": 1, "maxLength": 4096, "pattern": "^[A-Za-z0-9_-]+$"},
                ),
            ],
        ),
        "/v1/items/{item}/demand": get(
            "An item's newest forecasts, and what was observed and forecast before",
            _ref("ItemDemand"),
            [
                _parameter("item", "its id, percent-encoded", _TEXT, "path"),
                _parameter("bucket", "this size alone", sizes),
                _parameter("history", "closed buckets to add", _whole(0, MOST_PAST, 0)),
            ],
            404,
        ),
        "/v1/totals": get(
            "All items together: what was observed, and what is expected",
            _ref("Totals"),
            [
                _parameter("bucket", "size; by default the smallest", sizes),
                _parameter("history", "closed buckets", _whole(0, MOST_TOTALS, 72)),
            ],
        ),
        "/v1/sessions": get(
            "Live sessions",
            _ref("SessionList"),
            [
                _parameter(
                    "sort", "likeliest to buy, or last moved", {"type": "string", "enum": ["p_purchase", "recent"], "default": "p_purchase"}
                ),
                _parameter("limit", "sessions", _whole(1, MOST_SESSIONS, 50)),
            ],
        ),
        "/v1/sessions/{session}/intent": get(
            "A session's newest record, and how its probability moved",
            _ref("SessionIntent"),
            [_parameter("session", "its id (a pseudonym, for keys that see those), percent-encoded", _TEXT, "path")],
            404,
        ),
        "/v1/spikes": get(
            "Spikes, newest first",
            _ref("spike_list"),
            [
                _parameter("state", "open ones, resolved ones, or all of the last", states),
                _parameter("item", "of this one alone", _TEXT),
                _parameter("severity", "of this one alone", {"type": "string", "enum": ["warning", "critical"]}),
                _parameter("limit", "records", _whole(1, MOST_SPIKES, 100)),
            ],
        ),
        "/v1/alerts": get(
            "Alerts, newest first",
            _ref("alert_list"),
            [_parameter("state", "as of spikes", states), _parameter("limit", "records", _whole(1, MOST_SPIKES, 100))],
        ),
        "/v1/stream": {"get": _stream(locked)},
    }
    found: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "nowcart",
            "version": version("nowcart"),
            "description": (
                "What nowcart has published, as it stands. Times are event time, epoch milliseconds. "
                "Records are those of the topics, as published."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": _components()},
    }
    if locked:
        found["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "description": "an API key, or a token of the configured issuer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        found["security"] = [{"bearer": []}, {"key": []}]
    return found


def _stream(locked: bool) -> Schema:
    statuses = {404: "unknown session (for keys that see pseudonyms)", 422: "a parameter is not as it must be", 503: "too many readers"}
    if locked:
        statuses[401] = "no valid key"
    return {
        "summary": "Records as they come: server-sent events",
        "description": (
            "Each event is called after its topic, and its data is the record. Its id says where the stream stands; sent back as "
            "Last-Event-ID the stream goes on behind it, at any instance. `gap`: records that are no longer kept were missed (topic, "
            "partition, offsets). `dropped`: the reader was too slow, and the connection ends. `expired`: its token has ended. "
            "`closing`: the server stops. Comments are heartbeats."
        ),
        "parameters": [
            {
                **_parameter(
                    "topics",
                    "which, with commas between; by default spikes and alerts. overview: twice a second, without ids",
                    {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": "string", "enum": list(STREAMED)}},
                ),
                "explode": False,
                "style": "form",
            },
            _parameter("item", "of demand, spikes and prices only this item's", _TEXT),
            _parameter("session", "of intent only this session's", _TEXT),
            _parameter("after", "an event's id, for readers that cannot set Last-Event-ID", {"type": "string", "maxLength": 16384}),
            _parameter("Last-Event-ID", "the last id that was read", {"type": "string", "pattern": "^[a-z0-9:.,]*$"}, "header"),
        ],
        "responses": {
            "200": {"description": "a stream without an end", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
            **{
                str(status): {"description": words, "content": {PROBLEM: {"schema": _ref("Problem")}}}
                for status, words in sorted(statuses.items())
            },
        },
    }
