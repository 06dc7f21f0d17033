"""What arguments say of a history file's columns: for all commands that read one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream.backtest.shape import Layout


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them, each once.

    Args:
        text: an argument.

    Raises:
        argparse.ArgumentTypeError: none, or one twice.
    """
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise argparse.ArgumentTypeError("must be one name, or several with commas between them")
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"must name each once; got {text!r}")
    return found


def layout_of(args: argparse.Namespace, zone: str, seasons: tuple[int, ...] | None = None, holidays: str = "") -> Layout:
    """What the arguments say of the columns.

    Args:
        args: with item, time, target, freq, known, past, static, censored and fill.
        zone: of local days.
        seasons: in steps; None: by the frequency.
        holidays: country whose public holidays are known ahead.
    """
    from stream.backtest.shape import Layout

    return Layout(
        item=args.item,
        time=args.time,
        target=args.target,
        frequency=args.freq,
        known=args.known,
        holidays=holidays,
        past=args.past,
        static=args.static,
        censored=args.censored,
        fill=args.fill,
        seasons=seasons,
        zone=zone,
    )
