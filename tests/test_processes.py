"""Several `nowcart run` share the work: they come, stop, die and are mistaken for one another; what they publish is one process's."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from stream.kafka.client import KafkaMember
from stream.kafka.log import Partition
from tests.kafka.conftest import embedded, real_kafka
from tests.shop_runs import Process, Shop, Watch, outputs, run_to_end, trade, wait_until

__all__ = ["embedded", "real_kafka"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

BROKERS = pytest.mark.parametrize("broker", ["embedded", pytest.param("real_kafka", marks=pytest.mark.kafka)])


class Feed:
    """Sends a shop's trade piece by piece, in the order of its times."""

    def __init__(self, shop: Shop, sessions: int) -> None:
        self.shop = shop
        clicks, orders = trade(seed=9, sessions=sessions)
        self.rows = {shop.clicks: clicks, shop.orders: orders}
        self.sent = dict.fromkeys(self.rows, 0)

    def until(self, share: float) -> None:
        """Sends what is left of a share of everything."""
        for topic, rows in self.rows.items():
            part = rows[self.sent[topic] : int(share * len(rows))]
            self.shop.send(topic, [value for _, value in part], [key for key, _ in part])
            self.sent[topic] += len(part)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize(
    ("broker", "how", "sharing"),
    [
        ("embedded", signal.SIGTERM, {}),  # it expires no dead members, and knows no other way to share
        pytest.param("real_kafka", signal.SIGTERM, {}, marks=pytest.mark.kafka),
        pytest.param("real_kafka", signal.SIGKILL, {"session.timeout.ms": 6000}, marks=pytest.mark.kafka),
        pytest.param("real_kafka", signal.SIGTERM, {"partition.assignment.strategy": "cooperative-sticky"}, marks=pytest.mark.kafka),
        pytest.param("real_kafka", signal.SIGTERM, {"group.protocol": "consumer"}, marks=pytest.mark.kafka),
    ],
    ids=["embedded", "term", "kill", "cooperative", "kip848"],
)
def test_who_stays_takes_over_from_who_goes_and_the_outputs_are_one_processes(
    broker: str, how: signal.Signals, sharing: dict[str, object], request: pytest.FixtureRequest, tmp_path: Path, stack: ExitStack
) -> None:
    shop = Shop(request.getfixturevalue(broker), tmp_path)
    feed = Feed(shop, sessions=1200)
    feed.until(0.3)
    path, config = shop.file("shared", **sharing), shop.config("shared", **sharing)
    watch = stack.enter_context(Watch(config))

    one = stack.enter_context(Process(path, "--instance", "one"))
    wait_until(watch.grown, one)
    two = stack.enter_context(Process(path, "--instance", "two"))
    # It takes over some of the partitions, and has to replay them first.
    wait_until(partial(two.said, "state rebuilt"), one, two)
    looker = KafkaMember({"bootstrap.servers": shop.broker}, f"{config.output.prefix}ingest", "looks-on")
    stack.callback(looker.close)
    places = [Partition(shop.clicks, p) for p in range(4)]
    before = looker.committed(places)
    feed.until(0.6)
    # Both have worked on what is theirs, so that nobody's state of the other's partitions is good any more.
    wait_until(lambda: all(looker.committed(places)[p] != before[p] for p in places), one, two)
    said = len(one.lines)
    two.send(how)
    left = time.monotonic()
    assert two.wait() == (0 if how is signal.SIGTERM else -signal.SIGKILL), two.lines
    feed.until(0.8)
    wait_until(lambda: any("state rebuilt" in line for line in one.lines[said:]), one)
    # Who stops says so, and nobody waits for its session to time out (45 s).
    assert time.monotonic() - left < 30
    watch.mark()
    feed.until(1.0)
    wait_until(watch.grown, one)
    one.send(signal.SIGINT)
    assert one.wait() == 0, one.lines
    run_to_end(config, "one")

    undisturbed = shop.config("undisturbed")
    run_to_end(undisturbed)
    once = outputs(undisturbed)
    assert min(len(once["intent"]), len(once["demand"])) > 10
    assert outputs(config) == once


@BROKERS
def test_two_processes_end_together_with_what_one_would_have_published(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path, stack: ExitStack
) -> None:
    shop = Shop(request.getfixturevalue(broker), tmp_path)
    Feed(shop, sessions=600).until(1.0)
    path, config = shop.file("two"), shop.config("two")
    both = [stack.enter_context(Process(path, "--until-end", "--instance", name)) for name in ("one", "two")]
    assert [process.wait() for process in both] == [0, 0], [process.lines for process in both]
    undisturbed = shop.config("undisturbed")
    run_to_end(undisturbed)
    assert outputs(config) == outputs(undisturbed)


@BROKERS
def test_of_two_with_one_name_the_older_stops_with_one_message(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path, stack: ExitStack
) -> None:
    shop = Shop(request.getfixturevalue(broker), tmp_path, partitions=2)
    feed = Feed(shop, sessions=400)
    feed.until(0.3)
    path, config = shop.file(), shop.config()
    watch = stack.enter_context(Watch(config))
    older = stack.enter_context(Process(path, "--instance", "same"))
    wait_until(watch.grown, older)
    newer = stack.enter_context(Process(path, "--instance", "same"))
    wait_until(partial(newer.said, "state rebuilt"), older, newer)
    watch.mark()
    feed.until(0.7)  # whoever was fenced learns it at the latest when it commits
    assert older.wait() == 2, (older.lines, newer.lines)
    (message,) = [line for line in older.lines if line.startswith("nowcart: ")]
    assert "--instance" in message
    assert "'same'" in message
    assert not older.said("Traceback")
    wait_until(watch.grown, newer)
    newer.send(signal.SIGTERM)
    assert newer.wait() == 0, newer.lines
