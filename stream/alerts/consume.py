"""The Faust application: committed spikes as they come, and the lifecycle around them. The only module that knows faust and aiokafka.

Faust reads, keeps the membership, and commits what is acknowledged. What must be exactly once is not left to its commits: the ledger
holds the positions, and a message below them is passed over. Its web views stay off, and it makes no topics.

By default Faust reads uncommitted records, so that an aborted spike would page people; its own way to committed ones, processing_guarantee =
"exactly_once", has a transaction for each partition, and an alert gathers from many. So its consumer alone is told to.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NamedTuple

import faust
from aiokafka import AIOKafkaConsumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.threads import WorkerThread

from stream.tables import ConfigError

log = logging.getLogger("nowcart.alerts")

_LOUD = ("faust", "mode", "aiokafka")
"""Loggers whose warnings are shown as ours."""


class Incoming(NamedTuple):
    """A message, and how to say that it is done."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    done: Callable[[], object]


STOP_S = 5.0
"""How long the application may take to leave. One whose place in the group was taken never does."""


REPEAT_S = 30.0
"""A warning of the same kind is said no more often."""


class _Worker(WorkerThread):
    def __init__(self, service: Any, **more: Any) -> None:
        super().__init__(service, **more)
        self.daemon = True  # a process ends even if this does not


class _Thread(driver.AIOKafkaConsumerThread):
    Worker = _Worker

    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust passes it to the constructor, from its processing guarantee; nothing reads it before the start.
        assert consumer._isolation_level == "read_uncommitted", "aiokafka keeps its isolation level elsewhere now"
        consumer._isolation_level = "read_committed"
        return consumer

    async def on_thread_stop(self) -> None:
        # A static member does not leave when it is closed, and whoever comes next with its name takes its place. But a broker that knows no
        # static members (the embedded one) would wait for it: whoever ends in order says so.
        coordinator = getattr(self._consumer, "_coordinator", None)
        if coordinator is not None:
            coordinator._group_instance_id = None
        await super().on_thread_stop()


class _Consumer(driver.Consumer):
    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)


class _Transport(driver.Transport):
    Consumer = _Consumer


class Reader:
    """The application. To be made and used inside a running event loop.

    Args:
        properties: librdkafka's, of which those that say where the cluster is and who we are.
        group: the consumer group; the only member of it has the same name, so that a new process takes over a dead one's place at once.
        topic: of the spikes.
        take: called with each message; it may wait.

    Raises:
        ConfigError: the properties ask for what Faust does not know.
    """

    def __init__(self, properties: Mapping[str, Any], group: str, topic: str, take: Callable[[Incoming], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        self._topic = topic
        self._folder = tempfile.TemporaryDirectory(prefix="nowcart-alerts-")  # Faust wants one for tables; there are none
        self._app = app = faust.App(
            group,
            broker=";".join(f"kafka://{server}" for server in _servers(properties)),
            broker_credentials=_credentials(properties),
            broker_client_id="nowcart-alerts",
            broker_heartbeat_interval=1.0,
            consumer_auto_offset_reset="earliest",
            consumer_group_instance_id=group,
            broker_commit_interval=1.0,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            datadir=self._folder.name,
            loop=loop,
        )
        app.transport = _Transport(app.conf.broker_consumer, app, loop)
        spikes = app.topic(topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

        async def read(stream: Any) -> None:
            async for event in stream.noack().events():
                message = event.message
                await take(Incoming(message.partition, message.offset, message.key, message.value, event.ack))

        app.agent(spikes, name="spikes")(read)
        self.regrouped = False
        """Set whenever partitions were assigned: whoever took this one's place is told by the ledger alone."""

        async def assigned(*_: Any, **_more: Any) -> None:
            self.regrouped = True

        app.on_partitions_assigned.connect(assigned, weak=False)
        self._said = _Said()

    async def start(self) -> None:
        """Joins the group."""
        for name in _LOUD:
            logging.getLogger(name).addHandler(self._said)
            logging.getLogger(name).setLevel(logging.WARNING)
            logging.getLogger(name).propagate = False
        await self._app.start()

    async def stop(self) -> None:
        """Commits what is done, and leaves the group, or is left behind."""
        stopping = asyncio.ensure_future(self._app.stop())
        _, late = await asyncio.wait({stopping}, timeout=STOP_S)
        if late:
            log.info("the reader did not leave the group within %g s, and is left behind", STOP_S)
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it will miss the tasks
        for name in _LOUD:
            logging.getLogger(name).removeHandler(self._said)
            logging.getLogger(name).propagate = True
        self._folder.cleanup()

    @property
    def failure(self) -> BaseException | None:
        """Why the application has crashed, if it has."""
        crashed: BaseException | None = self._app.crash_reason
        return crashed

    @property
    def partitions(self) -> set[int]:
        """Those that are read here."""
        consumer = self._app.consumer
        return {place.partition for place in consumer.assignment() if place.topic == self._topic} if self._app.started else set()

    def end(self, partition: int) -> int | None:
        """The end of a partition, as of the last answer; None: not known yet.

        Args:
            partition: one of those that are read here.
        """
        end: int | None = self._app.consumer.highwater(TP(self._topic, partition))
        return end


class _Said(logging.Handler):
    """Says warnings of theirs as ours, each kind once in a while: while a broker is away there are dozens a second."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._last: dict[tuple[str, str], float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        kind, now = (record.name, str(record.msg)), time.monotonic()
        if now - self._last.get(kind, -REPEAT_S) >= REPEAT_S:
            self._last[kind] = now
            log.warning("%s: %s", record.name, record.getMessage())


def run(live: Coroutine[Any, Any, None]) -> None:
    """Runs it to its end. Unlike asyncio.run it does not wait for what was left behind.

    Args:
        live: raises what it raises.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(live)
    finally:
        if not asyncio.all_tasks(loop):
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
        asyncio.set_event_loop(None)


def _servers(properties: Mapping[str, Any]) -> list[str]:
    return [part.strip().split("://")[-1] for part in str(properties["bootstrap.servers"]).split(",") if part.strip()]


def _credentials(properties: Mapping[str, Any]) -> Any:
    """Who we are, in librdkafka's words, told to Faust."""
    protocol = str(properties.get("security.protocol", "plaintext")).lower()
    if protocol == "plaintext":
        return None
    context = _context(properties) if "ssl" in protocol else None
    if protocol == "ssl":
        return faust.SSLCredentials(context)
    mechanism = str(properties.get("sasl.mechanism", properties.get("sasl.mechanisms", ""))).upper()
    known = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
    if protocol not in ("sasl_plaintext", "sasl_ssl") or mechanism not in known:
        raise ConfigError(
            "kafka.security.protocol must be plaintext, ssl, sasl_plaintext or sasl_ssl for `nowcart alerts`, with a sasl.mechanism of "
            f"{', '.join(known)}; got {protocol} and {mechanism or 'none'}"
        )
    return faust.SASLCredentials(
        username=str(properties.get("sasl.username", "")),
        password=str(properties.get("sasl.password", "")),
        mechanism=mechanism,
        ssl_context=context,
    )


def _context(properties: Mapping[str, Any]) -> ssl.SSLContext:
    authority = properties.get("ssl.ca.location")
    try:
        context = ssl.create_default_context(cafile=str(authority) if authority else None)
        if "ssl.certificate.location" in properties:
            key, password = properties.get("ssl.key.location"), properties.get("ssl.key.password")
            context.load_cert_chain(
                str(properties["ssl.certificate.location"]), str(key) if key else None, str(password) if password else None
            )
    except OSError as error:
        raise ConfigError(f"kafka.ssl.* must name files that can be read: {error}") from error
    if str(properties.get("enable.ssl.certificate.verification", "true")).lower() == "false":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif str(properties.get("ssl.endpoint.identification.algorithm", "https")).lower() == "none":
        context.check_hostname = False
    return context
