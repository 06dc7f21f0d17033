"""Live sessions, bounded: how many, how long one stays after its end or in silence, and how much of its way is kept."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable
from heapq import nlargest

import msgspec
import numpy as np

_WAY = 40
"""Points of a session's way that are kept."""
_FRESH_S = 0.2
LIKELY = 0.5
_MOST_LISTED = 500


class IntentRecord(msgspec.Struct, frozen=True, gc=False):
    """What is read of a record of `intent`."""

    session: str
    issued_at_ms: int
    p_purchase: float = 0.0
    ended: bool = False
    purchased: bool = False
    bot: bool = False


class Session(msgspec.Struct, gc=False):
    """One session."""

    name: str
    raw: bytes = b""
    """Its newest record."""
    issued_at_ms: int = 0
    p_purchase: float = 0.0
    ended: bool = False
    purchased: bool = False
    bot: bool = False
    way: array[float] = msgspec.field(default_factory=lambda: array("d"))
    """Time (ms) and probability of a purchase, in turns."""
    alias: str = ""
    """Its pseudonym, where there are any."""
    slot: int = 0
    """Its place in the column of probabilities."""


class Sessions:
    """Sessions by id.

    Args:
        most: at once; beyond it those leave that have been silent for longest.
        quiet_ms: one without news for so long leaves.
        ended_ms: one that has ended leaves after so long.
        alias: gives a session's pseudonym; None: nobody needs any.
        clock: seconds, ever rising.
    """

    def __init__(self, most: int, quiet_ms: int, ended_ms: int, alias: Callable[[str], str] | None, clock: Callable[[], float]) -> None:
        self._most, self._quiet_ms, self._ended_ms, self._alias, self._clock = most, quiet_ms, ended_ms, alias, clock
        self._known: OrderedDict[str, Session] = OrderedDict()
        """The longest silent first."""
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._aliases: dict[str, str] = {}
        self._slots: list[Session | None] = []
        self._free: list[int] = []
        self._heat = array("d")
        """Probability of a purchase by slot; below 0 for those that are not listed as likely to buy."""
        self.newest_ms = 0
        self.live = 0
        self.version = 0
        self._hot: tuple[int, float, list[Session]] = (-1, float("-inf"), [])

    def __len__(self) -> int:
        return len(self._known)

    def take(self, record: IntentRecord, raw: bytes) -> None:
        """Takes a record of `intent`.

        Args:
            record: read from `raw`.
            raw: as it came.
        """
        self.version += 1
        name = record.session
        session = self._known.pop(name, None)
        if session is None:
            session = Session(name, slot=self._slot())
            self._slots[session.slot] = session
            if self._alias is not None:
                session.alias = self._alias(name)
                self._aliases[session.alias] = name
        else:
            self.live -= not session.ended
            if session.ended and not record.ended:  # the id has come back: another session
                session.way = array("d")
        self._known[name] = session
        session.raw, session.issued_at_ms, session.p_purchase = raw, record.issued_at_ms, record.p_purchase
        session.ended, session.purchased, session.bot = record.ended, record.purchased, record.bot
        self._heat[session.slot] = -1.0 if record.ended or record.purchased or record.bot else record.p_purchase
        self.live += not session.ended
        self._ended.pop(name, None)
        if session.ended:
            self._ended[name] = None
        session.way.extend((record.issued_at_ms, record.p_purchase))
        if len(session.way) > 2 * _WAY:
            del session.way[:2]
        self.newest_ms = max(self.newest_ms, record.issued_at_ms)
        self._let_go()

    def find(self, name: str, masked: bool) -> Session | None:
        """A session; by its pseudonym alone for whoever sees pseudonyms.

        Args:
            name: its id, or its pseudonym.
            masked: which of them it is.
        """
        known = self._aliases.get(name) if masked else name
        return self._known.get(known) if known is not None else None

    @property
    def likely(self) -> int:
        """Live sessions that buy more likely than not; neither bots nor those that have bought."""
        return int(np.count_nonzero(np.frombuffer(self._heat) >= LIKELY)) if self._heat else 0

    def hot(self, count: int) -> list[Session]:
        """The live sessions most likely to buy, likeliest first; neither bots nor those that have bought.

        Args:
            count: at most so many, and 500.
        """
        version, made, hot = self._hot
        now = self._clock()
        if version != self.version and now - made >= _FRESH_S:
            hot = self._likeliest()
            self._hot = (self.version, now, hot)
        return [session for session in hot if not (session.ended or session.purchased or session.bot)][:count]

    def told(self) -> None:
        """Somebody is being told how many records there were: who now asks for the likeliest must get them with these records."""
        version, _, hot = self._hot
        self._hot = (version, float("-inf"), hot)

    def _likeliest(self) -> list[Session]:
        """_MOST_LISTED of them; a column, since a walk over tens of thousands of sessions would keep everybody waiting."""
        heat = np.frombuffer(self._heat) if self._heat else np.zeros(0)
        least = max(0.0, float(np.partition(heat, -_MOST_LISTED)[-_MOST_LISTED])) if len(heat) > _MOST_LISTED else 0.0
        above = [self._slots[slot] for slot in np.flatnonzero(heat > least).tolist()]
        found = sorted(filter(None, above), key=lambda session: (session.p_purchase, session.name), reverse=True)
        # Thousands may be equally likely at the end of the list: of those only names are looked at.
        equal = (session.name for slot in np.flatnonzero(heat == least).tolist() if (session := self._slots[slot]) is not None)
        return (found + [self._known[name] for name in nlargest(_MOST_LISTED - len(found), equal)])[:_MOST_LISTED]

    def recent(self, count: int) -> list[Session]:
        """The sessions that moved last, newest first.

        Args:
            count: at most so many.
        """
        newest = reversed(self._known.values())
        return [session for session, _ in zip(newest, range(count), strict=False)]

    def _let_go(self) -> None:
        while self._known:
            oldest = next(iter(self._known.values()))
            if len(self._known) <= self._most and oldest.issued_at_ms >= self.newest_ms - self._quiet_ms:
                break
            self._drop(oldest.name)
        while self._ended:
            name = next(iter(self._ended))
            if self._known[name].issued_at_ms >= self.newest_ms - self._ended_ms:
                break
            self._drop(name)

    def _slot(self) -> int:
        if self._free:
            return self._free.pop()
        self._slots.append(None)
        self._heat.append(-1.0)
        return len(self._slots) - 1

    def _drop(self, name: str) -> None:
        session = self._known.pop(name)
        self._slots[session.slot] = None
        self._heat[session.slot] = -1.0
        self._free.append(session.slot)
        self._ended.pop(name, None)
        self._aliases.pop(session.alias, None)
        self.live -= not session.ended
