"""A program that copies a topic to another, exactly once: what the tests of several processes run, and kill."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

from stream.kafka.client import KafkaMember
from stream.kafka.log import Outcome, Partition, Position, Records, Start

if TYPE_CHECKING:
    from stream.kafka.client import Assignment


class Resume:
    """Starts where the group stopped."""

    def __init__(self, member: KafkaMember) -> None:
        self.member = member
        self.owned: set[Partition] = set()

    def assigned(self, partitions: list[Partition]) -> dict[Partition, Start]:
        self.owned.update(partitions)
        print("assigned", *(p.partition for p in partitions), flush=True)
        return {p: Start(offset) for p, offset in self.starts(partitions).items()}

    def starts(self, partitions: list[Partition]) -> dict[Partition, int]:
        return {p: at.offset if at is not None else 0 for p, at in self.member.committed(partitions).items()}

    def revoked(self, partitions: list[Partition]) -> None:
        self.owned.difference_update(partitions)
        print("revoked", *(p.partition for p in partitions), flush=True)

    def lost(self, partitions: list[Partition]) -> None:
        self.owned.difference_update(partitions)
        print("lost", *(p.partition for p in partitions), flush=True)


def main(bootstrap: str, group: str, name: str, source: str, out: str, assignment: Assignment, static: str) -> None:
    stopping: list[Any] = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
    instance = name if static == "static" else None
    member = KafkaMember({"bootstrap.servers": bootstrap}, group, name, instance, assignment)
    listener = Resume(member)
    member.subscribe([source], listener)
    while not stopping:
        fetched = member.fetch(20, 0.02)
        if not fetched.batches:
            continue
        records = [Records(out, [name.encode()] * len(b), b.values, partition=b.partition.partition) for b in fetched.batches]
        outcome = member.transact(records, {b.partition: Position(b.offsets[-1] + 1, name) for b in fetched.batches})
        print(outcome.value, flush=True)
        if outcome is Outcome.UNKNOWN:
            member.renew()
        if outcome is not Outcome.COMMITTED:
            member.resume_at(listener.starts(sorted(listener.owned)))
    member.close()
    print("closed", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
