"""`nowcart bench --forecast`: forecasts a second of a whole tick, without and with the global network."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from stream.cli.frame import progress_bar

if TYPE_CHECKING:
    from stream.bench.forecasting import Speed

TARGETS = {"vectorised experts": 100_000, "with the global network": 50_000}
"""Series a second that are wanted of two cores."""


def measure_forecasts(args: argparse.Namespace) -> dict[str, Any]:
    """Measures both line-ups and prints where the time goes."""
    from stream.bench.forecasting import HORIZON, LEVELS, NETWORK, VECTORISED, measure

    found: dict[str, Speed] = {}
    with progress_bar() as bar:
        for name, experts in (("vectorised experts", VECTORISED), ("with the global network", VECTORISED + NETWORK)):
            if args.stop.is_set():
                return {}
            task = bar.add_task(name, total=None, unit="ticks")

            def tell(done: int, of: int, task: Any = task) -> None:
                bar.update(task, completed=done, total=of)

            found[name] = measure(args.forecast_items, args.processes, experts, tell)
    results = {
        "items": args.forecast_items,
        "processes": args.processes,
        "steps": HORIZON,
        "levels": len(LEVELS),
        "line_ups": {
            name: {
                "experts": speed.experts,
                "series_per_second": round(speed.series_per_second),
                "series_per_second_with_learning": round(speed.ticked_per_second),
                "shares": {part: round(share, 4) for part, share in speed.shares.items()},
            }
            for name, speed in found.items()
        },
    }
    _print(results, found)
    return results


def _print(results: dict[str, Any], found: dict[str, Speed]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    title = (
        f"nowcart bench --forecast: {results['items']:,} items, {results['steps']} steps, {results['levels']} quantiles, "
        f"{results['processes']} partitions in a process each"
    )
    table = Table("", "series/s, forecasts", "series/s, whole tick", "wanted", title=title, title_justify="left")
    for name, speed in found.items():
        table.add_row(name, f"[bold]{speed.series_per_second:,.0f}[/bold]", f"{speed.ticked_per_second:,.0f}", f"{TARGETS[name]:,}")
    console.print(table)
    for name, speed in found.items():
        where = Table("where a tick's time goes", "share", title=name, title_justify="left")
        for part, share in speed.shares.items():
            where.add_row(part, f"{share:.1%}")
        console.print(where)
