"""A small shop's history."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from stream.backtest.shape import Layout, Read, read_table

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
LAYOUT = Layout(("item",), "day", "units", "D", known=("price", "deal"), past=("views",), static=("category",), fill="zero")


def table(items: int = 5, days: int = 70, seed: int = 1, late: int = 0) -> pa.Table:
    """A row an item and day: Poisson demand with a week, shut on Saturdays; the last item begins `late` days late."""
    chance = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {name: [] for name in ("item", "day", "units", "price", "deal", "views", "category")}
    for item in range(items):
        for day in range(late if item == items - 1 else 0, days):
            deal = int(chance.random() < 0.15)
            rate = 0 if day % 7 == 5 else (1 + 2 * item) * (1 + 0.5 * (day % 7 == 4)) * (1 + deal)
            columns["item"].append(f"i{item}")
            columns["day"].append(date(2024, 1, 1) + timedelta(days=day))
            columns["units"].append(int(chance.poisson(rate)))
            columns["price"].append(2.0 + item - 0.5 * deal)
            columns["deal"].append(deal)
            columns["views"].append(int(chance.poisson(10 + 10 * deal)))
            columns["category"].append("ab"[item % 2])
    return pa.table(columns)


def read(**more: Any) -> Read:
    """That history, read."""
    return read_table(table(**more), LAYOUT)
