"""Arithmetic whose bits do not depend on batching: sums in fixed point, a small solver, a hash, arrays by slot.

Elementwise operations are exact anywhere; sums and matrix products are not (pairwise summation, kernels by shape). Sums
here are of whole multiples of a power of two held in float64: below 2^53 every partial sum is exact, in any order, also in BLAS.
"""

from __future__ import annotations

import models.device  # noqa: F401  (before torch)

# isort: split
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from models.protocol import Float32, Float64, Ints, State

FIXED = 2.0**20
"""Parts of one in pooled sums; with values up to 1e3 a million rows stay below 2^53."""


def pooled(groups: NDArray[np.integer], values: NDArray[np.floating], count: int) -> Float64:
    """Sums by group in fixed point: float64[count], exact, in any order of rows.

    Args:
        groups: int[n], in [0, count).
        values: float[n], clipped to ±1e3.
        count: how many groups.
    """
    fixed = np.rint(np.clip(values.astype(np.float64), -1e3, 1e3) * FIXED)
    return np.asarray(np.bincount(groups, weights=fixed, minlength=count)[:count] / FIXED, dtype=np.float64)


def products(left: Float64, right: Float64) -> Float64:
    """leftᵀ right, exact if both are multiples of powers of two and every sum stays below 2^53 of the product's grid.

    By torch, which keeps to one thread: numpy's BLAS starts one a core, and on a busy machine they wait for each other (300 ms, not 1).

    Args:
        left: float64[rows, k].
        right: float64[rows, m] or [rows].
    """
    flat = np.ascontiguousarray(right).reshape(len(right), -1)
    found = torch.mm(torch.from_numpy(np.ascontiguousarray(left)).T, torch.from_numpy(flat)).numpy()
    return np.asarray(found.reshape(left.shape[1], *right.shape[1:]), dtype=np.float64)


def solve(matrix: Float64, right: Float64) -> Float64:
    """Solves a symmetric positive definite system by Cholesky in elementwise steps: the same bits with any BLAS.

    Args:
        matrix: float64[k, k].
        right: float64[k].
    """
    lower = matrix.copy()
    size = len(lower)
    answer = right.copy()
    for j in range(size):
        pivot = np.sqrt(max(lower[j, j], 1e-30))
        lower[j:, j] /= pivot
        answer[j] /= lower[j, j]
        tail = lower[j + 1 :, j]
        lower[j + 1 :, j + 1 :] -= tail[:, None] * tail[None, :]
        answer[j + 1 :] -= tail * answer[j]
    for j in range(size - 1, -1, -1):
        answer[j] /= lower[j, j]
        answer[:j] -= lower[j, :j] * answer[j]
    return answer


def uniform(slots: Ints, salt: int) -> Float64:
    """A hash in [0, 1) of each slot and a number (splitmix64): randomisation that a replay repeats.

    Args:
        slots: int64[n].
        salt: e.g. the bucket number.
    """
    with np.errstate(over="ignore"):
        x = slots.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64((salt * 0xD1342543DE82EF95) & 0xFFFFFFFFFFFFFFFF)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return np.asarray((x >> np.uint64(11)).astype(np.float64) * 2.0**-53, dtype=np.float64)


def halves(x: Float32) -> NDArray[np.float16]:
    """float16, rounded, cut at ±60,000; by torch, which is 4 times as quick at it.

    Args:
        x: float32, any shape.
    """
    return np.asarray(torch.from_numpy(np.clip(x, -60_000, 60_000)).to(torch.float16).numpy(), dtype=np.float16)


def stable_order(values: Ints) -> Ints:
    """int64[n], as np.argsort(values, kind="stable"), which is several times as quick where 16 bits hold all values.

    Args:
        values: int64[n], at least 0.
    """
    narrow = len(values) > 0 and values.max() < 1 << 16
    return np.argsort(values.astype(np.uint16) if narrow else values, kind="stable")


class SlotArrays:
    """Arrays whose last axis is the slot, growing together; a slot that is forgotten holds each array's fill value."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[np.generic]] = {}
        self._fill: dict[str, float] = {}
        self._whole: set[str] = set()
        self.capacity = 0

    def add(self, name: str, dtype: DTypeLike, fill: float = 0, shape: tuple[int, ...] = (), whole: bool = False) -> None:
        """Declares an array shape + [capacity].

        Args:
            name: unique.
            dtype: of its elements.
            fill: a cold slot's value.
            shape: leading axes.
            whole: slots are read and written whole, so each one's values lie side by side in memory; the axes are the same.
        """
        self._fill[name] = fill
        if whole:
            self._whole.add(name)
        self._arrays[name] = self._filled(name, shape, self.capacity, dtype)

    def _filled(self, name: str, shape: tuple[int, ...], capacity: int, dtype: DTypeLike) -> NDArray[np.generic]:
        whole = name in self._whole
        array: NDArray[np.generic] = np.zeros((capacity, *shape) if whole else (*shape, capacity), dtype=dtype)
        if self._fill[name] != 0:  # zeros are the system's own, and take no time before they are used
            array[...] = self._fill[name]
        return np.moveaxis(array, 0, -1) if whole else array

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        return self._arrays[name]

    def rows(self, name: str) -> NDArray[np.generic]:
        """The named array itself as [capacity] + shape; quick where it is `whole`."""
        return np.moveaxis(self._arrays[name], -1, 0)

    def f32(self, name: str) -> NDArray[np.float32]:
        """The named float32 array itself, not a copy."""
        return self._arrays[name]  # type: ignore[return-value]

    def i32(self, name: str) -> NDArray[np.int32]:
        """The named int32 array itself, not a copy."""
        return self._arrays[name]  # type: ignore[return-value]

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity); never shrinks."""
        if capacity <= self.capacity:
            return
        for name, old in self._arrays.items():
            new = self._filled(name, old.shape[:-1], capacity, old.dtype)
            if name in self._whole:
                np.moveaxis(new, -1, 0)[: self.capacity] = np.moveaxis(old, -1, 0)
            else:
                new[..., : self.capacity] = old
            self._arrays[name] = new
        self.capacity = capacity

    def forget(self, slots: Ints) -> None:
        """Fills these slots of every array."""
        for name, array in self._arrays.items():
            array[..., slots] = self._fill[name]

    def state(self, copy: bool = True) -> State:
        """All arrays by name.

        Args:
            copy: or the arrays themselves, for a reader that copies them a piece at a time while nothing changes.
        """
        return {name: array.copy() if copy else array for name, array in self._arrays.items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]], copy: bool = True) -> None:
        """Takes arrays that state() gave.

        Args:
            state: by name.
            copy: or the arrays themselves, which nobody else may use from here on.

        Raises:
            ValueError: an array is missing, or has another type or shape than this configuration makes.
        """
        for name, mine in self._arrays.items():
            theirs = state.get(name)
            if theirs is None or theirs.dtype != mine.dtype or theirs.shape[:-1] != mine.shape[:-1]:
                got = "nothing" if theirs is None else f"{theirs.dtype}{list(theirs.shape)}"
                raise ValueError(f"state of {name!r} must be {mine.dtype}{[*mine.shape[:-1], 'capacity']}; got {got}: rebuild the state")
            if name in self._whole:
                self._arrays[name] = np.moveaxis(np.array(np.moveaxis(theirs, -1, 0), order="C"), 0, -1)
            else:
                self._arrays[name] = np.array(theirs) if copy else theirs
        self.capacity = next(iter(self._arrays.values())).shape[-1] if self._arrays else 0


def take(state: Mapping[str, NDArray[np.generic]], prefix: str) -> State:
    """The arrays whose names start with the prefix, without it."""
    return {name[len(prefix) :]: array for name, array in state.items() if name.startswith(prefix)}


def put(prefix: str, state: Mapping[str, NDArray[np.generic]]) -> State:
    """The arrays with the prefix before their names."""
    return {prefix + name: array for name, array in state.items()}
