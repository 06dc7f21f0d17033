"""The shop of the spikes' yardstick: items' sales by the hour, drawn straight from the simulator's rates, and the blocks that tell of them.

Orders are Poisson with the simulator's own rates, so drawing an hour's order lines at once gives the same numbers as drawing every session would,
a thousand times as fast. Prices, promotions, stock and what items are travel as facts, as ingest would have told them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.engine.activity import Agreement, Block, Segment, Source, facts_segment
from stream.engine.columns import MICRO
from stream.engine.facts import NEVER, SHARE, STATIC, FactRows, fact_rows, join_rows
from stream.simulate.plan import Offer, Spike
from stream.simulate.sessions import draw_quantities
from stream.simulate.shop import Shop
from stream.simulate.spec import HOUR_MS, ShopSpec
from stream.simulate.truth import Rates

Floats = NDArray[np.float32]
Progress = Callable[[str, int, int], None]
"""Told (what is being done, how much is done, of how much)."""

_SOURCE = Source("orders", 0)
_GRAIN_MS = 900_000
_HOURS_A_DAY = 24


@dataclass(frozen=True, slots=True)
class Size:
    """How large the yardstick is."""

    items: int = 10_000
    warm_up_days: int = 14
    """Before the days that count: an engine that has seen nothing expects nothing."""
    days: int = 30
    rate: float = 600.0
    """Clickstream events a second: what makes enough items busy enough for any test."""
    spikes: int = 500
    """In the days that count, by expectation."""
    seed: int = 1

    @property
    def hours(self) -> int:
        """All hours."""
        return (self.warm_up_days + self.days) * _HOURS_A_DAY

    @property
    def first(self) -> int:
        """The first hour that counts."""
        return self.warm_up_days * _HOURS_A_DAY

    def spec(self) -> ShopSpec:
        """The shop: seasons, prices, promotions, stockouts and bulk orders as by default."""
        return ShopSpec(
            seed=self.seed,
            items=self.items,
            rate=self.rate,
            slot_ms=_GRAIN_MS,
            spikes_per_day=self.spikes / (self.days * self.items),
            spike_focus=1.0,
            zone="UTC",
        )


QUICK = Size(items=400, warm_up_days=8, days=4, rate=60.0, spikes=40)
"""For tests: runs in seconds, proves nothing."""


@dataclass(frozen=True, slots=True)
class History:
    """What was sold, and what only the simulator knows."""

    size: Size
    start_ms: int
    ids: list[str]
    category: list[str]
    lines: NDArray[np.int32]
    """int32[hours, items]."""
    units: NDArray[np.int32]
    usual: Floats
    """float32[hours, items], expected order lines had there been no spikes; promotions, prices and stock included."""
    rate: Floats
    """float32[hours, items], expected order lines."""
    spikes: list[Spike]
    """All, those of the warm-up too."""
    offers: list[list[Offer]]
    """By hour."""


def make_history(size: Size, tell: Progress) -> History:
    """Draws a shop's hours.

    Args:
        size: of the yardstick.
        tell: is told of every hour.
    """
    shop, calm = Shop(size.spec()), Shop(size.spec())
    start = shop.spec.start_ms // HOUR_MS
    for one in (shop, calm):
        one.plan.extend(start + size.hours)
    calm.plan.leave_out_spikes()
    rates, calm_rates = Rates(shop), Rates(calm)
    rng = np.random.default_rng([size.seed, 77])
    shape = (size.hours, size.items)
    lines, units = np.empty(shape, np.int32), np.empty(shape, np.int32)
    usual, rate = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for hour in range(size.hours):
        usual[hour] = calm_rates.lines(start + hour).sum(axis=0)
        rate[hour] = rates.lines(start + hour).sum(axis=0)
        lines[hour] = rng.poisson(rate[hour])
        item = np.repeat(np.arange(size.items), lines[hour])
        quantity, _ = draw_quantities(rng, shop.spec, len(item))
        units[hour] = np.bincount(item, quantity, size.items)
        tell("the shop", hour + 1, size.hours)
    return History(
        size,
        shop.spec.start_ms,
        shop.catalog.ids,
        [shop.catalog.categories[c] for c in shop.catalog.category],
        lines,
        units,
        usual,
        rate,
        [s for s in shop.plan.spikes if s.start_ms < shop.spec.start_ms + size.hours * HOUR_MS],
        [shop.plan.offers(start + hour) for hour in range(size.hours)],
    )


def agreement() -> Agreement:
    """What the history's blocks are made by."""
    return Agreement(_GRAIN_MS, "1h", "UTC")


def roster() -> Block:
    """The block before all others."""
    return Block(1, "roster", roster=[_SOURCE], agreement=agreement())


def block(history: History, hour: int) -> Block:
    """What ingest would have said of an hour, at its end.

    Args:
        history: the shop's.
        hour: from 0.
    """
    epoch = history.start_ms // HOUR_MS + hour
    at = np.flatnonzero(history.lines[hour])
    names = [history.ids[i] for i in at.tolist()]
    start_ms = epoch * HOUR_MS
    columns = {
        "item": np.arange(len(at), dtype="<u4").tobytes(),
        "grain": np.full(len(at), start_ms // _GRAIN_MS, "<i8").tobytes(),
        "units": (history.units[hour, at].astype("<i8") * MICRO).tobytes(),
        "lines": history.lines[hour, at].astype("<i8").tobytes(),
    }
    segments = [Segment(epoch, names, columns)] if len(at) else []
    facts = _facts(history, history.offers[hour])
    if facts is not None:
        segments.append(facts_segment(epoch, facts))
    return Block(1, "rows", _SOURCE, epoch + 1, segments)


def _facts(history: History, offers: list[Offer]) -> FactRows | None:
    """Offers as facts, with the words of stream.engine.announced."""
    parts: list[FactRows] = []

    def add(picked: list[Offer], name: str | list[str], value: list[float] | float, dated: bool = True, **more: object) -> None:
        if picked:
            begins = [o.time_ms if o.starts_ms is None or not dated else o.starts_ms for o in picked]
            ends = [NEVER if o.ends_ms is None or not dated else o.ends_ms for o in picked]
            parts.append(
                fact_rows(
                    name=name,
                    value=np.asarray(value, dtype=np.float64),
                    announced_ms=np.array([o.time_ms for o in picked]),
                    item=[history.ids[o.item] for o in picked],
                    starts_ms=np.array(begins),
                    ends_ms=np.array(ends),
                    **more,  # type: ignore[arg-type]
                )
            )

    priced = [o for o in offers if o.price_cents is not None]
    add(priced, "price", [(o.price_cents or 0) / 100 for o in priced])
    promoted = [o for o in offers if o.promotion is not None]
    add(promoted, "promotion", 1.0, kind=SHARE)
    add(promoted, [f"promotion.{o.promotion}" for o in promoted], 1.0, kind=SHARE)
    stocked = [o for o in offers if o.stock is not None]
    add(stocked, "stock", [float(o.stock or 0) for o in stocked], dated=False)
    new = [o for o in offers if o.new]
    add(new, "category", 0.0, dated=False, kind=STATIC, text=[history.category[o.item] for o in new])
    return join_rows(parts) if parts else None
