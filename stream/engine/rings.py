"""The facts of one activity partition that may still matter, and what they say of every bucket.

`FactTable` keeps facts by (name, scope) in the order in which they were told; `Ring` holds, for one bucket size, what a covariate is
in each bucket, past and to come. A bucket's cell is written when facts about it are told, and stays as it is once no fact that could
reach it is kept (`keep_ms`): a price of last month costs nothing but its cell.

Numbers are float64 here and float32 in the rings; every sum runs in the order of the table, which is the same in every replay.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from stream.engine.columns import Bools, Floats, Ints
from stream.engine.facts import NEVER, SHARE
from stream.engine.time import Grid

ALL = -1
"""The scope of facts about all items; categories have the scopes -2, -3, …; an item's is its slot."""
_SCOPES = 1 << 33
_COLUMNS = ("starts", "ends", "announced", "source", "offset", "kind")


def keys_of(name: Ints, scope: Ints) -> Ints:
    """int64[n], one number for name and scope, ascending by name, then scope."""
    return name * _SCOPES + (scope + (_SCOPES >> 1))


def name_of(key: Ints) -> Ints:
    """int64[n], the names' numbers."""
    return key // _SCOPES


def scope_of(key: Ints) -> Ints:
    """int64[n]."""
    return key % _SCOPES - (_SCOPES >> 1)


class FactTable:
    """Facts, ascending by key, and within one by (announced, source, offset): the last that covers a moment counts."""

    def __init__(self) -> None:
        self.key: Ints = np.zeros(0, np.int64)
        self.value: Floats = np.zeros(0)
        self.columns: dict[str, Ints] = {name: np.zeros(0, np.int64) for name in _COLUMNS}
        self.tidied = 0
        """Facts that were left when all of them were last looked through."""

    def __len__(self) -> int:
        return len(self.key)

    def add(self, key: Ints, value: Floats, columns: Mapping[str, Ints]) -> None:
        """Takes facts.

        Args:
            key: int64[n].
            value: float64[n].
            columns: int64[n] by name.
        """
        order = np.lexsort((columns["offset"], columns["source"], columns["announced"], key))
        key = key[order]
        where = np.searchsorted(self.key, key, side="right")
        self.key = np.insert(self.key, where, key)
        self.value = np.insert(self.value, where, value[order])
        for name in _COLUMNS:
            self.columns[name] = np.insert(self.columns[name], where, columns[name][order])
        rows = self.rows(np.unique(key))
        c = self.columns
        again = rows[np.lexsort((c["offset"][rows], c["source"][rows], c["announced"][rows], self.key[rows]))]
        if not np.array_equal(again, rows):  # told out of order
            self.value[rows] = self.value[again]
            for name in _COLUMNS:
                c[name][rows] = c[name][again]

    def scopes(self) -> Ints:
        """int64[n], the scope of each fact."""
        return scope_of(self.key)

    def rows(self, keys: Ints) -> Ints:
        """int64[m], the places of all facts of some keys.

        Args:
            keys: int64[n], ascending, without repeats.
        """
        start, stop = np.searchsorted(self.key, keys, side="left"), np.searchsorted(self.key, keys, side="right")
        return _ranges(start, stop)

    def drop(self, rows: Ints) -> None:
        """Takes facts out.

        Args:
            rows: int64[m], places.
        """
        if len(rows):
            self.key, self.value = np.delete(self.key, rows), np.delete(self.value, rows)
            for name in _COLUMNS:
                self.columns[name] = np.delete(self.columns[name], rows)

    def tidy(self, rows: Ints, keep_ms: int) -> None:
        """Takes out what says nothing more of any time from keep_ms on, and makes one of facts that repeat each other.

        Args:
            rows: int64[m], all facts of some keys.
            keep_ms: epoch milliseconds.
        """
        if not len(rows):
            return
        c = self.columns
        key, value, kind = self.key[rows], self.value[rows], c["kind"][rows]
        starts, ends = np.maximum(c["starts"][rows], keep_ms), c["ends"][rows]
        dead = (ends <= keep_ms) | (ends <= c["starts"][rows])
        same = np.concatenate([key[1:] == key[:-1], [False]])
        following = np.concatenate([np.arange(1, len(rows)), [0]])
        dead |= same & (starts[following] <= starts) & (ends[following] >= ends)
        # The last of a key that holds until further notice covers all before it that start no earlier.
        first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
        place = np.arange(len(rows))
        last = np.maximum.reduceat(np.where(ends == NEVER, place, -1), first)
        last = np.repeat(last, np.diff(np.append(first, len(rows))))
        dead |= (place < last) & (starts >= starts[np.maximum(last, 0)])
        # One that says the same as the one told before it, and goes on from it, only makes that one newer.
        alive = np.flatnonzero(~dead)
        a, b = alive[:-1], alive[1:]
        repeats = (key[a] == key[b]) & (value[a] == value[b]) & (kind[a] == kind[b]) & (ends[a] == ends[b])
        repeats &= (starts[a] <= starts[b]) & (starts[b] <= ends[a])
        if repeats.any():
            head = np.flatnonzero(np.concatenate([[True], ~repeats]))
            tail = np.append(head[1:], len(alive)) - 1
            for name in ("announced", "source", "offset"):
                c[name][rows[alive[head]]] = c[name][rows[alive[tail]]]
            dead[np.setdiff1d(alive, alive[head], assume_unique=True)] = True
        self.drop(rows[dead])

    def tidy_all(self, keep_ms: int) -> None:
        """The same for all facts, once they have become twice as many.

        Args:
            keep_ms: epoch milliseconds.
        """
        if len(self) > 2 * self.tidied + 1024:
            self.tidy(np.arange(len(self)), keep_ms)
            self.tidied = len(self)

    def render(self, rows: Ints, begin_ms: int, end_ms: int) -> tuple[Ints, NDArray[np.float32]]:
        """What facts say of one bucket: a level's mean over the part that was spoken of, the share of what is on or off.

        Args:
            rows: int64[m], all facts of some keys, ascending.
            begin_ms: when the bucket begins, epoch milliseconds.
            end_ms: when it ends.

        Returns:
            int64[k], the keys of which anything is said, ascending; float32[k].
        """
        c = self.columns
        rows = rows[(c["starts"][rows] < end_ms) & (c["ends"][rows] > begin_ms) & (c["starts"][rows] < c["ends"][rows])]
        if not len(rows) or begin_ms >= end_ms:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        key = self.key[rows]
        first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
        count = np.diff(np.append(first, len(rows)))
        last = rows[first + count - 1]
        out = self.value[last].copy()
        part = (c["starts"][last] > begin_ms) | (c["ends"][last] < end_ms)
        if part.any():
            out[part] = self._mean(rows[np.repeat(part, count)], count[part], begin_ms, end_ms)
        return key[first], out.astype(np.float32)

    def _mean(self, rows: Ints, count: Ints, begin_ms: int, end_ms: int) -> Floats:
        """float64[groups], means over a bucket in which facts change.

        Args:
            rows: int64[m], facts, those of a group adjacent, in the order told.
            count: int64[groups].
            begin_ms: of the bucket.
            end_ms: of the bucket.
        """
        length = end_ms - begin_ms
        group = np.repeat(np.arange(len(count)), count)
        starts = np.maximum(self.columns["starts"][rows] - begin_ms, 0) + group * (length + 1)
        ends = np.minimum(self.columns["ends"][rows] - begin_ms, length) + group * (length + 1)
        edges = np.unique(np.concatenate([starts, ends]))
        low, high = np.searchsorted(edges, starts), np.searchsorted(edges, ends)
        counts = np.full(len(edges), -1, np.int64)  # which fact counts from each edge to the next
        np.maximum.at(counts, _ranges(low, high), np.repeat(np.arange(len(rows)), high - low))
        spans = np.flatnonzero(counts >= 0)
        fact = counts[spans]
        lasts = (edges[spans + 1] - edges[spans]).astype(np.float64)
        of = group[fact]
        total = np.bincount(of, self.value[rows[fact]] * lasts, len(count))
        spoken = np.bincount(of, lasts, len(count))
        shares = np.bincount(of, self.columns["kind"][rows[fact]] == SHARE, len(count)) > 0
        return np.asarray(total / np.where(shares, float(length), spoken))


def _ranges(start: Ints, stop: Ints) -> Ints:
    """start[0] … stop[0] - 1, start[1] …, one after the other."""
    lengths = stop - start
    ends = np.cumsum(lengths)
    places: Ints = np.arange(int(ends[-1]) if len(ends) else 0, dtype=np.int64) + np.repeat(start - (ends - lengths), lengths)
    return places


class Ring:
    """One covariate of one bucket size.

    Args:
        span: buckets.
        width: slots; 1 for what concerns all items or a category.
        empty: what stands where nothing was said.
    """

    def __init__(self, span: int, width: int, empty: float) -> None:
        self.empty = np.float32(empty)
        self.cells: NDArray[np.float32] = np.full((span, width), self.empty, np.float32)

    def resize(self, capacity: int) -> None:
        grown = np.full((len(self.cells), capacity), self.empty, np.float32)
        grown[:, : self.cells.shape[1]] = self.cells
        self.cells = grown

    def write(self, bucket: int, places: Ints, values: NDArray[np.float32], fill: bool) -> None:
        """Writes cells of one bucket.

        Args:
            bucket: number.
            places: int64[n], slots.
            values: float32[n].
            fill: only where nothing was said so far.
        """
        row = self.cells[bucket % len(self.cells)]
        if fill:
            free = np.isnan(row[places]) if np.isnan(self.empty) else row[places] == self.empty
            places, values = places[free], values[free]
        row[places] = values


class Rings:
    """The rings of one bucket size, for buckets up to `lead` after the newest closed one.

    Args:
        grid: numbers the buckets.
        span: buckets.
        lead: buckets after the newest closed one that are held.
        empty: what stands where nothing was said.
    """

    def __init__(self, grid: Grid, span: int, lead: int, empty: float) -> None:
        self.grid, self.span, self.lead, self.empty = grid, span, lead, empty
        self.capacity = 0
        self.newest: int | None = None
        """The newest bucket that is held."""
        self.items: dict[int, Ring] = {}
        """By name: one value an item."""
        self.scoped: dict[tuple[int, int], Ring] = {}
        """By name and scope: one value for all."""
        self.dirty: dict[int, set[int] | None] = {}
        """Rows of each mixed ring to be made anew; None: all. No state: what was mixed is only kept to save time."""
        self._mixed: dict[int, NDArray[np.float32]] = {}

    def resize(self, capacity: int) -> None:
        self.capacity = capacity
        for ring in self.items.values():
            ring.resize(capacity)
        self.remix()

    def forget(self, slots: Ints) -> None:
        for ring in self.items.values():
            ring.cells[:, slots] = ring.empty
        self.remix()

    def remix(self) -> None:
        """What an item is, or which items there are, has changed."""
        self._mixed.clear()
        self.dirty.clear()

    def advance(self, closed: int, table: FactTable, mine: Ints) -> None:
        """A bucket has closed, or many have been skipped: takes up the buckets that are new in reach.

        Args:
            closed: the newest closed bucket.
            table: all facts.
            mine: int64[m], those of the names that are held here.
        """
        until = closed + self.lead
        begin = until - self.span if self.newest is None else max(self.newest, until - self.span)
        self.newest = until
        if not self.items and not self.scoped:
            return
        for bucket in range(begin + 1, until + 1):
            for ring in (*self.items.values(), *self.scoped.values()):
                ring.cells[bucket % self.span] = ring.empty
            self._touch(bucket)
            keys, values = table.render(mine, self.grid.start_of(bucket), self.grid.end_of(bucket))
            self._write(bucket, keys, values, fill=False)

    def hold(self, keys: Ints) -> None:
        """From now on there is a ring for each of these.

        Args:
            keys: int64[n], of names that are held here.
        """
        for key in keys.tolist():
            self._ring(key)

    def update(self, keys: Ints, table: FactTable, begin_ms: int, end_ms: int, keep_ms: int) -> None:
        """Facts were told about some keys: renders what they may have changed.

        Args:
            keys: int64[n], ascending, without repeats, of names that are held here.
            table: all facts.
            begin_ms: the earliest start of the new facts.
            end_ms: their latest end.
            keep_ms: buckets that begin before this keep what they were told; only empty cells are filled.
        """
        assert self.newest is not None
        self.hold(keys)
        rows = table.rows(keys)
        oldest = self.newest - self.span + 1
        low = max(oldest, self._number(begin_ms)) if begin_ms > 0 else oldest
        high = self.newest if end_ms >= self.grid.end_of(self.newest) else min(self.newest, self._number(end_ms - 1))
        for bucket in range(low, high + 1):
            begin = self.grid.start_of(bucket)
            found, values = table.render(rows, begin, self.grid.end_of(bucket))
            self._write(bucket, found, values, fill=begin < keep_ms)
            self._touch(bucket)

    def _number(self, at_ms: int) -> int:
        # A start of the year 9999 is beyond any ring, and beyond what the calendar knows.
        assert self.newest is not None
        return self.newest + 1 if at_ms >= self.grid.end_of(self.newest) else self.grid.number_of(at_ms)

    def _touch(self, bucket: int) -> None:
        for rows in self.dirty.values():
            if rows is not None:
                rows.add(bucket % self.span)

    def _ring(self, key: int) -> Ring:
        name, scope = key // _SCOPES, key % _SCOPES - (_SCOPES >> 1)
        if scope < 0:
            if (name, scope) not in self.scoped:
                self.scoped[name, scope] = Ring(self.span, 1, self.empty)
            return self.scoped[name, scope]
        if name not in self.items:
            self.items[name] = Ring(self.span, self.capacity, self.empty)
        return self.items[name]

    def _write(self, bucket: int, keys: Ints, values: NDArray[np.float32], fill: bool) -> None:
        name, scope = name_of(keys), scope_of(keys)
        for number in np.unique(name).tolist():
            mine = np.flatnonzero(name == number)
            wide = mine[scope[mine] < 0]
            for at in wide.tolist():
                self._ring(int(keys[at])).write(bucket, np.zeros(1, np.int64), values[at : at + 1], fill)
            own = mine[scope[mine] >= 0]
            if len(own):
                self._ring(int(keys[own[0]])).write(bucket, scope[own], values[own], fill)

    def known(self, name: int, category: Ints | None, categories: list[int]) -> NDArray[np.float32]:
        """float32[span, capacity] or, where it is the same for all items, [span, 1]. What is said of an item counts before what is said
        of its category, and that before what is said of all.

        Args:
            name: number.
            category: int64[capacity], of each item.
            categories: which categories the scopes -2, -3, … are.
        """
        own = self.items.get(name)
        wide = {scope: ring for (mine, scope), ring in self.scoped.items() if mine == name}
        if not wide and own is not None:
            return own.cells
        if own is None and wide.keys() == {ALL}:
            return wide[ALL].cells
        mixed = self._mixed.get(name)
        dirty = self.dirty.get(name)
        if mixed is None or dirty is None:
            mixed = self._mixed[name] = np.empty((self.span, self.capacity), np.float32)
            dirty = set(range(self.span))
        members: dict[int, Ints] = {}
        for row in sorted(dirty):
            mixed[row] = wide[ALL].cells[row, 0] if ALL in wide else np.nan
            for scope in sorted(wide.keys() - {ALL}, reverse=True):
                value = wide[scope].cells[row, 0]
                if category is not None and not np.isnan(value):
                    if scope not in members:
                        members[scope] = np.flatnonzero(category == categories[-2 - scope])
                    mixed[row, members[scope]] = value
            if own is not None:
                said: Bools = ~np.isnan(own.cells[row])
                mixed[row, said] = own.cells[row, said]
        self.dirty[name] = set()
        return mixed
