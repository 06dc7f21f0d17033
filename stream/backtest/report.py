"""One self-contained page of HTML about a backtest: plotly's JavaScript stands in it. Its pictures are made here, its words in report_page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stream.backtest.data import Floats
from stream.backtest.report_page import page
from stream.backtest.run import THIRDS, Backtest, Outcome, cells_of
from stream.backtest.scores import median_of, pinball
from stream.tables import UserError

PALETTE = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#14b8a6", "#ec4899", "#84cc16", "#64748b", "#d97706")
"""Readable on white and on black; methods take them in turn."""
_GRID = "rgba(128,128,128,.25)"
_DRAWN = 3
"""Best and worst items drawn."""
_MOST_POINTS = 120
"""Steps of history in front of an item's forecasts."""


def write_report(path: Path, result: Backtest, scores: dict[str, Any]) -> None:
    """Writes the page.

    Args:
        path: of the file.
        result: of the backtest.
        scores: of summary().

    Raises:
        UserError: plotly is not installed, or the file cannot be written.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError(f"--report must have the package plotly; {error}: pip install 'nowcart[bench]'") from error
    figures: dict[str, Any] = {
        "calibration": _calibration(scores),
        "steps": _steps(result),
        "velocity": _velocity(scores),
        "paired": _paired(scores),
        "experts": _experts(scores),
        "best": None,
        "worst": None,
    }
    first = result.outcomes[0]
    best, worst = _extreme_items(result, first)
    figures["best"], figures["worst"] = _items(result, first, best), _items(result, first, worst)
    html = {name: None if figure is None else _html(figure, name) for name, figure in figures.items()}
    try:
        path.write_text(page(scores, html, get_plotlyjs(), {"best": best, "worst": worst}), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} must be writable: {error.strerror}") from error


def _html(figure: Any, name: str) -> str:
    from plotly.io import to_html

    return str(
        to_html(
            figure, include_plotlyjs=False, full_html=False, div_id=f"plot-{name}", config={"displayModeBar": False, "responsive": True}
        )
    )


def _figure(height: int, **layout: Any) -> Any:
    from plotly.graph_objects import Figure

    figure = Figure()
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 30, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": -0.18, "x": 0},
        hoverlabel={"namelength": -1},
        **layout,
    )
    figure.update_xaxes(gridcolor=_GRID, zerolinecolor=_GRID)
    figure.update_yaxes(gridcolor=_GRID, zerolinecolor=_GRID)
    return figure


def _colour(place: int) -> str:
    return PALETTE[place % len(PALETTE)]


def _leaders(scores: dict[str, Any]) -> set[str]:
    """The first method, and the two best of the others: what a crowded picture shows before anybody asks for more."""
    models = scores["models"]
    first, *others = models
    ranked = sorted((name for name in others if models[name]["wql"] is not None), key=lambda name: float(models[name]["wql"]))
    return {first, *ranked[:2]}


def _calibration(scores: dict[str, Any]) -> Any:
    """Levels promised and kept: a bar from the share below to the share at or below."""
    figure = _figure(460, hovermode="closest")
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": "rgba(128,128,128,.8)"}, name="kept as promised", hoverinfo="skip"
    )
    shown = _leaders(scores)
    for place, (name, one) in enumerate(scores["models"].items()):
        levels = [(float(level), kept) for level, kept in one["levels"].items() if kept["below"] is not None]
        if not levels:
            continue
        offset = 0.006 * (place - (len(scores["models"]) - 1) / 2)
        middle = [(kept["below"] + kept["at_or_below"]) / 2 for _, kept in levels]
        half = [(kept["at_or_below"] - kept["below"]) / 2 for _, kept in levels]
        figure.add_scatter(
            x=[level + offset for level, _ in levels],
            y=middle,
            error_y={"type": "data", "array": half, "thickness": 5, "width": 0},
            mode="markers",
            marker={"size": 7},
            name=name,
            marker_color=_colour(place),
            visible=True if name in shown else "legendonly",
            customdata=[(level, kept["below"], kept["at_or_below"], kept["error"]) for level, kept in levels],
            hovertemplate=f"{name}<br>promised %{{customdata[0]:.0%}}<br>below %{{customdata[1]:.1%}}, at or below %{{customdata[2]:.1%}}"
            "<br>error %{customdata[3]:.3f}<extra></extra>",
        )
    figure.update_xaxes(title="level promised", tickformat=".0%", range=[-0.02, 1.02])
    figure.update_yaxes(title="share of actuals below … at or below", tickformat=".0%", range=[-0.02, 1.02])
    return figure


def _steps(result: Backtest) -> Any:
    """WQL by step ahead."""
    figure = _figure(380, hovermode="x unified")
    for place, outcome in enumerate(result.outcomes):
        cells, _, _, h = cells_of(result, outcome)
        loss = 2 * pinball(cells.actual, cells.quantiles, result.task.levels).mean(axis=1)
        above = np.bincount(h, weights=loss, minlength=result.task.horizon)
        below = np.bincount(h, weights=np.abs(cells.actual), minlength=result.task.horizon)
        values = np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)
        figure.add_scatter(
            x=list(range(1, result.task.horizon + 1)),
            y=[None if np.isnan(value) else round(float(value), 5) for value in values],
            mode="lines+markers",
            name=outcome.name,
            line={"color": _colour(place), "width": 3 if place == 0 else 1.5},
        )
    figure.update_xaxes(title="steps ahead", dtick=1 if result.task.horizon <= 20 else None)
    figure.update_yaxes(title="WQL", rangemode="tozero")
    return figure


def _velocity(scores: dict[str, Any]) -> Any:
    """WQL by thirds of the items."""
    figure = _figure(380, barmode="group")
    for place, (name, one) in enumerate(scores["models"].items()):
        figure.add_bar(
            x=[f"{third} movers" for third in THIRDS],
            y=[one["velocity"][third]["wql"] for third in THIRDS],
            name=name,
            marker_color=_colour(place),
            customdata=[one["velocity"][third]["n"] for third in THIRDS],
            hovertemplate="%{y:.3f} over %{customdata:,} forecasts",
        )
    figure.update_yaxes(title="WQL")
    return figure


def _paired(scores: dict[str, Any]) -> Any:
    """The first method's WQL less each other's, with its interval."""
    first = next(iter(scores["models"]))
    pairs = [pair for pair in scores["paired"] if pair["model"] == first]
    if not pairs:
        return None
    figure = _figure(130 + 34 * len(pairs), showlegend=False)
    figure.add_vline(x=0, line={"color": "rgba(128,128,128,.8)", "dash": "dot"})
    for pair in reversed(pairs):
        known = pair["low"] is not None
        sure = known and (pair["high"] < 0 or pair["low"] > 0)
        colour = "rgba(128,128,128,.9)" if not sure else PALETTE[2] if pair["wql_difference"] < 0 else PALETTE[3]
        figure.add_scatter(
            x=[pair["wql_difference"]],
            y=[pair["against"]],
            error_x={"type": "data", "array": [pair["high"] - pair["wql_difference"] if known else 0], "thickness": 3, "width": 6},
            mode="markers",
            marker={"size": 11, "color": colour},
            hovertemplate=f"{first} less {pair['against']}: %{{x:+.4f}}<extra></extra>",
        )
    figure.update_xaxes(title=f"WQL of {first} less the other's: left of 0, {first} is better")
    figure.update_yaxes(automargin=True)
    return figure


def _experts(scores: dict[str, Any]) -> Any:
    """Weights of a method's experts by horizon group."""
    found = next(((name, one["experts"]) for name, one in scores["models"].items() if one.get("experts")), None)
    if found is None:
        return None
    name, weights = found
    figure = _figure(90 + 60 * len(weights), barmode="stack")
    groups = list(weights)
    texts = [f"up to step {group}" for group in groups]
    for place, expert in enumerate(dict.fromkeys(expert for one in weights.values() for expert in one)):
        values = [weights[group].get(expert, 0.0) for group in groups]
        figure.add_bar(
            y=texts,
            x=values,
            orientation="h",
            name=expert,
            marker_color=_colour(place),
            text=[f"{value:.0%}" if value > 0.04 else "" for value in values],
            hovertemplate=f"{expert} %{{x:.1%}}",
        )
    figure.update_xaxes(title=f"weight in {name}'s mixture", tickformat=".0%", range=[0, 1])
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_layout(legend={"y": -0.45})
    return figure


# ---- items


def _extreme_items(result: Backtest, outcome: Outcome) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """(item, WQL) of the best and of the worst forecast, among the half of the items that sells most."""
    cells, _, i, _ = cells_of(result, outcome)
    n = len(result.data.items)
    loss = np.bincount(i, weights=2 * pinball(cells.actual, cells.quantiles, result.task.levels).mean(axis=1), minlength=n)
    sold = np.bincount(i, weights=np.abs(cells.actual), minlength=n)
    some = np.flatnonzero(sold > 0)
    some = some[sold[some] >= np.median(sold[some])] if len(some) else some
    ranked = sorted(((int(item), float(loss[item] / sold[item])) for item in some.tolist()), key=lambda one: one[1])
    drawn = min(_DRAWN, len(ranked) // 2) or min(1, len(ranked))
    return ranked[:drawn], ranked[len(ranked) - drawn :][::-1] if len(ranked) > 1 else []


def _items(result: Backtest, outcome: Outcome, items: list[tuple[int, float]]) -> Any:
    """Each item's history, and over it the forecasts of every round with their intervals."""
    from plotly.subplots import make_subplots

    if not items:
        return None
    data = result.data
    figure = make_subplots(
        rows=len(items), cols=1, shared_xaxes=True, vertical_spacing=0.36 / (len(items) + 1),
        subplot_titles=[f"{data.items[item]} · WQL {value:.3f}" for item, value in items],
    )  # fmt: skip
    base = _figure(240 * len(items) + 60, hovermode="x unified").layout
    figure.update_layout(base)
    begin = max(0, result.rounds[0].cut - _MOST_POINTS)
    end = result.rounds[-1].cut + result.task.horizon
    columns = data.first_step + np.arange(begin, end, dtype=np.int64)
    x: list[Any] = columns.tolist() if data.frequency.numbers else data.frequency.texts(columns, data.zone)
    for row, (item, _) in enumerate(items, start=1):
        _bands(figure, result, outcome, item, row, x, begin)
        actual = data.y[item, begin:end]
        figure.add_scatter(
            x=x,
            y=[None if np.isnan(value) else float(value) for value in actual],
            mode="lines+markers",
            marker={"size": 3},
            line={"width": 1.3, "color": "rgba(128,128,128,.95)"},
            name="actual",
            legendgroup="actual",
            showlegend=row == 1,
            row=row,
            col=1,
        )
    figure.update_xaxes(gridcolor=_GRID, zerolinecolor=_GRID)
    figure.update_yaxes(gridcolor=_GRID, zerolinecolor=_GRID, rangemode="tozero", title="units")
    figure.update_layout(
        legend={"orientation": "h", "y": 1.0 + 0.14 / len(items), "x": 1, "xanchor": "right", "yanchor": "bottom"}, margin={"t": 70}
    )
    return figure


def _bands(figure: Any, result: Backtest, outcome: Outcome, item: int, row: int, x: list[Any], begin: int) -> None:
    """The outermost and the innermost interval, and the median, of every round: what is known twice is drawn from the newer round."""
    levels = result.task.levels
    pairs = [(low, len(levels) - 1 - low) for low in range(len(levels) // 2)]
    wanted = [min(pairs, key=lambda pair: abs(levels[pair[1]] - levels[pair[0]] - 0.8)), pairs[-1]] if pairs else []
    place = result.rounds[0].cut - begin
    length = len(x) - place
    curves: Floats = np.full((len(levels) + 1, length), np.nan)
    for k, one in enumerate(result.rounds):
        at = slice(one.cut - begin - place, one.cut - begin - place + result.task.horizon)
        curves[:-1, at] = outcome.quantiles[k, item]
        curves[-1, at] = median_of(outcome.quantiles[k, item][None], levels)[0]
    when = x[place:]

    def line(values: Floats) -> list[float | None]:
        return [None if np.isnan(value) else float(value) for value in values]

    for depth, (low, high) in enumerate(dict.fromkeys(wanted)):
        name = f"{levels[high] - levels[low]:.0%} interval"
        common: dict[str, Any] = {
            "x": when,
            "mode": "lines",
            "line": {"width": 0, "shape": "hvh"},
            "legendgroup": name,
            "hoverinfo": "skip",
        }
        figure.add_scatter(**common, y=line(curves[low]), showlegend=False, row=row, col=1)
        fill = f"rgba(59,130,246,{0.18 + 0.2 * depth})"
        figure.add_scatter(**common, y=line(curves[high]), fill="tonexty", fillcolor=fill, name=name, showlegend=row == 1, row=row, col=1)
    figure.add_scatter(
        x=when, y=line(curves[-1]), mode="lines", line={"width": 2, "color": PALETTE[0], "shape": "hvh"}, name=f"{outcome.name}, median",
        legendgroup="median", showlegend=row == 1, row=row, col=1,
    )  # fmt: skip
