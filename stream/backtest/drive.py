"""A history on the engine's own road: blocks as ingest makes them, one step at a time, into one forecast shard.

What is known ahead travels as facts, announced when the step closes after which a forecast may use it; what is measured as measurements; steps of
which nothing is known as steps without stock. The shard never sees more than a live one would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from models.demand.forecaster import DemandForecaster
from models.protocol import DemandSpec, Panel
from stream.backtest.data import Floats, View
from stream.backtest.method import Task
from stream.engine.activity import Agreement, Block, Segment, Source, facts_segment
from stream.engine.columns import MICRO, DemandColumns
from stream.engine.facts import STATIC, fact_rows, join_rows, measured_rows
from stream.engine.forecast import ForecastShard, ForecastSpec
from stream.engine.resolution import ResolutionSpec
from stream.engine.state import forecast_arrays, forecast_note, restore_forecast
from stream.engine.time import DAY_MS, MINUTE_MS, Grid
from stream.runners.forecast import EXPERTS, probes
from stream.tables import UserError

_SOURCE = Source("backtest", 0)

State = dict[str, np.ndarray]


def demand_spec(view: View, task: Task) -> DemandSpec:
    """What the engine forecasts in a backtest.

    Args:
        view: of any round; only what never changes is taken from it.
        task: what is asked.

    Raises:
        UserError: the engine has no buckets of the data's frequency.
    """
    if view.frequency.size is None:
        raise UserError(
            f"nowcart forecasts buckets of 1m, 5m, 15m, 1h, 1d and 1w; --freq is {view.frequency.name}: leave nowcart out of --models"
        )
    ahead = view.gap + task.horizon
    return DemandSpec(
        view.frequency.size,
        ahead,
        view.seasons,
        task.levels,
        task.totals if view.gap == 0 else (),
        probes(ahead),
        river_items=min(200, max(1, len(view.items))),
        experts=EXPERTS,
    )


class Drive:
    """One shard on its way through a history."""

    def __init__(self, view: View, task: Task, history: int) -> None:
        """An empty shard before the first step.

        Args:
            view: of any round; only what never changes is taken from it.
            task: what is asked.
            history: closed steps that rings must hold.

        Raises:
            UserError: the engine has no buckets of the data's frequency.
        """
        self.spec = demand_spec(view, task)
        self.grid = Grid(self.spec.size, view.zone)
        self.first = view.frequency.grid_number(view.first_step, view.zone)
        self.ahead = self.spec.horizon
        self.grain_ms = min(15 * MINUTE_MS, self.grid.size_ms)
        agreement = Agreement(self.grain_ms, self.spec.size, view.zone.name)
        whole = ForecastSpec(
            agreement=agreement,
            zone=view.zone,
            resolutions=(ResolutionSpec(self.spec, history),),
            out_of_orderness_ms=0,
            allowed_lateness_ms=0,
            max_lead_ms=0,
            forget_after_ms=100_000 * DAY_MS,
            max_items=max(1, len(view.items)),
            device=task.device,
            model_version="backtest",
        )
        self.shard = ForecastShard(whole)
        self.done = 0
        """Steps that have closed."""
        self.roster = Block(1, "roster", roster=[_SOURCE], agreement=agreement)
        for _ in self.shard.step(self.roster):
            pass

    @property
    def forecaster(self) -> DemandForecaster:
        """The shard's only forecaster."""
        return self.shard.resolutions[0].forecaster

    def state(self) -> State:
        """A copy of everything that decides later forecasts."""
        arrays = {name: np.array(values) for name, values in forecast_arrays(self.shard).items()}
        return arrays | forecast_note(self.shard)

    def restore(self, state: State, done: int) -> None:
        """Makes a fresh drive the one that gave the state.

        Args:
            state: of state(); not changed by what this drive does from here on.
            done: steps that had closed by then.
        """
        restore_forecast(self.shard, {name: values.copy() for name, values in state.items()})  # it takes arrays for its own
        self.done = done

    def go(self, view: View, until: int, tell: Callable[[int], None] | None = None) -> list[DemandColumns]:
        """Closes steps up to, without, `until`; returns what the last of them published.

        Args:
            view: shows at least these steps.
            until: column.
            tell: told of every step.
        """
        found: list[DemandColumns] = []
        for step in range(self.done, until):
            found = [made for made in self.shard.step(self._block(view, step)) if isinstance(made, DemandColumns)]
            if tell is not None:
                tell(step)
        self.done = max(self.done, until)
        return found

    def asked(self) -> tuple[Panel, list[str]]:
        """What forecasts after the newest closed step are made from: the panel of all items, and their names."""
        resolution = self.shard.resolutions[0]
        closed = resolution.windows.closed
        assert closed is not None
        slots = np.flatnonzero(self.shard.live & (resolution.first <= closed))
        return resolution.panel(slots, self.shard.whole, self.shard.covariates), [self.shard.names[slot] for slot in slots.tolist()]

    def blocks(self, view: View, start: int = 0) -> Iterator[Block]:
        """The blocks of steps from `start` on, as go() takes them.

        Args:
            view: shows them.
            start: column.
        """
        for step in range(start, view.end):
            yield self._block(view, step)

    def _block(self, view: View, step: int) -> Block:
        return Block(1, "rows", _SOURCE, self.first + step + 1, self._segments(view, step))

    def _segments(self, view: View, step: int) -> list[Segment]:
        there = np.flatnonzero(view.first <= step)
        if not len(there):
            return []
        names = [str(row) for row in there.tolist()]
        units = np.rint(np.nan_to_num(view.y[there, step]) * MICRO).astype("<i8")
        start_ms = self.grid.start_of(self.first + step)
        columns = {
            "item": np.arange(len(there), dtype="<u4").tobytes(),
            "grain": np.full(len(there), start_ms // self.grain_ms, "<i8").tobytes(),
            "units": units.tobytes(),
            "lines": (units > 0).astype("<i8").tobytes(),
            "fractions": (units % MICRO != 0).astype("<i8").tobytes(),
        }
        segments = [Segment(self.first + step, names, columns)]
        facts = [*self._statics(view, step), *self._known(view, there, step), *self._stock(view, there, step)]
        measured = self._past(view, there, names, start_ms, step)
        if facts or measured is not None:
            segments.append(facts_segment(self.first + step, join_rows(facts) if facts else None, measured))
        return segments

    def _statics(self, view: View, step: int):  # type: ignore[no-untyped-def]
        """What new items are: the static columns, and the parts of a key of several columns."""
        new = np.flatnonzero(view.first == step)
        if len(new):
            for name, values in view.static.items():
                yield fact_rows(
                    name=name,
                    value=0.0,
                    announced_ms=self.grid.start_of(self.first + step),
                    item=[str(row) for row in new.tolist()],
                    text=[values[row] for row in new.tolist()],
                    kind=STATIC,
                )

    def _known(self, view: View, there: np.ndarray, step: int):  # type: ignore[no-untyped-def]
        """Values that a forecast after this step may use and that differ from those of the step before: they hold until further notice."""
        now = self.grid.start_of(self.first + step)
        new = view.first[there] == step
        for name, values in view.known.items():
            width = values.shape[1]
            for column in range(step + 1, min(step + self.ahead, width - 1) + 1):
                # Items that are new are told everything up to the horizon, the others what has just come into reach.
                rows = there[new] if column < step + self.ahead else there
                before, value = values[rows, column - 1], values[rows, column]
                fresh = np.isfinite(value) & ((value != before) | (view.first[rows] == step) & (column == step + 1))
                yield from self._told(name, rows[fresh], value[fresh], column, now)
            rows = there[new]
            value = values[rows, step]
            yield from self._told(name, rows[np.isfinite(value)], value[np.isfinite(value)], step, now)

    def _told(self, name: str, rows: np.ndarray, value: Floats, column: int, now: int):  # type: ignore[no-untyped-def]
        if len(rows):
            start = self.grid.start_of(self.first + column)
            yield fact_rows(name=name, value=value, announced_ms=now, item=[str(row) for row in rows.tolist()], starts_ms=start)

    def _stock(self, view: View, there: np.ndarray, step: int):  # type: ignore[no-untyped-def]
        """Steps of which nothing is known, and those that stock cut short, had no stock."""
        cut = ~np.isfinite(view.y[there, step])
        if view.censored is not None:
            cut |= view.censored[there, step]
        rows = there[cut]
        if len(rows):
            start, end = self.grid.start_of(self.first + step), self.grid.end_of(self.first + step)
            yield fact_rows(
                name="stock", value=0.0, announced_ms=start, item=[str(row) for row in rows.tolist()], starts_ms=start, ends_ms=end
            )

    def _past(self, view: View, there: np.ndarray, names: list[str], start_ms: int, step: int):  # type: ignore[no-untyped-def]
        parts = []
        for name, values in view.past.items():
            value = values[there, step]
            fine = np.flatnonzero(np.isfinite(value))
            parts.append((name, [names[i] for i in fine.tolist()], value[fine]))
        if not parts or not any(items for _, items, _ in parts):
            return None
        return measured_rows(
            item=[item for _, items, _ in parts for item in items],
            name=[name for name, items, _ in parts for _ in items],
            grain=np.full(sum(len(items) for _, items, _ in parts), start_ms // self.grain_ms, np.int64),
            value=np.concatenate([value for _, _, value in parts]),
        )
