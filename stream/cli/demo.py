"""`nowcart demo`: a broker, a simulated shop and the engine, and what they do, live in this terminal."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stream.cli.frame import Subparsers, add_command, positive

if TYPE_CHECKING:
    from rich.console import Console

    from stream.demo.show import Demo
    from stream.demo.view import Figures

log = logging.getLogger("nowcart")

ITEMS, RATE, SERVE_PORT = 150, 200.0, 8080
_FRAME_SECONDS = 0.25
_STATUS_SECONDS = 3.0
_FORECAST_PATIENCE_SECONDS = 60.0


def add(subparsers: Subparsers) -> None:
    """Describes the command."""
    parser = add_command(
        subparsers,
        "demo",
        run,
        "watch nowcart at work: an embedded broker, a simulated shop and the engine, live in this terminal, until Ctrl-C",
        "nowcart demo\nnowcart demo --seconds 60 --rate 1000 --items 500",
        graceful=True,
    )
    parser.add_argument(
        "--seconds", type=positive(float), help="end after so long, though not before the first forecast is out; default: until Ctrl-C"
    )
    parser.add_argument("--rate", type=positive(float), default=RATE, help=f"clickstream events a second (default: {RATE:.0f})")
    parser.add_argument("--items", type=positive(int), default=ITEMS, help=f"items of the shop (default: {ITEMS})")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same shop (default: 1)")
    parser.add_argument(
        "--serve-port",
        type=_port,
        default=SERVE_PORT,
        metavar="N",
        help=f"of the live page; 0: none (default: {SERVE_PORT}, or any that is free)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs it until it is stopped, and says what it did."""
    from rich.console import Console

    from stream.demo.show import Demo

    console = Console()
    demo = Demo(args.items, args.rate, args.seed, args.serve_port)
    with demo:
        if console.is_terminal and not console.is_dumb_terminal:
            _draw(demo, console, args)
        else:
            _tell(demo, args)
    figures = demo.figures
    first = figures.first_forecast_seconds
    print(
        f"{figures.events:,} events in {figures.up_seconds:.0f} s, {figures.items:,} items, {demo.board.forecasts:,} forecasts of the next "
        f"minutes read; first forecast {'not seen' if first is None else f'after {first:.1f} s'}"
    )
    return 0


def _done(figures: Figures, args: argparse.Namespace) -> bool:
    if args.stop.is_set():
        return True
    if args.seconds is None or figures.up_seconds < args.seconds:
        return False
    return figures.first_forecast_seconds is not None or figures.up_seconds > args.seconds + _FORECAST_PATIENCE_SECONDS


def _draw(demo: Demo, console: Console, args: argparse.Namespace) -> None:
    from rich.live import Live

    from stream.demo.view import screen

    with _notes(demo.figures), Live(console=console, screen=True, auto_refresh=False) as live:
        while not _done(figures := demo.look(), args):
            width, height = console.size
            with demo.lock:
                drawn = screen(demo.board, figures, width, height)
            live.update(drawn, refresh=True)
            args.stop.wait(_FRAME_SECONDS)


def _tell(demo: Demo, args: argparse.Namespace) -> None:
    from stream.demo.view import status

    told, where, page = -_STATUS_SECONDS, False, False
    first: float | None = None
    while True:
        figures = demo.look()
        done = _done(figures, args)
        if figures.metrics_url and not where:
            where = True
            print(f"metrics: {figures.metrics_url}")
            print(f"topics: kcat -b {figures.bootstrap_servers} -C -t {figures.prefix}demand   (also intent, spikes, deadletter)")
        if figures.page_url and not page:
            page = True
            print(f"live page: {figures.page_url}")
        if first is None and (first := figures.first_forecast_seconds) is not None:
            print(f"first forecast after {first:.1f} s")
        if done or figures.up_seconds - told >= _STATUS_SECONDS:
            told = figures.up_seconds
            with demo.lock:
                print(status(demo.board, figures))
        sys.stdout.flush()
        if done:
            return
        args.stop.wait(_FRAME_SECONDS)


@contextmanager
def _notes(figures: Figures) -> Iterator[None]:
    """Warnings go to the screen's last line while there is a screen, and to stderr when it is gone."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            figures.note = f" {record.levelname.lower()}: {record.getMessage()}"
            kept.append(record)
            del kept[:-20]

    kept: list[logging.LogRecord] = []
    notes, before = Notes(logging.WARNING), list(log.handlers)
    for handler in before:
        log.removeHandler(handler)
    log.addHandler(notes)
    try:
        yield
    finally:
        log.removeHandler(notes)
        for handler in before:
            log.addHandler(handler)
        for record in kept:
            log.handle(record)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"must be a port, from 0 to 65535; got {text!r}")
    return int(text)
