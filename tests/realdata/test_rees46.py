"""REES46's clickstream: views, carts and purchases by item and bucket, sessions and who bought, against pandas; and layouts."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest

from tests.realdata.conftest import Layout, RealFile, Row, records, require_same, run_layout, whole_run

pytestmark = [pytest.mark.realdata, pytest.mark.timeout(400)]

MINUTES_5, HOUR = 300_000, 3_600_000
CONFIG = """
[time]
zone = "UTC"
[sources.clicks]
kind = "clickstream"
topic = "shop"
fields = { time = "event_time", event = "event_type", session = "user_session", user = "user_id", item = "product_id", price = "price" }
events = { view = "view", cart = "cart", purchase = "purchase" }
[demand]
from = "clickstream"
totals = [3]
[[demand.buckets]]
size = "5m"
horizon = 6
[[demand.buckets]]
size = "1h"
horizon = 3
[models]
river_items = 20
[activity]
partitions = 3
"""


def shop_of(real_file: RealFile) -> pd.DataFrame:
    shop = pd.read_csv(real_file("rees46_2019-10-01.csv"), dtype=str)
    shop["ms"] = pd.to_datetime(shop.event_time, format="%Y-%m-%d %H:%M:%S UTC", utc=True).astype("datetime64[ms, UTC]").astype("int64")
    return shop


def test_counts_of_every_item_and_bucket_and_the_sessions_are_the_files(real_file: RealFile, root: Path, tmp_path: Path) -> None:
    path = real_file("rees46_2019-10-01.csv")
    summary = whole_run(root / "examples" / "rees46.toml", tmp_path, f"clicks={path}")
    shop = shop_of(real_file)
    assert summary["sources"]["clicks"]["rows"] == len(shop)
    assert summary["sources"]["clicks"]["dead_letters"] == {}
    assert summary["sources"]["clicks"]["late"] == {"corrected": 0, "dropped": 0}

    got: dict[tuple[str, str, int], tuple[int, int, int]] = {}
    for record in records(tmp_path / "demand.ndjson"):
        value = record["value"]
        got[value["item"], value["bucket"], value["bucket_start_ms"]] = (value["views"], value["carts"], value["observed"])
    for name, size in (("5m", MINUTES_5), ("1h", HOUR)):
        start = shop.ms // size * size
        closed = shop[start + size <= shop.ms.max()]
        counted = closed.groupby([closed.product_id, start[closed.index], "event_type"]).size().unstack(fill_value=0)
        expected = {(str(i), name, int(at)): (int(r["view"]), int(r["cart"]), int(r["purchase"])) for (i, at), r in counted.iterrows()}
        assert len(expected) > 500  # most of the file stands in an hour that has not ended
        assert {place: got.get(place) for place in expected} == expected
        assert all(cells == (0, 0, 0) for place, cells in got.items() if place[1] == name and place not in expected)

    by_session: dict[str, list[dict[str, object]]] = defaultdict(list)
    for record in records(tmp_path / "intent.ndjson"):
        by_session[record["key"]].append(record["value"])
    lasts = {key: values[-1] for key, values in by_session.items()}
    # The half hour's gap cuts a few long visits: a session of the file is one here unless it was silent for so long.
    assert set(lasts) == set(shop.user_session)
    assert len(lasts) == 5_066
    assert all(value["ended"] for value in lasts.values())
    bought = set(shop[shop.event_type == "purchase"].user_session)
    assert {key for key, values in by_session.items() if any(v["purchased"] for v in values)} == bought
    gaps = shop.sort_values("ms", kind="stable").groupby("user_session").ms.diff()
    assert sum(bool(v["ended"]) for values in by_session.values() for v in values) == 5_066 + int((gaps > 1_800_000).sum())


def test_neither_partitions_nor_processes_nor_speed_change_a_byte(real_file: RealFile, embedded: str, tmp_path: Path) -> None:
    shop = shop_of(real_file).drop(columns="ms").fillna("")
    rows = [Row(row["user_session"].encode(), json.dumps(row).encode()) for row in shop.to_dict("records")]
    layouts = (Layout(4), Layout(4, processes=2, fetch_bytes=50_000), Layout(1))
    require_same({layout: run_layout(embedded, CONFIG, tmp_path, f"rees{n}", rows, layout) for n, layout in enumerate(layouts)})
