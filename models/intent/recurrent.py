"""A minGRU over the session's events: a state of constant size that remembers order, heads learnt as sessions end.

Update gate and candidate depend on the input alone (Feng et al., Were RNNs all we needed?, 2024), so torch computes them for all rows
at once, in tiles; what is left is h = (1 - z) h + z c, elementwise in numpy float32, the k-th event of every session together. A second
tile makes the heads' features of h and of the event itself. The body is trained outside (models.train.intent) or drawn from a
seed; the heads go on learning here, as sessions end: ridge-logistic regressions by Newton steps, beside the heads as they were trained.
"""

from __future__ import annotations

from models.device import Lane, SlotTensor, Tiles

# isort: split
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.exact import SlotArrays, products, put, solve, stable_order, take
from models.intent.probes import HEADS, Probes, Samples, sigmoid
from models.intent.weights import CATEGORY_ROWS, EMBEDDED, INNER, ITEM_ROWS, WIDTH, IntentWeights, drawn, rows_of
from models.protocol import Float32, Float64, IntentSpec, Ints, Scores, SessionRuns, State

_FADE = 1 / 30_000  # of what was learnt, a sample: a day or two of a busy shop
_RIDGE = 2.0
_MOST_TRAINING = 60_000.0  # samples that a training may weigh against what is seen live
_GRID = 2.0**12  # features and residuals are multiples of 1/4096 in sums, so that BLAS adds them exactly
_BATCH = 4096
_FARTHEST = 6.0  # standard deviations


class _Body:
    """One version of the weights, its tiles, and its heads as they have become."""

    def __init__(self, weights: IntentWeights, device: torch.device) -> None:
        self.weights = weights
        self.heads: Float64 = weights.heads.copy()
        trained = weights.curvature
        # A training of millions of rows must not hold the heads for ever.
        rows = max(float(trained[:, -1, -1].max()) * 30.0, 1.0)
        self.curvature: Float64 = trained * min(1.0, _MOST_TRAINING / rows)
        self.features = len(weights.mean)
        # A gate is (1 + tanh(x / 2)) / 2: one function bends gates and candidates, in place and in one go. Half of a float is exact.
        gates = np.where(np.arange(2 * WIDTH + INNER) < WIDTH, np.float32(0.5), np.float32(1))
        into, bias = torch.from_numpy(weights.into * gates).to(device), torch.from_numpy(weights.into_bias * gates).to(device)
        out = torch.from_numpy(weights.out).to(device)
        self.mean, self.scale = torch.from_numpy(weights.mean).to(device), torch.from_numpy(weights.scale).to(device)
        self.item, self.category = torch.from_numpy(weights.item).to(device), torch.from_numpy(weights.category).to(device)

        def enter(rows: torch.Tensor) -> torch.Tensor:
            made = torch.addmm(bias, rows, into)
            made[:, : 2 * WIDTH].tanh_()
            return made

        def leave(rows: torch.Tensor) -> torch.Tensor:
            return torch.addmm(rows[:, WIDTH:], rows[:, :WIDTH], out).tanh_()

        self.enter = Tiles(enter, self.features + 2 * EMBEDDED, 2 * WIDTH + INNER, device, graph=True)
        self.leave = Tiles(leave, WIDTH + INNER, INNER, device, graph=True)

    def prove(self) -> None:
        self.enter.prove("minGRU, events")
        self.leave.prove("minGRU, heads")

    def inputs(self, lane: Lane, runs: SessionRuns, rows: Ints) -> torch.Tensor:
        """float32[rows, features + 2 EMBEDDED], on the device: counters and rows of embeddings are what crosses over."""
        x = torch.empty((len(rows), self.features + 2 * EMBEDDED), dtype=torch.float32, device=lane.device)
        seen = lane.there("x", runs.x[rows]) - self.mean
        seen *= self.scale
        torch.clamp(seen, -_FARTHEST, _FARTHEST, out=x[:, : self.features])
        item = None if runs.item is None else runs.item[rows]
        category = None if runs.category is None else runs.category[rows]
        x[:, self.features : -EMBEDDED] = self.item.index_select(0, lane.there("item", rows_of(item, ITEM_ROWS, len(rows))))
        x[:, -EMBEDDED:] = self.category.index_select(0, lane.there("category", rows_of(category, CATEGORY_ROWS, len(rows))))
        return x


class RecurrentIntent:
    """minGRU with heads for purchase and cart (an IntentModel); its probabilities are the adapted heads'."""

    name: ClassVar[str] = "recurrent"

    def __init__(
        self, spec: IntentSpec, device: torch.device | None = None, weights: IntentWeights | None = None, lane: Lane | None = None
    ) -> None:
        """Makes the body and proves it.

        Args:
            spec: features and probe positions.
            device: where the body is computed and the sessions' states are kept; default CPU.
            weights: trained ones; default: drawn ones, with heads that say the prior.
            lane: to the device; default: its own.

        Raises:
            models.device.DeviceError: the device rounds rows by their place.
            ValueError: the weights are for other features.
        """
        self.spec = spec
        self._lane = lane or Lane(device or torch.device("cpu"))
        self._bodies: dict[int, _Body] = {}
        self._newest = -1
        self.swap(weights or drawn(spec.features))
        self.probes = Probes(spec.positions, INNER)
        self._h = SlotTensor(WIDTH, self._lane)
        self._slots = SlotArrays()
        self._slots.add("body", np.uint8, 0)

    @property
    def version(self) -> str:
        """Of the weights that sessions begin on."""
        return self._bodies[self._newest].weights.version

    def swap(self, weights: IntentWeights) -> None:
        """Sessions begin on these weights from here on; those that live end on the ones they began with.

        Args:
            weights: for the same features.
        """
        if len(weights.mean) != self.spec.features:
            raise ValueError(
                f"weights of the intent model must be for {self.spec.features} features; got {len(weights.mean)}: train them anew"
            )
        body = _Body(weights, self._lane.device)
        body.prove()
        self._newest = (self._newest + 1) % 256
        self._bodies[self._newest] = body

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity)."""
        self._h.resize(capacity)
        self._slots.resize(capacity)
        self.probes.slots.resize(capacity)

    def forget(self, slots: Ints) -> None:
        """Drops sessions without learning from them."""
        self._h.forget(slots)
        self._slots.forget(slots)
        self.probes.slots.forget(slots)

    def both(self, runs: SessionRuns) -> tuple[Float64, Float64]:
        """Log odds by head of the heads as trained and as they have become since: float64[2, n] each; advances the sessions.

        Args:
            runs: events.
        """
        n = len(runs.slot)
        frozen, adapted = np.empty((len(HEADS), n)), np.empty((len(HEADS), n))
        begins = runs.slot[runs.position == 1]
        self._slots["body"][begins] = self._newest
        of_row = self._slots["body"][runs.slot]
        for number in sorted(self._bodies):
            mine = np.flatnonzero(of_row == number)
            if not len(mine):
                continue
            body = self._bodies[number]
            part = runs if len(mine) == n else _only(runs, mine)
            inner, place = self._advance(part, body)
            self.probes.keep(part.slot[place], part.position[place], inner)
            frozen[:, mine[place]], adapted[:, mine[place]] = _told(body, inner)
        return frozen, adapted

    def say(self, slots: Ints, samples: Samples) -> tuple[Float64, Float64]:
        """As `both`, of kept features and with what was learnt since: float64[2, m] each.

        Args:
            slots: int64[n].
            samples: m kept probes of these sessions.
        """
        frozen, adapted = np.empty((len(HEADS), len(samples.row))), np.empty((len(HEADS), len(samples.row)))
        of_row = self._slots["body"][slots[samples.row]]
        for number, body in sorted(self._bodies.items()):
            mine = np.flatnonzero(of_row == number)
            frozen[:, mine], adapted[:, mine] = _told(body, samples.features[mine])
        return frozen, adapted

    def score(self, runs: SessionRuns) -> Scores:
        """Probabilities of each row."""
        p = sigmoid(self.both(runs)[1]).astype(np.float32)
        return Scores(p[0], p[1])

    def settle(self, slots: Ints, purchase_position: Ints, cart_position: Ints) -> None:
        """Learns from ended sessions in their order, then forgets them."""
        self.learn(slots, purchase_position, cart_position)
        self.forget(slots)
        self.tidy()

    def learn(self, slots: Ints, purchase_position: Ints, cart_position: Ints) -> None:
        """Learns from ended sessions in their order; they stay.

        Args:
            slots: int64[n].
            purchase_position: int64[n], 0 for never.
            cart_position: int64[n], 0 for never.
        """
        of_slot = self._slots["body"][slots]
        for number, body in sorted(self._bodies.items()):
            mine = np.flatnonzero(of_slot == number)
            if not len(mine):
                continue
            samples = self.probes.samples(slots[mine], purchase_position[mine], cart_position[mine])
            for head in range(len(HEADS)):
                rows = np.flatnonzero(samples.at_risk[head])
                for start in range(0, len(rows), _BATCH):
                    _newton(body, head, samples, rows[start : start + _BATCH])

    def tidy(self) -> None:
        """Drops weights that no session lives on."""
        if len(self._bodies) > 1:
            used = {self._newest, *np.unique(self._slots["body"][self._live()]).tolist()}
            self._bodies = {number: body for number, body in self._bodies.items() if number in used}

    def on_newest(self, slots: Ints) -> NDArray[np.bool_]:
        """bool[slots], sessions that began on the newest weights."""
        return np.asarray(self._slots["body"][slots] == self._newest, dtype=np.bool_)

    def _live(self) -> NDArray[np.bool_]:
        return np.asarray(self.probes.slots["kept"][0], dtype=np.bool_)

    def _advance(self, runs: SessionRuns, body: _Body) -> tuple[Float32, Ints]:
        """float32[n, INNER], the heads' features after each row, round by round, and the rows' places in the call; slots keep their state."""
        n = len(runs.slot)
        if not n:
            return np.empty((0, INNER), np.float32), np.empty(0, np.int64)
        begin = np.flatnonzero(np.concatenate([[True], runs.slot[1:] != runs.slot[:-1]]))
        length = np.diff(np.append(begin, n))
        # Longest sessions first: round k is then the first so many of them, a slice instead of an index.
        order = stable_order(length.max() - length)
        begin, length = begin[order], length[order]
        session = np.repeat(np.arange(len(begin)), length)
        k = np.arange(n) - np.repeat(np.cumsum(length) - length, length)
        row = np.repeat(begin, length) + k
        live = len(length) - np.searchsorted(length[::-1], np.arange(length[0]), side="right")  # sessions with more than k events
        offset = np.cumsum(live) - live
        place = np.empty(n, dtype=np.int64)
        place[offset[k] + session] = row
        last = offset[length - 1] + np.arange(len(begin))
        with torch.inference_mode():
            x = body.inputs(self._lane, runs, place)
            slots = self._lane.there("slots", runs.slot[begin])
            known = self._lane.there("known", (runs.position[begin] != 1).astype(np.float32)[:, None])
            states = self._rounds(body.enter.resident(x), self._h.rows.index_select(0, slots).mul_(known), live.tolist())
            self._h.rows.index_copy_(0, slots, states[:, :WIDTH].index_select(0, self._lane.there("last", last)))
            return self._lane.back(body.leave.resident(states)), place

    @staticmethod
    def _rounds(made: torch.Tensor, h: torch.Tensor, live: list[int]) -> torch.Tensor:
        """float32[n, WIDTH + INNER], each row's state after its event, and what goes past it.

        Args:
            made: float32[n, 2 WIDTH + INNER], of the events, round by round; written to.
            h: float32[sessions, WIDTH], before the first round.
            live: sessions in each round.
        """
        # One operation a line: fused ones round once where two round twice.
        half = made[:, :WIDTH] * 0.5
        keep = 0.5 - half
        half += 0.5
        states = made[:, WIDTH:].contiguous()
        states[:, :WIDTH] *= half
        at = 0
        for count in live:
            now = states[at : at + count, :WIDTH]
            now += keep[at : at + count].mul_(h[:count])
            h = now
            at += count
        return states

    def slot_state(self) -> State:
        """Of each slot: the arrays themselves."""
        return (
            {"slot.h": self._h.array()} | put("slot.", self._slots.state(copy=False)) | put("probes.", self.probes.slots.state(copy=False))
        )

    def shared_state(self) -> State:
        """What was learnt, and the weights themselves: a snapshot needs no other file."""
        out: State = {"bodies": np.array([*sorted(self._bodies), self._newest], dtype=np.int64)}
        for number, body in self._bodies.items():
            out |= put(f"body{number}.", body.weights.arrays())
            name = np.frombuffer(body.weights.version.encode(), np.uint8).copy()
            out |= {f"body{number}.version": name, f"body{number}.now": body.heads.copy(), f"body{number}.curved": body.curvature.copy()}
        return out

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what slot_state() and shared_state() gave."""
        *numbers, self._newest = np.asarray(state["bodies"], np.int64).tolist()
        self._bodies = {}
        for number in numbers:
            mine = take(state, f"body{number}.")
            body = _Body(IntentWeights.of(mine["version"].tobytes().decode(), mine), self._lane.device)
            body.heads, body.curvature = np.array(mine["now"], np.float64), np.array(mine["curved"], np.float64)
            self._bodies[number] = body
        self._h.restore(state["slot.h"])
        self._slots.restore(take(state, "slot."))
        self.probes.slots.restore(take(state, "probes."))


def _only(runs: SessionRuns, rows: Ints) -> SessionRuns:
    item = None if runs.item is None else runs.item[rows]
    return SessionRuns(runs.slot[rows], runs.position[rows], runs.x[rows], item, None if runs.category is None else runs.category[rows])


def _told(body: _Body, inner: Float32) -> tuple[Float64, Float64]:
    """Log odds of the heads as trained and as they have become, float64[2, n] each, of their features float32[n, INNER]."""
    columns = np.ascontiguousarray(inner.T, dtype=np.float64)
    part = np.empty(len(inner))
    found = []
    for heads in (body.weights.heads, body.heads):
        out = np.empty((len(HEADS), len(inner)))
        for total, (*weights, bias) in zip(out, heads.tolist(), strict=True):
            total[:] = bias
            for values, weight in zip(columns, weights, strict=True):
                np.multiply(values, weight, out=part)
                total += part
        found.append(out)
    return found[0], found[1]


def _newton(body: _Body, head: int, samples: Samples, rows: Ints) -> None:
    """One Newton step on the batch's gradient, against the curvature of all that was seen (fading).

    A step can only be as wrong as its own batch: while little is known it is shortened to what a quadratic trusts.
    """
    x = np.concatenate([samples.features[rows].astype(np.float64), np.ones((len(rows), 1))], axis=1)
    x = np.rint(x * _GRID) / _GRID
    z = np.zeros(len(rows))
    for column in range(INNER + 1):
        z += body.heads[head, column] * np.ascontiguousarray(x[:, column])
    p = sigmoid(z)
    residual = np.rint((p - samples.label[head][rows]) * _GRID) / _GRID
    root = np.rint(x * np.sqrt(p * (1 - p))[:, None] * _GRID) / _GRID
    # Whole multiples of 2^-24 with sums far below 2^53 of them: exact in any order.
    gradient = products(x, residual)
    body.curvature[head] = body.curvature[head] * (1 - _FADE) ** len(rows) + products(root, root)
    matrix = body.curvature[head] + _RIDGE * np.eye(INNER + 1)
    step = solve(matrix, gradient)
    longest = float(np.abs(step).max())
    body.heads[head] -= step * min(1.0, 0.5 / max(longest, 1e-12))
