"""Shards on their way through a history: what there is to know, examples, and what forecasts were worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from models.demand.encoder import Layout, layout_of
from models.demand.window import Window
from models.protocol import DemandSpec
from models.train.fit import Examples
from models.train.judge import Judge, Sums
from models.train.recorder import Recorder
from stream.engine.activity import Block
from stream.engine.forecast import ForecastShard, ForecastSpec, Swap
from stream.engine.state import State, forecast_state, restore_forecast
from stream.train.history import History

Tell = Callable[[str, float], None]
"""Told (what is being done, share of it that is done)."""

_ROOM_BYTES = 600e6
"""Of examples, for all partitions of a bucket size together."""


@dataclass(slots=True)
class Known:
    """What a bucket size's items are known by, and which buckets there are."""

    known: dict[str, bool] = field(default_factory=dict)
    """Covariates by name, and whether they are prices."""
    past: set[str] = field(default_factory=set)
    statics: set[str] = field(default_factory=set)
    first: int | None = None
    last: dict[int, int] = field(default_factory=dict)
    """Part -> the last closed bucket."""
    items: int = 0
    _largest: dict[str, float] = field(default_factory=dict)
    _fractional: set[str] = field(default_factory=set)
    _positive: dict[str, bool] = field(default_factory=dict)

    def see(self, part: int, window: Window) -> None:
        """A bucket has closed."""
        panel = window.panel
        self.past |= panel.past.keys()
        self.statics |= panel.statics.keys()
        self.first = window.closed if self.first is None else min(self.first, window.closed)
        self.last[part] = window.closed
        self.items = max(self.items, len(window))
        for name, ring in panel.known.items():
            values = ring[window.closed % len(ring)]
            values = values[np.isfinite(values)]
            if len(values):
                self._positive[name] = self._positive.get(name, True) and float(values.min()) > 0
                self._largest[name] = max(self._largest.get(name, 0.0), float(values.max()))
                if (values != np.floor(values)).any():
                    self._fractional.add(name)
            # Always above zero, and not one of a few small whole numbers.
            self.known[name] = self._positive.get(name, False) and (name in self._fractional or self._largest.get(name, 0.0) > 20)

    def layout(self, spec: DemandSpec) -> Layout:
        """The network's columns."""
        return layout_of(spec, self.known, tuple(self.past), tuple(self.statics))


def deepened(spec: ForecastSpec, experts: tuple[str, ...] | None = None) -> ForecastSpec:
    """The spec with rings that a network's encoder can read, and other experts if told so."""
    parts = []
    for part in spec.resolutions:
        demand = part.demand if experts is None else replace(part.demand, experts=experts)
        parts.append(replace(part, demand=demand, history=max(part.history, layout_of(demand).lookback)))
    return replace(spec, resolutions=tuple(parts))


def survey(history: History, tell: Tell) -> dict[str, Known]:
    """Goes through the history with next to no models: which covariates there are decides the network's columns, so it comes first.

    Args:
        history: all of it is read.
        tell: progress.

    Returns:
        By bucket size.
    """
    spec = deepened(history.spec, ("seasonal_naive",))
    found = {part.demand.size: Known() for part in spec.resolutions}
    for part in range(len(history.ends)):
        shard = ForecastShard(spec)
        for resolution in shard.resolutions:
            resolution.forecaster.watch = _seeing(found[resolution.spec.size], part)
        drain(shard, history.blocks(part), lambda at, part=part: tell("looking", share(history, part, at)))  # type: ignore[misc]
    return found


def _seeing(known: Known, part: int) -> Callable[[Window], None]:
    return lambda window: known.see(part, window)


def share(history: History, part: int, at: int) -> float:
    """How much of a history is done."""
    return (sum(history.ends[:part]) + at) / max(1, sum(history.ends))


def drain(shard: ForecastShard, blocks: Iterable[tuple[int, Block]], tell: Callable[[int], None]) -> None:
    """Steps a shard through blocks; what it publishes is nobody's."""
    for at, block in blocks:
        for _ in shard.step(block):
            pass
        tell(at)


@dataclass(slots=True)
class Cut:
    """Where a bucket size's history is cut."""

    first: int
    early: int
    """Learnt from up to here; from here to `held_out` decides when to stop."""
    held_out: int
    """The last bucket that the judged network may know."""
    end: int
    """The last bucket that all parts have closed."""


def cut(known: Known, horizon: int, held_out: float, least: int) -> Cut | None:
    """Cuts off the newest part, to judge by, and before it another, to stop by; None where there is too little.

    Args:
        known: of the bucket size.
        horizon: steps.
        held_out: share.
        least: buckets before which there is nothing to train on.
    """
    if known.first is None or not known.last:
        return None
    end = min(known.last.values())
    span = end - known.first + 1
    judged = max(2 * horizon, int(np.ceil(held_out * span)))
    if span - judged < least:
        return None
    kept = span - judged
    newest = max(1, int(np.ceil(0.1 * kept)))
    return Cut(known.first, end - judged - newest, end - judged, end)


@dataclass(slots=True)
class Course:
    """The untrained engine's way through all parts: its examples, its states where the held-out parts begin, and its scores on them."""

    history: History
    layouts: Mapping[str, Layout]
    cuts: Mapping[str, Cut]
    recorders: dict[str, list[Recorder]] = field(default_factory=dict)
    states: dict[tuple[str, int], tuple[State, int, int]] = field(default_factory=dict)
    """(size, part) -> the state where the held-out part begins, where the next block stands, and the last closed bucket."""
    judges: dict[str, list[Judge]] = field(default_factory=dict)

    def run(self, tell: Tell) -> None:
        """Goes through all of it."""
        spec = deepened(self.history.spec)
        parts = len(self.history.ends)
        for part in range(parts):
            shard = ForecastShard(spec)
            for resolution in shard.resolutions:
                size = resolution.spec.size
                if size in self.cuts:
                    recorder = Recorder(self.layouts[size], most(self.layouts[size]) // parts, skip=min(12, resolution.spec.horizon))
                    self.recorders.setdefault(size, []).append(recorder)
                    resolution.forecaster.watch = recorder
                    self.judges.setdefault(size, []).append(Judge(resolution.forecaster, since=self.cuts[size].held_out).attach())
            for at, block in self.history.blocks(part):
                for _ in shard.step(block):
                    pass
                self._keep(shard, part, at)
                tell("the untrained engine", share(self.history, part, at))

    def _keep(self, shard: ForecastShard, part: int, at: int) -> None:
        for resolution in shard.resolutions:
            size, closed = resolution.spec.size, resolution.windows.closed
            if size in self.cuts and (size, part) not in self.states and closed is not None and closed >= self.cuts[size].held_out:
                self.states[size, part] = (forecast_state(shard), at, closed)

    def examples(self, size: str, until: int, since: int | None = None) -> Examples:
        """Of all parts."""
        return joined([recorder.examples(until, since) for recorder in self.recorders[size]])

    def untrained(self, size: str) -> dict[int, dict[int, Sums]]:
        """The untrained engine's scores from where a trained one is judged too."""
        return added([judge.sums for judge in self.judges[size]], self._from(size))

    def trained(self, size: str, swap: Swap, tell: Tell) -> dict[int, dict[int, Sums]]:
        """The held-out part once more, with a network."""
        judges = []
        for (mine, part), (state, at, _) in self.states.items():
            if mine != size:
                continue
            shard = ForecastShard(deepened(self.history.spec))
            restore_forecast(shard, {name: array.copy() for name, array in state.items()})
            resolution = next(r for r in shard.resolutions if r.spec.size == size)
            judges.append(Judge(resolution.forecaster, since=self._from(size)).attach())
            shard.tell(swap)
            drain(shard, self.history.blocks(part, at), lambda done, part=part: tell("judging", share(self.history, part, done)))  # type: ignore[misc]
        return added([judge.sums for judge in judges], self._from(size))

    def _from(self, size: str) -> int:
        """The first issue that a trained network can have made in every part: a block may have closed several buckets at once."""
        return max(closed for (mine, _), (_, _, closed) in self.states.items() if mine == size) + 1


def most(layout: Layout) -> int:
    """Rows that are kept."""
    return int(np.clip(_ROOM_BYTES / (4 * (layout.width + 3 * layout.horizon)), 20_000, 400_000))


def joined(parts: list[Examples]) -> Examples:
    """Examples of several parts."""
    return Examples(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "scale", "units", "says", "issue")))


def added(all_sums: Iterable[Mapping[int, Mapping[int, Sums]]], since: int) -> dict[int, dict[int, Sums]]:
    """Scores of several parts by bucket and probe step, of issues from `since` on."""
    total: dict[int, dict[int, Sums]] = {}
    for sums in all_sums:
        for bucket, by_probe in sums.items():
            for probe, each in by_probe.items():
                if bucket - probe >= since:
                    mine = total.setdefault(bucket, {})
                    mine[probe] = mine.get(probe, Sums()) + each
    return total
