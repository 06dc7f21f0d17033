"""The topics that nowcart owns: what they are called and how they must be set up."""

from __future__ import annotations

from collections.abc import Mapping

from stream.config import Config
from stream.kafka.admin import Topic
from stream.records import MAX_MESSAGE_BYTES

DAY_MS = 86_400_000
OUTPUTS = ("intent", "demand", "spikes")


def own_topics(config: Config, retention: Mapping[str, int] | None = None) -> list[Topic]:
    """Every topic that nowcart writes.

    Args:
        config: names the prefix and the partitions.
        retention: bytes to keep a partition, by name without prefix; for brokers that hold topics in memory.
    """
    keep = {"retention.ms": "-1"}  # state is rebuilt from it
    week = {"retention.ms": str(7 * DAY_MS)}
    wanted = [("activity", config.activity.partitions, keep)]
    wanted += [(name, config.output.partitions, week) for name in OUTPUTS]
    wanted += [
        (f"repartitioned.{source.name}", config.activity.partitions, keep) for source in config.sources.values() if source.repartition
    ]
    large = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
    # A whole category may be in a spike at once, and its state is one record.
    wanted += [("alerts", config.output.partitions, week | large), ("alerts.state", 1, {"cleanup.policy": "compact"} | large)]
    wanted += [("models", 1, keep)]  # few, and a restart reads all of them
    wanted += [("deadletter", 1, week | large)]
    limits = retention or {}
    return [
        Topic(config.output.prefix + name, partitions, settings | ({"retention.bytes": str(limits[name])} if name in limits else {}))
        for name, partitions, settings in wanted
    ]
