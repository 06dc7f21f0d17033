"""The embedded broker's own life: it starts, ends with us, and says what is missing."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from stream.kafka.admin import Admin, Topic
from stream.kafka.embedded import BrokerMissing, EmbeddedBroker

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def _installed(embedded: str) -> None:
    """Skips where the package is missing."""


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def gone(port: int) -> bool:
    deadline = time.monotonic() + 10
    while listens(port) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not listens(port)


def test_it_serves_between_start_and_stop_and_leaves_nothing() -> None:
    with EmbeddedBroker() as broker:
        port = int(broker.bootstrap_servers.rpartition(":")[2])
        folder = broker.log_path.parent
        Admin({"bootstrap.servers": broker.bootstrap_servers}).create([Topic("t", 2)])
        assert folder.is_dir()
    assert gone(port)
    assert not folder.exists()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_its_parent(ending: signal.Signals, root: Path, tmp_path: Path) -> None:
    program = (
        "import sys, threading\nfrom stream.kafka.embedded import EmbeddedBroker\n"
        f"broker = EmbeddedBroker({str(tmp_path)!r})\n"
        # Started by a thread that ends at once: the broker belongs to the process.
        "thread = threading.Thread(target=broker.start)\nthread.start()\nthread.join()\n"
        "print(broker.bootstrap_servers, flush=True)\nsys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline().rpartition(":")[2])
        assert listens(port)
        parent.send_signal(ending)
        parent.wait(20)
    assert gone(port)


def test_a_port_that_is_taken_is_said_with_the_broker_s_own_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(BrokerMissing, match=str(port)):
            EmbeddedBroker(port=port).start()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BrokerMissing, match=r"nowcart\[local\]"):
        EmbeddedBroker().start()
