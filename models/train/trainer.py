"""Trains the global network from examples: several members, side by side."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from models.demand.encoder import Layout
from models.demand.network import Shape, Weights
from models.protocol import DemandSpec
from models.train.fit import Examples, Recipe, fit, members

_STEPS = 1000
"""Batches of a full training; fewer where there is little to learn from."""
_EPOCHS = 16
_SIDE_BY_SIDE = 2


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
        """Fresh networks, two at a time.

        Args:
            examples: what is learnt from.
            version: of the weights.
            tell: told which share is done.
        """
        made = members(self.layout, self.spec.levels, self.shape, self.seed)
        recipe = self.recipe(examples)
        done = 0

        def one(number: int) -> None:
            nonlocal done
            fit(made[number], examples, self.spec.levels, recipe, self.seed + number)
            done += 1
            if tell is not None:
                tell(done / len(made))

        with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            list(pool.map(one, range(len(made))))
        return Weights(version, self.spec.size, self.layout, self.spec.levels, tuple(made))
