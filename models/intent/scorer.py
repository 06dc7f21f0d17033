"""The intent scorer: both models, weighed at each probe position by what they lost on sessions whose outcome is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.council import Council
from models.device import DeviceError
from models.exact import pooled, put, take
from models.intent.logistic import LogisticIntent
from models.intent.probes import HEADS, Probes, sigmoid
from models.intent.recurrent import RecurrentIntent
from models.protocol import Float64, IntentSpec, Ints, Scores, SessionRuns, State

_LARGEST_LOSS = 12.0


class IntentScorer:
    """What the ingest engine scores sessions with (an IntentModel)."""

    name: ClassVar[str] = "scorer"

    def __init__(self, spec: IntentSpec, device: torch.device | None = None) -> None:
        """Makes both models, or the logistic one alone where torch fails (`version` says so).

        Args:
            spec: features and probe positions.
            device: for the recurrent model; default CPU.
        """
        self.spec = spec
        self.models: list[LogisticIntent | RecurrentIntent] = [LogisticIntent(spec)]
        self.version = "builtin-1"
        try:
            self.models.append(RecurrentIntent(spec, device))
        except (DeviceError, RuntimeError):  # torch raises RuntimeError for everything that a device can do wrong
            self.version = "builtin-1-logistic"
        self._probes = Probes(spec.positions, len(self.models) * len(HEADS))
        allowed = np.ones((len(HEADS), len(self.models)), dtype=np.bool_)
        self._council = Council(len(spec.positions), len(HEADS), allowed)

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity)."""
        for model in self.models:
            model.resize(capacity)
        self._probes.slots.resize(capacity)

    def forget(self, slots: Ints) -> None:
        """Drops sessions without learning from them (bots, evictions)."""
        for model in self.models:
            model.forget(slots)
        self._probes.slots.forget(slots)

    def score(self, runs: SessionRuns) -> Scores:
        """Advances the sessions and gives the probabilities after each event."""
        n = len(runs.slot)
        logits = np.concatenate([model.logits(runs) for model in self.models])  # [models * heads, n]
        self._probes.keep(runs, np.ascontiguousarray(logits.T, dtype=np.float32))
        weights = self._council.weights().astype(np.float64)  # [models, positions, heads]
        group = self._probes.group_of(runs.position)
        p = sigmoid(logits)
        out = np.zeros((len(HEADS), n))
        for index in range(len(self.models)):
            for head in range(len(HEADS)):
                out[head] += weights[index, :, head][group] * p[index * len(HEADS) + head]
        done = out.astype(np.float32)
        return Scores(done[0], done[1])

    def settle(self, slots: Ints, purchase_position: Ints, cart_position: Ints) -> None:
        """Scores what was predicted of these sessions while they lived, learns from them, forgets them."""
        samples = self._probes.samples(slots, purchase_position, cart_position)
        if len(samples.group):
            p = sigmoid(samples.features.astype(np.float64))
            positions = len(self.spec.positions)
            items = np.zeros((len(HEADS), positions))
            losses = np.zeros((len(HEADS), len(self.models), positions))
            for head in range(len(HEADS)):
                risk = samples.at_risk[head]
                group, label = samples.group[risk], samples.label[head][risk]
                items[head] = np.bincount(group, minlength=positions)
                for index in range(len(self.models)):
                    said = np.ascontiguousarray(p[:, index * len(HEADS) + head])[risk]
                    loss = -np.log(np.where(label > 0, said, 1 - said))
                    losses[head, index] = pooled(group, np.minimum(loss, _LARGEST_LOSS), positions)
            for position in range(positions):
                self._council.update(position, losses[:, :, position], items[:, position])
        for model in self.models:
            model.settle(slots, purchase_position, cart_position)
        self._probes.slots.forget(slots)

    def metrics(self) -> dict[str, dict[str, float]]:
        """The models' weights for purchase: position -> model -> weight."""
        weights: Float64 = self._council.weights().astype(np.float64)
        return {
            str(position): {model.name: float(weights[index, group, 0]) for index, model in enumerate(self.models)}
            for group, position in enumerate(self.spec.positions)
        }

    def slot_state(self) -> State:
        """Of each slot: the arrays themselves."""
        out = put("probes.", self._probes.slots.state(copy=False))
        for model in self.models:
            out |= put(f"{model.name}.", model.slot_state())
        return out

    def shared_state(self) -> State:
        """What was learnt."""
        out = put("council.", self._council.state())
        for model in self.models:
            out |= put(f"{model.name}.", model.shared_state())
        return out

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what slot_state() and shared_state() gave.

        Raises:
            ValueError: the state was made with other models (torch failed here or there).
        """
        self._probes.slots.restore(take(state, "probes."))
        self._council.restore(take(state, "council."))
        for model in self.models:
            model.restore(take(state, f"{model.name}."))
