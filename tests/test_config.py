"""What users may say, and the one message that they get where it cannot be used."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from stream import serving
from stream.config import Bucket, Config, ConfigError, Demand, Models, Source, Time, UserError, load, parse
from stream.engine.time import DAY_MS, HOUR_MS, Zone
from stream.mapping import Decoder

EXAMPLES = Path(__file__).parent.parent / "examples"

CLICKS = """
[sources.clicks]
kind = "clickstream"
topic = "shop.events"
[sources.clicks.fields]
time = "event_time"
event = "event_type"
session = "user_session"
item = "product_id"
[sources.clicks.events]
view = "view"
purchase = "purchase"
[demand]
from = "clickstream"
"""

ORDERS = """
[sources.orders]
kind = "orders"
topic = "shop.orders"
fields = { time = "t", item = "i", quantity = "q" }
"""


def configured(text: str) -> Config:
    return parse(tomllib.loads(text))


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        configured(text)
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_clickstream_alone_is_enough() -> None:
    config = configured(CLICKS)
    source = config.sources["clicks"]
    assert (source.name, source.kind, source.topic, source.format, source.time_unit) == (
        "clicks",
        "clickstream",
        "shop.events",
        "json",
        "ms",
    )
    assert source.fields == {"time": "event_time", "event": "event_type", "session": "user_session", "item": "product_id"}
    assert source.events == {"view": "view", "purchase": "purchase"}
    assert config.demand.source == "clickstream"
    assert config.time == Time()
    assert config.models == Models()
    assert config.output.topic("demand") == "nowcart.demand"


def test_everything_can_be_said() -> None:
    config = configured(
        """
        [kafka]
        bootstrap_servers = "a:1,b:2"
        security.protocol = "SSL"
        "ssl.ca.location" = "/ca.pem"
        socket_timeout_ms = 5000
        enable_ssl_certificate_verification = false
        [time]
        zone = "Europe/London"
        out_of_orderness = "1m"
        allowed_lateness = "3h"
        max_lead = "7d"
        max_future = "0s"
        idle_after = "250ms"
        [sources.orders]
        kind = "orders"
        topic = "shop.orders"
        format = "json"
        time_unit = "ns"
        lines = "basket.items"
        max_message_bytes = 1000
        fields = { time = "t", item = ["store", "basket.items.sku"], quantity = "basket.items.n", cancelled = "void" }
        [demand]
        from = "orders"
        totals = [3]
        quantiles = [0.1, 0.5, 0.9]
        forget_after = "30d"
        max_items = 10
        [[demand.buckets]]
        size = "5m"
        horizon = 12
        history = 300
        seasons = [12, 288]
        [[demand.buckets]]
        size = "1w"
        horizon = 4
        [intent]
        session_gap = "5m"
        publish = "every_event"
        publish_delta = 0.5
        thresholds = [0.2, 0.8]
        max_sessions = 7
        [models]
        river_items = 0
        [activity]
        partitions = 2
        [output]
        prefix = "shop.nowcart-"
        partitions = 8
        [state]
        url = "s3://bucket/state"
        [metrics]
        host = "0.0.0.0"
        port = 0
        [device]
        name = "cuda:1"
        """
    )
    assert config.kafka == {
        "bootstrap.servers": "a:1,b:2",
        "security.protocol": "SSL",
        "ssl.ca.location": "/ca.pem",
        "socket.timeout.ms": 5000,
        "enable.ssl.certificate.verification": False,
    }
    assert config.time == Time("Europe/London", 60_000, 3 * HOUR_MS, 7 * DAY_MS, 0, 250)
    source = config.sources["orders"]
    assert source.fields["item"] == ("store", "basket.items.sku")
    assert (source.lines, source.max_message_bytes, source.time_unit) == ("basket.items", 1000, "ns")
    assert config.demand == Demand(
        source="orders",
        totals=(3,),
        quantiles=(0.1, 0.5, 0.9),
        buckets=(Bucket("5m", 300_000, 12, (12, 288), 300), Bucket("1w", 7 * DAY_MS, 4, (), 28)),
        forget_after_ms=30 * DAY_MS,
        max_items=10,
    )
    assert config.intent.session_gap_ms == 300_000
    assert (config.intent.publish, config.intent.publish_delta, config.intent.thresholds) == ("every_event", 0.5, (0.2, 0.8))
    assert config.intent.max_sessions == 7
    assert config.models.river_items == 0
    assert (config.activity.partitions, config.output.partitions) == (2, 8)
    assert config.output.topic("intent") == "shop.nowcart-intent"
    assert (config.state.url, config.metrics.host, config.metrics.port) == ("s3://bucket/state", "0.0.0.0", 0)
    assert config.device.name == "cuda:1"


def test_history_reaches_two_seasons_and_two_horizons_back() -> None:
    assert [bucket.history for bucket in Demand().buckets] == [336, 28]
    assert Bucket("1h", HOUR_MS, 48).history == 96


def test_totals_that_are_not_asked_for_give_way_to_a_short_horizon() -> None:
    short = ORDERS + '[[demand.buckets]]\nsize = "1d"\nhorizon = 7\n'
    assert configured(short).demand.totals == (7,)
    assert "demand.totals" in refusal("[demand]\ntotals = [7, 8]\n" + short)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # unknown keys, with what comes near
        (CLICKS + "[tme]\n", ["unknown key tme", "allowed here are kafka, time,", "did you mean time?"]),
        (CLICKS + '[time]\nout_of_order = "1s"\n', ["unknown key time.out_of_order", "did you mean time.out_of_orderness?"]),
        (CLICKS.replace("topic =", "topik ="), ["unknown key sources.clicks.topik", "did you mean sources.clicks.topic?"]),
        (CLICKS.replace("item =", "items ="), ["unknown key sources.clicks.fields.items", "did you mean sources.clicks.fields.item?"]),
        (ORDERS + '[[demand.buckets]]\nsize = "1d"\nhorizont = 3\n', ["demand.buckets[0].horizont", "demand.buckets[0].horizon?"]),
        (ORDERS + '[output]\n"pre fix" = "x"\n', ['unknown key output."pre fix"', "did you mean output.prefix?"]),
        (ORDERS + "[models]\nzzz = 1\n", ["unknown key models.zzz", "allowed here are river_items"]),
        # wrong types
        (ORDERS + "[time]\nzone = 5\n", ["time.zone must be text; got 5"]),
        (ORDERS + "[time]\nmax_lead = 5\n", ["time.max_lead must be text; got 5"]),
        (ORDERS + "[metrics]\nport = true\n", ["metrics.port must be a whole number; got true"]),
        (ORDERS + '[metrics]\nport = "80"\n', ['metrics.port must be a whole number; got the text "80"']),
        (ORDERS + "[metrics]\nport = 65536\n", ["metrics.port must be from 0 to 65535; got 65536"]),
        (ORDERS + "[demand]\nquantiles = 0.5\n", ["demand.quantiles must be an array; got 0.5"]),
        (ORDERS + "[intent]\nthresholds = [true]\n", ["intent.thresholds must be a number; got true"]),
        ("sources = 3\n", ["sources must be a table; got 3"]),
        ("[sources]\nclicks = 3\n", ["sources.clicks must be a table; got 3"]),
        (CLICKS + "[kafka]\nx = [1]\n", ["kafka.x must be text, a number, or true or false; got an array"]),
        (ORDERS + "[demand]\nbuckets = [1]\n", ["demand.buckets[0] must be a table; got 1"]),
        (ORDERS.replace('"q"', '["q", "r"]'), ["sources.orders.fields.quantity must be a path", "got an array"]),
        (ORDERS.replace('"i"', '["q", 5]'), ["sources.orders.fields.item must be a path or an array of paths; got 5"]),
        (ORDERS.replace('"i"', "[]"), ["sources.orders.fields.item must be a path or an array of paths"]),
        (ORDERS.replace('"i"', '"a..b"'), ["sources.orders.fields.item must be a path", 'got "a..b"']),
        # values
        (ORDERS + '[time]\nidle_after = "30"\n', ["time.idle_after", 'such as "30s"', 'got "30"']),
        (ORDERS + '[time]\nzone = "Europe/Lodnon"\n', ["time.zone", 'did you mean "Europe/London"?']),
        (ORDERS + '[demand]\nfrom = "order"\n', ["demand.from must be one of orders, clickstream", 'did you mean "orders"?']),
        (ORDERS + "[demand]\nquantiles = [0.5, 0.1]\n", ["demand.quantiles must ascend without repeats; got [0.5, 0.1]"]),
        (ORDERS + "[demand]\nquantiles = [0.5, 0.5]\n", ["demand.quantiles must ascend"]),
        (ORDERS + "[demand]\nquantiles = [0, 0.5]\n", ["demand.quantiles must be between 0 and 1"]),
        (ORDERS + "[demand]\nquantiles = []\n", ["demand.quantiles must name at least one"]),
        (ORDERS + "[demand]\nbuckets = []\n", ["demand.buckets must have at least one"]),
        (ORDERS + '[[demand.buckets]]\nsize = "2h"\nhorizon = 1\n', ["demand.buckets[0].size must be one of 1m, 5m, 15m, 1h, 1d, 1w"]),
        (ORDERS + '[[demand.buckets]]\nsize = "1h"\n', ["demand.buckets[0].horizon is missing"]),
        (ORDERS + '[[demand.buckets]]\nsize = "1h"\nhorizon = 0\n', ["demand.buckets[0].horizon must be from 1"]),
        (ORDERS + '[[demand.buckets]]\nsize = "1h"\nhorizon = 24\nseasons = [7, 7]\n', ["demand.buckets[0].seasons must ascend"]),
        (
            ORDERS + '[[demand.buckets]]\nsize = "1h"\nhorizon = 2\nseasons = [24]\nhistory = 24\n',
            ["demand.buckets[0].history must be from 25"],
        ),
        (
            ORDERS + '[[demand.buckets]]\nsize = "1d"\nhorizon = 7\n[[demand.buckets]]\nsize = "1h"\nhorizon = 7\n',
            ["demand.buckets must ascend by size", "1d, 1h"],
        ),
        (ORDERS + '[demand]\nforget_after = "3h"\n', ["demand.forget_after must be at least time.allowed_lateness + time.max_lead"]),
        (ORDERS + "[intent]\npublish_delta = 1\n", ["intent.publish_delta must be between 0 and 1"]),
        (
            ORDERS + '[intent]\npublish = "on_chang"\n',
            ["intent.publish must be one of every_event, on_change", 'did you mean "on_change"?'],
        ),
        (ORDERS + '[device]\nname = "gpu"\n', ["device.name must be one of auto, cpu, cuda, cuda:N"]),
        (ORDERS + '[output]\nprefix = "a b"\n', ["output.prefix must be the beginning of a topic's name"]),
        (ORDERS.replace("shop.orders", "shop orders"), ["sources.orders.topic must be a topic's name"]),
        (ORDERS.replace("sources.orders", 'sources."my shop"'), ["a source's name", 'sources."my shop"']),
        # what a kind needs
        ("", ["sources is missing"]),
        (ORDERS.replace('kind = "orders"', ""), ["sources.orders.kind is missing"]),
        (ORDERS.replace('kind = "orders"', 'kind = "order"'), ["sources.orders.kind must be one of", 'did you mean "orders"?']),
        (ORDERS.replace('topic = "shop.orders"', ""), ["sources.orders.topic is missing"]),
        (ORDERS.replace(', quantity = "q"', ""), ["sources.orders.fields.quantity is missing", "needs time, item, quantity"]),
        (CLICKS.replace('session = "user_session"', ""), ["sources.clicks.fields.session is missing", "session, or user"]),
        (CLICKS[: CLICKS.index("[sources.clicks.events]")], ["sources.clicks.events is missing"]),
        (
            CLICKS.replace('view = "view"', 'cart = "addtocart"'),
            ["sources.clicks.events.cart must be one of", "theirs = ours", 'addtocart = "cart"'],
        ),
        (CLICKS.replace('purchase = "purchase"', ""), ['demand.from = "clickstream" needs purchases', "sources.clicks.events"]),
        (
            CLICKS.replace('from = "clickstream"', ""),
            ['demand.from = "orders" needs', 'or set demand.from = "clickstream"'],
        ),
        (ORDERS + '[demand]\nfrom = "clickstream"\n', ['demand.from = "clickstream" needs', 'or set demand.from = "orders"']),
        (CLICKS.replace("[sources.clicks.fields]", 'lines = "x"\n[sources.clicks.fields]'), ["sources.clicks.lines is for", '"orders"']),
        (ORDERS + '[sources.orders.events]\na = "view"\n', ["sources.orders.events is for", '"clickstream"']),
        (ORDERS.replace("topic =", 'format = "avro"\ntopic ='), ['sources.orders.format = "avro" is not supported yet: "json" is']),
        (ORDERS.replace("topic =", 'format = "protobuf"\ntopic ='), ["not supported yet"]),
        (ORDERS.replace("topic =", 'format = "xml"\ntopic ='), ["sources.orders.format must be one of json, avro, protobuf"]),
        # what does not go together
        (ORDERS.replace('"q"', '"i.q"'), ['sources.orders.fields.item = "i" cannot be a value', '"i.q"']),
        (ORDERS.replace("topic =", 'lines = "i"\ntopic ='), ['"i" cannot be a value when the lines stands at "i"']),
        (ORDERS + ORDERS.replace("sources.orders", "sources.more"), ["sources.more.topic must differ", "as sources.orders.topic"]),
        (ORDERS.replace("shop.orders", "nowcart.activity"), ["sources.orders.topic must not be one of nowcart's own topics"]),
        (ORDERS + "[kafka]\nenable_auto_commit = true\n", ["kafka.enable_auto_commit is nowcart's own to set"]),
        (ORDERS + '[kafka]\ntransactional.id = "x"\n', ["kafka.transactional.id is nowcart's own to set"]),
    ],
)
def test_what_cannot_be_used_is_named(text: str, said: list[str]) -> None:
    message = refusal(text)
    for part in said:
        assert part in message


def test_the_environment_is_read(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(
        '[kafka]\n"sasl.password" = "a${SECRET}${SECRET}z"\n' + ORDERS.replace("shop.orders", "${SHOP}.orders"), encoding="utf-8"
    )
    config = load(path, {"SECRET": "$1", "SHOP": "uk"})
    assert config.kafka["sasl.password"] == "a$1$1z"
    assert config.sources["orders"].topic == "uk.orders"
    with pytest.raises(ConfigError, match=r"sources\.orders\.topic reads the environment variable SHOP, which is not set"):
        load(path, {"SECRET": ""})


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"[kafka\n", "is not TOML"), (b'a = "\xff"', "must be UTF-8"), (b"a = 1\na = 2\n", "is not TOML")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "shop.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        load(path, {})
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigError):
        load(tmp_path, {})


SHAPING = [
    ("time", "zone", "Europe/London"),
    ("time", "out_of_orderness", "31s"),
    ("time", "allowed_lateness", "1h"),
    ("time", "max_lead", "1h"),
    ("time", "max_future", "1h"),
    ("demand", "totals", [7]),
    ("demand", "quantiles", [0.5]),
    ("demand", "buckets", [{"size": "1d", "horizon": 14, "seasons": [7], "history": 29}]),
    ("demand", "forget_after", "29d"),
    ("demand", "max_items", 5),
    ("intent", "session_gap", "29m"),
    ("intent", "publish_delta", 0.02),
    ("models", "river_items", 5),
    ("activity", "partitions", 5),
]
FREE = [
    ("time", "idle_after", "31s"),
    ("kafka", "bootstrap_servers", "elsewhere:9092"),
    ("output", "prefix", "mine."),
    ("state", "url", "file:/elsewhere"),
    ("state", "snapshot_interval", "5s"),
    ("state", "keep", 9),
    ("metrics", "port", 1),
    ("device", "name", "cpu"),
]


@pytest.mark.parametrize(("section", "key", "value", "shapes"), [(*one, True) for one in SHAPING] + [(*one, False) for one in FREE])
def test_the_checksum_tells_what_shapes_state_from_what_does_not(section: str, key: str, value: Any, shapes: bool) -> None:
    values = tomllib.loads(CLICKS + "[[demand.buckets]]\nsize = '1d'\nhorizon = 14\nseasons = [7]\n")
    changed = copy.deepcopy(values)
    changed.setdefault(section, {})[key] = value
    assert (parse(values).checksum() != parse(changed).checksum()) == shapes


def test_the_checksum_sees_mappings_and_not_how_the_file_is_written() -> None:
    values = tomllib.loads(CLICKS)
    turned = {key: values[key] for key in reversed(values)}
    turned["sources"] = {"clicks": {key: values["sources"]["clicks"][key] for key in reversed(values["sources"]["clicks"])}}
    turned["time"] = {"max_lead": "120m"}
    assert parse(turned).checksum() == parse(values).checksum()
    for old, new in (('"product_id"', '"sku"'), ('view = "view"', 'view = "other"'), ("shop.events", "shop.clicks")):
        assert configured(CLICKS.replace(old, new)).checksum() != parse(values).checksum()
    # A checksum stands in snapshots: one that changes without a reason makes them useless.
    assert configured(CLICKS).checksum() == configured(CLICKS).checksum()
    assert Config(sources=parse(values).sources, demand=Demand(source="clickstream")).checksum() == parse(values).checksum()


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        configured(CLICKS).time.zone = "Europe/London"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["online_retail", "rees46", "newcomer"])
def test_the_examples_can_be_used(name: str) -> None:
    config = load(EXAMPLES / f"{name}.toml", {})
    for source in config.sources.values():
        Decoder(source, config.time, Zone(config.time.zone))


def test_the_newcomers_example_explains_every_key_with_its_default(tmp_path: Path) -> None:
    text = (EXAMPLES / "newcomer.toml").read_text(encoding="utf-8")
    lines = []
    example = False  # of a table that may stand there any number of times, by default none
    text, _, access = text.partition("# [[serve.keys]]")  # whoever may ask is nobody by default
    assert "[serve.jwt]" in access
    for line in text.splitlines():
        bare = line.removeprefix("# ")
        example = line != "" and (example or bare.startswith("[[alerts."))
        # A commented key or table, not prose and not a secret's example.
        if (
            line.startswith("# ")
            and not example
            and (" = " in bare.split("#")[0] or bare.startswith("[sources."))
            and not bare.startswith(("Then", "security", "sasl", '"sasl', 'url = "http', "authorization"))
        ):
            line = bare
        lines.append(line)
    path = tmp_path / "all.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    config = load(path, {})
    assert {source.kind for source in config.sources.values()} == {"clickstream", "orders", "offers", "reviews", "signals"}
    plain = Config(sources=config.sources, kafka=config.kafka)
    assert config == plain
    written = tomllib.loads(path.read_text(encoding="utf-8"))
    written["alerts"] |= {"webhooks": [], "silences": []}
    for section in ("time", "demand", "intent", "models", "activity", "output", "state", "alerts", "metrics", "device"):
        unknown = copy.deepcopy(written)
        unknown[section]["zzz"] = 1
        with pytest.raises(ConfigError) as caught:
            parse(unknown)
        allowed = str(caught.value).split("allowed here are ")[1].split("; did")[0].split(", ")
        assert sorted(written[section]) == sorted(allowed)
    assert {*written["serve"], "keys", "jwt"} == set(serving.KEYS)


def test_other_code_can_make_a_source_by_hand() -> None:
    source = Source("c", "clickstream", "t", {"time": "t", "event": "e", "user": "u", "item": "i"}, events={"v": "view"})
    assert (source.format, source.lines, source.repartition, source.max_message_bytes) == ("json", None, False, 1_048_576)
