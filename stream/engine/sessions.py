"""The live sessions of one clickstream partition: who is in the shop, what they have done, what they will do.

Pure and columnar. A piece of rows (one watermark grain, see `SessionBook.step`) is sorted by session, cut into runs (one
run = the rows of one session), and every counter after every row comes from cumulative sums inside the runs: no Python
call an event, and the same integers however the log was cut into batches. Session slots are internal: no result depends
on their numbers.

A session's outcome is unknown until its gap and `label_delay` have passed by the watermark; only then is it learnt from. Orders that
are told apart from the clickstream (`take_orders`) count at the first tick behind them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from models.exact import stable_order
from models.protocol import IntentModel, SessionRuns
from stream.engine.columns import Bools, Event, IntentColumns, Ints, Rows
from stream.engine.features import FEATURES, QUICK_MS, ItemStanding, UserHistory, is_bot, log_prices, make_features
from stream.engine.interest import Interest, micro
from stream.engine.next_items import NextItems, Shown
from stream.engine.orders import NEVER, OrderBook
from stream.engine.publishing import choose_rows, reorder

__all__ = ["FEATURES", "SessionBook", "SessionSpec"]

_KINDS = len(Event)
_NEVER = np.iinfo(np.int64).min // 2
_TIME_BITS = 43  # epoch ms of the year 2200 and 20 bits of run number fit into int64 together
_FREE, _LIVE, _ENDED = 0, 1, 2
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """What decides sessions and when they are published."""

    gap_ms: int
    every_event: bool
    publish_delta: float
    thresholds: tuple[float, ...]
    by_user: bool
    """Sessions are cut from the user and named `user:start_ms`."""
    label: str = "clickstream"
    """Where purchases are told: clickstream | orders."""
    label_delay_ms: int = 0
    """How long after its end a session's outcome may still become known."""
    positions: tuple[int, ...] = (1, 2, 3, 5, 10)
    """Of events in a session: where the models learn."""
    next_items: int = 0
    """How many items that are likely to come next a record names."""
    expected: bool = False
    """Whether expected purchases by item are kept."""


class SessionBook:
    """State of the sessions of one clickstream partition.

    Args:
        spec: what decides sessions.
        model: scores and learns; owns the recurrent state of each slot.
    """

    ARRAYS: tuple[tuple[str, type], ...] = (
        ("state", np.int8),
        ("last_ms", np.int64),
        ("start_ms", np.int64),
        ("start_offset", np.int64),
        ("previous_ms", np.int64),
        ("last_item", np.int64),
        ("second_item", np.int64),
        ("repeats", np.int64),
        ("purchase_position", np.int64),
        ("cart_position", np.int64),
        ("published", np.float32),
        ("quick", np.int64),
        ("last_category", np.int64),
        ("in_category", np.int64),
        ("user_hash", np.int64),
    )

    def __init__(self, spec: SessionSpec, model: IntentModel, version: str) -> None:
        self.spec = spec
        self.model = model
        self.version = version
        self.index: dict[str, int] = {}
        self.keys: list[str] = []
        self.users: list[str] = []
        self.free: list[int] = []
        self.capacity = 0
        self.evicted = 0
        """Sessions ended by the cap since the shell last asked."""
        self.grown = 0
        """How often there was room to be made: the arrays are others since."""
        self.touched: Bools | None = None
        """bool[capacity], slots that have changed since somebody began to copy the arrays; None: nobody copies them."""
        self.state: NDArray[np.int8] = np.zeros(0, np.int8)
        self.last_ms: Ints = np.zeros(0, np.int64)
        self.start_ms: Ints = np.zeros(0, np.int64)
        self.start_offset: Ints = np.zeros(0, np.int64)
        self.previous_ms: Ints = np.zeros(0, np.int64)
        self.last_item: Ints = np.zeros(0, np.int64)
        self.second_item: Ints = np.zeros(0, np.int64)
        self.repeats: Ints = np.zeros(0, np.int64)
        self.purchase_position: Ints = np.zeros(0, np.int64)
        self.cart_position: Ints = np.zeros(0, np.int64)
        self.published: NDArray[np.float32] = np.zeros(0, np.float32)
        self.quick: Ints = np.zeros(0, np.int64)
        self.last_category: Ints = np.zeros(0, np.int64)
        self.in_category: Ints = np.zeros(0, np.int64)
        self.user_hash: Ints = np.zeros(0, np.int64)
        self.counts: Ints = np.zeros((0, _KINDS), np.int64)
        self.standing = ItemStanding()
        self.history = UserHistory()
        self.interest = Interest() if spec.expected else None
        self.next_items = NextItems() if spec.next_items else None
        self.shown: Shown | None = None
        """Of the rows that are being stepped, where next items are named."""
        self.orders = OrderBook(spec.positions) if spec.label == "orders" else None
        self.resize(1024)

    @property
    def live(self) -> int:
        """Sessions that have not ended."""
        return len(self.index)

    # -- slots -------------------------------------------------------------------------------------------------------

    def resize(self, capacity: int) -> None:
        """Room for more sessions; never shrinks."""
        if capacity <= self.capacity:
            return
        for name, kind in self.ARRAYS:
            grown: NDArray[np.generic] = np.zeros(capacity, kind)
            grown[: self.capacity] = getattr(self, name)
            setattr(self, name, grown)
        counts = np.zeros((capacity, _KINDS), np.int64)
        counts[: self.capacity] = self.counts
        self.counts = counts
        self.free.extend(range(capacity - 1, self.capacity - 1, -1))
        self.keys.extend([""] * (capacity - self.capacity))
        self.users.extend([""] * (capacity - self.capacity))
        self.capacity = capacity
        self.grown += 1
        self.touched = None
        self.model.resize(capacity)
        if self.interest is not None:
            self.interest.resize(capacity)
        if self.orders is not None:
            self.orders.resize(capacity)

    def reindex(self) -> None:
        """Finds the live sessions' keys again after the arrays were replaced."""
        self.index = {self.keys[slot]: slot for slot in np.flatnonzero(self.state == _LIVE).tolist()}

    def ended_by_key(self) -> dict[str, list[int]]:
        """Slots of ended sessions whose outcome is not settled, by key."""
        found: dict[str, list[int]] = {}
        for slot in np.flatnonzero(self.state == _ENDED).tolist():
            found.setdefault(self.keys[slot], []).append(slot)
        return found

    def _touch(self, slots: Ints | int) -> None:
        if self.touched is not None:
            self.touched[slots] = True

    def _allocate(self, count: int) -> Ints:
        while len(self.free) < count:
            self.resize(self.capacity * 2)
        taken = self.free[len(self.free) - count :]
        del self.free[len(self.free) - count :]
        return np.array(taken, dtype=np.int64)

    # -- one piece of rows -------------------------------------------------------------------------------------------

    def step(self, rows: Rows, watermark_before_ms: Ints, item_hash: Ints, category_hash: Ints, local_ms: Ints, item: Ints) -> Stepped:
        """Takes rows that lie between two ticks.

        Args:
            rows: the piece, in offset order; `session` or `user` mapped.
            watermark_before_ms: int64[rows], the partition's watermark before each row.
            item_hash: int64[rows], a stable hash of the item, 0 for none.
            category_hash: int64[rows], of its category.
            local_ms: int64[rows], local time.
            item: int64[rows], number of the item in `interest`, -1 for none; not looked at where no interest is kept.

        Returns:
            The intent records that these rows cause, a session's in order; and what expected purchases have moved by.
        """
        keys = rows.user if self.spec.by_user else rows.session
        assert keys is not None and rows.event is not None
        key_list = list(dict.fromkeys(keys))
        local = dict(zip(key_list, range(len(key_list)), strict=True))
        group_of_row = np.fromiter(map(local.__getitem__, keys), np.int64, len(keys))
        known = np.fromiter(map(self.index.get, key_list, repeat(-1)), np.int64, len(key_list))

        order = stable_order(group_of_row)
        group, time = group_of_row[order], rows.time_ms[order]
        first_of_group = np.empty(len(order), np.bool_)
        first_of_group[0] = True
        np.not_equal(group[1:], group[:-1], out=first_of_group[1:])
        last_known = np.where(known >= 0, self.last_ms[known], _NEVER)[group]
        running = (np.maximum.accumulate((group << _TIME_BITS) | time)) & ((1 << _TIME_BITS) - 1)
        last_before = last_known.copy()
        np.maximum(last_known[1:], np.where(first_of_group[1:], _NEVER, running[:-1]), out=last_before[1:])
        # A session is over once the gap has passed: by this row's own time, or by the watermark that already ended it. Both are
        # properties of the log, so it does not matter when the end is noticed. (A late row behind an ended session is a session
        # of its own; taking the running maximum over the whole group instead of over its run changes no decision here, because
        # whatever a late row could restart the watermark has ended already.)
        ends_at = last_before + self.spec.gap_ms
        restart = (time > ends_at) | (watermark_before_ms[order] >= ends_at)
        run_start = first_of_group | restart
        run = np.cumsum(run_start) - 1
        starts = np.flatnonzero(run_start)
        stops = np.append(starts[1:], len(order))
        continued = ~restart[starts]

        old_slot = known[group[starts]]
        new_runs = np.flatnonzero(~continued)
        slot = old_slot.copy()
        slot[new_runs] = self._allocate(len(new_runs))
        initial_counts = np.where(continued[:, None], self.counts[slot], 0)
        initial_events = initial_counts.sum(axis=1)

        kind = rows.event[order]
        index_in_run = np.arange(len(order)) - starts[run]
        position = index_in_run + 1 + initial_events[run]
        counts = np.empty((_KINDS, len(order)), np.int64)
        for code in range(_KINDS):
            running_count = np.cumsum(kind == code)
            before = running_count[starts] - (kind[starts] == code)
            counts[code] = running_count - (before - initial_counts[:, code])[run]

        run_last = (np.maximum.accumulate((run << _TIME_BITS) | time)) & ((1 << _TIME_BITS) - 1)
        run_last = np.maximum(run_last, np.where(continued, self.last_ms[slot], _NEVER)[run])
        begun = np.where(continued, self.start_ms[slot], time[starts])[run]
        previous = np.empty(len(order), np.int64)
        previous[1:] = time[:-1]
        previous[starts] = np.where(continued, self.previous_ms[slot], time[starts])
        hashes, shelf = item_hash[order], category_hash[order]
        # What was shown last: a search between two views of an item does not part them.
        shown = _last_before(hashes != 0, starts, run)
        item_before = np.where(shown >= 0, hashes[shown], np.where(continued, self.last_item[slot], 0)[run])
        shelf_before = np.where(shown >= 0, shelf[shown], np.where(continued, self.last_category[slot], 0)[run])
        same = (hashes == item_before) & (hashes != 0)
        same_shelf = (shelf == shelf_before) & (shelf != 0)
        repeat_count = np.cumsum(same)
        repeats = repeat_count - (repeat_count[starts] - same[starts] - np.where(continued, self.repeats[slot], 0))[run]

        last_gap = time - previous
        quick_gap = (last_gap < QUICK_MS) & (position > 1)
        quick = _running(quick_gap, starts, np.where(continued, self.quick[slot], 0))[run] + np.cumsum(quick_gap)
        in_category = _running(same_shelf, starts, np.where(continued, self.in_category[slot], 0))[run] + np.cumsum(same_shelf)
        users = rows.user
        row_of_start = order[starts]
        user_hash = np.where(continued, self.user_hash[slot], 0)
        if users is not None:
            named = row_of_start[new_runs].tolist()
            user_hash[new_runs] = [zlib.crc32(users[i].encode()) + 1 if users[i] else 0 for i in named]
        sessions, buys = self.history.of(user_hash)
        log_price = log_prices(None if rows.price is None else rows.price[order], len(order))
        x = make_features(
            kind, counts, position, repeats, in_category, time - begun, last_gap, same & (kind == Event.VIEW),
            same_shelf & (kind == Event.VIEW), log_price, local_ms[order],
            self.standing.columns(hashes, shelf, log_price), (user_hash > 0)[run], sessions[run], buys[run],
        )  # fmt: skip
        if self.next_items is not None:
            self.shown = self._shown(hashes, shelf, item_before, shelf_before, starts, run, continued, slot)
        self.standing.count(kind, hashes, shelf, log_price)
        scores = self.model.score(SessionRuns(slot[run], position, x, hashes, shelf))

        purchased = counts[Event.PURCHASE] > 0
        if self.orders is not None:
            purchased |= np.where(continued, self.orders.ordered_ms[slot] != NEVER, False)[run]
        p_purchase = np.where(purchased, np.float32(1), scores.purchase)
        p_cart = np.where(counts[Event.CART] > 0, np.float32(1), scores.cart)
        bot = is_bot(position, quick, repeats, time - begun)
        turned = purchased & (kind == Event.PURCHASE) & (counts[Event.PURCHASE] == 1)
        initially_published = np.where(continued, self.published[slot], np.float32(0))
        if self.spec.every_event:
            chosen, last_published = np.ones(len(run), np.bool_), p_purchase[stops - 1]
        else:
            spec = self.spec
            chosen, last_published = choose_rows(
                spec.publish_delta, spec.thresholds, run, starts, stops, p_purchase, turned, initially_published
            )

        # Write back: the state after each run's last row.
        last = stops - 1
        ended_runs = self._ended_by_restart(new_runs, first_of_group[starts], known[group[starts]], slot)
        self.start_ms[slot[new_runs]] = time[starts[new_runs]]
        self.start_offset[slot[new_runs]] = rows.offset[order[starts[new_runs]]]
        for position_of, code in ((self.purchase_position, Event.PURCHASE), (self.cart_position, Event.CART)):
            position_of[slot[new_runs]] = 0
            hits = np.flatnonzero((kind == code) & (counts[code] == 1))
            position_of[slot[run[hits]]] = position[hits]
        self.counts[slot] = counts[:, last].T
        self.last_ms[slot] = run_last[last]
        self.previous_ms[slot] = time[last]
        self.last_item[slot] = np.where(hashes[last] != 0, hashes[last], item_before[last])
        self.repeats[slot] = repeats[last]
        self.quick[slot] = quick[last]
        self.last_category[slot] = np.where(hashes[last] != 0, shelf[last], shelf_before[last])
        self.in_category[slot] = in_category[last]
        self.user_hash[slot] = user_hash
        self.published[slot] = last_published
        self.state[slot] = _LIVE
        self._touch(slot)
        if self.orders is not None:
            self.orders.see(slot[run], position, time, slot[new_runs])
        begun_slots = slot[new_runs].tolist()
        for key, s in zip(map(key_list.__getitem__, group[starts[new_runs]].tolist()), begun_slots, strict=True):
            self.keys[s] = key
            self.index[key] = s
        if users is not None:
            for row, s in zip(row_of_start[new_runs].tolist(), begun_slots, strict=True):
                self.users[s] = users[row]

        moved = None
        if self.interest is not None:
            gone = purchased[last] | bot[last]
            p_micro = np.where(gone, 0, micro(p_purchase[last]))
            moved = self.interest.move(slot, ~continued, run, starts, kind, item[order], p_micro)
        return Stepped(
            self._publish(order, run, slot, chosen, position, p_purchase, p_cart, purchased, bot, begun, time, ended_runs, starts),
            moved,
        )

    def _shown(
        self, item: Ints, category: Ints, item_before: Ints, category_before: Ints, starts: Ints, run: Ints, continued: Bools, slot: Ints
    ) -> Shown:
        """What each row's session looks at and has looked at before; what followed what is counted, for the next tick."""
        assert self.next_items is not None
        turn = (item != 0) & (item != item_before)
        turns = np.flatnonzero(turn)
        second = np.where(continued, self.second_item[slot], 0)
        two_before = second[run[turns]]
        again = np.flatnonzero(run[turns[1:]] == run[turns[:-1]]) + 1
        two_before[again] = item_before[turns[again - 1]]
        self.next_items.see(item_before[turns], category_before[turns], item[turns], two_before)
        latest = np.maximum.accumulate(np.where(turn, np.arange(len(item)), -1))
        seconds = np.where(latest >= starts[run], item_before[latest], second[run])
        second[run[turns]] = item_before[turns]  # of several in a run the last one stays
        self.second_item[slot] = second
        return Shown(np.where(item != 0, item, item_before), np.where(item != 0, category, category_before), seconds)

    def _ended_by_restart(self, new_runs: Ints, first: Bools, old_slot: Ints, slot: Ints) -> list[tuple[int, int]]:
        """(run that begins, slot of the session of the same key that it ends), and marks those sessions ended."""
        ended = []
        for i in new_runs.tolist():
            before = int(old_slot[i]) if first[i] else int(slot[i - 1])
            if before >= 0:
                ended.append((i, before))
        return ended

    def _publish(
        self,
        order: Ints,
        run: Ints,
        slot: Ints,
        chosen: Bools,
        position: Ints,
        p_purchase: NDArray[np.float32],
        p_cart: NDArray[np.float32],
        purchased: Bools,
        bot: Bools,
        begun: Ints,
        time: Ints,
        ended_runs: list[tuple[int, int]],
        starts: Ints,
    ) -> list[IntentColumns]:
        records: list[IntentColumns] = []
        picked = np.flatnonzero(chosen)
        picked = picked[np.argsort(order[picked], kind="stable")]  # back to the log's order
        slots = slot[run[picked]]
        slot_list = slots.tolist()
        moved = None
        if len(picked):
            moved = IntentColumns(
                session=self._names(slot_list, begun[picked]),
                user=[self.users[s] for s in slot_list],
                issued_at_ms=time[picked],
                events=position[picked],
                p_purchase=p_purchase[picked].astype(np.float64),
                p_cart=p_cart[picked].astype(np.float64),
                ended=np.zeros(len(picked), np.bool_),
                purchased=purchased[picked],
                bot=bot[picked],
                model_version=self.version,
                next_items=None
                if self.next_items is None or self.shown is None
                else self.next_items.told(self.shown.cut(picked), self.spec.next_items),
            )
        if not ended_runs:
            return [] if moved is None else [moved]
        # Ends that a later row of the same key caused stand right before that row.
        for _, s in ended_runs:
            self.state[s] = _ENDED
            self._touch(s)
            if self.orders is not None:
                self.orders.ended.setdefault(self.keys[s], []).append(s)
        ended = self._ended_columns(np.array([s for _, s in ended_runs], dtype=np.int64))
        cause = np.array([order[starts[i]] for i, _ in ended_runs], dtype=np.int64)
        if moved is None:
            return [reorder([ended], np.argsort(cause, kind="stable"))]
        place = np.concatenate([cause * 2 - 1, order[picked] * 2])
        records.append(reorder([ended, moved], np.argsort(place, kind="stable")))
        return records

    def _names(self, slots: Sequence[int], start_ms: Ints) -> list[str]:
        if self.spec.by_user:
            return [f"{self.keys[s]}:{at}" for s, at in zip(slots, start_ms.tolist(), strict=True)]
        return [self.keys[s] for s in slots]

    # -- ends --------------------------------------------------------------------------------------------------------

    def _ended_columns(self, slots: Ints) -> IntentColumns:
        """The last record of each of these sessions: what happened is known, so the probabilities are 0 or 1 (but for orders to come)."""
        events = self.counts[slots].sum(axis=1)
        purchased = self._bought(slots)
        slot_list = slots.tolist()
        return IntentColumns(
            session=self._names(slot_list, self.start_ms[slots]),
            user=[self.users[s] for s in slot_list],
            issued_at_ms=self.last_ms[slots] + self.spec.gap_ms,
            events=events,
            # Without orders nothing can follow; with them a sale may still become known.
            p_purchase=np.where(purchased, 1.0, 0.0 if self.orders is None else self.published[slots].astype(np.float64)),
            p_cart=(self.cart_position[slots] > 0).astype(np.float64),
            ended=np.ones(len(slots), np.bool_),
            purchased=purchased,
            bot=self.bots(slots),
            model_version=self.version,
            next_items=None if self.next_items is None else [[] for _ in slot_list],
        )

    def end(self, watermark_ms: int) -> list[IntentColumns]:
        """Ends the sessions whose gap the watermark has passed; they stay until `settle` learns from them.

        Args:
            watermark_ms: the partition's.
        """
        over = np.flatnonzero((self.state == _LIVE) & (self.last_ms + self.spec.gap_ms <= watermark_ms))
        if not len(over):
            return []
        over = over[np.lexsort((self.start_offset[over], self.last_ms[over]))]
        return [self._over(over)]

    def _over(self, over: Ints) -> IntentColumns:
        """These sessions are live no more; their last records, in the given order."""
        self.state[over] = _ENDED
        self._touch(over)
        for s in over.tolist():
            del self.index[self.keys[s]]
            if self.orders is not None:
                self.orders.ended.setdefault(self.keys[s], []).append(s)
        return self._ended_columns(over)

    def cap(self, most: int) -> list[IntentColumns]:
        """Ends the sessions that have been silent longest, until no more than `most` are live. For ticks, where what lives is canonical.

        Args:
            most: live sessions.
        """
        surplus = self.live - most
        if surplus <= 0:
            return []
        live = np.flatnonzero(self.state == _LIVE)
        over = live[np.lexsort((self.start_offset[live], self.last_ms[live]))][:surplus]
        self.evicted += surplus
        return [self._over(over)]

    def tick(self, boundary_ms: int, offset: int) -> tuple[list[IntentColumns], tuple[Ints, Ints] | None]:
        """The watermark enters another grain: orders count, sessions that are over give back what was expected of them, those whose outcome
        is known are learnt from and forgotten, in canonical order.

        Args:
            boundary_ms: start of the grain that the watermark has entered; `end` was called with it.
            offset: of the row that brought it there.

        Returns:
            Records of sessions that an order has turned into buyers; what expected purchases have moved by.
        """
        told = [] if self.orders is None else self._take_orders(boundary_ms, offset)
        moved = None
        if self.interest is not None:
            over = np.flatnonzero((self.state == _ENDED) & (self.last_ms + self.spec.gap_ms <= boundary_ms))
            moved = self.interest.release(over)
            self._touch(over)
            self.interest.tidy(self.state != _FREE)
        self.settle(boundary_ms)
        self.standing.tick(boundary_ms // _HOUR_MS)
        if self.next_items is not None:
            self.next_items.tick(boundary_ms // _HOUR_MS)
        return told, moved

    def settle(self, boundary_ms: int) -> None:
        """Learns from the sessions whose outcome is known by the boundary, in canonical order, and forgets them.

        Args:
            boundary_ms: of the watermark.
        """
        known_ms = boundary_ms - self.spec.label_delay_ms
        over = np.flatnonzero((self.state == _ENDED) & (self.last_ms + self.spec.gap_ms <= known_ms))
        if not len(over):
            return
        over = over[np.lexsort((self.start_offset[over], self.last_ms[over]))]
        bots = self.bots(over)
        bought = self.purchase_position[over] if self.orders is None else self.orders.positions_of(over)
        # A robot teaches nothing about buyers; marked as not at risk from its first event on.
        self.model.settle(over, np.where(bots, 1, bought), np.where(bots, 1, self.cart_position[over]))
        self.history.settle(np.where(bots, 0, self.user_hash[over]), bought > 0)
        self.state[over] = _FREE
        self._touch(over)
        self.counts[over] = 0
        self.published[over] = 0
        if self.orders is not None:
            self.orders.forget(over, [self.keys[s] for s in over.tolist()])
        for s in over.tolist():
            self.keys[s] = self.users[s] = ""
        self.free.extend(over[::-1].tolist())

    def _take_orders(self, boundary_ms: int, offset: int) -> list[IntentColumns]:
        """Orders below the boundary, by time and place in the log, to the sessions that they are of."""
        assert self.orders is not None
        reach = self.spec.gap_ms + self.spec.label_delay_ms
        hits: list[int] = []
        at: list[int] = []
        for key, time_ms in self.orders.due(boundary_ms, offset):
            candidates = [self.index[key]] if key in self.index else []
            candidates += self.orders.ended.get(key, [])
            fits = [s for s in candidates if int(self.start_ms[s]) <= time_ms <= int(self.last_ms[s]) + reach]
            if not fits:
                continue
            s = max(fits, key=lambda slot: (int(self.start_ms[slot]), int(self.start_offset[slot])))
            if self.orders.ordered_ms[s] == NEVER:
                hits.append(s)
                at.append(time_ms)
                self.orders.ordered_ms[s] = time_ms
        if not hits:
            return []
        slots = np.array(hits, dtype=np.int64)
        self._touch(slots)
        self.published[slots] = 1
        columns = self._ended_columns(slots)
        ended = self.state[slots] == _ENDED
        return [replace(columns, issued_at_ms=np.array(at, dtype=np.int64), ended=ended)]

    def _bought(self, slots: Ints) -> Bools:
        clicked = self.purchase_position[slots] > 0
        return clicked if self.orders is None else clicked | (self.orders.ordered_ms[slots] != NEVER)

    def bots(self, slots: Ints) -> Bools:
        """bool[slots], which of these sessions are robots', by all that they did."""
        events = self.counts[slots].sum(axis=1)
        return is_bot(events, self.quick[slots], self.repeats[slots], self.last_ms[slots] - self.start_ms[slots])


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a piece of rows gave."""

    intents: list[IntentColumns]
    moved: tuple[Ints, Ints] | None
    """Of expected purchases: (number of the item, difference in micro-units); None where none are kept."""


def _last_before(flag: Bools, starts: Ints, run: Ints) -> Ints:
    """int64[rows], the last earlier row of the same run where the flag holds, -1 for none."""
    last = np.maximum.accumulate(np.where(flag, np.arange(len(flag)), -1))
    before = np.empty(len(flag), np.int64)
    before[0] = -1
    before[1:] = last[:-1]
    return np.where(before >= starts[run], before, -1)


def _running(flag: Bools, starts: Ints, initial: Ints) -> Ints:
    """int64[runs], what to add to the cumulative sum of the flags to count from `initial` in each run."""
    total = np.cumsum(flag)
    return np.asarray(initial - (total[starts] - flag[starts]), dtype=np.int64)
