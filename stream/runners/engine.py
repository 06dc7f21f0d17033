"""The engine of one process: a loop a stage, each in a thread of its own with a Kafka member of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stream.collector import calm_collector
from stream.config import Config
from stream.engine.features import FEATURES
from stream.kafka.admin import Admin
from stream.kafka.log import Member, Partition
from stream.runners.forecast import ForecastStage
from stream.runners.ingest import IngestStage
from stream.runners.joining import Joining, open_members, stages_of
from stream.runners.keeping import Vault
from stream.runners.loop import Loop, LoopOptions
from stream.runners.repartition import RepartitionStage
from stream.runners.report import Report
from stream.runners.stage import Stage
from stream.runners.weights import IntentLibrary, Library, ModelReader, Shelf
from stream.state.artefacts import open_artefacts

logger = logging.getLogger("nowcart.engine")


class Engine:
    """Runs the stages until told to stop.

    Args:
        config: the user's.
        report: is told what happens.
        stages: as stages_of gives them; default: all that the configuration needs.
        instance: this process's name among those of the same prefix; stable across its restarts, and nobody else's.
        until_end: stop once what is in the topics now is done.
        progress: told (partition, replayed, of) while state is rebuilt.
        vault: where snapshots are kept; None: state is always rebuilt from the log's beginning.
        upstream: with until_end and the stage before elsewhere: set once that one is done; None: what is in the topics at the start is all.
        models: follow what is announced on the topic of models.
        joining: what was opened beforehand for these stages and this instance; None: `run` opens it.
    """

    def __init__(
        self,
        config: Config,
        report: Report,
        stages: Sequence[str] | None = None,
        instance: str = "0",
        until_end: bool = False,
        progress: Callable[[Partition, int, int], None] | None = None,
        vault: Vault | None = None,
        upstream: threading.Event | None = None,
        models: bool = False,
        joining: Joining | None = None,
    ) -> None:
        self.config = config
        self.report = report
        self.stages = stages_of(config) if stages is None else tuple(stages)
        self.instance = instance
        self.until_end = until_end
        self.progress = progress
        self.vault = vault
        self.upstream = upstream
        self.models = models
        self.joining = joining
        self._readers: list[ModelReader] = []
        self.loops: dict[str, Loop] = {}
        self._failure: BaseException | None = None
        self._finished: dict[str, threading.Event] = {stage: threading.Event() for stage in self.stages}

    def health(self) -> tuple[bool, str]:
        """Whether the process should go on living."""
        return (True, "alive") if self._failure is None else (False, str(self._failure))

    def ready(self) -> tuple[bool, str]:
        """Whether every stage works on its partitions."""
        if len(self.loops) < len(self.stages):
            return False, "starting"
        answers = [loop.ready for loop in self.loops.values()]
        return all(good for good, _ in answers), "; ".join(text for _, text in answers)

    def run(self, stop: threading.Event) -> None:
        """Runs until stop is set, everything is done (until_end), or a stage fails.

        Args:
            stop: set from outside.

        Raises:
            UserError: topics are missing or do not fit, or the log no longer reaches back.
            LogError: Kafka cannot be used.
        """
        calm_collector()
        joining = open_members(self.config, self.stages, self.instance) if self.joining is None else self.joining
        halt = threading.Event()
        threads = [threading.Thread(target=self._run_stage, args=(stage, joining, halt), name=stage) for stage in self.stages]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                if stop.wait(0.05) or self._failure is not None:
                    halt.set()
                    for thread in threads:
                        thread.join()
        finally:
            halt.set()
            for thread in threads:
                thread.join()
            for reader in self._readers:
                reader.close()
        if self._failure is not None:
            raise self._failure

    def _run_stage(self, stage: str, joining: Joining, halt: threading.Event) -> None:
        try:
            loop = self._loop(stage, joining.members[stage], joining.partitions)
            self.loops[stage] = loop
            loop.run(halt)
        except BaseException as failure:
            logger.debug("%s failed", stage, exc_info=True)
            if self._failure is None:
                self._failure = failure
        finally:
            self._finished[stage].set()

    def _loop(self, stage: str, member: Member, partitions: Mapping[str, int]) -> Loop:
        options = LoopOptions(until_end=self.until_end, idle_after_s=self.config.time.idle_after_ms / 1000)
        work: Stage
        if stage == "repartition":
            work = RepartitionStage(self.config, partitions, self.report)
        elif stage == "ingest":
            work = ingest = IngestStage(self.config, partitions, self.report)
            if self.models and any(source.kind == "clickstream" for source in self.config.sources.values()):
                intent = IntentLibrary(open_artefacts(self.config), FEATURES)
                self._follow_models(intent)
                ingest.room = intent
        else:
            work = forecast = ForecastStage(self.config, self.report)
            if self.models:
                library = Library(open_artefacts(self.config), [part.demand for part in forecast.spec.resolutions])
                self._follow_models(library)
                forecast.room = library
        before = {"ingest": "repartition", "forecast": "ingest"}.get(stage, "")
        done = self._finished.get(before, self.upstream if before else None)
        targets = self._ends_after(done, work.topics, partitions) if self.until_end else None
        return Loop(
            member,
            work,
            options,
            self.report,
            time.monotonic,
            time.time,
            targets,
            self.progress,
            self.vault if stage != "repartition" else None,
        )

    def _follow_models(self, library: Shelf[Any]) -> None:
        """Reads what has been announced; the rest comes while the stage runs."""
        reader = ModelReader(self.config.kafka, self.config.output.topic("models"), library)
        self._readers.append(reader)
        reader.start()

    def _ends_after(
        self, done: threading.Event | None, topics: Sequence[str], partitions: Mapping[str, int]
    ) -> Callable[[], Mapping[Partition, int] | None]:
        """Where a stage ends: at the ends of its topics as they stand once the stage before it, if it is here, is done."""

        def ends() -> Mapping[Partition, int] | None:
            if done is not None and not done.is_set():
                return None
            return Admin(self.config.kafka).written_ends([Partition(topic, p) for topic in topics for p in range(partitions[topic])])

        return ends
