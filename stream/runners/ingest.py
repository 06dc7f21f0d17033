"""The ingest stage: the user's topics in; intent, activity blocks and dead letters out."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.device import pick
from models.intent.scorer import IntentScorer
from models.intent.weights import VERSION as INTENT_BUILTIN
from models.protocol import IntentSpec
from stream.config import Config, Source, UserError
from stream.engine import activity
from stream.engine.columns import Decoded, Rejected, Rows, join
from stream.engine.ingest import Ingested, IngestShard, IngestSpec
from stream.engine.sessions import FEATURES, SessionBook, SessionSpec
from stream.engine.state import ingest_arrays, ingest_note, mend_ingest, restore_ingest, track_ingest
from stream.engine.time import Zone
from stream.kafka.log import Messages, Partition, Records
from stream.mapping import Decoder
from stream.records import HEADERS, dead_letter_headers, encode_intent, fit_dead_letter
from stream.runners.outcomes import NO_ORDERS, Orders, split_orders
from stream.runners.stage import Shard, Step, Stopwatch
from stream.runners.weights import INTENT, IntentRoom, Order, intent_weights_of

logger = logging.getLogger("nowcart.ingest")

GRAIN_MS = 15 * 60_000
"""Activity rows are never coarser: local days of every zone are sums of them."""


def agreement(config: Config) -> activity.Agreement:
    """What both stages must share."""
    smallest = config.demand.buckets[0]
    return activity.Agreement(min(smallest.size_ms, GRAIN_MS), smallest.size, config.time.zone)


def read_topic(source: Source, config: Config) -> str:
    """The topic that ingest reads of a source: the user's own, or ours where the source is repartitioned."""
    return f"{config.output.prefix}repartitioned.{source.name}" if source.repartition else source.topic


class IngestObserver(Protocol):
    """What ingest tells whoever measures it."""

    def events(self, source: str, counts: Mapping[str, int]) -> None: ...
    def dead_letter(self, source: str, reason: str, messages: int) -> None: ...
    def late(self, source: str, outcome: str, events: int) -> None: ...
    def sessions_live(self, sessions: int) -> None: ...
    def intent_calibration_error(self, ratio: float) -> None: ...
    def evicted(self, kind: str, slots: int) -> None: ...
    def model(self, model: str, version: str, device: str) -> None: ...


@dataclass(slots=True)
class _Waiting:
    """A decoded batch, and how far it has been taken."""

    decoded: Decoded
    bytes_of: dict[int, tuple[bytes | None, bytes | None]]
    """Key and value of the rejected messages, by offset."""
    orders: Orders
    row: int = 0
    rejected: int = 0
    order: int = 0
    counted: bool = False


@dataclass(slots=True)
class Taken:
    """What a step takes out of the queue."""

    rows: list[Rows] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    bytes_of: dict[int, tuple[bytes | None, bytes | None]] = field(default_factory=dict)
    orders: list[Orders] = field(default_factory=list)
    next_offset: int = 0


class IngestWork:
    """One source partition: its queue of decoded batches and its engine."""

    def __init__(self, partition: Partition, source: Source, stage: IngestStage) -> None:
        self.partition = partition
        self.source = source
        self.stage = stage
        self.engine = stage.engine(partition, source)
        self.decoder = stage.decoders[source.name]
        self.queue: deque[_Waiting] = deque()
        self.queued = 0
        self.quiet = False

    @property
    def waiting(self) -> bool:
        return bool(self.queue)

    @property
    def watermark_ms(self) -> int:
        return self.engine.watermark_ms

    @property
    def holds(self) -> bool:
        return self.engine.holds

    @property
    def next_ms(self) -> int | None:
        for waiting in self.queue:
            rows = waiting.decoded.rows
            if waiting.row < len(rows):
                return int(rows.time_ms[waiting.row])
        return None

    @property
    def next_mark_ms(self) -> int | None:
        following = self.next_ms
        return None if following is None else self.engine.next_mark_ms(following)

    def accept(self, messages: Messages) -> None:
        orders = NO_ORDERS
        if self.engine.book is not None and self.engine.book.orders is not None:
            kept, orders = split_orders(messages)
            decoded = replace(self.decoder.decode(kept), next_offset=messages.offsets[-1] + 1)
        else:
            decoded = self.decoder.decode(messages)
        bytes_of: dict[int, tuple[bytes | None, bytes | None]] = {}
        if decoded.rejected:
            for bad in decoded.rejected:
                i = bisect_left(messages.offsets, bad.offset)
                bytes_of[bad.offset] = (messages.key(i), messages.values[i])
        self._keep_for_late(messages, decoded, bytes_of)
        self.queue.append(_Waiting(decoded, bytes_of, orders))
        self.queued += len(decoded.rows)

    def _keep_for_late(self, messages: Messages, decoded: Decoded, bytes_of: dict[int, tuple[bytes | None, bytes | None]]) -> None:
        """Keeps the bytes of messages that will turn out too late, so that they can be dead-lettered as they came."""
        rows = decoded.rows
        if not len(rows) or not self.engine.holds:
            return
        spec = self.engine.spec
        queue_high = max((int(w.decoded.rows.time_ms.max()) for w in self.queue if len(w.decoded.rows)), default=self.engine.max_ms)
        high = np.maximum(np.maximum.accumulate(rows.time_ms), max(queue_high, self.engine.max_ms))
        late = np.flatnonzero(rows.time_ms < high - spec.out_of_orderness_ms - spec.allowed_lateness_ms)
        if len(late):
            for offset in set(rows.offset[late].tolist()):
                i = bisect_left(messages.offsets, offset)
                bytes_of[offset] = (messages.key(i), messages.values[i])

    def step(self, limit_ms: int, max_rows: int, before: int | None = None) -> Step:
        began = self.stage.stopwatch.clock()
        taken = self._take(limit_ms, max_rows, before)
        rows = join(taken.rows) if taken.rows else None
        self.stage.stopwatch.add("columns", began)
        count = 0 if rows is None else len(rows)
        stamps = np.zeros(0, np.int64) if rows is None else rows.stamp_ms
        return Step(taken.next_offset, self.outputs(rows, taken), count, stamps, self.stage.intent_topic if self.engine.book else "")

    def count(self, events: Mapping[str, int]) -> None:
        """Counts what was read, once, when it is taken."""
        self.stage.observer.events(self.source.name, events)

    def _take(self, limit_ms: int, max_rows: int, before: int | None) -> Taken:
        taken = Taken()
        while self.queue:
            head = self.queue[0]
            if not head.counted and not self.quiet:
                self.count(head.decoded.events)
            head.counted = True
            rows = head.decoded.rows
            offset = rows.offset[head.row :]
            count, bound = len(offset), head.decoded.next_offset
            if before is not None and before < bound:
                count, bound = int(np.searchsorted(offset, before)), before
            elif before is None and count:
                allowed = self.engine.rows_until(rows.time_ms[head.row : head.row + max(max_rows, 1)], limit_ms)
                allowed = int(np.searchsorted(offset, offset[allowed - 1], side="right"))  # a message's lines stay together
                if allowed < count:
                    count, bound = allowed, int(offset[allowed])
            bad = head.decoded.rejected
            last = head.rejected
            while last < len(bad) and bad[last].offset < bound:
                last += 1
            taken.rejected += bad[head.rejected : last]
            taken.bytes_of = taken.bytes_of | head.bytes_of if taken.bytes_of else head.bytes_of
            told = int(np.searchsorted(head.orders.offset, bound))
            if told > head.order:
                taken.orders.append(head.orders.cut(head.order, told))
                head.order = told
            if count:
                taken.rows.append(rows.cut(head.row, head.row + count))
            head.row, head.rejected = head.row + count, last
            self.queued -= count
            taken.next_offset = bound
            if bound >= head.decoded.next_offset:
                self.queue.popleft()
            if before is None or bound >= before:
                break
        return taken

    def outputs(self, rows: Rows | None, taken: Taken) -> Iterator[list[Records]]:
        source = self.source.name
        if not self.quiet:
            for bad in taken.rejected:
                self.stage.observer.dead_letter(source, bad.reason, 1)
        for orders in taken.orders:
            self.engine.take_orders(orders.keys, orders.time_ms, orders.offset)
        done = Ingested(blocks=[]) if rows is None else self.engine.step(rows)
        self._count(done)
        done.rejected = sorted([*taken.rejected, *done.rejected], key=lambda bad: bad.offset)
        yield from self._publish(done, taken.bytes_of)

    def _count(self, done: Ingested) -> None:
        if self.quiet:
            return
        observer, source = self.stage.observer, self.source.name
        if done.late_corrected:
            observer.late(source, "corrected", done.late_corrected)
        if done.late_dropped:
            observer.late(source, "dropped", done.late_dropped)
        if done.rejected:
            observer.dead_letter(source, "too_late", len(done.rejected))

    def _publish(self, done: Ingested, bytes_of: Mapping[int, tuple[bytes | None, bytes | None]]) -> Iterator[list[Records]]:
        if done.rejected:
            yield self.dead_letters(done.rejected, bytes_of)
        for columns in done.intents:
            for start in range(0, len(columns), 5_000):
                began = self.stage.stopwatch.clock()
                keys, values = encode_intent(columns.cut(start, start + 5_000))
                size = sum(map(len, keys)) + sum(map(len, values))
                self.stage.stopwatch.add("publish", began)
                yield [Records(self.stage.intent_topic, keys, values, headers=HEADERS, bytes=size)]
        for partition, blocks in enumerate(done.blocks):
            if blocks:
                began = self.stage.stopwatch.clock()
                data = [activity.encode_block(block) for block in blocks]
                self.stage.stopwatch.add("publish", began)
                yield [Records(self.stage.activity_topic, [None] * len(data), data, partition, bytes=sum(map(len, data)))]

    def dead_letters(self, rejected: Sequence[Rejected], bytes_of: Mapping[int, tuple[bytes | None, bytes | None]]) -> list[Records]:
        keys, values, headers = [], [], []
        for bad in rejected:
            key, value, cut = fit_dead_letter(*bytes_of[bad.offset])
            keys.append(key)
            values.append(value)
            headers.append([*dead_letter_headers(bad.reason, bad.detail, *self.partition, bad.offset), *cut])
        size = sum(len(key or b"") + len(value or b"") + 200 for key, value in zip(keys, values, strict=True))
        return [Records(self.stage.deadletter_topic, keys, values, headers=headers, each_headers=True, bytes=size)]

    def finish(self) -> list[Records]:
        return [records for output in self._publish(self.engine.finish(), {}) for records in output]

    def idle(self) -> list[Records]:
        return [records for output in self._publish(self.engine.idle(), {}) for records in output]

    @property
    def changes(self) -> int:
        return 0 if self.engine.book is None else self.engine.book.grown

    def still(self) -> Mapping[str, NDArray[Any]]:
        track_ingest(self.engine)
        return ingest_arrays(self.engine)

    def mend(self, copied: dict[str, NDArray[Any]], most: int) -> bool:
        return mend_ingest(self.engine, copied, most)

    def moving(self) -> dict[str, NDArray[Any]]:
        return ingest_note(self.engine)

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        restore_ingest(self.engine, state)
        scorer = self._scorer()
        if scorer is not None and self.engine.book is not None:
            self.engine.book.version = scorer.version

    def _scorer(self) -> IntentScorer | None:
        """Where there is a recurrent model that takes weights."""
        model = None if self.engine.book is None else self.engine.book.model
        return model if isinstance(model, IntentScorer) and model.recurrent is not None else None

    def news(self) -> str | None:
        scorer = self._scorer()
        if self.stage.room is None or scorer is None:
            return None
        order = self.stage.room.order(INTENT)
        return None if order is None or order.version == scorer.version else order.text

    def tell(self, text: str) -> None:
        scorer, order = self._scorer(), Order.read(text)
        assert self.stage.room is not None
        assert self.engine.book is not None
        if scorer is None:  # torch fails here: the others go on alone
            return
        scorer.swap(intent_weights_of(order, self.stage.room))
        self.engine.book.version = scorer.version
        if not self.quiet:
            logger.info("%s[%d]: takes %s for new sessions", *self.partition, order.version)

    def ready(self, texts: Sequence[str], state: Mapping[str, NDArray[Any]] | None = None) -> bool:
        needed = {Order.read(text).version for text in texts} - {INTENT_BUILTIN}  # a state brings its own
        if needed and self.stage.room is None:
            raise UserError(
                f"{self.partition.topic}[{self.partition.partition}] has run with the models {', '.join(sorted(needed))}, so this process needs a "
                "store that holds them: name it in [state] url"
            )
        return self.stage.room is None or self.stage.room.ready(needed)

    def greet(self) -> list[Records]:
        """The roster: which source partitions forecast has to wait for, in every activity partition before our first block."""
        if not self.engine.holds:
            return []
        roster = activity.Block(activity.VERSION, "roster", roster=self.stage.roster, agreement=self.stage.agreement)
        data = activity.encode_block(roster)
        return [
            Records(self.stage.activity_topic, [None], [data], p, bytes=len(data)) for p in range(self.stage.config.activity.partitions)
        ]


class IngestStage:
    """Opens source partitions.

    Args:
        config: the user's.
        partitions: how many partitions each source topic has.
        observer: is told what happens.
        room: where trained weights come from; None: the engine runs without.
    """

    name = "ingest"
    merges = False

    def __init__(self, config: Config, partitions: Mapping[str, int], observer: IngestObserver, room: IntentRoom | None = None) -> None:
        self.config = config
        self.partitions = partitions
        self.observer = observer
        self.stopwatch = Stopwatch()
        self.by_topic = {read_topic(source, config): source for source in config.sources.values()}
        self.topics = tuple(self.by_topic)
        self.max_lead_ms = config.time.max_lead_ms
        self.zone = Zone(config.time.zone)
        self.decoders = {name: Decoder(source, config.time, self.zone) for name, source in config.sources.items()}
        prefix = config.output.prefix
        self.intent_topic, self.activity_topic, self.deadletter_topic = (f"{prefix}{name}" for name in ("intent", "activity", "deadletter"))
        self.agreement = agreement(config)
        self.room = room
        self.roster = [
            activity.Source(source.name, p)
            for source in config.sources.values()
            if source.kind in ("clickstream", "orders")
            for p in range(partitions[read_topic(source, config)])
        ]

    def holds(self, partition: Partition) -> bool:
        """Whether a partition (ours or another member's) holds the others' watermarks back."""
        return self.by_topic[partition.topic].kind in ("clickstream", "orders")

    def open(self, partition: Partition) -> Shard:
        return IngestWork(partition, self.by_topic[partition.topic], self)

    def scorer(self, spec: IntentSpec) -> IntentScorer:
        """What a partition's sessions are scored with before anything was learnt."""
        return IntentScorer(spec, pick(self.config.device.name))

    def engine(self, partition: Partition, source: Source) -> IngestShard:
        """A source partition's engine before its first row."""
        time, intent = self.config.time, self.config.intent
        spec = IngestSpec(
            # Repartitioning mixes partitions that may be one out_of_orderness apart.
            out_of_orderness_ms=time.out_of_orderness_ms * (2 if source.repartition else 1),
            allowed_lateness_ms=time.allowed_lateness_ms,
            smallest=self.agreement.smallest,
            grain_ms=self.agreement.grain_ms,
            zone=self.zone,
            partitions=self.config.activity.partitions,
            max_sessions=max(1, intent.max_sessions // max(1, self.partitions[read_topic(source, self.config)])),
            counts_demand=source.kind == self.config.demand.source,
        )
        book = None
        if source.kind == "clickstream":
            spec_of_intent = IntentSpec(features=FEATURES)
            scorer = self.scorer(spec_of_intent)
            self.stopwatch.watch("model", scorer, "score", "settle")
            self.observer.model("intent", scorer.version, self.config.device.name)
            session = SessionSpec(
                gap_ms=intent.session_gap_ms,
                every_event=intent.publish == "every_event",
                publish_delta=intent.publish_delta,
                thresholds=intent.thresholds,
                by_user="session" not in source.fields,
                label=intent.label,
                label_delay_ms=intent.label_delay_ms,
                positions=spec_of_intent.positions,
                next_items=intent.next_items,
                expected=True,
            )
            book = SessionBook(session, scorer, scorer.version)
        return IngestShard(activity.Source(source.name, partition.partition), source.kind, spec, book)

    def scorers(self, works: Sequence[IngestWork]) -> list[IntentScorer]:
        """The intent scorers of these partitions."""
        models = [work.engine.book.model for work in works if work.engine.book is not None]
        return [model for model in models if isinstance(model, IntentScorer)]

    def observe(self, shards: Mapping[Partition, Shard]) -> None:
        works = [work for work in shards.values() if isinstance(work, IngestWork)]
        for work in works:
            if work.engine.book is not None:
                self.observer.evicted("session", work.engine.book.evicted)
                work.engine.book.evicted = 0
        scorers = self.scorers(works)
        versions = [scorer.version for scorer in scorers]
        if versions:
            newest = max(set(versions), key=versions.count)  # while new weights go through the partitions: what most of them use
            self.observer.model("intent", newest, self.config.device.name)
        errors = [scorer.calibration_error_ratio() for scorer in scorers]
        known = [error for error in errors if not np.isnan(error)]
        if known:
            self.observer.intent_calibration_error(float(np.mean(known)))
        self.observer.sessions_live(sum(work.engine.book.live for work in works if work.engine.book is not None))
