"""A small history with a strong week, and few experts, so that training it takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stream.backtest.shape import Layout
from stream.config import Config
from stream.engine.activity import Block
from stream.engine.forecast import ForecastSpec
from stream.train.history import FileHistory
from tests.runners.harness import config

EXPERTS = ("ewma", "network", "network_counts", "boosted")
DAY_MS = 86_400_000


def settings(path: Path) -> Config:
    """A shop of days."""
    return config(
        demand={"quantiles": [0.1, 0.5, 0.9], "totals": [2], "buckets": [{"size": "1d", "horizon": 3, "seasons": [7]}]},
        state={"url": str(path)},
    )


def sales(path: Path, days: int = 150, items: int = 12, seed: int = 0, flip: int | None = None) -> Path:
    """Poisson sales with a week and a price that is known ahead; from day `flip` on the week is another."""
    random = np.random.default_rng(seed)
    lines = ["item,day,units,price"]
    rate = np.exp(random.normal(1.2, 0.7, items))
    for day in range(days):
        turned = flip is not None and day >= flip
        weekly = np.exp(1.2 * np.sin(2 * np.pi * (day + 3 * turned) / 7))
        for item in range(items):
            price = 5.0 if (day + item) % 10 else 3.5
            lift = 1.8 if price < 5 else 1.0
            date = np.datetime64("2024-01-01") + day
            lines.append(f"i{item},{date},{random.poisson(rate[item] * weekly * lift)},{price}")
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass
class LightHistory:
    """A history with few experts."""

    whole: FileHistory

    @property
    def source(self) -> str:
        return "a test"

    @property
    def spec(self) -> ForecastSpec:
        found = self.whole.spec
        light = tuple(replace(part, demand=replace(part.demand, experts=EXPERTS)) for part in found.resolutions)
        return replace(found, resolutions=light)

    @property
    def ends(self) -> list[int]:
        return self.whole.ends

    def blocks(self, part: int, start: int = 0) -> Iterator[tuple[int, Block]]:
        return self.whole.blocks(part, start)


def light_history(shop: Config, path: Path, **columns: Any) -> LightHistory:
    layout = Layout(item=("item",), time="day", target="units", known=("price",), fill="zero", **columns)
    return LightHistory(FileHistory(shop, path, layout))


def spoilt(arrays: dict[str, Any]) -> dict[str, Any]:
    """Weights whose quantiles stand anywhere, without trees."""
    random = np.random.default_rng(1)
    return {
        name: values + random.normal(0, 1.5, values.shape).astype(np.float32) if ".out." in name else values
        for name, values in arrays.items()
        if not name.startswith("trees.")
    }
