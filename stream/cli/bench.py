"""`nowcart bench`: throughput and latency on this machine, beside the limit measured in the same run."""

from __future__ import annotations

import argparse
import json
import logging
import uuid
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream.cli.frame import Subparsers, add_command, positive, progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream.bench.measure import Throughput
    from stream.bench.shop import Sent

log = logging.getLogger("nowcart.bench")

REST_MS = 20
"""The embedded broker answers fetches at once even where there is nothing: without rests two idle consumers and it burn a core."""
STEPS = ("consume", "decode", "columns", "engine", "model", "publish", "commit")


def add(subparsers: Subparsers) -> None:
    """Describes the command."""
    parser = add_command(
        subparsers,
        "bench",
        run,
        "measure throughput and latency of the whole engine on this machine, beside the limit of its Kafka client",
        "nowcart bench\nnowcart bench --kafka localhost:9092 --json bench.json",
        graceful=True,
    )
    parser.add_argument(
        "--kafka",
        metavar="HOST:PORT",
        help="a Kafka to run on, with topics of its own names, deleted at the end; default: the embedded broker",
    )
    parser.add_argument("--events", type=positive(int), default=1_000_000, help="clickstream events of the backlog (default: 1000000)")
    parser.add_argument("--rate", type=positive(float), default=20_000.0, help="events a second while latency is measured (default: 20000)")
    parser.add_argument("--latency-seconds", type=positive(float), default=20.0, help="how long latency is measured (default: 20)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results there too")


def run(args: argparse.Namespace) -> int:
    """Measures, and prints a table."""
    from stream.kafka.embedded import EmbeddedBroker
    from stream.tables import UserError

    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise UserError(f"--json must name a file in a folder that is there; got {args.json}")
    with EmbeddedBroker() if args.kafka is None else nullcontext() as broker:
        results = _measure(args, broker.bootstrap_servers if broker is not None else args.kafka)
    if args.json is not None and results:
        try:
            args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--json must name a file that can be written; got {args.json}: {error.strerror}") from error
    return 0


def _measure(args: argparse.Namespace, servers: str) -> dict[str, Any]:
    from stream.bench.measure import clean, latency, prepare, sending, throughput
    from stream.bench.shop import Task
    from stream.kafka.resting import REST

    kafka: dict[str, str | int | float | bool] = {"bootstrap.servers": servers}
    if args.kafka is None:
        kafka[REST] = REST_MS
    name = f"bench-{uuid.uuid4().hex[:8]}"
    with progress_bar() as bar:
        show = _progress(bar)
        backlog = prepare(kafka, f"{name}.backlog")
        try:
            task = Task(kafka=kafka, topic=f"{name}.backlog", task="backlog", events=args.events)
            with sending(task, lambda count: show("backlog", min(count, args.events), args.events)) as wait:
                sent = wait()
            if args.stop.is_set():
                return {}
            result = throughput(backlog, f"{name}.backlog", sum(sent.messages.values()), show, args.stop)
        finally:
            clean(backlog)
        if args.stop.is_set():
            return {}
        steady = prepare(kafka, f"{name}.steady")
        try:
            waits = latency(steady, f"{name}.steady", args.rate, args.latency_seconds, show, args.stop)
        finally:
            clean(steady)
    if args.stop.is_set():
        return {}
    results = _results(args, sent, result, waits)
    _print(results, sent, result)
    return results


def _progress(bar: Any) -> Callable[[str, int, int], None]:
    tasks: dict[str, Any] = {}

    def show(what: str, done: int, of: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=of, unit="events")
        bar.update(tasks[what], completed=done)

    return show


def _results(args: argparse.Namespace, sent: Sent, result: Throughput, waits: dict[str, float | None]) -> dict[str, Any]:
    total = sum(seconds for steps in result.step_seconds.values() for seconds in steps.values()) or 1.0
    messages = sum(sent.messages.values())
    return {
        "broker": args.kafka or "embedded",
        "events": messages,
        "events_per_second": round(messages / result.seconds),
        "limit_events_per_second": round(messages / result.limit_seconds),
        "steps": {
            f"{stage}.{step}": round(result.step_seconds[stage].get(step, 0.0) / total, 4)
            for stage in sorted(result.step_seconds, reverse=True)
            for step in STEPS
        },
        "latency_ms": {"rate": args.rate, **waits},
        "peak_memory_bytes": result.peak_memory_bytes,
    }


def _print(results: dict[str, Any], sent: Sent, result: Throughput) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    shop = ", ".join(f"{count:,} {source}" for source, count in sent.messages.items())
    ticks = ", ".join(f"{count} of {size}" for size, count in sorted(result.ticks.items())) or "none"
    records = ", ".join(f"{count:,} {topic}" for topic, count in sorted(result.records.items()))
    table = Table("", "", title=f"nowcart bench on {results['broker']}", show_header=False, title_justify="left")
    table.add_row("backlog", f"{shop}; {sent.sessions:,} sessions, 10,000 items, 4 partitions")
    table.add_row(
        "throughput, all in",
        f"[bold]{results['events_per_second']:,} events/s[/bold] ({result.seconds:.1f} s, {result.cpu_seconds:.1f} s of processor)",
    )
    table.add_row("limit: consume and decode", f"{results['limit_events_per_second']:,} events/s")
    table.add_row("buckets closed", ticks)
    table.add_row("records, exactly once", f"{records}; {result.commits:,} transactions")
    lag = results["latency_ms"]
    table.add_row("latency to commit", f"p50 {lag['p50']} ms, p99 {lag['p99']} ms at {lag['rate']:,.0f} events/s")
    broker = "not ours to see" if result.broker_memory_bytes is None else f"{result.broker_memory_bytes / 2**20:,.0f} MiB"
    table.add_row("peak memory", f"{results['peak_memory_bytes'] / 2**20:,.0f} MiB (the broker apart: {broker})")
    console.print(table)
    steps = Table("share of time", *STEPS, title="by step and stage", title_justify="left")
    for stage, seconds in sorted(result.step_seconds.items(), reverse=True):
        steps.add_row(stage, *[f"{seconds.get(step, 0.0) / result.seconds:.1%}" for step in STEPS])
    console.print(steps)
