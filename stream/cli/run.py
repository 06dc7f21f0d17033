"""`nowcart run`: the engine."""

from __future__ import annotations

import argparse
import logging
import os
import threading
import time
from contextlib import ExitStack, closing
from importlib import import_module
from typing import TYPE_CHECKING

from stream.cli.frame import Subparsers, add_command, add_config, progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from stream.config import Config
    from stream.kafka.log import Partition

log = logging.getLogger("nowcart.run")

PARTITIONS = 4
"""Of the sources' topics that --embedded creates."""
_SAY_EVERY_S = 10.0


def add(subparsers: Subparsers) -> None:
    """Describes the command."""
    parser = add_command(
        subparsers,
        "run",
        run,
        "run the engine: events in, forecasts, intent and spikes out, until Ctrl-C",
        "nowcart run shop.toml\nnowcart run shop.toml --stage forecast --instance forecast-1 --metrics-port 9465",
        graceful=True,
    )
    add_config(parser)
    parser.add_argument("--stage", choices=("all", "ingest", "forecast"), default="all", help="what this process does (default: all)")
    parser.add_argument(
        "--embedded", action="store_true", help="start a broker of its own, in memory, with all topics (the sources' with 4 partitions)"
    )
    parser.add_argument(
        "--until-end",
        action="store_true",
        help="stop once what is in the topics now is done: sessions end, and every bucket closes that ends by the last event",
    )
    parser.add_argument(
        "--instance",
        metavar="NAME",
        type=_instance,
        default=os.environ.get("NOWCART_INSTANCE") or "0",
        help="this process's name among those of the same prefix and stage: the same whenever it is started again, and nobody else's, or "
        "they put each other out (default: $NOWCART_INSTANCE, else 0)",
    )
    parser.add_argument("--metrics-port", type=_port, metavar="N", help="instead of [metrics] port; 0: none")


def run(args: argparse.Namespace) -> int:
    """Runs it."""
    import msgspec

    from stream.config import load
    from stream.kafka.embedded import EmbeddedBroker
    from stream.kafka.log import Fenced
    from stream.runners.joining import open_members, stages_of

    loading = threading.Thread(target=import_module, args=("stream.runners.engine",), name="load")
    loading.start()  # torch alone takes a second: meanwhile Kafka is asked
    with ExitStack() as stack:
        stack.callback(loading.join)  # whoever ends while a thread imports leaves a trace of that behind its message
        config = load(args.config)
        if args.embedded:
            broker = stack.enter_context(EmbeddedBroker())
            config = msgspec.structs.replace(config, kafka={"bootstrap.servers": broker.bootstrap_servers})
            _create_topics(config)
            print(f"Kafka listens on {broker.bootstrap_servers}", flush=True)
        elif args.stage != "forecast":
            _require_whole_sessions(config)
        stages = stages_of(config, args.stage)
        joining = open_members(config, stages, args.instance)
        loading.join()
        from stream.metrics import Metrics, serve
        from stream.runners.engine import Engine
        from stream.runners.report import Report
        from stream.runners.vault import StoreVault

        report = Report(Metrics())
        restoring = stack.enter_context(Restoring())
        vault = None
        if not args.embedded:  # what an embedded broker holds is gone with it, so its state is worth nothing afterwards
            vault = stack.enter_context(closing(StoreVault(config, report.metrics.snapshot_taken, report.metrics.snapshot_age)))
        engine = Engine(
            config, report, stages, args.instance, args.until_end, restoring.told, vault, models=not args.embedded, joining=joining
        )
        port = config.metrics.port if args.metrics_port is None else args.metrics_port
        if port:
            endpoint = stack.enter_context(serve(report.metrics, config.metrics.host, port, engine.health, engine.ready))
            log.info("metrics on http://%s:%d/metrics", config.metrics.host, endpoint.port)
        log.info("%s as instance '%s'", " and ".join(stages), args.instance)
        try:
            engine.run(args.stop)
        except Fenced as error:
            raise Fenced(
                f"{error}. This one is '{args.instance}' of prefix '{config.output.prefix}': if another process is too, give one of them "
                "another --instance (or NOWCART_INSTANCE)"
            ) from error
        done = sum(report.records.values())
        log.info("%s: %s rows in, %s records out", "stopped" if args.stop.is_set() else "done", f"{report.total_events():,}", f"{done:,}")
    return 0


def _create_topics(config: Config) -> None:
    from stream.kafka.admin import Admin, Topic
    from stream.topics import own_topics

    Admin(config.kafka).create([*own_topics(config), *(Topic(source.topic, PARTITIONS) for source in config.sources.values())])


def _require_whole_sessions(config: Config) -> None:
    """A session in two partitions would be two sessions to ingest."""
    from stream.check.sample import MOST_SPLIT, split_sessions
    from stream.config import UserError
    from stream.kafka.admin import Admin
    from stream.kafka.log import Unreachable

    sources = [source for source in config.sources.values() if source.kind == "clickstream" and not source.repartition]
    admin = Admin(config.kafka)
    admin.ping()
    found = admin.topics()
    for source in sources:
        if source.topic not in found:
            continue  # the engine says what is missing
        try:
            sample = split_sessions(config, source)
        except Unreachable as error:  # a partition's leader is away: no reason not to start, the engine waits for it
            log.warning("sessions of '%s' could not be sampled, so nobody knows whether it is keyed by session: %s", source.topic, error)
            continue
        if sample.too_many:
            raise UserError(
                f"the topic '{source.topic}' of [sources.{source.name}] must be keyed by session; of {sample.sampled:,} sessions in a sample "
                f"{sample.split:,} ({sample.share:.1%}, more than {MOST_SPLIT:.0%}) stand in several partitions: key it by session, or set "
                f"sources.{source.name}.repartition = true, which brings them together by an internal topic"
            )


class Restoring:
    """Shows how far the rebuilding of state has come: bars on a terminal, a line now and then in a log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bar: Progress | None = None
        self._tasks: dict[Partition, TaskID] = {}
        self._said: dict[Partition, float] = {}

    def told(self, partition: Partition, done: int, of: int) -> None:
        """Takes how many messages of a partition are replayed, and of how many.

        Args:
            partition: which.
            done: messages.
            of: messages; as many as done: it is finished.
        """
        with self._lock:
            self._show(partition, done, of)
            now = time.monotonic()
            if done < of and now - self._said.setdefault(partition, now) >= _SAY_EVERY_S:
                self._said[partition] = now
                log.info("%s[%d]: %d of %d messages replayed (%d %%)", *partition, done, of, 100 * done // of)

    def _show(self, partition: Partition, done: int, of: int) -> None:
        if self._bar is None:
            self._bar = progress_bar()
            self._bar.start()
        if done >= of:
            task = self._tasks.pop(partition, None)
            if task is not None:
                self._bar.remove_task(task)
            if not self._tasks:
                self._bar.stop()
                self._bar = None
        elif partition in self._tasks:
            self._bar.update(self._tasks[partition], completed=done)
        else:
            name = f"restoring {partition.topic}[{partition.partition}]"
            self._tasks[partition] = self._bar.add_task(name, total=of, completed=done, unit="messages")

    def __enter__(self) -> Restoring:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None


def _instance(text: str) -> str:
    import re

    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", text):
        raise argparse.ArgumentTypeError(f"must be letters, digits, dots, dashes and underscores; got {text!r}")
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"must be a port, from 0 to 65535; got {text!r}")
    return int(text)
