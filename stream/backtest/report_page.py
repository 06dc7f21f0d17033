"""The words of a backtest's page, and its frame: what was asked, what came out in plain sentences, the table, the pictures, the definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --soft: #6b7280; --paper: #ffffff; --card: #f8fafc; --line: #e2e8f0; --good: #047857; }
:root[data-theme=dark] { --ink: #e5e7eb; --soft: #9ca3af; --paper: #0f172a; --card: #1e293b; --line: #334155; --good: #34d399; }
* { box-sizing: border-box } body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
main { max-width: 1080px; margin: 0 auto; padding: 24px 20px 64px } h1 { font-size: 1.7rem; margin: 0 0 4px }
h2 { font-size: 1.2rem; margin: 40px 0 6px } p { margin: 6px 0; max-width: 78ch } .soft { color: var(--soft) }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 18px; margin: 16px 0 }
.card li { margin: 4px 0 } ul { padding-left: 20px; margin: 4px 0 } .wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .86rem }
th, td { padding: 6px 8px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap } th:first-child, td:first-child { text-align: left }
thead th { color: var(--soft); font-weight: 600 } td.best { color: var(--good); font-weight: 700 }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 20px } @media (max-width: 820px) { .pair { grid-template-columns: 1fr } }
.pair > div { min-width: 0 }
button { float: right; background: var(--card); color: var(--ink); border: 1px solid var(--line); border-radius: 8px; padding: 6px 12px; cursor: pointer }
dt { font-weight: 600; margin-top: 10px } dd { margin: 0 0 0 18px } details summary { cursor: pointer; font-weight: 600 }
@media print { button { display: none } }
"""

_SCRIPT = """
const root = document.documentElement, dark = matchMedia('(prefers-color-scheme: dark)');
function paint() {
  const style = getComputedStyle(root), ink = style.getPropertyValue('--ink').trim(), card = style.getPropertyValue('--card').trim();
  for (const plot of document.querySelectorAll('.js-plotly-plot'))
    Plotly.relayout(plot, {'font.color': ink, 'hoverlabel.bgcolor': card, 'hoverlabel.font.color': ink});
}
function theme(name) { root.dataset.theme = name; paint(); }
document.getElementById('theme').onclick = () => theme(root.dataset.theme === 'dark' ? 'light' : 'dark');
dark.addEventListener('change', event => theme(event.matches ? 'dark' : 'light'));
addEventListener('load', () => theme(dark.matches ? 'dark' : 'light'));
"""

_COLUMNS = (
    ("WQL", "wql", "{:.4f}", "low"),
    ("WAPE", "wape", "{:.3f}", "low"),
    ("WAPE, mean", "wape_mean", "{:.3f}", "low"),
    ("MAPE", "mape", "{:.3f}", "low"),
    ("MASE", "mase", "{:.3f}", "low"),
    ("RMSE", "rmse", "{:,.4g}", "low"),
    ("bias", "bias", "{:+.1%}", "zero"),
)

_WORDS = (
    ("WQL, weighted quantile loss", "How far all the quantiles together were off, as a share of demand. The one number to compare methods by: it punishes both wrong "
     "forecasts and intervals that are too wide or too narrow. Lower is better."),
    ("WAPE", "Sum of absolute errors of the median forecast over the sum of demand: 0.3 means off by 30 % of what was sold."),
    ("WAPE, mean", "The same of the mean forecast."),
    ("MAPE", "Average error in percent of each actual above zero, of the forecast that is best for this score. It favours forecasts that are too low."),
    ("MASE", "Average error over that of repeating the last season within the history: below 1 is better than repeating."),
    ("RMSE", "Root of the mean squared error of the mean forecast, in units; dominated by the largest sellers."),
    ("bias", "By how much the mean forecasts were too high (+) or too low (−) in all, as a share of demand: what over- or under-stocking would add up to."),
    ("level kept", "A 90 % quantile should lie at or above demand nine times in ten. For counts the share below and the share at or below differ; the level is kept when it "
     "lies between the two."),
    ("round", "One cut of the history: forecast from what lay before it, compared with what came after."),
)  # fmt: skip


def page(
    scores: Mapping[str, Any], figures: Mapping[str, str | None], javascript: str, extremes: Mapping[str, Sequence[tuple[int, float]]]
) -> str:
    """The whole page.

    Args:
        scores: of summary().
        figures: HTML of the plots by name; None: there is nothing to draw.
        javascript: plotly's.
        extremes: the items drawn, under "best" and "worst".
    """
    settings, models = scores["settings"], scores["models"]
    first = next(iter(models))
    sections = [
        f"<h1>Backtest of {escape(_base(settings['source']))}</h1>",
        f'<p class="soft">{escape(_asked(settings))}</p>',
        f'<div class="card"><ul>{"".join(f"<li>{sentence}</li>" for sentence in _sentences(scores))}</ul></div>',
        "<h2>All methods</h2>",
        "<p class='soft'>The best of each column is green. What the columns mean stands at the end.</p>",
        f'<div class="wide">{_table(models)}</div>',
        _notes(models),
        _section(
            "How sure are the differences?",
            f"{escape(first)}'s WQL less each other's on the same forecasts, with an interval of 95 % that allows for errors which items and rounds have in common. Grey: could be chance.",
            figures["paired"],
        ),
        _section(
            "Are the quantiles kept?",
            "Each bar reaches from the share of actuals below a quantile to the share at or below it. A bar that touches the dotted line keeps its promise; above the line the "
            "quantiles were too high (too much stock), below it too low (too many stock-outs).",
            figures["calibration"],
        ),
        '<div class="pair"><div>',
        _section("Error by step ahead", "How fast forecasts get worse with distance.", figures["steps"]),
        "</div><div>",
        _section("Error by velocity", "Items in three equal groups by how much they sold before the first cut.", figures["velocity"]),
        "</div></div>",
        _section(
            "Who speaks in the mixture",
            "The weights that experts have earned by the last ticks, a mean over items and rounds.",
            figures["experts"],
        ),
    ]
    if extremes["best"]:
        sections.append(
            _section(
                f"Items that {escape(first)} forecasts best",
                "Among the half of the items that sells most. Grey: what was sold; blue: the median of every round and its intervals.",
                figures["best"],
            )
        )
    if extremes["worst"]:
        sections.append(
            _section(
                "And worst", "Look here for promotions nobody announced, stock-outs, or orders of one large customer.", figures["worst"]
            )
        )
    words = "".join(f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in _WORDS)
    sections.append(f"<h2>What the words mean</h2><dl>{words}</dl>")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Backtest of {escape(_base(settings['source']))}</title><style>{_STYLE}</style><script>{javascript}</script></head>"
        f'<body><main><button id="theme" type="button">light / dark</button>{"".join(sections)}</main><script>{_SCRIPT}</script></body></html>\n'
    )


def _base(source: str) -> str:
    return source.replace("\\", "/").rsplit("/", 1)[-1]


def _asked(settings: Mapping[str, Any]) -> str:
    gap = f" after a gap of {settings['gap']}" if settings["gap"] else ""
    rounds = len(settings["cuts"])
    return (
        f"{settings['items']:,} items, {settings['first']} to {settings['last']} in steps of {settings['freq']}; {rounds} round{'s' if rounds > 1 else ''}, the first from "
        f"{settings['cuts'][0]}, the last from {settings['cuts'][-1]}, each {settings['horizon']} step{'s' if settings['horizon'] > 1 else ''} ahead{gap}; "
        f"{settings['cells']:,} forecasts scored."
    )


def _sentences(scores: Mapping[str, Any]) -> list[str]:
    """What came out, in plain words."""
    models = scores["models"]
    first, *others = models
    ranked = sorted((name for name in models if models[name]["wql"] is not None), key=lambda name: float(models[name]["wql"]))
    if not ranked:
        return ["Nothing could be scored: there is no demand in the rounds."]
    said = [f"Best by WQL: <b>{escape(ranked[0])}</b> ({models[ranked[0]]['wql']:.4f})."]
    pairs = {pair["against"]: pair for pair in scores["paired"] if pair["model"] == first}
    for name in [name for name in ranked if name in others][:1]:
        pair = pairs.get(name)
        if pair is not None and models[name]["wql"]:
            share = pair["wql_difference"] / models[name]["wql"]
            sure = "no interval: too few rounds or items" if pair["low"] is None else (
                "more than chance" if pair["high"] < 0 or pair["low"] > 0 else "could be chance"
            )  # fmt: skip
            word = "lower (better)" if share < 0 else "higher (worse)"
            said.append(
                f"<b>{escape(first)}</b>'s error is {abs(share):.1%} {word} than that of {escape(name)}, the best of the others: {sure}."
            )
    one = models[first]
    if one["bias"] is not None:
        said.append(f"In all, {escape(first)}'s mean forecasts were {abs(one['bias']):.1%} too {'high' if one['bias'] > 0 else 'low'}.")
    off = [(float(level), kept["error"]) for level, kept in one["levels"].items() if kept["error"] is not None]
    if off:
        level, error = max(off, key=lambda pair: pair[1])
        said.append(
            f"{escape(first)}'s quantiles keep their promise to within {error:.1%} (furthest off: the {level:.0%} quantile)."
            if error >= 0.0005
            else f"All of {escape(first)}'s quantiles keep their promise."
        )
    return said


def _table(models: Mapping[str, Any]) -> str:
    spans = next((list(one["coverage"]) for one in models.values() if one["coverage"]), [])
    span = min(spans, key=lambda name: abs(float(name) - 0.8), default=None)
    best = {key: _best([one[key] for one in models.values()], how) for _, key, _, how in _COLUMNS}
    heads = [head for head, *_ in _COLUMNS] + ([f"in {float(span):.0%} interval"] if span else []) + ["seconds", "forecasts"]
    rows = []
    for name, one in models.items():
        cells = []
        for _, key, form, _ in _COLUMNS:
            mark = ' class="best"' if one[key] is not None and one[key] == best[key] else ""
            cells.append(f"<td{mark}>{'–' if one[key] is None else form.format(one[key])}</td>")
        if span:
            kept = one["coverage"][span]
            cells.append(f"<td>{'–' if kept['closed'] is None else _shares(kept)}</td>")
        rows.append(f"<tr><td>{escape(name)}</td>{''.join(cells)}<td>{one['seconds']:,.1f}</td><td>{one['n']:,}</td></tr>")
    return f"<table><thead><tr><th>method</th>{''.join(f'<th>{head}</th>' for head in heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _shares(kept: Mapping[str, float]) -> str:
    low, high = f"{kept['open']:.0%}", f"{kept['closed']:.0%}"
    return low if low == high else f"{low} to {high}"


def _best(values: Sequence[float | None], how: str) -> float | None:
    some = [value for value in values if value is not None]
    if not some:
        return None
    return min(some, key=abs) if how == "zero" else min(some)


def _notes(models: Mapping[str, Any]) -> str:
    notes = "".join(f"<li><b>{escape(name)}</b>: {escape(one['note'])}</li>" for name, one in models.items() if one.get("note"))
    return f"<details><summary>How the methods were run</summary><ul>{notes}</ul></details>" if notes else ""


def _section(title: str, text: str, figure: str | None) -> str:
    return "" if figure is None else f'<h2>{title}</h2><p class="soft">{text}</p>{figure}'
