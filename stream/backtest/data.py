"""A demand history as arrays, its rounds, and what a method may see of it. How files become one is stream.backtest.shape's.

Step k is column k of every array: a bucket of the data's frequency. Step numbers are consecutive; `first_step` is that of column 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.backtest.steps import Frequency
from stream.engine.time import Zone
from stream.tables import UserError

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

KEY_SEPARATOR = ":"
"""Between the parts of an item's key, as where an item is mapped from several fields."""


@dataclass(frozen=True)
class Dataset:
    """Items by steps. Arrays are read only."""

    item_columns: tuple[str, ...]
    """Names of the columns that make an item's key."""
    keys: tuple[tuple[object, ...], ...]
    """For each key column its value of every item, as the file has it."""
    items: tuple[str, ...]
    """Joined keys, ascending."""
    frequency: Frequency
    zone: Zone
    seasons: tuple[int, ...]
    """Season lengths in steps, the one that scales MASE first; empty where there is none."""
    first_step: int
    """Number of column 0."""
    y: Floats
    """float64[items, steps], units; NaN where unknown: not scored, not learnt from."""
    reach: int
    """Steps that known columns go on for beyond the last target."""
    first: Ints
    """int64[items], the column of each item's first row; `steps` for an item that has none among them."""
    known: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Known ahead, by name: float64[items, steps + reach], NaN where the file says nothing. A column of text stands as one of 0 and 1 for each of its
    values, named column=value."""
    past: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Not known ahead, by name: float64[items, steps]."""
    static: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What an item is, by name: a text for every item, "" where unknown."""
    censored: Bools | None = None
    """bool[items, steps], sales that stock cut off; None where nobody told."""
    whole: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    """bool[items], the item's target is whole numbers throughout."""
    source: str = ""
    """What the history was read from, as a report names it."""
    time_column: str = "time"
    target_column: str = "target"
    known_columns: tuple[str, ...] = ()
    """As the user named them, before text became one column a value."""

    @property
    def steps(self) -> int:
        """Columns of `y`."""
        return int(self.y.shape[1])

    @property
    def season(self) -> int:
        """The season that scales MASE and that a seasonal naive repeats; 1 where there is none."""
        return self.seasons[0] if self.seasons else 1

    @cached_property
    def start_ms(self) -> Ints:
        """int64[steps + reach], when each step begins, epoch milliseconds (whole-number times stand on a calendar that begins 1970)."""
        return self.frequency.start_ms(self.first_step + np.arange(self.steps + self.reach, dtype=np.int64), self.zone)


@dataclass(frozen=True, slots=True)
class Round:
    """One cut of the history, in columns of the data."""

    number: int
    """From 1, in order of time."""
    cut: int
    """The first column that is forecast."""
    end: int
    """Columns before this one are seen: the cut less the gap."""
    horizon: int


def cut_rounds(data: Dataset, horizon: int, rounds: int, step: int, gap: int = 0, until: int | None = None) -> tuple[Round, ...]:
    """Cuts a history into rounds, the last of which ends at `until`.

    Args:
        data: the history.
        horizon: steps forecast.
        rounds: how many.
        step: between two cuts.
        gap: steps before a cut that it does not see.
        until: column of the last step that is scored; None: the last.

    Raises:
        UserError: the history is too short for that.
    """
    last = data.steps - 1 if until is None else until
    cuts = [last + 1 - horizon - step * back for back in reversed(range(rounds))]
    known = np.flatnonzero(np.isfinite(data.y).any(axis=0))
    begins = int(known[0]) if len(known) else data.steps
    seen = cuts[0] - gap - begins
    if seen < 1:
        need = horizon + step * (rounds - 1) + gap + 1
        have = max(0, last + 1 - begins)
        fit = (have - horizon - gap - 1) // step + 1 if have > horizon + gap else 0
        advice = f"ask for at most --rounds {fit}" if fit > 0 else "ask for a shorter --horizon, a smaller --gap, or bring a longer history"
        raise UserError(
            f"the history must hold more steps than the rounds take: --horizon {horizon}, --rounds {rounds}, --step {step} and --gap {gap} "
            f"need at least {need} steps up to --until; there are {have}: {advice}"
        )
    return tuple(Round(number, cut, cut - gap, horizon) for number, cut in enumerate(cuts, start=1))


class View:
    """What a method may see in one round: the target and past columns before the cut less the gap, known columns to the end of the horizon.

    Args:
        data: the whole history.
        cut: the round.
    """

    def __init__(self, data: Dataset, cut: Round) -> None:
        self.round = cut
        self.items = data.items
        self.frequency = data.frequency
        self.zone = data.zone
        self.seasons = data.seasons
        self.season = data.season
        self.first_step = data.first_step
        self.static = _parts(data) | dict(data.static)
        """A text for every item, by name: the static columns, and the parts of a key of several columns."""
        end, until = cut.end, cut.cut + cut.horizon
        self.end = end
        """Columns seen of the target; the next one is the first unseen."""
        self.gap = cut.cut - cut.end
        self.horizon = cut.horizon
        below = data.y[:, :end] < 0
        self.y = _frozen(np.where(below, 0.0, data.y[:, :end])) if below.any() else _shown(data.y, end)
        """float64[items, end], at least 0."""
        self.known = {name: _shown(values, until) for name, values in data.known.items()}
        """float64[items, end + gap + horizon], by name."""
        self.past = {name: _shown(values, end) for name, values in data.past.items()}
        """float64[items, end], by name."""
        self.censored = None if data.censored is None else _shown(data.censored, end)
        """bool[items, end]."""
        self.first = np.minimum(data.first, end)
        """int64[items], column of each item's first row; `end` for items that are not there yet."""
        self.start_ms = _frozen(data.start_ms[:until])
        """int64[end + gap + horizon]."""
        seen = np.isfinite(self.y)
        self.present = _frozen(seen.any(axis=1))
        """bool[items], the item has a known target before the cut: the others are not forecast."""
        with np.errstate(invalid="ignore"):
            self.whole = _frozen(~((self.y != np.floor(self.y)) & seen).any(axis=1))
        """bool[items], whole numbers only, as far as seen."""


def _parts(data: Dataset) -> dict[str, tuple[str, ...]]:
    if len(data.item_columns) < 2:
        return {}
    return {name: tuple(map(str, values)) for name, values in zip(data.item_columns, data.keys, strict=True)}


def _frozen(values: NDArray[Any]) -> NDArray[Any]:
    shown = values.view()
    shown.flags.writeable = False
    return shown


def _shown(values: NDArray[Any], columns: int) -> NDArray[Any]:
    return _frozen(values[:, :columns])


def without_censored(data: Dataset) -> Dataset:
    """The same history with censored steps unknown: for methods that would take them for demand.

    Args:
        data: the history.
    """
    if data.censored is None:
        return data
    return replace(data, y=_frozen(np.where(data.censored, np.nan, data.y)))


def select(data: Dataset, rows: Sequence[int] | Ints) -> Dataset:
    """The same history of some of its items.

    Args:
        data: the history.
        rows: of the items, ascending.
    """
    at = np.asarray(rows, dtype=np.int64)
    return replace(
        data,
        keys=tuple(tuple(values[i] for i in at.tolist()) for values in data.keys),
        items=tuple(data.items[i] for i in at.tolist()),
        y=_frozen(data.y[at]),
        first=_frozen(data.first[at]),
        known={name: _frozen(values[at]) for name, values in data.known.items()},
        past={name: _frozen(values[at]) for name, values in data.past.items()},
        static={name: tuple(values[i] for i in at.tolist()) for name, values in data.static.items()},
        censored=None if data.censored is None else _frozen(data.censored[at]),
        whole=_frozen(data.whole[at]),
    )
