"""The user's paths as msgspec types: one Struct type for a message, one for an order's line, and the way from them to columns."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Optional

import msgspec

from stream.sources import LINE_FIELDS, Source

Getters = tuple[Callable[[Any], Any], ...]
"""One step each into nested objects."""


class Part:
    """Where one path of a field stands: in the line, in the message, or in the line with the message as second place."""

    def __init__(self, path: str, in_line: Getters | None, in_message: Getters | None) -> None:
        self.path = path
        self.in_line = in_line
        self.in_message = in_message


class Shape:
    """What is read of a source's messages.

    `message` and `line` are msgspec Struct types that hold the mapped values, of any JSON type, and nothing else of the messages:
    msgspec skips the rest without making objects of it.
    """

    def __init__(self, source: Source) -> None:
        self.parts: dict[str, tuple[Part, ...]] = {}
        """By our field; several parts for an item that is made of several."""
        self.lines_path = source.lines
        messages, lines = _Tree(), _Tree()
        places: dict[str, list[tuple[str, str | None, str | None]]] = {}
        for field, value in source.fields.items():
            for path in (value,) if isinstance(value, str) else value:
                in_line: str | None = None
                in_message: str | None = path
                if source.lines is not None and path.startswith(source.lines + "."):
                    in_line, in_message = path.removeprefix(source.lines + "."), None
                elif source.lines is not None and field in LINE_FIELDS:
                    in_line = path
                if in_line is not None:
                    lines.add(in_line, Any)
                if in_message is not None:
                    messages.add(in_message, Any)
                places.setdefault(field, []).append((path, in_line, in_message))
        self.line = lines.struct("Line")
        if source.lines is not None:
            messages.add(source.lines, Optional[list[self.line]])  # type: ignore[name-defined]  # noqa: UP045
        self.message = messages.struct("Message")
        self.lines: Getters | None = None if source.lines is None else messages.getters(source.lines)
        for field, found in places.items():
            self.parts[field] = tuple(
                Part(path, in_line and lines.getters(in_line), in_message and messages.getters(in_message))  # type: ignore[arg-type]
                for path, in_line, in_message in found
            )

    def in_lines(self, field: str) -> bool:
        """Whether a field's faults belong to a line rather than to the whole message."""
        return any(part.in_line is not None for part in self.parts.get(field, ()))


class _Tree:
    """Paths as nested objects; keys may be anything, so the attributes are numbered."""

    def __init__(self) -> None:
        self.children: dict[str, Any] = {}

    def add(self, path: str, kind: Any) -> None:
        key, _, rest = path.partition(".")
        if rest:
            self.children.setdefault(key, _Tree()).add(rest, kind)
        else:
            self.children[key] = kind

    def struct(self, name: str) -> type[msgspec.Struct]:
        fields: list[Any] = []
        names: dict[str, str] = {}
        for index, (key, child) in enumerate(self.children.items()):
            kind = Optional[child.struct(name + "Part")] if isinstance(child, _Tree) else child  # noqa: UP045
            fields.append((f"f{index}", kind, None))
            names[f"f{index}"] = key
        # gc=False: they hold decoded JSON, which has no cycles, and the collector would walk them all.
        return msgspec.defstruct(name, fields, rename=names, gc=False)

    def getters(self, path: str) -> Getters:
        key, _, rest = path.partition(".")
        first = attrgetter(f"f{list(self.children).index(key)}")
        return (first, *self.children[key].getters(rest)) if rest else (first,)


def pick(objects: list[Any], getters: Getters) -> list[Any]:
    """The values at a path in each of the objects, None where it ends early.

    Args:
        objects: of a Shape's message or line type.
        getters: the path.
    """
    values = list(map(getters[0], objects))
    for getter in getters[1:]:
        values = [None if value is None else getter(value) for value in values]
    return values
