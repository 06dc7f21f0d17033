"""Trains the recurrent intent model on sessions whose outcome is known: arrays in, weights out. No file, no log, no clock.

Backpropagation through whole sessions, every event at risk a sample; the heads are then fitted to the end by Newton steps, with the
curvature that the live model starts from.
"""

from __future__ import annotations

import models.device  # noqa: F401  (before torch)

# isort: split
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from models.exact import products, solve
from models.intent.probes import HEADS, logit, sigmoid
from models.intent.weights import CATEGORY_ROWS, INNER, ITEM_ROWS, WIDTH, IntentWeights, drawn, rows_of
from models.protocol import Float32, Float64, Ints

_LONGEST = 24
"""Events of a session that are looked at; the rest teaches the same again."""
_FARTHEST = 6.0


@dataclass(frozen=True, slots=True)
class Sessions:
    """Ended sessions, robots left out; the events of one adjacent and in order."""

    x: Float32
    """float32[events, features]."""
    item: Ints
    """int64[events], hash, 0 for none."""
    category: Ints
    """int64[events]."""
    begin: Ints
    """int64[sessions + 1], first event of each, and the end."""
    purchase_position: Ints
    """int64[sessions], from 1 up, 0 for never."""
    cart_position: Ints
    """int64[sessions]."""


@dataclass(frozen=True, slots=True)
class Training:
    """How it is trained."""

    epochs: int = 8
    batch: int = 256
    rate: float = 5e-3
    decay: float = 0.03
    embedding_rate: float = 0.1
    embedding_decay: float = 1e-3
    optional: tuple[tuple[int, ...], ...] = ()
    """Groups of features that are looked at only where they tell something: what tells nothing costs a tenth of all that can be gained."""
    held: float = 0.15
    """Share of the sessions, the newest, that the card's losses are measured on."""
    seed: int = 1


def fit_intent(
    sessions: Sessions, training: Training | None = None, version: str = "trained", progress: Callable[[int, float], None] = lambda *_: None
) -> tuple[IntentWeights, dict[str, Any]]:
    """Trains from drawn weights.

    Args:
        sessions: in order of their starts; at least one buys and one does not.
        training: how.
        version: the weights' name.
        progress: told (epoch, log loss on the newest sessions).

    Returns:
        The weights, and a card: what they were trained on and what they lost on the newest sessions, which they had not seen.

    Raises:
        ValueError: nobody bought, or everybody did.
    """
    how = training or Training()
    count = len(sessions.purchase_position)
    bought = int((sessions.purchase_position > 0).sum())
    if not 0 < bought < count:
        raise ValueError(
            f"training needs sessions that buy and sessions that do not; got {bought} buyers of {count}: take a longer history"
        )
    held = count - max(1, int(count * how.held))
    card: dict[str, Any] = {"version": version, "sessions": count, "buyers": bought, "events": int(sessions.begin[-1])}
    model = _Model(sessions, how)
    losses, best = [], (np.inf, model.copy())
    for epoch in range(how.epochs):
        loss = model.epoch(np.arange(held), epoch)
        unseen = model.report(model.plain(), np.arange(held, count))["log_loss"]
        losses.append([round(loss, 6), unseen])
        if unseen < best[0]:
            best = (unseen, model.copy())
        progress(epoch, unseen)
    model.take(best[1])
    weights = model.weights(version, np.arange(held))
    card |= {
        "epoch_losses": losses,
        "held_out": model.report(weights.heads, np.arange(held, count)),
        "features": sessions.x.shape[1],
        "optional_kept": model.told,
    }
    return weights, card


_SURE = (6.63, 9.21, 11.34, 13.28, 15.09, 16.81)
"""99 % points of χ² by degrees of freedom, from 1 up."""
_EARLY = 5
"""Events of a session that the test of features looks at."""


def relevant(sessions: Sessions, groups: tuple[tuple[int, ...], ...], mean: Float32, scale: Float32) -> list[bool]:
    """Whether each group of features tells anything about purchases that the others do not: a score test at the logistic regression of
    the others, with errors clustered by session.

    Args:
        sessions: to look at.
        groups: columns of each, at most six.
        mean: float32[features].
        scale: float32[features].
    """
    if not groups:
        return []
    length = np.minimum(np.diff(sessions.begin), _EARLY)
    owner = np.repeat(np.arange(len(length)), length)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(length) - length, length)
    bought = sessions.purchase_position[owner]
    risk = (bought == 0) | (step + 1 < bought)
    owner, rows, label = owner[risk], (sessions.begin[owner] + step)[risk], (bought > step + 1)[risk].astype(np.float64)
    x = np.clip((sessions.x[rows] - mean) * scale, -_FARTHEST, _FARTHEST).astype(np.float64)
    optional = sorted({column for group in groups for column in group})
    core = np.concatenate([np.delete(x, optional, axis=1), np.ones((len(x), 1))], axis=1)
    beta = np.zeros(core.shape[1])
    beta[-1] = logit(float(np.clip(label.mean(), 1e-6, 1 - 1e-6)))
    curvature = np.eye(len(beta))
    for _ in range(8):
        p = sigmoid(core @ beta)
        curvature = (core * (p * (1 - p))[:, None]).T @ core + np.eye(len(beta))
        beta -= np.linalg.solve(curvature, core.T @ (p - label) + beta)
    p = sigmoid(core @ beta)
    told = []
    for group in groups:
        some = [column for column in group if scale[column] > 0]
        if not some:
            told.append(False)
            continue
        mine = x[:, some]
        # What of it the others do not say already.
        fit = np.linalg.solve(curvature, (core * (p * (1 - p))[:, None]).T @ mine)
        rest = (mine - core @ fit) * (label - p)[:, None]
        by_session = np.stack([np.bincount(owner, weights=rest[:, i], minlength=len(length)) for i in range(len(some))], axis=1)
        total = by_session.sum(axis=0)
        spread = by_session.T @ by_session + 1e-9 * np.eye(len(some))
        told.append(bool(total @ np.linalg.solve(spread, total) > _SURE[len(some) - 1]))
    return told


class _Model:
    def __init__(self, sessions: Sessions, how: Training) -> None:
        self.sessions, self.how = sessions, how
        self.generator = np.random.default_rng(how.seed)
        x = sessions.x
        self.mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
        deviation = x.std(axis=0, dtype=np.float64)
        self.scale = np.where(deviation > 1e-4, 1 / np.maximum(deviation, 1e-4), 0.0).astype(np.float32)
        self.told = relevant(sessions, how.optional, self.mean, self.scale)
        for group, told in zip(how.optional, self.told, strict=True):
            if not told:
                self.scale[list(group)] = 0.0
        start = drawn(x.shape[1], bent=True)
        rate = float((sessions.purchase_position > 0).mean())
        carted = float(np.clip((sessions.cart_position > 0).mean(), 1e-4, 1 - 1e-4))
        heads = np.zeros((INNER + 1, len(HEADS)), np.float32)
        heads[-1] = logit(rate), logit(carted)
        values = {name: getattr(start, name) for name in ("item", "category", "into", "into_bias", "out")} | {"heads": heads}
        self.values = {name: torch.nn.Parameter(torch.tensor(value, dtype=torch.float32)) for name, value in values.items()}
        tables = [self.values["item"], self.values["category"]]
        others = [value for name, value in self.values.items() if name not in ("item", "category")]
        self.optimizer = torch.optim.AdamW(others, lr=how.rate, weight_decay=how.decay)
        # Plain gradients: an item that was seen ten times moves by what ten events say, not by Adam's full step.
        self.embeddings = torch.optim.SGD(tables, lr=how.embedding_rate, weight_decay=how.embedding_decay)

    def batches(self, chosen: Ints, shuffle: bool) -> Iterator[Ints]:
        """Sessions of about one length together: little is padded."""
        length = np.minimum(np.diff(self.sessions.begin)[chosen], _LONGEST)
        noise = self.generator.random(len(chosen)) if shuffle else np.arange(len(chosen)) / len(chosen)
        order = chosen[np.lexsort((noise, length))]
        # Short sessions are cheap, so more of them go into a batch.
        parts = [order[at : at + self.how.batch] for at in range(0, len(order), self.how.batch)]
        for place in self.generator.permutation(len(parts)) if shuffle else range(len(parts)):
            yield parts[place]

    def gather(self, part: Ints) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Ints]:
        """Inputs [events, sessions, wide], labels and risk [events, sessions, heads], and the events' rows."""
        begin = self.sessions.begin
        length = np.minimum(begin[part + 1] - begin[part], _LONGEST)
        steps = np.arange(int(length.max()))[:, None]
        there = steps < length
        row = np.where(there, begin[part] + steps, begin[part])
        x = np.clip((self.sessions.x[row] - self.mean) * self.scale, -_FARTHEST, _FARTHEST)
        positions = np.stack([self.sessions.purchase_position[part], self.sessions.cart_position[part]], axis=-1)  # [sessions, heads]
        at = steps[:, :, None] + 1
        risk = there[:, :, None] & ((positions == 0) | (at < positions))
        label = positions > at
        item = torch.from_numpy(rows_of(self.sessions.item[row].ravel(), ITEM_ROWS, row.size).reshape(row.shape))
        category = torch.from_numpy(rows_of(self.sessions.category[row].ravel(), CATEGORY_ROWS, row.size).reshape(row.shape))
        wide = torch.cat(
            [torch.from_numpy(x), functional.embedding(item, self.values["item"]), functional.embedding(category, self.values["category"])],
            dim=2,
        )
        return wide, torch.from_numpy(label.astype(np.float32)), torch.from_numpy(risk.astype(np.float32)), row

    def inner(self, wide: torch.Tensor) -> torch.Tensor:
        """The heads' features, [events, sessions, INNER]."""
        made = wide @ self.values["into"] + self.values["into_bias"]
        z = torch.sigmoid(made[..., :WIDTH])
        keep, add = 1 - z, z * torch.tanh(made[..., WIDTH : 2 * WIDTH])
        h, states = torch.zeros_like(add[0]), []
        for step in range(len(wide)):
            h = keep[step] * h + add[step]
            states.append(h)
        return torch.tanh(torch.stack(states) @ self.values["out"] + made[..., 2 * WIDTH :])

    def epoch(self, chosen: Ints, number: int) -> float:
        """One pass; the mean loss of purchase."""
        total, weight = 0.0, 0.0
        parts = list(self.batches(chosen, shuffle=True))
        steps = self.how.epochs * len(parts)
        for index, part in enumerate(parts):
            done = (number * len(parts) + index) / steps
            warm = min(1.0, (number * len(parts) + index + 1) / 50)
            for group in self.optimizer.param_groups:
                group["lr"] = self.how.rate * warm * (0.5 * (1 + np.cos(np.pi * done)) + 0.01)
            wide, label, risk, _ = self.gather(part)
            inner = self.inner(wide)
            said = inner @ self.values["heads"][:-1] + self.values["heads"][-1]
            lost = functional.binary_cross_entropy_with_logits(said, label, reduction="none") * risk
            sums, counts = lost.sum(dim=(0, 1)), risk.sum(dim=(0, 1)).clamp(min=1.0)
            # A batch of long sessions has many events, each worth as much as any other's.
            share = len(part) * 4.0
            loss = sums[0] / share + 0.3 * sums[1] / share
            self.optimizer.zero_grad(set_to_none=True)
            self.embeddings.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(self.values.values()), 1.0)
            self.optimizer.step()
            self.embeddings.step()
            with torch.no_grad():
                self.values["item"][0] = 0
                self.values["category"][0] = 0
            total, weight = total + float(sums[0].detach()), weight + float(counts[0])
        return total / max(weight, 1.0)

    @torch.no_grad()
    def inner_rows(self, chosen: Ints) -> Iterator[tuple[Float64, Float64, Float64]]:
        """Of batches: features float64[n, INNER + 1], labels and risk float64[n, 2]."""
        for part in self.batches(chosen, shuffle=False):
            wide, label, risk, _ = self.gather(part)
            inner = self.inner(wide).reshape(-1, INNER).numpy().astype(np.float64)
            flat = np.concatenate([inner, np.ones((len(inner), 1))], axis=1)
            yield flat, label.reshape(-1, len(HEADS)).numpy().astype(np.float64), risk.reshape(-1, len(HEADS)).numpy().astype(np.float64)

    def weights(self, version: str, chosen: Ints) -> IntentWeights:
        """The weights as they are, the heads fitted to the end by two Newton steps."""
        arrays = {name: value.detach().numpy().copy() for name, value in self.values.items()}
        heads = arrays.pop("heads").T.astype(np.float64)
        curvature = np.zeros((len(HEADS), INNER + 1, INNER + 1))
        for last in (False, False, True):
            curvature[:] = 0
            gradient = np.zeros((len(HEADS), INNER + 1))
            for x, label, risk in self.inner_rows(chosen):
                for head in range(len(HEADS)):
                    p = sigmoid(x @ heads[head])
                    gradient[head] += x.T @ ((p - label[:, head]) * risk[:, head])
                    curvature[head] += products(x * (p * (1 - p) * risk[:, head])[:, None], x)
            if not last:
                for head in range(len(HEADS)):
                    heads[head] -= solve(curvature[head] + 5.0 * np.eye(INNER + 1), gradient[head])
        return IntentWeights(version=version, mean=self.mean, scale=self.scale, heads=heads, curvature=curvature, **arrays)

    def plain(self) -> Float64:
        """float64[2, INNER + 1], the heads as they are."""
        return self.values["heads"].detach().numpy().T.astype(np.float64)

    def copy(self) -> dict[str, torch.Tensor]:
        """All values as they are."""
        return {name: value.detach().clone() for name, value in self.values.items()}

    @torch.no_grad()
    def take(self, values: dict[str, torch.Tensor]) -> None:
        """Takes what copy() gave."""
        for name, value in values.items():
            self.values[name].copy_(value)

    def report(self, heads: Float64, chosen: Ints) -> dict[str, float]:
        """Log loss of purchase over all events at risk, and that of the base rate."""
        lost, rows, bought = 0.0, 0.0, 0.0
        for x, label, risk in self.inner_rows(chosen):
            p = sigmoid(x @ heads[0])
            lost -= float((risk[:, 0] * np.log(np.where(label[:, 0] > 0, p, 1 - p))).sum())
            rows, bought = rows + float(risk[:, 0].sum()), bought + float((risk * label)[:, 0].sum())
        base = min(max(bought / max(rows, 1.0), 1e-9), 1 - 1e-9)
        entropy = -(base * np.log(base) + (1 - base) * np.log(1 - base))
        return {"log_loss": round(lost / max(rows, 1.0), 6), "base_rate_log_loss": round(float(entropy), 6), "events": rows}


__all__ = ["Sessions", "Training", "fit_intent"]
