"""A whole training: pretraining where it helps, fitting until the newest part says stop, and once more on everything for as long."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from models.demand.network import Member, Weights
from models.train.fit import Examples, Recipe, fit, losses, members
from models.train.pretrain import pretrain
from models.train.trainer import Trainer

Tell = Callable[[str, float], None]
"""Told (what is being done, share of it that is done)."""
Record = Callable[[str, float, int], None]
"""Told (name of a curve, value, step): for TensorBoard and the like."""

_PATIENCE = 5
_PRETRAINING_STEPS = 300
_VALID_ROWS = 8192
FROZEN = ("embeddings.", "first.", "second.")
"""The layers that pretraining teaches."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to train."""

    pretrain: Literal["auto", "never", "always"] = "auto"
    """auto: with and without, and what the newest part prefers."""
    finetune: Literal["full", "frozen"] = "full"
    """frozen: pretrained layers stay as they are."""
    epochs: int | None = None
    """At most; None: as many as the trainer finds right."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A training, and what it found out."""

    weights: Weights
    epochs: int
    """After which the newest part was forecast best; a mean over the members."""
    pretrained: bool
    loss: float
    """Over the newest part, mean of the members."""


def train(trainer: Trainer, examples: Examples, newest: Examples, options: Options, version: str, tell: Tell, record: Record) -> Fitted:
    """Fits members one after the other, each until the newest part gets no better, and keeps each one's best.

    Args:
        trainer: of the bucket size.
        examples: what is learnt from.
        newest: what comes after them: says when to stop, and whether pretraining helped.
        options: how.
        version: of the weights.
        tell: progress.
        record: curves.
    """
    ways = {"auto": (False, True), "never": (False,), "always": (True,)}[options.pretrain]
    if options.finetune == "frozen":
        ways = (True,)  # frozen layers that were never taught are noise
    found = [
        _train(trainer, examples, newest, replace(options, pretrain="always" if way else "never"), version, tell, record) for way in ways
    ]
    best = min(found, key=lambda fitted: fitted.loss)
    trees = trainer.boosted(examples, lambda share: tell("training trees", share))
    return replace(best, weights=replace(best.weights, trees=trees))


def refit(trainer: Trainer, examples: Examples, fitted: Fitted, options: Options, version: str, tell: Tell) -> Weights:
    """Fresh members, trained as the fitted ones were, on more examples.

    Args:
        trainer: of the bucket size.
        examples: all of them.
        fitted: says for how long, and whether pretrained.
        options: how.
        version: of the weights.
        tell: progress.
    """
    made = members(trainer.layout, trainer.spec.levels, trainer.shape, trainer.seed)
    recipe = replace(trainer.recipe(examples), epochs=fitted.epochs)
    for number, member in enumerate(made):
        _prepare(member, examples, fitted.pretrained, options, trainer.seed + number, recipe.unseen)
        fit(member, examples, trainer.spec.levels, recipe, trainer.seed + number, fresh=not fitted.pretrained)
        tell("training on everything", (number + 1) / len(made))
    trees = trainer.boosted(examples, lambda share: tell("training trees on everything", share))
    return Weights(version, trainer.spec.size, trainer.layout, trainer.spec.levels, tuple(made), trees)


def _train(trainer: Trainer, examples: Examples, newest: Examples, options: Options, version: str, tell: Tell, record: Record) -> Fitted:
    pretrained = options.pretrain == "always"
    what = "training, pretrained" if pretrained else "training"
    made = members(trainer.layout, trainer.spec.levels, trainer.shape, trainer.seed)
    recipe = trainer.recipe(examples)
    if options.epochs is not None:
        recipe = replace(recipe, epochs=min(options.epochs, recipe.epochs))
    epochs, total = [], 0.0
    for number, member in enumerate(made):
        error = _prepare(member, examples, pretrained, options, trainer.seed + number, recipe.unseen)
        if pretrained:
            record(f"{trainer.spec.size}/pretraining_error", error, number)
        stop = _Stop(member, newest, trainer.spec.levels, recipe)

        def after(epoch: int, averaged: Mapping[str, torch.Tensor], stop: _Stop = stop, number: int = number) -> bool:
            ended = stop(epoch, averaged)
            record(f"{trainer.spec.size}/{what}/{number}/newest", stop.last, epoch)
            tell(what, (number + (1.0 if ended else epoch / recipe.epochs)) / len(made))
            return ended

        loss = fit(member, examples, trainer.spec.levels, recipe, trainer.seed + number, fresh=not pretrained, after=after)
        record(f"{trainer.spec.size}/{what}/{number}/examples", loss, stop.best_epoch)
        stop.give(member)
        epochs.append(stop.best_epoch)
        total += stop.best
    weights = Weights(version, trainer.spec.size, trainer.layout, trainer.spec.levels, tuple(made))
    return Fitted(weights, max(1, round(sum(epochs) / len(epochs))), pretrained, total / len(made))


def _prepare(member: Member, examples: Examples, pretrained: bool, options: Options, seed: int, unseen: tuple[int, ...]) -> float:
    error = pretrain(member, examples, seed, _PRETRAINING_STEPS, unseen=unseen) if pretrained else math.nan
    if options.finetune == "frozen":
        for name, value in member.named_parameters():
            value.requires_grad_(not name.startswith(FROZEN))
    return error


class _Stop:
    """Early stopping: remembers the weights that forecast the newest part best."""

    def __init__(self, member: Member, newest: Examples, levels: tuple[float, ...], recipe: Recipe) -> None:
        part = slice(None, None, max(1, -(-len(newest) // _VALID_ROWS)))
        self.newest = Examples(newest.rows[part], newest.scale[part], newest.units[part], newest.says[part], newest.issue[part])
        self.levels, self.recipe, self.member = levels, recipe, member
        self.copy = copy.deepcopy(member).eval()
        self.best, self.best_epoch, self.last = math.inf, recipe.epochs, math.nan
        self.kept: dict[str, torch.Tensor] = {}

    def __call__(self, epoch: int, averaged: Mapping[str, torch.Tensor]) -> bool:
        if not len(self.newest):
            return False
        self.last = self._loss(averaged)
        if self.last < self.best:
            self.best, self.best_epoch = self.last, epoch
            self.kept = {name: value.clone() for name, value in averaged.items()}
        return epoch - self.best_epoch >= _PATIENCE

    def give(self, member: Member) -> None:
        """Puts the best weights into the member."""
        with torch.no_grad():
            for name, value in member.named_parameters():
                if name in self.kept:
                    value.copy_(self.kept[name])
                value.requires_grad_(True)
        if not len(self.newest):
            self.best = 0.0

    def _loss(self, averaged: Mapping[str, torch.Tensor]) -> float:
        with torch.no_grad():
            for name, value in self.copy.named_buffers():
                value.copy_(self.member.get_buffer(name))
            for name, value in self.copy.named_parameters():
                value.copy_(averaged[name])
            # The jitter of counts is drawn the same in every epoch, or the epochs could not be compared.
            random = torch.Generator().manual_seed(7)
            units = torch.from_numpy(self.newest.units)
            loss = losses(
                self.copy,
                torch.from_numpy(self.newest.rows),
                torch.from_numpy(self.newest.scale),
                units,
                torch.from_numpy(self.newest.says),
                torch.ones(len(units)),
                torch.tensor(self.levels),
                self.recipe,
                self.newest.whole,
                random,
            )
        return float(loss)
