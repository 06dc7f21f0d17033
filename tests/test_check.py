"""`nowcart check`: what it says of a shop's messages, and when it says that they cannot be used."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.check import count_splits, split_sessions, understand
from stream.cli.main import main
from stream.config import Config, load, parse
from stream.engine.time import Zone
from stream.kafka.admin import Admin, Topic
from stream.kafka.client import KafkaMember
from stream.kafka.embedded import EmbeddedBroker
from stream.kafka.log import Partition
from stream.kafka.reader import _shares, newest
from stream.kafka.sender import Sender
from stream.mapping import Decoder

NOW_MS = int(time.time() * 1000)

SHOP = """
[kafka]
bootstrap_servers = "BROKER"
[time]
zone = "Europe/Berlin"
[sources.clicks]
kind = "clickstream"
topic = "NAME.clicks"
REPARTITION
[sources.clicks.fields]
time = "timestamp"
event = "type"
session = "sid"
item = "product.identifier"
price = "cost"
user = "uid"
[sources.clicks.events]
view = "view"
[sources.orders]
kind = "orders"
topic = "NAME.orders"
lines = "items"
[sources.orders.fields]
time = "created"
item = "sku"
quantity = "items.qty"
price = "unit_prize"
[output]
prefix = "NAME.own."
"""


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """Bootstrap servers of an embedded broker."""
    if importlib.util.find_spec("noida_db") is None:
        pytest.skip("the embedded broker is not installed: pip install 'nowcart[local]'")
    with EmbeddedBroker() as embedded:
        yield embedded.bootstrap_servers


@dataclass
class Shop:
    """A shop's topics on the broker, and the configuration that reads them."""

    broker: str
    name: str
    folder: Path

    def __post_init__(self) -> None:
        self.properties = {"bootstrap.servers": self.broker}
        Admin(self.properties).create([Topic(f"{self.name}.clicks", 4), Topic(f"{self.name}.orders", 2)])

    def send(
        self, topic: str, values: list[bytes | None], keys: list[bytes | None] | None = None, partitions: list[int] | int = -1
    ) -> None:
        with Sender(self.properties) as sender:
            sender.send(f"{self.name}.{topic}", values, keys, partitions)

    def config(self, repartition: bool = False, old: str = "", new: str = "") -> Path:
        text = (
            SHOP.replace("BROKER", self.broker)
            .replace("NAME", self.name)
            .replace("REPARTITION", f"repartition = {str(repartition).lower()}")
        )
        path = self.folder / "shop.toml"
        path.write_text(text.replace(old, new) if old else text, encoding="utf-8")
        return path


@pytest.fixture
def shop(broker: str, tmp_path: Path, request: pytest.FixtureRequest) -> Shop:
    return Shop(broker, f"s{abs(hash(request.node.name))}", tmp_path)


def click(session: str, **changes: object) -> bytes:
    return json.dumps(
        {"timestamp": NOW_MS, "type": "view", "sid": session, "product": {"identifier": 7}, "price": 2.5, "uid": None} | changes
    ).encode()


def order() -> bytes:
    return json.dumps(
        {"created": NOW_MS, "items": [{"sku": "a", "qty": 2, "unit_price": 4.25}, {"sku": "b", "qty": 1}], "customer": {"id": 5}}
    ).encode()


def checked(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["check", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_it_shows_what_is_understood_and_what_is_not(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    clicks: list[bytes | None] = [click(f"session-{i}", type=["view", "addToCart", "removeFromCart", 17][i % 4]) for i in range(40)]
    bad: list[bytes | None] = [b'{"a":', b"", None, click("x", timestamp=1), b"\xff\x1b[31mred", click("[bold]s[/]", timestamp="[soon]")]
    shop.send("clicks", clicks + bad, keys=[b"%d" % i for i in range(46)])
    shop.send("orders", [order()] * 3)
    status, out, err = checked(capsys, shop.config())
    assert (status, err) == (0, "")
    assert "46 newest messages of 4 partitions: 10 rows understood (30 ignored, 10 view)" in out
    assert "6 messages cannot be used" in out
    assert "malformed: must be JSON: Input data was truncated\n      partition" in out
    assert 'bad_time: time ("timestamp") must be a time, such as 2019-10-01T00:00:00Z, or a number; got "[soon]"' in out
    assert '"sid": "[bold]s[/]"' in out  # what stands in a message is shown, not obeyed
    assert "\x1b" not in out
    assert "\\xff\\x1b[31mred" in out
    assert "a tombstone" in out
    assert "30 messages have an event that is not listed" in out
    events = [line.split("#")[0].split() for line in out.splitlines() if "# 10 messages" in line]
    assert sorted(events) == [['"17"', "=", '"other"'], ["addToCart", "=", '"cart"'], ["removeFromCart", "=", '"remove"']]
    assert 'price = "cost" is in no message; did you mean "price"?' in out
    assert 'user = "uid" is there, and always empty' in out
    assert 'price = "unit_prize" is in no message; did you mean "items.unit_price"?' in out
    assert "6 rows understood (6 order_line)" in out
    assert "yet to be made" in out
    utc = time.strftime("%Y-%m-%d %H:%M", time.gmtime(NOW_MS / 1000))
    (row, *_) = [line for line in out.splitlines() if line.startswith(f"  {utc}") and "view" in line]
    assert "session-" in row


def test_what_it_suggests_is_understood_once_it_is_done(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.send("clicks", [click(f"s{i}", type="buyNow") for i in range(5)])
    shop.send("orders", [order()])
    path = shop.config()
    status, out, err = checked(capsys, path)
    assert status == 2
    assert "none of 5 messages of [sources.clicks] could be used" in err
    suggested = next(line for line in out.splitlines() if "buyNow" in line)
    path.write_text(path.read_text().replace('view = "view"', suggested).replace('"cost"', '"price"'))
    status, out, err = checked(capsys, path)
    assert (status, err) == (0, "")
    assert "5 rows understood (5 purchase)" in out
    assert '"cost"' not in out


def test_nothing_is_written_or_committed(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.send("clicks", [click("s")])
    before = Admin(shop.properties).topics()
    assert checked(capsys, shop.config())[0] == 0
    assert Admin(shop.properties).topics() == before
    member = KafkaMember(shop.properties, "nowcart.reader", "looks-on")
    places = [Partition(f"{shop.name}.clicks", p) for p in range(4)]
    assert member.committed(places) == dict.fromkeys(places)
    member.close()


def test_empty_topics_are_no_fault(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = checked(capsys, shop.config())
    assert (status, err) == (0, "")
    assert out.count("no messages yet") == 2


def test_a_topic_that_is_not_there_is_one_message_with_the_nearest_name(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = checked(capsys, shop.config(old='.clicks"', new='.click"'))
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert f"'{shop.name}.click' of [sources.clicks] (did you mean '{shop.name}.clicks'?)" in line


def test_own_topics_of_the_wrong_shape_are_not_usable(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    Admin(shop.properties).create(
        [Topic(f"{shop.name}.own.activity", 3), Topic(f"{shop.name}.own.intent", 3, {"retention.ms": "604800000"})]
    )
    status, out, err = checked(capsys, shop.config())
    assert status == 2
    assert f"topic '{shop.name}.own.activity' must have 4 partitions; it has 3" in err
    assert f"{shop.name}.own.intent" in out  # its readers may have reasons
    assert f"{shop.name}.own.intent" not in err


def test_sessions_in_several_partitions_are_refused_unless_they_are_to_be_repartitioned(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    values: list[bytes | None] = [click(f"s{i // 4}") for i in range(400)]
    shop.send("clicks", values, partitions=[0 if i >= 8 else i % 4 for i in range(400)])
    path = shop.config()
    config = load(path)
    splits = split_sessions(config, config.sources["clicks"])
    assert (splits.sampled, splits.split, splits.share, splits.too_many) == (100, 2, 0.02, True)
    status, out, err = checked(capsys, path)
    assert status == 2
    assert "2.0% of the sessions of [sources.clicks] stand in more than one partition" in err
    assert "2 of 100 sampled sessions (2.00%)" in out
    assert checked(capsys, shop.config(repartition=True))[0] == 0
    shop.send("clicks", [click(f"t{i}") for i in range(100)], partitions=1)
    assert not split_sessions(config, config.sources["clicks"]).too_many  # 1 % is fine
    assert checked(capsys, shop.config())[0] == 0


# ---- the newest messages


@pytest.mark.parametrize("most", [0, 2, 20, 100])
def test_the_newest_messages_are_spread_over_the_partitions(shop: Shop, most: int) -> None:
    sizes = [0, 3, 50, 8]
    shop.send(
        "clicks",
        [b"%d:%d" % (p, i) for p, size in enumerate(sizes) for i in range(size)],
        partitions=[p for p, size in enumerate(sizes) for _ in range(size)],
    )
    found = newest(shop.properties, f"{shop.name}.clicks", most)
    counts = {p.partition: len(messages) for p, messages in found.items()}
    assert counts == {0: {}, 2: {1: 1, 3: 1}, 20: {1: 3, 2: 9, 3: 8}, 100: {1: 3, 2: 50, 3: 8}}[most]
    for partition, messages in found.items():
        size = sizes[partition.partition]
        assert messages.offsets == list(range(size - len(messages), size))
        assert messages.values == [b"%d:%d" % (partition.partition, i) for i in messages.offsets]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 300))
def test_shares_are_even_and_use_what_there_is(sizes: list[int], most: int) -> None:
    shares = _shares(sizes, most)
    assert sum(shares) == min(most, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    assert all(share >= max(shares) - 1 for share, size in zip(shares, sizes, strict=True) if share < size)


# ---- counting and comparing


@dataclass
class Told:
    """Messages that stand nowhere."""

    values: list[bytes | None]
    start: int = 0
    stamps_ms: list[int] = field(init=False)
    offsets: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.offsets = list(range(self.start, self.start + len(self.values)))
        self.stamps_ms = [NOW_MS] * len(self.values)


def config_of(fields: dict[str, str], events: dict[str, str] | None = None, **more: object) -> Config:
    source = {"kind": "clickstream", "topic": "t", "fields": fields, "events": events or {"view": "view", "buy": "purchase"}}
    return parse({"sources": {"s": source | more}, "demand": {"from": "clickstream"}})


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abcdef"), st.sampled_from(["view", "buy", "scroll", None])), max_size=60))
@pytest.mark.parametrize("who", ["session", "user"])
def test_split_sessions_are_those_that_a_set_of_partitions_says(who: str, sent: list[tuple[int, str, str | None]]) -> None:
    config = config_of({"time": "t", "event": "e", who: "w", "item": "i"})
    parts: dict[Partition, list[bytes | None]] = {}
    seen: dict[str, set[int]] = {}
    for partition, name, event in sent:
        parts.setdefault(Partition("t", partition), []).append(json.dumps({"t": NOW_MS, "e": event, "w": name, "i": 1}).encode())
        if event in ("view", "buy"):
            seen.setdefault(name, set()).add(partition)
    # Cut in two: a session that comes again in its own partition is not split.
    sample = {p: [Told(values[:3]), Told(values[3:], 3)] for p, values in parts.items()}
    splits = count_splits(sample, Decoder(config.sources["s"], config.time, Zone("UTC")))
    assert (splits.sampled, splits.split) == (len(seen), sum(len(partitions) > 1 for partitions in seen.values()))


def understood(config: Config, *documents: object) -> Callable[[str], tuple[bool, tuple[str, ...]]]:
    source = config.sources["s"]
    found = understand(source, config.time, Zone("UTC"), [(0, Told([json.dumps(document).encode() for document in documents]))])
    return lambda ours: next((u.there, u.instead) for u in found.unreached if u.field == ours)


@pytest.mark.parametrize(
    ("path", "document", "instead"),
    [
        ("user_session", {"userSession": "a", "other": 1}, ("userSession",)),
        ("session", {"context": {"session": {"id": "a"}, "seen": 4}}, ("context.session.id",)),
        ("ctx.sid", {"context": {"sid": "a"}, "zzz": 4}, ("context.sid",)),
        ("session", {"q": 1, "zz": "a"}, ()),
    ],
)
def test_paths_are_suggested_that_resemble_the_one_that_is_not_there(
    path: str, document: dict[str, object], instead: tuple[str, ...]
) -> None:
    config = config_of({"time": "t", "event": "e", "session": path, "item": "i"})
    there, suggested = understood(config, {"t": NOW_MS, "e": "view", "i": 1} | document)("session")
    assert not there
    assert suggested[:1] == instead


def test_a_field_that_only_some_messages_have_is_no_complaint() -> None:
    config = config_of({"time": "t", "event": "e", "session": "s", "item": "i", "price": "p"})
    whole = {"t": NOW_MS, "e": "view", "s": "a", "i": 1}
    with pytest.raises(StopIteration):
        understood(config, whole, whole | {"p": 3})("price")
    assert understood(config, whole, whole | {"p": None}, whole | {"p": ""})("price") == (True, ())


def test_hostile_messages_are_looked_at_without_harm() -> None:
    config = config_of({"time": "t", "event": "e", "session": "s", "item": "i"})
    deep = b'{"s":' * 50_000 + b"1" + b"}" * 50_000
    values: list[bytes | None] = [
        deep,
        b"[" * 100_000,
        b'{"t":' + b"9" * 10_000 + b"}",
        b"[1]",
        b"null",
        b'{"e": {"a": 1}}',
        b'{"e": NaN, "t": 1e999}',
        b'{"": 1, "a.b": 2}',
    ]
    found = understand(config.sources["s"], config.time, Zone("UTC"), [(3, Told(values))])
    assert (found.messages, found.row_count, found.usable) == (len(values), 0, False)
    assert len(found.refused) == len(values)
    assert {bad.partition for bad in found.refused} == {3}
