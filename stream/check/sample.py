"""Do sessions keep to one partition? A sample of a clickstream tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stream.engine.time import Zone
from stream.kafka.reader import newest
from stream.mapping import Decoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stream.config import Config
    from stream.kafka.log import Partition
    from stream.mapping import Values
    from stream.sources import Source

SAMPLE = 20_000
"""Messages in a sample: 50 ms to decode, and of a split of 1 % it misses none that matters."""

MOST_SPLIT = 0.01
"""A larger share of sessions in more than one partition makes intent and what follows from it wrong."""


@dataclass(frozen=True, slots=True)
class SplitSessions:
    """How many sessions of a sample stand in more than one partition."""

    sampled: int
    """Sessions seen."""
    split: int
    """Those of them that were seen in more than one partition."""

    @property
    def share(self) -> float:
        """Split sessions in all; 0 where none was seen."""
        return self.split / self.sampled if self.sampled else 0.0

    @property
    def too_many(self) -> bool:
        """Whether the topic cannot be used as it is keyed."""
        return self.share > MOST_SPLIT


def split_sessions(config: Config, source: Source, most: int = SAMPLE) -> SplitSessions:
    """Samples the newest messages of a clickstream; joins no group and commits nothing.

    Args:
        config: where Kafka is, and how time is read.
        source: of kind clickstream. Where it maps no session, users stand for them.
        most: messages to sample.

    Raises:
        TopicMissing: its topic does not exist.
        Unreachable: no broker answered.
        AccessDenied: the credentials were refused.
    """
    decoder = Decoder(source, config.time, Zone(config.time.zone))
    return count_splits({place: [messages] for place, messages in newest(config.kafka, source.topic, most).items()}, decoder)


def count_splits(sample: Mapping[Partition, Iterable[Values]], decoder: Decoder) -> SplitSessions:
    """Counts the sessions of a sample that stand in more than one partition.

    Args:
        sample: messages by partition.
        decoder: of their source. Messages that it refuses, or whose event is not listed, do not count.
    """
    first: dict[str, Partition] = {}
    split: set[str] = set()
    for partition, parts in sample.items():
        for messages in parts:
            rows = decoder.decode(messages).rows
            for name in set(rows.session or rows.user or ()):
                if name and first.setdefault(name, partition) != partition:
                    split.add(name)
    return SplitSessions(len(first), len(split))
