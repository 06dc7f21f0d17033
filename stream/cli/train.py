"""`nowcart train`: the forecasts' networks, from history; once, or for ever beside the engine."""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream.cli.columns import layout_of, names
from stream.cli.frame import Lines, Subparsers, add_command, add_config, positive, progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress

    from stream.config import Config
    from stream.state.artefacts import Announcement
    from stream.train.history import History
    from stream.train.run import Made, Plan

log = logging.getLogger("nowcart.train")


def add(subparsers: Subparsers) -> None:
    """Describes the command."""
    parser = add_command(
        subparsers,
        "train",
        run,
        "train the forecasts' networks, or the model of intent, from history, write them as a version, and tell running engines to take it",
        "nowcart train shop.toml\nnowcart train shop.toml --intent\nnowcart train shop.toml --follow --interval 1d\n"
        "nowcart train shop.toml --announce demand-1d-20261128T0000-ab12cd\n"
        "nowcart train shop.toml --history sales.parquet --item store,article --time day --target units --fill zero",
        graceful=True,
    )
    add_config(parser)
    parser.add_argument("--size", metavar="A,B", type=names, default=(), help="only these bucket sizes (default: all of [demand])")
    parser.add_argument("--members", metavar="N", type=positive(int), default=4, help="networks whose outputs are averaged (default: 4)")
    parser.add_argument(
        "--trees",
        choices=("auto", "never", "always"),
        default="auto",
        help="train boosted trees beside the networks; they take seconds a tick for ten thousand items: auto: for buckets of a day or a week",
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of all that is drawn (default: 0)")
    parser.add_argument(
        "--pretrain",
        choices=("auto", "never", "always"),
        default="auto",
        help="teach the first layers to fill in hidden stretches of items' pasts before; auto: where that forecasts the newest part better",
    )
    parser.add_argument("--finetune", choices=("full", "frozen"), default="full", help="frozen: pretrained layers stay as they are")
    parser.add_argument("--epochs", metavar="N", type=positive(int), help="at most (default: by the number of examples)")
    parser.add_argument("--dry-run", action="store_true", help="train and judge; write and announce nothing")
    parser.add_argument("--log-dir", metavar="DIR", type=Path, help="write TensorBoard event files there (needs nowcart[train])")
    parser.add_argument("--wandb", metavar="PROJECT", help="log to this project of Weights & Biases (needs the package wandb)")
    by_hand = parser.add_argument_group("by hand")
    by_hand.add_argument(
        "--announce",
        metavar="VERSION",
        help="train nothing: let engines take this version, be it an older one; builtin-1: none at all (of intent: builtin-2)",
    )
    by_hand.add_argument("--list", action="store_true", help="train nothing: list the versions in the store")
    going_on = parser.add_argument_group("going on")
    going_on.add_argument(
        "--follow",
        action="store_true",
        help="follow the activity topic, train as data come, and promote a challenger once it has proved better on live forecasts",
    )
    going_on.add_argument("--interval", metavar="TIME", default="1d", help="of event time between two trainings (default: 1d)")
    going_on.add_argument("--until-end", action="store_true", help="with --follow: stop at the topic's present end")
    intent = parser.add_argument_group("purchase intent instead of demand")
    intent.add_argument(
        "--intent", action="store_true", help="train the recurrent model of sessions, on what the clickstream's topic still holds"
    )
    intent.add_argument(
        "--source",
        metavar="NAME=FILE",
        help="or on a file: the clickstream's source and its messages, .csv, .tsv, .ndjson, .jsonl or .parquet, as they came",
    )
    file = parser.add_argument_group("from a file instead of the activity topic (columns as for nowcart backtest)")
    file.add_argument("--history", metavar="FILE", type=Path, help="a row an item and time")
    file.add_argument("--item", metavar="A,B", type=names, help="columns that make an item's key")
    file.add_argument("--time", metavar="COLUMN")
    file.add_argument("--target", metavar="COLUMN")
    file.add_argument("--known", metavar="A,B", type=names, default=())
    file.add_argument("--past", metavar="A,B", type=names, default=())
    file.add_argument("--static", metavar="A,B", type=names, default=())
    file.add_argument("--censored", metavar="COLUMN")
    file.add_argument("--freq", metavar="F")
    file.add_argument("--fill", choices=("zero", "none"), default="none")


def run(args: argparse.Namespace) -> int:
    """Trains, or does what is asked by hand."""
    from stream.config import load
    from stream.state.artefacts import open_artefacts
    from stream.tables import UserError

    config = load(args.config)
    sizes = [bucket.size for bucket in config.demand.buckets]
    unknown = [size for size in args.size if size not in sizes]
    if unknown:
        raise UserError(f"--size must be of the bucket sizes of [demand] ({', '.join(sizes)}); got {', '.join(unknown)}")
    if args.list:
        return _list(config)
    if args.announce is not None:
        return _announce_by_hand(config, args.announce, args.size)
    if args.intent:
        return _train_intent(config, args)
    if args.source is not None:
        raise UserError("--source goes with --intent; got it without: add --intent, or name a history of demand with --history")
    if args.follow:
        return _follow(config, args)
    from stream.train.curves import Curves
    from stream.train.run import train_all

    history = _history(config, args)
    plan = _plan(args)
    if not args.dry_run and args.history is None:
        _require_topic(config)
    with closing(Curves(args.log_dir, args.wandb, {"members": plan.members, "seed": plan.seed})) as curves, progress_bar() as bar:
        made = train_all(config, history, plan, _Shown(bar), curves.record)
    if not made:
        raise UserError(
            f"there must be enough to learn from in {history.source}: 24 buckets and 200 examples beside the newest part that is judged by: "
            "bring more history"
        )
    print_table(made)
    if args.dry_run:
        log.info("--dry-run: nothing was written")
        return 0
    artefacts = open_artefacts(config)
    announcements = [artefacts.write(each.card, each.arrays, why="trained") for each in made]
    for each in made:
        log.info("%s: %s bytes in %s", each.card.version, f"{each.card.bytes:,}", config.state.url)
        if not each.better:
            log.warning(
                "%s forecast the newest part no better than the engine without it: the council will give it little weight",
                each.card.version,
            )
    _announce(config, announcements)
    return 0


_INTENT_EPOCHS = 8


def _train_intent(config: Config, args: argparse.Namespace) -> int:
    from stream.backtest.intent_record import clickstream_of
    from stream.state.artefacts import open_artefacts
    from stream.tables import UserError
    from stream.train.intent import from_file, from_topic, train

    for name in ("history", "follow", "size"):
        if getattr(args, name):
            raise UserError(f"--{name} is about demand; got it with --intent: leave one of them out")
    name, _, file = (args.source or "").partition("=")
    if args.source is not None and not file:
        raise UserError(f"--source must be NAME=FILE: a source of the configuration, and its messages; got {args.source!r}")
    source = clickstream_of(config, name or None)
    if not args.dry_run:
        _require_topic(config)
    with progress_bar() as bar:
        task = bar.add_task("reading", total=None)

        def told(what: str, done: int, of: int) -> None:
            bar.update(task, description=what, completed=done, total=of or None)

        parts = from_topic(config, source, told) if args.source is None else [from_file(config, source, Path(file), told)]
        where = source.topic if args.source is None else file
        card, weights = train(config, where, parts, args.epochs or _INTENT_EPOCHS, args.seed, told)
    held = card.metrics["network"]
    print(
        f"{card.version}: {card.data.items:,} sessions, {card.metrics['buyers']:,} buy; log loss of the newest {held['log_loss']:.4f} "
        f"(of their base rate {held['base_rate_log_loss']:.4f})"
    )
    if held["log_loss"] >= held["base_rate_log_loss"]:
        log.warning("%s says less of the newest sessions than their base rate: the other models will outweigh it", card.version)
    if args.dry_run:
        log.info("--dry-run: nothing was written")
        return 0
    announcement = open_artefacts(config).write(card, weights.arrays(), why="trained")
    log.info("%s: %s bytes in %s", card.version, f"{card.bytes:,}", config.state.url)
    _announce(config, [announcement])
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    from models.train.learning import Options
    from stream.train.run import Plan

    trees = {"auto": None, "never": False, "always": True}[args.trees]
    return Plan(args.members, args.seed, Options(args.pretrain, args.finetune, args.epochs), sizes=args.size, trees=trees)


def _history(config: Config, args: argparse.Namespace) -> History:
    from stream.tables import UserError
    from stream.train.history import ActivityHistory, FileHistory

    if args.history is None:
        given = [name for name in ("item", "time", "target", "known", "past", "static", "censored", "freq") if getattr(args, name)]
        if given:
            raise UserError(f"--{given[0]} goes with --history FILE; got it without: name the file, or leave it out")
        return ActivityHistory.open(config)
    missing = [f"--{name}" for name in ("item", "time", "target") if not getattr(args, name)]
    if missing:
        raise UserError(f"--history needs {', '.join(missing)}: say which columns those are")
    return FileHistory(config, args.history, layout_of(args, config.time.zone))


def _require_topic(config: Config) -> None:
    from stream.kafka.admin import Admin
    from stream.kafka.log import TopicMissing

    topic = config.output.topic("models")
    if topic not in Admin(config.kafka).topics():
        raise TopicMissing(f"the topic '{topic}' does not exist: create nowcart's topics with `nowcart topics CONFIG create`")


def _announce(config: Config, announcements: Sequence[Announcement]) -> None:
    from stream.train.announce import announce

    _require_topic(config)
    announce(config, announcements)
    for each in announcements:
        print(f"announced {each.version} for {each.size if each.model == 'intent' else f'buckets of {each.size}'}")


def _announce_by_hand(config: Config, version: str, sizes: Sequence[str]) -> int:
    from models.demand.forecaster import VERSION as BUILTIN
    from models.intent.weights import VERSION as INTENT_BUILTIN
    from stream.runners.weights import INTENT
    from stream.state.artefacts import Announcement, open_artefacts

    if version == BUILTIN:
        wanted = sizes or [bucket.size for bucket in config.demand.buckets]
        _announce(config, [Announcement(model="demand", version=BUILTIN, size=size, why="by hand") for size in wanted])
    elif version == INTENT_BUILTIN:
        _announce(config, [Announcement(model="intent", version=version, size=INTENT, why="by hand")])
    else:
        _announce(config, [open_artefacts(config).announcement(version, why="by hand")])
    return 0


def _list(config: Config) -> int:
    from stream.state.artefacts import ArtefactUnusable, open_artefacts

    artefacts = open_artefacts(config)
    for version in artefacts.versions():
        try:
            card, _ = artefacts.read(version)
            if card.model == "intent":
                held = card.metrics.get("network", {})
                print(
                    f"{version}  sessions, {card.data.items:,} of them, log loss {_shown(held.get('log_loss'))} "
                    f"(base rate {_shown(held.get('base_rate_log_loss'))})"
                )
                continue
            found = card.metrics.get("network", {}).get("wql"), card.metrics.get("untrained", {}).get("wql")
            print(
                f"{version}  buckets of {card.size}, {card.data.examples:,} examples, WQL {_shown(found[0])} (without {_shown(found[1])})"
            )
        except ArtefactUnusable as error:
            print(f"{version}  damaged: {error}")
    return 0


def _follow(config: Config, args: argparse.Namespace) -> int:
    from stream.tables import Table, UserError
    from stream.train.follow import follow

    if args.history is not None:
        raise UserError("--follow follows the activity topic; got --history too: leave one of them out")
    interval_ms = Table({"interval": args.interval}, "", ("interval",)).duration("interval", 0, least_ms=60_000)
    _require_topic(config)
    follow(config, _plan(args), interval_ms, args.stop, until_end=args.until_end, dry_run=args.dry_run)
    return 0


class _Shown:
    """Progress bars by what is being done."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, Any] = {}
        self._lines = Lines(log)

    def __call__(self, what: str, share: float) -> None:
        self._lines(what, share)
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=100, unit="%")
        self._bar.update(self._tasks[what], completed=round(100 * share))


def print_table(made: Sequence[Made]) -> None:
    """What was trained, beside the engine without it.

    Args:
        made: a row each.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("bucket", "version"):
        table.add_column(name, no_wrap=True)
    for name in ("examples", "epochs", "pretrained", "WQL", "without it", "WAPE", "without it"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in made:
        with_it, without = each.card.metrics["network"], each.card.metrics["untrained"]
        row = [each.card.size, each.card.version, f"{each.card.data.examples:,}", str(each.card.recipe["epochs"])]
        row += ["yes" if each.card.recipe["pretrained"] else "no", _shown(with_it["wql"]), _shown(without["wql"])]
        table.add_row(*row, _shown(with_it["wape"]), _shown(without["wape"]))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
