"""`nowcart snapshots`: the state store, for whoever looks after it."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from stream.cli.frame import Subparsers, add_command, add_config, positive, progress_bar

if TYPE_CHECKING:
    from stream.config import Config
    from stream.state.store import Snapshot, Store

log = logging.getLogger("nowcart.snapshots")

ACTIONS = ("list", "verify", "prune")
_WIDTH = 200
"""Of tables that go to a file or another program."""


def add(subparsers: Subparsers) -> None:
    """Describes the command."""
    parser = add_command(
        subparsers,
        "snapshots",
        run,
        "list, verify or prune the snapshots of nowcart's state",
        "nowcart snapshots shop.toml list\nnowcart snapshots shop.toml verify\nnowcart snapshots shop.toml prune --keep 1",
    )
    add_config(parser)
    parser.add_argument(
        "action",
        metavar="list|verify|prune",
        choices=ACTIONS,
        help="list: what there is, newest first; verify: read every part of every snapshot (status 1 where one is damaged); "
        "prune: delete old snapshots and parts that none needs, never a partition's newest intact one",
    )
    parser.add_argument(
        "--keep", metavar="N", type=positive(int), help="prune: snapshots of each partition that stay (default: state.keep)"
    )


def run(args: argparse.Namespace) -> int:
    """Does it, and prints what it found or deleted."""
    from stream.config import load
    from stream.state.store import open_store
    from stream.tables import UserError

    if args.keep is not None and args.action != "prune":
        raise UserError(f"--keep goes with prune; got it with {args.action}: leave it out")
    config = load(args.config)
    store = open_store(config)
    if args.action == "prune":
        return _prune(store, args.keep or config.state.keep)
    snapshots = store.list()
    if not snapshots:
        log.info("no snapshots of %s in %s", config.output.prefix, config.state.url)
    problems = _verify(store, snapshots) if args.action == "verify" else [snapshot.problem for snapshot in snapshots]
    _show(config, snapshots, problems, "whole" if args.action == "verify" else "complete")
    return 1 if args.action == "verify" and any(problems) else 0


def _verify(store: Store, snapshots: list[Snapshot]) -> list[str]:
    """What is wrong with each snapshot, "" where nothing is; every byte is read."""
    problems = []
    with progress_bar() as bar:
        task = bar.add_task("verifying", total=sum(_megabytes(snapshot) for snapshot in snapshots), unit="MB")
        done = 0

        def shown(before: int, read: int, _: int) -> None:
            bar.update(task, completed=before + read // 10**6)

        for snapshot in snapshots:
            problems.append(store.verify(snapshot, partial(shown, done)))
            done += _megabytes(snapshot)
            bar.update(task, completed=done)
    return problems


def _megabytes(snapshot: Snapshot) -> int:
    return snapshot.manifest.bytes // 10**6 if snapshot.manifest else 0


def _prune(store: Store, keep: int) -> int:
    pruned = store.prune(keep)
    for snapshot in pruned.snapshots:
        print(f"deleted {snapshot.key} at offset {snapshot.offset}{f' ({snapshot.problem})' if snapshot.problem else ''}")
    print(f"deleted {len(pruned.snapshots)} snapshots, {pruned.files} files, {_size(pruned.bytes)}")
    return 0


def _show(config: Config, snapshots: list[Snapshot], problems: list[str], fine: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not snapshots:
        return
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
    for title in ("stage", "topic"):
        table.add_column(title)
    for title in ("partition", "offset", "age", "size", "new"):
        table.add_column(title, justify="right")
    table.add_column("state")
    checksum, now_ms = config.checksum(), time.time() * 1000
    for snapshot, problem in zip(snapshots, problems, strict=True):
        found = snapshot.manifest
        row = [snapshot.key.stage, snapshot.key.topic, str(snapshot.key.partition), str(snapshot.offset)]
        row += [_age(now_ms - found.created_ms), _size(found.bytes), _size(found.new_bytes)] if found else ["", "", ""]
        if problem:
            state = Text(problem if snapshot.newer else f"damaged: {problem}", style="red")
        elif found and found.checksum != checksum:
            state = Text(f"{fine}, of another configuration", style="yellow")
        else:
            state = Text(fine, style="green")
        table.add_row(*row, state)
    Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH).print(table)


def _age(age_ms: float) -> str:
    seconds = max(0, int(age_ms / 1000))
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
