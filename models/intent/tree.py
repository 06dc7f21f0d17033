"""A Hoeffding tree that adapts, on one session in a hundred: an incremental model that sees what lines cannot.

Splits are made once the Hoeffding bound says that the best is the best (Domingos and Hulten, Mining high-speed data streams, 2000), from
normal estimates of each counter by class. Leaves fade, and a branch that has come to lose against its own root as a leaf is cut
(as the adaptive tree of Bifet and Gavaldà, 2009, with one bound in ADWIN's place). River's tree is objects, which neither score a
batch nor stand in a snapshot; this one is arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.exact import put, take
from models.intent.probes import HEADS, PRIORS, Probes, sigmoid
from models.protocol import Float32, Float64, IntentSpec, Ints, Scores, SessionRuns, State

SAMPLE = 100
"""One session in so many is learnt from."""
_NODES, _DEEPEST = 63, 6
_GRACE = 100
"""Samples of a leaf between two looks for a split."""
_DELTA, _TIE = 1e-4, 0.03
_CUTS = 12
_FADE = 1 / 5_000
_SMOOTH = 20.0


class HoeffdingTree:
    """One tree for one question."""

    NAMES = ("feature", "threshold", "left", "depth", "count", "mean", "spread", "low", "high", "since", "regret")

    def __init__(self, features: int, prior: float) -> None:
        self.prior = prior
        self.used = 1
        self.feature: Ints = np.full(_NODES, -1, np.int64)
        self.threshold: Float64 = np.zeros(_NODES)
        self.left: Ints = np.zeros(_NODES, np.int64)
        self.depth: Ints = np.zeros(_NODES, np.int64)
        self.count: Float64 = np.zeros((_NODES, 2))
        self.mean: Float64 = np.zeros((_NODES, 2, features))
        self.spread: Float64 = np.zeros((_NODES, 2, features))
        self.low: Float64 = np.full((_NODES, features), np.inf)
        self.high: Float64 = np.full((_NODES, features), -np.inf)
        self.since: Float64 = np.zeros(_NODES)
        self.regret: Float64 = np.zeros((_NODES, 3))
        """Fading: count, sum and sum of squares of what the branch lost more than its root alone would have."""

    def rates(self) -> Float64:
        """float64[nodes], of each as a leaf, drawn to the root's."""
        whole = (self.count[0, 1] + _SMOOTH * self.prior) / (self.count[0].sum() + _SMOOTH)
        return np.asarray((self.count[:, 1] + _SMOOTH * whole) / (self.count[:, 0] + self.count[:, 1] + _SMOOTH), dtype=np.float64)

    def leaves(self, x: Float64) -> Ints:
        """int64[n], the leaf of each row; x: float64[n, features]."""
        node = np.zeros(len(x), np.int64)
        rows = np.arange(len(x))
        for _ in range(int(self.depth[: self.used].max())):
            feature = self.feature[node]
            right = x[rows, np.maximum(feature, 0)] > self.threshold[node]
            node = np.where(feature < 0, node, self.left[node] + right)
        return node

    def learn(self, x: Float64, y: int) -> None:
        """One sample.

        Args:
            x: float64[features].
            y: 0 or 1.
        """
        rates, path, node = self.rates(), [0], 0
        while self.feature[node] >= 0:
            node = int(self.left[node] + (x[self.feature[node]] > self.threshold[node]))
            path.append(node)
        lost = -np.log(rates if y else 1 - rates)
        for at in path:
            self.count[at] *= 1 - _FADE
            self.spread[at] *= 1 - _FADE
            self.count[at, y] += 1
            change = x - self.mean[at, y]
            self.mean[at, y] += change / self.count[at, y]
            self.spread[at, y] += change * (x - self.mean[at, y])
        self.low[node], self.high[node] = np.minimum(self.low[node], x), np.maximum(self.high[node], x)
        for at in path[:-1]:
            worse = float(lost[node] - lost[at])
            self.regret[at] = self.regret[at] * (1 - _FADE * 5) + [1.0, worse, worse * worse]
            count, total, squares = self.regret[at]
            if count >= _GRACE and total > 3 * np.sqrt(squares):
                self._cut(at)
                return
        self.since[node] += 1
        if self.since[node] >= _GRACE and self.used + 2 <= _NODES and self.depth[node] < _DEEPEST:
            self.since[node] = 0
            self._split(node)

    def _split(self, node: int) -> None:
        total = float(self.count[node].sum())
        low, high = self.low[node], self.high[node]
        step = np.arange(1, _CUTS + 1) / (_CUTS + 1)
        cuts = low[:, None] + np.where(high > low, high - low, 0.0)[:, None] * step  # [features, cuts]
        left = np.zeros((2, *cuts.shape))
        for y in range(2):
            deviation = np.sqrt(self.spread[node, y] / max(self.count[node, y], 1.0)) + 1e-6
            z = (cuts - self.mean[node, y][:, None]) / deviation[:, None]
            left[y] = self.count[node, y] * 0.5 * (1 + np.tanh(0.7978845608 * (z + 0.044715 * z**3)))
        right = self.count[node][:, None, None] - left
        after = (_entropy(left) * left.sum(axis=0) + _entropy(right) * right.sum(axis=0)) / total
        gain = float(_entropy(self.count[node][:, None, None])[0, 0]) - after
        gain[(high <= low) | (np.minimum(left.sum(axis=0), right.sum(axis=0)).max(axis=1) < 5)] = 0.0
        best = gain.max(axis=1)
        order = np.argsort(-best, kind="stable")
        bound = float(np.sqrt(np.log(1 / _DELTA) / (2 * total))) * 0.1  # information of a rare event spans a tenth of a bit
        first, second = float(best[order[0]]), float(best[order[1]])
        if first <= 0.002 or (first - second <= bound and bound >= _TIE):
            return
        feature, cut = int(order[0]), int(gain[order[0]].argmax())
        child = self.used
        self.used += 2
        self.feature[node], self.threshold[node], self.left[node] = feature, cuts[feature, cut], child
        self.regret[node] = 0
        for at, part in ((child, left), (child + 1, right)):
            self.depth[at] = self.depth[node] + 1
            self.feature[at] = -1
            self.count[at] = np.maximum(part[:, feature, cut], 0.0)
            self.mean[at], self.low[at], self.high[at] = self.mean[node], low, high
            self.spread[at] = self.spread[node] * (self.count[at] / np.maximum(self.count[node], 1e-9))[:, None]

    def _cut(self, node: int) -> None:
        """The node is a leaf again; what stood below it goes, and the others close ranks."""
        gone = {int(self.left[node]), int(self.left[node]) + 1}
        for at in range(self.used):  # children stand behind their parents
            if at in gone and self.feature[at] >= 0:
                gone |= {int(self.left[at]), int(self.left[at]) + 1}
        self.feature[node], self.regret[node], self.since[node] = -1, 0, 0
        kept = np.array([at for at in range(self.used) if at not in gone], dtype=np.int64)
        place = np.zeros(_NODES, np.int64)
        place[kept] = np.arange(len(kept))
        fresh = HoeffdingTree(self.mean.shape[2], self.prior)
        for name in self.NAMES:
            getattr(fresh, name)[: len(kept)] = getattr(self, name)[kept]
            setattr(self, name, getattr(fresh, name))
        self.left = place[self.left]
        self.used = len(kept)

    def state(self) -> State:
        """All of it, copied."""
        return {name: getattr(self, name).copy() for name in self.NAMES} | {"used": np.array(self.used)}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what state() gave."""
        for name in self.NAMES:
            setattr(self, name, np.array(state[name], getattr(self, name).dtype))
        self.used = int(state["used"])


def _entropy(count: Float64) -> Float64:
    """Bits, of [2, …] counts."""
    share = np.clip(count / np.maximum(count.sum(axis=0), 1e-9), 1e-9, 1.0)
    return np.asarray(-(share * np.log2(share)).sum(axis=0), dtype=np.float64)


class TreeIntent:
    """A tree for purchase and one for cart (an IntentModel)."""

    name: ClassVar[str] = "tree"
    version = "builtin-1"

    def __init__(self, spec: IntentSpec, device: torch.device | None = None) -> None:
        """Makes trees that say the prior.

        Args:
            spec: features and probe positions.
            device: not used.
        """
        self.spec = spec
        self.probes = Probes(spec.positions, spec.features)
        self._trees = [HoeffdingTree(spec.features, prior) for prior in PRIORS]
        self._seen = 0

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity)."""
        self.probes.slots.resize(capacity)

    def forget(self, slots: Ints) -> None:
        """Drops sessions without learning from them."""
        self.probes.slots.forget(slots)

    def say(self, x: Float32) -> Float64:
        """float64[2, n], log odds by head.

        Args:
            x: float32[n, features].
        """
        out = np.empty((len(HEADS), len(x)))
        for head, tree in enumerate(self._trees):
            rates = tree.rates()
            # A tree without branches, as most are for long, need not look at its rows.
            p = rates[tree.leaves(x.astype(np.float64))] if tree.used > 1 else np.full(len(x), rates[0])
            out[head] = np.log(p / (1 - p))
        return out

    def score(self, runs: SessionRuns) -> Scores:
        """Probabilities of each row; keeps features at the probe positions."""
        self.probes.keep(runs.slot, runs.position, runs.x)
        p = sigmoid(self.say(runs.x)).astype(np.float32)
        return Scores(p[0], p[1])

    def settle(self, slots: Ints, purchase_position: Ints, cart_position: Ints) -> None:
        """Learns from the sample's ended sessions in their order, then forgets all."""
        self.learn(self.probes, slots, purchase_position, cart_position)
        self.forget(slots)

    def learn(self, probes: Probes, slots: Ints, purchase_position: Ints, cart_position: Ints) -> None:
        """As settle, from features that another model keeps.

        Args:
            probes: of the same counters.
            slots: int64[n].
            purchase_position: int64[n].
            cart_position: int64[n].
        """
        number = self._seen + np.arange(len(slots))
        self._seen += len(slots)
        mine = number % SAMPLE == 0
        samples = probes.samples(slots[mine], purchase_position[mine], cart_position[mine])
        x = samples.features.astype(np.float64)
        for head, tree in enumerate(self._trees):
            for row in np.flatnonzero(samples.at_risk[head]).tolist():
                tree.learn(x[row], int(samples.label[head][row]))

    def slot_state(self) -> State:
        """Of each slot: the arrays themselves."""
        return put("probes.", self.probes.slots.state(copy=False))

    def shared_state(self) -> State:
        """What was learnt."""
        out: State = {"seen": np.array(self._seen)}
        for head, tree in zip(HEADS, self._trees, strict=True):
            out |= put(f"{head}.", tree.state())
        return out

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what slot_state() and shared_state() gave."""
        self.probes.slots.restore(take(state, "probes."))
        self.restore_learnt(state)

    def restore_learnt(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what shared_state() gave, where another model keeps the features."""
        self._seen = int(state["seen"])
        for head, tree in zip(HEADS, self._trees, strict=True):
            tree.restore(take(state, f"{head}."))
