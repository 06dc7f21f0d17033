"""Requests to webhooks: how they are signed, how long to wait after which failure, and what an answer means. Pure.

    nowcart-signature: t=1764300000,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd

v1 is the HMAC-SHA256, in hexadecimal, of `1764300000.` and the body's bytes. The receiver computes the same, compares in constant time, and
refuses stamps that are old.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from enum import Enum

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0

SIGNATURE = "nowcart-signature"

# Of the client's errors, those that the next attempt of the same bytes cannot mend. Others (401, 403, 404 …) are the receiver's set-up,
# which somebody is about to mend; nobody's page is thrown away for it before its time.
_REFUSED = {400, 405, 406, 410, 411, 413, 414, 415, 422}


class Answer(Enum):
    """What became of an attempt."""

    DELIVERED = "delivered"
    RETRY = "retry"
    REFUSED = "refused"


def answer_of(status: int) -> Answer:
    """What an HTTP status means.

    Args:
        status: of the response.
    """
    if 200 <= status < 300:
        return Answer.DELIVERED
    return Answer.REFUSED if status in _REFUSED else Answer.RETRY


def signature(secret: bytes, at_s: int, body: bytes) -> str:
    """The value of the header.

    Args:
        secret: shared with the receiver.
        at_s: epoch seconds.
        body: of the request.
    """
    return f"t={at_s},v1={hmac.new(secret, b'%d.' % at_s + body, hashlib.sha256).hexdigest()}"


def headers_of(key: str, body: bytes, at_s: int, secret: bytes | None) -> dict[str, str]:
    """The headers of an attempt.

    Args:
        key: the same for every attempt of a request.
        body: of the request.
        at_s: epoch seconds.
        secret: None: not signed.
    """
    headers = {"content-type": "application/json", "user-agent": "nowcart", "idempotency-key": key, "nowcart-schema": "1"}
    return headers if secret is None else headers | {SIGNATURE: signature(secret, at_s, body)}


def wait_s(failures: int, chance: Callable[[], float]) -> float:
    """How long to wait: twice as long after each failure, of which a random part, so that many do not come back at once.

    Args:
        failures: in a row, from 1.
        chance: a number in [0, 1).
    """
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 1, 30))
    return longest * (0.5 + 0.5 * chance())
