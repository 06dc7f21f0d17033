"""nowcart run: how it starts, what it refuses, how it stops, and what it does when the broker goes away."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stream.cli import run as run_command
from stream.cli.main import main
from stream.config import load
from stream.kafka.admin import Admin, Topic
from stream.kafka.embedded import EmbeddedBroker
from stream.kafka.log import Partition
from stream.kafka.reader import follow
from stream.kafka.sender import Sender
from stream.topics import own_topics
from tests.kafka.conftest import unique
from tests.real_kafka import RealKafka, free_ports, script

pytestmark = pytest.mark.timeout(300)

PATIENCE_S = 90.0
START = 1_700_000_100_000
MINUTE = 60_000

SHOP = """
[kafka]
bootstrap_servers = "{bootstrap}"
{kafka}
[time]
idle_after = "1s"
[sources.clicks]
kind = "clickstream"
topic = "{prefix}clicks"
{clicks}
[sources.clicks.fields]
time = "at"
event = "what"
session = "sid"
item = "sku"
[sources.clicks.events]
view = "view"
buy = "purchase"
[demand]
from = "clickstream"
totals = [2]
[[demand.buckets]]
size = "15m"
horizon = 2
[activity]
partitions = 2
[output]
prefix = "{prefix}"
partitions = 2
[metrics]
port = 0
[state]
url = "file:{folder}/state"
"""


class Shop:
    """A configuration file, and the shop's side of its topics."""

    def __init__(self, folder: Path, bootstrap: str, kafka: str = "", clicks: str = "", prefix: str = "") -> None:
        self.prefix = prefix or unique("shop") + "."
        self.path = folder / f"{self.prefix}toml"
        self.path.write_text(
            SHOP.format(folder=folder, bootstrap=bootstrap, kafka=kafka, clicks=clicks, prefix=self.prefix), encoding="utf-8"
        )
        self.kafka = {"bootstrap.servers": bootstrap}
        self.topic = f"{self.prefix}clicks"

    def create(self, partitions: int = 1) -> Shop:
        Admin(self.kafka).create([*own_topics(load(self.path)), Topic(self.topic, partitions)])
        return self

    def send(self, first_minute: int, count: int, spread: bool = False) -> None:
        """A view a minute, three sessions in turn, to one partition; spread: to four, without regard to the session."""
        values = [
            b'{"at":%d,"sid":"s%d-%d","what":"view","sku":"item%d"}' % (START + i * MINUTE, i % 3, i // 30, i % 2)
            for i in range(first_minute, first_minute + count)
        ]
        keys = [json.loads(value)["sid"].encode() for value in values]
        with Sender(self.kafka) as sender:
            sender.send(self.topic, values, keys, [i % 4 if spread else 0 for i in range(count)])

    def demand(self, corrected: bool = False) -> dict[tuple[str, int], int]:
        """Views by item and bucket, of everything published so far; each bucket is there once, or corrected later."""
        found: dict[tuple[str, int], int] = {}
        for record in follow(self.kafka, [f"{self.prefix}demand"], until_end=True):
            value = json.loads(record.value or b"")
            place = (value["item"], value["bucket_start_ms"])
            assert not value.get("corrects") or corrected
            assert place not in found or value.get("corrects"), "published twice"
            found[place] = value["views"]
        return found


def expected(minutes: int) -> dict[tuple[str, int], int]:
    """What `demand` has to hold once minutes are done, for buckets in which anything was seen since the item's first."""
    last = (START + (minutes - 1) * MINUTE) // 900_000 * 900_000
    views: dict[tuple[str, int], int] = {}
    for item in range(2):
        first = (START + item * MINUTE) // 900_000 * 900_000
        for bucket in range(first, last, 900_000):
            views[f"item{item}", bucket] = sum(bucket <= START + i * MINUTE < bucket + 900_000 for i in range(item, minutes, 2))
    return views


class Process:
    """A running `nowcart run`, and what it has said."""

    def __init__(self, shop: Shop, *arguments: str) -> None:
        command = [sys.executable, "-m", "stream.cli.main", "run", str(shop.path), *arguments]
        environment = {name: value for name, value in os.environ.items() if name != "NOWCART_INSTANCE"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def ends(self, status: int) -> str:
        assert self.process.wait(PATIENCE_S) == status, "\n".join(self.lines)
        self._thread.join(PATIENCE_S)
        return "\n".join(self.lines)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> str:
        self.process.send_signal(number)
        return self.ends(0)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        self._thread.join(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


def wait_for(condition: Callable[[], bool], *processes: Process) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        time.sleep(0.05)
        if time.monotonic() > deadline or any(p.process.poll() is not None for p in processes):
            pytest.fail(f"it did not become so; said: {[process.lines[-25:] for process in processes]}")


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def metric(port: int, name: str) -> float | None:
    """The sum over a metric's labels."""
    values = [line.rpartition(" ")[2] for line in get(port, "/metrics")[1].splitlines() if line.startswith(name)]
    return sum(map(float, values)) if values else None


@pytest.fixture(scope="module")
def embedded() -> Iterator[str]:
    """Bootstrap servers of an embedded broker."""
    if importlib.util.find_spec("noida_db") is None:
        pytest.skip("the embedded broker is not installed: pip install 'nowcart[local]'")
    with EmbeddedBroker() as broker:
        yield broker.bootstrap_servers


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealKafka]:
    start = script()
    if start is None:
        pytest.skip("no real Kafka that may be killed: name a script that starts one in NOWCART_KAFKA_SCRIPT")
    kafka = RealKafka(start, tmp_path_factory.mktemp("kafka"))
    try:
        yield kafka
    finally:
        kafka.stop()


BROKERS = ["embedded", pytest.param("own_kafka", marks=pytest.mark.kafka)]


@pytest.fixture
def bootstrap(request: pytest.FixtureRequest) -> str:
    broker: str | RealKafka = request.getfixturevalue(request.param)
    return broker if isinstance(broker, str) else broker.servers


# ---- what it refuses


def refused(shop: Shop, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one message with which it ends, with status 2 and within 30 s."""
    began = time.monotonic()
    assert main(["run", str(shop.path), "--log-level", "warning", *arguments]) == 2
    assert time.monotonic() - began < 30
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("nowcart: ")
    return line


def test_no_broker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "127.0.0.1:1 must answer within 10 s" in refused(Shop(tmp_path, "127.0.0.1:1"), capsys)


@pytest.mark.parametrize(
    ("bootstrap", "mechanism"),
    [
        ("embedded", "SCRAM-SHA-256"),  # it takes any password that comes as PLAIN
        pytest.param("own_kafka", "SCRAM-SHA-256", marks=pytest.mark.kafka),
        pytest.param("own_kafka", "PLAIN", marks=pytest.mark.kafka),
    ],
    indirect=["bootstrap"],
)
def test_a_password_that_the_broker_does_not_take(
    tmp_path: Path, bootstrap: str, mechanism: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sasl = f'security.protocol = "SASL_PLAINTEXT"\nsasl.mechanism = "{mechanism}"\nsasl.username = "me"\nsasl.password = "wrong"'
    line = refused(Shop(tmp_path, bootstrap, sasl), capsys)
    assert bootstrap in line
    assert "wrong" not in line


@pytest.mark.parametrize("bootstrap", BROKERS, indirect=True)
def test_a_setting_that_kafkas_client_refuses_is_one_message_and_no_trace(tmp_path: Path, bootstrap: str) -> None:
    # Shorter sessions than max.poll.interval.ms (five minutes) are a rule of librdkafka's. It says so while torch is still being loaded.
    with Process(Shop(tmp_path, bootstrap, kafka="session.timeout.ms = 600000").create()) as process:
        said = process.ends(2)
    assert "max.poll.interval.ms" in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("bootstrap", BROKERS, indirect=True)
def test_missing_topics_and_wrong_partition_counts(tmp_path: Path, bootstrap: str, capsys: pytest.CaptureFixture[str]) -> None:
    shop = Shop(tmp_path, bootstrap)
    line = refused(shop, capsys)
    assert f"the topic '{shop.topic}' of [sources.clicks] does not exist" in line
    admin = Admin(shop.kafka)
    admin.create([Topic(shop.topic, 1)])
    assert "nowcart topics CONFIG create" in refused(shop, capsys)
    admin.create([Topic(f"{shop.prefix}activity", 7), *(topic for topic in own_topics(load(shop.path)) if "activity" not in topic.name)])
    line = refused(shop, capsys)
    assert f"the topic '{shop.prefix}activity' must have as many partitions as [activity] partitions (2); got 7" in line


def test_sessions_in_several_partitions(tmp_path: Path, embedded: str, capsys: pytest.CaptureFixture[str]) -> None:
    shop = Shop(tmp_path, embedded).create(4)
    shop.send(0, 90, spread=True)
    line = refused(shop, capsys)
    assert f"the topic '{shop.topic}' of [sources.clicks] must be keyed by session; of 9 sessions" in line
    assert "sources.clicks.repartition = true" in line
    told = Shop(tmp_path, embedded, clicks="repartition = true", prefix=shop.prefix).create()
    assert main(["run", str(told.path), "--until-end", "--metrics-port", "0"]) == 0
    assert told.demand(corrected=True) == expected(90)  # what came together from four partitions came a little out of order


@pytest.mark.parametrize(
    "arguments", [["--instance", "a b"], ["--instance", ""], ["--metrics-port", "-1"], ["--metrics-port", "70000"], ["--stage", "both"]]
)
def test_arguments_that_make_no_sense(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["run", "shop.toml", *arguments])
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.kafka
def test_two_processes_of_one_name_are_told_what_to_do(tmp_path: Path, own_kafka: RealKafka) -> None:
    shop = Shop(tmp_path, own_kafka.servers).create()
    with Process(shop, "--instance", "twin") as first:
        wait_for(lambda: first.said("as instance 'twin'"), first)
        shop.send(0, 60)
        wait_for(lambda: bool(shop.demand()), first)
        with Process(shop, "--instance", "twin") as second:
            wait_for(lambda: first.process.poll() is not None)
            said = first.ends(2)
            assert f"This one is 'twin' of prefix '{shop.prefix}'" in said
            assert "--instance (or NOWCART_INSTANCE)" in said
            assert "Traceback" not in said
            second.stop()


# ---- how it runs and stops


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_runs_on_a_broker_of_its_own_until_it_is_told_to_stop(tmp_path: Path, embedded: str, number: signal.Signals) -> None:
    port = free_ports()
    shop = Shop(tmp_path, embedded)
    with Process(shop, "--embedded", "--metrics-port", str(port)) as process:
        wait_for(lambda: process.said("Kafka listens on "), process)
        address = next(line for line in process.lines if line.startswith("Kafka listens on ")).rpartition(" ")[2]
        shop.kafka = {"bootstrap.servers": address}
        assert Admin(shop.kafka).topics()[shop.topic] == 4
        wait_for(lambda: get(port, "/readyz")[0] == 200, process)
        assert get(port, "/healthz")[0] == 200
        shop.send(0, 60)
        wait_for(lambda: shop.demand() == expected(60), process)
        assert metric(port, "nowcart_events_total{") == 60
        assert metric(port, "nowcart_broker_reachable{") == 2
        said = process.stop(number)
    assert "stopped: 60 rows in" in said
    assert "Traceback" not in said


def test_stages_run_apart_and_a_second_run_goes_on_where_the_first_ended(
    tmp_path: Path, embedded: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(tmp_path, embedded).create()
    command = ["run", str(shop.path), "--until-end", "--metrics-port", "0"]
    shop.send(0, 90)
    assert main([*command, "--stage", "ingest"]) == 0
    assert shop.demand() == {}
    assert main([*command, "--stage", "forecast"]) == 0
    assert shop.demand() == expected(90)
    shop.send(90, 60)
    caplog.clear()
    with caplog.at_level("INFO", "nowcart"):
        assert main(command) == 0
    assert "state rebuilt in" in caplog.text
    views = shop.demand()
    assert views == expected(150)


def test_restoring_is_shown_in_a_log_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("stream.cli.run.time.monotonic", lambda: clock[0])
    one, two = Partition("shop", 0), Partition("shop", 1)
    with caplog.at_level("INFO", "nowcart"), run_command.Restoring() as restoring:
        for done in range(0, 100, 10):
            clock[0] += 4.0
            restoring.told(one, done, 90)
            restoring.told(two, done, 200)
        restoring.told(two, 0, 0)
    assert [record.getMessage() for record in caplog.records] == [
        f"shop[{p}]: {done} of {of} messages replayed ({100 * done // of} %)"
        for done in (30, 60, 90)
        for p, of in ((0, 90), (1, 200))
        if done < of
    ]
    assert capsys.readouterr().err == ""  # no bars where no terminal is


@pytest.mark.kafka
def test_a_broker_that_goes_away_is_waited_for(tmp_path: Path, own_kafka: RealKafka) -> None:
    port = free_ports()
    shop = Shop(tmp_path, own_kafka.servers).create()
    with Process(shop, "--metrics-port", str(port)) as process:
        shop.send(0, 60)
        wait_for(lambda: shop.demand() == expected(60), process)
        own_kafka.kill()
        try:
            wait_for(lambda: metric(port, "nowcart_broker_reachable{") in (0, 1), process)  # of two stages
            status, text = get(port, "/readyz")
            assert (status, "no broker answers" in text) == (503, True)
            assert get(port, "/healthz")[0] == 200
            wait_for(lambda: process.said("is away"), process)
        finally:
            own_kafka.revive()
        wait_for(lambda: get(port, "/readyz")[0] == 200 and process.said("is back"), process)
        shop.send(60, 60)
        wait_for(lambda: shop.demand() == expected(120), process)
        said = process.stop()
    assert "Traceback" not in said
