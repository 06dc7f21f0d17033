"""How well next items are named, beside what is popular and what is seen together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stream.backtest.intent_record import Events

Ints = NDArray[np.int64]


def following(events: Events) -> Ints:
    """int64[events], hash of the next item of the session that is another than the event's own, 0 for none.

    Args:
        events: sessions adjacent, in order.
    """
    item, session = events.item, events.session
    some = np.flatnonzero(item != 0)
    out = np.zeros(len(item), np.int64)
    if not len(some):
        return out
    shown, owner = item[some], session[some]
    # Runs of the same item in the same session: what follows a run is what follows each of its events.
    begins = np.concatenate([[True], (shown[1:] != shown[:-1]) | (owner[1:] != owner[:-1])])
    run = np.cumsum(begins) - 1
    first = np.flatnonzero(begins)
    after = np.zeros(len(first), np.int64)
    same = owner[first[1:]] == owner[first[:-1]]
    after[:-1][same] = shown[first[1:]][same]
    out[some] = after[run]
    return out


def popular(item: Ints, most: int) -> Ints:
    """int64[most], the items seen most, 0 where there are fewer.

    Args:
        item: int64[n], hashes.
        most: how many.
    """
    seen, times = np.unique(item, return_counts=True)
    top = seen[np.lexsort((seen, -times))][:most]
    return np.concatenate([top, np.zeros(most - len(top), np.int64)])


def together(item: Ints, session: Ints, asked: Ints, most: int) -> Ints:
    """int64[asked, most], items that most sessions had beside the one asked for, filled up with what is popular.

    Args:
        item: int64[n], hashes of what was seen.
        session: int64[n].
        asked: int64[m], hashes.
        most: how many.
    """
    names, column = np.unique(item, return_inverse=True)
    _, row = np.unique(session, return_inverse=True)
    seen = sparse.csr_matrix((np.ones(len(item), np.float32), (row, column)))
    seen.data[:] = 1  # once a session
    usual = popular(item, most + 1)
    found = np.zeros((len(asked), most), np.int64)
    which, place = np.unique(asked, return_inverse=True)
    at = np.minimum(np.searchsorted(names, which), len(names) - 1)
    pairs = seen.T.tocsr()
    for number, (hash_, index) in enumerate(zip(which.tolist(), at.tolist(), strict=True)):
        told = np.zeros(0, np.int64)
        if names[index] == hash_:
            counted = (pairs[index] @ seen).tocoo()
            other = counted.col != index
            told = names[counted.col[other]][np.lexsort((counted.col[other], -counted.data[other]))][:most]
        rest = usual[(usual != hash_) & ~np.isin(usual, told)]
        told = np.concatenate([told, rest])[:most]
        found[place == number, : len(told)] = told
    return found


def next_items(events: Events, rows: Ints, cuts: tuple[int, ...]) -> dict[str, Any]:
    """How often the next other item of the session was among those named, and the mean of one over its rank; beside it the same of what is
    popular and of what is seen together, both counted anew at each cut.

    Args:
        events: recorded.
        rows: int64[n], which are scored.
        cuts: event times, ascending.
    """
    after = following(events)
    mine = rows[(events.item[rows] != 0) & (after[rows] != 0)]
    named = events.named.shape[1]
    if not len(mine):
        return {"n": 0, "named": named, "methods": {}}
    some = events.item != 0
    said = {
        "nowcart": events.named[mine],
        "popular": np.zeros((len(mine), named), np.int64),
        "together": np.zeros((len(mine), named), np.int64),
    }
    bounds = [*cuts, np.iinfo(np.int64).max]
    for cut, until in zip(bounds[:-1], bounds[1:], strict=True):
        here = np.flatnonzero((events.time_ms[mine] >= cut) & (events.time_ms[mine] < until))
        past = np.flatnonzero(some & (events.time_ms < cut))
        if not len(here) or not len(past):
            continue
        usual = np.broadcast_to(popular(events.item[past], named + 1), (len(here), named + 1))
        others = np.argsort(usual == events.item[mine[here]][:, None], axis=1, kind="stable")  # one's own item goes to the end
        said["popular"][here] = np.take_along_axis(usual, others, axis=1)[:, :named]
        said["together"][here] = together(events.item[past], events.session[past], events.item[mine[here]], named)
    methods = {}
    for name, found in said.items():
        hit = found == after[mine][:, None]
        methods[name] = {
            "hit_rate": float(hit.any(axis=1).mean()),
            "mrr": float((hit / np.arange(1, named + 1)).sum(axis=1).mean()),
        }
    return {"n": len(mine), "named": named, "methods": methods}
