"""Are the quantiles kept, and for how long not, after demand has doubled? On the real shops' files, by their protocols. `make calibration`.

For each shop and method: the share of actuals below and at or below each level, overall, by velocity third and by horizon group, with standard errors
clustered by week. Then the same after a doubling: the target is doubled from a date on, rounds are issued 14 to 27 steps later, and their
levels stand beside those of the same rounds on the undoubled series.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks import online_retail, orange_juice
from benchmarks.shops import Protocol, cut, run
from stream.backtest.data import Dataset, Round
from stream.backtest.method import Task
from stream.backtest.peers import make_methods
from stream.backtest.run import THIRDS, Backtest, Outcome, cells_of, group_names, velocity_thirds
from stream.backtest.scores import level_kept
from stream.engine.time import WEEK_MS
from stream.tables import UserError

MODELS = "nowcart,empirical_quantiles_84,seasonal_naive"
SHOPS = {"orange-juice": (orange_juice.PROTOCOL, orange_juice.prepare), "online-retail": (online_retail.PROTOCOL, online_retail.prepare)}
FIRST_AFTER, LAST_AFTER = 14, 27
"""Steps after the doubling at which rounds are issued."""


def clustered_error(hits: NDArray[np.bool_], cluster: NDArray[np.int64]) -> float | None:
    """The standard error of a share when cells of one cluster go together; None with fewer than two clusters.

    Args:
        hits: bool[n].
        cluster: int64[n].
    """
    _, place = np.unique(cluster, return_inverse=True)
    sums = np.bincount(place, weights=hits - hits.mean()) if len(hits) else np.zeros(0)
    if len(sums) < 2:
        return None
    return float(np.sqrt(np.square(sums).sum() * len(sums) / (len(sums) - 1))) / len(hits)


def kept(result: Backtest, outcome: Outcome) -> dict[str, list[dict[str, Any]]]:
    """Levels by group of cells: "all", the thirds, the horizon groups.

    Args:
        result: of the backtest.
        outcome: of one method.
    """
    cells, r, i, h = cells_of(result, outcome)
    cuts = np.array([one.cut for one in result.rounds])
    week = result.data.start_ms[cuts[r] + h] // WEEK_MS
    third = velocity_thirds(result)[i]
    group = np.searchsorted(result.task.groups, h + 1)
    among = {"all": np.ones(len(r), np.bool_)}
    among |= {f"{name} movers": third == k for k, name in enumerate(THIRDS)}
    among |= {f"steps {name}": group == k for k, name in enumerate(group_names(result.task.groups))}
    found: dict[str, list[dict[str, Any]]] = {}
    for name, rows in among.items():
        found[name] = []
        for place, level in enumerate(result.task.levels):
            y, q = cells.actual[rows], cells.quantiles[rows, place]
            error = clustered_error(y <= q, week[rows])
            found[name].append({"level": level, **level_kept(y, q, level), "standard_error": error, "n": int(rows.sum())})
    return found


def doubled(data: Dataset, column: int) -> Dataset:
    """The same history with twice the demand from a column on.

    Args:
        data: of the shop.
        column: the first doubled one.
    """
    y = data.y.copy()
    y[:, column:] *= 2
    y.flags.writeable = False
    return replace(data, y=y)


def doubling_rounds(data: Dataset, protocol: Protocol, last: int) -> tuple[int, tuple[Round, ...]]:
    """The column from which demand doubles, and rounds issued FIRST_AFTER to LAST_AFTER steps later, as many as the history holds.

    Args:
        data: of the shop.
        protocol: of the shop.
        last: column of the last step.
    """
    cuts = np.arange(LAST_AFTER - FIRST_AFTER + 1)[::-1]
    cuts = last + 1 - protocol.horizon - cuts
    begins = int(cuts[-1]) - protocol.gap - LAST_AFTER
    if begins < 30:
        raise UserError(f"{protocol.name} must have 30 steps before a doubling; there are {begins}")
    return begins, tuple(Round(k, int(at), int(at) - protocol.gap, protocol.horizon) for k, at in enumerate(cuts, start=1))


def print_levels(title: str, groups: dict[str, list[dict[str, Any]]]) -> None:
    """A line a group: for each level below–at or below, * where it is not kept by more than two standard errors.

    Args:
        title: in front.
        groups: of kept().
    """
    print(f"\n{title}")
    levels = next(iter(groups.values()))
    print(f"  {'':<16}" + "".join(f"{one['level']:>15.2f}" for one in levels) + f"{'n':>9}")
    for name, rows in groups.items():
        if not rows[0]["n"]:
            continue
        cells = []
        for one in rows:
            off = one["error"] > 2 * (one["standard_error"] or 0.0)
            cells.append(f"{one['below']:.3f}–{one['at_or_below']:.3f}{'*' if off else ' '}")
        print(f"  {name:<16}" + "".join(f"{cell:>15}" for cell in cells) + f"{rows[0]['n']:>9,}")
    errors = [one["standard_error"] for one in groups["all"] if one["standard_error"] is not None]
    if errors:
        print(f"  standard errors, clustered by week: {min(errors):.3f} to {max(errors):.3f}; * off by more than two of its own")


def measure(name: str, models: Sequence[str]) -> dict[str, Any]:
    """Both experiments on one shop.

    Args:
        name: of the shop.
        models: of --models.
    """
    protocol, prepare = SHOPS[name]
    table: pa.Table = prepare()
    data, rounds, task = cut(table, protocol)
    found: dict[str, Any] = {"levels": {}, "doubling": {}}
    result = run(data, rounds, task, make_methods(models, data))
    for outcome in result.outcomes:
        found["levels"][outcome.name] = kept(result, outcome)
        print_levels(f"{protocol.name}, {outcome.name}: share below – at or below each level", found["levels"][outcome.name])
    last = rounds[-1].cut + rounds[-1].horizon - 1
    begins, after = doubling_rounds(data, protocol, last)
    plain, twice = (_levels(one, after, task, models) for one in (data, doubled(data, begins)))
    for model in plain:
        found["doubling"][model] = {"undoubled": plain[model], "doubled": twice[model]}
        print_levels(
            f"{protocol.name}, {model}: forecasts issued {FIRST_AFTER} to {LAST_AFTER} steps after demand doubled",
            {"all": twice[model]["all"], "undoubled": plain[model]["all"]},
        )
    return found


def _levels(data: Dataset, rounds: Sequence[Round], task: Task, models: Sequence[str]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    result = run(data, rounds, task, make_methods(models, data))
    return {outcome.name: kept(result, outcome) for outcome in result.outcomes}


def main() -> int:
    """Measures the shops named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shops", default=",".join(SHOPS), help=f"default: {','.join(SHOPS)}")
    parser.add_argument("--models", default=MODELS, help=f"default: {MODELS}")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    try:
        found = {name: measure(name, args.models.split(",")) for name in args.shops.split(",")}
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyError as error:
        print(f"--shops must be of {', '.join(SHOPS)}; got {error}", file=sys.stderr)
        return 2
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
