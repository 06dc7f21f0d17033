"""Trained weights as the stages see them: what is announced, and what has been fetched and verified, all in threads of its own.

A library that cannot fetch what a snapshot names ends the process with one message. One that cannot fetch what is announced says so and
leaves the engine with the weights it has.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from numpy.typing import NDArray

from models.demand.network import Weights
from models.intent.weights import VERSION as INTENT_BUILTIN
from models.intent.weights import IntentWeights, drawn
from models.protocol import DemandSpec
from models.train.artefact import weights_of
from models.train.card import Card, CardError
from stream.engine.forecast import BUILTIN, Swap
from stream.kafka.log import LogError, Messages
from stream.kafka.reader import Tail
from stream.state.artefacts import Announcement, Artefacts, ArtefactUnusable, decode_announcement
from stream.state.errors import StoreError, StoreUnavailable

logger = logging.getLogger("nowcart.models")

_PATIENCE_S = 20.0
"""So long a start waits for what has been announced; then it begins without, and takes it when it comes."""

_AGAIN_S = 30.0
"""Between two tries to fetch what was announced while the store was away."""


INTENT = "sessions"
"""What weights of the intent model are for, in the place of a bucket size."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A version for demand, ready to be used."""

    card: Card
    weights: Weights


@dataclass(frozen=True, slots=True)
class TrainedIntent:
    """A version for intent, ready to be used."""

    card: Card
    weights: IntentWeights


T = TypeVar("T")
Made_co = TypeVar("Made_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Order:
    """That a bucket size takes a version from an event time on: a line of text, for offsets' metadata."""

    size: str
    version: str
    from_ms: int = 0

    @property
    def text(self) -> str:
        """As it is journalled."""
        return f"{self.size} {self.version} {self.from_ms}"

    @staticmethod
    def read(text: str) -> Order:
        """What `text` gave."""
        size, version, from_ms = text.split(" ")
        return Order(size, version, int(from_ms))


class Room(Protocol[Made_co]):
    """Where a shard finds weights. Calls return at once."""

    def order(self, size: str) -> Order | None:
        """The newest announcement of a bucket size whose weights are here."""

    def ready(self, versions: Iterable[str]) -> bool:
        """Whether all of these are here; what is not is being fetched. Raises StoreError for one that cannot be had."""

    def get(self, version: str) -> Made_co:
        """One that ready() said is here."""


Weightroom = Room[Trained]
IntentRoom = Room[TrainedIntent]


class Shelf(ABC, Generic[T]):
    """Fetches weights and remembers them.

    Args:
        artefacts: where they stand.
        builtin: the version that comes with the package.
    """

    def __init__(self, artefacts: Artefacts, builtin: str) -> None:
        self.artefacts = artefacts
        self.builtin = builtin
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._lock = threading.Lock()
        self._known: dict[str, Announcement] = {}
        self._fetched: dict[str, Future[T]] = {}
        self._orders: dict[str, Order] = {}
        self._again: dict[str, Announcement] = {}

    def order(self, size: str) -> Order | None:
        return self._orders.get(size)

    def ready(self, versions: Iterable[str]) -> bool:
        futures = [self._fetch(version) for version in set(versions) - {self.builtin}]
        for future in futures:
            if future.done():
                future.result()  # raises what went wrong, though others are still on their way
        return all(future.done() for future in futures)

    def get(self, version: str) -> T:
        return self._fetch(version).result()

    def hear(self, announcement: Announcement) -> Future[None] | None:
        """An announcement, in the order of the topic; what it returns is done when the weights are here, or cannot be had.

        Args:
            announcement: of any size.
        """
        if not self.wants(announcement):
            return None
        with self._lock:
            self._again.pop(announcement.size, None)
            if announcement.version != self.builtin:
                if self._known.get(announcement.version) != announcement:
                    failed = self._fetched.get(announcement.version)
                    if failed is not None and failed.done() and failed.exception() is not None:
                        del self._fetched[announcement.version]  # announced anew: perhaps it is mended
                self._known[announcement.version] = announcement
        return self._pool.submit(self._take, announcement)

    def try_again(self) -> None:
        """Fetches what was announced while the store was away."""
        with self._lock:
            again = list(self._again.values())
        for announcement in again:
            self.hear(announcement)

    def close(self) -> None:
        """Fetches nothing any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _take(self, announcement: Announcement) -> None:
        if announcement.version != self.builtin:
            try:
                self._read_now(announcement.version)
            except StoreError as error:
                logger.warning("%s", error)
                if isinstance(error, StoreUnavailable):
                    with self._lock:
                        self._again[announcement.size] = announcement
                return
        self._orders[announcement.size] = Order(announcement.size, announcement.version, announcement.from_ms)
        logger.info("announced: %s for %s", announcement.version, announcement.size)

    def _read_now(self, version: str) -> None:
        """In the pool's own thread: it must not wait for itself."""
        with self._lock:
            future = self._fetched.get(version)
            if future is None or (future.done() and future.exception() is not None):
                future = self._fetched[version] = Future()
        if not future.done():
            self._fill(version, future)
        future.result()

    def _fetch(self, version: str) -> Future[T]:
        with self._lock:
            future = self._fetched.get(version)
            if future is None:
                future = self._fetched[version] = Future()
                self._pool.submit(self._fill, version, future)
            return future

    def _fill(self, version: str, future: Future[T]) -> None:
        if future.done():
            return
        try:
            future.set_result(self._read(version))
        except Exception as error:  # noqa: BLE001 - told to whoever asks for the version
            future.set_exception(error)

    def _read(self, version: str) -> T:
        known = self._known.get(version)
        card, arrays = self.artefacts.read(version, known.uri if known else "", known.sha256 if known else "")
        try:
            return self.opened(card, arrays)
        except CardError as error:
            raise ArtefactUnusable(str(error)) from None

    @abstractmethod
    def wants(self, announcement: Announcement) -> bool:
        """Whether it is for this stage."""

    @abstractmethod
    def opened(self, card: Card, arrays: Mapping[str, NDArray[Any]]) -> T:
        """A version's weights from what stands in the store.

        Raises:
            ArtefactUnusable: they do not fit this configuration.
            CardError: they are not what the card says.
        """


class Library(Shelf[Trained]):
    """Networks of demand.

    Args:
        artefacts: where they stand.
        specs: of the bucket sizes that are forecast.
    """

    def __init__(self, artefacts: Artefacts, specs: Iterable[DemandSpec]) -> None:
        super().__init__(artefacts, BUILTIN)
        self.specs = {spec.size: spec for spec in specs}

    def wants(self, announcement: Announcement) -> bool:
        return announcement.model == "demand" and announcement.size in self.specs

    def opened(self, card: Card, arrays: Mapping[str, NDArray[Any]]) -> Trained:
        version, spec = card.version, self.specs.get(card.size)
        if spec is None:
            raise ArtefactUnusable(f"the model {version} must be of a bucket size of [demand]; it is of {card.size}")
        if card.horizon != spec.horizon or tuple(card.levels) != spec.levels:
            raise ArtefactUnusable(
                f"the model {version} must have been trained for horizon {spec.horizon} and quantiles {list(spec.levels)}, as [demand] has them; "
                f"got {card.horizon} and {list(card.levels)}: train it anew"
            )
        return Trained(card, weights_of(card, arrays))


class IntentLibrary(Shelf[TrainedIntent]):
    """Recurrent models of intent.

    Args:
        artefacts: where they stand.
        features: that the engine makes of a session's events.
    """

    def __init__(self, artefacts: Artefacts, features: int) -> None:
        super().__init__(artefacts, INTENT_BUILTIN)
        self.features = features

    def wants(self, announcement: Announcement) -> bool:
        return announcement.model == "intent"

    def opened(self, card: Card, arrays: Mapping[str, NDArray[Any]]) -> TrainedIntent:
        if card.model != "intent":
            raise ArtefactUnusable(f"the model {card.version} must be of intent; it is of {card.model}")
        try:
            weights = IntentWeights.of(card.version, arrays)
        except ValueError as error:
            raise ArtefactUnusable(f"the model {card.version}: {error}") from None
        if len(weights.mean) != self.features:
            raise ArtefactUnusable(
                f"the model {card.version} must be for the {self.features} features that this nowcart makes; it is for {len(weights.mean)}: "
                "train it anew"
            )
        return TrainedIntent(card, weights)


class ModelReader:
    """Follows the topic of models in a thread, without a group, and tells a library.

    Args:
        properties: librdkafka's.
        topic: of the announcements.
        library: hears them.
    """

    def __init__(self, properties: Mapping[str, object], topic: str, library: Shelf[Any]) -> None:
        self.properties, self.topic, self.library = properties, topic, library
        self._stop = threading.Event()
        self._caught_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)

    def start(self) -> None:
        """Begins; returns when all that has been announced so far is here, or after a while."""
        self._thread.start()
        if not self._caught_up.wait(_PATIENCE_S):
            logger.warning("the topic '%s' could not be read to its end within %.0f s; going on without", self.topic, _PATIENCE_S)

    def close(self) -> None:
        """Stops."""
        self._stop.set()
        self._thread.join(5.0)
        self.library.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with Tail(self.properties, [self.topic]) as tail:
                    self._follow(tail)
            except LogError as error:
                logger.warning("models: %s", error)
                self._stop.wait(5.0)

    def _follow(self, tail: Tail) -> None:
        """From the start: a second reading tells nothing that is not so."""
        ends = {partition for partition, end in tail.ends().items() if end > 0}
        tries = time.monotonic()
        while not self._stop.is_set():
            if not ends:
                self._caught_up.set()
            if time.monotonic() - tries > _AGAIN_S:
                self.library.try_again()
                tries = time.monotonic()
            fetched = tail.fetch(1_000, 0.5 if not ends else 0.05)
            heard = [future for messages in fetched.batches for future in tell(self.library.hear, messages)]
            if ends and fetched.ends:
                wait(heard)
                ends -= fetched.ends.keys()


def tell(hear: Callable[[Announcement], Future[None] | None], messages: Messages) -> list[Future[None]]:
    """Hands announcements over; what is none is told and passed by.

    Args:
        hear: takes them.
        messages: of the topic of models.
    """
    heard = []
    for value in messages.values:
        try:
            future = hear(decode_announcement(value or b""))
        except ArtefactUnusable as error:
            logger.warning("%s[%d]: %s", *messages.partition, error)
        else:
            if future is not None:
                heard.append(future)
    return heard


def swap_of(order: Order, room: Weightroom) -> Swap:
    """What a shard is told.

    Args:
        order: what for.
        room: where the weights are.
    """
    if order.version == BUILTIN:
        return Swap(order.size, BUILTIN, order.from_ms, None)
    trained = room.get(order.version)
    return Swap(order.size, order.version, order.from_ms, trained.weights, trained.card.follows)


def intent_weights_of(order: Order, room: IntentRoom) -> IntentWeights:
    """What an ingest shard is told.

    Args:
        order: what for.
        room: where the weights are.
    """
    from stream.engine.features import FEATURES

    return drawn(FEATURES) if order.version == INTENT_BUILTIN else room.get(order.version).weights
