"""Forecasts that wait: what is kept of them is what was said, as nearly as promised, whoever else is kept beside it."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from models.demand.pending import Compared, Pending, coarse
from models.protocol import Float32, State

LEVELS = (0.1, 0.5, 0.9)
COMPARED = Compared((0, 1, 2), 1)
PROBES = (1, 3)


def pending(*experts: bool) -> Pending:
    made = Pending(PROBES, (2,), len(LEVELS), COMPARED, experts)
    made.slots.resize(8)
    return made


def quantiles(random: np.random.Generator, n: int, size: float) -> Float32:
    """float32[n, probes, levels], ascending, some at the floor."""
    return np.sort(random.gamma(0.5, size, (n, len(PROBES), len(LEVELS))) - 1, axis=2).astype(np.float32)


def hold(held: Pending, issue: int, said: list[Float32 | None], mixed: Float32, scale: Float32) -> None:
    n = len(mixed)
    out = held.room(n)
    held.fill(out, said, mixed, scale)
    totals = {2: mixed[:, 0, 1]}
    held.hold(np.arange(n), issue, scale, np.full(n, 3), np.full(n, 0.5, np.float32), out, totals)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.02, 0.7, 30.0, 5e4]))
def test_what_experts_said_comes_back_as_nearly_as_promised(seed: int, size: float) -> None:
    random = np.random.default_rng(seed)
    held = pending(True, False, True)
    scale = coarse(np.maximum(random.gamma(1.0, size, 8).astype(np.float32), np.float32(0.02)))
    first, third, mixed = (quantiles(random, 8, size) for _ in range(3))
    hold(held, 10, [first, None, third], mixed, scale)
    for group, probe in enumerate(PROBES):
        due = held.due(np.arange(8), 10 + probe, probe, "probe")
        assert (due.rows == np.arange(8)).all()
        assert (due.classes == 3).all()
        assert (due.scale == scale).all()
        grain = scale * np.float32(2**-11)
        assert (np.abs(due.values - mixed[:, group].T) <= 1e-3 * np.abs(mixed[:, group].T) + grain).all()
        assert np.isnan(due.said[1]).all()
        for place, said in ((0, first), (2, third)):
            low, middle, high = said[:, group].T
            assert (np.abs(due.said[place, 1] - middle) <= 1e-3 * np.abs(middle) + grain).all()
            way, distance = middle + 1, high - middle
            slack = 2e-3 * np.abs(middle) + 2 * grain
            assert (np.abs(due.said[place, 0] - low) <= way / 500 + slack).all()
            within = distance < 2000 * scale
            assert (np.abs(due.said[place, 2] - high) <= 0.035 * distance + scale / 900 + slack)[within].all()
            assert (due.said[place, 0] <= due.said[place, 1]).all()
            assert (due.said[place, 1] <= due.said[place, 2]).all()


def test_a_place_of_the_ring_holds_one_issue_and_forgotten_slots_nothing() -> None:
    held, scale, one = pending(True), np.ones(8, np.float32), np.ones((8, 2, 3), np.float32)
    hold(held, 10, [one], one, scale)
    held.slots.forget(np.array([2]))
    assert held.due(np.arange(8), 13, 3, "probe").rows.tolist() == [0, 1, 3, 4, 5, 6, 7]
    hold(held, 13, [one[:2]], one[:2], scale[:2])  # the same place as 10; only two items were asked for
    assert held.due(np.arange(8), 16, 3, "probe").rows.tolist() == [0, 1]
    assert not len(held.due(np.arange(8), 13, 3, "probe").rows)
    assert held.due(np.arange(8), 15, 2, "total").values.tolist() == [[1.0, 1.0]]


def test_who_begins_to_speak_has_said_nothing_yet_and_who_falls_silent_takes_no_room() -> None:
    random = np.random.default_rng(1)
    held, scale = pending(True, False, True), np.ones(8, np.float32)
    said = [quantiles(random, 8, 3.0) for _ in range(3)]
    hold(held, 10, [said[0], None, said[2]], said[0], scale)
    before = held.due(np.arange(8), 11, 1, "probe").said
    held.keep([False, True, True])
    after = held.due(np.arange(8), 11, 1, "probe").said
    assert np.isnan(after[:2]).all()
    assert (after[2] == before[2]).all()
    hold(held, 11, [None, said[1], said[2]], said[0], scale)
    assert np.isfinite(held.due(np.arange(8), 12, 1, "probe").said[1:]).all()
    held.keep([False, False, False])
    assert sum(array.nbytes for name, array in held.state().items() if name.endswith((".middle", ".gaps"))) == 0
    assert held.due(np.arange(8), 14, 3, "probe").values.shape == (3, 8)


def version_3(issues: list[int], said: Float32, mixed: Float32, scale: Float32) -> State:
    """The state that version 3 gave after these issues: said float32[issues, experts, n, probes, levels], scale float32[issues, n]."""
    n, depth = scale.shape[1], max(PROBES)
    old: State = {
        "issue": np.full((depth, n), np.iinfo(np.int32).min, np.int32),
        "scale": np.zeros((depth, n), np.float32),
        "class": np.zeros((depth, n), np.int8),
        "spread": np.zeros((depth, n), np.float16),
        "total.2": np.zeros((2, n), np.float16),
        "one.issue": np.full(n, issues[-1], np.int32),
        "one.mean": np.ones(n, np.float32),
        "one.dispersion": np.ones(n, np.float32),
        "one.whole": np.ones(n, np.bool_),
    }
    for probe in PROBES:
        old[f"probe.{probe}"] = np.zeros((probe, 2 * 3 + 3, n), np.float16)
    for at, issue in enumerate(issues):
        row = issue % depth
        old["issue"][row], old["scale"][row], old["class"][row] = issue, scale[at], 5
        for group, probe in enumerate(PROBES):
            values = [said[at, e, :, group, level] for e in range(2) for level in range(3)] + [
                mixed[at, :, group, level] for level in range(3)
            ]
            old[f"probe.{probe}"][issue % probe] = np.stack(values) / scale[at]
    return old


def test_what_version_3_kept_is_read() -> None:
    random, issues = np.random.default_rng(3), [7, 8, 9]
    said = np.stack([[quantiles(random, 8, 4.0) for _ in range(2)] for _ in issues])
    mixed = np.stack([quantiles(random, 8, 4.0) for _ in issues])
    scale = random.gamma(2.0, 2.0, (3, 8)).astype(np.float32) + np.float32(0.02)
    old = version_3(issues, said, mixed, scale)
    old["issue"][1, 4] = 4  # an item that was not forecast at 7
    held = pending(True, False)
    held.restore(old)
    for closed, at in ((10, 0), (11, 1), (12, 2)):
        due = held.due(np.arange(8), closed, 3, "probe")
        rows = [0, 1, 2, 3, 5, 6, 7] if at == 0 else list(range(8))
        assert due.rows.tolist() == rows
        assert (due.classes == 5).all()
        assert np.allclose(due.values, mixed[at, rows, 1].T, rtol=2e-3, atol=2e-3)
        assert np.allclose(due.said[0], said[at, 0, rows, 1].T, rtol=0.04, atol=0.03)
        assert np.isnan(due.said[1]).all()
    assert held.due(np.arange(8), 10, 1, "probe").rows.tolist() == list(range(8))
    assert (held.slots["one.issue"] == 9).all()


def test_other_weights_move_the_middle_and_stretch_each_side() -> None:
    compared = Compared((1, 2, 3), 1)
    mixed = np.array([[-0.5, 2.0], [1.0, 4.0], [5.0, 10.0], [9.0, 12.0], [17.0, 14.0]], np.float32)
    now = [np.array(values, np.float32) for values in ([4.0, 9.0], [6.0, 12.0], [14.0, 13.0])]
    found = compared.rescaled(mixed, now)
    np.testing.assert_allclose(found[1:4], now, rtol=1e-6)
    np.testing.assert_allclose(found[0], [6 - 5.5 / 2, 12 - 8 / 2], rtol=1e-6)  # each side as its own outermost level
    np.testing.assert_allclose(found[4], [6 + 12 * 2, 12 + 4 / 2], rtol=1e-6)
    point = np.full((5, 1), 3.0, np.float32)
    np.testing.assert_allclose(compared.rescaled(point, [np.full(1, 2.0, np.float32)] * 3), np.full((5, 1), 2.0))
