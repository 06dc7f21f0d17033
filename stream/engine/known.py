"""What a spike detector needs to know of a closed bucket beside its counts: stock, prices, promotions and events that were announced."""

from __future__ import annotations

import numpy as np

from models.protocol import Panel
from stream.engine.announced import CATEGORY, CLOSED, STOCK
from stream.engine.columns import Bools, Floats, Ints
from stream.engine.spikes import Bucket

_PRICES = ("price", "regular_price")
_RARE = 0.25
"""An event is on in a smaller share of the buckets than this; what is on more often is learnt as usual."""


def seen_bucket(panel: Panel, lines: Ints, forecast: Floats) -> Bucket:
    """The newest closed bucket as a spike detector sees it.

    Args:
        panel: of all live items.
        lines: int64[n], order lines.
        forecast: float64[n], units that were forecast one bucket ago; NaN where nothing was.
    """
    slots, closed = panel.slots, panel.closed
    price = np.full(len(slots), np.nan)
    promoted: Bools = np.zeros(len(slots), np.bool_)
    event: Bools = np.zeros(len(slots), np.bool_)
    for name in panel.known:
        if name in (*_PRICES[1:], STOCK, CLOSED):
            continue
        ring = panel.known[name]
        row = ring[closed % len(ring)]
        value = np.repeat(row, len(slots)) if len(row) == 1 else row[slots]
        if name == "price":
            price = np.log(np.where(value > 0, value, np.nan).astype(np.float64))
        elif name == "promotion" or name.startswith("promotion."):
            promoted |= np.nan_to_num(value) > 0
        else:
            on = np.flatnonzero(np.nan_to_num(value) != 0)
            if len(on):
                event[on] = _rare(panel, name, slots[on])
    category = panel.statics.get(CATEGORY)
    group = np.zeros(len(slots), np.int64) if category is None else np.unique(category[slots], return_inverse=True)[1].astype(np.int64)
    without = 0.0 if panel.censored is None else panel.censored[closed % len(panel.censored), slots].astype(np.float64)
    return Bucket(
        slots,
        closed,
        lines.astype(np.float64),
        forecast,
        panel.age(),
        group,
        np.ones(len(slots)) - without,
        price,
        promoted,
        event,
        panel.shut is not None and bool(panel.shut[closed % len(panel.shut)]),
    )


def _rare(panel: Panel, name: str, slots: Ints) -> Bools:
    """bool[m], the covariate is zero or unknown in most buckets that its ring holds."""
    ring = panel.known[name]
    cells = np.repeat(ring, len(slots), axis=1) if ring.shape[1] == 1 else ring[:, slots]
    return np.asarray((np.nan_to_num(cells) != 0).mean(axis=0) < _RARE)
