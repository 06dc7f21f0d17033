"""What a source is: a topic of the user's, its kind, and where our fields stand in its messages.

Reading the messages themselves is stream.mapping's.
"""

from __future__ import annotations

import msgspec

from stream.tables import ConfigError, Table, join, nearest, shown

EVENTS = ("view", "search", "cart", "remove", "purchase", "other")
"""Our names of clickstream events, in the order of columns.Event."""

FIELDS: dict[str, tuple[str, ...]] = {
    "clickstream": ("time", "event", "session", "user", "item", "price", "quantity", "order", "category"),
    "orders": ("time", "item", "quantity", "order", "price", "user", "session", "cancelled"),
    "offers": ("time", "item", "price", "regular_price", "promotion", "starts", "ends", "stock", "category", "brand", "launched"),
    "reviews": ("time", "item", "text", "rating"),
    "signals": ("time", "name", "starts", "ends", "value", "category"),
}
"""What can be mapped, by kind of source."""

REQUIRED: dict[str, tuple[str, ...]] = {
    "clickstream": ("time", "event", "item"),
    "orders": ("time", "item", "quantity"),
    "offers": ("time", "item"),
    "reviews": ("time", "item"),
    "signals": ("time", "name"),
}
"""What must be mapped, by kind of source; a clickstream needs session or user as well."""

LINE_FIELDS = ("item", "quantity", "price", "cancelled")
"""Looked for in an order's line first, then in the order."""

TOPIC = r"[A-Za-z0-9._-]{1,249}"
TOPIC_FORM = "a topic's name: letters, digits, dots, dashes and underscores"

_KEYS = ("kind", "topic", "format", "time_unit", "fields", "max_message_bytes")
_KEYS_OF = {"clickstream": ("events", "repartition"), "orders": ("lines",)}


class Source(msgspec.Struct, frozen=True):
    """One of the user's topics, and what its messages mean."""

    name: str
    kind: str
    """clickstream | orders | offers | reviews | signals."""
    topic: str
    fields: dict[str, str | tuple[str, ...]]
    """Ours -> the dotted path in theirs; several paths for an item are joined in its key."""
    format: str = "json"
    time_unit: str = "ms"
    """s | ms | us | ns, for numeric times."""
    events: dict[str, str] = {}
    """Theirs -> ours, of EVENTS (clickstream only)."""
    lines: str | None = None
    """Path to an order's array of lines (orders only); None: a message is a line."""
    repartition: bool = False
    max_message_bytes: int = 1_048_576


def read_source(root: Table, name: str) -> Source:
    """Reads [sources.NAME].

    Args:
        root: the table [sources].
        name: of the source.

    Raises:
        ConfigError: it lacks what its kind needs, or has what it does not know.
    """
    if not name or not all(letter.isalnum() or letter in "_-" for letter in name) or not name.isascii():
        raise ConfigError(f"a source's name must be letters, digits, dashes and underscores; got {root.full(name)}")
    kind = Table(root.values[name], root.full(name), None).text("kind", allowed=tuple(FIELDS))
    table = _known(root, name, kind)
    encoding = table.text("format", "json", allowed=("json", "avro", "protobuf"))
    if encoding != "json":
        raise ConfigError(f'{table.full("format")} = "{encoding}" is not supported yet: "json" is')
    topic = table.text("topic", pattern=TOPIC, form=TOPIC_FORM)
    lines = table.text("lines") if "lines" in table else None
    if lines is not None:
        _check_path(table.full("lines"), lines)
    fields = _fields(table, kind, lines)
    return Source(
        name=name,
        kind=kind,
        topic=topic,
        fields=fields,
        format=encoding,
        time_unit=table.text("time_unit", "ms", allowed=("s", "ms", "us", "ns")),
        events=_events(table) if kind == "clickstream" else {},
        lines=lines,
        repartition=table.flag("repartition", False),
        max_message_bytes=table.whole("max_message_bytes", 1_048_576, least=1, most=1 << 30),
    )


def _known(root: Table, name: str, kind: str) -> Table:
    full = root.full(name)
    for other, keys in _KEYS_OF.items():
        for key in keys:
            if other != kind and key in root.values[name]:
                raise ConfigError(f'{join(full, key)} is for sources of kind "{other}"; this one is of kind "{kind}": leave it out')
    return Table(root.values[name], full, _KEYS + _KEYS_OF.get(kind, ()))


def _fields(table: Table, kind: str, lines: str | None) -> dict[str, str | tuple[str, ...]]:
    if "fields" not in table:
        raise ConfigError(f"{table.full('fields')} is missing: say where {', '.join(REQUIRED[kind])} stand in the messages")
    given = table.table("fields", FIELDS[kind])
    missing = [field for field in REQUIRED[kind] if field not in given]
    if missing:
        raise ConfigError(f"{given.full(missing[0])} is missing: a source of kind {kind} needs {', '.join(REQUIRED[kind])}")
    if kind == "clickstream" and "session" not in given and "user" not in given:
        raise ConfigError(f"{given.full('session')} is missing: a source of kind clickstream needs session, or user to cut sessions from")
    fields: dict[str, str | tuple[str, ...]] = {}
    for field, path in given.values.items():
        full = given.full(field)
        if isinstance(path, str):
            _check_path(full, path)
            fields[field] = path
        elif field == "item" and isinstance(path, list) and path:
            for part in path:
                if not isinstance(part, str):
                    raise ConfigError(f"{full} must be a path or an array of paths; got {shown(part)} in it")
                _check_path(full, part)
            fields[field] = tuple(path)
        else:
            form = "a path or an array of paths" if field == "item" else "a path"
            raise ConfigError(f'{full} must be {form}, such as "product.id"; got {shown(path)}')
    _check_nesting(given, fields, lines)
    return fields


def _check_path(full: str, path: str) -> None:
    if not path or not all(path.split(".")):
        raise ConfigError(f'{full} must be a path: names with dots between them; got "{path}"')


def _check_nesting(given: Table, fields: dict[str, str | tuple[str, ...]], lines: str | None) -> None:
    """A path cannot be a value for one field and an object, or the lines, for another."""
    orders: list[tuple[str, str]] = [] if lines is None else [(lines, "the lines")]
    in_lines: list[tuple[str, str]] = []
    for field, value in fields.items():
        for path in (value,) if isinstance(value, str) else value:
            if lines is not None and path.startswith(lines + "."):
                in_lines.append((path.removeprefix(lines + "."), given.full(field)))
                continue
            orders.append((path, given.full(field)))
            if lines is not None and field in LINE_FIELDS:
                in_lines.append((path, given.full(field)))
    for side in (orders, in_lines):
        for path, full in side:
            for longer, other in side:
                if longer.startswith(path + ".") or (longer == path and other == "the lines" != full):
                    raise ConfigError(f'{full} = "{path}" cannot be a value when {other} stands at "{longer}"')


def _events(table: Table) -> dict[str, str]:
    if "events" not in table:
        raise ConfigError(f"{table.full('events')} is missing: say which of their event names are {', '.join(EVENTS)}")
    given = table.table("events", None)
    events = {}
    for theirs in given.values:
        near = nearest(theirs, EVENTS)
        # The commonest slip: the two sides the wrong way round.
        turned = f'; it reads theirs = ours, so perhaps {given.values[theirs]} = "{near}"' if theirs in EVENTS and near else ""
        try:
            events[theirs] = given.text(theirs, allowed=EVENTS)
        except ConfigError as error:
            raise ConfigError(f"{error}{turned}") from None
    if not events:
        raise ConfigError(f"{given.name} must map at least one event")
    return events
