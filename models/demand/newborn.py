"""What items sell after their first bucket, pooled by what they sold in it: the rate that a new item borrows.

An item is first seen because something happened to it, so its first bucket says too much; how much too much is learnt here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.demand.window import Window
from models.exact import pooled
from models.protocol import Float32, Ints, State

_BINS = 14  # of the first bucket's units: none, and octaves from 1 up
_YOUNG = 12  # buckets of life that teach
_PRIOR_ITEMS = 10.0
_PRIOR_SHARE = 0.3


class Newborn:
    """Pooled rates of young items."""

    lookback = _YOUNG + 1

    def __init__(self) -> None:
        self._sums = np.zeros((2, _BINS))

    def learn(self, window: Window) -> None:
        """Takes the closed bucket of the items that are in their 2nd to 12th bucket of life.

        Args:
            window: at the newest closed bucket.
        """
        age = window.age()
        young = (age >= 2) & (age <= _YOUNG)
        if not young.any():
            return
        first = window.at_first(window.closed - _YOUNG)[young]
        stocked = 1.0 - window.censored(window.closed)[young].astype(np.float64)
        share = window.observed()[young] / np.where(first > 0, first, 1.0)
        bins = _bin(first)
        self._sums *= 0.99
        self._sums[0] += pooled(bins, np.minimum(share, 20.0), _BINS)
        self._sums[1] += pooled(bins, stocked, _BINS)

    def rate(self, first: Float32) -> Float32:
        """float32[n], units a bucket to expect of items that sold `first` in their first bucket.

        Args:
            first: float32[n].
        """
        share = (self._sums[0] + _PRIOR_ITEMS * _PRIOR_SHARE) / (self._sums[1] + _PRIOR_ITEMS)
        return np.asarray(share.astype(np.float32)[_bin(first)] * np.where(first > 0, first, np.float32(1)), dtype=np.float32)

    def level(self, window: Window, length: int) -> Float32:
        """float32[n], mean units an open bucket with stock, of the last `length` buckets; of younger items, shrunk to the pooled rate.

        A young item's first bucket counts only through the rate that it predicts, as if that had been seen for one bucket.

        Args:
            window: the items, closed + 1 - length within the ring.
            length: at least 2.
        """
        lived, total = window.worth(length), window.sold(length)
        young = window.age() <= length
        if not young.any():
            return np.asarray(total / lived, dtype=np.float32)
        first = window.at_first(window.closed - length + 1)
        shrunk = (np.maximum(total - first, np.float32(0)) + self.rate(first)) / lived
        return np.where(young, shrunk, total / lived).astype(np.float32)

    def state(self) -> State:
        """The sums."""
        return {"sums": self._sums.copy()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what state() gave."""
        self._sums = np.array(state["sums"], dtype=np.float64)


def _bin(first: Float32) -> Ints:
    octave = (np.maximum(first, np.float32(1)).astype(np.float32).view(np.int32) >> 23) - 127
    return np.where(first > 0, np.minimum(octave + 1, _BINS - 1), 0).astype(np.int64)
