"""How a source's mapping understands a few of its messages, and what in the messages it does not reach."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stream.engine.columns import MICRO, MISSING
from stream.engine.time import Zone
from stream.mapping import Decoder
from stream.sources import EVENTS, LINE_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from stream.config import Time
    from stream.engine.columns import Rows
    from stream.mapping import Values
    from stream.sources import Source

_DEEPEST = 6
_CLOSE = 0.6
_WORDS = {
    "remove": ("remove", "delete", "unlike"),
    "cart": ("cart", "basket", "bag"),
    "purchase": ("purchase", "buy", "bought", "transaction", "checkout", "order", "payment"),
    "search": ("search", "query", "find"),
    "view": ("view", "detail", "product", "click", "impression"),
}
"""Words in other shops' event names, by ours; the first that fits counts (removefromcart is no cart)."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that cannot be used."""

    partition: int
    offset: int
    reason: str
    detail: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Unlisted:
    """An event that [sources.NAME.events] does not list."""

    theirs: str
    count: int
    ours: str
    """What it probably is."""


@dataclass(frozen=True, slots=True)
class Unreached:
    """A mapped path that brought nothing."""

    field: str
    path: str
    there: bool
    """The path is there, but what stands at it is always empty."""
    instead: tuple[str, ...]
    """Paths in the messages that may have been meant, the likeliest first; none where the path is there."""


@dataclass(slots=True)
class Understood:
    """What was found in a sample of one source's messages."""

    source: Source
    messages: int = 0
    partitions: int = 0
    """Partitions that the messages came from."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """By our field, newest last: time_ms and numbers as such, other columns as text."""
    row_count: int = 0
    events: Counter[str] = field(default_factory=Counter)
    refused: list[Refused] = field(default_factory=list)
    unlisted: list[Unlisted] = field(default_factory=list)
    unreached: list[Unreached] = field(default_factory=list)
    unmapped: list[str] = field(default_factory=list)
    """Paths of values in the messages that no field is mapped to, the commonest first."""

    @property
    def usable(self) -> bool:
        """Whether anything at all was understood, or there was nothing to understand."""
        return self.row_count > 0 or self.messages == 0


def understand(source: Source, time: Time, zone: Zone, sample: Sequence[tuple[int, Values]], show: int = 8) -> Understood:
    """Decodes a sample as the engine would, and looks at what it left behind.

    Args:
        source: the mapping.
        time: bounds of event times.
        zone: of time stamps without one.
        sample: (partition, its messages).
        show: rows to keep for showing, the newest by event time.
    """
    found = Understood(source, partitions=len(sample))
    decoder = Decoder(source, time, zone)
    documents: list[Any] = []
    for partition, messages in sample:
        decoded = decoder.decode(messages)
        values = dict(zip(messages.offsets, messages.values, strict=True))
        found.messages += len(values)
        found.row_count += len(decoded.rows)
        found.events.update(decoded.events)
        found.refused += [Refused(partition, bad.offset, bad.reason, bad.detail, values[bad.offset]) for bad in decoded.rejected]
        found.rows += _newest_rows(decoded.rows, source.fields, show)
        documents += _documents(values.values())
    found.rows = sorted(found.rows, key=lambda row: row["time"])[-show:]
    _compare(found, documents)
    return found


def _newest_rows(rows: Rows, mapped: Mapping[str, object], most: int) -> Iterator[dict[str, Any]]:
    for at in np.argsort(rows.time_ms, kind="stable")[-most:].tolist():
        row: dict[str, Any] = {"time": int(rows.time_ms[at])}
        if rows.event is not None:
            row["event"] = EVENTS[rows.event[at]]
        for name in ("item", "session", "user", "order"):
            column = getattr(rows, name)
            if column is not None:
                row[name] = column[at]
        for name in ("price", "quantity"):
            amounts = getattr(rows, name)
            if amounts is not None and name in mapped:  # a purchase without a mapped quantity is one unit
                row[name] = None if amounts[at] == MISSING else int(amounts[at]) / MICRO
        if rows.cancelled is not None:
            row["cancelled"] = bool(rows.cancelled[at])
        for name, values in (rows.extra or {}).items():
            value = values[at]
            scaled = name in ("stock", "regular_price") and isinstance(value, int)
            row[name] = value / MICRO if scaled else value
        yield row


def _documents(values: Any) -> Iterator[Any]:
    """The messages that are JSON objects, whatever else is wrong with them."""
    for value in values:
        try:
            document = json.loads(value or b"")
        except (ValueError, RecursionError):  # a value's bytes may be anything
            continue
        if isinstance(document, dict):
            yield document


def _flat(value: Any, depth: int, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of everything in an object that a path can reach. A key with a dot in it cannot be."""
    if isinstance(value, dict) and value and depth:
        for key, inner in value.items():
            if key and "." not in key:
                yield from _flat(inner, depth - 1, f"{prefix}.{key}" if prefix else key)
    elif prefix:
        yield prefix, value


def _paths(source: Source, document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(path, value) as a mapping would name them: what stands in an order's lines begins with the path of the lines."""
    for path, value in _flat(document, _DEEPEST):
        if path == source.lines and isinstance(value, list):
            for line in value:
                yield from ((f"{path}.{inner}", found) for inner, found in _flat(line, _DEEPEST) if isinstance(line, dict))
        else:
            yield path, value


def _mapped(source: Source) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(our field, path as configured, the places where it is looked for)."""
    for ours, paths in source.fields.items():
        for path in (paths,) if isinstance(paths, str) else paths:
            in_line = source.lines is not None and ours in LINE_FIELDS and not path.startswith(f"{source.lines}.")
            yield ours, path, (f"{source.lines}.{path}", path) if in_line else (path,)


def _compare(found: Understood, documents: list[Any]) -> None:
    """Notes what the mapping does not reach, and what in the messages nothing reaches for."""
    source = found.source
    there: Counter[str] = Counter()
    filled: Counter[str] = Counter()
    unlisted: Counter[str] = Counter()
    for document in documents:
        seen = list(_paths(source, document))
        there.update({path for path, _ in seen})
        filled.update({path for path, value in seen if value is not None and value not in ("", [], {})})
        if source.kind == "clickstream":
            event = dict(seen).get(str(source.fields["event"]))
            if type(event) in (str, int, float) and event != "" and not _listed(source, event):
                unlisted[f"{event:g}" if isinstance(event, float) else str(event)] += 1
    found.unlisted = [Unlisted(theirs, count, _guess(theirs)) for theirs, count in unlisted.most_common()]
    mapped = {place for _, _, places in _mapped(source) for place in places}
    free = [path for path, _ in there.most_common() if path not in mapped]
    found.unmapped = [path for path in free if filled[path]]
    if not documents:
        return
    for ours, path, places in _mapped(source):
        if any(filled[place] for place in places):
            continue
        known = any(there[place] for place in places)
        found.unreached.append(Unreached(ours, path, known, () if known else tuple(_near(ours, path, found.unmapped))))


def _listed(source: Source, event: Any) -> bool:
    if isinstance(event, float) and not event.is_integer():
        return False
    return (str(int(event)) if isinstance(event, float) else str(event)) in source.events


def _near(ours: str, path: str, candidates: list[str]) -> list[str]:
    """The candidates that resemble a path, or whose last name does, or that have our field's name in them."""

    def alike(one: str, other: str) -> float:
        return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()

    def score(candidate: str) -> float:
        last = candidate.rpartition(".")[2]
        # A name inside the other is a strong sign whatever the lengths: "ts" no, "time" in "event_time" yes.
        inside = 0.7 if len(ours) > 3 and ours in candidate.lower() else 0.0
        return max(alike(path, candidate), alike(path.rpartition(".")[2], last), alike(ours, last), inside)

    scores = {candidate: score(candidate) for candidate in candidates}
    return sorted((c for c in candidates if scores[c] >= _CLOSE), key=lambda c: -scores[c])[:3]


def _guess(theirs: str) -> str:
    """What an event of another shop's is probably called here."""
    name = theirs.lower()
    for ours, words in _WORDS.items():
        if any(word in name for word in words):
            return ours
    near = difflib.get_close_matches(name, EVENTS, n=1, cutoff=_CLOSE)
    return near[0] if near else "other"
