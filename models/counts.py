"""Distributions of demand around a mean: negative binomial for whole units, gamma with a hurdle for kilograms.

Quantiles come from tables that are built once per set of levels. For whole units a table holds x(mean, dispersion), the
real number at which the distribution function, joined linearly between whole numbers (F(-1) = 0), reaches the level: the smallest
whole k with F(k) >= level is ceil(x). x is continuous, so that quantile functions can be averaged before they are rounded
up, without the bias of averaging whole numbers. Its rows are laid out by the bits of the float32 mean (linear in each 32nd of an
octave), so that looking one up takes no logarithm.

Dispersion a: variance = mean + a mean² for whole units, a mean² for fractional ones.
"""

from __future__ import annotations

import models.device  # noqa: F401  (before torch)

# isort: split
from copy import copy
from functools import lru_cache

import numpy as np
import scipy.special as sp
import torch
from numpy.typing import NDArray
from torch.nn.functional import embedding_bag

from models.protocol import Float32, Float64
from models.tails import upper

Bools = NDArray[np.bool_]
Int32 = NDArray[np.int32]

_STEP_BITS = 18  # 32 steps an octave: float32 has 23 bits of mantissa
_LOW_BITS = np.int32((1 << _STEP_BITS) - 1)
_LARGE = 128.0  # whole demand from here on is a gamma with a shift
_DISPERSIONS = np.concatenate(
    [[0.0], (1 + np.arange(8) / 8)[None, :].repeat(12, 0).ravel() * 2.0 ** np.repeat(np.arange(-8, 4), 8), [16.0]]
)
MAX_DISPERSION = 16.0
_HURDLE = 1.5  # share of zeros of fractional demand with relative variance v: exp(-1.5 / v), that of a compound Poisson with jumps' CV² .5


def _step(values: NDArray[np.float32]) -> Int32:
    return np.asarray(values.view(np.int32) >> _STEP_BITS, dtype=np.int32)


def _split(key: Float32, low: float) -> tuple[Int32, Float32]:
    """The step at or below each key, counted from that of `low`, and how far it is to the next, in [0, 1).

    Args:
        key: float32[cells], contiguous.
        low: a power of two.
    """
    bits = key.view(np.int32)
    row = bits >> _STEP_BITS
    row -= _step(np.array([low], np.float32))[0]
    return row, (bits & _LOW_BITS).astype(np.float32) * np.float32(2.0**-_STEP_BITS)


def _grid(low: float, high: float) -> Float64:
    """Values at the table's steps from low up to high and one more; both powers of two."""
    first, last = int(_step(np.array([low], np.float32))[0]), int(_step(np.array([high], np.float32))[0])
    return (np.arange(first, last + 2, dtype=np.int32) << _STEP_BITS).view(np.float32).astype(np.float64)


class Counts:
    """Quantiles at fixed levels, by table."""

    def __init__(self, levels: tuple[float, ...]) -> None:
        """Builds the tables (about half a second for nine levels); see counts() for the cached way.

        Args:
            levels: ascending, in (0, 1).
        """
        if not levels or list(levels) != sorted(set(levels)) or levels[0] <= 0 or levels[-1] >= 1:
            raise ValueError(f"levels must ascend within (0, 1); got {levels}")
        self.levels = levels
        p = np.array(levels)
        # Below this mean every level's quantile is 0: F(0) >= 1 - mean.
        self._low = 2.0 ** -max(7, int(np.ceil(-np.log2(1 - p[-1]))) + 1)
        means = _grid(self._low, _LARGE)
        self._rows = len(means)
        small = np.concatenate([_whole_table(means, float(a), p) for a in _DISPERSIONS])
        self._v_low, self._v_high = 2.0**-32, 2.0**5
        spread = _grid(self._v_low, self._v_high)
        gamma = _gamma_table(spread, p)
        hurdle = _hurdle_table(spread, p)
        # A gamma of the same mean and variance, half a unit down, and its skewness less by 1/sd: -(z² - 1)/6 (Cornish-Fisher).
        shift = -0.5 - (sp.ndtri(p) ** 2 - 1) / 6
        self._gamma_row = len(small)
        self._hurdle_row = self._gamma_row + len(gamma)
        self._shift_row = self._hurdle_row + len(hurdle)
        table = np.concatenate([small, gamma, hurdle, shift[None, :]])
        self._table = torch.from_numpy(np.ascontiguousarray(table, dtype=np.float32))

    def mix(self, means: Float32, dispersions: Float32, weights: Float32, whole: Bools) -> Float32:
        """Averages quantile functions of several distributions: float32[cells, levels], not yet rounded, clipped or put in order.

        Args:
            means: float32[experts, cells].
            dispersions: float32[experts, cells], or [experts, items] where each item's holds for as many cells in a row.
            weights: float32[experts, cells], adding up to one over the experts.
            whole: bool[cells].
        """
        experts, cells = means.shape
        if not cells:
            return np.empty((0, len(self.levels)), dtype=np.float32)
        index = np.empty((cells, 2 * experts + 1), dtype=np.int32)
        weight = np.empty((cells, 2 * experts + 1), dtype=np.float32)
        shifted = np.zeros(cells, dtype=np.float32)
        steps = cells // dispersions.shape[1]
        broken = None if whole.all() else ~whole
        for e in range(experts):
            mean, dispersion, share = means[e], dispersions[e], weights[e]
            # As if all were small counts; the few that are not are seen to apart.
            key = np.clip(mean, np.float32(self._low), np.float32(_LARGE))
            row, part = _split(key, self._low)
            row += (
                np.repeat(_dispersion_row(dispersion) * np.int32(self._rows), steps)
                if steps > 1
                else _dispersion_row(dispersion) * np.int32(self._rows)
            )
            scale = share
            large = mean >= _LARGE if broken is None else (mean >= _LARGE) | broken
            if large.any():
                some = np.flatnonzero(large)
                scale = share.copy()
                scale[some] *= mean[some]
                row[some], part[some] = self._large(mean[some], dispersion[some // steps], whole[some])
                shifted[some] += np.where(whole[some], share[some], np.float32(0))
            index[:, 2 * e] = row
            index[:, 2 * e + 1] = row + 1
            weight[:, 2 * e] = scale * (np.float32(1) - part)
            weight[:, 2 * e + 1] = scale * part
        index[:, -1] = self._shift_row
        weight[:, -1] = shifted
        # One bag a cell: a weighted sum of rows in their order. 35 ns a cell of 11 rows of 9, against 280 ns in numpy.
        bags = embedding_bag(torch.from_numpy(index), self._table, per_sample_weights=torch.from_numpy(weight), mode="sum")
        return np.asarray(bags.numpy(), dtype=np.float32)

    def _large(self, mean: Float32, dispersion: Float32, whole: Bools) -> tuple[Int32, Float32]:
        """Where gammas are read, for large counts and for kilograms: by relative variance."""
        with np.errstate(divide="ignore"):
            inverse = np.float32(1) / np.maximum(mean, np.float32(1e-9))
        key = np.clip(np.where(whole, dispersion + inverse, dispersion), np.float32(self._v_low), np.float32(self._v_high))
        row, part = _split(key.astype(np.float32, copy=False), self._v_low)
        return row + np.where(whole, np.int32(self._gamma_row), np.int32(self._hurdle_row)), part

    def quantiles(self, mean: Float32, dispersion: Float32, whole: Bools) -> Float32:
        """float32[n, levels, horizon], ascending over the levels, at least 0, whole numbers for whole items.

        Args:
            mean: float32[n, horizon].
            dispersion: float32[n, horizon] or [n, 1].
            whole: bool[n].
        """
        n, horizon = mean.shape
        flat = np.ascontiguousarray(mean, dtype=np.float32).reshape(1, -1)
        spread = np.ascontiguousarray(np.broadcast_to(dispersion, mean.shape), dtype=np.float32).reshape(1, -1)
        mixed = self.mix(flat, spread, np.ones_like(flat), np.repeat(whole, horizon))
        return finish(mixed.reshape(n, horizon, len(self.levels)), whole)


def finish(mixed: Float32, whole: Bools) -> Float32:
    """Turns averaged quantile functions into published ones: float32[n, levels, horizon], whole, ascending, not negative.

    Args:
        mixed: float32[n, horizon, levels], as Counts.mix gives them.
        whole: bool[n].
    """
    # A hair below, because the sum of weights is one only to a few float32 places.
    out = np.ascontiguousarray(mixed.transpose(0, 2, 1))  # [n, levels, horizon]
    if whole.all():
        np.ceil(out - np.abs(out) * np.float32(1e-6) - np.float32(1e-4), out=out)
    elif whole.any():
        out = np.where(whole[:, None, None], np.ceil(out - np.abs(out) * np.float32(1e-6) - np.float32(1e-4)), out)
    np.maximum(out, np.float32(0), out=out)
    for level in range(1, out.shape[1]):
        np.maximum(out[:, level], out[:, level - 1], out=out[:, level])
    return np.asarray(out + np.float32(0), dtype=np.float32)  # -0 is 0


def zero_probability(mean: Float32, dispersion: Float32, whole: Bools) -> Float32:
    """P(no demand), float32 of mean's shape.

    Args:
        mean: float32[n, horizon].
        dispersion: float32[n, horizon] or [n, 1].
        whole: bool[n].
    """
    mean = np.ascontiguousarray(mean, dtype=np.float32)
    spread = np.ascontiguousarray(np.broadcast_to(dispersion, mean.shape), dtype=np.float32)
    floor = np.maximum(spread, np.float32(1e-4))
    exponent = np.where(
        whole[:, None], np.log1p(floor * mean) / floor, np.where(mean > 0, np.float32(_HURDLE) / np.maximum(spread, np.float32(1e-6)), 0)
    )
    return np.asarray(np.exp(-np.ascontiguousarray(exponent, dtype=np.float32)), dtype=np.float32)


def upper_tail(observed: Float64, mean: Float64, dispersion: Float64, whole: Bools) -> Float64:
    """P(demand >= observed): exact above 1.5 standard deviations, elsewhere Cantelli's upper bound, which costs nothing: float64[n].

    Args:
        observed: float64[n], units.
        mean: float64[n].
        dispersion: float64[n].
        whole: bool[n].
    """
    variance = np.where(whole, mean, 0.0) + dispersion * mean * mean
    over = observed - mean
    p = np.where(over > 0, variance / np.maximum(variance + over * over, 1e-300), 1.0)
    near = np.flatnonzero((over > 0) & (over * over > 2.25 * variance))
    if not len(near):
        return p
    y, m, a, w = observed[near], np.maximum(mean[near], 1e-12), dispersion[near], whole[near]
    exact = np.empty(len(near))
    exact[w] = upper(y[w], m[w], a[w])
    shape = 1 / np.maximum(a[~w], 1e-9)
    exact[~w] = sp.gammaincc(shape, y[~w] / m[~w] * shape)
    p[near] = np.clip(exact, 0.0, 1.0)
    return p


@lru_cache(maxsize=16)
def counts(levels: tuple[float, ...]) -> Counts:
    """The tables for these levels, built once a process.

    Args:
        levels: ascending, in (0, 1).
    """
    return Counts(levels)


@lru_cache(maxsize=16)
def some_counts(levels: tuple[float, ...], places: tuple[int, ...]) -> Counts:
    """The tables of some of the levels: columns of theirs, which need not be built again.

    Args:
        levels: ascending, in (0, 1).
        places: of the levels, ascending.
    """
    part = copy(counts(levels))
    part.levels = tuple(levels[place] for place in places)
    part._table = part._table[:, list(places)].contiguous()
    return part


def _dispersion_row(dispersion: NDArray[np.float32]) -> Int32:
    """The nearest of _DISPERSIONS: 8 an octave, 0 below 2^-9."""
    bits = np.clip(dispersion, np.float32(2.0**-9), np.float32(MAX_DISPERSION)).astype(np.float32, copy=False).view(np.int32)
    first = np.int32((np.array([2.0**-8], np.float32).view(np.int32) >> 20)[0])
    row = ((bits + np.int32(1 << 19)) >> 20) - first + np.int32(1)
    return np.asarray(np.maximum(row, 0), dtype=np.int32)


def _whole_table(means: Float64, a: float, p: Float64) -> Float64:
    """The table's x at each mean (ascending, 32 an octave and one more) and level: float64[means, levels]."""
    out = np.empty((len(means), len(p)))
    for start in range(0, len(means), 32):
        m = means[start : start + 32]
        top = m[-1]
        shape = 1 / (a + 1 / top)
        count = int(sp.gammainccinv(shape, (1 - p[-1]) / 4) / shape * top + 6)
        k = np.arange(count)
        if a == 0:
            ratio = m[:, None] / (k + 1)
            zero = np.exp(-m)
        else:
            ratio = (k + 1 / a) / (k + 1) * (a * m / (1 + a * m))[:, None]
            zero = np.exp(-np.log1p(a * m) / a)
        mass = np.empty((len(m), count + 1))
        mass[:, 0] = zero
        mass[:, 1:] = ratio
        np.cumprod(mass, axis=1, out=mass)
        reached = np.cumsum(mass, axis=1)
        # One search for all rows and levels: row r's values lie between 2r and 2r + 1.
        rows = np.arange(len(m))[:, None]
        at = np.searchsorted((reached + 2 * rows).reshape(-1), (p + 2 * rows).reshape(-1)).reshape(len(m), len(p))
        at = np.clip(at - rows * (count + 1), 0, count)
        out[start : start + 32] = at - (reached[rows, at] - p) / mass[rows, at]
    return out


def _gamma_table(v: Float64, p: Float64) -> Float64:
    """Quantiles of a gamma of mean 1 and variance v: float64[v, levels]."""
    shape = 1 / v[:, None]
    # Beyond a shape of 1e6 the normal's quantile with one term of skewness is exact to float32, and scipy's search is slow.
    z = sp.ndtri(p)[None, :]
    normal = 1 + np.sqrt(v)[:, None] * z + v[:, None] * (z * z - 1) / 3
    return np.asarray(np.where(shape > 1e6, normal, sp.gammaincinv(np.minimum(shape, 1e6), p[None, :]) / np.minimum(shape, 1e6)))


def _hurdle_table(v: Float64, p: Float64) -> Float64:
    """Quantiles of zero with probability exp(-1.5 / v), else a gamma, of mean 1 and variance v in all: float64[v, levels]."""
    zero = np.exp(-_HURDLE / v)[:, None]
    inner = np.maximum((v[:, None] + 1) * (1 - zero) - 1, 1e-12)
    level = np.clip((p[None, :] - zero) / (1 - zero), 0, 1)
    shape = np.minimum(1 / inner, 1e6)
    positive = sp.gammaincinv(shape, level) / shape / (1 - zero)
    return np.asarray(np.where(inner < 1e-6, _gamma_table(v, p), np.where(level > 0, positive, 0.0)))
