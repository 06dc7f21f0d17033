"""When what is done to whom: drawn from a seed before anything starts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal["ingest", "forecast", "broker", "stop", "disk"]
DECK: tuple[Kind, ...] = ("ingest",) * 4 + ("forecast",) * 4 + ("broker",) * 2
EARLY = 0.2
STOP_EVERY_S = 40.0
DISK_EVERY_S = 60.0
SESSION_TIMEOUT_S = 6.0
TRANSACTION_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is done."""

    at_s: float
    kind: Kind
    """ingest, forecast, broker: kill -9 of one of them; stop: SIGSTOP of a process; disk: none of its files can grow."""
    pick: float
    """[0, 1): which of those that it can be done to."""
    pause_s: float
    """Until it is started again, goes on, can write again."""
    early: bool
    """Whether a process that has only just started, and does not work on its partitions yet, will do."""

    @property
    def kills(self) -> bool:
        """Whether it is a kill -9."""
        return self.kind in ("ingest", "forecast", "broker")


def draw(seed: int, seconds: float, every_s: float) -> list[Fault]:
    """The faults of a run, in order.

    Args:
        seed: the same gives the same.
        seconds: how long it goes on.
        every_s: mean time between two kills.
    """
    chance = random.Random(seed)
    faults: list[Fault] = []
    deck: list[Kind] = []
    at = chance.expovariate(1 / every_s)
    while at < seconds:
        if not deck:  # a deck, so that a short run has some of each
            deck = chance.sample(DECK, len(DECK))
        kind = deck.pop()
        faults.append(Fault(at, kind, chance.random(), _pause(chance, kind), chance.random() < EARLY))
        at += chance.expovariate(1 / every_s)
    others: tuple[tuple[Kind, float], ...] = (("stop", STOP_EVERY_S), ("disk", DISK_EVERY_S))
    for kind, mean in others:
        at = chance.uniform(0, min(mean, seconds) / 2)
        while at < seconds:
            faults.append(Fault(at, kind, chance.random(), _pause(chance, kind), chance.random() < EARLY))
            at += chance.expovariate(1 / mean)
    return sorted(faults, key=lambda fault: fault.at_s)


def _pause(chance: random.Random, kind: Kind) -> float:
    if kind == "broker":
        return chance.uniform(0.5, 8.0)
    if kind == "stop":  # past the session's timeout, and half of the time past the transaction's too
        return chance.uniform(SESSION_TIMEOUT_S + 1, TRANSACTION_TIMEOUT_S + 4)
    if kind == "disk":
        return chance.uniform(3.0, 10.0)
    return chance.uniform(SESSION_TIMEOUT_S + 1, TRANSACTION_TIMEOUT_S + 2) if chance.random() < 0.15 else chance.uniform(0.0, 3.0)
