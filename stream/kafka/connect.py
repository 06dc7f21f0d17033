"""Reaching a cluster: librdkafka's properties, its errors as ours, and its own log kept quiet.

What the clients have in common, and nothing that reads or writes.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException

from stream.kafka.log import AccessDenied, Displaced, Fenced, LogError, OffsetGone, TopicMissing, Unreachable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

log = logging.getLogger("nowcart.kafka")
client_log = logging.getLogger("nowcart.kafka.client")
"""Where librdkafka's own lines go."""

START_TIMEOUT_S = 10.0
"""How long a start waits for the first answer of a broker."""
MISSING_S = 2.0
"""So long a topic must be missing from every answer before we say so: a cluster's brokers learn of a new one at different times."""

_DENIED = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
_MISSING = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_GONE = {KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET}
_FENCED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.FENCED_INSTANCE_ID}
_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.OFFSET_METADATA_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
_AWAY = {
    KafkaError._TRANSPORT,
    KafkaError._DESTROY_BROKER,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._MSG_TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError._SSL,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
}
_NOT_YET = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}
"""What is said of a topic that was made a moment ago, of a partition that moves or whose leader died, and by a broker that has just
come back and does not know yet what there is."""


class Errors:
    """Hears what a client says about its connections; its `heard` is an error_cb."""

    def __init__(self) -> None:
        self.down = False
        """True once no broker can be reached; whoever gets an answer sets it back."""
        self.broken = -math.inf
        """When a connection was last lost or refused, monotonic."""
        self.denied: KafkaError | None = None
        self.last: KafkaError | None = None
        self.fatal: KafkaError | None = None

    def heard(self, error: KafkaError) -> None:
        """Takes one error event.

        Args:
            error: what librdkafka says.
        """
        self.last = error
        if error.fatal():
            self.fatal = error
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
            self.denied = error
        if error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
            self.broken = time.monotonic()
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.down = True


def settings(properties: Mapping[str, Any], errors: Errors, defaults: Mapping[str, Any], required: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of one client: what the user says goes over our defaults, and under what correctness needs.

    Args:
        properties: the user's librdkafka properties.
        errors: hears the client's errors.
        defaults: ours, which the user may change.
        required: ours, which nobody may change.
    """
    quiet = {} if "debug" in properties or "log_level" in properties else {"log_level": 2}  # its errors reach us as events
    common = {"client.id": "nowcart", "allow.auto.create.topics": False, "log.connection.close": False}
    theirs = {name: value for name, value in properties.items() if not name.startswith("nowcart.")}
    return {**common, **quiet, **defaults, **theirs, **required, "error_cb": errors.heard, "logger": client_log}


def settings_producer(
    properties: Mapping[str, Any], errors: Errors, defaults: Mapping[str, Any], required: Mapping[str, Any]
) -> dict[str, Any]:
    """The configuration of a producer: `settings`, and what every producer of ours has.

    Args:
        properties: the user's librdkafka properties.
        errors: hears the client's errors.
        defaults: ours, which the user may change.
        required: ours, which nobody may change.
    """
    ours = {
        "compression.type": "lz4",
        "linger.ms": 5,  # a flush does not wait for it
        # The next transaction is refused while the last one's markers are being written. With librdkafka's 100 ms a loop of
        # small transactions took 99 ms each on Kafka 4.3, with 5 it takes 8.
        "retry.backoff.ms": 5,
        "partitioner": "murmur2_random",  # as the Java client, so that a key lands where every other program puts it
        "queue.buffering.max.messages": 500_000,
        "queue.buffering.max.kbytes": 262_144,
        "message.max.bytes": 9 * 1024 * 1024,  # dead letters are cut at 8 MiB
        **defaults,
    }
    config = settings(properties, errors, ours, required)
    del config["allow.auto.create.topics"]  # a consumer's
    return config


def servers(properties: Mapping[str, Any]) -> str:
    """The bootstrap servers as messages name them.

    Args:
        properties: librdkafka properties.
    """
    return str(properties.get("bootstrap.servers", properties.get("metadata.broker.list", "(none)")))


def translated(error: KafkaError, properties: Mapping[str, Any], doing: str) -> LogError:
    """An error of librdkafka's as one of ours.

    Args:
        error: librdkafka's.
        properties: the client's, for the names in the message.
        doing: what was being done, as in "while <doing>".
    """
    code, said = error.code(), f"{error.str()} ({error.name()})"
    at = f"Kafka at {servers(properties)}"
    # A static member that was fenced is told by a fatal event, which wears its reason in its text alone.
    displaced = code == KafkaError.FENCED_INSTANCE_ID or (code == KafkaError._FATAL and "fenced" in error.str())
    if displaced or code in _FENCED:
        kind = Displaced if displaced else Fenced
        return kind(f"{at}: another process took this one's place while {doing}: {said}; every instance needs a name of its own")
    if code in _DENIED:
        return AccessDenied(
            f"{at} refused access while {doing}: {said}; look at security.protocol, the sasl.* properties and the rights (ACLs)"
        )
    if code in _MISSING:
        return TopicMissing(
            f"{at} does not have a topic that was needed while {doing}: {said}; create it (`nowcart topics CONFIG create` makes ours)"
        )
    if code in _GONE:
        return OffsetGone(f"{at} does not hold the offset that was asked for while {doing}: {said}")
    if code in _AWAY:
        return Unreachable(f"{at} did not answer while {doing}: {said}; look at bootstrap.servers, and whether the broker runs")
    if code in _TOO_LARGE:
        return LogError(f"{at} must accept messages of this size, and does not, while {doing}: {said}; raise the topic's max.message.bytes")
    return LogError(f"{at} failed while {doing}: {said}")


def reason(caught: KafkaException) -> KafkaError:
    """The error inside an exception of librdkafka's.

    Args:
        caught: the exception.
    """
    error: KafkaError = caught.args[0]
    return error


def reach(client: Any, errors: Errors, properties: Mapping[str, Any], timeout_s: float = START_TIMEOUT_S) -> Any:
    """Waits for a broker's first answer.

    Args:
        client: a consumer, a producer or an admin client.
        errors: what the client's error_cb tells.
        properties: the client's, for the names in the message.
        timeout_s: seconds until it gives up.

    Returns:
        The cluster's metadata.

    Raises:
        Unreachable: nobody answered in time.
        AccessDenied: the credentials were refused.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        left = deadline - time.monotonic()
        try:
            # Short calls: a refused password is an event, and events are served between them.
            metadata = client.list_topics(timeout=max(0.05, min(1.0, left)))
        except KafkaException as caught:
            error = reason(caught)
            client.poll(0)
            if errors.denied is not None:
                raise translated(errors.denied, properties, "connecting") from None
            if error.code() not in _AWAY:
                raise translated(error, properties, "connecting") from None
            if time.monotonic() >= deadline:
                heard = errors.last if errors.last is not None and errors.last.code() != KafkaError._ALL_BROKERS_DOWN else error
                raise Unreachable(
                    f"Kafka at {servers(properties)} must answer within {timeout_s:g} s, and did not: {heard.str()}; "
                    "look at bootstrap.servers, at the network, and whether the broker runs"
                ) from None
        else:
            errors.down = False
            return metadata


def count_partitions(
    client: Any,
    errors: Errors,
    topics: Collection[str],
    properties: Mapping[str, Any],
    timeout_s: float = START_TIMEOUT_S,
    missing_s: float = MISSING_S,
) -> dict[str, int]:
    """How many partitions each topic has.

    Each answer comes from any broker, and those of a cluster learn of a new topic one after the other: one answer without a
    topic does not make it missing.

    Args:
        client: a consumer, a producer or an admin client.
        errors: what the client's error_cb tells.
        topics: their names.
        properties: the client's, for the names in the message.
        timeout_s: seconds to wait for a first answer.
        missing_s: seconds for which a topic must be missing from every answer.

    Raises:
        TopicMissing: naming all that are missing.
        Unreachable: no broker answered.
        AccessDenied: the user may not see one.
    """
    counts: dict[str, int] = {}
    deadline: float | None = None
    while True:
        counts.update(_partition_counts(reach(client, errors, properties, timeout_s), set(topics) - counts.keys(), properties))
        missing = [topic for topic in topics if topic not in counts]
        if not missing:
            return {topic: counts[topic] for topic in topics}
        now = time.monotonic()
        deadline = now + missing_s if deadline is None else deadline
        if now >= deadline:
            names = ", ".join(f"'{topic}'" for topic in missing)
            raise TopicMissing(
                f"{'topic' if len(missing) == 1 else 'topics'} {names} must exist on Kafka at {servers(properties)}: "
                "create the shop's own there, and ours with `nowcart topics CONFIG create`; or correct the name"
            )
        time.sleep(0.05)


def _partition_counts(metadata: Any, topics: Collection[str], properties: Mapping[str, Any]) -> dict[str, int]:
    """Of those that are there."""
    counts = {}
    for topic in topics:
        found = metadata.topics.get(topic)
        if found is None or (found.error is not None and found.error.code() in _MISSING):
            continue
        if found.error is not None:
            raise translated(found.error, properties, f"looking at topic '{topic}'")
        counts[topic] = len(found.partitions)
    return counts


def is_not_yet(error: KafkaError) -> bool:
    """True if a partition's broker is away, or cannot answer for it yet: ask again.

    Args:
        error: librdkafka's.
    """
    return error.code() in _NOT_YET or is_away(error)


def is_away(error: KafkaError) -> bool:
    """Whether an error says that a broker cannot be reached now, and may be later.

    Args:
        error: librdkafka's.
    """
    return error.code() in _AWAY


def is_fence(error: KafkaError) -> bool:
    """Whether an error says that somebody else took this client's place.

    Args:
        error: librdkafka's.
    """
    return error.code() in _FENCED


def is_lasting(error: KafkaError) -> bool:
    """Whether no retry mends an error: a right, a topic, a size.

    Args:
        error: librdkafka's.
    """
    return error.code() in _DENIED | _MISSING | _TOO_LARGE
