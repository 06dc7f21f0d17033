"""What a simulated shop is like: its parameters, nothing that runs."""

from __future__ import annotations

import zoneinfo

import msgspec

HOUR_MS = 3_600_000
DAY_MS = 86_400_000

TOPICS = {"clicks": "shop.events", "orders": "shop.orders", "offers": "shop.offers"}
"""The shop's sources and their topics, as in examples/simulated.toml."""

_SLOTS_MS = (60_000, 300_000, 600_000, 900_000, 3_600_000)
_BLOCKS_S = (1, 2, 5, 10, 15, 20, 30, 60, 100, 150, 300, 600, 900, 1200, 1800, 3600)
_BLOCK_EVENTS = 60_000


class ShopSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of a simulated shop; the same parameters give the same messages to the byte.

    Shares are probabilities; `_per_day` are means per item and day; pairs are the bounds between which a value is drawn.
    """

    seed: int = 1
    start_ms: int = 1_736_121_600_000
    """The first session starts here or later. Default: Monday 2025-01-06 00:00 UTC."""
    zone: str = "Europe/London"
    """The shop's days and weeks."""
    slot_ms: int = 300_000
    """Rates are constant within slots of this length: spikes, promotions, prices and stock change at their edges."""

    items: int = 10_000
    zipf: float = 1.05
    """Exponent of the items' popularity by rank."""
    rate: float = 50.0
    """Clickstream events a second, the mean of an ordinary week; sessions have to begin first, so a shop starts below it."""
    daily_swing: float = 0.95
    weekly_swing: float = 0.3
    """How much the hour and the weekday matter; 0: not at all."""

    session_events: float = 6.0
    """Mean events a session, bots included."""
    conversion: float = 0.04
    """Share of human sessions that buy."""
    conversion_change: tuple[int, float] | None = None
    """(time in ms, factor): sessions that start from then on buy `factor` times as often (up to twice)."""
    dwell: float = 1.0
    """Time between clicks, relative to people's; small values let a shop reach its rate at once (latency measurements)."""
    bot_share: float = 0.025
    bot_events: float = 40.0
    users: int = 20_000
    """Users who return."""
    returning_share: float = 0.45
    anonymous_share: float = 0.30
    """Sessions by users who return, and without a user; the others are users seen once."""

    bulk_share: float = 0.002
    """Order lines of `bulk_units` units."""
    bulk_units: tuple[int, int] = (20, 200)
    return_share: float = 0.04
    """Order lines that come back, days later."""
    cancel_share: float = 0.015
    """Order lines that are cancelled, minutes or hours later."""

    price_changes_per_day: float = 0.01
    promotions_per_day: float = 0.004
    promotion_hours: tuple[float, float] = (12.0, 96.0)
    promotion_lead_hours: tuple[float, float] = (1.0, 72.0)
    """How long before its start a promotion is announced."""
    stockouts_per_day: float = 0.004
    stockout_hours: tuple[float, float] = (2.0, 36.0)
    spikes_per_day: float = 500 / (30 * 10_000)
    spike_hours: tuple[float, float] = (1.0, 12.0)
    spike_factor: tuple[float, float] = (2.0, 20.0)
    """Of sudden spikes and, up to its square root's double, of slow rises; drops divide by between 3 and 20."""
    rise_hours: float = 6.0
    """How long a slow rise rises."""
    spike_focus: float = 0.5
    """Items are hit in proportion to popularity ** spike_focus."""

    jitter_ms: float = 800.0
    """Mean time from an event to its arrival (exponential, cut at jitter_max_ms)."""
    jitter_max_ms: int = 8_000
    late_share: float = 0.01
    late_max_ms: int = 5_400_000
    """Late messages are delayed by up to this, uniformly."""
    malformed_share: float = 0.001
    """Unusable messages, sent beside the good ones, per good one (clicks and orders)."""

    def __post_init__(self) -> None:
        if self.items < 10:
            raise ValueError(f"items must be at least 10; got {self.items}")
        if self.slot_ms not in _SLOTS_MS:
            raise ValueError(f"slot_ms must be one of {_SLOTS_MS}; got {self.slot_ms}")
        if self.start_ms < DAY_MS:
            raise ValueError(f"start_ms must be epoch milliseconds after 1970-01-01; got {self.start_ms}")
        for name in ("rate", "dwell", "session_events", "bot_events", "jitter_ms"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        for name in self.__struct_fields__:
            if name.endswith("_share") and not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1); got {getattr(self, name)}")
            if name.endswith("_per_day") and getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        if self.human_events < 2.5:
            raise ValueError(
                f"session_events must leave people at least 2.5 events beside the bots' share; got {self.human_events:.2f}: "
                "raise session_events or lower bot_share or bot_events"
            )
        if not 0.001 <= self.conversion <= 0.3:
            raise ValueError(f"conversion must be between 0.001 and 0.3; got {self.conversion}")
        if self.conversion_change is not None and not 0 < self.conversion_change[1] <= 2:
            raise ValueError(f"the factor of conversion_change must be above 0 and at most 2; got {self.conversion_change[1]}")
        try:
            zoneinfo.ZoneInfo(self.zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"zone must be an IANA time zone such as 'Europe/London'; got {self.zone!r}") from error

    @property
    def human_events(self) -> float:
        """Mean events of a session that is not a bot's."""
        return (self.session_events - self.bot_share * self.bot_events) / (1 - self.bot_share)

    @property
    def sessions_per_second(self) -> float:
        """Sessions that begin a second, the mean of an ordinary week."""
        return self.rate / self.session_events

    @property
    def block_ms(self) -> int:
        """Sessions are made in blocks of starts this long, one random stream each: about 60,000 events, within one hour."""
        fits = [s * 1000 for s in _BLOCKS_S if self.slot_ms % (s * 1000) == 0 or (s * 1000) % self.slot_ms == 0]
        return max([b for b in fits if b * self.rate / 1000 <= _BLOCK_EVENTS], default=fits[0])


def benchmark_spec(**changes: object) -> ShopSpec:
    """A shop for throughput: 10,000 items, sessions of 20 events, an even rate of 300 events a second.

    Args:
        changes: fields of ShopSpec to set otherwise.
    """
    base = ShopSpec(rate=300.0, session_events=20.0, daily_swing=0.0, weekly_swing=0.0)
    return msgspec.convert({**msgspec.structs.asdict(base), **changes}, ShopSpec, strict=False)


def demo_spec(**changes: object) -> ShopSpec:
    """A small, busy shop in which something happens every minute: for the terminal demo.

    Args:
        changes: fields of ShopSpec to set otherwise.
    """
    base = ShopSpec(
        items=2_000, rate=200.0, slot_ms=60_000, conversion=0.08, daily_swing=0.4,
        price_changes_per_day=0.2, promotions_per_day=0.1, promotion_hours=(0.2, 1.0), promotion_lead_hours=(0.1, 1.0),
        stockouts_per_day=0.1, stockout_hours=(0.1, 0.5), spikes_per_day=0.3, spike_hours=(0.08, 0.3), spike_factor=(4.0, 20.0),
        rise_hours=0.2, spike_focus=1.0, late_max_ms=600_000,
    )  # fmt: skip
    return msgspec.convert({**msgspec.structs.asdict(base), **changes}, ShopSpec, strict=False)
