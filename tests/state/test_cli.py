"""`nowcart snapshots` as an operator uses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream.cli.main import main
from stream.config import load
from stream.kafka.log import Position
from stream.state.store import open_store


@pytest.fixture
def config(root: Path, tmp_path: Path) -> Path:
    text = (root / "examples" / "simulated.toml").read_text(encoding="utf-8")
    assert "[state]" not in text
    path = tmp_path / "shop.toml"
    path.write_text(f'{text}\n[state]\nurl = "file:{tmp_path}/state"\nkeep = 2\n', encoding="utf-8")
    return path


def write(config: Path, offset: int, checksum: str = "") -> None:
    loaded = load(config, {})
    state = {"ring": np.full((40, 3_000), offset), "still": np.arange(60_000)}
    open_store(loaded).write("forecast", "nowcart.activity", 1, Position(offset), checksum or loaded.checksum(), state)


def parts(config: Path) -> list[Path]:
    return sorted((config.parent / "state").rglob("*.safetensors"))


def test_list_verify_prune(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshots", str(config), "list"]) == 0
    assert "no snapshots" in capsys.readouterr().err
    for offset, checksum in ((10, "other"), (20, ""), (30, "")):
        write(config, offset, checksum)
    assert main(["snapshots", str(config), "list"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["stage", "topic", "partition", "offset", "age", "size", "new", "state"]
    assert [row.split()[:4] for row in rows] == [["forecast", "nowcart.activity", "1", str(offset)] for offset in (30, 20, 10)]
    assert [row.rstrip().rpartition("  ")[2] for row in rows] == ["complete", "complete", "complete, of another configuration"]
    assert rows[0].split()[5:9] == ["1.1", "MB", "1.1", "MB"]
    assert main(["snapshots", str(config), "verify"]) == 0
    assert [row.rstrip().rpartition("  ")[2] for row in capsys.readouterr().out.splitlines()[1:]] == [
        "whole",
        "whole",
        "whole, of another configuration",
    ]
    assert main(["snapshots", str(config), "prune"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "deleted forecast nowcart.activity[1] at offset 10" and out[1].startswith("deleted 1 snapshots, ") and len(out) == 2
    assert main(["snapshots", str(config), "prune", "--keep", "1"]) == 0
    assert capsys.readouterr().out.startswith("deleted forecast nowcart.activity[1] at offset 20\n")
    assert main(["snapshots", str(config), "verify"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_verify_ends_with_1_where_something_is_damaged(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(config, 10)
    write(config, 20)
    assert main(["snapshots", str(config), "verify"]) == 0
    capsys.readouterr()
    for part in parts(config):
        part.write_bytes(part.read_bytes()[:-1])
    assert main(["snapshots", str(config), "list"]) == 0
    assert capsys.readouterr().out.count("damaged: ") == 2
    assert main(["snapshots", str(config), "verify"]) == 1
    assert "is not what was written" in capsys.readouterr().out
    assert main(["snapshots", str(config), "prune"]) == 0  # nothing is whole, so nothing is deleted
    assert capsys.readouterr().out == "deleted 0 snapshots, 0 files, 0 B\n"


def test_the_users_mistakes_end_with_2(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshots", str(config), "list", "--keep", "1"]) == 2
    assert "--keep goes with prune" in capsys.readouterr().err
    config.write_text(config.read_text(encoding="utf-8").replace("file:", "nonsense://"), encoding="utf-8")
    assert main(["snapshots", str(config), "list"]) == 2
    assert "state.url must be a folder or an fsspec URL" in capsys.readouterr().err
