"""Trains the global network from examples: several members, early stopping on the newest issues, and refits that go on from there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

from models.demand.encoder import Layout
from models.demand.network import Shape, Weights
from models.protocol import DemandSpec
from models.train.fit import Examples, Recipe, fit, members

_STEPS = 1000
"""Batches of a full training; fewer where there is little to learn from."""
_EPOCHS = 16
_REFIT = 0.3


class Trainer:
    """Makes weights for one bucket size."""

    def __init__(self, spec: DemandSpec, layout: Layout, members: int = 1, seed: int = 0, shape: Shape | None = None) -> None:
        """Takes what is to be trained.

        Args:
            spec: what is forecast.
            layout: the columns.
            members: networks that are averaged.
            seed: of everything that is drawn.
            shape: sizes.
        """
        self.spec, self.layout, self.seed = spec, layout, seed
        self.shape = replace(shape or Shape(), members=members)

    def recipe(self, examples: Examples) -> Recipe:
        """How these examples are learnt: about so many batches, whatever their number.

        Args:
            examples: at least one.
        """
        batch = 512 if len(examples) >= 20_000 else 256
        batches = max(1, len(examples) // batch)
        epochs = max(2, min(_EPOCHS, round(_STEPS / batches)))
        return Recipe(epochs=epochs, batch=batch, raw=0.9, volume=0.0, half_life=self.half_life(examples), counts=0.3)

    def half_life(self, examples: Examples) -> float:
        """Buckets after which an example counts half: a third of what there is, at least four seasons."""
        span = int(examples.issue.max() - examples.issue.min()) + 1
        longest = max((season for season in self.spec.seasons if season <= 60), default=12)
        return float(max(span / 2.5, longest / 2))

    def train(self, examples: Examples, version: str, tell: Callable[[float], None] | None = None) -> Weights:
        """Fresh networks.

        Args:
            examples: what is learnt from.
            version: of the weights.
            tell: told which share is done.
        """
        made = members(self.layout, self.spec.levels, self.shape, self.seed)
        recipe = self.recipe(examples)
        for number, member in enumerate(made):
            fit(member, examples, self.spec.levels, recipe, self.seed + number)
            if tell is not None:
                tell((number + 1) / len(made))
        return Weights(version, self.spec.size, self.layout, self.spec.levels, tuple(made))

    def refit(self, weights: Weights, examples: Examples, version: str, tell: Callable[[float], None] | None = None) -> Weights:
        """The same networks, fitted on with newer examples.

        Args:
            weights: not changed.
            examples: old ones and new.
            version: of the new weights.
            tell: told which share is done.
        """
        made = [copy.deepcopy(member) for member in weights.members]
        whole = self.recipe(examples)
        recipe = replace(whole, epochs=max(1, round(whole.epochs * _REFIT)), rate=whole.rate * 0.35)
        for number, member in enumerate(made):
            fit(member, examples, self.spec.levels, recipe, self.seed + 100 + number, fresh=False)
            if tell is not None:
                tell((number + 1) / len(made))
        return replace(weights, version=version, members=tuple(made))
