"""A clickstream through the real ingest engine, and what was said of every session on the way, with what became of it.

The recorder stands where the engine's scorer stands, and passes everything on: what is scored here is what runs live. It keeps
each event's counters, what every model said of it, and, once the engine has settled the session, the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.intent.scorer import IntentScorer
from models.protocol import IntentSpec, Ints, Scores, SessionRuns, State
from models.train.intent import Sessions
from stream.config import Config, Source, UserError
from stream.engine import activity
from stream.engine.columns import Rows
from stream.engine.features import FEATURES
from stream.engine.ingest import IngestShard, IngestSpec
from stream.engine.sessions import SessionBook, SessionSpec
from stream.engine.time import MINUTE_MS, Zone
from stream.mapping import Decoder, Piece

POSITIONS = (1, 2, 3, 5, 10)
LONGEST = 50
"""Events of a session that are kept."""
NAMED = 20
"""Items that are named as likely to come next."""

_PIECE = 500

Floats32 = NDArray[np.float32]


@dataclass(slots=True)
class Events:
    """What was recorded: one entry an event, sessions in order of their numbers, events of one adjacent and in order of arrival."""

    session: Ints
    position: Ints
    time_ms: Ints
    offset: Ints
    item: Ints
    category: Ints
    x: Floats32
    named: Ints
    """int64[events, NAMED], hashes of the items that were likely to come next, 0 for none."""
    said: Floats32
    """float32[events, models], probability of a purchase."""
    models: list[str]
    purchase_position: Ints
    """int64[sessions], 0 for never."""
    cart_position: Ints
    known_ms: Ints
    """int64[sessions], when the outcome was known, by the watermark; a session that was open at the end has none, see `settled`."""
    settled: NDArray[np.bool_]
    bot: NDArray[np.bool_]
    start_ms: Ints

    def risk(self) -> NDArray[np.bool_]:
        """bool[events], the session has an outcome, is no robot's, and had not bought by this event."""
        at = self.purchase_position[self.session]
        open_yet = (at == 0) | (self.position < at)
        return np.asarray((self.settled & ~self.bot)[self.session] & open_yet, dtype=np.bool_)

    def label(self) -> NDArray[np.float64]:
        """float64[events], 1 where the session bought later."""
        return (self.purchase_position[self.session] > self.position).astype(np.float64)

    def learnable(self) -> NDArray[np.bool_]:
        """bool[sessions], those that have an outcome, are no robots', and whose beginning has not been forgotten."""
        whole = np.zeros(len(self.settled), np.bool_)
        whole[self.session[self.position == 1]] = True
        return np.asarray(self.settled & ~self.bot & whole, dtype=np.bool_)

    def sessions(self) -> Sessions:
        """The learnable sessions, as training wants them."""
        chosen = self.learnable()
        rows = np.flatnonzero(chosen[self.session])
        number = np.flatnonzero(chosen)
        begin = np.searchsorted(self.session[rows], np.append(number, len(chosen)))
        return Sessions(
            self.x[rows],
            self.item[rows],
            self.category[rows],
            begin.astype(np.int64),
            self.purchase_position[number],
            self.cart_position[number],
        )


class Recorder:
    """An IntentModel that passes on to a scorer and remembers."""

    name: ClassVar[str] = "recorder"

    def __init__(self, scorer: IntentScorer, most: int | None = None, names: bool = True) -> None:
        """Watches.

        Args:
            scorer: to pass on to.
            most: events that are kept, at most: the newest; None: all.
            names: keep which items the engine would name as next, where it does.
        """
        self.scorer = scorer
        self.most, self.names, self.held = most, names, 0
        self.models = ["nowcart", *scorer.members]
        self.parts: list[dict[str, NDArray[Any]]] = []
        self.outcomes: list[tuple[Ints, Ints, Ints, Ints, NDArray[np.bool_]]] = []
        self.serial: Ints = np.zeros(0, np.int64)
        self.begun = 0
        self.starts: list[Ints] = []
        self.rows: Rows | None = None
        self.order: Ints = np.zeros(0, np.int64)
        self.book: SessionBook | None = None

    def watch(self, book: SessionBook) -> None:
        """Learns from here on which rows the engine is stepping.

        Args:
            book: whose model this is.
        """
        self.book, step = book, book.step

        def watched(rows: Rows, *rest: Any) -> Any:
            keys = rows.user if book.spec.by_user else rows.session
            assert keys is not None
            place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
            # As the book orders them: by session, in order of appearance.
            self.rows, self.order = rows, np.argsort(np.fromiter(map(place.__getitem__, keys), np.int64, len(keys)), kind="stable")
            return step(rows, *rest)

        setattr(book, "step", watched)  # noqa: B010  (on this book alone)

    def resize(self, capacity: int) -> None:
        self.scorer.resize(capacity)
        self.serial = np.concatenate([self.serial, np.full(capacity - len(self.serial), -1, np.int64)])

    def score(self, runs: SessionRuns) -> Scores:
        assert self.rows is not None and runs.item is not None and runs.category is not None
        said: list[NDArray[Any]] = []
        inner = self.scorer.members_logits

        def overheard(given: SessionRuns) -> NDArray[np.float64]:
            logits = inner(given)
            said.append(logits)
            return logits

        setattr(self.scorer, "members_logits", overheard)  # noqa: B010  (on this scorer alone, for this call)
        try:
            scores = self.scorer.score(runs)
        finally:
            setattr(self.scorer, "members_logits", inner)  # noqa: B010
        first = np.flatnonzero(runs.position == 1)
        self.serial[runs.slot[first]] = self.begun + np.arange(len(first))
        self.begun += len(first)
        rows = self.rows
        time_ms = rows.time_ms[self.order]
        self.starts.append(time_ms[first])
        keep = np.flatnonzero(runs.position <= LONGEST)
        self.held += len(keep)
        while self.most is not None and self.parts and self.held - len(self.parts[0]["session"]) > self.most:
            self.held -= len(self.parts.pop(0)["session"])
        members = 1 / (1 + np.exp(-np.clip(said[0][:, 0, :], -30, 30)))
        self.parts.append(
            {
                "session": self.serial[runs.slot[keep]],
                "position": runs.position[keep],
                "time_ms": time_ms[keep],
                "offset": rows.offset[self.order][keep],
                "item": runs.item[keep],
                "category": runs.category[keep],
                "x": runs.x[keep],
                "named": self._named(runs, keep),
                "said": np.concatenate([scores.purchase[None], members])[:, keep].T.astype(np.float32),
            }
        )
        return scores

    def _named(self, runs: SessionRuns, keep: Ints) -> Ints:
        """What the engine would name as next after these events; of those about an item."""
        assert self.book is not None and runs.item is not None and runs.category is not None
        found = np.zeros((len(keep), NAMED), np.int64)
        if self.names and self.book.next_items is not None:
            some = np.flatnonzero(runs.item[keep] != 0)
            assert self.book.shown is not None
            found[some] = self.book.next_items.rank(self.book.shown.cut(keep[some]), NAMED)[0]
        return found

    def settle(self, slots: Ints, purchase_position: Ints, cart_position: Ints) -> None:
        assert self.book is not None
        bots = self.book.bots(slots)
        known = self.book.last_ms[slots] + self.book.spec.gap_ms + self.book.spec.label_delay_ms
        self.outcomes.append((self.serial[slots], np.where(bots, 0, purchase_position), np.where(bots, 0, cart_position), known, bots))
        self.scorer.settle(slots, purchase_position, cart_position)

    def slot_state(self) -> State:
        return self.scorer.slot_state()

    def shared_state(self) -> State:
        return self.scorer.shared_state()

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self.scorer.restore(state)

    def events(self) -> Events:
        """All that was recorded so far."""
        joined = {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}
        order = np.lexsort((joined["position"], joined["session"]))
        joined = {name: values[order] for name, values in joined.items()}
        count = self.begun
        purchase, cart, known = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64)
        settled, bot = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        for serial, bought, carted, known_ms, bots in self.outcomes:
            purchase[serial], cart[serial], known[serial], settled[serial], bot[serial] = bought, carted, known_ms, True, bots
        return Events(
            **joined,
            models=self.models,
            purchase_position=purchase,
            cart_position=cart,
            known_ms=known,
            settled=settled,
            bot=bot,
            start_ms=np.concatenate(self.starts) if self.starts else np.zeros(0, np.int64),
        )


@dataclass(slots=True)
class Counts:
    """What the engine made of the messages."""

    messages: int = 0
    events: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    late: int = 0


def make_shard(config: Config, source: Source, recorder: Recorder) -> IngestShard:
    """The engine as `run` makes it for a topic of one partition, with the recorder in the scorer's place.

    Args:
        config: the user's.
        source: its clickstream.
        recorder: watches.
    """
    intent, time = config.intent, config.time
    smallest = config.demand.buckets[0]
    spec = IngestSpec(
        time.out_of_orderness_ms, time.allowed_lateness_ms, smallest.size, min(smallest.size_ms, 15 * MINUTE_MS), Zone(time.zone), 1,
        intent.max_sessions, config.demand.source == "clickstream",
    )  # fmt: skip
    session = SessionSpec(
        intent.session_gap_ms,
        True,
        intent.publish_delta,
        intent.thresholds,
        "session" not in source.fields,
        label_delay_ms=intent.label_delay_ms,
        next_items=NAMED,
    )
    book = SessionBook(session, recorder, recorder.scorer.version)
    recorder.watch(book)
    return IngestShard(activity.Source(source.name, 0), "clickstream", spec, book)


def clickstream_of(config: Config, name: str | None) -> Source:
    """The clickstream that is meant.

    Args:
        config: the user's.
        name: of its source; None: the only one.

    Raises:
        UserError: there is none of the name, or it is no clickstream.
    """
    found = [source for source in config.sources.values() if source.kind == "clickstream" and name in (None, source.name)]
    if not found:
        raise UserError(
            f"backtest --intent must have a source of kind clickstream{'' if name is None else f' named {name!r}'}; the configuration has none"
        )
    return found[0]


def replay(
    config: Config,
    source: Source,
    pieces: Iterable[Piece],
    at: Sequence[int],
    reached: Callable[[int, Recorder], None],
    tell: Callable[[int], None],
) -> tuple[Events, Counts]:
    """Takes the messages through decoder and engine.

    Args:
        config: the user's.
        source: its clickstream.
        pieces: in order of the log.
        at: event times, ascending, at which `reached` is called, once the watermark has come by.
        reached: told the number of the time and the recorder, between two batches.
        tell: told how many messages are done.

    Returns:
        What was recorded, and what the engine made of the messages.
    """
    scorer = IntentScorer(IntentSpec(features=FEATURES))
    recorder = Recorder(scorer)
    shard = make_shard(config, source, recorder)
    decoder = Decoder(source, config.time, Zone(config.time.zone))
    counts, following = Counts(), 0
    for piece in pieces:
        decoded = decoder.decode(piece)
        counts.messages += len(piece.values)
        counts.events += len(decoded.rows)
        for bad in decoded.rejected:
            counts.rejected[bad.reason] = counts.rejected.get(bad.reason, 0) + 1
        done = shard.step(decoded.rows)
        counts.late += done.late_dropped
        while following < len(at) and shard.watermark_ms >= at[following]:
            reached(following, recorder)
            assert shard.book is not None
            shard.book.version = scorer.version
            following += 1
        tell(counts.messages)
    return recorder.events(), counts


def pieces_of(values: Iterator[list[bytes]]) -> Iterator[Piece]:
    """Messages with the offsets that a fresh topic would give them, few at a time, so that a cut is noticed soon.

    Args:
        values: a file's.
    """
    offset = 0
    for part in values:
        for at in range(0, len(part), _PIECE):
            some = part[at : at + _PIECE]
            yield Piece(list(range(offset, offset + len(some))), [-1] * len(some), list(some))
            offset += len(some)
