"""What happens to the items hour by hour: prices, promotions, stockouts, spikes, and the weights that follow from them.

Exogenous: nothing here depends on sessions. Hours are drawn in order, one random stream each, so a plan is the same
however it is asked.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from stream.simulate.catalog import Catalog, season_step
from stream.simulate.spec import DAY_MS, HOUR_MS, ShopSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CACHED_HOURS = 6
_TRIES = 10


@dataclass(frozen=True, slots=True)
class Spike:
    """An injected change of an item's demand."""

    item: int
    start_ms: int
    end_ms: int
    factor: float
    """On demand: at once (sudden, drop), or reached after a straight rise of rise_ms (slow)."""
    kind: str
    """sudden | slow | drop."""
    rise_ms: int


@dataclass(frozen=True, slots=True)
class Promotion:
    """A price cut with display, announced before it starts."""

    item: int
    announced_ms: int
    start_ms: int
    end_ms: int
    discount: float
    lift: float
    """On demand, beside what the price itself does."""
    kind: str


@dataclass(frozen=True, slots=True)
class Stockout:
    """A time in which an item cannot be bought; buyers take another one of its category."""

    item: int
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class PriceChange:
    """A new regular price."""

    item: int
    announced_ms: int
    start_ms: int
    price_cents: int


@dataclass(frozen=True, slots=True)
class Offer:
    """A message of the offers source: what is announced about an item. None: not said."""

    time_ms: int
    item: int
    price_cents: int | None = None
    regular_cents: int | None = None
    promotion: str | None = None
    starts_ms: int | None = None
    ends_ms: int | None = None
    stock: int | None = None
    new: bool = False
    """The first word about the item: says category and brand."""


@dataclass(frozen=True, slots=True)
class Hour:
    """The slots of one hour."""

    weights: Floats
    """float64[slots, items], the item's share of an ordinary week's sessions, times all that moves it."""
    price_cents: Ints
    """int64[slots, items], what the shop asks, promotions included."""
    out: NDArray[np.bool_]
    """bool[slots, items], cannot be bought."""


class Plan:
    """The future of a shop's items, drawn as far as anybody has asked."""

    def __init__(self, spec: ShopSpec, catalog: Catalog) -> None:
        self.spec, self.catalog = spec, catalog
        self.spikes: list[Spike] = []
        self.promotions: list[Promotion] = []
        self.stockouts: list[Stockout] = []
        self.price_changes: list[PriceChange] = []
        self._zone = ZoneInfo(spec.zone)
        self._first = self._next = spec.start_ms // HOUR_MS
        self._slots = HOUR_MS // spec.slot_ms
        # One thing at a time happens to an item, so that each spike has one cause.
        self._busy_until = np.zeros(len(catalog), dtype=np.int64)
        self._out_until = np.zeros(len(catalog), dtype=np.int64)
        self._touching: defaultdict[int, list[Spike | Promotion | Stockout]] = defaultdict(list)
        self._repricing: defaultdict[int, list[PriceChange]] = defaultdict(list)
        self._out_of: defaultdict[int, list[Stockout]] = defaultdict(list)
        self._regular = catalog.price_cents.copy()
        self._offers: defaultdict[int, list[Offer]] = defaultdict(list)
        self._day_prices: dict[int, Ints] = {}
        self._hours: OrderedDict[int, Hour] = OrderedDict()
        focus = catalog.popularity**spec.spike_focus
        self._focus = np.cumsum(focus / focus.sum())
        for item, stock in enumerate(np.random.default_rng([spec.seed, 2]).integers(20, 2_000, len(catalog)).tolist()):
            cents = int(catalog.price_cents[item])
            first = Offer(spec.start_ms, item, price_cents=cents, regular_cents=cents, stock=stock, new=True)
            self._offers[self._first].append(first)

    def extend(self, hour: int) -> None:
        """Draw the plan up to and including an hour.

        Args:
            hour: hours since the epoch.
        """
        while self._next <= hour:
            self._draw(self._next)
            self._next += 1

    def offers(self, hour: int) -> list[Offer]:
        """What is announced in an hour, by time.

        Args:
            hour: hours since the epoch.
        """
        self.extend(hour)
        return sorted(self._offers.get(hour, ()), key=lambda offer: (offer.time_ms, offer.item))

    def hour(self, hour: int) -> Hour:
        """Weights, prices and stock in the slots of an hour.

        Args:
            hour: hours since the epoch, not before the shop's start.
        """
        if hour in self._hours:
            self._hours.move_to_end(hour)
            return self._hours[hour]
        self.extend(hour)
        made = self._hours[hour] = self._weigh(hour)
        if len(self._hours) > _CACHED_HOURS:
            self._hours.popitem(last=False)
        return made

    def leave_out_spikes(self) -> None:
        """From here on hours that are drawn already are what they would be without any spike: for whoever asks what was usual."""
        self._touching = defaultdict(list, {h: [e for e in entries if not isinstance(e, Spike)] for h, entries in self._touching.items()})
        self._hours.clear()

    def is_out(self, item: int, from_ms: int, until_ms: int) -> bool:
        """Whether an item is out of stock at some time in [from_ms, until_ms].

        Args:
            item: its number.
            from_ms: epoch milliseconds.
            until_ms: epoch milliseconds.
        """
        self.extend(until_ms // HOUR_MS)
        return any(s.start_ms <= until_ms and from_ms < s.end_ms for s in self._out_of.get(item, ()))

    def _draw(self, hour: int) -> None:
        spec = self.spec
        rng = np.random.default_rng([spec.seed, 3, hour])
        now = hour * HOUR_MS
        counts = rng.poisson(
            np.array([spec.spikes_per_day, spec.promotions_per_day, spec.stockouts_per_day, spec.price_changes_per_day]) * spec.items / 24
        )
        if hour % 24 == 0 or hour == self._first:
            self._day_prices[hour // 24] = self._regular_at(hour)
        for plan, count in zip((self._spike, self._promote, self._stock_out, self._reprice), counts.tolist(), strict=True):
            for _ in range(count):
                # The popular items are often busy: ask others, or there would be fewer spikes than were ordered.
                for _ in range(_TRIES):
                    if plan(rng, now, min(int(np.searchsorted(self._focus, rng.random())), spec.items - 1)):
                        break

    def _slot(self, time_ms: float) -> int:
        """The next edge of slots."""
        return -int(-time_ms // self.spec.slot_ms) * self.spec.slot_ms

    def _span(self, rng: np.random.Generator, start_ms: int, hours: tuple[float, float]) -> int:
        length = HOUR_MS * np.exp(rng.uniform(np.log(hours[0]), np.log(hours[1])))
        return max(self._slot(start_ms + length), start_ms + self.spec.slot_ms)

    def _start(self, rng: np.random.Generator, now: int) -> int:
        return self._slot(max(now, self.spec.start_ms) + rng.uniform(0, HOUR_MS - self.spec.slot_ms))

    def _occupy(self, item: int, start_ms: int, end_ms: int) -> bool:
        """Reserve an item, with a day (or as long as it lasts, where that is shorter) of peace behind it."""
        if self._busy_until[item] > start_ms:
            return False
        self._busy_until[item] = end_ms + min(DAY_MS, end_ms - start_ms)
        return True

    def _touch(self, entry: Spike | Promotion | Stockout, until_ms: int) -> None:
        for hour in range(entry.start_ms // HOUR_MS, (until_ms - 1) // HOUR_MS + 1):
            self._touching[hour].append(entry)

    def _spike(self, rng: np.random.Generator, now: int, item: int) -> bool:
        spec = self.spec
        kind = str(rng.choice(("sudden", "slow", "drop"), p=(0.5, 0.25, 0.25)))
        start, size = self._start(rng, now), rng.random()
        low, high = np.log(spec.spike_factor)
        factor = {
            "sudden": np.exp(low + size * (high - low)),
            "slow": np.exp(low + size * max(0.0, np.log(2) + high / 2 - low)),
            "drop": np.exp(-(np.log(3) + size * np.log(20 / 3))),
        }[kind]
        rise = self._slot(spec.rise_hours * HOUR_MS) if kind == "slow" else 0
        end = self._span(rng, start, spec.spike_hours) + rise
        if not self._occupy(item, start, end):
            return False
        spike = Spike(item, start, end, round(float(factor), 3), kind, rise)
        self.spikes.append(spike)
        self._touch(spike, end)
        return True

    def _promote(self, rng: np.random.Generator, now: int, item: int) -> bool:
        announced = max(now, self.spec.start_ms) + int(rng.integers(0, 60_000))
        low, high = np.log(self.spec.promotion_lead_hours)
        start = self._slot(announced + HOUR_MS * np.exp(rng.uniform(low, high)))
        end = self._span(rng, start, self.spec.promotion_hours)
        discount, lift = float(rng.choice((0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5))), round(float(rng.uniform(1.1, 1.9)), 3)
        kind = str(rng.choice(("percent_off", "deal_of_the_day", "clearance")))
        if not self._occupy(item, start, end):
            return False
        promotion = Promotion(item, announced, start, end, discount, lift, kind)
        self.promotions.append(promotion)
        self._touch(promotion, end)
        regular = int(self._regular[item])
        self._offers[announced // HOUR_MS].append(
            Offer(announced, item, int(regular * (1 - discount)), regular, kind, starts_ms=start, ends_ms=end)
        )
        return True

    def _stock_out(self, rng: np.random.Generator, now: int, item: int) -> bool:
        start = self._start(rng, now)
        end = self._span(rng, start, self.spec.stockout_hours)
        refill = int(rng.integers(20, 2_000))
        category = self.catalog.category[item]
        shelf = slice(*self.catalog.first[category : category + 2].tolist())
        # At least half of a category stays, so that buyers always find a substitute.
        if 2 * ((self._out_until[shelf] > start).sum() + 1) > shelf.stop - shelf.start or not self._occupy(item, start, end):
            return False
        self._out_until[item] = end
        stockout = Stockout(item, start, end)
        self.stockouts.append(stockout)
        self._out_of[item].append(stockout)
        self._touch(stockout, end)
        self._offers[start // HOUR_MS].append(Offer(start, item, stock=0))
        self._offers[end // HOUR_MS].append(Offer(end, item, stock=refill))
        return True

    def _reprice(self, rng: np.random.Generator, now: int, item: int) -> bool:
        announced = max(now, self.spec.start_ms) + int(rng.integers(0, 60_000))
        start = self._slot(announced + rng.uniform(0.05, 24) * HOUR_MS)
        base = int(self.catalog.price_cents[item])
        cents = max(50, int(round(base * float(np.exp(rng.uniform(np.log(0.75), np.log(1.3)))))))
        # Not during a promotion: its price was announced as a share of the regular one.
        if not self._occupy(item, start, start + self.spec.slot_ms):
            return False
        self._regular[item] = cents
        change = PriceChange(item, announced, start, cents)
        self.price_changes.append(change)
        self._repricing[start // HOUR_MS].append(change)
        self._offers[announced // HOUR_MS].append(Offer(announced, item, cents, cents, starts_ms=start))
        return True

    def _regular_at(self, hour: int) -> Ints:
        """int64[items], regular prices at the start of an hour whose predecessors are all drawn."""
        day = hour // 24
        if day in self._day_prices and hour % 24 == 0:
            return self._day_prices[day]
        known = [d for d in self._day_prices if d * 24 <= hour]
        earlier = max(known) if known else None
        prices = (self.catalog.price_cents if earlier is None else self._day_prices[earlier]).copy()
        since = self._first if earlier is None else max(self._first, earlier * 24)
        for passed in range(since, hour):
            for entry in sorted(self._repricing[passed], key=lambda e: e.start_ms):
                prices[entry.item] = entry.price_cents
        return prices

    def _weigh(self, hour: int) -> Hour:
        spec, catalog, n = self.spec, self.catalog, self._slots
        starts = hour * HOUR_MS + np.arange(n) * spec.slot_ms
        season = catalog.season[[season_step(self._zone, int(t)) for t in starts]]  # float64[slots, categories]
        price = np.repeat(self._regular_at(hour)[None], n, axis=0)  # int64[slots, items]
        factor = np.ones((n, spec.items))
        out = np.zeros((n, spec.items), dtype=np.bool_)
        for change in sorted(self._repricing[hour], key=lambda e: e.start_ms):
            price[starts >= change.start_ms, change.item] = change.price_cents
        for entry in self._touching[hour]:
            within = (starts >= entry.start_ms) & (starts < entry.end_ms)
            if isinstance(entry, Stockout):
                out[within, entry.item] = True
            elif isinstance(entry, Promotion):
                factor[within, entry.item] *= entry.lift
                price[within, entry.item] = (price[within, entry.item] * (1 - entry.discount)).astype(np.int64)
            elif entry.rise_ms:
                share = np.clip((starts + spec.slot_ms - entry.start_ms) / entry.rise_ms, 0, 1)
                factor[within, entry.item] *= (1 + (entry.factor - 1) * share)[within]
            else:
                factor[within, entry.item] *= entry.factor
        changed = price != catalog.price_cents
        if changed.any():
            slot, item = np.nonzero(changed)
            factor[slot, item] *= (price[slot, item] / catalog.price_cents[item]) ** catalog.elasticity[item]
        weights = factor * (catalog.popularity * season[:, catalog.category])
        return Hour(weights, price, out)
