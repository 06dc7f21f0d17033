"""What is done to topics, rather than with them: look, create, compare, delete."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec, ResourceType  # type: ignore[attr-defined]

from stream.kafka.connect import START_TIMEOUT_S, Errors, count_partitions, is_not_yet, reach, reason, settings, translated
from stream.kafka.log import LogError, Partition

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

REQUEST_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it should be."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)
    """Kafka's topic settings, as "retention.ms": "86400000"."""
    replication: int = -1
    """-1: the broker's default."""


class Admin:
    """Administers a cluster's topics.

    Args:
        properties: librdkafka's.
    """

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self._properties = dict(properties)
        self._errors = Errors()
        config = settings(self._properties, self._errors, {}, {})
        del config["allow.auto.create.topics"]
        try:
            self._client = AdminClient(config)
        except KafkaException as caught:
            raise translated(reason(caught), properties, "reading [kafka]") from None

    def ping(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Returns when a broker answers.

        Args:
            timeout_s: seconds to wait for it.

        Raises:
            Unreachable: nobody did.
            AccessDenied: the credentials were refused.
        """
        reach(self._client, self._errors, self._properties, timeout_s)

    def topics(self) -> dict[str, int]:
        """Every topic of the cluster, with its number of partitions.

        Raises:
            Unreachable: no broker answered.
            AccessDenied: the credentials were refused.
        """
        metadata = reach(self._client, self._errors, self._properties)
        return {name: len(topic.partitions) for name, topic in sorted(metadata.topics.items()) if topic.error is None}

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        """How many partitions each topic has.

        Args:
            topics: their names.

        Raises:
            TopicMissing: naming every one that is missing.
            Unreachable: no broker answered.
            AccessDenied: the credentials were refused.
        """
        return count_partitions(self._client, self._errors, topics, self._properties)

    def create(self, topics: Iterable[Topic]) -> list[str]:
        """Creates those that do not exist, and waits until they can be used.

        Args:
            topics: as they should be.

        Returns:
            The names of those that it created.

        Raises:
            LogError: the cluster would not.
        """
        wanted = list(topics)
        self.ping()
        if not wanted:
            return []
        new = [NewTopic(t.name, t.partitions, t.replication, config=dict(t.config)) for t in wanted]
        futures = self._client.create_topics(new, request_timeout=REQUEST_TIMEOUT_S)
        created = [
            name for name, future in futures.items() if self._done(future, f"creating topic '{name}'", KafkaError.TOPIC_ALREADY_EXISTS)
        ]
        count_partitions(self._client, self._errors, [t.name for t in wanted], self._properties, missing_s=START_TIMEOUT_S)
        return created

    def check(self, topics: Iterable[Topic]) -> list[str]:
        """What is not as it should be, one sentence each; nothing: all is well.

        Args:
            topics: as they should be.
        """
        found = self.topics()
        complaints = []
        for topic in topics:
            if topic.name not in found:
                complaints.append(f"topic '{topic.name}' must exist; it does not: `nowcart topics CONFIG create` makes it")
                continue
            if found[topic.name] != topic.partitions:
                complaints.append(
                    f"topic '{topic.name}' must have {topic.partitions} partitions; it has {found[topic.name]}: delete and create it, "
                    "or change the configuration"
                )
            actual = self.config(topic.name) if topic.config else {}
            complaints += [
                f"topic '{topic.name}' must have {name} = {value}; it has {actual[name]}"
                for name, value in topic.config.items()
                if name in actual and actual[name] != value
            ]
        return complaints

    def delete(self, names: Sequence[str]) -> list[str]:
        """Deletes topics, with all that is in them, and waits until they are gone.

        Args:
            names: which; those that do not exist are passed over.

        Returns:
            The names of those that it deleted.

        Raises:
            LogError: the cluster would not.
        """
        self.ping()
        if not names:
            return []
        futures = self._client.delete_topics(list(names), request_timeout=REQUEST_TIMEOUT_S)
        missing = KafkaError.UNKNOWN_TOPIC_OR_PART
        deleted = [name for name, future in futures.items() if self._done(future, f"deleting topic '{name}'", missing)]
        self._until(lambda: not set(deleted) & set(self.topics()), f"topics {', '.join(deleted)} to be gone", START_TIMEOUT_S)
        return deleted

    def config(self, topic: str) -> dict[str, str]:
        """A topic's settings.

        Args:
            topic: its name.

        Raises:
            TopicMissing: there is none of that name.
        """
        self.partitions([topic])
        resource = ConfigResource(ResourceType.TOPIC, topic)
        future = self._client.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S)[resource]
        try:
            return {name: str(entry.value) for name, entry in future.result().items() if entry.value is not None}
        except KafkaException as caught:
            raise translated(reason(caught), self._properties, f"describing topic '{topic}'") from None

    def written_ends(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """The end of each partition, with what is written and not yet seen by read_committed readers: a commit returns a little
        before its markers stand in the partitions, and until then the committed end is behind.

        Args:
            partitions: any.
        """
        return self._ends(partitions, IsolationLevel.READ_UNCOMMITTED)

    def committed_ends(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """The end of each partition as read_committed readers see it.

        Args:
            partitions: any.
        """
        return self._ends(partitions, IsolationLevel.READ_COMMITTED)

    def _ends(self, partitions: Sequence[Partition], level: IsolationLevel) -> dict[Partition, int]:
        ends: dict[Partition, int] = {}
        left = [TopicPartition(p.topic, p.partition) for p in partitions]
        deadline = time.monotonic() + START_TIMEOUT_S
        while left:
            wanted = {place: OffsetSpec.latest() for place in left}  # type: ignore[no-untyped-call]
            futures = self._client.list_offsets(wanted, isolation_level=level, request_timeout=REQUEST_TIMEOUT_S)
            left = []
            for place, future in futures.items():
                try:
                    ends[Partition(place.topic, place.partition)] = future.result(REQUEST_TIMEOUT_S + 5).offset
                except KafkaException as caught:
                    doing = f"asking for the end of {place.topic}[{place.partition}]"
                    if not is_not_yet(reason(caught)) or time.monotonic() >= deadline:
                        raise translated(reason(caught), self._properties, doing) from None
                    left.append(place)
            if left:
                time.sleep(0.05)
        return ends

    def delete_records(self, before: Mapping[Partition, int]) -> None:
        """Forgets the records before an offset, as retention does.

        Args:
            before: the new start of each partition.

        Raises:
            LogError: the cluster would not.
        """
        wanted = [TopicPartition(p.topic, p.partition, offset) for p, offset in before.items()]
        for place, future in self._client.delete_records(wanted, request_timeout=REQUEST_TIMEOUT_S).items():
            self._done(future, f"deleting records of {place.topic}[{place.partition}]")

    def _until(self, condition: Any, what: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise LogError(f"waited {timeout_s:g} s for {what}")
            time.sleep(0.02)

    def _done(self, future: Any, doing: str, fine: int | None = None) -> bool:
        try:
            future.result(REQUEST_TIMEOUT_S + 5)
        except KafkaException as caught:
            if reason(caught).code() == fine:
                return False
            raise translated(reason(caught), self._properties, doing) from None
        return True
