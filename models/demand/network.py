"""The global network: one small torch network for all items of a bucket size; its shape, its outputs, its bytes.

A row (see encoder) goes in; for every step come out the quantiles of what is ordered, on the network's scale, and a
mean and a dispersion of counts. Statics are hashed into learned embeddings. Device code is in models.device.
"""

from __future__ import annotations

from models.device import Tiles

# isort: split
import copy
from dataclasses import dataclass

import torch
from torch import nn

from models.demand.encoder import Encoder, Layout
from models.demand.trees import Trees
from models.demand.window import Window
from models.protocol import Float32

_EMBEDDED = 8
_BUCKETS = 2048
"""Rows of an embedding: statics beyond that share."""
_DROPOUT = 0.1
FAR = 6.0
"""Standard deviations beyond which every value of a column is the same."""
LOG_DISPERSION, LOG_VARIANCE = (-5.0, 2.7), (-8.0, 2.7)
"""Within which a member's last output counts: the logarithm of a count's dispersion, or of kilograms' relative variance."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How big the network is."""

    hidden: int = 128
    step: int = 64
    members: int = 1
    """Networks whose outputs are averaged."""


class Member(nn.Module):
    """One network: an item's own columns once, then every step with them."""

    def __init__(self, layout: Layout, levels: int, shape: Shape) -> None:
        """Draws the weights from torch's generator.

        Args:
            layout: the columns of a row.
            levels: quantiles.
            shape: sizes.
        """
        super().__init__()
        self.layout, self.levels = layout, levels
        self.embeddings = nn.ModuleList(nn.Embedding(_BUCKETS, _EMBEDDED) for _ in layout.statics)
        for table in self.embeddings:
            nn.init.normal_(table.weight, std=0.05)  # type: ignore[arg-type]
        embedded = _EMBEDDED * len(layout.statics)
        self.mean: torch.Tensor
        self.inverse: torch.Tensor
        self.register_buffer("mean", torch.zeros(layout.own + layout.step))
        self.register_buffer("inverse", torch.ones(layout.own + layout.step))
        self.low: torch.Tensor
        self.high: torch.Tensor
        self.register_buffer("low", torch.full((layout.own + layout.step,), -FAR))
        self.register_buffer("high", torch.full((layout.own + layout.step,), FAR))
        self.first = nn.Linear(layout.own + embedded, shape.hidden)
        self.second = nn.Linear(shape.hidden, shape.hidden)
        self.join = nn.Linear(shape.hidden + embedded, shape.step)
        self.known = nn.Linear(layout.step, shape.step, bias=False)
        self.third = nn.Linear(shape.step, shape.step)
        self.out = nn.Linear(shape.step, levels + 2)
        self.noise: torch.Generator | None = None
        """Of dropout, while it is trained: a generator of its own, so that members can be trained side by side."""
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.out.bias.zero_()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """float32[n, horizon, levels + 2]: quantiles on the network's scale, ascending; log of the mean over the scale; log dispersion.

        Args:
            rows: float32[n, width].
        """
        layout = self.layout
        statics = len(layout.statics)
        own = self.standard(rows[:, statics : statics + layout.own], slice(None, layout.own))
        steps = rows[:, statics + layout.own :].reshape(len(rows), -1, layout.step)  # [n, horizon, step]
        steps = self.standard(steps, slice(layout.own, None))
        embedded = [table(rows[:, index].long() % _BUCKETS) for index, table in enumerate(self.embeddings)]
        item = self._drop(torch.relu(self.first(torch.cat([own, *embedded], 1))))
        item = self._drop(torch.relu(self.second(item)))  # [n, hidden]
        joined = self.join(torch.cat([item, *embedded], 1))[:, None] + self.known(steps)  # [n, horizon, step]
        hidden = self._drop(torch.relu(joined))
        hidden = torch.relu(self.third(hidden))
        out = self.out(hidden)
        return torch.cat([_ascending(out[..., : self.levels]), out[..., self.levels :]], -1)

    def standard(self, values: torch.Tensor, columns: slice) -> torch.Tensor:
        """Columns as the network takes them: standardised, and never beyond what it was trained on, where it knows nothing.

        Args:
            values: float32[..., columns].
            columns: of an item's own and a step's.
        """
        values = (values - self.mean[columns]) * self.inverse[columns]
        return torch.minimum(torch.maximum(values, self.low[columns]), self.high[columns])

    def _drop(self, values: torch.Tensor) -> torch.Tensor:
        if self.noise is None or not self.training:
            return values
        kept = torch.empty_like(values).bernoulli_(1 - _DROPOUT, generator=self.noise)
        return values * kept / (1 - _DROPOUT)


def _ascending(raw: torch.Tensor) -> torch.Tensor:
    """Quantiles from a middle one and steps away from it, so that none ever crosses."""
    middle = raw.shape[-1] // 2
    steps = nn.functional.softplus(raw - 1.0)
    up = raw[..., middle, None] + steps[..., middle + 1 :].cumsum(-1)
    down = raw[..., middle, None] - steps[..., :middle].flip(-1).cumsum(-1).flip(-1)
    return torch.cat([down, raw[..., middle, None], up], -1)


@dataclass(frozen=True)
class Weights:
    """A trained network: what is loaded into the experts that need one."""

    version: str
    size: str
    """The bucket size that it was trained for."""
    layout: Layout
    levels: tuple[float, ...]
    members: tuple[Member, ...]
    """In evaluation mode; their outputs are averaged."""
    trees: Trees | None = None
    """That were trained beside it."""


class Network:
    """A trained network on a device: rows in, quantiles, mean and dispersion out, every row's bits its own."""

    def __init__(self, weights: Weights, device: torch.device) -> None:
        """Moves the members to the device and proves that rows do not depend on each other there.

        Args:
            weights: not changed.
            device: where it is computed.

        Raises:
            models.device.DeviceError: the device rounds rows by their place.
        """
        self.weights = weights
        self.horizon, self.outputs = weights.layout.horizon, len(weights.levels) + 2
        members = [copy.deepcopy(member).to(device).eval() for member in weights.members]

        def averaged(rows: torch.Tensor) -> torch.Tensor:
            total: torch.Tensor = members[0](rows)
            for member in members[1:]:
                total = total + member(rows)
            return (total / len(members)).reshape(len(rows), -1)

        self._tiles = Tiles(averaged, weights.layout.width, self.horizon * self.outputs, device, graph=True)
        self._tiles.prove("the global network")
        self.encoder = Encoder(weights.layout)

    def outputs_of(self, window: Window) -> tuple[Float32, Float32]:
        """float32[n, horizon, levels + 2] (see Member.forward) and the items' scale, float32[n]; computed once a window.

        Args:
            window: the items.
        """
        known = window.shared.get("network")
        if known is None:
            encoded = self.encoder.encode(window)
            out = self._tiles(encoded.rows).reshape(len(window), self.horizon, self.outputs)
            known = window.shared["network"] = (out, encoded.scale)
            if self.weights.trees is not None:
                window.shared["trees"] = (self.weights.trees.outputs(encoded.rows, self.weights.layout), encoded.scale)
        found: tuple[Float32, Float32] = known
        return found

    def trees_of(self, window: Window) -> tuple[Float32, Float32]:
        """float32[n, horizon, levels], the trees' quantiles on the network's scale, and the items' scale; computed once a window.

        Args:
            window: the items.
        """
        self.outputs_of(window)
        found: tuple[Float32, Float32] = window.shared["trees"]
        return found
