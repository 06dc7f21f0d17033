"""Tiles, and arithmetic whose bits do not depend on batching."""

from __future__ import annotations

from models.device import DeviceError, Lane, Tiles, pick, prove

# isort: split
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.exact import SlotArrays, pooled, products, solve, uniform


def test_pick() -> None:
    assert pick("cpu").type == "cpu"
    assert pick("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:x", "cuda:99", ""):
        with pytest.raises(DeviceError):
            pick(name)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 600), st.integers(0, 2**31))
def test_a_tile_row_stands_alone(rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    weight = torch.from_numpy(random.normal(size=(37, 29)).astype(np.float32))
    tiles = Tiles(lambda x: torch.tanh(x @ weight), 37, 29)
    x = random.normal(size=(rows, 37)).astype(np.float32)
    together = tiles(x)
    np.testing.assert_allclose(together, np.tanh(x.astype(np.float64) @ weight.double().numpy()), atol=1e-5)
    order = random.permutation(rows)
    assert tiles(x[order]).tobytes() == np.ascontiguousarray(together[order]).tobytes()
    row = int(random.integers(rows))
    assert tiles(x[row : row + 1]).tobytes() == together[row].tobytes()


def test_tiles_of_nothing_and_of_the_wrong_width() -> None:
    tiles = Tiles(torch.tanh, 3, 3)
    assert tiles(np.empty((0, 3), np.float32)).shape == (0, 3)
    with pytest.raises(ValueError, match=r"\[n, 3\]"):
        tiles(np.zeros((2, 4), np.float32))


def test_a_function_that_looks_at_its_neighbours_is_refused() -> None:
    with pytest.raises(DeviceError, match="must not depend"):
        prove(lambda x: x - x.mean(dim=0), 5, 5)
    with pytest.raises(DeviceError, match="its place"):
        prove(lambda x: x + torch.arange(192)[:, None], 5, 5)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.integers(0, 2**31))
def test_pooled_sums_have_no_order(rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    groups, values = random.integers(0, 4, rows), random.normal(size=rows) * 10.0 ** random.integers(-4, 3, rows)
    order = random.permutation(rows)
    assert pooled(groups, values, 4).tobytes() == pooled(groups[order], values[order], 4).tobytes()
    slow = [sum(value for group, value in zip(groups, values, strict=True) if group == wanted) for wanted in range(4)]
    np.testing.assert_allclose(pooled(groups, values, 4), slow, atol=rows * 1e-6)


def test_products_of_multiples_have_no_order() -> None:
    random = np.random.default_rng(0)
    x = np.rint(random.normal(size=(3000, 31)) * 1024) / 1024
    order = random.permutation(3000)
    assert products(x, x).tobytes() == products(x[order], x[order]).tobytes()
    np.testing.assert_allclose(products(x, x[:, 0]), x.T @ x[:, 0], rtol=1e-12)


def test_solve_is_numpys() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(40, 12))
    matrix = x.T @ x + np.eye(12)
    right = random.normal(size=12)
    np.testing.assert_allclose(solve(matrix, right), np.linalg.solve(matrix, right), rtol=1e-9)


def test_hash_is_uniform() -> None:
    slots = np.arange(50_000, dtype=np.int64)
    for salt in (0, 1, 2**40):
        found = uniform(slots, salt)
        assert 0 <= found.min() < 0.001
        assert abs(np.histogram(found, 10, (0, 1))[0] - 5000).max() < 400
    assert (uniform(slots, 1) != uniform(slots, 2)).all()


def test_slot_arrays_grow_forget_and_come_back() -> None:
    arrays = SlotArrays()
    arrays.add("level", np.float32, np.nan)
    arrays.resize(3)
    arrays.f32("level")[:] = [1, 2, 3]
    arrays.resize(5)
    arrays.forget(np.array([1]))
    np.testing.assert_array_equal(arrays.f32("level"), [1, np.nan, 3, np.nan, np.nan])
    other = SlotArrays()
    other.add("level", np.float32, np.nan)
    other.restore(arrays.state())
    assert other.capacity == 5
    np.testing.assert_array_equal(other.f32("level"), arrays.f32("level"))
    other.f32("level")[0] = 9
    assert arrays.f32("level")[0] == 1
    with pytest.raises(ValueError, match="level"):
        other.restore({"level": np.zeros(3)})


def test_what_crosses_a_staged_lane_is_a_copy_and_comes_back_as_it_went() -> None:
    lane = Lane(torch.device("cpu"), staged=True)
    for rows in (3, 500, 2):
        values = np.random.default_rng(rows).normal(size=(rows, 5)).astype(np.float32)
        far = lane.there("x", values)
        sent = values.copy()
        values[:] = 0  # the sender's array is free again
        first = lane.back(far * 2)
        again = lane.back(far)
        assert first.tobytes() == (sent * 2).tobytes()
        assert again.tobytes() == sent.tobytes()
    assert lane.there("slots", np.arange(4)).dtype == torch.int64


def test_resident_rows_give_the_bits_of_rows_from_the_host() -> None:
    random = np.random.default_rng(3)
    weight = torch.from_numpy(random.normal(size=(37, 29)).astype(np.float32))
    tiles = Tiles(lambda x: torch.tanh(x @ weight), 37, 29)
    for rows in (0, 1, 192, 193, 1000):
        x = random.normal(size=(rows, 37)).astype(np.float32)
        there = tiles.resident(torch.from_numpy(x.copy()))
        x.flags.writeable = False  # as arrays of a snapshot may be
        assert there.numpy().tobytes() == tiles(x).tobytes()
