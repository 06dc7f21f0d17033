"""A real Apache Kafka on this machine, started by a script whose nodes can be killed (docs/chaos.md says what it must do)."""

from __future__ import annotations

import os
import random
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 180.0
TRIES = 4
"""Of a start: another process may take a port between the look and the start."""
NO_SCRIPT = "no Apache Kafka to start: name a script that starts one in NOWCART_KAFKA_SCRIPT (docs/chaos.md says what it must do)"


def script() -> Path | None:
    """What starts one, where there is one."""
    for path in (os.environ.get("NOWCART_KAFKA_SCRIPT"), ROOT.parent / "shared" / "kafka" / "kafka"):
        if path and Path(path).is_file():
            return Path(path)
    return None


def free_ports(nodes: int = 1) -> int:
    """The first of the ports of so many nodes: p and p + 1, ten apart.

    Args:
        nodes: how many.
    """
    for _ in range(200):
        first = random.randrange(20_000, 30_000)
        try:
            for node in range(nodes):
                for number in (0, 1):
                    with socket.socket() as probe:
                        probe.bind(("127.0.0.1", first + 10 * node + number))
        except OSError:
            continue
        return first
    raise AssertionError(f"no free ports for {nodes} nodes")


class RealKafka:
    """One cluster.

    Args:
        start: the script.
        folder: for its data and logs.
        nodes: brokers.
        arguments: further ones of its start.
    """

    def __init__(self, start: Path, folder: Path, nodes: int = 1, *arguments: str) -> None:
        self._script, self._folder = start, folder
        for left in reversed(range(TRIES)):
            self.folder = folder / f"try-{left}"
            try:
                self.servers = self._call("start", "--port", str(free_ports(nodes)), "--nodes", str(nodes), *arguments)
            except RuntimeError:
                with suppress(RuntimeError):
                    self.stop()
                if not left:
                    raise
            else:
                break

    def kill(self, node: int = 1) -> None:
        """kill -9.

        Args:
            node: which.
        """
        self._call("kill", "--node", str(node))

    def revive(self, node: int = 1) -> None:
        """Starts a node again, and waits for it.

        Args:
            node: which.
        """
        self._call("revive", "--node", str(node))

    def start_reviving(self, node: int) -> subprocess.Popen[bytes]:
        """Starts a node again; does not wait for it.

        Args:
            node: which.
        """
        command = [str(self._script), "revive", "--node", str(node), "--dir", str(self.folder)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self, purge: bool = True) -> None:
        """Ends all nodes.

        Args:
            purge: its data goes, too.
        """
        self._call("stop", *(["--purge"] if purge else []))

    def _call(self, action: str, *arguments: str) -> str:
        command = [str(self._script), action, "--dir", str(self.folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if done.returncode:
            raise RuntimeError(f"kafka {action} failed: {done.stdout}{done.stderr}")
        return done.stdout.strip()
