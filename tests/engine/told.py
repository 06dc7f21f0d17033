"""The road of what is announced, for tests: messages' bytes to a forecast shard, and what its models were shown at each issue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.protocol import Panel
from stream.config import parse
from stream.engine.activity import Block, Source, decode_block, encode_block
from stream.engine.columns import DemandColumns, Rejected, Rows
from stream.engine.forecast import ForecastShard, ForecastSpec
from stream.engine.ingest import IngestShard, IngestSpec
from stream.engine.time import Zone
from stream.mapping import Decoder
from tests.engine.test_forecast import ALLOWED, LATE, MINUTE, blocks_of, roster, spec

FIELDS: dict[str, dict[str, str]] = {
    "offers": {
        name: name
        for name in ("time", "item", "price", "regular_price", "promotion", "starts", "ends", "stock", "category", "brand", "launched")
    },
    "signals": {name: name for name in ("time", "name", "starts", "ends", "value", "category")},
    "reviews": {name: name for name in ("time", "item", "text", "rating")},
}


@dataclass(frozen=True, slots=True)
class Told:
    """Messages of one partition."""

    offsets: list[int]
    stamps_ms: list[int]
    values: list[bytes | None]


def decoded(kind: str, messages: Sequence[dict[str, Any]], zone: str = "UTC") -> tuple[Rows, list[Rejected]]:
    """Messages of a source of this kind, as the decoder gives them."""
    orders = {"kind": "orders", "topic": "o", "fields": {"time": "t", "item": "i", "quantity": "q"}}
    config = parse({"time": {"zone": zone}, "sources": {"orders": orders, kind: {"kind": kind, "topic": kind, "fields": FIELDS[kind]}}})
    values: list[bytes | None] = [json.dumps(message).encode() for message in messages]
    found = Decoder(config.sources[kind], config.time, Zone(zone)).decode(Told(list(range(len(values))), [-1] * len(values), values))
    return found.rows, found.rejected


def told(kind: str, messages: Sequence[dict[str, Any]], zone: str = "UTC", smallest: str = "15m", cuts: Sequence[int] = ()) -> list[Block]:
    """What ingest sends about a source of this kind, its log cut as told."""
    rows, rejected = decoded(kind, messages, zone)
    assert not rejected
    shard = IngestShard(Source(kind, 0), kind, IngestSpec(LATE, ALLOWED, smallest, 15 * MINUTE, Zone(zone), 1, 1_000, False), None)
    bounds = sorted({0, len(rows), *cuts})
    return [b for lo, hi in zip(bounds[:-1], bounds[1:], strict=True) for b in shard.step(rows.cut(lo, hi)).blocks[0]]


class Shown:
    """A shard whose panels are kept: what models were shown when they forecast.

    Args:
        which: of the shard.
    """

    def __init__(self, which: ForecastSpec | None = None) -> None:
        self.shard = ForecastShard(which or spec())
        self.panels: list[tuple[str, Panel, dict[str, int]]] = []
        self.columns: list[DemandColumns] = []
        for resolution in self.shard.resolutions:
            self._watch(resolution.spec.size, resolution.forecaster)

    def _watch(self, size: str, forecaster: Any) -> None:
        forecast = forecaster.forecast

        def watched(panel: Panel) -> Any:
            def frozen(rings: Any) -> dict[str, Any]:
                return {name: ring.copy() for name, ring in rings.items()}

            censored = None if panel.censored is None else panel.censored.copy()
            kept = Panel(
                panel.slots, panel.closed, panel.units.copy(), panel.scale, panel.first, panel.steps, panel.whole,
                known=frozen(panel.known), past=frozen(panel.past), statics=frozen(panel.statics), censored=censored, shut=panel.shut,
            )  # fmt: skip
            self.panels.append((size, kept, dict(self.shard.index)))
            return forecast(panel)

        forecaster.forecast = watched

    def take(self, blocks: Sequence[Block]) -> Shown:
        """Steps blocks."""
        for block in blocks:
            self.columns += [c for c in self.shard.step(decode_block(encode_block(block))) if isinstance(c, DemandColumns)]
        return self

    def at(self, size: str, closed: int) -> tuple[Panel, dict[str, int]]:
        """The panel of the forecast that was issued when a bucket had closed."""
        found = [(panel, index) for mine, panel, index in self.panels if mine == size and panel.closed == closed]
        assert found, f"nothing was forecast at {size} {closed}: {[(m, p.closed) for m, p, _ in self.panels]}"
        return found[0]

    def known(self, size: str, closed: int, name: str, item: str, steps: Sequence[int]) -> list[float | None]:
        """What was known of an item at an issue, by step (0: the closed bucket); None: nothing."""
        panel, index = self.at(size, closed)
        if name not in panel.known:
            return [None] * len(steps)
        ring = panel.known[name]
        values = [float(ring[(closed + step) % len(ring), 0 if ring.shape[1] == 1 else index[item]]) for step in steps]
        return [None if np.isnan(value) else value for value in values]


def shown(lines: list[tuple[int, str, float]], announced: Sequence[Block], which: ForecastSpec | None = None, first: bool = True) -> Shown:
    """A shard that was told things before (or after) it heard of some orders."""
    orders = blocks_of(lines, 0, [])
    return Shown(which).take([roster(1), *(announced if first else ()), *orders, *(() if first else announced)])
