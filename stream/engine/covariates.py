"""What one activity partition knows of its items beside their demand: facts applied to rings, statics, declared closing, stock.

Pure state; forecast says when. The names of covariates come from users' messages, so they are bounded: what comes under a name too many
is counted and ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stream.engine.announced import CATEGORY, CLOSED, STOCK
from stream.engine.columns import Bools, Ints
from stream.engine.facts import SHARE, STATIC, FactRows
from stream.engine.rings import ALL, FactTable, Rings, keys_of, name_of, scope_of
from stream.engine.time import Grid

MOST_NAMES = 64
"""Distinct covariates of a partition, statics and measurements included."""
MOST_CATEGORIES = 4096
"""Distinct categories that signals may be about."""
_SHUT = 0.999
"""The share of a bucket from which on a declared closing leaves no time to sell."""
_COLUMNS = ("starts", "ends", "announced", "source", "offset", "kind")
_STAMPS = ("announced", "source", "offset")


def stable_hash(text: str) -> int:
    """A number for a text, never 0, the same everywhere."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little", signed=True) or 1


class Names:
    """All covariates' names of a partition: which there are, and how many were refused."""

    def __init__(self) -> None:
        self.known: list[str] = []
        """Names of facts; their place is their number."""
        self.place: dict[str, int] = {}
        self.others: set[str] = set()
        """Names of statics and measurements."""
        self.ignored = 0
        """Rows ignored since the shell last asked."""

    def number(self, name: str) -> int:
        """The number of a fact's name; -1 if there are too many."""
        if name not in self.place:
            if len(self.known) + len(self.others) >= MOST_NAMES:
                return -1
            self.place[name] = len(self.known)
            self.known.append(name)
        return self.place[name]

    def admit(self, name: str) -> bool:
        """Whether a static's or measurement's name may be used."""
        if name not in self.others and len(self.known) + len(self.others) < MOST_NAMES:
            self.others.add(name)
        return name in self.others


class Static:
    """What items are, in one respect, and when each was last told."""

    def __init__(self, capacity: int) -> None:
        self.value: Ints = np.zeros(capacity, np.int64)
        self.stamps: dict[str, Ints] = {name: np.zeros(capacity, np.int64) for name in _STAMPS}

    def resize(self, capacity: int) -> None:
        def grown(old: Ints) -> Ints:
            new = np.zeros(capacity, np.int64)
            new[: len(old)] = old
            return new

        self.value = grown(self.value)
        self.stamps = {name: grown(old) for name, old in self.stamps.items()}

    def forget(self, slots: Ints) -> None:
        self.value[slots] = 0
        for stamps in self.stamps.values():
            stamps[slots] = 0

    def tell(self, slots: Ints, value: Ints, stamps: dict[str, Ints]) -> None:
        """The largest (announced, source, offset) of each slot counts, of all that were ever told.

        Args:
            slots: int64[n].
            value: int64[n].
            stamps: int64[n] by name.
        """
        order = np.lexsort((stamps["offset"], stamps["source"], stamps["announced"], slots))
        slots = slots[order]
        last = order[np.concatenate([slots[1:] != slots[:-1], [True]])]
        slots = np.unique(slots)
        newer: Bools = np.zeros(len(slots), np.bool_)
        equal: Bools = np.ones(len(slots), np.bool_)
        for name in _STAMPS:
            told, held = stamps[name][last], self.stamps[name][slots]
            newer |= equal & (told > held)
            equal &= told == held
        newer |= equal
        self.value[slots[newer]] = value[last[newer]]
        for name in _STAMPS:
            self.stamps[name][slots[newer]] = stamps[name][last[newer]]


class Covariates:
    """Facts, rings and statics of a partition.

    Args:
        sizes: of each bucket size: its grid, how many closed buckets models see, and its horizon.
    """

    def __init__(self, sizes: Sequence[tuple[Grid, int, int]]) -> None:
        self.names = Names()
        self.table = FactTable()
        self.known = [Rings(grid, depth + horizon, horizon, np.nan) for grid, depth, horizon in sizes]
        self.stock = [Rings(grid, depth, 0, 0.0) for grid, depth, _ in sizes]
        """The share of closed buckets without stock, under the number of the name STOCK."""
        self.statics: dict[str, Static] = {}
        self.categories: list[int] = []
        """Hashes of those that facts are about; their scopes are -2, -3, …"""
        self.capacity = 0

    def resize(self, capacity: int) -> None:
        self.capacity = capacity
        for rings in (*self.known, *self.stock):
            rings.resize(capacity)
        for static in self.statics.values():
            static.resize(capacity)

    def forget(self, slots: Ints) -> None:
        """These items are gone, and all that was told of them.

        Args:
            slots: int64[n].
        """
        for rings in (*self.known, *self.stock):
            rings.forget(slots)
        for static in self.statics.values():
            static.forget(slots)
        if len(self.table):
            gone = np.zeros(self.capacity + 1, np.bool_)
            gone[slots] = True
            self.table.drop(np.flatnonzero(gone[np.maximum(self.table.scopes(), -1)]))

    def advance(self, size: int, closed: int) -> None:
        """A bucket has closed, or many have been skipped.

        Args:
            size: which bucket size.
            closed: the newest closed bucket.
        """
        low, high = np.searchsorted(self.table.key, self._stock_keys()).tolist()
        every = np.arange(len(self.table), dtype=np.int64)
        self.known[size].advance(closed, self.table, np.concatenate([every[:low], every[high:]]) if high > low else every)
        self.stock[size].advance(closed, self.table, every[low:high])

    def tell(self, rows: FactRows, slots: Ints, keep_ms: int) -> None:
        """Applies facts.

        Args:
            rows: n of them.
            slots: int64[n], of the items; -1 where there is none.
            keep_ms: what buckets that begin before this were told stays.
        """
        for name in sorted({rows.names[i] for i in np.unique(rows.name[rows.kind == STATIC]).tolist()}):
            self._tell_static(name, rows, slots)
        facts = np.flatnonzero(rows.kind != STATIC)
        if not len(facts):
            return
        rows, slots = rows.pick(facts), slots[facts]
        numbers = np.full(len(rows.names), -1, np.int64)
        for name, at in sorted((rows.names[i], i) for i in np.unique(rows.name).tolist()):
            numbers[at] = self.names.number(name)
        name, scope = numbers[rows.name], self._scopes(rows, slots)
        good = (name >= 0) & (scope > -2 - MOST_CATEGORIES) & (rows.starts < rows.ends)
        self.names.ignored += int((name < 0).sum())
        if not good.all():
            kept = np.flatnonzero(good)
            rows, name, scope = rows.pick(kept), name[kept], scope[kept]
        if not len(rows):
            return
        number = self.names.place.get(STOCK)
        if number is not None:
            empty = (name == number) & (scope >= 0)
            rows = replace(rows, value=np.where(empty, rows.value <= 0, rows.value), kind=np.where(empty, SHARE, rows.kind))
        key = keys_of(name, scope)
        key, rows = self._end_promotions(key, rows)
        self.table.add(key, rows.value, {name: getattr(rows, name) for name in _COLUMNS})
        self._render(key, rows, keep_ms)
        self.table.tidy(self.table.rows(np.unique(key)), keep_ms)
        self.table.tidy_all(keep_ms)

    def know(self, rows: FactRows) -> None:
        """Facts about all items that were known before any bucket: they show in the buckets that come.

        Args:
            rows: VALUEs of one name.
        """
        key = keys_of(np.full(len(rows), self.names.number(rows.names[0]), np.int64), np.full(len(rows), ALL, np.int64))
        self.table.add(key, rows.value, {name: getattr(rows, name) for name in _COLUMNS})
        for rings in self.known:
            rings.hold(key[:1])

    def _tell_static(self, name: str, rows: FactRows, slots: Ints) -> None:
        mine = np.flatnonzero((rows.kind == STATIC) & (rows.name == rows.names.index(name)) & (slots >= 0))
        if not self.names.admit(name):
            self.names.ignored += len(mine)
            return
        if name not in self.statics:
            self.statics[name] = Static(self.capacity)
        hashes = np.array([*(stable_hash(text) for text in rows.texts), 0], dtype=np.int64)
        text = rows.text[mine]
        value = np.where(text >= 0, hashes[text], rows.value[mine].astype(np.int64))
        if len(mine):
            self.statics[name].tell(slots[mine], value, {stamp: getattr(rows, stamp)[mine] for stamp in _STAMPS})
        if name == CATEGORY:
            for rings in self.known:
                rings.remix()

    def _scopes(self, rows: FactRows, slots: Ints) -> Ints:
        """int64[n], the scope of each row: its slot, its category's, or ALL."""
        scope = slots.copy()
        about = np.flatnonzero((slots < 0) & (rows.category >= 0))
        for place in sorted(np.unique(rows.category[about]).tolist(), key=lambda place: rows.texts[place]):
            number = stable_hash(rows.texts[place])
            if number not in self.categories and len(self.categories) < MOST_CATEGORIES - 1:
                self.categories.append(number)
            found = self.categories.index(number) if number in self.categories else MOST_CATEGORIES
            scope[about[rows.category[about] == place]] = -2 - found
        self.names.ignored += int((scope == -2 - MOST_CATEGORIES).sum())
        return scope

    def _end_promotions(self, key: Ints, rows: FactRows) -> tuple[Ints, FactRows]:
        """A promotion takes the place of one of another kind: for its time, kinds that an item had before are off."""
        number = self.names.place.get("promotion")
        kinds = [n for name, n in self.names.place.items() if name.startswith("promotion.")]
        if number is None or not kinds:
            return key, rows
        of = name_of(key)
        heads = np.flatnonzero(of == number)
        rows_taken, keys_taken = [np.arange(len(key), dtype=np.int64)], [key]

        def stamped(keys: Ints, at: Ints) -> list[tuple[int, ...]]:
            return list(zip(keys.tolist(), *(getattr(rows, stamp)[at].tolist() for stamp in _STAMPS), strict=True))

        for kind in kinds:
            other = keys_of(np.full(len(heads), kind, np.int64), scope_of(key[heads]))
            had = (np.append(self.table.key, -1)[np.searchsorted(self.table.key, other)] == other) | np.isin(other, key)
            mine = np.flatnonzero(of == kind)
            own = set(stamped(key[mine], mine))
            off = np.array([had[i] and stamp not in own for i, stamp in enumerate(stamped(other, heads))], dtype=np.bool_)
            rows_taken.append(heads[off])
            keys_taken.append(other[off])
        taken = np.concatenate(rows_taken)
        rows = rows.pick(taken)
        return np.concatenate(keys_taken), replace(rows, value=np.where(np.arange(len(taken)) >= len(key), 0.0, rows.value))

    def _render(self, key: Ints, rows: FactRows, keep_ms: int) -> None:
        low, high = self._stock_keys()
        stock = (key >= low) & (key < high)
        for mine, all_rings in ((np.flatnonzero(~stock), self.known), (np.flatnonzero(stock), self.stock)):
            if len(mine):
                begin, end = int(rows.starts[mine].min()), int(rows.ends[mine].max())
                for rings in all_rings:
                    rings.update(np.unique(key[mine]), self.table, begin, end, keep_ms)

    def _stock_keys(self) -> tuple[int, int]:
        """The keys of facts about items' stock, which tell of closed buckets only."""
        number = self.names.place.get(STOCK)
        if number is None:
            return 0, 0
        low, high = keys_of(np.array([number, number + 1]), np.array([0, -(1 << 32)])).tolist()
        return low, high

    # -- what a panel shows --------------------------------------------------------------------------------------------

    def of_panel(self, size: int) -> dict[str, NDArray[np.float32]]:
        """Panel.known.

        Args:
            size: which bucket size.
        """
        rings = self.known[size]
        category = self.statics[CATEGORY].value if CATEGORY in self.statics else None
        numbers = sorted({*rings.items, *(name for name, _ in rings.scoped)})
        return {self.names.known[number]: rings.known(number, category, self.categories) for number in numbers}

    def censored(self, size: int) -> NDArray[np.float32] | None:
        """Panel.censored.

        Args:
            size: which bucket size.
        """
        number = self.names.place.get(STOCK)
        ring = None if number is None else self.stock[size].items.get(number)
        return None if ring is None else ring.cells

    def shut(self, size: int) -> Bools | None:
        """Panel.shut, as far as a signal has declared it.

        Args:
            size: which bucket size.
        """
        number = self.names.place.get(CLOSED)
        ring = None if number is None else self.known[size].scoped.get((number, ALL))
        return None if ring is None else np.asarray(ring.cells[:, 0] >= _SHUT)
