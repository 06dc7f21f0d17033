"""The simulated shop: its bytes, its truth against its messages, and its oracle against brute force."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.config import load
from stream.engine.columns import MICRO
from stream.engine.time import Zone
from stream.mapping.decoder import Decoder
from stream.simulate import TOPICS, Chunk, Shop, ShopSpec, Truth, benchmark_spec, demo_spec, pace, write
from stream.simulate.messages import JUNK
from stream.simulate.sessions import Records
from stream.simulate.spec import DAY_MS, HOUR_MS

START = ShopSpec().start_ms
SMALL = ShopSpec(items=60, rate=4.0, seed=5, malformed_share=0.02, late_share=0.05, stockouts_per_day=1.0, spikes_per_day=0.2)


def gather(chunks: list[Chunk], source: str) -> tuple[list[bytes], list[bytes], list[int], list[int]]:
    """All of a source's messages: keys, values, times, arrivals."""
    parts = [chunk.sources[source] for chunk in chunks]
    return (
        [key for part in parts for key in part.keys],
        [value for part in parts for value in part.values],
        [int(time) for part in parts for time in part.time_ms],
        [int(time) for part in parts for time in part.arrival_ms],
    )


def clicks_of(chunks: list[Chunk]) -> Records:
    return np.concatenate([chunk.sources["clicks"].rows for chunk in chunks])


def sessions_of(chunks: list[Chunk]) -> Records:
    made = np.concatenate([chunk.sessions for chunk in chunks])
    return made[np.argsort(made["session"])]


# ---- The same bytes, however they are asked for ----


def test_a_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    once, again = (list(Shop(SMALL).events(START + HOUR_MS)) for _ in range(2))
    other = list(Shop(SMALL, seed=6).events(START + HOUR_MS))
    for source in TOPICS:
        assert gather(once, source) == gather(again, source)
        assert gather(once, source)[1] != gather(other, source)[1]
    shop = Shop(SMALL)
    list(shop.events(START + 3 * HOUR_MS))
    assert gather(list(shop.events(START + HOUR_MS)), "clicks") == gather(once, "clicks"), "a shop that has run starts anew"


WHOLE = list(Shop(SMALL).events(START + 2 * HOUR_MS))


@given(
    chunk_events=st.none() | st.integers(1, 5_000),
    chunk_ms=st.none() | st.integers(10_000, HOUR_MS),
    until_ms=st.integers(START, START + 2 * HOUR_MS),
)
@settings(max_examples=15, deadline=None)
def test_cutting_changes_nothing(chunk_events: int | None, chunk_ms: int | None, until_ms: int) -> None:
    cut = list(Shop(SMALL).events(until_ms, chunk_events=chunk_events, chunk_ms=chunk_ms))
    for source in TOPICS:
        keys, values, times, arrivals = gather(WHOLE, source)
        n = sum(arrival < until_ms for arrival in arrivals)
        assert gather(cut, source) == (keys[:n], values[:n], times[:n], arrivals[:n])
    for chunk, after in pairwise(cut):
        assert chunk.end_ms == after.start_ms
        assert chunk_events is None or len(chunk.sources["clicks"]) <= chunk_events
        assert chunk_ms is None or chunk.end_ms - chunk.start_ms <= chunk_ms
    known: set[int] = set()
    for chunk in cut:
        known |= set(chunk.sessions["session"].tolist())
        assert set(chunk.sources["clicks"].rows["session"].tolist()) <= known


def test_a_count_may_end_among_clicks_of_the_same_millisecond() -> None:
    times = np.concatenate([c.sources["clicks"].arrival_ms for c in Shop(SMALL, rate=400.0).events(count=3_000)])
    tie = int(np.flatnonzero(times[1:] == times[:-1])[0]) + 1
    chunks = list(islice(Shop(SMALL, rate=400.0).events(count=tie, chunk_events=500), 1_000))
    assert sum(len(c.sources["clicks"]) for c in chunks) == tie
    assert len(chunks) < 100


@pytest.mark.parametrize("count", [1, 777, 10_000])
def test_a_count_is_met_exactly(count: int) -> None:
    got = list(Shop(SMALL).events(count=count, chunk_events=500))
    assert gather(got, "clicks")[1] == gather(WHOLE, "clicks")[1][:count]
    assert gather(got, "orders")[1] == gather(WHOLE, "orders")[1][: len(gather(got, "orders")[1])]


def test_messages_arrive_in_order_with_event_times_out_of_order() -> None:
    for source in TOPICS:
        _, _, times, arrivals = gather(WHOLE, source)
        assert arrivals == sorted(arrivals)
        assert all(arrival >= time for time, arrival in zip(times, arrivals, strict=True))
    _, _, times, arrivals = gather(WHOLE, "clicks")
    assert times != sorted(times)
    delays = np.array(arrivals) - np.array(times)
    late = (delays > SMALL.jitter_max_ms).mean()
    assert 0.02 < late < 0.06  # 5 % are, but in two hours the latest have not all come
    assert delays.max() <= SMALL.late_max_ms


def test_a_drained_shop_ends_every_session_it_began() -> None:
    shop = Shop(SMALL, malformed_share=0.0)
    until = START + HOUR_MS + 123_456
    chunks = list(shop.events(until, drain=True))
    made, clicks = sessions_of(chunks), clicks_of(chunks)
    assert made["start_ms"].max() < until
    assert Counter(clicks["session"].tolist()) == dict(zip(made["session"].tolist(), made["events"].tolist(), strict=True))
    truth = Truth(shop)
    for chunk in chunks:
        truth.add(chunk)
    _, sent = truth.sessions()
    assert sent.sum(axis=0).tolist() == [made["events"].sum(), made["purchases"].sum()]
    assert (~truth.orders()["cancelled"] & (truth.orders()["quantity"] > 0)).sum() == made["purchases"].sum()


def test_a_pace_keeps_to_the_clock() -> None:
    now = START - 5_000
    slept = []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += round(seconds * 1000)

    paced = []
    for chunk in pace(Shop(SMALL).events(START + 600_000), lambda: now, sleep):
        assert all((messages.arrival_ms < now).all() for messages in chunk.sources.values())
        assert all((messages.arrival_ms > now - 1_000).all() for messages in chunk.sources.values())
        paced.append(chunk)
    for source in TOPICS:
        assert gather(paced, source) == gather(list(Shop(SMALL).events(START + 600_000)), source)
    assert len(sessions_of(paced)) == len(sessions_of(list(Shop(SMALL).events(START + 600_000))))
    assert len(paced) > 100
    assert min(slept) > 0


# ---- What the shop looks like ----


def test_the_model_meets_what_the_spec_asks() -> None:
    for spec in (ShopSpec(), benchmark_spec(), demo_spec(), ShopSpec(conversion=0.1, session_events=12, conversion_change=(START, 0.5))):
        intents = Shop(spec).intents
        assert intents[0].visits().sum() == pytest.approx(spec.session_events, rel=0.005)
        assert intents[0].converts() == pytest.approx(spec.conversion, rel=0.01)
        for intent in intents:
            for rows in (intent.move, intent.emit, intent.relate, intent.start[None]):
                assert (rows >= 0).all()
                assert rows.sum(axis=1) == pytest.approx(1, abs=1e-12)
        if spec.conversion_change is not None:
            assert intents[1].converts() == pytest.approx(spec.conversion * spec.conversion_change[1], rel=0.01)


def test_shares_of_bots_buyers_and_returning_users() -> None:
    shop = Shop(ShopSpec(items=500, rate=60.0, seed=2))
    made = sessions_of(list(shop.events(START + 3 * HOUR_MS)))
    people = made[~made["bot"]]
    assert made["bot"].mean() == pytest.approx(0.025, abs=0.002)
    assert (people["purchases"] > 0).mean() == pytest.approx(0.04, abs=0.003)
    assert not made["purchases"][made["bot"]].any()
    assert made["events"].mean() == pytest.approx(6.0, rel=0.03)
    assert (made["user"] < 0).mean() == pytest.approx(0.30, abs=0.01)
    assert max(Counter(made["user"][made["user"] >= 0].tolist()).values()) > 5
    pace_of = (made["end_ms"] - made["start_ms"])[made["events"] > 3] / made["events"][made["events"] > 3]
    assert np.median(pace_of[made["bot"][made["events"] > 3]]) < 2_000 < np.median(pace_of[~made["bot"][made["events"] > 3]])


@pytest.mark.parametrize("zone", ["Europe/London", "Asia/Tokyo"])
def test_evenings_and_weekends_in_the_shops_zone(zone: str) -> None:
    shop = Shop(ShopSpec(items=100, rate=0.6, zone=zone, spikes_per_day=0, late_share=0))
    made = sessions_of(list(shop.events(START + 14 * DAY_MS)))
    local = [datetime.fromtimestamp(ms / 1000, ZoneInfo(zone)) for ms in made["start_ms"].tolist()]
    hours, days = Counter(t.hour for t in local), Counter(t.weekday() for t in local)
    assert 17 <= hours.most_common(1)[0][0] <= 22
    assert hours[20] > 4 * hours[4]
    assert days[6] > 1.2 * days[4]


def test_popularity_is_long_tailed() -> None:
    views = Counter(clicks_of(list(Shop(items=2_000, rate=50.0).events(count=100_000)))["item"].tolist())
    del views[-1]
    ranked = [count for _, count in views.most_common()]
    assert sum(ranked[:200]) > 0.5 * sum(ranked)
    assert len(ranked) > 1_800


# ---- The truth against the messages ----


def test_the_truth_is_what_the_files_hold(tmp_path: Path) -> None:
    shop = Shop(SMALL, rate=8.0, cancel_share=0.1)
    seen = []
    summary = write(shop, tmp_path, START + 5 * HOUR_MS, grain_ms=60_000, progress=lambda clicks, time_ms: seen.append((clicks, time_ms)))
    assert seen == sorted(seen)
    assert json.loads((tmp_path / "truth" / "summary.json").read_text()) == json.loads(json.dumps(summary))
    tables = {
        name: pq.read_table(tmp_path / "truth" / f"{name}.parquet").to_pylist() for name in ("counts", "sessions", "orders", "malformed")
    }
    junk = {(row["source"], row["message"]): row for row in tables["malformed"]}
    counts: defaultdict[tuple[int, str], Counter[str]] = defaultdict(Counter)
    events, purchases, units = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    ordered = Counter[tuple[str, str]]()
    names = {"view": "views", "add_to_cart": "carts", "purchase": "purchases"}
    for number, line in enumerate((tmp_path / "clicks.ndjson").read_bytes().split(b"\n")[:-1]):
        if ("clicks", number) in junk:
            continue
        click = json.loads(line)
        events[click["sid"]] += 1
        if click["type"] in names:
            counts[click["ts"] // 60_000 * 60_000, click["sku"]][names[click["type"]]] += 1
        if click["type"] == "purchase":
            counts[click["ts"] // 60_000 * 60_000, click["sku"]]["purchase_units"] += click["quantity"]
            purchases[click["sid"]] += 1
            units[click["sid"], click["sku"]] += click["quantity"]
    for number, line in enumerate((tmp_path / "orders.ndjson").read_bytes().split(b"\n")[:-1]):
        if ("orders", number) in junk:
            continue
        order = json.loads(line)
        cell = counts[order["created"] // 60_000 * 60_000, order["sku"]]
        back = order["quantity"] < 0 or order.get("cancelled", False)
        cell["returned_lines" if back else "lines"] += 1
        cell["returned_units" if back else "units"] += abs(order["quantity"])
        if not back:
            ordered[order["sid"], order["sku"]] += order["quantity"]
    told = {
        (row["bucket_ms"], row["item"]): {k: v for k, v in row.items() if k not in ("bucket_ms", "item") and v}
        for row in tables["counts"]
        if any(v for k, v in row.items() if k not in ("bucket_ms", "item"))
    }
    assert told == {cell: dict(values) for cell, values in counts.items() if any(values.values())}
    for row in tables["sessions"]:
        assert (row["events_sent"], row["purchases_sent"]) == (events[row["session"]], purchases[row["session"]])
        assert row["events_sent"] <= row["events"]
        assert row["purchases_sent"] <= row["purchases"]
    assert summary["purchases_sent"] == sum(purchases.values())
    assert summary["units"] == sum(ordered.values())
    assert summary["returned_units"] == sum(cell["returned_units"] for cell in counts.values()) > 0
    # Each order has its purchase, with the same units; the last purchases' orders may still be on their way.
    settled = {row["session"] for row in tables["sessions"] if row["end_ms"] < START + 2 * HOUR_MS}
    assert {key: n for key, n in ordered.items() if key[0] in settled} == {key: n for key, n in units.items() if key[0] in settled}
    assert sum(session in settled for session, _ in ordered) > 20
    assert len(pq.read_table(tmp_path / "truth" / "rates.parquet")) == 5 * 60


def test_malformed_messages_are_as_many_and_as_bad_as_told() -> None:
    chunks = list(Shop(SMALL, malformed_share=0.05).events(START + HOUR_MS))
    seen = Counter[str]()
    for chunk in chunks:
        for value, row in zip(chunk.sources["clicks"].values, chunk.sources["clicks"].rows, strict=True):
            name = JUNK[row["junk"]].name
            seen[name] += 1
            try:
                body = json.loads(value)
            except ValueError:
                assert name in ("truncated", "empty")
                continue
            assert name not in ("truncated", "empty")
            good_time = isinstance(body.get("ts"), int) and abs(body["ts"] - row["time_ms"]) < DAY_MS
            bare = body["type"] in ("search", "page")
            good_item = bare or (isinstance(body["sku"], str) and isinstance(body["price"], float))
            assert (name == "") == (good_time and good_item and "sid" in body), value
    assert set(seen) == {junk.name for junk in JUNK}
    assert 1 - seen[""] / seen.total() == pytest.approx(0.05 / 1.05, abs=0.006)


@dataclass
class Log:
    """Messages as a decoder takes them."""

    offsets: list[int]
    stamps_ms: list[int]
    values: list[bytes | None]


def test_the_example_configuration_reads_every_good_message_and_no_other() -> None:
    config = load(Path(__file__).parents[1] / "examples" / "simulated.toml", {})
    assert {name: source.topic for name, source in config.sources.items()} == TOPICS
    shop = Shop(SMALL, malformed_share=0.05, rate=8.0, conversion=0.2, promotions_per_day=5.0)
    chunks = list(shop.events(START + 2 * HOUR_MS))
    seen = set()
    for name, source in config.sources.items():
        _, values, times, arrivals = gather(chunks, name)
        log = Log(list(range(len(values))), arrivals, list(values))
        decoded = Decoder(source, config.time, Zone(config.time.zone)).decode(log)
        rows = np.concatenate([chunk.sources[name].rows for chunk in chunks])
        junk = rows["junk"] if name != "offers" else np.zeros(len(values), dtype=np.int8)
        # Last year's are well formed: only the watermark tells that they are too late.
        refused = [at for at in range(len(values)) if junk[at] and JUNK[junk[at]].name != "last_year"]
        assert [rejected.offset for rejected in decoded.rejected] == refused
        for rejected in decoded.rejected:
            assert rejected.reason in JUNK[junk[rejected.offset]].reasons, rejected
            seen.add(JUNK[junk[rejected.offset]].name)
        assert "ignored" not in decoded.events
        read = decoded.rows
        good = junk[read.offset] == 0
        assert read.time_ms[good].tolist() == [times[at] for at in read.offset[good]]
        if name == "offers":
            assert read.extra is not None
            assert {"promotion", "starts", "ends", "stock", "category", "brand"} <= {key.removesuffix("_ms") for key in read.extra}
            continue
        sent = rows[read.offset]
        assert read.item == ["" if item < 0 else shop.catalog.ids[item] for item in sent["item"].tolist()]
        assert read.session == shop.session_ids(sent["session"])
        assert read.price is not None
        priced = sent["item"] >= 0
        assert (read.price[priced] == sent["price_cents"][priced].astype(np.int64) * (MICRO // 100)).all()
        if name == "orders":
            assert read.quantity is not None and read.cancelled is not None
            assert (read.quantity == sent["quantity"].astype(np.int64) * MICRO).all()
            assert (read.cancelled == sent["cancelled"]).all()
        else:
            assert read.event is not None
            assert (read.event == sent["kind"]).all()
    assert seen == {junk.name for junk in JUNK} - {"", "last_year"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"items": 3}, "items"),
        ({"zone": "Mars/Olympus"}, "zone"),
        ({"slot_ms": 7}, "slot_ms"),
        ({"late_share": 1.5}, "late_share"),
        ({"session_events": 2.0}, "session_events"),
        ({"rate": 0.0}, "rate"),
        ({"conversion_change": (START, 9.0)}, "conversion_change"),
        ({"itmes": 100}, "itmes"),
    ],
)
def test_impossible_shops_say_why(change: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Shop(**change)


def test_a_shop_starts_at_any_moment_and_goes_on_for_as_long_as_asked() -> None:
    start = START + 37 * 60_000 + 1_234
    chunks = list(islice(Shop(SMALL, start_ms=start).events(chunk_ms=60_000), 200))
    assert chunks[0].start_ms == start
    assert sessions_of(chunks)["start_ms"].min() >= start
    assert len(gather(chunks, "offers")[1]) >= SMALL.items
