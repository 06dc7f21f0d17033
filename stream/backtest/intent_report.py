"""A backtest of purchase intent as one self-contained page of HTML: the tables, a reliability diagram, the loss by position."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from stream.backtest.intent_run import Result
from stream.tables import UserError

_PALETTE = ("#3b82f6", "#94a3b8", "#64748b", "#0ea5e9", "#8b5cf6", "#f59e0b", "#10b981", "#ef4444", "#84cc16")
_GRID = "rgba(128,128,128,.25)"
_STYLE = """
:root { color-scheme: light dark } body { margin: 0; font: 16px/1.55 system-ui, sans-serif } main { max-width: 1080px; margin: 0 auto; padding: 24px 20px 64px }
h1 { font-size: 1.7rem; margin: 0 0 4px } h2 { font-size: 1.2rem; margin: 36px 0 6px } p { max-width: 78ch } .soft { opacity: .7 } .wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .86rem }
th, td { padding: 6px 8px; text-align: right; border-bottom: 1px solid rgba(128,128,128,.3); white-space: nowrap } th:first-child, td:first-child { text-align: left }
dt { font-weight: 600; margin-top: 10px } dd { margin: 0 0 0 18px }
"""
_COLUMNS = (
    ("log loss", "log_loss", "{:.4f}"),
    ("share of the oracle's gain", "gain", "{:.1%}"),
    ("AUC", "auc", "{:.3f}"),
    ("average precision", "average_precision", "{:.3f}"),
    ("calibration error / base rate", "calibration_error_ratio", "{:.1%}"),
)
_WORDS = (
    ("log loss", "Mean of −ln of the probability that was given to what happened. Lower is better; the base rate alone stands above each table."),
    ("share of the oracle's gain", "Of what the simulated shop's own model, given the same events, gains over the base rate. Only where the shop is simulated."),
    ("calibration error", "Mean gap between what was said and the share that bought, over 15 bins of equal mass; here over the base rate. Chance alone makes "
     "some of it: the oracle's own is the measure of that."),
    ("at risk", "Sessions that have bought are out from their purchase on, and robots are left out. Overall, every session weighs the same."),
)  # fmt: skip


def write_report(path: Path, result: Result) -> None:
    """Writes the page.

    Args:
        path: of the file.
        result: of the backtest.

    Raises:
        UserError: plotly is not installed, or the file cannot be written.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError(f"--report must have the package plotly; {error}: pip install 'nowcart[bench]'") from error
    table = result.table
    places = ["overall", *map(str, table["settings"]["positions"])]
    counts = table["counts"]
    parts = [
        "<h1>Backtest of purchase intent</h1>",
        f'<p class="soft">{counts["events"]:,} events, {counts["sessions"]:,} sessions; {counts["scored_sessions"]:,} scored, of which '
        f"{counts['buyers_scored']:,} buy; {counts['robots_left_out']:,} robots left out.</p>",
        "<h2>Reliability</h2><p>What was said against what happened, all events at risk. On the line: kept.</p>",
        _html(_reliability(result), "reliability"),
        "<h2>Log loss by position</h2>",
        _html(_by_position(table), "position"),
        *(_table(table, place) for place in places if next(iter(table["models"].values()))[place]["n"]),
        *_next_items(table),
        *_paired(table),
        "<h2>Words</h2><dl>" + "".join(f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in _WORDS) + "</dl>",
    ]
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Backtest of purchase intent</title><style>{_STYLE}</style>'
    page += f"<script>{get_plotlyjs()}</script><main>{''.join(parts)}</main></html>"
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} must be writable: {error.strerror}") from error


def _table(table: dict[str, Any], place: str) -> str:
    first = next(iter(table["models"].values()))[place]
    title = "Overall" if place == "overall" else f"After {place} event{'' if place == '1' else 's'}"
    head = "".join(f"<th>{escape(name)}</th>" for name, _, _ in _COLUMNS)
    rows = []
    for name, found in table["models"].items():
        values = [found[place].get(key) for _, key, _ in _COLUMNS]
        cells = "".join(
            f"<td>{'–' if value is None else form.format(value)}</td>" for value, (_, _, form) in zip(values, _COLUMNS, strict=True)
        )
        rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    about = f"{first['n']:,} at risk, {first['base_rate']:.2%} buy; log loss of the base rate {first['base_rate_log_loss']:.4f}."
    return f'<h2>{title}</h2><p class="soft">{about}</p><div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _next_items(table: dict[str, Any]) -> list[str]:
    """How often the next item was among those named, beside simpler ways of naming."""
    named = table["next_items"]
    if not named["n"]:
        return []
    told = {"nowcart": "nowcart", "popular": "what is seen most", "together": "what is seen in the same sessions"}
    rows = "".join(
        f"<tr><td>{escape(told[name])}</td><td>{found['hit_rate']:.1%}</td><td>{found['mrr']:.3f}</td></tr>"
        for name, found in named["methods"].items()
    )
    return [
        f'<h2>Next items</h2><p class="soft">Of {named["n"]:,} events that another item followed: was it among {named["named"]} named?</p>',
        f'<div class="wide"><table><thead><tr><th></th><th>hit rate</th><th>mean reciprocal rank</th></tr></thead><tbody>{rows}</tbody></table></div>',
    ]


def _paired(table: dict[str, Any]) -> list[str]:
    """How sure it is that nowcart is better."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{found['paired']['difference']:+.5f}</td><td>{found['paired']['low']:+.5f} to "
        f"{found['paired']['high']:+.5f}</td></tr>"
        for name, found in table["models"].items()
        if "paired" in found
    )
    return [
        '<h2>How sure is that?</h2><p class="soft">Log loss of nowcart less that of the other, overall; below 0: nowcart is better.</p>',
        f'<div class="wide"><table><thead><tr><th></th><th>difference</th><th>95 %, sessions drawn anew</th></tr></thead><tbody>{rows}</tbody></table></div>',
    ]


def _html(figure: Any, name: str) -> str:
    from plotly.io import to_html

    return str(to_html(figure, include_plotlyjs=False, full_html=False, div_id=name, config={"displaylogo": False, "responsive": True}))


def _figure(x: str, y: str) -> Any:
    from plotly.graph_objects import Figure

    figure = Figure()
    figure.update_layout(
        height=420, margin={"l": 60, "r": 20, "t": 20, "b": 50}, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)"
    )
    figure.update_xaxes(title=x, gridcolor=_GRID)
    figure.update_yaxes(title=y, gridcolor=_GRID)
    return figure


def _reliability(result: Result) -> Any:
    figure = _figure("said", "bought")
    lowest, highest = 1.0, 1e-3
    for axis in (figure.update_xaxes, figure.update_yaxes):  # most sessions buy nothing: on even axes all points but one stand in a corner
        axis(type="log", tickformat=".2~%", dtick="D2")
    for number, (name, (mass, said, bought)) in enumerate(result.diagrams.items()):
        some = (mass > 0) & (said > 0) & (bought > 0)
        if not some.any():
            continue
        lowest = min(lowest, float(said[some].min()), float(bought[some].min()))
        highest = max(highest, float(said[some].max()), float(bought[some].max()))
        shown = True if name in ("nowcart", "oracle") else "legendonly"
        colour = {"color": _PALETTE[number % len(_PALETTE)]}
        figure.add_scatter(x=said[some].tolist(), y=bought[some].tolist(), mode="lines+markers", name=name, visible=shown, line=colour)
    figure.add_scatter(x=[lowest, highest], y=[lowest, highest], mode="lines", name="kept", line={"dash": "dot", "color": "#9ca3af"})
    return figure


def _by_position(table: dict[str, Any]) -> Any:
    figure = _figure("events of the session so far", "log loss less that of the base rate")
    for number, (name, found) in enumerate(table["models"].items()):
        places = [at for at in table["settings"]["positions"] if found[str(at)]["n"]]
        gaps = [found[str(at)]["log_loss"] - found[str(at)]["base_rate_log_loss"] for at in places]
        figure.add_scatter(x=places, y=gaps, mode="lines+markers", name=name, line={"color": _PALETTE[number % len(_PALETTE)]})
    return figure
