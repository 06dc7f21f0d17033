"""What `[serve]` says: where the HTTP server listens, who may ask, and how much it keeps. Shapes no state.

A key's secret is hashed as it is read, so that it stands nowhere; the masking secret hides itself from whatever prints it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

import msgspec

from stream.engine.time import DAY_MS, MINUTE_MS
from stream.tables import ConfigError, Table, shown

LEAST_SECRET = 16
"""Characters: what is shorter can be guessed."""

KEYS = (
    "host", "port", "metrics_port", "engine_metrics", "cors", "keys", "jwt", "mask_secret", "max_readers", "reader_bytes", "replay_records",
    "replay_bytes", "back", "back_records", "history", "max_items", "max_sessions", "session_quiet", "ended_stay",
)  # fmt: skip


class Secret:
    """A text that does not print itself."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The text, UTF-8."""
        return self._value.encode()

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret(…)"


class ApiKey(msgspec.Struct, frozen=True):
    """One API key: only its hash is known."""

    name: str
    sha256: str
    """Of the key, lower-case hexadecimal."""
    mask: bool = False
    """Whoever comes with it sees sessions and users by pseudonyms."""


class Jwt(msgspec.Struct, frozen=True):
    """Whose tokens are taken."""

    issuer: str
    audience: str
    jwks: str = ""
    """URL of the issuer's keys; "": what its /.well-known/openid-configuration names."""
    mask: bool = False


class Serve(msgspec.Struct, frozen=True):
    """The HTTP server."""

    host: str = "127.0.0.1"
    port: int = 8080
    metrics_port: int = 9466
    """0: off."""
    engine_metrics: tuple[str, ...] = ()
    """The engine's own /metrics, one URL a process."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may ask."""
    keys: tuple[ApiKey, ...] = ()
    jwt: Jwt | None = None
    mask_secret: Secret = Secret("")
    max_readers: int = 2_000
    """Streams at once."""
    reader_bytes: int = 262_144
    """What may wait for one reader before it is dropped."""
    replay_records: int = 20_000
    """Of each topic, for readers that come back."""
    replay_bytes: int = 33_554_432
    back_ms: int = 7 * DAY_MS
    """How far back the topics are read at the start."""
    back_records: int = 500_000
    """And of how many records of a topic at most."""
    history: int = 72
    """Closed buckets of each item and size that are kept."""
    max_items: int = 200_000
    max_sessions: int = 50_000
    session_quiet_ms: int = 0
    """A session without news for so long, by event time, is no longer shown; 0: for [intent] session_gap."""
    ended_stay_ms: int = 5 * MINUTE_MS
    """An ended session is shown for so long, by event time."""

    @property
    def open(self) -> bool:
        """Whether anybody who reaches it may ask."""
        return not self.keys and self.jwt is None


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own and nobody else's.

    Args:
        host: as configured, or from a request, without a port.
    """
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_access(serve: Serve) -> None:
    """Whoever can be reached from elsewhere must ask who is there.

    Args:
        serve: as configured, with the host that will be used.

    Raises:
        ConfigError: it would be open to everybody.
    """
    if serve.open and not is_loopback(serve.host):
        raise ConfigError(
            f'serve.host "{serve.host}" can be reached from other machines, so somebody must be asked for a key: add [[serve.keys]] with name '
            'and secret = "${NAME}", or [serve.jwt] with issuer and audience; or set serve.host = "127.0.0.1" and put a proxy before it'
        )


def read_serve(root: Table) -> Serve:
    """Reads the table.

    Args:
        root: the whole file.

    Raises:
        ConfigError: it cannot be used; the message names the key.
    """
    table, usual = root.table("serve", KEYS), Serve()
    keys = tuple(_key(entry) for entry in table.tables("keys", ("name", "secret", "sha256", "mask"))) if "keys" in table else ()
    names = [key.name for key in keys]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f'serve.keys must have names of their own; got "{twice}" twice')
    jwt = _jwt(table.table("jwt", ("issuer", "audience", "jwks", "mask"))) if "jwt" in table else None
    mask_secret = _secret(table, "mask_secret") if table.values.get("mask_secret", "") != "" else Secret("")
    if not mask_secret and (any(key.mask for key in keys) or (jwt is not None and jwt.mask)):
        raise ConfigError('serve.mask_secret is missing: mask = true needs it; a random text, such as "${NOWCART_MASK_SECRET}"')
    return Serve(
        host=table.text("host", usual.host, pattern=r"[A-Za-z0-9.:_\[\]-]+", form="a host name or an address").strip("[]"),
        port=table.whole("port", usual.port, most=65_535),
        metrics_port=table.whole("metrics_port", usual.metrics_port, most=65_535),
        engine_metrics=tuple(_url(table, "engine_metrics", text) for text in _texts(table, "engine_metrics")),
        cors=tuple(_origin(text) for text in _texts(table, "cors")),
        keys=keys,
        jwt=jwt,
        mask_secret=mask_secret,
        max_readers=table.whole("max_readers", usual.max_readers, least=1, most=100_000),
        reader_bytes=table.whole("reader_bytes", usual.reader_bytes, least=16_384, most=2**30),
        replay_records=table.whole("replay_records", usual.replay_records, least=100, most=10_000_000),
        replay_bytes=table.whole("replay_bytes", usual.replay_bytes, least=65_536, most=2**40),
        back_ms=table.duration("back", usual.back_ms),
        back_records=table.whole("back_records", usual.back_records, most=1_000_000_000),
        history=table.whole("history", usual.history, least=2, most=10_000),
        max_items=table.whole("max_items", usual.max_items, least=1, most=100_000_000),
        max_sessions=table.whole("max_sessions", usual.max_sessions, least=1, most=100_000_000),
        session_quiet_ms=table.duration("session_quiet", usual.session_quiet_ms),
        ended_stay_ms=table.duration("ended_stay", usual.ended_stay_ms),
    )


def _key(table: Table) -> ApiKey:
    name = table.text("name", pattern=r"[A-Za-z0-9._-]{1,64}", form="letters, digits, dots, dashes and underscores, at most 64")
    if ("secret" in table) == ("sha256" in table):
        raise ConfigError(
            f'{table.full("secret")} or {table.full("sha256")} must be given, and not both: the key as "${{NAME}}", or its hash'
        )
    if "secret" in table:
        digest = hashlib.sha256(_secret(table, "secret").reveal()).hexdigest()
    else:
        digest = str(table.values["sha256"]).lower()
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ConfigError(
                f"{table.full('sha256')} must be the key's SHA-256, 64 hexadecimal digits"
            )  # what was got may be the key itself
    return ApiKey(name, digest, table.flag("mask", False))


def _secret(table: Table, key: str) -> Secret:
    """Never shown in a message, whatever is wrong with it."""
    value = table.values[key]
    if not isinstance(value, str) or len(value) < LEAST_SECRET:
        got = f"{len(value)} characters" if isinstance(value, str) else "no text"
        raise ConfigError(
            f"{table.full(key)} must be a text of at least {LEAST_SECRET} characters; got {got}: `openssl rand -hex 32` makes a good one"
        )
    return Secret(value)


def _jwt(table: Table) -> Jwt:
    return Jwt(
        _url(table, "issuer", table.text("issuer")),
        table.text("audience", pattern=r".+", form="whom the tokens are for"),
        _url(table, "jwks", table.text("jwks")) if "jwks" in table else "",
        table.flag("mask", False),
    )


def _texts(table: Table, key: str) -> list[str]:
    values: Any = table.values.get(key, [])
    values = [values] if isinstance(values, str) else values
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"{table.full(key)} must be a text or an array of texts; got {shown(values)}")
    return values


def _url(table: Table, key: str, text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f'{table.full(key)} must be an http or https URL; got "{text}"')
    if key != "engine_metrics" and parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ConfigError(f'{table.full(key)} must be an https URL, or anybody on the way could sign tokens; got "{text}"')
    return text


def _origin(text: str) -> str:
    if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?", text):
        raise ConfigError(f'serve.cors must be origins such as "https://shop.example"; got "{text}"')
    return text
