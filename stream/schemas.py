"""What nowcart publishes, described: a JSON Schema for each record, and one AsyncAPI document made from them.

The encoders are in stream.records; tests hold the two together. Fields are only ever added, so no schema forbids others.
The schemas keep to what JSON Schema 2020-12 and AsyncAPI's own schema objects (draft 07) share.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stream.records import REASONS, SCHEMA_VERSION

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FORECAST_FIELDS = ("mean", "quantiles", "p_zero", "totals", "experts")
"""The fields of a demand record that a correction of an older bucket leaves out."""

_LEVEL = r"^(0\.[0-9]+|[1-9](\.[0-9]+)?e-[0-9]+)$"


def _integer(description: str, minimum: int = 0) -> Schema:
    return {"type": "integer", "minimum": minimum, "description": description}


def _number(description: str, **limits: float) -> Schema:
    return {"type": "number", "minimum": 0, **limits, "description": description}


def _text(description: str, **more: Any) -> Schema:
    return {"type": "string", **more, "description": description}


def _time(description: str) -> Schema:
    return {"type": "integer", "description": f"{description}; event time, epoch milliseconds"}


def _steps(description: str, **limits: float) -> Schema:
    return {"type": "array", "minItems": 1, "items": {"type": "number", "minimum": 0, **limits}, "description": description}


def _map(values: Schema, description: str, pattern: str = ".") -> Schema:
    return {"type": "object", "patternProperties": {pattern: values}, "additionalProperties": False, "description": description}


_BUCKET = _text("size of the bucket, as configured", enum=["1m", "5m", "15m", "1h", "1d", "1w"])
_MODEL_VERSION = _text("what made this record's predictions", minLength=1)


def _demand() -> Schema:
    steps = "one number a step: step k is the bucket that starts k buckets after issued_at_ms (days and weeks by the shop's calendar)"
    properties = {
        "item": _text("the item's id; fields of a composed id are joined as in the key", minLength=1),
        "bucket": _BUCKET,
        "bucket_start_ms": _time("start of the bucket that closed"),
        "observed": _number("units ordered in the bucket; returns are not subtracted"),
        "returned": _number("units returned or cancelled in the bucket"),
        "orders": _integer("order lines"),
        "views": _integer("views"),
        "carts": _integer("times put into a cart"),
        "censored": _number("share of the bucket without stock", maximum=1),
        "issued_at_ms": _time("end of the bucket that closed, when the forecast was issued"),
        "corrects": {"const": True, "description": "a late row has changed a bucket that was published before; absent otherwise"},
        "mean": _steps(f"expected units, {steps}"),
        "quantiles": _map(_steps(steps), "units by quantile level; they never cross, and are whole where demand is whole", _LEVEL),
        "p_zero": _steps(f"probability that nothing is ordered, {steps}", maximum=1),
        "totals": _map(
            _map({"type": "number", "minimum": 0}, "by quantile level", _LEVEL),
            "quantiles of the sum of the next buckets, by how many",
            r"^[1-9][0-9]*$",
        ),
        "model_version": _MODEL_VERSION,
        "experts": _map(_map({"type": "number"}, "by expert"), "weights of the experts, by horizon group"),
    }
    required = [name for name in properties if name not in (*FORECAST_FIELDS, "corrects")]
    forecast = {"required": list(FORECAST_FIELDS)}
    correction = {"required": ["corrects"], "not": {"anyOf": [{"required": [name]} for name in FORECAST_FIELDS]}}
    return {
        "title": "demand",
        "description": "A bucket of an item closed, or was corrected. Forecasts are rounded to four significant digits.",
        "type": "object",
        "properties": properties,
        "required": required,
        "anyOf": [forecast, correction],
    }


def _intent() -> Schema:
    properties = {
        "session": _text("the session's id, or user:start_ms where sessions are cut from users", minLength=1),
        "user": {"type": ["string", "null"], "description": "the user's id; null where the shop does not say"},
        "issued_at_ms": _time("the event that moved the prediction"),
        "events": _integer("events of the session so far", minimum=1),
        "p_purchase": _number("probability of a purchase before the session ends", maximum=1),
        "p_cart": _number("probability that an item is put into the cart before the session ends", maximum=1),
        "ended": {"type": "boolean", "description": "the session is over"},
        "purchased": {"type": "boolean", "description": "the session has bought; its becoming true is always published"},
        "bot": {"type": "boolean", "description": "taken for a crawler"},
        "model_version": _MODEL_VERSION,
    }
    return {
        "title": "intent",
        "description": "A live session's purchase intent has moved, or the session has ended.",
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }


def _spikes() -> Schema:
    properties = {
        "item": _text("the item's id", minLength=1),
        "bucket": _BUCKET,
        "bucket_start_ms": _time("start of the bucket in which it was seen"),
        "observed": _number("units ordered in the bucket"),
        "expected": _number("units that the forecast expected"),
        "p_value": _number("probability of as many units or more by the forecast", maximum=1),
        "severity": _text("how unlikely", enum=["warning", "critical"]),
        "state": _text("whether the spike began or is over", enum=["open", "resolved"]),
        "model_version": _MODEL_VERSION,
        "category": _text("the item's category, where the shop says it; absent otherwise", minLength=1),
    }
    return {
        "title": "spikes",
        "description": "Demand far beyond its own forecast has begun, or is over.",
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name != "category"],
    }


def _alerts() -> Schema:
    worst = {
        "item": _text("the item's id", minLength=1),
        "observed": _number("units ordered in the bucket"),
        "expected": _number("units that the forecast expected"),
        "p_value": _number("probability of as many units or more by the forecast", maximum=1),
    }
    properties = {
        "alert": _text("the alert's id: the same from its opening to its end, and no other's", minLength=1),
        "update": _integer("1, 2, 3 … of the alert's records", minimum=1),
        "change": _text("what this record is for", enum=["opened", "joined", "left", "escalated", "resolved"]),
        "category": {
            "type": ["string", "null"],
            "description": "of its items; null where the alert is of one item whose category nobody says",
        },
        "items": {
            "type": "array",
            "items": {"type": "string", "minLength": 1},
            "description": "while it is open, those that are in a spike now; in the end, all that were. At most 1,000, by name",
        },
        "bucket": _BUCKET,
        "severity": _text("the gravest that it has been", enum=["warning", "critical"]),
        "state": _text("whether it is open or over", enum=["open", "resolved"]),
        "started_ms": _time("start of the bucket in which its first spike was seen"),
        "updated_ms": _time("start of the newest bucket that changed it"),
        "summary": _text("for people; its words may change"),
        "worst": {
            "type": "object",
            "properties": worst,
            "required": list(worst),
            "description": "the most unlikely spike that it has seen",
        },
        "model_version": _MODEL_VERSION,
    }
    return {
        "title": "alerts",
        "description": "An alert has opened, changed, or is over.",
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }


def _headers() -> Schema:
    return {
        "title": "headers",
        "type": "object",
        "properties": {"nowcart-schema": {"const": str(SCHEMA_VERSION), "description": "version of the records' schemas"}},
        "required": ["nowcart-schema"],
    }


def _dead_letter_headers() -> Schema:
    number = {"type": "string", "pattern": "^[0-9]+$"}
    properties = {
        **_headers()["properties"],
        "nowcart-reason": _text("why the message could not be used", enum=list(REASONS)),
        "nowcart-detail": _text("what exactly was wrong, for a human"),
        "nowcart-topic": _text("topic that it came from", minLength=1),
        "nowcart-partition": number | {"description": "partition that it came from"},
        "nowcart-offset": number | {"description": "offset that it came from"},
        "nowcart-cut": number | {"description": "the value was larger than 8 MiB and is cut; its original size in bytes"},
        "nowcart-cut-key": number | {"description": "the key was larger than 1 MiB and is cut; its original size in bytes"},
    }
    return {
        "title": "deadletter.headers",
        "description": "Headers of a dead letter, as UTF-8 text. Its key and value are those of the message that could not be used.",
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if not name.startswith("nowcart-cut")],
    }


def schemas() -> dict[str, Schema]:
    """JSON Schemas by name: a record's is called after its topic, without the prefix."""
    return {
        "demand": _demand(),
        "intent": _intent(),
        "spikes": _spikes(),
        "alerts": _alerts(),
        "deadletter.headers": _dead_letter_headers(),
    }


_KEYS = {
    "demand": ("item", "Forecasts of an item, each time a bucket closes."),
    "intent": ("session", "Purchase intent of live sessions."),
    "spikes": ("item", "Demand spikes as they open and resolve."),
    "alerts": ("alert", "Alerts made of spikes, grouped and silenced."),
}


def asyncapi(prefix: str = "nowcart.") -> Schema:
    """The AsyncAPI 3.0 document of the output topics.

    Args:
        prefix: of the topics' names, as configured.
    """
    records = schemas()
    channels: Schema = {}
    messages: Schema = {}
    for name, (key, description) in _KEYS.items():
        messages[name] = {
            "contentType": "application/json",
            "headers": {"$ref": "#/components/schemas/headers"},
            "payload": {"$ref": f"#/components/schemas/{name}"},
            "bindings": {"kafka": {"key": {"type": "string", "description": f"the {key}, UTF-8"}}},
        }
        channels[name] = {"address": f"{prefix}{name}", "description": description}
    messages["deadletter"] = {
        "contentType": "application/octet-stream",
        "headers": {"$ref": "#/components/schemas/deadletter.headers"},
        "payload": {"description": "the bytes as they came in"},
    }
    channels["deadletter"] = {"address": f"{prefix}deadletter", "description": "Messages that could not be used, and why."}
    for name, channel in channels.items():
        channel["messages"] = {name: {"$ref": f"#/components/messages/{name}"}}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "nowcart",
            "version": version("nowcart"),
            "description": "Live demand forecasts, purchase intent and demand spikes. Read committed records only (isolation.level=read_committed).",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": {f"send-{name}": {"action": "send", "channel": {"$ref": f"#/channels/{name}"}} for name in channels},
        "components": {"schemas": {"headers": _headers(), **records}, "messages": messages},
    }


def write(directory: Path, prefix: str = "nowcart.") -> list[Path]:
    """Writes `<record>.schema.json` for each record and `asyncapi.json`; returns the files.

    Args:
        directory: made where it is missing.
        prefix: of the topics' names, as configured.

    Raises:
        OSError: the directory cannot be written to.
    """
    directory.mkdir(parents=True, exist_ok=True)
    documents = {f"{name}.schema.json": {"$schema": DIALECT, **schema} for name, schema in schemas().items()}
    documents["asyncapi.json"] = asyncapi(prefix)
    for name, document in documents.items():
        (directory / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [directory / name for name in documents]
