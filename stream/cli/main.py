"""The frame around all commands: arguments, logging, signals, exit statuses.

0: done, or stopped by Ctrl-C or SIGTERM. 2: the user's mistake (configuration, arguments, files, a cluster that refuses), one
message. 1: failed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import TextIO

from stream.cli.frame import add_logging, signals

COMMANDS = ("demo", "check", "topics", "run", "serve", "alerts", "replay", "simulate", "schemas", "snapshots", "bench", "backtest", "train")
"""In the order in which `nowcart --help` lists them; each is a module beside this one."""

DONE, FAILED, MISTAKE = 0, 1, 2

log = logging.getLogger("nowcart")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status.

    Args:
        argv: without the program's name; None: the process's.

    Raises:
        SystemExit: the arguments cannot be understood (2), or --help or --version was asked for (0).
    """
    parser = _parser()
    args = parser.parse_args(argv)
    handler = start_logging(args.log_format, args.log_level)
    try:
        return _run(parser, args)
    finally:
        log.removeHandler(handler)


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    if args.command is None:
        parser.print_help(sys.stderr)
        return MISTAKE
    with signals(args.graceful) as args.stop:
        try:
            status: int = args.run(args)
            sys.stdout.flush()
        except KeyboardInterrupt:
            if not args.graceful:
                return DONE
            log.error("interrupted for the second time: ended without a clean stop")
            return FAILED
        except BrokenPipeError:
            # Whoever read our results has gone (`nowcart … | head`): Python must not fail once more when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except Exception as error:  # noqa: BLE001 — the one place where what nobody caught is told
            return _tell(error, args.log_format)
    return status


def _tell(error: Exception, log_format: str) -> int:
    from stream.kafka.log import LogError
    from stream.tables import UserError

    if not isinstance(error, (UserError, LogError)):
        log.critical("failed: %s", error, exc_info=error)
        return FAILED
    if log_format == "json":
        log.error("%s", error)
    else:
        print(f"nowcart: {error}", file=sys.stderr)
    return MISTAKE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nowcart",
        description="Live demand forecasts, purchase intent and demand spikes from a shop's Kafka topics.",
        epilog="nowcart COMMAND --help explains a command and has an example.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and end")
    add_logging(parser)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name in COMMANDS:
        import_module(f"stream.cli.{name}").add(subparsers)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when asked: that takes longer than all the rest of --help."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"nowcart {version('nowcart')}")
        parser.exit()


# ---- logging


def start_logging(log_format: str, level: str) -> logging.Handler:
    """Sends the loggers `nowcart…` to stderr; returns the handler, to be removed again.

    Args:
        log_format: text or json.
        level: debug, info, warning or error.
    """
    handler = _Stderr()
    handler.setFormatter(_Json() if log_format == "json" else _Text("%(asctime)s %(levelname)-8s %(message)s"))
    log.addHandler(handler)
    log.setLevel(level.upper())
    return handler


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is now: a progress bar puts itself in its place."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _Text(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 — logging's name
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Json(_Text):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
