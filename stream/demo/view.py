"""The demo's screen: pure functions from what is known to something that rich can draw, at any size of the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich import box
from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.style import Style
from rich.text import Text

from stream.demo.board import BUCKET_MS, Board, Item, Session, SpikeRecord
from stream.demo.ink import BAD, GOOD, NEXT, PAST, SOFT, STRONG, WARM, bar, chart, number, spark

_TURN_SECONDS = 10
_STARRED = 3
"""Items that take turns in the chart."""


@dataclass(slots=True)
class Figures:
    """The engine's own figures, and where to look."""

    phase: str = "starting"
    """What it does now; "live" once the shop's past is behind it."""
    up_seconds: float = 0.0
    first_forecast_seconds: float | None = None
    events: int = 0
    rates: list[float] = field(default_factory=list)
    """Events a second in each of the last seconds."""
    p50_ms: float | None = None
    p99_ms: float | None = None
    sessions: int = 0
    items: int = 0
    watermark_seconds: float | None = None
    commits_per_second: float = 0.0
    records_per_second: float = 0.0
    dead_letters: int = 0
    spikes: int = 0
    now_ms: int = 0
    metrics_url: str = ""
    page_url: str = ""
    """Of the live page, once it is there."""
    bootstrap_servers: str = ""
    prefix: str = "nowcart."
    note: str = ""
    """The last warning."""

    @property
    def live(self) -> bool:
        """Whether the shop's past is behind it."""
        return self.phase == "live"

    @property
    def rate(self) -> float:
        """Events a second, the mean of the last five."""
        last = self.rates[-5:]
        return sum(last) / len(last) if last else 0.0


def screen(board: Board, figures: Figures, width: int, height: int) -> Layout:
    """The whole screen.

    Args:
        board: what the topics have said.
        figures: what the engine says of itself.
        width: of the terminal, characters.
        height: lines.
    """
    tall, wide = height >= 34, width >= 110
    header, stats, footer = 1, 4 if tall else 2, 2 if tall else 1
    learning = min(3 + len(board.curves or "......"), 10) + 1 if tall else 1
    rest = height - header - stats - footer - learning
    lower = max(5, min(14, rest * 2 // 5)) if rest >= 12 else 0
    upper = max(rest - lower, 1)
    root = Layout()
    parts = [
        Layout(_header(figures, width), size=header),
        Layout(_stats(figures, width) if tall else _short_stats(figures, width), size=stats),
    ]
    main = Layout(size=upper)
    star = _star(board, figures)
    if wide:
        table = max(74, min(100, width * 6 // 10))
        main.split_row(
            Layout(_items(board, figures, table, upper, star), size=table),
            Layout(_chart(star, figures, width - table, upper), size=width - table),
        )
    else:
        main.update(_items(board, figures, width, upper, star))
    parts.append(main)
    if lower:
        pair, left = Layout(size=lower), width // 2
        pair.split_row(
            Layout(_spikes(board.latest_spikes(lower), left, lower), size=left),
            Layout(_sessions(board, figures, width - left, lower), size=width - left),
        )
        parts.append(pair)
    parts.append(Layout(_learning(board, width, learning) if tall else _short_learning(board, width), size=learning))
    parts.append(Layout(_footer(figures, width, footer), size=footer))
    root.split_column(*parts)
    return root


def status(board: Board, figures: Figures) -> str:
    """One line for where there is no terminal.

    Args:
        board: what the topics have said.
        figures: what the engine says of itself.
    """
    parts = [
        f"{figures.up_seconds:5.0f} s  {figures.phase}",
        f"{figures.rate:,.0f} events/s ({figures.events:,} in all)",
        f"latency p50 {number(figures.p50_ms)} ms p99 {number(figures.p99_ms)} ms",
        f"{figures.sessions:,} sessions, {figures.items:,} items live",
        f"{figures.records_per_second:,.0f} records/s, {figures.commits_per_second:.0f} commits/s",
    ]
    if top := board.top(1):
        item = top[0]
        parts.append(f"{item.name}: {number(item.history(1)[0])} sold in the last minute, {number(item.mean[0])} forecast for the next")
    if curve := board.curves.get("council"):
        parts.append(f"WAPE {curve[-1]:.2f}")
    return "; ".join(parts)


# ---- the parts


def _line(width: int, left: Text, right: Text | None = None) -> Text:
    """One line with something at either end; the right end goes where there is no room for both."""
    if right is None or left.cell_len + right.cell_len + 1 > width:
        left.truncate(width, overflow="ellipsis")
        return left
    return Text.assemble(left, " " * (width - left.cell_len - right.cell_len), right, no_wrap=True)


def _panel(body: RenderableType, title: str, height: int, hint: str = "") -> Panel:
    text = Text.assemble((title, STRONG), (f"  {hint}" if hint else "", SOFT))
    return Panel(body, title=text, title_align="left", box=box.ROUNDED, border_style=SOFT, padding=(0, 1), height=height)


def _header(figures: Figures, width: int) -> Text:
    clock = datetime.fromtimestamp(figures.now_ms / 1000, UTC).strftime("%H:%M:%S UTC") if figures.now_ms else ""
    mood = GOOD if figures.live else WARM
    left = Text.assemble((" nowcart ", STRONG + PAST), ("● ", mood), (figures.phase, mood))
    if figures.first_forecast_seconds is not None:
        left.append(f"   first forecast after {figures.first_forecast_seconds:.1f} s", SOFT)
    return _line(width, left, Text.assemble((f"{clock}  up {_span(figures.up_seconds)} ", SOFT)))


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _pairs(figures: Figures) -> list[tuple[str, str]]:
    lag = "–" if figures.watermark_seconds is None else f"{figures.watermark_seconds:,.0f} s"
    return [
        ("latency p50", f"{number(figures.p50_ms)} ms"),
        ("p99", f"{number(figures.p99_ms)} ms"),
        ("sessions", f"{figures.sessions:,}"),
        ("items", f"{figures.items:,}"),
        ("watermark", f"−{lag}"),
        ("commits/s", number(figures.commits_per_second)),
        ("records/s", number(figures.records_per_second)),
        ("dead letters", f"{figures.dead_letters:,}"),
    ]


def _stats(figures: Figures, width: int) -> Panel:
    inner = width - 4
    room = max(10, min(60, inner - 30))
    rate = Text.assemble((f"{figures.rate:8,.0f}", STRONG + PAST), (" events/s  ", SOFT), (spark(figures.rates, room), PAST))
    rate.append(f"  {figures.events:,} in all", SOFT)
    rate.truncate(inner, overflow="crop")
    return Panel(Group(rate, _told(figures, inner)), box=box.ROUNDED, border_style=SOFT, padding=(0, 1), height=4)


def _told(figures: Figures, width: int) -> Text:
    line = Text(no_wrap=True)
    for name, value in _pairs(figures):
        piece = Text.assemble((value, STRONG), (f" {name}" if not name.startswith(("latency", "p99", "watermark")) else "", SOFT))
        if name.startswith(("latency", "p99", "watermark")):
            piece = Text.assemble((f"{name} ", SOFT), (value, STRONG))
        if line.cell_len + piece.cell_len + 3 > width:
            break
        line.append_text(Text.assemble("   " if line else "", piece))
    return line


def _short_stats(figures: Figures, width: int) -> Group:
    room = max(0, min(60, width - 38))
    rate = Text.assemble((f" {figures.rate:,.0f}", STRONG + PAST), (" events/s ", SOFT), (spark(figures.rates, room), PAST), no_wrap=True)
    rate.append(f"  {figures.events:,} in all", SOFT)
    rate.truncate(width, overflow="crop")
    return Group(rate, Text.assemble(" ", _told(figures, width - 1)))


def _star(board: Board, figures: Figures) -> Item | None:
    top = board.top(_STARRED)
    return top[int(figures.up_seconds // _TURN_SECONDS) % len(top)] if top else None


def _items(board: Board, figures: Figures, width: int, height: int, star: Item | None) -> Panel:
    inner, rows = width - 4, height - 3
    fixed = 9 + 6 + 5 + 5 + 5 + 8
    price = inner >= fixed + 8 + 12
    about = 20 if inner >= fixed + 8 + 20 + 30 else 0
    room = inner - fixed - (8 if price else 0) - about - 1
    ahead = max(4, min(15, room // 3))
    back = max(4, min(45, room - ahead - 1))
    sides = "past".rjust(back)[-back:] + "┊" + "forecast".ljust(ahead)[:ahead]
    head = Text("  item".ljust(9) + " " * about + sides, SOFT, no_wrap=True)
    head.append(f"{'now':>6}{'+1':>5}{'+10':>5}{'+30':>5}{'80 %':>8}" + (f"{'price':>8}" if price else ""), SOFT)
    lines = [head]
    for item in board.top(max(rows, 0)):
        lines.append(_item(item, figures, star is item, about, back, ahead, price))
    if len(lines) == 1:
        lines.append(Text(f"  {figures.phase} …", SOFT))
    for line in lines:
        line.truncate(inner, overflow="crop")
    return _panel(Group(*lines), "demand", height, "units a minute: sold, so far now, and forecast")


def _item(item: Item, figures: Figures, starred: bool, about: int, back: int, ahead: int, price: bool) -> Text:
    history, mean = item.history(back), list(item.mean[:ahead])
    high = max([1.0, *history, *mean])
    line = Text.assemble(("▸ " if starred else "  ", NEXT), (item.name[:6].ljust(7), STRONG), no_wrap=True)
    if about:
        line.append(item.about[: about - 2].ljust(about), SOFT)
    line.append(spark(history, back, high=high), PAST)
    line.append("┊", SOFT)
    line.append(spark(mean, len(mean), high=high).ljust(ahead), NEXT)
    # Of the minute that runs now; the one before it may still be waiting for its watermark.
    so_far = item.open.get(figures.now_ms - figures.now_ms % BUCKET_MS, 0.0) if figures.live else None
    line.append(number(so_far, 6), PAST)
    line.append(number(item.mean[0], 5), NEXT + STRONG)
    for step in (10, 30):
        line.append(number(item.mean[step - 1] if len(item.mean) >= step else None, 5), NEXT)
    interval = f"{number(item.low[0])}–{number(item.high[0])}" if item.low and item.high else "–"
    line.append(interval.rjust(8), NEXT)
    if price:
        known = item.price(figures.now_ms)
        text = "–" if known is None else f"{'↓' if known[1] else ''}{known[0]:,.{2 if known[0] < 1000 else 0}f}"
        line.append(text.rjust(8), WARM if known is not None and known[1] else Style())
    return line


def _chart(star: Item | None, figures: Figures, width: int, height: int) -> Panel:
    if star is None:
        return _panel(Text(f"{figures.phase} …", SOFT), "forecast", height)
    inner = width - 4
    steps = min(len(star.mean), (inner - 6) // 2, len(star.low), len(star.high))
    back = max(1, min(45, inner - 6 - steps))
    lines = chart(star.history(back), star.mean[:steps], star.low[:steps], star.high[:steps], max(1, height - 3))
    left = f"−{back} min".ljust(back)[:back]
    axis = Text("     " + left + "┊" + f"+{steps} min".rjust(steps)[:steps], SOFT, no_wrap=True)
    return _panel(Group(*lines, axis), star.name, height, f"{star.about}   ░ 80 %" if star.about else "░ 80 %")


def _spikes(spikes: Sequence[tuple[SpikeRecord, bool]], width: int, height: int) -> Panel:
    inner, lines = width - 4, []
    for spike, over in spikes[: height - 2]:
        style = GOOD if over else BAD if spike.severity == "critical" else WARM
        clock = datetime.fromtimestamp(spike.bucket_start_ms / 1000, UTC).strftime("%H:%M")
        line = Text.assemble((f"{'✓' if over else '▲'} ", style), (spike.item[:6].ljust(7), STRONG), (f"{clock} ", SOFT), no_wrap=True)
        line.append(number(spike.observed, 4), style + STRONG).append(" for ", SOFT).append(number(spike.expected).ljust(5), NEXT)
        if inner >= 44:
            line.append(f"p {spike.p_value:.0e}  ", SOFT)
        line.append("over" if over else spike.severity, style)
        line.truncate(inner, overflow="crop")
        lines.append(line)
    if not lines:
        lines.append(Text("nothing out of the ordinary", SOFT, no_wrap=True))
    return _panel(Group(*lines), "spikes", height, "sold, for what was expected" if inner >= 44 else "sold for expected")


def _sessions(board: Board, figures: Figures, width: int, height: int) -> Panel:
    inner = width - 4
    room = max(3, min(30, inner - 30))
    lines = [_session(session, room, inner) for session in board.hot(height - 2)]
    if not lines:
        lines.append(Text(f"{figures.phase} …", SOFT, no_wrap=True))
    return _panel(Group(*lines), "intent", height, f"will it buy? {board.bought:,} did")


def _session(session: Session, room: int, inner: int) -> Text:
    style = GOOD if session.purchased else WARM if session.p >= 0.5 else PAST
    line = Text.assemble((session.name[:6], STRONG), (f"{session.events:4d} ev ", SOFT), no_wrap=True)
    line.append(bar(session.p, room), style).append(f" {session.p:4.0%}", style + STRONG)
    line.append("  ✓ bought" if session.purchased else "", GOOD)
    line.truncate(inner, overflow="crop")
    return line


def _learning(board: Board, width: int, height: int) -> Panel:
    inner = width - 4
    names = sorted(board.curves, key=lambda name: (name != "council", board.curves[name][-1], name))
    name_width = min(max([8, *map(len, names)]), 16) + 1
    share = max(4, min(20, (inner - name_width - 26) // 4))
    room = max(6, inner - name_width - share - 26)
    lines = [Text("expert".ljust(name_width) + "error".rjust(6) + "  " + "as it learns".ljust(room) + "   weight", SOFT, no_wrap=True)]
    for name in names[: height - 4]:
        curve, weight = board.curves[name], board.weights.get(name)
        council = name == "council"
        style = NEXT if council else PAST
        line = Text.assemble((name.replace("_", " ")[:name_width].ljust(name_width), STRONG if council else Style()), no_wrap=True)
        line.append(f"{curve[-1]:6.3f}", style + STRONG).append("  ").append(spark(curve, room, low=None).ljust(room), style)
        if council:
            line.append("    their mix", SOFT)
        elif weight:
            line.append(f"{weight[-1]:7.0%} ", STRONG).append(bar(weight[-1], share), PAST)
            line.append(_trend(list(weight)), SOFT)
        line.truncate(inner, overflow="crop")
        lines.append(line)
    if not names:
        lines.append(Text("no forecast has met its bucket yet", SOFT))
    lines.append(_coverage(board, inner))
    return _panel(Group(*lines), "learning", height, "WAPE of the next minute, all items")


def _trend(values: list[float]) -> str:
    if len(values) < 2:
        return ""
    moved = values[-1] - values[max(0, len(values) - 6)]
    return " ↗" if moved > 0.005 else " ↘" if moved < -0.005 else " →"


def _coverage(board: Board, width: int) -> Text:
    line = Text("intervals   ", SOFT, no_wrap=True)
    interval = _interval(board)
    if interval is None:
        return line.append("–")
    line.append(f"80 % holds {interval:.0%}", STRONG).append("   levels kept ", SOFT)
    for level, shares in board.coverage.items():
        kept = shares["below"] - 0.02 <= float(level) <= shares["at_or_below"] + 0.02
        line.append(f" {float(level):.0%}", SOFT).append("✓" if kept else "✗", GOOD if kept else WARM)
    line.truncate(width, overflow="crop")
    return line


def _interval(board: Board) -> float | None:
    """Share of outcomes within the 80 % interval, its ends included."""
    low, high = board.coverage.get("0.1"), board.coverage.get("0.9")
    return None if low is None or high is None else high["at_or_below"] - low["below"]


def _short_learning(board: Board, width: int) -> Text:
    line = Text(" learning  ", SOFT, no_wrap=True)
    ranked = sorted((curve[-1], name) for name, curve in board.curves.items() if name != "council")
    if council := board.curves.get("council"):
        line.append(f"council WAPE {council[-1]:.3f} ", NEXT + STRONG).append(spark(council, 16, low=None), NEXT)
    if ranked:
        line.append(f"  best: {ranked[0][1].replace('_', ' ')} {ranked[0][0]:.3f}", SOFT)
    if (interval := _interval(board)) is not None:
        line.append(f"  80 % holds {interval:.0%}", SOFT)
    line.truncate(width, overflow="crop")
    return line


def _footer(figures: Figures, width: int, height: int) -> Group:
    kcat = f" kcat -b {figures.bootstrap_servers} -C -t {figures.prefix}demand" if figures.bootstrap_servers else ""
    first = Text.assemble((figures.note, WARM) if figures.note else (kcat, PAST), no_wrap=True)
    topics = Text.assemble((f" topics {figures.prefix}{{demand, intent, spikes, deadletter}}", SOFT), no_wrap=True)
    end = Text.assemble((f"{figures.page_url}  " if figures.page_url else "", PAST), ("Ctrl-C ends it ", SOFT))
    metrics = Text.assemble((f"{figures.metrics_url} ", PAST))
    if height == 1:
        return Group(_line(width, first, Text.assemble(metrics, end) if width >= 110 else metrics))
    return Group(_line(width, first, metrics), _line(width, topics, end))
