"""Collects examples while an engine runs: rows as the network would have seen them at a tick, and what became of the steps ahead.

What is recorded is what the live road shows: covariates as they had been announced, shut days as they were known. Nothing is computed twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.demand.encoder import Encoder, Layout
from models.demand.window import Window
from models.protocol import Float32, Ints
from models.train.fit import AT_LEAST, IGNORED, SEEN, Examples


@dataclass(slots=True)
class _Issue:
    """What was recorded at a tick."""

    closed: int
    slots: Ints
    first: Ints
    rows: Float32
    scale: Float32
    units: Float32
    says: NDArray[np.int8]


class Recorder:
    """Examples of one bucket size of one partition, bounded in number."""

    def __init__(self, layout: Layout, most: int = 200_000, skip: int = 0) -> None:
        """Starts empty.

        Args:
            layout: the columns.
            most: rows kept; when there are more, every other issue of an item is dropped, and half as many taken from then on.
            skip: ticks before the first recording (windows are empty then).
        """
        self.layout, self.most, self.skip = layout, most, skip
        self._encoder = Encoder(layout)
        self._issues: list[_Issue] = []
        self._stride = 1
        self._rows = 0
        self._ticks = 0

    def __call__(self, window: Window) -> None:
        """A bucket has closed.

        Args:
            window: of all live items, with what is known of shut days.
        """
        self._fill(window)
        self._ticks += 1
        if self._ticks <= self.skip:
            return
        turn = np.flatnonzero((window.slots + window.closed) % self._stride == 0)
        # An item's first buckets say nothing yet.
        turn = turn[window.age()[turn] > 1]
        if not len(turn):
            return
        part = window.of(turn)
        encoded = self._encoder.encode(part)
        horizon = self.layout.horizon
        blank = np.zeros((len(turn), horizon), np.float32)
        says = np.zeros((len(turn), horizon), np.int8)
        self._issues.append(_Issue(window.closed, part.slots, part.first, encoded.rows, encoded.scale, blank, says))
        self._rows += len(turn)
        while self._rows > self.most:
            self._thin()

    def _fill(self, window: Window) -> None:
        """The targets of earlier issues that have just become known."""
        shut = window.shut(window.closed)
        y = window.row(window.closed)
        says = np.where(window.censored(window.closed) > 0, AT_LEAST, SEEN).astype(np.int8)
        for issue in reversed(self._issues):
            step = window.closed - issue.closed
            if step > self.layout.horizon:
                break
            if step < 1 or shut or not len(window):
                continue
            place = np.minimum(np.searchsorted(window.slots, issue.slots), len(window) - 1)
            same = (window.slots[place] == issue.slots) & (window.first[place] == issue.first)
            issue.units[:, step - 1] = np.where(same, y[place], np.float32(0))
            issue.says[:, step - 1] = np.where(same, says[place], IGNORED)

    def _thin(self) -> None:
        self._stride *= 2
        self._rows = 0
        for issue in self._issues:
            keep = (issue.slots + issue.closed) % self._stride == 0
            for name in ("slots", "first", "rows", "scale", "units", "says"):
                setattr(issue, name, getattr(issue, name)[keep])
            self._rows += len(issue.slots)

    def examples(self, until: int, since: int | None = None) -> Examples:
        """What may be learnt from when everything after a bucket is unknown.

        Args:
            until: the newest bucket whose demand may be used.
            since: the oldest issue; default: all.
        """
        horizon = self.layout.horizon
        parts = [issue for issue in self._issues if issue.closed < until and (since is None or issue.closed >= since)]
        if not parts:
            return Examples(
                np.zeros((0, self.layout.width), np.float32),
                np.zeros(0, np.float32),
                np.zeros((0, horizon), np.float32),
                np.zeros((0, horizon), np.int8),
                np.zeros(0, np.int64),
            )
        says = []
        for issue in parts:
            known = np.arange(1, horizon + 1) <= until - issue.closed
            says.append(np.where(known[None, :], issue.says, IGNORED).astype(np.int8))
        all_says = np.concatenate(says)
        keep = (all_says > 0).any(axis=1)
        return Examples(
            np.concatenate([issue.rows for issue in parts])[keep],
            np.concatenate([issue.scale for issue in parts])[keep],
            np.concatenate([issue.units for issue in parts])[keep],
            all_says[keep],
            np.concatenate([np.full(len(issue.slots), issue.closed) for issue in parts])[keep],
        )
