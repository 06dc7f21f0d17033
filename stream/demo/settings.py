"""How the demo is set up: the simulated shop's configuration with minutes to watch, and topics that a broker in memory can hold."""

from __future__ import annotations

import tomllib

from stream.config import Config, parse
from stream.kafka.admin import Topic
from stream.kafka.resting import REST
from stream.simulate import TOPICS, ShopSpec, demo_spec
from stream.simulate.mapping import sources
from stream.topics import own_topics

MINUTE_MS = 60_000

_CONFIG = """
[time]
zone = "Europe/London"
out_of_orderness = "8s"        # the shop's own jitter; what is later corrects
allowed_lateness = "15m"
max_lead = "10m"
max_future = "5m"
idle_after = "5s"

[demand]
from = "orders"
totals = [7, 14]

[[demand.buckets]]
size = "1m"
horizon = 30
seasons = [30]

[[demand.buckets]]
size = "1h"
horizon = 24
seasons = [24]

[intent]
session_gap = "10m"            # so that sessions end, and teach, while somebody watches

[models]
river_items = 100

[activity]
partitions = 1

[output]
partitions = 2

[device]
name = "cpu"
"""

SHOP_PARTITIONS = {"clicks": 2, "orders": 1, "offers": 1}

_MEBIBYTE = 1024 * 1024
_KEEP_BYTES = {"activity": 16 * _MEBIBYTE, "intent": 8 * _MEBIBYTE, "demand": 16 * _MEBIBYTE, "spikes": _MEBIBYTE, "deadletter": _MEBIBYTE}
_KEEP_BYTES |= {"alerts": _MEBIBYTE, "alerts.state": _MEBIBYTE, "models": _MEBIBYTE}
_KEEP_SHOP_BYTES = {"clicks": 16 * _MEBIBYTE, "orders": 8 * _MEBIBYTE, "offers": 4 * _MEBIBYTE}


def demo_config(bootstrap_servers: str, prefix: str = "nowcart.") -> Config:
    """The demo's configuration.

    Args:
        bootstrap_servers: of the broker.
        prefix: of nowcart's topics.
    """
    values = tomllib.loads(_CONFIG)
    values["kafka"] = {"bootstrap_servers": bootstrap_servers, REST: 50}
    values["sources"] = sources()
    values["output"]["prefix"] = prefix
    return parse(values)


def demo_topics(config: Config) -> list[Topic]:
    """Every topic of the demo, the shop's and nowcart's.

    Args:
        config: of demo_config().
    """
    shop = [Topic(TOPICS[name], SHOP_PARTITIONS[name], {"retention.bytes": str(size)}) for name, size in _KEEP_SHOP_BYTES.items()]
    return shop + own_topics(config, _KEEP_BYTES)


def demo_shop(items: int, rate: float, seed: int, now_ms: int) -> ShopSpec:
    """A shop that opened some time ago, so that it is busy now and has a past to learn from.

    Args:
        items: of the shop.
        rate: clickstream events a second.
        seed: the same one gives the same shop.
        now_ms: epoch milliseconds.

    Raises:
        ValueError: no shop can be so.
    """
    return demo_spec(items=items, conversion=_CONVERSION, rate=rate, seed=seed, start_ms=now_ms - history_ms(rate))


_CONVERSION = 0.16
"""A shop's dream; but minutes are short, and there is to be something to forecast in each."""
_HISTORY_MS = 30 * MINUTE_MS
_HISTORY_EVENTS = 400_000


def history_ms(rate: float) -> int:
    """How long before now the shop opened: three quarters of an hour, less for a rate that would take long to catch up with.

    Args:
        rate: clickstream events a second.
    """
    return int(max(2 * MINUTE_MS, min(_HISTORY_MS, _HISTORY_EVENTS / rate * 1000)))
