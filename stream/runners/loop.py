"""The loop of both stages: fetch, decode, step, publish, commit; one Kafka transaction an iteration.

What it promises, and how:

- *Exactly once.* Records and input positions go into one transaction; every transaction names a position for every
  partition whose records it carries. What a transaction holds is kept until its end is known; after an abort it is sent
  again byte for byte for the partitions still owned, after an unknown end the committed positions say which it was.
- *Exact recovery.* A partition that is assigned without warm state is replayed from where its log began for us, by a
  reader outside the group, outputs suppressed, while the other partitions go on.
- *Aligned watermarks.* Where the stage asks for it, the partition with the smallest watermark steps first, and none leads
  the group's smallest by more than max_lead; the watermarks of other members' partitions stand in their committed metadata.
  Partitions that hold nobody's watermark (offers, signals, reviews) go first: until they have been read to their end once, the
  others stay behind what is committed of them, so that a history is told in its order.
- *What is not in the log* (trained weights, see Shard.news) is told between two steps, and kept with the offset in the committed metadata: a
  replay tells it at the same place again.
- *Bounded memory.* A partition whose queue is long is paused; a step that gives much is cut into slices of one transaction
  each, with a cursor in the committed metadata.

Wall-clock time (the `clock` passed in) decides when to commit and when a partition counts as idle, nothing else.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Event
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.config import UserError
from stream.engine.columns import UNKNOWN
from stream.kafka.log import LogError, Member, Messages, Outcome, Partition, Position, Records, Span, Start, Unreachable
from stream.runners.keeping import Keeper, Saved, Vault
from stream.runners.stage import Shard, Stage, Step

logger = logging.getLogger("nowcart.loop")

TRANSACTION_BYTES = 16 * 1024 * 1024
"""A transaction closes once its records exceed this: a follower's fetch and a replayed slice stay small."""
SLICE_BYTES = 8 * 1024 * 1024
"""A step's records are cut into slices of about this size; the cut depends on the records alone, so a restart cuts alike."""
FOREIGN_SECONDS = 1.0
HELD_BACK_SECONDS = 0.02
RESTORE_SECONDS = 0.2
"""Of an iteration for rebuilding state, while nothing else is to be done; less where other partitions wait."""
RESTORE_BESIDE_SECONDS = 0.05
SPAN_SECONDS = 5.0
WARM_SECONDS = 60.0
"""So long the state of a partition that was given up is kept, in case it comes back."""


MOST_TOLD = 32
"""Of what a partition was told, so much stands in its metadata: brokers take 4096 bytes."""


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What a partition was told from outside the log, and where."""

    offset: int
    ends: int
    """How often the partition had been ended before."""
    text: str


class Bookmark(msgspec.Struct, omit_defaults=True):
    """What is committed with a position, as JSON in its metadata."""

    count: int = 0
    """Transactions that named this partition: makes every committed position unlike all before it."""
    origin: int = 0
    """The offset at which we began to read this partition."""
    watermark_ms: int | None = None
    idle: bool = False
    ends: list[int] = []
    """Offsets at which the partition was ended (--until-end): a replay ends it there too."""
    told: list[Told] = []
    """What the partition was told from outside the log: a replay tells it there too."""
    told_before: int = 0
    """So many more were told before those; no replay reaches back to them."""
    done: int | None = None
    """The end offset that --until-end has reached."""
    caught_up: bool = False
    """The partition has been read to its end once (kept of those that hold no watermark)."""
    cursor: tuple[int, int] | None = None
    """(next_offset, slices): of the step [position, next_offset) this many slices are published."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Bookmark).decode


@dataclass(slots=True)
class Piece:
    """A slice of a partition's records, and the position to commit with it."""

    records: list[Records]
    position: Position
    size: int
    stamps_ms: NDArray[np.int64]
    latency_topic: str
    rows: int
    number: int
    """Grows with every piece of the loop."""


@dataclass(slots=True)
class Owned:
    """A partition that this member owns: its state and where it stands."""

    partition: Partition
    shard: Shard
    bookmark: Bookmark
    committed: Position | None
    """As last known to be committed; None if nothing ever was."""
    position: int
    """The next message to step."""
    fetched: int
    """The next message to fetch."""
    running: Iterator[Piece] | None = None
    pending: list[Piece] = field(default_factory=list)
    """Computed, not known to be committed."""
    greeted: bool = False
    paused: bool = False
    ends_left: list[int] = field(default_factory=list)
    """Ends of the partition that a replay has still to come by."""
    told_left: list[Told] = field(default_factory=list)
    """The same of what it was told."""
    ended_at: int | None = None
    """The end offset that a fetch has reported, if nothing has come since."""
    silent_since: float = 0.0


@dataclass(slots=True)
class Restoring:
    """A partition whose state is being rebuilt by replaying its log."""

    owned: Owned
    target: int
    began: float
    load: Future[Saved | None] | None
    """The newest snapshot, while it is being read."""
    span: Span
    """Of the partition, when the rebuilding began."""
    reader: Iterator[Messages] | None = None
    fresh: bool = True
    """No snapshot was taken: the log is replayed from where its state began."""


class Observer(Protocol):
    """What the loop tells whoever measures it."""

    def step(self, stage: str, step: str, seconds: float) -> None: ...
    def commit(self, stage: str, outcome: str, seconds: float) -> None: ...
    def batch(self, stage: str, events: int) -> None: ...
    def published(self, topic: str, records: int) -> None: ...
    def event_to_prediction(self, topic: str, seconds: NDArray[np.float64]) -> None: ...
    def rebalanced(self) -> None: ...
    def restored(self, seconds: float) -> None: ...
    def lag(self, partition: Partition, events: int) -> None: ...
    def watermark(self, stage: str, partition: Partition, lag_seconds: float) -> None: ...
    def reachable(self, stage: str, answer: bool) -> None: ...
    def forget(self, stage: str, partition: Partition) -> None: ...


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """How a loop runs."""

    until_end: bool = False
    idle_after_s: float = 30.0
    fetch_messages: int = 40_000
    """Most in one iteration, so that what is worked off commits half as often as with 20,000; at a steady rate there are never so many."""
    fetch_seconds: float = 0.02
    iteration_rows: int = 60_000
    queue_high: int = 60_000
    queue_low: int = 20_000


class Loop:
    """Runs one stage as one member of its group.

    Args:
        member: of the stage's group.
        stage: opens shards.
        options: how it runs.
        observer: is told what happens.
        monotonic: seconds, for waiting and measuring.
        wall: epoch seconds, for latencies only.
        targets: with until_end, asked until it gives the end offset of each input partition; default: the ends when the loop starts.
        vault: where snapshots are kept; None: state is always rebuilt from the log's beginning.
        progress: told (partition, replayed, of) while state is rebuilt; (partition, 0, 0) if it is given up.
    """

    def __init__(
        self,
        member: Member,
        stage: Stage,
        options: LoopOptions,
        observer: Observer,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        targets: Callable[[], Mapping[Partition, int] | None] | None = None,
        progress: Callable[[Partition, int, int], None] | None = None,
        vault: Vault | None = None,
    ) -> None:
        self.member = member
        self.stage = stage
        self.options = options
        self.observer = observer
        self.monotonic = monotonic
        self.wall = wall
        self.progress = progress
        self.keeper = None if vault is None else Keeper(vault, stage.name, monotonic)
        self.owned: dict[Partition, Owned] = {}
        self.warm: dict[Partition, Owned] = {}
        self.restoring: dict[Partition, Restoring] = {}
        self.everything: list[Partition] = []
        self.announcing: list[Partition] = []
        """Partitions that hold nobody's watermark."""
        self.foreign: dict[Partition, Bookmark | None] = {}
        self.foreign_at = -np.inf
        self.observed_at = -np.inf
        self.held_back = False
        self.failure: Exception | None = None
        self.unopened: list[Partition] = []
        self.loads: dict[Partition, Future[Saved | None]] = {}
        """Newest snapshots that are read while it is asked what was committed."""
        self.doubt: dict[Partition, Position] | None = None
        """What a transaction would have committed whose end is not known."""
        self.targets: Mapping[Partition, int] | None = None
        self._ask_targets = targets
        self.commits = 0
        self.numbers = itertools.count()
        self.assigned_once = False

    # -- life --------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> tuple[bool, str]:
        """Whether it works on partitions, and if not, why."""
        if self.restoring:
            return False, f"{self.stage.name}: restoring {len(self.restoring)} partitions"
        if not self.assigned_once:
            return False, f"{self.stage.name}: waiting for an assignment"
        if not self.member.reachable or self.doubt is not None:
            return False, f"{self.stage.name}: no broker answers"
        return True, f"{self.stage.name}: {len(self.owned)} partitions"

    def run(self, stop: Event) -> None:
        """Runs until told to stop or, with until_end, until everything is done.

        Args:
            stop: set from outside.

        Raises:
            Fenced: another process took over this instance's name.
            LogError: Kafka cannot be used.
            UserError: the log no longer reaches back to where the state began.
        """
        self.start()
        try:
            while not stop.is_set() and not self.finished():
                self.turn()
        finally:
            self.member.close()

    def start(self) -> None:
        """Joins the group."""
        counts = self.member.partitions(self.stage.topics)
        self.everything = [Partition(topic, p) for topic in self.stage.topics for p in range(counts[topic])]
        if self.stage.max_lead_ms is not None and not self.stage.merges:
            self.announcing = [partition for partition in self.everything if not self.stage.holds(partition)]
        if self.options.until_end and self._ask_targets is None:
            spans = self.member.spans(self.everything)
            self.targets = {partition: spans[partition].end for partition in self.everything}
        self.member.subscribe(self.stage.topics, self)

    def turn(self) -> None:
        """One iteration."""
        if self.options.until_end and self.targets is None and self._ask_targets is not None:
            self.targets = self._ask_targets()
        busy = any(o.shard.waiting or o.running for o in self.owned.values()) and not self.held_back
        began = self.monotonic()
        fetched = self.member.fetch(self.options.fetch_messages, 0.002 if busy or self.restoring else self.options.fetch_seconds)
        self.observer.step(self.stage.name, "consume", self.monotonic() - began)
        if self.failure is not None:
            raise self.failure
        self._open_late()
        self._restore_some()
        self._accept(fetched.batches, fetched.ends)
        self._advance()
        self._mark_ends()
        self._keep()
        self._flow()
        self._look_around()

    # -- partitions come and go --------------------------------------------------------------------------------------

    def assigned(self, partitions: list[Partition]) -> dict[Partition, Start]:
        """Listener: opens the partitions; those that need a replay start paused."""
        self.assigned_once = True
        self.observer.rebalanced()
        try:
            return self._open(partitions)
        except Unreachable:
            self.unopened += partitions  # tried again by turn()
            return {}
        except Exception as error:  # noqa: BLE001 - carried out of the client's callback, raised by turn()
            self.failure = error
            return {}

    def _open(self, partitions: list[Partition]) -> dict[Partition, Start]:
        if self.keeper is not None:
            for partition in partitions:
                if partition not in self.warm and partition not in self.loads:
                    self.loads[partition] = self.keeper.vault.load(self.stage.name, partition, None)
        committed = self.member.committed(partitions)
        spans = self.member.spans(partitions)
        starts: dict[Partition, Start] = {}
        for partition in partitions:
            load = self.loads.pop(partition, None)
            position, span = committed[partition], spans[partition]
            warm = self.warm.pop(partition, None)
            if warm is not None and position is not None:
                self._settle(warm, position)  # in case its last transaction ended in doubt
            if warm is not None and warm.committed == position:
                logger.info("%s: state is still warm", _name(partition))
                warm.paused = False
                warm.ended_at = None
                self.owned[partition] = warm
                starts[partition] = Start(warm.fetched)
                continue
            if position is None:
                self._refuse_orphan(partition)
                fresh = Owned(partition, self.stage.open(partition), Bookmark(origin=span.start), None, span.start, span.start)
                self._own(fresh, span)
                starts[partition] = Start(span.start)
                continue
            bookmark = _decode(position.metadata) if position.metadata else Bookmark(origin=span.start)
            _require_end(partition, position.offset, span)
            owned = Owned(partition, self.stage.open(partition), bookmark, position, bookmark.origin, position.offset)
            owned.ends_left, owned.told_left = list(bookmark.ends), list(bookmark.told)
            bookmark.caught_up = False
            if bookmark.origin == position.offset and not bookmark.told:
                self._replay_marks(owned)
                self._own(owned, span)
                starts[partition] = Start(position.offset)
                continue
            owned.shard.quiet = True
            if load is None and self.keeper is not None:  # its warm state was of no use
                load = self.keeper.vault.load(self.stage.name, partition, position.offset)
            self.restoring[partition] = Restoring(owned, position.offset, self.monotonic(), load, span)
            starts[partition] = Start(position.offset, waits=True)
        return starts

    def _refuse_orphan(self, partition: Partition) -> None:
        """Snapshots of a partition for which the group has committed nothing: its offsets were deleted, or the store is another's."""
        if self.keeper is not None and self.keeper.vault.has(self.stage.name, partition):
            raise UserError(
                f"the group has no committed offset for {_name(partition)}, but [state] url holds snapshots of it: the offsets were deleted "
                f"or have expired, and going on would count events twice. Start anew with another [output] prefix and [state] url"
            )

    def _begin_replay(self, work: Restoring) -> bool:
        """Puts the snapshot into the shard, if there is one, and opens the log behind it; False while it is still being read."""
        owned = work.owned
        if work.load is not None:
            if not work.load.done():
                return False
            saved = work.load.result()
            if saved is not None and saved.offset > work.target:
                assert self.keeper is not None
                work.load = self.keeper.vault.load(self.stage.name, owned.partition, work.target)
                return False
            if saved is not None:
                before = _decode(saved.metadata)
                told = _told_since(owned.partition, owned.bookmark, before.told_before + len(before.told))
                if not owned.shard.ready([each.text for each in told], saved.state):
                    return False
                owned.shard.restore(saved.state)
                owned.position = saved.offset
                owned.ends_left, owned.told_left = owned.bookmark.ends[len(before.ends) :], told
                logger.info("%s: took the snapshot at offset %d", _name(owned.partition), saved.offset)
                work.fresh = False
            work.load = None
        if work.fresh:
            _told_since(owned.partition, owned.bookmark, 0)
        if not owned.shard.ready([each.text for each in owned.told_left]):
            return False
        # What was asked a moment ago is true enough: the reader itself looks again.
        recent = self.monotonic() - work.began < SPAN_SECONDS
        span = work.span if recent else self.member.spans([owned.partition])[owned.partition]
        _require_reach(owned.partition, owned.position, work.target, span, self.keeper is not None)
        logger.info("%s: rebuilding state from offset %d to %d", _name(owned.partition), owned.position, work.target)
        self._replay_marks(owned)
        behind = owned.position < work.target
        work.reader = self.member.read(owned.partition, owned.position, work.target) if behind else iter(())
        return True

    def _open_late(self) -> None:
        """Opens partitions that were assigned while no broker answered."""
        if self.unopened and self.member.reachable:
            partitions, self.unopened = self.unopened, []
            ready = {p: start.offset for p, start in self.assigned(partitions).items() if not start.waits}
            if ready:
                self.member.resume_at(ready)

    def _own(self, owned: Owned, span: Span) -> None:
        owned.silent_since = self.monotonic()
        if span.start == span.end:
            owned.ended_at = span.end
            owned.silent_since = -np.inf  # an empty topic counts as silent at once
        self.owned[owned.partition] = owned

    def revoked(self, partitions: list[Partition]) -> None:
        """Listener: gives partitions up; their state stays warm in case they come back untouched."""
        for partition in partitions:
            if self.restoring.pop(partition, None) is not None and self.progress is not None:
                self.progress(partition, 0, 0)
            if partition in self.unopened:
                self.unopened.remove(partition)
            self.loads.pop(partition, None)
            owned = self.owned.pop(partition, None)
            if owned is not None:
                owned.silent_since = self.monotonic()
                self.warm[partition] = owned
                if self.keeper is not None:
                    self.keeper.forget(partition)
                self.observer.forget(self.stage.name, partition)

    def lost(self, partitions: list[Partition]) -> None:
        """Listener: the same; whether the state is still good is seen from the committed position when it comes back."""
        self.revoked(partitions)

    def _restore_some(self) -> None:
        """Replays a little of the partitions that are being rebuilt, so that the others go on meanwhile."""
        others = any(owned.shard.waiting or owned.pending for owned in self.owned.values())
        until = self.monotonic() + (RESTORE_BESIDE_SECONDS if others else RESTORE_SECONDS)
        for partition, work in list(self.restoring.items()):
            owned = work.owned
            while True:
                try:
                    if work.reader is None and not self._begin_replay(work):
                        break
                    assert work.reader is not None
                    messages = next(work.reader, None)
                except Unreachable:  # a broker that is away ends no restore: the next turn goes on where this one stopped
                    work.reader = self.member.read(partition, owned.position, work.target) if work.reader is not None else None
                    return
                if messages is not None:
                    owned.shard.accept(messages)
                while owned.shard.waiting:
                    step = owned.shard.step(np.iinfo(np.int64).max, self.options.iteration_rows, self._next_end(owned))
                    for _ in step.outputs:
                        pass  # suppressed: they were published when these messages were committed
                    owned.position = step.next_offset
                    self._replay_marks(owned)
                if self.progress is not None:
                    at = owned.position if messages is not None else work.target  # the last offsets may hold no message
                    self.progress(partition, at - owned.bookmark.origin, work.target - owned.bookmark.origin)
                if messages is None:
                    owned.position = work.target
                    self._replay_marks(owned)
                    owned.shard.quiet = False
                    seconds = self.monotonic() - work.began
                    if self.keeper is not None:
                        self.keeper.began(partition, seconds)
                    del self.restoring[partition]
                    owned.silent_since = self.monotonic()
                    self.owned[partition] = owned
                    self.member.resume_at({partition: work.target})
                    self.observer.restored(seconds)
                    logger.info("%s: state rebuilt in %.1f s", _name(partition), seconds)
                    break
                if self.monotonic() > until:
                    return
        if not self.restoring:
            self.member.read_enough()

    def _next_end(self, owned: Owned) -> int | None:
        """Where a replay has to stop because the partition was ended or told something there."""
        return min([*owned.ends_left[:1], *(told.offset for told in owned.told_left[:1])], default=None)

    def _replay_marks(self, owned: Owned) -> None:
        """Tells what was told here, and ends the partition where it was ended here, in the order in which that was done."""
        while True:
            told = owned.told_left[0] if owned.told_left else None
            if told is not None and told.offset == owned.position and told.ends == len(owned.bookmark.ends) - len(owned.ends_left):
                owned.told_left.pop(0)
                owned.shard.tell(told.text)
            elif owned.ends_left and owned.ends_left[0] == owned.position:
                owned.ends_left.pop(0)
                owned.shard.finish()
            else:
                return

    # -- messages in -------------------------------------------------------------------------------------------------

    def _accept(self, batches: list[Messages], ends: dict[Partition, int]) -> None:
        began = self.monotonic()
        for messages in batches:
            owned = self.owned.get(messages.partition)
            if owned is None or not len(messages):
                continue
            if messages.offsets[0] < owned.fetched:
                raise AssertionError(f"{_name(owned.partition)}: offset {messages.offsets[0]} came again after {owned.fetched}")
            owned.shard.accept(messages)
            owned.fetched = messages.offsets[-1] + 1
            owned.ended_at = None
            owned.silent_since = self.monotonic()
        for partition, offset in ends.items():
            owned = self.owned.get(partition)
            if owned is not None and offset >= owned.fetched:
                owned.ended_at = offset
        if batches:
            self.observer.step(self.stage.name, "decode", self.monotonic() - began)

    # -- steps and transactions --------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Steps shards until the iteration has enough rows, and commits what they gave."""
        if not self._flush():
            return
        self._tell_news()
        rows = 0
        began = self.monotonic()
        while rows < self.options.iteration_rows:
            owned = next((o for o in self.owned.values() if o.running is not None), None)
            if owned is None:
                owned, limit = self._choose()
                if owned is None:
                    break
                owned.running = self._pieces(owned, limit, self.options.iteration_rows - rows)
            assert owned.running is not None
            piece = next(owned.running, None)
            if piece is None:
                owned.running = None
                continue
            owned.pending.append(piece)
            rows += piece.rows
            if sum(p.size for o in self.owned.values() for p in o.pending) >= TRANSACTION_BYTES:
                self._tell_steps(self.monotonic() - began)
                if not self._flush():
                    return
                began = self.monotonic()
        if rows:
            self.observer.batch(self.stage.name, rows)
            self._tell_steps(self.monotonic() - began)
        self._flush()

    def _tell_news(self) -> None:
        """Tells shards what is not in the log, between two steps, and keeps it with the offset."""
        for owned in self.owned.values():
            bookmark = owned.bookmark
            if owned.running is not None or bookmark.cursor is not None:
                continue
            told = False
            while (text := owned.shard.news()) is not None:
                owned.shard.tell(text)
                bookmark.told = [*bookmark.told, Told(owned.position, len(bookmark.ends), text)]
                told = True
            if told:
                over = max(0, len(bookmark.told) - MOST_TOLD)
                bookmark.told, bookmark.told_before = bookmark.told[over:], bookmark.told_before + over
                self._mark(owned, [])

    def _tell_steps(self, seconds: float) -> None:
        """Tells what an advance took: the parts that the stage told apart, and the rest as the engine's."""
        parts = self.stage.stopwatch.take()
        for part, share in parts.items():
            self.observer.step(self.stage.name, part, share)
        self.observer.step(self.stage.name, "engine", max(0.0, seconds - sum(parts.values())))

    def _choose(self) -> tuple[Owned | None, int]:
        """The partition to step next, and how far its watermark may go."""
        waiting = [o for o in self.owned.values() if o.shard.waiting]
        self.held_back = False
        for o in waiting:  # a step that was published in part goes on before anything else, once its last message is here
            if o.bookmark.cursor is not None and o.fetched >= o.bookmark.cursor[0]:
                return o, np.iinfo(np.int64).max
        waiting = [o for o in waiting if o.bookmark.cursor is None]
        if not waiting:
            return None, 0
        lead = self.stage.max_lead_ms
        if lead is None:
            return min(waiting, key=lambda o: o.position), 0
        free = min((o for o in waiting if not o.shard.holds), key=lambda o: (o.shard.watermark_ms, o.partition), default=None)
        marks = self._watermarks()
        if free is not None:
            # They go first, but for one that leads by more than all the others may while those can go on: it would only fill memory.
            lowest = min(marks.values(), default=None)
            far = lowest is not None and free.shard.watermark_ms > max(lowest, UNKNOWN) + lead
            chosen, limit = self._choose_first([o for o in waiting if o.shard.holds], marks, lead) if far else (None, 0)
            self.held_back = False
            return (free, 0) if chosen is None else (chosen, limit)
        if self.stage.merges:
            return self._choose_next(waiting, marks)
        return self._choose_first(waiting, marks, lead)

    def _choose_first(self, waiting: list[Owned], marks: dict[Partition, int], lead: int) -> tuple[Owned | None, int]:
        """The partition with the smallest watermark, if the others' let it go on."""
        if not waiting:
            return None, 0
        first = min(waiting, key=lambda o: (o.shard.watermark_ms, o.partition))
        told = self._told()
        following = first.shard.next_mark_ms
        if told is not None and following is not None and following > told:
            self.held_back = True  # what is announced before it has not all been read
            return None, 0
        others = [mark for partition, mark in marks.items() if partition != first.partition]
        lowest = min(others, default=None)
        if lowest is None:
            return first, np.iinfo(np.int64).max if told is None else told
        if first.shard.watermark_ms > lowest + lead or (lowest == UNKNOWN and first.shard.watermark_ms != UNKNOWN):
            self.held_back = True  # somebody behind has to speak first
            return None, 0
        limit = UNKNOWN if lowest == UNKNOWN else lowest + lead
        return first, limit if told is None else min(limit, told)

    def _told(self) -> int | None:
        """How far the watermarks of partitions that hold may go, so that whatever is announced before is in the log before; None: anywhere.

        Only what is committed counts: an aborted transaction may come back without the partitions that have moved on.
        """
        marks = []
        for partition in self.announcing:
            bookmark = self._committed_bookmark(partition)
            if bookmark is None or bookmark.cursor is not None:  # nothing yet, or a step that is published in part
                return UNKNOWN
            if self._is_done(partition, bookmark) if self.options.until_end else bookmark.caught_up:
                continue
            marks.append(UNKNOWN if bookmark.watermark_ms is None else bookmark.watermark_ms - 1)
        return min(marks, default=None)

    def _committed_bookmark(self, partition: Partition) -> Bookmark | None:
        owned = self.owned.get(partition)
        if owned is None and partition in self.restoring:
            owned = self.restoring[partition].owned
        if owned is None:
            return self.foreign.get(partition)
        if owned.committed is None or not owned.committed.metadata:
            return None
        bookmark = _decode(owned.committed.metadata)
        bookmark.caught_up &= owned.bookmark.caught_up  # in this life
        return bookmark

    def _choose_next(self, waiting: list[Owned], marks: dict[Partition, int]) -> tuple[Owned | None, int]:
        """The partition with the earliest row, once every one of ours has shown its next or has no more."""
        lead = self.stage.max_lead_ms or 0
        unseen = [p for p in marks if p in self.owned and not self.owned[p].shard.waiting and self.owned[p].ended_at is None]
        first = min(waiting, key=lambda o: (UNKNOWN if o.shard.next_ms is None else o.shard.next_ms, o.partition))
        foreign = min((mark for partition, mark in marks.items() if partition not in self.owned), default=None)
        ours = min((mark for partition, mark in marks.items() if partition in self.owned), default=UNKNOWN)
        # Of several members the one that is furthest behind always goes on, or they would wait for each other.
        if unseen or (foreign is not None and ours != UNKNOWN and ours > foreign + lead):
            self.held_back = True
            return None, 0
        following = min((o.shard.next_ms for o in waiting if o is not first and o.shard.next_ms is not None), default=None)
        # A limit is one of watermarks, which stay a lead behind the rows: rows no later than the other partitions' next.
        return first, np.iinfo(np.int64).max if following is None and foreign is None else min(
            np.iinfo(np.int64).max if following is None else following - lead,
            np.iinfo(np.int64).max if foreign is None else foreign + lead,
        )

    def _watermarks(self) -> dict[Partition, int]:
        """The watermark of every partition that holds the others back: ours as they are, the others' as committed."""
        marks: dict[Partition, int] = {}
        for partition in self.everything:
            owned = self.owned.get(partition)
            if owned is not None:
                silent = owned.bookmark.idle and not owned.shard.waiting
                if owned.shard.holds and not silent and not self._is_done(partition, owned.bookmark):
                    marks[partition] = owned.shard.watermark_ms
                continue
            if not self.stage.holds(partition):
                continue
            bookmark = self.foreign.get(partition)
            if partition in self.restoring:
                bookmark = self.restoring[partition].owned.bookmark
            if bookmark is None:
                marks[partition] = UNKNOWN
            elif not bookmark.idle and not self._is_done(partition, bookmark):
                marks[partition] = UNKNOWN if bookmark.watermark_ms is None else bookmark.watermark_ms
        return marks

    def _is_done(self, partition: Partition, bookmark: Bookmark) -> bool:
        return self.targets is not None and bookmark.done is not None and bookmark.done >= self.targets[partition]

    def _pieces(self, owned: Owned, limit_ms: int, max_rows: int) -> Iterator[Piece]:
        """A step of one partition as slices: all but the last leave the position where the step began, with a cursor."""
        start = owned.position
        resume = owned.bookmark.cursor
        step = owned.shard.step(limit_ms, max_rows, None if resume is None else resume[0])
        slices = 0
        records: list[Records] = [] if owned.greeted else owned.shard.greet()
        owned.greeted = True
        size = 0
        for output in step.outputs:
            if size >= SLICE_BYTES:
                slices += 1
                if resume is None or slices > resume[1]:
                    yield self._piece(owned, records, start, (step.next_offset, slices), step, size, 0)
                records, size = [], 0
            records += output
            size += sum(r.bytes for r in output)
        owned.position = step.next_offset
        yield self._piece(owned, records, step.next_offset, None, step, size, max(step.rows, 1))

    def _piece(
        self, owned: Owned, records: list[Records], offset: int, cursor: tuple[int, int] | None, step: Step, size: int, rows: int
    ) -> Piece:
        bookmark = owned.bookmark
        bookmark.count += 1
        bookmark.cursor = cursor
        bookmark.idle = False
        mark = owned.shard.watermark_ms
        bookmark.watermark_ms = None if mark == UNKNOWN else mark
        position = Position(offset, _encode(bookmark).decode())
        stamps = step.stamps_ms if rows else step.stamps_ms[:0]
        return Piece(records, position, size, stamps, step.latency_topic, rows, next(self.numbers))

    def _flush(self) -> bool:
        """Publishes and commits what is pending; False if it has to be tried again after the next fetch."""
        if self.doubt is not None and not self._resolve():
            return False
        holders = [o for o in self.owned.values() if o.pending]
        if not holders:
            return True
        pieces = sorted((p for o in holders for p in o.pending), key=lambda p: p.number)
        records = [r for p in pieces for r in p.records if len(r)]  # in the order in which they came about
        positions = {o.partition: o.pending[-1].position for o in holders}
        began = self.monotonic()
        outcome = self.member.transact(records, positions)
        self.observer.commit(self.stage.name, outcome.value, self.monotonic() - began)
        if outcome is Outcome.COMMITTED:
            for o in holders:
                self._settle(o, o.pending[-1].position)
            return True
        logger.warning("%s: a transaction of %d partitions ended %s; what it held is kept", self.stage.name, len(holders), outcome.value)
        if outcome is Outcome.UNKNOWN:
            self.doubt = positions
            self.observer.reachable(self.stage.name, False)  # now: what comes next may wait long for an answer
        return False

    def _resolve(self) -> bool:
        """A new producer with the same id ends what the old one left open; then the committed positions tell how it ended."""
        assert self.doubt is not None
        try:
            self.member.renew()
            committed = self.member.committed(list(self.doubt))
        except Unreachable:
            return False
        # All or nothing, so one that stands tells for all; those that have moved to another member may stand further on.
        if any(committed[p] == position for p, position in self.doubt.items()):
            for partition, position in self.doubt.items():
                if partition in self.owned:
                    self._settle(self.owned[partition], position)
        self.doubt = None
        return True

    def _settle(self, owned: Owned, position: Position) -> None:
        """What is pending up to this position is committed."""
        if all(piece.position != position for piece in owned.pending):
            return
        self.commits += 1
        now = self.wall()
        while owned.pending:
            piece = owned.pending.pop(0)
            if len(piece.stamps_ms):
                self.observer.event_to_prediction(piece.latency_topic, now - piece.stamps_ms / 1000.0)
            for r in piece.records:
                if len(r):
                    self.observer.published(r.topic, len(r))
            if piece.position == position:
                break
        owned.committed = position

    # -- ends and silence --------------------------------------------------------------------------------------------

    def _mark_ends(self) -> None:
        """Writes end marks (until_end) or idle marks for partitions that have nothing more."""
        now = self.monotonic()
        for owned in self.owned.values():
            if owned.pending or owned.running or owned.shard.waiting or owned.bookmark.cursor is not None:
                continue
            if self.options.until_end:
                self._finish(owned)
            elif owned.ended_at is not None and not owned.shard.holds and not owned.bookmark.caught_up:
                owned.bookmark.caught_up = True
                self._mark(owned, [])
            elif owned.ended_at is not None and not owned.bookmark.idle and now - owned.silent_since >= self.options.idle_after_s:
                self._fall_silent(owned)
        self._flush()

    def _finish(self, owned: Owned) -> None:
        if self.targets is None or self._is_done(owned.partition, owned.bookmark):
            return
        target = self.targets[owned.partition]
        reached = max(owned.fetched, owned.ended_at if owned.ended_at is not None else 0)
        if reached < target or (owned.shard.holds and self._told() is not None):
            return
        bookmark = owned.bookmark
        records = ([] if owned.greeted else owned.shard.greet()) + owned.shard.finish()
        owned.greeted = True
        bookmark.ends = [*bookmark.ends, owned.position]
        bookmark.done = target
        self._mark(owned, records)

    def _fall_silent(self, owned: Owned) -> None:
        """Idle means: a fetch answered by the broker just now still finds nothing; a broker that is away makes nobody idle."""
        try:
            span = self.member.spans([owned.partition])[owned.partition]
        except LogError:
            return
        if owned.ended_at is None or span.end > owned.ended_at:
            owned.silent_since = self.monotonic()
            return
        records = ([] if owned.greeted else owned.shard.greet()) + owned.shard.idle()
        owned.greeted = True
        owned.bookmark.idle = True
        self._mark(owned, records)

    def _mark(self, owned: Owned, records: list[Records]) -> None:
        bookmark = owned.bookmark
        bookmark.count += 1
        position = Position(owned.position, _encode(bookmark).decode())
        size = sum(r.bytes for r in records)
        owned.pending.append(Piece(records, position, size, np.zeros(0, np.int64), "", 0, next(self.numbers)))

    def finished(self) -> bool:
        """With until_end: every partition of the group has reached its target, ours and the others'."""
        if not self.options.until_end or self.targets is None or self.restoring:
            return False
        if any(o.pending for o in self.owned.values()):
            return False
        for partition in self.everything:
            owned = self.owned.get(partition)
            bookmark = self.foreign.get(partition) if owned is None else owned.bookmark
            if bookmark is None or not self._is_done(partition, bookmark):
                return False
        return True

    def _keep(self) -> None:
        """Goes on with a snapshot, of a partition whose state is exactly what is committed."""
        if self.keeper is None:
            return
        for partition, owned in self.owned.items():
            if owned.pending or owned.running is not None or owned.bookmark.cursor is not None:
                continue
            if self.keeper.due(partition, owned.committed):
                assert owned.committed is not None
                self.keeper.tend(partition, owned.shard, owned.committed)
                return

    # -- flow and looks around ---------------------------------------------------------------------------------------

    def _flow(self) -> None:
        """Pauses partitions whose queue is long, resumes those whose queue is short."""
        options = self.options
        for owned in self.owned.values():
            queued = owned.shard.queued
            if not owned.paused and queued > options.queue_high:
                self.member.pause([owned.partition])
                owned.paused = True
            elif owned.paused and queued < options.queue_low:
                self.member.resume_at({owned.partition: owned.fetched})
                owned.paused = False

    def _look_around(self) -> None:
        """Reads the other members' watermarks: once a second, or often while they hold us back."""
        now = self.monotonic()
        every = HELD_BACK_SECONDS if self.held_back else FOREIGN_SECONDS
        if now - self.foreign_at >= every and (self.stage.max_lead_ms is not None or self.options.until_end):
            others = [p for p in self.everything if p not in self.owned and p not in self.restoring]
            try:
                for partition, position in (self.member.committed(others) if others else {}).items():
                    self.foreign[partition] = None if position is None or not position.metadata else _decode(position.metadata)
            except LogError as error:
                logger.warning("%s: cannot read the group's positions: %s", self.stage.name, error)
            self.foreign_at = now
        for partition in [p for p, o in self.warm.items() if now - o.silent_since > WARM_SECONDS]:
            del self.warm[partition]
        if now - self.observed_at >= FOREIGN_SECONDS:
            self.observed_at = now
            if self.keeper is not None:
                self.keeper.vault.observe()
            self.observer.reachable(self.stage.name, self.member.reachable)
            self.stage.observe({p: o.shard for p, o in self.owned.items()})
            for partition, owned in self.owned.items():
                mark = owned.shard.watermark_ms
                if mark != UNKNOWN:
                    self.observer.watermark(self.stage.name, partition, self.wall() - mark / 1000.0)
                end = owned.ended_at if owned.ended_at is not None else self.member.known_end(partition)
                if end is not None:
                    self.observer.lag(partition, max(0, end - owned.position))


def _told_since(partition: Partition, bookmark: Bookmark, count: int) -> list[Told]:
    """What the partition was told after so many."""
    if count < bookmark.told_before:
        raise UserError(
            f"{_name(partition)} was told of {bookmark.told_before + len(bookmark.told)} models, and the newest {len(bookmark.told)} are kept with "
            f"its committed offset; its state would have to be rebuilt from before those, with no intact snapshot newer. Bring the snapshots back "
            f"([state] url), or start anew with another [output] prefix"
        )
    return bookmark.told[count - bookmark.told_before :]


def _require_reach(partition: Partition, begin: int, committed: int, span: Span, snapshots: bool) -> None:
    """State is rebuilt from the log, so the log must still hold what comes after the snapshot, or all of it without one."""
    if span.start > begin and committed > begin:
        missing = "and no intact snapshot is newer. Bring the snapshots back ([state] url), or" if snapshots else "so its state is gone:"
        raise UserError(
            f"the log of {_name(partition)} must reach back to offset {begin}, where its state began; it starts at {span.start}, {missing} "
            f"start anew with another [output] prefix (a new consumer group, fresh topics); keep the topic longer than [state] snapshot_interval"
        )


def _require_end(partition: Partition, committed: int, span: Span) -> None:
    """The log must hold what was committed."""
    if committed > span.end:
        raise UserError(
            f"the log of {_name(partition)} ends at {span.end}, before the committed offset {committed}: the topic was recreated. "
            f"Start anew with another [output] prefix, or delete the consumer group"
        )


def _name(partition: Partition) -> str:
    return f"{partition.topic}[{partition.partition}]"
