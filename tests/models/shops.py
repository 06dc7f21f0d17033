"""A simulated shop as models see it: a ring of units, with the open buckets full of garbage that nobody may read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.protocol import DemandSpec, Ints, Panel

LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
SCALE = 1_000_000
START = 1_000
OPEN = 3


def spec(**changes: object) -> DemandSpec:
    """A small specification: season of 6, horizon of 8."""
    given: dict[str, object] = {
        "size": "1h",
        "horizon": 8,
        "seasons": (6,),
        "levels": LEVELS,
        "totals": (3, 8),
        "probes": (1, 4, 8),
        "river_items": 5,
    }
    return DemandSpec(**(given | changes))  # type: ignore[arg-type]


def seasonal(items: int, buckets: int, seed: int = 0, season: int = 6, mean: float = 3.0, depth: float = 0.9) -> NDArray[np.float64]:
    """float64[buckets, items], Poisson units with a strong season and rates that differ by item."""
    random = np.random.default_rng(seed)
    rate = mean * np.exp(random.normal(0, 0.8, items))
    profile = 1 + depth * np.sin(2 * np.pi * np.arange(buckets) / season)
    return random.poisson(rate[None, :] * profile[:, None]).astype(np.float64)


class Shop:
    """Units by bucket, seen through a ring."""

    def __init__(
        self,
        units: NDArray[np.float64],
        spec: DemandSpec,
        lookback: int,
        capacity: int | None = None,
        garbage: int = 7,
        fractional: bool = False,
    ) -> None:
        self.units = units
        self.spec = spec
        self.items = units.shape[1]
        self.capacity = capacity or self.items
        self.depth = lookback + OPEN
        self.garbage = garbage
        self.first = np.full(self.capacity, START, dtype=np.int64)
        self.whole = np.full(self.capacity, not fractional)

    def slots(self) -> Ints:
        return np.arange(self.items, dtype=np.int64)

    def panel(self, bucket: int, slots: Ints | None = None) -> Panel:
        """The panel at the close of START + bucket; open buckets hold garbage."""
        closed = START + bucket
        ring = np.zeros((self.depth, self.capacity), dtype=np.int64)
        for age in range(min(bucket + 1, self.depth - OPEN)):
            row = np.rint(self.units[bucket - age] * SCALE).astype(np.int64)
            ring[(closed - age) % self.depth, : self.items] = np.where(self.first[: self.items] <= closed - age, row, 0)
        for ahead in range(1, OPEN + 1):
            ring[(closed + ahead) % self.depth] = self.garbage * SCALE * ahead
        phase = 2 * np.pi * ((closed + np.arange(self.spec.horizon + 1)) % 24) / 24
        steps = np.zeros((self.spec.horizon + 1, 6), dtype=np.float32)
        steps[:, 0], steps[:, 1] = np.sin(phase), np.cos(phase)
        live = self.slots() if slots is None else slots
        live = live[self.first[live] <= closed]
        return Panel(live, closed, ring, SCALE, self.first, steps, self.whole)
