"""Whether two runs published the same: every record once, per key in the same order, byte for byte."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from stream.kafka.admin import Admin
from stream.kafka.log import Partition
from stream.kafka.reader import Record, follow

ORDERED = ("intent", "demand", "spikes")
"""Sequences per key. Dead letters are a set: each is found by where its message stands, and it does not matter when it was published."""
OUTPUTS = (*ORDERED, "deadletter")
MOST_EXAMPLES = 20
PATIENCE_S = 90.0
"""A broker ends the transaction of a process that is gone after its timeout."""


@dataclass(slots=True)
class Comparison:
    """What is not as it should be."""

    records: int = 0
    lost: int = 0
    duplicated: int = 0
    different: int = 0
    """Not in the other run at all, or at another place in its key's sequence."""
    examples: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether nothing is amiss."""
        return self.lost == self.duplicated == self.different == 0

    def add(self, other: Comparison) -> None:
        """Sums up.

        Args:
            other: of another topic.
        """
        self.records += other.records
        self.lost += other.lost
        self.duplicated += other.duplicated
        self.different += other.different
        self.examples = (self.examples + other.examples)[:MOST_EXAMPLES]


def compare(topic: str, expected: Iterable[Record], actual: Iterable[Record]) -> Comparison:
    """Compares what two runs published to a topic.

    Args:
        topic: its name without prefix.
        expected: of the undisturbed run, in the order of each partition.
        actual: of the run in question, in the order of each partition.
    """
    ordered = topic in ORDERED
    wanted, found = _grouped(expected, ordered), _grouped(actual, ordered)
    done = Comparison(records=sum(map(len, wanted.values())))
    for key in sorted(wanted.keys() | found.keys(), key=repr):
        want, have = wanted.get(key, []), found.get(key, [])
        if want == have if ordered else Counter(want) == Counter(have):
            continue
        lost, duplicated, different = _differences(want, have)
        done.lost += lost
        done.duplicated += duplicated
        done.different += different
        if len(done.examples) < MOST_EXAMPLES:
            place = next((i for i, pair in enumerate(zip(want, have, strict=False)) if pair[0] != pair[1]), min(len(want), len(have)))
            done.examples.append(
                f"{topic} {key!r}: {lost} lost, {duplicated} duplicated, {different} different; the first at {place} of {len(want)}\n"
                f"    expected {want[place] if place < len(want) else 'nothing more'}\n"
                f"    got      {have[place] if place < len(have) else 'nothing more'}"
            )
    return done


def read_outputs(properties: Mapping[str, str], prefix: str) -> dict[str, list[Record]]:
    """Every committed record of the output topics.

    Args:
        properties: librdkafka's.
        prefix: of the run.
    """
    _settle(properties, [prefix + topic for topic in OUTPUTS])
    return {topic: list(follow(properties, [prefix + topic], until_end=True)) for topic in OUTPUTS}


def _settle(properties: Mapping[str, str], topics: Sequence[str]) -> None:
    """Waits until nothing is hidden: the last commits return a little before their markers stand in the partitions."""
    admin = Admin(properties)
    where = [Partition(topic, number) for topic, count in admin.partitions(topics).items() for number in range(count)]
    deadline = time.monotonic() + PATIENCE_S
    while (ends := admin.committed_ends(where)) != admin.written_ends(where):
        if time.monotonic() > deadline:
            raise TimeoutError(f"a transaction is open at the end: {ends} are visible, {admin.written_ends(where)} are written")
        time.sleep(0.1)


def _grouped(records: Iterable[Record], ordered: bool) -> dict[Hashable, list[Hashable]]:
    groups: dict[Hashable, list[Hashable]] = defaultdict(list)
    for record in records:
        if ordered:
            groups[record.key].append((record.value, tuple(record.headers)))
        else:
            headers = dict(record.headers)
            place = tuple(headers.get(f"nowcart-{name}") for name in ("topic", "partition", "offset"))
            groups[place].append((record.key, record.value, tuple(record.headers)))
    return groups


def _differences(want: Sequence[Hashable], have: Sequence[Hashable]) -> tuple[int, int, int]:
    """(lost, duplicated, different): a record that the other run does not have stands for one that is missing."""
    missing, extra = Counter(want) - Counter(have), Counter(have) - Counter(want)
    known = set(want)
    duplicated = sum(count for record, count in extra.items() if record in known)
    foreign = sum(extra.values()) - duplicated
    lost = max(0, sum(missing.values()) - foreign)
    if not missing and not extra:
        return 0, 0, sum(a != b for a, b in zip(want, have, strict=True))
    return lost, duplicated, foreign
