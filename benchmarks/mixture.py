"""What the average of two methods' quantile functions would have been worth, by forecasts that a backtest wrote (--predictions).

`python -m benchmarks.online_retail --models nowcart,lightgbm --rounds 3 --until 2011-08-17 --predictions or.parquet`, then
`python -m benchmarks.mixture or.parquet nowcart lightgbm`: before an expert is built, whether the council could use it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stream.backtest.paired import Difference, paired_difference
from stream.backtest.scores import Floats, pinball
from stream.tables import UserError

_BESIDE = ("round", "cut", "time", "horizon", "model", "mean", "point_mape", "actual")
SHARES = (0.2, 0.35, 0.5, 0.65, 0.8)
"""Of the second method."""


@dataclass(frozen=True, slots=True)
class Mixed:
    """A mixture's score."""

    share: float
    """Of the second method; 0: the first alone, 1: the second."""
    wql: float
    less: Difference | None
    """Its WQL less the first's."""


def mixtures(table: pa.Table, first: str, second: str) -> list[Mixed]:
    """Scores of averages, over the cells that both forecast and whose actual is known.

    Args:
        table: as a backtest writes it.
        first: a method.
        second: another.

    Returns:
        One a share, from 0 to 1.

    Raises:
        UserError: a method is not in the table, or no cell has both.
    """
    names = table.column_names
    items = [name for name in names if name not in _BESIDE and not _is_level(name)]
    levels = [name for name in names if _is_level(name)]
    keys = [*items, "round", "horizon"]
    parts = []
    for model in (first, second):
        part = table.filter(pc.equal(table["model"], model))
        if not len(part):
            raise UserError(f"the predictions must hold '{model}'; they hold {sorted(set(table['model'].to_pylist()))}: name one of those")
        actual = pc.fill_null(part["actual"].cast(pa.float64()), float("nan"))
        part = part.select([*keys, *levels]).append_column("actual", actual)
        parts.append(part.filter(pc.is_finite(actual)))
    both = parts[0].join(parts[1].drop_columns(["actual"]), keys, join_type="inner", right_suffix=" of the second")
    both = both.sort_by([(key, "ascending") for key in keys])
    if not len(both):
        raise UserError(f"no cell has forecasts of both {first} and {second} and an actual: let one backtest run both")
    y = both["actual"].to_numpy()
    one, other = (np.column_stack([both[f"{level}{suffix}"].to_numpy() for level in levels]) for suffix in ("", " of the second"))
    whole = bool((one == np.rint(one)).all() and (other == np.rint(other)).all())
    p = [float(level[1:]) for level in levels]
    alone = _losses(y, one, p)
    item = np.unique(_codes(both, items), return_inverse=True)[1].astype(np.int64)
    number = both["round"].to_numpy().astype(np.int64)
    found = []
    for share in (0.0, *SHARES, 1.0):
        quantiles = (1 - share) * one + share * other
        loss = _losses(y, np.rint(quantiles) if whole else quantiles, p)
        less = paired_difference(loss, alone, np.abs(y), item, number)
        found.append(Mixed(share, float(loss.sum() / np.abs(y).sum()), less))
    return found


def _is_level(name: str) -> bool:
    try:
        return name.startswith("q") and 0 < float(name[1:]) < 1
    except ValueError:
        return False


def _losses(actual: Floats, quantiles: Floats, levels: list[float]) -> Floats:
    return np.asarray(2 * pinball(actual, quantiles, levels).mean(axis=1))


def _codes(table: pa.Table, items: list[str]) -> NDArray[np.object_]:
    """One text an item."""
    texts = [table[name].cast(pa.string()) for name in items]
    return np.array(pc.binary_join_element_wise(*texts, "\x1f").to_pylist(), dtype=object)


def main() -> int:
    """Prints a line a share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("first")
    parser.add_argument("second")
    args = parser.parse_args()
    try:
        found = mixtures(pq.read_table(args.predictions), args.first, args.second)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"share of {args.second}   WQL   less {args.first}, 95 %")
    for mixed in found:
        less = mixed.less
        interval = "" if less is None or less.low is None else f"{less.value:+.4f} ({less.low:+.4f} to {less.high:+.4f})"
        print(f"{mixed.share:>{len(args.second) + 9}.0%} {mixed.wql:7.4f}  {interval}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
