"""The real intent models inside the ingest engine, and what forecasts make of them: the same bits, however the log is cut."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from models.intent.scorer import IntentScorer
from models.protocol import IntentSpec
from stream.engine.activity import Block, Source
from stream.engine.columns import DemandColumns, Event
from stream.engine.forecast import ForecastShard
from stream.engine.ingest import IngestShard, IngestSpec
from stream.engine.sessions import FEATURES, SessionBook, SessionSpec
from stream.engine.state import forecast_state, restore_forecast
from stream.engine.time import Zone
from stream.records import encode_demand, encode_intent
from tests.engine.fakes import click_rows
from tests.engine.test_forecast import spec
from tests.state.states import same

MINUTE = 60_000
BASE = 1_700_000_100_000


def shop(seed: int, count: int) -> list[tuple[int, str, Event, str]]:
    chance = random.Random(seed)
    time, events = BASE, []
    kinds = [Event.VIEW, Event.CART, Event.PURCHASE, Event.SEARCH, Event.REMOVE, Event.OTHER]
    for i in range(count):
        time += chance.choice([50, 300, 2_000])
        late = chance.choice([0, 0, 0, 5_000, 100_000])
        kind = chance.choices(kinds, [60, 8, 4, 10, 3, 5])[0]
        events.append((time - late, f"s{chance.randrange(150)}x{i // 900}", kind, f"i{chance.randrange(40)}"))
    return events


def records(events: list[tuple[int, str, Event, str]], bounds: list[int]) -> dict[bytes, list[bytes]]:
    spec = IngestSpec(30_000, 60 * MINUTE, "1m", MINUTE, Zone("Europe/London"), 2, 1_000, True)
    scorer = IntentScorer(IntentSpec(features=FEATURES))
    shard = IngestShard(
        Source("clicks", 0), "clickstream", spec, SessionBook(SessionSpec(5 * MINUTE, False, 0.002, (0.5,), False), scorer, scorer.version)
    )
    out: dict[bytes, list[bytes]] = defaultdict(list)
    done = [shard.step(click_rows(events[a:b], a)) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    for result in [*done, shard.finish()]:
        for columns in result.intents:
            for key, value in zip(*encode_intent(columns), strict=True):
                out[key].append(value)
    return dict(out)


@pytest.mark.parametrize("seed", range(3))
def test_intent_records_are_the_same_bytes_however_the_log_is_cut(seed: int) -> None:
    events = shop(seed, 3_000)
    whole = records(events, [0, len(events)])
    assert sum(map(len, whole.values())) > 1_000
    chance = random.Random(seed)
    for pieces in (1, 7, 150):
        cuts = sorted(chance.sample(range(1, len(events)), pieces))
        assert records(events, [0, *cuts, len(events)]) == whole


def quarters(seed: int) -> list[tuple[int, str, Event, str]]:
    """A day of clicks on ten items, one of which everybody wants for some hours; views come before purchases."""
    chance, events, time = random.Random(seed), [], BASE
    for i in range(1_500):
        time += chance.randrange(20_000, 90_000)
        item = f"i{0 if 500 < i < 700 or 1_000 < i < 1_150 else chance.randrange(10)}"
        events += [(time + k * 15_000, f"s{i}", Event.VIEW, item) for k in range(3)]
        if chance.random() < 0.6:
            events.append((time + chance.randrange(60_000, 240_000), f"s{i}", Event.PURCHASE, item))
    return sorted(events)


def forecasts(
    events: list[tuple[int, str, Event, str]], bounds: list[int], stop: bool, expected: bool = True
) -> tuple[list[bytes], ForecastShard]:
    """Demand records of the clicks' purchases, with expected purchases; `stop`: the forecast engine goes on from its state half way."""
    scorer = IntentScorer(IntentSpec(features=FEATURES))
    book = SessionBook(SessionSpec(5 * MINUTE, False, 0.002, (0.5,), False, expected=expected), scorer, scorer.version)
    ingest = IngestShard(
        Source("clicks", 0), "clickstream", IngestSpec(30_000, 60 * MINUTE, "15m", 15 * MINUTE, Zone("UTC"), 1, 5_000, True), book
    )
    shard, out = ForecastShard(spec()), []
    pieces = [ingest.step(click_rows(events[a:b], a)) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    blocks = [block for piece in [*pieces, ingest.finish()] for block in piece.blocks[0]]
    for number, block in enumerate([Block(1, "roster", roster=[Source("clicks", 0)], agreement=spec().agreement), *blocks]):
        if stop and number == len(blocks) // 2:
            state = {name: array.copy() for name, array in forecast_state(shard).items()}
            shard = ForecastShard(spec())
            restore_forecast(shard, state)
        for columns in shard.step(block):
            if isinstance(columns, DemandColumns):
                out += [value for _, values, _ in encode_demand(columns) for value in values]
    return out, shard


def test_forecasts_moved_by_expected_purchases_are_the_same_bytes_however_the_log_is_cut() -> None:
    events = quarters(0)
    whole, shard = forecasts(events, [0, len(events)], stop=False)
    assert forecasts(events, [0, len(events)], stop=False, expected=False)[0] != whole
    state = forecast_state(shard)
    assert state["15m.model.leading.slot.stock"].any()
    assert state["15m.model.leading.sums"].any()
    assert not [name for name in state if name.startswith("1d.model.leading.slot")]
    chance = random.Random(1)
    for pieces in (3, 60):
        cuts = sorted(chance.sample(range(1, len(events)), pieces))
        found, other = forecasts(events, [0, *cuts, len(events)], stop=True)
        assert found == whole
        assert same(forecast_state(other), state)
