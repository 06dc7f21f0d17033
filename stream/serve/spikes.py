"""Spikes and alerts: those that are open, and the last that were, bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

import msgspec

_OPEN = 10_000
_RECENT = 1_000


class SpikeRecord(msgspec.Struct, frozen=True, gc=False):
    """What is read of a record of `spikes`."""

    item: str
    bucket: str
    bucket_start_ms: int = 0
    severity: str = ""
    state: str = "open"


class AlertRecord(msgspec.Struct, frozen=True, gc=False):
    """What is read of a record of `alerts`; whatever else it holds goes through."""

    alert: str
    severity: str = ""
    state: str = "open"
    updated_ms: int = 0


CLOSED = ("resolved", "closed", "ended")
"""States of what is over."""


class Spikes:
    """Spikes by item and bucket size.

    Args:
        changed: told an item, and 1 when a spike of it opens, -1 when one is over.
    """

    def __init__(self, changed: Callable[[str, int], None]) -> None:
        self._changed = changed
        self._open: OrderedDict[tuple[str, str], tuple[SpikeRecord, bytes]] = OrderedDict()
        self._recent: OrderedDict[tuple[str, str, int], tuple[SpikeRecord, bytes]] = OrderedDict()
        self.version = 0

    @property
    def open(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def critical(self) -> int:
        """How many of the open ones are critical."""
        return sum(record.severity == "critical" for record, _ in self._open.values())

    def take(self, record: SpikeRecord, raw: bytes) -> None:
        """Takes a record of `spikes`.

        Args:
            record: read from `raw`.
            raw: as it came.
        """
        self.version += 1
        key = (record.item, record.bucket)
        was_open = self._open.pop(key, None) is not None
        is_open = record.state not in CLOSED
        if is_open:
            self._open[key] = (record, raw)
            if len(self._open) > _OPEN:
                oldest, _ = self._open.popitem(last=False)
                self._changed(oldest[0], -1)
        if is_open != was_open:
            self._changed(record.item, 1 if is_open else -1)
        moment = (*key, record.bucket_start_ms)
        self._recent.pop(moment, None)
        self._recent[moment] = (record, raw)
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)

    def list(self, state: str, item: str | None, severity: str | None, count: int) -> list[bytes]:
        """Records, newest first.

        Args:
            state: open | resolved | all; `open` gives those still open.
            item: of this one alone.
            severity: of this one alone.
            count: at most so many.
        """
        source = self._open if state == "open" else self._recent
        return list(_some(_fitting(source.values(), state, item, severity), count))


def _fitting(found: object, state: str, item: str | None, severity: str | None) -> Iterator[bytes]:
    for record, raw in reversed(found):  # type: ignore[call-overload]  # the values of an ordered dictionary
        if state == "resolved" and record.state not in CLOSED:
            continue
        if (item is None or record.item == item) and (severity is None or record.severity == severity):
            yield raw


def _some(values: Iterator[bytes], count: int) -> Iterator[bytes]:
    for value, _ in zip(values, range(count), strict=False):
        yield value


class Alerts:
    """Alerts by id: those that are not over, and the last that were."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[AlertRecord, bytes]] = OrderedDict()
        self.version = 0

    @property
    def open(self) -> int:
        """How many are not over."""
        return sum(record.state not in CLOSED for record, _ in self._known.values())

    def take(self, record: AlertRecord, raw: bytes) -> None:
        """Takes a record of `alerts`.

        Args:
            record: read from `raw`.
            raw: as it came.
        """
        self.version += 1
        self._known.pop(record.alert, None)
        self._known[record.alert] = (record, raw)
        if len(self._known) > _RECENT:
            self._known.popitem(last=False)

    def list(self, state: str, count: int) -> list[bytes]:
        """Records, newest first.

        Args:
            state: open | resolved | all.
            count: at most so many.
        """
        fits = (
            raw for record, raw in reversed(self._known.values()) if state == "all" or (record.state in CLOSED) == (state == "resolved")
        )
        return list(_some(fits, count))
