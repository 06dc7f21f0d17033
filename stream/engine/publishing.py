"""Which intent records are published, and in which order they stand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream.engine.columns import Bools, IntentColumns, Ints

_ROUNDS_AT_ONCE = 64


def choose_rows(
    delta: float,
    thresholds: Sequence[float],
    run: Ints,
    starts: Ints,
    stops: Ints,
    p: NDArray[np.float32],
    turned: Bools,
    published: NDArray[np.float32],
) -> tuple[Bools, NDArray[np.float32]]:
    """Which rows publish: decided event by event (against what was last published), or the records would depend on the batches.

    Args:
        delta: a probability that has moved so far is published.
        thresholds: so is one that has crossed one of these.
        run: int64[rows], whose rows they are; ascending.
        starts: int64[runs], first row of each.
        stops: int64[runs], one past the last.
        p: float32[rows].
        turned: bool[rows], the session has just bought.
        published: float32[runs], what was last published of each.

    Returns:
        bool[rows], and what is then last published of each run.
    """
    delta32 = np.float32(delta)
    edges = np.array(thresholds, dtype=np.float32)
    published = published.copy()
    chosen = np.zeros(len(run), np.bool_)
    level = np.searchsorted(edges, p, side="right")
    lengths = stops - starts
    by_length = np.argsort(-lengths, kind="stable")
    sorted_lengths = -lengths[by_length]
    rounds = int(lengths.max())
    for k in range(min(rounds, _ROUNDS_AT_ONCE)):
        runs = by_length[: np.searchsorted(sorted_lengths, -k, side="left")]
        rows = starts[runs] + k
        value, before = p[rows], published[runs]
        moved = (np.abs(value - before) >= delta32) | turned[rows] | (level[rows] != np.searchsorted(edges, before, side="right"))
        chosen[rows] = moved
        published[runs[moved]] = value[moved]
    # What is left are a few very long sessions: one at a time.
    for r in by_length[: np.searchsorted(sorted_lengths, -_ROUNDS_AT_ONCE, side="left")].tolist():
        before, at = published[r], starts[r] + _ROUNDS_AT_ONCE
        before_level = int(np.searchsorted(edges, before, side="right"))
        piece = slice(at, stops[r])
        for i, (value, turn, lev) in enumerate(zip(p[piece], turned[piece].tolist(), level[piece].tolist(), strict=True)):
            if turn or lev != before_level or abs(value - before) >= delta32:
                chosen[at + i] = True
                before, before_level = value, lev
        published[r] = before
    return chosen, published


def reorder(parts: Sequence[IntentColumns], order: Ints) -> IntentColumns:
    """The records of all parts in the given order.

    Args:
        parts: at least one.
        order: int64[records], places in the parts put one after the other.
    """
    picks = order.tolist()
    sessions = [name for part in parts for name in part.session]
    users = [name for part in parts for name in (part.user or [])]
    items = None
    if parts[0].next_items is not None:
        told = [items for part in parts for items in (part.next_items or [[]] * len(part))]
        items = [told[i] for i in picks]
    return IntentColumns(
        session=[sessions[i] for i in picks],
        user=[users[i] for i in picks],
        issued_at_ms=np.concatenate([p.issued_at_ms for p in parts])[order],
        events=np.concatenate([p.events for p in parts])[order],
        p_purchase=np.concatenate([p.p_purchase for p in parts])[order],
        p_cart=np.concatenate([p.p_cart for p in parts])[order],
        ended=np.concatenate([p.ended for p in parts])[order],
        purchased=np.concatenate([p.purchased for p in parts])[order],
        bot=np.concatenate([p.bot for p in parts])[order],
        model_version=parts[0].model_version,
        next_items=items,
    )
