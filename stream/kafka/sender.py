"""Sends records outside any transaction, fast: what a shop does. For replay, simulate and bench."""

from __future__ import annotations

import time
from itertools import repeat
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, Producer

from stream.kafka.connect import START_TIMEOUT_S, Errors, reach, reason, servers, settings_producer, translated
from stream.kafka.log import Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

FLUSH_TIMEOUT_S = 60.0


class Sender:
    """An idempotent producer; the client's queue limits are its flow control.

    Args:
        properties: librdkafka's.
        start_timeout_s: seconds to wait for a broker's first answer.

    Raises:
        Unreachable: no broker answered.
        AccessDenied: the credentials were refused.
    """

    def __init__(self, properties: Mapping[str, Any], start_timeout_s: float = START_TIMEOUT_S) -> None:
        self._properties = dict(properties)
        self._errors = Errors()
        self._failed: KafkaError | None = None
        defaults = {"queue.buffering.max.messages": 200_000, "queue.buffering.max.kbytes": 131_072, "linger.ms": 20}
        required = {"enable.idempotence": True, "delivery.report.only.error": True, "on_delivery": self._delivered}
        try:
            self._producer = Producer(settings_producer(properties, self._errors, defaults, required))
        except KafkaException as caught:
            raise translated(reason(caught), properties, "reading [kafka]") from None
        reach(self._producer, self._errors, properties, start_timeout_s)

    def send(
        self,
        topic: str,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        partitions: Sequence[int] | int = -1,
        timestamps_ms: Sequence[int] | None = None,
    ) -> None:
        """Hands records over; waits while the client's queue is full.

        Args:
            topic: where to.
            values: one a record.
            keys: one a record; None: without.
            partitions: one a record, or one for all; -1: by key.
            timestamps_ms: Kafka's own time stamps, epoch milliseconds, not 0; None: the clock's.

        Raises:
            LogError: an earlier record could not be delivered, or one of these cannot.
        """
        produce = self._producer.produce
        columns = zip(
            values,
            keys if keys is not None else repeat(None),
            repeat(partitions) if isinstance(partitions, int) else partitions,
            timestamps_ms if timestamps_ms is not None else repeat(0),
            strict=False,
        )
        try:
            for value, key, partition, stamp in columns:
                try:
                    produce(topic, value, key, partition, None, None, stamp)
                except BufferError:
                    self._insist(topic, value, key, partition, stamp)
        except KafkaException as caught:
            raise translated(reason(caught), self._properties, f"sending to '{topic}'") from None
        self._producer.poll(0)
        self._check()

    def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        """Returns when the broker has everything.

        Args:
            timeout_s: seconds to wait.

        Raises:
            Unreachable: it did not in time.
            LogError: a record could not be delivered.
        """
        left = self._producer.flush(timeout_s)
        self._check()
        if left:
            raise Unreachable(f"Kafka at {servers(self._properties)} must take everything within {timeout_s:g} s; {left} records are left")

    def close(self) -> None:
        """Sends what is left and disconnects."""
        self.flush()

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._producer.purge()

    def _insist(self, topic: str, value: bytes | None, key: bytes | None, partition: int, stamp: int) -> None:
        deadline = time.monotonic() + FLUSH_TIMEOUT_S
        while True:
            self._producer.poll(0.01)
            self._check()
            try:
                self._producer.produce(topic, value, key, partition, None, None, stamp)
            except BufferError:
                if time.monotonic() > deadline:
                    raise Unreachable(f"Kafka at {servers(self._properties)} has taken nothing for {FLUSH_TIMEOUT_S:g} s") from None
            else:
                return

    def _delivered(self, error: KafkaError | None, message: object) -> None:
        if error is not None and error.code() != KafkaError._PURGE_QUEUE:
            self._failed = error

    def _check(self) -> None:
        failed = self._failed or self._errors.fatal
        if failed is not None:
            raise translated(failed, self._properties, "sending")
