"""The intent scorer: all models, weighed at each probe position by what they lost on sessions whose outcome is known, and calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.device import DeviceError
from models.exact import pooled, put, take
from models.intent.calibration import Calibrators
from models.intent.logistic import LogisticIntent
from models.intent.mixture import Mixture
from models.intent.probes import HEADS, Probes, Samples, sigmoid
from models.intent.recurrent import RecurrentIntent
from models.intent.tree import TreeIntent
from models.intent.weights import IntentWeights
from models.protocol import Float32, Float64, IntentSpec, Ints, Scores, SessionRuns, State

_LARGEST_LOSS = 12.0


class IntentScorer:
    """What the ingest engine scores sessions with (an IntentModel)."""

    name: ClassVar[str] = "scorer"

    def __init__(self, spec: IntentSpec, device: torch.device | None = None, weights: IntentWeights | None = None) -> None:
        """Makes all models, or those without torch alone where it fails (`version` says so).

        Args:
            spec: features and probe positions.
            device: for the recurrent model; default CPU.
            weights: of the recurrent model; default: drawn, not trained.
        """
        self.spec = spec
        self.logistic = LogisticIntent(spec)
        self.tree = TreeIntent(spec)
        self.recurrent: RecurrentIntent | None = None
        self.members = ["logistic", "tree"]
        """Of the council, by name: what each says stands in this order."""
        try:
            self.recurrent = RecurrentIntent(spec, device, weights)
            self.members += ["frozen", "adapted"]
            self.version = self.recurrent.version
        except (DeviceError, RuntimeError):  # torch raises RuntimeError for everything that a device can do wrong
            self.version = "builtin-2-logistic"
        self._probes = Probes(spec.positions, len(HEADS))
        """Log odds that were told."""
        self._mixture = Mixture(len(spec.positions), len(HEADS), len(self.members))
        self._calibrators = Calibrators(len(spec.positions))

    def swap(self, weights: IntentWeights) -> None:
        """Sessions begin on these weights from here on; for between two ticks.

        Args:
            weights: of the recurrent model.
        """
        if self.recurrent is None:
            return
        self.recurrent.swap(weights)
        self.version = self.recurrent.version
        for name in ("frozen", "adapted"):
            self._mixture.reset(self.members.index(name))
        self._calibrators.reset()

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity)."""
        self.logistic.resize(capacity)
        if self.recurrent is not None:
            self.recurrent.resize(capacity)
        self._probes.slots.resize(capacity)

    def forget(self, slots: Ints) -> None:
        """Drops sessions without learning from them (evictions)."""
        self.logistic.forget(slots)
        if self.recurrent is not None:
            self.recurrent.forget(slots)
        self._probes.slots.forget(slots)

    def members_logits(self, runs: SessionRuns) -> Float64:
        """float64[members, 2, n], log odds that each says; advances the sessions.

        Args:
            runs: events.
        """
        said = [self.logistic.logits(runs), self.tree.say(runs.x)]
        if self.recurrent is not None:
            said += self.recurrent.both(runs)
        return np.stack(said)

    def score(self, runs: SessionRuns) -> Scores:
        """Advances the sessions and gives the probabilities after each event."""
        said = self.members_logits(runs)  # [members, heads, n]
        group = self._probes.group_of(runs.position)
        mixed = self._mixed(np.ascontiguousarray(sigmoid(said).transpose(1, 0, 2)), group)
        done = np.stack([self._calibrators.apply(head, group, mixed[head]) for head in range(len(HEADS))])
        self._keep(runs, done)
        return Scores(done[0].astype(np.float32), done[1].astype(np.float32))

    def _mixed(self, p: Float64, group: Ints) -> Float64:
        """float64[heads, n], of the members' probabilities float64[heads, members, n]."""
        weights = self._mixture.weights()  # [positions, heads, members]
        mixed = np.zeros((len(HEADS), len(group)))
        for index in range(len(self.members)):
            for head in range(len(HEADS)):
                mixed[head] += weights[:, head, index][group] * p[head, index]
        return mixed

    def _keep(self, runs: SessionRuns, done: Float64) -> None:
        rows, _ = self._probes.standing(runs.position)
        told = np.log(done[:, rows] / (1 - done[:, rows])).T
        self._probes.keep(runs.slot[rows], runs.position[rows], np.ascontiguousarray(told, dtype=np.float32))

    def settle(self, slots: Ints, purchase_position: Ints, cart_position: Ints) -> None:
        """Scores what was predicted of these sessions while they lived, learns from them, forgets them.

        Models are weighed by what they would have said of these sessions with all that they had learnt by now: what they said when the
        sessions lived may be an hour's learning ago. What they say is calibrated as they are after these sessions too: corrections of an
        error that the models have mended by themselves would be made twice.
        """
        samples = self._probes.samples(slots, purchase_position, cart_position)
        x = self.logistic.probes.samples(slots, purchase_position, cart_position).features
        inner = None if self.recurrent is None else self.recurrent.probes.samples(slots, purchase_position, cart_position)
        if len(samples.group):
            self._measure(samples)
            self._weigh(samples, self._now(slots, x, inner))
        self.tree.learn(self.logistic.probes, slots, purchase_position, cart_position)
        self.logistic.learn(slots, purchase_position, cart_position)
        if self.recurrent is not None:
            self.recurrent.learn(slots, purchase_position, cart_position)
        # What sessions on older weights are told says nothing about how the newest are to be calibrated.
        newest = np.ones(len(slots), np.bool_) if self.recurrent is None else self.recurrent.on_newest(slots)
        mine = np.flatnonzero(newest[samples.row])
        if len(mine):
            self._calibrate(samples.cut(mine), self._now(slots, x, inner)[:, :, mine])
        self.forget(slots)
        if self.recurrent is not None:
            self.recurrent.tidy()

    def _now(self, slots: Ints, x: Float32, inner: Samples | None) -> Float64:
        """float64[heads, members, m], probabilities that the models, as they are now, give to what is kept of these sessions: of the counters x,
        and of the heads' features."""
        said = [self.logistic.say(x), self.tree.say(x)]
        if self.recurrent is not None and inner is not None:
            said += self.recurrent.say(slots, inner)
        return np.ascontiguousarray(sigmoid(np.stack(said)).transpose(1, 0, 2))

    def _measure(self, samples: Samples) -> None:
        risk = samples.at_risk[0]
        told = sigmoid(samples.features[:, 0].astype(np.float64))
        self._calibrators.measure(samples.group[risk], told[risk], samples.label[0][risk])

    def _weigh(self, samples: Samples, p: Float64) -> None:
        members, positions = len(self.members), len(self.spec.positions)
        outcomes = np.zeros((positions, len(HEADS)))
        losses = np.zeros((positions, len(HEADS), members))
        for head in range(len(HEADS)):
            risk = samples.at_risk[head]
            group, label = samples.group[risk], samples.label[head][risk]
            outcomes[:, head] = np.bincount(group, minlength=positions)
            for index in range(members):
                said = p[head, index][risk]
                loss = -np.log(np.where(label > 0, said, 1 - said))
                losses[:, head, index] = pooled(group, np.minimum(loss, _LARGEST_LOSS), positions)
        self._mixture.update(losses, outcomes)

    def _calibrate(self, samples: Samples, p: Float64) -> None:
        mixed = self._mixed(p, samples.group)
        for head in range(len(HEADS)):
            risk = samples.at_risk[head]
            self._calibrators.learn(head, samples.group[risk], mixed[head][risk], samples.label[head][risk])

    def metrics(self) -> dict[str, dict[str, float]]:
        """The members' weights for purchase: position -> member -> weight."""
        weights = self._mixture.weights()
        return {
            str(position): {name: float(weights[group, 0, index]) for index, name in enumerate(self.members)}
            for group, position in enumerate(self.spec.positions)
        }

    def calibration_error_ratio(self) -> float:
        """The expected calibration error of purchase over the base rate, of the newest outcomes at the first position: every session has one.
        NaN before any purchase."""
        return float(self._calibrators.error()[0])

    def slot_state(self) -> State:
        """Of each slot: the arrays themselves."""
        out = put("probes.", self._probes.slots.state(copy=False)) | put("logistic.", self.logistic.slot_state())
        return out if self.recurrent is None else out | put("recurrent.", self.recurrent.slot_state())

    def shared_state(self) -> State:
        """What was learnt."""
        out = put("mixture.", self._mixture.state()) | put("calibration.", self._calibrators.state())
        out |= put("logistic.", self.logistic.shared_state()) | put("tree.", self.tree.shared_state())
        return out if self.recurrent is None else out | put("recurrent.", self.recurrent.shared_state())

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what slot_state() and shared_state() gave.

        Raises:
            ValueError: the state was made with other models (torch failed here or there).
        """
        self._probes.slots.restore(take(state, "probes."))
        self._mixture.restore(take(state, "mixture."))
        self._calibrators.restore(take(state, "calibration."))
        self.logistic.restore(take(state, "logistic."))
        self.tree.restore_learnt(take(state, "tree."))
        if self.recurrent is not None:
            self.recurrent.restore(take(state, "recurrent."))
            self.version = self.recurrent.version
