"""`nowcart replay`: the rows of files as the shop would have sent them; with --embedded --out a whole run in one command."""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream.cli.frame import Subparsers, add_command, add_config, positive, progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import Progress

    from stream.config import Config
    from stream.replay.rows import Messages, SourceFile
    from stream.replay.whole import WholeRun

log = logging.getLogger("nowcart.replay")

PARTITIONS = 4
"""Of the sources' topics that --embedded creates."""


def add(subparsers: Subparsers) -> None:
    """Describes the command."""
    parser = add_command(
        subparsers,
        "replay",
        run,
        "send the rows of files to the sources' topics, in event-time order; or run the whole engine over them",
        "nowcart replay shop.toml --source clicks=clicks.csv --source orders=orders.parquet --speed 60\n"
        "nowcart replay examples/rees46.toml --source clicks=rees46_2019-10-01.csv --embedded --out out",
        graceful=True,
    )
    add_config(parser)
    parser.add_argument(
        "--source",
        metavar="NAME=FILE",
        dest="sources",
        type=_named_file,
        action="append",
        required=True,
        help="a source of the configuration and its rows: .csv, .tsv, .ndjson, .jsonl (each perhaps with .gz) or .parquet; may stand "
        "several times, for one source too",
    )
    parser.add_argument(
        "--speed", type=_speed, default=None, metavar="max|N", help="as fast as it goes, or N times real time, by event time (default: max)"
    )
    parser.add_argument("--embedded", action="store_true", help="an embedded broker and the engine to the end of the files; needs --out")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="with --embedded: every output topic as DIR/<topic>.ndjson, and DIR/summary.json"
    )
    parser.add_argument(
        "--partitions",
        type=positive(int),
        default=PARTITIONS,
        help=f"of the sources' topics on the embedded broker (default: {PARTITIONS})",
    )


def run(args: argparse.Namespace) -> int:
    """Sends, or runs all of it, and prints how much came out."""
    from stream.config import UserError, load

    if args.embedded != (args.out is not None):
        raise UserError("--embedded and --out DIR must stand together: what an embedded broker holds is gone when it ends")
    if args.embedded and args.speed is not None:
        raise UserError("--speed must be left out with --embedded: everything is sent before the engine begins")
    config = load(args.config)
    files = _open(config, args.sources)
    return _run_all(args, config, files) if args.embedded else _send_only(args, config, files)


def _open(config: Config, named: Sequence[tuple[str, Path]]) -> list[SourceFile]:
    from stream.config import UserError
    from stream.replay.rows import SourceFile
    from stream.tables import nearest

    files = []
    for name, path in named:
        if name not in config.sources:
            near = nearest(name, list(config.sources))
            raise UserError(
                f"--source must name one of the configuration's sources, {', '.join(config.sources)}; got {name}"
                + (f': did you mean "{near}"?' if near else "")
            )
        files.append(SourceFile(config, config.sources[name], path, time.time_ns() // 1_000_000))
        log.info("%s: %s rows for source '%s'", path, f"{files[-1].rows:,}", name)
    return files


def _send_only(args: argparse.Namespace, config: Config, files: Sequence[SourceFile]) -> int:
    from stream.kafka.admin import Admin

    topics = list(dict.fromkeys(file.source.topic for file in files))
    admin = Admin(config.kafka)
    admin.ping()
    partitions = admin.partitions(topics)
    with progress_bar() as bar:
        sent, whole = _send(args, config, files, partitions, bar)
    if not whole:
        log.warning("stopped: not everything has been sent")
    for topic in topics:
        print(f"{topic}: {sum(sent[file.source.name] for file in _of(files, topic))} messages")
    return 0


def _of(files: Sequence[SourceFile], topic: str) -> list[SourceFile]:
    """One file for each source of a topic (there is one)."""
    return list({file.source.name: file for file in files if file.source.topic == topic}.values())


def _send(
    args: argparse.Namespace, config: Config, files: Sequence[SourceFile], partitions: dict[str, int], bar: Progress
) -> tuple[Counter[str], bool]:
    """Sends everything; how many rows of each source, and whether it came to the end."""
    from stream.kafka.sender import Sender
    from stream.replay.send import Pace, send

    sent: Counter[str] = Counter()
    task = bar.add_task("sending", total=sum(file.rows for file in files), unit="rows")

    def told(file: SourceFile, messages: Messages) -> None:
        sent[file.source.name] += len(messages)
        bar.update(task, advance=len(messages))

    def wait(seconds: float) -> bool:
        return bool(args.stop.wait(seconds) if seconds > 0 else args.stop.is_set())

    with Sender(config.kafka) as sender:
        whole = send(files, sender, partitions, Pace(args.speed, time.monotonic, wait), told)
    bar.remove_task(task)
    return sent, whole


def _run_all(args: argparse.Namespace, config: Config, files: Sequence[SourceFile]) -> int:
    import msgspec

    from stream.kafka.admin import Admin, Topic
    from stream.kafka.embedded import EmbeddedBroker
    from stream.replay.whole import WholeRun
    from stream.topics import own_topics

    with EmbeddedBroker() as broker, progress_bar() as bar:
        config = msgspec.structs.replace(config, kafka={"bootstrap.servers": broker.bootstrap_servers})
        topics = {source.topic: args.partitions for source in config.sources.values()}
        admin = Admin(config.kafka)
        admin.create([*own_topics(config), *(Topic(topic, count) for topic, count in topics.items())])
        sent, whole = _send(args, config, files, topics, bar)
        work = WholeRun(config, args.out)
        if whole:
            with _shown(bar, work, files):
                whole = work.run(args.stop)
    if not whole:
        log.warning("stopped: the files in %s hold what was published by then; there is no summary", args.out)
        return 0
    path = work.write_summary(sent)
    for topic, file in work.files.items():
        print(f"{file}: {work.records[topic]} records")
    print(f"{path}: {sum(sent.values())} rows in {work.seconds:.1f} s")
    return 0


@contextmanager
def _shown(bar: Progress, work: WholeRun, files: Sequence[SourceFile]) -> Iterator[None]:
    """Shows how far event time has come while the engine runs."""
    first = min((file.first_ms for file in files if file.first_ms is not None), default=None)
    last = max((file.last_ms for file in files if file.last_ms is not None), default=None)
    over = threading.Event()
    if first is None or last is None:
        yield
        return
    step_ms, unit = (3_600_000, "h") if last - first > 48 * 3_600_000 else (60_000, "min")
    steps = max(1, (last - first) // step_ms)
    task = bar.add_task("forecasting", total=steps, unit=f"{unit} of event time")

    def look() -> None:
        while not over.wait(0.5):
            now_ms = work.event_time_ms()
            if now_ms is not None:
                bar.update(task, completed=min(steps, max(0, (now_ms - first) // step_ms)))

    thread = threading.Thread(target=look, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        bar.remove_task(task)


def _named_file(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not name or not equals or not path:
        raise argparse.ArgumentTypeError(f"must be NAME=FILE; got {text!r}")
    return name, Path(path)


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        value: Any = positive(float)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; or max") from None
    return float(value)
