"""Who asks: API keys, and tokens of an OIDC issuer; and what they may see of people: ids, or pseudonyms.

Nothing here says more of a refusal than its kind, neither to whoever asks nor to the log: what was presented may be somebody's key.

    Refused              401: nobody we know
    └── Unsure           503: the issuer's keys cannot be had, so nobody knows
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import time
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import jwt
import msgspec

from stream.serving import Jwt, Secret, Serve, is_loopback

log = logging.getLogger("nowcart.serve")

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""With a public key all of them: no `none`, and no HMAC, for which a public key would be the secret."""

LEEWAY_S = 30.0
_KEYS_LAST_S = 3_600.0
_ASK_AGAIN_S = 10.0
"""The issuer is asked for keys no more often, however many unknown ones are named."""
_FETCH_TIMEOUT_S = 5.0
_LARGEST_DOCUMENT = 1_048_576
_LONGEST_TOKEN = 8_192


class Refused(Exception):
    """Nobody we know."""


class Unsure(Refused):
    """The issuer's keys cannot be had."""


class Identity(NamedTuple):
    """Who asks."""

    name: str
    masked: bool = False
    expires_s: float | None = None
    """Epoch seconds at which a token ends."""


ANYBODY = Identity("anybody")


class Mask:
    """Pseudonyms: the same for the same id, and nobody without the secret can tell whose.

    Args:
        secret: the key of the hash.
    """

    def __init__(self, secret: Secret) -> None:
        self._hash = hmac.new(secret.reveal(), digestmod=hashlib.sha256)

    def alias(self, name: str) -> str:
        """The pseudonym of an id.

        Args:
            name: of a session or a user.
        """
        keyed = self._hash.copy()
        keyed.update(name.encode())
        return "~" + base64.b32encode(keyed.digest()[:15]).decode().lower()

    def record(self, raw: bytes) -> bytes:
        """A record of intent with pseudonyms in place of ids.

        Args:
            raw: JSON.
        """
        record: dict[str, Any] = msgspec.json.decode(raw)
        for field in ("session", "user"):
            if isinstance(record.get(field), str):
                record[field] = self.alias(record[field])
        return msgspec.json.encode(record)


Fetch = Callable[[str], bytes]


class Access:
    """Tells who asks.

    Args:
        serve: keys, and the issuer.
        fetch: gets a document of the issuer's; None: over HTTP.
        clock: epoch seconds.
    """

    def __init__(self, serve: Serve, fetch: Fetch | None = None, clock: Callable[[], float] = time.time) -> None:
        self._keys = [(bytes.fromhex(key.sha256), Identity(key.name, key.mask)) for key in serve.keys]
        self._open = serve.open
        self._issuer = Issuer(serve.jwt, fetch or _fetch, clock) if serve.jwt is not None else None

    @property
    def open(self) -> bool:
        """Whether anybody may ask."""
        return self._open

    async def who(self, authorization: str | None, api_key: str | None) -> Identity:
        """Who asks.

        Args:
            authorization: the header of that name.
            api_key: the header X-API-Key.

        Raises:
            Refused: nobody we know.
        """
        if self._open:
            return ANYBODY
        scheme, _, credential = (authorization or "").partition(" ")
        presented = credential.strip() if scheme.lower() == "bearer" else api_key or ""
        if not presented or len(presented) > _LONGEST_TOKEN:
            raise Refused
        if (known := self._key(presented)) is not None:
            return known
        if self._issuer is not None and presented.count(".") == 2:
            return await self._issuer.who(presented)
        raise Refused

    def _key(self, presented: str) -> Identity | None:
        """Compares with every key, in a time that tells nothing of where they differ."""
        digest = hashlib.sha256(presented.encode(errors="surrogateescape")).digest()
        found = None
        for known, identity in self._keys:
            if hmac.compare_digest(known, digest):
                found = identity
        return found


class Issuer:
    """Tokens of one OIDC issuer.

    Args:
        settings: whose, and for whom.
        fetch: gets a document over HTTP.
        clock: epoch seconds.
    """

    def __init__(self, settings: Jwt, fetch: Fetch, clock: Callable[[], float]) -> None:
        self._settings, self._fetch, self._clock = settings, fetch, clock
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched = self._asked = float("-inf")
        self._lock = asyncio.Lock()

    async def who(self, token: str) -> Identity:
        """Whose token it is.

        Args:
            token: as presented.

        Raises:
            Refused: it is not valid.
            Unsure: the issuer's keys cannot be had.
        """
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise Refused from None
        if header.get("alg") not in ALGORITHMS:
            raise Refused
        key = await self._key(header.get("kid"))
        if key is None:
            raise Refused
        try:
            claims = jwt.decode(
                token,
                key=key.key,
                algorithms=[key.algorithm_name] if key.algorithm_name in ALGORITHMS else [],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            raise Refused from None
        return Identity(str(claims.get("sub", "token"))[:64], self._settings.mask, float(claims["exp"]))

    async def _key(self, name: str | None) -> jwt.PyJWK | None:
        now = self._clock()
        if name in self._keys and now - self._fetched < _KEYS_LAST_S:
            return self._keys[name]
        async with self._lock:
            now = self._clock()
            old = now - self._fetched >= _KEYS_LAST_S
            if (old or name not in self._keys) and now - self._asked >= _ASK_AGAIN_S:
                self._asked = now
                try:
                    self._keys = await asyncio.to_thread(self._fetch_keys)
                    self._fetched = self._clock()
                except Exception as error:  # noqa: BLE001 — whatever the issuer does, we go on with what we have
                    log.warning("the keys of %s cannot be had: %s", self._settings.issuer, type(error).__name__)
            if not self._keys:
                raise Unsure
        return self._keys.get(name)

    def _fetch_keys(self) -> dict[str | None, jwt.PyJWK]:
        url = self._settings.jwks
        if not url:
            found = msgspec.json.decode(self._fetch(self._settings.issuer.rstrip("/") + "/.well-known/openid-configuration"))
            url = str(found["jwks_uri"])
            parts = urlsplit(url)
            if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
                raise ValueError("jwks_uri must be an https URL")
        keys: dict[str | None, jwt.PyJWK] = {}
        for described in msgspec.json.decode(self._fetch(url))["keys"]:
            if described.get("use", "sig") != "sig" or described.get("kty") == "oct":
                continue
            try:
                keys[described.get("kid")] = jwt.PyJWK(described)
            except jwt.PyJWTError:
                continue  # of a kind that we do not know
        return keys


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_FETCH_TIMEOUT_S) as answer:  # the configuration allows http(s) alone
        document: bytes = answer.read(_LARGEST_DOCUMENT)
    return document
