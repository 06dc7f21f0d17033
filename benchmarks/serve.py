"""How many readers and requests `nowcart serve` bears while the engine beside it works: streams, REST and the engine's own pace, all at once.

    python benchmarks/serve.py                                        # 1,000 readers, 500 requests/s, 20,000 events/s, 60 s
    python benchmarks/serve.py --readers 200 --requests 100 --rate 5000 --seconds 30
    python benchmarks/serve.py --readers 50 --requests 20 --rate 2000 --seconds 900      # whether memory is steady: a line each minute

Starts an embedded broker, the engine, `nowcart serve`, a shop and the load (benchmarks/serve_load.py), each in a process of its own: so on a
machine of two cores all of them are part of what is measured, and what each has taken of a core is printed. Of the readers a fifth follows
the spikes, a tenth the overview, a hundredth all intents, and the others an item each. Latency counts from when a question was due, not from
when it could be sent.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec

from stream.bench.shop import Task
from stream.config import load as load_config
from stream.kafka.admin import Admin, Topic
from stream.kafka.embedded import EmbeddedBroker
from stream.simulate import TOPICS
from stream.simulate.mapping import sources
from stream.tables import ConfigError, as_toml
from stream.topics import own_topics

METRICS, SERVE = 19_464, 19_465

_CONFIG = """
[time]
zone = "Europe/London"
out_of_orderness = "2s"
[demand]
from = "orders"
[[demand.buckets]]
size = "1m"
horizon = 30
seasons = [30]
[[demand.buckets]]
size = "1h"
horizon = 24
seasons = [24]
[output]
prefix = "bench.nowcart."
[state]
url = "file:{folder}/state"
[metrics]
port = {metrics}
[serve]
port = {serve}
metrics_port = 0
engine_metrics = "http://127.0.0.1:{metrics}/metrics"
"""


def said(name: str, **labels: str) -> float:
    """The sum of a metric of the engine's."""
    page = urllib.request.urlopen(f"http://127.0.0.1:{METRICS}/metrics", timeout=10).read().decode()
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = [line for line in page.splitlines() if re.match(rf"{name}[{{ ]", line) and all(part in line for part in wanted)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def wait_for(port: int) -> None:
    """Returns when somebody answers there."""
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def percentiles(values: list[float]) -> dict[str, float]:
    """Of milliseconds."""
    ordered = sorted(values) or [float("nan")]
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) for name, share in shares.items()}


# ---- what the processes take


def kin(pid: int) -> list[int]:
    """A process, its children and theirs."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if fields := _stat(int(folder.name)):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].split()
    except OSError:
        return []  # it has ended meanwhile


def processor_seconds(pid: int) -> float:
    """User and system time that a process and its children have taken."""
    taken = sum(int(fields[11]) + int(fields[12]) for each in kin(pid) if (fields := _stat(each)))
    return taken / os.sysconf("SC_CLK_TCK")


def machine_seconds() -> float:
    """Processor time of this machine that was not idle."""
    fields = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def resident_megabytes(pid: int) -> float:
    """Memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Usage:
    """What each process takes.

    Args:
        pids: by name.
    """

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._since = time.monotonic()
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        return {**{name: processor_seconds(pid) for name, pid in self._pids.items()}, "all": machine_seconds()}

    def shares(self) -> dict[str, float]:
        """Cores, on average since it was made; `others`: what else runs on this machine."""
        now, seconds = self._now(), time.monotonic() - self._since
        shares = {name: (value - self._before[name]) / seconds for name, value in now.items()}
        shares["others"] = max(0.0, shares["all"] - sum(shares[name] for name in self._pids))
        return {name: round(value, 2) for name, value in shares.items()}


@contextmanager
def running(*command: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    process = subprocess.Popen([sys.executable, *command], **more)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


class Part(msgspec.Struct):
    """What came back in a minute, as the load tells it."""

    milliseconds: list[float]
    failed: int
    not_modified: int
    events: int
    bytes: int
    dropped: int
    gaps: int
    lost: int


def measure(args: argparse.Namespace, pids: dict[str, int]) -> dict[str, Any]:
    """Readers and questions for so long."""
    rows = json.load(urllib.request.urlopen(f"http://127.0.0.1:{SERVE}/v1/items?limit=200", timeout=30))["items"]
    if not rows:
        sys.exit("no bucket has closed: the engine does not keep up with so many events here; try a smaller --rate")
    report_s = min(60, args.seconds)
    asked = {
        "port": SERVE,
        "readers": args.readers,
        "requests": args.requests,
        "seconds": args.seconds,
        "report_s": report_s,
        "items": [row["item"] for row in rows],
    }
    parts: list[Part] = []
    with running(str(Path(__file__).with_name("serve_load.py")), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as load:
        assert load.stdin is not None
        assert load.stdout is not None
        load.stdin.write(json.dumps(asked).encode() + b"\n")
        load.stdin.flush()
        if load.stdout.readline() != b"connected\n":
            sys.exit("the readers were not let in")
        pids = {**pids, "load": load.pid}
        events, began, usage = said("nowcart_events_total", source="clicks"), time.monotonic(), Usage(pids)
        print(
            "measuring\nminutes   REST, ms: p50    p99     max   events/s   resident MB: serve engine   cores: serve engine others",
            flush=True,
        )
        recent, shares = usage, {}
        for line in load.stdout:
            part = msgspec.json.decode(line, type=Part)
            parts.append(part)
            found, now, shares = percentiles(part.milliseconds), recent.shares(), usage.shares()
            recent = Usage(pids)
            print(
                f"{(time.monotonic() - began) / 60:7.1f} {found['p50']:15.1f} {found['p99']:7.1f} {found['max']:7.1f} {part.events / report_s:10.0f}"
                f" {resident_megabytes(pids['serve']):19.0f} {resident_megabytes(pids['engine']):6.0f} {now['serve']:14.2f} {now['engine']:6.2f}"
                f" {now['others']:6.2f}",
                flush=True,
            )
        seconds = time.monotonic() - began
        done = said("nowcart_events_total", source="clicks") - events
    if done / seconds < 0.95 * args.rate:
        print(f"not so many events came as asked for: {done / seconds:.0f}/s; the shop, the broker or the engine had no time", flush=True)
    total = {name: sum(getattr(part, name) for part in parts) for name in Part.__struct_fields__[1:]}
    asked_and_answered = [value for part in parts for value in part.milliseconds]
    return {
        "readers": args.readers,
        "rest_per_second": round(len(asked_and_answered) / seconds, 1),
        "rest_failed": total["failed"],
        "rest_not_modified": total["not_modified"],
        "rest_ms": percentiles(asked_and_answered),
        "events_delivered_per_second": round(total["events"] / seconds, 1),
        "megabytes_delivered_per_second": round(total["bytes"] / seconds / 1e6, 2),
        "readers_dropped": total["dropped"],
        "readers_lost": total["lost"],
        "gaps": total["gaps"],
        "engine_events_per_second": round(done / seconds),
        "engine_waiting_events": said("nowcart_consumer_lag_events", topic="bench.clicks"),
        "cores": shares,
        "serve_resident_megabytes": round(resident_megabytes(pids["serve"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kafka", metavar="HOST:PORT", help="a Kafka to run on; topics bench.*, deleted at the end; default: the embedded broker"
    )
    parser.add_argument("--readers", type=int, default=1_000)
    parser.add_argument("--requests", type=int, default=500, help="a second")
    parser.add_argument("--rate", type=int, default=20_000, help="clickstream events a second")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        pids: dict[str, int] = {}
        if args.kafka is None:
            servers: dict[str, Any] = {"bootstrap_servers": stack.enter_context(EmbeddedBroker()).bootstrap_servers, "nowcart.rest.ms": 50}
            pids["broker"] = kin(os.getpid())[1]
        else:
            servers = {"bootstrap_servers": args.kafka}
        text = as_toml({"kafka": servers, "sources": sources("bench")}) + _CONFIG.format(folder=folder, metrics=METRICS, serve=SERVE)
        file = Path(folder) / "bench.toml"
        file.write_text(text, encoding="utf-8")
        try:
            config = load_config(file)
        except ConfigError as error:
            sys.exit(f"{error}\n{text}")
        keep = dict.fromkeys(("activity", "intent", "demand", "spikes", "deadletter"), 64 * 1024 * 1024)
        shop = [Topic(f"bench.{name.split('.')[1]}", 4, {"retention.bytes": str(64 * 1024 * 1024)}) for name in TOPICS.values()]
        topics = [*shop, *own_topics(config, keep)]
        stack.callback(Admin(config.kafka).delete, [topic.name for topic in topics])
        Admin(config.kafka).create(topics)
        warm_s = 90  # so that two buckets close before anything is measured
        task = Task(
            kafka=dict(config.kafka), topic="bench", task="steady", events=args.rate * (warm_s + args.seconds + 120), rate=args.rate
        )
        command = ["-m", "stream.cli.main", "--log-level", "warning"]
        engine = stack.enter_context(running(*command, "run", str(file)))
        serving = stack.enter_context(running(*command, "serve", str(file), stdout=subprocess.DEVNULL))
        for port in (METRICS, SERVE):
            wait_for(port)
        feeding = stack.enter_context(running("-m", "stream.bench.shop", msgspec.json.encode(task).decode(), stdout=subprocess.PIPE))
        print("making the shop's messages …", flush=True)
        assert feeding.stdout is not None
        while feeding.stdout.readline() == b"sent 0\n":
            pass
        Thread(target=feeding.stdout.read, daemon=True).start()  # a full pipe would hold it up
        print(f"warming up for {warm_s} s …", flush=True)
        time.sleep(warm_s)
        for name, process in (("the engine", engine), ("serve", serving), ("the shop", feeding)):
            if process.poll() is not None:
                sys.exit(f"{name} ended with status {process.returncode}")
        figures = measure(args, {**pids, "serve": serving.pid, "engine": engine.pid, "shop": feeding.pid})
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
