"""Small drawings in one or a few lines of text: sparklines, bars, a chart of a past and its forecast. Nothing here knows what they mean.

Colours are of the middle of the 256: each stands out from white paper and from black at 3.8 to 1 or better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.style import Style
from rich.text import Text

PAST = Style(color="color(30)")
NEXT = Style(color="color(133)")
GOOD = Style(color="color(64)")
WARM = Style(color="color(166)")
BAD = Style(color="color(160)", bold=True)
SOFT = Style(color="color(244)")
STRONG = Style(bold=True)

_RISING = "▁▂▃▄▅▆▇█"
_GROWING = "▏▎▍▌▋▊▉█"


def spark(values: Sequence[float], width: int, low: float | None = 0.0, high: float | None = None) -> str:
    """The last `width` values as columns one line high, spaces where there are none.

    Args:
        values: finite.
        width: characters.
        low: what the lowest column stands for; None: the least of the values.
        high: what the highest stands for; None: the largest of them.
    """
    shown = list(values)[-width:] if width > 0 else []
    if not shown:
        return " " * max(width, 0)
    bottom = min(shown) if low is None else low
    span = (max(shown) if high is None else high) - bottom
    steps = [0 if span <= 0 else round((value - bottom) / span * (len(_RISING) - 1)) for value in shown]
    return "".join(_RISING[min(max(step, 0), len(_RISING) - 1)] for step in steps).rjust(width)


def bar(share: float, width: int) -> str:
    """A share of 1 as a bar that grows to the right.

    Args:
        share: cut to 0 … 1.
        width: characters.
    """
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_GROWING[rest - 1] if rest else "")).ljust(width)[:width]


def number(value: float | None, width: int = 0) -> str:
    """A number in as few characters as it takes to read it: 0.37, 4.2, 38, 1,204, 15.3k.

    Args:
        value: None: a dash.
        width: characters to fill, on the left.
    """
    if value is None or not math.isfinite(value):
        return "–".rjust(width)
    size = abs(value)
    if size >= 999_500:
        text = f"{value / 1e6:.3g}M"
    elif size >= 99_950:
        text = f"{value / 1000:.0f}k"
    elif size >= 9_999.5:
        text = f"{value / 1000:.1f}k"
    elif size >= 9.95 or value == round(value):
        text = f"{value:,.0f}"
    elif size >= 0.995:
        text = f"{value:.1f}"
    else:
        text = f"{value:.2f}"
    return text.rjust(width)


def chart(past: Sequence[float], mean: Sequence[float], low: Sequence[float], high: Sequence[float], height: int) -> list[Text]:
    """A past as columns and its forecast as a line within a band; the same scale for both. Lines from the top down.

    Args:
        past: one column each.
        mean: one column each, right of the past.
        low: the band's lower edge, as many as mean.
        high: the band's upper edge.
        height: lines, at least 1.
    """
    top = max([1.0, *past, *mean, *high])
    unit = top / height
    lines = []
    for row in reversed(range(height)):
        floor = row * unit
        line = Text(no_wrap=True)
        label = number(top) if row == height - 1 else "0" if row == 0 else ""
        line.append(label.rjust(5), SOFT)
        for value in past:
            filled = (value - floor) / unit
            step = min(max(round(filled * 8), 0), 8)
            line.append(" " if step == 0 else _RISING[step - 1], PAST)
        line.append("┊", SOFT)
        for middle, lower, upper in zip(mean, low, high, strict=True):
            if row == min(int(middle / unit), height - 1):
                line.append("━", NEXT + STRONG)
            elif lower < floor + unit and upper > floor and upper > lower:
                line.append("░", NEXT)
            else:
                line.append(" ")
        lines.append(line)
    return lines
