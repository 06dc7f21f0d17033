"""The simulator of failure: both stages over the log in memory, and a seed that says what goes wrong, when and to whom.

    python -m tests.runners.schedules --count 2000            # seeds 0 … 1999
    python -m tests.runners.schedules --seed 1234 --verbose   # one of them again, step by step

A schedule draws a shop, a number of members, and then, turn by turn: crashes before, in and after a commit, transactions that are
aborted or whose end is not known, a broker that is away, members that stand still past their session's time and wake as zombies,
members that leave in order or come anew, open transactions that time out, partitions of which nothing is brought for a while,
messages that are brought again, and a store that is slow, refuses, or has lost its newest snapshot; in some the forecasts change their
trained weights twice on the way, at given event times. Whatever it was: the output
topics hold what the undisturbed run's hold, byte for byte, and the state of both stages is the same.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.engine.rings import name_of
from stream.engine.state import forecast_state
from stream.kafka.log import Fenced, Partition
from stream.kafka.memory import Crash, Cut, MemoryLog, MemoryMember
from stream.runners.forecast import ForecastStage, ForecastWork
from stream.runners.ingest import IngestWork
from stream.runners.weights import Order
from tests.runners.harness import BASE, MINUTE, FakeVault, World, config, filled_log, messages
from tests.runners.swaps import PlannedForecast, Shelf

STATE = "state of "
TOPICS = ("intent", "demand", "spikes", "deadletter")
SHOPS = 6
MESSAGES = 60
PARTITIONS = 2
KINDS = ("crash", "abort", "unknown_committed", "unknown_aborted", "away")
MOST_TURNS = 20_000
SWAPPING = 0.15
"""Of the schedules, those with trained weights."""


class LightForecast(ForecastStage):
    """With two simple experts, so that thousands of schedules fit into a test."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        light = tuple(replace(r, demand=replace(r.demand, experts=("seasonal_naive", "ewma"))) for r in self.spec.resolutions)
        self.spec = replace(self.spec, resolutions=light)


class SwappingForecast(PlannedForecast):
    """With a trained network besides, which is another from time to time."""

    chance = random.Random(0)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        light = tuple(replace(r, demand=replace(r.demand, experts=("seasonal_naive", "ewma", "network"))) for r in self.spec.resolutions)
        self.spec = replace(self.spec, resolutions=light)
        self.plan = tuple(Order("15m", name, BASE + at * MINUTE) for name, at in (("v1", 10), ("v2", 25), ("v3", 40)))
        self.room = Shelf(light[0].demand, self.chance)


@dataclass(slots=True)
class Plan:
    """What a schedule may do, and how much of it is left."""

    chance: random.Random
    share: float
    """How likely each step of a transaction and each fetch goes wrong."""
    disturb: float
    """How likely each turn something happens to a member."""
    kinds: tuple[str, ...]
    left: int
    """Faults until the rest goes well, so that every schedule ends."""
    told: list[str]

    def strike(self, share: float) -> bool:
        """Whether something goes wrong now."""
        if self.left <= 0 or self.chance.random() >= share:
            return False
        self.left -= 1
        return True

    def on(self, member: MemoryMember, step: str) -> str | None:
        """Faults of a member (a Faults)."""
        if not self.strike(self.share):
            return None
        fits = {"away": step == "fetch", "unknown_committed": step in ("commit", "done"), "crash": True}
        kinds = [kind for kind in self.kinds if fits.get(kind, step not in ("fetch", "done"))]
        if not kinds:
            return None
        kind = self.chance.choice(kinds)
        self.told.append(f"{member.name}: {kind} at {step}")
        if kind == "crash":
            raise Crash
        return kind


class Disturbed(World):
    """A world in which members are also stopped, thrown out, ended and started."""

    def __init__(self, log: MemoryLog, plan: Plan, seed: int, members: int, vault: FakeVault | None, forecast: type[ForecastStage]) -> None:
        self.plan = plan
        self.asleep: dict[str, int] = {}
        super().__init__(log, config(), seed=seed, members=members, faults=lambda name: plan, vault=vault, forecast=forecast)

    def cut(self) -> Cut:
        """Now and then a partition brings nothing for some fetches."""
        usual = super().cut()
        starved: dict[Partition, int] = {}

        def starving(available: dict[Partition, int], most: int) -> dict[Partition, int]:
            for partition in available:
                if starved.get(partition, 0) > 0:
                    starved[partition] -= 1
                elif self.plan.left > 0 and self.plan.chance.random() < 0.03:
                    starved[partition] = self.plan.chance.randrange(1, 30)
            return usual({p: 0 if starved.get(p, 0) > 0 else count for p, count in available.items()}, most)

        return starving

    def turn(self, name: str) -> None:
        """One turn of a member, or what happens to it instead."""
        if self.asleep.get(name, 0) > 0:
            self.asleep[name] -= 1
            return
        if self.plan.strike(self.plan.disturb):
            self.disturb(name)
            return
        try:
            super().turn(name)
        except Fenced:  # a zombie of its own name: it ends, and is started again by whoever watches it
            self.plan.told.append(f"{name}: fenced")
            self.restart(name)

    def disturb(self, name: str) -> None:
        """Something happens to a member."""
        member = self.loops[name].member
        assert isinstance(member, MemoryMember)
        what = self.plan.chance.choice(("sleeps", "is thrown out", "sleeps and is thrown out", "leaves", "transactions expire"))
        self.plan.told.append(f"{name}: {what}")
        if what == "leaves":
            member.close()
            self.restart(name)
        if what.startswith("sleeps"):
            self.asleep[name] = self.plan.chance.randrange(1, 60)
        if what.endswith("thrown out"):
            self.log.evict(member)
        if what == "transactions expire":
            self.log.expire()


def outcome(world: World) -> dict[str, Any]:
    """What a run came to: the outputs by topic, and what the state of both stages is."""
    found: dict[str, Any] = {topic: world.output(topic) for topic in TOPICS}
    found["deadletter"] = sorted((str(key), sorted(map(str, values))) for key, values in found["deadletter"].items())
    works = {partition: owned.shard for loop in world.loops.values() for partition, owned in loop.owned.items()}
    for partition, work in sorted(works.items()):
        if isinstance(work, ForecastWork):
            state = by_item(work)
        else:
            assert isinstance(work, IngestWork)
            engine = work.engine
            state = {"note": (engine.max_ms, engine.reached, engine.grain)}
            if engine.book is not None:
                state["sessions"] = sorted(engine.book.index)
        found[f"{STATE}{partition.topic}[{partition.partition}]"] = state
    return found


def by_item(work: ForecastWork) -> dict[str, Any]:
    """A forecast shard's state in the order of its items: which slot an item has depends on what came first, and decides nothing."""
    state = forecast_state(work.engine)
    order = np.array([work.engine.index[item] for item in sorted(work.engine.index)], dtype=np.int64)
    capacity = len(state["live"])
    found: dict[str, Any] = {"items": sorted(work.engine.index)}
    for name, array in state.items():
        if name == "free" or name.startswith(("names.", "facts.", "seen.ahead.")):
            continue
        found[name] = _of_items(array, order, capacity).tobytes()
    table, item = work.engine.covariates.table, np.array([*work.engine.names, ""])
    scopes = table.scopes()
    columns = (name_of(table.key), item[np.maximum(scopes, -1)], np.minimum(scopes, 0), table.value, *table.columns.values())
    found["facts"] = sorted(zip(*(column.tolist() for column in columns), strict=True))
    return found


def _of_items(array: NDArray[Any], order: NDArray[np.int64], capacity: int) -> NDArray[Any]:
    for axis, size in enumerate(array.shape):
        if size == capacity:
            return np.ascontiguousarray(np.take(array, order, axis=axis))
    return array


@lru_cache(maxsize=2 * SHOPS)
def truth(shop: int, swaps: bool = False) -> dict[str, Any]:
    """What the undisturbed run comes to."""
    settings = config()
    log = filled_log(messages(shop, MESSAGES), PARTITIONS, settings)
    return outcome(World(log, settings, forecast=SwappingForecast if swaps else LightForecast).run())


def run(seed: int) -> tuple[list[str], list[str]]:
    """Runs one schedule.

    Args:
        seed: which.

    Returns:
        What is not as in the undisturbed run; what went wrong meanwhile.
    """
    chance = random.Random(seed)
    shop = chance.randrange(SHOPS)
    kinds = tuple(kind for kind in KINDS if chance.random() < 0.7) or KINDS
    plan = Plan(chance, chance.choice((0.005, 0.02, 0.08)), chance.choice((0.0, 0.01, 0.05)), kinds, chance.randrange(3, 40), [])
    vault = FakeVault(seed, trouble=chance.choice((0.0, 0.3, 0.8))) if chance.random() < 0.8 else None
    log = filled_log(messages(shop, MESSAGES), PARTITIONS, config())
    swaps = random.Random(f"swaps {seed}").random() < SWAPPING  # a chance of its own: the other schedules stay as they were
    forecast = SwappingForecast if swaps else LightForecast
    try:
        found = outcome(Disturbed(log, plan, seed, chance.choice((1, 2, 2, 3)), vault, forecast).run(MOST_TURNS))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what this schedule found
        return [f"{type(error).__name__}: {error}"], plan.told
    # A member that was started after all was done has nothing left to do and owns nothing.
    wanted = {name: value for name, value in truth(shop, swaps).items() if name in found or not name.startswith(STATE)}
    return [name for name in sorted(wanted.keys() | found.keys()) if wanted.get(name) != found.get(name)], plan.told


def run_all(seeds: Sequence[int], say: Callable[[str], None], progress: Callable[[int], None] = lambda done: None) -> int:
    """Runs schedules.

    Args:
        seeds: which.
        say: takes a line for each that failed, with the command that runs it again.
        progress: told how many are done.

    Returns:
        How many failed.
    """
    failed = 0
    for done, seed in enumerate(seeds, start=1):
        wrong, _ = run(seed)
        if wrong:
            failed += 1
            say(f"seed {seed}: {', '.join(wrong)}; again: python -m tests.runners.schedules --seed {seed} --verbose")
        progress(done)
    return failed


def main() -> int:
    """Runs it from a command line; 0: all alike."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.runners.schedules", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000, help="how many schedules (default: 2000)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first (default: 0)")
    parser.add_argument("--seed", type=int, default=None, help="this one alone")
    parser.add_argument("--verbose", action="store_true", help="with --seed: say what went wrong, turn by turn")
    args = parser.parse_args()
    logging.getLogger("nowcart").setLevel(logging.ERROR)  # every fault would be a warning
    if args.seed is not None:
        wrong, told = run(args.seed)
        if args.verbose:
            print(*told, sep="\n")
        print(f"seed {args.seed}: {', '.join(wrong) or 'as the undisturbed run'}")
        return int(bool(wrong))
    began = time.monotonic()

    def progress(done: int) -> None:
        if sys.stderr.isatty() or done % 500 == 0:
            end = "\r" if sys.stderr.isatty() else "\n"
            print(f"{done:,} of {args.count:,} schedules, {done / (time.monotonic() - began):.0f}/s", end=end, file=sys.stderr, flush=True)

    failed = run_all(range(args.first, args.first + args.count), lambda line: print(line, flush=True), progress)
    print(f"{args.count:,} schedules, {failed} differ from the undisturbed run, {time.monotonic() - began:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
