"""What users say: a TOML file becomes one frozen, typed `Config`, or one clear message.

Two kinds of settings live here. Those that shape state (how time is cut, what the sources mean, which windows and models
there are) are covered by `Config.checksum`, which is stored beside state; the others may change freely between runs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from stream.alerting import Alerts, read_alerts
from stream.calendar import holiday_days
from stream.engine.time import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, SIZES, Zone
from stream.serving import ApiKey, Jwt, Serve, read_serve
from stream.sources import EVENTS, FIELDS, REQUIRED, TOPIC, TOPIC_FORM, Source, read_source
from stream.tables import ConfigError, Table, UserError, join, nearest, read_toml, shown

__all__ = [
    "EVENTS",
    "FIELDS",
    "REQUIRED",
    "TOPICS",
    "Activity",
    "Alerts",
    "ApiKey",
    "Bucket",
    "Config",
    "ConfigError",
    "Demand",
    "Device",
    "Intent",
    "Jwt",
    "Metrics",
    "Models",
    "Output",
    "Serve",
    "Source",
    "Spikes",
    "State",
    "Time",
    "UserError",
    "load",
    "parse",
]

TOPICS = ("activity", "outcomes", "models", "intent", "demand", "prices", "spikes", "alerts", "alerts.state", "deadletter")
"""Names of nowcart's own topics, without the prefix."""

# The engine reads exactly once, and its transactions and groups are its own to name.
_OWN_PROPERTIES = (
    "auto.offset.reset",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "group.id",
    "group.instance.id",
    "isolation.level",
    "transactional.id",
)


class Time(msgspec.Struct, frozen=True):
    """How event time is read and bounded."""

    zone: str = "UTC"
    out_of_orderness_ms: int = 30 * SECOND_MS
    allowed_lateness_ms: int = 2 * HOUR_MS
    max_lead_ms: int = 2 * HOUR_MS
    max_future_ms: int = 5 * MINUTE_MS
    idle_after_ms: int = 30 * SECOND_MS
    """A decision of the wall clock that is written into the log: shapes no state."""


class Bucket(msgspec.Struct, frozen=True):
    """One size of buckets in which demand is counted and forecast."""

    size: str
    size_ms: int
    """Nominal: a local day may have 23 or 25 hours."""
    horizon: int
    """Buckets ahead."""
    seasons: tuple[int, ...] = ()
    """Season lengths in buckets, ascending."""
    history: int = 0
    """Closed buckets that are kept; 0 stands for max(2 longest seasons, 2 horizons, 28)."""

    def __post_init__(self) -> None:
        if self.history == 0:
            msgspec.structs.force_setattr(self, "history", max(2 * max(self.seasons, default=0), 2 * self.horizon, 28))


class Demand(msgspec.Struct, frozen=True):
    """What demand is, and how it is forecast."""

    source: str = "orders"
    """The kind of source whose purchases are demand: orders | clickstream."""
    totals: tuple[int, ...] = (7, 14)
    """Lead times in buckets for quantiles of sums; each applies to the bucket sizes whose horizon reaches it."""
    quantiles: tuple[float, ...] = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
    buckets: tuple[Bucket, ...] = (Bucket("1h", HOUR_MS, 24, (24, 168)), Bucket("1d", DAY_MS, 14, (7,)))
    """Ascending by size."""
    forget_after_ms: int = 28 * DAY_MS
    """An item without activity for so long is evicted."""
    max_items: int = 5_000_000
    holidays: str = ""
    """Country (or country-part) whose public holidays forecasts know ahead; "" for none."""


class Intent(msgspec.Struct, frozen=True):
    """How sessions are cut, and when their intent is published."""

    session_gap_ms: int = 30 * MINUTE_MS
    publish: str = "on_change"
    """every_event | on_change."""
    publish_delta: float = 0.01
    thresholds: tuple[float, ...] = (0.5,)
    """Probabilities whose crossing is published whatever the delta."""
    max_sessions: int = 1_000_000
    label: str = "clickstream"
    """Where a session's purchases are told: clickstream | orders."""
    label_delay_ms: int = 0
    """How long after a session's end an order of it may still arrive."""
    next_items: int = 0
    """How many items that are likely to come next each record names."""


class Models(msgspec.Struct, frozen=True):
    """What the models may cost."""

    river_items: int = 1_000
    """Busiest items of a partition that have an incremental model of their own."""


class Spikes(msgspec.Struct, frozen=True):
    """When demand is worth a pager."""

    false_alerts: float = 1.0
    """Alerts that were none, in 1,000 item-days."""


class Activity(msgspec.Struct, frozen=True):
    """The internal topic between the stages."""

    partitions: int = 4


class Output(msgspec.Struct, frozen=True):
    """nowcart's own topics."""

    prefix: str = "nowcart."
    partitions: int = 4

    def topic(self, name: str) -> str:
        """The full name of one of TOPICS."""
        return self.prefix + name


class State(msgspec.Struct, frozen=True):
    """Where and how often state is kept; shapes none."""

    url: str = "file:.nowcart/state"
    """A folder or an fsspec URL."""
    snapshot_interval_ms: int = MINUTE_MS
    keep: int = 3
    """Snapshots of each partition that stay."""


class Metrics(msgspec.Struct, frozen=True):
    """Where /metrics, /healthz and /readyz are served."""

    host: str = "127.0.0.1"
    port: int = 9464
    """0: off."""


class Device(msgspec.Struct, frozen=True):
    """Where the networks run."""

    name: str = "auto"
    """auto | cpu | cuda | cuda:N."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration."""

    kafka: dict[str, str | int | float | bool] = {}
    """librdkafka properties by their own names ("bootstrap.servers")."""
    time: Time = Time()
    sources: dict[str, Source] = {}
    demand: Demand = Demand()
    intent: Intent = Intent()
    models: Models = Models()
    spikes: Spikes = Spikes()
    activity: Activity = Activity()
    output: Output = Output()
    state: State = State()
    alerts: Alerts = Alerts()
    metrics: Metrics = Metrics()
    device: Device = Device()
    serve: Serve = Serve()

    def checksum(self) -> str:
        """The sha256, in hexadecimal, of everything that shapes state: state made under another one must not be used."""
        demand = msgspec.to_builtins(self.demand)
        if not self.demand.holidays:  # as it was before there was a choice
            del demand["holidays"]
        shaping = {
            "time": msgspec.structs.replace(self.time, idle_after_ms=0),
            "sources": self.sources,
            "demand": demand,
            "intent": self.intent,
            "models": self.models,
            "activity": self.activity,
        }
        if self.spikes != Spikes():  # as it is by default it was before there was a choice
            shaping["spikes"] = self.spikes
        return hashlib.sha256(msgspec.json.encode(shaping, order="sorted")).hexdigest()


def load(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Config:
    """Reads a configuration file.

    Args:
        path: of a TOML file.
        environ: where "${NAME}" in its strings is read from.

    Raises:
        ConfigError: it cannot be used; the message names the key.
    """
    return parse(read_toml(Path(path), environ))


def parse(values: dict[str, Any]) -> Config:
    """Makes a configuration of a TOML file's values.

    Args:
        values: as tomllib gives them.

    Raises:
        ConfigError: they cannot be used; the message names the key.
    """
    shaping = ("kafka", "time", "sources", "demand", "intent", "models", "spikes", "activity", "output", "state")
    tables = (*shaping, "alerts", "metrics", "device", "serve")
    root = Table(values, "", tables)
    models = root.table("models", ("river_items",))
    spikes = root.table("spikes", ("false_alerts",))
    activity = root.table("activity", ("partitions",))
    state = root.table("state", ("url", "snapshot_interval", "keep"))
    metrics = root.table("metrics", ("host", "port"))
    device = root.table("device", ("name",))
    intent = _intent(root)
    config = Config(
        kafka=_kafka(root),
        time=_time(root),
        sources=_sources_of(root, intent),
        demand=_demand(root),
        intent=intent,
        models=Models(models.whole("river_items", Models().river_items)),
        spikes=Spikes(spikes.number("false_alerts", Spikes().false_alerts, least=0.001, most=1000.0)),
        activity=Activity(activity.whole("partitions", Activity().partitions, least=1, most=10_000)),
        output=_output(root),
        state=State(
            state.text("url", State().url, pattern=r".+", form="a folder or an fsspec URL"),
            state.duration("snapshot_interval", State().snapshot_interval_ms, least_ms=SECOND_MS),
            state.whole("keep", State().keep, least=1, most=1_000),
        ),
        alerts=read_alerts(root),
        metrics=Metrics(metrics.text("host", Metrics().host), metrics.whole("port", Metrics().port, most=65_535)),
        device=Device(device.text("name", Device().name, pattern=r"auto|cpu|cuda(:\d+)?", form="one of auto, cpu, cuda, cuda:N")),
        serve=read_serve(root),
    )
    _check_together(config)
    return config


def _kafka(root: Table) -> dict[str, str | int | float | bool]:
    properties: dict[str, str | int | float | bool] = {"bootstrap.servers": "localhost:9092"}

    def collect(table: dict[str, Any], name: str, prefix: str) -> None:
        for key, value in table.items():
            full, dotted = join(name, key), prefix + key.replace("_", ".")
            if isinstance(value, dict):  # security.protocol without quotes is a table to TOML
                collect(value, full, dotted + ".")
            elif not isinstance(value, (str, int, float)):
                raise ConfigError(f"{full} must be text, a number, or true or false; got {shown(value)}")
            elif dotted in _OWN_PROPERTIES:
                raise ConfigError(f"{full} is nowcart's own to set, or events could be lost or counted twice: leave it out")
            else:
                properties[dotted] = value

    collect(root.table("kafka", None).values, "kafka", "")
    return properties


def _time(root: Table) -> Time:
    table = root.table("time", ("zone", "out_of_orderness", "allowed_lateness", "max_lead", "max_future", "idle_after"))
    zone = table.text("zone", Time().zone)
    try:
        Zone(zone)
    except ValueError as error:
        from zoneinfo import available_timezones

        names = {name.lower(): name for name in available_timezones()}
        near = nearest(zone, sorted(names))
        raise ConfigError(f"time.zone: {error}" + (f': did you mean "{names[near]}"?' if near else "")) from None
    return Time(
        zone=zone,
        out_of_orderness_ms=table.duration("out_of_orderness", Time().out_of_orderness_ms),
        allowed_lateness_ms=table.duration("allowed_lateness", Time().allowed_lateness_ms),
        max_lead_ms=table.duration("max_lead", Time().max_lead_ms, least_ms=SECOND_MS),
        max_future_ms=table.duration("max_future", Time().max_future_ms),
        idle_after_ms=table.duration("idle_after", Time().idle_after_ms, least_ms=1),
    )


def _sources(root: Table) -> dict[str, Source]:
    tables = root.table("sources", None)
    if not tables.values:
        raise ConfigError("sources is missing: describe at least one topic, as [sources.NAME] with kind, topic and fields")
    return {name: read_source(tables, name) for name in tables.values}


def _sources_of(root: Table, intent: Intent) -> dict[str, Source]:
    """The sources; where orders are what sessions come to, both pass through one internal topic, in which their order stands."""
    sources = _sources(root)
    if intent.label != "orders":
        return sources
    clicks = [source for source in sources.values() if source.kind == "clickstream"]
    orders = [source for source in sources.values() if source.kind == "orders"]
    if not clicks or not orders:
        kinds = ", ".join(sorted({source.kind for source in sources.values()}))
        raise ConfigError(f'intent.label = "orders" needs a source of kind clickstream and one of kind orders; the sources are {kinds}')
    key = "session" if "session" in clicks[0].fields else "user"
    for source in (*clicks, *orders):
        if key not in source.fields or (key == "user" and "session" in source.fields and source.kind == "clickstream"):
            name = join(join("sources", source.name), "fields")
            raise ConfigError(f'intent.label = "orders" needs orders that name the {key} of the clickstream: map {name}.{key}')
    return {name: msgspec.structs.replace(s, repartition=True) if s.kind == "clickstream" else s for name, s in sources.items()}


def _demand(root: Table) -> Demand:
    table = root.table("demand", ("from", "totals", "quantiles", "buckets", "forget_after", "max_items", "holidays"))
    usual = Demand()
    buckets = (
        tuple(_bucket(bucket) for bucket in table.tables("buckets", ("size", "horizon", "seasons", "history")))
        if "buckets" in table
        else usual.buckets
    )
    if not buckets:
        raise ConfigError("demand.buckets must have at least one entry; leave it out for hours and days")
    names = [bucket.size for bucket in buckets]
    if any(after.size_ms <= before.size_ms for before, after in pairwise(buckets)):
        raise ConfigError(f"demand.buckets must ascend by size without repeats; got {', '.join(names)}")
    longest = max(bucket.horizon for bucket in buckets)
    totals = table.wholes("totals", tuple(total for total in usual.totals if total <= longest))
    if totals and totals[-1] > longest:
        raise ConfigError(f"demand.totals must not exceed the longest horizon, {longest} buckets; got {totals[-1]}")
    quantiles = table.shares("quantiles", usual.quantiles)
    if not quantiles:
        raise ConfigError("demand.quantiles must name at least one level, such as 0.5")
    holidays = table.text("holidays", usual.holidays)
    if holidays:
        try:
            holiday_days(holidays)
        except UserError as error:
            raise ConfigError(f"demand.holidays {error}") from None
    return Demand(
        source=table.text("from", usual.source, allowed=("orders", "clickstream")),
        totals=totals,
        quantiles=quantiles,
        buckets=buckets,
        forget_after_ms=table.duration("forget_after", usual.forget_after_ms, least_ms=HOUR_MS),
        max_items=table.whole("max_items", usual.max_items, least=1),
        holidays=holidays,
    )


def _bucket(table: Table) -> Bucket:
    size = table.text("size", allowed=tuple(SIZES))
    horizon = table.whole("horizon", least=1, most=1_000)
    seasons = table.wholes("seasons", (), least=2, most=100_000)
    least = max(horizon, max(seasons, default=0) + 1)
    history = table.whole("history", least=least, most=1_000_000) if "history" in table else 0
    return Bucket(size, SIZES[size], horizon, seasons, history)


def _intent(root: Table) -> Intent:
    table = root.table(
        "intent", ("session_gap", "publish", "publish_delta", "thresholds", "max_sessions", "label", "label_delay", "next_items")
    )
    usual = Intent()
    label = table.text("label", usual.label, allowed=("clickstream", "orders"))
    return Intent(
        session_gap_ms=table.duration("session_gap", usual.session_gap_ms, least_ms=SECOND_MS),
        publish=table.text("publish", usual.publish, allowed=("every_event", "on_change")),
        publish_delta=table.share("publish_delta", usual.publish_delta),
        thresholds=table.shares("thresholds", usual.thresholds),
        max_sessions=table.whole("max_sessions", usual.max_sessions, least=1),
        label=label,
        label_delay_ms=table.duration("label_delay", 10 * MINUTE_MS if label == "orders" else 0),
        next_items=table.whole("next_items", usual.next_items, most=20),
    )


def _output(root: Table) -> Output:
    table = root.table("output", ("prefix", "partitions"))
    return Output(
        prefix=table.text("prefix", Output().prefix, pattern=TOPIC, form="the beginning of " + TOPIC_FORM),
        partitions=table.whole("partitions", Output().partitions, least=1, most=10_000),
    )


def _check_together(config: Config) -> None:
    reach_ms = config.time.allowed_lateness_ms + config.time.max_lead_ms
    if config.demand.forget_after_ms < reach_ms:
        raise ConfigError(
            f"demand.forget_after must be at least time.allowed_lateness + time.max_lead, {reach_ms} ms, or late events would "
            f"concern items already forgotten; got {config.demand.forget_after_ms} ms"
        )
    own = {config.output.topic(name) for name in TOPICS}
    seen: dict[str, str] = {}
    for name, source in config.sources.items():
        key = join("sources", name) + ".topic"
        if source.topic in own:
            raise ConfigError(f'{key} must not be one of nowcart\'s own topics; got "{source.topic}": change it, or output.prefix')
        if source.topic in seen:
            raise ConfigError(f'{key} must differ from every other source\'s; got "{source.topic}", as {seen[source.topic]}')
        seen[source.topic] = key
    kinds = {source.kind for source in config.sources.values()}
    if config.demand.source not in kinds:
        other = "clickstream" if config.demand.source == "orders" else "orders"
        instead = f', or set demand.from = "{other}"' if other in kinds else ""
        raise ConfigError(
            f'demand.from = "{config.demand.source}" needs a source of that kind; the sources are {", ".join(sorted(kinds))}: '
            f'add [sources.NAME] with kind = "{config.demand.source}"{instead}'
        )
    if config.demand.source == "clickstream":
        clicks = [source for source in config.sources.values() if source.kind == "clickstream"]
        if not any("purchase" in source.events.values() for source in clicks):
            key = join(join("sources", clicks[0].name), "events")
            raise ConfigError(f'demand.from = "clickstream" needs purchases: map one of the events in {key} to "purchase"')
