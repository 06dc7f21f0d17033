"""`nowcart simulate`: a shop that sends its clickstream, orders and offers to Kafka as it lives, or writes them to files."""

from __future__ import annotations

import argparse
import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from stream.cli.frame import Subparsers, add_command, add_config, positive, progress_bar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from stream.config import Config, Source
    from stream.simulate import Chunk, Shop

log = logging.getLogger("nowcart.simulate")

KINDS = {"clicks": "clickstream", "orders": "orders", "offers": "offers"}
"""The simulator's sources, and the kinds of source that they are."""

WRITES = {
    "clickstream": {"ts", "type", "sid", "uid", "sku", "category", "brand", "price", "quantity", "query", "page"},
    "orders": {"order_id", "line", "created", "sku", "quantity", "unit_price", "uid", "sid", "cancelled"},
    "offers": {"announced", "sku", "category", "brand", "price", "list_price", "promo", "valid_from", "valid_until", "stock"},
}
"""The fields of its messages, as examples/simulated.toml maps them."""

PARTITIONS = 4
FILE_SECONDS = 3600.0
_WARM_UP_MS = 600_000
_WARM_UP_EVENTS = 300_000


class _Stopped(Exception):
    """The user has had enough."""


def add(subparsers: Subparsers) -> None:
    """Describes the command."""
    parser = add_command(
        subparsers,
        "simulate",
        run,
        "be a shop: send synthetic clickstream, orders and offers to the sources' topics, or write files",
        "nowcart simulate examples/simulated.toml --rate 200\nnowcart simulate --items 500 --seconds 86400 --out shop",
        graceful=True,
    )
    add_config(parser, nargs="?", help="configuration file (TOML) that names Kafka and the topics; with --out it may be left out")
    parser.add_argument("--rate", type=positive(float), default=50.0, help="clickstream events a second, on average (default: 50)")
    parser.add_argument("--items", type=positive(int), default=10_000, help="items of the shop (default: 10000)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same shop (default: 1)")
    parser.add_argument(
        "--seconds", type=positive(float), help="how long; default: until Ctrl-C, or with --out an hour of the shop's own time"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="write clicks, orders and offers as .ndjson, and the truth beside them")


def run(args: argparse.Namespace) -> int:
    """Sends or writes, and prints how many messages of each source."""
    from stream.config import load
    from stream.tables import UserError

    if args.config is None and args.out is None:
        raise UserError("simulate needs CONFIG, which names Kafka and the topics; or --out DIR to write files")
    config = load(args.config) if args.config is not None else None
    return _write(args, config) if config is None or args.out is not None else _send(args, config)


def _shop(args: argparse.Namespace, config: Config | None, **more: object) -> Shop:
    import msgspec

    from stream.simulate import Shop
    from stream.tables import UserError

    zone = {} if config is None else {"zone": config.time.zone}
    try:
        return Shop(items=args.items, rate=args.rate, seed=args.seed, **zone, **more)
    except (ValueError, msgspec.ValidationError) as error:
        raise UserError(f"no shop can be so: {error}") from error


def _write(args: argparse.Namespace, config: Config | None) -> int:
    from stream.simulate import write
    from stream.tables import UserError

    shop = _shop(args, config)
    start_ms = shop.spec.start_ms
    length_ms = int((args.seconds or FILE_SECONDS) * 1000)
    with progress_bar() as bar:
        task = bar.add_task("simulating", total=round(length_ms / 1000), unit="s of the shop's time")

        def progress(clicks: int, time_ms: int) -> None:
            bar.update(task, completed=round((time_ms - start_ms) / 1000))
            if args.stop.is_set():
                raise _Stopped

        try:
            summary = write(shop, args.out, start_ms + length_ms, progress=progress)
        except _Stopped:
            log.warning("stopped: the files in %s end early and have no truth beside them", args.out)
            return 0
        except OSError as error:
            raise UserError(f"--out must be a folder that can be written to; got {args.out}: {error.strerror}") from error
    messages = summary["messages"]
    assert isinstance(messages, dict)
    for source in KINDS:
        print(f"{args.out / source}.ndjson: {messages.get(source, 0)} messages")
    print(f"{args.out / 'truth'}: what they rest on")
    return 0


def _send(args: argparse.Namespace, config: Config) -> int:
    from stream.kafka.admin import Admin, Topic
    from stream.kafka.sender import Sender
    from stream.simulate import pace

    topics = {name: source.topic for name, source in _sources(config).items()}
    admin = Admin(config.kafka)
    for created in admin.create([Topic(topic, PARTITIONS) for topic in topics.values()]):
        log.info("created the shop's topic '%s' with %d partitions", created, PARTITIONS)
    # A shop begins empty, and takes minutes to its full rate: it opens a little before now. Of what happened by then only the offers
    # are sent: they say what everything costs.
    opened_ms = _now_ms()
    warm_up_ms = int(min(_WARM_UP_MS, _WARM_UP_EVENTS / args.rate * 1000))
    shop = _shop(args, config, start_ms=opened_ms - warm_up_ms)
    until_ms = None if args.seconds is None else opened_ms + int(args.seconds * 1000)
    sent = dict.fromkeys(topics, 0)
    with Sender(config.kafka) as sender, progress_bar() as bar:
        task = bar.add_task("sending", total=args.seconds and round(args.seconds), unit="s")

        def send(chunk: Chunk, names: Collection[str]) -> None:
            for name in names:
                sender.send(topics[name], chunk.sources[name].values, chunk.sources[name].keys)
                sent[name] += len(chunk.sources[name])

        def from_now_on() -> Iterator[Chunk]:
            for chunk in shop.events(until_ms):
                before, after = chunk.split(opened_ms)
                send(before, topics.keys() & {"offers"})
                yield after

        try:
            for chunk in pace(from_now_on(), _now_ms, lambda seconds: _wait(args.stop, seconds)):
                send(chunk, topics)
                bar.update(task, completed=round((_now_ms() - opened_ms) / 1000), description=f"sent {sum(sent.values()):,}")
                _wait(args.stop, 0)
        except _Stopped:
            log.info("stopped")
    for name, topic in topics.items():
        print(f"{topic}: {sent[name]} messages")
    return 0


def _sources(config: Config) -> dict[str, Source]:
    """The configured source for each of the simulator's, where there is one that understands its messages."""
    from stream.tables import UserError

    found: dict[str, Source] = {}
    for name, kind in KINDS.items():
        for source in config.sources.values():
            if source.kind == kind and name not in found:
                _check_fields(source)
                found[name] = source
    if not found:
        raise UserError("simulate needs a source of kind clickstream, orders or offers; the configuration has none")
    return found


def _check_fields(source: Source) -> None:
    from stream.tables import UserError

    hint = "the simulated shop's messages are mapped as in examples/simulated.toml"
    if source.lines is not None:
        raise UserError(f"sources.{source.name}.lines must be left out for simulate, which sends one message an order line; {hint}")
    if source.time_unit != "ms":
        raise UserError(f'sources.{source.name}.time_unit must be "ms" for simulate; got "{source.time_unit}"; {hint}')
    for ours, theirs in source.fields.items():
        for path in (theirs,) if isinstance(theirs, str) else theirs:
            if path not in WRITES[source.kind]:
                known = ", ".join(sorted(WRITES[source.kind]))
                raise UserError(f"sources.{source.name}.fields.{ours} must be one of {known} for simulate; got {path!r}; {hint}")


def _wait(stop: threading.Event, seconds: float) -> None:
    if stop.wait(seconds) if seconds > 0 else stop.is_set():
        raise _Stopped


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
