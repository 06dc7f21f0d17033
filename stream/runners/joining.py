"""What a process needs of Kafka before its engine is there: topics that fit, and a member for each stage.

Nothing here knows a model, so that the command can ask Kafka while torch, which takes a second, is being loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stream.config import Config, UserError
from stream.kafka.admin import Admin
from stream.kafka.client import KafkaMember
from stream.kafka.log import Member, TopicMissing
from stream.topics import own_topics

STAGES = ("ingest", "forecast")


def stages_of(config: Config, stage: str = "all") -> tuple[str, ...]:
    """The loops that a stage of the command line needs.

    Args:
        config: some sources may have to be repartitioned before ingest.
        stage: all | ingest | forecast.
    """
    chosen = STAGES if stage == "all" else (stage,)
    repartition = "ingest" in chosen and any(source.repartition for source in config.sources.values())
    return ("repartition", *chosen) if repartition else chosen


@dataclass(frozen=True, slots=True)
class Joining:
    """What was opened. The engine closes its members."""

    partitions: Mapping[str, int]
    """By topic."""
    members: Mapping[str, Member]
    """By stage; none has joined its group yet."""


def open_members(config: Config, stages: Sequence[str], instance: str, member: type[KafkaMember] = KafkaMember) -> Joining:
    """Checks the topics and opens a member for each stage; its producer puts out what a dead process of the same name left open.

    Args:
        config: the user's.
        stages: as stages_of gives them.
        instance: this process's name.
        member: what reads and commits.

    Raises:
        UserError: topics are missing or do not fit.
        LogError: Kafka cannot be used.
    """
    partitions = check_topics(config)
    members: dict[str, Member] = {}
    try:
        for stage in stages:
            members[stage] = _open(config, stage, instance, member)
    except BaseException:
        for opened in members.values():
            opened.close()
        raise
    return Joining(partitions, members)


def _open(config: Config, stage: str, instance: str, member: type[KafkaMember]) -> Member:
    properties = dict(config.kafka)
    strategy = str(properties.pop("partition.assignment.strategy", "range"))
    protocol = properties.pop("group.protocol", "classic")
    assignment = "kip848" if protocol == "consumer" else strategy
    if assignment not in ("range", "cooperative-sticky", "kip848"):
        raise UserError(f'[kafka] partition.assignment.strategy must be "range" or "cooperative-sticky"; got "{assignment}"')
    name = f"{config.output.prefix}{stage}-{instance}"
    return member(properties, f"{config.output.prefix}{stage}", name, name, assignment)  # type: ignore[arg-type]


def check_topics(config: Config) -> Mapping[str, int]:
    """Every topic must be there, with partitions that fit: how many each has.

    Args:
        config: the user's.

    Raises:
        UserError: one is not, or does not.
        LogError: Kafka cannot be used.
    """
    admin = Admin(config.kafka)
    admin.ping()
    found = admin.topics()
    for source in config.sources.values():
        if source.topic not in found:
            raise TopicMissing(f"the topic '{source.topic}' of [sources.{source.name}] does not exist: create it, or correct `topic`")
    for topic in own_topics(config):
        if topic.name not in found:
            raise TopicMissing(f"the topic '{topic.name}' does not exist: create nowcart's topics with `nowcart topics CONFIG create`")
    activity = f"{config.output.prefix}activity"
    if found[activity] != config.activity.partitions:
        raise UserError(
            f"the topic '{activity}' must have as many partitions as [activity] partitions ({config.activity.partitions}); got "
            f"{found[activity]}: correct the configuration, or delete and create nowcart's topics"
        )
    return found
