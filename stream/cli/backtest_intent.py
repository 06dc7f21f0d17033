"""`nowcart backtest --intent`: what the engine and its peers would have said of each session, event by event."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream.cli.frame import positive, progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stream.backtest.intent_run import Oracle, Task
    from stream.config import Config, Source
    from stream.mapping import Piece

log = logging.getLogger("nowcart.backtest")

SHOWN = (("log loss", "log_loss", ".4f"), ("gain", "gain", ".1%"), ("AUC", "auc", ".3f"), ("avg. precision", "average_precision", ".3f"),
         ("calibration", "calibration_error_ratio", ".1%"))  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    """Describes the options."""
    group = parser.add_argument_group("purchase intent instead of demand")
    group.add_argument(
        "--intent", metavar="CONFIG", type=Path, help="replay a clickstream through the engine of this configuration; no FILE then"
    )
    group.add_argument(
        "--source",
        metavar="NAME=FILE",
        help="the clickstream's source and its messages: .csv, .tsv, .ndjson, .jsonl or .parquet, as they came",
    )
    group.add_argument(
        "--simulate", metavar="EVENTS", type=positive(int), help="a simulated shop instead of a file, and its oracle beside the models"
    )
    group.add_argument("--shop", metavar="K=V,…", default="", help="with --simulate: its parameters (rate=4,seed=2,conversion=0.04 …)")
    group.add_argument(
        "--change",
        metavar="SHARE",
        type=float,
        help="with --simulate: the conversion halves at this share of the time; scored from a day later on",
    )
    group.add_argument("--train", metavar="SHARE", type=float, default=0.5, help="of the time, in front, to train on (default: 0.5)")
    group.add_argument(
        "--blocks",
        metavar="N",
        type=positive(int),
        help="test-then-train over N blocks of time of as many events each, pooled, all trained anew before each",
    )
    group.add_argument("--epochs", metavar="N", type=positive(int), default=8, help="of the recurrent model's training (default: 8)")
    group.add_argument(
        "--peers", metavar="A,B", default="logistic_regression,xgboost,lightgbm", help="compared; empty: none (default: all)"
    )


def run(args: argparse.Namespace) -> int:
    """Replays, trains, scores, prints."""
    from stream.backtest.intent_peers import PEERS
    from stream.backtest.intent_record import clickstream_of
    from stream.backtest.intent_report import write_report
    from stream.backtest.intent_run import backtest
    from stream.config import load
    from stream.tables import UserError

    if (args.source is None) == (args.simulate is None):
        raise UserError("backtest --intent must have one of --source NAME=FILE and --simulate EVENTS")
    if not 0 < args.train < 1:
        raise UserError(f"--train must be between 0 and 1; got {args.train:g}")
    if args.change is not None and not args.train < args.change < 1:
        raise UserError(f"--change must be between --train and 1; got {args.change:g}")
    peers = tuple(name for name in args.peers.split(",") if name)
    for name in peers:
        if name not in PEERS:
            raise UserError(f"--peers must be of {', '.join(PEERS)}; got {name!r}")
    config = load(args.intent)
    name, _, file = (args.source or "").partition("=")
    source = clickstream_of(config, name or None)
    with progress_bar() as bar:
        task_id = bar.add_task("replaying", total=None)

        def tell(what: str, done: int) -> None:
            bar.update(task_id, description=f"{what} {done:,}" if done else what)

        if args.simulate is None:
            pieces, times = _file(config, source, file)
            oracle = None
        else:
            pieces, times, oracle = _shop(args, config)
        result = backtest(config, source, pieces, _task(args, config, times, peers), oracle, tell)
    show(result.table)
    if args.json is not None:
        args.json.write_text(json.dumps(result.table, indent=1), encoding="utf-8")
    if args.report is not None:
        write_report(args.report, result)
        log.info("%s: the report", args.report)
    return 0


def _task(args: argparse.Namespace, config: Config, times: NDArray[np.int64], peers: tuple[str, ...]) -> Task:
    import numpy as np

    from models.train.intent import Training
    from stream.backtest.intent_run import Task, day_cuts
    from stream.engine.features import OPTIONAL_COLUMNS
    from stream.engine.time import DAY_MS, Zone

    first_ms, last_ms = int(times[0]), int(times[-1])
    span, training = last_ms - first_ms, Training(epochs=args.epochs, optional=OPTIONAL_COLUMNS)
    if args.blocks is not None:
        cuts = tuple(np.unique(times[[len(times) * block // args.blocks for block in range(1, args.blocks)]]).tolist())
        return Task(cuts, 0, None, True, peers, training)
    cut = first_ms + int(span * args.train)
    warm = int(span * 0.08) if args.change is None else first_ms + int(span * args.change) + DAY_MS - cut
    return Task(day_cuts(cut, last_ms, Zone(config.time.zone)), warm, None, False, peers, training)


def _file(config: Config, source: Source, file: str) -> tuple[Iterator[Piece], NDArray[np.int64]]:
    """The messages as they stand in the file; the events' times, ascending."""
    import numpy as np

    from stream.backtest.intent_record import pieces_of
    from stream.engine.time import Zone
    from stream.mapping import Decoder
    from stream.replay.formats import open_table
    from stream.tables import UserError

    if not file:
        raise UserError("--source must be NAME=FILE: a source of the configuration, and its messages")
    table = open_table(Path(file))
    decoder, found = Decoder(source, config.time, Zone(config.time.zone)), []
    for piece in pieces_of(part.values for part in table.pieces(())):
        times = decoder.decode(piece).rows.time_ms
        if len(times):
            found.append(times)
    if not found:
        raise UserError(f"{file} must hold events that [sources.{source.name}] understands; got none: see `nowcart check`")
    return pieces_of(part.values for part in table.pieces(())), np.sort(np.concatenate(found))


def _shop(args: argparse.Namespace, config: Config) -> tuple[Iterator[Piece], NDArray[np.int64], Oracle]:
    """A simulated shop's messages, times from its first to its last event, evenly, and what it knows."""
    import msgspec
    import numpy as np

    from stream.backtest.intent_oracle import oracle
    from stream.mapping import Piece
    from stream.simulate import Shop
    from stream.tables import UserError

    changes: dict[str, Any] = {"zone": config.time.zone, "rate": 4.0}
    for pair in filter(None, args.shop.split(",")):
        key, sign, value = pair.partition("=")
        if not sign:
            raise UserError(f"--shop must be KEY=VALUE,…; got {pair!r}")
        try:
            changes[key.strip()] = json.loads(value)
        except ValueError:
            changes[key.strip()] = value.strip()
    try:
        shop = Shop(**changes)
        span_ms = int(args.simulate / shop.spec.rate * 1000)
        start_ms = shop.spec.start_ms
        if args.change is not None:
            shop = Shop(**changes, conversion_change=(start_ms + int(span_ms * args.change), 0.5))
    except (ValueError, TypeError, msgspec.ValidationError) as error:
        raise UserError(f"no shop can be so: {error}") from error
    clicks: list[Any] = []

    def pieces() -> Iterator[Piece]:
        offset = 0
        for chunk in shop.events(count=args.simulate, chunk_events=20_000):
            messages = chunk.sources["clicks"]
            clicks.append(messages.rows)
            yield Piece(list(range(offset, offset + len(messages))), messages.arrival_ms.tolist(), list(messages.values))
            offset += len(messages)

    times = np.linspace(start_ms, start_ms + span_ms, 1_000).astype(np.int64)
    return pieces(), times, lambda events, chosen: oracle(shop, np.concatenate(clicks), events, chosen)


def show(table: dict[str, Any]) -> None:
    """Prints the scores.

    Args:
        table: of a Result.
    """
    counts = table["counts"]
    scored = f"{counts['scored_sessions']:,} sessions, {counts['buyers_scored']:,} buy; {counts['robots_left_out']:,} robots left out"
    print(f"{counts['events']:,} events, {counts['sessions']:,} sessions; scored: {scored}")
    for at in ("overall", *map(str, table["settings"]["positions"])):
        first = next(iter(table["models"].values()))[at]
        if not first["n"]:
            continue
        where = "overall, each session weighs the same" if at == "overall" else f"after {at} event{'s' if at != '1' else ''}"
        print(
            f"\n{where}: {first['n']:,} at risk, {first['base_rate']:.2%} buy, log loss of the base rate {first['base_rate_log_loss']:.4f}"
        )
        print(f"  {'':22}" + "".join(f"{title:>16}" for title, _, _ in SHOWN))
        for name, found in table["models"].items():
            cells = [found[at].get(key) for _, key, _ in SHOWN]
            print(
                f"  {name:22}"
                + "".join(f"{'-' if cell is None else format(cell, form):>16}" for cell, (_, _, form) in zip(cells, SHOWN, strict=True))
            )
    named = table["next_items"]
    if named["n"]:
        print(f"\nnext item among the {named['named']} named, of {named['n']:,} events{'hit rate':>14}{'mean reciprocal rank':>24}")
        for name, found in named["methods"].items():
            print(f"  {name:22}{found['hit_rate']:>35.1%}{found['mrr']:>24.3f}")
    print("\nlog loss of nowcart less that of …, overall, 95 % by bootstrap over sessions")
    for name, found in table["models"].items():
        if "paired" in found:
            gap = found["paired"]
            print(f"  {name:22}{gap['difference']:+.5f}  [{gap['low']:+.5f}, {gap['high']:+.5f}]")
