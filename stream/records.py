"""What nowcart publishes, as bytes: columns to JSON keys and values, and the headers of dead letters.

Only encoding lives here; stream.schemas describes the same records for those who read them. Nothing here knows Kafka.

A demand record holds some 280 numbers, and its encoding is most of what a tick costs. Rounding them and handing lists of
floats to a JSON encoder took 20 µs a record (half of it for making and printing floats that the rounding had already
decided). A number of four significant digits is one of 9,000 mantissas in one of some 80 decades, so its text is looked
up instead: numbers become row numbers of a table of 16-byte cells, the record a row of cells, and the unused bytes of all
cells are deleted at once: 7 µs a record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import repeat
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.engine.columns import MICRO, DemandColumns, ForecastColumns, IntentColumns, Ints, SpikeColumns

SCHEMA_VERSION = 1
HEADERS: tuple[tuple[str, bytes], ...] = (("nowcart-schema", b"%d" % SCHEMA_VERSION),)
"""The headers of every record that nowcart makes."""

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""What the dead-letter topic and its producer accept, all included."""

REASONS = ("malformed", "missing_field", "bad_value", "bad_time", "future", "too_late", "too_large", "unknown_schema", "undelivered")
"""Why a message is a dead letter."""

SIGNIFICANT_DIGITS = 4

Encoded = tuple[list[bytes], list[bytes]]
"""Keys and values of records, in the columns' order."""

_DETAIL_CHARACTERS = 1000
_MAX_KEY_BYTES = 1024 * 1024
_OVERHEAD_BYTES = 16 * 1024  # of the batch, the record and our headers (a detail is at most 4 KB of UTF-8); generous

_json = msgspec.json.Encoder()


class IntentRecord(msgspec.Struct, frozen=True, gc=False):
    """A record of `intent`."""

    session: str
    user: str | None
    issued_at_ms: int
    events: int
    p_purchase: float
    p_cart: float
    ended: bool
    purchased: bool
    bot: bool
    model_version: str
    next_items: list[tuple[str, float]] | msgspec.UnsetType = msgspec.UNSET
    """Items that are likely to come next with their probabilities, where [intent] next_items asks for them."""


class SpikeRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record of `spikes`."""

    item: str
    bucket: str
    bucket_start_ms: int
    observed: int | float
    expected: float
    p_value: float
    severity: str
    state: str
    model_version: str
    direction: str
    orders: int
    orders_expected: float
    factor: float
    since_ms: int
    together: int
    category: str | None = None


class AlertedSpike(msgspec.Struct, frozen=True):
    """The most unlikely spike of an alert."""

    item: str
    observed: int | float
    expected: float
    p_value: float


class AlertRecord(msgspec.Struct, frozen=True):
    """A record of `alerts`."""

    alert: str
    update: int
    change: str
    """opened | joined | left | escalated | resolved."""
    category: str | None
    items: list[str]
    bucket: str
    severity: str
    state: str
    started_ms: int
    updated_ms: int
    summary: str
    worst: AlertedSpike
    model_version: str


def round_significant(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The values to four significant digits, each the float64 nearest to that decimal (so that it prints short).

    Args:
        values: floating[...], finite or not; what is not finite, and zero, stays as it is.
    """
    x = np.asarray(values, dtype=np.float64)
    size = np.abs(x)
    some = np.isfinite(x) & (size > 0)
    decade = np.floor(np.log10(size, where=some, out=np.zeros_like(x))).astype(np.int64)
    power = SIGNIFICANT_DIGITS - 1 - decade
    # 10.0**22 is the last power of ten that a float64 holds exactly: further out only decimal text rounds correctly.
    plain = some & (np.abs(power) <= 22)
    scale = np.power(10.0, np.where(plain, np.abs(power), 0))
    up = power >= 0
    mantissa = np.rint(np.where(up, x * scale, x / scale))
    rounded = np.where(plain, np.where(up, mantissa / scale, mantissa * scale), x)
    for at in zip(*np.nonzero(some & ~plain), strict=True):
        rounded[at] = float(f"{x[at]:.{SIGNIFICANT_DIGITS - 1}e}")
    return rounded


def encode_intent(columns: IntentColumns) -> Encoded:
    """Records of `intent`, keyed by session.

    Args:
        columns: n records.
    """
    users: Sequence[str | None] = [None] * len(columns) if columns.user is None else [user or None for user in columns.user]
    records = map(
        IntentRecord,
        columns.session,
        users,
        columns.issued_at_ms.tolist(),
        columns.events.tolist(),
        round_significant(columns.p_purchase).tolist(),
        round_significant(columns.p_cart).tolist(),
        columns.ended.tolist(),
        columns.purchased.tolist(),
        columns.bot.tolist(),
        repeat(columns.model_version),
        repeat(msgspec.UNSET) if columns.next_items is None else columns.next_items,
    )
    return list(map(str.encode, columns.session)), list(map(_json.encode, records))


def encode_spikes(columns: SpikeColumns) -> Encoded:
    """Records of `spikes`, keyed by item.

    Args:
        columns: n records.
    """
    rows = zip(
        columns.item,
        units(columns.observed),
        round_significant(columns.expected).tolist(),
        round_significant(columns.p_value).tolist(),
        columns.severity,
        columns.state,
        columns.direction,
        columns.orders.tolist(),
        round_significant(columns.orders_expected).tolist(),
        round_significant(columns.factor).tolist(),
        columns.since_ms.tolist(),
        columns.together.tolist(),
        [None] * len(columns) if columns.category is None else columns.category,
        strict=True,
    )
    bucket, start_ms, version = columns.bucket, columns.bucket_start_ms, columns.model_version
    values = [
        _json.encode(SpikeRecord(item, bucket, start_ms, observed, expected, p_value, severity, state, version, *more))
        for item, observed, expected, p_value, severity, state, *more in rows
    ]
    return [item.encode() for item in columns.item], values


def encode_demand(columns: DemandColumns, chunk: int = 500) -> Iterator[tuple[list[bytes], list[bytes], int]]:
    """Records of `demand`, keyed by item, a chunk at a time: keys, values, and the bytes of both.

    Args:
        columns: n records.
        chunk: records a chunk, at least 1.

    Raises:
        ValueError: a forecast is negative or not finite.
    """
    for start in range(0, len(columns), chunk):
        stop = min(start + chunk, len(columns))
        keys = [item.encode() for item in columns.item[start:stop]]
        heads = _demand_heads(columns, start, stop)
        forecast = columns.forecast
        if forecast is None:
            tail = b',"model_version":%b}' % _json.encode(columns.model_version)
            values = [head + tail for head in heads]
        else:
            tails = _demand_tails(columns.model_version, forecast)
            rows = forecast.weights_row[start:stop].tolist()
            bodies = _forecast_bodies(forecast, columns.levels, start, stop)
            values = [b"".join((head, body, tails[row])) for head, body, row in zip(heads, bodies, rows, strict=True)]
        yield keys, values, sum(map(len, keys)) + sum(map(len, values))


def units(micro: Ints) -> list[int | float]:
    """Micro-units as numbers of units: whole ones as int, the others as the float that prints the exact decimal.

    Args:
        micro: int64[n].
    """
    whole, rest = np.divmod(micro, MICRO)
    numbers: list[int | float] = whole.tolist()
    for at in np.nonzero(rest)[0].tolist():
        numbers[at] = int(micro[at]) / MICRO
    return numbers


def dead_letter_headers(reason: str, detail: str, topic: str, partition: int, offset: int) -> list[tuple[str, bytes]]:
    """The headers that say why a message is a dead letter, and where it stood.

    Args:
        reason: one of REASONS.
        detail: for a human; cut to 1,000 characters.
        topic: the message's own.
        partition: the message's own.
        offset: the message's own.
    """
    return [
        *HEADERS,
        ("nowcart-reason", reason.encode()),
        ("nowcart-detail", detail[:_DETAIL_CHARACTERS].encode(errors="replace")),
        ("nowcart-topic", topic.encode()),
        ("nowcart-partition", b"%d" % partition),
        ("nowcart-offset", b"%d" % offset),
    ]


def fit_dead_letter(key: bytes | None, value: bytes | None) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]:
    """Key and value as they came in, or cut so that the dead-letter topic takes them, with the headers that say so.

    A cut value carries `nowcart-cut`, a cut key `nowcart-cut-key`: the original size in bytes.

    Args:
        key: as it came in.
        value: as it came in.
    """
    headers: list[tuple[str, bytes]] = []
    if key is not None and len(key) > _MAX_KEY_BYTES:
        headers.append(("nowcart-cut-key", b"%d" % len(key)))
        key = key[:_MAX_KEY_BYTES]
    room = MAX_MESSAGE_BYTES - _OVERHEAD_BYTES - len(key or b"")
    if value is not None and len(value) > room:
        headers.append(("nowcart-cut", b"%d" % len(value)))
        value = value[:room]
    return key, value, headers


def _demand_heads(columns: DemandColumns, start: int, stop: int) -> list[bytes]:
    """Everything before the forecast, the object left open."""
    cut = slice(start, stop)
    encode = _json.encode
    same = f',"bucket":{encode(columns.bucket).decode()},"bucket_start_ms":{columns.bucket_start_ms},"observed":'
    last = f',"issued_at_ms":{columns.issued_at_ms}' + (',"corrects":true' if columns.corrects else "")
    rows = zip(
        columns.item[cut],
        units(columns.observed[cut]),
        units(columns.returned[cut]),
        columns.orders[cut].tolist(),
        columns.views[cut].tolist(),
        columns.carts[cut].tolist(),
        round_significant(columns.censored[cut]).tolist(),
        strict=True,
    )
    return [
        b'{"item":%b' % encode(item)
        + f'{same}{observed},"returned":{returned},"orders":{orders},"views":{views},"carts":{carts},"censored":{censored or 0}{last}'.encode()
        for item, observed, returned, orders, views, carts, censored in rows
    ]


def _demand_tails(model_version: str, forecast: ForecastColumns) -> list[bytes]:
    """Everything behind the forecast, one for each class of items."""
    version = _json.encode(model_version)
    return [b',"model_version":%b,"experts":%b}' % (version, _json.encode(_rounded(weights))) for weights in forecast.weights]


def _rounded(weights: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {
        group: dict(zip(experts, round_significant(np.array(list(experts.values()), dtype=np.float64)).tolist(), strict=True))
        for group, experts in weights.items()
    }


# ---- numbers as cells

_CELL = 16
_LOWEST, _HIGHEST = -30, 38
"""Decades of the table: below 1e-30 is printed as 0, and float32 ends below 1e39."""
_MANTISSAS = 9 * 10 ** (SIGNIFICANT_DIGITS - 1)
_SMALL_CELL = 4
_SMALL = 10 ** (_SMALL_CELL - 1)
"""Whole numbers below this, and a comma, fit a small cell."""
_AT_ONCE = 128
"""Records that are written together: their bytes stay in the cache."""


class _Cells:
    """The texts of all numbers, each behind a comma: row 0 is zero, then decade by decade.

    A decade is filled when it is first met. Zeros that are never touched take no memory: of 11 MB of addresses, 144 KB for
    each decade in use.
    """

    def __init__(self) -> None:
        self.table = np.zeros(1 + (_HIGHEST - _LOWEST + 2) * _MANTISSAS, dtype=f"S{_CELL}")
        self.table[0] = b",0"
        self.filled = np.zeros(_HIGHEST - _LOWEST + 1, dtype=np.bool_)
        self.scales = np.array([float(f"1e{SIGNIFICANT_DIGITS - 1 - decade}") for decade in range(_LOWEST, _HIGHEST + 1)])
        """float64[decades], what brings a number of each decade to 1000 … 9999."""
        self.small = np.array([b",%d" % number for number in range(_SMALL)], dtype=f"S{_SMALL_CELL}")

    def fill(self, decade: int) -> None:
        """Writes a decade's texts, and the next one's first: 9999.6 of a decade is rounded to it."""
        start = 1 + (decade - _LOWEST) * _MANTISSAS
        low = 10 ** (SIGNIFICANT_DIGITS - 1)
        exponent = decade - SIGNIFICANT_DIGITS + 1
        texts = [b"," + _text(mantissa, exponent) for mantissa in range(low, 10 * low)] + [b"," + _text(low, exponent + 1)]
        self.table[start : start + len(texts)] = texts
        self.filled[decade - _LOWEST] = True

    def rows(self, values: NDArray[np.float32]) -> NDArray[np.int32]:
        """int32[n, numbers], where each number's text stands in the table.

        The logarithm may be off by its last digit, next to a power of ten; both decades then give the same row.

        Args:
            values: float32[n, numbers].

        Raises:
            ValueError: a value is negative or not finite.
        """
        if not (values.min(initial=0) >= 0 and values.max(initial=0) < np.inf):  # a NaN fails both
            raise ValueError("a forecast must be finite and at least 0; got one that is not")
        zero = values < np.float32(10.0**_LOWEST)
        decades = np.floor(np.log10(np.where(zero, np.float32(1), values))).astype(np.int32)
        decades -= _LOWEST
        np.maximum(decades, 0, out=decades)
        if not self.filled[decades].all():
            for decade in np.unique(decades[~self.filled[decades]]).tolist():
                self.fill(decade + _LOWEST)
        rows: NDArray[np.int32] = np.rint(values * self.scales[decades]).astype(np.int32)
        decades *= _MANTISSAS
        rows += decades
        rows -= _MANTISSAS // 9 - 1
        rows[zero] = 0
        return rows


def _text(mantissa: int, exponent: int) -> bytes:
    """The JSON of mantissa · 10^exponent in at most 15 bytes, for a mantissa of four digits."""
    if exponent + SIGNIFICANT_DIGITS > _CELL - 1:
        return b"%de%d" % (mantissa, exponent)
    value = float(f"{mantissa}e{exponent}")
    return (str(int(value)) if value.is_integer() else repr(value)).encode()


_cells = cache(_Cells)


@dataclass(frozen=True, slots=True)
class _Layout:
    """A record's forecast as bytes: literal text, and cells for the numbers between; bytes of zero are taken out in the end."""

    template: NDArray[np.uint8]
    """The literal text, zeros where numbers stand."""
    blocks: tuple[tuple[int, int, int], ...]
    """(byte at which they stand, which number is their first, how many), of those in cells of full size."""
    small: tuple[int, ...]
    """Bytes at which each level's quantiles stand, where their cells are small ones."""
    leading: NDArray[np.intp]
    """Bytes of commas that stand before no other number."""


@lru_cache(maxsize=64)
def _layout(horizon: int, levels: tuple[float, ...], totals: tuple[int, ...], small: bool) -> _Layout:
    """Of numbers in the order mean, p_zero, totals and, unless they are small, quantiles."""
    text = bytearray()
    blocks: list[tuple[int, int, int]] = []
    small_at: list[int] = []
    leading: list[int] = []
    quantiles_from = 2 * horizon + len(totals) * len(levels)

    def number(first: int, count: int = 1) -> None:
        leading.append(len(text))
        blocks.append((len(text), first, count))
        text.extend(bytes(count * _CELL))

    text += b',"mean":['
    number(0, horizon)
    text += b'],"quantiles":{'
    for index, level in enumerate(levels):
        text += (("]," if index else "") + f'"{level}":[').encode()
        if small:
            leading.append(len(text))
            small_at.append(len(text))
            text.extend(bytes(horizon * _SMALL_CELL))
        else:
            number(quantiles_from + index * horizon, horizon)
    text += b']},"p_zero":['
    number(horizon, horizon)
    text += b'],"totals":{'
    for index, steps in enumerate(totals):
        text += (("," if index else "") + f'"{steps}":{{').encode()
        for position, level in enumerate(levels):
            text += (("," if position else "") + f'"{level}":').encode()
            number(2 * horizon + index * len(levels) + position)
        text += b"}"
    text += b"}\n"
    return _Layout(np.frombuffer(bytes(text), np.uint8), tuple(blocks), tuple(small_at), np.array(leading, dtype=np.intp))


def _forecast_bodies(forecast: ForecastColumns, levels: tuple[float, ...], start: int, stop: int) -> list[bytes]:
    """From `,"mean"` to the end of the totals, one for each record."""
    cut, n = slice(start, stop), stop - start
    quantiles = forecast.quantiles[cut].reshape(n, -1)  # [n, levels, horizon] -> [n, levels * horizon]
    # Quantiles are most of a record, and nearly all of them small whole numbers: in cells of four bytes instead of sixteen.
    whole = np.clip(quantiles, 0, _SMALL - 1).astype(np.int16)
    small = (whole == quantiles).all(axis=1)
    some = (forecast.mean[cut], forecast.p_zero[cut], *(total[cut] for total in forecast.totals.values()))
    totals = tuple(forecast.totals)
    if small.all():
        return _written(np.concatenate(some, axis=1), whole, levels, totals)
    values = np.concatenate((*some, quantiles), axis=1)
    if not small.any():
        return _written(values, None, levels, totals)
    bodies: dict[int, bytes] = {}
    for rows, them in ((np.flatnonzero(~small), None), (np.flatnonzero(small), whole)):
        part = values[rows] if them is None else values[rows, : -quantiles.shape[1]]
        bodies |= zip(rows.tolist(), _written(part, None if them is None else them[rows], levels, totals), strict=True)
    return [bodies[row] for row in range(n)]


def _written(
    values: NDArray[np.float32], small: NDArray[np.int16] | None, levels: tuple[float, ...], totals: tuple[int, ...]
) -> list[bytes]:
    """The bodies of records whose quantiles are small whole numbers, or of such as they come.

    Args:
        values: float32[n, numbers], as in _layout().
        small: int16[n, levels * horizon], the quantiles; None: they are among the values.
        levels: of the quantiles.
        totals: steps.
    """
    n, cells = len(values), _cells()
    numbers = values.shape[1] - len(totals) * len(levels)
    horizon = numbers // 2 if small is not None else numbers // (2 + len(levels))
    layout, width = _layout(horizon, levels, totals, small is not None), horizon * _SMALL_CELL
    bodies: list[bytes] = []
    for start in range(0, n, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        texts = cells.table.take(cells.rows(values[part])).view(np.uint8)  # [records, numbers * cell]
        out = np.empty((len(texts), len(layout.template)), np.uint8)
        out[:] = layout.template
        for at, first, count in layout.blocks:
            out[:, at : at + count * _CELL] = texts[:, first * _CELL : (first + count) * _CELL]
        if small is not None:
            texts = cells.small.take(small[part]).view(np.uint8)
            for level, at in enumerate(layout.small):
                out[:, at : at + width] = texts[:, level * width : (level + 1) * width]
        out[:, layout.leading] = 0
        bodies += out.tobytes().translate(None, b"\0").split(b"\n")[:-1]
    return bodies
