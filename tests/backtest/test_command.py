"""`nowcart backtest` from end to end: what it prints and writes agrees with itself, and the user's mistakes end with status 2."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from stream.backtest.peers import METHODS
from stream.cli.backtest import KNOWN
from stream.cli.main import main
from tests.backtest.shop import table

COLUMNS = ["--item", "item", "--time", "day", "--target", "units", "--fill", "zero"]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.parquet"
    pq.write_table(table(items=4, days=60), path)
    return path


def backtest(path: Path, *more: str) -> int:
    return main(["backtest", str(path), *COLUMNS, "--horizon", "3", "--rounds", "2", *more])


def test_what_is_written_agrees_with_itself(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = {name: tmp_path / f"out.{name}" for name in ("json", "parquet", "html")}
    models = ["seasonal_naive", "empirical_quantiles", "zeros"]
    more = ["--known", "price,deal", "--past", "views", "--static", "category", "--models", ",".join(models), "--quantiles", "0.1,0.5,0.9"]
    files = ["--json", str(out["json"]), "--predictions", str(out["parquet"]), "--report", str(out["html"])]
    assert backtest(shop, *more, *files) == 0
    printed = capsys.readouterr().out
    scores: dict[str, Any] = json.loads(out["json"].read_text())
    assert list(scores["models"]) == models
    rows = pq.read_table(out["parquet"])
    names = ["item", "round", "cut", "time", "horizon", "model", "mean", "point_mape", "q0.1", "q0.5", "q0.9", "actual"]
    assert rows.column_names == names
    assert rows.num_rows == 3 * 4 * 2 * 3
    frame = rows.to_pydict()
    sold = {(row["item"], row["day"]): row["units"] for row in pq.read_table(shop).to_pylist()}
    assert all(sold[item, day] == y for item, day, y in zip(frame["item"], frame["time"], frame["actual"], strict=True))
    for name in models:
        mine = np.array([model == name for model in frame["model"]])
        y, median = np.array(frame["actual"])[mine], np.array(frame["q0.5"])[mine]
        found = scores["models"][name]
        assert found["wape"] == pytest.approx(np.abs(y - median).sum() / y.sum())
        assert found["n"] == mine.sum() == sum(part["n"] for part in found["rounds"].values())
        assert found["n"] == sum(part["n"] for part in found["horizons"].values()) == sum(part["n"] for part in found["velocity"].values())
        assert list(found["totals"]) == ["3"]
        assert name in printed
        assert f"{found['wql']:.4f}" in printed
    assert scores["models"]["zeros"]["wape"] == 1.0
    assert [(pair["model"], pair["against"]) for pair in scores["paired"]] == [
        (models[0], models[1]),
        (models[0], models[2]),
        (models[1], models[2]),
    ]
    page = out["html"].read_text()
    assert "<script src" not in page, "self-contained"
    assert "Plotly" in page
    assert all(name in page for name in models)


def test_the_engine_forecasts_what_the_command_scores(shop: Path, tmp_path: Path) -> None:
    assert backtest(shop, "--models", "nowcart,zeros", "--json", str(tmp_path / "out.json"), "--report", str(tmp_path / "out.html")) == 0
    found = json.loads((tmp_path / "out.json").read_text())["models"]["nowcart"]
    assert 0 < found["wql"] < 1, "better than forecasting nothing"
    assert found["experts"].keys() == {"1", "2", "3"}
    assert sum(found["experts"]["1"].values()) == pytest.approx(1)
    assert found["totals"]["3"]["n"] == 8


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--models", "nowcast"], 'did you mean "nowcart"?'),
        (["--rounds", "99"], "ask for at most --rounds 19"),
        (["--until", "2030-01-01"], "--until must lie within the history"),
        (["--target", "unit"], 'did you mean "units"?'),
        (["--json", "/nowhere/at/all.json"], "create it"),
        (["--totals", "9"], "--totals must be of at most --horizon (3)"),
        (["--freq", "M", "--models", "nowcart"], "one row a time"),
    ],
)
def test_mistakes_end_with_status_2_and_one_message(shop: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert backtest(shop, *more) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nowcart: ")]
    assert len(errors) == 1
    assert says in errors[0]


def test_help_names_every_method() -> None:
    assert tuple(METHODS) == KNOWN


@pytest.mark.parametrize("levels", ["0.9,0.1", "0,0.5", "a", "0.5,0.5"])
def test_levels_ascend_between_0_and_1(shop: Path, levels: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        backtest(shop, "--quantiles", levels)
    assert ended.value.code == 2
    assert "between 0 and 1, ascending" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "model", "install"),
    [("lightgbm", "lightgbm", "apt-get install libgomp1"), ("statsforecast", "auto_ets", "pip install 'nowcart[bench]'")],
)
def test_a_library_that_is_not_installed_is_named_with_what_to_install(
    package: str, model: str, install: str, shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named '{package}'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert backtest(shop, "--models", model) == 2
    said = capsys.readouterr().err
    assert package in said
    assert install in said
