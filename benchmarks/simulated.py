"""Three kinds of shops of which there is no real file here, simulated; the engine beside LightGBM and what a planner has.

- departments: weekly sales of departments in money, two years of history, 39 weeks ahead, holidays known. Fractional demand that
  varies by a few percent, and a network that sees its first second year when it is refitted.
- articles: daily pieces of articles in sizes, nine days of ten without a sale, the price of each day known; launches, seasons, markdowns.
- groceries: daily counts of products in baskets, half of them less than one a week; the shop's traffic is all that they have in common.

`python -m benchmarks.simulated articles --models nowcart` leaves the others out; `--keep FILE` keeps the file.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.signal import lfilter

from stream.cli.main import main as nowcart

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Rows = Iterator[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of shop: its rows, and how its file is read."""

    rows: Callable[[np.random.Generator, float], Rows]
    """Of a generator and a share of the items; the first row names the columns."""
    arguments: str
    models: str


def _calendar(first: dt.date, count: int, step: int = 1) -> tuple[list[dt.date], NDArray[np.int64], NDArray[np.int64]]:
    """Dates so many days apart, their days of the year and of the week."""
    dates = [first + dt.timedelta(days=step * i) for i in range(count)]
    return dates, np.array([date.timetuple().tm_yday for date in dates]), np.array([date.weekday() for date in dates])


def _drift(noise: NDArray[np.float64], keep: float) -> NDArray[np.float64]:
    """AR(1) of this noise."""
    return np.asarray(lfilter([1.0], [1.0, -keep], noise), dtype=np.float64)


def departments(random: np.random.Generator, share: float) -> Rows:
    """A row a store, department and week: level, a wave over the year, Thanksgiving and Christmas, and 5 % of chance.

    Args:
        random: draws everything.
        share: of 15 stores.
    """
    weeks, day, _ = _calendar(dt.date(2010, 2, 5), 143, 7)
    month, of_month = np.array([week.month for week in weeks]), np.array([week.day for week in weeks])
    thanksgiving = (month == 11) & (of_month >= 22) & (of_month <= 28)
    christmas = (month == 12) & (of_month >= 18) & (of_month <= 26)
    lesser = ((month == 2) & (of_month >= 8) & (of_month <= 14)) | ((month == 9) & (of_month >= 5) & (of_month <= 12))
    holiday = thanksgiving | lesser | ((month == 12) & (of_month >= 27))
    yield "week", "store", "department", "sales", "holiday"
    for store in range(max(1, round(15 * share))):
        for department in range(8):
            level, wave, begins = random.normal(9, 1), random.uniform(0.02, 0.15), random.uniform(0, 2 * np.pi)
            log = level + wave * np.sin(2 * np.pi * day / 365.25 + begins) + 0.1 * lesser
            log = log + random.uniform(0, 0.5) * thanksgiving + random.uniform(0, 1) * christmas
            slow, chance = random.normal(0, (0.04, 0.03), (len(weeks), 2)).T
            sales = np.exp(log + (_drift(slow, 0.5) + chance))
            for at, week in enumerate(weeks):
                yield week.isoformat(), store, department, f"{sales[at]:.2f}", int(holiday[at])


def articles(random: np.random.Generator, share: float) -> Rows:
    """A row an article, size and day since its launch: a season, weekends, a December, markdowns to which demand answers, few sales.

    Args:
        random: draws everything.
        share: of 260 articles, most in five sizes.
    """
    days, day, weekday = _calendar(dt.date(2018, 3, 1), 640)
    december = np.where((day >= 325) & (day < 358), 0.7, 0.0)
    shop = 0.25 * (weekday == 5) + 0.1 * (weekday == 4) - 0.2 * (weekday == 6) + december + _drift(random.normal(0, 0.06, len(days)), 0.9)
    yield "day", "article", "size", "category", "units", "price"
    for article in range(max(1, round(260 * share))):
        category = int(random.integers(8))
        usual = float(np.round(np.exp(random.normal(3.3, 0.5)), 2))
        begins = 0 if random.random() < 0.35 else int(random.integers(0, 560))
        ends = min(len(days), begins + int(random.integers(200, 640)))
        season = 0.6 * np.sin(2 * np.pi * day / 365.25 + category * np.pi / 4)
        off = np.zeros(len(days))
        for _ in range(int(random.integers(1, 6))):
            at, long = int(random.integers(begins, ends)), int(random.choice([4, 7, 14]))
            off[at : at + long] = random.choice([0.2, 0.3, 0.5])
        off[max(begins, ends - 35) :] = np.maximum(off[max(begins, ends - 35) :], 0.4)
        price = np.round(usual * (1 - off), 2)
        fresh = 0.5 * np.exp(-np.arange(len(days) - begins) / 30)
        base = random.normal(-1.4, 0.9) - 2.2 * np.log(price / usual) + season + shop
        base[begins:] += fresh
        base += _drift(random.normal(0, 0.08, len(days)), 0.95)
        for size, part in zip(("XS", "S", "M", "L", "XL"), random.dirichlet((1.0, 3.0, 4.0, 3.0, 1.2)), strict=True):
            mean = np.exp(base) * part
            units = random.poisson(mean * random.gamma(2.5, 1 / 2.5, len(days)))
            for at in range(begins, ends):
                yield days[at].isoformat(), article, size, category, int(units[at]), price[at]


def groceries(random: np.random.Generator, share: float) -> Rows:
    """A row a product and day with a sale: traffic of the shop, weekends, and a product's own slow ups and downs.

    Args:
        random: draws everything.
        share: of 170 products.
    """
    days, day, weekday = _calendar(dt.date(2014, 1, 1), 730)
    shop = (
        0.2 * (weekday == 3) + 0.15 * (weekday >= 5) + 0.1 * (np.arange(len(days)) > 365) + _drift(random.normal(0, 0.08, len(days)), 0.7)
    )
    yield "day", "product", "baskets"
    for product in range(max(2, round(170 * share))):
        mean = np.exp(np.log(7.0) - 1.15 * np.log1p(product / 4) + shop + _drift(random.normal(0, 0.04, len(days)), 0.98))
        mean *= np.exp(0.3 * random.normal() * np.sin(2 * np.pi * day / 365.25))
        for at, count in enumerate(random.poisson(mean)):
            if count:
                yield days[at].isoformat(), product, int(count)


KINDS = {
    "departments": Kind(
        departments,
        "--item store,department --time week --target sales --known holiday --freq W --horizon 39 --rounds 1",
        "nowcart,lightgbm,seasonal_naive",
    ),
    "articles": Kind(
        articles,
        "--item article,size --time day --target units --known price --static article,category --fill zero --freq D"
        " --horizon 28 --rounds 3 --step 28",
        "nowcart,lightgbm,empirical_quantiles_56",
    ),
    "groceries": Kind(
        groceries,
        "--item product --time day --target baskets --fill zero --freq D --horizon 14 --rounds 4",
        "nowcart,lightgbm,empirical_quantiles_56,auto_ets",
    ),
}


def main() -> int:
    """Writes the file and runs `nowcart backtest` on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--models", metavar="A,B", help="default: nowcart and two or three others")
    parser.add_argument("--share", type=float, default=1.0, metavar="S", help="of the items, or that many times as many (default: 1)")
    parser.add_argument("--seed", type=int, default=7, metavar="N", help="default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="the scores")
    parser.add_argument("--keep", metavar="FILE", type=Path, help="the simulated file, as CSV")
    args = parser.parse_args()
    kind = KINDS[args.kind]
    with tempfile.TemporaryDirectory() as folder:
        path = args.keep or Path(folder) / f"{args.kind}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(kind.rows(np.random.default_rng(args.seed), args.share))
        out = ["--json", args.json] if args.json else []
        return nowcart(["backtest", str(path), *kind.arguments.split(), "--models", args.models or kind.models, *out])


if __name__ == "__main__":
    sys.exit(main())
