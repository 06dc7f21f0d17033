"""The shop's items: categories, brands, prices, popularity, and the seasons of each category. Fixed for a shop's life."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from stream.simulate.spec import ShopSpec

_DEPARTMENTS = ("women", "men", "kids", "home", "garden", "kitchen", "electronics", "sports", "beauty", "toys", "books", "pets")
_SHELVES = ("basics", "classics", "premium", "outlet")
_SYLLABLES = ("al", "bo", "cra", "do", "el", "fi", "gu", "hal", "ino", "ju", "ka", "lu", "mo", "nor", "ot", "pra", "ri", "so", "tu", "vi")
_WEEKDAYS = np.array([0.3, -0.1, -0.2, -0.1, -0.5, 0.1, 0.5])
"""How far each weekday, Monday first, lies from the mean of a week (times weekly_swing)."""
_SEASON_STEP_MIN = 5


@dataclass(frozen=True, slots=True)
class Catalog:
    """The items in order of their category, so that a category is a range of item numbers."""

    ids: list[str]
    category: NDArray[np.int64]
    """int64[items], number of the category."""
    categories: list[str]
    first: NDArray[np.int64]
    """int64[categories + 1], the first item of each category."""
    brand: list[str]
    """Of each item."""
    price_cents: NDArray[np.int64]
    """int64[items], the regular price on the first day."""
    popularity: NDArray[np.float64]
    """float64[items], sums to 1."""
    elasticity: NDArray[np.float64]
    """float64[items], demand goes with price to this power (negative)."""
    season: NDArray[np.float64]
    """float64[steps of 5 minutes in a local week, categories], mean 1 for each category."""

    def __len__(self) -> int:
        return len(self.ids)


def make_catalog(spec: ShopSpec) -> Catalog:
    """The catalogue of a shop.

    Args:
        spec: the shop.
    """
    rng = np.random.default_rng([spec.seed, 1])
    n = spec.items
    names = [f"{department}.{shelf}" for shelf in _SHELVES for department in _DEPARTMENTS]
    number = int(np.clip(n // 25, 1, len(names)))
    share = 1 / np.arange(2, number + 2) ** 0.7
    category = np.concatenate([np.arange(number), rng.choice(number, n - number, p=share / share.sum())])
    category.sort()
    popularity = (np.arange(n) + 3.0) ** -spec.zipf
    popularity = rng.permutation(popularity / popularity.sum())
    brands = sorted({"".join(rng.choice(_SYLLABLES, 2)) + str(rng.choice(("", "n", "x", "co"))) for _ in range(max(5, min(300, n // 30)))})
    level = rng.normal(3.2, 0.7, number)
    price = np.exp(level[category] + rng.normal(0, 0.5, n))
    # Shops end prices in 9: 14.99, 7.49.
    cents = np.maximum(99, (np.round(price * 2) * 50 - 1)).astype(np.int64)
    return Catalog(
        ids=[f"p{i:05d}" for i in range(n)],
        category=category.astype(np.int64),
        categories=names[:number],
        first=np.searchsorted(category, np.arange(number + 1)).astype(np.int64),
        brand=[brands[b] for b in (len(brands) * rng.random(n) ** 1.5).astype(int)],
        price_cents=cents,
        popularity=np.asarray(popularity, dtype=np.float64),
        elasticity=-rng.uniform(0.8, 2.6, n),
        season=_seasons(spec, rng.uniform(-3, 3, number), rng.uniform(0.4, 1.6, number)),
    )


def _seasons(spec: ShopSpec, shift_h: NDArray[np.float64], weekend: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[steps, categories]: an evening peak and a noon bump, shifted by category; weekends matter more to some."""
    minute = np.arange(0, 7 * 1440, _SEASON_STEP_MIN)
    hour = ((minute % 1440) / 60)[:, None] - shift_h[None, :]
    day = 1 + spec.daily_swing * (0.8 * np.cos(2 * np.pi * (hour - 19) / 24) + 0.3 * np.cos(4 * np.pi * (hour - 20) / 24))
    week = 1 + spec.weekly_swing * _WEEKDAYS[minute // 1440][:, None] * weekend[None, :]
    season = np.maximum(day, 0.04) * np.maximum(week, 0.04)
    return np.asarray(season / season.mean(axis=0), dtype=np.float64)


def season_step(zone: ZoneInfo, time_ms: int) -> int:
    """The row of `Catalog.season` for a time.

    Args:
        zone: the shop's.
        time_ms: epoch milliseconds.
    """
    local = datetime.fromtimestamp(time_ms / 1000, UTC).astimezone(zone)
    return ((local.weekday() * 24 + local.hour) * 60 + local.minute) // _SEASON_STEP_MIN
