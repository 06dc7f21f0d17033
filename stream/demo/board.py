"""What the view knows: learnt from nowcart's output topics as any consumer would learn it, and from the engine's own report.

`Board` takes records as bytes; it knows neither Kafka nor the terminal.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

BUCKET = "1m"
"""The size that is watched."""
BUCKET_MS = 60_000

_BUCKETS = 60
_SPIKES = 100
_SESSIONS = 4_000
_BOUGHT_MS = 20_000
"""How long a session that has bought stays in sight."""
_QUIET_MS = 180_000
"""A session without news for so long is not hot."""
_CURVE = 120


class DemandRecord(msgspec.Struct, frozen=True):
    """What is read of a record of `demand`."""

    item: str
    bucket: str
    bucket_start_ms: int
    issued_at_ms: int
    observed: float
    mean: list[float] = []
    quantiles: dict[str, list[float]] = {}
    experts: dict[str, dict[str, float]] = {}


class IntentRecord(msgspec.Struct, frozen=True):
    """What is read of a record of `intent`."""

    session: str
    issued_at_ms: int
    events: int
    p_purchase: float
    ended: bool = False
    purchased: bool = False
    bot: bool = False


class SpikeRecord(msgspec.Struct, frozen=True):
    """What is read of a record of `spikes`."""

    item: str
    bucket: str
    bucket_start_ms: int
    observed: float
    expected: float
    p_value: float
    severity: str
    state: str


class OfferRecord(msgspec.Struct, frozen=True):
    """What is read of the shop's offers."""

    announced: int
    sku: str
    category: str = ""
    brand: str = ""
    price: float | None = None
    promo: str | None = None
    valid_from: int | None = None
    valid_until: int | None = None


class OrderRecord(msgspec.Struct, frozen=True):
    """What is read of the shop's orders."""

    created: int
    sku: str
    quantity: float
    cancelled: bool = False


@dataclass(slots=True)
class Item:
    """One item."""

    name: str
    observed: dict[int, float] = field(default_factory=dict)
    """Units by the start of the bucket."""
    issued_at_ms: int = 0
    mean: Sequence[float] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    """Bounds of the 80 % interval, a bucket each."""
    experts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    about: str = ""
    prices: list[tuple[int, int | None, float, bool]] = field(default_factory=list)
    """(from, until, price, whether it is a promotion), as announced."""
    open: dict[int, float] = field(default_factory=dict)
    """Units of buckets that have not closed, from the shop's own orders."""

    def history(self, buckets: int) -> list[float]:
        """Observed units of the last closed buckets, oldest first.

        Args:
            buckets: how many.
        """
        start = self.issued_at_ms - buckets * BUCKET_MS
        return [self.observed.get(start + i * BUCKET_MS, 0.0) for i in range(buckets)]

    def price(self, now_ms: int) -> tuple[float, bool] | None:
        """What it costs now and whether that is a promotion; None: nobody has said.

        Args:
            now_ms: event time.
        """
        regular = promotion = None
        for start, until, price, promoted in self.prices:
            if start <= now_ms and (until is None or now_ms < until):
                regular, promotion = (regular, price) if promoted else (price, promotion)
        if promotion is not None:
            return promotion, True
        return None if regular is None else (regular, False)


@dataclass(slots=True)
class Session:
    """One live session."""

    name: str
    at_ms: int
    events: int
    p: float
    """Probability of a purchase, as last said before there was one."""
    purchased: bool = False
    purchased_ms: int = 0


class Board:
    """What is to be seen."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.spikes: deque[SpikeRecord] = deque(maxlen=_SPIKES)
        self.sessions: OrderedDict[str, Session] = OrderedDict()
        self.bought = 0
        self.curves: dict[str, deque[float]] = {}
        """Running WAPE of each expert and the council, one step ahead."""
        self.weights: dict[str, deque[float]] = {}
        """The council's weights, the mean over items, one step ahead."""
        self.coverage: Mapping[str, Mapping[str, float]] = {}
        self.forecasts = 0
        self.newest_ms = 0
        """The newest event time that was heard of."""
        self.bucket_ms = 0
        """Start of the newest bucket that has closed."""
        self._weight_sums: dict[str, float] = {}
        self._weighed = 0

    # ---- records

    def demand(self, values: Iterable[bytes]) -> None:
        """Takes records of `demand`."""
        for value in values:
            record = _demand(value)
            if record.bucket != BUCKET:
                continue
            item = self._item(record.item)
            item.observed[record.bucket_start_ms] = record.observed
            if record.bucket_start_ms > self.bucket_ms:
                self._bucket_closed(record.bucket_start_ms)
            if len(item.observed) > _BUCKETS * 2:
                for old in sorted(item.observed)[:-_BUCKETS]:
                    del item.observed[old]
            if record.mean and record.issued_at_ms >= item.issued_at_ms:
                item.issued_at_ms, item.mean, item.experts = record.issued_at_ms, record.mean, record.experts
                item.low, item.high = record.quantiles.get("0.1", ()), record.quantiles.get("0.9", ())
                item.open = {start: units for start, units in item.open.items() if start >= record.issued_at_ms}
                self.forecasts += 1
                first = min(record.experts, key=int, default="")
                for name, weight in record.experts.get(first, {}).items():
                    self._weight_sums[name] = self._weight_sums.get(name, 0.0) + weight
                self._weighed += 1

    def intent(self, values: Iterable[bytes]) -> None:
        """Takes records of `intent`."""
        for value in values:
            record = _intent(value)
            self.newest_ms = max(self.newest_ms, record.issued_at_ms)
            known = self.sessions.pop(record.session, None)
            if record.purchased and known is not None and not known.purchased:
                known.purchased, known.purchased_ms = True, record.issued_at_ms
                self.bought += 1
            elif record.ended or record.bot:
                continue
            if known is None and record.purchased:
                continue  # nobody has heard what was said of it before
            session = known or Session(record.session, 0, 0, record.p_purchase)
            session.at_ms, session.events = record.issued_at_ms, record.events
            if not record.purchased:
                session.p = record.p_purchase
            self.sessions[record.session] = session
            while len(self.sessions) > _SESSIONS:
                self.sessions.popitem(last=False)

    def spike(self, values: Iterable[bytes]) -> None:
        """Takes records of `spikes`."""
        for value in values:
            record = _spike(value)
            if record.bucket == BUCKET:
                self.spikes.append(record)

    def offers(self, values: Iterable[bytes]) -> None:
        """Takes the shop's offers."""
        for value in values:
            record = _offer(value)
            item = self._item(record.sku)
            if record.category:
                item.about = f"{record.category.split('.')[0]} · {record.brand}"
            if record.price is not None:
                start = record.valid_from or record.announced
                item.prices.append((start, record.valid_until, record.price, record.promo is not None))
                item.prices = [p for p in item.prices if p[1] is None or p[1] > record.announced][-16:]

    def orders(self, values: Iterable[bytes]) -> None:
        """Takes the shop's orders: the minute that has not closed yet is shown as it fills."""
        for value in values:
            try:
                record = _order(value)
            except msgspec.DecodeError:
                continue  # the shop sends unusable ones as well; nowcart dead-letters them
            if record.quantity <= 0 or record.cancelled:
                continue
            item = self._item(record.sku)
            start = record.created - record.created % BUCKET_MS
            if start >= item.issued_at_ms:
                item.open[start] = item.open.get(start, 0.0) + record.quantity

    # ---- the engine's report

    def learning(self, wape: Mapping[str, Mapping[str, float]], coverage: Mapping[str, Mapping[str, float]]) -> None:
        """Takes the running scores of the watched bucket size.

        Args:
            wape: expert or "council" -> probe step -> ratio.
            coverage: level -> shares.
        """
        self.coverage = coverage
        now = {name: steps[first] for name, steps in wape.items() if (first := min(steps, key=int, default=""))}
        last = {name: curve[-1] for name, curve in self.curves.items() if curve}
        if now != last:
            for name, ratio in now.items():
                self.curves.setdefault(name, deque(maxlen=_CURVE)).append(ratio)

    # ---- what is shown

    def top(self, items: int) -> list[Item]:
        """The items that sold most in the last half hour.

        Args:
            items: how many.
        """
        known = [item for item in self.items.values() if item.mean]
        return sorted(known, key=lambda item: (-sum(item.history(30)), item.name))[:items]

    def hot(self, sessions: int) -> list[Session]:
        """The live sessions most likely to buy, with those that just have.

        Args:
            sessions: how many.
        """
        live, bought = [], []
        for session in self.sessions.values():
            if session.purchased:
                if self.newest_ms - session.purchased_ms < _BOUGHT_MS:
                    bought.append(session)
            elif self.newest_ms - session.at_ms < _QUIET_MS:
                live.append(session)
        bought = sorted(bought, key=lambda s: (-s.purchased_ms, s.name))[: sessions // 3]
        live = sorted(live, key=lambda s: (-s.p, s.name))[: sessions - len(bought)]
        return sorted(live + bought, key=lambda s: (-s.p, s.name))

    def latest_spikes(self, spikes: int) -> list[tuple[SpikeRecord, bool]]:
        """How the newest spikes opened, one an item, and whether each is over: those that are not first.

        Args:
            spikes: how many.
        """
        over: dict[str, bool] = {}
        opened: dict[str, SpikeRecord] = {}
        for record in reversed(self.spikes):
            over.setdefault(record.item, record.state == "resolved")
            if record.state == "open":
                opened.setdefault(record.item, record)
        newest = [(record, over[item]) for item, record in opened.items()]
        return sorted(newest, key=lambda pair: pair[1])[:spikes]

    def _item(self, name: str) -> Item:
        item = self.items.get(name)
        if item is None:
            item = self.items[name] = Item(name)
        return item

    def _bucket_closed(self, start_ms: int) -> None:
        self.bucket_ms = start_ms
        if self._weighed:
            for name, total in self._weight_sums.items():
                self.weights.setdefault(name, deque(maxlen=_CURVE)).append(total / self._weighed)
        self._weight_sums, self._weighed = {}, 0


_demand = msgspec.json.Decoder(DemandRecord).decode
_intent = msgspec.json.Decoder(IntentRecord).decode
_spike = msgspec.json.Decoder(SpikeRecord).decode
_offer = msgspec.json.Decoder(OfferRecord).decode
_order = msgspec.json.Decoder(OrderRecord).decode
