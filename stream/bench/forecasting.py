"""How fast a tick is: forecasts of many items by all experts, their council and calibration, a partition a process, as deployments run it.

Items and their past are drawn; the models' code is the one that runs live. Encoding records is left out (`nowcart bench` has it in its steps).
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np

from models.protocol import DemandSpec, Panel

LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
VECTORISED = ("seasonal_naive", "ewma", "tsb", "empirical", "decomposition", "elasticity")
NETWORK = ("network", "network_counts", "network_adapted")
HORIZON = 24
_TICKS = 4
"""The first is for warming up."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured of one line-up of experts."""

    experts: tuple[str, ...]
    items: int
    processes: int
    forecast_seconds: float
    """Of a tick's forecasts, all processes at once, the best of the ticks."""
    tick_seconds: float
    """The same with scoring and learning."""
    shares: dict[str, float]
    """Where the time of a tick goes, adding up to one."""

    @property
    def series_per_second(self) -> float:
        """Items forecast a second."""
        return self.items / self.forecast_seconds

    @property
    def ticked_per_second(self) -> float:
        """Items scored, learnt from and forecast a second."""
        return self.items / self.tick_seconds


def measure(items: int, processes: int, experts: Sequence[str], tell: Callable[[int, int], None] | None = None) -> Speed:
    """Measures one line-up.

    Args:
        items: in all.
        processes: that share them, one partition each.
        experts: by name; those of a trained network get one that was drawn.
        tell: told (ticks done, ticks in all).
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    pipes, workers = [], []
    for number in range(processes):
        share = items // processes + (number < items % processes)
        mine, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(theirs, barrier, share, tuple(experts), number), daemon=True)
        worker.start()
        theirs.close()
        pipes.append(mine)
        workers.append(worker)
    ticks: list[list[tuple[float, float]]] = []
    for tick in range(_TICKS):
        ticks.append([pipe.recv() for pipe in pipes])
        if tell is not None:
            tell(tick + 1, _TICKS)
    spent: dict[str, float] = {}
    for pipe in pipes:
        for name, seconds in pipe.recv().items():
            spent[name] = spent.get(name, 0.0) + seconds
    for worker in workers:
        worker.join()
    forecast = min(max(seconds for seconds, _ in tick) for tick in ticks[1:])
    whole = min(max(seconds for _, seconds in tick) for tick in ticks[1:])
    total = sum(spent.values())
    shares = {name: seconds / total for name, seconds in sorted(spent.items(), key=lambda pair: -pair[1])}
    return Speed(tuple(experts), items, processes, forecast, whole, shares)


def _work(pipe: Connection, barrier: Barrier, items: int, experts: tuple[str, ...], seed: int) -> None:
    """One partition's ticks; sends the seconds of each, then where they went."""
    from models.demand.forecaster import DemandForecaster

    spec = DemandSpec("1h", HORIZON, (24, 168), LEVELS, (6, 24), (1, 6, 24), experts=experts)
    forecaster = DemandForecaster(spec)
    forecaster.resize(items)
    if any(expert in NETWORK for expert in experts):
        forecaster.load(_drawn(spec))
    spent = _watch(forecaster)
    panels = _panels(items, spec, forecaster.lookback, seed)
    for tick in range(_TICKS):
        panel = panels(tick)
        if tick == 1:
            spent.clear()
        barrier.wait()
        began = time.perf_counter()
        forecaster.close(panel)
        closed = time.perf_counter()
        made = forecaster.forecast(panel)
        forecast = time.perf_counter()
        forecaster.hold(panel, made)
        done = time.perf_counter()
        spent["scoring and learning"] = spent.get("scoring and learning", 0.0) + closed - began
        spent["holding"] = spent.get("holding", 0.0) + done - forecast
        inside = sum(seconds for name, seconds in spent.items() if name.startswith("forecast: ") and not name.endswith("calibration"))
        spent["forecasts in all"] = spent.get("forecasts in all", 0.0) + forecast - closed
        spent["forecast: council and calibration"] = spent["forecasts in all"] - inside
        pipe.send((forecast - closed, done - began))
    spent.pop("forecasts in all")
    pipe.send(spent)


def _drawn(spec: DemandSpec) -> Any:
    from models.demand.encoder import layout_of
    from models.demand.network import Shape, Weights
    from models.train.fit import members

    layout = layout_of(spec)
    return Weights("drawn", spec.size, layout, spec.levels, tuple(members(layout, spec.levels, Shape(), 0)))


def _watch(forecaster: Any) -> dict[str, float]:
    """Seconds by what is done within forecast(); within close() the same calls belong to learning."""
    spent: dict[str, float] = {}
    depth = [0]
    forecasting = [False]

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def timing(*args: Any, **more: Any) -> Any:
            if not forecasting[0] or depth[0]:
                return call(*args, **more)
            depth[0] += 1
            began = time.perf_counter()
            try:
                return call(*args, **more)
            finally:
                depth[0] -= 1
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - began

        return timing

    for expert in forecaster.experts:
        name = "network" if expert.name in NETWORK else expert.name
        for method in ("means", "raw", "dispersion"):
            setattr(expert, method, timed(f"forecast: {name}", getattr(expert, method)))
    for tables in (forecaster._counts, forecaster._compared_counts):
        tables.mix = timed("forecast: mixing quantile functions", tables.mix)
    forecast = forecaster.forecast

    def marked(panel: Panel) -> Any:
        forecasting[0] = True
        try:
            return forecast(panel)
        finally:
            forecasting[0] = False

    forecaster.forecast = marked
    return spent


def _panels(items: int, spec: DemandSpec, lookback: int, seed: int) -> Callable[[int], Panel]:
    """A partition's past: rates over four orders of magnitude, hours with a season, one price that is known ahead."""
    random = np.random.default_rng(seed)
    depth = lookback + _TICKS + 2
    rate = np.exp(random.normal(-1.5, 1.3, items)).astype(np.float32)
    hours = 1 + 0.8 * np.sin(2 * np.pi * np.arange(depth) / 24)
    ring = np.stack([random.poisson(rate * hour) for hour in hours]).astype(np.int32)
    price = np.exp(random.normal(0, 0.1, (1, items))).astype(np.float32).repeat(depth + HORIZON, axis=0)
    base = Panel(
        slots=np.arange(items, dtype=np.int64),
        closed=0,
        units=ring,
        scale=1,
        first=np.zeros(items, np.int64),
        steps=np.zeros((HORIZON + 1, 6), np.float32),
        whole=np.ones(items, np.bool_),
        known={"price": price},
    )

    def panel(tick: int) -> Panel:
        closed = depth - _TICKS - 1 + tick
        phase = 2 * np.pi * ((closed + np.arange(HORIZON + 1)) % 24) / 24
        steps = np.zeros((HORIZON + 1, 6), np.float32)
        steps[:, 0], steps[:, 1] = np.sin(phase), np.cos(phase)
        return replace(base, closed=closed, steps=steps)

    return panel
