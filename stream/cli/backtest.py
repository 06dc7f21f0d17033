"""`nowcart backtest`: what the engine and its peers would have forecast, round by round, and what that was worth."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream.cli import backtest_intent
from stream.cli.columns import layout_of, names
from stream.cli.frame import Lines, Subparsers, add_command, positive, progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress

    from stream.backtest.data import Dataset, Round
    from stream.backtest.method import Task
    from stream.backtest.run import Backtest

log = logging.getLogger("nowcart.backtest")

LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""As [demand] quantiles has them."""
TOTALS = (7, 14)
"""As [demand] totals has them."""
MODELS = "nowcart,seasonal_naive"
KNOWN = (
    *("nowcart", "mean", "naive", "seasonal_naive", "zeros", "empirical_quantiles", "empirical_quantiles_56", "empirical_quantiles_84"),
    *("auto_ets", "auto_theta", "auto_arima", "mstl", "croston_sba", "tsb", "ar_k", "mlp", "lstm", "gru", "lightgbm", "lightgbm_mape"),
)
"""As stream.backtest.peers has them, which takes too long to be asked for --help."""


def add(subparsers: Subparsers) -> None:
    """Describes the command."""
    parser = add_command(
        subparsers,
        "backtest",
        run,
        "cut a history into rounds, forecast each from what lay before it, and score that, beside other methods",
        "nowcart backtest sales.csv --item sku --time day --target units --fill zero --horizon 14 --step 13 --report out.html\n"
        "nowcart backtest sales.parquet --item store,brand --time week --target units --freq W --horizon 2 --rounds 10 --step 2 --gap 1 "
        "--until 156 --known price,deal,feat --static category --season 52 --models nowcart,seasonal_naive,lightgbm,auto_arima@50 "
        "--predictions out.parquet --json out.json --report out.html",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        nargs="?",
        help="a history: .csv, .tsv, .ndjson, .jsonl (each perhaps with .gz) or .parquet, a row an item and time",
    )
    columns = parser.add_argument_group("what the columns mean")
    columns.add_argument("--item", metavar="A,B", type=names, help="columns that make an item's key")
    columns.add_argument("--time", metavar="COLUMN", help="dates, stamps or whole numbers (1 is one step)")
    columns.add_argument("--target", metavar="COLUMN", help="units; empty: unknown")
    columns.add_argument(
        "--known",
        metavar="A,B",
        type=names,
        default=(),
        help="known ahead: price, promotion …; text of few values becomes one column of 0 and 1 for each",
    )
    columns.add_argument(
        "--holidays",
        metavar="COUNTRY",
        default="",
        help="its public holidays are known ahead, as a covariate `holiday`: GB, US-CA …",
    )
    columns.add_argument("--past", metavar="A,B", type=names, default=(), help="known only when their time has come")
    columns.add_argument("--static", metavar="A,B", type=names, default=(), help="never changing: category, brand …")
    columns.add_argument("--censored", metavar="COLUMN", help="true where stock cut sales off: not scored, and a lower bound to learn from")
    steps = parser.add_argument_group("steps and rounds")
    steps.add_argument("--freq", metavar="F", help="length of a step: D, W, H, 15m, M … (default: seen from the times)")
    steps.add_argument("--horizon", metavar="N", type=positive(int), help="steps forecast in a round")
    steps.add_argument("--rounds", metavar="N", type=positive(int), default=5, help="how many (default: 5)")
    steps.add_argument("--step", metavar="N", type=positive(int), help="steps between two cuts (default: the horizon)")
    steps.add_argument("--gap", metavar="N", type=_count, default=0, help="steps before a cut that it does not see (default: 0)")
    steps.add_argument("--until", metavar="TIME", help="of the last step scored (default: the last)")
    steps.add_argument(
        "--season",
        metavar="N,M",
        type=_seasons,
        help="season lengths in steps, the one that scales MASE first; 1 for none (default: by --freq)",
    )
    steps.add_argument(
        "--fill",
        choices=("zero", "none"),
        default="none",
        help="a missing row means no demand, from an item's first row on, or that nothing is known (default: none)",
    )
    steps.add_argument("--zone", metavar="ZONE", default="UTC", help="of local days, and of stamps without one (default: UTC)")
    models = parser.add_argument_group("methods")
    models.add_argument(
        "--models",
        metavar="A,B",
        type=names,
        default=names(MODELS),
        help=f"compared, of {', '.join(KNOWN)}; NAME@N: on a sample of N items (default: {MODELS})",
    )
    models.add_argument("--quantiles", metavar="P,Q", type=_levels, default=LEVELS, help=f"levels (default: {','.join(map(str, LEVELS))})")
    models.add_argument(
        "--totals",
        metavar="N,M",
        type=_counts,
        help="lead times for quantiles of sums (default: 7,14 as far as the horizon goes, else the horizon)",
    )
    models.add_argument(
        "--retrain", choices=("always", "never"), default="always", help="train in every round, or before the first alone (default: always)"
    )
    models.add_argument("--adapt", action="store_true", help="go on learning between rounds, as live")
    models.add_argument("--device", metavar="NAME", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    backtest_intent.add(parser)
    out = parser.add_argument_group("what is written")
    out.add_argument("--predictions", metavar="FILE", type=Path, help="every forecast, Parquet")
    out.add_argument("--json", metavar="FILE", type=Path, help="all scores")
    out.add_argument("--report", metavar="FILE", type=Path, help="one self-contained page of HTML")


def run(args: argparse.Namespace) -> int:
    """Reads, cuts, forecasts, scores, prints."""
    if args.intent is not None:
        return backtest_intent.run(args)
    _require_given(args)
    from stream.backtest.data import cut_rounds
    from stream.backtest.out import write_json, write_predictions
    from stream.backtest.peers import make_methods
    from stream.backtest.run import backtest, summary
    from stream.backtest.shape import read_dataset, step_of

    for path in (args.predictions, args.json, args.report):
        _require_folder(path)
    read = read_dataset(args.file, layout_of(args, args.zone, args.season, args.holidays))
    data = read.data
    log.info(
        "%s: %s rows, %s items, %s steps of %s", args.file, f"{read.rows:,}", f"{len(data.items):,}", f"{data.steps:,}", data.frequency.name
    )
    for note in read.notes:
        log.info("%s", note)
    until = None if args.until is None else step_of(read, args.until)
    rounds = cut_rounds(data, args.horizon, args.rounds, args.step or args.horizon, args.gap, until)
    log.info("%s", told(data, rounds))
    methods = make_methods(args.models, data)
    with progress_bar() as bar:
        result = backtest(data, rounds, task_of(args), methods, _Shown(bar, len(rounds)))
    scores = summary(result)
    print_table(scores)
    if args.json is not None:
        write_json(args.json, scores)
    if args.predictions is not None:
        written = write_predictions(args.predictions, result, read.times)
        log.info("%s: %s forecasts", args.predictions, f"{written:,}")
    if args.report is not None:
        _report(args.report, result, scores)
    return 0


def _require_given(args: argparse.Namespace) -> None:
    """What a backtest of demand cannot do without."""
    from stream.tables import UserError

    given = {"FILE": args.file, "--item": args.item, "--time": args.time, "--target": args.target, "--horizon": args.horizon}
    missing = [name for name, value in given.items() if value is None]
    if missing and args.models != ("help",):
        raise UserError(f"the following arguments are required: {', '.join(missing)} (or --intent CONFIG)")


def _report(path: Path, result: Backtest, scores: dict[str, Any]) -> None:
    from stream.backtest.report import write_report

    write_report(path, result, scores)
    log.info("%s: the report", path)


def task_of(args: argparse.Namespace) -> Task:
    """What the arguments ask of the methods."""
    from stream.backtest.method import Task
    from stream.runners.forecast import probes
    from stream.tables import UserError

    totals = args.totals
    if totals is None:
        totals = tuple(steps for steps in TOTALS if steps <= args.horizon) or ((args.horizon,) if args.horizon > 1 else ())
    if any(steps > args.horizon for steps in totals):
        raise UserError(f"--totals must be of at most --horizon ({args.horizon}) steps; got {','.join(map(str, totals))}")
    return Task(
        horizon=args.horizon,
        levels=args.quantiles,
        totals=totals,
        groups=probes(args.horizon),
        retrain=args.retrain,
        adapt=args.adapt,
        device=args.device,
        workers=os.cpu_count() or 1,
    )


def told(data: Dataset, rounds: tuple[Round, ...]) -> str:
    """The rounds in a sentence."""
    import numpy as np

    first, last = rounds[0], rounds[-1]
    at = data.first_step + np.array([first.cut, last.cut, last.cut + last.horizon - 1], dtype=np.int64)
    begin, cut, end = data.frequency.texts(at, data.zone)
    return f"{len(rounds)} rounds of {first.horizon} steps, the first from {begin}, the last from {cut} to {end}; season {data.season}"


class _Shown:
    """Progress of one method after the other."""

    def __init__(self, bar: Progress, rounds: int) -> None:
        self._bar = bar
        self._rounds = rounds
        self._tasks: dict[str, Any] = {}
        self._lines = Lines(log)

    def __call__(self, name: str, share: float) -> None:
        self._lines(name, share)
        if name not in self._tasks:
            for task in self._tasks.values():
                self._bar.update(task, visible=False)
            self._tasks[name] = self._bar.add_task(name, total=self._rounds, unit="rounds")
        self._bar.update(self._tasks[name], completed=share * self._rounds)


_COLUMNS = (
    ("WQL", "wql", "{:.4f}"),
    ("WAPE", "wape", "{:.4f}"),
    ("WAPE mean", "wape_mean", "{:.4f}"),
    ("MAPE", "mape", "{:.4f}"),
    ("MASE", "mase", "{:.3f}"),
    ("RMSE", "rmse", "{:.4g}"),
    ("bias", "bias", "{:+.3f}"),
)


def print_table(scores: dict[str, Any]) -> None:
    """The scores on stdout, a row a method; behind it how sure the differences to the first are.

    Args:
        scores: of summary().
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    models = scores["models"]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    covered: dict[str, Any] = max((one["coverage"] for one in models.values()), key=len, default={})
    span = min(covered, key=lambda name: abs(float(name) - 0.8), default=None)
    heads = [head for head, _, _ in _COLUMNS] + ([f"in {float(span):.0%}"] if span else []) + ["seconds", "n"]
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for name, one in models.items():
        cells = [shown(one[key], form) for _, key, form in _COLUMNS]
        if span:
            kept = one["coverage"][span]
            cells.append("–" if kept["closed"] is None else f"{kept['open']:.1%}–{kept['closed']:.1%}")
        table.add_row(name, *cells, f"{one['seconds']:.1f}", f"{one['n']:,}")
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(table)
    if span:
        console.print(
            f"in {float(span):.0%}: share of actuals inside that interval, its ends left out and counted in; lower scores are better"
        )
    _print_paired(console, scores)


def _print_paired(console: Any, scores: dict[str, Any]) -> None:
    first = next(iter(scores["models"]))
    rows = [pair for pair in scores["paired"] if pair["model"] == first]
    if not rows:
        return
    console.print(f"\n{first}'s WQL less the others' (95 % interval, clustered by item and round; below 0: {first} is better)")
    width = max(len(pair["against"]) for pair in rows)
    for pair in rows:
        interval = "one round or item: no interval" if pair["low"] is None else f"{pair['low']:+.4f} to {pair['high']:+.4f}"
        console.print(f"  {pair['against']:<{width}}  {pair['wql_difference']:+.4f}  ({interval})")


def shown(value: float | None, form: str) -> str:
    """A score in a table; a dash where undefined."""
    return "–" if value is None else form.format(value)


def _require_folder(path: Path | None) -> None:
    from stream.tables import UserError

    if path is not None and not path.absolute().parent.is_dir():
        raise UserError(f"{path} must be in a folder that is there; {path.absolute().parent} is not: create it")


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more; got {text!r}")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({positive(int)(part) for part in text.split(",")}))


def _seasons(text: str) -> tuple[int, ...]:
    return tuple(positive(int)(part) for part in text.split(","))


def _levels(text: str) -> tuple[float, ...]:
    try:
        levels = tuple(float(part) for part in text.split(","))
    except ValueError:
        levels = ()
    if not levels or list(levels) != sorted(set(levels)) or not 0 < levels[0] <= levels[-1] < 1:
        raise argparse.ArgumentTypeError(f"must be numbers between 0 and 1, ascending, such as 0.1,0.5,0.9; got {text!r}")
    return levels
