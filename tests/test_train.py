"""`nowcart train`: from a history to a version that beats the engine without it; artefacts that are whole or refused; what the words mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.demand.network import Shape
from models.train.artefact import arrays_of, weights_of
from models.train.card import CardError, decode_card, encode_card
from models.train.fit import members
from models.train.learning import Options
from models.train.pretrain import pretrain
from stream.cli.main import main
from stream.engine.forecast import ForecastShard, Swap
from stream.engine.state import forecast_state, restore_forecast, versions_of
from stream.state.artefacts import Artefacts, ArtefactUnusable, decode_announcement, encode_announcement
from stream.train.course import Course, cut, deepened, survey
from stream.train.run import Made, Plan, train_all
from tests.engine.test_forecast import encoded
from tests.train_shop import LightHistory, light_history, sales, settings

SMALL = Shape(hidden=32, step=32)


def quiet(*_: object) -> None: ...


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> LightHistory:
    path = tmp_path_factory.mktemp("sales")
    return light_history(settings(path), sales(path / "sales.csv"))


@pytest.fixture(scope="module")
def made(history: LightHistory, tmp_path_factory: pytest.TempPathFactory) -> Made:
    curves: list[str] = []
    plan = Plan(options=Options(pretrain="never", epochs=6), shape=SMALL)
    (found,) = train_all(settings(tmp_path_factory.mktemp("state")), history, plan, quiet, lambda name, value, step: curves.append(name))
    assert any("newest" in name for name in curves)
    return found


def test_a_trained_version_forecasts_the_newest_part_better_than_the_engine_without_it(made: Made) -> None:
    card = made.card
    assert made.better
    assert card.metrics["network"]["n"] == card.metrics["untrained"]["n"] > 100
    assert card.layout["known"] == ["price"] or card.layout["known"] == ("price",)
    assert card.data.until_ms == card.metrics["held_out"]["until_ms"] > card.metrics["held_out"]["from_ms"]
    assert card.version.startswith("demand-1d-2024")
    assert card.version.endswith(card.sha256[:6])


def test_what_is_written_is_what_is_read_and_announced(made: Made, tmp_path: Path) -> None:
    artefacts = Artefacts(str(tmp_path), "nowcart.")
    announcement = artefacts.write(made.card, made.arrays, why="trained")
    key, value = encode_announcement(announcement)
    assert key == f"demand@{made.card.version}".encode()
    heard = decode_announcement(value)
    card, arrays = Artefacts(str(tmp_path / "elsewhere"), "other.").read(heard.version, heard.uri, heard.sha256)
    assert card == decode_card(encode_card(made.card))
    again = weights_of(card, arrays)
    rows = torch.randn(5, again.layout.width)
    assert torch.equal(again.members[0](rows), made.weights.members[0](rows))
    assert made.weights.trees is not None and again.trees is not None and made.card.recipe["trees"]
    assert again.trees.outputs(rows.numpy(), again.layout).tobytes() == made.weights.trees.outputs(rows.numpy(), again.layout).tobytes()
    assert artefacts.versions() == [made.card.version]
    assert artefacts.announcement(made.card.version, "trained") == announcement


@pytest.mark.parametrize("damage", ["weights", "manifest", "missing", "foreign"])
def test_a_damaged_or_foreign_version_is_one_message(made: Made, tmp_path: Path, damage: str) -> None:
    artefacts = Artefacts(str(tmp_path), "nowcart.")
    heard = artefacts.write(made.card, made.arrays)
    folder = tmp_path / "nowcart." / "models" / made.card.version
    file = folder / ("manifest.json" if damage in ("manifest", "foreign") else f"{made.card.sha256}.safetensors")
    if damage == "missing":
        file.unlink()
    elif damage == "foreign":
        file.write_bytes(b'{"hello": "world"}')
    else:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
    with pytest.raises(ArtefactUnusable, match="must stand whole at"):
        artefacts.read(heard.version, heard.uri, "" if damage == "foreign" else heard.sha256)


def test_a_version_from_before_networks_knew_how_far_they_had_seen_goes_as_far_as_it_did(made: Made) -> None:
    arrays = {name: values for name, values in arrays_of(made.weights).items() if not name.endswith((".low", ".high"))}
    (read, *_), (now, *_) = weights_of(made.card, arrays).members, made.weights.members
    assert (float(read.low.min()), float(read.low.max()), float(read.high.min())) == (-6, -6, 6)
    assert (now.low > -6).any()
    assert (now.low >= -6).all()


def test_weights_of_another_shape_are_refused(made: Made) -> None:
    arrays = arrays_of(made.weights)
    arrays["0.first.weight"] = arrays["0.first.weight"][:, :-1]
    with pytest.raises(CardError, match=r"first\.weight of member 0 must be"):
        weights_of(made.card, arrays)
    arrays = arrays_of(made.weights) | {"0.out.bias": np.full(5, np.nan, np.float32)}
    with pytest.raises(CardError, match="not finite"):
        weights_of(made.card, arrays)
    arrays = arrays_of(made.weights) | {"trees.1": np.frombuffer(b"a tree", np.uint8)}
    with pytest.raises(CardError, match=r"trees cannot be read .*LightGBM's own text"):
        weights_of(made.card, arrays)


@pytest.mark.parametrize("value", [b"", b"{}", b'{"model": "demand", "version": "../../etc", "size": "1d"}'])
def test_what_is_no_announcement_is_refused(value: bytes) -> None:
    with pytest.raises(ArtefactUnusable):
        decode_announcement(value)


def test_pretraining_tells_hidden_stretches_better_than_their_mean_does_and_moves_the_first_layers_only(history: LightHistory) -> None:
    known = survey(history, quiet)["1d"]
    spec = deepened(history.spec).resolutions[0].demand
    layout = known.layout(spec)
    at = cut(known, spec.horizon, 0.15, 24)
    assert at is not None
    course = Course(history, {"1d": layout}, {"1d": at})
    course.run(quiet)
    examples = course.examples("1d", at.early)
    (member,) = members(layout, spec.levels, SMALL, 3)
    before = {name: value.clone() for name, value in member.named_parameters()}
    error = pretrain(member, examples, seed=3, steps=150)
    assert error < 0.9
    moved = {name.split(".")[0] for name, value in member.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"first", "second"}


def test_frozen_fine_tuning_leaves_what_pretraining_taught(history: LightHistory, tmp_path: Path) -> None:
    plan = Plan(options=Options(finetune="frozen", epochs=2), shape=SMALL)
    (frozen,) = train_all(settings(tmp_path), history, plan, quiet, quiet)
    assert frozen.card.recipe["pretrained"]
    assert frozen.card.recipe["finetune"] == "frozen"


def test_the_same_seed_gives_the_same_version(made: Made, history: LightHistory, tmp_path: Path) -> None:
    plan = Plan(options=Options(pretrain="never", epochs=6), shape=SMALL)
    (again,) = train_all(settings(tmp_path), history, plan, quiet, quiet)
    assert again.card.version == made.card.version


def test_a_shard_with_a_swap_goes_on_from_its_state_to_the_byte(made: Made, history: LightHistory) -> None:
    spec = deepened(history.spec)
    blocks = [block for _, block in history.blocks(0)]
    for at in (40, 80, 120):  # the swap is planned, has just been taken, was taken long ago
        one = ForecastShard(spec)
        start_ms = one.resolutions[0].grid.end_of(one.resolutions[0].grid.number_of(1_704_067_200_000) + 78)
        one.tell(Swap("1d", made.card.version, start_ms, made.weights))
        for block in blocks[:at]:
            list(one.step(block))
        state = {name: array.copy() for name, array in forecast_state(one).items()}
        assert versions_of(state) == {made.card.version}
        two = ForecastShard(spec)
        restore_forecast(two, state, {made.card.version: made.weights})
        rest = [[encoded(columns) for block in blocks[at:] for columns in shard.step(block)] for shard in (one, two)]
        assert rest[0] == rest[1]
        assert one.versions() == two.versions() == {"1d": made.card.version}


def test_a_rollback_silences_the_network_and_brings_it_back(made: Made, history: LightHistory) -> None:
    shard = ForecastShard(deepened(history.spec))
    blocks = [block for _, block in history.blocks(0)]
    named = []
    for number, block in enumerate(blocks[:60]):
        if number in (20, 40):
            shard.tell(Swap("1d", made.card.version, 0, made.weights) if number == 20 else Swap("1d", "builtin-1", 0, None))
        named += [columns.model_version for columns in shard.step(block)]
    assert [name for before, name in zip(["", *named], named, strict=False) if name != before] == [
        "backtest",
        made.card.version,
        "backtest",
    ]


def test_a_file_is_trained_from_the_command_line_without_writing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(
        '[sources.orders]\nkind = "orders"\ntopic = "o"\nfields = { time = "t", item = "i", quantity = "n" }\n'
        '[demand]\nquantiles = [0.1, 0.5, 0.9]\ntotals = [2]\n[[demand.buckets]]\nsize = "1d"\nhorizon = 2\nseasons = [7]\n'
        f'[state]\nurl = "{tmp_path}/state"\n'
    )
    file = sales(tmp_path / "sales.csv", days=60, items=8)
    command = ["train", str(path), "--history", str(file), "--item", "item", "--time", "day", "--target", "units", "--known", "price"]
    assert main([*command, "--dry-run", "--members", "1", "--epochs", "1", "--pretrain", "never", "--log-dir", str(tmp_path / "logs")]) == 0
    assert "demand-1d-2024" in capsys.readouterr().out
    assert not (tmp_path / "state").exists()
    assert list((tmp_path / "logs").glob("events.out.tfevents*"))
    assert main(["train", str(path), "--history", str(file), "--item", "item"]) == 2
    assert "--history needs --time, --target" in capsys.readouterr().err
    assert main(["train", str(path), "--announce", "demand-1d-nowhere"]) == 2
    assert "must stand whole at" in capsys.readouterr().err
