"""Frequencies: how the times of a file become consecutive step numbers, and back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from stream.engine.time import DAY_MS, HOUR_MS, MINUTE_MS, SIZES, Grid, Zone
from stream.tables import UserError

Ints = NDArray[np.int64]

_FORM = re.compile(r"(\d*)\s*([A-Za-z]+)")
_UNITS = {
    "m": "min", "min": "min", "minute": "min", "t": "min", "h": "h", "hour": "h", "d": "D", "day": "D", "w": "W", "week": "W",
    "mo": "M", "month": "M", "ms": "M", "me": "M",
}  # fmt: skip
_SEASONS = {"h": (24, 168), "D": (7,), "W": (52,), "M": (12,)}
_ENGINE = {size: ms for size, ms in SIZES.items() if ms < DAY_MS}


@dataclass(frozen=True, slots=True)
class Frequency:
    """The length of a step."""

    unit: str
    """min | h | D | W | M."""
    count: int = 1
    anchor: int = 0
    """W: the day on which weeks begin, in days after Monday."""
    numbers: bool = False
    """Times are whole numbers, 1 a step: they have no calendar of their own."""

    @property
    def name(self) -> str:
        """As --freq takes it."""
        return f"{self.count if self.count > 1 else ''}{self.unit}"

    @property
    def size(self) -> str | None:
        """The engine's bucket size of this length; None: the engine has none."""
        if self.unit in "DW":
            return {"D": "1d", "W": "1w"}[self.unit] if self.count == 1 else None
        return next((size for size, ms in _ENGINE.items() if self.unit != "M" and ms == self.length_ms), None)

    @property
    def length_ms(self) -> int:
        """Nominal length of a step, milliseconds."""
        return self.count * {"min": MINUTE_MS, "h": HOUR_MS, "D": DAY_MS, "W": 7 * DAY_MS, "M": 30 * DAY_MS}[self.unit]

    @property
    def seasons(self) -> tuple[int, ...]:
        """Season lengths in steps where the user names none."""
        if self.unit == "min":
            return tuple(n * DAY_MS // self.length_ms for n in (1, 7) if n * DAY_MS % self.length_ms == 0)
        return tuple(season // self.count for season in _SEASONS[self.unit] if season % self.count == 0 and season > self.count)

    def number(self, utc_ms: Ints, zone: Zone) -> Ints:
        """Step numbers of times.

        Args:
            utc_ms: int64[n], epoch milliseconds.
            zone: of days, weeks and months.
        """
        if self.unit in ("min", "h"):
            return utc_ms // self.length_ms
        days = zone.days(utc_ms)
        if self.unit == "M":
            months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
            return np.asarray(months // self.count)
        if self.unit == "W":
            return (days + 3 - self.anchor) // (7 * self.count)
        return days // self.count

    def start_ms(self, numbers: Ints, zone: Zone) -> Ints:
        """When steps begin, epoch milliseconds.

        Args:
            numbers: int64[n].
            zone: of days, weeks and months.
        """
        if self.unit in ("min", "h"):
            return numbers * self.length_ms
        if self.unit == "M":
            days = (numbers * self.count).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
        elif self.unit == "W":
            days = numbers * 7 * self.count - 3 + self.anchor
        else:
            days = numbers * self.count
        return zone.day_starts(days)

    def texts(self, numbers: Ints, zone: Zone) -> list[str]:
        """Steps as people write them: numbers, dates, or local stamps."""
        if self.numbers:
            return [str(number) for number in numbers.tolist()]
        local = zone.to_local_ms(self.start_ms(numbers, zone))
        if self.unit in ("min", "h"):
            return [text.replace("T", " ") for text in np.datetime_as_string(local.astype("datetime64[ms]"), "m").tolist()]
        return [(date(1970, 1, 1) + timedelta(days=int(day))).isoformat() for day in (local + DAY_MS // 2) // DAY_MS]

    def grid_number(self, first_step: int, zone: Zone) -> int:
        """The number of the engine's bucket that stands for a step; the next step's is one more.

        Weeks that begin on another day than the engine's stand on the Monday before.

        Args:
            first_step: number of the step.
            zone: of the data.
        """
        assert self.size is not None
        if self.unit == "W" and not self.numbers:
            return first_step
        return Grid(self.size, zone).number_of(int(self.start_ms(np.array([first_step]), zone)[0]))


def parse_frequency(text: str) -> Frequency:
    """Reads W, D, H, M, 15m, 2h …

    Raises:
        UserError: not a frequency.
    """
    found = _FORM.fullmatch(text.strip())
    # "M" is a month and "m" a minute to everybody who writes frequencies; every other unit in either case.
    unit = None if found is None else ("M" if found[2] == "M" else _UNITS.get(found[2].lower()))
    count = int(found[1] or 1) if found else 0
    if unit is None or count < 1:
        raise UserError(f"--freq must be a number and a unit, of m (minutes), H, D, W, M (months), such as D, W, 15m or 2H; got {text!r}")
    if unit == "min" and count % 60 == 0:
        unit, count = "h", count // 60
    if unit == "h" and count % 24 == 0:
        unit, count = "D", count // 24
    if unit == "D" and count % 7 == 0:
        unit, count = "W", count // 7
    if unit in ("min", "h") and DAY_MS % (count * (MINUTE_MS if unit == "min" else HOUR_MS)):
        raise UserError(f"--freq must divide a day where it is shorter than one; got {text!r}")
    return Frequency(unit, count)


def infer_frequency(utc_ms: Ints, zone: Zone) -> Frequency:
    """The longest step on which all times stand.

    Args:
        utc_ms: int64[n], distinct times, ascending, epoch milliseconds.
        zone: of local days.

    Raises:
        UserError: too few times, or seconds in them.
    """
    if len(utc_ms) < 3:
        raise UserError(
            f"--freq must be given where there are fewer than three different times; there are {len(utc_ms)}: say --freq D, W, H …"
        )
    local = zone.to_local_ms(utc_ms)
    if not (local % DAY_MS).any():
        days = local // DAY_MS
        months = days.astype("datetime64[D]").astype("datetime64[M]")
        of_month = days - months.astype("datetime64[D]").astype(np.int64)
        last = (months + 1).astype("datetime64[D]").astype(np.int64) - days == 1
        if len(np.unique(months)) == len(months) and (len(np.unique(of_month)) == 1 or bool(last.all())):
            return Frequency("M")
        if len(np.unique(days % 7)) == 1:
            return Frequency("W", 1, int((days[0] + 3) % 7))
        return Frequency("D")
    for length in (HOUR_MS, 30 * MINUTE_MS, 15 * MINUTE_MS, 10 * MINUTE_MS, 5 * MINUTE_MS, MINUTE_MS):
        if not (utc_ms % length).any():
            return parse_frequency(f"{length // MINUTE_MS}m")
    raise UserError("times must stand on whole minutes for their frequency to be seen: say --freq, or sum the rows up to steps first")


def anchored(frequency: Frequency, utc_ms: Ints, zone: Zone) -> Frequency:
    """The frequency with weeks that begin on the day on which the data's do (Monday where its rows stand on several).

    Args:
        frequency: as given.
        utc_ms: int64[n], distinct times.
        zone: of local days.
    """
    if frequency.unit != "W":
        return frequency
    weekdays = np.unique((zone.days(utc_ms) + 3) % 7)
    return Frequency("W", frequency.count, int(weekdays[0]) if len(weekdays) == 1 else 0)
