"""What `nowcart bench --spikes` prints."""

from __future__ import annotations

from typing import Any

_NAMES = {"oracle": "oracle (knows the rates)", "nowcart": "nowcart", "three_sigma": "3 sigma", "ewma_chart": "EWMA chart"}


def show(results: dict[str, Any]) -> None:
    """Prints the tables.

    Args:
        results: of stream.bench.spikes.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console()
    shop = (
        f"{results['items']:,} items, {results['days']} days after {results['warm_up_days']} of warm-up, {results['lines']:,} order lines"
    )
    budget = f"{results['budget']:.0f} false alerts allowed (1 in 1,000 item-days)"
    title = f"nowcart bench --spikes: {shop}; {results['spikes']} spikes, {results['sure']} that the oracle finds with 95 % power; {budget}"
    table = Table("", "found", "of the sure", "false alerts", "delay, hours: median", "mean", title=title, title_justify="left")
    for name, found in results["detectors"].items():
        table.add_row(_NAMES[name], *_cells(found))
    few = results["busiest"]
    table.add_row(f"half-space trees, {few['items']} busiest items only ({few['sure']} sure)", *_cells(few["half_space_trees"]))
    table.add_row("  nowcart on the same items", "", _percent(few["nowcart_share"]), "", "", "")
    console.print(table)
    curve = Table(
        "strength",
        "lines an hour",
        "spikes",
        "oracle's power",
        "oracle",
        "nowcart",
        title="found, by strength and rate",
        title_justify="left",
    )
    for row in results["curve"]:
        (low, high), (slow, busy) = row["factor"], row["lines_per_hour"]
        rate = f"{slow:g} to {busy:g}" if busy is not None else f"{slow:g} and more"
        cells = (_percent(row[name]) for name in ("power", "oracle", "nowcart"))
        curve.add_row(f"×{low:g} to ×{high:g}", rate, str(row["spikes"]), *cells)
    console.print(curve)
    kinds = ", ".join(f"{kind} {_percent(found['nowcart'])} of {found['sure']}" for kind, found in results["kinds"].items())
    console.print(
        f"nowcart's share of the sure by kind: {kinds}. Hourly counts are drawn from the simulator's rates, then go through the forecast shard."
    )


def _cells(found: dict[str, Any]) -> list[str]:
    delay = found["delay_hours"] or {"median": None, "mean": None}
    return [
        str(found["found"]),
        _percent(found["of_sure"]),
        str(found["false"]),
        *(f"{v:.2f}" if v is not None else "–" for v in delay.values()),
    ]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
