"""A transactional producer, and how its transactions end.

librdkafka sorts errors in three: retriable ones are called again, those that require it are aborted, fatal ones end the
producer. What it cannot say is how a commit ended that timed out: that is UNKNOWN here, and costs the producer.
"""

from __future__ import annotations

import threading
import time
from itertools import repeat
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from stream.kafka.connect import (
    Errors,
    count_partitions,
    is_away,
    is_fence,
    is_lasting,
    log,
    reason,
    servers,
    settings_producer,
    translated,
)
from stream.kafka.log import Fenced, LogError, Outcome, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stream.kafka.log import Partition, Position, Records

HANG_S = 5.0
"""A call that has not returned so long after its timeout never will."""
INIT_TIMEOUT_S = 30.0
"""For init_transactions: it waits until what an earlier life left open has been aborted."""


class Transactions:
    """A transactional producer. Making one fences whoever used its id, and aborts what they left open.

    Args:
        properties: librdkafka's.
        transactional_id: stable across restarts, and nobody else's.
        timeout_ms: after which the broker aborts a transaction whose producer is silent.

    Raises:
        Unreachable: no broker answered in time.
        AccessDenied: the id may not be used.
    """

    def __init__(self, properties: Mapping[str, Any], transactional_id: str, timeout_ms: int) -> None:
        self._properties = dict(properties)
        self._errors = Errors()
        self._id = transactional_id
        self._timeout_s = timeout_ms / 1000
        required = {
            "transactional.id": transactional_id,
            "enable.idempotence": True,
            "transaction.timeout.ms": timeout_ms,
            "delivery.report.only.error": True,  # a report a record would cost as much as the record
            "on_delivery": self._undelivered,
        }
        self._config = settings_producer(properties, self._errors, {}, required)
        self._producer: Any = None
        self._usable = False
        self._hung = False
        self._refused: KafkaError | None = None
        """Why a record of the running transaction could not be delivered; the commit itself only says that one could not."""
        self._topics: set[str] = set()
        self.renew()

    def renew(self) -> None:
        """Throws the producer away and makes a new one with the same id.

        Raises:
            Unreachable: no broker answered in time; call it again.
            AccessDenied: the id may not be used.
            Fenced: somebody with the same id was quicker.
        """
        self._drop()
        doing = f"starting the producer '{self._id}'"
        try:
            self._producer = Producer(self._config)
        except KafkaException as caught:
            raise translated(reason(caught), self._properties, doing) from None
        deadline = time.monotonic() + INIT_TIMEOUT_S
        while True:
            try:
                self._producer.init_transactions(max(0.1, min(5.0, deadline - time.monotonic())))
            except KafkaException as caught:
                error = reason(caught)
                if not (error.retriable() or is_away(error)) or error.fatal():
                    raise translated(error, self._properties, doing) from None
                if self._errors.denied is not None:
                    raise translated(self._errors.denied, self._properties, doing) from None
                if time.monotonic() >= deadline:
                    raise Unreachable(
                        f"Kafka at {servers(self._properties)} gave no answer within {INIT_TIMEOUT_S:g} s while {doing}: {error.str()}"
                    ) from None
            else:
                self._usable = True
                return

    def transact(
        self, records: Sequence[Records], positions: Mapping[Partition, Position], group_metadata: Callable[[], object]
    ) -> Outcome:
        """One transaction.

        Args:
            records: what to publish.
            positions: what to commit with it.
            group_metadata: read just before the offsets are sent.

        Raises:
            Fenced: another producer with this id, or another member with this instance id, took over.
            LogError: no retry mends it: a record too large, a missing right or topic.
        """
        if not self._usable:
            raise LogError("the last transaction's outcome is unknown: renew() must come first")
        for batch in records:
            if len(batch.keys) != len(batch.values):
                raise ValueError(
                    f"records for '{batch.topic}' must have as many keys as values ({len(batch.values)}); got {len(batch.keys)}"
                )
        try:
            self._know([batch.topic for batch in records])
        except Unreachable:
            return Outcome.ABORTED  # nothing was sent
        self._refused = None
        began = time.monotonic()
        deadline = began + self._timeout_s + 5
        producer = self._producer
        doing = "sending records"
        try:
            producer.begin_transaction()
            for batch in records:
                if not self._produce(batch, deadline):
                    return self._abort(None, doing, began)
            if positions:
                doing = "sending offsets"
                places = [TopicPartition(p.topic, p.partition, at.offset, at.metadata) for p, at in positions.items()]
                self._insist(lambda left: self._send_offsets(places, group_metadata(), left), deadline)
            doing = "committing"
            self._insist(producer.commit_transaction, deadline)
        except KafkaException as caught:
            error = reason(caught)
            if self._hung:
                return self._in_doubt(error, doing)
            if error.fatal():
                return self._fatal(error, doing, began)
            if error.txn_requires_abort() or doing != "committing":
                return self._abort(error, doing, began)
            return self._in_doubt(error, doing)
        return Outcome.COMMITTED

    def close(self) -> None:
        """Disconnects; what is open is left to whoever comes next with this id."""
        self._drop()

    def _know(self, topics: Sequence[str]) -> None:
        """Refuses topics that do not exist: librdkafka would look for them for as long as a message may wait, and some brokers make them."""
        new = [topic for topic in topics if topic not in self._topics]
        if new:
            count_partitions(self._producer, self._errors, new, self._properties)
            self._topics.update(new)

    def _undelivered(self, error: KafkaError | None, message: object) -> None:
        if error is not None and error.code() not in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
            self._refused = self._refused or error

    def _produce(self, batch: Records, deadline: float) -> bool:
        """Hands the records to librdkafka; False when its queue stays full until the deadline."""
        produce, topic, partition = self._producer.produce, batch.topic, batch.partition
        rows: Any
        if batch.headers is None:
            rows = zip(batch.values, batch.keys, repeat(None), strict=False)
        elif batch.each_headers:
            rows = zip(batch.values, batch.keys, map(_listed, batch.headers), strict=True)
        else:
            rows = zip(batch.values, batch.keys, repeat(_listed(batch.headers)), strict=False)
        for value, key, headers in rows:
            while True:
                try:
                    if headers is None:
                        produce(topic, value, key, partition)
                    else:
                        produce(topic, value, key, partition, None, None, 0, headers)
                except BufferError:
                    self._producer.poll(0.01)
                    if time.monotonic() > deadline:
                        return False
                else:
                    break
        return True

    def _insist(self, call: Callable[[float], object], deadline: float) -> None:
        """Calls again while the error says that one may."""
        while True:
            try:
                call(max(0.1, deadline - time.monotonic()))
            except KafkaException as caught:
                error = reason(caught)
                if self._hung or not error.retriable() or error.fatal() or error.txn_requires_abort() or time.monotonic() >= deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def _send_offsets(self, places: Sequence[TopicPartition], group_metadata: object, timeout_s: float) -> None:
        """Sends offsets in another thread, and gives it up where it does not return.

        With librdkafka 2.16 the call never returned, whatever its timeout, in seven of eight trials in which Kafka 4.3 was killed and
        came back 15 s later. The thread and its producer are lost then, and the next one fences it.
        """
        raised: list[BaseException] = []
        producer = self._producer

        def work() -> None:
            try:
                producer.send_offsets_to_transaction(places, group_metadata, timeout_s)
            except BaseException as error:  # noqa: BLE001 - carried to the caller
                raised.append(error)

        thread = threading.Thread(target=work, name="offsets", daemon=True)
        thread.start()
        thread.join(timeout_s + HANG_S)
        if thread.is_alive():
            self._hung = True
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"the client did not return {HANG_S:g} s after its timeout"))
        if raised:
            raise raised[0]

    def _abort(self, error: KafkaError | None, doing: str, began: float) -> Outcome:
        try:
            self._insist(self._producer.abort_transaction, time.monotonic() + self._timeout_s)
        except KafkaException as caught:
            if reason(caught).fatal():
                return self._fatal(reason(caught), "aborting", began)
            return self._in_doubt(reason(caught), "aborting")
        error = self._refused or error
        if error is not None:
            if error.code() in (KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART):
                self._topics.clear()
            if error.code() == KafkaError.FENCED_INSTANCE_ID or is_lasting(error):
                raise translated(error, self._properties, doing)
            log.info("a transaction was aborted while %s: %s", doing, error)
        return Outcome.ABORTED

    def _fatal(self, error: KafkaError, doing: str, began: float) -> Outcome:
        self._usable = False
        if is_lasting(error):
            raise translated(error, self._properties, doing)
        # After its timeout the broker aborts a transaction and fences its producer as if another had come: a process that
        # stood still for that long has nobody to give way to, and its successor would say so by fencing the renewed one.
        if is_fence(error) and time.monotonic() - began < self._timeout_s:
            raise Fenced(translated(error, self._properties, doing).args[0])
        return self._in_doubt(error, doing)

    def _in_doubt(self, error: KafkaError, doing: str) -> Outcome:
        self._usable = False
        log.warning("the outcome of a transaction is unknown: %s failed: %s", doing, error)
        return Outcome.UNKNOWN

    def _drop(self) -> None:
        producer, self._producer, self._usable = self._producer, None, False
        hung, self._hung = self._hung, False
        if producer is not None and not hung:
            producer.purge()  # or its end would wait for what it can no longer send


def _listed(headers: Any) -> list[tuple[str, bytes]]:
    return headers if isinstance(headers, list) else list(headers)  # librdkafka's binding takes lists alone
