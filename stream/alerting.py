"""What users say of alerts: how spikes are grouped, what is silenced, and who is told. Typed values; nothing here runs."""

from __future__ import annotations

import datetime as dt
import re
from urllib.parse import urlsplit

import msgspec

from stream.engine.time import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, SIZES
from stream.tables import ConfigError, Table, shown

SEVERITIES = ("warning", "critical")
"""Ascending."""
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_CLOCK = r"([01]\d|2[0-3]):[0-5]\d"
_NAME = r"[A-Za-z0-9_-]{1,64}"


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """Spikes that nobody is told of: those for which all that is said here is so."""

    name: str
    """Shown in logs."""
    item: str = "*"
    """A glob: * and ?."""
    category: str = "*"
    """A glob; a spike without a category matches "*" alone."""
    bucket: str | None = None
    severity: str | None = None
    """This severity only."""
    starts_ms: int | None = None
    ends_ms: int | None = None
    """[starts, ends), epoch milliseconds; None: open."""
    days: tuple[str, ...] = ()
    """Of DAYS, in the shop's zone; empty: all. A span of the clock over midnight belongs to the day on which it begins."""
    from_minute: int | None = None
    until_minute: int | None = None
    """[from, until) of the shop's clock, minutes since midnight; until before from: over midnight."""


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who is told by an HTTP request."""

    name: str
    url: str
    secret: str | None = None
    """What the request is signed with."""
    secret_file: str | None = None
    """Or the file in which it stands."""
    severity: str = "warning"
    """Alerts of this severity at the least."""
    timeout_ms: int = 10 * SECOND_MS
    give_up_after_ms: int = HOUR_MS
    """After the first attempt the request is a dead letter."""


class Alertmanager(msgspec.Struct, frozen=True):
    """Prometheus's Alertmanager."""

    url: str | None = None
    """Its root; None: none."""
    authorization: str | None = None
    """The header of that name, as "Bearer …"."""
    repost_ms: int = 30 * SECOND_MS
    """Open alerts are posted again that often."""
    expires_ms: int = 5 * MINUTE_MS
    """Without a word from us for so long, Alertmanager takes an alert for over."""
    timeout_ms: int = 10 * SECOND_MS


class Alerts(msgspec.Struct, frozen=True):
    """All of it."""

    group_by: str = "category"
    """category | item."""
    cooldown_ms: int = 10 * MINUTE_MS
    """An alert whose spikes are over stays open for so long, and goes on if one comes back."""
    stale_after_ms: int = 2 * DAY_MS
    """A spike of which nothing was heard for so long (and for four of its buckets) counts as over."""
    alertmanager: Alertmanager = Alertmanager()
    webhooks: tuple[Webhook, ...] = ()
    silences: tuple[Silence, ...] = ()


def read_alerts(root: Table) -> Alerts:
    """Reads [alerts].

    Args:
        root: the file.

    Raises:
        ConfigError: it cannot be used; the message names the key.
    """
    table = root.table("alerts", ("group_by", "cooldown", "stale_after", "alertmanager", "webhooks", "silences"))
    usual = Alerts()
    return Alerts(
        group_by=table.text("group_by", usual.group_by, allowed=("category", "item")),
        cooldown_ms=table.duration("cooldown", usual.cooldown_ms),
        stale_after_ms=table.duration("stale_after", usual.stale_after_ms, least_ms=MINUTE_MS),
        alertmanager=_alertmanager(table),
        webhooks=_webhooks(table),
        silences=_silences(table),
    )


def _alertmanager(alerts: Table) -> Alertmanager:
    table = alerts.table("alertmanager", ("url", "authorization", "repost", "expires", "timeout"))
    usual = Alertmanager()
    made = Alertmanager(
        url=_url(table, "url") if "url" in table else None,
        authorization=table.text("authorization") if "authorization" in table else None,
        repost_ms=table.duration("repost", usual.repost_ms, least_ms=SECOND_MS),
        expires_ms=table.duration("expires", usual.expires_ms, least_ms=SECOND_MS),
        timeout_ms=table.duration("timeout", usual.timeout_ms, least_ms=1),
    )
    if made.expires_ms < 2 * made.repost_ms:
        raise ConfigError(
            f"{table.full('expires')} must be at least twice {table.full('repost')} ({made.repost_ms} ms), or one lost request would end "
            f"every alert; got {made.expires_ms} ms"
        )
    return made


def _webhooks(alerts: Table) -> tuple[Webhook, ...]:
    if "webhooks" not in alerts:
        return ()
    usual = Webhook(name="", url="")
    found: list[Webhook] = []
    for table in alerts.tables("webhooks", ("name", "url", "secret", "secret_file", "severity", "timeout", "give_up_after")):
        name = table.text("name", pattern=_NAME, form="letters, digits, dashes and underscores, at most 64")
        if name == "alertmanager" or any(name == other.name for other in found):
            raise ConfigError(f'{table.full("name")} must be nobody else\'s, nor "alertmanager"; got "{name}"')
        if "secret" in table and "secret_file" in table:
            raise ConfigError(f"{table.full('secret')} and {table.full('secret_file')} exclude each other: leave one of them out")
        found.append(
            Webhook(
                name=name,
                url=_url(table, "url"),
                secret=table.text("secret", pattern=r".+", form="not empty") if "secret" in table else None,
                secret_file=table.text("secret_file", pattern=r".+", form="a file's path") if "secret_file" in table else None,
                severity=table.text("severity", usual.severity, allowed=SEVERITIES),
                timeout_ms=table.duration("timeout", usual.timeout_ms, least_ms=1),
                give_up_after_ms=table.duration("give_up_after", usual.give_up_after_ms),
            )
        )
    return tuple(found)


def _silences(alerts: Table) -> tuple[Silence, ...]:
    if "silences" not in alerts:
        return ()
    keys = ("name", "item", "category", "bucket", "severity", "starts", "ends", "days", "from", "until")
    found = []
    for number, table in enumerate(alerts.tables("silences", keys)):
        if not any(key in table for key in keys[1:]):
            raise ConfigError(f"{table.name} must say what it silences: at least one of {', '.join(keys[1:])}")
        if ("from" in table) != ("until" in table):
            raise ConfigError(f"{table.name} must have both from and until, or neither")
        silence = Silence(
            name=table.text("name", f"silence {number + 1}"),
            item=table.text("item", "*", pattern=r".+", form="a glob, such as AB-*"),
            category=table.text("category", "*", pattern=r".+", form="a glob, such as shoes*"),
            bucket=table.text("bucket", allowed=tuple(SIZES)) if "bucket" in table else None,
            severity=table.text("severity", allowed=SEVERITIES) if "severity" in table else None,
            starts_ms=_moment(table, "starts"),
            ends_ms=_moment(table, "ends"),
            days=_days(table),
            from_minute=_clock(table, "from"),
            until_minute=_clock(table, "until"),
        )
        if silence.starts_ms is not None and silence.ends_ms is not None and silence.ends_ms <= silence.starts_ms:
            raise ConfigError(f"{table.full('ends')} must be after {table.full('starts')}")
        found.append(silence)
    return tuple(found)


def _url(table: Table, key: str) -> str:
    text = table.text(key)
    form = f'{table.full(key)} must be an http or https URL, such as "http://alertmanager:9093"'
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(f"{form}; got {re.sub(r'//[^/@]*@', '//…@', text)!r}")  # a password does not go to the log
    return text.rstrip("/")


def _moment(table: Table, key: str) -> int | None:
    if key not in table:
        return None
    value = table.values[key]
    form = f"{table.full(key)} must be a time with its offset, such as 2026-11-27T00:00:00Z"
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            raise ConfigError(f"{form}; got {shown(value)}") from None
    if not isinstance(value, dt.datetime) or value.tzinfo is None:
        raise ConfigError(f"{form}; got {shown(str(value))}")
    return round(value.timestamp() * 1000)


def _clock(table: Table, key: str) -> int | None:
    if key not in table:
        return None
    hour, minute = table.text(key, pattern=_CLOCK, form='a time of the day, such as "06:30"').split(":")
    return int(hour) * 60 + int(minute)


def _days(table: Table) -> tuple[str, ...]:
    days = table.values.get("days", [])
    if not isinstance(days, list) or any(day not in DAYS for day in days):
        raise ConfigError(f"{table.full('days')} must be an array of {', '.join(DAYS)}; got {days!r}")
    return tuple(days)
