"""Whatever stands in a shop's topics: a dead letter with its reason and its bytes, or ignored; good rows count, nothing ends the engine."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.config import parse
from stream.engine.activity import Block
from stream.engine.columns import MICRO, DemandColumns, Rows, SpikeColumns
from stream.engine.forecast import ForecastShard
from stream.kafka.log import Partition
from stream.kafka.reader import Record
from stream.metrics import Metrics
from stream.records import MAX_MESSAGE_BYTES, encode_demand, encode_spikes
from stream.runners.forecast import ForecastStage
from stream.runners.ingest import IngestStage
from stream.runners.report import Report
from stream.schemas import schemas
from tests.kafka.conftest import embedded, real_kafka
from tests.shop_runs import MINUTE, ORDERS, SHOP, START_MS, Process, Shop, Watch, outputs, published, run_to_end, trade, wait_until

__all__ = ["embedded", "real_kafka"]

HOUR = 60 * MINUTE
NOW_MS = START_MS


def click(**changes: Any) -> bytes:
    value = {"t": NOW_MS, "e": "view", "s": "a", "i": 1, "p": 2.5, "u": "u"} | changes
    return json.dumps({key: inner for key, inner in value.items() if inner is not ...}).encode()


def order(**changes: Any) -> bytes:
    value = {"id": 7, "at": NOW_MS, "lines": [{"sku": 1, "n": 2, "each": 3}]} | changes
    return json.dumps({key: inner for key, inner in value.items() if inner is not ...}).encode()


def line(**changes: Any) -> bytes:
    value = {"sku": 1, "n": 2, "each": 3} | changes
    return order(lines=[{"sku": 2, "n": 1}, {key: inner for key, inner in value.items() if inner is not ...}])


GOOD = click()
DEEP = b'{"deep":' * 50_000 + b"1" + b"}" * 50_000

BAD_CLICKS: list[tuple[str, bytes | None]] = [
    *[
        ("malformed", value)
        for value in (
            None,
            b"",
            b" ",
            b"{",
            GOOD[:-1],
            GOOD + b"x",
            GOOD + b"," + GOOD,  # two messages in one must not become two
            GOOD + GOOD,
            b"[" + GOOD + b"]",
            b'"text"',
            b"null",
            b"17",
            b"NaN",
            b"\x00\x00\x00\x00\x01abc",
            b"\xff\xfe",
            GOOD.replace(b'"a"', b'"\xff"'),
            GOOD.replace(b'"a"', b'"\xed\xa0\x80"'),
            GOOD.replace(b'"a"', b'"\\ud800"'),
            GOOD.replace(b'"a"', b'"a\nb"'),
            GOOD.replace(b"2.5", b"NaN"),
            GOOD.replace(b"2.5", b"-Infinity"),
            GOOD.replace(b"2.5", b"01"),
            GOOD.replace(b'"u"', b'"u",'),
            DEEP,
            GOOD[:-1] + b', "more": ' + DEEP + b"}",
            b"[" * 100_000,
        )
    ],
    *[("missing_field", click(**{field: value})) for field in ("t", "e", "s", "i") for value in (..., None, "")],
    *[
        ("bad_time", click(t=value))
        for value in (
            "yesterday",
            "2023-13-01",
            "2023-02-29T10:00:00Z",
            True,
            [1],
            {"at": 1},
            0,
            17,
            -1,
            1e300,
            10**18,
            10**30,
            "9" * 60,
            "9999-12-31",
            "1979-12-31",
        )
    ],
    *[("bad_value", click(**{field: value})) for field in ("e", "s", "i", "u") for value in ([1], {"a": 1}, True)],
    *[("bad_value", click(**{field: "x" * 1025})) for field in ("s", "i", "u")],
    *[("bad_value", click(p=value)) for value in ("cheap", "1,5", "nan", "inf", [1], {"a": 1}, True, 1e300, -1e12, 10**40)],
    ("too_large", click(note="x" * (2 << 20))),
    ("too_large", b"x" * (2 << 20)),
]

BAD_ORDERS: list[tuple[str, bytes | None]] = [
    ("malformed", b"<order/>"),
    *[("missing_field", order(lines=value)) for value in (..., None)],
    *[("bad_value", order(lines=value)) for value in ("a", 1, {"sku": 1, "n": 2}, [1], ["a"], [[1]])],
    *[("missing_field", line(**{field: value})) for field in ("sku", "n") for value in (..., None, "")],
    *[("bad_value", line(n=value)) for value in ("many", 1e300, 10**30, [2], True, "1e999", "٣x")],
    *[("bad_value", line(each=value)) for value in ("free", 1e12)],
    ("bad_value", line(n=1e9, each=1e9)),
    ("bad_time", order(at="soon")),
]

IGNORED = [click(e=value) for value in ("scroll", "VIEW", 17, 1.5, "view ", "x" * 3000)]

STRANGE = [
    *[click(s=value) for value in (0, -1, 10**30, 1.5, "\u0000", "a\nb", "\U0001f6d2", "\u202e", " ", "x" * 1024)],
    *[click(i=value) for value in (10**300, "nowcart", '"', "'; DROP TABLE items; --", "\u0000", "ß" * 512)],
    click(p="-12.345678901"),
    click(p=None, u=None, more={"a": [[[[1]]]]}),
    GOOD.replace(b'"a"', b'"a", "s": "b"'),
    b"\n\t " + GOOD + b" \n",
    click(t=str(NOW_MS)),
    click(t="2023-11-15T00:00:00.123456789+00:00"),
]
"""Odd, and fine."""


def headers_of(record: Record) -> dict[str, str]:
    names = [name for name, _ in record.headers]
    assert len(names) == len(set(names))
    return {name: value.decode() for name, value in record.headers}


def totals(cells: dict[tuple[str, int], int]) -> Counter[str]:
    """By item, without those that have none."""
    found: Counter[str] = Counter()
    for (item, _), count in cells.items():
        found[item] += count
    return +found


@pytest.mark.parametrize("broker", ["embedded", pytest.param("real_kafka", marks=pytest.mark.kafka)])
def test_every_bad_message_is_a_dead_letter_and_every_good_row_counts(broker: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    shop = Shop(request.getfixturevalue(broker), tmp_path, partitions=2)
    expected: dict[tuple[str, int, int], tuple[str, bytes | None, bytes | None]] = {}
    views: Counter[str] = Counter()
    units: Counter[str] = Counter()
    sent: dict[tuple[str, int], int] = {}

    def send(topic: str, bad: list[tuple[str, bytes | None]], good: list[bytes]) -> None:
        # Bad, good, bad, good …, then the same in the other partition in another order: every batch has both.
        for partition in (0, 1):
            mixed: list[tuple[str, bytes | None]] = []
            for i in range(max(len(bad), len(good))):
                mixed += [*bad[i : i + 1], ("", good[i % len(good)])]
            if partition:
                mixed.reverse()
            keys = [b"\xff\x00%d" % i if i % 3 else None for i in range(len(mixed))]
            shop.send(topic, [value for _, value in mixed], keys, partition)
            sent[topic, partition] = len(mixed)
            for offset, (reason, value) in enumerate(mixed):
                if reason:
                    expected[topic, partition, offset] = (reason, keys[offset], value)
                elif topic == shop.clicks and value not in IGNORED:
                    assert value is not None
                    views[str(json.loads(value)["i"])] += 1
                elif topic == shop.orders:
                    for one in json.loads(value or b"")["lines"]:
                        units[str(one["sku"])] += one["n"]

    future = ("future", click(t=time.time_ns() // 1_000_000 + HOUR))
    send(shop.clicks, [*BAD_CLICKS, future], [*STRANGE, *IGNORED, *[click(s=f"s{n}", i=n % 7) for n in range(60)]])
    send(
        shop.orders,
        BAD_ORDERS,
        [order(id=n, lines=[{"sku": n % 5, "n": 1 + n % 3}, {"sku": 5, "n": 1}]) for n in range(40)] + [order(lines=[])],
    )
    for partition in (0, 1):
        # The first closes the hours before; the second is late and corrects; the third is too late.
        clicks = [click(s="last", t=NOW_MS + minutes * MINUTE, i="last") for minutes in (180, 130, 110)]
        orders = [order(at=NOW_MS + minutes * MINUTE, lines=[{"sku": "last", "n": 1}, {"sku": 1, "n": 1}]) for minutes in (180, 130, 110)]
        for topic, values in ((shop.clicks, clicks), (shop.orders, orders)):
            shop.send(topic, values, [b"late"] * 3, partition)
            expected[topic, partition, sent[topic, partition] + 2] = ("too_late", b"late", values[2])
    views["last"] += 2
    units.update({"last": 2, "1": 2})

    config = shop.config()
    report = run_to_end(config)

    letters = published(config, "deadletter")
    found = {}
    for letter in letters:
        headers = headers_of(letter)
        jsonschema.validate(headers, schemas()["deadletter.headers"])
        place = (headers["nowcart-topic"], int(headers["nowcart-partition"]), int(headers["nowcart-offset"]))
        found[place] = (headers["nowcart-reason"], letter.key, letter.value)
    assert len(found) == len(letters)
    shown = {place: (reason, expected.get(place, ("good",))[0], (value or b"")[:90]) for place, (reason, _, value) in found.items()}
    wrong = [(place, shown[place]) for place in found if found[place] != expected.get(place)] + [
        (p, e[0], (e[2] or b"")[:90]) for p, e in expected.items() if p not in found
    ]
    assert not wrong
    reasons = Counter(reason for reason, _, _ in expected.values())
    assert report.reasons["clicks"] + report.reasons["orders"] == reasons

    assert report.lateness == {
        name: {"corrected": corrected, "dropped": dropped} for name, corrected, dropped in (("clicks", 2, 2), ("orders", 4, 4))
    }
    assert report.event_counts["clicks"]["view"] == views.total() + 4  # two too late, two in an hour that is still open
    assert report.event_counts["clicks"]["ignored"] > len(IGNORED)
    observed: dict[tuple[str, int], int] = {}
    viewed: dict[tuple[str, int], int] = {}
    for record in published(config, "demand"):
        value = json.loads(record.value or b"")
        if value["bucket"] == "1h":  # a correction takes the place of what it corrects
            observed[value["item"], value["bucket_start_ms"]] = value["observed"]
            viewed[value["item"], value["bucket_start_ms"]] = value["views"]
    assert totals(observed) == units
    assert totals(viewed) == views


@pytest.mark.parametrize("broker", ["embedded", pytest.param("real_kafka", marks=pytest.mark.kafka)])
def test_a_message_beyond_what_the_dead_letters_take_is_cut_and_says_so(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    shop = Shop(request.getfixturevalue(broker), tmp_path, partitions=1)
    size = 9 << 20
    shop.send(shop.clicks, [GOOD, b"y" * size, GOOD, b"z" * (MAX_MESSAGE_BYTES - 20_000)], [b"k"] * 4)
    config = shop.config()
    report = run_to_end(config)
    cut, whole = published(config, "deadletter")
    assert headers_of(cut)["nowcart-cut"] == str(size)
    assert cut.value == b"y" * len(cut.value or b"")
    assert MAX_MESSAGE_BYTES - 65_536 < len(cut.value or b"") < MAX_MESSAGE_BYTES
    assert "nowcart-cut" not in headers_of(whole)
    assert whole.value == b"z" * (MAX_MESSAGE_BYTES - 20_000)
    assert [headers_of(letter)["nowcart-reason"] for letter in (cut, whole)] == ["too_large"] * 2
    assert report.event_counts["clicks"] == {"view": 2}


class Plodding(ForecastShard):
    """Closes every bucket, whether an item lives or not."""

    def _skip(self, target: int) -> None: ...


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 300), st.booleans()), min_size=1, max_size=6))
def test_a_time_without_items_is_skipped_without_a_trace(steps: list[tuple[int, int, bool]]) -> None:
    demand = SHOP["demand"] | {"forget_after": "2h"}
    sources = {"orders": ORDERS | {"topic": "orders"}}
    time = {"out_of_orderness": "30s", "allowed_lateness": "30m", "max_lead": "30m"}
    config = parse({**SHOP, "time": time, "demand": demand, "sources": sources, "activity": {"partitions": 1}})
    ingest = IngestStage(config, {"orders": 1}, Report(Metrics(False)))
    engine = ingest.engine(Partition("orders", 0), config.sources["orders"])
    blocks = [Block(1, "roster", roster=ingest.roster, agreement=ingest.agreement)]
    at = START_MS
    for hours, minutes, back in steps:
        at += hours * HOUR + minutes * MINUTE
        times = np.array([at, at - 20 * MINUTE if back else at])
        rows = Rows(np.arange(2), times, times, item=["a", f"i{hours % 3}"], quantity=np.array([MICRO, 2 * MICRO]))
        blocks += engine.step(rows).blocks[0]
    blocks += engine.finish().blocks[0]
    spec = ForecastStage(config, Report(Metrics(False))).spec
    shards = (ForecastShard(spec), Plodding(spec))
    for block in blocks:
        skipped, plodded = ([described(columns) for columns in shard.step(block)] for shard in shards)
        assert skipped == plodded
        assert shards[0].items_live == shards[1].items_live
        assert shards[0].watermark_ms == shards[1].watermark_ms


def described(columns: DemandColumns | SpikeColumns) -> list[bytes]:
    if isinstance(columns, SpikeColumns):
        return encode_spikes(columns)[1]
    return [value for _, values, _ in encode_demand(columns) for value in values]


def test_an_event_of_another_age_keeps_nobody_waiting(embedded: str, tmp_path: Path) -> None:
    shop = Shop(embedded, tmp_path, partitions=1)
    shop.demand["forget_after"] = "3h"
    shop.send(shop.clicks, [click(t="1985-01-01"), *[click(t=NOW_MS + n * MINUTE) for n in range(61)]])
    config = shop.config()
    report = run_to_end(config)
    assert report.event_counts["clicks"] == {"view": 62}
    last = json.loads(published(config, "demand")[-1].value or b"")
    assert (last["bucket"], last["views"], last["bucket_start_ms"]) == ("1h", 60, NOW_MS)


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_process_killed_again_and_again_publishes_everything_exactly_once(real_kafka: str, tmp_path: Path) -> None:
    shop = Shop(real_kafka, tmp_path)
    clicks, orders = trade(seed=5, sessions=1500)
    sent = 0

    def send_until(share: float, pieces: int = 1) -> Iterator[None]:
        """Sends what is left of a share of everything, piece by piece."""
        nonlocal sent
        start, stop = sent, int(share * len(clicks))
        for piece in range(1, pieces + 1):
            before, sent = sent, start + (stop - start) * piece // pieces
            for topic, rows in ((shop.clicks, clicks), (shop.orders, orders)):
                part = rows[before * len(rows) // len(clicks) : sent * len(rows) // len(clicks)]
                shop.send(topic, [value for _, value in part], [key for key, _ in part])
            yield

    path, config = shop.file("killed"), shop.config("killed")
    deque(send_until(0.2), maxlen=0)
    chance = random.Random(5)
    with Watch(config) as watch:
        for share in (0.5, 0.7, 1.0):
            watch.mark()
            with Process(path) as process:
                if share == 0.7:  # this one dies while it rebuilds the state of the one before
                    wait_until(partial(process.said, "rebuilding state"), process)
                else:
                    wait_until(watch.grown, process)
                    last = chance.randrange(3, 10)
                    for piece, _ in enumerate(send_until(share, 12)):
                        if piece == last:
                            process.send(signal.SIGKILL)
                process.send(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL
            deque(send_until(share), maxlen=0)
    with Process(path, "--until-end") as process:
        assert process.wait() == 0, process.lines
        assert process.said("state rebuilt")

    undisturbed = shop.config("undisturbed")
    run_to_end(undisturbed)
    once = outputs(undisturbed)
    assert min(len(once["intent"]), len(once["demand"])) > 10
    assert outputs(config) == once
