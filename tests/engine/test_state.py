"""State that was taken out in mid-log and put into a fresh shard goes on as if nothing had happened, to the byte."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.intent.scorer import IntentScorer
from models.protocol import IntentSpec
from stream.engine.activity import Source, decode_block, encode_block
from stream.engine.forecast import ForecastShard
from stream.engine.ingest import IngestShard, IngestSpec
from stream.engine.sessions import FEATURES, SessionBook, SessionSpec
from stream.engine.state import (
    forecast_state,
    ingest_arrays,
    ingest_note,
    ingest_state,
    mend_ingest,
    pack_texts,
    restore_forecast,
    restore_ingest,
    track_ingest,
    unpack_texts,
)
from stream.engine.time import Zone
from stream.records import encode_intent
from tests.engine.fakes import click_rows
from tests.engine.test_exactness import MINUTE, shop
from tests.engine.test_forecast import BASE, HOUR, blocks_of, encoded, roster, spec


@given(st.lists(st.text(max_size=5)))
def test_texts_survive(texts: list[str]) -> None:
    assert unpack_texts(pack_texts(texts)) == texts


def fresh_ingest() -> IngestShard:
    scorer = IntentScorer(IntentSpec(features=FEATURES))
    book = SessionBook(SessionSpec(5 * MINUTE, False, 0.002, (0.5,), False), scorer, scorer.version)
    return IngestShard(Source("clicks", 0), "clickstream", IngestSpec(30_000, 60 * MINUTE, "1m", MINUTE, Zone("UTC"), 2, 1_000, True), book)


@pytest.mark.parametrize("seed", range(3))
def test_ingest_goes_on_from_its_state(seed: int) -> None:
    events = shop(seed, 2_000)
    cut = random.Random(seed).randrange(200, 1_800)
    one, records = fresh_ingest(), []
    one.step(click_rows(events[:cut]))
    two = fresh_ingest()
    restore_ingest(two, ingest_state(one))
    for shard in (one, two):
        done = [shard.step(click_rows(events[cut:], cut)), shard.finish()]
        intents = [value for d in done for c in d.intents for value in encode_intent(c)[1]]
        blocks = [encode_block(b) for d in done for part in d.blocks for b in part]
        records.append((intents, blocks))
    assert records[0][0]
    assert records[0] == records[1]


@pytest.mark.parametrize("seed", range(6))
def test_a_copy_of_sessions_that_is_mended_while_they_go_on_is_their_state_in_the_end(seed: int) -> None:
    events, chance = shop(seed, 2_000), random.Random(seed)
    shard, at = fresh_ingest(), 600
    shard.step(click_rows(events[:at]))
    assert shard.book is not None
    grown = shard.book.grown
    track_ingest(shard)
    arrays = ingest_arrays(shard)
    copied = {name: np.zeros_like(array) for name, array in arrays.items()}
    # Some of the arrays are copied before, some after events came in between; changes are mended twice, then for good.
    for name, array in arrays.items():
        copied[name][:] = array
        if chance.random() < 0.4:
            count = chance.randrange(1, 25)
            shard.step(click_rows(events[at : at + count], at))
            at += count
    for most in (0, 0, 1 << 60):
        shard.step(click_rows(events[at : at + 20], at))
        at += 20
        done = mend_ingest(shard, copied, most)
    assert done
    assert shard.book.touched is None
    assert shard.book.grown == grown
    found, wanted = copied | ingest_note(shard), ingest_state(shard)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not np.array_equal(found[name], wanted[name], equal_nan=wanted[name].dtype.kind == "f")] == []


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1 << 30))
def test_forecast_goes_on_from_its_state(seed: int) -> None:
    chance = random.Random(seed)
    time, log = BASE, []
    for _ in range(120):
        time += chance.choice([1, 5, 40]) * 60_000
        log.append((time - chance.choice([0, 0, HOUR]), chance.choice("abcdé"), chance.choice([1.0, 2.0, 3.0, 0.5, -1.0])))
    blocks = [roster(1), *blocks_of(log, 0, [chance.randrange(120) for _ in range(9)])]
    cut = chance.randrange(1, len(blocks))
    one, two, records = ForecastShard(spec()), ForecastShard(spec()), []
    for block in blocks[:cut]:
        for _ in one.step(decode_block(encode_block(block))):
            pass
    restore_forecast(two, forecast_state(one))
    for shard in (one, two):
        records.append(
            [pair for block in blocks[cut:] for columns in shard.step(decode_block(encode_block(block))) for pair in encoded(columns)]
        )
    assert records[0] == records[1]
