"""nowcart replay: what rows become, in which order they are sent, and what a whole run leaves in its folder."""

from __future__ import annotations

import argparse
import base64
import gzip
import importlib.util
import json
import threading
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.cli import replay
from stream.cli.main import main
from stream.config import Config, UserError, parse
from stream.kafka.admin import Admin, Topic
from stream.kafka.embedded import EmbeddedBroker
from stream.kafka.log import Partition
from stream.kafka.reader import Tail, follow
from stream.kafka.sender import Sender
from stream.replay import drain, formats
from stream.replay.drain import Drain
from stream.replay.formats import open_table
from stream.replay.merge import merge
from stream.replay.rows import FIRST_MS, SourceFile
from stream.replay.send import Pace

NOW_MS = 1_800_000_000_000
SHOP = """
[sources.clicks]
kind = "clickstream"
topic = "clicks"
[sources.clicks.fields]
time = "at"
event = "what"
session = "sid"
user = "uid"
item = "sku"
[sources.clicks.events]
view = "view"
buy = "purchase"

[sources.orders]
kind = "orders"
topic = "orders"
fields = { time = "at", item = "sku", quantity = "n" }

[demand]
totals = [2]
[[demand.buckets]]
size = "15m"
horizon = 2

[activity]
partitions = 2
[output]
partitions = 2
"""


def shop(**kafka: str) -> Config:
    return parse({**tomllib.loads(SHOP), "kafka": kafka})


def write_ndjson(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def clicks(path: Path) -> SourceFile:
    config = shop()
    return SourceFile(config, config.sources["clicks"], path, NOW_MS)


def all_of(file: SourceFile) -> tuple[list[bytes], list[bytes | None]]:
    parts = list(file.messages())
    return [value for part in parts for value in part.values], [key for part in parts for key in part.keys]


# ---- what rows become


@given(
    lines=st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")).filter(lambda line: not line.endswith(b"\r"))),
    end=st.sampled_from([b"\n", b"\r\n"]),
    zipped=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines_of_ndjson_stay_as_they_are(tmp_path: Path, lines: list[bytes], end: bytes, zipped: bool) -> None:
    path = tmp_path / ("rows.ndjson.gz" if zipped else "rows.jsonl")
    data = b"".join(line + end for line in lines)
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert [value for piece in open_table(path).pieces({"at"}) for value in piece.values] == lines


def test_a_last_line_without_an_end_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "rows.ndjson").write_bytes(b'{"at":1}\n\n{"at":2}')
    (piece,) = open_table(tmp_path / "rows.ndjson").pieces({"at", "other"})
    assert piece.values == [b'{"at":1}', b"", b'{"at":2}']
    assert piece.columns == {"at": [1, None, 2], "other": [None, None, None]}


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=5)


@given(rows=st.lists(st.lists(CELL, min_size=2, max_size=2), max_size=12), ending=st.sampled_from([".csv", ".tsv", ".csv.gz"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cells_stay_text_and_empty_ones_are_null(tmp_path: Path, rows: list[list[str]], ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    comma = "\t" if ending == ".tsv" else ","
    quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row] for row in [["a", "b c"], *rows]]
    data = "".join(comma.join(row) + "\r\n" for row in quoted).encode()
    path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "ROWS", 5)
        pieces = list(open_table(path).pieces({"b c"}))
    assert [json.loads(value) for piece in pieces for value in piece.values] == [{"a": a or None, "b c": b or None} for a, b in rows]
    assert [cell for piece in pieces for cell in piece.columns["b c"]] == [b or None for _, b in rows]


def test_a_row_of_another_width_is_sent_as_what_no_mapping_takes(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("\ufeffa,b\n1,2\n1\n\n1,2,3\n007,\n", encoding="utf-8")
    (piece,) = open_table(tmp_path / "rows.csv").pieces({"a"})
    assert piece.values == [b'{"a":"1","b":"2"}', b'["1"]', b'["1","2","3"]', b'{"a":"007","b":null}']
    assert piece.columns["a"] == ["1", None, None, "007"]


def test_values_of_parquet_are_what_json_has(tmp_path: Path) -> None:
    moments = [datetime(2010, 12, 1, 8, 26), datetime(2011, 1, 1, 0, 0, 0, 250_000), None]
    table = pa.table(
        {
            "naive": pa.array(moments, pa.timestamp("us")),
            "zoned": pa.array(moments, pa.timestamp("ns", tz="Europe/London")),
            "seconds": pa.array([0, 1, None], pa.timestamp("s")),
            "whole": pa.array([1.0, float("nan"), None]),
            "count": pa.array([1, -(2**62), None], pa.int64()),
            "money": pa.array([Decimal("1.10"), Decimal("0.05"), None]),
            "text": pa.array(["a", 'b"', None]).dictionary_encode(),
            "day": pa.array([date(2011, 3, 4), None, None]),
            "flag": pa.array([True, False, None]),
            "raw": pa.array([b"a", None, b"\xff"]),
            "deep": pa.array([{"x": [1, 2], "at": moments[0]}, {"x": None, "at": None}, None]),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    (piece,) = open_table(tmp_path / "rows.parquet").pieces({"naive", "no such"})
    first, second, third = map(json.loads, piece.values)
    assert first == {
        "naive": "2010-12-01 08:26:00",
        "zoned": "2010-12-01T08:26:00Z",
        "seconds": "1970-01-01 00:00:00",
        "whole": 1.0,
        "count": 1,
        "money": 1.10,
        "text": "a",
        "day": "2011-03-04",
        "flag": True,
        "raw": "a",
        "deep": {"x": [1, 2], "at": "2010-12-01 08:26:00"},
    }
    assert (second["naive"], second["zoned"]) == ("2011-01-01 00:00:00.25", "2011-01-01T00:00:00.25Z")
    assert (second["whole"], second["count"], second["text"], second["deep"]) == (None, -(2**62), 'b"', {"x": None, "at": None})
    assert third == dict.fromkeys(table.column_names) | {"raw": "\ufffd"}
    assert piece.columns == {"naive": [first["naive"], second["naive"], None], "no such": [None, None, None]}


# ---- in which order, and by which key


def times_as_json() -> st.SearchStrategy[Any]:
    readable = st.integers(1_700_000_000_000, 1_700_000_000_020)
    # Not there, no time, in another unit, from further in the future than ingest takes.
    return st.one_of(readable, readable, readable, st.sampled_from([None, "soon", 12, NOW_MS * 2, {}]))


def in_order(times: list[Any]) -> list[int]:
    """Row numbers by the nearest readable time at or above each."""
    last, places = FIRST_MS, []
    for time in times:
        if isinstance(time, int) and 1_700_000_000_000 <= time <= NOW_MS:
            last = time
        places.append(last)
    return sorted(range(len(times)), key=places.__getitem__)


@given(files=st.lists(st.lists(times_as_json(), max_size=60), min_size=1, max_size=4), piece=st.integers(1, 20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_of_several_files_come_in_event_time_order(tmp_path: Path, files: list[list[Any]], piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "ROWS", piece)
        opened, expected = [], []
        for number, times in enumerate(files):
            lines = [json.dumps({"at": time, "i": i, "file": number}).encode() for i, time in enumerate(times)]
            opened.append(clicks(write_ndjson(tmp_path / f"{number}.ndjson", lines)))
            assert opened[-1].rows == len(times)
            assert all_of(opened[-1])[0] == [lines[i] for i in in_order(times)]
            parts = list(opened[-1].messages())
            expected += [(int(t), number, value) for part in parts for t, value in zip(part.times_ms, part.values, strict=True)]
        merged = [
            (int(t), stretch.stream, value)
            for stretch in merge([file.messages() for file in opened])
            for t, value in zip(stretch.messages.times_ms, stretch.messages.values, strict=True)
        ]
    assert merged == sorted(expected, key=lambda row: row[:2])


def test_a_sorted_file_passes_through_a_piece_at_a_time_and_a_shuffled_one_waits_no_longer_than_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "ROWS", 10)
    start = 1_700_000_000_000
    orderly = [b'{"at":%d}' % (start + i) for i in range(100)]
    swapped = [*orderly[:10], *orderly[20:30], *orderly[10:20], *orderly[30:]]  # the second and third piece are the wrong way round
    taken: list[int] = []
    pieces = formats.Lines.pieces

    def counted(self: formats.Lines, wanted: Any, messages: bool = True) -> Iterator[formats.Piece]:
        for piece in pieces(self, wanted, messages):
            taken[-1] += len(piece)
            yield piece

    monkeypatch.setattr(formats.Lines, "pieces", counted)
    for lines, most in ((orderly, 10), (swapped, 20)):
        file = None
        taken.append(0)
        file = clicks(write_ndjson(tmp_path / "rows.ndjson", lines))
        taken.append(0)
        given_on, held = 0, 0
        for part in file.messages():
            held = max(held, taken[-1] - given_on)
            given_on += len(part)
        assert given_on == 100
        assert held == most


def test_a_file_that_changes_under_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "ROWS", 2)
    file = clicks(write_ndjson(tmp_path / "rows.ndjson", [b'{"at":1700000000000}'] * 4))
    write_ndjson(tmp_path / "rows.ndjson", [b'{"at":1700000000000}'] * 6)
    with pytest.raises(UserError, match="must not change while it is replayed"):
        list(file.messages())


def test_messages_are_keyed_as_a_shop_would(tmp_path: Path) -> None:
    def keys_of(config: Config, source: str, line: str) -> list[bytes | None]:
        return all_of(SourceFile(config, config.sources[source], write_ndjson(tmp_path / "rows.ndjson", [line.encode()]), NOW_MS))[1]

    made = {
        "clicks": ('{"sid": "s", "uid": 7}', b"s", '{"uid": 7}', b"7", "nonsense", None),
        "orders": ('{"sku": 1.0}', b"1", '{"sku": "007"}', b"007", "[]", None),
    }
    config = shop()
    for name, cases in made.items():
        for line, key in zip(cases[::2], cases[1::2], strict=True):
            assert keys_of(config, name, str(line)) == [key]
    nested = tomllib.loads(SHOP)
    nested["sources"]["orders"] |= {
        "lines": "lines",
        "fields": {"time": "lines.at", "item": ["lines.shop", "lines.sku"], "order": "head.id", "quantity": "lines.n"},
    }
    config = parse(nested)
    assert keys_of(config, "orders", '{"head": {"id": 5}, "lines": [{"at": 1700000000000, "shop": 1, "sku": 2, "n": 1}]}') == [b"5"]
    assert keys_of(config, "orders", '{"lines": [{"at": 1700000000000, "shop": 1, "sku": 2, "n": 1}]}') == [b"1:2"]
    assert keys_of(config, "orders", '{"lines": []}') == [None]


class Clock:
    """Time that passes only by waiting."""

    def __init__(self, stop_at: float = float("inf")) -> None:
        self.now = 1000.0
        self.stop_at = stop_at

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return self.now >= self.stop_at


@given(
    gaps_ms=st.lists(st.integers(0, 50_000), min_size=1, max_size=30), speed=st.sampled_from([0.5, 1.0, 60.0]), unplaced=st.integers(0, 2)
)
def test_a_paced_replay_sends_nothing_early_and_nothing_much_later(gaps_ms: list[int], speed: float, unplaced: int) -> None:
    clock = Clock()
    times = np.array([FIRST_MS] * unplaced + (1_700_000_000_000 + np.cumsum(gaps_ms)).tolist(), dtype=np.int64)
    pace = Pace(speed, lambda: clock.now, clock.wait)
    sent_at: list[float] = []
    while len(sent_at) < len(times):
        count = pace.due(times[len(sent_at) :])
        assert count > 0
        sent_at += [clock.now] * count
    placed = times[unplaced:]
    due_at = 1000.0 + (placed - placed[0]) / 1000 / speed
    late = np.array(sent_at[unplaced:]) - due_at
    assert (late > -0.0011 / speed).all()
    assert (late < 0.0211 + 0.0011 / speed).all()


def test_a_replay_stops_between_and_while_it_waits() -> None:
    stopped = Clock(stop_at=0)
    assert Pace(None, lambda: stopped.now, stopped.wait).due(np.array([5])) == 0
    assert Pace(None, lambda: 0.0, lambda _: False).due(np.array([5, 6])) == 2
    clock = Clock(stop_at=1005.0)
    pace = Pace(1.0, lambda: clock.now, clock.wait)
    assert pace.due(np.array([1_700_000_000_000, 1_700_000_009_000])) == 1
    assert pace.due(np.array([1_700_000_009_000])) == 0


# ---- the command


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """Bootstrap servers of an embedded broker."""
    if importlib.util.find_spec("noida_db") is None:
        pytest.skip("the embedded broker is not installed: pip install 'nowcart[local]'")
    with EmbeddedBroker() as embedded:
        yield embedded.bootstrap_servers


@pytest.fixture
def config_file(tmp_path: Path) -> Callable[..., str]:
    def write(bootstrap: str = "localhost:1", **topics: str) -> str:
        text = f'[kafka]\nbootstrap_servers = "{bootstrap}"\n{SHOP}'
        for name, topic in topics.items():
            text = text.replace(f'topic = "{name}"', f'topic = "{topic}"')
        (tmp_path / "shop.toml").write_text(text, encoding="utf-8")
        return str(tmp_path / "shop.toml")

    return write


START = 1_700_000_100_000


def test_rows_go_to_their_topics_by_their_keys(
    broker: str, config_file: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_file(broker, clicks="sent.clicks", orders="sent.orders")
    views = [b'{"at":%d,"sid":"s%d","what":"view","sku":1}' % (START + i, i % 7) for i in range(50)]
    broken = [b"{", b"", b"\xff"]
    command = ["replay", config, "--source", f"clicks={write_ndjson(tmp_path / 'a.ndjson', views[::2] + broken)}"]
    command += ["--source", f"clicks={write_ndjson(tmp_path / 'b.ndjson', views[1::2])}"]
    order = b'{"at":%d,"sku":"x","n":2}' % START
    command += ["--source", f"orders={write_ndjson(tmp_path / 'o.ndjson', [order])}"]
    assert main(command) == 2
    assert "sent.clicks" in capsys.readouterr().err
    Admin({"bootstrap.servers": broker}).create([Topic("sent.clicks", 3), Topic("sent.orders", 1)])
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == ["sent.clicks: 53 messages", "sent.orders: 1 messages"]
    by_key: dict[bytes | None, list[bytes | None]] = defaultdict(list)
    places: dict[bytes | None, set[int]] = defaultdict(set)
    for record in follow({"bootstrap.servers": broker}, ["sent.clicks"], until_end=True):
        by_key[record.key].append(record.value)
        places[record.key].add(record.partition)
    assert sorted(by_key.pop(None), key=str) == sorted(broken, key=str)
    assert by_key == {b"s%d" % k: views[k::7] for k in range(7)}
    assert all(len(found) == 1 for key, found in places.items() if key is not None)
    assert main([*command, "--speed", "1000"]) == 0  # 50 ms of the shop's time


BROKEN = [b"{", b"", b"\xff\xfe", b'{"at":"never","sid":"s1","what":"view","sku":"a"}', b'{"at": 1,\r "n":1}']


def test_a_whole_run_leaves_every_output_and_a_summary(
    config_file: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("noida_db", reason="the embedded broker is not installed: pip install 'nowcart[local]'")
    minute = 60_000
    views = [b'{"at":%d,"sid":"s%d","what":"view","sku":"item%d"}' % (START + i * minute, i % 5, i % 3) for i in range(60)]
    views += [b'{"at":%d,"sid":"s1","what":"buy","sku":"item1"}' % (START + 60 * minute)]
    views += [b'{"at":%d,"sid":"s1","what":"scroll","sku":"item1"}' % (START + 60 * minute)]
    orders = [b'{"at":%d,"sku":"item%d","n":%d}' % (START + i * minute, i % 3, -1 if i == 7 else 2) for i in range(60)]
    out = tmp_path / "out"
    command = ["replay", config_file(), "--embedded", "--out", str(out), "--partitions", "2"]
    command += ["--source", f"clicks={write_ndjson(tmp_path / 'c.ndjson', views[:30] + BROKEN + views[30:])}"]
    command += ["--source", f"orders={write_ndjson(tmp_path / 'o.ndjson', orders)}"]
    assert main(command) == 0
    said = capsys.readouterr().out
    records = {
        name: [json.loads(line) for line in (out / f"{name}.ndjson").read_bytes().splitlines()]
        for name in ("demand", "intent", "spikes", "deadletter")
    }
    summary = json.loads((out / "summary.json").read_text())
    assert summary["records"] == {f"nowcart.{name}": len(found) for name, found in records.items()}
    assert summary["sources"] == {
        "clicks": {
            "rows": 67,
            "events": 61,
            "dead_letters": {"bad_time": 1, "malformed": 3, "missing_field": 1},
            "late": {"corrected": 0, "dropped": 0},
        },
        "orders": {"rows": 60, "events": 60, "dead_letters": {}, "late": {"corrected": 0, "dropped": 0}},
    }
    assert summary["commits"] > 0
    assert summary["seconds"] > 0
    assert 0 < summary["event_to_prediction_ms"]["p50"] <= summary["event_to_prediction_ms"]["p99"]
    assert f"{out / 'demand.ndjson'}: {len(records['demand'])} records" in said
    for name, found in records.items():
        assert all({"key", "value", "timestamp_ms", "partition", "offset"} <= set(record) for record in found), name
        places = [(record["partition"], record["offset"]) for record in found]
        assert len(set(places)) == len(places)
    for name, key in (("demand", "item"), ("intent", "session")):
        assert records[name]
        assert all(record["key"] == record["value"][key] for record in records[name])
    closed: Counter[str] = Counter()
    for record in records["demand"]:
        closed[record["key"]] += record["value"]["observed"]
    last = (START + 60 * minute) // 900_000 * 900_000
    assert closed == Counter({f"item{k}": sum(2 for i in range(k, 60, 3) if i != 7 and START + i * minute < last) for k in range(3)})
    assert {record["key"]: record["value"]["purchased"] for record in records["intent"] if record["value"]["ended"]} == {
        "s0": False, "s1": True, "s2": False, "s3": False, "s4": False,
    }  # fmt: skip
    dead = {record["headers"]["nowcart-offset"]: record for record in records["deadletter"]}
    assert len(dead) >= 4  # offsets of two partitions may be alike
    as_they_came = []
    for record in records["deadletter"]:
        assert record["headers"]["nowcart-topic"] == "clicks"
        as_they_came.append(base64.b64decode(record["value_base64"]) if "value_base64" in record else record["value"])
    assert sorted(map(str, as_they_came)) == sorted(map(str, [b"{", b"", b"\xff\xfe", json.loads(BROKEN[3]), json.loads(BROKEN[4])]))


def test_a_stop_leaves_what_there_is_and_no_summary(
    config_file: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("noida_db", reason="the embedded broker is not installed: pip install 'nowcart[local]'")
    send = replay._send

    def stopped_after(args: argparse.Namespace, *rest: Any) -> Any:
        try:
            return send(args, *rest)
        finally:
            args.stop.set()

    monkeypatch.setattr(replay, "_send", stopped_after)
    rows = write_ndjson(tmp_path / "o.ndjson", [b'{"at":%d,"sku":"a","n":1}' % START])
    assert main(["replay", config_file(), "--source", f"orders={rows}", "--embedded", "--out", str(tmp_path / "out")]) == 0
    assert "there is no summary" in capsys.readouterr().err
    assert not (tmp_path / "out" / "summary.json").exists()


def test_what_has_been_written_the_broker_forgets(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_FORGET_BYTES", 1)
    kafka = {"bootstrap.servers": broker}
    admin = Admin(kafka)
    admin.create([Topic("filling", 2)])
    with Drain(kafka, {"filling": tmp_path / "filling.ndjson"}, frozenset({"filling"}), pytest.fail) as draining, Sender(kafka) as sender:
        for start in range(0, 3000, 100):
            sender.send("filling", [b"%d" % n for n in range(start, start + 100)], [b'k"%d' % n for n in range(start, start + 100)])
            sender.flush()
        draining.finish()
    lines = [json.loads(line) for line in (tmp_path / "filling.ndjson").read_bytes().splitlines()]
    assert sorted(line["value"] for line in lines) == list(range(3000))
    assert all(line["key"] == f'k"{line["value"]}' for line in lines)
    with Tail(kafka, ["filling"]) as tail:
        left = [value for batch in tail.fetch(10_000, 0.5).batches for value in batch.values]
        ends = tail.ends()
    assert len(left) < 1500
    assert sum(ends.values()) == 3000
    assert set(ends) == {Partition("filling", 0), Partition("filling", 1)}


def test_a_full_disk_stops_the_run_with_a_word(broker: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    kafka = {"bootstrap.servers": broker}
    Admin(kafka).create([Topic("overflowing", 1)])
    with Sender(kafka) as sender:
        sender.send("overflowing", [b'"%s"' % (b"x" * 1000)] * 100)
    halted = threading.Event()
    with (
        Drain(kafka, {"overflowing": Path("/dev/full")}, frozenset({"overflowing"}), halted.set) as draining,
        pytest.raises(UserError, match="No space left"),
    ):
        draining.finish()
    assert halted.is_set()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--source", "click={rows}"], 'did you mean "clicks"?'),
        (["--source", "clicks={rows}.gone"], "no such file"),
        (["--source", "clicks={folder}"], "a folder"),
        (["--source", "clicks={rows}.txt"], "must end in .csv"),
        (["--source", "clicks={rows}", "--embedded"], "--embedded and --out DIR must stand together"),
        (["--source", "clicks={rows}", "--out", "x"], "--embedded and --out DIR must stand together"),
        (["--source", "clicks={rows}", "--embedded", "--out", "x", "--speed", "3"], "--speed must be left out"),
        (
            ["--source", "orders={csv}"],
            'must have the column "at", which sources.orders.fields.time names; it has sku, n, ata; did you mean "ata"?',
        ),
        (["--source", "orders={twice}"], "twice there: n"),
        (["--source", "orders={empty}"], "it is empty"),
        (["--source", "orders={latin}"], "must be UTF-8 text; behind line"),
        (["--source", "orders={zipped}"], "must be readable from its first byte to its last"),
        (["--source", "orders={parquet}"], "must be a Parquet file"),
    ],
)
def test_what_cannot_be_replayed_is_status_2_and_one_message(
    config_file: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    names = {"rows": "rows.ndjson", "folder": "folder.csv", "csv": "a.csv", "twice": "b.csv", "empty": "c.csv", "latin": "d.csv"}
    paths = {name: tmp_path / file for name, file in (names | {"zipped": "e.ndjson.gz", "parquet": "f.parquet"}).items()}
    write_ndjson(paths["rows"], [])
    write_ndjson(tmp_path / "rows.ndjson.txt", [])
    paths["folder"].mkdir()
    paths["csv"].write_text("sku,n,ata\n")
    paths["twice"].write_text("at,sku,n,n\n")
    paths["empty"].write_text("")
    paths["latin"].write_bytes(b"at,sku,n\n" + b"1,2,3\n" * 3000 + b"1,caf\xe9,3\n")
    paths["zipped"].write_bytes(gzip.compress(b"{}\n" * 1000)[:-9])
    paths["parquet"].write_bytes(b"PAR1 not quite")
    command = ["replay", config_file(), *(text.format(**paths) for text in arguments)]
    assert main(command) == 2
    said = capsys.readouterr().err.splitlines()
    assert complaint in said[-1]
    assert len(said) == 1


def test_arguments_are_read_strictly(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--source", "clicks"], ["--source", "a=b", "--speed", "fast"], ["--source", "a=b", "--partitions", "0"], []):
        with pytest.raises(SystemExit, match="2"):
            main(["replay", "shop.toml", *arguments])
    assert "must be NAME=FILE" in capsys.readouterr().err
