"""What is known: made of the output topics' records alone, one after the other, and asked by the API.

One thread uses it. Records are kept as the bytes they came as, and decoded when somebody asks; what lists and sums need stands in columns.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from stream.config import Config
from stream.engine.time import DAY_MS, HOUR_MS
from stream.serve.items import Items
from stream.serve.panel import DemandRecord, Panel
from stream.serve.sessions import IntentRecord, Sessions
from stream.serve.spikes import AlertRecord, Alerts, SpikeRecord, Spikes

log = logging.getLogger("nowcart.serve")

TOPICS = ("demand", "intent", "spikes", "alerts", "prices")
"""What is read, without the prefix, in the order in which it is told."""
NEEDED = ("demand", "intent", "spikes")
"""Those without which there is nothing to serve."""

_MOST_PRICES = 200_000
WEEK_MS = 7 * DAY_MS


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
        self.sessions = Sessions(serve.max_sessions, serve.session_quiet_ms, serve.ended_stay_ms, alias, clock)
        self.spikes = Spikes(self.items.spike)
        self.alerts = Alerts()
        self.prices: OrderedDict[str, bytes] = OrderedDict()
        self.newest_ms = 0
        """Largest event time in any record."""
        self.models: dict[str, str] = {}
        """The version in the newest record, by bucket size."""
        self.records = dict.fromkeys(TOPICS, 0)
        self.unreadable = 0
        self._demand = msgspec.json.Decoder(DemandRecord).decode
        self._intent = msgspec.json.Decoder(IntentRecord).decode
        self._spike = msgspec.json.Decoder(SpikeRecord).decode
        self._alert = msgspec.json.Decoder(AlertRecord).decode
        self._price = msgspec.json.Decoder(PriceRecord).decode
        self._takers = {
            "demand": self._take_demand,
            "intent": self._take_intent,
            "spikes": self._take_spike,
            "alerts": self._take_alert,
            "prices": self._take_price,
        }

    def take(self, topic: str, raw: bytes) -> str | None:
        """Takes a record.

        Args:
            topic: one of TOPICS.
            raw: its value.

        Returns:
            What it is about: an item or a session, "" for an alert; None: it cannot be read.
        """
        self.records[topic] += 1
        try:
            return self._takers[topic](raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.unreadable += 1
            if self.unreadable == 1 or self.unreadable % 1000 == 0:
                log.warning("a record of '%s' cannot be read (%d so far): %s", topic, self.unreadable, error)
            return None

    def _take_demand(self, raw: bytes) -> str:
        record = self._demand(raw)
        self.items.take(record, raw)
        self.newest_ms = max(self.newest_ms, record.issued_at_ms)
        if record.mean:
            self.models[record.bucket] = record.model_version
        return record.item

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

        Smaller buckets say it for the hour that begins now, if their horizon reaches that far; else it is the hour, or the day, that has
        just begun.
        """
        panel = self._for_an_hour()
        if panel is None:
            return None
        steps = max(1, HOUR_MS // panel.size_ms)
        start_ms = int(panel.issued_ms.max(initial=0))
        expected = panel.expect(start_ms, steps) if start_ms else None
        if expected is None:
            return None
        length_ms = steps * panel.size_ms
        return NextHour(
            start_ms,
            start_ms + length_ms,
            float(f"{expected:.7g}"),
            panel.seen(start_ms - WEEK_MS, steps),
            panel.seen(start_ms - max(DAY_MS, length_ms), steps),
            panel.seen(start_ms - length_ms, steps),
        )

    def _for_an_hour(self) -> Panel | None:
        for panel in self.items.panels.values():
            if panel.horizon and (panel.size_ms >= HOUR_MS or panel.horizon * panel.size_ms >= HOUR_MS):
                return panel
        return None
