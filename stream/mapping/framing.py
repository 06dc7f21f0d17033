"""From the bytes of many messages to objects: together as one JSON array, and one by one where that fails."""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple, cast

import msgspec

_TOGETHER = 512  # larger arrays fall out of the cache: 300 ns a message, 380 with 2,048

# Stands between two messages, so that `{"a":[1` and `2]}` cannot merge into one good message: a merge swallows it, and no
# message can bring it along, since it is drawn anew by every process. Decides nothing but whether to go message by message.
_SENTINEL = secrets.randbits(62)
_BETWEEN = b",%d," % _SENTINEL

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Framed(NamedTuple):
    """Decoded messages of a batch."""

    objects: list[Any]
    """Structs of the m readable messages."""
    kept: list[int] | None
    """Which of the batch they are; None: all."""
    unreadable: dict[int, tuple[str, str]]
    """Reason and detail of the others, by index."""
    longest: int
    """Bytes of the longest message."""


class Framing:
    """Decodes messages into Structs of one type."""

    def __init__(self, message: type[msgspec.Struct], most_bytes: int) -> None:
        """
        Args:
            message: what a message becomes.
            most_bytes: larger messages are not decoded.
        """
        self._message = message
        self._most_bytes = most_bytes
        self._array = cast("msgspec.json.Decoder[list[Any]]", msgspec.json.Decoder(list[message | int]))  # type: ignore[valid-type]
        self._single = msgspec.json.Decoder(message)
        self._syntax = msgspec.json.Decoder(msgspec.Raw)

    def decode(self, values: list[bytes | None]) -> Framed:
        """Decodes messages.

        Args:
            values: of n messages.
        """
        objects: list[Any] = []
        index: list[int] = []
        unreadable: dict[int, tuple[str, str]] = {}
        longest = 0
        for start in range(0, len(values), _TOGETHER):
            chunk = values[start : start + _TOGETHER]
            try:
                longest_here = max(map(len, chunk))  # type: ignore[arg-type]
            except TypeError:  # one is None
                longest_here = max((len(value) for value in chunk if value is not None), default=0)
            longest = max(longest, longest_here)
            together = self._decode_together(chunk) if longest_here <= self._most_bytes else None
            if together is not None:
                objects += together
                index += range(start, start + len(chunk))
                continue
            for place, value in enumerate(chunk, start=start):
                try:
                    objects.append(self._decode_one(value))
                    index.append(place)
                except _Unreadable as error:
                    unreadable[place] = (error.reason, error.detail)
        return Framed(objects, index if unreadable else None, unreadable, longest)

    def _decode_together(self, values: list[bytes | None]) -> list[Any] | None:
        try:
            array = self._array.decode(b"[" + _BETWEEN.join(values) + b"]")  # type: ignore[arg-type]
        except (TypeError, *_UNREADABLE):  # TypeError: a value that is None
            return None
        if len(array) != 2 * len(values) - 1 or array[1::2].count(_SENTINEL) != len(values) - 1:
            return None
        messages = array[::2]
        return messages if set(map(type, messages)) == {self._message} else None

    def _decode_one(self, value: bytes | None) -> Any:
        if not value:
            raise _Unreadable("malformed", "must be a JSON object; got no value")
        if len(value) > self._most_bytes:
            raise _Unreadable("too_large", f"must have at most {self._most_bytes} bytes; got {len(value)}")
        try:
            return self._single.decode(value)
        except msgspec.ValidationError as error:
            wrong = str(error)
        except RecursionError:
            raise _Unreadable("malformed", "is nested too deeply") from None
        except _UNREADABLE as error:
            raise _Unreadable("malformed", f"must be JSON: {error}") from None
        # A wrong type ends the decoding there; whether the rest is JSON at all decides what the message is called.
        try:
            self._syntax.decode(value)
        except RecursionError:
            raise _Unreadable("malformed", "is nested too deeply") from None
        except _UNREADABLE as error:
            raise _Unreadable("malformed", f"must be JSON: {error}") from None
        if not value.lstrip().startswith(b"{"):
            raise _Unreadable("malformed", "must be a JSON object")
        raise _Unreadable("bad_value", wrong)


class _Unreadable(Exception):
    """A message that cannot become a Struct."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
