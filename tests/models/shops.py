"""A simulated shop as models see it: a ring of units, with the open buckets full of garbage that nobody may read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.demand.encoder import layout_of
from models.demand.expert import Expert
from models.demand.network import Shape, Weights
from models.demand.trees import Trees
from models.protocol import DemandSpec, Ints, Panel
from models.registry import DEMAND
from models.train.boosting import boost
from models.train.fit import SEEN, Examples, members

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
        shut: NDArray[np.bool_] | None = None,
        censored: NDArray[np.float32] | None = None,
        known: Mapping[str, NDArray[np.float32]] | None = None,
        past: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        """Takes the whole story; panels tell only what is known at a bucket's close.

        Args:
            units: float64[buckets, items].
            spec: what is forecast.
            lookback: closed buckets that the ring holds.
            capacity: default as many as items.
            garbage: what stands in open buckets.
            fractional: kilograms.
            shut: bool[at least buckets + horizon], told from the start.
            censored: float32[buckets, items], share without stock.
            known: float32[at least buckets + horizon, items] each, announced all of it from the start; NaN where never.
            past: float32[buckets, items] each, measured beside units.
        """
        self.units = units
        self.spec = spec
        self.items = units.shape[1]
        self.capacity = capacity or self.items
        self.depth = lookback + OPEN
        self.garbage = garbage
        self.first = np.full(self.capacity, START, dtype=np.int64)
        self.whole = np.full(self.capacity, not fractional)
        self.shut, self.censored, self.known, self.past = shut, censored, known or {}, past or {}

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
        return Panel(
            live,
            closed,
            ring,
            SCALE,
            self.first,
            steps,
            self.whole,
            known={name: self._ahead(values, bucket, np.nan) for name, values in self.known.items()},
            past={name: self._closed(values, bucket) for name, values in self.past.items()},
            censored=None if self.censored is None else self._closed(self.censored, bucket),
            shut=None if self.shut is None else self._ahead(self.shut, bucket, 0),
        )

    def _ahead(self, story: NDArray[Any], bucket: int, unknown: float) -> NDArray[Any]:
        """A ring over closed buckets and the horizon; what is beyond the story is unknown."""
        span = self.depth + self.spec.horizon
        ring = np.full((span, *story.shape[1:]), unknown, dtype=story.dtype)
        for at in range(max(0, bucket - self.depth + 1), min(bucket + self.spec.horizon + 1, len(story))):
            ring[(START + at) % span] = story[at]
        return ring

    def _closed(self, story: NDArray[np.float32], bucket: int) -> NDArray[np.float32]:
        """A ring like that of units; open buckets hold garbage."""
        ring = np.full((self.depth, self.capacity), 0.5, dtype=np.float32)
        for age in range(min(bucket + 1, self.depth - OPEN)):
            ring[(START + bucket - age) % self.depth, : self.items] = story[bucket - age]
        return ring


def weights(wanted: DemandSpec, version: str = "tiny-1", seed: int = 0) -> Weights:
    """A small network for a specification, drawn and never trained."""
    layout = layout_of(wanted)
    return Weights(version, wanted.size, layout, wanted.levels, tuple(members(layout, wanted.levels, Shape(hidden=16, step=8), seed)))


@cache
def drawn_trees(wanted: DemandSpec, seed: int = 0) -> Trees:
    """Trees that have learnt something from columns that were drawn."""
    layout, random = layout_of(wanted), np.random.default_rng(seed)
    rows = random.normal(size=(400, layout.width)).astype(np.float32)
    scale = np.exp(random.normal(size=400)).astype(np.float32)
    units = random.poisson(scale[:, None] * np.exp(rows[:, :1]), (400, layout.horizon)).astype(np.float32)
    examples = Examples(rows, scale, units, np.full(units.shape, SEEN, np.int8), np.arange(400))
    return boost(examples, layout, wanted.levels, 0.0, seed, rounds=20)


def expert_of(name: str, wanted: DemandSpec) -> Expert:
    """A registered expert; one that needs a trained network has a small one, and trees if it needs those."""
    expert = DEMAND[name](wanted)
    if not expert.active:
        expert.load(weights(wanted))
    if not expert.active:
        expert.load(replace(weights(wanted), trees=drawn_trees(wanted)))
    return expert
