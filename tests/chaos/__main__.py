"""python -m tests.chaos: kills things for a while, and says whether anything was lost."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import Chaos, quiet
from tests.chaos.shop import ASSIGNMENTS
from tests.real_kafka import NO_SCRIPT, script


def main() -> int:
    """Runs it; 0: everything is there once; 1: it is not; 2: there is no Kafka to start."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        epilog="example:\n  python -m tests.chaos --seconds 600 --seed 7",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="how long things are killed (default: 600)")
    parser.add_argument("--seed", type=int, default=None, help="of the traffic and of what is done (default: another each time, printed)")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="mean time between two kills (default: 5)")
    parser.add_argument("--rate", type=float, default=500.0, help="messages a second (default: 500)")
    parser.add_argument("--assignment", choices=ASSIGNMENTS, default="range", help="how the groups share their partitions (default: range)")
    parser.add_argument("--keep", action="store_true", help="keep the folder even when all is well")
    args = parser.parse_args()
    start = script()
    if start is None:
        print(NO_SCRIPT, file=sys.stderr)
        return 2
    quiet()
    seed = random.randrange(1_000_000) if args.seed is None else args.seed
    folder = Path(tempfile.mkdtemp(prefix="nowcart-chaos-"))
    again = f"make chaos SECONDS={args.seconds:g} SEED={seed}" + (f" EVERY={args.every:g}" if args.every != 5 else "")
    if args.assignment != "range":
        again += f' ARGS="--assignment {args.assignment}"'
    try:
        outcome = Chaos(
            start, folder, seed, args.seconds, args.every, args.rate, lambda text: print(text, flush=True), args.assignment
        ).run()
    except BaseException:
        print(f"everything is kept in {folder}; the same again: {again}", file=sys.stderr)
        raise
    good = outcome.comparison.same and not outcome.wrong_source
    if good and not args.keep:
        shutil.rmtree(folder)
    else:
        print(f"everything is kept in {folder}; the same again: {again}")
    print(outcome.line)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
