"""What every log must do, the one in memory as the real ones."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from stream.kafka.log import Fenced, LogError, Messages, OffsetGone, Outcome, Partition, Position, Records, TopicMissing
from stream.kafka.memory import murmur2
from tests.kafka.conftest import Reading, unique, until

if TYPE_CHECKING:
    from tests.kafka.conftest import Cluster

pytestmark = pytest.mark.timeout(90)


def sent(topic: str, *values: bytes | None, partition: int = 0) -> Records:
    return Records(topic, [None] * len(values), list(values), partition=partition)


def test_a_transaction_is_seen_whole_in_every_topic(cluster: Cluster) -> None:
    one, two = cluster.create(2), cluster.create(1)
    member = cluster.member(unique("group"))
    assert member.transact([sent(one, b"a", b"b"), sent(one, b"c", partition=1), sent(two, b"d")], {}) is Outcome.COMMITTED
    assert [v for _, v in cluster.visible(Partition(one, 0))] == [b"a", b"b"]
    assert [v for _, v in cluster.visible(Partition(one, 1))] == [b"c"]
    assert [v for _, v in cluster.visible(Partition(two, 0))] == [b"d"]


def test_keys_values_headers_and_stamps_arrive(cluster: Cluster) -> None:
    topic = cluster.create(1)
    where = Partition(topic, 0)
    member = cluster.member(unique("group"))
    plain = Records(topic, [b"k", None, b""], [b"v", b"", None], partition=0)
    shared = Records(topic, [b"s"], [b"1"], partition=0, headers=[("h", b"x"), ("h", b"y")])
    each = Records(topic, [b"e", b"f"], [b"2", b"3"], partition=0, headers=[[("n", b"1")], [("n", b"2"), ("m", b"")]], each_headers=True)
    assert member.transact([plain, shared, each], {}) is Outcome.COMMITTED

    def read() -> list[Messages]:
        return list(member.read(where, *member.spans([where])[where]))

    # A commit returns a little before its markers stand everywhere.
    until(lambda: sum(len(batch) for batch in read()) == 6)
    batches = read()
    rows = [
        (batch.key(i), value, batch.headers(i))
        for batch in batches
        for i, (value, stamp) in enumerate(zip(batch.values, batch.stamps_ms, strict=True))
        if stamp >= 0
    ]
    assert rows == [
        (b"k", b"v", []),
        (None, b"", []),
        (b"", None, []),
        (b"s", b"1", [("h", b"x"), ("h", b"y")]),
        (b"e", b"2", [("n", b"1")]),
        (b"f", b"3", [("n", b"2"), ("m", b"")]),
    ]


def test_keys_choose_partitions_as_the_java_client_does(cluster: Cluster) -> None:
    topic = cluster.create(5)
    keys: list[bytes | None] = [b"%d" % n for n in range(40)]
    member = cluster.member(unique("group"))
    assert member.transact([Records(topic, keys, keys)], {}) is Outcome.COMMITTED
    for number in range(5):
        expected = [key for key in keys if key is not None and (murmur2(key) & 0x7FFFFFFF) % 5 == number]
        assert [v for _, v in cluster.visible(Partition(topic, number))] == expected


def test_nothing_of_an_aborted_transaction_is_read(cluster: Cluster) -> None:
    topic, narrow = cluster.create(1), cluster.create(1, max_message_bytes="2000")
    source = cluster.create(1)
    group = unique("group")
    member = cluster.member(group)
    assert member.transact([sent(topic, b"before")], {}) is Outcome.COMMITTED
    with pytest.raises(LogError):
        member.transact([sent(topic, b"lost"), sent(narrow, random.Random(1).randbytes(9000))], {Partition(source, 0): Position(7, "lost")})
    assert member.committed([Partition(source, 0)]) == {Partition(source, 0): None}
    assert member.transact([sent(topic, b"after")], {}) is Outcome.COMMITTED
    assert [v for _, v in cluster.visible(Partition(topic, 0))] == [b"before", b"after"]
    assert cluster.visible(Partition(narrow, 0)) == []


def test_offsets_and_their_text_are_committed_with_the_records(cluster: Cluster) -> None:
    source, out = cluster.create(3), cluster.create(1)
    group = unique("group")
    member = cluster.member(group)
    text = "x1é{}" * 600  # more than 3 KB
    a, b, c = (Partition(source, n) for n in range(3))
    assert member.transact([sent(out, b"r")], {a: Position(12, text), b: Position(0, "")}) is Outcome.COMMITTED
    assert member.committed([a, b, c]) == {a: Position(12, text), b: Position(0, ""), c: None}
    other = cluster.member(group)
    assert other.committed([a])[a] == Position(12, text)
    assert cluster.member(unique("group")).committed([a])[a] is None


def test_offsets_alone_are_a_transaction_too(cluster: Cluster) -> None:
    source = Partition(cluster.create(1), 0)
    member = cluster.member(unique("group"))
    for offset in range(3):
        assert member.transact([], {source: Position(offset, str(offset))}) is Outcome.COMMITTED
    assert member.committed([source])[source] == Position(2, "2")


def test_the_newer_process_with_the_same_transactional_id_fences_the_older(cluster: Cluster) -> None:
    topic = cluster.create(1)
    group, name = unique("group"), unique("producer")
    old = cluster.member(group, name)
    assert old.transact([sent(topic, b"old")], {}) is Outcome.COMMITTED
    new = cluster.member(group, name)
    with pytest.raises(Fenced):
        old.transact([sent(topic, b"zombie")], {})
    assert new.transact([sent(topic, b"new")], {}) is Outcome.COMMITTED
    assert [v for _, v in cluster.visible(Partition(topic, 0))] == [b"old", b"new"]


def test_a_renewed_producer_goes_on(cluster: Cluster) -> None:
    topic = cluster.create(1)
    member = cluster.member(unique("group"))
    for turn in range(3):
        assert member.transact([sent(topic, b"%d" % turn)], {}) is Outcome.COMMITTED
        member.renew()
    assert [v for _, v in cluster.visible(Partition(topic, 0))] == [b"0", b"1", b"2"]


def test_a_group_reads_everything_in_order_and_says_where_it_ends(cluster: Cluster) -> None:
    topic = cluster.create(3)
    for number in range(2):
        cluster.send(topic, [b"%d-%d" % (number, i) for i in range(500)], partition=number)
    reading = Reading(cluster.member(unique("group")), [topic])
    until(lambda: len(reading.ends) == 3, reading)
    assert reading.told.events == [("assigned", [Partition(topic, n) for n in range(3)])]
    for number in range(2):
        batches = [b for b in reading.batches if b.partition == Partition(topic, number)]
        assert [v for b in batches for v in b.values] == [b"%d-%d" % (number, i) for i in range(500)]
        assert reading.offsets(Partition(topic, number)) == list(range(500))
    assert reading.ends == {Partition(topic, 0): 500, Partition(topic, 1): 500, Partition(topic, 2): 0}
    reading.forget()
    cluster.send(topic, [b"more"], partition=2)
    until(lambda: bool(reading.ends), reading)
    assert reading.values == [b"more"]
    assert reading.ends == {Partition(topic, 2): 1}


def test_several_topics_in_one_member_keep_apart(cluster: Cluster) -> None:
    one, two = cluster.create(2), cluster.create(2)
    for topic in (one, two):
        for number in range(2):
            cluster.send(topic, [f"{topic}/{number}/{i}".encode() for i in range(300)], partition=number)
    reading = Reading(cluster.member(unique("group")), [one, two])
    until(lambda: len(reading.ends) == 4, reading)
    for topic in (one, two):
        for number in range(2):
            batches = [b for b in reading.batches if b.partition == Partition(topic, number)]
            assert [v for b in batches for v in b.values] == [f"{topic}/{number}/{i}".encode() for i in range(300)]


def test_the_end_after_a_transaction_lies_behind_its_marker(cluster: Cluster) -> None:
    where = Partition(cluster.create(1), 0)
    member = cluster.member(unique("group"))
    for _ in range(3):
        assert member.transact([sent(where.topic, b"x")], {}) is Outcome.COMMITTED
    end = 6  # three records, three markers
    until(lambda: member.spans([where])[where].end == end)
    reading = Reading(cluster.member(unique("group")), [where.topic])
    until(lambda: reading.ends.get(where, 0) == end, reading)
    assert reading.offsets(where) == [0, 2, 4]


def test_a_range_is_read_again_exactly_even_when_it_ends_at_markers(cluster: Cluster) -> None:
    where = Partition(cluster.create(1), 0)
    member = cluster.member(unique("group"))
    for turn in range(4):
        assert member.transact([sent(where.topic, *(b"%d-%d" % (turn, i) for i in range(3)))], {}) is Outcome.COMMITTED
    end = 16
    until(lambda: member.spans([where])[where].end == end)
    everything = cluster.visible(where)
    assert len(everything) == 12
    for start in range(end + 1):
        for stop in {start, min(start + 1, end), min(start + 4, end), end}:
            got = [pair for batch in member.read(where, start, stop, 2) for pair in zip(batch.offsets, batch.values, strict=True)]
            assert got == [pair for pair in everything if start <= pair[0] < stop], (start, stop)
    with pytest.raises(OffsetGone):
        list(member.read(where, 0, end + 1))


def test_a_member_goes_on_where_its_group_committed(cluster: Cluster) -> None:
    topic, out = cluster.create(1), cluster.create(1)
    where, group = Partition(topic, 0), unique("group")
    cluster.send(topic, [b"%d" % i for i in range(10)], partition=0)
    member = cluster.member(group)
    reading = Reading(member, [topic])
    until(lambda: len(reading.values) == 10, reading)
    assert member.transact([sent(out, b"first")], {where: Position(4, "t")}) is Outcome.COMMITTED
    member.close()
    again = Reading(cluster.member(group), [topic])
    until(lambda: bool(again.ends), again)
    assert again.values == [b"%d" % i for i in range(4, 10)]


def test_a_partition_left_out_waits_until_it_is_resumed(cluster: Cluster) -> None:
    topic = cluster.create(2)
    for number in range(2):
        cluster.send(topic, [b"%d" % i for i in range(20)], partition=number)
    member = cluster.member(unique("group"))
    reading = Reading(member, [topic], start=None)
    until(lambda: bool(reading.told.owned), reading)
    for _ in range(3):
        reading.fetch()
    assert reading.values == []
    member.resume_at({Partition(topic, 1): 5})
    until(lambda: Partition(topic, 1) in reading.ends, reading)
    assert reading.offsets(Partition(topic, 1)) == list(range(5, 20))
    assert reading.offsets(Partition(topic, 0)) == []


def test_a_paused_partition_brings_nothing_and_resumes_at_the_offset(cluster: Cluster) -> None:
    topic = cluster.create(2)
    a, b = Partition(topic, 0), Partition(topic, 1)
    for number in range(2):
        cluster.send(topic, [b"%d" % i for i in range(50)], partition=number)
    member = cluster.member(unique("group"))
    reading = Reading(member, [topic])
    until(lambda: len(reading.ends) == 2, reading)
    member.pause([a])
    reading.forget()
    for number in range(2):
        cluster.send(topic, [b"%d" % i for i in range(50, 60)], partition=number)
    until(lambda: reading.offsets(b) == list(range(50, 60)), reading)
    assert reading.offsets(a) == []
    for start in (30, 55, 60):  # backwards, forwards, to the end
        reading.forget()
        member.pause([a])
        member.resume_at({a: start})
        until(lambda: a in reading.ends, reading)
        assert reading.offsets(a) == list(range(start, 60))
    reading.forget()
    member.resume_at({b: 10})  # one that was not paused is rewound
    until(lambda: b in reading.ends, reading)
    assert reading.offsets(b) == list(range(10, 60))
    member.pause([Partition(unique("topic"), 0)])  # not ours: nothing happens
    member.resume_at({Partition(unique("topic"), 0): 3})


@pytest.mark.parametrize("seed", range(3))
def test_however_partitions_are_paused_and_rewound_nothing_is_skipped_or_twice(cluster: Cluster, seed: int) -> None:
    rng = random.Random(seed)
    topic, count = cluster.create(2), 20_000  # more than a client keeps for a paused partition
    partitions = [Partition(topic, 0), Partition(topic, 1)]
    for partition in partitions:
        cluster.send(topic, [b"%d" % i for i in range(count)], partition=partition.partition)
    member = cluster.member(unique("group"))
    reading = Reading(member, [topic])
    until(lambda: len(reading.told.owned) == 2, reading)
    due = {p: (offsets[-1] + 1 if (offsets := reading.offsets(p)) else 0) for p in partitions}
    paused: set[Partition] = set()
    rewinds = 12
    for _ in range(3000):
        for partition in partitions:
            chance = rng.random()
            if partition in paused and chance < 0.4:
                if rewinds and rng.random() < 0.3:
                    rewinds -= 1
                    due[partition] = rng.randrange(max(0, due[partition] - 9000), min(count, due[partition] + 9000))
                member.resume_at({partition: due[partition]})
                paused.discard(partition)
            elif partition not in paused and chance < 0.3:
                member.pause([partition])
                paused.add(partition)
        for batch in member.fetch(rng.choice((1, 50, 3000, 9000)), rng.choice((0, 0.01))).batches:
            assert batch.partition not in paused
            assert batch.offsets == list(range(due[batch.partition], due[batch.partition] + len(batch)))
            assert batch.values == [b"%d" % i for i in batch.offsets]
            due[batch.partition] += len(batch)
        if not rewinds and all(offset == count for offset in due.values()):
            break
    member.resume_at({p: due[p] for p in paused})
    reading.forget()
    until(lambda: all(due[p] + len(reading.offsets(p)) == count for p in partitions), reading)
    for partition in partitions:
        assert reading.offsets(partition) == list(range(due[partition], count))


def test_an_open_transaction_hides_all_that_comes_after_it(cluster: Cluster) -> None:
    where = Partition(cluster.create(1), 0)
    cluster.send(where.topic, [b"a"])
    finish = cluster.open_transaction(where.topic, b"open")
    cluster.send(where.topic, [b"b"])
    reading = Reading(cluster.member(unique("group")), [where.topic])
    until(lambda: where in reading.ends, reading)
    assert reading.values == [b"a"]
    assert reading.ends == {where: 1}
    assert reading.member.spans([where])[where] == (0, 1)
    finish()
    until(lambda: reading.ends[where] == 4, reading)
    assert reading.values == [b"a", b"b"]
    assert reading.member.spans([where])[where] == (0, 4)


def test_a_second_member_takes_half_and_gives_it_back(cluster: Cluster) -> None:
    topic, out, group = cluster.create(4), cluster.create(1), unique("group")
    everything = {Partition(topic, n) for n in range(4)}
    first_member = cluster.member(group)
    first = Reading(first_member, [topic])
    until(lambda: first.told.owned == everything, first)
    outcomes: list[Outcome] = []

    def commit_on_the_way_out(partitions: list[Partition]) -> None:
        outcomes.append(first_member.transact([sent(out, b"kept")], {p: Position(0, "by the first") for p in partitions}))

    first.told.on_revoked = commit_on_the_way_out
    second_member = cluster.member(group)
    second = Reading(second_member, [topic])
    until(lambda: len(first.told.owned) == 2 and len(second.told.owned) == 2, first, second)
    assert first.told.owned | second.told.owned == everything
    assert outcomes == [Outcome.COMMITTED]
    assert {p.metadata for p in first_member.committed(sorted(second.told.owned)).values() if p is not None} == {"by the first"}
    cluster.send(topic, [b"%d" % i for i in range(40)], keys=[b"%d" % i for i in range(40)])
    until(lambda: len(first.values) + len(second.values) == 40, first, second)
    for reading in (first, second):
        assert {batch.partition for batch in reading.batches} <= reading.told.owned
    for reading in (first, second):
        mine = {p: Position(1, "") for p in reading.told.owned}
        assert reading.member.transact([], mine) is Outcome.COMMITTED
    first.told.on_revoked = None
    second_member.close()
    assert not second.told.owned
    until(lambda: first.told.owned == everything, first)
    assert not any(kind == "lost" for kind, _ in first.told.events + second.told.events)


def test_big_records(cluster: Cluster) -> None:
    topic = cluster.create(1, max_message_bytes=str(8 << 20))
    value = bytes(range(256)) * 4096  # 1 MiB
    member = cluster.member(unique("group"))
    assert member.transact([sent(topic, value, b"small", value * 7)], {}) is Outcome.COMMITTED
    assert [v for _, v in cluster.visible(Partition(topic, 0))] == [value, b"small", value * 7]


def test_spans_follow_what_was_deleted(cluster: Cluster) -> None:
    where = Partition(cluster.create(2), 0)
    empty = Partition(where.topic, 1)
    member = cluster.member(unique("group"))
    cluster.send(where.topic, [b"%d" % i for i in range(10)], partition=0)
    assert member.spans([where, empty]) == {where: (0, 10), empty: (0, 0)}
    cluster.delete_records(where, 4)
    assert member.spans([where])[where] == (4, 10)
    assert [o for o, _ in cluster.visible(where)] == list(range(4, 10))
    with pytest.raises(OffsetGone):
        list(member.read(where, 3, 10))


def test_a_next_offset_that_is_gone_is_an_error_not_a_jump(cluster: Cluster) -> None:
    where = Partition(cluster.create(1), 0)
    cluster.send(where.topic, [b"%d" % i for i in range(10)], partition=0)
    cluster.delete_records(where, 4)
    reading = Reading(cluster.member(unique("group")), [where.topic])
    with pytest.raises(OffsetGone, match=where.topic):
        until(lambda: False, reading)
    assert reading.values == []


def test_a_missing_topic_is_named(cluster: Cluster) -> None:
    missing = unique("topic")
    member = cluster.member(unique("group"))
    with pytest.raises(TopicMissing, match=missing):
        member.partitions([missing])
    with pytest.raises(TopicMissing, match=missing):
        Reading(member, [missing])
    with pytest.raises(TopicMissing, match=missing):
        member.transact([sent(missing, b"x")], {})
    there = cluster.create(3)
    assert member.partitions([there]) == {there: 3}
