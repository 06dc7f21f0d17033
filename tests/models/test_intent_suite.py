"""The conformance suite of intent models, and what the scorer adds."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import models.intent
from models.device import DeviceError
from models.intent.scorer import IntentScorer
from models.protocol import IntentModel, IntentSpec, Ints, Scores, SessionRuns, State
from models.registry import INTENT
from tests.models.test_demand_suite import same

FEATURES = 16
POSITIONS = (1, 2, 3, 5, 10)
every = pytest.mark.parametrize("name", sorted(INTENT))


def fresh(name: str, capacity: int) -> IntentModel:
    model = INTENT[name](IntentSpec(FEATURES, POSITIONS))
    model.resize(capacity)
    return model


def sessions(count: int, seed: int, longest: int = 12) -> tuple[SessionRuns, Ints, Ints]:
    """Sessions whose buyers show it in one counter: (events, purchase positions, cart positions)."""
    random = np.random.default_rng(seed)
    length = random.integers(1, longest + 1, count)
    slot = np.repeat(np.arange(count), length)
    position = np.arange(len(slot)) - np.repeat(np.cumsum(length) - length, length) + 1
    keen = random.random(count) < 0.3
    x = random.normal(size=(len(slot), FEATURES)).astype(np.float32)
    x[:, 0] = np.log1p(position)
    x[:, 1] = 0.5 * x[:, 1] + keen[slot]
    buys = random.random(count) < np.where(keen, 0.4, 0.03)
    carts = random.random(count) < np.where(keen, 0.6, 0.1)
    return SessionRuns(slot, position, x), np.where(buys, length, 0), np.where(carts, (length + 1) // 2, 0)


def only(runs: SessionRuns, rows: NDArray[np.bool_] | Ints) -> SessionRuns:
    return SessionRuns(runs.slot[rows], runs.position[rows], runs.x[rows])


def state_of(model: IntentModel) -> State:
    """All of it, copied."""
    return {name: array.copy() for name, array in model.slot_state().items()} | model.shared_state()


def trained(name: str, rounds: int = 6, count: int = 400) -> IntentModel:
    model = fresh(name, count)
    for seed in range(rounds):
        runs, bought, carted = sessions(count, seed)
        model.score(runs)
        model.settle(np.arange(count), bought, carted)
    return model


def check(found: Scores, rows: int) -> None:
    for p in (found.purchase, found.cart):
        assert p.shape == (rows,)
        assert p.dtype == np.float32
        assert ((p > 0) & (p < 1)).all()


def test_every_model_is_registered() -> None:
    found = set()
    for module in pkgutil.iter_modules(models.intent.__path__):
        for _, kind in inspect.getmembers(importlib.import_module(f"models.intent.{module.name}"), inspect.isclass):
            if all(hasattr(kind, method) for method in ("score", "settle", "resize")):
                found.add(kind)
    assert found == set(INTENT.values())
    assert all(INTENT[name].name == name for name in INTENT)


@every
def test_says_the_prior_before_it_has_learnt(name: str) -> None:
    model = fresh(name, 50)
    runs, _, _ = sessions(50, 0)
    found = model.score(runs)
    check(found, len(runs.slot))
    np.testing.assert_allclose(found.purchase, 0.03, rtol=1e-4)
    np.testing.assert_allclose(found.cart, 0.08, rtol=1e-4)
    check(model.score(only(runs, np.array([], dtype=np.int64))), 0)
    model.settle(np.array([], dtype=np.int64), np.array([], dtype=np.int64), np.array([], dtype=np.int64))


@every
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_cuts_and_company_do_not_matter(name: str, data: st.DataObject) -> None:
    """Each session's events in one call with all others, or cut anywhere and with any others: the same bits."""
    if name not in _STATES:
        _STATES[name] = state_of(trained(name))
    runs, _, _ = sessions(40, 99)
    one, two = fresh(name, 400), fresh(name, 400)
    one.restore(_STATES[name])
    two.restore(_STATES[name])
    together = one.score(runs)
    cuts = np.array(data.draw(st.lists(st.integers(0, 12), min_size=40, max_size=40)))
    first = runs.position <= cuts[runs.slot]
    found = np.empty(len(runs.slot), np.float32)
    for part in (first, ~first):
        found[part] = two.score(only(runs, part)).purchase
    assert found.tobytes() == together.purchase.tobytes()
    assert same(state_of(one), state_of(two))


_STATES: dict[str, dict[str, NDArray[np.generic]]] = {}


@every
def test_state_round_trip(name: str) -> None:
    model = trained(name)
    runs, bought, carted = sessions(400, 50)
    half = runs.position <= 4
    model.score(only(runs, half))  # live sessions are in the state too
    other = fresh(name, 1)
    other.restore(state_of(model))
    for each in (model, other):
        each.score(only(runs, ~half))
        each.settle(np.arange(400), bought, carted)
    assert same(state_of(model), state_of(other))
    again, _, _ = sessions(400, 51)
    assert model.score(again).purchase.tobytes() == other.score(again).purchase.tobytes()


@every
def test_a_settled_slot_is_a_fresh_one(name: str) -> None:
    model = trained(name)
    runs, bought, carted = sessions(3, 7)
    model.score(runs)
    model.settle(np.arange(3), bought, carted)
    x = np.ones((4, FEATURES), np.float32)
    position = np.arange(1, 5)
    used = model.score(SessionRuns(np.zeros(4, np.int64), position, x))
    never = model.score(SessionRuns(np.full(4, 399), position, x))
    assert used.purchase.tobytes() == never.purchase.tobytes()


@every
def test_nothing_is_learnt_of_what_has_not_ended(name: str) -> None:
    model = trained(name)
    runs, _, _ = sessions(200, 8)
    probe, _, _ = sessions(50, 9)
    shifted = SessionRuns(probe.slot + 300, probe.position, probe.x)
    before = model.score(shifted)
    for _ in range(3):
        model.score(runs)
    assert model.score(shifted).purchase.tobytes() == before.purchase.tobytes()


@every
def test_learns_who_buys(name: str) -> None:
    model = trained(name, rounds=250 if name == "tree" else 25)  # the tree learns of one session in a hundred
    runs, bought, _ = sessions(400, 1_000)
    found = model.score(runs).purchase.astype(np.float64)
    risk = (runs.position < bought[runs.slot]) | (bought[runs.slot] == 0)
    label = bought[runs.slot][risk] > 0
    loss = -np.log(np.where(label, found[risk], 1 - found[risk])).mean()
    base = label.mean()
    assert loss < 0.93 * -(base * np.log(base) + (1 - base) * np.log(1 - base))
    assert abs(found[risk].mean() - base) < 0.35 * base


@every
def test_what_came_after_the_purchase_teaches_nothing(name: str) -> None:
    """Features from the purchase on would give it away: wild ones there must change nothing."""
    one, two = fresh(name, 100), fresh(name, 100)
    runs, bought, carted = sessions(100, 3)
    bought = np.where(bought > 0, 1, 0)
    carted = np.where(bought > 0, 1, 0)
    wild = runs.x.copy()
    wild[(bought[runs.slot] > 0)] += 5
    one.score(runs)
    two.score(SessionRuns(runs.slot, runs.position, wild))
    for model in (one, two):
        model.settle(np.arange(100), bought, carted)
    probe, _, _ = sessions(100, 4)
    left, right = one.score(probe).purchase, two.score(probe).purchase
    assert left.tobytes() == right.tobytes()
    assert left.mean() < 0.03  # only sessions that did not buy were at risk


@every
def test_memory_is_bounded(name: str) -> None:
    model = trained(name, rounds=2)
    before = sum(array.nbytes for array in state_of(model).values())
    for seed in range(4):
        runs, bought, carted = sessions(400, seed, longest=60)
        model.score(runs)
        model.settle(np.arange(400), bought, carted)
    assert sum(array.nbytes for array in state_of(model).values()) == before
    assert before < 800 * 400 + 500_000


@every
def test_extreme_features(name: str) -> None:
    model = trained(name)
    x = np.full((3, FEATURES), 1e6, np.float32)
    x[1] = -1e6
    check(model.score(SessionRuns(np.arange(3), np.ones(3, np.int64), x)), 3)
    model.settle(np.arange(3), np.array([0, 2, 0]), np.array([0, 0, 2]))
    runs, _, _ = sessions(30, 5)
    check(model.score(runs), len(runs.slot))


@every
def test_a_session_of_100_000_events(name: str) -> None:
    model = trained(name)
    random = np.random.default_rng(6)
    x = random.normal(size=(100_000, FEATURES)).astype(np.float32)
    position = np.arange(1, 100_001)
    slot = np.zeros(100_000, np.int64)
    start = time.process_time()
    found = model.score(SessionRuns(slot, position, x))
    assert time.process_time() - start < 5  # about .25 s; generous for a busy machine
    check(found, 100_000)
    tail = model.score(SessionRuns(np.array([0]), np.array([100_001]), x[:1]))
    check(tail, 1)


def test_the_recurrent_model_remembers() -> None:
    """The same last event after different pasts: only a model with memory tells them apart."""
    model = trained("recurrent")
    random = np.random.default_rng(7)
    x = random.normal(size=(6, FEATURES)).astype(np.float32)
    x[5] = x[2]
    found = model.score(SessionRuns(np.array([0, 0, 0, 1, 1, 1]), np.array([1, 2, 3, 1, 2, 3]), x)).purchase
    assert found[2] != found[5]
    slow = model.score(SessionRuns(np.array([2]), np.array([1]), x[2:3])).purchase
    assert slow[0] != found[2]


def test_the_scorer_is_about_as_good_as_its_best() -> None:
    alone = {name: fresh(name, 400) for name in INTENT}
    losses = dict.fromkeys(INTENT, 0.0)
    for seed in range(40):
        runs, bought, carted = sessions(400, seed)
        risk = (runs.position < bought[runs.slot]) | (bought[runs.slot] == 0)
        label = bought[runs.slot][risk] > 0
        for name, model in alone.items():
            p = model.score(runs).purchase[risk].astype(np.float64)
            if seed >= 10:
                losses[name] += float(-np.log(np.where(label, p, 1 - p)).sum())
            model.settle(np.arange(400), bought, carted)
    assert losses["scorer"] < 1.01 * min(losses["logistic"], losses["recurrent"])


def test_falls_back_where_torch_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise DeviceError("no such device")

    monkeypatch.setattr("models.intent.scorer.RecurrentIntent", broken)
    scorer = IntentScorer(IntentSpec(FEATURES, POSITIONS))
    scorer.resize(60)
    assert scorer.version == "builtin-2-logistic"
    runs, bought, carted = sessions(60, 0)
    check(scorer.score(runs), len(runs.slot))
    scorer.settle(np.arange(60), bought, carted)
    check(scorer.score(runs), len(runs.slot))
    with pytest.raises(ValueError, match="rebuild"):
        IntentScorer(IntentSpec(FEATURES, POSITIONS)).restore({})


@pytest.mark.parametrize("positions", [(), (2, 1), (0, 1), (1, 1)])
def test_positions_must_ascend(positions: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="positions must ascend"):
        IntentScorer(IntentSpec(FEATURES, positions))
