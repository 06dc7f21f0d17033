"""An Apache Kafka of three nodes on this machine, whose nodes can be killed."""

from __future__ import annotations

import os
import random
import socket
import subprocess
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

ROOT = Path(__file__).resolve().parents[2]
NODES = (1, 2, 3)


def script() -> Path | None:
    """What starts one, where there is one."""
    for path in (os.environ.get("NOWCART_KAFKA_SCRIPT"), ROOT.parent / "shared" / "kafka" / "kafka"):
        if path and Path(path).is_file():
            return Path(path)
    return None


NO_SCRIPT = "no Apache Kafka to start: name a script that starts one in NOWCART_KAFKA_SCRIPT (docs/chaos.md says what it must do)"


class Cluster:
    """Three nodes; every topic stands on all of them, and two must have a record before it is acknowledged.

    Args:
        start: the script.
        folder: for its data and logs.
    """

    def __init__(self, start: Path, folder: Path) -> None:
        self._script, self.folder = start, folder
        arguments = ["--port", str(_free_ports()), "--nodes", str(len(NODES)), "--set", "group.min.session.timeout.ms=1000"]
        self.servers = self._call("start", *arguments)
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

    def kill(self, node: int) -> None:
        """kill -9.

        Args:
            node: which.
        """
        self._call("kill", "--node", str(node))
        self.down.add(node)

    def revive(self, node: int) -> None:
        """Starts a node again; does not wait for it.

        Args:
            node: which.
        """
        self.down.discard(node)
        command = [str(self._script), "revive", "--node", str(node), "--dir", str(self.folder)]
        self._reviving[node] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        """Ends all nodes."""
        for process in self._reviving.values():
            process.wait(90)
        self._call("stop")

    def _reap(self) -> None:
        for node, process in list(self._reviving.items()):
            status = process.poll()
            if status is not None:
                del self._reviving[node]
                if status:  # its port was still taken, or it was too slow: again
                    self.revive(node)

    def _call(self, action: str, *arguments: str) -> str:
        done = subprocess.run(
            [self._script, action, "--dir", self.folder, *arguments], capture_output=True, text=True, timeout=180, check=False
        )
        if done.returncode:
            raise RuntimeError(f"kafka {action} failed: {done.stdout}{done.stderr}")
        return done.stdout.strip()


def _free_ports() -> int:
    """The first of the ports of three nodes: p and p + 1, ten apart."""
    for _ in range(200):
        first = random.randrange(20_000, 30_000)
        try:
            for node in NODES:
                for number in (0, 1):
                    with socket.socket() as probe:
                        probe.bind(("127.0.0.1", first + 10 * (node - 1) + number))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports for three nodes")
