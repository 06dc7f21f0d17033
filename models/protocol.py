"""What a model is, and what it sees: arrays. No events, no Kafka, no clock, nothing of `stream`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

State = dict[str, NDArray[np.generic]]
"""A model's whole state by name: arrays only, so that it can be stored without pickle."""

MINUTES = {"1m": 1, "5m": 5, "15m": 15, "1h": 60, "1d": 1_440, "1w": 10_080}
"""Bucket sizes and their nominal lengths."""

Ints = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DemandSpec:
    """What a demand forecaster forecasts: one bucket size of one partition."""

    size: str
    """As configured: 1m 5m 15m 1h 1d 1w."""
    horizon: int
    seasons: tuple[int, ...]
    """Season lengths in buckets, as configured, possibly empty."""
    levels: tuple[float, ...]
    """Quantile levels, ascending."""
    totals: tuple[int, ...]
    """Lead times in buckets for quantiles of sums; those above the horizon are left out by whoever makes the spec."""
    probes: tuple[int, ...]
    """One probe step per horizon group, ascending: (1, 6, 24) or (1, 7, 14); a group reaches from the previous probe + 1 to its own."""
    river_items: int = 1000
    experts: tuple[str, ...] = ("seasonal_naive", "ewma", "tsb", "river", "global")


@dataclass(frozen=True, slots=True)
class Panel:
    """The items of one bucket size that a call is about, at one tick.

    `closed` is the number of the bucket that closed last (bucket numbers are consecutive integers; days and weeks too).
    """

    slots: Ints
    """int64[n], ascending, without repeats."""
    closed: int
    units: NDArray[np.generic]
    """integer[depth, capacity]: a ring, bucket b stands in row b % depth; `scale` of these make one unit. Read only."""
    scale: int
    first: NDArray[np.int64]
    """int64[capacity], the bucket number in which the item was first seen."""
    steps: NDArray[np.float32]
    """float32[1 + horizon, features], the calendar of the closed bucket (row 0) and of steps 1 to horizon (rows 1 …):
    sine and cosine of the hour of the day, of the weekday, of the day of the year (zeros where a bucket is too long for it); see CALENDAR."""
    whole: NDArray[np.bool_]
    """bool[capacity], the item's demand has only ever been whole numbers."""
    known: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Covariates that may be known ahead (price, promotion depth, signals, any `--known` column), by name: float32[span, capacity], or [span, 1]
    where one value holds for all items. A ring: bucket b stands in row b % span, for buckets from closed - span + 1 + horizon to closed + horizon;
    NaN where nothing had been announced by now."""
    past: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    """What was counted beside units (views, carts, expected purchases, any `--past` column), by name: [depth of its own, capacity], a ring like
    `units`; only closed buckets hold anything."""
    statics: Mapping[str, Ints] = field(default_factory=dict)
    """What an item is (category, brand, the parts of its key), by name: int64[capacity], a stable hash, 0 where nothing is known."""
    censored: NDArray[np.float32] | None = None
    """float32[depth, capacity], share of a closed bucket without stock, a ring like `units`; None where no stock has ever been told."""
    shut: NDArray[np.bool_] | None = None
    """bool[span], buckets in which the shop sells nothing at all (declared by a signal, or learnt from its weeks), a ring like those of `known`: past
    and to come; None where it never shuts."""

    def observed(self) -> Float64:
        """float64[n], units in the closed bucket."""
        return np.asarray(self.units[self.closed % len(self.units), self.slots], dtype=np.float64) / self.scale

    def history(self, length: int) -> Float32:
        """float32[length, n], units of the last `length` closed buckets, oldest first; zeros before an item was first seen.

        Args:
            length: at most the ring's depth.
        """
        rows = np.arange(self.closed - length + 1, self.closed + 1) % len(self.units)
        return np.asarray(np.asarray(self.units[rows[:, None], self.slots[None, :]], dtype=np.float64) / self.scale, dtype=np.float32)

    def age(self) -> Ints:
        """int64[n], closed buckets since the item was first seen, that one included (at least 1 for an item seen by now)."""
        return np.asarray(self.closed - self.first[self.slots] + 1, dtype=np.int64)


CALENDAR = ("hour_sin", "hour_cos", "weekday_sin", "weekday_cos", "year_sin", "year_cos")
"""The features of `Panel.steps`."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """An expert's forecasts of n items."""

    mean: Float32
    """float32[n, horizon], units a bucket, at least 0."""
    quantiles: Float32
    """float32[n, levels, horizon], ascending over the levels, at least 0; whole numbers for whole items."""


class DemandModel(Protocol):
    """An expert for one bucket size of one partition. Slots are rows of its state; a slot's content is one item's."""

    name: ClassVar[str]

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity); new ones are cold. Never shrinks."""

    def forget(self, slots: Ints) -> None:
        """Makes these slots cold again, as if never used."""

    def predict(self, panel: Panel) -> Distribution:
        """Pure: changes nothing, and depends on no other slot's being in the panel."""

    def learn(self, panel: Panel) -> None:
        """The panel's closed bucket has just closed, for all of its (live) slots. Called once a tick, in bucket order."""

    def correct(self, panel: Panel) -> None:
        """The newest closed bucket's units have changed for these slots after learn(): learn that bucket anew where state allows."""

    def state(self) -> State:
        """Everything that decides later results."""

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """After this the model is the one that gave state(), to the bit."""


@dataclass(frozen=True, slots=True)
class IntentSpec:
    """What an intent scorer is made for."""

    features: int
    """Columns of SessionRuns.x."""
    positions: tuple[int, ...] = (1, 2, 3, 5, 10)
    """Positions in a session at which features are kept, to be learnt from when the session's outcome is known."""


@dataclass(frozen=True, slots=True)
class SessionRuns:
    """Events of live sessions, those of one session adjacent and in order. n rows, no two sessions share a slot."""

    slot: Ints
    """int64[n]."""
    position: Ints
    """int64[n], events of the session so far, this one included; 1 is a session's first (its recurrent state starts from zero)."""
    x: Float32
    """float32[n, features], O(1) counters of the session after this event."""
    item: Ints | None = None
    """int64[n], a stable hash of the event's item, 0 for none."""
    category: Ints | None = None
    """int64[n], of its category."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Probabilities for each row of a SessionRuns."""

    purchase: Float32
    """float32[n], P(a purchase before the session ends), in (0, 1)."""
    cart: Float32
    """float32[n], P(an item is put into the cart before the session ends)."""


class IntentModel(Protocol):
    """A scorer of sessions for one clickstream partition."""

    name: ClassVar[str]

    def resize(self, capacity: int) -> None: ...

    def score(self, runs: SessionRuns) -> Scores:
        """Advances the sessions' recurrent states by these events and keeps features at the probe positions. The result for a
        session does not depend on which others are in the call nor on how its events are cut into calls, to the bit."""

    def settle(self, slots: Ints, purchase_position: Ints, cart_position: Ints) -> None:
        """These sessions have ended: learn from them, in the given order, then forget the slots.

        Args:
            slots: int64[n].
            purchase_position: int64[n], position of the first purchase, 0 for never.
            cart_position: int64[n], position of the first cart, 0 for never.
        """

    def slot_state(self) -> State:
        """What there is of each slot, by name: the arrays themselves, the slot is their last axis. Only slots that were scored or settled
        have changed when it is asked for again."""

    def shared_state(self) -> State:
        """The rest of what decides later results, copied."""

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what slot_state() and shared_state() gave, together."""
