"""How fast the simulated shop makes messages, JSON included: `python benchmarks/simulate.py --events 1000000`."""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

from stream.simulate import Shop, benchmark_spec, demo_spec
from stream.simulate.spec import ShopSpec

SPECS: dict[str, Callable[[], ShopSpec]] = {"benchmark": benchmark_spec, "demo": demo_spec, "default": ShopSpec}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="clickstream messages to make")
    parser.add_argument("--spec", choices=sorted(SPECS), default="benchmark")
    args = parser.parse_args()
    started = time.perf_counter()
    shop = Shop(SPECS[args.spec]())
    ready, used = time.perf_counter(), time.process_time()
    clicks = orders = offers = sessions = size = 0
    for chunk in shop.events(count=args.events):
        clicks += len(chunk.sources["clicks"])
        orders += len(chunk.sources["orders"])
        offers += len(chunk.sources["offers"])
        sessions += len(chunk.sessions)
        size += sum(map(len, chunk.sources["clicks"].values))
    seconds, cpu = time.perf_counter() - ready, time.process_time() - used
    print(
        f"{args.spec}: {clicks:,} clicks ({size / max(1, clicks):.0f} bytes each), {orders:,} order lines, {offers:,} offers, "
        f"{sessions:,} sessions in {seconds:.2f} s: {clicks / seconds:,.0f} clicks/s ({clicks / cpu:,.0f} a CPU second), "
        f"set up in {ready - started:.2f} s, "
        f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    main()
