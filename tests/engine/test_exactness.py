"""The real intent models inside the ingest engine: the same bits, however the log is cut."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from models.intent.scorer import IntentScorer
from models.protocol import IntentSpec
from stream.engine.activity import Source
from stream.engine.columns import Event
from stream.engine.ingest import IngestShard, IngestSpec
from stream.engine.sessions import FEATURES, SessionBook, SessionSpec
from stream.engine.time import Zone
from stream.records import encode_intent
from tests.engine.fakes import click_rows

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
