"""Orange juice: Dominick's weekly sales of 11 brands in 83 stores, by the protocol of microsoft/forecasting (examples/grocery_sales).

Weeks 40 to 156, 10 rounds, horizon 2, training ends two weeks before the test begins, MAPE on units. `make orange-juice`.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.shops import Protocol, Verdict, data_file, main
from stream.backtest.data import Floats, View
from stream.backtest.method import Task
from stream.backtest.residuals import WithResiduals
from stream.backtest.run import Backtest
from stream.backtest.shape import Layout
from stream.backtest.simple import known_mean

BRANDS = 11
LAYOUT = Layout(
    item=("store", "brand"),
    time="week",
    target="units",
    frequency="W",
    known=("price", "price_ratio", "price_rival", "deal", "feat"),
    seasons=(52,),
)
PROTOCOL = Protocol("orange juice", LAYOUT, horizon=2, rounds=10, step=2, gap=1, until="156", totals=(2,))
MODELS = "nowcart,seasonal_naive,naive,mean,empirical_quantiles,auto_ets,auto_theta,auto_arima@100,lightgbm,lightgbm_mape"
PUBLISHED = (
    ("mean of the log (microsoft/forecasting): MAPE", "69.77 %"),
    ("naive, rows whose series has the last training week: MAPE", "109.89 %; 110.20 % over all rows, the last known week carried on"),
    ("ARIMA: MAPE", "68.71 %"),
    ("ETS: MAPE", "74.23 %"),
    ("ARIMA with price: MAPE", "48.88 %"),
    ("dilated CNN: MAPE", "37.66 %, forecasts 25 to 37 % too low"),
    ("LightGBM: MAPE", "35.97 %, forecasts 25 to 37 % too low"),
    ("LightGBM reached before, MAPE as objective: MAPE", "34.2 %, bias -24 %"),
    ("LightGBM reached before, median: MAPE, WAPE", "39.1 %, 40.9 %"),
    ("blend of four medians reached before: MAPE, WAPE", "38.6 %, 40.3 %"),
    ("standard error of a MAPE, clustered by week", "2.5 points"),
)


class MeanOfLogs:
    """The published mean baseline: the mean of the log of units, which is what its table holds."""

    name = "mean_of_logs"

    def points(self, view: View, end: int, task: Task) -> Floats:
        """As the protocol of peers says."""
        with np.errstate(divide="ignore"):
            logs = np.where(view.y[:, :end] > 0, np.log(view.y[:, :end]), np.nan)
        return np.repeat(np.exp(known_mean(logs))[:, None], task.horizon, axis=1)


def asked(result: Backtest, scores: dict[str, Any]) -> list[Verdict]:
    """A low forecast that is sold as a median would meet the first and ruin the second.

    Args:
        result: of the backtest.
        scores: its summary.
    """
    mine = scores["models"]["nowcart"]
    return [
        Verdict("MAPE of point_mape at most 34.5 %", f"{mine['mape']:.2%}", mine["mape"] <= 0.345),
        Verdict("WAPE of the median at most 40.5 %", f"{mine['wape']:.2%}", mine["wape"] <= 0.405),
    ]


def prepare() -> pa.Table:
    """Units, and the brand's own price: itself, relative to the shelf's mean, and the cheapest rival's."""
    table = pq.read_table(data_file("orange_juice.parquet"))
    brand = table["brand"].to_numpy()
    prices = np.column_stack([table[f"price{number}"].to_numpy() for number in range(1, BRANDS + 1)])  # [rows, brands]
    rows = np.arange(len(prices))
    own = prices[rows, brand - 1]
    rivals = prices.copy()
    rivals[rows, brand - 1] = np.inf
    columns = {name: table[name] for name in ("store", "brand", "week", "deal", "feat")}
    columns |= {"units": np.rint(np.exp(table["logmove"].to_numpy())), "price": own}
    columns |= {"price_ratio": own / prices.mean(axis=1), "price_rival": rivals.min(axis=1) / own}
    return pa.table(columns)


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", PROTOCOL, prepare, MODELS, PUBLISHED, asked, (lambda: WithResiduals(MeanOfLogs()),)))
