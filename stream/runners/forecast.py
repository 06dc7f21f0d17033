"""The forecast stage: activity blocks in; demand and spikes out."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from models.protocol import DemandSpec
from stream.calendar import holiday_days
from stream.config import Bucket, Config, UserError
from stream.engine.activity import Block, BlockError, decode_block
from stream.engine.columns import UNKNOWN, DemandColumns, SpikeColumns
from stream.engine.covariates import MOST_NAMES
from stream.engine.forecast import BUILTIN, AgreementError, ForecastShard, ForecastSpec
from stream.engine.resolution import ResolutionSpec
from stream.engine.state import forecast_arrays, forecast_note, restore_forecast, versions_of
from stream.engine.time import Zone
from stream.kafka.log import Messages, Partition, Records
from stream.records import HEADERS, encode_demand, encode_spikes
from stream.runners.ingest import agreement
from stream.runners.stage import Shard, Step, Stopwatch
from stream.runners.weights import Order, Trained, Weightroom, swap_of

logger = logging.getLogger("nowcart.forecast")

_BLOCKS_A_STEP = 64
EXPERTS = (
    "seasonal_naive",
    "ewma",
    "tsb",
    "empirical",
    "decomposition",
    "elasticity",
    "river",
    "global",
    "network",
    "network_counts",
    "network_adapted",
    "boosted",
)
"""The experts that run live, and in backtests."""


class ForecastObserver(Protocol):
    """What forecast tells whoever measures it."""

    def items_live(self, items: int) -> None: ...
    def evicted(self, kind: str, slots: int) -> None: ...
    def spikes(self, severity: str, spikes: int) -> None: ...
    def model(self, model: str, version: str, device: str) -> None: ...
    def forecast_quality(self, bucket: str, metrics: Mapping[str, object]) -> None: ...


def probes(horizon: int) -> tuple[int, ...]:
    """One probe step for each horizon group: the next bucket, the near, the far.

    Args:
        horizon: steps.
    """
    near = 7 if horizon in range(8, 22) else max(2, horizon // 4)
    return tuple(sorted({1, min(near, horizon), horizon}))


def resolution(bucket: Bucket, config: Config) -> ResolutionSpec:
    """What a bucket size of the configuration means to the engine."""
    demand = config.demand
    spec = DemandSpec(
        size=bucket.size,
        horizon=bucket.horizon,
        seasons=bucket.seasons,
        levels=demand.quantiles,
        totals=tuple(steps for steps in demand.totals if steps <= bucket.horizon),
        probes=probes(bucket.horizon),
        river_items=-(-config.models.river_items // config.activity.partitions),
        experts=EXPERTS,
    )
    longest = max(bucket.seasons, default=0)
    return ResolutionSpec(spec, bucket.history or max(2 * longest, 2 * bucket.horizon, 28))


def spec_of(config: Config) -> ForecastSpec:
    """What the configuration means to a forecast shard."""
    return ForecastSpec(
        agreement=agreement(config),
        zone=Zone(config.time.zone),
        resolutions=tuple(resolution(bucket, config) for bucket in config.demand.buckets),
        out_of_orderness_ms=config.time.out_of_orderness_ms,
        allowed_lateness_ms=config.time.allowed_lateness_ms,
        max_lead_ms=config.time.max_lead_ms,
        forget_after_ms=config.demand.forget_after_ms,
        max_items=max(1, config.demand.max_items // config.activity.partitions),
        device=config.device.name,
        model_version=BUILTIN,
        false_alerts=config.spikes.false_alerts,
        holidays=holiday_days(config.demand.holidays) if config.demand.holidays else (),
    )


def block_of(place: Partition, offset: int, value: bytes | None) -> Block:
    """A message of the activity topic.

    Raises:
        UserError: somebody else writes there.
    """
    try:
        return decode_block(value or b"")
    except BlockError as error:
        raise UserError(
            f"{place.topic}[{place.partition}] at offset {offset}: {error}. Nothing but nowcart may write to this topic"
        ) from error


class ForecastWork:
    """One activity partition: its queue of blocks and its engine."""

    holds = False

    def __init__(self, partition: Partition, stage: ForecastStage) -> None:
        self.partition = partition
        self.stage = stage
        self.engine = ForecastShard(stage.spec)
        for part in self.engine.resolutions:
            stage.stopwatch.watch("model", part.forecaster, "correct", "expected", "close", "forecast", "hold")
        self.quiet = False
        self.warned = False
        self.queue: deque[tuple[int, Block, int]] = deque()

    @property
    def queued(self) -> int:
        return len(self.queue) * 64  # a block stands for many rows

    @property
    def waiting(self) -> bool:
        return bool(self.queue)

    @property
    def watermark_ms(self) -> int:
        mark = self.engine.watermark_ms
        return UNKNOWN if mark is None else mark

    @property
    def next_ms(self) -> int | None:
        return None

    @property
    def next_mark_ms(self) -> int | None:
        return None

    def accept(self, messages: Messages) -> None:
        for offset, stamp_ms, value in zip(messages.offsets, messages.stamps_ms, messages.values, strict=True):
            self.queue.append((offset, block_of(self.partition, offset, value), stamp_ms))

    def step(self, limit_ms: int, max_rows: int, before: int | None = None) -> Step:
        blocks: list[Block] = []
        next_offset = 0
        while self.queue and (before is not None or len(blocks) < _BLOCKS_A_STEP):
            offset, block, _ = self.queue[0]
            if before is not None and offset >= before:
                break
            self.queue.popleft()
            blocks.append(block)
            next_offset = max(next_offset, offset + 1)
        # Not `before`: messages below it may still be on their way.
        return Step(next_offset or before or 0, self._outputs(blocks), len(blocks) * 64)

    def _outputs(self, blocks: list[Block]) -> Iterator[list[Records]]:
        for block in blocks:
            try:
                for columns in self.engine.step(block):
                    yield from self._encode(columns)
            except AgreementError as error:
                raise UserError(str(error)) from error
        self.stage.observer.evicted("item", self.engine.counters.evicted)
        self.engine.counters.evicted = 0
        if self.engine.counters.ignored_facts:
            if not self.warned:
                self.warned = True
                logger.warning(
                    "%s[%d]: more than %d distinct covariates (signals' names, kinds of promotions): what comes under further names is ignored, "
                    'and counted as nowcart_evictions_total{kind="covariate"}',
                    *self.partition,
                    MOST_NAMES,
                )
            self.stage.observer.evicted("covariate", self.engine.counters.ignored_facts)
            self.engine.counters.ignored_facts = 0

    def _encode(self, columns: DemandColumns | SpikeColumns) -> Iterator[list[Records]]:
        if isinstance(columns, SpikeColumns):
            began = self.stage.stopwatch.clock()
            keys, values = encode_spikes(columns)
            self.stage.stopwatch.add("publish", began)
            for severity, state in zip(columns.severity, columns.state, strict=True):
                if state == "open":
                    self.stage.observer.spikes(severity, 1)
            yield [Records(self.stage.spikes_topic, keys, values, headers=HEADERS, bytes=sum(map(len, values)))]
            return
        encoded = encode_demand(columns)
        while True:
            began = self.stage.stopwatch.clock()
            chunk = next(encoded, None)
            self.stage.stopwatch.add("publish", began)
            if chunk is None:
                return
            keys, values, size = chunk
            yield [Records(self.stage.demand_topic, keys, values, headers=HEADERS, bytes=size)]

    def finish(self) -> list[Records]:
        return []

    def idle(self) -> list[Records]:
        return []

    @property
    def changes(self) -> int:
        return self.engine.changes

    def still(self) -> Mapping[str, NDArray[Any]]:
        return forecast_arrays(self.engine)

    def mend(self, copied: dict[str, NDArray[Any]], most: int) -> bool:
        return True  # an epoch changes all of it, and `changes`

    def moving(self) -> dict[str, NDArray[Any]]:
        return forecast_note(self.engine)

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        needed = versions_of(state)
        restore_forecast(self.engine, state, {version: self.stage.weights_of(version).weights for version in needed})

    def news(self) -> str | None:
        if self.stage.room is None:
            return None
        for size, version in self.told().items():
            order = self.stage.room.order(size)
            if order is not None and order.version != version:
                return order.text
        return None

    def told(self) -> dict[str, str]:
        """Bucket size -> the version that it was told last."""
        return self.engine.versions() | {swap.size: swap.version for swap in self.engine.swaps}

    def tell(self, text: str) -> None:
        order = Order.read(text)
        assert self.stage.room is not None
        self.engine.tell(swap_of(order, self.stage.room))
        if not self.quiet:
            logger.info("%s[%d]: takes %s for buckets of %s", *self.partition, order.version, order.size)

    def ready(self, texts: Sequence[str], state: Mapping[str, NDArray[Any]] | None = None) -> bool:
        needed = {Order.read(text).version for text in texts} | (set() if state is None else versions_of(state))
        needed -= {BUILTIN}
        if needed and self.stage.room is None:
            raise UserError(
                f"{self.partition.topic}[{self.partition.partition}] has run with the models {', '.join(sorted(needed))}, so this process needs a "
                "store that holds them: name it in [state] url"
            )
        return self.stage.room is None or self.stage.room.ready(needed)

    def greet(self) -> list[Records]:
        return []


def mean_scores(scores: Sequence[Mapping[str, Mapping[str, Mapping[str, float]]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Running scores of several partitions as one: the mean of each number over the partitions that have it."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for score in scores:
        for kind, rows in score.items():
            for row, values in rows.items():
                for name, value in values.items():
                    found.setdefault((kind, row, name), []).append(value)
    mean: dict[str, dict[str, dict[str, float]]] = {}
    for (kind, row, name), values_of in found.items():
        mean.setdefault(kind, {}).setdefault(row, {})[name] = sum(values_of) / len(values_of)
    return mean


class ForecastStage:
    """Opens activity partitions.

    Args:
        config: the user's.
        observer: is told what happens.
        room: where trained weights come from; None: the engine runs without.
    """

    name = "forecast"
    merges = False
    max_lead_ms = None

    def __init__(self, config: Config, observer: ForecastObserver, room: Weightroom | None = None) -> None:
        self.config = config
        self.observer = observer
        self.room = room
        self.stopwatch = Stopwatch()
        prefix = config.output.prefix
        self.topics = (f"{prefix}activity",)
        self.demand_topic, self.spikes_topic = f"{prefix}demand", f"{prefix}spikes"
        self.spec = spec_of(config)
        for part in self.spec.resolutions:
            observer.model(f"demand-{part.demand.size}", self.spec.model_version, config.device.name)

    def weights_of(self, version: str) -> Trained:
        """Weights that ready() said are here."""
        assert self.room is not None
        return self.room.get(version)

    def holds(self, partition: Partition) -> bool:
        return False

    def open(self, partition: Partition) -> Shard:
        return ForecastWork(partition, self)

    def observe(self, shards: Mapping[Partition, Shard]) -> None:
        works = [work for work in shards.values() if isinstance(work, ForecastWork)]
        self.observer.items_live(sum(work.engine.items_live for work in works))
        for number, spec in enumerate(self.spec.resolutions):
            scores = [work.engine.resolutions[number].forecaster.metrics() for work in works]
            versions = [work.engine.versions()[spec.demand.size] for work in works]
            if versions:
                newest = max(set(versions), key=versions.count)  # while a swap goes through the partitions: what most of them use
                self.observer.model(f"demand-{spec.demand.size}", newest, self.config.device.name)
            if scores:
                self.observer.forecast_quality(spec.demand.size, mean_scores(scores))
