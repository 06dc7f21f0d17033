"""Answers that are still true: found again by what was asked, and by the version of what they were made of.

Between two records of an item its answer is the same, and many ask: then neither is the body made again, nor hashed for its ETag.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

_MOST_BYTES = 16_777_216
_MOST = 10_000


class Body(NamedTuple):
    """An answer."""

    data: bytes
    tag: str
    """Its ETag: made of the bytes, so that it is the same at every instance."""


def body_of(data: bytes) -> Body:
    """An answer with its ETag.

    Args:
        data: JSON.
    """
    return Body(data, f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"')


class Kept:
    """Answers by what was asked; those that nobody asked for lately leave.

    Args:
        most_bytes: of all bodies together.
        most: answers.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES, most: int = _MOST) -> None:
        self._most_bytes, self._most = most_bytes, most
        self._known: OrderedDict[str, tuple[Hashable, Body]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(self, asked: str, version: Hashable) -> Body | None:
        """An answer that is still true.

        Args:
            asked: the address as it was sent.
            version: of all that the answer is made of, as it is now.
        """
        found = self._known.get(asked)
        if found is None or found[0] != version:
            return None
        self._known.move_to_end(asked)
        return found[1]

    def keep(self, asked: str, version: Hashable, body: Body) -> None:
        """Keeps one.

        Args:
            asked: the address as it was sent.
            version: of all that it was made of.
            body: it.
        """
        before = self._known.pop(asked, None)
        self._bytes += len(body.data) - (len(before[1].data) if before is not None else 0)
        self._known[asked] = (version, body)
        while self._bytes > self._most_bytes or len(self._known) > self._most:
            _, (_, old) = self._known.popitem(last=False)
            self._bytes -= len(old.data)
