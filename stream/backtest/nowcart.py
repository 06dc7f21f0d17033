"""The engine itself as a method: one shard is driven through the history as live, block by block, and its records are read at the cuts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from models.protocol import DemandSpec
from stream.backtest.data import Floats, View
from stream.backtest.method import RoundForecast, Task, Tell
from stream.engine.activity import Agreement, Block, Segment, Source
from stream.engine.columns import MICRO, DemandColumns
from stream.engine.forecast import ForecastShard, ForecastSpec, ResolutionSpec
from stream.engine.time import DAY_MS, MINUTE_MS, Grid
from stream.runners.forecast import probes
from stream.tables import UserError

_SOURCE = Source("backtest", 0)


class Nowcart:
    """The forecast engine with its present experts."""

    name = "nowcart"
    note = "the engine, learning between rounds as live; a step without a row counts as the last known value"

    def run(self, views: Sequence[View], task: Task, tell: Tell) -> Iterator[RoundForecast]:
        """As the protocol says."""
        shard, grid, first = _shard(views[-1], task)
        done = 0
        for view in views:
            found: list[DemandColumns] = []
            y = _filled(view)
            for step in range(done, view.end):
                found = [made for made in shard.step(_block(view, y, step, first, grid)) if isinstance(made, DemandColumns)]
                tell(step / views[-1].end)
            done = view.end
            yield _forecast(view, task, found)


def _shard(view: View, task: Task) -> tuple[ForecastShard, Grid, int]:
    size = view.frequency.size
    if size is None:
        raise UserError(
            f"nowcart forecasts buckets of 1m, 5m, 15m, 1h, 1d and 1w; --freq is {view.frequency.name}: leave nowcart out of --models"
        )
    grid = Grid(size, view.zone)
    ahead = view.gap + task.horizon
    totals = task.totals if view.gap == 0 else ()
    spec = DemandSpec(size, ahead, view.seasons, task.levels, totals, probes(ahead))
    longest = max(view.seasons, default=1)
    agreement = Agreement(min(15 * MINUTE_MS, grid.size_ms), size, view.zone.name)
    whole = ForecastSpec(
        agreement=agreement,
        zone=view.zone,
        resolutions=(ResolutionSpec(spec, max(2 * longest, 2 * ahead, 28)),),
        out_of_orderness_ms=0,
        allowed_lateness_ms=0,
        max_lead_ms=0,
        forget_after_ms=100_000 * DAY_MS,
        max_items=max(1, len(view.items)),
        device=task.device,
        model_version="backtest",
    )
    shard = ForecastShard(whole)
    for _ in shard.step(Block(1, "roster", roster=[_SOURCE], agreement=agreement)):
        pass
    return shard, grid, view.frequency.grid_number(view.first_step, view.zone)


def _filled(view: View) -> Floats:
    """float64[items, end], unknown steps as the last known value: blocks cannot say that nothing is known."""
    place = np.where(np.isfinite(view.y), np.arange(view.end), 0)
    np.maximum.accumulate(place, axis=1, out=place)
    return np.asarray(np.nan_to_num(np.take_along_axis(view.y, place, axis=1)))


def _block(view: View, y: Floats, step: int, first: int, grid: Grid) -> Block:
    """A row for every item that is there, those without demand too: so each is forecast at each tick."""
    there = np.flatnonzero(view.first <= step)
    if not len(there):
        return Block(1, "rows", _SOURCE, first + step + 1, [])
    units = np.rint(y[there, step] * MICRO).astype("<i8")
    grain = grid.start_of(first + step) // min(15 * MINUTE_MS, grid.size_ms)
    columns = {
        "item": np.arange(len(there), dtype="<u4").tobytes(),
        "grain": np.full(len(there), grain, "<i8").tobytes(),
        "units": units.tobytes(),
        "lines": (units > 0).astype("<i8").tobytes(),
        "fractions": (units % MICRO != 0).astype("<i8").tobytes(),
    }
    segment = Segment(first + step, [str(row) for row in there.tolist()], columns)
    return Block(1, "rows", _SOURCE, first + step + 1, [segment])


def _forecast(view: View, task: Task, found: Sequence[DemandColumns]) -> RoundForecast:
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
