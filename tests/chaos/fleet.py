"""The engine's processes: started, killed, stopped, started again; and how long each took until it published."""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
_COMMITTED = re.compile(r'^nowcart_commits_total\{[^}]*outcome="committed"[^}]*\} ([0-9.e+]+)$', re.MULTILINE)
POLL_S = 0.1


@dataclass(slots=True)
class Life:
    """One life of a process."""

    name: str
    began: float
    """time.time() when it was started."""
    answered_s: float | None = None
    """Until it answered on its port: Python and its imports are there."""
    ready_s: float | None = None
    """Until it said that it works on its partitions."""
    published_s: float | None = None
    """Until its first transaction was committed."""
    cpu_s: float | None = None
    """What that took of the processors: on a busy machine the better measure."""


class Worker:
    """One stage of the engine under one instance name.

    Args:
        stage: ingest | forecast.
        instance: its name.
        config: its configuration file.
        folder: for its log.
    """

    def __init__(self, stage: str, instance: str, config: Path, folder: Path) -> None:
        self.stage, self.name = stage, f"{stage}-{instance}"
        self.log = folder / f"{self.name}.log"
        self.port = _free_port()
        self._command = [sys.executable, "-m", "stream.cli.main", "run", str(config), "--stage", stage, "--instance", instance]
        self._command += ["--metrics-port", str(self.port)]
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self.stopped = False
        self.tight = False
        self.lives: list[Life] = []

    @property
    def alive(self) -> bool:
        """Whether it runs, or stands still."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """How it ended."""
        return None if self._process is None else self._process.poll()

    @property
    def works(self) -> bool:
        """Whether it is not standing still, and has said in this life that it works on its partitions."""
        return self.alive and not self.stopped and self.lives[-1].ready_s is not None

    @property
    def ready(self) -> bool:
        """Whether it says that it works on its partitions."""
        try:
            return bool(_get(self.port, "readyz"))
        except OSError:
            return False

    def start(self) -> None:
        """Starts it."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        life = Life(self.name, time.time())
        self.lives.append(life)
        self.stopped = self.tight = False
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment
        )
        assert self._process.stdout is not None
        arguments = (self._process.stdout, self.log, f"started, pid {self._process.pid}")
        self._listener = threading.Thread(target=write_down, args=arguments, daemon=True)
        self._listener.start()
        threading.Thread(target=self._watch, args=(life, self._process), daemon=True).start()

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)
        self.stopped = False

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal.

        Args:
            number: SIGSTOP and SIGCONT are remembered.
        """
        if self.alive:
            assert self._process is not None
            self._process.send_signal(number)
            self.stopped = number == signal.SIGSTOP

    def fill_disk(self, full: bool) -> None:
        """None of its files can grow, as on a full disk; or they can again.

        Args:
            full: which.
        """
        if self.alive:
            assert self._process is not None
            most = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (0 if full else most, most))
            self.tight = full

    def end(self, patience_s: float) -> int:
        """Asks it to end, and waits.

        Args:
            patience_s: after which it is killed.

        Returns:
            Its status.
        """
        if self._process is None:
            return 0
        if self.alive:
            self.signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(30)
        if self._listener is not None:
            self._listener.join(10)
        return int(self._process.returncode)

    def last_words(self, lines: int = 3) -> str:
        """The end of its log.

        Args:
            lines: how many.
        """
        if self._listener is not None and not self.alive:
            self._listener.join(5)
        return "\n".join(self.log.read_text(encoding="utf-8").splitlines()[-lines:])

    def _watch(self, life: Life, process: subprocess.Popen[str]) -> None:
        """Asks a life's metrics until it has committed, or ended."""
        while process.poll() is None and (life.published_s is None or life.ready_s is None):
            time.sleep(POLL_S)
            try:
                text = _get(self.port, "metrics")
                since = time.time() - life.began
                life.answered_s = life.answered_s or since
                if life.published_s is None and any(float(count) > 0 for count in _COMMITTED.findall(text)):
                    life.cpu_s = _cpu_s(process.pid)
                    life.published_s = since
                if life.ready_s is None and _get(self.port, "readyz"):
                    life.ready_s = since
            except OSError:
                continue


def run_to_end(config: Path, log: Path, patience_s: float) -> None:
    """One process of both stages, until all that is in the topics is done.

    Args:
        config: its configuration file.
        log: where its words go.
        patience_s: seconds to wait for it.

    Raises:
        RuntimeError: it failed, or was too slow.
    """
    command = [sys.executable, "-m", "stream.cli.main", "run", str(config), "--until-end", "--instance", "a"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment)
    assert process.stdout is not None
    listener = threading.Thread(target=write_down, args=(process.stdout, log, f"started, pid {process.pid}"), daemon=True)
    listener.start()
    try:
        status: int | None = process.wait(patience_s)
    except subprocess.TimeoutExpired:
        status = None
    finally:
        process.kill()
        process.wait(30)
        listener.join(10)
    if status != 0:
        how = f"was not done after {patience_s:g} s" if status is None else f"ended with {status}"
        raise RuntimeError(f"{' '.join(command[1:])} {how}; the end of {log}:\n" + "\n".join(log.read_text().splitlines()[-15:]))


def write_down(pipe: IO[str], path: Path, first: str) -> None:
    """Writes what a process says to its log, with the time.

    Args:
        pipe: its output; a pipe, so that a full disk takes away its files and not its words.
        path: the log.
        first: what stands before it.
    """
    with path.open("a", encoding="utf-8") as out, pipe:
        out.write(f"{time.time():.3f} --- {first}\n")
        for line in pipe:
            out.write(f"{time.time():.3f} {line}")
            out.flush()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _get(port: int, page: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=1.0) as answer:
        return str(answer.read().decode())


def _free_port() -> int:
    """Below those that the system gives to clients: it must be free again after each kill."""
    for _ in range(200):
        port = random.randrange(10_000, 20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")
