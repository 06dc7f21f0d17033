"""What a backtest asks of a method, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from stream.backtest.data import Floats, Ints, View

Tell = Callable[[float], None]
"""Told now and then which share (0 to 1) of all rounds is done."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked for in every round."""

    horizon: int
    levels: tuple[float, ...]
    """Ascending, in (0, 1)."""
    totals: tuple[int, ...] = ()
    """Lead times in steps, at most the horizon, for quantiles of sums from the first step on."""
    groups: tuple[int, ...] = (1,)
    """The last step of each horizon group, ascending; the last one is the horizon."""
    retrain: Literal["always", "never"] = "always"
    """For methods that train: in every round, or before the first alone."""
    adapt: bool = False
    """For methods that learn as they go: they go on between rounds, as live."""
    seed: int = 0
    device: str = "auto"
    workers: int = 1
    """Processes that a method may use."""


@dataclass(frozen=True, slots=True)
class Opinions:
    """What each of a method's experts would have forecast alone."""

    classes: Ints
    """int64[items], the class that an item was weighed in; -1 for items that were left out."""
    quantiles: Mapping[str, Floats]
    """expert -> float64[items, levels, horizon], NaN where it said nothing."""


@dataclass(frozen=True, slots=True)
class RoundForecast:
    """Forecasts of one round; NaN in the rows of items that were left out."""

    number: int
    """The round's."""
    mean: Floats
    """float64[items, horizon], units a step."""
    quantiles: Floats
    """float64[items, levels, horizon], ascending over the levels, at least 0; whole numbers for whole items."""
    totals: Mapping[int, Floats] = field(default_factory=dict)
    """steps -> float64[items, levels], quantiles of the sum of the first `steps`; those that the method does not give are missing."""
    point: Floats | None = None
    """float64[items, horizon], for methods that forecast points: what their MAPE is taken of.
    None: the point that is best for MAPE by the quantiles."""
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Horizon group (its last step) -> expert -> its weight, a mean over items; for the report."""
    opinions: Opinions | None = None
    """What a method's experts said, where it was asked for."""


class Method(Protocol):
    """Something that forecasts. One instance serves one backtest."""

    name: str
    note: str
    """How its quantiles come about and what else a reader must know; one sentence or none."""

    # A method with a true attribute `learns_bounds` is shown what was sold in censored steps too; to the others these are unknown.

    def run(self, views: Sequence[View], task: Task, tell: Tell) -> Iterator[RoundForecast]:
        """Forecasts all rounds in order. A later round's view holds what an earlier one does not: a method may carry what it has learnt
        on from round to round, and must not let a round know a later view.

        Args:
            views: one a round.
            task: what is asked.
            tell: progress within rounds, where it is known.
        """
