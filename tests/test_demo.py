"""The demo: what its board learns from records, what its screen shows of it at any size, and the command itself."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from stream.demo.board import BUCKET_MS, Board
from stream.demo.ink import bar, chart, number, spark
from stream.demo.settings import demo_config, demo_shop, demo_topics, history_ms
from stream.demo.show import Latencies
from stream.demo.view import Figures, screen, status

NOW_MS = 1_790_000_040_000 - 1_790_000_040_000 % BUCKET_MS + 20_000
"""Twenty seconds into a minute."""
CLOSED_MS = NOW_MS - NOW_MS % BUCKET_MS - BUCKET_MS
"""The last bucket that has closed."""


def demand(item: str, start_ms: int, observed: float, mean: float, **more: object) -> bytes:
    forecast = {
        "mean": [mean + step for step in range(30)],
        "quantiles": {"0.1": [mean - 3] * 30, "0.5": [mean] * 30, "0.9": [mean + 4] * 30},
        "experts": {"1": {"ewma": 0.75, "river": 0.25}, "30": {"ewma": 0.1, "river": 0.9}},
    }
    head = {"item": item, "bucket": "1m", "bucket_start_ms": start_ms, "issued_at_ms": start_ms + BUCKET_MS, "observed": observed}
    return json.dumps({**head, **forecast, **more}).encode()


def intent(session: str, p: float, seconds_ago: float = 1, **more: object) -> bytes:
    record = {"session": session, "issued_at_ms": NOW_MS - int(seconds_ago * 1000), "events": 7, "p_purchase": p}
    return json.dumps({**record, **more}).encode()


def spike(item: str, state: str, observed: int) -> bytes:
    record = {"item": item, "bucket": "1m", "bucket_start_ms": CLOSED_MS, "observed": observed, "expected": 2.3, "p_value": 3e-9}
    return json.dumps({**record, "severity": "critical", "state": state}).encode()


@pytest.fixture
def board() -> Board:
    """Forty items of which p00001 sells most, some sessions, some spikes, some curves."""
    board = Board()
    for minute in reversed(range(20)):
        board.demand([demand(f"p{i:05d}", CLOSED_MS - minute * BUCKET_MS, 1000 // i + minute, 24_000 // i) for i in range(1, 41)])
        board.learning({"ewma": {"1": 0.5 + minute / 100}, "council": {"1": 0.4 + minute / 100, "30": 0.9}}, {})
    board.learning(
        {"ewma": {"1": 0.5}, "council": {"1": 0.375}},
        {"0.1": {"below": 0.04, "at_or_below": 0.2}, "0.5": {"below": 0.6, "at_or_below": 0.7}, "0.9": {"below": 0.8, "at_or_below": 0.93}},
    )
    board.intent([intent("abcdef99", 0.62), intent("bbbbbb99", 0.31), intent("cccccc99", 0.47), intent("cccccc99", 1.0, purchased=True)])
    board.spike([spike("p00009", "open", 41), spike("p00003", "open", 57), spike("p00009", "resolved", 3)])
    return board


@pytest.fixture
def figures() -> Figures:
    return Figures(
        phase="live", up_seconds=71, first_forecast_seconds=6.2, events=123_456, rates=[180.0, 200.0, 220.0], p50_ms=48.2, p99_ms=97.0,
        sessions=20_123, items=150, watermark_seconds=8.4, commits_per_second=9.6, records_per_second=171, now_ms=NOW_MS,
        metrics_url="http://127.0.0.1:9464/metrics", bootstrap_servers="127.0.0.1:49289",
    )  # fmt: skip


def drawn(board: Board, figures: Figures, width: int, height: int) -> list[str]:
    with Path(os.devnull).open("w") as nowhere:
        console = Console(width=width, height=height, record=True, force_terminal=True, file=nowhere, legacy_windows=False)
        console.print(screen(board, figures, width, height), end="")
        return console.export_text().splitlines()


# ---- the board


def test_an_item_shows_what_was_observed_and_the_newest_forecast(board: Board) -> None:
    item = board.top(1)[0]
    assert item.name == "p00001"
    assert item.history(3) == [1002, 1001, 1000]
    assert (item.mean[0], item.mean[9], item.low[0], item.high[0]) == (24_000, 24_009, 23_997, 24_004)
    start_ms = CLOSED_MS - BUCKET_MS
    correction = {"item": "p00001", "bucket": "1m", "bucket_start_ms": start_ms, "issued_at_ms": CLOSED_MS, "observed": 5, "corrects": True}
    board.demand([json.dumps(correction).encode()])
    assert item.history(3) == [1002, 5, 1000]
    assert item.mean[0] == 24_000


def test_other_bucket_sizes_are_not_watched(board: Board) -> None:
    board.demand([demand("p00001", CLOSED_MS, 77_777, 1, bucket="1h")])
    assert board.top(1)[0].history(1) == [1000]


def test_history_is_bounded() -> None:
    board = Board()
    board.demand([demand("p1", CLOSED_MS + minute * BUCKET_MS, minute, 1) for minute in range(1_000)])
    assert len(board.items["p1"].observed) <= 120
    assert board.top(1)[0].history(2) == [998, 999]


def test_weights_are_the_mean_over_items_of_the_first_step(board: Board) -> None:
    assert board.weights["ewma"][-1] == pytest.approx(0.75)
    assert board.weights["river"][-1] == pytest.approx(0.25)


def test_a_curve_gets_a_point_only_when_a_score_has_moved(board: Board) -> None:
    points = len(board.curves["council"])
    board.learning({"ewma": {"1": 0.5}, "council": {"1": 0.375}}, {})
    assert len(board.curves["council"]) == points
    board.learning({"ewma": {"1": 0.5}, "council": {"1": 0.37}}, {})
    assert list(board.curves["council"])[-2:] == [0.375, 0.37]


def test_hot_sessions_are_live_and_a_purchase_keeps_what_was_said_before_it(board: Board) -> None:
    board.intent(
        [intent("gone", 0.99, seconds_ago=3_600), intent("robot", 0.98, bot=True), intent("ended", 0.97), intent("ended", 0.1, ended=True)]
    )
    board.intent([intent("unheard", 1.0, purchased=True)])
    assert [(s.name, s.p, s.purchased) for s in board.hot(9)] == [
        ("abcdef99", 0.62, False),
        ("cccccc99", 0.47, True),
        ("bbbbbb99", 0.31, False),
    ]
    assert board.bought == 1
    board.intent([intent("later", 0.2, seconds_ago=-60)])
    assert "cccccc99" not in [s.name for s in board.hot(9)]


def test_sessions_are_bounded() -> None:
    board = Board()
    board.intent([intent(f"s{i}", 0.5) for i in range(10_000)])
    assert len(board.sessions) == 4_000


def test_open_spikes_come_first_and_those_that_are_over_say_how_they_began(board: Board) -> None:
    assert [(s.item, s.observed, over) for s, over in board.latest_spikes(9)] == [("p00003", 57, False), ("p00009", 41, True)]


def test_prices_hold_from_when_to_when_they_were_announced_for() -> None:
    board = Board()

    def offer(**fields: object) -> bytes:
        return json.dumps({"announced": NOW_MS - 50_000, "sku": "p1", **fields}).encode()

    assert board.items.get("p1") is None
    board.offers([offer(price=10.0, list_price=10.0, category="home.basics", brand="bocra")])
    item = board.items["p1"]
    assert (item.about, item.price(NOW_MS)) == ("home · bocra", (10.0, False))
    board.offers(
        [offer(price=8.0, promo="sale", valid_from=NOW_MS + 10, valid_until=NOW_MS + 20), offer(price=11.0, valid_from=NOW_MS + 15)]
    )
    assert [item.price(NOW_MS + after) for after in (9, 10, 15, 20)] == [(10.0, False), (8.0, True), (8.0, True), (11.0, False)]
    assert item.price(NOW_MS - 60_000) is None


def test_the_minute_that_runs_is_counted_from_the_shop_s_own_orders(board: Board) -> None:
    def order(at_ms: int, quantity: int, **fields: object) -> bytes:
        return json.dumps({"created": at_ms, "sku": "p00001", "quantity": quantity, **fields}).encode()

    board.orders([order(NOW_MS, 3), order(NOW_MS, 2, cancelled=True), order(NOW_MS, -4), b"", b'{"created', order(NOW_MS + 1, 5)])
    board.orders([order(CLOSED_MS, 100)])
    running = NOW_MS - NOW_MS % BUCKET_MS
    assert board.items["p00001"].open == {running: 8}
    board.demand([demand("p00001", running, 8, 1)])
    assert board.items["p00001"].open == {}


# ---- the screen


@pytest.mark.parametrize("width", [60, 79, 80, 100, 109, 110, 120, 160, 200])
@pytest.mark.parametrize("height", [20, 24, 33, 34, 40, 60])
def test_every_size_is_filled_exactly_and_shows_the_forecast(board: Board, figures: Figures, width: int, height: int) -> None:
    for state, phase in ((board, "live"), (Board(), "loading the models")):
        figures.phase = phase
        lines = drawn(state, figures, width, height)
        assert len(lines) == height
        assert max(map(len, lines)) <= width
        assert phase in lines[0]
    figures.phase = "live"
    lines = drawn(board, figures, width, height)
    row = next(line for line in lines if "p00001 " in line and ("▸" in line or "┊" in line))
    assert "24.0k" in row
    assert "127.0.0.1" in lines[-1] + lines[-2]


def test_the_screen_shows_the_right_numbers(board: Board, figures: Figures) -> None:
    board.orders([json.dumps({"created": NOW_MS, "sku": "p00030", "quantity": 17}).encode()])
    board.offers([json.dumps({"announced": 1, "sku": "p00030", "price": 234.5}).encode()])
    text = "\n".join(drawn(board, figures, 160, 60))
    assert "200 events/s" in text and "123,456 in all" in text
    assert "latency p50 48 ms" in text and "p99 97 ms" in text
    assert "20,123 sessions" in text and "150 items" in text and "watermark −8 s" in text
    assert "9.6 commits/s" in text and "171 records/s" in text
    assert "first forecast after 6.2 s" in text and "up 1:11" in text
    board.items = {"p00030": board.items["p00030"]}
    row = next(line for line in drawn(board, figures, 160, 60) if "▸ p00030" in line)
    assert re.search(r"17 +800 +809 +829 +797–804 +234\.50", row), row
    assert re.search(r"▲ p00003 +\S+ +57 for 2\.3 +p 3e-09 +critical", text)
    assert re.search(r"✓ p00009 +\S+ +41 for 2\.3 +p 3e-09 +over", text)
    assert re.search(r"abcdef +7 ev █.* 62%", text) and re.search(r"cccccc +7 ev █.* 47% +✓ bought", text)
    assert re.search(r"council +0\.375", text) and re.search(r"ewma +0\.500 .* 75% █", text)
    assert "80 % holds 89%" in text and "10%✓" in text and "50%✗" in text and "90%✓" in text


def test_chart_takes_turns_among_the_best_sellers(board: Board, figures: Figures) -> None:
    stars = set()
    for seconds in range(0, 60, 10):
        figures.up_seconds = seconds
        stars.add(next(line for line in drawn(board, figures, 120, 40) if "▸" in line).split("▸ ")[1][:6])
    assert stars == {"p00001", "p00002", "p00003"}


def test_a_warning_takes_the_place_of_the_hint(board: Board, figures: Figures) -> None:
    figures.note = " warning: no broker answers"
    assert "warning: no broker answers" in "\n".join(drawn(board, figures, 80, 24))


def test_status_line(board: Board, figures: Figures) -> None:
    line = status(board, figures)
    assert "\n" not in line
    assert (
        "200 events/s (123,456 in all)" in line and "p00001: 1,000 sold in the last minute, 24.0k forecast" in line and "WAPE 0.38" in line
    )


# ---- the drawings

finite = st.floats(0, 1e6)


@given(st.lists(finite, max_size=50), st.integers(0, 60))
def test_a_sparkline_fills_its_width_and_rises_with_the_values(values: list[float], width: int) -> None:
    drawn = spark(values, width)
    assert len(drawn) == width
    shown = values[-width:] if width else []
    heights = drawn[width - len(shown) :] if shown else ""
    for a, b, x, y in zip(shown, shown[1:], heights, heights[1:], strict=False):
        assert (x <= y) if a <= b else (x >= y)


@given(st.floats(-1, 2), st.integers(0, 40))
def test_a_bar_is_as_long_as_its_share(share: float, width: int) -> None:
    drawn = bar(share, width)
    assert len(drawn) == width
    eighths = sum(8 if c == "█" else " ▏▎▍▌▋▊▉".index(c) for c in drawn)
    assert abs(eighths - min(max(share, 0), 1) * width * 8) <= 0.5 + 1e-9


@given(st.lists(finite, max_size=30), st.lists(st.tuples(finite, finite, finite), max_size=30), st.integers(1, 20))
def test_a_chart_is_as_large_as_asked_and_shows_every_mean_once(
    past: list[float], ahead: list[tuple[float, float, float]], height: int
) -> None:
    low, mean, high = (list(column) for column in zip(*map(sorted, ahead), strict=True)) if ahead else ([], [], [])
    lines = [line.plain for line in chart(past, mean, low, high, height)]
    assert len(lines) == height
    assert {len(line) for line in lines} == {5 + len(past) + 1 + len(mean)}
    for column in range(len(mean)):
        assert sum(line[5 + len(past) + 1 + column] == "━" for line in lines) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (3.0, "3"),
        (0.374, "0.37"),
        (4.21, "4.2"),
        (9.96, "10"),
        (37.6, "38"),
        (1204, "1,204"),
        (15_300, "15.3k"),
        (204_000, "204k"),
        (1_000_000, "1M"),
        (None, "–"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert number(value) == text


def test_latencies_are_those_of_the_last_seconds() -> None:
    latencies = Latencies()
    assert latencies.percentiles_ms(0) == (None, None)
    latencies.add(0, np.full(100, 9.0))
    latencies.add(31, np.linspace(0, 0.1, 101))
    p50, p99 = latencies.percentiles_ms(31)
    assert p50 == pytest.approx(50) and p99 == pytest.approx(99)
    latencies.clear()
    assert latencies.percentiles_ms(31) == (None, None)


# ---- how it is set up


def test_the_configuration_is_valid_and_every_topic_that_grows_is_bounded() -> None:
    config = demo_config("127.0.0.1:1")
    assert [bucket.size for bucket in config.demand.buckets] == ["1m", "1h"]
    topics = {topic.name: topic for topic in demo_topics(config)}
    assert {source.topic for source in config.sources.values()} <= set(topics)
    assert all(int(topic.config["retention.bytes"]) <= 64 * 1024 * 1024 for topic in topics.values())


@pytest.mark.parametrize("rate", [1, 200, 20_000])
def test_the_shop_s_past_is_short_enough_to_catch_up_with(rate: float) -> None:
    past_ms = demo_shop(100, rate, 1, NOW_MS)
    assert past_ms.start_ms == NOW_MS - history_ms(rate)
    assert 120_000 <= history_ms(rate) <= 1_800_000
    assert history_ms(rate) / 1000 * rate <= 2_400_000


# ---- the command

needs_broker = pytest.mark.skipif(
    importlib.util.find_spec("noida_db") is None, reason="the embedded broker is not installed: pip install 'nowcart[local]'"
)


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    direct = [int(line) for line in found.split()]
    return direct + [grandchild for child in direct for grandchild in children(child)]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


@needs_broker
def test_the_command_forecasts_says_where_to_look_and_leaves_nothing_behind() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "stream.cli.main", "demo", "--seconds", "8", "--rate", "100", "--items", "60"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        started: list[int] = []
        out, metrics = [], ""
        for line in process.stdout:
            out.append(line)
            if found := re.match(r"metrics: (http://\S+)", line):
                with urllib.request.urlopen(found[1], timeout=30) as answer:
                    metrics = answer.read().decode()
                started = children(process.pid)
        complaints = process.stderr.read()
        assert process.wait(60) == 0, complaints
    text = "".join(out)
    assert "nowcart_events_total" in metrics
    assert re.search(r"^first forecast after \d+\.\d s$", text, re.MULTILINE), text
    assert re.search(r"kcat -b 127\.0\.0\.1:\d+ -C -t nowcart\.demand", text)
    assert "Traceback" not in complaints
    assert len(started) >= 2
    assert not [pid for pid in started if alive(pid)]


@needs_broker
def test_a_signal_at_the_very_start_ends_it_cleanly() -> None:
    process = subprocess.Popen([sys.executable, "-m", "stream.cli.main", "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "starting" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    out, complaints = process.communicate(timeout=90)
    assert process.returncode == 0, complaints
    assert "Traceback" not in complaints
    assert "first forecast not seen" in out


def test_a_shop_that_cannot_be_is_the_user_s_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    from stream.cli.main import main

    assert main(["demo", "--items", "3"]) == 2
    assert "items must be at least 10" in capsys.readouterr().err


@needs_broker
def test_a_resting_consumer_reads_everything_and_leaves_the_broker_alone() -> None:
    from stream.kafka.admin import Admin, Topic
    from stream.kafka.embedded import EmbeddedBroker
    from stream.kafka.reader import Tail
    from stream.kafka.resting import REST
    from stream.kafka.sender import Sender

    got: list[bytes] = []
    with EmbeddedBroker() as broker:
        kafka = {"bootstrap.servers": broker.bootstrap_servers}
        Admin(kafka).create([Topic("a", 2), Topic("b", 1)])
        with Sender(kafka) as sender, Tail({**kafka, REST: 20}, ["a", "b"]) as tail:
            rounds = 0
            while len(got) < 60 and rounds < 3_000:
                if rounds % 10 == 0 and rounds < 200:
                    for topic in ("a", "b", "a"):
                        sender.send(topic, [f"{topic}{rounds}".encode()])
                    sender.flush()
                got += [value for batch in tail.fetch(100, 0.02).batches for value in batch.values if value]
                rounds += 1
    assert sorted(got) == sorted(f"{topic}{n}".encode() for n in range(0, 200, 10) for topic in ("a", "b", "a"))
