"""Answers: JSON with an ETag, problems that say what was got and what is allowed (RFC 9457), and what queries may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from stream.serve.kept import Body
from stream.tables import nearest

JSON = "application/json"
PROBLEM = "application/problem+json"
_SHOWN = 200


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request cannot be answered as asked."""

    title: str
    status: int
    detail: str
    parameter: str | None = None
    """Which one is wrong."""
    got: str | None = None
    allowed: list[str] | None = None
    did_you_mean: str | None = None


class Trouble(Exception):
    """A problem on its way out."""

    def __init__(self, status: int, title: str, detail: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.problem = Problem(title, status, detail, **more)
        self.headers = headers or {}

    def answer(self) -> web.Response:
        """As a response."""
        return web.Response(
            status=self.problem.status, body=msgspec.json.encode(self.problem), headers={**self.headers, "Content-Type": PROBLEM}
        )


def shortened(text: str) -> str:
    """What was got, as far as it is worth showing; never something that JSON could not hold.

    Args:
        text: from a request.
    """
    text = text.encode(errors="replace").decode()
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def answered(request: web.Request, body: Body, headers: Mapping[str, str] | None = None) -> web.Response:
    """A body, or that the asker has it already.

    Args:
        request: whose.
        body: JSON.
        headers: more of them.
    """
    known = request.headers.get("If-None-Match", "")
    common = {"ETag": body.tag, "Cache-Control": "private, no-cache", "Vary": "Authorization, X-API-Key", **(headers or {})}
    if known and (known.strip() == "*" or body.tag in re.findall(r'"[^"]*"', known)):
        return web.Response(status=304, headers=common)
    return web.Response(body=body.data, headers={**common, "Content-Type": JSON})


class Query:
    """The parameters of a request. What is not allowed, or not as it must be, is a problem (422).

    Args:
        request: whose.
        allowed: names of those that may be there.
    """

    def __init__(self, request: web.Request, allowed: Sequence[str]) -> None:
        self._values: dict[str, str] = {}
        for name, value in request.query.items():
            if name not in allowed:
                raise Trouble(
                    422,
                    "unknown parameter",
                    f"allowed here are {', '.join(allowed)}" if allowed else "no parameters are allowed here",
                    parameter=shortened(name),
                    allowed=list(allowed),
                    did_you_mean=nearest(name[:_SHOWN], allowed),
                )
            if name in self._values:
                raise Trouble(422, "repeated parameter", f"{name} may be given once", parameter=name)
            self._values[name] = value

    def text(self, name: str, most: int) -> str | None:
        """A text of at most so many characters, none of them a control character; None: not given."""
        value = self._values.get(name)
        if value is None:
            return None
        if not value or len(value) > most or not value.isprintable():
            raise self._wrong(name, f"must be a text of 1 to {most} printable characters")
        return value

    def choice(self, name: str, allowed: Sequence[str], default: str) -> str:
        """One of some words."""
        value = self._values.get(name, default)
        if value not in allowed:
            raise self._wrong(
                name, f"must be one of {', '.join(allowed)}", allowed=list(allowed), did_you_mean=nearest(value[:_SHOWN], allowed)
            )
        return value

    def choices(self, name: str, allowed: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
        """Some words with commas between them; in the order of `allowed`."""
        values = self._values.get(name, ",".join(default)).split(",")
        for value in values:
            if value not in allowed:
                near = nearest(value[:_SHOWN], allowed)
                raise self._wrong(
                    name, f"must be some of {', '.join(allowed)}, with commas between", allowed=list(allowed), did_you_mean=near
                )
        return tuple(word for word in allowed if word in values)

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number in [least, most]."""
        value = self._values.get(name)
        if value is None:
            return default
        if not re.fullmatch(r"[0-9]{1,12}", value) or not least <= int(value) <= most:
            raise self._wrong(name, f"must be a whole number from {least} to {most}")
        return int(value)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def wrong(self, name: str, must: str) -> Trouble:
        """The problem of a parameter that only its reader can judge.

        Args:
            name: of the parameter.
            must: what it must be.
        """
        return self._wrong(name, must)

    def _wrong(self, name: str, must: str, **more: Any) -> Trouble:
        return Trouble(
            422, "parameter not as it must be", f"{name} {must}", parameter=name, got=shortened(self._values.get(name, "")), **more
        )
