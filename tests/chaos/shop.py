"""A small shop's traffic, known beforehand, and the configuration that reads it."""

from __future__ import annotations

import json
import random
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from stream.kafka.sender import Sender

MINUTE_MS = 60_000
START_MS = 1_700_006_400_000
"""A whole hour, in UTC."""
CLICKS, ORDERS = "shop.clicks", "shop.orders"
PARTITIONS = 4
MINUTES_A_SECOND = 5
"""How fast event time goes: a session of some twenty minutes lives for four seconds, long enough to be hit."""
TICK_S = 0.05


class Sent(NamedTuple):
    """One message of the shop."""

    topic: str
    key: bytes
    value: bytes


ASSIGNMENTS: dict[str, dict[str, Any]] = {
    "range": {"session_timeout_ms": 6000},
    "cooperative-sticky": {"session_timeout_ms": 6000, "partition_assignment_strategy": "cooperative-sticky"},
    "kip848": {"group_protocol": "consumer"},  # sessions time out when the broker says so
}
"""How the groups share their partitions."""


def configuration(servers: str, prefix: str, state: Path, assignment: str = "range") -> dict[str, Any]:
    """What a configuration file says.

    Args:
        servers: bootstrap servers.
        prefix: of all that this run writes.
        state: where its state goes.
        assignment: one of ASSIGNMENTS.
    """
    clicks = {
        "kind": "clickstream",
        "topic": CLICKS,
        "fields": {"time": "t", "event": "e", "session": "s", "item": "i", "price": "p", "user": "u"},
        "events": {"view": "view", "cart": "cart", "buy": "purchase"},
    }
    orders = {
        "kind": "orders",
        "topic": ORDERS,
        "lines": "lines",
        "fields": {"time": "at", "item": "lines.sku", "quantity": "lines.n", "price": "lines.each", "order": "id"},
    }
    return {
        "kafka": {"bootstrap_servers": servers, **ASSIGNMENTS[assignment]},
        # Idleness is decided by the wall clock, so two runs of one log may differ in it: it is off.
        "time": {"out_of_orderness": "30s", "allowed_lateness": "1h", "max_lead": "1h", "idle_after": "1000d"},
        "sources": {"clicks": clicks, "orders": orders},
        "demand": {
            "totals": [2],
            "quantiles": [0.1, 0.5, 0.9],
            "buckets": [{"size": "15m", "horizon": 4, "seasons": [4]}, {"size": "1h", "horizon": 3, "seasons": [24]}],
        },
        "models": {"river_items": 20},
        "output": {"prefix": prefix, "partitions": PARTITIONS},
        "state": {"url": f"file:{state}"},
        "metrics": {"port": 0},
    }


def traffic(seed: int, count: int, minutes: float, items: int = 200) -> list[Sent]:
    """The shop's messages in order of arrival: some late, some too late, some that nobody can read.

    Args:
        seed: the same gives the same bytes.
        count: messages.
        minutes: of event time that they spread over.
        items: articles, some sold far more often than others.
    """
    chance = random.Random(seed)
    weights = [1 / (rank + 3) for rank in range(items)]
    popular = chance.choices(range(items), weights, k=50_000)
    made: list[tuple[int, int, Sent]] = []
    number = 0
    while len(made) < count:
        at = START_MS + int(chance.random() * minutes * MINUTE_MS)
        name = f"s{number}"
        for _ in range(chance.randrange(1, 9)):
            event = chance.choices(["view", "cart", "buy", "scroll"], [8, 2, 1, 1])[0]
            click = {
                "t": at,
                "e": event,
                "s": name,
                "i": chance.choice(popular),
                "p": chance.choice([1.5, "2.25", None]),
                "u": f"u{number % 997}",
            }
            made.append((_arrival(chance, at), len(made), Sent(CLICKS, name.encode(), _spoilt(chance, click))))
            at += chance.randrange(1, 5 * MINUTE_MS)
        if chance.random() < 0.7:
            lines = [
                {"sku": chance.choice(popular), "n": chance.choice([1, 1, 2, 3, -1]), "each": 9.95} for _ in range(chance.randrange(1, 4))
            ]
            order = {"id": f"o{number}", "at": at, "lines": lines}
            made.append((_arrival(chance, at), len(made), Sent(ORDERS, f"o{number}".encode(), _spoilt(chance, order))))
        number += 1
    return [message for _, _, message in sorted(made)[:count]]


def _arrival(chance: random.Random, at: int) -> int:
    how = chance.random()
    if how < 0.004:
        return at + chance.randrange(70, 120) * MINUTE_MS  # later than allowed
    if how < 0.03:
        return at + chance.randrange(45 * MINUTE_MS)
    return at + chance.randrange(15_000)


def _spoilt(chance: random.Random, message: dict[str, Any]) -> bytes:
    good = json.dumps(message).encode()
    if chance.random() >= 0.01:
        return good
    return chance.choice(
        [
            b"",
            b"{",
            good[:-9],
            b"[]",
            b'{"t":"x","at":"x","e":"view","s":"a","i":"b","lines":[{"sku":1,"n":1}]}',
            b'{"e":"view","lines":[]}',
        ]
    )


class Feeder:
    """Sends the messages at a steady rate from a thread of its own; every one is acknowledged by all in-sync replicas.

    Args:
        servers: bootstrap servers.
        messages: in this order, by key to the partitions.
        rate: messages a second.
        clock: seconds; stands still when the shop shall.
    """

    def __init__(self, servers: str, messages: list[Sent], rate: float, clock: Callable[[], float]) -> None:
        self._sender = Sender({"bootstrap.servers": servers, "acks": "all"})
        self.messages, self.rate, self._clock = messages, rate, clock
        self.sent = 0
        self.failure: Exception | None = None
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    def send(self, count: int) -> None:
        """Sends the next messages at once and waits until they are acknowledged.

        Args:
            count: messages.
        """
        self._hand_over(self.sent + count)
        self._sender.flush()

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it has sent everything, or failed."""
        return not self._thread.is_alive()

    def finish(self, timeout_s: float) -> None:
        """Returns when every message is acknowledged.

        Args:
            timeout_s: seconds to wait.

        Raises:
            LogError: one could not be delivered.
        """
        self._thread.join(timeout_s)
        if self.failure is not None:
            raise self.failure
        if self._thread.is_alive():
            raise TimeoutError(f"the shop sent {self.sent} of {len(self.messages)} messages within {timeout_s:g} s")
        self._sender.flush(timeout_s)

    def stop(self) -> None:
        """Sends no more."""
        self._halt.set()

    def _run(self) -> None:
        try:
            began, first = self._clock(), self.sent
            while self.sent < len(self.messages) and not self._halt.wait(TICK_S):
                self._hand_over(first + int((self._clock() - began) * self.rate))
        except Exception as failure:  # noqa: BLE001 - raised by finish()
            self.failure = failure

    def _hand_over(self, stop: int) -> None:
        stop = min(stop, len(self.messages))
        by_topic: dict[str, list[Sent]] = defaultdict(list)
        for message in self.messages[self.sent : stop]:
            by_topic[message.topic].append(message)
        for topic, some in by_topic.items():
            self._sender.send(topic, [m.value for m in some], [m.key for m in some])
        self.sent = stop
