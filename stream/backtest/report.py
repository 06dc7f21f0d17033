"""One self-contained page of HTML about a backtest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stream.backtest.run import Backtest


def write_report(path: Path, result: Backtest, scores: dict[str, Any]) -> None:
    """Writes the page.

    Args:
        path: of the file.
        result: of the backtest.
        scores: of summary().
    """
    raise NotImplementedError
