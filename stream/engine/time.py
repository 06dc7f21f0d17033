"""Zones, buckets and durations: event time as int64 milliseconds, and the arithmetic of local days and weeks.

Everything here is a pure function of its arguments and of the installed time zone data. Reading time stamps from text
is decoding (stream.mapping), watermarks are the engines'.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS

SIZES: dict[str, int] = {"1m": MINUTE_MS, "5m": 5 * MINUTE_MS, "15m": 15 * MINUTE_MS, "1h": HOUR_MS, "1d": DAY_MS, "1w": WEEK_MS}
"""Bucket sizes, ascending, and their nominal lengths in milliseconds (a local day may have 23 or 25 hours)."""

MONDAY = 3
"""Days from the Monday before 1970-01-01, a Thursday, to it."""

_TABLE_START_S = int(datetime(1970, 1, 1, tzinfo=UTC).timestamp())
_TABLE_END_S = int(datetime(2201, 1, 1, tzinfo=UTC).timestamp())
_UNITS_MS = {"ms": 1, "s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS, "w": WEEK_MS}
_DURATION = re.compile(r"(\d+)(ms|s|m|h|d|w)")


def parse_duration(text: str) -> int:
    """Reads a duration such as "30s", "2h", "7d" or "250ms".

    Args:
        text: a whole number and a unit, one of ms s m h d w.

    Returns:
        Milliseconds.

    Raises:
        ValueError: the text is not a duration.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f'a duration must be a whole number and a unit of ms, s, m, h, d, w, such as "30s" or "2h"; got "{text}"')
    return int(found[1]) * _UNITS_MS[found[2]]


@lru_cache(maxsize=64)
def _transitions(name: str) -> tuple[Ints, Ints]:
    """The moments (UTC, ms) at which the zone's offset changes, and the offsets (ms) between them, one more."""
    zone = ZoneInfo(name)

    def offset_s(at_s: int) -> int:
        offset = datetime.fromtimestamp(at_s, zone).utcoffset()
        assert offset is not None
        return offset.days * 86_400 + offset.seconds

    # zoneinfo keeps its table to itself, so it is found again: no zone has changed twice within a day since 1970 (tested).
    moments: list[int] = []
    offsets = [offset_s(_TABLE_START_S)]
    for day_s in range(_TABLE_START_S, _TABLE_END_S, 86_400):
        if offset_s(day_s) == offsets[-1]:
            continue
        before, after = day_s - 86_400, day_s
        while after - before > 1:
            middle = (before + after) // 2
            if offset_s(middle) == offsets[-1]:
                before = middle
            else:
                after = middle
        moments.append(after)
        offsets.append(offset_s(day_s))
    return np.array(moments, dtype=np.int64) * SECOND_MS, np.array(offsets, dtype=np.int64) * SECOND_MS


class Zone:
    """A time zone's table of offsets from 1970 to 2200, for whole columns; beyond it the first and last offsets hold."""

    def __init__(self, name: str) -> None:
        """
        Args:
            name: an IANA name, such as "Europe/London".

        Raises:
            ValueError: there is no such zone.
        """
        try:
            moments, offsets = _transitions(name)
        except (KeyError, ValueError, OSError) as error:  # zoneinfo raises each of them, by the kind of bad name
            raise ValueError(f'a zone must be an IANA name such as "Europe/London"; got "{name}"') from error
        self.name = name
        self._moments = moments
        self._offsets = offsets
        # The local reading from which on the later offset is meant. Where the clock was put forward, readings in the gap
        # still mean the offset before; where it was put back, readings that occur twice mean the first time.
        self._readings = moments + np.maximum(offsets[:-1], offsets[1:])
        self._until = np.append(moments, np.iinfo(np.int64).max)
        self._repeats = self._repeated_days()

    def _repeated_days(self) -> list[tuple[int, int, int]]:
        """Spans (from, until, day) in which the clock, put back over midnight, shows the day before once more."""
        spans = []
        for moment, before, after in zip(self._moments.tolist(), self._offsets[:-1].tolist(), self._offsets[1:].tolist(), strict=True):
            day = (moment + before - 1) // DAY_MS
            if (moment + after) // DAY_MS < day:
                spans.append((moment, day * DAY_MS - after, day))
        return spans

    def to_local_ms(self, utc_ms: Ints) -> Ints:
        """What local clocks show.

        Args:
            utc_ms: int64[n], epoch milliseconds.

        Returns:
            int64[n], milliseconds since 1970-01-01 00:00 local.
        """
        return utc_ms + self._offsets_at(self._moments, utc_ms)

    def to_utc_ms(self, local_ms: Ints) -> Ints:
        """When local clocks show this: the first time where it occurs twice; by the offset before the gap where it never does.

        Args:
            local_ms: int64[n], milliseconds since 1970-01-01 00:00 local.

        Returns:
            int64[n], epoch milliseconds.
        """
        return local_ms - self._offsets_at(self._readings, local_ms)

    def days(self, utc_ms: Ints) -> Ints:
        """The local day that has begun last, in days since 1970-01-01: the local date, except that it never goes back
        (St. John's used to put its clocks back at 00:01).

        Args:
            utc_ms: int64[n], epoch milliseconds.
        """
        days = self.to_local_ms(utc_ms) // DAY_MS
        for start, end, day in self._repeats:
            days[(utc_ms >= start) & (utc_ms < end)] = day
        return days

    def day_starts(self, days: Ints) -> Ints:
        """When local days begin: the first moment at which clocks show the day's midnight or later.

        Args:
            days: int64[n], days since 1970-01-01.

        Returns:
            int64[n], epoch milliseconds. A day that was left out (Samoa's 2011-12-30) begins and ends at once.
        """
        local = days * DAY_MS
        segment = np.searchsorted(self._readings, local, side="right")
        # A midnight in a gap has no moment of its own: the day begins when the gap does.
        starts: Ints = np.minimum(local - self._offsets[segment], self._until[segment])
        return starts

    def _offsets_at(self, thresholds: Ints, values: Ints) -> Ints | np.int64:
        if len(values) == 0:
            return np.int64(0)
        # A batch rarely spans a change of the clocks: two look-ups then answer for all of it.
        first, last = np.searchsorted(thresholds, (values.min(), values.max()), side="right")
        if first == last:
            return np.int64(self._offsets[first])
        offsets: Ints = self._offsets[np.searchsorted(thresholds, values, side="right")]
        return offsets


class Grid:
    """Numbers the buckets of one size with consecutive integers.

    Minutes and hours count from 1970-01-01 UTC, days from 1970-01-01 local, weeks from the local Monday before that.
    Numbers never fall as time rises, and `start(n) <= t < start(n + 1)` holds for every time t that has the number n.
    """

    def __init__(self, size: str, zone: Zone) -> None:
        """
        Args:
            size: one of 1m 5m 15m 1h 1d 1w.
            zone: decides where days and weeks begin.

        Raises:
            ValueError: there is no such size.
        """
        if size not in SIZES:
            raise ValueError(f'a bucket\'s size must be one of {", ".join(SIZES)}; got "{size}"')
        self.size = size
        self.size_ms = SIZES[size]
        """Nominal length in milliseconds."""
        self.zone = zone

    def number(self, utc_ms: Ints) -> Ints:
        """Numbers of the buckets that hold these times.

        Args:
            utc_ms: int64[n], epoch milliseconds.

        Returns:
            int64[n].
        """
        if self.size == "1d":
            return self.zone.days(utc_ms)
        if self.size == "1w":
            return (self.zone.days(utc_ms) + MONDAY) // 7
        return utc_ms // self.size_ms

    def start(self, numbers: Ints) -> Ints:
        """When buckets begin.

        Args:
            numbers: int64[n].

        Returns:
            int64[n], epoch milliseconds.
        """
        if self.size == "1d":
            return self.zone.day_starts(numbers)
        if self.size == "1w":
            return self.zone.day_starts(numbers * 7 - MONDAY)
        return numbers * self.size_ms

    def end(self, numbers: Ints) -> Ints:
        """When buckets end: the start of the next.

        Args:
            numbers: int64[n].

        Returns:
            int64[n], epoch milliseconds.
        """
        return self.start(numbers + 1)

    def number_of(self, utc_ms: int) -> int:
        """`number` of one time."""
        return int(self.number(np.array([utc_ms], dtype=np.int64))[0])

    def start_of(self, number: int) -> int:
        """`start` of one bucket, epoch milliseconds."""
        return int(self.start(np.array([number], dtype=np.int64))[0])

    def end_of(self, number: int) -> int:
        """`end` of one bucket, epoch milliseconds."""
        return self.start_of(number + 1)


def calendar(grid: Grid, numbers: Ints) -> NDArray[np.float32]:
    """Where buckets stand in the local day, week and year.

    Args:
        grid: of the buckets.
        numbers: int64[n].

    Returns:
        float32[n, 6], the features models.protocol.CALENDAR of each bucket's start: zero for the hour where a bucket is a
        day or longer, and for the weekday where it is a week.
    """
    if grid.size == "1d":
        local_ms = numbers * DAY_MS
    elif grid.size == "1w":
        local_ms = (numbers * 7 - MONDAY) * DAY_MS
    else:
        local_ms = grid.zone.to_local_ms(grid.start(numbers))
    days = local_ms // DAY_MS
    years = days.astype("datetime64[D]").astype("datetime64[Y]")
    year_start = years.astype("datetime64[D]").astype(np.int64)
    year_days = (years + 1).astype("datetime64[D]").astype(np.int64) - year_start
    shares = (
        (local_ms - days * DAY_MS) / DAY_MS,
        (days + MONDAY) % 7 / 7,
        (days - year_start) / year_days,
    )
    features = np.zeros((len(numbers), 6), dtype=np.float32)
    first = {"1d": 1, "1w": 2}.get(grid.size, 0)
    for index, share in enumerate(shares[first:], start=first):
        features[:, 2 * index] = np.sin(2 * np.pi * share)
        features[:, 2 * index + 1] = np.cos(2 * np.pi * share)
    return features
