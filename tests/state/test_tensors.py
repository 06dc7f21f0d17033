"""A part's bytes are what the safetensors library reads and writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from safetensors.numpy import load, save

from stream.state.errors import Damaged
from stream.state.tensors import KINDS, pieces, require_kind, tensors
from tests.state.states import KINDS as USED
from tests.state.states import same

ARRAYS = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__"),
    st.sampled_from(USED).flatmap(lambda kind: npst.arrays(kind, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))),
    max_size=6,
)


def part(arrays: dict[str, NDArray[Any]]) -> bytes:
    return b"".join(pieces(arrays))


def by_library(data: bytes) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(array) for name, array in load(data).items()}


@given(ARRAYS)
def test_the_library_reads_what_we_write_and_so_do_we(arrays: dict[str, NDArray[Any]]) -> None:
    assert same(dict(tensors(part(arrays))), arrays)
    assert same(by_library(part(arrays)), arrays)


@given(ARRAYS)
def test_we_read_what_the_library_writes(arrays: dict[str, NDArray[Any]]) -> None:
    whole = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    assert same(dict(tensors(save(whole))), arrays)


@given(ARRAYS.filter(bool), st.data())
def test_a_part_that_is_not_whole_is_damaged_or_the_same_never_a_crash(arrays: dict[str, NDArray[Any]], data: st.DataObject) -> None:
    whole = part(arrays)
    cut = data.draw(st.integers(0, len(whole)))
    changed = bytearray(whole[:cut])
    if changed:
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = dict(tensors(bytes(changed)))
    except Damaged:
        return
    assert all(array.nbytes <= len(whole) for array in found.values())


@pytest.mark.parametrize(
    "array", [np.array(["text"]), np.array([object()]), np.zeros(2, ">i4"), np.zeros(2, "datetime64[ms]"), np.zeros(2, complex)]
)
def test_what_has_no_place_in_a_snapshot_is_refused(array: NDArray[Any]) -> None:
    with pytest.raises(TypeError, match=r"state may hold .*; got .* in name"):
        require_kind("name", array)


def test_every_kind_that_is_promised_is_tested() -> None:
    assert set(KINDS.values()) == set(USED)
