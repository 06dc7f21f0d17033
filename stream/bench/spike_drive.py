"""The history of the spikes' yardstick on the engine's own road: its blocks into a real forecast shard, one hour at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from models.protocol import DemandSpec
from stream.bench.spike_shop import History, agreement, block, roster
from stream.engine.columns import SpikeColumns
from stream.engine.forecast import ForecastShard, ForecastSpec
from stream.engine.resolution import ResolutionSpec
from stream.engine.time import DAY_MS, Zone

EXPERTS = ("seasonal_naive", "ewma", "tsb", "elasticity")
"""Of the live engine's experts the quick ones. Only the next bucket is forecast: spikes are judged by nothing else, and all experts at 24 steps take
a hundred times as long."""
HORIZON = 2


def make_shard(history: History, false_alerts: float = 1.0) -> ForecastShard:
    """An empty shard for a history.

    Args:
        history: the shop's.
        false_alerts: the budget, in 1,000 item-days.
    """
    demand = DemandSpec("1h", HORIZON, (24, 168), (0.1, 0.5, 0.9), (), (1, 2), river_items=0, experts=EXPERTS)
    spec = ForecastSpec(
        agreement=agreement(),
        zone=Zone("UTC"),
        resolutions=(ResolutionSpec(demand, 336),),
        out_of_orderness_ms=0,
        allowed_lateness_ms=0,
        max_lead_ms=0,
        forget_after_ms=10_000 * DAY_MS,
        max_items=history.size.items,
        device="cpu",
        model_version="bench",
        false_alerts=false_alerts,
    )
    shard = ForecastShard(spec)
    for _ in shard.step(roster()):
        pass
    return shard


def drive(history: History, shard: ForecastShard, tell: Callable[[str, int, int], None]) -> Iterator[tuple[int, SpikeColumns]]:
    """Every (hour, spike records) that the shard publishes.

    Args:
        history: the shop's.
        shard: fresh.
        tell: is told of every hour.
    """
    for hour in range(history.size.hours):
        for made in shard.step(block(history, hour)):
            if isinstance(made, SpikeColumns):
                yield hour, made
        tell("nowcart", hour + 1, history.size.hours)
