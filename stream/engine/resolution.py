"""One bucket size of a forecast shard: its windows, what was measured beside them, its models and spikes, and the panel that models see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.demand.forecaster import DemandForecaster
from models.demand.network import Weights
from models.device import pick
from models.protocol import DemandSpec, Panel
from stream.engine.columns import MICRO, Bools, Floats, Ints
from stream.engine.covariates import Covariates
from stream.engine.measured import Measure, PriceSeen
from stream.engine.spikes import SpikeDetector, spike_spec
from stream.engine.time import Grid, Zone, calendar
from stream.engine.windows import Windows

UNSEEN = np.iinfo(np.int64).max
"""First bucket of an item that is known only by what was told of it: it is never forecast."""


@dataclass(frozen=True, slots=True)
class ResolutionSpec:
    """One bucket size."""

    demand: DemandSpec
    history: int
    """Closed buckets that the models may see."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How far rows may stray in time."""

    out_of_orderness_ms: int
    allowed_lateness_ms: int
    max_lead_ms: int


class Resolution:
    """Windows, models and spikes of one bucket size.

    Args:
        number: which of the shard's bucket sizes it is.
        spec: what is forecast.
        zone: of days and weeks.
        reach: how far rows may stray.
        device: for models with networks.
        false_alerts: of spikes, that are allowed in 1,000 item-days.
    """

    def __init__(self, number: int, spec: ResolutionSpec, zone: Zone, reach: Reach, device: str, false_alerts: float = 1.0) -> None:
        self.number = number
        self.spec = spec.demand
        self.grid = Grid(spec.demand.size, zone)
        size = self.grid.size_ms
        room = -(-(reach.allowed_lateness_ms + reach.max_lead_ms + reach.out_of_orderness_ms) // size) + 2
        ahead = -(-reach.out_of_orderness_ms // size) + 2
        self.forecaster = DemandForecaster(spec.demand, pick(device))
        self.windows = Windows(self.grid, max(spec.history, room, self.forecaster.lookback), room, ahead)
        self.spikes = SpikeDetector(spike_spec(false_alerts, size, spec.demand.seasons))
        self.first: Ints = np.zeros(0, np.int64)
        self.active: Ints = np.zeros(0, np.int64)
        """Bucket of the item's last activity."""
        self.patience = max(*spec.demand.seasons, spec.demand.horizon) if spec.demand.seasons else spec.demand.horizon
        self.pace = min(spec.demand.horizon, self.patience)
        self.measures: dict[str, Measure] = {}
        self.prices: NDArray[np.float32] = np.zeros((self.windows.past, 0), np.float32)
        """float32[past, capacity], the last price seen by the end of each closed bucket; no columns before the first price."""
        self.expected: NDArray[np.float32] = np.zeros((self.windows.past, 0), np.float32)
        """float32[past, capacity], purchases expected of the sessions live at the end of each closed bucket; no columns before the first."""

    def resize(self, capacity: int) -> None:
        for name in ("first", "active"):
            grown = np.zeros(capacity, np.int64)
            old = getattr(self, name)
            grown[: len(old)] = old
            setattr(self, name, grown)
        if self.prices.shape[1]:
            self.prices = _widened(self.prices, capacity)
        if self.expected.shape[1]:
            self.expected = _widened(self.expected, capacity, 0.0)
        for measure in self.measures.values():
            measure.resize(capacity)
        self.windows.resize(capacity)
        self.forecaster.resize(capacity)
        self.spikes.resize(capacity)

    def forget(self, slots: Ints) -> None:
        if self.prices.shape[1]:
            self.prices[:, slots] = np.nan
        if self.expected.shape[1]:
            self.expected[:, slots] = 0
        for measure in self.measures.values():
            measure.forget(slots)
        self.windows.forget(slots)
        self.forecaster.forget(slots)
        self.spikes.forget(slots)

    def take(self, version: str, weights: Weights | None, follows: str = "") -> None:
        """Other weights; between two ticks.

        Args:
            version: of them; the one in use: nothing changes.
            weights: None: those that the package came with.
            follows: the version that they carry on from.
        """
        before = self.forecaster.version
        if version != before:
            self.forecaster.load(weights, keep=bool(follows) and follows == before)

    def begin(self, bucket: int, covariates: Covariates) -> None:
        """The bucket that is open now: the first, or the first after a time without items that are forecast."""
        closed = self.windows.closed
        self.windows.begin(bucket)
        self.expected[:] = 0  # nobody was in the shop
        for measure in self.measures.values():
            assert closed is not None
            if bucket - 1 - closed > len(measure.closed):
                measure.forget(np.arange(measure.closed.shape[1]))
            else:
                for skipped in range(closed + 1, bucket):
                    measure.close(skipped)
        covariates.advance(self.number, bucket - 1)

    def close(self, covariates: Covariates, seen: PriceSeen, expected: Ints) -> int:
        """Closes the oldest open bucket and returns its number.

        Args:
            covariates: of the shard.
            seen: the last prices by now.
            expected: int64[capacity], purchases expected by now, micro-units; empty where none ever were.
        """
        bucket = self.windows.close()
        for measure in self.measures.values():
            measure.close(bucket)
        if len(seen.price):
            if not self.prices.shape[1]:
                self.prices = _widened(self.prices, len(seen.price))
            self.prices[bucket % len(self.prices)] = seen.price
        if len(expected):
            if not self.expected.shape[1]:
                self.expected = _widened(self.expected, len(expected), 0.0)
            self.expected[bucket % len(self.expected)] = np.maximum(expected, 0) / MICRO
        covariates.advance(self.number, bucket)
        return bucket

    def measure(self, name: str, mean: bool, grain_ms: Ints, slots: Ints, value: Floats, weight: Floats) -> None:
        """Takes measurements.

        Args:
            name: the covariate's.
            mean: how values of one bucket combine; decided by the first of the name.
            grain_ms: int64[n], times in their buckets.
            slots: int64[n].
            value: float64[n].
            weight: float64[n].
        """
        assert self.windows.closed is not None
        if name not in self.measures:
            self.measures[name] = Measure(self.windows.depth, self.windows.ahead, len(self.first), mean)
        self.measures[name].add(self.windows.closed, self.grid.number(grain_ms), slots, value, weight)

    def panel(self, slots: Ints, whole: Bools, covariates: Covariates) -> Panel:
        """What models see of some items.

        Args:
            slots: int64[n].
            whole: bool[capacity].
            covariates: of the shard.
        """
        closed = self.windows.closed
        assert closed is not None
        units = self.windows.channels["units"]
        past: dict[str, NDArray[np.generic]] = {name: self.windows.channels[name].closed for name in ("views", "carts")}
        if self.prices.shape[1]:
            past["price_seen"] = self.prices
        if self.expected.shape[1]:
            past["expected"] = self.expected
        return Panel(
            slots,
            closed,
            units.closed,
            units.scale,
            self.first,
            calendar(self.grid, np.arange(closed, closed + 1 + self.spec.horizon, dtype=np.int64)),
            whole,
            known=covariates.of_panel(self.number),
            past=past | {name: measure.closed for name, measure in self.measures.items()},
            statics={name: static.value for name, static in covariates.statics.items()},
            censored=covariates.censored(self.number),
            shut=covariates.shut(self.number),
        )


def _widened(cells: NDArray[np.float32], capacity: int, empty: float = np.nan) -> NDArray[np.float32]:
    grown = np.full((len(cells), capacity), empty, np.float32)
    grown[:, : cells.shape[1]] = cells
    return grown
