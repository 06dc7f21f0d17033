"""States as engines have them, small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.state.store import State

KINDS = ("|b1", "|u1", "|i1", "<u2", "<i2", "<f2", "<u4", "<i4", "<f4", "<u8", "<i8", "<f8")


def shop(seed: int, items: int = 40_000) -> State:
    """A ring that makes several parts with small part sizes, columns of every kind, and odd shapes."""
    chance = np.random.default_rng(seed)
    state: State = {
        "1h.units.closed": chance.integers(0, 9, (24, items), np.int32),
        "1d.model.pending": chance.standard_normal((items, 7)).astype(np.float32),
        "note": np.frombuffer(f"note {seed}".encode(), np.uint8).copy(),
        "empty": np.zeros(0, np.int64),
        "no items": np.zeros((24, 0), np.int32),
        "scalar": np.array(chance.standard_normal()),
        "turned": np.asfortranarray(chance.integers(0, 9, (300, 40), np.int64)),
        "every second": np.arange(1000)[::2],
    }
    for kind in KINDS:
        state[f"kinds.{kind[1:]}"] = chance.integers(0, 2, 11).astype(kind)
    state["kinds.f8"][:3] = np.nan, -0.0, np.inf
    return state


def same(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> bool:
    """To the bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].shape == other[name].shape and one[name].tobytes() == other[name].tobytes()
        for name in one
    )
