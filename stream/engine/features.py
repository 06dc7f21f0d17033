"""What the intent models see of a session after each of its events: counters, gaps, the item's and the shop's own standing.

Every column is a function of integers and of tables that change at ticks only, element by element: no cut of the log can
change a bit. The tables here are hashed and of fixed size, so that no catalogue and no number of users can grow them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from stream.engine.columns import MICRO, MISSING, Bools, Event, Floats, Ints

NAMES = (
    "position", "views", "carts", "removes", "searches", "repeats", "age", "gap",
    "is_view", "is_search", "is_cart", "is_remove", "is_other",
    "price", "hour_sin", "hour_cos",
    "same_item", "same_category", "in_category", "gap_squared", "weekday_sin", "weekday_cos",
    "price_place", "item_sells", "item_share", "user_known", "user_sessions", "user_buys",
)  # fmt: skip
"""Of the columns, in order."""
FEATURES = len(NAMES)
OPTIONAL = (
    ("price", "price_place"),
    ("hour_sin", "hour_cos"),
    ("weekday_sin", "weekday_cos"),
    ("item_sells",),
    ("user_known", "user_sessions", "user_buys"),
)
"""Groups that tell something about some shops' buyers and nothing about others': training leaves out those that tell nothing."""
OPTIONAL_COLUMNS = tuple(tuple(NAMES.index(name) for name in group) for group in OPTIONAL)

ITEM_CELLS = 1 << 15
CATEGORY_CELLS = 1 << 12
USER_CELLS = 1 << 17
_HALF_LIFE_HOURS = 72.0
_PRIOR_EVENTS = 50.0
_SEEN, _BOUGHT, _PRICED, _MONEY = range(4)
State = dict[str, NDArray[np.generic]]


class ItemStanding:
    """How items and categories have fared in this partition: seen, bought, and what they cost; float64[cells] by hash, as of the last tick.

    A tick takes what was counted since the one before; what is older fades with a half-life of three days, by the hour.
    """

    def __init__(self) -> None:
        self.items: Floats = np.zeros((2, ITEM_CELLS))
        """[seen, bought]."""
        self.categories: Floats = np.zeros((4, CATEGORY_CELLS))
        """[seen, bought, priced events, sum of log prices in 1/4096]."""
        self.coming_items: Ints = np.zeros((2, ITEM_CELLS), np.int64)
        self.coming_categories: Ints = np.zeros((4, CATEGORY_CELLS), np.int64)
        self.total: Floats = np.zeros(2)
        """[seen, bought] of all items; kept beside, because a sum of the cells may round by how it is taken."""
        self.hour = -1
        self.waits = False

    def count(self, kind: NDArray[np.int8], item: Ints, category: Ints, log_price: Floats) -> None:
        """Counts rows; seen by the features from the next tick on.

        Args:
            kind: int8[rows].
            item: int64[rows], hash, 0 for none.
            category: int64[rows], hash, 0 for none.
            log_price: float64[rows], 0 for none.
        """
        has = item > 0
        seen, bought = has & (kind == Event.VIEW), has & (kind == Event.PURCHASE)
        for row, mask in ((_SEEN, seen), (_BOUGHT, bought)):
            np.add.at(self.coming_items[row], item[mask] % ITEM_CELLS, 1)
            np.add.at(self.coming_categories[row], category[mask] % CATEGORY_CELLS, 1)
        priced = seen & (log_price > 0)
        cell = category[priced] % CATEGORY_CELLS
        np.add.at(self.coming_categories[_PRICED], cell, 1)
        np.add.at(self.coming_categories[_MONEY], cell, np.rint(log_price[priced] * 4096).astype(np.int64))
        self.waits = True

    def tick(self, hour: int) -> None:
        """Takes what was counted, and lets the older fade.

        Args:
            hour: number of the hour that the watermark has entered.
        """
        if self.hour >= 0 and hour > self.hour:
            keep = 0.5 ** (min(hour - self.hour, 10_000) / _HALF_LIFE_HOURS)
            self.items *= keep
            self.categories *= keep
            self.total *= keep
        self.hour = hour
        if self.waits:
            self.items += self.coming_items
            self.categories += self.coming_categories
            self.total += self.coming_items.sum(axis=1)
            self.coming_items[:] = 0
            self.coming_categories[:] = 0
            self.waits = False

    def columns(self, item: Ints, category: Ints, log_price: Floats) -> tuple[Floats, Floats, Floats]:
        """(place of the price in its category, log odds at which the item sells, log of its share in its category), float64[rows] each."""
        cell, shelf = item % ITEM_CELLS, category % CATEGORY_CELLS
        seen, bought = self.items[_SEEN][cell], self.items[_BOUGHT][cell]
        rate = (self.total[1] + 1.0) / (self.total[0] + 50.0)
        sells = np.where(item > 0, np.log((bought + _PRIOR_EVENTS * rate) / (seen + _PRIOR_EVENTS) / rate), 0.0)
        priced = self.categories[_PRICED][shelf]
        usual = self.categories[_MONEY][shelf] / 4096 / np.maximum(priced, 1e-9)
        place = np.where((log_price > 0) & (priced >= 5), log_price - usual, 0.0)
        share = np.where(item > 0, np.log((seen + 1.0) / (self.categories[_SEEN][shelf] + 20.0)) + 4.0, 0.0)
        return place, sells, share

    def state(self) -> State:
        """All of it, copied."""
        note = np.array([self.hour, self.waits], dtype=np.int64)
        found: State = {"items": self.items, "categories": self.categories, "coming_items": self.coming_items}
        found |= {"coming_categories": self.coming_categories, "total": self.total, "hour": note}
        return {name: array.copy() for name, array in found.items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what state() gave."""
        self.items, self.categories = np.array(state["items"], np.float64), np.array(state["categories"], np.float64)
        self.coming_items = np.array(state["coming_items"], np.int64)
        self.coming_categories = np.array(state["coming_categories"], np.int64)
        self.total = np.array(state["total"], np.float64)
        self.hour, self.waits = int(state["hour"][0]), bool(state["hour"][1])


class UserHistory:
    """Ended sessions and buying sessions by user, int32[cells] by hash; grows at ticks, as sessions are settled."""

    def __init__(self) -> None:
        self.counts: NDArray[np.int32] = np.zeros((2, USER_CELLS), np.int32)

    def settle(self, user: Ints, bought: Bools) -> None:
        """Counts ended sessions.

        Args:
            user: int64[n], hash, 0 for none.
            bought: bool[n].
        """
        known = user > 0
        cell = user[known] % USER_CELLS
        np.add.at(self.counts[0], cell, 1)
        np.add.at(self.counts[1], cell, bought[known].astype(np.int32))

    def of(self, user: Ints) -> tuple[Ints, Ints]:
        """(sessions, buying sessions), int64[n] each; zeros where there is no user."""
        cell, known = user % USER_CELLS, user > 0
        return np.where(known, self.counts[0][cell], 0).astype(np.int64), np.where(known, self.counts[1][cell], 0).astype(np.int64)


def log_prices(price: Ints | None, rows: int) -> Floats:
    """float64[rows], log(1 + price in money), 0 for none."""
    if price is None:
        return np.zeros(rows)
    return np.asarray(np.log1p(np.maximum(np.where(price == MISSING, 0, price), 0) / MICRO), dtype=np.float64)


def make_features(
    kind: NDArray[np.int8],
    counts: Ints,
    position: Ints,
    repeats: Ints,
    in_category: Ints,
    since_start_ms: Ints,
    since_previous_ms: Ints,
    same_item: Bools,
    same_category: Bools,
    log_price: Floats,
    local_ms: Ints,
    standing: tuple[Floats, Floats, Floats],
    user_known: Bools,
    user_sessions: Ints,
    user_buys: Ints,
) -> NDArray[np.float32]:
    """float32[rows, FEATURES], as NAMES says; counts and positions include the row's own event."""
    x = np.empty((len(kind), FEATURES), np.float32)
    x[:, 0] = np.log1p(position)
    for column, code in enumerate((Event.VIEW, Event.CART, Event.REMOVE, Event.SEARCH), start=1):
        x[:, column] = np.log1p(counts[code])
    x[:, 5] = np.log1p(repeats)
    x[:, 6] = np.log1p(np.maximum(since_start_ms, 0) / 1000.0)
    gap = np.log1p(np.maximum(since_previous_ms, 0) / 1000.0)
    x[:, 7] = gap
    for column, code in enumerate((Event.VIEW, Event.SEARCH, Event.CART, Event.REMOVE, Event.OTHER), start=8):
        x[:, column] = kind == code
    x[:, 13] = log_price
    angle = (local_ms % 86_400_000) * (2 * np.pi / 86_400_000)
    x[:, 14] = np.sin(angle)
    x[:, 15] = np.cos(angle)
    x[:, 16] = same_item
    x[:, 17] = same_category
    x[:, 18] = np.log1p(in_category)
    x[:, 19] = gap * gap * 0.25
    weekday = ((local_ms // 86_400_000 + 3) % 7) * (2 * np.pi / 7)  # 1970-01-01 was a Thursday; Monday is 0
    x[:, 20] = np.sin(weekday)
    x[:, 21] = np.cos(weekday)
    x[:, 22], x[:, 23], x[:, 24] = standing
    x[:, 25] = user_known
    x[:, 26] = np.log1p(user_sessions)
    x[:, 27] = np.log1p(user_buys)
    return x


BOT_EVENTS = 10
"""Fewer say too little."""
QUICK_MS = 2_500
"""A gap without time to look at what came before."""


def is_bot(events: Ints, quick: Ints, repeats: Ints, length_ms: Ints) -> Bools:
    """Whether a session is a robot's: hardly any time to think, over and over, and never the same thing twice in a row; or a rate that no
    hand keeps up. A missing cart alone is no sign: two thirds of buyers have none.

    Args:
        events: int64[n], so far.
        quick: int64[n], gaps below QUICK_MS.
        repeats: int64[n], events about the item of the event before.
        length_ms: int64[n], since the first.
    """
    crawls = (events >= BOT_EVENTS) & (quick * 5 >= (events - 1) * 4) & (repeats * 5 <= events * 2)
    races = (events >= 60) & (length_ms < events * 1_000)
    return np.asarray(crawls | races, dtype=np.bool_)
