"""Parts of the intent models: calibration, the tree, training, weights that are swapped while sessions live."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.device import Lane
from models.intent.calibration import Calibrators
from models.intent.recurrent import RecurrentIntent
from models.intent.scorer import IntentScorer
from models.intent.tree import HoeffdingTree
from models.intent.weights import IntentWeights, drawn
from models.protocol import IntentSpec, SessionRuns
from models.train.intent import Sessions, Training, fit_intent


def test_calibration_follows_a_shop_that_converts_half_as_often() -> None:
    chance, made = np.random.default_rng(1), Calibrators(2)
    group = np.zeros(200, np.int64)

    def feed(factor: float, rounds: int) -> None:
        for _ in range(rounds):
            p = np.clip(chance.beta(1, 20, 200), 1e-4, 1 - 1e-4)
            bought = (chance.random(200) < p * factor).astype(np.float64)
            made.measure(group, made.apply(0, group, p), bought)
            made.learn(0, group, p, bought)

    feed(1.0, 100)
    p = np.array([0.02, 0.05, 0.2])
    assert made.apply(0, group[:3], p) == pytest.approx(p, rel=0.2)
    feed(0.5, 150)
    assert made.apply(0, group[:3], p) == pytest.approx(p / 2, rel=0.25)
    assert made.apply(0, np.ones(3, np.int64), p) == pytest.approx(p)  # the other position has seen nothing
    error = made.error()
    assert 0 < error[0] < 0.4
    assert np.isnan(error[1])


def test_the_tree_finds_a_step_and_forgets_it_when_it_is_gone() -> None:
    chance, tree = np.random.default_rng(2), HoeffdingTree(3, 0.03)
    x = chance.normal(size=(6_000, 3))
    for row in x[:3_000]:
        tree.learn(row, int(chance.random() < (0.5 if row[1] > 0.5 else 0.02)))
    assert tree.used > 1
    assert tree.feature[0] == 1
    rates = tree.rates()
    high, low = rates[tree.leaves(np.array([[0.0, 2.0, 0.0], [0.0, -2.0, 0.0]]))]
    assert high > 0.3
    assert low < 0.1
    for row in x:
        tree.learn(row, int(chance.random() < (0.02 if row[1] > 0.5 else 0.5)))
    high, low = tree.rates()[tree.leaves(np.array([[0.0, 2.0, 0.0], [0.0, -2.0, 0.0]]))]
    assert high < low


def shop(count: int, seed: int) -> Sessions:
    """Who looks at the same thing (x1) twice running buys; x2 is noise, x3 is noise that never moves."""
    chance = np.random.default_rng(seed)
    length = chance.integers(1, 8, count)
    begin = np.concatenate([[0], np.cumsum(length)])
    x = chance.normal(size=(begin[-1], 4)).astype(np.float32)
    x[:, 1] = chance.random(begin[-1]) < 0.3
    x[:, 3] = 1
    twice = np.zeros(begin[-1], np.bool_)
    twice[1:] = (x[1:, 1] > 0) & (x[:-1, 1] > 0)
    twice[begin[:-1]] = False
    owner = np.repeat(np.arange(count), length)
    keen = np.bincount(owner, weights=twice, minlength=count) > 0
    buys = chance.random(count) < np.where(keen, 0.6, 0.03)
    zeros = np.zeros(begin[-1], np.int64)
    return Sessions(x, zeros, zeros, begin, np.where(buys, length + 1, 0), np.zeros(count, np.int64))


def test_training_finds_what_order_tells_and_leaves_out_what_tells_nothing() -> None:
    weights, card = fit_intent(shop(6_000, 3), Training(epochs=6, optional=((1,), (2,), (3,))), "shop-1")
    assert card["optional_kept"] == [True, False, False]
    held = card["held_out"]
    assert held["log_loss"] < 0.9 * held["base_rate_log_loss"]
    assert weights.scale[2] == weights.scale[3] == 0
    model = RecurrentIntent(IntentSpec(4), weights=weights)
    model.resize(2)
    x = np.zeros((6, 4), np.float32)
    x[:, 1] = [1, 1, 0, 1, 0, 1]  # the same events in another order
    p = model.score(SessionRuns(np.repeat([0, 1], 3), np.tile([1, 2, 3], 2), x)).purchase
    assert p[2] > 1.2 * p[5]
    again = IntentWeights.of("shop-1", weights.arrays())
    other = RecurrentIntent(IntentSpec(4), weights=again)
    other.resize(2)
    assert other.score(SessionRuns(np.repeat([0, 1], 3), np.tile([1, 2, 3], 2), x)).purchase.tobytes() == p.tobytes()


def test_training_needs_buyers() -> None:
    nobody = shop(50, 4)
    with pytest.raises(ValueError, match="longer history"):
        fit_intent(replace(nobody, purchase_position=np.zeros(50, np.int64)))


def test_weights_must_fit() -> None:
    with pytest.raises(ValueError, match="train them anew"):
        IntentWeights.of("x", {"mean": np.zeros(4, np.float32)})
    with pytest.raises(ValueError, match="for 5 features"):
        RecurrentIntent(IntentSpec(5), weights=drawn(4))


def test_a_session_ends_on_the_weights_that_it_began_with() -> None:
    plain, swapped = IntentScorer(IntentSpec(4)), IntentScorer(IntentSpec(4))
    chance = np.random.default_rng(5)
    x = chance.normal(size=(8, 4)).astype(np.float32)
    slot, position = np.zeros(4, np.int64), np.arange(1, 5)
    other = drawn(4, "other")
    other.heads[:, 0] = 3.0
    for scorer in (plain, swapped):
        scorer.resize(2)
        scorer.score(SessionRuns(slot, position, x[:4]))
    swapped.swap(other)
    assert swapped.version == "other"
    assert plain.recurrent is not None
    assert swapped.recurrent is not None
    on = SessionRuns(slot, position + 4, x[4:])
    assert swapped.recurrent.both(on)[0].tobytes() == plain.recurrent.both(on)[0].tobytes()
    fresh = SessionRuns(np.ones(1, np.int64), np.ones(1, np.int64), x[:1])
    assert swapped.recurrent.both(fresh)[0].tobytes() != plain.recurrent.both(fresh)[0].tobytes()
    # The state carries both, until the last session of the old one has been settled.
    copy = IntentScorer(IntentSpec(4))
    copy.restore({name: array.copy() for name, array in swapped.slot_state().items()} | swapped.shared_state())
    assert copy.version == "other"
    assert copy.recurrent is not None
    assert copy.recurrent.both(on)[0].tobytes() == swapped.recurrent.both(on)[0].tobytes()
    swapped.recurrent.settle(np.array([0]), np.array([0]), np.array([0]))
    assert list(swapped.recurrent.shared_state()["bodies"]) == [1, 1]


def _live(chance: np.random.Generator, seen: np.ndarray) -> SessionRuns:
    """Events of some sessions that go on, or begin; `seen` counts each slot's."""
    slots = chance.permutation(len(seen))[: int(chance.integers(1, len(seen)))]
    length = np.minimum(chance.geometric(0.35, len(slots)), 40)
    slot = np.repeat(slots, length)
    position = np.arange(len(slot)) - np.repeat(np.cumsum(length) - length, length) + 1 + seen[slot]
    seen[slots] += length
    rows = len(slot)
    return SessionRuns(slot, position, chance.normal(size=(rows, 4)).astype(np.float32), *chance.integers(0, 10_000, (2, rows)))


def test_states_on_a_device_are_those_on_the_host_to_the_bit() -> None:
    """The road to a device, on the host: buffers that grow, slots that grow, sessions that end and are evicted, other weights, a snapshot."""
    host = RecurrentIntent(IntentSpec(4))
    away = RecurrentIntent(IntentSpec(4), lane=Lane(torch.device("cpu"), staged=True))
    chance, seen = np.random.default_rng(8), np.zeros(60, np.int64)
    for turn in range(40):
        if turn == 10:
            seen = np.concatenate([seen, np.zeros(940, np.int64)])
        if turn == 20:
            for model in (host, away):
                model.swap(drawn(4, "other", bent=True))
        if turn == 30:  # the other's state goes on here, and this one's there
            states = [{name: array.copy() for name, array in model.slot_state().items()} | model.shared_state() for model in (host, away)]
            host, away = RecurrentIntent(IntentSpec(4)), RecurrentIntent(IntentSpec(4), lane=Lane(torch.device("cpu"), staged=True))
            host.restore(states[1])
            away.restore(states[0])
        runs = _live(chance, seen)
        over = chance.permutation(np.flatnonzero(seen))[: int(chance.integers(1, len(seen)))]
        bought = np.where(chance.random(len(over)) < 0.2, seen[over], 0)
        found = []
        for model in (host, away):
            model.resize(len(seen))
            found.append(model.both(runs))
            model.settle(over[2:], bought[2:], bought[2:])
            model.forget(over[:2])
        seen[over] = 0
        assert [part.tobytes() for part in found[0]] == [part.tobytes() for part in found[1]]
        mine, theirs = host.slot_state(), away.slot_state()
        assert mine.keys() == theirs.keys()
        assert all(mine[name].tobytes() == theirs[name].tobytes() for name in mine)
    assert mine["slot.h"].shape == (32, 1000)
    assert not mine["slot.h"][:, seen == 0].any()
    assert mine["slot.h"][:, seen > 0].any(axis=0).all()


def test_only_a_snapshot_copies_the_states_and_it_is_of_its_moment() -> None:
    """On the host a snapshot reads the memory itself; what came back from a device is not written to by the next batch."""
    model = RecurrentIntent(IntentSpec(4), lane=Lane(torch.device("cpu"), staged=True))
    model.resize(50)
    chance, seen = np.random.default_rng(9), np.zeros(50, np.int64)
    first = model.both(_live(chance, seen))[0]
    kept = first.copy()
    memory = model.slot_state()["slot.h"]
    model.both(_live(chance, seen))
    assert first.tobytes() == kept.tobytes()
    assert np.shares_memory(memory, model.slot_state()["slot.h"])
