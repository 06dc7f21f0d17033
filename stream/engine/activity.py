"""Activity: what ingest tells forecast about items. Rows of (item, grain), the blocks that carry them, and their bytes.

A block is one message to one activity partition. Kinds:

    roster  the source partitions that will speak, and what both stages must agree on; before any data
    rows    segments of one source partition, each with its epoch, and the epoch that the source has reached
    idle    the source partition is idle from here on, until it speaks again
    end     the source partition has ended; carries its largest event time
    facts   segments of facts and measurements only, of a source partition that nobody waits for

The bytes are msgpack: columns are little-endian arrays inside. Column names travel with them, so that a later version
may add some and an older log stays readable.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from models.exact import stable_order
from stream.engine.columns import MICRO, MISSING, Event, Ints, Rows
from stream.engine.facts import (
    FactRows,
    Facts,
    Measured,
    MeasuredRows,
    join_facts,
    join_measured,
    pack_facts,
    pack_measured,
    pieces,
    stamp_facts,
    weigh,
)

VERSION = 1
MAX_BLOCK_BYTES = 512 * 1024
_ROW_BYTES = 72
_EXPECTED_ITEMS = 2_000
"""Items of one segment of expected purchases."""

SUMS = ("views", "carts", "lines", "fractions", "units", "returns", "revenue")
"""Columns that add up: counts (fractions: order lines of a broken quantity), and micro-units of quantity (units, returns) and money
(revenue). Whether a demand is whole is told by a count, because a sum of halves may be whole or not depending on what it sums."""
PRICE = ("price", "price_ms", "price_offset")
"""The last price of the bucket, and when and where it was seen: the largest (time, source partition, offset) wins."""


class BlockError(ValueError):
    """A message of the activity topic that this version cannot read."""


class Source(msgspec.Struct, frozen=True, array_like=True):
    """A source partition."""

    name: str
    partition: int


class Agreement(msgspec.Struct, frozen=True, array_like=True):
    """What both stages must share for activity to mean the same to both."""

    grain_ms: int
    smallest: str
    zone: str


class Expected(msgspec.Struct, array_like=True):
    """What the stock of expected purchases has moved by while the source's watermark was in an epoch."""

    items: list[str]
    """Each once."""
    change: bytes
    """int64[items], micro-units."""


class Segment(msgspec.Struct, array_like=True):
    """Rows that arrived while the source's watermark was in one epoch (a bucket number of the smallest bucket size)."""

    epoch: int
    items: list[str]
    columns: dict[str, bytes]
    """`item` uint32 index into items, `grain` int64 grain number, SUMS and PRICE int64; empty where there are only facts."""
    facts: Facts | None = None
    measured: Measured | None = None
    expected: Expected | None = None


class Block(msgspec.Struct, array_like=True):
    """One message of the activity topic."""

    version: int
    kind: str
    source: Source | None = None
    reached: int | None = None
    """The epoch that the source has reached: none of its later segments is older."""
    segments: list[Segment] = []
    max_ms: int | None = None
    """Kind end: the source's largest event time; None if it never had an event."""
    roster: list[Source] = []
    agreement: Agreement | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Block)


def encode_block(block: Block) -> bytes:
    """A block's bytes."""
    return _encoder.encode(block)


def decode_block(data: bytes) -> Block:
    """Reads a block.

    Raises:
        BlockError: not a block, or one of a newer version.
    """
    try:
        block = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise BlockError(f"an activity block must be msgpack of version {VERSION}; got {error}") from error
    if block.version > VERSION:
        raise BlockError(f"activity blocks of version {block.version} need a newer nowcart than this one (it reads up to {VERSION})")
    return block


@dataclass(frozen=True, slots=True)
class ItemColumn:
    """The items of a batch of rows, each name once."""

    number: Ints
    """int64[rows], index into names; -1 for none."""
    names: list[str]
    crc: Ints
    """int64[names], CRC-32 of the name: decides the activity partition, the same on every machine."""

    def hashes(self) -> Ints:
        """int64[rows], a stable hash of each row's item, 0 for none."""
        if not self.names:
            return np.zeros(len(self.number), np.int64)
        return np.where(self.number >= 0, self.crc[self.number] + 1, 0)


def number_items(items: Sequence[str] | None, rows: int) -> ItemColumn:
    """Gives each distinct item a number, in order of appearance.

    Args:
        items: a name a row, '' for none; None if no row has one.
        rows: how many rows there are.
    """
    if items is None:
        return ItemColumn(np.full(rows, -1, np.int64), [], np.zeros(0, np.int64))
    names = list(dict.fromkeys(items))
    local = dict(zip(names, range(len(names)), strict=True))
    column = np.fromiter(map(local.__getitem__, items), np.int64, rows)
    crc = np.array(list(map(zlib.crc32, map(str.encode, names))), dtype=np.int64)
    if "" in local:
        column[column == local[""]] = -1
    return ItemColumn(column, names, crc)


def clickstream_sums(rows: Rows, with_purchases: bool) -> dict[str, Ints]:
    """The additive columns of clickstream rows.

    Args:
        rows: with `event`.
        with_purchases: whether purchases here are the demand (or orders elsewhere are).
    """
    assert rows.event is not None
    sums = {"views": (rows.event == Event.VIEW).astype(np.int64), "carts": (rows.event == Event.CART).astype(np.int64)}
    if with_purchases:
        bought = rows.event == Event.PURCHASE
        assert rows.quantity is not None
        sums["lines"] = bought.astype(np.int64)
        sums["units"] = np.where(bought, rows.quantity, 0)
        sums["fractions"] = (bought & (rows.quantity % MICRO != 0)).astype(np.int64)
        sums["revenue"] = np.where(bought, _revenue(rows), 0)
    return sums


def order_sums(rows: Rows) -> dict[str, Ints]:
    """The additive columns of order lines; a return is never subtracted from what was ordered.

    Args:
        rows: with `quantity`; a negative quantity or `cancelled` makes a return.
    """
    assert rows.quantity is not None
    back = rows.quantity < 0
    if rows.cancelled is not None:
        back |= rows.cancelled
    return {
        "lines": (~back).astype(np.int64),
        "units": np.where(back, 0, rows.quantity),
        "fractions": (~back & (rows.quantity % MICRO != 0)).astype(np.int64),
        "returns": np.where(back, np.abs(rows.quantity), 0),
        "revenue": np.where(back, 0, _revenue(rows)),
    }


def _revenue(rows: Rows) -> Ints:
    """Micro-money of each row: price times quantity, in whole micro-units (rounded half to even, the same everywhere)."""
    assert rows.quantity is not None
    if rows.price is None:
        return np.zeros(len(rows), np.int64)
    price = np.where(rows.price == MISSING, 0, rows.price)
    # float64 holds 53 bits: exact for anything a shop sells in one line, and the same bits on every machine beyond.
    return np.asarray(np.rint(price * (rows.quantity / 1e6)), dtype=np.int64)


def segments_by_partition(
    epoch: int, rows: Rows, items: ItemColumn, grain: Ints, sums: dict[str, Ints], partitions: int
) -> list[list[Segment]]:
    """Aggregates rows of one epoch by (item, grain) and splits them by activity partition.

    Args:
        epoch: of all these rows.
        rows: in offset order.
        items: of the same rows.
        grain: int64[rows], grain numbers of the event times.
        sums: additive columns.
        partitions: of the activity topic.

    Returns:
        For each activity partition the segments (none if it has no rows; several if they would not fit one block).
    """
    result: list[list[Segment]] = [[] for _ in range(partitions)]
    with_item = np.flatnonzero(items.number >= 0)
    if not len(with_item):
        return result
    base = int(grain[with_item].min())
    span = int(grain[with_item].max()) - base + 1
    key = items.number[with_item] * span + (grain[with_item] - base)
    by_time = np.argsort(rows.time_ms[with_item], kind="stable")  # equal times stay in offset order
    order = by_time[stable_order(key[by_time])]
    key, picked = key[order], with_item[order]
    start = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    columns = {name: np.add.reduceat(values[picked], start) for name, values in sums.items()}
    if rows.price is not None:
        # The last row of each group that has a price; groups without one carry MISSING.
        has = rows.price[picked] != MISSING
        last = np.maximum.reduceat(np.where(has, np.arange(len(picked)), -1), start)
        found = last >= 0
        row = picked[last]
        columns["price"] = np.where(found, rows.price[row], MISSING)
        columns["price_ms"] = np.where(found, rows.time_ms[row], 0)
        columns["price_offset"] = np.where(found, rows.offset[row], 0)
    item, grains = key[start] // span, key[start] % span + base
    partition = items.crc[item] % partitions
    for p in range(partitions):
        mine = np.flatnonzero(partition == p)
        for piece in _pieces(mine, item, items.names):
            result[p].append(_segment(epoch, piece, item, grains, columns, items.names))
    return result


@dataclass(frozen=True, slots=True)
class Moved:
    """What the expected purchases of some items have moved by while the watermark was in one epoch."""

    epoch: int
    names: list[str]
    """Of items, by their number; the same list for all that share numbers."""
    item: Ints
    """int64[n], numbers."""
    change: Ints
    """int64[n], micro-units."""


def expected_by_partition(moved: Sequence[Moved], partitions: int) -> list[list[Segment]]:
    """Differences of the stock of expected purchases as segments of their items' activity partitions.

    Args:
        moved: any number an epoch.
        partitions: of the activity topic.
    """
    result: list[list[Segment]] = [[] for _ in range(partitions)]
    for epoch in sorted({m.epoch for m in moved}):
        items, change = _summed(_by_name([m for m in moved if m.epoch == epoch]))
        home = np.array(list(map(zlib.crc32, map(str.encode, items))), dtype=np.int64) % partitions
        for p in range(partitions):
            mine = np.flatnonzero((home == p) & (change != 0))
            for at in range(0, len(mine), _EXPECTED_ITEMS):
                part = mine[at : at + _EXPECTED_ITEMS]
                told = Expected([items[i] for i in part.tolist()], change[part].astype("<i8").tobytes())
                result[p].append(Segment(epoch, [], {}, expected=told))
    return result


def _by_name(moved: Sequence[Moved]) -> list[tuple[list[str], Ints]]:
    """Sums in numbers as far as these go, before any name is looked at."""
    shared: dict[int, list[Moved]] = {}
    for one in moved:
        shared.setdefault(id(one.names), []).append(one)
    parts = []
    for group in shared.values():
        item, place = np.unique(np.concatenate([one.item for one in group]), return_inverse=True)
        total = np.zeros(len(item), np.int64)
        np.add.at(total, place, np.concatenate([one.change for one in group]))
        left = np.flatnonzero(total)
        names = group[0].names
        parts.append(([names[i] for i in item[left].tolist()], total[left]))
    return parts


def read_expected(expected: Expected) -> Ints:
    """int64[items], micro-units."""
    return np.frombuffer(expected.change, "<i8").astype(np.int64, copy=False)


def _summed(parts: Sequence[tuple[Sequence[str], Ints]]) -> tuple[list[str], Ints]:
    """Items in the order of their names, and their sums."""
    if len(parts) == 1:  # the usual case: no item occurs twice
        items, change = parts[0]
        order = sorted(range(len(items)), key=items.__getitem__)
        return [items[i] for i in order], change[np.array(order, dtype=np.int64)]
    names = sorted({name for items, _ in parts for name in items})
    place = {name: i for i, name in enumerate(names)}
    total = np.zeros(len(names), np.int64)
    for items, change in parts:
        np.add.at(total, np.fromiter(map(place.__getitem__, items), np.int64, len(items)), change)
    return names, total


def _join_expected(parts: Sequence[Expected]) -> Expected:
    items, change = _summed([(part.items, read_expected(part)) for part in parts])
    return Expected(items, change.astype("<i8").tobytes())


def _pieces(rows: Ints, item: Ints, names: list[str]) -> Iterator[Ints]:
    """Cuts rows so that no piece exceeds half of a block."""
    room = MAX_BLOCK_BYTES // 2
    if len(rows) * (_ROW_BYTES + 64) <= room:
        if len(rows):
            yield rows
        return
    size = _ROW_BYTES + np.array([4 * len(names[i]) for i in item[rows].tolist()], dtype=np.int64)
    piece = np.cumsum(size) // room
    for part in np.split(rows, np.flatnonzero(np.diff(piece)) + 1):
        yield part


def _segment(epoch: int, rows: Ints, item: Ints, grain: Ints, columns: dict[str, Ints], names: list[str]) -> Segment:
    mine = item[rows]
    begins = np.concatenate([[True], mine[1:] != mine[:-1]])
    data = {"item": (np.cumsum(begins) - 1).astype("<u4").tobytes(), "grain": grain[rows].astype("<i8").tobytes()}
    for name, values in columns.items():
        picked = values[rows]
        if name in PRICE or picked.any():
            data[name] = picked.astype("<i8").tobytes()
    return Segment(epoch, [names[i] for i in mine[begins].tolist()], data)


def column(segment: Segment, name: str, rows: int) -> Ints:
    """int64[rows], a column of a segment; zeros (MISSING for the price) where it carries none."""
    data = segment.columns.get(name)
    if data is None:
        return np.full(rows, MISSING if name == "price" else 0, np.int64)
    return np.frombuffer(data, "<i8").astype(np.int64, copy=False)


def pack(source: Source, reached: int, segments: Sequence[Segment]) -> Iterator[Block]:
    """Blocks of at most MAX_BLOCK_BYTES; only the last says which epoch is reached (the others: the oldest still to come)."""
    batch: list[Segment] = []
    size = 0
    for segment in segments:
        weight = sum(map(len, segment.columns.values())) + sum(map(len, segment.items)) + weigh(segment.facts, segment.measured) + 64
        if segment.expected is not None:
            weight += len(segment.expected.change) + sum(map(len, segment.expected.items))
        if batch and size + weight > MAX_BLOCK_BYTES:
            yield Block(VERSION, "rows", source, segment.epoch, batch)
            batch, size = [], 0
        batch.append(segment)
        size += weight
    yield Block(VERSION, "rows", source, reached, batch)


def facts_segment(epoch: int, facts: FactRows | None, measured: MeasuredRows | None = None) -> Segment:
    """A segment of facts and measurements, for one activity partition.

    Forecast applies it with the epoch, after the epoch's rows and before the buckets that end with it close: what it says is known to
    the forecasts issued at the end of the epoch and later, never before.

    Args:
        epoch: bucket number of the smallest bucket size.
        facts: see facts.fact_rows.
        measured: see facts.measured_rows; their buckets must not lie more than one after the epoch.
    """
    return Segment(epoch, [], {}, None if facts is None else pack_facts(facts), None if measured is None else pack_measured(measured))


def facts_by_partition(epoch: Ints, facts: FactRows, partitions: int) -> list[list[Segment]]:
    """Facts as segments: those of an item to its activity partition, the others to all.

    Args:
        epoch: int64[n], of each row.
        facts: n rows.
        partitions: of the activity topic.
    """
    crc = np.array([*(zlib.crc32(name.encode()) % partitions for name in facts.items), -1], dtype=np.int64)
    home = crc[facts.item]
    result: list[list[Segment]] = [[] for _ in range(partitions)]
    for p in range(partitions):
        mine = np.flatnonzero((home == p) | (home < 0))
        for number in np.unique(epoch[mine]).tolist():
            rows = mine[epoch[mine] == number]
            for piece in pieces(facts.item[rows], facts.items, MAX_BLOCK_BYTES // 4):
                result[p].append(facts_segment(number, facts.pick(rows[piece])))
    return result


def measured_by_partition(epoch: Ints, measured: MeasuredRows, partitions: int) -> list[list[Segment]]:
    """Measurements as segments of their items' activity partitions.

    Args:
        epoch: int64[n], of each row.
        measured: n rows.
        partitions: of the activity topic.
    """
    home = np.array([zlib.crc32(name.encode()) % partitions for name in measured.items], dtype=np.int64)[measured.item]
    result: list[list[Segment]] = [[] for _ in range(partitions)]
    for p in range(partitions):
        mine = np.flatnonzero(home == p)
        for number in np.unique(epoch[mine]).tolist():
            rows = mine[epoch[mine] == number]
            for piece in pieces(measured.item[rows], measured.items, MAX_BLOCK_BYTES // 4):
                result[p].append(facts_segment(number, None, measured.pick(rows[piece])))
    return result


def merge(segments: Sequence[Segment]) -> Segment:
    """One segment with the same sums, last prices, facts and measurements, rows ordered by item and grain; what waits for its epoch stays small.

    Args:
        segments: of one epoch, at least one; the source of a price is told apart by `price_source` (see `stamp_source`).
    """
    told = [segment.facts for segment in segments if segment.facts is not None]
    counted = [segment.measured for segment in segments if segment.measured is not None]
    facts, measured = join_facts(told) if told else None, join_measured(counted) if counted else None
    stocks = [segment.expected for segment in segments if segment.expected is not None]
    expected = _join_expected(stocks) if stocks else None
    with_rows = [segment for segment in segments if segment.columns]
    if not with_rows:
        return Segment(segments[0].epoch, [], {}, facts, measured, expected)
    segments = with_rows
    names = sorted({name for segment in segments for name in segment.items})
    place = {name: i for i, name in enumerate(names)}
    items, grains = [], []
    for segment in segments:
        local = np.array([place[name] for name in segment.items], dtype=np.int64)
        items.append(local[np.frombuffer(segment.columns["item"], "<u4")])
        grains.append(np.frombuffer(segment.columns["grain"], "<i8"))
    lengths = [len(part) for part in items]
    columns = {
        name: np.concatenate([column(segment, name, rows) for segment, rows in zip(segments, lengths, strict=True)])
        for name in (*SUMS, *PRICE, "price_source")
    }
    item, grain = np.concatenate(items), np.concatenate(grains)
    # By (item, grain), then by what decides the last price; rows without a price sort first.
    has = columns["price"] != MISSING
    order = np.lexsort((columns["price_offset"], columns["price_source"], columns["price_ms"], has, grain, item))
    item, grain = item[order], grain[order]
    begins = np.concatenate([[True], (item[1:] != item[:-1]) | (grain[1:] != grain[:-1])])
    start = np.flatnonzero(begins)
    last = np.append(start[1:], len(order)) - 1
    data = {"item": item[start].astype("<u4").tobytes(), "grain": grain[start].astype("<i8").tobytes()}
    for name in SUMS:
        total = np.add.reduceat(columns[name][order], start)
        if total.any():
            data[name] = total.astype("<i8").tobytes()
    for name in (*PRICE, "price_source"):
        data[name] = columns[name][order][last].astype("<i8").tobytes()
    return Segment(segments[0].epoch, names, data, facts, measured, expected)


def stamp_source(segment: Segment, source: Source) -> None:
    """Notes in a segment which source partition its prices and facts came from, as a number that orders sources the same everywhere.

    Args:
        segment: changed in place.
        source: a partition below 65,536.
    """
    number = (zlib.crc32(source.name.encode()) << 16) | source.partition
    if segment.facts is not None:
        stamp_facts(segment.facts, number)
    if "price" in segment.columns:
        rows = len(segment.columns["grain"]) // 8
        segment.columns["price_source"] = np.full(rows, number, "<i8").tobytes()
