"""An Apache Kafka of three nodes on this machine, whose nodes can be killed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stream.kafka.log import Partition
from tests.real_kafka import RealKafka

NODES = (1, 2, 3)
# Sessions as short as SIGSTOP's pauses are long; of the newer protocol's the broker decides.
SETTINGS = [
    part
    for setting in (
        "group.min.session.timeout.ms=1000",
        "group.consumer.min.session.timeout.ms=1000",
        "group.consumer.session.timeout.ms=6000",
        "group.consumer.min.heartbeat.interval.ms=500",
        "group.consumer.heartbeat.interval.ms=500",
    )
    for part in ("--set", setting)
]


class Cluster:
    """Three nodes; every topic stands on all of them, and two must have a record before it is acknowledged.

    Args:
        start: the script.
        folder: for its data and logs.
    """

    def __init__(self, start: Path, folder: Path) -> None:
        self._kafka = RealKafka(start, folder, len(NODES), *SETTINGS)
        self.servers = self._kafka.servers
        quiet: dict[str, Any] = {"log_level": 0, "error_cb": lambda error: None}
        self._admin = AdminClient({"bootstrap.servers": self.servers, **quiet})
        self.down: set[int] = set()
        self._reviving: dict[int, subprocess.Popen[bytes]] = {}

    def whole(self) -> bool:
        """Whether every node is in sync with every partition: only then may the next be killed, or records would wait for long."""
        self._reap()
        if self.down or self._reviving:
            return False
        try:
            topics = self._admin.list_topics(timeout=2).topics.values()
        except KafkaException:
            return False
        return all(len(p.isrs) == len(NODES) for topic in topics for p in topic.partitions.values())

    def leader(self, partition: Partition) -> int:
        """The node that leads a partition.

        Args:
            partition: which.
        """
        return int(self._admin.list_topics(timeout=10).topics[partition.topic].partitions[partition.partition].leader)

    def kill(self, node: int) -> None:
        """kill -9.

        Args:
            node: which.
        """
        self._kafka.kill(node)
        self.down.add(node)

    def revive(self, node: int) -> None:
        """Starts a node again; does not wait for it.

        Args:
            node: which.
        """
        self.down.discard(node)
        self._reviving[node] = self._kafka.start_reviving(node)

    def stop(self) -> None:
        """Ends all nodes."""
        for process in self._reviving.values():
            process.wait(90)
        self._kafka.stop(purge=False)

    def _reap(self) -> None:
        for node, process in list(self._reviving.items()):
            status = process.poll()
            if status is not None:
                del self._reviving[node]
                if status:  # its port was still taken, or it was too slow: again
                    self.revive(node)
