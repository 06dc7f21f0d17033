"""The simulated shop's truth: its oracle against brute force, its rates against what is sent."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest

from stream.simulate import Rates, Shop, ShopSpec, Truth
from stream.simulate.intent import BOT, END, KINDS, PURCHASE, VIEW
from stream.simulate.oracle import posterior, posteriors
from stream.simulate.spec import HOUR_MS
from tests.test_simulate import SMALL, START, clicks_of, gather, sessions_of

# ---- The oracle ----


def brute_force(shop: Shop, events: list[tuple[int, str, str | None]], paths: int, seed: int) -> tuple[float, float]:
    """(P(a purchase follows | events), its standard error): hidden paths drawn blindly, weighted by what they would have emitted."""
    intent, rng = shop.intents[0], np.random.default_rng(seed)
    item_number = {name: i for i, name in enumerate(shop.catalog.ids)}
    slot_weights = shop.plan.hour(events[0][0] // HOUR_MS).weights[events[0][0] % HOUR_MS // shop.spec.slot_ms]
    category = shop.catalog.category

    def step(states: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.asarray((rng.random(len(states))[:, None] > np.cumsum(rows, axis=1)[states]).sum(axis=1))

    state = step(np.zeros(paths, dtype=int), intent.start[None])
    weight = np.ones(paths)
    seen: str | None = None
    for at, (time, kind, item) in enumerate(events):
        if at:
            state = step(state, intent.move)
            weight[state == END] = 0
            state[state == END] = BOT
        chance = np.zeros(8)
        for s in range(8):
            chance[s] = intent.emit[s, KINDS.index(kind)]
            if at:
                gap = NormalDist(intent.gap_mu[s], intent.gap_sigma[s])
                ms = time - events[at - 1][0]
                if ms >= intent.gap_max_ms:
                    chance[s] *= 1 - gap.cdf(math.log(intent.gap_max_ms))
                elif ms <= intent.gap_min_ms:
                    chance[s] *= gap.cdf(math.log(intent.gap_min_ms))
                else:
                    chance[s] *= gap.pdf(math.log(ms))
            if kind == "view" and seen is not None and item is not None:
                here, there = item_number[item], item_number[seen]
                shelf = slot_weights[category == category[here]].sum()
                chance[s] *= (
                    intent.relate[s, 0] * (here == there)
                    + intent.relate[s, 1] * (category[here] == category[there]) * slot_weights[here] / shelf
                    + intent.relate[s, 2] * slot_weights[here] / slot_weights.sum()
                )
        if item is not None:
            seen = item
        weight *= chance[state]
    bought = np.zeros(paths, dtype=bool)
    alive = np.flatnonzero(weight)
    while len(alive):
        following = step(state[alive], intent.move)
        state[alive] = following
        alive, following = alive[following != END], following[following != END]
        bought[alive] |= rng.random(len(alive)) < intent.emit[following, PURCHASE]
    p = float((weight * bought).sum() / weight.sum())
    return p, float(np.sqrt((weight**2 * (bought - p) ** 2).sum()) / weight.sum())


def test_the_posterior_is_what_brute_force_finds() -> None:
    shop = Shop(ShopSpec(items=200, rate=20.0, seed=9, late_share=0, malformed_share=0, stockouts_per_day=0, conversion=0.12))
    clicks = clicks_of(list(shop.events(START + 20 * 60_000, drain=True)))
    by_session = defaultdict(list)
    for row in clicks[np.lexsort((clicks["position"], clicks["session"]))]:
        item = None if row["item"] < 0 else shop.catalog.ids[row["item"]]
        by_session[int(row["session"])].append((int(row["time_ms"]), KINDS[row["kind"]], item))
    prefixes: dict[tuple[int, tuple[str, ...]], list[tuple[int, str, str | None]]] = {}
    for events in by_session.values():
        open_events = events[: next((i for i, e in enumerate(events) if e[1] == "purchase"), len(events))]
        for n in (1, 2, 3, 5):
            if len(open_events) >= n:
                prefixes.setdefault((n, tuple(kind for _, kind, _ in open_events[:n])), open_events[:n])
    varied = [events for (n, kinds), events in sorted(prefixes.items()) if n < 5 or "cart" in kinds][::7][:14]
    assert len(varied) >= 8
    for events in varied:
        expected, error = brute_force(shop, events, 60_000, 1)
        assert posterior(shop, events)[-1] == pytest.approx(expected, abs=5 * error + 1e-4), events


@pytest.mark.parametrize("outcome", ["purchase", "cart"])
def test_the_posterior_means_what_it_says(outcome: str) -> None:
    kind = {"purchase": PURCHASE, "cart": 2}[outcome]
    change = (START + HOUR_MS, 0.5)
    shop = Shop(ShopSpec(items=300, rate=60.0, seed=4, late_share=0.0, conversion=0.08, conversion_change=change))
    clicks = clicks_of(list(shop.events(START + 2 * HOUR_MS, drain=True)))
    clicks = clicks[clicks["junk"] == 0]
    clicks = clicks[np.lexsort((clicks["position"], clicks["session"]))]
    p = posteriors(shop, clicks, outcome)
    first_hit: dict[int, int] = {}
    for session, position, what in zip(clicks["session"].tolist(), clicks["position"].tolist(), clicks["kind"].tolist(), strict=True):
        if what == kind:
            first_hit.setdefault(session, position)
    hit = np.array([first_hit.get(session, -1) for session in clicks["session"].tolist()])
    risk = (hit < 0) | (clicks["position"] < hit)
    assert (p[~risk] == 1).all()
    start = clicks["time_ms"][clicks["position"] == 0][np.cumsum(clicks["position"] == 0) - 1]
    for halved in (False, True):
        for position in (0, 1, 2, 4, 9):
            chosen = risk & (clicks["position"] == position) & ((start >= change[0]) == halved)
            said, came = p[chosen], hit[chosen] >= 0
            for low, high in ((0, 1), (0, np.median(said)), (np.quantile(said, 0.9), 1)):
                part = (said >= low) & (said <= high)
                spread = math.sqrt((said[part] * (1 - said[part])).sum())
                assert abs(came[part].sum() - said[part].sum()) < 4.5 * spread + 1, (halved, position, low)
    mean = (hit[risk] >= 0).mean()
    assert -(np.log(np.where(hit >= 0, p, 1 - p))[risk]).mean() < 0.95 * -(mean * math.log(mean) + (1 - mean) * math.log(1 - mean))


def test_the_posterior_ignores_order_of_rows_and_survives_missing_ones() -> None:
    shop = Shop(SMALL)
    clicks = clicks_of(list(shop.events(START + HOUR_MS)))
    order = np.random.default_rng(0).permutation(len(clicks))
    p, shuffled = posteriors(shop, clicks), posteriors(shop, clicks[order])
    assert np.array_equal(np.isnan(p), clicks["junk"] > 0)
    np.testing.assert_allclose(shuffled, p[order], rtol=1e-9)
    some = posteriors(shop, clicks[(clicks["junk"] == 0) & (clicks["position"] % 3 > 0)])
    assert ((some >= 0) & (some <= 1)).all()
    assert posterior(shop, [(START, "view", "p00001"), (START, "view", "p00001"), (START - 5, "cart", "p00001")]).shape == (3,)


# ---- Rates ----


def tally(shop: Shop, until_ms: int) -> tuple[np.ndarray, np.ndarray]:
    """(lines sent, lines expected), each [hours, items]."""
    truth = Truth(shop)
    for chunk in shop.events(until_ms):
        truth.add(chunk)
    expected = np.array([lines for _, lines in Rates(shop).hourly(START, until_ms)])
    sent = np.zeros_like(expected)
    bucket, item, counts = truth.counts()
    hour = (bucket - START) // HOUR_MS
    inside = (hour >= 0) & (hour < len(sent))
    np.add.at(sent, (hour[inside], item[inside]), counts[inside, Truth.COUNTS.index("lines")])
    return sent, expected


def test_lines_are_poisson_around_the_rates() -> None:
    shop = Shop(
        ShopSpec(
            items=150, rate=25.0, seed=8, conversion=0.2, late_share=0.0, stockouts_per_day=0.3, promotions_per_day=0.2, spikes_per_day=0.2,
            promotion_lead_hours=(1, 3), conversion_change=(START + 12 * HOUR_MS, 0.5),
        )
    )  # fmt: skip
    until = START + 24 * HOUR_MS
    sent, expected = tally(shop, until)
    sent, expected = sent[:-2], expected[:-2]  # orders of the last minutes have not all arrived
    assert abs(sent.sum() - expected.sum()) < 4 * math.sqrt(expected.sum())
    for sums in (1, 0):
        gap = (sent.sum(sums) - expected.sum(sums)) / np.sqrt(expected.sum(sums))
        assert np.abs(gap).max() < 4.8
        assert 0.75 < gap.std() < 1.3
    # The same within what is out of the ordinary: spikes, promotions and the substitutes of what is out.
    kinds = {"spikes": shop.plan.spikes, "promotions": shop.plan.promotions, "stockouts": shop.plan.stockouts}
    for name, entries in kinds.items():
        cells = {
            (hour, entry.item)
            for entry in entries  # type: ignore[attr-defined]
            for hour in range((entry.start_ms - START) // HOUR_MS, min(len(sent), (entry.end_ms - START) // HOUR_MS + 1))
        }
        assert len(cells) > 20, name
        at = tuple(np.array(sorted(cells)).T)
        assert abs(sent[at].sum() - expected[at].sum()) < 4.5 * math.sqrt(expected[at].sum()) + 1, name


def test_nothing_is_bought_that_is_out_of_stock() -> None:
    shop = Shop(ShopSpec(items=40, rate=30.0, seed=3, conversion=0.2, stockouts_per_day=3.0, stockout_hours=(1, 4), spike_focus=1.0))
    chunks = list(shop.events(START + 8 * HOUR_MS))
    clicks = clicks_of(chunks)
    orders = np.concatenate([chunk.sources["orders"].rows for chunk in chunks])
    orders = orders[(orders["quantity"] > 0) & ~orders["cancelled"]]
    assert len(shop.plan.stockouts) > 10
    looks = 0
    for stockout in shop.plan.stockouts:
        for rows in (orders, clicks[clicks["kind"] == PURCHASE]):
            during = (rows["time_ms"] >= stockout.start_ms) & (rows["time_ms"] < stockout.end_ms)
            assert not (during & (rows["item"] == stockout.item)).any()
        during = (clicks["time_ms"] >= stockout.start_ms) & (clicks["time_ms"] < stockout.end_ms)
        looks += int((during & (clicks["item"] == stockout.item) & (clicks["kind"] == VIEW)).sum())
    assert looks > 100


def test_offers_announce_what_then_holds() -> None:
    shop = Shop(
        ShopSpec(
            items=80,
            rate=20.0,
            seed=3,
            promotions_per_day=1.0,
            promotion_lead_hours=(1, 4),
            promotion_hours=(2, 6),
            price_changes_per_day=1.0,
        )
    )
    until = START + 10 * HOUR_MS
    chunks = list(shop.events(until, drain=True))
    offers = [json.loads(value) for value in gather(chunks, "offers")[1]]
    assert [offer["sku"] for offer in offers[:80]] == shop.catalog.ids
    promised = [offer for offer in offers if "promo" in offer]
    assert len(promised) > 10
    clicks = clicks_of(chunks)
    starts = {int(s["session"]): int(s["start_ms"]) for s in sessions_of(chunks)}
    begun = np.array([starts[int(s)] for s in clicks["session"]])
    checked = 0
    for offer in promised:
        assert offer["announced"] < offer["valid_from"] < offer["valid_until"]
        assert offer["price"] < offer["list_price"]
        item = shop.catalog.ids.index(offer["sku"])
        shown = (clicks["item"] == item) & (begun >= offer["valid_from"]) & (begun < offer["valid_until"]) & (clicks["kind"] == VIEW)
        assert set(clicks["price_cents"][shown].tolist()) <= {round(offer["price"] * 100)}
        checked += int(shown.sum())
    assert checked > 100
    # Demand answers: lift and elasticity stand in the weights.
    promotion = next(p for p in shop.plan.promotions if p.start_ms % HOUR_MS)
    hour = shop.plan.hour(promotion.start_ms // HOUR_MS)
    at = promotion.start_ms % HOUR_MS // shop.spec.slot_ms
    before, after = hour.weights[at - 1, promotion.item], hour.weights[at, promotion.item]
    effect = promotion.lift * (1 - promotion.discount) ** shop.catalog.elasticity[promotion.item]
    assert after / before == pytest.approx(effect, rel=0.15)


def test_spikes_are_as_many_and_as_strong_as_asked() -> None:
    shop = Shop(ShopSpec(items=1_000, spikes_per_day=0.02, seed=6))
    shop.plan.extend(START // HOUR_MS + 10 * 24 - 1)
    spikes = shop.plan.spikes
    assert len(spikes) == pytest.approx(200, abs=60)
    assert {spike.kind for spike in spikes} == {"sudden", "slow", "drop"}
    for spike in spikes:
        assert spike.start_ms % shop.spec.slot_ms == spike.end_ms % shop.spec.slot_ms == 0
        assert {"sudden": 2 <= spike.factor <= 20, "slow": 2 <= spike.factor <= 9, "drop": 0.05 <= spike.factor <= 0.334}[spike.kind]
    slow = next(spike for spike in spikes if spike.kind == "slow")
    quiet = Shop(shop.spec, spikes_per_day=0.0)
    hours = range(slow.start_ms // HOUR_MS, slow.end_ms // HOUR_MS)
    strength = [shop.plan.hour(h).weights[-1, slow.item] / quiet.plan.hour(h).weights[-1, slow.item] for h in hours]
    assert strength[-1] == pytest.approx(slow.factor, rel=0.5)  # prices may differ in between
    assert all(later >= earlier * 0.7 for earlier, later in pairwise(strength))
