"""The chaos itself: what is started, when what is killed, and what must be found at the end."""

from __future__ import annotations

import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from stream.config import load
from stream.kafka.admin import Admin, Topic
from stream.kafka.log import Partition
from stream.kafka.reader import follow
from stream.tables import as_toml
from stream.topics import own_topics
from tests.chaos.cluster import NODES, Cluster
from tests.chaos.compare import OUTPUTS, Comparison, compare, read_outputs
from tests.chaos.fleet import Life, Worker, run_to_end
from tests.chaos.plan import Fault, draw
from tests.chaos.shop import CLICKS, MINUTES_A_SECOND, ORDERS, PARTITIONS, Feeder, Sent, configuration, traffic
from tests.chaos.watch import Watcher

FIRST_S = 4.0
"""Traffic that is there before the engine starts: an empty partition would count as idle, by the clock."""
PATIENCE_S = 240.0
RESTART_S = 0.5
SLOW = 0.2
"""The plan's and the shop's pace while a stage has no working process: on a busy machine, where a start takes long, the traffic
would else be over before anybody was there to be killed in the middle of it."""
PREFIX, UNDISTURBED = "nowcart.", "undisturbed."

Say = Callable[[str], None]


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    comparison: Comparison
    done: Counter[str] = field(default_factory=Counter)
    lives: list[Life] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    """Processes that ended without being killed, and their last words."""
    wrong_source: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """kill -9 of anything."""
        return sum(self.done[kind] for kind in ("ingest", "forecast", "broker"))

    @property
    def line(self) -> str:
        """The last line."""
        c = self.comparison
        return f"{self.kills} kills, {c.lost} lost, {c.duplicated} duplicated, {c.different} different"


class Chaos:
    """One run.

    Args:
        start: the script that starts Kafka.
        folder: for everything.
        seed: of the traffic, and of what is done.
        seconds: how long things are killed.
        every_s: mean time between two kills.
        rate: messages a second.
        say: takes lines.
        assignment: how the groups share their partitions.
    """

    def __init__(
        self, start: Path, folder: Path, seed: int, seconds: float, every_s: float, rate: float, say: Say, assignment: str = "range"
    ) -> None:
        self.assignment = assignment
        self.seed, self.seconds, self.every_s, self.rate, self.say = seed, seconds, every_s, rate, say
        self.start, self.folder = start, folder
        self.began = time.monotonic()
        self._clock = 0.0
        """Of the plan and of the shop: stands still while there is nothing to do the next fault to."""
        self.outages: list[tuple[float, float]] = []
        self._down_since: dict[str, float] = {}
        self._due: list[tuple[float, str, Callable[[], None]]] = []
        self.outcome = Outcome(Comparison())

    def run(self) -> Outcome:
        """Does it all; Kafka and the processes are ended, the folder stays."""
        total = int(self.rate * (self.seconds + FIRST_S))
        self.messages = traffic(self.seed, total, (self.seconds + FIRST_S) * MINUTES_A_SECOND)
        cluster = Cluster(self.start, self.folder / "kafka")
        try:
            self._tell(f"Kafka: 3 nodes at {cluster.servers}; seed {self.seed}, {total:,} messages at {self.rate:g}/s")
            self._on(cluster)
        finally:
            cluster.stop()
        return self.outcome

    def _on(self, cluster: Cluster) -> None:
        kafka = {"bootstrap.servers": cluster.servers}
        chaos, undisturbed = (self._prepare(cluster, prefix) for prefix in (PREFIX, UNDISTURBED))
        workers = [Worker(stage, instance, chaos, self.folder) for stage in ("ingest", "forecast") for instance in ("a", "b")]
        feeder = Feeder(cluster.servers, self.messages, self.rate, lambda: self._clock)
        watcher = None
        try:
            feeder.send(int(self.rate * FIRST_S))
            self._require_traffic_everywhere(kafka)
            for worker in workers:
                worker.start()
            self._wait(lambda: all(worker.ready for worker in workers), "the engine's processes to be ready", workers)
            watcher = Watcher(kafka, [PREFIX + topic for topic in OUTPUTS])
            self._tell("all four processes are ready")
            feeder.start()
            self._disturb(cluster, workers, feeder)
            feeder.finish(PATIENCE_S)
            self._wait(lambda: all(worker.ready for worker in workers), "everything to be ready again", workers)
            self._wait(cluster.whole, "all nodes to be in sync")
            self._tell("the shop is done, everything is alive again")
            for worker in workers:
                status = worker.end(60)
                if status:
                    self._note_end(worker, status)
        finally:
            feeder.stop()
            for worker in workers:
                worker.end(5)
            if watcher is not None:
                watcher.close()
        self._tell("one process takes it to the end")
        run_to_end(chaos, self.folder / "end.log", PATIENCE_S)
        self._tell("an undisturbed run of the same topics")
        run_to_end(undisturbed, self.folder / "undisturbed.log", PATIENCE_S)
        self._compare(kafka)
        self.outcome.lives = [life for worker in workers for life in worker.lives[1:]]
        self._sum_up(watcher)

    def _prepare(self, cluster: Cluster, prefix: str) -> Path:
        path = self.folder / f"{prefix}toml"
        path.write_text(as_toml(configuration(cluster.servers, prefix, self.folder / f"{prefix}state", self.assignment)), encoding="utf-8")
        config = load(path)
        Admin(config.kafka).create([*own_topics(config), Topic(CLICKS, PARTITIONS), Topic(ORDERS, PARTITIONS)])
        return path

    def _require_traffic_everywhere(self, kafka: dict[str, str]) -> None:
        filled = {Partition(r.topic, r.partition) for r in follow(kafka, [CLICKS, ORDERS], until_end=True)}
        if len(filled) < 2 * PARTITIONS:
            raise AssertionError("some source partition is empty: raise the rate")

    # -- faults ------------------------------------------------------------------------------------------------------

    def _disturb(self, cluster: Cluster, workers: list[Worker], feeder: Feeder) -> None:
        """Does what is planned, and brings back what was killed, until the time is over and all are back."""
        plan = draw(self.seed, self.seconds, self.every_s)
        last = time.monotonic()
        waiting_since: float | None = None
        while plan or self._due or not feeder.done or self._clock < self.seconds:
            time.sleep(0.02)
            now = time.monotonic()
            if waiting_since is None:
                self._clock += (now - last) * (1.0 if _all_stages_work(workers) else SLOW)
            last = now
            for item in sorted(self._due, key=lambda item: item[0]):
                if item[0] <= now:
                    self._due.remove(item)
                    item[2]()
            for worker in workers:
                if not worker.alive and worker.name not in self._down_since:
                    self._note_end(worker, worker.status or 0)
                    self._down(worker.name)
                    self._later(RESTART_S, worker.name, self._starter(worker))
            if not plan or plan[0].at_s > self._clock:
                continue
            able = self._able(plan[0], cluster, workers)
            if not able:
                waiting_since = waiting_since or now
                if now - waiting_since > PATIENCE_S:
                    raise TimeoutError(f"waited {PATIENCE_S:g} s for something to do this to: {plan[0]}; the logs are in {self.folder}")
                continue
            fault = plan.pop(0)
            if waiting_since is not None:  # it has only just begun to work: let it
                waiting_since = None
                plan.append(replace(fault, at_s=self._clock + 0.5 + 2 * fault.pick))
                plan.sort(key=lambda fault: fault.at_s)
                continue
            self._do(fault, able[int(fault.pick * len(able))], cluster)

    def _able(self, fault: Fault, cluster: Cluster, workers: list[Worker]) -> Sequence[Worker | int]:
        """What it can be done to now."""
        if fault.kind == "broker":
            return NODES if cluster.whole() else ()
        some = [w for w in workers if w.works or (fault.early and w.alive)]
        if fault.kind == "stop":
            return [w for w in some if not w.stopped]
        if fault.kind == "disk":
            return [w for w in some if not w.tight]
        return [w for w in some if w.stage == fault.kind]

    def _do(self, fault: Fault, whom: Worker | int, cluster: Cluster) -> None:
        pause = fault.pause_s
        self.outcome.done[fault.kind] += 1
        if isinstance(whom, int):
            self._tell(f"kill -9 of broker {whom}, back after {pause:.1f} s")
            cluster.kill(whom)
            self._down(f"broker {whom}")
            self._later(pause, f"broker {whom}", lambda: self._revive(cluster, whom))
            return
        if fault.kind == "stop":
            self._tell(f"SIGSTOP of {whom.name} for {pause:.1f} s")
            whom.signal(signal.SIGSTOP)
            self._down(whom.name)
            life = len(whom.lives)
            self._later(pause, whom.name, lambda: self._go_on(whom, life))
        elif fault.kind == "disk":
            self._tell(f"{whom.name}'s disk is full for {pause:.1f} s")
            whom.fill_disk(True)
            self._later(pause, f"{whom.name}'s disk", lambda: whom.fill_disk(False))
        else:
            how = "" if whom.works else " (stopped)" if whom.stopped else " (starting)"
            self._tell(f"kill -9 of {whom.name}{how}, back after {pause:.1f} s")
            self._due = [item for item in self._due if item[1] != whom.name]
            whom.kill()
            self._down(whom.name)
            self._later(pause, whom.name, self._starter(whom))

    def _starter(self, worker: Worker) -> Callable[[], None]:
        def start() -> None:
            worker.start()
            self._up(worker.name)
            self._tell(f"{worker.name} starts again")

        return start

    def _go_on(self, worker: Worker, life: int) -> None:
        if life == len(worker.lives):
            worker.signal(signal.SIGCONT)
            self._up(worker.name)
            self._tell(f"SIGCONT of {worker.name}")

    def _revive(self, cluster: Cluster, node: int) -> None:
        cluster.revive(node)
        self._up(f"broker {node}")
        self._tell(f"broker {node} starts again")

    def _later(self, pause_s: float, whom: str, action: Callable[[], None]) -> None:
        self._due.append((time.monotonic() + pause_s, whom, action))

    def _down(self, whom: str) -> None:
        self._down_since.setdefault(whom, time.time())

    def _up(self, whom: str) -> None:
        since = self._down_since.pop(whom, None)
        if since is not None:
            self.outages.append((since, time.time()))

    def _note_end(self, worker: Worker, status: int) -> None:
        self.outcome.done["ended by themselves"] += 1
        words = worker.last_words()
        self.outcome.ends.append(f"{worker.name} ended with {status}:\n{words}")
        self._tell(f"{worker.name} ended by itself with {status}: {words.splitlines()[-1] if words else ''}")

    # -- the end -----------------------------------------------------------------------------------------------------

    def _compare(self, kafka: dict[str, str]) -> None:
        outcome = self.outcome
        outcome.wrong_source = wrong_source(kafka, self.messages)
        chaos, undisturbed = read_outputs(kafka, PREFIX), read_outputs(kafka, UNDISTURBED)
        for topic in OUTPUTS:
            found = compare(topic, undisturbed[topic], chaos[topic])
            outcome.comparison.add(found)
            self.say(
                f"  {topic:<10} {found.records:>8,} records: {found.lost} lost, {found.duplicated} duplicated, {found.different} different"
            )

    def _sum_up(self, watcher: Watcher) -> None:
        outcome, say = self.outcome, self.say
        say("  done: " + ", ".join(f"{count} {what}" for what, count in sorted(outcome.done.items())))
        published = [life.published_s for life in outcome.lives if life.published_s is not None]
        answered = [life.answered_s for life in outcome.lives if life.answered_s is not None]
        cpu = [life.cpu_s for life in outcome.lives if life.cpu_s is not None]
        soon = sum(seconds <= 3.0 for seconds in published)
        say(f"  from a process's start until it answers:  {spread(answered)} (Python and its imports)")
        say(f"  from a process's start until it commits:  {spread(published)}; {soon} of {len(published)} within 3 s")
        say(f"    and so much of the processors:             {spread(cpu)}")
        if len(published) < len(outcome.lives):
            say(f"    {len(outcome.lives) - len(published)} were killed, or done with, before they committed anything")
        say(f"  from a record's stamp until it was read:  {spread(watcher.waits)}")
        say(f"    what took long, less the time in which anything was down: {spread(watcher.held_beyond(self.outages))}")
        for failure in watcher.failures:
            say(f"    the reader failed: {failure}")
        for text in outcome.ends:
            say("  " + text.replace("\n", "\n    "))
        for text in [*outcome.wrong_source, *outcome.comparison.examples]:
            say("  " + text)

    def _wait(self, condition: Callable[[], bool], what: str, workers: list[Worker] | None = None) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            for worker in workers or ():
                if not worker.alive:
                    self._note_end(worker, worker.status or 0)
                    worker.start()
            time.sleep(0.1)
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {PATIENCE_S:g} s for {what}; the logs are in {self.folder}")

    def _tell(self, text: str) -> None:
        self.say(f"{time.monotonic() - self.began:7.1f} s  {text}")


def _all_stages_work(workers: Sequence[Worker]) -> bool:
    return {worker.stage for worker in workers if worker.works} == {worker.stage for worker in workers}


def wrong_source(kafka: dict[str, str], messages: list[Sent]) -> list[str]:
    """What the source topics hold that the shop did not send, or the other way round.

    Args:
        kafka: librdkafka's properties.
        messages: as they were sent.
    """
    found: list[str] = []
    for topic in (CLICKS, ORDERS):
        sent: Counter[tuple[bytes | None, bytes | None]] = Counter((m.key, m.value) for m in messages if m.topic == topic)
        held = Counter((r.key, r.value) for r in follow(kafka, [topic], until_end=True))
        if sent != held:
            found.append(f"{topic}: {sum((sent - held).values())} messages are missing, {sum((held - sent).values())} are too many")
    return found


def spread(seconds: list[float]) -> str:
    """Percentiles, in words.

    Args:
        seconds: any number of them.
    """
    if not seconds:
        return "none"
    p50, p90, p99 = np.percentile(seconds, [50, 90, 99])
    return f"p50 {p50:.2f} s, p90 {p90:.2f} s, p99 {p99:.2f} s, longest {max(seconds):.2f} s (of {len(seconds):,})"


def quiet() -> None:
    """Keeps librdkafka's words about dying brokers to itself."""
    logging.getLogger("nowcart").setLevel(logging.CRITICAL)


__all__ = ["Chaos", "Outcome", "quiet", "spread", "wrong_source"]
