"""A spike in a simulated shop reaches a real Alertmanager, and Prometheus sees all of it: engine, alerts, rules, the way between them."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream.config import Config, parse
from stream.kafka.admin import Admin, Topic
from stream.kafka.embedded import EmbeddedBroker
from stream.kafka.sender import Sender
from stream.simulate import TOPICS, Shop, demo_spec, pace
from stream.simulate.mapping import sources
from stream.tables import as_toml
from stream.topics import own_topics
from tests.deploy.tools import DEPLOY, program
from tests.shop_runs import Process, Watch

log = logging.getLogger(__name__)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

MINUTE_MS = 60_000
PAST_MS = 110 * MINUTE_MS  # an item is not judged before it has been seen for 96 buckets
EDGE_AFTER_S = 30.0
"""The shop's clock is behind ours by so much that its next minute begins so long after the start."""
ORDERS = 40


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def got(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def until(found: Callable[[], Any], what: str, *processes: Process, seconds: float = 150.0) -> Any:
    """What `found` gives once it is truthy; a server that is not there yet is no answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = found()
        except OSError:
            answer = None
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"no {what} within {seconds:g} s; the processes said {[process.lines[-15:] for process in processes]}")
        time.sleep(0.05)


@contextmanager
def serving(name: str, folder: Path, *arguments: str) -> Iterator[None]:
    """One of Prometheus's programs."""
    with (folder / f"{name}.log").open("wb") as said:
        process = subprocess.Popen([program(name), *arguments], stdout=said, stderr=said, cwd=folder)
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


class LiveShop:
    """The simulated shop: its past at once, then the present by its own clock, and a rush on one of its items."""

    def __init__(self, servers: str) -> None:
        behind_ms = (now_ms() + int(EDGE_AFTER_S * 1000)) % MINUTE_MS
        self.clock: Callable[[], int] = lambda: now_ms() - behind_ms
        opened = self.clock() - PAST_MS
        self._shop = Shop(demo_spec(items=50, rate=15.0, seed=3, start_ms=opened, spikes_per_day=0.0, malformed_share=0.0, conversion=0.2))
        self._servers = servers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self.sold: Counter[str] = Counter()

    def _live(self) -> None:
        def sleep(seconds: float) -> None:
            if self._stop.wait(seconds):
                raise InterruptedError

        try:
            with Sender({"bootstrap.servers": self._servers}) as sender:
                for chunk in pace(self._shop.events(chunk_ms=20_000), self.clock, sleep, 100):
                    for name, batch in chunk.sources.items():
                        sender.send(TOPICS[name], batch.values, batch.keys)
                    self.sold.update(json.loads(value)["sku"] for value in chunk.sources["orders"].values)
        except InterruptedError:
            pass

    def rush(self, item: str) -> int:
        """Many orders of one item, now; returns when, by the shop's clock."""
        at_ms = self.clock()
        values = [
            json.dumps(
                {"order_id": f"rush{n}", "line": 1, "created": at_ms, "sku": item, "quantity": 10, "unit_price": 9.5, "sid": f"r{n}"}
            )
            for n in range(ORDERS)
        ]
        with Sender({"bootstrap.servers": self._servers}) as sender:
            sender.send(TOPICS["orders"], [value.encode() for value in values], [b"rush"] * ORDERS)
        return at_ms

    def __enter__(self) -> LiveShop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)


def configuration(servers: str, folder: Path, alertmanager: str) -> dict[str, Any]:
    return {
        "kafka": {"bootstrap_servers": servers},
        "time": {"out_of_orderness": "2s", "allowed_lateness": "5m", "max_lead": "10m", "idle_after": "5s"},
        "sources": sources(),
        "demand": {"from": "orders", "totals": [3], "buckets": [{"size": "1m", "horizon": 5}]},
        "models": {"river_items": 5},
        "activity": {"partitions": 1},
        "output": {"partitions": 1},
        "state": {"url": f"file:{folder / 'state'}"},
        "alerts": {"cooldown": "1m", "alertmanager": {"url": alertmanager, "repost": "2s"}},
        "metrics": {"port": 0},
    }


def prometheus_configuration(folder: Path, targets: dict[str, int], alertmanager: int) -> Path:
    """The one that is deployed, with this machine's addresses and less patience."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"}
    config["rule_files"] = [str(DEPLOY / "prometheus" / "rules" / "*.yml")]
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager}"]
    config["scrape_configs"] = [
        {
            "job_name": "nowcart",
            "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": {"component": name}} for name, port in targets.items()],
        }
    ]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def test_a_rush_in_the_shop_is_an_alert_in_alertmanager(tmp_path: Path) -> None:
    program("prometheus"), program("alertmanager")
    ports = {name: free_port() for name in ("run", "alerts", "prometheus", "alertmanager")}
    alertmanager, prometheus = (f"http://127.0.0.1:{ports[name]}" for name in ("alertmanager", "prometheus"))
    with ExitStack() as stack:
        enter = stack.enter_context
        manager = ["--config.file", str(DEPLOY / "alertmanager" / "alertmanager.demo.yml"), "--storage.path", str(tmp_path / "am")]
        enter(
            serving(
                "alertmanager",
                tmp_path,
                *manager,
                "--web.listen-address",
                f"127.0.0.1:{ports['alertmanager']}",
                "--cluster.listen-address=",
            )
        )
        broker = enter(EmbeddedBroker())
        values = configuration(broker.bootstrap_servers, tmp_path, alertmanager)
        config: Config = parse(values)
        path = tmp_path / "shop.toml"
        path.write_text(as_toml(values), encoding="utf-8")
        Admin(config.kafka).create([*own_topics(config), *(Topic(topic, 1) for topic in TOPICS.values())])
        shop = enter(LiveShop(broker.bootstrap_servers))
        engine = enter(Process(path, "--metrics-port", str(ports["run"])))
        alerts = enter(Process(path, "--metrics-port", str(ports["alerts"]), name="alerts"))
        scraped = prometheus_configuration(tmp_path, {"run": ports["run"], "alerts": ports["alerts"]}, ports["alertmanager"])
        arguments = ["--config.file", str(scraped), "--storage.tsdb.path", str(tmp_path / "tsdb"), "--rules.alert.resend-delay=1s"]
        enter(serving("prometheus", tmp_path, *arguments, "--web.listen-address", f"127.0.0.1:{ports['prometheus']}"))
        demand = enter(Watch(config, "demand"))
        until(lambda: demand.grown() and alerts.said("alerts from"), "forecast", engine, alerts)

        def open_items() -> set[str]:
            return {alert["labels"].get("item", "") for alert in got(f"{alertmanager}/api/v2/alerts")}

        # A minute that has just begun would be waited for in full; one that is nearly over may be missed by what is in flight.
        # Orders that reach the topic after their minute has closed correct it, and no alert comes of that.
        until(lambda: 0.25 < shop.clock() % MINUTE_MS / MINUTE_MS < 0.7, "middle of a minute")

        item = next(sku for sku, _ in shop.sold.most_common() if sku not in open_items())  # minutes are small numbers: some spike by chance
        began, at_ms = time.monotonic(), shop.rush(item)
        bucket_s = (MINUTE_MS - at_ms % MINUTE_MS) / 1000

        def shown() -> Any:
            alerts = [alert for alert in got(f"{alertmanager}/api/v2/alerts") if alert["labels"].get("item") == item]
            return [alert for alert in alerts if alert["status"]["state"] == "active"]

        alert = until(shown, "alert", engine, alerts)[0]
        took_s = time.monotonic() - began
        log.warning(
            "from the first order of the rush to Alertmanager: %.1f s, of which %.1f s to the end of its bucket: %.1f s",
            took_s,
            bucket_s,
            took_s - bucket_s,
        )
        assert alert["labels"]["alertname"] == "NowcartDemandSpike"
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert {receiver["name"] for receiver in alert["receivers"]} <= {"shop", "shop-urgent"}
        assert datetime.fromisoformat(alert["startsAt"]).timestamp() * 1000 == at_ms - at_ms % MINUTE_MS
        assert item in alert["annotations"]["description"]

        def query(expression: str) -> list[Any]:
            answer = got(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
            found: list[Any] = answer["data"]["result"]
            return found

        assert len(until(lambda: len(query('up{job="nowcart"} == 1')) == 2 and query("up"), "scrape")) == 2
        until(lambda: query('nowcart_alerts_total{state="open"} > 0'), "count of alerts", alerts)
        until(lambda: query('nowcart_alert_deliveries_total{receiver="alertmanager",outcome="delivered"} > 0'), "delivery", alerts)
        until(lambda: query(f'topic:nowcart_consumer_lag_events:sum{{topic="{TOPICS["orders"]}"}}'), "recorded rule", engine)
        # And the other way to Alertmanager, Prometheus's own.
        names = until(
            lambda: (
                {a["labels"]["alertname"] for a in got(f"{alertmanager}/api/v2/alerts")} >= {"NowcartWatchdog"}
                and {a["labels"]["alertname"] for a in got(f"{alertmanager}/api/v2/alerts")}
            ),
            "watchdog",
        )
        assert "NowcartDown" not in names
