"""Reads the output topics in a thread, and hands their records to the event loop, never more than it takes.

A broker that goes away is waited for; one that comes back with other topics is looked at again. Whatever happens, the thread goes on
until it is stopped, and what it cannot do is said by `Following.trouble`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from stream.config import Config
from stream.kafka.following import Back, Follower, existing
from stream.kafka.log import LogError, Messages, Partition, TopicMissing
from stream.serve.view import NEEDED, TOPICS

log = logging.getLogger("nowcart.serve")

_FETCH = 4_096
_WAIT_S = 0.05
_LOOK_AGAIN_S = 15.0
"""How often topics that are not there yet, and new partitions, are looked for."""
_REST_S = 2.0
"""Between two tries to reach a broker."""


class Taken(NamedTuple):
    """Consecutive records of one partition."""

    topic: str
    """Without the prefix."""
    partition: int
    offsets: list[int]
    values: list[bytes | None]
    stamps_ms: list[int]


class Taker(Protocol):
    """Whoever takes the records; called on the event loop."""

    def opened(self, starts: Mapping[str, list[int]]) -> None:
        """These topics are read, from these offsets on."""

    def restarted(self, topic: str, partition: int, place: int) -> None:
        """A partition goes on elsewhere than where it was."""

    async def take(self, batches: list[Taken]) -> None:
        """Takes records."""

    def caught_up(self) -> None:
        """What there was at the beginning has been read."""


class Following:
    """The reading thread.

    Args:
        config: which Kafka, which topics, how far back.
        taker: takes what it reads.
    """

    def __init__(self, config: Config, taker: Taker) -> None:
        self._config, self._taker = config, taker
        self._names = {config.output.topic(name): name for name in TOPICS}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._known: dict[Partition, int] = {}
        self._counts: dict[str, int] = {}
        self._follower: Follower | None = None
        self.trouble = "not started"
        """What keeps it from reading; "": nothing does."""
        self.answered = time.monotonic()
        """When a broker last answered."""
        self.failed: BaseException | None = None

    @property
    def reachable(self) -> bool:
        """Whether a broker answers."""
        return not self.trouble

    def open(self) -> None:
        """Connects for the first time.

        Raises:
            LogError: Kafka cannot be reached, or a topic is missing that must be there.
        """
        self._follower = self._connect()
        self.trouble = ""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to read; open() has been called.

        Args:
            loop: whose thread takes the records.
        """
        self._loop = loop
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Ends it; the loop must still run."""
        self._stop.set()
        while self._thread is not None and self._thread.is_alive():
            await asyncio.sleep(0.01)
        self._disconnect()

    # ---- in its thread

    def _connect(self) -> Follower:
        kafka = self._config.kafka
        self._counts = existing(kafka, list(self._names))
        missing = [self._config.output.topic(name) for name in NEEDED if self._config.output.topic(name) not in self._counts]
        if missing:
            raise TopicMissing(
                f"topics {', '.join(missing)} must exist: create them with `nowcart topics CONFIG create`, or correct [output] prefix"
            )
        serve = self._config.serve
        return Follower(kafka, list(self._counts), Back(serve.back_ms, serve.back_records), self._known)

    def _disconnect(self) -> None:
        follower, self._follower = self._follower, None
        if follower is not None:
            self._known = {**self._known, **follower.places}
            follower.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._follow()
                except LogError as error:
                    self._say(str(error))
                    self._disconnect()
                    self._stop.wait(_REST_S)
        except BaseException as failure:
            if not self._stop.is_set():
                log.critical("reading has failed", exc_info=failure)
                self.failed = failure

    def _follow(self) -> None:
        if self._follower is None:
            self._follower = self._connect()
            self._say("")
        follower = self._follower
        self._open(follower)
        goal = {p: end for p, end in follower.goal.items() if end > follower.places[p]}
        caught_up = False
        look_again = time.monotonic() + _LOOK_AGAIN_S
        while not self._stop.is_set():
            before = follower.places
            fetched = follower.fetch(_FETCH, _WAIT_S)
            self._say("" if follower.reachable or follower.probe() else "no broker answers")
            if fetched.batches:
                self._hand(fetched.batches, before)
            places = follower.places
            goal = {p: end for p, end in goal.items() if max(places[p], fetched.ends.get(p, 0)) < end}
            if not goal and not caught_up:
                caught_up = True
                self._call(self._taker.caught_up)
            now = time.monotonic()
            if now >= look_again:
                look_again = now + _LOOK_AGAIN_S
                if follower.reachable and existing(self._config.kafka, list(self._names)) != self._counts:
                    log.info("the topics have changed: reading them anew")
                    self._disconnect()
                    return

    def _open(self, follower: Follower) -> None:
        starts: dict[str, list[int]] = {}
        for partition, place in sorted(follower.places.items()):
            starts.setdefault(self._names[partition.topic], []).append(place)
        self._call(self._taker.opened, starts)
        for partition, place in follower.restarted.items():
            log.warning("%s[%d] goes on at offset %d, not where it was: it was made anew, or has lost records", *partition, place)
            self._call(self._taker.restarted, self._names[partition.topic], partition.partition, place)

    def _hand(self, batches: list[Messages], before: Mapping[Partition, int]) -> None:
        taken = []
        for batch in batches:
            partition = batch.partition
            name = self._names[partition.topic]
            if batch.offsets[0] < before[partition]:  # the client went back by itself: another log than the one it read
                log.warning("%s[%d] goes on at offset %d, not %d: it was made anew", *partition, batch.offsets[0], before[partition])
                self._call(self._taker.restarted, name, partition.partition, batch.offsets[0])
            taken.append(Taken(name, partition.partition, batch.offsets, batch.values, batch.stamps_ms))
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._taker.take(taken), self._loop).result()

    def _call(self, function: Any, *args: Any) -> None:
        async def called() -> None:
            function(*args)

        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(called(), self._loop).result()

    def _say(self, trouble: str) -> None:
        if trouble and not self.trouble:
            log.warning("%s; serving what is known, and trying again", trouble)
        elif self.trouble and not trouble:
            log.info("Kafka answers again")
        self.trouble = trouble
        if not trouble:
            self.answered = time.monotonic()
