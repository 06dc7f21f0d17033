"""Makes the dashboards beside this file: `python deploy/grafana/dashboards.py` writes dashboards/*.json, which are committed.

A dashboard is a list of rows, a row a list of panels, a panel what it shows and in which unit; how it looks is decided once. Grafana's own
library turns it into the JSON that Grafana reads. Tests hold the files to this code, and every metric in them to those that nowcart has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)

FOLDER = Path(__file__).resolve().parent / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="nowcart-prometheus")
WIDTH = 24

Query = tuple[str, str]
"""An expression, and how its lines are called."""


@dataclass(frozen=True)
class Chart:
    """Lines over time."""

    title: str
    queries: Sequence[Query]
    unit: str = "short"
    about: str = ""
    most: float | None = None
    """The top of the axis, where there is one."""
    limit: float | None = None
    """From which on it is drawn red."""


@dataclass(frozen=True)
class Number:
    """One figure, as of now."""

    title: str
    query: str
    unit: str = "short"
    about: str = ""
    limits: Sequence[float] = ()
    """From which on it is orange, and red; descending ones: below which."""


@dataclass(frozen=True)
class Row:
    """Panels side by side."""

    title: str
    panels: Sequence[Chart | Number]


@dataclass(frozen=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    about: str
    rows: Sequence[Row]
    instances: bool = True
    """Whether it can be narrowed to some processes."""


ONE = '{instance=~"$instance"}'
OURS = '{instance=~"$instance", job="nowcart"}'
"""For metrics that other processes have, too."""
RESTORED = "nowcart_restore_seconds"


OVERVIEW = Board(
    "nowcart-overview",
    "nowcart / Overview",
    "Is it well, is it quick, and is it right.",
    [
        Row(
            "Now",
            [
                Number("Processes that cannot be scraped", 'count(up{job="nowcart"} == 0) or vector(0)', limits=(1, 1)),
                Number("Events a second", "sum(source:nowcart_events:rate5m)", "eps"),
                Number("Messages that wait", "sum(topic:nowcart_consumer_lag_events:sum)", limits=(10_000, 100_000)),
                Number("Sessions live", "sum(nowcart_sessions_live)"),
                Number("Items with state", "sum(nowcart_items_live)"),
                Number("Alerts open", "sum(nowcart_alerts_open)", limits=(1, 10)),
            ],
        ),
        Row(
            "In and out",
            [
                Chart("Events, by source", [("source:nowcart_events:rate5m", "{{source}}")], "eps"),
                Chart("Records published, by topic", [("topic:nowcart_records_published:rate5m", "{{topic}}")], "cps"),
                Chart(
                    "Dead letters, share of all",
                    [("source:nowcart_dead_letters:ratio_rate5m", "{{source}}")],
                    "percentunit",
                    "A step in it is a change in somebody's messages; `nowcart check` shows what.",
                    limit=0.01,
                ),
            ],
        ),
        Row(
            "Quick",
            [
                Chart(
                    "From an event's stamp to what rests on it",
                    [
                        ("topic:nowcart_event_to_prediction_seconds:p50_5m", "median {{topic}}"),
                        ("topic:nowcart_event_to_prediction_seconds:p99_5m", "99 % {{topic}}"),
                    ],
                    "s",
                ),
                Chart("Messages that wait, by topic", [("topic:nowcart_consumer_lag_events:sum", "{{topic}}")]),
                Chart(
                    "Event time behind the clock",
                    [
                        ("max by (stage) (nowcart_watermark_lag_seconds)", "{{stage}}, the furthest"),
                        ("min by (stage) (nowcart_watermark_lag_seconds)", "{{stage}}, the nearest"),
                    ],
                    "s",
                    "The furthest partition holds back every bucket.",
                ),
            ],
        ),
        Row(
            "Right",
            [
                Chart(
                    "Coverage: how far a quantile is off",
                    [("bucket_level:nowcart_forecast_coverage:error", "{{bucket}}, {{level}}")],
                    "percentunit",
                    "The share of outcomes at or below a quantile, less its level.",
                    limit=0.1,
                ),
                Chart(
                    "Error over demand (WAPE), by expert",
                    [("avg by (bucket, expert) (nowcart_forecast_wape_ratio)", "{{bucket}}, {{expert}}")],
                    "percentunit",
                ),
                Chart(
                    "Intent: gap between predicted and seen rates", [("avg(nowcart_intent_calibration_error_ratio)", "gap")], "percentunit"
                ),
            ],
        ),
    ],
    instances=False,
)

ENGINE = Board(
    "nowcart-engine",
    "nowcart / Engine",
    "What the loops do with their time, and what Kafka says to it.",
    [
        Row(
            "The loop",
            [
                Chart(
                    "Time by step",
                    [(f"sum by (stage, step) (rate(nowcart_step_seconds_sum{ONE}[$__rate_interval]))", "{{stage}} {{step}}")],
                    "percentunit",
                    "Seconds a second: 1 is a whole core.",
                ),
                Chart(
                    "Events an iteration",
                    [
                        (f"histogram_quantile(0.5, sum by (le) (rate(nowcart_batch_events_bucket{ONE}[$__rate_interval])))", "median"),
                        (f"histogram_quantile(0.99, sum by (le) (rate(nowcart_batch_events_bucket{ONE}[$__rate_interval])))", "99 %"),
                    ],
                ),
                Chart(
                    "Events, by what happened",
                    [(f"sum by (source, event) (rate(nowcart_events_total{ONE}[$__rate_interval]))", "{{source}} {{event}}")],
                    "eps",
                ),
            ],
        ),
        Row(
            "Transactions",
            [
                Chart(
                    "By outcome",
                    [(f"sum by (stage, outcome) (rate(nowcart_commits_total{ONE}[$__rate_interval]))", "{{stage}} {{outcome}}")],
                    "cps",
                ),
                Chart("Share that did not commit", [("stage:nowcart_commits_failed:ratio_rate10m", "{{stage}}")], "percentunit", limit=0.1),
                Chart(
                    "Time of a transaction",
                    [
                        (f"histogram_quantile(0.5, sum by (le) (rate(nowcart_commit_seconds_bucket{ONE}[$__rate_interval])))", "median"),
                        (f"histogram_quantile(0.99, sum by (le) (rate(nowcart_commit_seconds_bucket{ONE}[$__rate_interval])))", "99 %"),
                    ],
                    "s",
                ),
            ],
        ),
        Row(
            "Partitions",
            [
                Chart("Messages that wait", [(f"nowcart_consumer_lag_events{ONE}", "{{topic}}[{{partition}}]")]),
                Chart("Event time behind the clock", [(f"nowcart_watermark_lag_seconds{ONE}", "{{stage}} {{partition}}")], "s"),
                Chart("Rebalances", [(f"sum by (instance) (increase(nowcart_rebalances_total{ONE}[$__rate_interval]))", "{{instance}}")]),
                Chart(
                    "A broker answers",
                    [(f"min by (stage, instance) (nowcart_broker_reachable{ONE})", "{{stage}} {{instance}}")],
                    "bool",
                    most=1,
                ),
            ],
        ),
        Row(
            "What was refused",
            [
                Chart("Dead letters, by reason", [("source_reason:nowcart_dead_letters:rate5m", "{{source}} {{reason}}")], "cps"),
                Chart(
                    "Late rows",
                    [(f"sum by (source, outcome) (rate(nowcart_late_events_total{ONE}[$__rate_interval]))", "{{source}} {{outcome}}")],
                    "cps",
                ),
                Chart("State given up", [(f"sum by (kind) (rate(nowcart_evictions_total{ONE}[$__rate_interval]))", "{{kind}}")], "cps"),
            ],
        ),
    ],
)

STATE = Board(
    "nowcart-state",
    "nowcart / State and machines",
    "Snapshots, restores, memory, the models and the device.",
    [
        Row(
            "Snapshots",
            [
                Chart(
                    "Age of the newest",
                    [(f"max by (stage, topic, partition) (nowcart_snapshot_age_seconds{ONE})", "{{stage}} {{topic}}[{{partition}}]")],
                    "s",
                    "A restart reads this much of the log.",
                    limit=900,
                ),
                Chart(
                    "Time to write one",
                    [(f"histogram_quantile(0.99, sum by (le) (rate(nowcart_snapshot_seconds_bucket{ONE}[$__rate_interval])))", "99 %")],
                    "s",
                ),
                Chart(
                    "Time to rebuild a partition's state",
                    [
                        (
                            f"sum by (instance) (increase({RESTORED}_sum{ONE}[1h])) / sum by (instance) (increase({RESTORED}_count{ONE}[1h]))",
                            "{{instance}}",
                        )
                    ],
                    "s",
                ),
            ],
        ),
        Row(
            "Processes",
            [
                Chart("Memory", [(f"process_resident_memory_bytes{OURS}", "{{component}} {{instance}}")], "bytes"),
                Chart(
                    "Processor",
                    [(f"rate(process_cpu_seconds_total{OURS}[$__rate_interval])", "{{component}} {{instance}}")],
                    "percentunit",
                ),
                Chart("Sessions live", [(f"sum by (instance) (nowcart_sessions_live{ONE})", "{{instance}}")]),
                Chart("Items with state", [(f"sum by (instance) (nowcart_items_live{ONE})", "{{instance}}")]),
            ],
        ),
        Row(
            "Models",
            [
                Chart(
                    "Rows scored or learnt",
                    [(f"sum by (model) (rate(nowcart_model_rows_total{ONE}[$__rate_interval]))", "{{model}}")],
                    "rowsps",
                ),
                Chart(
                    "Time that they take",
                    [(f"sum by (model) (rate(nowcart_model_seconds_total{ONE}[$__rate_interval]))", "{{model}}")],
                    "percentunit",
                ),
                Chart("In use", [(f"nowcart_model_info{ONE}", "{{model}} {{version}} on {{device}}")], most=1),
                Chart("Memory of the device", [(f"nowcart_device_memory_bytes{ONE}", "{{instance}}")], "bytes"),
            ],
        ),
    ],
)

QUALITY = Board(
    "nowcart-forecasts",
    "nowcart / Forecasts and alerts",
    "How good the forecasts are, what spikes, and whether people are told.",
    [
        Row(
            "Forecasts",
            [
                Chart(
                    "Outcomes at or below a quantile",
                    [("avg by (bucket, level) (nowcart_forecast_coverage_ratio)", "{{bucket}}, {{level}}")],
                    "percentunit",
                    "Should be the level.",
                    most=1,
                ),
                Chart(
                    "How far that is off",
                    [("bucket_level:nowcart_forecast_coverage:error", "{{bucket}}, {{level}}")],
                    "percentunit",
                    limit=0.1,
                ),
                Chart(
                    "Error over demand (WAPE)",
                    [("avg by (bucket, expert) (nowcart_forecast_wape_ratio)", "{{bucket}}, {{expert}}")],
                    "percentunit",
                    "The council against each of its experts.",
                ),
                Chart(
                    "Intent: gap between predicted and seen rates", [("avg(nowcart_intent_calibration_error_ratio)", "gap")], "percentunit"
                ),
            ],
        ),
        Row(
            "Spikes and alerts",
            [
                Chart("Spikes that opened", [("sum by (severity) (increase(nowcart_spikes_total[$__rate_interval]))", "{{severity}}")]),
                Chart("Alerts open", [("sum(nowcart_alerts_open)", "open")]),
                Chart(
                    "Alerts, by what became of them", [("sum by (state) (increase(nowcart_alerts_total[$__rate_interval]))", "{{state}}")]
                ),
            ],
        ),
        Row(
            "Delivery",
            [
                Chart(
                    "Attempts, by outcome",
                    [("sum by (receiver, outcome) (rate(nowcart_alert_deliveries_total[$__rate_interval]))", "{{receiver}} {{outcome}}")],
                    "cps",
                ),
                Chart("Requests that wait", [("sum by (receiver) (nowcart_alert_deliveries_pending)", "{{receiver}}")], limit=1),
            ],
        ),
    ],
    instances=False,
)

BOARDS = {"overview": OVERVIEW, "engine": ENGINE, "state": STATE, "forecasts": QUALITY}
"""By the name of their file."""


def build(board: Board) -> str:
    """A dashboard's JSON, as Grafana reads it."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags(["nowcart"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .link(dashboard.DashboardLink("nowcart").type(DashboardLinkType.DASHBOARDS).tags(["nowcart"]).as_dropdown(True).keep_time(True))
    )
    if board.instances:
        made = made.with_variable(
            dashboard.QueryVariable("instance")
            .label("process")
            .datasource(SOURCE)
            .query('label_values(up{job="nowcart"}, instance)')
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    for row in board.rows:
        made = made.with_row(dashboard.Row(row.title))
        span = WIDTH // len(row.panels)
        for panel in row.panels:
            made = made.with_panel(_number(panel, span) if isinstance(panel, Number) else _chart(panel, span))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _queries(queries: Sequence[Query]) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + number)).datasource(SOURCE)
        for number, (expression, legend) in enumerate(queries)
    ]


def _chart(panel: Chart, span: int) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.about)
        .datasource(SOURCE)
        .unit(panel.unit)
        .min(0)
        .line_width(1)
        .fill_opacity(8)
        .span(span)
        .height(8)
        .legend(common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if panel.unit == "s" and "behind the clock" in panel.title:
        made = made.min(None)  # type: ignore[arg-type]  # a shop whose clock is ahead
    if panel.most is not None:
        made = made.max(panel.most)
    if panel.limit is not None:
        steps = [Threshold(value=None, color="green"), Threshold(value=panel.limit, color="red")]
        made = made.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        )
    for query in _queries(panel.queries):
        made = made.with_target(query)
    return made


def _number(panel: Number, span: int) -> stat.Panel:
    colors = ("orange", "red")
    steps = [
        Threshold(value=None, color="green"),
        *(Threshold(value=value, color=color) for value, color in zip(panel.limits, colors, strict=False)),
    ]
    made = (
        stat.Panel()
        .title(panel.title)
        .description(panel.about)
        .datasource(SOURCE)
        .unit(panel.unit)
        .span(span)
        .height(4)
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    )
    for query in _queries([(panel.query, "")]):
        made = made.with_target(query)
    return made


def main() -> None:
    """Writes them."""
    FOLDER.mkdir(exist_ok=True)
    for name, board in BOARDS.items():
        (FOLDER / f"{name}.json").write_text(build(board), encoding="utf-8")


if __name__ == "__main__":
    main()
