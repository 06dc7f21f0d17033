"""How fast the log is by itself: send, fetch as columns, and publish in transactions, through our own clients.

    python benchmarks/log_rates.py [--kafka HOST:PORT] [--messages 500000]

Without --kafka it starts the embedded broker. What it prints is the ceiling of everything that is built on top.
"""

from __future__ import annotations

import argparse
import statistics
import time
import uuid
from typing import TYPE_CHECKING, Any

from stream.kafka.admin import Admin, Topic
from stream.kafka.client import KafkaMember
from stream.kafka.embedded import EmbeddedBroker
from stream.kafka.log import Outcome, Partition, Position, Records, Start
from stream.kafka.sender import Sender

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream.kafka.log import Listener

VALUE = b'{"event_time":"2019-10-01 00:00:00 UTC","event_type":"view","product_id":44600062,"price":35.79,"user_session":"72d76fde-8bb3"}'


class FromStart:
    """Starts every partition at 0."""

    def assigned(self, partitions: list[Partition]) -> dict[Partition, Start]:
        return dict.fromkeys(partitions, Start(0))

    def revoked(self, partitions: list[Partition]) -> None: ...

    def lost(self, partitions: list[Partition]) -> None: ...


def said(what: str, count: int, seconds: float, note: str = "") -> None:
    print(f"{what:<44}{count / seconds:>12,.0f} /s  {note}", flush=True)


def measure(properties: dict[str, Any], messages: int) -> None:
    run = uuid.uuid4().hex[:8]
    source, out = f"rates-in-{run}", f"rates-out-{run}"
    admin = Admin(properties)
    admin.create([Topic(source, 4), Topic(out, 4)])
    keys = [b"session-%d" % (i % 50_000) for i in range(messages)]
    began = time.perf_counter()
    with Sender(properties) as sender:
        for i in range(0, messages, 10_000):
            sender.send(source, [VALUE] * len(keys[i : i + 10_000]), keys[i : i + 10_000])
    said("send", messages, time.perf_counter() - began)

    listener: Listener = FromStart()
    began = time.perf_counter()
    member = KafkaMember(properties, f"rates-{run}", f"rates-{run}")
    connected = time.perf_counter()
    member.subscribe([source], listener)
    while not (first := member.fetch(1, 0.01)).batches:
        pass
    print(f"{'connect / join and first message':<44}{connected - began:>9.3f} s / {time.perf_counter() - connected:.3f} s")
    for most in (4096, 20_000):
        member.resume_at({Partition(source, n): 0 for n in range(4)})
        began = time.perf_counter()
        count = fetches = 0
        while count < messages:
            for batch in member.fetch(most, 0.05).batches:
                count += len(batch)
                assert len(batch.values) == len(batch.offsets) == len(batch.stamps_ms)
            fetches += 1
        said(f"fetch({most}): values, offsets, stamps", count, time.perf_counter() - began, f"{fetches} fetches")
    del first

    for size in (200, 20_000, 100_000):
        count = max(2, min(50, messages // size))
        records = [Records(out, keys[:size], [VALUE] * size)]
        seconds = transactions(member, records, source, count)
        said(f"transactions of {size} records", size * count, sum(seconds), f"median {statistics.median(seconds) * 1000:.1f} ms")
    headed = [Records(out, keys[:20_000], [VALUE] * 20_000, headers=[("nowcart-schema", b"1")])]
    seconds = transactions(member, headed, source, 10)
    said("the same of 20000, with a header", 200_000, sum(seconds), f"median {statistics.median(seconds) * 1000:.1f} ms")
    seconds = transactions(member, [], source, 50)
    print(f"{'transaction of offsets alone, median':<44}{statistics.median(seconds) * 1000:>9.2f} ms")
    began = time.perf_counter()
    member.close()
    print(f"{'close':<44}{time.perf_counter() - began:>9.3f} s")
    admin.delete([source, out])


def transactions(member: KafkaMember, records: Sequence[Records], source: str, count: int) -> list[float]:
    seconds = []
    for i in range(count):
        began = time.perf_counter()
        outcome = member.transact(records, {Partition(source, n): Position(i, "m" * 200) for n in range(4)})
        seconds.append(time.perf_counter() - began)
        assert outcome is Outcome.COMMITTED, outcome
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker; default: the embedded one")
    parser.add_argument("--messages", type=int, default=500_000)
    args = parser.parse_args()
    if args.kafka:
        measure({"bootstrap.servers": args.kafka}, args.messages)
    else:
        with EmbeddedBroker() as broker:
            measure({"bootstrap.servers": broker.bootstrap_servers}, args.messages)


if __name__ == "__main__":
    main()
