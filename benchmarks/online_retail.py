"""Online Retail: daily sales of a UK gift shop, 46 % of item-days zero.

Items with 100 sale days before 2011-08-19, product codes only, price above 0, up to 2011-12-08; 8 rounds, horizon 14, step 13 (14 would start
every round on a Saturday, when the shop never sells). `make online-retail`.
"""

from __future__ import annotations

import sys
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.shops import Protocol, Verdict, data_file, main
from stream.backtest.run import Backtest, compare
from stream.backtest.shape import Layout

SALE_DAYS, BEFORE, LAST = 100, "2011-08-19", "2011-12-08"
LAYOUT = Layout(item=("item",), time="day", target="units", frequency="D", fill="zero", seasons=(7,), zone="Europe/London")
PROTOCOL = Protocol("Online Retail", LAYOUT, horizon=14, rounds=8, step=13, gap=0, until=LAST, totals=(7, 14))
MODELS = (
    "nowcart,empirical_quantiles_84,empirical_quantiles_56,seasonal_naive,mean,zeros,croston_sba,tsb,"
    "auto_theta@100,auto_ets@100,mstl@100,auto_arima@50,lightgbm"
)
PUBLISHED = (
    ("LightGBM reached before, a quantile objective a level: WQL", ".491"),
    ("empirical quantiles of the last 84 open days: WQL", ".494"),
    ("all zeros: WAPE", "1.000"),
    ("worth of knowing the closed days", "6.5 % of WQL"),
)


def asked(result: Backtest, scores: dict[str, Any]) -> list[Verdict]:
    """WQL 2 % below the best of the others, surely below each.

    Args:
        result: of the backtest.
        scores: its summary.
    """
    mine = scores["models"]["nowcart"]["wql"]
    verdicts = []
    for outcome in result.outcomes:
        gap = compare(result, result.outcomes[0], outcome)
        if outcome.name == "nowcart" or gap is None or gap.high is None:
            continue
        theirs = scores["models"][outcome.name]["wql"]
        # A method on a sample of the items is compared on those alone.
        below = gap.value / theirs if scores["models"][outcome.name]["n"] < scores["models"]["nowcart"]["n"] else mine / theirs - 1
        text = f"{below:+.1%}, difference {gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"
        verdicts.append(Verdict(f"WQL 2 % below {outcome.name}'s, surely below it", text, below <= -0.02 and gap.high < 0))
    return verdicts


def prepare() -> pa.Table:
    """Units sold an item and day: returns and cancellations are not subtracted. Items by the protocol."""
    lines = pq.read_table(data_file("online_retail.parquet"), columns=["StockCode", "InvoiceDate", "Quantity", "UnitPrice"])
    code = pc.utf8_upper(pc.utf8_trim_whitespace(lines["StockCode"].cast(pa.string())))
    kept = pc.match_substring_regex(code, "^[0-9]{5}[A-Z]*$")
    kept = pc.and_(kept, pc.and_(pc.greater(lines["UnitPrice"], 0), pc.greater(lines["Quantity"], 0)))
    day = lines["InvoiceDate"].cast(pa.timestamp("s"), safe=False).cast(pa.date32(), safe=False)
    table = pa.table({"item": code, "day": day, "units": lines["Quantity"].cast(pa.float64())}).filter(kept)
    table = table.filter(pc.less_equal(table["day"], pa.scalar(LAST).cast(pa.date32())))
    days = table.group_by(["item", "day"]).aggregate([("units", "sum")]).rename_columns(["item", "day", "units"])
    early = days.filter(pc.less(days["day"], pa.scalar(BEFORE).cast(pa.date32()))).group_by("item").aggregate([("day", "count")])
    items = early.filter(pc.greater_equal(early["day_count"], SALE_DAYS))["item"]
    return days.filter(pc.is_in(days["item"], value_set=items.combine_chunks())).sort_by([("item", "ascending"), ("day", "ascending")])


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", PROTOCOL, prepare, MODELS, PUBLISHED, asked))
