"""Intent backtests: the scores by hand, the peers, and a small shop from its messages to the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stream.backtest.intent_peers import logistic
from stream.backtest.intent_scores import auc, average_precision, calibration_error, paired, scores
from stream.cli.main import main


def test_scores_by_hand() -> None:
    p, y, w = np.array([0.1, 0.4, 0.4, 0.8]), np.array([0.0, 1.0, 0.0, 1.0]), np.array([1.0, 1.0, 2.0, 1.0])
    assert auc(p, y, w) == pytest.approx((1 * (1 + 2 / 2) + 3) / 6)  # pairs of a buyer and a mass of 3 others; ties count half
    assert average_precision(p, y, w) == pytest.approx(0.5 * 1.0 + 0.5 * 2 / 4)
    assert auc(p, np.zeros(4), w) is None
    assert average_precision(p, np.zeros(4), w) is None
    sure = np.repeat([0.0, 1.0], 50)
    assert calibration_error(sure, sure, np.ones(100)) == 0
    assert calibration_error(np.full(100, 0.3), sure, np.ones(100)) > 0.19


def test_the_oracle_gains_all_and_the_base_rate_nothing() -> None:
    chance = np.random.default_rng(1)
    truth = chance.beta(1, 9, 4_000)
    y = (chance.random(4_000) < truth).astype(np.float64)
    assert scores(truth, y, np.ones(4_000), truth)["gain"] == pytest.approx(1)
    assert scores(np.full(4_000, y.mean()), y, np.ones(4_000), truth)["gain"] == pytest.approx(0, abs=1e-9)
    gap = paired(truth, np.full(4_000, y.mean()), y, np.ones(4_000), np.arange(4_000))
    assert gap["low"] < gap["difference"] < gap["high"] < 0


def test_logistic_regression_finds_what_made_the_labels() -> None:
    chance = np.random.default_rng(2)
    x = chance.normal(size=(20_000, 3)).astype(np.float32)
    p = 1 / (1 + np.exp(-(x[:, 0] - 0.5 * x[:, 1] - 2)))
    said = logistic(x, (chance.random(20_000) < p).astype(np.float64))(x)
    assert np.abs(said - p).mean() < 0.01


CONFIG = """
[sources.clicks]
kind = "clickstream"
topic = "shop.events"
fields = { time = "ts", event = "type", session = "sid", user = "uid", item = "sku", price = "price", category = "category" }
events = { view = "view", search = "search", add_to_cart = "cart", remove_from_cart = "remove", purchase = "purchase", page = "other" }
[demand]
from = "clickstream"
[[demand.buckets]]
size = "1h"
horizon = 2
"""


def test_a_small_shop_from_its_messages_to_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shop.toml").write_text(CONFIG, encoding="utf-8")
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    arguments = [
        "backtest",
        "--intent",
        str(tmp_path / "shop.toml"),
        "--simulate",
        "60000",
        "--shop",
        "rate=3,conversion=0.2,daily_swing=0",
    ]
    files = ["--json", str(out), "--report", str(page), "--epochs", "2", "--peers", "logistic_regression"]
    assert main([*arguments, *files]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    models = found["models"]
    assert set(models) == {"nowcart", "logistic", "tree", "frozen", "adapted", "logistic_regression", "oracle"}
    first = {name: scored["1"] for name, scored in models.items()}
    assert models["oracle"]["overall"]["gain"] == pytest.approx(1)
    assert first["nowcart"]["log_loss"] < 1.05 * first["nowcart"]["base_rate_log_loss"]
    assert models["nowcart"]["overall"]["auc"] > 0.6
    assert models["nowcart"]["10"]["n"] < models["nowcart"]["1"]["n"]
    named = found["next_items"]["methods"]
    assert named["nowcart"]["hit_rate"] > max(named["popular"]["hit_rate"], named["together"]["hit_rate"])
    assert "reliability" in page.read_text(encoding="utf-8")
    assert "oracle" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--simulate", "10", "--source", "clicks=x"], "one of"),
        (["--simulate", "10", "--train", "2"], "--train"),
        (["--simulate", "10", "--peers", "magic"], "magic"),
        (["--source", "nobody=x.ndjson"], "nobody"),
        (["--source", "clicks=nowhere.ndjson"], "nowhere"),
        (["--simulate", "10", "--shop", "rate=-1"], "rate"),
    ],
)
def test_mistakes_end_with_what_to_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    (tmp_path / "shop.toml").write_text(CONFIG, encoding="utf-8")
    assert main(["backtest", "--intent", str(tmp_path / "shop.toml"), *arguments]) == 2
    assert words in capsys.readouterr().err
