"""What is known: made of the output topics' records alone, one after the other, and asked by the API.

One thread uses it. Records are kept as the bytes they came as, and decoded when somebody asks; what lists and sums need stands in columns.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from stream.config import Config
from stream.engine.time import DAY_MS, HOUR_MS
from stream.serve.items import Items
from stream.serve.panel import Panel, demand_decoder
from stream.serve.sessions import IntentRecord, Sessions
from stream.serve.spikes import AlertRecord, Alerts, SpikeRecord, Spikes

log = logging.getLogger("nowcart.serve")

TOPICS = ("demand", "intent", "spikes", "alerts", "prices")
"""What is read, without the prefix, in the order in which it is told."""
NEEDED = ("demand", "intent", "spikes")
"""Those without which there is nothing to serve."""

_MOST_PRICES = 200_000
WEEK_MS = 7 * DAY_MS


_Read = TypeVar("_Read")


class PriceRecord(msgspec.Struct, frozen=True, gc=False):
    """What is read of a record of `prices`; whatever else it holds goes through."""

    item: str


class NextHour(msgspec.Struct, frozen=True):
    """Units of all items together: expected, and seen before."""

    start_ms: int
    end_ms: int
    expected: float
    last_week: float | None
    yesterday: float | None
    hour_before: float | None


class View:
    """All that is known.

    Args:
        config: bounds, and the bucket sizes.
        alias: gives a session's pseudonym; None: nobody needs any.
        clock: seconds, ever rising.
    """

    def __init__(self, config: Config, alias: Callable[[str], str] | None, clock: Callable[[], float]) -> None:
        serve = config.serve
        self.items = Items(serve.history, serve.max_items, clock)
        self.sessions = Sessions(
            serve.max_sessions, serve.session_quiet_ms or config.intent.session_gap_ms, serve.ended_stay_ms, alias, clock
        )
        self.spikes = Spikes(self.items.spike)
        self.alerts = Alerts()
        self.prices: OrderedDict[str, bytes] = OrderedDict()
        self.newest_ms = 0
        """Largest event time in any record."""
        self.models: dict[str, str] = {}
        """The version in the newest record, by bucket size."""
        self.records = dict.fromkeys(TOPICS, 0)
        self.unreadable = 0
        self._demand = demand_decoder(config.demand.quantiles).decode
        self._intent = msgspec.json.Decoder(IntentRecord).decode
        self._spike = msgspec.json.Decoder(SpikeRecord).decode
        self._alert = msgspec.json.Decoder(AlertRecord).decode
        self._price = msgspec.json.Decoder(PriceRecord).decode
        self._takers = {
            "intent": self._take_intent,
            "spikes": self._take_spike,
            "alerts": self._take_alert,
            "prices": self._take_price,
        }

    def take(self, topic: str, raws: Sequence[bytes | None]) -> list[str | None]:
        """Takes records, in order.

        Args:
            topic: one of TOPICS.
            raws: their values.

        Returns:
            What each is about: an item or a session, "" for an alert; None: it cannot be read.
        """
        self.records[topic] += len(raws)
        if topic == "demand":
            return self._take_demand(raws)
        return [self._read(topic, self._takers[topic], raw) for raw in raws]

    def _read(self, topic: str, reader: Callable[[bytes], _Read], raw: bytes | None) -> _Read | None:
        if raw is None:
            return None
        try:
            return reader(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.unreadable += 1
            if self.unreadable == 1 or self.unreadable % 1000 == 0:
                log.warning("a record of '%s' cannot be read (%d so far): %s", topic, self.unreadable, error)
            return None

    def _take_demand(self, raws: Sequence[bytes | None]) -> list[str | None]:
        read = [self._read("demand", self._demand, raw) for raw in raws]
        found = [(record, raw) for record, raw in zip(read, raws, strict=True) if record is not None and raw is not None]
        if found:
            self.items.take([record for record, _ in found], [raw for _, raw in found])
            self.newest_ms = max(self.newest_ms, *(record.issued_at_ms for record, _ in found))
            self.models.update((record.bucket, record.model_version) for record, _ in found if record.mean)
        return [None if record is None else record.item for record in read]

    def _take_intent(self, raw: bytes) -> str:
        record = self._intent(raw)
        self.sessions.take(record, raw)
        self.newest_ms = max(self.newest_ms, record.issued_at_ms)
        return record.session

    def _take_spike(self, raw: bytes) -> str:
        record = self._spike(raw)
        self.spikes.take(record, raw)
        return record.item

    def _take_alert(self, raw: bytes) -> str:
        self.alerts.take(self._alert(raw), raw)
        return ""

    def _take_price(self, raw: bytes) -> str:
        item = self._price(raw).item
        self.prices.pop(item, None)
        self.prices[item] = raw
        if len(self.prices) > _MOST_PRICES:
            self.prices.popitem(last=False)
        return item

    # ---- sums

    def next_hour(self) -> NextHour | None:
        """Units expected over the next hour, beside the same hour a week and a day before, and the hour before; None: no forecast yet.

        Smaller buckets say it for the hour that begins now, or as much of it as their horizon reaches if that is half of it; else it is the
        hour, or the day, that has begun last; and where there is no such forecast yet, as far as there is one.
        """
        panel = self._for_an_hour()
        if panel is None:
            return None
        steps = max(1, min(HOUR_MS // panel.size_ms, panel.horizon))
        start_ms = int(panel.issued_ms.max(initial=0))
        expected = panel.expect(start_ms, steps)
        if not start_ms or not expected:
            return None
        length_ms = steps * panel.size_ms
        return NextHour(
            start_ms,
            start_ms + length_ms,
            float(f"{sum(expected):.7g}"),
            panel.seen(start_ms - WEEK_MS, steps),
            panel.seen(start_ms - max(DAY_MS, length_ms), steps),
            panel.seen(start_ms - length_ms, steps),
        )

    def _for_an_hour(self) -> Panel | None:
        farthest = None
        for panel in self.items.panels.values():
            if not panel.horizon:
                continue
            if panel.size_ms >= HOUR_MS or 2 * panel.horizon * panel.size_ms >= HOUR_MS:
                return panel
            farthest = panel
        return farthest
