"""Demand spikes and drops that deserve a pager: sequential tests of order lines against what they should have been.

For each item two statistics (stream.engine.changes) say how unlikely everything since the most suspicious start is, by a negative binomial around
the baseline (stream.engine.baseline): the newest bucket alone, a few hours, or two days, whichever is least likely. Where the threshold lies
is decided by a budget of false alerts. How often items cross a level of unlikeliness by chance is counted, at levels that are crossed often, and
the tail beyond is drawn from there, so that the budget holds for forecasts as they are and not as they should be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.tails import lower, upper
from stream.engine.baseline import Baseline
from stream.engine.changes import Changes
from stream.engine.columns import Bools, Floats, Ints
from stream.engine.crossings import Crossings

UP, DOWN = 1, -1
QUIET, WARNED, CRITICAL = 0, 1, 2
_CRITICAL = 1e-3
"""So many times less likely than a warning."""
_DISCOVERY = 0.05
"""Share of a tick's alerts that may be false where many items alert at once."""
_LOOK = 1.5
"""Deviance from which on a tail is worth its computing."""
_SUSPICIOUS = 2.5
"""-log10 of a likelihood from which on a bucket teaches nothing, or a slow rise would be learnt before it is found."""
_ORDINARY = 4.0
"""Logarithm of the odds for 'over' against 'goes on' at which an alert is resolved."""
_REST = 2
"""Buckets after an alert in which only a critical one opens anew: orders trickle in behind a spike."""
_NEVER = -(1 << 30)

_ARRAYS = (
    ("level", np.int8, QUIET),
    ("direction", np.int8, 0),
    ("since", np.int64, 0),
    ("opened", np.int64, _NEVER),
    ("closed", np.int64, _NEVER),
    ("factor", np.float32, 1),
    ("ended", np.float32, 0),
    ("before", np.float32, 0),
)


@dataclass(frozen=True, slots=True)
class SpikeSpec:
    """What shapes the spikes of one bucket size."""

    chance: float
    """False alerts an item and bucket that the budget allows."""
    memory: int
    """Buckets that a level is learnt over."""
    window: int
    """Buckets beyond which no change is looked back on; an alert that lasts as long is the new level."""
    young: int
    """Buckets after its first in which an item is not judged."""


def spike_spec(false_alerts: float, size_ms: int, seasons: tuple[int, ...]) -> SpikeSpec:
    """What a bucket size comes to.

    Args:
        false_alerts: that are allowed in 1,000 item-days.
        size_ms: of a bucket.
        seasons: in buckets, ascending.
    """
    day = 86_400_000
    two_days = -(-2 * day // size_ms)
    memory = min(max(max(seasons, default=0), 28), 2 * 672)
    return SpikeSpec(false_alerts / 1000 * size_ms / day, memory, min(max(two_days, 7), 192), min(max(day // size_ms, 7), 96))


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is known of the live items when a bucket has closed. n rows."""

    slots: Ints
    number: int
    lines: Floats
    """float64[n], order lines."""
    forecast: Floats
    """float64[n], units by the forecast of one bucket ago; NaN where there was none."""
    age: Ints
    """int64[n], closed buckets since the item was first seen."""
    group: Ints
    """int64[n], a number of the item's category, from 0."""
    stocked: Floats
    """float64[n], share of the bucket with stock."""
    price: Floats
    """float64[n], logarithm of the price; NaN where nobody has told one."""
    promoted: Bools
    """bool[n], a promotion was announced for some of the bucket."""
    event: Bools
    """bool[n], something rare that was announced is on."""
    shut: bool
    """The shop sold nothing at all."""


@dataclass(frozen=True, slots=True)
class Changed:
    """Alerts that open, grow or are over. m rows."""

    places: Ints
    """int64[m], rows of the bucket."""
    p_value: Floats
    expected_lines: Floats
    expected_units: Floats
    factor: Floats
    """float64[m], lines sold over lines expected since it began."""
    level: Ints
    direction: Ints
    over: Bools
    since: Ints
    """int64[m], bucket in which it began, most likely."""
    together: Ints
    """int64[m], items of the same category in an alert of the same direction, this one included."""


class SpikeDetector:
    """Which items are in a spike or a drop, for one bucket size.

    Args:
        spec: what shapes it.
    """

    def __init__(self, spec: SpikeSpec) -> None:
        self.spec = spec
        self.begun = False
        """Whether it has judged anything: before, its state is that of a detector that knows nothing."""
        self.level: NDArray[np.int8] = np.zeros(0, np.int8)
        self.direction: NDArray[np.int8] = np.zeros(0, np.int8)
        self.since: Ints = np.zeros(0, np.int64)
        self.opened: Ints = np.zeros(0, np.int64)
        self.closed: Ints = np.zeros(0, np.int64)
        self.factor: NDArray[np.float32] = np.zeros(0, np.float32)
        self.ended: NDArray[np.float32] = np.zeros(0, np.float32)
        self.before: NDArray[np.float32] = np.zeros((2, 0), np.float32)
        """float32[2, capacity], how unlikely the bucket before had left it, up and down: -log10."""
        self.baseline = Baseline(spec.memory)
        self.changes = (Changes(True, spec.window), Changes(False, spec.window))
        self.crossings = (Crossings(spec.memory), Crossings(spec.memory))

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity)."""
        for name, kind, fill in _ARRAYS:
            old = getattr(self, name)
            grown = np.full((*old.shape[:-1], capacity), fill, kind)
            grown[..., : old.shape[-1]] = old
            setattr(self, name, grown)
        self.baseline.resize(capacity)
        for changes in self.changes:
            changes.resize(capacity)

    def forget(self, slots: Ints) -> None:
        """Makes these slots quiet, as if never used."""
        for name, _, fill in _ARRAYS:
            getattr(self, name)[..., slots] = fill
        self.baseline.forget(slots)
        for changes in self.changes:
            changes.forget(slots)

    def judge(self, bucket: Bucket) -> Changed:
        """What changes with this bucket.

        Args:
            bucket: of all live items.
        """
        self.begun = True
        slots, lines = bucket.slots, bucket.lines
        known = bucket.promoted | bucket.event
        quiet = self.level[slots] == QUIET
        ordinary = quiet & ~known & (bucket.stocked >= 1)
        expected = self.baseline.expect(slots, lines, bucket.forecast, bucket.group, ordinary)
        most, least = self._bounds(bucket, expected.mean)
        judged = (bucket.age > self.spec.young) & (not bucket.shut)
        score = np.zeros((2, len(slots)))
        began = np.zeros((2, len(slots)), np.int64)
        ratio = np.ones((2, len(slots)))
        at = np.flatnonzero(judged)
        for side, (changes, mean, tail) in enumerate(zip(self.changes, (most, least), (upper, lower), strict=True)):
            changes.forget(slots[~judged])
            # Falls of what hardly sells cannot be seen within the window: nothing is kept of them.
            seen = at if side == 0 else at[mean[at] * self.spec.window > 4]
            if side:
                changes.forget(slots[at[mean[at] * self.spec.window <= 4]])
            changes.add(slots[seen], lines[seen], mean[seen], bucket.number)
            places, sold, meant, start, far = changes.strongest(slots[seen], expected.dispersion[seen])
            places = seen[places]
            some = far > _LOOK
            p = tail(np.rint(sold[some]), meant[some], expected.dispersion[places[some]])
            score[side, places[some]] = -np.log10(np.maximum(p, 1e-300))
            began[side, places] = start
            ratio[side, places] = np.maximum(sold, 0.3) / np.maximum(meant, 1e-6)
        changed = self._change(bucket, expected.mean, score, began, ratio, quiet & judged)
        self.before[:, slots] = np.where(judged, score, 0)
        calm = np.maximum(score[0], score[1]) < _SUSPICIOUS
        taught = (self.level[slots] == QUIET) & ~known & calm & (not bucket.shut)
        self.baseline.learn(slots, lines, bucket.forecast, expected, bucket.stocked, taught, bucket.price)
        places, p_value, over = changed
        return Changed(
            places,
            p_value,
            expected.mean[places],
            expected.mean[places] * expected.units[places],
            self.factor[slots[places]].astype(np.float64),
            self.level[slots[places]].astype(np.int64),
            self.direction[slots[places]].astype(np.int64),
            over,
            self.since[slots[places]],
            self._settle(bucket, places, over),
        )

    def _bounds(self, bucket: Bucket, mean: Floats) -> tuple[Floats, Floats]:
        """The most and the least that what is known ahead explains: (float64[n], float64[n])."""
        held = self.baseline.price[bucket.slots].astype(np.float64)
        moved = np.nan_to_num(bucket.price - held)
        cheaper, dearer = np.exp(3 * np.clip(-moved, 0, 1)), np.exp(-3 * np.clip(moved, 0, 1))
        most = mean * cheaper * np.where(bucket.promoted, np.where(np.isfinite(bucket.price), 2.5, 8.0), 1.0)
        least = mean * dearer * np.minimum(bucket.stocked, 1.0)
        return most * np.where(bucket.event, 3.0, 1.0), np.maximum(least * np.where(bucket.event, 1 / 3, 1.0), 1e-6)

    def _change(
        self, bucket: Bucket, mean: Floats, score: NDArray[np.float64], began: Ints, ratio: NDArray[np.float64], candidates: Bools
    ) -> tuple[Ints, Floats, Bools]:
        """Opens, raises and ends alerts: places, odds, which are over."""
        slots = bucket.slots
        count = int(candidates.sum())
        fresh = np.flatnonzero(candidates)
        rest = bucket.number - self.closed[slots] <= _REST
        limits = np.empty((2, 2))
        opens = np.zeros(len(slots), np.int64)
        for side, crossings in enumerate(self.crossings):
            chance = self.spec.chance / 2
            limits[side] = crossings.level(chance), crossings.level(chance * _CRITICAL)
            mine = score[side, fresh]
            limit = self._step_up(mine, limits[side, 0], crossings, chance, count)
            opens[fresh[mine >= limit]] = UP if side == 0 else DOWN
            crossings.learn(self.before[side, slots[fresh]], np.minimum(mine, 12.0), count)
        opens[rest & (np.where(opens == UP, score[0], score[1]) < np.where(opens == UP, limits[0, 1], limits[1, 1]))] = 0
        new = np.flatnonzero(opens)
        side = (opens[new] == DOWN).astype(np.int64)
        at = slots[new]
        self.direction[at], self.since[at], self.opened[at] = opens[new], began[side, new], bucket.number
        self.factor[at], self.ended[at] = ratio[side, new], 0
        self.level[at] = np.where(score[side, new] >= limits[side, 1], CRITICAL, WARNED)
        # Those that were open: more of it, or the end of it.
        old = np.flatnonzero((self.level[slots] > QUIET) & (opens == 0))
        at = slots[old]
        side = (self.direction[at] == DOWN).astype(np.int64)
        grown = (score[side, old] >= limits[side, 1]) & (self.level[at] == WARNED)
        self.level[at[grown]] = CRITICAL
        strong = np.where(side == 0, np.clip(self.factor[at], 1.5, 50.0), np.clip(self.factor[at], 0.02, 0.7)).astype(np.float64)
        usual = mean[old] * np.where(side == 1, np.maximum(bucket.stocked[old], 1e-6), 1.0)
        odds = (strong - 1) * usual - bucket.lines[old] * np.log(strong)
        ended = np.maximum(self.ended[at] + np.clip(odds, -10, 10) / (1 + 0.1 * np.abs(odds)), 0)
        self.ended[at] = ended
        still = score[side, old] > 0
        self.factor[at[still]] = ratio[side[still], old[still]]
        over = (ended >= _ORDINARY) | (bucket.number - self.opened[at] >= self.spec.window)
        if bucket.shut:
            over[:] = False
        places = np.concatenate([new, old[grown | over]])
        is_over = np.concatenate([np.zeros(len(new), np.bool_), over[grown | over]])
        order = np.argsort(places, kind="stable")
        places, is_over = places[order], is_over[order]
        side = (self.direction[slots[places]] == DOWN).astype(np.int64)
        p_value = 10.0 ** -np.minimum(score[side, places], 300)
        return places, p_value, is_over

    def _step_up(self, score: Floats, limit: float, crossings: Crossings, chance: float, count: int) -> float:
        """The level from which on items alert: the budget's, or lower where so many cross it together that few of them can be false.

        The step-up of Benjamini and Hochberg, with the budget as its first step: k alerts may be as unlikely as k times the share allows.
        """
        ranked = np.sort(score[score > 0])[::-1]
        if len(ranked) < 2 or not count:
            return limit
        odds = crossings.chance(ranked)
        allowed = np.maximum(chance, min(_DISCOVERY, chance * count) * np.arange(1, len(ranked) + 1) / count)
        good = np.flatnonzero(odds <= allowed)
        return min(limit, float(ranked[good[-1]])) if len(good) else limit

    def _settle(self, bucket: Bucket, places: Ints, over: Bools) -> Ints:
        """How many of each alert's category go the same way; then makes quiet what is over."""
        slots = bucket.slots
        both = bucket.group * 2 + (self.direction[slots] == DOWN)
        counted = np.bincount(both[self.level[slots] > QUIET], minlength=int(both.max(initial=0)) + 1)
        together = counted[both[places]]
        at = slots[places[over]]
        long = bucket.number - self.opened[at] >= self.spec.window
        self.baseline.adopt(at[long], self.factor[at[long]].astype(np.float64), np.ones(int(long.sum())))
        self.level[at], self.closed[at] = QUIET, bucket.number
        for changes in self.changes:
            changes.forget(at)
        self.before[:, at] = 0
        return np.asarray(together, dtype=np.int64)

    # -- state ---------------------------------------------------------------------------------------------------------

    def state(self, copy: bool = False) -> dict[str, NDArray[np.generic]]:
        """Everything that decides later results, by name; nothing before the first bucket."""
        if not self.begun:
            return {}
        out = {name: getattr(self, name).copy() if copy else getattr(self, name) for name, _, _ in _ARRAYS if name != "level"}
        for prefix, part in self._parts():
            out |= {f"{prefix}.{name}": array for name, array in part.state(copy).items()}
        return out | {"crossings": np.stack([c.state() for c in self.crossings])}

    def _parts(self) -> tuple[tuple[str, Baseline | Changes], ...]:
        return ("baseline", self.baseline), ("up", self.changes[0]), ("down", self.changes[1])

    def restore(self, level: NDArray[np.generic], state: dict[str, NDArray[np.generic]]) -> None:
        """What state() gave. A state of an earlier version holds levels only: what was open then is taken as quiet.

        Args:
            level: int8[capacity].
            state: by name.
        """
        self.resize(len(level))
        self.begun = bool(state)
        self.level = np.array(level, dtype=np.int8)
        if not state:
            return
        for name, kind, _ in _ARRAYS:
            if name != "level":
                setattr(self, name, np.array(state[name], dtype=kind))
        for prefix, part in self._parts():
            part.restore({name[len(prefix) + 1 :]: array for name, array in state.items() if name.startswith(f"{prefix}.")})
        for crossings, held in zip(self.crossings, state["crossings"], strict=True):
            crossings.restore(held)
