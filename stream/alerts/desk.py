"""Puts the alerts together: spikes from the reader into the book, what follows into the ledger, and only then out to people."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import aiohttp
import msgspec

from stream.alerting import SEVERITIES
from stream.alerts.book import Book, Spike
from stream.alerts.consume import Incoming, Reader
from stream.alerts.ledger import Change, DeadLetter, Delivery, Known, Ledger, now_ms, place_of
from stream.alerts.letters import wait_s
from stream.alerts.post import AlertmanagerWorker, Settled, WebhookWorker, posts_of
from stream.config import Config
from stream.kafka.log import Fenced, Outcome, Unreachable
from stream.metrics import Metrics
from stream.records import AlertRecord

log = logging.getLogger("nowcart.alerts")

TICK_S = 0.5
"""How often the clock is looked at."""
MOST_AT_ONCE = 500
"""Messages a transaction."""
WAITING = 2_000
"""Messages that are read ahead."""
HUNG_S = 120.0
GOODBYE_S = 15.0
"""How long what is on its way may take at the end."""

NOTIFIED = ("opened", "escalated", "resolved")
"""The changes that webhooks are told of; the others are for those who follow the topic."""

T = TypeVar("T")


class _Stopped(Exception):
    """Somebody stopped it while it waited for the cluster."""


class Desk:
    """One process of alerts.

    Args:
        config: the whole of it.
        metrics: what it tells of itself.
    """

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._config, self._metrics = config, metrics
        self._topic = config.output.topic("spikes")
        self._pool = ThreadPoolExecutor(1, "ledger")
        self._inbox: asyncio.Queue[Incoming] = asyncio.Queue(WAITING)
        self._settled: list[Settled] = []
        self._ledger: Ledger
        self._reader: Reader | None = None
        self._book = Book(config.alerts, config.time.zone)
        self._known = Known()
        self._webhooks: dict[str, WebhookWorker] = {}
        self._alertmanager: AlertmanagerWorker | None = None
        self._moved = time.monotonic()
        self._reachable = True
        self._stop = threading.Event()
        self._prove = False

    # ---- what probes ask, from other threads

    def health(self) -> tuple[bool, str]:
        """Whether it should live on."""
        still = time.monotonic() - self._moved
        return still < HUNG_S, f"nothing has moved for {still:.0f} s"

    def ready(self) -> tuple[bool, str]:
        """Whether it does its work now."""
        if not self._reachable:
            return False, "Kafka is away"
        return self._reader is not None and bool(self._reader.partitions), f"no partition of {self._topic} is read here yet"

    # ---- its life

    async def run(self, stop: threading.Event) -> None:
        """Until it is stopped.

        Args:
            stop: set by whoever stops it.

        Raises:
            Fenced: another process with the same prefix has taken over.
            LogError: the cluster cannot be used.
        """
        self._stop = stop
        self._webhooks = {hook.name: WebhookWorker(hook, self._take_settled, self._metrics) for hook in self._config.alerts.webhooks}
        if self._config.alerts.alertmanager.url is not None:
            self._alertmanager = AlertmanagerWorker(self._config.alerts.alertmanager, self._metrics)
        self._ledger = await self._in_thread(lambda: Ledger(self._config))
        try:
            await self._live(stop)
        except _Stopped:
            log.info("stopped while the cluster was away: what was not committed is done at the next start")
        finally:
            await self._in_thread(self._ledger.close)
            self._pool.shutdown()

    async def _live(self, stop: threading.Event) -> None:
        await self._recall(renew=False)
        reader = Reader(self._config.kafka, f"{self._config.output.prefix}alerts", self._topic, self._inbox.put)
        async with aiohttp.ClientSession() as session:
            workers = [asyncio.create_task(worker.run(session)) for worker in self._workers()]
            try:
                await reader.start()
                self._reader = reader
                log.info("alerts from '%s'; %d are open", self._topic, self._open_alerts())
                while not stop.is_set():
                    self._check(reader, workers)
                    await self._round(await self._gather(TICK_S))
                await self._end(workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                self._reader = None
                await reader.stop()

    def _workers(self) -> list[WebhookWorker | AlertmanagerWorker]:
        return [*self._webhooks.values(), *([] if self._alertmanager is None else [self._alertmanager])]

    def _check(self, reader: Reader, workers: Sequence[asyncio.Task[None]]) -> None:
        self._moved = time.monotonic()
        if reader.failure is not None:
            if "FencedInstanceId" in type(reader.failure).__name__:
                raise Fenced("another process reads the spikes of this prefix")
            raise reader.failure
        for worker in workers:
            if worker.done():
                worker.result()  # raises what it died of
        for partition in reader.partitions:
            end = reader.end(partition)
            if end is not None:
                self._metrics.lag((self._topic, partition), max(0, end - self._known.positions.get(partition, 0)))

    async def _end(self, workers: Sequence[asyncio.Task[None]]) -> None:
        """What has left is remembered as delivered: it must not leave again after the next start."""
        for worker in self._workers():
            worker.close()
        if workers:
            await asyncio.wait(workers, timeout=GOODBYE_S)
        await self._round([])

    def _take_settled(self, settled: Settled) -> None:
        self._settled.append(settled)

    async def _gather(self, timeout_s: float) -> list[Incoming]:
        """The messages that have come, after half a second at the latest."""
        found: list[Incoming] = []
        try:
            found.append(await asyncio.wait_for(self._inbox.get(), timeout_s))
        except TimeoutError:
            return found
        while len(found) < MOST_AT_ONCE and not self._inbox.empty():
            found.append(self._inbox.get_nowait())
        return found

    # ---- one step: judge, commit, tell

    async def _round(self, messages: Sequence[Incoming]) -> None:
        settled, self._settled = self._settled, []
        if self._reader is not None and self._reader.regrouped:
            # Somebody else may be at work, or have been; two with one name put each other out of the group for ever. Who writes knows.
            self._reader.regrouped, self._prove = False, True
        while True:
            change = self._judge(messages, settled)
            if not change:
                break
            outcome = await self._in_thread(lambda change=change: self._ledger.write(change))  # type: ignore[misc]
            self._metrics.commit("alerts", outcome.value, 0.0)
            if outcome is Outcome.COMMITTED:
                self._committed(change)
                break
            await self._recall(renew=True)
        for message in messages:
            message.done()
        for worker in self._webhooks.values():
            worker.forget([each.delivery for each in settled if each.delivery.receiver == worker.webhook.name])

    def _judge(self, messages: Sequence[Incoming], settled: Sequence[Settled]) -> Change:
        """What messages, deliveries and the clock change; the book already knows it."""
        now = now_ms()
        positions, records, dead = dict(self._known.positions), list[AlertRecord](), list[DeadLetter]()
        for message in messages:
            if message.offset < positions.get(message.partition, 0):
                continue  # Faust's own commit was behind
            positions[message.partition] = message.offset + 1
            try:
                spike = read_spike(message.value)
            except ValueError as error:
                reason = "bad_value" if isinstance(error, msgspec.ValidationError) else "malformed"
                dead.append(DeadLetter(reason, str(error), self._topic, message.partition, message.offset, message.key, message.value))
            else:
                records += self._book.take(spike, now)
        records += self._book.tick(now)
        done = [each for each in settled if place_of(each.delivery) in self._known.deliveries]
        dead += [_undelivered(each, self._config.output.topic("alerts")) for each in done if each.refused]
        return Change(
            positions=positions if positions != self._known.positions or self._prove else None,
            groups={key: self._book.groups.get(key) for key in sorted(self._book.changed)},
            made=[delivery for record in records for delivery in self._deliveries(record, now)],
            done=[each.delivery for each in done],
            records=records,
            dead_letters=dead,
        )

    def _deliveries(self, record: AlertRecord, now: int) -> list[Delivery]:
        if record.change not in NOTIFIED:
            return []
        body = msgspec.json.encode(record).decode()
        return [
            Delivery(hook.name, record.alert, record.update, body, now)
            for hook in self._config.alerts.webhooks
            if SEVERITIES.index(record.severity) >= SEVERITIES.index(hook.severity)
        ]

    def _committed(self, change: Change) -> None:
        self._prove = False
        self._known.positions = change.positions if change.positions is not None else self._known.positions
        self._book.changed.clear()
        for delivery in change.made:
            self._known.deliveries[place_of(delivery)] = delivery
        for delivery in change.done:
            del self._known.deliveries[place_of(delivery)]
        for record in change.records:
            self._metrics.alert({"opened": "open", "joined": "updated", "left": "updated"}.get(record.change, record.change))
        self._metrics.alerts_silenced(self._book.silenced)
        self._book.silenced = 0
        for letter in change.dead_letters:
            self._metrics.dead_letter("spikes", letter.reason, 1)
        if change.records:
            self._metrics.published(self._config.output.topic("alerts"), len(change.records))
        self._tell()

    def _tell(self) -> None:
        """Hands over what is committed, and nothing else."""
        self._metrics.alerts_open(self._open_alerts())
        for name, worker in self._webhooks.items():
            worker.add(each for each in self._known.deliveries.values() if each.receiver == name)
        if self._alertmanager is not None:
            self._alertmanager.show(posts_of(self._book.groups.values(), self._config.output.prefix, now_ms()))

    def _open_alerts(self) -> int:
        return sum(group.phase == "open" for group in self._book.groups.values())

    # ---- what the ledger has

    async def _recall(self, renew: bool) -> None:
        """Reads the ledger, however long the cluster is away: nothing else says what the last transaction's outcome was."""
        failures = 0
        while True:
            try:
                if renew:
                    await self._in_thread(self._ledger.renew)
                self._known = await self._in_thread(self._ledger.read)
            except Unreachable as error:
                failures += 1
                if failures == 1:
                    log.warning("%s; waiting for it", error)
                self._set_reachable(False)
                renew = True
                if self._stop.is_set():
                    raise _Stopped from None
                await asyncio.sleep(min(5.0, wait_s(failures, lambda: 1.0)))
                self._moved = time.monotonic()
            else:
                break
        self._set_reachable(True)
        self._book = Book(self._config.alerts, self._config.time.zone, self._known.groups.values())
        for delivery in self._known.deliveries.values():
            if delivery.receiver not in self._webhooks:
                self._settled.append(Settled(delivery, f"no webhook is called '{delivery.receiver}' any more"))
        self._tell()

    def _set_reachable(self, answers: bool) -> None:
        self._reachable = answers
        self._metrics.reachable("alerts", answers)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


def read_spike(value: bytes | None) -> Spike:
    """A spike's record.

    Args:
        value: of the message.

    Raises:
        ValueError: it is none; msgspec.ValidationError where it is JSON.
    """
    if value is None:
        raise ValueError("a spike must be a JSON object; got a tombstone")
    return msgspec.json.decode(value, type=Spike)


def _undelivered(settled: Settled, topic: str) -> DeadLetter:
    delivery = settled.delivery
    detail = f"webhook '{delivery.receiver}', {delivery.key}: {settled.refused}"
    # Where it came from is the topic of alerts; its offset there is not known to whoever wrote it in a transaction.
    return DeadLetter("undelivered", detail, topic, 0, 0, delivery.alert.encode(), delivery.body.encode())
