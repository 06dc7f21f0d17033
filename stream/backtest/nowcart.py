"""The engine itself as a method: trained, warmed up, refitted and asked in every round, on the road that runs live.

In every round the network is trained on the history less its last part, the council and the calibration learn what it is worth on that part, then
the network is fitted on everything before the cut; it keeps what they have learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from models.demand.encoder import Layout, layout_of
from models.demand.network import Weights
from models.train.fit import Examples
from models.train.recorder import Recorder
from models.train.trainer import Trainer
from stream.backtest.data import Floats, View
from stream.backtest.drive import Drive, State, demand_spec
from stream.backtest.method import Opinions, RoundForecast, Task, Tell
from stream.engine.columns import DemandColumns

_HELD_OUT = 0.15
_STALE = 0.1
"""By so much may the history have grown since the network was trained that the council learns by."""
_LEAST = 24
"""Steps before which there is nothing to train a network on."""
_ISSUES = 12
"""Steps whose forecasts have all come true that a network must have seen: what it says of steps that it never saw come is no forecast, and a
council and a calibration that learn by it are wrong about the network that has seen them."""


class Nowcart:
    """The forecast engine."""

    name = "nowcart"
    learns_bounds = True
    note = "the engine on the road that runs live: network, council and calibration anew in every round"

    def __init__(self, members: int = 4) -> None:
        """
        Args:
            members: networks that are averaged.
        """
        self._members = members
        self.opinions = False
        """Whether to say what the experts said as well: experts x levels numbers an item and step."""

    def run(self, views: Sequence[View], task: Task, tell: Tell) -> Iterator[RoundForecast]:
        """As the protocol says."""
        rounds = Rounds(views, task, self._members, tell)
        for number, view in enumerate(views):
            made = rounds.forecast(number)
            if self.opinions and rounds.live is not None:
                made = replace(made, opinions=opinions_of(view, task, rounds.live))
            yield made


class Rounds:
    """What is carried from round to round: the untrained engine's way through the history, and its examples."""

    def __init__(self, views: Sequence[View], task: Task, members: int, tell: Tell) -> None:
        self.views, self.task, self.tell = views, task, tell
        first = views[0]
        layout = layout_of(
            demand_spec(first, task),
            {name: _is_price(values[:, : first.end]) for name, values in first.known.items()},
            tuple(first.past),
            tuple(first.static),
        )
        self.layout: Layout = layout
        self.base = Drive(first, task, layout.lookback)
        self.recorder = Recorder(layout, most=_most(layout), skip=min(12, first.end // 4))
        self.base.forecaster.watch = self.recorder
        self.trainer = Trainer(self.base.spec, layout, members=members, seed=task.seed)
        self.live: Drive | None = None
        """The newest round's engine."""
        self.kept: tuple[int, State] | None = None
        """Where the newest round's warming up began, and how the untrained engine stood there."""
        self.trained: Weights | None = None
        """That the council learns by, and how many steps they were trained on."""
        self.trained_to = 0
        self.refitted: Weights | None = None

    def forecast(self, number: int) -> RoundForecast:
        """One round. The last step is taken with networks that saw everything before the cut."""
        view = self.views[number]
        if self.live is None or not self.task.adapt:
            self.live = self._warm(view, number)
        else:
            self._base_to(view, view.end)  # the last round's engine learns on, as live
        drive = self.live
        drive.go(view, view.end - 1)
        if self.trained is not None and (self.task.retrain == "always" or number == 0):
            self._refit(view, number)
        if self.refitted is not None and self.refitted.version != drive.forecaster.version:
            drive.forecaster.load(self.refitted, keep=True)
        found = drive.go(view, view.end)
        self.tell((number + 1) / len(self.views))
        return forecast_of(view, self.task, found)

    def _warm(self, view: View, number: int) -> Drive:
        """An engine where the part begins on which its council and calibration are to learn what its network is worth."""
        seen = view.end - int(view.first[view.present].min()) if view.present.any() else 0
        train_end = view.end - min(max(2 * self.task.horizon, int(np.ceil(_HELD_OUT * seen))), seen // 2)
        warm = Drive(view, self.task, self.layout.lookback)
        warm.restore(self._base_state(view, train_end), train_end)
        self._base_to(view, view.end)
        self._train(train_end, number)
        if self.trained is not None:
            warm.forecaster.load(self.trained)
        return warm

    def _base_to(self, view: View, until: int) -> None:
        share = 0.1 / max(1, self.views[-1].end)
        self.base.go(view, until, lambda step: self.tell(min(1.0, step * share)))

    def _base_state(self, view: View, at: int) -> State:
        """The untrained engine as it stood after a step: it stands before it, or is led there again."""
        if self.base.done > at:
            again = Drive(view, self.task, self.layout.lookback)
            if self.kept is not None and self.kept[0] <= at:
                again.restore(self.kept[1], self.kept[0])
            again.go(view, at)
            state = again.state()
        else:
            self._base_to(view, at)
            state = self.base.state()
        self.kept = (at, state)
        return state

    def _train(self, train_end: int, number: int) -> None:
        """The network that the council and the calibration learn by. It saw nothing after `train_end`; one that saw nearly as much serves again."""
        if self.trained is not None and (self.task.retrain == "never" or train_end < self.trained_to * (1 + _STALE)):
            return
        examples = self._examples(train_end)
        if examples is not None:
            self.trained, self.trained_to = self.trainer.train(examples, f"round-{number + 1}", self._telling(number, 0.1, 0.5)), train_end

    def _refit(self, view: View, number: int) -> None:
        """The same, of everything before the cut."""
        examples = self._examples(view.end)
        if examples is not None:
            self.refitted = self.trainer.train(examples, f"round-{number + 1}-refitted", self._telling(number, 0.5, 1.0))

    def _examples(self, end: int) -> Examples | None:
        if end < max(_LEAST, self.layout.horizon + _ISSUES):
            return None
        examples = self.recorder.examples(self.base.first + end - 1)
        return examples if len(examples) >= 200 else None

    def _telling(self, number: int, low: float, high: float) -> Tell:
        def told(share: float) -> None:
            self.tell((number + low + (high - low) * share) / len(self.views))

        return told


def _is_price(values: Floats) -> bool:
    """Whether a covariate is compared by ratios: always above zero, and not one of a few small whole numbers."""
    known = values[np.isfinite(values)]
    if not len(known) or float(known.min()) <= 0:
        return False
    return bool((known != np.floor(known)).any() or float(known.max()) > 20)


def _most(layout: Layout) -> int:
    """Rows that are kept: 600 MB of them."""
    return int(np.clip(600e6 / (4 * (layout.width + 3 * layout.horizon)), 20_000, 400_000))


def opinions_of(view: View, task: Task, drive: Drive) -> Opinions:
    """What the experts said at a round's cut, and in which class its items were weighed.

    Args:
        view: of the round.
        task: what is asked.
        drive: at the cut.
    """
    forecaster, (panel, names) = drive.forecaster, drive.asked()
    ahead = slice(view.gap, view.gap + task.horizon)
    rows = np.array([int(name) for name in names], dtype=np.int64)
    classes = np.full(len(view.items), -1, np.int64)
    classes[rows] = forecaster.classes(panel.slots)
    quantiles = {}
    for name, said in forecaster.opinions(panel).items():
        quantiles[name] = np.full((len(view.items), len(task.levels), task.horizon), np.nan)
        quantiles[name][rows] = said[:, :, ahead]
    return Opinions(classes, quantiles)


def forecast_of(view: View, task: Task, found: Sequence[DemandColumns]) -> RoundForecast:
    """A round's forecasts, of what the engine published.

    Args:
        view: of the round.
        task: what is asked.
        found: of the newest step before the cut.
    """
    items, levels, ahead = len(view.items), len(task.levels), slice(view.gap, view.gap + task.horizon)
    mean = np.full((items, task.horizon), np.nan)
    quantiles = np.full((items, levels, task.horizon), np.nan)
    totals = {steps: np.full((items, levels), np.nan) for steps in task.totals if view.gap == 0}
    weights: dict[str, dict[str, float]] = {}
    count = sum(len(made) for made in found if made.forecast is not None)
    for made in found:
        if made.forecast is None:
            continue
        rows = np.array([int(name) for name in made.item], dtype=np.int64)
        mean[rows] = made.forecast.mean[:, ahead]
        quantiles[rows] = made.forecast.quantiles[:, :, ahead]
        for steps, sums in totals.items():
            sums[rows] = made.forecast.totals[steps]
        for row, share in zip(*np.unique(made.forecast.weights_row, return_counts=True), strict=True):
            for group, experts in made.forecast.weights[int(row)].items():
                mine = weights.setdefault(group, {})
                for name, weight in experts.items():
                    mine[name] = mine.get(name, 0.0) + weight * float(share) / count
    blank: list[Floats] = [mean, quantiles, *totals.values()]
    for values in blank:
        values[~view.present] = np.nan
    return RoundForecast(view.round.number, mean, quantiles, totals, weights=weights)
