"""A minGRU over the session's counters: a state of constant size that remembers order, heads learnt as sessions end.

Update gate and candidate depend on the input alone (Feng et al., Were RNNs all we needed?, 2024), so torch computes them for all rows
at once, in tiles; what is left is h = (1 - z) h + z c, elementwise in numpy float32, the k-th event of every session together.
The body is fixed (weights "builtin-1", drawn from a seed); the heads are ridge-logistic regressions on its state, by Newton steps.
"""

from __future__ import annotations

from models.device import Tiles

# isort: split
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.exact import SlotArrays, products, put, solve, take
from models.intent.probes import HEADS, PRIORS, Probes, Samples, logit, sigmoid
from models.protocol import Float32, Float64, IntentSpec, Ints, Scores, SessionRuns, State

WIDTH = 24
_SEED = 20_240_611
_FADE = 1 / 30_000  # of what was learnt, a sample: a day or two of a busy shop
_RIDGE = 2.0
_GRID = 2.0**12  # features and residuals are multiples of 1/4096 in sums, so that BLAS adds them exactly
_BATCH = 4096


class RecurrentIntent:
    """minGRU with heads for purchase and cart (an IntentModel)."""

    name: ClassVar[str] = "recurrent"
    version = "builtin-1"

    def __init__(self, spec: IntentSpec, device: torch.device | None = None) -> None:
        """Makes the body, proves it, and heads that say the prior.

        Args:
            spec: features and probe positions.
            device: where the body is computed; default CPU.

        Raises:
            models.device.DeviceError: the device rounds rows by their place.
        """
        self.spec = spec
        random = np.random.default_rng(_SEED)
        scale = 1 / np.sqrt(spec.features)
        gate = (random.normal(size=(spec.features, WIDTH)) * scale * 0.5).astype(np.float32)
        candidate = (random.normal(size=(spec.features, WIDTH)) * scale * 1.2).astype(np.float32)
        # Gates that start from almost always open to remembering some twenty events.
        bias = np.concatenate([np.linspace(2.5, -3.0, WIDTH), random.normal(size=WIDTH) * 0.3]).astype(np.float32)
        where = device or torch.device("cpu")
        weight = torch.from_numpy(np.concatenate([gate, candidate], axis=1)).to(where)
        offset = torch.from_numpy(bias).to(where)

        def body(x: torch.Tensor) -> torch.Tensor:
            both = torch.addmm(offset, x, weight)
            z = torch.sigmoid(both[:, :WIDTH])
            return torch.cat([1 - z, z * torch.tanh(both[:, WIDTH:])], dim=1)

        self._tiles = Tiles(body, spec.features, 2 * WIDTH, where, graph=True)
        self._tiles.prove("minGRU")
        self.probes = Probes(spec.positions, WIDTH)
        self._slots = SlotArrays()
        self._slots.add("h", np.float32, 0, (WIDTH,))
        self._weights: Float64 = np.zeros((len(HEADS), WIDTH + 1))
        self._weights[:, -1] = [logit(prior) for prior in PRIORS]
        self._curvature: Float64 = np.zeros((len(HEADS), WIDTH + 1, WIDTH + 1))

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity)."""
        self._slots.resize(capacity)
        self.probes.slots.resize(capacity)

    def forget(self, slots: Ints) -> None:
        """Drops sessions without learning from them."""
        self._slots.forget(slots)
        self.probes.slots.forget(slots)

    def logits(self, runs: SessionRuns) -> Float64:
        """float64[2, n], log odds by head; advances the sessions' states and keeps the probes.

        Args:
            runs: events.
        """
        states, place = self._advance(runs)
        self._keep(runs, states, place)
        out = np.empty((len(HEADS), len(states)))
        columns = np.ascontiguousarray(states.T, dtype=np.float64)
        for head in range(len(HEADS)):
            total = np.full(len(states), self._weights[head, -1])
            for column in range(WIDTH):
                total += self._weights[head, column] * columns[column]
            out[head, place] = total
        return out

    def score(self, runs: SessionRuns) -> Scores:
        """Probabilities of each row."""
        p = sigmoid(self.logits(runs)).astype(np.float32)
        return Scores(p[0], p[1])

    def settle(self, slots: Ints, purchase_position: Ints, cart_position: Ints) -> None:
        """Learns from ended sessions in their order, then forgets them."""
        samples = self.probes.samples(slots, purchase_position, cart_position)
        for head in range(len(HEADS)):
            rows = np.flatnonzero(samples.at_risk[head])
            for start in range(0, len(rows), _BATCH):
                self._newton(head, samples, rows[start : start + _BATCH])
        self.forget(slots)

    def _keep(self, runs: SessionRuns, states: Float32, place: Ints) -> None:
        ordered = SessionRuns(runs.slot[place], runs.position[place], runs.x)  # x is not looked at
        self.probes.keep(ordered, states)

    def _advance(self, runs: SessionRuns) -> tuple[Float32, Ints]:
        """float32[n, WIDTH], the state after each row, round by round, and the rows' places in the call; the slots keep their last."""
        n = len(runs.slot)
        if not n:
            return np.empty((0, WIDTH), np.float32), np.empty(0, np.int64)
        begin = np.flatnonzero(np.concatenate([[True], runs.slot[1:] != runs.slot[:-1]]))
        length = np.diff(np.append(begin, n))
        # Longest sessions first: round k is then the first so many of them, a slice instead of an index.
        order = np.argsort(-length, kind="stable")
        begin, length = begin[order], length[order]
        slots = runs.slot[begin]
        session = np.repeat(np.arange(len(begin)), length)
        k = np.arange(n) - np.repeat(np.cumsum(length) - length, length)
        row = np.repeat(begin, length) + k
        live = len(length) - np.searchsorted(length[::-1], np.arange(length[0]), side="right")  # sessions with more than k events
        offset = np.cumsum(live) - live
        place = np.empty(n, dtype=np.int64)
        place[offset[k] + session] = row
        gates = self._tiles(runs.x[place])
        keep, add = np.ascontiguousarray(gates[:, :WIDTH]), gates[:, WIDTH:]
        states = np.ascontiguousarray(add)
        h = np.where((runs.position[begin] == 1)[None, :], np.float32(0), self._slots.f32("h")[:, slots]).T.astype(np.float32)
        before, at = h, 0
        for count in live.tolist():
            now = states[at : at + count]
            part = keep[at : at + count]
            np.multiply(part, before[:count], out=part)
            np.add(now, part, out=now)
            before = now
            at += count
        self._slots.f32("h")[:, slots] = states[offset[length - 1] + np.arange(len(slots))].T
        return states, place

    def _newton(self, head: int, samples: Samples, rows: Ints) -> None:
        """One Newton step on the batch's gradient, against the curvature of all that was seen (fading).

        A step can only be as wrong as its own batch: while little is known it is shortened to what a quadratic trusts.
        """
        x = np.concatenate([samples.features[rows].astype(np.float64), np.ones((len(rows), 1))], axis=1)
        x = np.rint(x * _GRID) / _GRID
        z = np.zeros(len(rows))
        for column in range(WIDTH + 1):
            z += self._weights[head, column] * np.ascontiguousarray(x[:, column])
        p = sigmoid(z)
        residual = np.rint((p - samples.label[head][rows]) * _GRID) / _GRID
        root = np.rint(x * np.sqrt(p * (1 - p))[:, None] * _GRID) / _GRID
        # Whole multiples of 2^-24 with sums far below 2^53 of them: exact in any order.
        gradient = products(x, residual)
        self._curvature[head] = self._curvature[head] * (1 - _FADE) ** len(rows) + products(root, root)
        matrix = self._curvature[head] + _RIDGE * np.eye(WIDTH + 1)
        step = solve(matrix, gradient)
        longest = float(np.abs(step).max())
        self._weights[head] -= step * min(1.0, 0.5 / max(longest, 1e-12))

    def slot_state(self) -> State:
        """Of each slot: the arrays themselves."""
        return put("slot.", self._slots.state(copy=False)) | put("probes.", self.probes.slots.state(copy=False))

    def shared_state(self) -> State:
        """What was learnt."""
        return {"weights": self._weights.copy(), "curvature": self._curvature.copy()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what slot_state() and shared_state() gave."""
        self._weights, self._curvature = np.array(state["weights"], np.float64), np.array(state["curvature"], np.float64)
        self._slots.restore(take(state, "slot."))
        self.probes.slots.restore(take(state, "probes."))
