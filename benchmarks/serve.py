"""How many readers and requests `nowcart serve` bears while the engine beside it works: streams, REST and the engine's own pace, all at once.

    python benchmarks/serve.py                                        # 1,000 readers, 500 requests/s, 20,000 events/s, 30 s
    python benchmarks/serve.py --readers 200 --requests 100 --rate 5000 --seconds 10

Starts an embedded broker, the engine, `nowcart serve` and a shop, each in a process of its own, and asks from this one: so on a machine of
two cores the load's own cost is part of what is measured. Of the readers a fifth follows the spikes, a tenth the overview, a hundredth all
intents, and the others an item each. Prints the percentiles of REST, what the readers got, who was dropped, and how far behind the engine is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from stream.bench.shop import Task
from stream.kafka.admin import Admin, Topic
from stream.kafka.embedded import EmbeddedBroker
from stream.simulate import TOPICS
from stream.simulate.mapping import sources
from stream.tables import ConfigError
from stream.topics import own_topics

METRICS, SERVE = 19_464, 19_465

_CONFIG = """
[kafka]
bootstrap_servers = "{servers}"
"nowcart.rest.ms" = 50
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


class Tally:
    """What came back."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.failed = 0
        self.not_modified = 0
        self.events = 0
        self.bytes = 0
        self.dropped = 0
        self.gaps = 0
        self.connected = 0
        self.lost: list[str] = []


def toml_sources() -> str:
    """[sources] of the simulated shop."""

    def write(table: dict[str, Any], name: str) -> str:
        plain = "".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in table.items() if not isinstance(value, dict))
        inner = "".join(write(value, f"{name}.{json.dumps(key)}") for key, value in table.items() if isinstance(value, dict))
        return f"[{name}]\n{plain}{inner}"

    return "".join(write(table, f"sources.{name}") for name, table in sources("bench").items())


async def read(session: aiohttp.ClientSession, query: str, tally: Tally, stop: asyncio.Event) -> None:
    """One reader."""
    try:
        async with session.get(f"http://127.0.0.1:{SERVE}/v1/stream?{query}") as answer:
            answer.raise_for_status()
            tally.connected += 1
            while not stop.is_set():
                chunk = await answer.content.readany()
                if not chunk:
                    return
                tally.bytes += len(chunk)
                tally.events += chunk.count(b"\nevent: ") + chunk.startswith(b"event: ")
                tally.dropped += chunk.count(b"event: dropped")
                tally.gaps += chunk.count(b"event: gap")
    except (aiohttp.ClientError, OSError) as error:
        if not stop.is_set():
            tally.lost.append(type(error).__name__)


async def ask(session: aiohttp.ClientSession, items: list[str], each_s: float, tally: Tally, stop: asyncio.Event) -> None:
    """One who asks at an even pace, whether the last answer has come or not: a server that stands still is seen in every question."""
    chance = random.Random(len(items))
    tags: dict[str, str] = {}
    loop = asyncio.get_running_loop()
    due = loop.time() + chance.random() * each_s
    running: set[asyncio.Task[None]] = set()

    async def one(path: str, since: float) -> None:
        try:
            async with session.get(f"http://127.0.0.1:{SERVE}{path}", headers={"If-None-Match": tags.get(path, "")}) as answer:
                await answer.read()
                tally.not_modified += answer.status == 304
                tally.failed += answer.status not in (200, 304)
                tags[path] = answer.headers.get("ETag", "")
            tally.seconds.append(loop.time() - since)
        except (aiohttp.ClientError, OSError, TimeoutError):
            tally.failed += 1

    while not stop.is_set():
        if (left := due - loop.time()) > 0:
            await asyncio.sleep(left)
        item = chance.choice(items)
        kinds = [
            f"/v1/items/{item}/demand",
            f"/v1/items/{item}/demand?history=48",
            "/v1/items?sort=expected&limit=50",
            f"/v1/items?q={item[:4]}&limit=20",
        ]
        kinds += ["/v1/overview", "/v1/sessions?limit=20", "/v1/spikes"]
        task = loop.create_task(one(chance.choices(kinds, [8, 2, 2, 1, 2, 1, 2])[0], due))
        running.add(task)
        task.add_done_callback(running.discard)
        due += each_s
    await asyncio.gather(*running)


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


def percentile(values: list[float], share: float) -> float:
    """Milliseconds."""
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def processor_seconds(process: subprocess.Popen[bytes]) -> float:
    """User and system time that a process has taken."""
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_megabytes(process: subprocess.Popen[bytes]) -> float:
    """Memory that a process holds."""
    return int(Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def load(args: argparse.Namespace, items: list[str], tally: Tally) -> None:
    """Readers and questions for so long."""
    stop = asyncio.Event()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None, sock_read=None)) as session:
        readers = []
        for number in range(args.readers):
            share = number % 100
            if share < 20:
                query = "topics=spikes,alerts"
            elif share < 30:
                query = "topics=overview,spikes"
            elif share < 31:
                query = "topics=intent"
            else:
                query = f"topics=demand,spikes&item={items[number % len(items)]}"
            readers.append(asyncio.create_task(read(session, query, tally, stop)))
        while tally.connected < args.readers and not tally.lost:
            await asyncio.sleep(0.1)
        tally.events = tally.bytes = 0
        askers = [asyncio.create_task(ask(session, items, 20 / args.requests, tally, stop)) for _ in range(20)]
        await asyncio.sleep(args.seconds)
        stop.set()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*askers, *readers, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=1_000)
    parser.add_argument("--requests", type=int, default=500, help="a second")
    parser.add_argument("--rate", type=int, default=20_000, help="clickstream events a second")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker() as broker:
        text = _CONFIG.format(servers=broker.bootstrap_servers, folder=folder, metrics=METRICS, serve=SERVE) + toml_sources()
        file = Path(folder) / "bench.toml"
        file.write_text(text, encoding="utf-8")
        from stream.config import load as load_config

        try:
            config = load_config(file)
        except ConfigError as error:
            sys.exit(f"{error}\n{text}")
        keep = dict.fromkeys(("activity", "intent", "demand", "spikes", "deadletter"), 64 * 1024 * 1024)
        shop = [Topic(f"bench.{name.split('.')[1]}", 4, {"retention.bytes": str(64 * 1024 * 1024)}) for name in TOPICS.values()]
        Admin(config.kafka).create([*shop, *own_topics(config, keep)])
        warm_s = 90  # so that two buckets close before anything is measured, and another one meanwhile
        task = Task(kafka=dict(config.kafka), topic="bench", task="steady", events=args.rate * (warm_s + args.seconds + 40), rate=args.rate)
        try:
            command = [sys.executable, "-m", "stream.cli.main", "--log-level", "warning"]
            engine = subprocess.Popen([*command, "run", str(file)])
            started.append(engine)
            serving = subprocess.Popen([*command, "serve", str(file)], stdout=subprocess.DEVNULL)
            started.append(serving)
            for port in (METRICS, SERVE):
                wait_for(port)
            feeding = subprocess.Popen([sys.executable, "-m", "stream.bench.shop", json.dumps(as_dict(task))], stdout=subprocess.PIPE)
            started.append(feeding)
            print("making the shop's messages …", flush=True)
            assert feeding.stdout is not None
            feeding.stdout.readline()
            os.set_blocking(feeding.stdout.fileno(), False)
            print(f"warming up for {warm_s} s …", flush=True)
            until = time.monotonic() + warm_s
            while time.monotonic() < until:
                feeding.stdout.read()
                time.sleep(0.5)
            for name, process in (("the engine", engine), ("serve", serving), ("the shop", feeding)):
                if process.poll() is not None:
                    sys.exit(f"{name} ended with status {process.returncode}")
            rows = json.load(urllib.request.urlopen(f"http://127.0.0.1:{SERVE}/v1/items?limit=200", timeout=30))["items"]
            items = [row["item"] for row in rows]
            if not items:
                sys.exit(
                    f"no bucket has closed after {warm_s} s: the engine does not keep up with {args.rate} events/s here; try a smaller --rate"
                )
            tally = Tally()
            events, began, engine_cpu, serve_cpu = (
                said("nowcart_events_total", source="clicks"),
                time.monotonic(),
                processor_seconds(engine),
                processor_seconds(serving),
            )
            uvloop.run(load(args, items, tally))
            seconds = time.monotonic() - began
            done = said("nowcart_events_total", source="clicks") - events
            figures = {
                "readers": args.readers,
                "rest_per_second": round(len(tally.seconds) / args.seconds, 1),
                "rest_failed": tally.failed,
                "rest_not_modified": tally.not_modified,
                "rest_ms": {
                    name: round(percentile(tally.seconds, share), 1)
                    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
                },
                "events_delivered_per_second": round(tally.events / args.seconds, 1),
                "megabytes_delivered_per_second": round(tally.bytes / args.seconds / 1e6, 2),
                "readers_dropped": tally.dropped,
                "readers_lost": len(tally.lost),
                "gaps": tally.gaps,
                "engine_events_per_second": round(done / seconds),
                "engine_waiting_events": said("nowcart_consumer_lag_events", topic="bench.clicks"),
                "engine_processor_share": round((processor_seconds(engine) - engine_cpu) / seconds, 2),
                "serve_processor_share": round((processor_seconds(serving) - serve_cpu) / seconds, 2),
                "serve_resident_megabytes": round(resident_megabytes(serving)),
            }
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
            for process in reversed(started):
                process.wait(60)
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures), encoding="utf-8")


def as_dict(task: Task) -> dict[str, Any]:
    """A struct as JSON's own kinds."""
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(task)
    return found


if __name__ == "__main__":
    main()
