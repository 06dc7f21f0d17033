"""Tells engines of versions, and reads what they were told."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stream.config import Config
from stream.kafka.log import Partition
from stream.kafka.reader import Tail
from stream.kafka.sender import Sender
from stream.state.artefacts import Announcement, ArtefactUnusable, decode_announcement, encode_announcement

logger = logging.getLogger("nowcart.train")


def announce(config: Config, announcements: Sequence[Announcement]) -> None:
    """Publishes announcements; returns when the broker has them.

    Args:
        config: names the cluster and the topic.
        announcements: in order.

    Raises:
        LogError: the broker does not take them.
    """
    pairs = [encode_announcement(each) for each in announcements]
    with Sender(config.kafka) as sender:
        sender.send(config.output.topic("models"), [value for _, value in pairs], [key for key, _ in pairs])


def announced(config: Config) -> list[Announcement]:
    """All that was announced so far, in order.

    Args:
        config: names the cluster and the topic.

    Raises:
        LogError: Kafka cannot be used.
    """
    topic = config.output.topic("models")
    found: list[Announcement] = []
    with Tail(config.kafka, [topic]) as tail:
        left: set[Partition] = {partition for partition, end in tail.ends().items() if end > 0}
        while left:
            fetched = tail.fetch(1_000, 0.05)
            for messages in fetched.batches:
                for value in messages.values:
                    try:
                        found.append(decode_announcement(value or b""))
                    except ArtefactUnusable as error:
                        logger.warning("%s: %s", topic, error)
            left -= fetched.ends.keys()
    return found
