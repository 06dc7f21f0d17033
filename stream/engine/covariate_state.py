"""The state of what a forecast shard knows beside demand, as arrays by name and a small note; see stream.engine.state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from numpy.typing import NDArray

from stream.engine.covariates import Static
from stream.engine.forecast import ForecastShard
from stream.engine.measured import Measure
from stream.engine.resolution import UNSEEN
from stream.engine.rings import Ring, Rings

State = dict[str, NDArray[Any]]
_MEASURE = ("closed", "open", "closed_weight", "open_weight")


class CovariateNote(msgspec.Struct):
    """What is no column."""

    names: list[str] = []
    others: list[str] = []
    categories: list[int] = []
    statics: list[str] = []
    measures: list[tuple[str, bool]] = []
    tidied: int = 0
    known_until: list[int | None] = []
    stock_until: list[int | None] = []


def covariate_note(shard: ForecastShard) -> CovariateNote:
    """The note of a shard's covariates."""
    known = shard.covariates
    return CovariateNote(
        known.names.known.copy(),
        sorted(known.names.others),
        known.categories.copy(),
        list(known.statics),
        [(name, measure.mean) for name, measure in shard.resolutions[0].measures.items()],
        known.table.tidied,
        [rings.newest for rings in known.known],
        [rings.newest for rings in known.stock],
    )


def covariate_arrays(shard: ForecastShard) -> State:
    """The arrays of a shard's covariates, themselves; none where nothing was ever told."""
    known, seen = shard.covariates, shard.seen
    state: State = {}
    if len(known.table):
        state |= {"facts.key": known.table.key, "facts.value": known.table.value}
        state |= {f"facts.{name}": column for name, column in known.table.columns.items()}
    for number, static in enumerate(known.statics.values()):
        state[f"statics.{number}.value"] = static.value
        state |= {f"statics.{number}.{name}": stamps for name, stamps in static.stamps.items()}
    if len(seen.price):
        state["seen.price"] = seen.price
        state |= {f"seen.{name}": stamps for name, stamps in seen.stamps.items()}
        state |= {f"seen.ahead.{name}": values for name, values in seen.ahead.items()}
    if len(shard.expected):
        state["expected"] = shard.expected
    for resolution in shard.resolutions:
        size = resolution.spec.size
        for kind, rings in (("known", known.known[resolution.number]), ("stock", known.stock[resolution.number])):
            state |= {f"{size}.{kind}.{name}.items": ring.cells for name, ring in rings.items.items()}
            state |= {f"{size}.{kind}.{name}.scope{scope}": ring.cells for (name, scope), ring in rings.scoped.items()}
        if resolution.prices.shape[1]:
            state[f"{size}.prices"] = resolution.prices
        if resolution.expected.shape[1]:
            state[f"{size}.expected"] = resolution.expected
        for number, measure in enumerate(resolution.measures.values()):
            state |= {f"{size}.measure.{number}.{part}": getattr(measure, part) for part in _MEASURE}
    return state


def restore_covariates(shard: ForecastShard, note: CovariateNote, state: Mapping[str, NDArray[Any]]) -> None:
    """Makes a fresh shard's covariates those that gave note and state; its items are restored before.

    Args:
        shard: of the same configuration.
        note: what covariate_note gave; an empty one where an earlier version wrote the state.
        state: with what covariate_arrays gave; the arrays become the shard's own.
    """
    known, seen = shard.covariates, shard.seen
    known.capacity = shard.capacity
    known.names.known, known.names.place = note.names, {name: i for i, name in enumerate(note.names)}
    known.names.others, known.categories = set(note.others), note.categories
    known.table.tidied = note.tidied
    if "facts.key" in state:
        known.table.key, known.table.value = state["facts.key"], state["facts.value"]
        known.table.columns = {name: state[f"facts.{name}"] for name in known.table.columns}
    for number, name in enumerate(note.statics):
        static = known.statics[name] = Static(0)
        static.value = state[f"statics.{number}.value"]
        static.stamps = {stamp: state[f"statics.{number}.{stamp}"] for stamp in static.stamps}
    if "seen.price" in state:
        seen.price = state["seen.price"]
        seen.stamps = {name: state[f"seen.{name}"] for name in seen.stamps}
        seen.ahead = {name: state[f"seen.ahead.{name}"] for name in seen.ahead}
    if "expected" in state:
        shard.expected = state["expected"]
    for resolution in shard.resolutions:
        size, number, closed = resolution.spec.size, resolution.number, resolution.windows.closed
        for kind, rings, until in (("known", known.known[number], note.known_until), ("stock", known.stock[number], note.stock_until)):
            _restore_rings(rings, f"{size}.{kind}.", shard.capacity, state)
            # A state of before there were facts: nothing is known of any bucket so far.
            rings.newest = until[number] if until else (None if closed is None else closed + rings.lead)
        if f"{size}.prices" in state:
            resolution.prices = state[f"{size}.prices"]
        if f"{size}.expected" in state:
            resolution.expected = state[f"{size}.expected"]
        for i, (name, mean) in enumerate(note.measures):
            measure = resolution.measures[name] = Measure(resolution.windows.depth, resolution.windows.ahead, 0, mean)
            for part in _MEASURE:
                setattr(measure, part, state[f"{size}.measure.{i}.{part}"])
    shard.forecast_items = int((shard.live & (shard.resolutions[0].first != UNSEEN)).sum())


def _restore_rings(rings: Rings, prefix: str, capacity: int, state: Mapping[str, NDArray[Any]]) -> None:
    rings.resize(capacity)
    for path in sorted(path for path in state if path.startswith(prefix)):
        name, _, place = path.removeprefix(prefix).partition(".")
        ring = Ring(0, 0, rings.empty)
        ring.cells = state[path]
        if place == "items":
            rings.items[int(name)] = ring
        else:
            rings.scoped[int(name), int(place.removeprefix("scope"))] = ring
