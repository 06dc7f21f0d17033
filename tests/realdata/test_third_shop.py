"""A shop that nobody here has seen: its own names, numbers for ids, no sessions. A TOML file is all that it writes."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.realdata.conftest import records, whole_run

pytestmark = pytest.mark.timeout(300)

CONFIG = """
[time]
zone = "America/St_Johns"
[sources.events]
kind = "clickstream"
topic = "third.events"
[sources.events.fields]
time = "timestamp"
event = "event"
user = "visitorid"
item = "itemid"
order = "transactionid"
[sources.events.events]
view = "view"
addtocart = "cart"
transaction = "purchase"
[demand]
from = "clickstream"
totals = [6]
[[demand.buckets]]
size = "1h"
horizon = 12
seasons = [24]
[[demand.buckets]]
size = "1d"
horizon = 7
[models]
river_items = 5
[activity]
partitions = 2
[intent]
session_gap = "20m"
"""
GAP_MS = 20 * 60_000
HOUR_MS = 3_600_000
# Newfoundland is 3 h 30 min behind UTC, and 2 h 30 min from 2014-03-09 on: days begin at half past, and one of them is short.
DAYS_MS = [1_394_163_000_000 + n * 24 * HOUR_MS - (HOUR_MS if n > 2 else 0) for n in range(6)]


def shop(seed: int) -> list[dict[str, int | str | None]]:
    """Four days of visitors who come back, in the order of their clicks."""
    chance = random.Random(seed)
    events: list[dict[str, int | str | None]] = []
    for visitor in range(250):
        now = chance.randrange(DAYS_MS[1], DAYS_MS[4])
        for _ in range(chance.randrange(1, 30)):
            now += chance.choice([1_000, 45_000, GAP_MS, GAP_MS + 1, 7 * HOUR_MS])
            if now >= DAYS_MS[5]:
                break
            event = chance.choices(["view", "addtocart", "transaction", "wishlist"], [12, 3, 2, 1])[0]
            order = chance.randrange(10**6) if event == "transaction" else None
            item = int(10 * chance.paretovariate(1.0)) % 40
            events.append({"timestamp": now, "visitorid": visitor, "event": event, "itemid": item, "transactionid": order})
    return sorted(events, key=lambda event: int(event["timestamp"] or 0))


def test_a_toml_file_is_enough(tmp_path: Path) -> None:
    events = shop(3)
    (tmp_path / "third.toml").write_text(CONFIG)
    rows = tmp_path / "events.csv"
    names = list(events[0])
    lines = [",".join("" if event[name] is None else str(event[name]) for name in names) for event in events]
    rows.write_text("\n".join([",".join(names), *lines]) + "\n")
    summary = whole_run(tmp_path / "third.toml", tmp_path / "out", f"events={rows}")

    known = [event for event in events if event["event"] != "wishlist"]
    assert len(known) < len(events)
    assert summary["sources"] == {
        "events": {"rows": len(events), "events": len(known), "dead_letters": {}, "late": {"corrected": 0, "dropped": 0}}
    }
    last = max(int(event["timestamp"] or 0) for event in known)
    expected: dict[tuple[str, str, int], Counter[str]] = defaultdict(Counter)
    for event in known:
        at = int(event["timestamp"] or 0)
        hour = at // HOUR_MS * HOUR_MS
        if hour + HOUR_MS <= last:
            expected["1h", str(event["itemid"]), hour][str(event["event"])] += 1
        day = max(n for n, start in enumerate(DAYS_MS) if start <= at)
        if DAYS_MS[day + 1] <= last:
            expected["1d", str(event["itemid"]), DAYS_MS[day]][str(event["event"])] += 1
    got = {
        (record["bucket"], record["item"], record["bucket_start_ms"]): Counter(
            view=record["views"], addtocart=record["carts"], transaction=record["orders"]
        )
        for record in records(tmp_path / "out" / "demand.ndjson", before=b',"censored"')
    }
    assert {place: counts for place, counts in got.items() if counts.total()} == dict(expected)
    assert {bucket for bucket, _, _ in expected} == {"1h", "1d"}

    # Sessions are cut from visitors, one behind the other, where nothing has come for longer than the gap.
    sessions: dict[str, list[str]] = {}
    running: dict[object, tuple[str, int]] = {}
    for event in known:
        at = int(event["timestamp"] or 0)
        name, seen = running.get(event["visitorid"], ("", -GAP_MS * 9))
        if at - seen > GAP_MS:
            name = f"{event['visitorid']}:{at}"
        running[event["visitorid"]] = (name, at)
        sessions.setdefault(name, []).append(str(event["event"]))
    ended = {
        line["key"]: (line["value"]["events"], line["value"]["purchased"], line["value"]["user"])
        for line in records(tmp_path / "out" / "intent.ndjson")
        if line["value"]["ended"]
    }
    assert ended == {name: (len(done), "transaction" in done, name.split(":")[0]) for name, done in sessions.items()}


def test_its_events_may_as_well_be_objects_in_objects(tmp_path: Path) -> None:
    """The same shop's messages, nested, as NDJSON: the same forecasts."""
    events = shop(4)[:600]
    flat, nested = tmp_path / "flat.ndjson", tmp_path / "nested.ndjson"
    flat.write_text("".join(json.dumps(event) + "\n" for event in events))
    nested.write_text(
        "".join(json.dumps({"meta": {"timestamp": e.pop("timestamp")}, "who": {"id": e.pop("visitorid")}, **e}) + "\n" for e in events)
    )
    (tmp_path / "flat.toml").write_text(CONFIG)
    (tmp_path / "nested.toml").write_text(CONFIG.replace('"timestamp"', '"meta.timestamp"').replace('"visitorid"', '"who.id"'))
    found = []
    for name, file in (("flat", flat), ("nested", nested)):
        whole_run(tmp_path / f"{name}.toml", tmp_path / name, f"events={file}", partitions=2)
        by_item: dict[str, list[object]] = defaultdict(list)
        for line in records(tmp_path / name / "demand.ndjson"):
            by_item[line["key"]].append(line["value"])
        found.append(by_item)
    assert found[0]
    assert found[0] == found[1]
