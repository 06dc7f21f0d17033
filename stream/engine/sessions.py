"""The live sessions of one clickstream partition: who is in the shop, what they have done, what they will do.

Pure and columnar. A piece of rows (one watermark grain, see `SessionBook.step`) is sorted by session, cut into runs (one
run = the rows of one session), and every counter after every row comes from cumulative sums inside the runs: no Python
call an event, and the same integers however the log was cut into batches. Session slots are internal: no result depends
on their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from models.protocol import IntentModel, SessionRuns
from stream.engine.columns import MICRO, MISSING, Bools, Event, Floats, IntentColumns, Ints, Rows

FEATURES = 16
"""Columns of the counters that the intent models see; made in `_features`."""

_KINDS = len(Event)
_NEVER = np.iinfo(np.int64).min // 2
_TIME_BITS = 43  # epoch ms of the year 2200 and 20 bits of run number fit into int64 together
_FREE, _LIVE, _ENDED = 0, 1, 2
_BOT_EVENTS, _BOT_GAP_MS = 25, 1_500
_ROUNDS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """What decides sessions and when they are published."""

    gap_ms: int
    every_event: bool
    publish_delta: float
    thresholds: tuple[float, ...]
    by_user: bool
    """Sessions are cut from the user and named `user:start_ms`."""


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
        ("repeats", np.int64),
        ("purchase_position", np.int64),
        ("cart_position", np.int64),
        ("published", np.float32),
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
        self.repeats: Ints = np.zeros(0, np.int64)
        self.purchase_position: Ints = np.zeros(0, np.int64)
        self.cart_position: Ints = np.zeros(0, np.int64)
        self.published: NDArray[np.float32] = np.zeros(0, np.float32)
        self.counts: Ints = np.zeros((0, _KINDS), np.int64)
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

    def reindex(self) -> None:
        """Finds the live sessions' keys again after the arrays were replaced."""
        self.index = {self.keys[slot]: slot for slot in np.flatnonzero(self.state == _LIVE).tolist()}

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

    def step(self, rows: Rows, watermark_before_ms: Ints, item_hash: Ints, hour: Floats) -> list[IntentColumns]:
        """Takes rows that lie between two ticks.

        Args:
            rows: the piece, in offset order; `session` or `user` mapped.
            watermark_before_ms: int64[rows], the partition's watermark before each row.
            item_hash: int64[rows], a stable hash of the item, 0 for none.
            hour: float64[rows], local hour of the day.

        Returns:
            The intent records that these rows cause, a session's in order.
        """
        keys = rows.user if self.spec.by_user else rows.session
        assert keys is not None and rows.event is not None
        key_list = list(dict.fromkeys(keys))
        local = dict(zip(key_list, range(len(key_list)), strict=True))
        group_of_row = np.fromiter(map(local.__getitem__, keys), np.int64, len(keys))
        known = np.fromiter(map(self.index.get, key_list, repeat(-1)), np.int64, len(key_list))

        order = np.argsort(group_of_row, kind="stable")
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
        hashes = item_hash[order]
        item_before = np.empty(len(order), np.int64)
        item_before[1:] = hashes[:-1]
        item_before[starts] = np.where(continued, self.last_item[slot], 0)
        same = (hashes == item_before) & (hashes != 0)
        repeat_count = np.cumsum(same)
        repeats = repeat_count - (repeat_count[starts] - same[starts] - np.where(continued, self.repeats[slot], 0))[run]

        x = _features(
            kind, counts, position, repeats, time - begun, time - previous, None if rows.price is None else rows.price[order], hour[order]
        )
        scores = self.model.score(SessionRuns(slot[run], position, x))

        purchased = counts[Event.PURCHASE] > 0
        p_purchase = np.where(purchased, np.float32(1), scores.purchase)
        p_cart = np.where(counts[Event.CART] > 0, np.float32(1), scores.cart)
        turned = purchased & (kind == Event.PURCHASE) & (counts[Event.PURCHASE] == 1)
        initially_published = np.where(continued, self.published[slot], np.float32(0))
        chosen, last_published = self._choose(run, index_in_run, starts, stops, p_purchase, turned, initially_published)

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
        self.last_item[slot] = hashes[last]
        self.repeats[slot] = repeats[last]
        self.published[slot] = last_published
        self.state[slot] = _LIVE
        self._touch(slot)
        users = rows.user
        row_of_start = order[starts]
        for i in new_runs.tolist():
            key, s = key_list[group[starts[i]]], int(slot[i])
            self.keys[s] = key
            self.users[s] = "" if users is None else users[row_of_start[i]]
            self.index[key] = s

        return self._publish(
            rows, order, run, slot, chosen, position, p_purchase, p_cart, purchased, counts, begun, time, ended_runs, starts
        )

    def _choose(
        self,
        run: Ints,
        index_in_run: Ints,
        starts: Ints,
        stops: Ints,
        p: NDArray[np.float32],
        turned: Bools,
        published: NDArray[np.float32],
    ) -> tuple[Bools, NDArray[np.float32]]:
        """Which rows publish: decided event by event (against what was last published), or the records would depend on the batches."""
        if self.spec.every_event:
            return np.ones(len(run), np.bool_), p[stops - 1]
        delta = np.float32(self.spec.publish_delta)
        edges = np.array(self.spec.thresholds, dtype=np.float32)
        published = published.copy()
        chosen = np.zeros(len(run), np.bool_)
        level = np.searchsorted(edges, p, side="right")
        lengths = stops - starts
        by_length = np.argsort(-lengths, kind="stable")
        sorted_lengths = -lengths[by_length]
        rounds = int(lengths.max())
        for k in range(min(rounds, _ROUNDS_AT_ONCE)):
            runs = by_length[: np.searchsorted(sorted_lengths, -k, side="left")]
            rows = starts[runs] + k
            value, before = p[rows], published[runs]
            moved = (np.abs(value - before) >= delta) | turned[rows] | (level[rows] != np.searchsorted(edges, before, side="right"))
            chosen[rows] = moved
            published[runs[moved]] = value[moved]
        # What is left are a few very long sessions: one at a time.
        for r in by_length[: np.searchsorted(sorted_lengths, -_ROUNDS_AT_ONCE, side="left")].tolist():
            before, at = published[r], starts[r] + _ROUNDS_AT_ONCE
            before_level = int(np.searchsorted(edges, before, side="right"))
            piece = slice(at, stops[r])
            for i, (value, turn, lev) in enumerate(zip(p[piece], turned[piece].tolist(), level[piece].tolist(), strict=True)):
                if turn or lev != before_level or abs(value - before) >= delta:
                    chosen[at + i] = True
                    before, before_level = value, lev
            published[r] = before
        return chosen, published

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
        rows: Rows,
        order: Ints,
        run: Ints,
        slot: Ints,
        chosen: Bools,
        position: Ints,
        p_purchase: NDArray[np.float32],
        p_cart: NDArray[np.float32],
        purchased: Bools,
        counts: Ints,
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
                bot=_is_bot(position[picked], time[picked] - begun[picked]),
                model_version=self.version,
            )
        if not ended_runs:
            return [] if moved is None else [moved]
        # Ends that a later row of the same key caused stand right before that row.
        for _, s in ended_runs:
            self.state[s] = _ENDED
            self._touch(s)
        ended = self._ended_columns(np.array([s for _, s in ended_runs], dtype=np.int64))
        cause = np.array([order[starts[i]] for i, _ in ended_runs], dtype=np.int64)
        if moved is None:
            return [_reorder([ended], np.argsort(cause, kind="stable"))]
        place = np.concatenate([cause * 2 - 1, order[picked] * 2])
        records.append(_reorder([ended, moved], np.argsort(place, kind="stable")))
        return records

    def _names(self, slots: Sequence[int], start_ms: Ints) -> list[str]:
        if self.spec.by_user:
            return [f"{self.keys[s]}:{at}" for s, at in zip(slots, start_ms.tolist(), strict=True)]
        return [self.keys[s] for s in slots]

    # -- ends --------------------------------------------------------------------------------------------------------

    def _ended_columns(self, slots: Ints) -> IntentColumns:
        """The last record of each of these sessions: what happened is known, so the probabilities are 0 or 1."""
        events = self.counts[slots].sum(axis=1)
        purchased = self.purchase_position[slots] > 0
        slot_list = slots.tolist()
        return IntentColumns(
            session=self._names(slot_list, self.start_ms[slots]),
            user=[self.users[s] for s in slot_list],
            issued_at_ms=self.last_ms[slots] + self.spec.gap_ms,
            events=events,
            p_purchase=purchased.astype(np.float64),
            p_cart=(self.cart_position[slots] > 0).astype(np.float64),
            ended=np.ones(len(slots), np.bool_),
            purchased=purchased,
            bot=_is_bot(events, self.last_ms[slots] - self.start_ms[slots]),
            model_version=self.version,
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

    def settle(self, boundary_ms: int) -> None:
        """A tick: learns from the sessions that ended by the boundary, in canonical order, and forgets them.

        Args:
            boundary_ms: start of the grain that the watermark has entered; `end` was called with it.
        """
        over = np.flatnonzero((self.state == _ENDED) & (self.last_ms + self.spec.gap_ms <= boundary_ms))
        if not len(over):
            return
        over = over[np.lexsort((self.start_offset[over], self.last_ms[over]))]
        bots = _is_bot(self.counts[over].sum(axis=1), self.last_ms[over] - self.start_ms[over])
        # A bot teaches nothing about buyers; marked as not at risk from its first event on.
        purchase = np.where(bots, 1, self.purchase_position[over])
        cart = np.where(bots, 1, self.cart_position[over])
        self.model.settle(over, purchase, cart)
        self.state[over] = _FREE
        self._touch(over)
        self.counts[over] = 0
        self.published[over] = 0
        for s in over.tolist():
            self.keys[s] = self.users[s] = ""
        self.free.extend(over[::-1].tolist())


def _is_bot(events: Ints, length_ms: Ints) -> Bools:
    """Many events without time to think between them; a missing cart alone is no sign (two thirds of buyers have none)."""
    return np.asarray((events >= _BOT_EVENTS) & (length_ms < events * _BOT_GAP_MS), dtype=np.bool_)


def _features(
    kind: NDArray[np.int8],
    counts: Ints,
    position: Ints,
    repeats: Ints,
    since_start_ms: Ints,
    since_previous_ms: Ints,
    price: Ints | None,
    hour: Floats,
) -> NDArray[np.float32]:
    """float32[rows, FEATURES]; every column a function of integers, element by element."""
    x = np.empty((len(kind), FEATURES), np.float32)
    x[:, 0] = np.log1p(position)
    x[:, 1] = np.log1p(counts[Event.VIEW])
    x[:, 2] = np.log1p(counts[Event.CART])
    x[:, 3] = np.log1p(counts[Event.REMOVE])
    x[:, 4] = np.log1p(counts[Event.SEARCH])
    x[:, 5] = np.log1p(repeats)
    x[:, 6] = np.log1p(np.maximum(since_start_ms, 0) / 1000.0)
    x[:, 7] = np.log1p(np.maximum(since_previous_ms, 0) / 1000.0)
    for column, code in enumerate((Event.VIEW, Event.SEARCH, Event.CART, Event.REMOVE, Event.OTHER), start=8):
        x[:, column] = kind == code
    x[:, 13] = 0 if price is None else np.log1p(np.maximum(np.where(price == MISSING, 0, price), 0) / MICRO)
    x[:, 14] = np.sin(hour * (2 * np.pi / 24))
    x[:, 15] = np.cos(hour * (2 * np.pi / 24))
    return x


def _reorder(parts: Sequence[IntentColumns], order: Ints) -> IntentColumns:
    """The records of all parts in the given order."""
    picks = order.tolist()
    sessions = [name for part in parts for name in part.session]
    users = [name for part in parts for name in (part.user or [])]
    return IntentColumns(
        session=[sessions[i] for i in picks],
        user=[users[i] for i in picks],
        issued_at_ms=np.concatenate([p.issued_at_ms for p in parts])[order],
        events=np.concatenate([p.events for p in parts])[order],
        p_purchase=np.concatenate([p.p_purchase for p in parts])[order],
        p_cart=np.concatenate([p.p_cart for p in parts])[order],
        ended=np.concatenate([p.ended for p in parts])[order],
        purchased=np.concatenate([p.purchased for p in parts])[order],
        bot=np.concatenate([p.bot for p in parts])[order],
        model_version=parts[0].model_version,
    )
