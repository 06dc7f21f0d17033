"""Histories from files: every format gives the same arrays, and what cannot be used is refused with its column, its rows and what to do."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

from stream.backtest.data import Round, View, cut_rounds
from stream.backtest.shape import Layout, read_dataset, read_table, step_of
from stream.backtest.times import time_values
from stream.tables import UserError
from tests.backtest.shop import LAYOUT, table


def as_csv(rows: pa.Table, path: Path, delimiter: str = ",") -> None:
    pcsv.write_csv(rows, path, pcsv.WriteOptions(delimiter=delimiter))


def as_lines(rows: pa.Table, path: Path) -> None:
    path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows.to_pylist()))


def as_gzip(rows: pa.Table, path: Path) -> None:
    plain = path.with_suffix("")
    as_csv(rows, plain)
    path.write_bytes(gzip.compress(plain.read_bytes()))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("shop.csv", as_csv),
        ("shop.tsv", lambda rows, path: as_csv(rows, path, "\t")),
        ("shop.csv.gz", as_gzip),
        ("shop.ndjson", as_lines),
        ("shop.parquet", pq.write_table),
    ],
)
def test_every_format_gives_the_same_history(name: str, write: Callable[[pa.Table, Path], None], tmp_path: Path) -> None:
    rows = table(items=3, days=20, late=4)
    shuffled = rows.take(pa.array(np.random.default_rng(0).permutation(len(rows))))
    write(shuffled, tmp_path / name)
    found, want = read_dataset(tmp_path / name, LAYOUT).data, read_table(rows, LAYOUT).data
    assert found.items == want.items == ("i0", "i1", "i2")
    assert found.frequency == want.frequency
    assert found.static == want.static
    np.testing.assert_array_equal(found.y, want.y)
    for column in ("price", "deal"):
        np.testing.assert_array_equal(found.known[column], want.known[column])
    np.testing.assert_array_equal(found.past["views"], want.past["views"])
    np.testing.assert_array_equal(found.start_ms, want.start_ms)


SALES = Layout(("item",), "t", "y")


def sales(times: list[object], values: list[float | None], **more: list[object]) -> pa.Table:
    return pa.table({"item": ["a"] * len(times), "t": times, "y": values, **more})


def test_a_missing_row_is_unknown_or_zero_and_an_empty_cell_is_unknown() -> None:
    rows = pa.table({"item": ["a", "a", "a", "b", "b"], "t": [1, 3, 4, 3, 5], "y": [1.0, None, 2.0, 7.0, 0.0]})
    unknown = read_table(rows, replace(SALES, frequency="D"))
    nan = np.nan
    np.testing.assert_array_equal(unknown.data.y, [[1, nan, nan, 2, nan], [nan, nan, 7, nan, 0]])
    assert any("3 steps" in note and "--fill zero" in note for note in unknown.notes)
    zero = read_table(rows, replace(SALES, frequency="D", fill="zero")).data
    np.testing.assert_array_equal(zero.y, [[1, 0, nan, 2, 0], [nan, nan, 7, 0, 0]])
    assert zero.first.tolist() == [0, 2]


def test_known_columns_reach_beyond_the_last_target() -> None:
    rows = sales([1, 2, 3, 4], [5.0, 6.0, None, None], price=[1.0, 2.0, 3.0, 4.0])
    data = read_table(rows, replace(SALES, known=("price",), frequency="W")).data
    assert (data.steps, data.reach) == (2, 2)
    assert data.known["price"].tolist() == [[1, 2, 3, 4]]


def test_text_that_is_known_ahead_becomes_a_column_a_value() -> None:
    rows = sales([1, 2, 3], [5.0, 6.0, 7.0], promo=["leaflet", "", "tv"])
    known = read_table(rows, replace(SALES, known=("promo",))).data.known
    assert list(known) == ["promo=leaflet", "promo=tv"]
    np.testing.assert_array_equal(known["promo=tv"], [[0, np.nan, 1]])


@pytest.mark.parametrize(
    ("times", "freq", "seasons"),
    [
        (["2024-01-01", "2024-01-02", "2024-01-05"], "D", (7,)),
        (["2024-01-07", "2024-01-14", "2024-02-04"], "W", (52,)),
        (["2024-01-31", "2024-02-29", "2024-03-31"], "M", (12,)),
        (["2024-01-01", "2024-02-01", "2024-05-01"], "M", (12,)),
        (["2024-01-01 00:00", "2024-01-01 02:00", "2024-01-01 03:00"], "h", (24, 168)),
        (["2024-01-01 00:15", "2024-01-01 00:30", "2024-01-01 01:00"], "15min", (96, 672)),
        ([20240101, 20240102, 20240105], "D", (7,)),
    ],
)
def test_the_frequency_is_seen_from_the_times(times: list[object], freq: str, seasons: tuple[int, ...]) -> None:
    found = read_table(sales(times, [1.0, 2.0, 3.0]), SALES)
    assert found.data.frequency.name == freq
    assert found.data.seasons == seasons
    assert any(f"stand on {freq}" in note for note in found.notes)


def test_weeks_keep_their_day_and_times_come_back_as_they_were() -> None:
    found = read_table(sales(["2024-01-07", "2024-01-14", "2024-01-28"], [1.0, 2.0, 3.0]), SALES)
    data = found.data
    assert data.steps == 4
    assert data.frequency.texts(data.first_step + np.arange(4), data.zone) == ["2024-01-07", "2024-01-14", "2024-01-21", "2024-01-28"]
    assert time_values(found.times, data.frequency, np.array([data.first_step])).to_pylist()[0].isoformat() == "2024-01-07"
    assert step_of(found, "2024-01-21") == 2


def test_days_are_local_ones_through_a_change_of_the_clocks() -> None:
    stamps = ["2024-03-29", "2024-03-30", "2024-03-31", "2024-04-01", "2024-04-02"]
    data = read_table(sales(list(stamps), [1.0] * 5), replace(SALES, zone="Europe/London")).data
    assert data.steps == 5
    assert np.diff(data.start_ms).tolist() == [86_400_000, 86_400_000, 82_800_000, 86_400_000]


def test_an_items_key_of_several_columns_is_joined_and_kept_apart() -> None:
    rows = pa.table({"store": [2, 2, 10], "brand": ["x", "y", "x"], "t": [1, 1, 1], "y": [1.0, 2.0, 3.0]})
    data = read_table(rows, Layout(("store", "brand"), "t", "y", "D")).data
    assert data.items == ("10:x", "2:x", "2:y")
    assert data.keys == ((10, 2, 2), ("x", "x", "y"))
    assert data.y[:, 0].tolist() == [3.0, 1.0, 2.0]


def test_a_million_rows_are_columns_all_the_way() -> None:
    items, days = 5_000, 200
    rows = pa.table({
        "item": np.repeat(np.arange(items), days), "t": np.tile(np.arange(days), items), "y": np.ones(items * days),
    })  # fmt: skip
    assert read_table(rows, replace(SALES, frequency="D")).data.y.sum() == items * days


GOOD = "item,t,y,price,kind\na,2024-01-01,1,2.5,x\na,2024-01-02,2,2.5,x\nb,2024-01-01,3,1.0,y\n"


def test_more_returns_than_sales_are_seen_as_no_demand_and_scored_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "sales.csv"
    path.write_text(GOOD.replace(",2,2.5", ",-2,2.5"))
    read = read_dataset(path, replace(SALES, frequency="D"))
    assert read.data.y[0].tolist() == [1, -2]
    assert any("negative in line 3" in note for note in read.notes)
    assert View(read.data, Round(1, 2, 2, 0)).y[0].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "layout", "says"),
    [
        (GOOD, replace(SALES, target="z"), ['must have the column "z"', "item, t, y, price, kind"]),
        (GOOD, replace(SALES, known=("prise",)), ['"prise"', 'did you mean "price"?']),
        (GOOD.replace(",2,2.5", ",two,2.5"), SALES, ['"y" (--target)', "'two'", "line 3", "leave them empty"]),
        (GOOD.replace(",2,2.5", ",inf,2.5"), SALES, ["finite", "line 3"]),
        (GOOD.replace(",2,2.5", ",2,cheap"), replace(SALES, known=("price",)), ['"price" (--known)', "'cheap'", "line 3"]),
        (GOOD.replace("a,2024-01-02", "a,2024-01-01"), SALES, ["one row a time", "lines 2, 3", "keep one"]),
        (GOOD.replace("2024-01-02", "soon"), SALES, ['"t" (--time)', "'soon'", "line 3"]),
        (GOOD.replace("2024-01-02", ""), SALES, ['"t" (--time)', "it is empty in line 3"]),
        (GOOD.replace("b,", ",", 1), SALES, ['"item" (--item)', "line 4"]),
        (GOOD.replace("2.5,x\nb", "2.5,q\nb"), replace(SALES, static=("kind",)), ['"kind" (--static)', "line 3", "--known"]),
        (GOOD, replace(SALES, known=("y",)), ['"y" is named by --target and --known']),
        (GOOD, replace(SALES, frequency="fortnight"), ["--freq", "15m", "fortnight"]),
        (GOOD, replace(SALES, zone="Mars"), ["--zone", "Mars"]),
        ("item,t,y\n", SALES, ["must have rows"]),
        ("", SALES, ["it is empty"]),
        ("item,t,y\na,1\n", SALES, ["readable as what its ending says"]),
        ("item,t,y\na,1,\n", SALES, ["empty in all"]),
        ("item,t,y\na,1,1\na,1700000000000,1\n", SALES, ["at most", "epoch"]),
    ],
)
def test_bad_input_says_which_column_which_rows_and_what_to_do(text: str, layout: Layout, says: list[str], tmp_path: Path) -> None:
    path = tmp_path / "sales.csv"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        read_dataset(path, layout if layout.frequency else replace(layout, frequency="D"))
    for part in says:
        assert part in str(refused.value)


def test_rows_that_fall_into_one_step_are_refused_with_advice() -> None:
    rows = sales(["2024-01-01 08:00", "2024-01-01 09:00", "2024-01-02 08:00"], [1.0, 2.0, 3.0])
    with pytest.raises(UserError, match=r"fall into one step of D: sum them up first"):
        read_table(rows, replace(SALES, frequency="D"))


def test_rounds_end_at_until_and_leave_the_gap_unseen() -> None:
    found = read_table(sales(list(range(40, 161)), [1.0] * 121), replace(SALES, frequency="W"))
    rounds = cut_rounds(found.data, 2, 10, 2, 1, step_of(found, "156"))
    assert [(one.cut + 40, one.end - 1 + 40) for one in rounds[:2]] == [(137, 135), (139, 137)]
    assert (rounds[-1].cut + 40, rounds[-1].end - 1 + 40) == (155, 153)


@pytest.mark.parametrize(
    ("horizon", "rounds", "advice"), [(5, 40, "at most --rounds 5"), (30, 1, "shorter --horizon"), (9, 3, "at most --rounds 2")]
)
def test_rounds_that_the_history_cannot_hold_are_refused(horizon: int, rounds: int, advice: str) -> None:
    data = read_table(sales(list(range(30)), [1.0] * 30), replace(SALES, frequency="D")).data
    step = horizon if horizon != 9 else 15
    with pytest.raises(UserError, match=advice):
        cut_rounds(data, horizon, rounds, step)


def test_until_outside_the_history_is_refused() -> None:
    found = read_table(sales(["2024-01-01", "2024-01-02", "2024-01-03"], [1.0] * 3), SALES)
    with pytest.raises(UserError, match="2024-01-01 to 2024-01-03; got 2025-01-01"):
        step_of(found, "2025-01-01")
