"""Reads times out of decoded JSON values, a column at a time: RFC 3339 and its relatives, and numbers.

What a value means never depends on the others in its column.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.engine.columns import MISSING, Bools, Ints
from stream.engine.time import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Zone
from stream.mapping.faults import Faults, by_type, got

EARLIEST_MS = 315_532_800_000
"""1980-01-01: no shop's events are older; what is smaller is a number in another unit."""
LATEST_MS = 7_258_118_400_000
"""2200-01-01, not included."""

_FIRST_MS = -62_135_596_800_000  # year 1
_LAST_MS = 253_402_300_799_999  # year 9999, which many systems write for "for ever"
_PER_MS = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
"""Factor and divisor from the unit to microseconds."""
_ROUNDS = 8
_LONGEST = 64
_STAMP = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?"
    r"(?: ?(?:([Zz]|UTC|GMT)|([+-])([0-9]{2})(?::?([0-9]{2}))?))?)?"
)
_YEAR, _MONTH, _DAY, _HOUR, _MINUTE, _SECOND, _FRACTION, _ZULU, _SIGN, _OFF_HOUR, _OFF_MINUTE = range(1, 12)
_WHOLE = re.compile(r"[+-]?[0-9]+")
_REAL = re.compile(r"[+-]?[0-9]+\.[0-9]*")
_WRONG = MISSING + 1


def read_times(values: list[Any], field: str, faults: Faults, required: bool, unit: str, zone: Zone) -> Ints:
    """Reads times.

    Args:
        values: decoded JSON.
        field: ours, for faults.
        faults: where missing and unreadable times are noted, and required ones outside 1980 to 2199.
        required: a missing one is a fault.
        unit: s | ms | us | ns, of numbers.
        zone: of stamps without one.

    Returns:
        int64[n], epoch milliseconds (what is finer is cut off), MISSING where there is none.
    """
    times = np.full(len(values), MISSING, dtype=np.int64)
    if not values:
        return times
    for kind, rows, part in by_type(values):
        if kind is str:
            read = _read_texts(part, unit, zone)
        elif kind is int:
            read = _read_wholes(part, unit)
        elif kind is float:
            read = _read_reals(np.array(part, dtype=np.float64), unit)
        else:
            read = np.full(len(part), MISSING if kind is type(None) else _WRONG, dtype=np.int64)
        times[slice(None) if rows is None else rows] = read
    for row in np.flatnonzero(times <= _WRONG).tolist():
        if times[row] == _WRONG:
            faults.note(row, "bad_time", field, f"must be a time, such as 2019-10-01T00:00:00Z, or a number; got {got(values[row])}")
            times[row] = MISSING
        elif required:
            faults.note(row, "missing_field", field, "must be there and not be empty")
    if required:
        outside = ((times < EARLIEST_MS) | (times >= LATEST_MS)) & (times != MISSING)
        for row in np.flatnonzero(outside).tolist():
            faults.note(row, "bad_time", field, f"must be from 1980 to 2199 (numbers are read as {unit}); got {got(values[row])}")
    return times


def _read_wholes(values: list[int], unit: str) -> Ints:
    factor, divisor = _PER_MS[unit]
    first, last = _FIRST_MS * 1_000 * divisor // factor, (_LAST_MS * 1_000 + 999) * divisor // factor
    first, last = max(first, MISSING + 1), min(last, -(MISSING + 1))
    try:
        numbers = np.array(values, dtype=np.int64)
    except OverflowError:
        numbers = np.array([value if first <= value <= last else MISSING for value in values], dtype=np.int64)
    fine = (numbers >= first) & (numbers <= last)
    numbers = np.where(fine, numbers, 0)
    return np.where(fine, numbers * (factor // 1_000) if factor >= 1_000 else numbers // (1_000 * divisor), _WRONG)


def _read_reals(numbers: NDArray[np.float64], unit: str) -> Ints:
    factor, divisor = _PER_MS[unit]
    # A float of seconds near today resolves a quarter of a microsecond: round to those before cutting to milliseconds.
    micros = numbers * factor / divisor
    fine = (micros >= _FIRST_MS * 1_000) & (micros <= _LAST_MS * 1_000)
    return np.where(fine, np.rint(np.where(fine, micros, 0.0)).astype(np.int64) // 1_000, _WRONG)


def _read_texts(texts: list[str], unit: str, zone: Zone) -> Ints:
    joined = "".join(texts)
    if joined.isascii() and joined.isdigit() and "" not in texts and max(map(len, texts)) < _LONGEST:
        return _read_wholes(list(map(int, texts)), unit)
    times = np.full(len(texts), _WRONG, dtype=np.int64)
    local = np.zeros(len(texts), dtype=np.bool_)
    pending = np.arange(len(texts))
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    # A topic's stamps mostly have one form. Take the first one's, read all of that form at once, go on with the rest.
    for _ in range(_ROUNDS):
        if len(pending) == 0:
            break
        form = _STAMP.fullmatch(texts[pending[0]])
        if form is None:
            row, pending = pending[0], pending[1:]
            times[row], local[row] = _read_text(texts[row], unit)
            continue
        alike = pending[lengths[pending] == len(form[0])]
        chosen = texts if len(alike) == len(texts) else [texts[row] for row in alike.tolist()]
        read, matching = _read_form(chosen, form)
        rows = alike[matching]
        times[rows] = read
        local[rows] = form[_HOUR] is None or (form[_ZULU] is None and form[_SIGN] is None)
        pending = pending[~np.isin(pending, rows, assume_unique=True)] if len(rows) < len(pending) else pending[:0]
    for row in pending.tolist():
        times[row], local[row] = _read_text(texts[row], unit)
    local &= times > _WRONG
    if local.any():
        times[local] = zone.to_utc_ms(times[local])
    return times


def _read_form(texts: list[str], form: re.Match[str]) -> tuple[Ints, Bools]:
    """Reads stamps of one length that have the form of the first.

    Args:
        texts: n stamps of the same length.
        form: the first one's match.

    Returns:
        int64[m], milliseconds (local ones where the form names no zone; _WRONG for dates that are none), and bool[n], which m have
        the form.
    """
    width = len(form[0])
    letters = np.frombuffer("".join(texts).encode("ascii", "replace"), dtype=np.uint8).reshape(len(texts), width)  # uint8[n, width]
    digits = [column for group in range(1, 12) if group not in (_ZULU, _SIGN) for column in range(*form.span(group)) if column >= 0]
    sign = form.start(_SIGN)
    fixed = [column for column in range(width) if column not in digits and column != sign]
    figures = letters - np.uint8(48)  # uint8[n, width], below 10 where a digit stands
    template = np.frombuffer(form[0].encode("ascii"), dtype=np.uint8)
    matching = (figures[:, digits] < 10).all(axis=1) & (letters[:, fixed] == template[fixed]).all(axis=1)
    if sign >= 0:
        matching &= (letters[:, sign] == ord("+")) | (letters[:, sign] == ord("-"))
    if not matching.all():
        letters, figures = letters[matching], figures[matching]

    def number(group: int, most: int = 9) -> Ints:
        start, end = form.span(group)
        total = np.zeros(len(figures), dtype=np.int64)
        for column in range(start, min(end, start + most)):
            total = total * 10 + figures[:, column]
        return total

    months = (number(_YEAR) - 1970) * 12 + number(_MONTH) - 1
    month_start = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    month_end = (months + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    day, hour, minute, second = number(_DAY), number(_HOUR), number(_MINUTE), number(_SECOND)
    fraction_ms = number(_FRACTION, most=3) * 10 ** max(0, 3 - (form.end(_FRACTION) - form.start(_FRACTION)))
    fine = (number(_YEAR) > 0) & (number(_MONTH) >= 1) & (number(_MONTH) <= 12) & (day >= 1) & (day <= month_end - month_start)
    fine &= (hour <= 23) & (minute <= 59) & (second <= 60)  # 60: a leap second, the next minute's first to everybody else
    times = (month_start + day - 1) * DAY_MS + hour * HOUR_MS + minute * MINUTE_MS + second * SECOND_MS + fraction_ms
    if sign >= 0:
        off_hour, off_minute = number(_OFF_HOUR), number(_OFF_MINUTE)
        fine &= (off_hour <= 23) & (off_minute <= 59)
        off_ms = off_hour * HOUR_MS + off_minute * MINUTE_MS
        times = times - np.where(letters[:, sign] == ord("-"), -off_ms, off_ms)
    return np.where(fine, times, _WRONG), matching


def _read_text(text: str, unit: str) -> tuple[int, bool]:
    """One stamp or number, as _read_form and its kin would read it: milliseconds, and whether they are local."""
    text = text.strip()
    if not text:
        return MISSING, False
    if len(text) >= _LONGEST:
        return _WRONG, False
    if _WHOLE.fullmatch(text):
        return int(_read_wholes([int(text)], unit)[0]), False
    if _REAL.fullmatch(text):
        return int(_read_reals(np.array([float(text)]), unit)[0]), False
    found = _STAMP.fullmatch(text)
    if found is None:
        return _WRONG, False

    def number(group: int) -> int:
        return int(found[group] or 0)

    try:
        days = date(number(_YEAR), number(_MONTH), number(_DAY)).toordinal() - 719_163
    except ValueError:
        return _WRONG, False
    if number(_HOUR) > 23 or number(_MINUTE) > 59 or number(_SECOND) > 60 or number(_OFF_HOUR) > 23 or number(_OFF_MINUTE) > 59:
        return _WRONG, False
    time = days * DAY_MS + number(_HOUR) * HOUR_MS + number(_MINUTE) * MINUTE_MS + number(_SECOND) * SECOND_MS
    time += int(((found[_FRACTION] or "") + "000")[:3])
    off_ms = number(_OFF_HOUR) * HOUR_MS + number(_OFF_MINUTE) * MINUTE_MS
    return time - (-off_ms if found[_SIGN] == "-" else off_ms), found[_ZULU] is None and found[_SIGN] is None
