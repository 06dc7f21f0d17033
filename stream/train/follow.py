"""The trainer that goes on: follows the activity topic beside the engine, trains challengers, and announces one when it has proved better.

It reads without a group and writes nothing but artefacts and announcements, so it can neither slow nor stop an engine. All that it knows it
rebuilds from the topic when it starts; what is not in there, which challenger it was testing, stands in the state store.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from models.demand.network import Weights
from models.train.artefact import weights_of
from models.train.card import Card, Data
from models.train.learning import refit, train
from models.train.recorder import Recorder
from models.train.trainer import Trainer
from stream.config import Config
from stream.engine.activity import Block
from stream.engine.forecast import BUILTIN, ForecastSpec
from stream.engine.time import Grid
from stream.kafka.log import Partition
from stream.kafka.reader import Tail
from stream.runners.forecast import block_of
from stream.state.artefacts import Announcement, Artefacts, ArtefactUnusable, decode_announcement, open_artefacts
from stream.state.errors import Damaged
from stream.train.announce import announce, announced
from stream.train.course import deepened, joined, most, survey
from stream.train.history import ActivityHistory
from stream.train.run import LEAST_BUCKETS, LEAST_EXAMPLES, Plan, finish
from stream.train.shadow import Duel, Part

logger = logging.getLogger("nowcart.train")

_QUEUED = 5_000
_KEPT_BUCKETS = 2_000
"""Of the champion's scores."""
NOTES = "trainer.json"


class Note(msgspec.Struct):
    """What the trainer is testing, of one bucket size."""

    challenger: str = ""
    former: str = ""
    """The version that was in use before the present one: it comes back when it proves better."""


class Notes(Protocol):
    """Where the notes are kept over a restart."""

    def read(self) -> dict[str, Note]: ...
    def write(self, notes: dict[str, Note]) -> None: ...


class StoreNotes:
    """In the state store, beside the artefacts.

    Args:
        artefacts: name the place.
    """

    def __init__(self, artefacts: Artefacts) -> None:
        self._folder = artefacts.folder
        self._path = artefacts.folder.path(artefacts.namespace, "models", NOTES)

    def read(self) -> dict[str, Note]:
        """Those that were written last; none where there are none, or they cannot be understood."""
        try:
            return msgspec.json.decode(self._folder.get(self._path), type=dict[str, Note])
        except (Damaged, msgspec.DecodeError):
            return {}

    def write(self, notes: dict[str, Note]) -> None:
        """Replaces them."""
        self._folder.put(self._path, [msgspec.json.encode(notes)])


@dataclass(slots=True)
class _Size:
    """What goes on for one bucket size."""

    orders: list[tuple[int, str]] = field(default_factory=list)
    """(event time, version), in order: when the champion's weights change."""
    taken: list[int] = field(default_factory=list)
    """Part -> how many of them it has taken."""
    challenger: str = ""
    former: str = ""
    duels: dict[str, Duel] = field(default_factory=dict)
    next_ms: int | None = None
    """Event time of the next training; None: when what is in the topic now has been read."""

    @property
    def champion(self) -> str:
        """The version in use."""
        return self.orders[-1][1] if self.orders else BUILTIN


class Follower:
    """Champion, challengers and the evidence. Takes blocks and announcements from whoever reads them.

    Args:
        config: the user's.
        plan: how to train.
        interval_ms: event time between two trainings.
        spec: of the shards.
        recorders: makes a partition's recorders by bucket size.
        parts: partitions.
        artefacts: where versions stand.
        notes: what was being tested.
        say: publishes an announcement.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        interval_ms: int,
        spec: ForecastSpec,
        recorders: Callable[[], dict[str, Recorder]],
        parts: int,
        artefacts: Artefacts,
        notes: Notes,
        say: Callable[[Announcement], None],
    ) -> None:
        self.config, self.plan, self.interval_ms, self.spec = config, plan, interval_ms, spec
        self.artefacts, self.notes, self.say = artefacts, notes, say
        self.parts = [Part.fresh(spec, recorders()) for _ in range(parts)]
        self.queues: list[deque[tuple[int, Block]]] = [deque() for _ in range(parts)]
        self.known: dict[str, tuple[Card, Weights]] = {}
        noted = notes.read()
        self.sizes = {part.demand.size: _Size(taken=[0] * parts) for part in spec.resolutions}
        for size, state in self.sizes.items():
            note = noted.get(size, Note())
            state.challenger, state.former = note.challenger, note.former
            for version in filter(None, (note.challenger, note.former)):
                if version != BUILTIN and not self._have(version):
                    state.challenger = "" if version == state.challenger else state.challenger
                    state.former = "" if version == state.former else state.former

    # -- what comes in -----------------------------------------------------------------------------------------------

    def hear(self, announcement: Announcement) -> None:
        """An announcement, ours or anybody's."""
        state = self.sizes.get(announcement.size)
        if state is None or announcement.version == state.champion or announcement.model != "demand":
            return
        from_ms = announcement.from_ms
        if announcement.version != BUILTIN:
            if not self._have(announcement.version):
                return
            # What it was trained on must not judge it.
            from_ms = max(from_ms, self.known[announcement.version][0].data.until_ms)
        state.orders.append((from_ms, announcement.version))

    def queue(self, part: int, at: int, block: Block) -> None:
        """A block; `at` is where the next one stands."""
        self.queues[part].append((at, block))

    @property
    def queued(self) -> int:
        """Blocks that wait."""
        return sum(map(len, self.queues))

    def advance(self, idle: set[int], began: bool) -> None:
        """Takes what waits, as far as the next training; then trains, if all partitions have come to it.

        Args:
            idle: partitions whose end has been read: they are not waited for.
            began: everything that stood in the topic at the start has been read.
        """
        for number, part in enumerate(self.parts):
            self._events(number, part)
            while self.queues[number] and not self._due(part):
                part.step(*self.queues[number].popleft())
                self._events(number, part)
            for judge in part.judges.values():
                judge.forget(_KEPT_BUCKETS)
        self._decide()
        if all(self._due(part) or (n in idle and not self.queues[n]) for n, part in enumerate(self.parts)):
            for size, state in self.sizes.items():
                if self._wants(state, began and not self.queued):
                    self._challenge(size, state)
            for number, part in enumerate(self.parts):
                self._events(number, part)

    def _due(self, part: Part) -> bool:
        """Whether the part has come to a training."""
        mark = part.watermark_ms
        waits = [state.next_ms for state in self.sizes.values() if not state.challenger and state.next_ms is not None]
        return mark is not None and any(mark >= at for at in waits)

    def starving(self, part: int) -> bool:
        """Whether a part has no blocks."""
        return not self.queues[part]

    def _wants(self, state: _Size, began: bool) -> bool:
        if state.challenger:
            return False
        if state.next_ms is None:
            return began
        return self._mark() >= state.next_ms

    def _mark(self) -> int:
        return max((part.watermark_ms or 0 for part in self.parts), default=0)

    # -- weights -----------------------------------------------------------------------------------------------------

    def _events(self, number: int, part: Part) -> None:
        """The champion's changes, and shadows that begin, whose event time has come."""
        mark = part.watermark_ms
        if mark is None:
            return
        for size, state in self.sizes.items():
            while state.taken[number] < len(state.orders) and state.orders[state.taken[number]][0] <= mark:
                at = state.taken[number]
                version = state.orders[at][1]
                before = state.orders[at - 1][1] if at else BUILTIN
                state.taken[number] += 1
                if at == len(state.orders) - 1 and state.former == before and (size, before) not in part.shadows:
                    self._fork(part, size, before)
                    state.duels.setdefault(before, Duel(size, before))
                part.shadows.pop((size, version), None)
                state.duels.pop(version, None)
                # Evidence against the champion before says nothing about this one.
                state.duels |= {other: Duel(size, other) for other in state.duels}
                weights, follows = self._weights(version)
                part.resolution(size).take(version, weights, follows)
            challenger = state.challenger
            begins = challenger and (size, challenger) not in part.shadows and state.taken[number] == len(state.orders)
            if begins and self.known[challenger][0].data.until_ms <= mark:
                self._fork(part, size, challenger)
                state.duels.setdefault(challenger, Duel(size, challenger))

    def _fork(self, part: Part, size: str, version: str) -> None:
        weights, follows = self._weights(version)
        part.fork(size, version, weights, follows, {name: trained for name, (_, trained) in self.known.items()})

    def _weights(self, version: str) -> tuple[Weights | None, str]:
        if version == BUILTIN:
            return None, ""
        card, weights = self.known[version]
        return weights, card.follows

    def _have(self, version: str) -> bool:
        if version not in self.known:
            try:
                card, arrays = self.artefacts.read(version)
                self.known[version] = (card, weights_of(card, arrays))
            except (ArtefactUnusable, ValueError) as error:
                logger.warning("%s", error)
                return False
        return True

    # -- decisions ---------------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        for size, state in self.sizes.items():
            for version, duel in list(state.duels.items()):
                duel.look(self.parts)
                if duel.won:
                    self._promote(size, state, version, duel)
                    break
                if duel.lost:
                    logger.info("%s: %s is let go: %s", size, version, duel)
                    self._drop(size, state, version)

    def _promote(self, size: str, state: _Size, version: str, duel: Duel) -> None:
        back = version == state.former
        why = f"{'rolled back' if back else 'promoted'}: {duel}"
        logger.info("%s: %s takes the place of %s, %s", size, version, state.champion, why)
        former = state.champion
        for old in filter(None, (state.challenger, state.former)):
            self._drop(size, state, old)
        state.challenger, state.former = "", former
        from_ms = self._mark()
        state.orders.append((from_ms, version))
        state.next_ms = from_ms + self.interval_ms
        self._write()
        if version == BUILTIN:
            self.say(Announcement(model="demand", version=BUILTIN, size=size, from_ms=from_ms, why=why))
        else:
            self.say(msgspec.structs.replace(self.artefacts.announcement(version, why), from_ms=from_ms))

    def _drop(self, size: str, state: _Size, version: str) -> None:
        for part in self.parts:
            part.shadows.pop((size, version), None)
        state.duels.pop(version, None)
        if version == state.challenger:
            state.challenger = ""
        if version == state.former:
            state.former = ""
        self._write()

    def _challenge(self, size: str, state: _Size) -> None:
        """Trains on everything that all partitions have closed."""
        state.next_ms = self._mark() + self.interval_ms
        closed = [
            c for part in self.parts if (c := part.resolution(size).windows.closed) is not None and len(part.recorders[size].examples(c))
        ]
        if not closed:
            return
        end = min(closed)
        spec = self.parts[0].resolution(size).spec
        everything = joined([part.recorders[size].examples(end) for part in self.parts])
        if len(everything) < LEAST_EXAMPLES or end - int(everything.issue.min()) < LEAST_BUCKETS:
            logger.info("%s: %d examples so far, too few to train on", size, len(everything))
            return
        early = end - max(1, (end - int(everything.issue.min())) // 10)
        trainer = Trainer(spec, self.parts[0].recorders[size].layout, self.plan.members, self.plan.seed, self.plan.shape, self.plan.trees)
        examples = joined([part.recorders[size].examples(early) for part in self.parts])
        newest = joined([part.recorders[size].examples(end, early) for part in self.parts])

        def quiet(*_: Any) -> None:
            return

        fitted = train(trainer, examples, newest, self.plan.options, "challenger", quiet, quiet)
        weights = refit(trainer, everything, fitted, self.plan.options, "challenger", quiet)
        grid = Grid(size, self.spec.zone)
        data = Data(
            source=self.config.output.topic("activity"),
            first_ms=grid.start_of(int(everything.issue.min())),
            until_ms=grid.end_of(end),
            examples=len(everything),
            items=sum(part.champion.items_live for part in self.parts),
        )
        metrics = {
            "network": {"wql": None},
            "untrained": {"wql": None},
            "judged": "against the champion on live forecasts: see the announcement",
        }
        follows = state.champion if state.champion != BUILTIN else ""
        made = finish(self.config, weights, trainer, fitted, everything, data, metrics, self.plan, follows)
        if made.card.version in (state.champion, state.former):
            return
        self.artefacts.write(made.card, made.arrays)
        self.known[made.card.version] = (made.card, made.weights)
        state.challenger = made.card.version
        self._write()
        logger.info("%s: %s challenges %s: %d examples, %d epochs", size, made.card.version, state.champion, len(everything), fitted.epochs)

    def _write(self) -> None:
        self.notes.write({size: Note(state.challenger, state.former) for size, state in self.sizes.items()})


def follow(config: Config, plan: Plan, interval_ms: int, stop: threading.Event, *, until_end: bool = False, dry_run: bool = False) -> None:
    """Follows the topic until told to stop.

    Args:
        config: the user's.
        plan: how to train.
        interval_ms: event time between two trainings.
        stop: set from outside.
        until_end: stop where the topic ends now.
        dry_run: announce nothing.

    Raises:
        UserError: there is no topic.
        LogError: Kafka cannot be used.
    """
    history = ActivityHistory.open(config)
    found = survey(history, lambda what, share: None)
    spec = deepened(history.spec)
    specs = {part.demand.size: part.demand for part in spec.resolutions}
    layouts = {size: known.layout(specs[size]) for size, known in found.items()}
    parts = len(history.ends)

    def recorders() -> dict[str, Recorder]:
        return {size: Recorder(layout, most(layout) // parts, skip=min(12, specs[size].horizon)) for size, layout in layouts.items()}

    artefacts = open_artefacts(config)

    def say(announcement: Announcement) -> None:
        if dry_run:
            logger.info("--dry-run: %s is not announced", announcement.version)
        else:
            announce(config, [announcement])

    follower = Follower(config, plan, interval_ms, spec, recorders, parts, artefacts, StoreNotes(artefacts), say)
    for announcement in announced(config):
        follower.hear(announcement)
    activity, models = config.output.topic("activity"), config.output.topic("models")
    logger.info("following '%s' from its beginning: %s blocks so far", activity, f"{sum(history.ends):,}")
    with Tail(config.kafka, [activity, models]) as tail:
        ends: dict[Partition, int] = {}
        places = [Partition(activity, number) for number in range(parts)]
        left = {place for place in places if history.ends[place.partition] > 0}
        while not stop.is_set():
            wanted = follower.queued < _QUEUED or any(follower.starving(place.partition) and place not in ends for place in places)
            fetched = tail.fetch(1_000, 0.2) if wanted else None
            if fetched is not None:
                for messages in fetched.batches:
                    place = messages.partition
                    ends.pop(place, None)
                    if place.topic == models:
                        for value in messages.values:
                            _hear(follower, value or b"")
                        continue
                    for offset, value in zip(messages.offsets, messages.values, strict=True):
                        follower.queue(place.partition, offset + 1, block_of(place, offset, value))
                ends |= fetched.ends
            left -= ends.keys()
            follower.advance({place.partition for place in places if place in ends or not history.ends[place.partition]}, not left)
            if until_end and not left and not follower.queued:
                return


def _hear(follower: Follower, value: bytes) -> None:
    try:
        follower.hear(decode_announcement(value))
    except ArtefactUnusable as error:
        logger.warning("%s", error)
