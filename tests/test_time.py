"""Zones, buckets and durations against zoneinfo, stamp by stamp."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib import import_module
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.protocol import CALENDAR, MINUTES
from stream.engine.time import DAY_MS, HOUR_MS, MINUTE_MS, SIZES, Grid, Zone, calendar, parse_duration

# Half an hour of daylight saving, none, changes at and around midnight, and a day that never was.
NAMES = (
    "UTC",
    "Europe/London",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "America/St_Johns",
    "America/Sao_Paulo",
    "America/Nuuk",
    "Asia/Beirut",
    "Pacific/Apia",
    "Africa/Casablanca",
)
EPOCH = datetime(1970, 1, 1)
FIRST_MS = int(datetime(1971, 1, 1, tzinfo=UTC).timestamp() * 1000)
LAST_MS = int(datetime(2099, 12, 31, tzinfo=UTC).timestamp() * 1000)


def local_reference(utc_ms: int, name: str) -> int:
    moment = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=utc_ms)).astimezone(ZoneInfo(name))
    return (moment.replace(tzinfo=None) - EPOCH) // timedelta(milliseconds=1)


def utc_reference(local_ms: int, name: str) -> int:
    moment = (EPOCH + timedelta(milliseconds=local_ms)).replace(tzinfo=ZoneInfo(name), fold=0)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


@cache
def changes(name: str) -> list[int]:
    """Moments at which the zone's clocks change, from the pure Python zoneinfo's own table (until 2037, where its rule begins)."""
    table = import_module("zoneinfo._zoneinfo").ZoneInfo.no_cache(name)
    offsets = [int(offset.total_seconds()) for offset in (item.utcoff for item in table._ttinfos)]
    before = [int(table._tti_before.utcoff.total_seconds()) if table._tti_before else 0, *offsets[:-1]]
    # pairs by position; `before` is one longer than the table where a rule goes on after it
    return [at * 1000 for at, old, new in zip(table._trans_utc, before, offsets, strict=False) if old != new and at * 1000 >= FIRST_MS]


@st.composite
def stamps(draw: st.DrawFn) -> tuple[str, list[int]]:
    """A zone and times, half of them within hours of a change of its clocks."""
    name = draw(st.sampled_from(NAMES))
    near = changes(name)
    anywhere = st.integers(FIRST_MS, LAST_MS)
    around = st.builds(lambda at, by: at + by, st.sampled_from(near), st.integers(-26 * HOUR_MS, 26 * HOUR_MS)) if near else anywhere
    exact = st.builds(lambda at, by: at + by, st.sampled_from(near), st.sampled_from((-1, 0, 1, -HOUR_MS, HOUR_MS))) if near else anywhere
    return name, draw(st.lists(st.one_of(anywhere, around, exact), min_size=1, max_size=40))


@given(stamps())
def test_conversions_are_those_of_zoneinfo(case: tuple[str, list[int]]) -> None:
    name, times = case
    zone = Zone(name)
    column = np.array(times, dtype=np.int64)
    assert zone.to_local_ms(column).tolist() == [local_reference(time, name) for time in times]
    # The same numbers read as local stamps: some occur twice, some never.
    readings = [local_reference(time, name) for time in times] + times
    assert zone.to_utc_ms(np.array(readings, dtype=np.int64)).tolist() == [utc_reference(reading, name) for reading in readings]


def test_no_zone_changes_its_clocks_twice_within_a_day() -> None:
    # The table is found by looking once a day.
    for name in sorted(available_timezones()):
        assert (np.diff(changes(name)) > DAY_MS).all(), name


@pytest.mark.parametrize("name", NAMES)
def test_an_hour_that_occurs_twice_is_its_first_and_one_that_does_not_keeps_the_old_offset(name: str) -> None:
    for at in changes(name)[-6:]:
        before, after = local_reference(at - 1, name) + 1, local_reference(at, name)
        step = after - before
        middle = np.array([min(before, after) + abs(step) // 2], dtype=np.int64)
        expected = at + step // 2 if step > 0 else at - abs(step) + abs(step) // 2
        assert Zone(name).to_utc_ms(middle).tolist() == [expected]


@given(stamps(), st.sampled_from(list(SIZES)))
def test_buckets_are_intervals_that_follow_one_another(case: tuple[str, list[int]], size: str) -> None:
    name, times = case
    grid = Grid(size, Zone(name))
    column = np.array(sorted(times), dtype=np.int64)
    numbers = grid.number(column)
    assert (grid.start(numbers) <= column).all()
    assert (column < grid.end(numbers)).all()
    assert (np.diff(numbers) >= 0).all()
    assert numbers.tolist() == [grid.number_of(time) for time in column.tolist()]
    assert grid.start(numbers).tolist() == [grid.start_of(number) for number in numbers.tolist()]
    assert grid.end(numbers).tolist() == [grid.end_of(number) for number in numbers.tolist()]


@given(stamps())
def test_days_and_weeks_are_local_dates(case: tuple[str, list[int]]) -> None:
    name, times = case
    zone = Zone(name)
    column = np.array(times, dtype=np.int64)
    days = Grid("1d", zone).number(column).tolist()
    weeks = Grid("1w", zone).number(column).tolist()
    for time, day, week in zip(times, days, weeks, strict=True):
        local = EPOCH + timedelta(milliseconds=local_reference(time, name))
        shown = (local.date() - date(1970, 1, 1)).days
        # Clocks put back over midnight show yesterday again for a while; the bucket that has begun goes on.
        assert shown == day or (name == "America/St_Johns" and shown == day - 1 and local.hour == 23)
        monday = date(1970, 1, 1) + timedelta(days=day)
        monday -= timedelta(days=monday.weekday())
        assert week == (monday - date(1969, 12, 29)).days // 7


@given(stamps(), st.sampled_from(["1m", "5m", "15m", "1h"]))
def test_minutes_and_hours_count_from_the_epoch(case: tuple[str, list[int]], size: str) -> None:
    name, times = case
    assert Grid(size, Zone(name)).number(np.array(times, dtype=np.int64)).tolist() == [time // SIZES[size] for time in times]


def test_a_local_day_has_the_hours_that_the_clocks_give_it() -> None:
    def hours(name: str, year: int, month: int, day: int) -> float:
        grid = Grid("1d", Zone(name))
        number = (date(year, month, day) - date(1970, 1, 1)).days
        return (grid.end_of(number) - grid.start_of(number)) / HOUR_MS

    assert hours("Europe/London", 2011, 3, 27) == 23
    assert hours("Europe/London", 2011, 10, 30) == 25
    assert hours("Australia/Lord_Howe", 2024, 10, 6) == 23.5
    assert hours("America/Sao_Paulo", 2018, 11, 4) == 23
    assert hours("Pacific/Apia", 2011, 12, 30) == 0
    assert hours("America/St_Johns", 2010, 11, 7) == 25


@given(stamps(), st.sampled_from(list(SIZES)))
def test_calendar_is_the_clock_and_the_date_at_the_start_of_the_bucket(case: tuple[str, list[int]], size: str) -> None:
    name, times = case
    grid = Grid(size, Zone(name))
    numbers = grid.number(np.array(times, dtype=np.int64))
    features = calendar(grid, numbers)
    assert features.shape == (len(times), len(CALENDAR))
    assert features.dtype == np.float32
    for row, number in zip(features.tolist(), numbers.tolist(), strict=True):
        if size in ("1d", "1w"):
            local = EPOCH + timedelta(days=number if size == "1d" else number * 7 - 3)
        else:
            local = EPOCH + timedelta(milliseconds=local_reference(grid.start_of(number), name))
        length = 366 if local.year % 4 == 0 and (local.year % 100 != 0 or local.year % 400 == 0) else 365
        hour = 2 * math.pi * (local.hour * 60 + local.minute + local.second / 60) / 1440
        weekday = 2 * math.pi * local.weekday() / 7
        year = 2 * math.pi * (local.timetuple().tm_yday - 1) / length
        expected = [math.sin(hour), math.cos(hour), math.sin(weekday), math.cos(weekday), math.sin(year), math.cos(year)]
        if size in ("1d", "1w"):
            expected[:2] = [0, 0]
        if size == "1w":
            expected[2:4] = [0, 0]
        assert row == pytest.approx(expected, abs=1e-6)


def test_empty_columns() -> None:
    nothing = np.array([], dtype=np.int64)
    for name in NAMES:
        zone = Zone(name)
        assert zone.to_local_ms(nothing).dtype == zone.to_utc_ms(nothing).dtype == np.int64
        for size in SIZES:
            grid = Grid(size, zone)
            assert len(grid.number(nothing)) == len(grid.start(nothing)) == len(calendar(grid, nothing)) == 0


@pytest.mark.parametrize("name", ["Europe/Londn", "", "../etc/passwd", "Europe", "London/\0"])
def test_a_zone_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="IANA"):
        Zone(name)


def test_a_size_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="1m, 5m, 15m, 1h, 1d, 1w"):
        Grid("2h", Zone("UTC"))


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [("250ms", 250), ("30s", 30_000), ("5m", 5 * MINUTE_MS), ("2h", 2 * HOUR_MS), ("7d", 7 * DAY_MS), ("2w", 14 * DAY_MS), (" 0s ", 0)],
)
def test_durations(text: str, expected_ms: int) -> None:
    assert parse_duration(text) == expected_ms


@pytest.mark.parametrize("text", ["", "30", "s", "-5s", "1.5h", "5 m", "5M", "1h30m", "1e3s"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole number and a unit"):
        parse_duration(text)


def test_models_know_the_sizes() -> None:
    assert {size: minutes * MINUTE_MS for size, minutes in MINUTES.items()} == SIZES
