"""Which spikes nobody is told of. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

from stream.alerting import DAYS, Silence


def silenced_by(
    silences: Sequence[Silence], zone: ZoneInfo, item: str, category: str | None, bucket: str, severity: str, at_ms: int
) -> Silence | None:
    """The first silence that covers a spike, if any.

    Args:
        silences: as configured.
        zone: the shop's.
        item: of the spike.
        category: of the item, where known.
        bucket: size of the spike's bucket.
        severity: of the spike.
        at_ms: the moment in question, epoch milliseconds.
    """
    for silence in silences:
        if (
            fnmatchcase(item, silence.item)
            and (silence.category == "*" or (category is not None and fnmatchcase(category, silence.category)))
            and silence.bucket in (None, bucket)
            and silence.severity in (None, severity)
            and _holds(silence, zone, at_ms)
        ):
            return silence
    return None


def _holds(silence: Silence, zone: ZoneInfo, at_ms: int) -> bool:
    if silence.starts_ms is not None and at_ms < silence.starts_ms:
        return False
    if silence.ends_ms is not None and at_ms >= silence.ends_ms:
        return False
    if not silence.days and silence.from_minute is None:
        return True
    local = datetime.fromtimestamp(at_ms / 1000, zone)
    day = local.date()
    if silence.from_minute is not None and silence.until_minute is not None:
        minute = local.hour * 60 + local.minute
        start, end = silence.from_minute, silence.until_minute
        if not (start <= minute < end if start < end else minute >= start or minute < end):
            return False
        if start >= end and minute < end:
            day -= timedelta(days=1)  # the span began the evening before
    return not silence.days or DAYS[day.weekday()] in silence.days
