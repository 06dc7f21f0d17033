"""Reads ids, numbers and flags out of decoded JSON values, a column at a time.

What a value means never depends on the others in its column: the fast ways give what one value alone would.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.engine.columns import MICRO, MISSING, Bools, Ints
from stream.mapping.faults import Faults, by_type, got

LIMIT = 100_000_000_000
"""Largest price, quantity, or price of a row's whole quantity, in units: a hundred such rows still fit int64 micro-units."""

LONGEST_ID = 1_024
"""Characters. Ids are keys of records and of state; a longer one is no id."""

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NUMBERS = re.compile(r"[0-9+\-.eE]*")
_NUMBERS_AND_NONE = frozenset({int, float, type(None)})
_TEXT_AND_NONE = {str, type(None)}
_FALSE = frozenset({"", "0", "false", "f", "no", "n", "off", "none", "null"})


def read_ids(values: list[Any], field: str, faults: Faults, required: bool, longest: int | None = LONGEST_ID) -> list[str]:
    """Reads ids and short texts: strings as they are, whole numbers without a fraction, '' for none.

    Args:
        values: decoded JSON.
        field: ours, for faults.
        faults: where missing and unusable ids are noted.
        required: an empty one is a fault.
        longest: characters; None: the messages are too short for a longer one, or any length will do.
    """
    if not values:
        return []
    kinds = set(map(type, values))
    if kinds == {str}:
        ids: list[str] = values
    elif kinds == {int}:
        ids = list(map(str, values))
    elif kinds == _TEXT_AND_NONE:
        ids = [value or "" for value in values]
    else:
        ids = [value if type(value) is str else _id(value, row, field, faults) for row, value in enumerate(values)]
    if required and "" in ids:
        for row, text in enumerate(ids):
            if not text:
                faults.note(row, "missing_field", field, "must be there and not be empty")
    if longest is not None:
        for row, text in enumerate(ids):
            if len(text) > longest:
                faults.note(row, "bad_value", field, f"must have at most {longest} characters; got {len(text)}")
    return ids


def _id(value: Any, row: int, field: str, faults: Faults) -> str:
    if value is None:
        return ""
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is float:
        return str(int(value)) if value.is_integer() else repr(value)
    faults.note(row, "bad_value", field, f"must be text or a number; got {got(value)}")
    return ""


def read_micro(values: list[Any], field: str, faults: Faults, required: bool) -> Ints:
    """Reads money and quantities, numbers or their text, into micro-units, rounded once, half to even.

    Args:
        values: decoded JSON.
        field: ours, for faults.
        faults: where missing and unusable numbers are noted.
        required: a missing one is a fault.

    Returns:
        int64[n], MISSING where there is none.
    """
    micro = np.full(len(values), MISSING, dtype=np.int64)
    if not values:
        return micro
    kinds = set(map(type, values))
    if len(kinds) > 1 and kinds <= _NUMBERS_AND_NONE and not required:  # most events carry no price: one pass, no lists by type
        if values[:64].count(None) > 32:  # only purchases carry a quantity; either way reads the same
            there_at = [row for row, value in enumerate(values) if value is not None]
            micro[there_at] = read_micro([values[row] for row in there_at], field, few := Faults(), required)
            for row, fault in few.by_row.items():
                faults.note(there_at[row], fault.reason, fault.field, fault.detail)
            return micro
        try:
            numbers = np.array(values, dtype=np.float64)  # None becomes NaN, which no JSON number is
        except OverflowError:
            pass
        else:
            there = numbers == numbers
            read, fine = _fixed(np.where(there, numbers, 0.0), values)
            if fine.all():
                micro[there] = read[there]
                return micro
    for kind, rows, part in by_type(values, kinds):
        if kind is type(None) and not required:
            continue  # most events carry no price: no call for each of them
        numbered = range(len(part)) if rows is None else rows
        if kind is int:
            bounded = np.array(_bounded(part), dtype=np.int64)
            read = bounded * MICRO
            fine = np.abs(bounded) <= LIMIT
        elif kind is float:
            read, fine = _fixed(np.array(part, dtype=np.float64), part)
        elif kind is str:
            read, fine = _fixed_texts(part)
        else:
            read, fine = np.zeros(len(part), dtype=np.int64), np.zeros(len(part), dtype=np.bool_)
        if fine.all():
            micro[slice(None) if rows is None else rows] = read
            continue
        chosen = np.asarray(numbered, dtype=np.int64)
        micro[chosen[fine]] = read[fine]
        for index in np.flatnonzero(~fine).tolist():
            _note_number(values[numbered[index]], numbered[index], field, faults, required)
    return micro


def _bounded(values: list[int]) -> list[int] | Ints:
    """Whole numbers that fit int64, those beyond LIMIT kept beyond it."""
    try:
        numbers = np.array(values, dtype=np.int64)
    except OverflowError:
        return [min(max(value, -LIMIT - 1), LIMIT + 1) for value in values]
    return np.clip(numbers, -LIMIT - 1, LIMIT + 1)


def _fixed(numbers: NDArray[np.float64], exact: Sequence[Any]) -> tuple[Ints, Bools]:
    """Floats in micro-units, and which of them are within LIMIT.

    Args:
        numbers: float64[n].
        exact: the same numbers as they were written.
    """
    fine = np.abs(numbers) <= LIMIT
    scaled = np.where(fine, numbers, 0.0) * MICRO
    whole = np.rint(scaled)
    # The product is off by up to two roundings. Where that could decide which way to round, count in decimals.
    near_tie = np.abs(np.abs(scaled - whole) - 0.5) <= np.abs(scaled) * 4e-16
    micro = whole.astype(np.int64)
    for row in np.flatnonzero(near_tie).tolist():
        micro[row] = _decimal_micro(exact[row])
    return micro, fine


def _decimal_micro(value: Any) -> int:
    text = value if isinstance(value, str) else repr(value)
    context = Context(prec=len(text) + 40, rounding=ROUND_HALF_EVEN)
    return int(context.multiply(Decimal(text.strip()), Decimal(MICRO)).to_integral_value(ROUND_HALF_EVEN))


def _fixed_texts(texts: list[str]) -> tuple[Ints, Bools]:
    # float() reads more than numbers ("1_000", "nan", digits of any script): with these letters alone it reads just them.
    if _NUMBERS.fullmatch("".join(texts)):
        try:
            return _fixed(np.array(list(map(float, texts)), dtype=np.float64), texts)
        except ValueError:
            pass
    numbers = [float(text) if _NUMBER.fullmatch(text) else math.nan for text in map(str.strip, texts)]
    return _fixed(np.array(numbers, dtype=np.float64), texts)


def _note_number(value: Any, row: int, field: str, faults: Faults, required: bool) -> None:
    if _is_none(value):
        if required:
            faults.note(row, "missing_field", field, "must be there and not be empty")
        return
    number = read_real(value)
    if number is None:
        faults.note(row, "bad_value", field, f"must be a number; got {got(value)}")
    else:
        faults.note(row, "bad_value", field, f"must be from -{LIMIT} to {LIMIT}; got {got(value)}")


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def read_real(value: Any) -> float | None:
    """One number, or its text, as a float (infinite where it is too large for one); None where it is not a number."""
    if isinstance(value, str):
        text = value.strip()
        return float(text) if _NUMBER.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)


def read_reals(values: list[Any], field: str, faults: Faults) -> list[object]:
    """Reads numbers that are no amounts (ratings, the values of signals): finite floats, None where there is none.

    Args:
        values: decoded JSON.
        field: ours, for faults.
        faults: where unusable ones are noted.
    """
    reals: list[object] = []
    for row, value in enumerate(values):
        if _is_none(value):
            reals.append(None)
            continue
        number = read_real(value)
        if number is None or not math.isfinite(number):
            faults.note(row, "bad_value", field, f"must be a number; got {got(value)}")
            number = None
        reals.append(number)
    return reals


def read_flags(values: list[Any]) -> Bools:
    """Reads what is true: true, numbers but 0, text but '', "0", "false", "no", "off", "none", "null", what is not empty.

    Args:
        values: decoded JSON.

    Returns:
        bool[n].
    """
    return np.array([value.strip().lower() not in _FALSE if type(value) is str else bool(value) for value in values], dtype=np.bool_)
