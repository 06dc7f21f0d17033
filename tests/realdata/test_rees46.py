"""REES46: a clickstream of 2 h 50 min, against pandas; and the same records however the log is laid out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.realdata.conftest import Layout, RealFile, Row, final_observed, records, require_same, run_layout, whole_run

pytestmark = [pytest.mark.realdata, pytest.mark.timeout(1200)]

NAME = "rees46_2019-10-01.csv"
SIZES = {"5m": 300_000, "1h": 3_600_000}


def shop_of(real_file: RealFile) -> pd.DataFrame:
    shop = pd.read_csv(real_file(NAME), dtype=str, keep_default_na=False)
    shop["ms"] = [int(moment.timestamp() * 1000) for moment in pd.to_datetime(shop.event_time)]
    return shop


def test_counts_of_every_item_and_bucket_and_the_ends_of_sessions(real_file: RealFile, root: Path, tmp_path: Path) -> None:
    summary = whole_run(root / "examples" / "rees46.toml", tmp_path, f"clicks={real_file(NAME)}")
    shop = shop_of(real_file)
    assert summary["sources"] == {"clicks": {"rows": 17_434, "events": 17_434, "dead_letters": {}, "late": {"corrected": 0, "dropped": 0}}}

    got: dict[tuple[str, str, int], tuple[float, float, float]] = {}
    for record in records(tmp_path / "demand.ndjson", before=b',"censored"'):
        place = (record["bucket"], record["item"], record["bucket_start_ms"])
        assert place not in got
        assert record["observed"] == record["orders"]  # a purchase without a quantity is one unit
        got[place] = (record["views"], record["carts"], record["observed"])
    expected: dict[tuple[str, str, int], list[int]] = {}
    last = int(shop.ms.max())
    for event, item, ms in zip(shop.event_type, shop.product_id, shop.ms, strict=True):
        for bucket, size in SIZES.items():
            start = ms // size * size
            if start + size <= last:  # those that had closed by the last event
                counts = expected.setdefault((bucket, item, start), [0, 0, 0])
                counts[("view", "cart", "purchase").index(event)] += 1
    assert len(expected) > 10_000
    assert {place: (got.get(place), counts) for place, counts in expected.items() if got.get(place) != tuple(counts)} == {}
    assert {place: counts for place, counts in got.items() if place not in expected and counts != (0, 0, 0)} == {}

    # An id that comes back after the gap of 30 minutes is a new session with the same key; there is one.
    sessions: dict[str, list[list[str]]] = {}
    seen: dict[str, int] = {}
    for name, event, ms in zip(shop.user_session, shop.event_type, shop.ms, strict=True):
        if name not in seen or ms - seen[name] > 1_800_000:
            sessions.setdefault(name, []).append([])
        sessions[name][-1].append(event)
        seen[name] = ms
    assert len(sessions) == 5_066
    assert sum(map(len, sessions.values())) == 5_067
    ended: dict[str, list[tuple[int, bool]]] = {}
    became: Counter[str] = Counter()
    bought: dict[str, bool] = {}
    for line in records(tmp_path / "intent.ndjson"):
        record = line["value"]
        name = record["session"]
        assert line["key"] == name
        became[name] += record["purchased"] and not bought.get(name, False)
        bought[name] = record["purchased"] and not record["ended"]
        if record["ended"]:
            ended.setdefault(name, []).append((record["events"], record["purchased"]))
    assert ended == {name: [(len(events), "purchase" in events) for events in parts] for name, parts in sessions.items()}
    # That a session has bought is said when it happens, once.
    assert +became == Counter({name: 1 for name, parts in sessions.items() if any("purchase" in events for events in parts)})


@pytest.mark.parametrize("late", [False, True], ids=["in order", "late"])
def test_neither_processes_nor_speed_change_a_byte(real_file: RealFile, root: Path, embedded: str, tmp_path: Path, late: bool) -> None:
    """In four partitions. In one, what was observed is the same.

    What a session's purchase does to later scores is learnt within its partition, and in other ones that teaches something else. The
    purchases that sessions are expected to make move the nearest forecasts, so those differ a little as well.
    """
    shop = shop_of(real_file)
    shop = shop[shop.product_id.map(hash_of) % 6 == 0]
    if late:  # 1 % of the rows, beyond out_of_orderness and within allowed_lateness
        chance = np.random.default_rng(5)
        delay_ms = np.where(chance.random(len(shop)) < 0.01, chance.uniform(120_000, 1_200_000, len(shop)), 0)
        shop = shop.iloc[np.argsort((shop.ms + delay_ms).to_numpy(), kind="stable")]
    rows = [Row(row["user_session"].encode(), json.dumps(row).encode()) for row in shop.drop(columns="ms").to_dict("records")]
    text = (root / "examples" / "rees46.toml").read_text(encoding="utf-8")
    config = text.replace('[kafka]\nbootstrap_servers = "localhost:9092"\n', "").replace('topic = "shop.events"', 'topic = "shop"')
    assert config.count('topic = "shop"') == 1
    four, two, one = (Layout(4), Layout(4, processes=2, fetch_bytes=2_000), Layout(1))
    found = {layout: run_layout(embedded, config, tmp_path, f"rees{late:d}{n}", rows, layout) for n, layout in enumerate((four, two, one))}
    require_same({four: found[four], two: found[two]})
    assert late == (sum(json.loads(value).get("corrects", False) for values in found[four].values() for value in values) > 10)
    assert final_observed(found[one]) == final_observed(found[four])


def hash_of(item: str) -> int:
    return sum(item.encode())
