"""Training of the intent model: a clickstream's past goes through the ingest stage as it does live, a recorder stands where the scorer
stands, and what its sessions did and became is what the network learns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.intent.probes import HEADS
from models.intent.scorer import IntentScorer
from models.intent.weights import EMBEDDED, INNER, WIDTH, IntentWeights
from models.train.card import Card, Data, version_name
from models.train.intent import Sessions, Training, fit_intent
from stream.backtest.intent_record import Counts, Events, Recorder, pieces_of, replay
from stream.config import Config, Source
from stream.engine.features import NAMES, OPTIONAL_COLUMNS
from stream.kafka.admin import Admin
from stream.kafka.log import Messages, Partition
from stream.kafka.reader import Tail
from stream.replay.formats import open_table
from stream.runners.ingest import IngestStage, IngestWork, read_topic
from stream.runners.weights import INTENT
from stream.state.artefacts import digest
from stream.tables import UserError

MOST_EVENTS = 5_000_000
"""The newest so many are learnt from: a kilobyte of memory is four of them."""
_AT_ONCE = 20_000

Progress = Callable[[str, int, int], None]
"""Told (what is being done, how much is done, of how much; 0: nobody knows)."""


class _Silent:
    """An observer that nobody asks."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def from_file(config: Config, source: Source, path: Path, progress: Progress) -> Events:
    """What a file's sessions did and became.

    Args:
        config: the user's.
        source: its clickstream.
        path: of the messages, as they came.
        progress: is told how many are done.

    Raises:
        UserError: nothing in it can be read as events of this source.
    """
    table = open_table(path)
    counts: Counts
    events, counts = replay(
        config, source, pieces_of(part.values for part in table.pieces(())), (), lambda *_: None, lambda done: progress("reading", done, 0)
    )
    if not counts.events:
        raise UserError(f"{path} must hold events that [sources.{source.name}] understands; got none: see `nowcart check`")
    return events


def from_topic(config: Config, source: Source, progress: Progress) -> list[Events]:
    """What a topic's sessions did and became, a partition after the other, from what the topic still holds up to its present end.

    Args:
        config: the user's.
        source: its clickstream.
        progress: is told how many messages are done.

    Raises:
        UserError: the topic is empty, or holds nothing that can be read as events.
        LogError: Kafka cannot be used.
    """
    topic = read_topic(source, config)
    partitions = Admin(config.kafka).topics()
    if topic not in partitions:
        raise UserError(
            f"the topic '{topic}' of [sources.{source.name}] must exist; it does not: create it, or train from a file with --source"
        )
    stage = IngestStage(config, partitions, _Silent())
    works: dict[int, IngestWork] = {}
    recorders: dict[int, Recorder] = {}
    for number in range(partitions[topic]):
        work = stage.open(Partition(topic, number))
        assert isinstance(work, IngestWork)
        assert work.engine.book is not None
        work.quiet = True
        book = work.engine.book
        scorer = book.model
        assert isinstance(scorer, IntentScorer)
        recorder = Recorder(scorer, MOST_EVENTS // partitions[topic], names=False)
        recorder.resize(book.capacity)
        recorder.watch(book)
        book.model = recorder
        works[number], recorders[number] = work, recorder
    done = 0
    for messages, of in _messages(config, topic):
        work = works[messages.partition.partition]
        work.accept(messages)
        while work.waiting:
            for _ in work.step(np.iinfo(np.int64).max, _AT_ONCE).outputs:
                pass
        done += len(messages)
        progress("reading", done, of)
    found = [recorder.events() for recorder in recorders.values() if recorder.parts]
    if not found:
        raise UserError(
            f"the topic '{topic}' must hold events that [sources.{source.name}] understands; got none of {done:,} messages: see `nowcart check`"
        )
    return found


def _messages(config: Config, topic: str) -> Iterator[tuple[Messages, int]]:
    """Everything that the topic holds up to its present end, and how much that is."""
    with Tail(config.kafka, [topic], from_start=True) as tail:
        ends = {partition: end for partition, end in tail.ends().items() if end > 0}
        left, of = set(ends), sum(ends.values())
        while left:
            fetched = tail.fetch(_AT_ONCE, 0.2)
            for messages in fetched.batches:
                yield messages, of
            left -= fetched.ends.keys()


def joined(parts: list[Events]) -> tuple[Sessions, int, int]:
    """All partitions' sessions whose outcome is known, robots left out, in order of their starts; the first and the last event's time.

    Args:
        parts: of each partition.
    """
    each = [events.sessions() for events in parts]
    order = np.argsort(np.concatenate([events.start_ms[events.learnable()] for events in parts]), kind="stable")
    length = np.concatenate([np.diff(one.begin) for one in each])
    offset = np.concatenate([[0], np.cumsum(length)])[:-1]
    begin = np.concatenate([[0], np.cumsum(length[order])])
    rows = np.repeat(offset[order], length[order]) + np.arange(int(length.sum())) - np.repeat(begin[:-1], length[order])

    def all_of(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(one, name) for one in each])

    sessions = Sessions(
        all_of("x")[rows],
        all_of("item")[rows],
        all_of("category")[rows],
        begin.astype(np.int64),
        all_of("purchase_position")[order],
        all_of("cart_position")[order],
    )
    return sessions, min(int(one.time_ms.min()) for one in parts), max(int(one.time_ms.max()) for one in parts)


def train(config: Config, where: str, parts: list[Events], epochs: int, seed: int, progress: Progress) -> tuple[Card, IntentWeights]:
    """Trains; gives the weights and their card.

    Args:
        config: the user's.
        where: the topic or file.
        parts: of each partition.
        epochs: of training.
        seed: of all that is drawn.
        progress: is told the epochs.

    Raises:
        UserError: nobody bought, or everybody did.
    """
    sessions, first_ms, until_ms = joined(parts)
    how = Training(epochs=epochs, seed=seed, optional=OPTIONAL_COLUMNS)
    try:
        weights, told = fit_intent(sessions, how, progress=lambda epoch, loss: progress(f"training, loss {loss:.4f}", epoch + 1, epochs))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    sha256, size = digest(weights.arrays())
    groups = dict(zip((", ".join(NAMES[column] for column in group) for group in OPTIONAL_COLUMNS), told["optional_kept"], strict=True))
    card = Card(
        model="intent",
        version=version_name("intent", INTENT, until_ms, sha256),
        size=INTENT,
        horizon=0,
        levels=(),
        layout={"features": list(NAMES), "heads": list(HEADS)},
        shape={"width": WIDTH, "inner": INNER, "embedded": EMBEDDED},
        data=Data(source=where, first_ms=first_ms, until_ms=until_ms, examples=told["events"], items=told["sessions"]),
        metrics={"network": told["held_out"], "buyers": told["buyers"], "sessions": told["sessions"]},
        recipe={"epochs": epochs, "epoch_losses": told["epoch_losses"], "batch": how.batch, "rate": how.rate, "looked_at": groups},
        seed=seed,
        checksum=config.checksum(),
        versions={name: metadata.version(name) for name in ("nowcart", "numpy", "torch")},
        sha256=sha256,
        bytes=size,
    )
    return card, weights
