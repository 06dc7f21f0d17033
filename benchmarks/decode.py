"""How fast one core turns a clickstream's bytes into columns, in its own CPU time: `python benchmarks/decode.py [MESSAGES]`; no Kafka involved."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from stream.config import Source, Time
from stream.engine.time import Zone
from stream.mapping import Decoder

BATCH = 20_000
EVENTS = {"view": "view", "addtocart": "cart", "transaction": "purchase"}
FIELDS: dict[str, str | tuple[str, ...]] = {
    "time": "ts",
    "event": "event",
    "session": "session",
    "user": "user",
    "item": "item",
    "price": "price",
    "quantity": "qty",
}


@dataclass
class Batch:
    """Messages without a broker."""

    offsets: list[int]
    stamps_ms: list[int]
    values: list[bytes | None]


def clicks(messages: int, stamp: Callable[[int], object]) -> list[Batch]:
    """A shop's clicks, about 150 bytes each."""
    shop = random.Random(1)
    sessions = [f"{shop.getrandbits(64):016x}" for _ in range(messages // 20 + 1)]
    batches = []
    for start in range(0, messages, BATCH):
        offsets = list(range(start, min(start + BATCH, messages)))
        values: list[bytes | None] = []
        for offset in offsets:
            click = {
                "ts": stamp(1_569_888_000_000 + offset),
                "event": shop.choice(("view", "view", "view", "addtocart", "transaction")),
                "session": shop.choice(sessions),
                "user": shop.randrange(5 * 10**8, 6 * 10**8),
                "item": f"item-{shop.randrange(10_000)}",
                "price": round(shop.random() * 1_000, 2),
                "qty": 1,
                "agent": "shop-app/7.1",
            }
            values.append(json.dumps(click, separators=(",", ":")).encode())
        batches.append(Batch(offsets, [1_569_888_000_000 + offset for offset in offsets], values))
    return batches


def iso(time_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time_ms // 1000)) + f".{time_ms % 1000:03d}Z"


def measure(name: str, batches: list[Batch], break_every: int = 0) -> None:
    if break_every:
        for batch in batches:
            batch.values[::break_every] = [b'{"ts":'] * len(batch.values[::break_every])
    decoder = Decoder(Source("clicks", "clickstream", "clicks", FIELDS, events=EVENTS), Time(), Zone("Europe/London"))
    total = sum(len(batch.values) for batch in batches)
    size = sum(len(value or b"") for batch in batches for value in batch.values) / total
    start = time.process_time()
    rows = sum(len(decoder.decode(batch).rows) for batch in batches)
    seconds = time.process_time() - start
    print(f"{name:32} {total / seconds:12,.0f} messages/s   {rows:,} rows of {total:,} messages, {size:.0f} bytes each")


def main() -> None:
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    measure("numeric times", clicks(messages, lambda at: at))
    measure("RFC 3339 times", clicks(messages // 4, iso))
    measure("times without a zone", clicks(messages // 4, lambda at: iso(at)[:19].replace("T", " ")))
    measure("one message in 1,000 broken", clicks(messages // 4, lambda at: at), break_every=1_000)
    measure("one message in 100 broken", clicks(messages // 4, lambda at: at), break_every=100)


if __name__ == "__main__":
    main()
