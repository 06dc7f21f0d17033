"""What must survive a crash, in the topic `alerts.state`: where reading stands, the groups, and what is still to be delivered.

Each change of it is one transaction with the alert records and the dead letters that follow from it, so that a spike is either
counted and told, or neither. It is read as a whole at the start, and after any transaction whose outcome is not known; compaction only keeps
it short. Making a ledger fences whoever has it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from stream.alerts.book import Group
from stream.config import Config
from stream.kafka.log import Outcome, Records
from stream.kafka.reader import follow
from stream.kafka.transactions import Transactions
from stream.records import HEADERS, AlertRecord, dead_letter_headers, fit_dead_letter

log = logging.getLogger("nowcart.alerts")

TRANSACTION_TIMEOUT_MS = 10_000
_POSITIONS, _GROUP, _DELIVERY = "positions", "group ", "delivery "

_encode = msgspec.json.Encoder().encode


class Delivery(msgspec.Struct, frozen=True):
    """A request to a webhook that has not been answered yet."""

    receiver: str
    alert: str
    update: int
    body: str
    made_ms: int
    """When it was made, by the clock."""

    @property
    def key(self) -> str:
        """The same for every attempt, and no other request's."""
        return f"{self.alert}.{self.update}"


class DeadLetter(msgspec.Struct, frozen=True):
    """What could not be used, or delivered, and where it came from."""

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


class Known(msgspec.Struct):
    """What the ledger holds."""

    positions: dict[int, int] = {}
    """By partition of the spikes' topic: the offset that is read next."""
    groups: dict[str, Group] = {}
    deliveries: dict[str, Delivery] = {}
    """By place: the receiver, and their key."""


def place_of(delivery: Delivery) -> str:
    """What a delivery is called in the ledger."""
    return f"{delivery.receiver} {delivery.key}"


class Change(msgspec.Struct):
    """One transaction."""

    positions: dict[int, int] | None = None
    """All of them, where one moved."""
    groups: Mapping[str, Group | None] = {}
    """New values; None: gone."""
    made: Sequence[Delivery] = ()
    done: Sequence[Delivery] = ()
    records: Sequence[AlertRecord] = ()
    dead_letters: Sequence[DeadLetter] = ()

    def __bool__(self) -> bool:
        return bool(self.positions is not None or self.groups or self.made or self.done or self.records or self.dead_letters)


class Ledger:
    """The topic, and the one producer that writes it. Blocking; one thread uses it at a time.

    Args:
        config: names the cluster and the topics.

    Raises:
        LogError: the cluster cannot be used.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._topic = config.output.topic("alerts.state")
        self._transactions = Transactions(config.kafka, f"{config.output.prefix}alerts", TRANSACTION_TIMEOUT_MS)

    def renew(self) -> None:
        """A new producer: what the last one left open is aborted."""
        self._transactions.renew()

    def read(self) -> Known:
        """All that is committed."""
        known = Known()
        for record in follow(self._config.kafka, [self._topic], until_end=True):
            key = (record.key or b"").decode()
            if key == _POSITIONS and record.value is not None:
                known.positions = msgspec.json.decode(record.value, type=dict[int, int], strict=False)
            elif key.startswith(_GROUP):
                self._keep(known.groups, key.removeprefix(_GROUP), record.value, Group)
            elif key.startswith(_DELIVERY):
                self._keep(known.deliveries, key.removeprefix(_DELIVERY), record.value, Delivery)
        return known

    def _keep(self, kept: dict[str, Any], key: str, value: bytes | None, kind: type) -> None:
        if value is None:
            kept.pop(key, None)
        else:
            kept[key] = msgspec.json.decode(value, type=kind)

    def write(self, change: Change) -> Outcome:
        """Commits a change, or nothing of it.

        Args:
            change: what it is.

        Raises:
            Fenced: another process has the ledger now.
            LogError: no retry mends it.
        """
        rows: list[tuple[str, bytes | None]] = []
        if change.positions is not None:
            rows.append((_POSITIONS, _encode({str(partition): offset for partition, offset in change.positions.items()})))
        rows += [(_GROUP + key, None if group is None else _encode(group)) for key, group in change.groups.items()]
        rows += [(_DELIVERY + place_of(delivery), _encode(delivery)) for delivery in change.made]
        rows += [(_DELIVERY + place_of(delivery), None) for delivery in change.done]
        batches = [Records(self._topic, [key.encode() for key, _ in rows], [value for _, value in rows], 0)]
        if change.records:
            keys = [record.alert.encode() for record in change.records]
            values = [_encode(record) for record in change.records]
            batches.append(Records(self._config.output.topic("alerts"), keys, values, headers=HEADERS))
        if change.dead_letters:
            batches.append(self._dead(change.dead_letters))
        outcome = self._transactions.transact(batches, {}, lambda: None)
        if outcome is not Outcome.COMMITTED:
            log.info("a transaction ended %s; the ledger is read again", outcome.value)
        return outcome

    def _dead(self, letters: Sequence[DeadLetter]) -> Records:
        keys, values, headers = [], [], []
        for letter in letters:
            key, value, cut = fit_dead_letter(letter.key, letter.value)
            keys.append(key)
            values.append(value)
            headers.append([*dead_letter_headers(letter.reason, letter.detail, letter.topic, letter.partition, letter.offset), *cut])
        return Records(self._config.output.topic("deadletter"), keys, values, headers=headers, each_headers=True)

    def close(self) -> None:
        """Disconnects."""
        self._transactions.close()


def now_ms() -> int:
    """The clock, epoch milliseconds."""
    return time.time_ns() // 1_000_000
