"""Streams: a reader that comes back has lost nothing and gets nothing twice; one that cannot is told; a slow one is dropped, and told."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.serve.feed import Feed, Wanted, read_id
from stream.serve.readers import Reader, Readers
from tests.serve.rig import Rig, config, demand, intent, spike


class Pipe:
    """A connection whose other side reads when the test says so."""

    def __init__(self, flows: bool = True) -> None:
        self.flows = flows
        self.waiting = b""
        self.read = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.waiting += data
        if self.flows:
            self.flow()

    def flow(self) -> None:
        self.read, self.waiting = self.read + self.waiting, b""

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    async def drain(self, data: bytes) -> None:
        self.write(data)
        while self.waiting and not self.closed:
            await asyncio.sleep(0)


class Silence:
    """Hears nothing of readers but how they ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def events_sent(self, events: int) -> None:
        pass

    def reader_ended(self, reason: str) -> None:
        self.ended.append(reason)


def told(data: bytes) -> Iterator[tuple[str, str, Any]]:
    """(id so far, event, data) of what a connection has read, torn ends left out."""
    last = ""
    for block in data.decode().split("\n\n")[:-1]:
        name, value = "", None
        for line in block.split("\n"):
            field, _, rest = line.partition(": ")
            if field == "id":
                last = rest
            elif field == "event":
                name = rest
            elif field == "data":
                value = json.loads(rest)
        yield last, name, value


class Shop:
    """A log, and a process that serves it."""

    def __init__(self, partitions: int, records: int = 10_000) -> None:
        self.feed = Feed(records, 10**9, lambda raw: raw)
        self.feed.open("intent", [0] * partitions)
        self.feed.open("spikes", [0] * partitions)
        self.told = Silence()
        self.readers = Readers(self.feed, 2_000, self.told, patience_s=5)

    def take(self, topic: str, partition: int, offset: int, about: str) -> None:
        raw = json.dumps([topic, partition, offset, about]).encode()
        self.readers.take(self.feed.take(topic, partition, offset, about, raw))

    def join(self, wanted: Wanted, after: str | None, pipe: Pipe) -> tuple[Reader, asyncio.Task[None]]:
        asked = read_id(after) if after else None
        places, gaps = self.feed.start(wanted, asked)
        assert not gaps
        reader = Reader(wanted, False, places, 0 if asked else self.feed.seq, pipe, chunked=False)
        self.readers.add(reader)
        return reader, asyncio.get_running_loop().create_task(self.readers.attend(reader, pipe.drain))


async def settle() -> None:
    for _ in range(40):
        await asyncio.sleep(0)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), narrow=st.booleans())
def test_over_any_cuts_and_instances_nothing_is_lost_and_nothing_repeated(seed: int, narrow: bool) -> None:
    """Two instances read one log, each in its own interleaving and at its own pace; a reader is cut off anywhere, even inside an event."""
    asyncio.run(_cut(random.Random(seed), narrow))


async def _cut(chance: random.Random, narrow: bool) -> None:
    log = {(topic, p): [chance.choice("abc") for _ in range(chance.randrange(30))] for topic in ("intent", "spikes") for p in range(2)}
    shops = [Shop(2), Shop(2)]
    at = [dict.fromkeys(log, 0) for _ in shops]
    wanted = Wanted(("intent", "spikes"), item="a" if narrow else None)
    seen: list[Any] = []
    last = "intent:0.0,spikes:0.0"
    current: tuple[int, Pipe, asyncio.Task[None]] | None = None

    def collect(data: bytes) -> None:
        nonlocal last
        for named, name, value in told(data):
            last = named or last
            assert name not in ("gap", "dropped")
            if value is not None:
                seen.append(tuple(value))

    async def leave(everything: bool) -> None:
        nonlocal current
        assert current is not None
        which, pipe, task = current
        pipe.flow()
        collect(pipe.read if everything else pipe.read[: chance.randrange(len(pipe.read) + 1)])
        task.cancel()
        shops[which].readers.all.clear()
        shops[which].readers._groups.clear()
        shops[which].readers._watching.clear()
        current = None

    started = False
    while True:
        left = [(w, key) for w in range(2) for key in log if at[w][key] < len(log[key])]
        if not started or (current is None and chance.random() < 0.5):
            which = chance.randrange(2) if started else 0
            pipe = Pipe(flows=chance.random() < 0.7)
            _, task = shops[which].join(wanted, last, pipe)
            current, started = (which, pipe, task), True
        elif left and chance.random() < 0.8:
            which, key = chance.choice(left)
            for _ in range(chance.randrange(1, 5)):
                if at[which][key] < len(log[key]):
                    shops[which].take(key[0], key[1], at[which][key], log[key][at[which][key]])
                    at[which][key] += 1
        elif current is not None and chance.random() < 0.3:
            await leave(everything=False)
        elif not left:
            break
        for shop in shops:
            if chance.random() < 0.5:
                shop.readers.flush()
        if current is not None and chance.random() < 0.5:
            current[1].flow()
        await settle()
    if current is None:
        pipe = Pipe()
        current = (0, pipe, shops[0].join(wanted, last, pipe)[1])
    for _ in range(20):
        for shop in shops:
            shop.readers.flush()
        current[1].flow()
        await settle()
    await leave(everything=True)
    expected = [
        (topic, p, offset, about)
        for (topic, p), abouts in log.items()
        for offset, about in enumerate(abouts)
        if not narrow or topic == "intent" or about == "a"
    ]
    assert len(seen) == len(set(seen)), "told twice"
    assert sorted(seen) == sorted(expected), "lost"
    for key in log:
        mine = [row[2] for row in seen if (row[0], row[1]) == key]
        assert mine == sorted(mine), "out of order"


def test_what_is_no_longer_kept_is_said() -> None:
    feed = Feed(5, 10**9, lambda raw: raw)
    feed.open("spikes", [100, 0])
    for offset in range(100, 110):
        feed.take("spikes", 0, offset, "a", b"{}")
    places, gaps = feed.start(Wanted(("spikes",)), read_id("spikes:102.0"))
    assert [(gap.partition, gap.asked, gap.found) for gap in gaps] == [(0, 102, 105)]
    assert places == {"spikes": [105, 0]}
    assert feed.start(Wanted(("spikes",)), read_id("spikes:105.0"))[1] == []
    feed.restart("spikes", 0, 3)
    assert feed.places["spikes"] == [3, 0]
    assert list(feed.since(0, ("spikes",))) == []


@pytest.mark.parametrize(
    "text", ["", "spikes", "spikes:", "spikes:-1", "spikes:1,", "spikes:1 2", "spikes:1.", "x" * 20_000, "spikes:" + "9" * 30, "Spikes:1"]
)
def test_an_id_that_is_none_of_ours_is_not_read(text: str) -> None:
    assert read_id(text) is None


def test_a_reader_that_takes_nothing_is_dropped_and_told_while_others_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        shop = Shop(1, records=50)
        slow, quick = Pipe(flows=False), Pipe()
        for pipe in (slow, quick):
            shop.join(Wanted(("spikes",)), None, pipe)
        await settle()
        for offset in range(2_000):
            shop.take("spikes", 0, offset, "a")
            if offset % 20 == 19:
                shop.readers.flush()
                await settle()
        assert slow.closed
        assert not quick.closed
        assert len(slow.waiting) < 10_000  # what waited for it was bounded
        slow.flow()
        events = list(told(slow.read))
        assert events[-1][1] == "dropped"
        assert events[-1][2]["lost"]
        got = [value[2] for _, name, value in events if name == "spikes"]
        assert got == list(range(len(got)))  # up to there without a hole, and the last id says where
        assert read_id(events[-1][0]) == {"spikes": [len(got)]}
        assert [value[2] for _, name, value in told(quick.read) if name == "spikes"] == list(range(2_000))
        assert shop.told.ended == ["dropped"]

    asyncio.run(run())


def test_one_that_reads_nothing_for_long_is_dropped_though_all_is_kept() -> None:
    async def run() -> None:
        shop = Shop(1)
        pipe = Pipe(flows=False)
        reader, _ = shop.join(Wanted(("spikes",)), None, pipe)
        await settle()
        for offset in range(200):
            shop.take("spikes", 0, offset, "a")
        shop.readers.flush()
        await settle()
        assert reader.stalled is not None
        reader.stalled -= 6
        shop.readers.flush()
        assert pipe.closed
        assert b"event: dropped" in pipe.waiting

    asyncio.run(run())


def test_a_log_that_was_made_anew_is_said_to_those_who_read_it() -> None:
    async def run() -> None:
        shop = Shop(1)
        pipe = Pipe()
        shop.join(Wanted(("spikes",)), None, pipe)
        await settle()
        shop.take("spikes", 0, 500, "a")
        shop.readers.flush()
        shop.feed.restart("spikes", 0, 0)
        shop.readers.restart("spikes", 0, 0)
        shop.take("spikes", 0, 0, "a")
        shop.readers.flush()
        assert [name for _, name, _ in told(pipe.read) if name] == ["spikes", "gap", "spikes"]
        assert list(told(pipe.read))[-1][0] == "spikes:1"

    asyncio.run(run())


# ---- over HTTP


def test_a_stream_brings_what_was_asked_for_and_goes_on_where_it_was() -> None:
    with Rig() as rig:
        stream = rig.stream("topics=demand,spikes&item=tea").joined()
        rig.give("demand", [demand("tea", 0), demand("pot", 0), demand("tea", 1)])
        rig.give("spikes", [spike("pot"), spike("tea")], partition=1)
        events = stream.take(3)
        assert [(event.name, event.data["item"]) for event in events] == [("demand", "tea"), ("demand", "tea"), ("spikes", "tea")]
        assert events[-1].id == "demand:3.0,spikes:0.2"
        stream.close()
        rig.give("demand", [demand("tea", 2)])
        rig.give("demand", [demand("tea", 9)], partition=1)
        again = rig.stream("topics=demand,spikes&item=tea", {"Last-Event-ID": events[0].id})
        assert [event.data["bucket_start_ms"] for event in again.take(4) if event.name == "demand"] == [
            event["bucket_start_ms"] for event in map(json.loads, (demand("tea", 1), demand("tea", 2), demand("tea", 9)))
        ]
        again.close()
        other = rig.stream("topics=spikes&after=spikes:0.1")
        assert [event.data["item"] for event in other.take(1)] == ["tea"]
        other.close()


def test_a_stream_says_what_it_cannot_bring() -> None:
    with Rig(config("replay_records = 100")) as rig:
        rig.give("spikes", [spike(f"i{n}") for n in range(150)])
        stream = rig.stream("topics=spikes", {"Last-Event-ID": "spikes:10.0"})
        gap, first = stream.take(2)
        assert (gap.name, gap.data["asked"], gap.data["found"]) == ("gap", 10, 50)
        assert first.data["item"] == "i50"
        stream.close()
        stream = rig.stream("topics=spikes", {"Last-Event-ID": "somebody else's"})
        assert stream.take(1)[0].name == "gap"
        stream.close()


def test_the_overview_streams_too_and_the_end_is_told() -> None:
    with Rig() as rig:
        stream = rig.stream("topics=overview,intent&session=s1")
        assert stream.take(1)[0].data["live_sessions"] == 0
        stream.joined()
        rig.give("intent", [intent("s0", 0.1), intent("s1", 0.2)])
        found: list[str] = []
        while "intent" not in found:
            event = stream.take(1)[0]
            found.append(event.name)
            assert event.name == "overview" or event.data["session"] == "s1"
        rig.call(rig.service.readers.close)
        while stream.take(1)[0].name != "closing":
            pass
        assert stream.next() is None


def test_no_more_readers_than_allowed_and_those_that_hang_up_are_forgotten() -> None:
    with Rig(config("max_readers = 3")) as rig:
        streams = [rig.stream("topics=spikes").joined() for _ in range(3)]
        answer = rig.get("/v1/stream?topics=spikes")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
        for stream in streams:
            stream.close()
        for _ in range(200):
            if not rig.call(lambda: len(rig.service.readers.all)):
                break
            rig.give("spikes", [spike("a")])
        else:
            raise AssertionError("readers that hung up are still there")
        rig.stream("topics=spikes").joined().close()


def test_over_a_real_connection_a_reader_that_does_not_read_is_dropped_and_told() -> None:
    with Rig(config("replay_records = 1000")) as rig:
        slow = socket.create_connection(("127.0.0.1", rig.port), timeout=30)
        rig.closing.callback(slow.close)
        slow.sendall(b"GET /v1/stream?topics=intent HTTP/1.1\r\nHost: localhost\r\n\r\n")
        quick = rig.stream("topics=spikes").joined()
        readers = rig.service.readers
        while len(readers.all) < 2:
            rig.call(readers.flush)
        for round_ in range(2_000):  # the kernel's own buffers take some megabytes
            rig.give("intent", [intent(f"s{n}", 0.5, round_) for n in range(400)])
            rig.call(readers.flush)
            if any(reader.closed for reader in list(readers.all)) or len(readers.all) < 2:
                break
        else:
            raise AssertionError("it was never dropped")
        rig.give("spikes", [spike("tea")])
        assert quick.take(1)[0].data["item"] == "tea"
        got = b""
        while more := slow.recv(1 << 20):
            got += more
        assert got.rstrip().endswith(b"0")  # the last chunk: it was closed, not cut
        assert b"event: dropped" in got[-1_000:]
