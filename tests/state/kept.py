"""Makes the snapshots that tests/state/data keeps for later versions to read: `python -m tests.state.kept NAME`.

Run it whenever the state's or the manifest's version has grown, under a new name (as "state-2"); what is there stays as it is.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from stream.engine.activity import Block, Source, decode_block, encode_block, facts_segment
from stream.engine.facts import SHARE, STATIC, fact_rows, measured_rows
from stream.engine.forecast import ForecastShard
from stream.engine.ingest import IngestShard
from stream.engine.state import forecast_state, ingest_state
from stream.kafka.log import Position
from stream.state import cutting
from stream.state.manifest import Key
from stream.state.store import Store
from tests.engine.fakes import click_rows
from tests.engine.test_exactness import shop
from tests.engine.test_forecast import BASE, blocks_of, roster, spec
from tests.engine.test_state import fresh_ingest

DATA = Path(__file__).resolve().parent / "data"
NAMESPACE = "nowcart."
CHECKSUM = "c0" * 32
FORECAST, INGEST = Key("forecast", "nowcart.activity", 0), Key("ingest", "clicks", 2)
POSITIONS = {FORECAST: Position(40, '{"count":7,"origin":1}'), INGEST: Position(900, '{"count":12,"watermark_ms":1569888000000}')}


def forecast_shard() -> ForecastShard:
    """A shop of five items over a few days, with prices, promotions, stock, a closed day, categories and ratings."""
    chance, time, log = random.Random(1), BASE, []
    for _ in range(120):
        time += chance.choice([5, 40, 200]) * 60_000
        log.append((time, chance.choice("abcdé"), chance.choice([1.0, 2.0, 3.0, 0.5, -1.0])))
    shard = ForecastShard(spec())
    for block in [roster(1), told(log), *blocks_of(log, 0, list(range(0, 120, 3)))]:
        for _ in shard.step(decode_block(encode_block(block))):
            pass
    return shard


def told(log: list[tuple[int, str, float]]) -> Block:
    """What was announced to the shop, in the middle of its days."""
    at = log[60][0]
    hours = [3_600_000 * h for h in range(6)]
    segments = []
    for facts in (
        fact_rows(item=list("abcdé"), name="price", value=np.arange(1.0, 6.0), announced_ms=at),
        fact_rows(
            item=["a", "b"], name="promotion", value=1.0, kind=SHARE, announced_ms=at, starts_ms=at + hours[2], ends_ms=at + hours[4]
        ),
        fact_rows(item=["c"], name="stock", value=0.0, announced_ms=at, ends_ms=at + hours[5]),
        fact_rows(name="closed", value=1.0, kind=SHARE, announced_ms=at, starts_ms=at + hours[3], ends_ms=at + 8 * hours[5]),
        fact_rows(category=["x", "y"], name="rain", value=np.array([0.5, 2.0]), announced_ms=at),
        fact_rows(item=list("abc"), name="category", text=list("xyx"), value=0.0, kind=STATIC, announced_ms=at),
    ):
        segments.append(facts_segment(at // 900_000, facts))
    ratings = measured_rows(item=["a", "a", "b"], name="rating", grain=np.full(3, at // 900_000), value=np.array([4.5, 3.0, 1.0]))
    segments.append(facts_segment(at // 900_000, None, ratings))
    return Block(1, "facts", Source("offers", 0), None, segments)


def ingest_shard() -> IngestShard:
    """A few live sessions."""
    shard = fresh_ingest()
    shard.step(click_rows(shop(1, 200)))
    return shard


def forecast_content(shard: ForecastShard) -> dict[str, Any]:
    """What of it any later version must still know."""
    content: dict[str, Any] = {"items": sorted(shard.index), "next_epoch": shard.next_epoch}
    for resolution in shard.resolutions:
        for name, channel in resolution.windows.channels.items():
            content[f"{resolution.spec.size} {name}"] = [int(channel.closed.sum()) / channel.scale, int(channel.open.sum()) / channel.scale]
        number = resolution.number
        for name, cells in shard.covariates.of_panel(number).items():
            content[f"{resolution.spec.size} known {name}"] = [float(np.nansum(cells, dtype=np.float64)), int(np.isnan(cells).sum())]
    if shard.covariates.names.known:
        content["facts"] = len(shard.covariates.table)
        content["statics"] = {name: int(np.count_nonzero(static.value)) for name, static in shard.covariates.statics.items()}
    return content


def ingest_content(shard: IngestShard) -> dict[str, Any]:
    """What of it any later version must still know."""
    assert shard.book is not None
    return {"sessions": sorted(shard.book.index), "max_ms": shard.max_ms, "reached": shard.reached}


def main() -> None:
    folder = DATA / sys.argv[1]
    if folder.exists():
        sys.exit(f"{folder} is there: choose a new name, old snapshots stay as they were written")
    cutting.PART_BYTES, cutting.SMALL_BYTES = 100_000, 8_000  # small, and yet of several parts
    store = Store(str(folder), NAMESPACE)
    forecast, ingest = forecast_shard(), ingest_shard()
    for key, state in ((FORECAST, forecast_state(forecast)), (INGEST, ingest_state(ingest))):
        made = store.write(key.stage, key.topic, key.partition, POSITIONS[key], CHECKSUM, state)
        print(f"{key}: {made.bytes} bytes in {len(made.parts)} parts")
    content = {"forecast": forecast_content(forecast), "ingest": ingest_content(ingest)}
    (folder / "content.json").write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")


if __name__ == "__main__":
    main()
