"""Small trained weights and where a forecast stage of a test finds them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import torch

from models.demand.encoder import layout_of
from models.demand.network import Member, Shape, Weights
from models.protocol import DemandSpec
from models.train.artefact import arrays_of, layout_dict, shape_dict
from models.train.card import Card, Data
from stream.engine.forecast import BUILTIN
from stream.runners.forecast import ForecastStage, ForecastWork
from stream.runners.weights import Order, Trained
from stream.state.artefacts import digest

SHAPE = Shape(hidden=4, step=4)


def tiny(spec: DemandSpec, version: str, seed: int) -> Weights:
    """A network of random weights: what it says is nonsense, and its own."""
    torch.manual_seed(seed)
    member = Member(layout_of(spec), len(spec.levels), SHAPE)
    with torch.no_grad():
        member.out.bias.normal_(0.5)
    return Weights(version, spec.size, member.layout, spec.levels, (member.eval(),))


def card_of(weights: Weights, follows: str = "", until_ms: int = 0) -> Card:
    """A card for them."""
    sha256, size = digest(arrays_of(weights))
    return Card(
        version=weights.version,
        size=weights.size,
        horizon=weights.layout.horizon,
        levels=weights.levels,
        layout=layout_dict(weights.layout),
        shape=shape_dict(SHAPE),
        follows=follows,
        data=Data(source="a test", first_ms=0, until_ms=until_ms, examples=1, items=1),
        metrics={},
        recipe={},
        seed=0,
        checksum="",
        versions={},
        sha256=sha256,
        bytes=size,
    )


class Shelf:
    """A room that has everything, though now and then not yet; its orders are what a test puts there.

    Args:
        spec: of the bucket size.
        chance: of how long it takes.
    """

    def __init__(self, spec: DemandSpec, chance: random.Random) -> None:
        self.chance = chance
        self.known = {name: tiny(spec, name, seed) for seed, name in enumerate(("v1", "v2", "v3"))}
        self.asked: set[str] = set()
        self.newest: Order | None = None

    def order(self, size: str) -> Order | None:
        return self.newest if self.newest is not None and self.newest.size == size else None

    def ready(self, versions: Iterable[str]) -> bool:
        wanted = set(versions) - {BUILTIN}
        self.asked |= wanted
        return not wanted or self.chance.random() < 0.7

    def get(self, version: str) -> Trained:
        weights = self.known[version]
        return Trained(card_of(weights, follows="v1" if version == "v2" else ""), weights)


class PlannedWork(ForecastWork):
    """Is told of all versions in turn, each from its own event time on, as soon as it may be told."""

    def news(self) -> str | None:
        assert isinstance(self.stage, PlannedForecast)
        orders = self.stage.plan
        last = self.told()[orders[0].size]
        names = [order.version for order in orders]
        after = names.index(last) + 1 if last in names else 0
        return orders[after].text if after < len(orders) else None


class PlannedForecast(ForecastStage):
    """Changes weights at event times that a test knows."""

    plan: tuple[Order, ...] = ()

    def open(self, partition: Any) -> ForecastWork:
        return PlannedWork(partition, self)
