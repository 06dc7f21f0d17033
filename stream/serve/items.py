"""All items: their slots, their names, and the lists of them in any order, found again by cursor.

An order of 100,000 items takes some 10 ms to make. So it is made when somebody asks, and kept until something has changed and twenty times
as long has passed as it took: no order is older than half a second, none takes more than a twentieth of the time.
"""

from __future__ import annotations

import difflib
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.engine.time import SIZES
from stream.serve.panel import DemandRecord, Panel

SORTS = ("name", "observed", "expected", "change", "latest", "next", "spikes", "updated")
"""What lists of items can be sorted by."""

_FRESH_S = 0.5
_REST = 20
_SEARCHES = 64
_NEAR = 3
_MOST_AT_ONCE = 64
"""An eviction takes a hundredth of the items: never some of those that are just being taken."""

Slots = NDArray[np.intp]


class Order(NamedTuple):
    """Items of one bucket size in one order."""

    slots: Slots
    values: NDArray[np.float64]
    """What they are sorted by, ascending: the negative of it where the largest come first."""
    good_until: float
    """Until then it is kept whatever changes."""
    version: tuple[int, int]


class Row(msgspec.Struct, frozen=True):
    """One line of the list of items."""

    item: str
    issued_at_ms: int
    observed: float
    expected: float
    change: float
    latest: float
    next: float
    spikes: int
    spark: list[float] | msgspec.UnsetType = msgspec.UNSET


class Items:
    """Items by name and by slot.

    Args:
        history: closed buckets of each item and size that are kept.
        most: items at once; beyond it those leave that have been silent for longest.
        clock: seconds, ever rising.
    """

    def __init__(self, history: int, most: int, clock: Callable[[], float]) -> None:
        self._history, self._most, self._clock = history, most, clock
        self.panels: dict[str, Panel] = {}
        """By bucket size, ascending."""
        self.slots: dict[str, int] = {}
        self.sorted: list[str] = []
        self.open_spikes = np.zeros(0, dtype=np.int32)
        self.spikes_version = 0
        self._changes = 0
        self._changed = np.zeros(0, dtype=np.int64)
        self._names: list[str] = []
        self._folded: list[str] = []
        """The names as they are searched."""
        self._free: list[int] = []
        self._names_version = 0
        self._by_name: tuple[int, Slots] = (-1, np.zeros(0, dtype=np.intp))
        self._orders: dict[tuple[str, str, bool], Order] = {}
        self._searches: OrderedDict[str, tuple[int, NDArray[np.bool_]]] = OrderedDict()
        self._blob: tuple[int, str, list[int]] = (-1, "", [])

    def __len__(self) -> int:
        return len(self.slots)

    def take(self, records: Sequence[DemandRecord], raws: Sequence[bytes]) -> None:
        """Takes records of `demand`, in order.

        Args:
            records: read from `raws`.
            raws: as they came.
        """
        start = 0
        while start < len(records):
            first = records[start]
            stop, named = start, set()
            # A tick's records come one after the other: as many as are of one bucket, and of different items, are taken at once.
            while stop < len(records):
                record = records[stop]
                if record.bucket != first.bucket or record.bucket_start_ms != first.bucket_start_ms or record.item in named:
                    break
                named.add(record.item)
                stop += 1
            panel = self._panel(first.bucket)
            if panel is not None:
                run = records[start:stop]
                for part in range(0, len(run), _MOST_AT_ONCE):
                    some = run[part : part + _MOST_AT_ONCE]
                    slots = [self._slot(record.item) for record in some]
                    panel.take(slots, some, raws[start + part : start + part + len(some)])
                    self._changes += 1
                    self._changed[slots] = self._changes
            start = stop

    def _panel(self, bucket: str) -> Panel | None:
        panel = self.panels.get(bucket)
        if panel is None and bucket in SIZES:  # one of a later version could not be shown
            panel = Panel(bucket, self._history)
            self.panels = dict(sorted({**self.panels, bucket: panel}.items(), key=lambda pair: pair[1].size_ms))
        return panel

    def spike(self, item: str, change: int) -> None:
        """Counts an item's open spikes.

        Args:
            item: its name.
            change: 1 or -1.
        """
        slot = self.slots.get(item)
        if slot is not None:
            self.open_spikes[slot] = max(0, self.open_spikes[slot] + change)
            self.spikes_version += 1

    def changed(self, slot: int) -> int:
        """A number that is another one after each record of `demand` about an item, and never again that of another item.

        Args:
            slot: the item's.
        """
        return int(self._changed[slot])

    def is_new(self, bucket: str, order: Order) -> bool:
        """Whether nothing has changed since an order was made.

        Args:
            bucket: its size.
            order: of order().
        """
        return order.version == (self.panels[bucket].version, self.spikes_version)

    def near(self, wrong: str) -> str | None:
        """A known item that was probably meant; among the neighbours in the alphabet alone, so that it costs nothing.

        Args:
            wrong: an id that is not known.
        """
        if not self.sorted:
            return None
        around: set[str] = set()
        for text in {wrong, wrong.strip(), wrong.upper(), wrong.lower(), wrong[:-1]}:
            at = bisect_left(self.sorted, text)
            around.update(self.sorted[max(0, at - _NEAR) : at + _NEAR])
        close = difflib.get_close_matches(wrong[:200], sorted(around), n=1, cutoff=0.6)
        return close[0] if close else None

    # ---- lists

    def order(self, bucket: str, sort: str, descending: bool = True) -> Order:
        """The items of a bucket size, sorted; equal ones by name.

        Args:
            bucket: a known size.
            sort: one of SORTS.
            descending: the largest first.
        """
        panel, now = self.panels[bucket], self._clock()
        version = (panel.version, self.spikes_version)
        known = self._orders.get((bucket, sort, descending))
        if known is not None and (known.version == version or now < known.good_until):
            return known
        by_name = self._slots_by_name()
        by_name = by_name[by_name < len(panel.raw)]
        by_name = by_name[panel.issued_ms[by_name] > 0]
        if sort == "name":
            slots, values = by_name[::-1] if descending else by_name, np.zeros(len(by_name))
        else:
            values = self._values(panel, sort)[by_name] * (-1 if descending else 1)
            ranks = np.argsort(values, kind="stable")
            slots, values = by_name[ranks], values[ranks]
        done = self._clock()
        made = Order(slots, values, done + min(_FRESH_S, _REST * (done - now)), version)
        self._orders[bucket, sort, descending] = made
        return made

    def matching(self, query: str) -> NDArray[np.bool_]:
        """bool[slots], whose names contain a text, whatever the case.

        Args:
            query: what to find.
        """
        query = query.casefold()
        found = self._searches.get(query)
        if found is not None and found[0] == self._names_version:
            self._searches.move_to_end(query)
            return found[1]
        if self._blob[0] != self._names_version:
            ends = np.cumsum([0, *map(len, self._folded)]) + np.arange(len(self._folded) + 1)
            self._blob = (self._names_version, "\n".join(self._folded), ends.tolist())
        _, blob, starts = self._blob
        mask = np.zeros(len(self._names), dtype=np.bool_)
        at = blob.find(query)
        while at >= 0:
            slot = bisect_right(starts, at) - 1
            mask[slot] = True
            at = blob.find(query, starts[slot + 1])
        self._searches[query] = (self._names_version, mask)
        if len(self._searches) > _SEARCHES:
            self._searches.popitem(last=False)
        return mask

    def after(self, order: Order, sort: str, descending: bool, value: float, name: str) -> int:
        """Where an order goes on behind an item, which may have moved or left meanwhile.

        Args:
            order: of order().
            sort: as given to it.
            descending: as given to it.
            value: what the item was sorted by.
            name: the item's.
        """
        names, slots = self._names, order.slots
        if sort == "name" and descending:
            return len(slots) - bisect_left(slots[::-1], name, key=lambda slot: names[slot])
        value = -value if descending else value
        low, high = int(np.searchsorted(order.values, value, "left")), int(np.searchsorted(order.values, value, "right"))
        return bisect_right(slots, name, low, high, key=lambda slot: names[slot])

    def row(self, bucket: str, slot: int, spark: int) -> Row:
        """A line of the list.

        Args:
            bucket: the size.
            slot: the item's.
            spark: of how many buckets the units are wanted.
        """
        panel = self.panels[bucket]
        observed, expected = float(panel.observed[slot]), float(panel.expected[slot])
        return Row(
            self._names[slot],
            int(panel.issued_ms[slot]),
            _short(observed),
            _short(expected),
            _short(expected - observed),
            _short(float(panel.latest[slot])),
            _short(float(panel.mean[slot, 0])),
            int(self.open_spikes[slot]),
            panel.spark(slot, spark) if spark else msgspec.UNSET,
        )

    def name(self, slot: int) -> str:
        """The item in a slot.

        Args:
            slot: in use.
        """
        return self._names[slot]

    def _values(self, panel: Panel, sort: str) -> NDArray[np.float64]:
        if sort == "change":
            return panel.expected - panel.observed
        if sort == "next":
            return panel.mean[:, 0].astype(np.float64)
        if sort == "spikes":
            spikes = np.zeros(len(panel.raw))
            spikes[: len(self.open_spikes)] = self.open_spikes[: len(spikes)]
            return spikes
        columns = {"observed": panel.observed, "expected": panel.expected, "latest": panel.latest, "updated": panel.issued_ms}
        return columns[sort].astype(np.float64)

    def _slots_by_name(self) -> Slots:
        if self._by_name[0] != self._names_version:
            slots = self.slots
            self._by_name = (self._names_version, np.array([slots[name] for name in self.sorted], dtype=np.intp))
        return self._by_name[1]

    # ---- slots

    def _slot(self, name: str) -> int:
        slot = self.slots.get(name)
        if slot is not None:
            return slot
        if len(self.slots) >= self._most:
            self._evict()
        if self._free:
            slot = self._free.pop()
            self._names[slot], self._folded[slot] = name, _folded(name)
        else:
            slot = len(self._names)
            self._names.append(name)
            self._folded.append(_folded(name))
            if slot >= len(self.open_spikes):
                more = max(1024, slot // 2)
                self.open_spikes = np.concatenate([self.open_spikes, np.zeros(more, dtype=np.int32)])
                self._changed = np.concatenate([self._changed, np.zeros(more, dtype=np.int64)])
        self.slots[name] = slot
        self.open_spikes[slot] = 0
        insort(self.sorted, name)
        self._names_version += 1
        return slot

    def _evict(self) -> None:
        """A hundredth of the items at once, those whose newest forecast is oldest: one by one would be a search for each."""
        newest = np.zeros(len(self._names), dtype=np.int64)
        for panel in self.panels.values():
            count = min(len(newest), len(panel.issued_ms))
            np.maximum(newest[:count], panel.issued_ms[:count], out=newest[:count])
        used = np.array(sorted(self.slots.values()), dtype=np.intp)
        leave = max(1, len(used) // 100)
        for slot in used[np.argsort(newest[used], kind="stable")[:leave]].tolist():
            name = self._names[slot]
            del self.slots[name]
            del self.sorted[bisect_left(self.sorted, name)]
            self._names[slot] = self._folded[slot] = ""
            self._free.append(slot)
            for panel in self.panels.values():
                panel.forget(slot)
        self._names_version += 1
        self._orders.clear()


def _folded(name: str) -> str:
    return name.casefold().replace("\n", " ")


def _short(value: float) -> float:
    """To seven digits: sums of numbers that have four."""
    return float(f"{value:.7g}")
