"""What commands share: how one is described, how it is stopped, how it shows progress."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

    from rich.progress import Progress

Subparsers = Any
"""argparse's own type for it is private."""

LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")


def add_command(
    subparsers: Subparsers, name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str, graceful: bool = False
) -> argparse.ArgumentParser:
    """Describes a command; its arguments are added to what this returns.

    Args:
        subparsers: of the main parser.
        name: as typed.
        run: does it.
        summary: one line for `nowcart --help`, a sentence for its own.
        example: a command line or several.
        graceful: the command watches `args.stop`; otherwise a signal interrupts it where it stands.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="example:\n" + "".join(f"  {line}\n" for line in example.splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_logging(parser, inherit=True)
    parser.set_defaults(run=run, graceful=graceful)
    return parser


def add_config(parser: argparse.ArgumentParser, **more: Any) -> None:
    """Describes the argument CONFIG.

    Args:
        parser: of the command.
        more: for add_argument.
    """
    parser.add_argument("config", metavar="CONFIG", type=Path, **{"help": "configuration file (TOML)", **more})


def add_logging(parser: argparse.ArgumentParser, inherit: bool = False) -> None:
    """Describes how to log; before or behind the command's name.

    Args:
        parser: the main one or a command's.
        inherit: leave what the main parser found where the command's says nothing.
    """
    group = parser.add_argument_group("logging (to stderr)")
    group.add_argument("--log-format", choices=LOG_FORMATS, default=argparse.SUPPRESS if inherit else "text", help="default: text")
    group.add_argument("--log-level", choices=LOG_LEVELS, default=argparse.SUPPRESS if inherit else "info", help="default: info")


def positive(kind: type[int] | type[float]) -> Callable[[str], Any]:
    """An argument type: a number above 0.

    Args:
        kind: int or float.
    """

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be {'a whole number' if kind is int else 'a number'} above 0; got {text!r}")
        return value

    return read


@contextmanager
def signals(graceful: bool) -> Iterator[threading.Event]:
    """SIGINT and SIGTERM for as long as a command runs: the first sets the event, the second interrupts.

    Args:
        graceful: False: the first one interrupts.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread gets signals: whoever called from another one has its own way to stop
        return
    told = False

    def heard(number: int, frame: object) -> None:
        nonlocal told
        if told or not graceful:
            raise KeyboardInterrupt
        told = True
        # Not from here: the handler interrupts the main thread, and if that is just about to wait for this very event it holds the
        # event's lock.
        threading.Thread(target=stop.set, name="stop", daemon=True).start()

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def progress_bar() -> Progress:
    """A rich progress display on stderr, which shows nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


class Lines:
    """Progress as lines of a log, where no terminal shows bars: one every half a minute.

    Args:
        log: takes them.
        every_s: seconds between two lines.
        clock: seconds.
    """

    def __init__(self, log: logging.Logger, every_s: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._every_s, self._clock, self._said = log, every_s, clock, clock()
        self._wanted = not sys.stderr.isatty()

    def __call__(self, what: str, share: float) -> None:
        """Takes how far it is.

        Args:
            what: is being done.
            share: of it, 0 to 1.
        """
        if self._wanted and self._clock() - self._said >= self._every_s:
            self._said = self._clock()
            self._log.info("%s: %d %%", what, 100 * share)
