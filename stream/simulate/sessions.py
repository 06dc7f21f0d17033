"""Sessions made by the block: a block's starts have one random stream, so it is the same whoever asks, and when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.simulate.catalog import Catalog
from stream.simulate.intent import ANY, BOT, CATEGORY, END, OTHER, PURCHASE, SAME, SEARCH, UNIT, VIEW, Intent, lookup
from stream.simulate.plan import Hour, Plan
from stream.simulate.spec import DAY_MS, HOUR_MS, ShopSpec

Ints = NDArray[np.int64]
Records = NDArray[np.void]

CLICK = np.dtype(
    [
        ("arrival_ms", "i8"), ("time_ms", "i8"), ("session", "i8"), ("user", "i8"), ("item", "i4"), ("price_cents", "i4"),
        ("quantity", "i4"), ("position", "i4"), ("kind", "i1"), ("state", "i1"), ("junk", "i1"),
    ]
)  # fmt: skip
"""A clickstream event. item: -1 where it has none; position: of the event in its session, from 0; state: hidden, for the
truth alone; junk: 0, or the number of what is wrong with the message (messages.JUNK)."""

ORDER = np.dtype(
    [
        ("arrival_ms", "i8"), ("time_ms", "i8"), ("session", "i8"), ("user", "i8"), ("item", "i4"), ("price_cents", "i4"),
        ("quantity", "i4"), ("position", "i4"), ("cancelled", "?"), ("bulk", "?"), ("junk", "i1"),
    ]
)  # fmt: skip
"""An order line; quantity < 0: it came back. position: of its purchase event in the session."""

SESSION = np.dtype(
    [
        ("session", "i8"), ("user", "i8"), ("start_ms", "i8"), ("end_ms", "i8"), ("purchase_ms", "i8"), ("events", "i4"),
        ("purchases", "i4"), ("conversion", "i1"), ("bot", "?"),
    ]
)  # fmt: skip
"""A whole session as it was made. end_ms: its last event; purchase_ms: its first purchase, -1 without one; conversion: which
of the shop's intents it follows."""

ANONYMOUS = -1
NEW_USER = 1 << 40
"""Users from here on are seen once."""

ORDER_LOG_MS, ORDER_SIGMA, ORDER_BOUNDS_MS = 9.6, 0.8, (1_000, 300_000)
"""From a purchase to its order: log-normal, cut."""

_QUANTITIES = np.array([1, 2, 3, 4, 6])
_QUANTITY_SHARES = np.array([0.82, 0.12, 0.03, 0.02, 0.01])


def mean_quantity(spec: ShopSpec) -> float:
    """Expected units of an order line, bulk orders included.

    Args:
        spec: the shop.
    """
    low, high = spec.bulk_units
    return float((1 - spec.bulk_share) * (_QUANTITIES @ _QUANTITY_SHARES) + spec.bulk_share * (low + high) / 2)


def draw_quantities(rng: np.random.Generator, spec: ShopSpec, lines: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(int64[lines] units of order lines, bool[lines] which are bulk orders).

    Args:
        rng: drawn from.
        spec: the shop.
        lines: how many.
    """
    quantity = rng.choice(_QUANTITIES, lines, p=_QUANTITY_SHARES)
    bulk = rng.random(lines) < spec.bulk_share
    return np.where(bulk, rng.integers(spec.bulk_units[0], spec.bulk_units[1] + 1, lines), quantity), bulk


@dataclass(frozen=True, slots=True)
class Block:
    """All that comes of the sessions that start in one block."""

    clicks: Records
    """CLICK[n], session by session."""
    orders: Records
    """ORDER[n]."""
    sessions: Records
    """SESSION[n], by start."""


class SessionMaker:
    """Makes the sessions of a shop."""

    def __init__(self, spec: ShopSpec, catalog: Catalog, intents: tuple[Intent, ...], plan: Plan) -> None:
        self.spec, self.catalog, self.plan = spec, catalog, plan
        self._intent = intents[0]
        self._move = [lookup(intent.move) for intent in intents]
        self._emit, self._relate = lookup(intents[0].emit), lookup(intents[0].relate)
        self._start = lookup(intents[0].start[None])

    def conversion_at(self, slot_ms: int) -> int:
        """Which of the intents the sessions of a slot follow.

        Args:
            slot_ms: start of the slot.
        """
        change = self.spec.conversion_change
        return 0 if change is None or slot_ms < change[0] else 1

    def make(self, block: int) -> Block:
        """The sessions that start in block number `block` (of block_ms, counted from the epoch).

        Args:
            block: its number.
        """
        spec = self.spec
        rng = np.random.default_rng([spec.seed, 4, block])
        begin, length = block * spec.block_ms, min(spec.block_ms, spec.slot_ms)
        slots = begin % HOUR_MS // spec.slot_ms + np.arange(max(1, spec.block_ms // spec.slot_ms))  # of the hour
        hour = self.plan.hour(begin // HOUR_MS)
        expected = hour.weights[slots].sum(axis=1) * spec.sessions_per_second * length / 1000
        slot = np.repeat(slots, rng.poisson(expected))
        starts = begin + (slot - slots[0]) * spec.slot_ms + rng.integers(0, length, len(slot))
        order = np.argsort(starts, kind="stable")
        starts, slot = starts[order], slot[order]
        n = len(starts)
        serial = (np.int64(block - spec.start_ms // spec.block_ms) << 24) + np.arange(n)
        slot_start = begin // HOUR_MS * HOUR_MS + slots * spec.slot_ms
        conversion = np.array([self.conversion_at(int(t)) for t in slot_start], dtype=np.int8)[slot - slots[0]]
        entry = self._start[rng.integers(0, UNIT, n, dtype=np.uint16)]
        bot = entry == BOT

        walk = [self._walk_bots(rng, np.flatnonzero(bot))]
        for which in range(len(self._move)):
            who = np.flatnonzero(~bot & (conversion == which))
            walk.append(self._walk(rng, who, entry[who], self._move[which]))
        session = np.concatenate([w[0] for w in walk])
        position = np.concatenate([w[1] for w in walk])
        events = np.bincount(session, minlength=n)
        first = np.cumsum(events) - events
        place = first[session] + position  # every (session, position) once: a permutation, cheaper than a sort
        total = len(place)
        clicks = np.zeros(total, dtype=CLICK)
        state = np.empty(total, dtype=np.int8)
        state[place] = np.concatenate([w[2] for w in walk])
        session = np.repeat(np.arange(n), events)
        position = np.arange(total) - first[session]

        emitted = self._emit[state.astype(np.int64) * UNIT + rng.integers(0, UNIT, total, dtype=np.uint16)]
        clicks["session"], clicks["position"] = serial[session], position
        clicks["kind"], clicks["state"] = emitted, state
        clicks["time_ms"] = self._times(rng, state, starts, session, first)
        shown = self._items(rng, hour, slots, slot, session, first, state, emitted)
        clicks["item"] = np.where((emitted == SEARCH) | (emitted == OTHER), -1, shown)
        clicks["price_cents"] = hour.price_cents[slot[session], shown]
        clicks["user"] = self._users(rng, serial)[session]
        clicks["quantity"] = 1
        clicks["arrival_ms"] = clicks["time_ms"] + self._delays(rng, total)
        orders = self._orders(rng, clicks, np.flatnonzero(emitted == PURCHASE))
        sessions = _summary(clicks, starts, first, events, serial, conversion, bot)
        if begin < spec.start_ms:
            keep = starts >= spec.start_ms
            sessions, clicks = sessions[keep], clicks[keep[session]]
            orders = orders[np.isin(orders["session"], sessions["session"])]
        return Block(clicks, orders, sessions)

    def _walk(
        self, rng: np.random.Generator, who: Ints, state: NDArray[np.int8], move: NDArray[np.int8]
    ) -> tuple[Ints, Ints, NDArray[np.int8]]:
        """Sessions of people: (session, position, state) of each event, step by step for all who are still there."""
        sessions, states = [], []
        while len(who):
            sessions.append(who)
            states.append(state)
            state = move[state.astype(np.int64) * UNIT + rng.integers(0, UNIT, len(who), dtype=np.uint16)]
            stays = np.flatnonzero(state != END)
            if len(stays) < len(who):
                who, state = who[stays], state[stays]
        if not sessions:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int8)
        lengths = np.array([len(s) for s in sessions])
        return np.concatenate(sessions), np.repeat(np.arange(len(lengths)), lengths), np.concatenate(states)

    def _walk_bots(self, rng: np.random.Generator, who: Ints) -> tuple[Ints, Ints, NDArray[np.int8]]:
        """Sessions of bots: their state never changes, so only their length is drawn."""
        events = rng.geometric(self._intent.move[BOT, END], len(who))
        total = int(events.sum())
        position = np.arange(total) - np.repeat(np.cumsum(events) - events, events)
        return np.repeat(who, events), position, np.full(total, BOT, dtype=np.int8)

    def _times(self, rng: np.random.Generator, state: NDArray[np.int8], starts: Ints, session: Ints, first: Ints) -> Ints:
        intent = self._intent
        gap = rng.standard_normal(len(state))
        gap *= intent.gap_sigma[state]
        gap += intent.gap_mu[state]
        np.exp(gap, out=gap)
        whole = np.rint(np.clip(gap, intent.gap_min_ms, intent.gap_max_ms)).astype(np.int64)
        if len(whole):
            whole[first] = 0
        passed = np.cumsum(whole)
        return np.asarray(starts[session] + passed - passed[first][session])

    def _items(
        self,
        rng: np.random.Generator,
        hour: Hour,
        slots: Ints,
        slot: Ints,
        session: Ints,
        first: Ints,
        state: NDArray[np.int8],
        kind: NDArray[np.int8],
    ) -> Ints:
        """int64[events], the item in view at each event. Weights are those of the session's first slot, all session long:
        so each event's item is distributed as the weights, whatever the path, and an item's purchases are Poisson."""
        total, items = len(state), len(self.catalog)
        if not total:
            return np.zeros(0, np.int64)
        relate = self._relate[state.astype(np.int64) * UNIT + rng.integers(0, UNIT, total, dtype=np.uint16)]
        relate[kind != VIEW] = SAME
        relate[first] = ANY
        summed = np.concatenate([[0.0], np.cumsum(hour.weights[slots].ravel())])
        base = (slot - slots[0]) * items  # int64[sessions], where its slot's items start in `summed`
        draw = rng.random(total)
        item = np.zeros(total, dtype=np.int64)

        free = np.flatnonzero(relate == ANY)
        low = base[session[free]]
        item[free] = _pick(summed, draw[free], low, low + items) - low
        # An item's category is that of the last free draw; the first event of each session is one.
        anchor = np.zeros(total, dtype=np.int64)
        anchor[free] = free
        np.maximum.accumulate(anchor, out=anchor)
        shelf = np.flatnonzero(relate == CATEGORY)
        category = self.catalog.category[item[anchor[shelf]]]
        low = base[session[shelf]]
        item[shelf] = _pick(summed, draw[shelf], low + self.catalog.first[category], low + self.catalog.first[category + 1]) - low
        last = np.where(relate == SAME, 0, np.arange(total))
        np.maximum.accumulate(last, out=last)
        return item[last]

    def _users(self, rng: np.random.Generator, serial: Ints) -> Ints:
        """int64[sessions]. Independent of what the session does: the oracle need not look at users."""
        spec = self.spec
        kind, which = rng.random(len(serial)), rng.random(len(serial))
        known = (spec.users * which**2).astype(np.int64)
        user = np.where(kind < spec.returning_share, known, NEW_USER + serial)
        return np.where(kind >= 1 - spec.anonymous_share, ANONYMOUS, user)

    def _delays(self, rng: np.random.Generator, count: int) -> Ints:
        spec = self.spec
        delay = np.minimum(rng.exponential(spec.jitter_ms, count), spec.jitter_max_ms)
        late = np.flatnonzero(rng.random(count) < spec.late_share)
        delay[late] += rng.random(len(late)) * max(0, spec.late_max_ms - spec.jitter_max_ms)
        return delay.astype(np.int64)

    def _orders(self, rng: np.random.Generator, clicks: Records, rows: Ints) -> Records:
        """The order lines of purchase events, and what comes of them later; sets quantity, item and price of the events."""
        spec, n = self.spec, len(rows)
        after = np.clip(np.exp(rng.normal(ORDER_LOG_MS, ORDER_SIGMA, n)), *ORDER_BOUNDS_MS).astype(np.int64)
        quantity, bulk = draw_quantities(rng, spec, n)
        substitute, fate = rng.random(n), rng.random(n)
        wait_ms = np.where(
            fate < spec.cancel_share, np.exp(rng.uniform(np.log(60_000), np.log(12 * HOUR_MS), n)), rng.uniform(2, 14, n) * DAY_MS
        )
        delay, later = self._delays(rng, n), self._delays(rng, n)
        clicks["quantity"][rows] = quantity
        bought = zip(rows.tolist(), clicks["time_ms"][rows].tolist(), clicks["item"][rows].tolist(), strict=True)
        for (row, time_ms, item), wait, draw in zip(bought, after.tolist(), substitute.tolist(), strict=True):
            if self.plan.is_out(item, time_ms, time_ms + wait):
                clicks["item"][row], clicks["price_cents"][row] = self._substitute(item, time_ms, time_ms + wait, draw)
        orders = np.zeros(n, dtype=ORDER)
        for name in ("session", "user", "item", "price_cents", "quantity", "position"):
            orders[name] = clicks[name][rows]
        orders["bulk"] = bulk
        orders["time_ms"] = clicks["time_ms"][rows] + after
        orders["arrival_ms"] = orders["time_ms"] + delay
        back = np.flatnonzero(fate < spec.cancel_share + spec.return_share)
        undone = orders[back]
        undone["cancelled"] = fate[back] < spec.cancel_share
        undone["quantity"] *= np.where(undone["cancelled"], 1, -1).astype(np.int32)
        undone["time_ms"] += wait_ms[back].astype(np.int64)
        undone["arrival_ms"] = undone["time_ms"] + later[back]
        return np.concatenate([orders, undone])

    def _substitute(self, item: int, time_ms: int, ordered_ms: int, draw: float) -> tuple[int, int]:
        """(item, price in cents) of its category that is in stock from the click to the order, by the weights of that slot."""
        hour = self.plan.hour(ordered_ms // HOUR_MS)
        slot = ordered_ms % HOUR_MS // self.spec.slot_ms
        low, high = self.catalog.first[self.catalog.category[item] :][:2].tolist()
        weights = np.where(hour.out[slot, low:high], 0.0, hour.weights[slot, low:high])
        for other in np.flatnonzero(weights):
            if self.plan.is_out(low + int(other), time_ms, ordered_ms):
                weights[other] = 0.0
        weights[item - low] = 0.0
        summed = np.cumsum(weights)
        other = low + min(int(np.searchsorted(summed, draw * summed[-1], side="right")), int(np.flatnonzero(weights)[-1]))
        return other, int(hour.price_cents[slot, other])


def _pick(summed: NDArray[np.float64], draw: NDArray[np.float64], low: Ints, high: Ints) -> Ints:
    """int64[n], an index in [low, high) each, in proportion to its step in the running sums."""
    floor = summed[low]
    found = np.searchsorted(summed, floor + draw * (summed[high] - floor), side="right") - 1
    return np.asarray(np.clip(found, low, high - 1))


def _summary(
    clicks: Records, starts: Ints, first: Ints, events: Ints, serial: Ints, conversion: NDArray[np.int8], bot: NDArray[np.bool_]
) -> Records:
    sessions = np.zeros(len(starts), dtype=SESSION)
    sessions["session"], sessions["start_ms"], sessions["events"] = serial, starts, events
    sessions["conversion"], sessions["bot"] = conversion, bot
    sessions["purchase_ms"] = -1
    if len(starts):
        sessions["user"] = clicks["user"][first]
        sessions["end_ms"] = clicks["time_ms"][first + events - 1]
        bought = np.flatnonzero(clicks["kind"] == PURCHASE)
        owner = np.searchsorted(first, bought, side="right") - 1
        sessions["purchases"] = np.bincount(owner, minlength=len(starts))
        sessions["purchase_ms"][owner[::-1]] = clicks["time_ms"][bought[::-1]]
    return sessions
