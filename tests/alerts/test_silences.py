"""Silences: what each of their words means, alone and over midnight."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from stream.alerting import Silence
from stream.alerts.silences import silenced_by

LONDON = ZoneInfo("Europe/London")


def at(text: str) -> int:
    """The shop's clock."""
    return int(datetime.fromisoformat(text).replace(tzinfo=LONDON).timestamp() * 1000)


def quiet(silence: dict[str, Any], when: str = "2026-07-03T12:00", **spike: Any) -> bool:
    usual = {"item": "AB-1", "category": "shoes", "bucket": "1h", "severity": "warning"}
    return silenced_by([Silence(name="s", **silence)], LONDON, **{**usual, **spike}, at_ms=at(when)) is not None


def test_all_that_is_said_must_be_so() -> None:
    assert quiet({"item": "AB-*"})
    assert not quiet({"item": "ab-*"})
    assert quiet({"item": "AB-?", "category": "sh*", "bucket": "1h", "severity": "warning"})
    assert not quiet({"item": "AB-?", "category": "sh*"}, severity="critical", category="hats")
    assert not quiet({"severity": "warning"}, severity="critical")
    assert not quiet({"bucket": "1d"})
    assert quiet({"item": "AB-*"}, category=None)
    assert not quiet({"category": "s*"}, category=None)


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("2026-07-03T22:00", True),  # Friday: from is in, until is not
        ("2026-07-03T21:59", False),
        ("2026-07-04T05:59", True),  # Friday's night, on Saturday
        ("2026-07-04T06:00", False),
        ("2026-07-04T23:00", False),  # Saturday's
        ("2026-07-03T03:00", False),  # Thursday's
    ],
)
def test_a_night_belongs_to_the_day_on_which_it_begins(when: str, expected: bool) -> None:
    assert quiet({"days": ("fri",), "from_minute": 22 * 60, "until_minute": 6 * 60}, when) is expected


def test_a_span_of_the_day_and_a_span_of_the_calendar() -> None:
    noon = {"from_minute": 12 * 60, "until_minute": 13 * 60}
    assert [quiet(noon, f"2026-07-03T{clock}") for clock in ("11:59", "12:00", "12:59", "13:00")] == [False, True, True, False]
    sale = {"starts_ms": at("2026-11-27T00:00"), "ends_ms": at("2026-11-30T00:00")}
    days = ("2026-11-26T23:59", "2026-11-27T00:00", "2026-11-29T23:59", "2026-11-30T00:00")
    assert [quiet(sale, day) for day in days] == [False, True, True, False]
