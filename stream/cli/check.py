"""`nowcart check`: how a shop's messages are understood, before anything runs."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from stream.cli.frame import Subparsers, add_command, add_config, positive

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from stream.check import SplitSessions, Understood
    from stream.config import Config
    from stream.kafka.admin import Admin

MESSAGES = 100
_ROWS = 8
_REFUSED = 6
_BEGINNING = 100
_WIDTH = 160
_TEXT = 28


def add(subparsers: Subparsers) -> None:
    """Describes the command."""
    parser = add_command(
        subparsers,
        "check",
        run,
        "show how the sources' newest messages are understood, and what is not and why; nothing is written or committed",
        "nowcart check shop.toml",
    )
    add_config(parser)
    parser.add_argument(
        "--messages", type=positive(int), default=MESSAGES, help=f"most messages to read of each source (default: {MESSAGES})"
    )


def run(args: argparse.Namespace) -> int:
    """Checks, and prints what it finds; what makes the configuration unusable is told in one message at the end."""
    from rich.console import Console

    from stream.check import split_sessions, understand
    from stream.config import load
    from stream.engine.time import Zone
    from stream.kafka.admin import Admin
    from stream.kafka.reader import newest
    from stream.tables import UserError

    config = load(args.config)
    admin = Admin(config.kafka)
    admin.ping()
    _require_sources(config, admin)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    wrong: list[str] = []
    for source in config.sources.values():
        sample = newest(config.kafka, source.topic, args.messages)
        found = understand(source, config.time, Zone(config.time.zone), [(p.partition, m) for p, m in sample.items()], _ROWS)
        _show(console, found, config)
        if not found.usable:
            wrong.append(f"none of {found.messages} messages of [sources.{source.name}] could be used")
        if source.kind == "clickstream" and found.usable:
            splits = split_sessions(config, source)
            _show_splits(console, splits, source.fields)
            if splits.too_many and not source.repartition:
                wrong.append(
                    f"{splits.share:.1%} of the sessions of [sources.{source.name}] stand in more than one partition, and at most 1% may: "
                    f"key '{source.topic}' by session, or set sources.{source.name}.repartition = true"
                )
    wrong += _show_own(console, config, admin)
    if wrong:
        raise UserError("not usable as it is: " + "; ".join(wrong))
    console.print("\n[bold green]usable[/]")
    return 0


def _require_sources(config: Config, admin: Admin) -> None:
    """Every source's topic must be there; the message names those that are not, and what they may be called."""
    from stream.kafka.log import TopicMissing
    from stream.tables import nearest

    topics = admin.topics()
    missing = []
    for source in config.sources.values():
        if source.topic not in topics:
            near = nearest(source.topic, [name for name in topics if not name.startswith("__")])
            missing.append(f"'{source.topic}' of [sources.{source.name}]" + (f" (did you mean '{near}'?)" if near else ""))
    if missing:
        raise TopicMissing(f"Kafka must have the sources' topics; it lacks {', '.join(missing)}: create them, or correct `topic`")


# ---- what is shown


def _show(console: Console, found: Understood, config: Config) -> None:
    source = found.source
    console.print(f"\n[bold]\\[sources.{source.name}][/] {source.kind}, topic {source.topic}")
    if not found.messages:
        console.print("  no messages yet: nothing to judge the mapping by")
        return
    events = ", ".join(f"{count} {name}" for name, count in found.events.most_common())
    console.print(
        f"  {found.messages} newest messages of {found.partitions} partitions: {found.row_count} rows understood ({events or 'none'})"
    )
    if found.rows:
        console.print(_rows_table(found, config.time.zone))
    _show_refused(console, found)
    _show_unlisted(console, found)
    _show_unreached(console, found)


def _rows_table(found: Understood, zone: str) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
    local = zone != "UTC"
    names = [name for name in dict.fromkeys(name for row in found.rows for name in row) if name != "time"]
    table.add_column("  time (UTC)", no_wrap=True)
    if local:
        table.add_column(f"time ({zone})", no_wrap=True)
    for name in names:
        table.add_column(name.removesuffix("_ms"))
    for row in found.rows:
        cells = ["  " + _time(row["time"], "UTC")] + ([_time(row["time"], zone)] if local else [])
        for name in names:
            value = row.get(name)
            cells.append(_time(value, zone) if name.endswith("_ms") and value is not None else _cell(value))
        table.add_row(*map(Text, cells))  # Text: what stands in messages is no markup
    return table


def _show_refused(console: Console, found: Understood) -> None:
    from rich.text import Text

    if not found.refused:
        return
    console.print(f"  [yellow]{len(found.refused)} messages cannot be used[/] and would go to the dead letters:")
    # One of each reason before a second of any: a hundred of one kind must not hide the others.
    turn: dict[str, int] = {}
    order = []
    for bad in found.refused:
        order.append((turn.get(bad.reason, 0), bad))
        turn[bad.reason] = turn.get(bad.reason, 0) + 1
    shown = [bad for _, bad in sorted(order, key=lambda pair: pair[0])][:_REFUSED]
    for bad in shown:
        console.print(Text(f"    {bad.reason}: {bad.detail}"))
        console.print(Text(f"      partition {bad.partition}, offset {bad.offset}: {_beginning(bad.value)}"))
    if len(found.refused) > len(shown):
        console.print("    " + ", ".join(f"{count} {reason}" for reason, count in turn.items()) + " in all")


def _show_unlisted(console: Console, found: Understood) -> None:
    from rich.text import Text

    if not found.unlisted:
        return
    total = sum(event.count for event in found.unlisted)
    console.print(f"  [yellow]{total} messages have an event that is not listed[/] and are ignored. To use them:")
    console.print(f"    \\[sources.{found.source.name}.events]")
    for event in found.unlisted[:20]:
        line = f'    {_quoted(event.theirs)} = "{event.ours}"'
        console.print(Text(f"{line:<48} # {event.count} messages"))


def _show_unreached(console: Console, found: Understood) -> None:
    from rich.text import Text

    for field in found.unreached:
        where = f'{field.field} = "{field.path}"'
        if field.there:
            console.print(Text(f"  {where} is there, and always empty", "yellow"))
        elif field.instead:
            meant = ", ".join(f'"{path}"' for path in field.instead)
            console.print(Text(f"  {where} is in no message; did you mean {meant}?", "yellow"))
        else:
            there = ", ".join(found.unmapped[:12]) or "nothing that is not mapped"
            console.print(Text(f"  {where} is in no message; they have {there}", "yellow"))


def _show_splits(console: Console, splits: SplitSessions, fields: Any) -> None:
    what = "sessions" if "session" in fields else "users"
    text = f"  {splits.split} of {splits.sampled} sampled {what} ({splits.share:.2%}) stand in more than one partition"
    console.print(f"[yellow]{text}[/]" if splits.too_many else text)


def _show_own(console: Console, config: Config, admin: Admin) -> list[str]:
    """Says how nowcart's own topics are; returns what the engine cannot work with. Those that are missing are yet to be made: no fault."""
    from stream.topics import OUTPUTS, own_topics

    wanted = own_topics(config)
    there = admin.topics()
    missing = [topic.name for topic in wanted if topic.name not in there]
    complaints = admin.check([topic for topic in wanted if topic.name in there])
    console.print("\n[bold]nowcart's own topics[/]")
    if missing:
        console.print(f"  yet to be made: {', '.join(missing)}; `nowcart topics CONFIG create` makes them")
    for complaint in complaints:
        console.print(f"  [yellow]{complaint}[/]")
    if not complaints and len(missing) < len(wanted):
        console.print(f"  {len(wanted) - len(missing)} are there and fit")
    # The outputs may be partitioned and kept as their readers like it.
    outputs = [f"'{config.output.topic(name)}'" for name in OUTPUTS]
    return [complaint for complaint in complaints if not any(name in complaint for name in outputs)]


# ---- values as text


def _time(at_ms: int, zone: str) -> str:
    try:
        at = datetime.fromtimestamp(at_ms / 1000, UTC if zone == "UTC" else ZoneInfo(zone))
    except (OverflowError, ValueError, OSError):  # the year 9999 in an eastern zone
        return f"{at_ms} ms"
    return at.strftime("%Y-%m-%d %H:%M:%S") + (f".{at_ms % 1000:03}" if at_ms % 1000 else "")


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:.10g}" if isinstance(value, float) else _plain(str(value))
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"


def _beginning(value: bytes | None) -> str:
    if value is None:
        return "no value (a tombstone)"
    if not value:
        return "an empty value"
    text = _plain(value[:_BEGINNING].decode("utf-8", "backslashreplace"))
    return f"{text}… ({len(value):,} bytes)" if len(value) > _BEGINNING else text


def _plain(text: Iterable[str]) -> str:
    """Text without what would move a terminal's cursor or ring its bell."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _quoted(key: str) -> str:
    """A key as TOML has it."""
    import json

    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare and not key.lstrip("-").isdecimal() else json.dumps(key, ensure_ascii=False)
