"""river's logistic regression on the session's counters: the incremental baseline, and the fallback where torch fails.

river learns; scoring reads its weights into arrays and adds column by column in float64, so that a row's bits do not depend on
which rows are scored with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.exact import put, take
from models.intent.probes import HEADS, PRIORS, Probes, logit, sigmoid
from models.protocol import Float32, Float64, IntentSpec, Ints, Scores, SessionRuns, State
from models.rivers import linear_model, optim, preprocessing, utils

_RATE = 0.15
_INTERCEPT_RATE = 0.3
_MINIBATCH = 256
_FARTHEST = 6.0  # standard deviations


class _Regression(linear_model.LogisticRegression):
    """river's own, with a dot product that rounds the same way wherever its rows stand (BLAS does not)."""

    def _raw_dot_many(self, X: Float64, cols: Sequence[str]) -> Float64:  # noqa: N803
        out = np.full(len(X), self.intercept)
        for index, column in enumerate(cols):
            out += X[:, index] * self._weights[column]
        return out

    def learn_rows(self, x: Float64, columns: Sequence[str], y: Float64, w: float) -> None:
        """River's `learn_many` without data frames, which cost more than all the rest of a small batch.

        Args:
            x: float64[n, columns].
            columns: their names.
            y: float64[n], 0 or 1.
            w: weight of the batch.
        """
        saved = self._enter_learn_mode(set(columns))
        try:
            self._fit(columns, y, w, partial(self._eval_gradient_many, x))
        finally:
            self._exit_learn_mode(saved)


class LogisticIntent:
    """Logistic regressions for purchase and cart (an IntentModel)."""

    name: ClassVar[str] = "logistic"
    version = "builtin-1"

    def __init__(self, spec: IntentSpec, device: torch.device | None = None) -> None:
        """Makes unlearnt regressions that say the prior.

        Args:
            spec: features and probe positions.
            device: not used.
        """
        self.spec = spec
        self.probes = Probes(spec.positions, spec.features)
        self._columns = [f"x{index:03d}" for index in range(spec.features)]
        self._scaler = preprocessing.StandardScaler()
        self._models = [_regression(prior) for prior in PRIORS]
        self._read()

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity)."""
        self.probes.slots.resize(capacity)

    def forget(self, slots: Ints) -> None:
        """Drops sessions without learning from them."""
        self.probes.slots.forget(slots)

    def logits(self, runs: SessionRuns) -> Float64:
        """float64[2, n], log odds by head; also keeps the probes.

        Args:
            runs: events.
        """
        self.probes.keep(runs.slot, runs.position, runs.x)
        return self.say(runs.x)

    def say(self, x: Float32) -> Float64:
        """float64[2, n], log odds by head, as learnt so far.

        Args:
            x: float32[n, features].
        """
        out = np.empty((len(HEADS), len(x)))
        for head, model in enumerate(self._models):
            out[head] = model.intercept
        columns = np.ascontiguousarray(x.T, dtype=np.float64)
        part = np.empty(len(x))
        for values, mean, inverse, weights in zip(
            columns, self._mean.tolist(), self._inverse.tolist(), self._weight.T.tolist(), strict=True
        ):
            if inverse == 0:
                continue
            values -= mean
            values *= inverse
            np.maximum(values, -_FARTHEST, out=values)  # np.clip takes as long again to find its way to these two
            np.minimum(values, _FARTHEST, out=values)
            for total, weight in zip(out, weights, strict=True):
                np.multiply(values, weight, out=part)
                total += part
        return out

    def score(self, runs: SessionRuns) -> Scores:
        """Probabilities of each row; keeps features at the probe positions."""
        p = sigmoid(self.logits(runs)).astype(np.float32)
        return Scores(p[0], p[1])

    def settle(self, slots: Ints, purchase_position: Ints, cart_position: Ints) -> None:
        """Learns from ended sessions in their order, then forgets them."""
        self.learn(slots, purchase_position, cart_position)
        self.forget(slots)

    def learn(self, slots: Ints, purchase_position: Ints, cart_position: Ints) -> None:
        """Learns from ended sessions in their order; they stay.

        Args:
            slots: int64[n].
            purchase_position: int64[n], 0 for never.
            cart_position: int64[n], 0 for never.
        """
        samples = self.probes.samples(slots, purchase_position, cart_position)
        risk = samples.at_risk.any(axis=0)
        if risk.any():
            self._learn_scales(samples.features[risk].astype(np.float64))
            self._read()
        for head, model in enumerate(self._models):
            rows = np.flatnonzero(samples.at_risk[head])
            x = np.clip((samples.features[rows].astype(np.float64) - self._mean) * self._inverse, -_FARTHEST, _FARTHEST)
            for start in range(0, len(rows), _MINIBATCH):
                part = slice(start, start + _MINIBATCH)
                label = samples.label[head][rows[part]]
                # A mean of few gradients is mostly noise: it moves by as much as it knows.
                trust = min(1.0, (len(label) / 16.0) ** 0.5)
                model.learn_rows(x[part], self._columns, label, trust)
        self._read()

    def _learn_scales(self, x: Float64) -> None:
        """As river's StandardScaler.learn_many, which wants a DataFrame: pandas would be imported in mid-stream, and cost as much as all the rest."""
        scaler, fresh = self._scaler, len(x)
        for column, mean, variance in zip(self._columns, x.mean(axis=0).tolist(), x.var(axis=0).tolist(), strict=True):
            seen = scaler.counts[column]
            a, b = seen / (seen + fresh), fresh / (seen + fresh)
            before = scaler.means[column]
            scaler.means[column] = a * before + b * mean
            scaler.vars[column] = a * scaler.vars[column] + b * variance + a * b * (before - mean) ** 2
            scaler.counts[column] = seen + fresh

    def _read(self) -> None:
        """Reads scaler and weights into arrays."""
        variance = np.array([self._scaler.vars.get(column, 0.0) for column in self._columns])
        self._mean: Float64 = np.array([self._scaler.means.get(column, 0.0) for column in self._columns])
        self._inverse: Float64 = np.where(variance > 1e-9, 1 / np.sqrt(np.maximum(variance, 1e-9)), 0.0)
        weights = [model.weights for model in self._models]
        self._weight: Float64 = np.array([[values.get(column, 0.0) for column in self._columns] for values in weights])

    def slot_state(self) -> State:
        """Of each slot: the arrays themselves."""
        return put("probes.", self.probes.slots.state(copy=False))

    def shared_state(self) -> State:
        """What was learnt."""
        out: State = {}
        scaler = self._scaler
        seen = [[values.get(column, 0) for column in self._columns] for values in (scaler.counts, scaler.means, scaler.vars)]
        out["scaler"] = np.array(seen, dtype=np.float64)
        for head, model in zip(HEADS, self._models, strict=True):
            weights, squares = model.weights, model.optimizer.g2
            out[f"{head}.weights"] = np.array([[values.get(column, 0.0) for column in self._columns] for values in (weights, squares)])
            out[f"{head}.scalars"] = np.array([model.intercept, model.optimizer.n_iterations], dtype=np.float64)
        return out

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what slot_state() and shared_state() gave."""
        self.probes.slots.restore(take(state, "probes."))
        counted, means, variances = (dict(zip(self._columns, row, strict=True)) for row in state["scaler"].tolist())
        self._scaler = preprocessing.StandardScaler()
        if any(counted.values()):
            self._scaler.counts.update({column: int(count) for column, count in counted.items()})
            self._scaler.means.update(means)
            self._scaler.vars.update(variances)
        for index, head in enumerate(HEADS):
            weights, squares = (dict(zip(self._columns, row, strict=True)) for row in state[f"{head}.weights"].tolist())
            intercept, iterations = state[f"{head}.scalars"].tolist()
            model = _regression(PRIORS[index])
            if iterations:
                model._weights = utils.VectorDict(weights)
                model.optimizer.g2.update(squares)
            model.intercept, model.optimizer.n_iterations = intercept, int(iterations)
            self._models[index] = model
        self._read()


def _regression(prior: float) -> _Regression:
    # AdaGrad: counters differ in how often they say anything.
    return _Regression(optimizer=optim.AdaGrad(_RATE), intercept_init=logit(prior), intercept_lr=_INTERCEPT_RATE, l2=1e-4)
