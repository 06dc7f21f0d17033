"""`nowcart schemas`: JSON Schemas of every record, and an AsyncAPI document."""

from __future__ import annotations

import argparse
from pathlib import Path

from stream.cli.frame import Subparsers, add_command


def add(subparsers: Subparsers) -> None:
    """Describes the command."""
    parser = add_command(
        subparsers,
        "schemas",
        run,
        "write JSON Schemas of every record that nowcart publishes, and an AsyncAPI document",
        "nowcart schemas --out schemas",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where to; made if it is not there")
    parser.add_argument("--prefix", default="nowcart.", help="of the topics' names, as [output] prefix (default: nowcart.)")


def run(args: argparse.Namespace) -> int:
    """Writes the files and prints their names."""
    from stream.schemas import write
    from stream.tables import UserError

    try:
        files = write(args.out, args.prefix)
    except OSError as error:
        raise UserError(f"--out must be a folder that can be written to; got {args.out}: {error.strerror}") from error
    for file in files:
        print(file)
    return 0
