"""The comparison complains of whatever could go wrong, and only then; the plan and the traffic are the seed's alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.config import parse
from stream.kafka.reader import Record
from tests.chaos.compare import Comparison, compare
from tests.chaos.plan import draw
from tests.chaos.shop import configuration, traffic

SCHEMA = [("nowcart-schema", b"1")]


def published(seed: int, count: int = 60) -> list[Record]:
    """Records of some keys over two partitions, a few of them alike."""
    chance = random.Random(seed)
    ends = [0, 0]
    records = []
    for _ in range(count):
        key = chance.randrange(9)
        offset = ends[key % 2]
        ends[key % 2] += chance.choice([1, 1, 2])  # transactions leave gaps
        records.append(Record("t", key % 2, offset, b"k%d" % key, b'{"n": %d}' % chance.randrange(5), chance.randrange(10**6), SCHEMA))
    return records


def dead_letters(count: int) -> list[Record]:
    """One of each of so many messages."""
    return [
        Record("t", 0, n, None, b"{", n, [("nowcart-reason", b"malformed"), ("nowcart-topic", b"shop"), ("nowcart-offset", b"%d" % n)])
        for n in range(count)
    ]


def counts(found: Comparison) -> tuple[int, int, int]:
    return found.lost, found.duplicated, found.different


def shuffled_between_keys(records: list[Record], seed: int) -> list[Record]:
    """Another interleaving of the same sequences."""
    chance = random.Random(seed)
    by_key: dict[bytes | None, list[Record]] = {}
    for record in records:
        by_key.setdefault(record.key, []).append(record)
    mixed: list[Record] = []
    while by_key:
        key = chance.choice(list(by_key))
        mixed.append(by_key[key].pop(0)._replace(offset=len(mixed), timestamp_ms=0))
        if not by_key[key]:
            del by_key[key]
    return mixed


@given(st.integers(0, 1 << 30), st.integers(0, 1 << 30))
def test_other_offsets_stamps_and_interleavings_are_the_same(seed: int, order: int) -> None:
    records = published(seed)
    found = compare("demand", records, shuffled_between_keys(records, order))
    assert found.same and found.records == len(records) and not found.examples


@given(st.integers(0, 1 << 30), st.integers(0, 59), st.sampled_from(["intent", "demand", "spikes", "deadletter"]))
def test_one_record_dropped_doubled_or_changed_is_seen(seed: int, at: int, topic: str) -> None:
    records = dead_letters(60) if topic == "deadletter" else published(seed)
    assert counts(compare(topic, records, records)) == (0, 0, 0)
    assert counts(compare(topic, records, records[:at] + records[at + 1 :])) == (1, 0, 0)
    assert counts(compare(topic, records, [*records[: at + 1], *records[at:]])) == (0, 1, 0)
    changes: list[Callable[[Record], Record]] = [
        lambda r: r._replace(value=b'{"n": 99}'),
        lambda r: r._replace(value=None),
        lambda r: r._replace(headers=[*r.headers, ("more", b"1")]),
    ]
    for change in changes:
        found = compare(topic, records, [*records[:at], change(records[at]), *records[at + 1 :]])
        assert counts(found) == (0, 0, 1)
        assert found.examples


def test_a_record_that_stands_alone_in_one_run_is_lost_or_different() -> None:
    one = Record("t", 0, 0, b"only", b"{}", 0, SCHEMA)
    assert counts(compare("intent", [one], [])) == (1, 0, 0)
    assert counts(compare("intent", [], [one])) == (0, 0, 1)


def test_two_records_of_a_key_in_the_wrong_order_are_different() -> None:
    first, second = (Record("t", 0, n, b"k", b'{"n": %d}' % n, 0, SCHEMA) for n in range(2))
    assert counts(compare("intent", [first, second], [second, first])) == (0, 0, 2)


def test_dead_letters_may_come_in_any_order() -> None:
    letters = dead_letters(5)
    assert compare("deadletter", letters, letters[::-1]).same


@pytest.mark.parametrize("seconds", [50, 600])
def test_the_plan_has_a_kill_every_so_often_and_some_of_each_kind(seconds: int) -> None:
    plan = draw(7, seconds, 4.0)
    assert plan == draw(7, seconds, 4.0) != draw(8, seconds, 4.0)
    assert {fault.kind for fault in plan} == {"ingest", "forecast", "broker", "stop", "disk"}
    assert [fault.at_s for fault in plan] == sorted(fault.at_s for fault in plan)
    kills = sum(fault.kills for fault in plan)
    assert seconds / 4 * 0.6 < kills < seconds / 4 * 1.6


def test_the_traffic_is_the_seeds_and_its_configuration_reads() -> None:
    messages = traffic(3, 4_000, 60)
    assert messages == traffic(3, 4_000, 60) and len(messages) == 4_000
    assert {m.topic for m in messages} == {"shop.clicks", "shop.orders"}
    config = parse(configuration("localhost:1", "nowcart.", Path("state")))
    assert config.time.idle_after_ms >= 86_400_000
