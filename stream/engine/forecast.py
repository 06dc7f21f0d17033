"""The forecast engine: one shard per activity partition. Blocks in; demand and spike columns out.

Pure: no Kafka, no clock, no logging. Epochs, not arrival, order its world: a segment waits until every source that is not
idle has left its epoch behind; then the epoch is applied, corrections are published, what was told by its end becomes known, and the
buckets that end with it tick. Trained weights that the shell has brought are taken between two epochs. Slots are given to new items in
item-id order within an epoch, so "in slot order" is the same order in every replay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from models.demand.forecaster import VERSION as BUILTIN
from models.demand.network import Weights
from models.protocol import Panel
from stream.engine.activity import SUMS, Agreement, Block, Segment, Source, column, merge, read_expected, stamp_source
from stream.engine.announced import HOLIDAY
from stream.engine.columns import Bools, DemandColumns, ForecastColumns, Ints, SpikeColumns
from stream.engine.covariates import Covariates
from stream.engine.facts import fact_rows, join_rows, read_facts, read_measured
from stream.engine.known import seen_bucket
from stream.engine.measured import STAMPS, PriceSeen
from stream.engine.resolution import UNSEEN, Reach, Resolution, ResolutionSpec
from stream.engine.spikes import CRITICAL, UP
from stream.engine.time import Grid, Zone
from stream.engine.windows import CHANNELS

__all__ = ["BUILTIN", "AgreementError", "Columns", "Counters", "ForecastShard", "ForecastSpec", "ResolutionSpec", "SourceState", "Swap"]

_CHUNK = 4096
"""Items forecast at a time: bounds the memory of a tick, changes no result."""
_MERGE_SEGMENTS = 64
"""So many segments of one epoch are merged into one while they wait: bounds what an hour of a busy shop holds in memory."""

_FINE = 8192
"""Slots up to which room is doubled."""

Columns = DemandColumns | SpikeColumns


@dataclass(frozen=True, slots=True)
class ForecastSpec:
    """What shapes a forecast shard's results."""

    agreement: Agreement
    zone: Zone
    resolutions: tuple[ResolutionSpec, ...]
    out_of_orderness_ms: int
    allowed_lateness_ms: int
    max_lead_ms: int
    forget_after_ms: int
    max_items: int
    """Items that the partition may keep after an epoch."""
    device: str
    model_version: str
    false_alerts: float = 1.0
    """Spikes that were none, in 1,000 item-days: the budget that decides where an alert begins."""
    holidays: tuple[int, ...] = ()
    """Local days since 1970-01-01, known from the beginning; as the covariate HOLIDAY."""


@dataclass(slots=True)
class SourceState:
    """What is known of a source partition."""

    reached: int | None = None
    idle: bool = False
    ended: bool = False
    max_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Swap:
    """Weights that a bucket size's networks take at the next epoch that begins at or after a time."""

    size: str
    version: str
    """models.demand.forecaster.VERSION: those networks fall silent."""
    from_ms: int
    """Event time; 0: at the next epoch."""
    weights: Weights | None
    follows: str = ""
    """The version that these weights carry on from: what was learnt of that one holds of them."""


@dataclass(slots=True)
class Counters:
    """What the shell may publish as metrics; taken and zeroed by it."""

    evicted: int = 0
    beyond_ring: int = 0
    ignored_facts: int = 0
    """Facts and measurements under more names than a partition may know."""


def room_for(items: int) -> int:
    """Slots for so many items: a power of two, from _FINE on in steps of an eighth of one, since each slot is kilobytes of every snapshot.

    Args:
        items: at least 1.
    """
    above = 1 << (items - 1).bit_length()
    step = above if above <= _FINE else above // 16
    return -(-items // step) * step


class AgreementError(Exception):
    """Ingest and forecast were configured differently."""


@dataclass(slots=True)
class _Epoch:
    """The rows of an epoch, from all segments."""

    slots: Ints
    grain_ms: Ints
    columns: dict[str, Ints] = field(default_factory=dict)
    prices: dict[str, Ints] = field(default_factory=dict)


class ForecastShard:
    """The state of one activity partition.

    Args:
        spec: what shapes the results.
    """

    def __init__(self, spec: ForecastSpec) -> None:
        self.spec = spec
        self.epochs = Grid(spec.agreement.smallest, spec.zone)
        self.sources: dict[Source, SourceState] = {}
        self.roster_known = False
        self.held: dict[int, list[Segment]] = {}
        self.next_epoch: int | None = None
        self.index: dict[str, int] = {}
        self.names: list[str] = []
        self.free: list[int] = []
        self.capacity = 0
        self.live: Bools = np.zeros(0, np.bool_)
        self.whole: Bools = np.zeros(0, np.bool_)
        self.seen_ms: Ints = np.zeros(0, np.int64)
        reach = Reach(spec.out_of_orderness_ms, spec.allowed_lateness_ms, spec.max_lead_ms)
        self.resolutions = [Resolution(i, r, spec.zone, reach, spec.device, spec.false_alerts) for i, r in enumerate(spec.resolutions)]
        self.covariates = Covariates([(r.grid, r.windows.depth, r.spec.horizon) for r in self.resolutions])
        self.seen = PriceSeen()
        self.swaps: list[Swap] = []
        """Told, not taken yet; in the order in which they were told."""
        self.expected: Ints = np.zeros(0, np.int64)
        """int64[capacity], micro-units: purchases that the sessions live now are expected to make; empty until some are told."""
        self.forecast_items = 0
        """Items with activity; the others are known only by what was told of them."""
        self.counters = Counters()
        self.changes = 0
        """Grows with every epoch applied: between two of them the item arrays stand still."""
        self.resize(256)
        if spec.holidays:
            self._know_holidays(np.array(spec.holidays, dtype=np.int64))

    def _know_holidays(self, days: Ints) -> None:
        """Facts about all items, told before anything else: whatever the shop itself says of holidays comes after them."""
        grid = Grid("1d", self.spec.zone)
        starts = grid.start(days)
        rows = fact_rows(name=HOLIDAY, value=np.ones(len(days)), announced_ms=0, starts_ms=starts, ends_ms=grid.start(days + 1))
        self.covariates.know(rows)

    # -- what the shell asks -----------------------------------------------------------------------------------------

    @property
    def items_live(self) -> int:
        """Items with state."""
        return len(self.index)

    @property
    def watermark_ms(self) -> int | None:
        """Everything before it is in the windows; None before the first epoch."""
        return None if self.next_epoch is None else self.epochs.start_of(self.next_epoch)

    def versions(self) -> dict[str, str]:
        """Bucket size -> version of the weights in use."""
        return {resolution.spec.size: resolution.forecaster.version for resolution in self.resolutions}

    def tell(self, swap: Swap) -> None:
        """Other weights, to be taken between two epochs; what is told of a size before it has come to that, and later in time, is forgotten.

        Args:
            swap: of a bucket size that there is.
        """
        assert any(resolution.spec.size == swap.size for resolution in self.resolutions), swap.size
        self.swaps = [other for other in self.swaps if other.size != swap.size or other.from_ms < swap.from_ms] + [swap]

    @property
    def ended(self) -> bool:
        """All sources have said that they ended."""
        return self.roster_known and all(s.ended for s in self.sources.values())

    # -- blocks ------------------------------------------------------------------------------------------------------

    def step(self, block: Block) -> Iterator[Columns]:
        """Takes the next block of the partition; the iterator must be exhausted before the next call.

        Args:
            block: of any kind.

        Raises:
            AgreementError: the roster was written under another configuration.
        """
        if block.kind == "roster":
            self._meet(block)
            return
        assert block.source is not None
        if block.kind == "facts":  # nobody waits for its source
            self._hold(block)
            yield from self._advance()
            return
        source = self.sources.setdefault(block.source, SourceState())
        if block.kind == "idle":
            source.idle = True
        elif block.kind == "end":
            source.ended, source.max_ms = True, block.max_ms
        else:
            source.idle = source.ended = False
            self._hold(block)
            if block.reached is not None:
                source.reached = max(block.reached, source.reached) if source.reached is not None else block.reached
        yield from self._advance()

    def _hold(self, block: Block) -> None:
        """Keeps segments until their epoch."""
        assert block.source is not None
        for segment in block.segments:
            # Who comes back from idleness, or is waited for by nobody, may bring epochs that the others have left behind: theirs is now the next.
            epoch = segment.epoch if self.next_epoch is None else max(segment.epoch, self.next_epoch)
            stamp_source(segment, block.source)
            waiting = self.held.setdefault(epoch, [])
            waiting.append(segment)
            if len(waiting) >= _MERGE_SEGMENTS:
                self.held[epoch] = [merge(waiting)]

    def _meet(self, block: Block) -> None:
        if block.agreement != self.spec.agreement:
            raise AgreementError(
                f"ingest and forecast must share grain, smallest bucket and zone; ingest has {block.agreement}, forecast has "
                f"{self.spec.agreement}: give both stages the same configuration, or start on a new output prefix"
            )
        self.roster_known = True
        for source in block.roster:
            self.sources.setdefault(source, SourceState())

    def _advance(self) -> Iterator[Columns]:
        if not self.roster_known:
            return
        if self.ended:
            yield from self._finish()
            return
        speaking = [s for s in self.sources.values() if not s.idle and not s.ended]
        reached = [s.reached for s in speaking if s.reached is not None]
        if not speaking or len(reached) < len(speaking):
            return  # all idle: the watermark holds; or one has not spoken yet
        target = min(reached)
        self._begin(target)
        assert self.next_epoch is not None
        while self.next_epoch < target:
            epoch = self.next_epoch
            self.next_epoch += 1
            yield from self._apply(epoch, self.epochs.end_of(epoch))
            self._skip(target)

    def _begin(self, target: int) -> None:
        if self.next_epoch is None:
            self.next_epoch = min([target, *self.held])
            start = self.epochs.start_of(self.next_epoch)
            for resolution in self.resolutions:
                resolution.begin(resolution.grid.number_of(start), self.covariates)

    def _finish(self) -> Iterator[Columns]:
        """All sources have ended: applies what is held and closes every bucket that ends by the largest event time."""
        times = [s.max_ms for s in self.sources.values() if s.max_ms is not None]
        if not times:
            return
        last = max(times)
        self._begin(self.epochs.number_of(last))
        assert self.next_epoch is not None
        final = self.epochs.number_of(last)
        while self._due(final) or self.epochs.end_of(self.next_epoch) <= last:
            epoch = self.next_epoch
            self.next_epoch += 1
            yield from self._apply(epoch, min(self.epochs.end_of(epoch), last))
            self._skip(final)

    def _due(self, final: int) -> bool:
        """Whether rows are held, or facts that were told by the end; later ones wait for a log that goes on."""
        return any(epoch <= final or any(s.columns for s in segments) for epoch, segments in self.held.items())

    def _skip(self, target: int) -> None:
        """While no item is forecast and none is to come, buckets close without a trace: goes straight to the next epoch that has rows.

        Bucket by bucket (34 µs each) the years between one event with a wrong clock and today's would take minutes.
        """
        assert self.next_epoch is not None
        epoch = min([target, *self.held])
        if not self.forecast_items and epoch > self.next_epoch:
            self.next_epoch = epoch
            for resolution in self.resolutions:
                resolution.begin(resolution.grid.number_of(self.epochs.start_of(epoch)), self.covariates)

    # -- an epoch ----------------------------------------------------------------------------------------------------

    def _apply(self, epoch: int, boundary_ms: int) -> Iterator[Columns]:
        """Applies an epoch's rows, publishes corrections, takes what was told, then closes the buckets that end by the boundary."""
        self.changes += 1
        self._swap(self.epochs.start_of(epoch))
        segments = self.held.pop(epoch, [])
        with_rows = [segment for segment in segments if segment.columns]
        if with_rows:
            rows = self._merge(with_rows)
            for resolution in self.resolutions:
                yield from self._add(resolution, rows, boundary_ms)
            self.seen.add({"slot": rows.slots} | rows.prices, self.epochs.end_of(epoch), self.capacity)
        elif len(self.seen.ahead["slot"]):
            none = np.zeros(0, np.int64)
            self.seen.add(dict.fromkeys(self.seen.ahead, none), self.epochs.end_of(epoch), self.capacity)
        # After the corrections: those are forecast as of an issue that knew nothing of this.
        self._tell(segments)
        self._measure(segments)
        self._expect(segments)
        for resolution in self.resolutions:
            while True:
                closed = resolution.windows.closed
                assert closed is not None
                if resolution.grid.end_of(closed + 1) > boundary_ms:
                    break
                yield from self._tick(resolution)
        self._evict(boundary_ms)

    def _swap(self, now_ms: int) -> None:
        """Takes the weights whose time has come."""
        if not self.swaps:
            return
        due = [swap for swap in self.swaps if swap.from_ms <= now_ms]
        self.swaps = [swap for swap in self.swaps if swap.from_ms > now_ms]
        for swap in sorted(due, key=lambda swap: swap.from_ms):
            for resolution in self.resolutions:
                if resolution.spec.size == swap.size:
                    resolution.take(swap.version, swap.weights, swap.follows)

    def _merge(self, segments: list[Segment]) -> _Epoch:
        """One set of columns from all segments; new items get slots in item-id order."""
        new = {name for segment in segments for name in segment.items if name not in self.index}
        grain_ms = self.spec.agreement.grain_ms
        if new:
            self._allocate(sorted(new))
        slots, grains = [], []
        columns: dict[str, list[Ints]] = {name: [] for name in (*SUMS, "price", *STAMPS)}
        for segment in segments:
            local = np.array([self.index[name] for name in segment.items], dtype=np.int64)
            item = np.frombuffer(segment.columns["item"], "<u4")
            slots.append(local[item])
            grains.append(np.frombuffer(segment.columns["grain"], "<i8") * grain_ms)
            for name, parts in columns.items():
                parts.append(column(segment, name, len(item)))
        rows = _Epoch(np.concatenate(slots), np.concatenate(grains))
        rows.columns = {name: np.concatenate(columns[name]) for name in SUMS}
        rows.prices = {name: np.concatenate(columns[name]) for name in ("price", *STAMPS)}
        fresh = np.unique(rows.slots[self.resolutions[0].first[rows.slots] == UNSEEN])
        self.seen_ms[fresh] = 0  # what was told of them no longer keeps them
        np.maximum.at(self.seen_ms, rows.slots, rows.grain_ms + grain_ms)
        self.whole[rows.slots[rows.columns["fractions"] > 0]] = False
        if len(fresh):
            self.forecast_items += len(fresh)
            for resolution in self.resolutions:
                number = resolution.grid.number(rows.grain_ms)
                mine = np.isin(rows.slots, fresh)
                np.minimum.at(resolution.first, rows.slots[mine], number[mine])
                resolution.active[fresh] = resolution.first[fresh]
        return rows

    def _tell(self, segments: list[Segment]) -> None:
        """Applies facts. An item that was not known before is from now on, but it is not forecast until there is activity."""
        parts = [read_facts(segment.facts) for segment in segments if segment.facts is not None]
        if not parts:
            return
        facts = join_rows(parts)
        new = sorted({facts.items[i] for i in np.unique(facts.item).tolist() if i >= 0} - self.index.keys())
        self._allocate(new)
        slots = np.array([*(self.index.get(name, -1) for name in facts.items), -1], dtype=np.int64)[facts.item]
        silent = np.flatnonzero((slots >= 0) & (self.resolutions[0].first[slots] == UNSEEN))
        np.maximum.at(self.seen_ms, slots[silent], np.maximum(facts.announced, facts.starts)[silent])
        opens = [r.grid.start_of(r.windows.closed + 1) for r in self.resolutions if r.windows.closed is not None]
        self.covariates.tell(facts, slots, min(opens) - self.spec.allowed_lateness_ms)
        self.counters.ignored_facts += self.covariates.names.ignored
        self.covariates.names.ignored = 0

    def _measure(self, segments: list[Segment]) -> None:
        """Applies measurements of items that are known."""
        parts = [read_measured(segment.measured) for segment in segments if segment.measured is not None]
        for name in sorted({name for part in parts for name in part.names}):
            slots, grains, values, weights, mean = [], [], [], [], False
            for part in parts:
                if name not in part.names:
                    continue
                number = part.names.index(name)
                mean = part.means[number]
                slot = np.array([self.index.get(item, -1) for item in part.items], dtype=np.int64)[part.item]
                mine = np.flatnonzero((part.name == number) & (slot >= 0))
                slots.append(slot[mine])
                grains.append(part.grain[mine] * self.spec.agreement.grain_ms)
                values.append(part.value[mine])
                weights.append(part.weight[mine])
            slot = np.concatenate(slots)
            if not self.covariates.names.admit(name):
                self.counters.ignored_facts += len(slot)
            elif len(slot):
                for resolution in self.resolutions:
                    resolution.measure(name, mean, np.concatenate(grains), slot, np.concatenate(values), np.concatenate(weights))

    def _expect(self, segments: list[Segment]) -> None:
        """Moves the stock of expected purchases of items that are known."""
        for segment in segments:
            if segment.expected is not None:
                if not len(self.expected):
                    self.expected = np.zeros(self.capacity, np.int64)
                slots = np.array([self.index.get(item, -1) for item in segment.expected.items], dtype=np.int64)
                known = np.flatnonzero(slots >= 0)
                np.add.at(self.expected, slots[known], read_expected(segment.expected)[known])

    def _add(self, resolution: Resolution, rows: _Epoch, boundary_ms: int) -> Iterator[Columns]:
        """Adds rows to one bucket size's windows; publishes corrections of buckets that had closed before."""
        bucket = resolution.grid.number(rows.grain_ms)
        late, gone = resolution.windows.add(bucket, rows.slots, {name: rows.columns[name] for name in CHANNELS})
        np.maximum.at(resolution.active, rows.slots, bucket)
        late &= ~gone
        self.counters.beyond_ring += int(gone.sum()) if resolution is self.resolutions[0] else 0
        if not late.any():
            return
        closed = resolution.windows.closed
        assert closed is not None
        ticks_now = resolution.grid.end_of(closed + 1) <= boundary_ms
        for number in np.unique(bucket[late]).tolist():
            slots = np.unique(rows.slots[late & (bucket == number)])
            again = number == closed
            if again:
                known = slots[resolution.first[slots] <= closed]
                if len(known):
                    resolution.forecaster.correct(resolution.panel(known, self.whole, self.covariates))
            if again and not ticks_now:
                yield from self._forecast(resolution, slots[resolution.first[slots] <= closed], corrects=True)
            else:
                yield self._demand(resolution, number, slots, corrects=True, forecast=None)

    def _tick(self, resolution: Resolution) -> Iterator[Columns]:
        """The oldest open bucket of a size closes: judge it, learn from it, forecast anew."""
        closed = resolution.close(self.covariates, self.seen, self.expected)
        slots = np.flatnonzero(self.live & (resolution.first <= closed))
        if not len(slots):
            return
        panel = resolution.panel(slots, self.whole, self.covariates)
        yield from self._judge(resolution, panel)
        resolution.forecaster.close(panel)
        # Items without activity for long are forecast at a slower pace, spread over the ticks.
        silent = closed - resolution.active[slots]
        due = (silent < resolution.patience) | ((closed + slots) % resolution.pace == 0)
        yield from self._forecast(resolution, slots[due], corrects=False)

    def _judge(self, resolution: Resolution, panel: Panel) -> Iterator[Columns]:
        expected = resolution.forecaster.expected(panel.slots, panel.closed)
        lines = resolution.windows.channels["lines"].values(panel.closed, panel.slots)
        found = resolution.spikes.judge(seen_bucket(panel, lines, expected))
        if len(found.places):
            slots = panel.slots[found.places]
            yield SpikeColumns(
                item=[self.names[s] for s in slots.tolist()],
                bucket=resolution.spec.size,
                bucket_start_ms=resolution.grid.start_of(panel.closed),
                observed=resolution.windows.channels["units"].values(panel.closed, slots),
                expected=found.expected_units,
                p_value=found.p_value,
                severity=["critical" if level == CRITICAL else "warning" for level in found.level.tolist()],
                state=["resolved" if over else "open" for over in found.over.tolist()],
                model_version=self._version(resolution),
                direction=["up" if direction == UP else "down" for direction in found.direction.tolist()],
                orders=lines[found.places],
                orders_expected=found.expected_lines,
                factor=found.factor,
                since_ms=np.array([resolution.grid.start_of(number) for number in found.since.tolist()], dtype=np.int64),
                together=found.together,
            )

    def _version(self, resolution: Resolution) -> str:
        """What records name: the trained weights, else what the package came with."""
        version = resolution.forecaster.version
        return self.spec.model_version if version == BUILTIN else version

    def _forecast(self, resolution: Resolution, slots: Ints, corrects: bool) -> Iterator[Columns]:
        closed = resolution.windows.closed
        assert closed is not None
        for start in range(0, len(slots), _CHUNK):
            piece = slots[start : start + _CHUNK]
            panel = resolution.panel(piece, self.whole, self.covariates)
            made = resolution.forecaster.forecast(panel)
            resolution.forecaster.hold(panel, made)
            forecast = ForecastColumns(made.mean, made.quantiles, made.p_zero, made.totals, made.weights_row, made.weights)
            yield self._demand(resolution, closed, piece, corrects, forecast)

    def _demand(self, resolution: Resolution, bucket: int, slots: Ints, corrects: bool, forecast: ForecastColumns | None) -> DemandColumns:
        channels = resolution.windows.channels
        without = self.covariates.censored(resolution.number)
        return DemandColumns(
            item=[self.names[s] for s in slots.tolist()],
            bucket=resolution.spec.size,
            bucket_start_ms=resolution.grid.start_of(bucket),
            issued_at_ms=resolution.grid.end_of(bucket),
            observed=channels["units"].values(bucket, slots),
            returned=channels["returns"].values(bucket, slots),
            orders=channels["lines"].values(bucket, slots),
            views=channels["views"].values(bucket, slots),
            carts=channels["carts"].values(bucket, slots),
            censored=np.zeros(len(slots)) if without is None else without[bucket % len(without), slots].astype(np.float64),
            whole=self.whole[slots],
            corrects=corrects,
            forecast=forecast,
            levels=resolution.spec.levels,
            model_version=self._version(resolution),
        )

    # -- slots -------------------------------------------------------------------------------------------------------

    def resize(self, capacity: int) -> None:
        """Room for more items; never shrinks."""
        if capacity <= self.capacity:
            return
        for name, fill in (("live", False), ("whole", True), ("seen_ms", 0)):
            old = getattr(self, name)
            grown = np.full(capacity, fill, old.dtype)
            grown[: self.capacity] = old
            setattr(self, name, grown)
        self.names.extend([""] * (capacity - self.capacity))
        self.free.extend(range(capacity - 1, self.capacity - 1, -1))
        self.capacity = capacity
        for resolution in self.resolutions:
            resolution.resize(capacity)
        self.covariates.resize(capacity)
        self.seen.resize(capacity)
        if len(self.expected):
            self.expected = np.concatenate([self.expected, np.zeros(capacity - len(self.expected), np.int64)])

    def _allocate(self, names: list[str]) -> None:
        if len(self.free) < len(names):
            self.resize(room_for(self.capacity - len(self.free) + len(names)))
        for name in names:
            slot = self.free.pop()
            self.index[name] = slot
            self.names[slot] = name
            self.live[slot] = True
            self.whole[slot] = True
            self.seen_ms[slot] = 0
            for resolution in self.resolutions:
                resolution.first[slot] = UNSEEN

    def _evict(self, now_ms: int) -> None:
        """Forgets items without activity for long: a rule of event time, so that a replay forgets them at the same place.

        An item that was never active stays as long after what was last told of it, or after what that announces begins.
        """
        over = np.flatnonzero(self.live & (self.seen_ms < now_ms - self.spec.forget_after_ms))
        surplus = len(self.index) - len(over) - self.spec.max_items
        if surplus > 0:
            # Those that were never active go first, then the longest unseen; among equals the lower slot, which is the same in every replay.
            rest = np.setdiff1d(np.flatnonzero(self.live), over, assume_unique=True)
            order = np.lexsort((self.seen_ms[rest], self.resolutions[0].first[rest] != UNSEEN))
            over = np.sort(np.concatenate([over, rest[order][:surplus]]))
        if not len(over):
            return
        for slot in over.tolist():
            del self.index[self.names[slot]]
            self.names[slot] = ""
        self.live[over] = False
        self.forecast_items -= int((self.resolutions[0].first[over] != UNSEEN).sum())
        self.covariates.forget(over)
        self.seen.forget(over)
        if len(self.expected):
            self.expected[over] = 0
        for resolution in self.resolutions:
            resolution.forget(over)
        self.free.extend(over[::-1].tolist())
        self.counters.evicted += len(over)
