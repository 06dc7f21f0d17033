"""Sessions that are spread over partitions, brought together by an internal topic."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from stream.kafka.log import Partition
from tests.runners.harness import BASE, CONFIG, World, config, filled_log

CLICKS: dict[str, Any] = CONFIG["sources"]["clicks"]  # type: ignore[index]
DEMAND = {"from": "clickstream", "totals": [2], "quantiles": [0.1, 0.5, 0.9], "buckets": [{"size": "15m", "horizon": 4}]}


@pytest.mark.parametrize("members", [1, 2])
def test_spread_sessions_are_followed_whole(members: int) -> None:
    settings = config(sources={"clicks": CLICKS | {"repartition": True}}, demand=DEMAND)
    chance = random.Random(3)
    clicks, bought, length = [], set(), dict[str, int]()
    for i in range(400):
        session, event = f"s{chance.randrange(8)}-{i // 100}", chance.choice(["view", "view", "cart", "buy", "scroll"])
        value = json.dumps({"t": BASE + i * 10_000, "e": event, "s": session, "i": "x"}).encode()
        clicks.append((f"spread {i}", value))
        if event != "scroll":
            length[session] = length.get(session, 0) + 1
        if event == "buy":
            bought.add(session)
    clicks.insert(50, ("broken", b"{"))
    world = World(filled_log({"shop.events": clicks}, 3, settings), settings, seed=members, members=members).run()
    ended = [r for values in world.output("intent").values() for v in values if (r := msgspec.json.decode(v or b""))["ended"]]
    assert {r["session"]: r["events"] for r in ended} == length
    assert {r["session"] for r in ended if r["purchased"]} == bought
    observed = [r for values in world.output("demand").values() for v in values if (r := msgspec.json.decode(v or b""))]
    assert sum(r["views"] for r in observed if not r.get("corrects")) > 0
    if members == 1:  # one process merges by time; two know only each other's watermarks
        assert not {name: count for name, count in world.observer.counts.items() if name.startswith("late")}
    assert not world.observer.counts["late:clicks:dropped"]
    letters = world.log.visible(Partition("nowcart.deadletter", 0))
    assert [e.value for e in letters] == [b"{"]
    assert dict(letters[0].headers)["nowcart-topic"] == b"shop.events"
    assert world.observer.counts["events:clicks:ignored"] == sum(1 for _, v in clicks if b"scroll" in v)
