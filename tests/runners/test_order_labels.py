"""Orders of another topic as outcomes of sessions: through the internal topic, whoever runs the engine and however it is cut."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from tests.runners.harness import BASE, CONFIG, World, config, filled_log

CLICKS: dict[str, Any] = CONFIG["sources"]["clicks"]  # type: ignore[index]
ORDERS = {"kind": "orders", "topic": "shop.orders", "fields": {"time": "at", "item": "sku", "quantity": "n", "session": "sid"}}
DEMAND = {"from": "orders", "totals": [2], "quantiles": [0.1, 0.5, 0.9], "buckets": [{"size": "15m", "horizon": 4}]}


@pytest.mark.parametrize("members", [1, 2])
def test_sessions_buy_by_orders_that_come_minutes_later(members: int) -> None:
    settings = config(sources={"clicks": CLICKS, "orders": ORDERS}, demand=DEMAND, intent={"label": "orders"})
    assert settings.sources["clicks"].repartition
    chance = random.Random(4)
    clicks, orders, length, bought = [], [], dict[str, int](), set()
    for i in range(300):
        session, at = f"s{chance.randrange(12)}-{i // 100}", BASE + i * 12_000
        clicks.append((session, json.dumps({"t": at, "e": "view", "s": session, "i": "x"}).encode()))
        length[session] = length.get(session, 0) + 1
        if chance.random() < 0.04:
            bought.add(session)
            for _ in range(2):  # two lines, one order
                orders.append((f"o{i}", json.dumps({"at": at + 90_000, "sku": "x", "n": 1, "sid": session}).encode()))
        elif chance.random() < 0.02:
            orders.append((f"o{i}", json.dumps({"at": at + 90_000, "sku": "x", "n": -1, "sid": session}).encode()))  # a return is no sale
    world = World(filled_log({"shop.events": clicks, "shop.orders": orders}, 2, settings), settings, seed=members, members=members).run()
    records = [r for values in world.output("intent").values() for v in values if (r := msgspec.json.decode(v or b""))]
    assert {r["session"]: r["events"] for r in records if r["ended"]} == length
    assert {r["session"] for r in records if r["purchased"]} == bought
    assert len(bought) > 5
    demand = [r for values in world.output("demand").values() for v in values if (r := msgspec.json.decode(v or b""))]
    assert sum(r["orders"] for r in demand if not r.get("corrects")) > 0  # the same orders are demand as well
