"""Are the quantiles kept, and for how long not, after demand has doubled? On the real shops' files, by their protocols. `make calibration`.

For each shop and method: the share of actuals below and at or below each level, overall, by velocity third and by horizon group, with standard errors
clustered by week. Then what it is worth that the engine goes on learning between rounds (`--adapt`), and its levels with it. Then a doubling:
networks are trained once, the engine goes on as live, the target is doubled from a date on, a round is issued at every step, and those of 14 to
27 steps later stand beside the same rounds on the undoubled series. Last, what is asked and what was reached.
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
from benchmarks.shops import Protocol, Verdict, cut, print_verdicts, run
from stream.backtest.data import Dataset, Round
from stream.backtest.peers import make_methods
from stream.backtest.run import THIRDS, Backtest, Outcome, cells_of, compare, group_names, velocity_thirds
from stream.backtest.scores import Cells, level_kept, score, wql
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
    """The column from which demand doubles, and rounds issued 0 to LAST_AFTER steps later.

    Args:
        data: of the shop.
        protocol: of the shop.
        last: column of the last step.
    """
    begins = last + 1 - protocol.horizon - protocol.gap - LAST_AFTER
    if begins < 30:
        raise UserError(f"{protocol.name} must have 30 steps before a doubling; there are {begins}")
    ends = range(begins, begins + LAST_AFTER + 1)
    return begins, tuple(Round(k, end + protocol.gap, end, protocol.horizon) for k, end in enumerate(ends))


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


def measure(name: str, models: Sequence[str]) -> tuple[dict[str, Any], list[Verdict]]:
    """All experiments on one shop.

    Args:
        name: of the shop.
        models: of --models.
    """
    protocol, prepare = SHOPS[name]
    table: pa.Table = prepare()
    data, rounds, task = cut(table, protocol)
    found: dict[str, Any] = {"levels": {}, "doubling": {}}
    verdicts: list[Verdict] = []
    result = run(data, rounds, task, make_methods(models, data))
    for outcome in result.outcomes:
        found["levels"][outcome.name] = kept(result, outcome)
        print_levels(f"{protocol.name}, {outcome.name}: share below – at or below each level", found["levels"][outcome.name])
    if "nowcart" in found["levels"]:
        off = next(one for one in result.outcomes if one.name == "nowcart")
        verdicts += _levels_asked(protocol.name, result, off, found["levels"]["nowcart"])
        adapting = run(data, rounds, replace(task, adapt=True), make_methods(["nowcart"], data))
        on = adapting.outcomes[0]
        found["levels"]["nowcart --adapt"] = kept(adapting, on)
        print_levels(f"{protocol.name}, nowcart --adapt", found["levels"]["nowcart --adapt"])
        found["adapt"], verdict = _worth(protocol.name, result, on, off)
        verdicts.append(verdict)
    begins, after = doubling_rounds(data, protocol, rounds[-1].cut + rounds[-1].horizon - 1)
    live = replace(task, retrain="never", adapt=True)
    pair = [run(one, after, live, make_methods(models, data)) for one in (data, doubled(data, begins))]
    for plain, twice in zip(*(one.outcomes for one in pair), strict=True):
        curves = [_errors(one, outcome) for one, outcome in zip(pair, (plain, twice), strict=True)]
        found["doubling"][plain.name] = {"undoubled": curves[0], "doubled": curves[1]}
        _print_curve(f"{protocol.name}, {plain.name}: largest error of an interval, of rounds by steps after demand doubled", *curves)
        if plain.name == "nowcart":
            worse = max(now - before for now, before in zip(curves[1]["pooled"].values(), curves[0]["pooled"].values(), strict=True))
            asked = f"{protocol.name}: {FIRST_AFTER} to {LAST_AFTER} steps after demand doubled, intervals at most 3 points worse"
            verdicts.append(Verdict(asked, f"{100 * worse:+.1f} points", worse <= 0.03))
    return found, verdicts


def _interval_errors(cells: Cells, levels: Sequence[float]) -> dict[str, float]:
    """Of each central interval, by its nominal coverage."""
    return {name: span["error"] for name, span in score(cells, levels)["coverage"].items()}


def _levels_asked(shop: str, result: Backtest, outcome: Outcome, groups: dict[str, list[dict[str, Any]]]) -> list[Verdict]:
    cells, *_ = cells_of(result, outcome)
    spans = _interval_errors(cells, result.task.levels)
    ends = {one["level"]: one["error"] for one in groups["all"] if one["level"] in (0.9, 0.95, 0.99)}
    off = []
    for name, rows in groups.items():
        for one in rows:
            reach = max(0.04, 2 * (one["standard_error"] or 0.0))
            if name != "all" and one["n"] and one["error"] > reach:
                off.append(f"{name} at {one['level']:g} by {100 * one['error']:.1f} of {100 * reach:.1f}")
    told = ", ".join(f"{float(name):.0%} {100 * error:.1f}" for name, error in spans.items())
    return [
        Verdict(f"{shop}: intervals kept within 2 points", told, max(spans.values()) <= 0.02),
        Verdict(
            f"{shop}: the highest levels within 1 point",
            ", ".join(f"{level:g} {100 * error:.1f}" for level, error in ends.items()),
            max(ends.values()) <= 0.01,
        ),
        Verdict(f"{shop}: thirds and horizon groups within 4 points or 2 standard errors", "; ".join(off) or "all", not off),
    ]


def _worth(shop: str, result: Backtest, on: Outcome, off: Outcome) -> tuple[dict[str, Any], Verdict]:
    """What adapting between rounds is worth."""
    gap = compare(result, on, off)
    assert gap is not None
    cells, *_ = cells_of(result, off)
    base = wql(cells.actual, cells.quantiles, result.task.levels)
    share = gap.value / base if base else 0.0
    text = f"{gap.value:+.4f} [{gap.low or 0:+.4f}, {gap.high or 0:+.4f}], {share:+.1%}"
    told = {"wql_difference": gap.value, "low": gap.low, "high": gap.high, "frozen": base}
    return told, Verdict(f"{shop}: --adapt at most 0.5 % worse than without", text, share <= 0.005)


def _errors(result: Backtest, outcome: Outcome) -> dict[str, Any]:
    """Errors of the central intervals: of the rounds FIRST_AFTER to LAST_AFTER together, and of each round."""
    cells, r, *_ = cells_of(result, outcome)

    def errors(rows: NDArray[np.bool_]) -> dict[str, float]:
        return _interval_errors(cells.pick(rows), result.task.levels)

    rounds = {one.number: errors(r == k) for k, one in enumerate(result.rounds) if (r == k).any()}
    return {"pooled": errors((r >= FIRST_AFTER) & (r <= LAST_AFTER)), "rounds": rounds}


def _print_curve(title: str, plain: dict[str, Any], twice: dict[str, Any]) -> None:
    print(f"\n{title}")
    print(f"  {'steps after':<16}" + f"{'undoubled':>12}{'doubled':>12}")
    for number in plain["rounds"]:
        before, now = (max(one["rounds"][number].values()) for one in (plain, twice))
        print(f"  {number:<16}{before:12.3f}{now:12.3f}  {'#' * round(100 * now)}")
    for name in plain["pooled"]:
        what = f"{float(name):.0%}, {FIRST_AFTER} to {LAST_AFTER}"
        print(f"  {what:<16}{plain['pooled'][name]:12.3f}{twice['pooled'][name]:12.3f}")


def main() -> int:
    """Measures the shops named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shops", default=",".join(SHOPS), help=f"default: {','.join(SHOPS)}")
    parser.add_argument("--models", default=MODELS, help=f"default: {MODELS}")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    try:
        measured = {name: measure(name, args.models.split(",")) for name in args.shops.split(",")}
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyError as error:
        print(f"--shops must be of {', '.join(SHOPS)}; got {error}", file=sys.stderr)
        return 2
    if args.json is not None:
        args.json.write_text(json.dumps({name: found for name, (found, _) in measured.items()}, indent=2) + "\n", encoding="utf-8")
    return 0 if print_verdicts([verdict for _, verdicts in measured.values() for verdict in verdicts]) else 1


if __name__ == "__main__":
    sys.exit(main())
