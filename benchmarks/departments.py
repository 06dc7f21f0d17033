"""Weekly sales of departments in money, simulated: two years of history, 39 weeks ahead, holidays known; the engine beside LightGBM and last year.

What real shops' files here do not have: fractional demand that varies by a few percent, a horizon of months, and a network
that sees its first second year when it is refitted. `python -m benchmarks.departments --models nowcart` leaves the others out.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import sys
import tempfile
from pathlib import Path

import numpy as np

from stream.cli.main import main as nowcart

_STORES, _DEPARTMENTS, _WEEKS, _HORIZON = 15, 8, 143, 39
_FIRST = dt.date(2010, 2, 5)


def write(path: Path, seed: int) -> None:
    """A row a store, department and week: level, a wave over the year, Thanksgiving and Christmas, and 5 % of chance.

    Args:
        path: of a CSV file.
        seed: of everything that is drawn.
    """
    random = np.random.default_rng(seed)
    weeks = [_FIRST + dt.timedelta(weeks=week) for week in range(_WEEKS)]
    day = np.array([week.timetuple().tm_yday for week in weeks])
    month, of_month = np.array([week.month for week in weeks]), np.array([week.day for week in weeks])
    thanksgiving = (month == 11) & (of_month >= 22) & (of_month <= 28)
    christmas = (month == 12) & (of_month >= 18) & (of_month <= 26)
    lesser = ((month == 2) & (of_month >= 8) & (of_month <= 14)) | ((month == 9) & (of_month >= 5) & (of_month <= 12))
    holiday = thanksgiving | lesser | ((month == 12) & (of_month >= 27))
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(("week", "store", "department", "sales", "holiday"))
        for store in range(_STORES):
            for department in range(_DEPARTMENTS):
                level, wave, begins = random.normal(9, 1), random.uniform(0.02, 0.15), random.uniform(0, 2 * np.pi)
                log = level + wave * np.sin(2 * np.pi * day / 365.25 + begins) + 0.1 * lesser
                log = log + random.uniform(0, 0.5) * thanksgiving + random.uniform(0, 1) * christmas
                drift = 0.0
                for week in range(_WEEKS):
                    drift = 0.5 * drift + random.normal(0, 0.04)
                    sales = np.exp(log[week] + drift + random.normal(0, 0.03))
                    out.writerow((weeks[week].isoformat(), store, department, f"{sales:.2f}", int(holiday[week])))


def main() -> int:
    """Writes the file and runs `nowcart backtest` on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="nowcart,lightgbm,seasonal_naive", metavar="A,B", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=7, metavar="N", help="default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="the scores")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "departments.csv"
        write(path, args.seed)
        columns = ["--item", "store,department", "--time", "week", "--target", "sales", "--known", "holiday"]
        rounds = ["--freq", "1w", "--horizon", str(_HORIZON), "--rounds", "1", "--models", args.models]
        return nowcart(["backtest", str(path), *columns, *rounds, *(["--json", args.json] if args.json else [])])


if __name__ == "__main__":
    sys.exit(main())
