"""Online Retail: a year of order lines, day by day, against pandas; and the same records however the log is laid out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.realdata.conftest import Layout, RealFile, Row, final_observed, records, require_same, run_layout, whole_run

pytestmark = [pytest.mark.realdata, pytest.mark.timeout(1200)]

DAY_MS = 86_400_000
CONFIG = """
[time]
zone = "Europe/London"
max_lead = "7d"
out_of_orderness = "{out_of_orderness}"
allowed_lateness = "{allowed_lateness}"
[sources.orders]
kind = "orders"
topic = "shop"
fields = {{ order = "InvoiceNo", time = "InvoiceDate", item = "StockCode", quantity = "Quantity", price = "UnitPrice" }}
[demand]
totals = [7]
[[demand.buckets]]
size = "1d"
horizon = 14
seasons = [7]
[models]
river_items = 20
[activity]
partitions = 3
"""


def lines(real_file: RealFile) -> pd.DataFrame:
    return pd.read_parquet(real_file("online_retail.parquet"))


def test_units_and_lines_of_every_item_and_local_day_are_those_of_a_group_by(
    real_file: RealFile, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = real_file("online_retail.parquet")
    text = (root / "examples" / "online_retail.toml").read_text(encoding="utf-8")
    # It is about what was observed: forecasts of two days by one expert take a fraction of the time of those of 14 by all.
    monkeypatch.setattr("stream.runners.forecast.EXPERTS", ("ewma",))
    config = tmp_path / "online_retail.toml"
    config.write_text(text.replace("totals = [7, 14]", "totals = [2]").replace("horizon = 14", "horizon = 2"), encoding="utf-8")
    assert config.read_text(encoding="utf-8") != text
    summary = whole_run(config, tmp_path, f"orders={path}")
    shop = lines(real_file)
    assert summary["sources"] == {
        "orders": {"rows": len(shop), "events": len(shop), "dead_letters": {}, "late": {"corrected": 0, "dropped": 0}}
    }
    got: dict[tuple[str, int], tuple[float, float, int]] = {}
    count = 0
    for record in records(tmp_path / "demand.ndjson", before=b',"views"'):
        place = (record["item"], record["bucket_start_ms"])
        assert place not in got
        got[place] = (record["observed"], record["returned"], record["orders"])
        count += 1
    assert summary["records"]["nowcart.demand"] == count

    day = shop.InvoiceDate.dt.normalize()
    closed = day < day.max()  # the last day has not ended by its last event
    starts = {d: int(d.tz_localize("Europe/London").timestamp() * 1000) for d in day.unique()}
    ordered = shop[closed & (shop.Quantity >= 0)].groupby([shop.StockCode, day]).Quantity.agg(["sum", "size"])
    returned = shop[closed & (shop.Quantity < 0)].groupby([shop.StockCode, day]).Quantity.sum().abs()
    expected: dict[tuple[str, int], tuple[float, float, int]] = {}
    for (item, at), row in ordered.iterrows():
        expected[str(item), starts[at]] = (row["sum"], 0, row["size"])
    for (item, at), units in returned.items():
        units_ordered, _, order_lines = expected.get((str(item), starts[at]), (0, 0, 0))
        expected[str(item), starts[at]] = (units_ordered, units, order_lines)
    assert len(expected) > 270_000
    wrong = {place: (got.get(place), cells) for place, cells in expected.items() if got.get(place) != cells}
    assert not wrong
    assert {place: cells for place, cells in got.items() if place not in expected and cells != (0, 0, 0)} == {}
    # Days are London's: the first of summer time has 23 hours.
    buckets = sorted({start for _, start in got})
    assert DAY_MS - 3_600_000 in np.diff(buckets)


def two_months(real_file: RealFile) -> pd.DataFrame:
    """The first 60 days' lines of every twelfth item: enough for every way through the engine."""
    shop = lines(real_file)
    shop = shop[shop.InvoiceDate < shop.InvoiceDate.min() + pd.Timedelta(days=60)]
    names = sorted(shop.StockCode.unique())[::12]
    return shop[shop.StockCode.isin(names)][["InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "UnitPrice"]]


def messages(shop: pd.DataFrame) -> list[Row]:
    text = shop.assign(InvoiceDate=shop.InvoiceDate.astype(str))
    return [Row(row["InvoiceNo"].encode(), json.dumps(row).encode()) for row in text.to_dict("records")]


LAYOUTS = (Layout(1), Layout(2, processes=2, fetch_bytes=20_000), Layout(4, fetch_bytes=5_000), Layout(4, processes=2))


def test_neither_partitions_nor_processes_nor_speed_change_a_byte(real_file: RealFile, embedded: str, tmp_path: Path) -> None:
    rows = messages(two_months(real_file))
    config = CONFIG.format(out_of_orderness="30s", allowed_lateness="2h")
    require_same({layout: run_layout(embedded, config, tmp_path, f"plain{n}", rows, layout) for n, layout in enumerate(LAYOUTS)})


def test_rows_out_of_order_within_what_is_allowed_change_nothing(real_file: RealFile, embedded: str, tmp_path: Path) -> None:
    """Rows are shuffled within two hours, and out_of_orderness is more than that: nothing is late for any partition."""
    shop = two_months(real_file)
    chance = np.random.default_rng(7)
    places = shop.InvoiceDate + pd.to_timedelta(chance.uniform(0, 2, len(shop)), unit="h")
    rows = messages(shop.iloc[np.argsort(places.to_numpy(), kind="stable")])
    config = CONFIG.format(out_of_orderness="121m", allowed_lateness="2h")
    ordered = run_layout(embedded, config, tmp_path, "ordered", messages(shop), LAYOUTS[0])
    shuffled = {layout: run_layout(embedded, config, tmp_path, f"shuffled{n}", rows, layout) for n, layout in enumerate(LAYOUTS[:3])}
    require_same(shuffled)
    require_same({LAYOUTS[0]: ordered, LAYOUTS[1]: shuffled[LAYOUTS[1]]})


def test_late_rows_correct_what_was_observed(real_file: RealFile, embedded: str, tmp_path: Path) -> None:
    """1 % of the rows are late, beyond out_of_orderness and within allowed_lateness.

    On one layout of the log the records are the same bytes for any number of processes and at any speed. Between layouts they may
    differ: how late a row is, and so which epoch it reaches, is decided against its own partition's watermark, and with other
    partitions it stands behind another one; forecasts that were issued before it came may have known it there and not here. What
    was observed in each bucket is the same in the end everywhere.
    """
    shop = two_months(real_file)
    chance = np.random.default_rng(11)
    late = chance.random(len(shop)) < 0.01
    delay = np.where(late, chance.uniform(1, 30, len(shop)), 0)
    places = shop.InvoiceDate + pd.to_timedelta(delay, unit="h")
    rows = messages(shop.iloc[np.argsort(places.to_numpy(), kind="stable")])
    config = CONFIG.format(out_of_orderness="30s", allowed_lateness="5d")  # nights and Saturdays are long
    four = {
        layout: run_layout(embedded, config, tmp_path, f"late{n}", rows, layout)
        for n, layout in enumerate((Layout(4), Layout(4, processes=2, fetch_bytes=20_000)))
    }
    require_same(four)
    first = next(iter(four.values()))
    assert sum(json.loads(value).get("corrects", False) for values in first.values() for value in values) > 10
    one = run_layout(embedded, config, tmp_path, "late_one", rows, Layout(1))
    assert final_observed(one) == final_observed(first)
    in_order = run_layout(embedded, config, tmp_path, "late_none", messages(shop), Layout(1))
    assert final_observed(in_order) == final_observed(one)
