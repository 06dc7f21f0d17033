"""Whatever fails wherever: the newest snapshot whose write returned is found again, or none that was not whole."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.kafka.log import Position
from stream.state.errors import StoreError
from stream.state.store import State, Store
from tests.state.faulty import Faults, FaultyBucket, FaultyDisk
from tests.state.states import same


def state_of(step: int) -> State:
    """Two rings of which a row changes with each step, and a few small arrays."""
    ring = np.zeros((12, 9_000), np.int64)
    for at in range(step + 1):
        ring[at % 12] = at
    return {"ring": ring, "pending": np.full((9_000, 3), step, np.float32), "note": np.array([step], np.uint8)}


OUTAGE = st.fixed_dictionaries(
    {
        "after": st.integers(0, 25),
        "failures": st.sets(st.integers(1, 12), max_size=4),
        "tears": st.booleans(),
        "room": st.none() | st.integers(0, 2_000_000),
        "restart": st.booleans(),
        "prune": st.booleans(),
    }
)


@given(kind=st.sampled_from(["disk", "bucket"]), outages=st.lists(OUTAGE, min_size=1, max_size=8), threads=st.sampled_from([1, 3]))
def test_the_newest_snapshot_whose_write_returned_is_found_again(kind: str, outages: list[dict[str, object]], threads: int) -> None:
    faults = Faults()
    with tempfile.TemporaryDirectory() as name:
        filesystem = FaultyDisk(faults) if kind == "disk" else FaultyBucket(faults)
        url = str(Path(name) / "state") if kind == "disk" else "memory://bucket/state"

        def start() -> Store:
            return Store(url, "n.", filesystem=filesystem, write_threads=threads, read_threads=threads, durable=False)

        store = start()
        returned: list[int] = []
        for step, outage in enumerate(outages):
            faults.tears, faults.room = bool(outage["tears"]), outage["room"]  # type: ignore[assignment]
            faults.fails_at = {faults.operations + int(outage["after"]) + at for at in outage["failures"]}  # type: ignore[call-overload, attr-defined]
            if outage["restart"]:
                store = start()
            try:
                store.write("forecast", "t", 0, Position(step), "c", state_of(step))
                returned.append(step)
                if outage["prune"]:
                    store.prune(1)
            except StoreError:
                pass
            faults.fails_at, faults.room = set(), None
            found = start().newest("forecast", "t", 0)
            if found is None:
                assert not returned
                continue
            # A write may have failed after its manifest was there: it is whole then. An older one than the last returned, never.
            assert found[0].offset == (returned[-1] if returned else found[0].offset) or found[0].offset == step
            assert same(found[1], state_of(found[0].offset))
        store.write("forecast", "t", 0, Position(100), "c", state_of(100))
        found = start().newest("forecast", "t", 0)
        assert found is not None and found[0].offset == 100 and same(found[1], state_of(100))


@given(st.sampled_from(["disk", "bucket"]), st.sets(st.integers(1, 30), min_size=1, max_size=3))
def test_a_store_that_fails_while_it_is_read_gives_the_newest_or_says_so(kind: str, failures: set[int]) -> None:
    faults = Faults()
    with tempfile.TemporaryDirectory() as name:
        filesystem = FaultyDisk(faults) if kind == "disk" else FaultyBucket(faults)
        store = Store(name if kind == "disk" else "memory://bucket", "n.", filesystem=filesystem, durable=False)
        for step in range(3):
            store.write("forecast", "t", 0, Position(step), "c", state_of(step))
        faults.fails_at = {faults.operations + at for at in failures}
        reader = Store(name if kind == "disk" else "memory://bucket", "n.", filesystem=filesystem, durable=False)
        try:
            found = reader.newest("forecast", "t", 0)
        except StoreError:
            return
        assert found is not None and found[0].offset == 2 and same(found[1], state_of(2))
