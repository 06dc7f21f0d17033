"""What the backtests on the real shops' files share: where the files are, how a prepared table is run and printed."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from stream.backtest.data import Dataset, Round, cut_rounds
from stream.backtest.method import Method, Task
from stream.backtest.nowcart import Nowcart
from stream.backtest.out import write_predictions
from stream.backtest.peers import make_methods
from stream.backtest.run import Backtest, backtest, summary
from stream.backtest.shape import Layout, Read, read_table, step_of
from stream.cli.backtest import LEVELS, print_table
from stream.cli.frame import progress_bar
from stream.runners.forecast import probes
from stream.tables import UserError


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a shop's history is cut."""

    name: str
    layout: Layout
    horizon: int
    rounds: int
    step: int
    gap: int
    until: str
    totals: tuple[int, ...]


class Verdict(NamedTuple):
    """What is asked, what was reached, and whether that is enough."""

    asked: str
    reached: str
    good: bool


def print_verdicts(verdicts: Sequence[Verdict]) -> bool:
    """A line each; whether all are good.

    Args:
        verdicts: of a benchmark.
    """
    print("\nasked and reached")
    for asked, reached, good in verdicts:
        print(f"  {'yes' if good else 'NO ':3} {asked}: {reached}")
    return all(verdict.good for verdict in verdicts)


def asking(methods: Sequence[Method]) -> list[Method]:
    """The same methods; the engine's experts are asked for their opinions.

    Args:
        methods: of a benchmark.
    """
    for method in methods:
        if isinstance(method, Nowcart):
            method.opinions = True
    return list(methods)


def data_file(name: str) -> Path:
    """A file of the real shops: in NOWCART_TEST_DATA, else beside the checkout, as the tests find it.

    Raises:
        UserError: it is not there.
    """
    folder = Path(os.environ.get("NOWCART_TEST_DATA") or Path(__file__).resolve().parent.parent.parent / "shared" / "data")
    if not (folder / name).is_file():
        raise UserError(f"the file {name} must be in {folder}; it is not: name its folder in NOWCART_TEST_DATA")
    return folder / name


def cut(table: pa.Table, protocol: Protocol) -> tuple[Dataset, tuple[Round, ...], Task]:
    """The history, its rounds and the task by a protocol.

    Args:
        table: prepared.
        protocol: of the shop.
    """
    return cut_read(read_table(table, protocol.layout, protocol.name), protocol)


def cut_read(read: Read, protocol: Protocol) -> tuple[Dataset, tuple[Round, ...], Task]:
    """The same of a table that was read.

    Args:
        read: by the protocol's layout.
        protocol: of the shop.
    """
    rounds = cut_rounds(read.data, protocol.horizon, protocol.rounds, protocol.step, protocol.gap, step_of(read, protocol.until))
    task = Task(protocol.horizon, LEVELS, protocol.totals, probes(protocol.horizon), workers=os.cpu_count() or 1)
    return read.data, rounds, task


def run(data: Dataset, rounds: Sequence[Round], task: Task, methods: Sequence[Method]) -> Backtest:
    """A backtest with a progress bar where stderr is a terminal, else a line on stderr a method.

    Args:
        data: the history.
        rounds: of it.
        task: what is asked.
        methods: that are compared.
    """
    began = time.monotonic()
    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def told(name: str, share: float) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=len(rounds), unit="rounds")
                if not sys.stderr.isatty():
                    print(f"{time.monotonic() - began:7.0f} s  {name}", file=sys.stderr, flush=True)
            bar.update(tasks[name], completed=share * len(rounds))

        return backtest(data, rounds, task, methods, told)


def main(
    description: str,
    protocol: Protocol,
    prepare: Callable[[], pa.Table],
    models: str,
    published: Sequence[tuple[str, str]],
    asked: Callable[[Backtest, dict[str, Any]], list[Verdict]],
    extra: Sequence[Callable[[], Method]] = (),
) -> int:
    """Prepares, runs, prints the table, the published figures and what is asked; status 1 where something asked for was not reached.

    Args:
        description: of the script.
        protocol: of the shop.
        prepare: makes the table.
        models: by default, as --models has them.
        published: lines of (what, figure).
        asked: of the engine, by a backtest and its summary.
        extra: methods of the script's own, run last.
    """  # fmt: skip
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--models", default=models, help=f"default: {models}")
    parser.add_argument("--rounds", type=int, default=protocol.rounds)
    parser.add_argument("--until", default=protocol.until, help="of the last round: to tune on, end before the test's rounds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--predictions", type=Path, help="every forecast, Parquet; benchmarks.mixture asks what averages of two are worth")
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    from dataclasses import replace

    try:
        read = read_table(prepare(), protocol.layout, protocol.name)
        data, rounds, task = cut_read(read, replace(protocol, rounds=args.rounds, until=args.until))
        result = run(data, rounds, task, asking([*make_methods(args.models.split(","), data), *(make() for make in extra)]))
        scores = summary(result)
        print_table(scores)
        print(f"\n{protocol.name}: published, or reached before, on the same protocol")
        for what, figure in published:
            print(f"  {what:<58}{figure}")
        if args.json is not None:
            args.json.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
        if args.predictions is not None:
            write_predictions(args.predictions, result, read.times)
        if args.report is not None:
            from stream.backtest.report import write_report

            write_report(args.report, result, scores)
        from benchmarks.council import print_council

        verdicts = asked(result, scores) if "nowcart" in scores["models"] else []
        for outcome in result.outcomes:
            verdicts += print_council(result, outcome) if outcome.opinions else []
        return 0 if print_verdicts(verdicts) else 1
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
