"""What the simulated shop itself would have said, given only the events that the engine had seen so far."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream.backtest.intent_record import Events
from stream.simulate.oracle import posteriors
from stream.simulate.sessions import Records
from stream.simulate.shop import Shop


def oracle(shop: Shop, clicks: Records, events: Events, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64[events], P(purchase | the session's events up to this one, as they had arrived); nan where not asked for.

    Sessions whose events arrived in order are gone through once; of the others each beginning is a session of its own, because an event that
    came late must not be known before.

    Args:
        shop: made the clicks.
        clicks: CLICK[messages], by offset.
        events: of the engine.
        chosen: bool[events], which are asked for.
    """
    rows = clicks[events.offset]
    same = events.session[1:] == events.session[:-1]
    place = rows["position"].astype(np.int64)
    turned = same & ((events.time_ms[1:] < events.time_ms[:-1]) | ((events.time_ms[1:] == events.time_ms[:-1]) & (place[1:] < place[:-1])))
    disordered = np.zeros(len(events.purchase_position), np.bool_)
    disordered[events.session[1:][turned]] = True
    wanted = np.zeros(len(disordered), np.bool_)
    wanted[events.session[chosen]] = True
    found = np.full(len(rows), np.nan)
    plain = np.flatnonzero((wanted & ~disordered)[events.session])
    if len(plain):
        part = rows[plain].copy()
        part["session"] = events.session[plain]
        found[plain] = posteriors(shop, part)
    mixed = np.flatnonzero(chosen & disordered[events.session])
    if len(mixed):
        length = events.position[mixed]
        which = np.repeat(mixed - length + 1, length) + np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        part = rows[which].copy()
        number = np.repeat(np.arange(len(mixed)), length)
        part["session"] = number
        said = posteriors(shop, part)
        order = np.lexsort((part["position"], part["time_ms"], number))
        last = np.append(np.flatnonzero(np.diff(number[order])), len(order) - 1)
        found[mixed] = said[order[last]]
    return found
