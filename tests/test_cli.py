"""The command line: what each command does to the files and topics around it, and how it ends."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from stream.cli import schemas, simulate
from stream.cli.frame import Lines, add_command
from stream.cli.main import COMMANDS, main
from stream.config import load
from stream.kafka.admin import Admin
from stream.kafka.embedded import EmbeddedBroker
from stream.kafka.log import Unreachable
from stream.tables import UserError


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """Bootstrap servers of an embedded broker."""
    if importlib.util.find_spec("noida_db") is None:
        pytest.skip("the embedded broker is not installed: pip install 'nowcart[local]'")
    with EmbeddedBroker() as embedded:
        yield embedded.bootstrap_servers


@pytest.fixture
def config(root: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the simulated shop's configuration with some text replaced."""

    def write(replace: dict[str, str]) -> Path:
        text = (root / "examples" / "simulated.toml").read_text(encoding="utf-8")
        for old, new in replace.items():
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "shop.toml").write_text(text, encoding="utf-8")
        return tmp_path / "shop.toml"

    return write


def doing(monkeypatch: pytest.MonkeyPatch, run: Callable[[argparse.Namespace], int], graceful: bool = False) -> None:
    """Puts something else in the place of what `nowcart schemas` does."""

    def wrapped(args: argparse.Namespace) -> int:
        return run(args)

    monkeypatch.setattr(schemas, "run", wrapped)
    monkeypatch.setattr("stream.cli.schemas.add_command", partial(add_command, graceful=graceful))


def ends(*arguments: str) -> int:
    """The exit status of a command line, wherever it is decided."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example_that_it_understands(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(command, "--help") == 0
    text = capsys.readouterr().out
    examples = [line.split() for line in text.split("example:\n")[1].splitlines() if line]
    assert examples
    for example in examples:
        assert example[:2] == ["nowcart", command]
        assert ends(*example[1:], "--help") == 0


def test_help_loads_nothing_that_takes_long() -> None:
    code = (
        "import sys\nfrom stream.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*sorted({'numpy', 'torch', 'pandas', 'rich', 'confluent_kafka', 'prometheus_client', 'msgspec'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
    assert all(command in done.stdout for command in COMMANDS)


def test_the_installed_command_says_its_version() -> None:
    program = Path(sys.executable).with_name("nowcart")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("nowcart 0.")


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["schemas"], ["topics", "x.toml", "burn"], ["simulate", "--rate", "-1", "--out", "x"]]
)
def test_arguments_that_make_no_sense_end_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "usage: nowcart" in said.err


@pytest.mark.parametrize("error", [UserError("time.zone must be a zone"), Unreachable("no broker answers at localhost:1")])
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_the_user_can_mend_is_one_message_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, log_format: str
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    doing(monkeypatch, fail)
    assert main(["schemas", "--out", "x", "--log-format", log_format]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line == f"nowcart: {error}" if log_format == "text" else json.loads(line)["message"] == str(error)


def test_what_nobody_expected_is_status_1_with_its_trace_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: argparse.Namespace) -> int:
        logging.getLogger("nowcart.some").info("said before: %s", "größer")
        logging.getLogger("nowcart.some").debug("not at this level")
        raise ZeroDivisionError("a bug")

    doing(monkeypatch, fail)
    assert main(["--log-format", "json", "schemas", "--out", "x"]) == 1
    before, failed = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (before["level"], before["logger"], before["message"]) == ("info", "nowcart.some", "said before: größer")
    assert before["time"].endswith("Z")
    assert failed["level"] == "critical"
    assert "ZeroDivisionError: a bug" in failed["exception"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_a_graceful_command_end_by_itself(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    finished = []

    def run(args: argparse.Namespace) -> int:
        os.kill(os.getpid(), number)
        assert args.stop.wait(30)
        finished.append("committed")
        return 0

    doing(monkeypatch, run, graceful=True)
    before = signal.getsignal(number)
    assert main(["schemas", "--out", "x"]) == 0
    assert finished == ["committed"]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("graceful", "signals", "status"), [(False, 1, 0), (True, 2, 1)])
def test_a_command_that_does_not_listen_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], graceful: bool, signals: int, status: int
) -> None:
    def run(args: argparse.Namespace) -> int:
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    doing(monkeypatch, run, graceful=graceful)
    assert main(["schemas", "--out", "x"]) == status
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_crash(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stream.cli.main", "schemas", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 1


def test_schemas_writes_the_files_that_it_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schemas", "--out", str(tmp_path / "schemas"), "--prefix", "shop."]) == 0
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(files) == sorted((tmp_path / "schemas").iterdir())
    assert json.loads((tmp_path / "schemas" / "asyncapi.json").read_text())["channels"]["demand"]["address"] == "shop.demand"
    (tmp_path / "file").write_text("")
    assert main(["schemas", "--out", str(tmp_path / "file" / "below")]) == 2
    assert "--out must be a folder" in capsys.readouterr().err


def test_topics_are_created_checked_and_deleted(
    broker: str, config: Callable[[dict[str, str]], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(config({"localhost:9092": broker}))

    def topics(action: str) -> tuple[int, list[str]]:
        return main(["topics", path, action]), capsys.readouterr().out.splitlines()

    status, complaints = topics("check")
    assert status == 2
    assert any("nowcart.activity" in line and "nowcart topics CONFIG create" in line for line in complaints)
    status, created = topics("create")
    assert status == 0
    assert "created nowcart.activity" in created
    assert len(created) == len(complaints)
    assert topics("check") == (0, [])
    assert topics("create") == (0, [])
    status, deleted = topics("delete")
    assert (status, len(deleted)) == (0, len(created))
    assert topics("delete") == (0, [])


def test_topics_of_the_wrong_shape_are_told(
    broker: str, config: Callable[[dict[str, str]], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"localhost:9092": broker, "[demand]": '[output]\nprefix = "wrong."\n[demand]'}
    assert main(["topics", str(config(more)), "create"]) == 0
    more["[demand]"] = '[output]\nprefix = "wrong."\n[activity]\npartitions = 7\n[demand]'
    capsys.readouterr()
    path = str(config(more))
    for action in ("check", "create"):
        assert main(["topics", path, action]) == 2
        (complaint,) = capsys.readouterr().out.splitlines()
        assert "wrong.activity" in complaint
        assert "7 partitions" in complaint


def test_simulated_files_are_the_same_for_a_seed_and_hold_what_the_truth_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert main(["simulate", "--items", "50", "--seconds", "600", "--seed", seed, "--rate", "20", "--out", str(tmp_path / name)]) == 0
    said = capsys.readouterr().out
    clicks = [(tmp_path / name / "clicks.ndjson").read_bytes() for name in "abc"]
    assert clicks[0] == clicks[1] != clicks[2]
    told = json.loads((tmp_path / "a" / "truth" / "summary.json").read_text())
    assert told["spec"]["items"] == 50
    for source, kind in simulate.KINDS.items():
        lines = (tmp_path / "a" / f"{source}.ndjson").read_bytes().splitlines()
        assert len(lines) == told["messages"][source] > 0
        assert f"{tmp_path / 'a' / source}.ndjson: {len(lines)} messages" in said
        fields = {field for line in lines if line.startswith(b"{") and line.endswith(b"}") for field in json.loads(line)}
        assert fields <= simulate.WRITES[kind]


def test_a_stop_ends_the_simulation_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = simulate.run

    def stopped(args: argparse.Namespace) -> int:
        args.stop.set()
        return run(args)

    monkeypatch.setattr(simulate, "run", stopped)
    assert main(["simulate", "--items", "50", "--seconds", "1e9", "--out", str(tmp_path / "shop")]) == 0
    assert "end early" in capsys.readouterr().err


def test_a_simulated_shop_sends_to_the_configured_topics(
    broker: str, config: Callable[[dict[str, str]], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    topics = {"shop.events": "live.events", "shop.orders": "live.orders", "shop.offers": "live.offers"}
    path = config({"localhost:9092": broker, **topics})
    assert main(["simulate", str(path), "--items", "30", "--rate", "2000", "--seconds", "1"]) == 0
    said = dict(line.removesuffix(" messages").split(": ") for line in capsys.readouterr().out.splitlines())
    assert set(said) == set(topics.values())
    assert int(said["live.offers"]) >= 30  # what everything costs, though the shop opened before
    assert 500 < int(said["live.events"]) < 6000
    found = Admin(load(path).kafka).topics()
    assert {topic: found[topic] for topic in said} == dict.fromkeys(said, simulate.PARTITIONS)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('item = "sku"                   # searches', 'item = "product_id" #', "sources.clicks.fields.item must be one of"),
        ('[sources.orders]\nkind = "orders"', '[sources.orders]\nkind = "orders"\ntime_unit = "s"', "sources.orders.time_unit"),
        ('[sources.orders]\nkind = "orders"', '[sources.orders]\nkind = "orders"\nlines = "lines"', "sources.orders.lines"),
    ],
)
def test_a_configuration_that_would_not_understand_the_simulated_shop_is_refused(
    config: Callable[[dict[str, str]], Path], capsys: pytest.CaptureFixture[str], old: str, new: str, complaint: str
) -> None:
    assert main(["simulate", str(config({old: new}))]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert "examples/simulated.toml" in said


def test_a_shop_that_cannot_be_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--items", "3", "--out", str(tmp_path)]) == 2
    assert "items must be at least 10; got 3" in capsys.readouterr().err


def test_where_no_terminal_is_progress_is_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = [0.0]
    lines = Lines(logging.getLogger("long"), 30.0, lambda: now[0])
    for at, share in ((10, 0.1), (31, 0.254), (40, 0.3), (62, 0.9)):
        now[0] = at
        lines("nowcart", share)
    assert [record.getMessage() for record in caplog.records if record.name == "long"] == ["nowcart: 25 %", "nowcart: 90 %"]
