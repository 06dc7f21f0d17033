"""Trains the global network from examples: several members, side by side, and the trees beside them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from models.demand.encoder import Layout
from models.demand.network import Shape, Weights
from models.demand.trees import Trees
from models.protocol import MINUTES, DemandSpec
from models.train.boosting import boost
from models.train.fit import SEEN, Examples, Recipe, fit, members

_STEPS = 1000
"""Batches of a full training; fewer where there is little to learn from."""
_EPOCHS = 16
_SIDE_BY_SIDE = 2
_YEAR = 365
"""Days after which a day of the year comes again. One that the examples have not shown is how late it is: a network that has learnt from it says of
next month what no month has shown (Online Retail, ten months: forecasts of September 13 % worse than quantiles of the past)."""
_SELDOM = ("1d", "1w")
"""Bucket sizes whose ticks may take seconds: trees are walked for every item, step and level."""
_TREES = 0.4
"""Of a training's time, about, with trees."""


class Trainer:
    """Makes weights for one bucket size."""

    def __init__(
        self, spec: DemandSpec, layout: Layout, members: int = 1, seed: int = 0, shape: Shape | None = None, trees: bool | None = None
    ) -> None:
        """Takes what is to be trained.

        Args:
            spec: what is forecast.
            layout: the columns.
            members: networks that are averaged.
            seed: of everything that is drawn.
            shape: sizes.
            trees: whether to train trees too; None: for buckets of a day or a week.
        """
        self.spec, self.layout, self.seed = spec, layout, seed
        self.trees = spec.size in _SELDOM if trees is None else trees
        self.shape = replace(shape or Shape(), members=members)

    def recipe(self, examples: Examples) -> Recipe:
        """How these examples are learnt: about so many batches, whatever their number.

        Args:
            examples: at least one.
        """
        batch = 512 if len(examples) >= 20_000 else 256
        batches = max(1, len(examples) // batch)
        epochs = max(2, min(_EPOCHS, round(_STEPS / batches)))
        return Recipe(
            epochs=epochs, batch=batch, raw=0.9, volume=0.0, half_life=self.half_life(examples), counts=0.3, unseen=self.unseen(examples)
        )

    def unseen(self, examples: Examples) -> tuple[int, ...]:
        """Columns of a step of which the examples show too little: the day of the year, while those to come have not been shown.

        Args:
            examples: at least one.
        """
        day = MINUTES[self.spec.size] / MINUTES["1d"]
        days = (int(examples.issue.max() - examples.issue.min()) + 1) * day
        # Of what is forecast next, half has been a day of the year before.
        return self.layout.year if days + self.layout.horizon * day / 2 < _YEAR else ()

    def half_life(self, examples: Examples) -> float:
        """Buckets after which an example counts half: a third of what there is, at least four seasons."""
        span = int(examples.issue.max() - examples.issue.min()) + 1
        longest = max((season for season in self.spec.seasons if season <= 60), default=12)
        return float(max(span / 2.5, longest / 2))

    def train(self, examples: Examples, version: str, tell: Callable[[float], None] | None = None) -> Weights:
        """Fresh networks, two at a time, then trees.

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
                tell(done / len(made) * (1 - _TREES * self.trees))

        with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            list(pool.map(one, range(len(made))))
        trees = self.boosted(examples, None if tell is None else lambda share: tell(1 - _TREES * (1 - share)))
        return Weights(version, self.spec.size, self.layout, self.spec.levels, tuple(made), trees)

    def boosted(self, examples: Examples, tell: Callable[[float], None] | None = None) -> Trees | None:
        """The trees; None where none are wanted, or nothing was seen.

        Args:
            examples: what is learnt from.
            tell: told which share is done.
        """
        if not self.trees or not (examples.says == SEEN).any():
            return None
        return boost(examples, self.layout, self.spec.levels, self.half_life(examples), self.seed, tell, self.unseen(examples))
