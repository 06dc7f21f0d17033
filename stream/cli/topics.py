"""`nowcart topics`: the topics that nowcart writes."""

from __future__ import annotations

import argparse
import logging

from stream.cli.frame import Subparsers, add_command, add_config

log = logging.getLogger("nowcart.topics")

ACTIONS = ("create", "check", "delete")


def add(subparsers: Subparsers) -> None:
    """Describes the command."""
    parser = add_command(
        subparsers,
        "topics",
        run,
        "create, check or delete the topics that nowcart writes; never the shop's own",
        "nowcart topics shop.toml create",
    )
    add_config(parser)
    parser.add_argument(
        "action",
        metavar="create|check|delete",
        choices=ACTIONS,
        help="create those that are missing; say what is not as it should be (status 2 where something is); "
        "or delete them with all that is in them, nowcart's state included",
    )


def run(args: argparse.Namespace) -> int:
    """Does it, and prints one line a topic or complaint."""
    from stream.config import load
    from stream.kafka.admin import Admin
    from stream.topics import own_topics

    config = load(args.config)
    wanted = own_topics(config)
    admin = Admin(config.kafka)
    if args.action == "delete":
        for name in admin.delete([topic.name for topic in wanted]):
            print(f"deleted {name}")
        return 0
    if args.action == "create":
        for name in admin.create(wanted):
            print(f"created {name}")
    # What was there before may have other partitions or settings: create says so as check does.
    complaints = admin.check(wanted)
    for complaint in complaints:
        print(complaint)
    if not complaints:
        log.info("%d topics are as they should be", len(wanted))
    return 2 if complaints else 0
