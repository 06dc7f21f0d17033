"""What runs behind the API: records come in, the view and the feed take them, readers are told. One event loop, no locks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping

import msgspec

from stream.config import Config
from stream.serve.access import Access, Mask
from stream.serve.counters import Counters
from stream.serve.engine import Asking, Engine
from stream.serve.feed import Feed
from stream.serve.follow import Following, Taken
from stream.serve.kept import Body, Kept, body_of
from stream.serve.readers import FLUSH_S, Readers
from stream.serve.view import NextHour, View

log = logging.getLogger("nowcart.serve")

_SLICE_S = 0.004
"""Records are taken for so long at a time; then requests have their turn."""
_AT_ONCE = 128
_OVERVIEW_S = 0.5


class Overview(msgspec.Struct, frozen=True):
    """All of it at a glance."""

    at_ms: int
    """The largest event time in any record."""
    age_seconds: float
    """Since Kafka was last heard; 0 while it answers."""
    ready: bool
    items: int
    live_sessions: int
    likely_sessions: int
    """Those that buy more likely than not."""
    spikes_open: int
    spikes_critical: int
    alerts_open: int
    records_per_second: float
    next_hour: NextHour | None
    engine: Engine | None
    buckets: list[str]
    zone: str
    """The shop's, as configured."""
    models: dict[str, str]
    """The version behind the newest forecasts, by bucket size."""
    records: dict[str, int]
    """Read so far, by topic: who sees one grow asks again."""


class Health(msgspec.Struct, frozen=True):
    """How it stands with this process."""

    status: str
    """ok | starting | stale: Kafka does not answer, and what is served grows old."""
    detail: str
    ready: bool
    age_seconds: float
    kafka_reachable: bool
    up_seconds: float
    readers: int
    items: int
    sessions: int
    records: dict[str, int]
    unreadable: int
    places: dict[str, list[int]]
    """The next offset of each partition, by topic."""
    engine: Engine | None


class Service:
    """Everything but HTTP.

    Args:
        config: as configured.
        counters: hears what happens.
        access: tells who asks; None: as configured.
    """

    def __init__(self, config: Config, counters: Counters, access: Access | None = None) -> None:
        self.config, self.counters = config, counters
        self.access = access or Access(config.serve)
        serve = config.serve
        self.mask = Mask(serve.mask_secret) if serve.mask_secret else None
        alias = self.mask.alias if self.mask is not None else None
        self.view = View(config, alias, time.monotonic)
        self.feed = Feed(serve.replay_records, serve.replay_bytes, self.mask.record if self.mask is not None else lambda raw: raw)
        self.readers = Readers(self.feed, serve.reader_bytes, counters)
        self.kept = Kept()
        self.following = Following(config, self)
        self.asking = Asking(serve.engine_metrics)
        self.ready = False
        self.began = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._rates: list[tuple[float, int]] = []
        self._overview: tuple[float, Body] = (0.0, Body(b"", ""))
        counters.watch(
            lambda: len(self.readers.all), lambda: len(self.view.items), lambda: len(self.view.sessions), lambda: self.following.reachable
        )

    # ---- the reading thread's taker

    def opened(self, starts: Mapping[str, list[int]]) -> None:
        """These topics are read, from these offsets on."""
        for topic, places in starts.items():
            self.feed.open(topic, places)

    def restarted(self, topic: str, partition: int, place: int) -> None:
        """A partition goes on elsewhere than where it was."""
        self.feed.restart(topic, partition, place)
        self.readers.restart(topic, partition, place)

    def caught_up(self) -> None:
        """What there was at the beginning has been read."""
        if not self.ready:
            log.info(
                "ready after %.1f s: %d items, %d sessions", time.monotonic() - self.began, len(self.view.items), len(self.view.sessions)
            )
        self.ready = True

    async def take(self, batches: list[Taken]) -> None:
        """Takes records, letting requests in between."""
        until = time.monotonic() + _SLICE_S
        for batch in batches:
            unreadable = self.view.unreadable
            topic, partition = batch.topic, batch.partition
            for start in range(0, len(batch.values), _AT_ONCE):
                raws = batch.values[start : start + _AT_ONCE]
                for offset, raw, about in zip(batch.offsets[start : start + _AT_ONCE], raws, self.view.take(topic, raws), strict=True):
                    if about is None or raw is None:
                        self.feed.passed(topic, partition, offset + 1)
                    else:
                        self.readers.take(self.feed.take(topic, partition, offset, about, raw))
                if time.monotonic() > until:
                    await asyncio.sleep(0)
                    until = time.monotonic() + _SLICE_S
            age = time.time() - batch.stamps_ms[-1] / 1000 if self.ready and batch.stamps_ms else None
            self.counters.records(topic, len(batch.values), self.view.unreadable - unreadable, age)

    # ---- what it says

    @property
    def age_seconds(self) -> float:
        """Since Kafka was last heard; 0 while it answers."""
        return 0.0 if self.following.reachable else round(time.monotonic() - self.following.answered, 1)

    def overview(self) -> Body:
        """The overview as JSON; made at most twice a second."""
        made, body = self._overview
        now = time.monotonic()
        if body.data and now - made < _OVERVIEW_S * 0.9:
            return body
        view = self.view
        total = sum(view.records.values())
        self._rates = [*self._rates[-20:], (now, total)]
        then, before = self._rates[0]
        overview = Overview(
            at_ms=view.newest_ms,
            age_seconds=self.age_seconds,
            ready=self.ready,
            items=len(view.items),
            live_sessions=view.sessions.live,
            likely_sessions=view.sessions.likely,
            spikes_open=view.spikes.open,
            spikes_critical=view.spikes.critical,
            alerts_open=view.alerts.open,
            records_per_second=round((total - before) / (now - then), 1) if now > then else 0.0,
            next_hour=view.next_hour(),
            engine=self.asking.engine,
            buckets=list(view.items.panels),
            zone=self.config.time.zone,
            models=view.models,
            records=view.records,
        )
        body = body_of(msgspec.json.encode(overview))
        view.sessions.told()
        self._overview = (now, body)
        return body

    def health(self) -> Health:
        """How it stands."""
        reachable = self.following.reachable
        status = "stale" if not reachable else "ok" if self.ready else "starting"
        detail = {"ok": "", "starting": "the topics' past is still being read"}.get(status, self.following.trouble)
        return Health(
            status=status,
            detail=detail,
            ready=self.ready,
            age_seconds=self.age_seconds,
            kafka_reachable=reachable,
            up_seconds=round(time.monotonic() - self.began, 1),
            readers=len(self.readers.all),
            items=len(self.view.items),
            sessions=len(self.view.sessions),
            records=self.view.records,
            unreadable=self.view.unreadable,
            places=self.feed.places,
            engine=self.asking.engine,
        )

    def is_alive(self) -> tuple[bool, str]:
        """Whether the process should live on."""
        failed = self.following.failed
        return (True, "") if failed is None else (False, f"reading has failed: {type(failed).__name__}")

    def is_ready(self) -> tuple[bool, str]:
        """Whether it should be asked. One that has data and no Kafka should: no other instance would have more."""
        alive, why = self.is_alive()
        return (alive, why) if not alive else (self.ready, "" if self.ready else "the topics' past is still being read")

    # ---- from the first to the last

    async def start(self) -> None:
        """Begins; `following.open` has been called."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._flush()), loop.create_task(self._tell()), loop.create_task(self.asking.run())]
        self.following.start(loop)

    async def stop(self) -> None:
        """Ends it all."""
        await self.following.stop()
        self.readers.close()
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self.readers.flush()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_OVERVIEW_S)
            if any(reader.overview for reader in self.readers.all):
                self.readers.broadcast("overview", self.overview().data)
