"""The book of alerts: spikes go in one by one, alert records come out. Pure: the clock is an argument.

Spikes of one bucket size and category (or item, where there is none) make one alert. It opens with the first of them, follows those that
join and leave, escalates with the gravest, and is over when none has been left for a while. A spike that is told twice, or told again
without being graver, changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

from stream.alerting import SEVERITIES, Alerts
from stream.alerts.silences import silenced_by
from stream.engine.time import SIZES
from stream.records import AlertedSpike, AlertRecord

REVIEW_AFTER_MS = 30_000
"""A silenced spike is looked at again by the clock only when it is so old: what ended in the same backlog must not be told."""

REMEMBER_MS = 900_000
"""How long an alert that is over is still told to Alertmanager."""

SHOWN_ITEMS = 3
NAMED_ITEMS = 1_000
"""So many items are named in a summary, and in a record."""


class Spike(msgspec.Struct, frozen=True):
    """A record of `spikes` as it is read: what it must have."""

    item: str
    bucket: str
    bucket_start_ms: int
    observed: int | float
    expected: float
    p_value: float
    severity: Literal["warning", "critical"]
    state: Literal["open", "resolved"]
    model_version: str
    category: str | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.item) <= 1_024:
            raise ValueError(f"item must have 1 to 1,024 characters; got {len(self.item)}")
        if self.bucket not in SIZES:
            raise ValueError(f"bucket must be one of {', '.join(SIZES)}; got {self.bucket!r}")
        if not 0 <= self.bucket_start_ms < 1 << 53:
            raise ValueError(f"bucket_start_ms must be epoch milliseconds; got {self.bucket_start_ms}")
        if self.category == "":
            msgspec.structs.force_setattr(self, "category", None)
        elif self.category is not None and len(self.category) > 1_024:
            raise ValueError(f"category must have at most 1,024 characters; got {len(self.category)}")


class Entry(msgspec.Struct):
    """A spike that is not over."""

    spike: Spike
    heard_ms: int
    """When its newest record was taken, by the clock."""
    silenced: bool = False


class Group(msgspec.Struct):
    """The spikes of one bucket size and category (or item), and their alert."""

    bucket: str
    category: str | None
    item: str | None
    entries: dict[str, Entry] = {}
    phase: Literal["none", "open", "over"] = "none"
    """Of the alert."""
    alert: str = ""
    update: int = 0
    severity: str = "warning"
    started_ms: int = 0
    updated_ms: int = 0
    quiet_ms: int | None = None
    """Event time since which no spike is left."""
    quiet_since_ms: int = 0
    """The same by the clock."""
    escalated_ms: int = 0
    """When a warning became critical, by the clock."""
    over_ms: int = 0
    """When the alert ended, by the clock."""
    members: dict[str, None] = {}
    """Items that are or were part of it."""
    worst: AlertedSpike | None = None
    model_version: str = ""

    @property
    def loud(self) -> list[Entry]:
        """Spikes that are not over and not silenced."""
        return [entry for entry in self.entries.values() if not entry.silenced]


def key_of(group: Group) -> str:
    """What a group is called in the ledger."""
    kind, name = ("item", group.item) if group.item is not None else ("category", group.category)
    return f"{group.bucket} {kind} {name}"


class Book:
    """All groups.

    Args:
        settings: [alerts].
        zone: the shop's, for silences.
        groups: what an earlier life knew.
    """

    def __init__(self, settings: Alerts, zone: str, groups: Iterable[Group] = ()) -> None:
        self._settings, self._zone = settings, ZoneInfo(zone)
        self.groups = {key_of(group): group for group in groups}
        # A resolved spike may no longer say its category.
        self._where = {(group.bucket, item): key for key, group in self.groups.items() for item in group.entries}
        self.changed: set[str] = set()
        """Keys of groups that differ from what the ledger holds; whoever writes them clears it."""
        self.silenced = 0
        """Spikes that were silenced when they came."""

    def take(self, spike: Spike, now_ms: int) -> list[AlertRecord]:
        """Takes a spike's record.

        Args:
            spike: as published.
            now_ms: the clock, epoch milliseconds.
        """
        place = spike.bucket, spike.item
        group = self.groups.get(self._where.get(place, self._key(spike)))
        if spike.state == "resolved":
            return [] if group is None or spike.item not in group.entries else list(self._remove(group, spike.item, spike, now_ms))
        if group is None:
            by_item = self._settings.group_by == "item" or spike.category is None
            group = Group(spike.bucket, spike.category, spike.item if by_item else None)
            self.groups[key_of(group)] = group
        before = group.entries.get(spike.item)
        silenced = self._is_silenced(spike, spike.bucket_start_ms)
        if before is not None and not before.silenced and not _graver(spike.severity, before.spike.severity):
            return []  # told before
        self.silenced += silenced
        group.entries[spike.item] = Entry(spike, now_ms, silenced)
        self._where[place] = key_of(group)
        self.changed.add(key_of(group))
        return [] if silenced else list(self._tell(group, spike, before is None or before.silenced, now_ms))

    def tick(self, now_ms: int) -> list[AlertRecord]:
        """What the passing of time changes.

        Args:
            now_ms: the clock, epoch milliseconds.
        """
        told: list[AlertRecord] = []
        for key, group in list(self.groups.items()):
            for item, entry in list(group.entries.items()):
                patience_ms = max(self._settings.stale_after_ms, 4 * SIZES[group.bucket])
                if now_ms - entry.heard_ms > patience_ms:
                    told += self._remove(group, item, entry.spike, now_ms)
                elif entry.silenced and now_ms - entry.heard_ms > REVIEW_AFTER_MS and not self._is_silenced(entry.spike, now_ms):
                    entry.silenced = False
                    self.changed.add(key)
                    told += self._tell(group, entry.spike, True, now_ms)
            if group.phase == "open" and group.quiet_ms is not None and now_ms - group.quiet_since_ms >= self._settings.cooldown_ms:
                told.append(self._close(group, group.quiet_ms, now_ms))
            if not group.entries and (group.phase == "none" or (group.phase == "over" and now_ms - group.over_ms > REMEMBER_MS)):
                del self.groups[key]
                self.changed.add(key)
        return told

    def _key(self, spike: Spike) -> str:
        if self._settings.group_by == "item" or spike.category is None:
            return f"{spike.bucket} item {spike.item}"
        return f"{spike.bucket} category {spike.category}"

    def _is_silenced(self, spike: Spike, at_ms: int) -> bool:
        found = silenced_by(self._settings.silences, self._zone, spike.item, spike.category, spike.bucket, spike.severity, at_ms)
        return found is not None

    def _tell(self, group: Group, spike: Spike, joins: bool, now_ms: int) -> Iterator[AlertRecord]:
        """A spike that is to be heard has come, or has become graver."""
        if group.phase == "open" and group.quiet_ms is not None and spike.bucket_start_ms - group.quiet_ms > self._settings.cooldown_ms:
            yield self._close(group, group.quiet_ms, now_ms)  # a backlog: the clock has not had the time to say so
        if group.phase != "open":
            self._open(group, spike)
            yield self._record(group, "opened", spike)
            return
        group.quiet_ms = None
        group.members[spike.item] = None
        if _graver(spike.severity, group.severity):
            group.severity, group.escalated_ms = spike.severity, now_ms
            yield self._record(group, "escalated", spike)
        elif joins:
            yield self._record(group, "joined", spike)

    def _open(self, group: Group, spike: Spike) -> None:
        group.phase, group.update, group.severity = "open", 0, spike.severity
        group.started_ms = group.updated_ms = spike.bucket_start_ms
        group.quiet_ms, group.escalated_ms, group.over_ms, group.worst = None, 0, 0, None
        group.members = {spike.item: None}
        group.alert = hashlib.sha256(f"{key_of(group)} {spike.bucket_start_ms} {spike.item}".encode()).hexdigest()[:16]

    def _remove(self, group: Group, item: str, spike: Spike, now_ms: int) -> Iterator[AlertRecord]:
        entry = group.entries.pop(item)
        del self._where[group.bucket, item]
        self.changed.add(key_of(group))
        if entry.silenced or group.phase != "open":
            return
        if group.loud:
            yield self._record(group, "left", spike)
            return
        group.quiet_ms, group.quiet_since_ms = spike.bucket_start_ms, now_ms
        if self._settings.cooldown_ms == 0:
            yield self._close(group, group.quiet_ms, now_ms)

    def _close(self, group: Group, updated_ms: int, now_ms: int) -> AlertRecord:
        group.phase, group.over_ms, group.quiet_ms = "over", now_ms, None
        group.updated_ms = max(group.updated_ms, updated_ms)
        return self._record(group, "resolved", None)

    def _record(self, group: Group, change: str, spike: Spike | None) -> AlertRecord:
        self.changed.add(key_of(group))
        group.update += 1
        if spike is not None:
            group.updated_ms = max(group.updated_ms, spike.bucket_start_ms)
            group.model_version = spike.model_version
        loud = sorted((entry.spike for entry in group.loud), key=lambda each: (each.p_value, each.item))
        if loud and (group.worst is None or loud[0].p_value <= group.worst.p_value):
            group.worst = AlertedSpike(loud[0].item, loud[0].observed, loud[0].expected, loud[0].p_value)
        assert group.worst is not None
        over = group.phase == "over"
        return AlertRecord(
            alert=group.alert,
            update=group.update,
            change=change,
            category=group.category,
            items=sorted(group.members if over else (each.item for each in loud))[:NAMED_ITEMS],
            bucket=group.bucket,
            severity=group.severity,
            state="resolved" if over else "open",
            started_ms=group.started_ms,
            updated_ms=group.updated_ms,
            summary=_summary(group, loud),
            worst=group.worst,
            model_version=group.model_version,
        )


def _graver(one: str, other: str) -> bool:
    return SEVERITIES.index(one) > SEVERITIES.index(other)


def _summary(group: Group, loud: list[Spike]) -> str:
    what = group.item if group.item is not None else group.category
    if group.phase == "over":
        count = len(group.members)
        return f"{what}: demand is ordinary again ({count} item{'s' if count != 1 else ''}, {group.bucket} buckets)"
    some = ", ".join(f"{each.item} sold {each.observed:g} against {each.expected:g} expected" for each in loud[:SHOWN_ITEMS])
    more = f", and {len(loud) - SHOWN_ITEMS} more" if len(loud) > SHOWN_ITEMS else ""
    return f"{what}: demand far beyond its forecast in {group.bucket} buckets: {some}{more}"
