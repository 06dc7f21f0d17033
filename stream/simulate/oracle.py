"""What can be known about a session from its events, by the forward algorithm over the shop's own model: the yardstick for
intent models. Knows the simulator's parameters; imports no model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream.simulate.intent import ANY, CART, CATEGORY, END, KINDS, PURCHASE, REMOVE, SAME, VIEW, Intent
from stream.simulate.sessions import CLICK, Records
from stream.simulate.shop import Shop
from stream.simulate.spec import HOUR_MS

Floats = NDArray[np.float64]

_BATCH_EVENTS = 200_000


def posterior(shop: Shop, events: Sequence[tuple[int, str, str | None]], outcome: str = "purchase") -> Floats:
    """P(`outcome` before the session ends | its events so far), after each of one session's events.

    Args:
        shop: the shop that the session is of.
        events: (time in ms, kind, item or None) each, in order of time; kinds as in intent.KINDS.
        outcome: purchase | cart. Once it has happened the answer is 1.
    """
    number = {name: i for i, name in enumerate(shop.catalog.ids)}
    rows = np.zeros(len(events), dtype=CLICK)
    rows["time_ms"] = [time for time, _, _ in events]
    rows["kind"] = [KINDS.index(kind) for _, kind, _ in events]
    rows["item"] = [-1 if item is None else number[item] for _, _, item in events]
    rows["position"] = np.arange(len(events))
    return posteriors(shop, rows, outcome)


def posteriors(shop: Shop, clicks: Records, outcome: str = "purchase") -> Floats:
    """float64[n], P(`outcome` before the session ends | the session's events up to this one), for each click.

    Events that are missing from `clicks` (not yet arrived, say) are taken as never having been.

    Args:
        shop: the shop that the clicks are of.
        clicks: CLICK[n], any number of sessions in any order; of each, session, time_ms, position (for equal times), kind and
            item are looked at. Unusable messages (junk) get nan.
        outcome: purchase | cart.
    """
    target = {"purchase": PURCHASE, "cart": CART}[outcome]
    result = np.full(len(clicks), np.nan)
    good = np.flatnonzero(clicks["junk"] == 0)
    order = good[np.lexsort((clicks["position"][good], clicks["time_ms"][good], clicks["session"][good]))]
    rows = clicks[order]
    firsts = np.flatnonzero(np.diff(rows["session"], prepend=-1)) if len(rows) else np.zeros(0, np.int64)
    # Sessions of one hour and one conversion share their weights and their matrices.
    slots = rows["time_ms"][firsts] // shop.spec.slot_ms
    hours = rows["time_ms"][firsts] // HOUR_MS
    conversion = np.array([shop.maker.conversion_at(int(s) * shop.spec.slot_ms) for s in slots], dtype=np.int64)
    ends = np.append(firsts[1:], len(rows))
    group = hours * 2 + conversion
    for key in np.unique(group):
        members = np.flatnonzero(group == key)
        sizes = np.cumsum(ends[members] - firsts[members])
        for part in np.split(members, np.searchsorted(sizes, np.arange(_BATCH_EVENTS, sizes[-1], _BATCH_EVENTS))):
            if len(part):
                lengths = ends[part] - firsts[part]
                which = np.repeat(firsts[part] - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
                slot = np.repeat(slots[part] % (HOUR_MS // shop.spec.slot_ms), lengths)
                hour = int(hours[part[0]])
                result[order[which]] = _forward(shop, shop.intents[int(key) % 2], target, rows[which], lengths, hour, slot)
    return result


def _forward(
    shop: Shop, intent: Intent, target: int, rows: Records, lengths: NDArray[np.int64], hour: int, slot: NDArray[np.int64]
) -> Floats:
    """float64[events], for whole sessions one after the other, all started in one hour."""
    first = np.cumsum(lengths) - lengths
    gap = np.diff(rows["time_ms"], prepend=0)
    likely = intent.emit.T[rows["kind"]] * _gap_likelihood(intent, gap) * _item_likelihood(shop, intent, rows, first, lengths, hour, slot)
    likely[first] = intent.emit.T[rows["kind"][first]]
    reach, move = intent.reach(target), intent.move[:, :END]
    answer, usual = np.empty(len(rows)), intent.visits()
    # Longest first, so that the sessions still going are a prefix.
    order = np.argsort(-lengths, kind="stable")
    going = np.searchsorted(-lengths[order], -np.arange(lengths.max()), side="left")
    belief = np.repeat(intent.start[None], len(order), axis=0)
    for step, count in enumerate(going.tolist()):
        at = first[order[:count]] + step
        belief = belief[:count] if step == 0 else belief[:count] @ move
        belief = belief * likely[at]
        total = belief.sum(axis=1, keepdims=True)
        if not total.all():
            # Something is missing before it (a purchase out of nothing): begin again from where sessions usually are.
            lost = np.flatnonzero(total[:, 0] == 0)
            belief[lost] = usual * intent.emit.T[rows["kind"][at[lost]]]
            total = belief.sum(axis=1, keepdims=True)
        belief /= total
        answer[at] = belief @ reach
    hit = np.cumsum(rows["kind"] == target)
    before = np.repeat((hit - (rows["kind"] == target))[first], lengths)
    answer[hit > before] = 1.0
    return answer


def _gap_likelihood(intent: Intent, gap: NDArray[np.int64]) -> Floats:
    """float64[events, states], up to a factor that an event's states share; the two cuts of the gaps are points of their own."""
    low, high = intent.gap_min_ms, intent.gap_max_ms
    inside = np.clip(gap, 1, None).astype(np.float64)
    z = (np.log(inside)[:, None] - intent.gap_mu) / intent.gap_sigma
    likely = np.exp(-0.5 * z * z) / intent.gap_sigma
    likely[gap <= low] = [intent.gap_cdf(s, low) for s in range(END)]
    tails = [0.5 * math.erfc((math.log(high) - intent.gap_mu[s]) / (intent.gap_sigma[s] * math.sqrt(2))) for s in range(END)]
    likely[gap >= high] = tails
    # A gap that no state could make (a clock that ran backwards) says nothing, rather than 0 / 0.
    return np.asarray(likely + 1e-300)


def _item_likelihood(
    shop: Shop, intent: Intent, rows: Records, first: NDArray[np.int64], lengths: NDArray[np.int64], hour: int, slot: NDArray[np.int64]
) -> Floats:
    """float64[events, states]: what a view's item says, after the item shown before it; 1 where it says nothing."""
    weights = shop.plan.hour(hour).weights
    item, index = rows["item"].astype(np.int64), np.arange(len(rows))
    # A purchase may be of a substitute, which was never shown.
    shows = np.isin(rows["kind"], (VIEW, CART, REMOVE))
    last = np.maximum.accumulate(np.where(shows, index, -1))
    before = np.concatenate([[-1], last[:-1]])
    tells = np.flatnonzero((rows["kind"] == VIEW) & (before >= np.repeat(first, lengths)))
    here, there, when = item[tells], item[before[tells]], slot[tells]
    category = shop.catalog.category
    shelf = np.add.reduceat(weights, shop.catalog.first[:-1], axis=1)  # float64[slots, categories]
    weight = weights[when, here]
    likely = np.ones((len(rows), END))
    likely[tells] = (
        intent.relate[:, SAME] * (here == there)[:, None]
        + intent.relate[:, CATEGORY] * (weight / shelf[when, category[here]] * (category[here] == category[there]))[:, None]
        + intent.relate[:, ANY] * (weight / weights.sum(axis=1)[when])[:, None]
    )
    return likely
