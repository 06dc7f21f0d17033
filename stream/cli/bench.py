"""`nowcart bench`: throughput and latency on this machine, beside the limit measured in the same run."""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import uuid
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream.cli.bench_forecast import measure_forecasts
from stream.cli.frame import Subparsers, add_command, positive, progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream.bench.measure import Throughput
    from stream.bench.shop import Sent, Snapshots

log = logging.getLogger("nowcart.bench")

REST_MS = 20
"""The embedded broker answers fetches at once even where there is nothing: without rests two idle consumers and it burn a core."""
SNAPSHOT_EVERY_S = 2.0
"""For measuring what snapshots cost: a backlog is over before the default interval is."""
STEPS = ("consume", "decode", "columns", "engine", "model", "publish", "commit")


def add(subparsers: Subparsers) -> None:
    """Describes the command."""
    parser = add_command(
        subparsers,
        "bench",
        run,
        "measure throughput and latency of the whole engine on this machine, beside the limit of its Kafka client",
        "nowcart bench\nnowcart bench --kafka localhost:9092 --json bench.json\nnowcart bench --restore\n"
        "nowcart bench --forecast\nnowcart bench --spikes --json spikes.json",
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
    for stage, number in (("ingest", 2), ("forecast", 1)):
        parser.add_argument(
            f"--{stage}s", type=int, choices=(1, 2, 4), default=number, help=f"processes that share {stage} (default: {number})"
        )
    parser.add_argument(
        "--restore",
        action="store_true",
        help="instead: how long a restart from a snapshot of many items takes, what an item takes, and what snapshots cost",
    )
    parser.add_argument(
        "--intent", action="store_true", help="instead: purchase intent by itself, columns in, probabilities out, on two cores"
    )
    parser.add_argument("--items", type=positive(int), default=1_000_000, help="with --restore: items of the snapshot (default: 1000000)")
    parser.add_argument(
        "--forecast",
        action="store_true",
        help="instead: forecasts a second by all experts, council and calibration, and where the time of a tick goes; needs no Kafka",
    )
    parser.add_argument("--forecast-items", type=positive(int), default=100_000, metavar="N", help="with --forecast (default: 100000)")
    parser.add_argument("--processes", type=positive(int), default=2, help="with --forecast: partitions, a process each (default: 2)")
    parser.add_argument(
        "--spikes",
        action="store_true",
        help="instead: which spikes of a simulated shop are found, how soon and at how many false alerts, beside an oracle and other rules; no Kafka",
    )
    parser.add_argument("--quick", action="store_true", help="with --spikes: a small shop, to see that it runs; its figures prove nothing")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results there too")


def run(args: argparse.Namespace) -> int:
    """Measures, and prints a table."""
    from stream.kafka.embedded import EmbeddedBroker
    from stream.tables import UserError

    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise UserError(f"--json must name a file in a folder that is there; got {args.json}")
    if args.quick and not args.spikes:
        raise UserError("--quick goes with --spikes: add it, or leave --quick out")
    if args.spikes:
        return _write(args, _measure_spikes(args))
    if args.forecast:
        return _write(args, measure_forecasts(args))
    if args.intent:
        return _write(args, _measure_intent(args))
    with EmbeddedBroker() if args.kafka is None else nullcontext() as broker:
        measure = _measure_restore if args.restore else _measure
        results = measure(args, broker.bootstrap_servers if broker is not None else args.kafka)
    return _write(args, results)


def _measure_intent(args: argparse.Namespace) -> dict[str, Any]:
    from stream.bench.intent import measure_intent

    results = measure_intent(max(1, args.events // 2), 2)
    for name, what in (("score", "scoring alone"), ("engine", "sessions, features, scores, learning")):
        rate, each = results[f"{name}_events_per_second"], results[f"{name}_events_per_cpu_second"]
        print(f"{what}: {rate:,.0f} events/s on two cores ({each:,.0f} a second of one core's time)")
    return results


def _write(args: argparse.Namespace, results: dict[str, Any]) -> int:
    from stream.tables import UserError

    if args.json is not None and results:
        try:
            args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--json must name a file that can be written; got {args.json}: {error.strerror}") from error
    return 0


def _measure(args: argparse.Namespace, servers: str) -> dict[str, Any]:
    from stream.bench.measure import clean, latency, prepare

    kafka = _kafka(args, servers)
    name = f"bench-{uuid.uuid4().hex[:8]}"
    with progress_bar() as bar:
        show = _progress(bar)
        result, sent = _backlog(args, kafka, f"{name}.backlog", show, None)
        if result is None:
            return {}
        steady = prepare(kafka, f"{name}.steady")
        try:
            waits = latency(steady, f"{name}.steady", args.rate, args.latency_seconds, show, args.stop)
        finally:
            clean(steady)
    if args.stop.is_set():
        return {}
    results = _results(args, sent, result, waits)
    _print(args, results, sent, result)
    return results


def _measure_spikes(args: argparse.Namespace) -> dict[str, Any]:
    from stream.bench.spike_shop import QUICK, Size
    from stream.bench.spikes import measure
    from stream.cli.bench_spikes import show

    with progress_bar() as bar:
        results = measure(QUICK if args.quick else Size(), _progress(bar, "hours"), args.stop)
    if results:
        show(results)
    return results


def _measure_restore(args: argparse.Namespace, servers: str) -> dict[str, Any]:
    from stream.bench.restore import Task, restore
    from stream.bench.shop import Snapshots
    from stream.config import State

    kafka = _kafka(args, servers)
    name = f"bench-{uuid.uuid4().hex[:8]}"
    with progress_bar() as bar, tempfile.TemporaryDirectory(prefix="nowcart-bench-") as folder:
        show = _progress(bar)
        done = restore(
            Task(role="make", kafka=kafka, topic=f"{name}.restore", folder=f"{folder}/restore", items=args.items), show, args.stop
        )
        rates = []
        for number, snapshots in enumerate((None, Snapshots(f"{folder}/backlog", SNAPSHOT_EVERY_S))):
            result, sent = _backlog(args, kafka, f"{name}.{number}", show, snapshots)
            if result is None:
                return {}
            rates.append(sum(sent.messages.values()) / result.seconds)
    slower, default_every_s = 1 - rates[1] / rates[0], State().snapshot_interval_ms / 1000
    results = {
        "broker": args.kafka or "embedded",
        "items": done.made.items,
        "seconds_to_first_commit": round(done.seconds, 2),
        "restore_seconds": round(done.taken.restore_seconds, 2),
        "bytes_per_item": round(done.made.state_bytes / done.made.items),
        "written_bytes": done.made.written_bytes,
        "write_seconds": round(done.made.write_seconds, 2),
        "peak_memory_bytes": done.taken.peak_memory_bytes,
        "events_per_second": round(rates[0]),
        "events_per_second_with_snapshots": round(rates[1]),
        "snapshot_every_seconds": SNAPSHOT_EVERY_S,
        "slower": round(slower, 4),
        "slower_at_default_interval": round(slower * SNAPSHOT_EVERY_S / default_every_s, 4),
    }
    _print_restore(results)
    return results


def _backlog(
    args: argparse.Namespace,
    kafka: dict[str, str | int | float | bool],
    topic: str,
    show: Callable[[str, int, int], None],
    snapshots: Snapshots | None,
) -> tuple[Throughput | None, Sent]:
    """Sends a backlog and takes it; None where it was stopped."""
    from stream.bench.measure import Processes, clean, prepare, sending, throughput
    from stream.bench.shop import Task

    config = prepare(kafka, topic, snapshots)
    try:
        task = Task(kafka=kafka, topic=topic, task="backlog", events=args.events)
        with sending(task, lambda count: show("backlog", min(count, args.events), args.events)) as wait:
            sent = wait()
        if args.stop.is_set():
            return None, sent
        processes = Processes(ingest=args.ingests, forecast=args.forecasts)
        result = throughput(config, topic, sum(sent.messages.values()), show, args.stop, processes, snapshots)
    finally:
        clean(config)
    return None if args.stop.is_set() else result, sent


def _kafka(args: argparse.Namespace, servers: str) -> dict[str, str | int | float | bool]:
    from stream.kafka.resting import REST

    return {"bootstrap.servers": servers} if args.kafka is not None else {"bootstrap.servers": servers, REST: REST_MS}


def _print_restore(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    mib = 2**20
    table = Table("", "", title=f"nowcart bench --restore on {results['broker']}", show_header=False, title_justify="left")
    table.add_row("snapshot", f"{results['items']:,} items, {results['bytes_per_item']:,} bytes an item with all its state")
    table.add_row("written", f"{results['written_bytes'] / mib:,.0f} MiB in {results['write_seconds']:.1f} s, to a local folder")
    table.add_row(
        "restored",
        f"[bold]{results['seconds_to_first_commit']:.1f} s from the process's start to its first commit[/bold] "
        f"({results['restore_seconds']:.1f} s of them reading and taking up the state)",
    )
    table.add_row("peak memory", f"{results['peak_memory_bytes'] / mib:,.0f} MiB")
    table.add_row(
        "throughput",
        f"{results['events_per_second']:,} events/s without snapshots, {results['events_per_second_with_snapshots']:,} "
        f"with one every {results['snapshot_every_seconds']:g} s",
    )
    table.add_row(
        "snapshots cost",
        f"{results['slower']:.1%} of throughput so, {results['slower_at_default_interval']:.2%} at the default interval",
    )
    Console().print(table)


def _progress(bar: Any, unit: str = "events") -> Callable[[str, int, int], None]:
    tasks: dict[str, Any] = {}

    def show(what: str, done: int, of: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=of, unit=unit)
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
        "latency_ms": {"rate": args.rate, "p50": waits["p50"], "p99": waits["p99"]},
        "steady_cores": waits["cores"],
        "peak_memory_bytes": result.peak_memory_bytes,
    }


def _print(args: argparse.Namespace, results: dict[str, Any], sent: Sent, result: Throughput) -> None:
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
        f"[bold]{results['events_per_second']:,} events/s[/bold] ({result.seconds:.1f} s, ingest done after {result.ingest_seconds:.1f} s)",
    )
    spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.cpu_seconds.items())
    table.add_row("processor time", f"{spent} ({args.ingests} and {args.forecasts} processes; the broker apart)")
    table.add_row("limit: consume and decode", f"{results['limit_events_per_second']:,} events/s")
    table.add_row("buckets closed", ticks)
    table.add_row("records, exactly once", f"{records}; {result.commits:,} transactions")
    lag = results["latency_ms"]
    steady = f"p50 {lag['p50']} ms, p99 {lag['p99']} ms at {lag['rate']:,.0f} events/s; {results['steady_cores']} cores busy"
    table.add_row("latency to commit", steady)
    broker = "not ours to see" if result.broker_memory_bytes is None else f"{result.broker_memory_bytes / 2**20:,.0f} MiB"
    table.add_row("peak memory", f"{results['peak_memory_bytes'] / 2**20:,.0f} MiB (the broker apart: {broker})")
    console.print(table)
    steps = Table("share of time", *STEPS, title="by step and stage", title_justify="left")
    for stage, seconds in sorted(result.step_seconds.items(), reverse=True):
        steps.add_row(stage, *[f"{seconds.get(step, 0.0) / result.seconds:.1%}" for step in STEPS])
    console.print(steps)
