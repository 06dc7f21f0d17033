"""MLP, LSTM and GRU, small and global: quantile heads trained by pinball loss, a mean by Poisson loss, stopped early on later windows."""

from __future__ import annotations

import models.device  # noqa: F401  (before torch; one thread)

# isort: split
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from models.demand.textbook.windows import (
    EXTRA,
    History,
    Setting,
    Textbook,
    TextbookForecast,
    TextbookModel,
    Windows,
    newest,
    published,
    split,
)

_HIDDEN = 48
_BATCH = 512
_EPOCHS = 20
_PATIENCE = 3
_RATE = 3e-3
_MEAN_SHARE = 0.1
_LONGEST = 64  # newest steps that a recurrent network reads


class _Network(nn.Module):
    """An encoder of a window, then quantiles and a mean of every step."""

    def __init__(self, kind: str, setting: Setting) -> None:
        super().__init__()
        self.setting = setting
        self.kind = kind
        width = _HIDDEN
        if kind == "mlp":
            self.encoder: nn.Module = nn.Sequential(
                nn.Linear(setting.length + EXTRA, 2 * width), nn.ReLU(), nn.Linear(2 * width, width), nn.ReLU()
            )
        else:
            self.encoder = (nn.LSTM if kind == "lstm" else nn.GRU)(1, width, batch_first=True)
        self.head = nn.Sequential(nn.Linear(width + EXTRA, width), nn.ReLU(), nn.Linear(width, setting.horizon * (len(setting.levels) + 1)))

    def forward(self, inputs: torch.Tensor, extra: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(quantiles float32[m, levels, horizon], ascending; mean float32[m, horizon]), relative to the scale."""
        x = torch.log1p(inputs)
        if self.kind == "mlp":
            read = self.encoder(torch.cat([x, extra], dim=1))
        else:
            states, _ = self.encoder(x[:, -_LONGEST:, None])
            read = states[:, -1]
        out = self.head(torch.cat([read, extra], dim=1)).view(len(x), len(self.setting.levels) + 1, self.setting.horizon)
        first, rest = out[:, :1], F.softplus(out[:, 1:-1])
        return torch.cat([first, rest], dim=1).cumsum(dim=1), F.softplus(out[:, -1]) + 1e-4


@dataclass(frozen=True, slots=True)
class _Fitted:
    network: _Network

    def forecast(self, history: History) -> TextbookForecast:
        """See TextbookModel."""
        now = newest(history, self.network.setting)
        with torch.inference_mode():
            quantiles, mean = self.network(torch.from_numpy(now.inputs), torch.from_numpy(now.extra))
        return published(mean.numpy(), quantiles.numpy(), now.scale, history)


class MLP(Textbook):
    """A multilayer perceptron on the window."""

    name: ClassVar[str] = "mlp"

    @classmethod
    def fit(cls, history: History, setting: Setting) -> TextbookModel:
        """Trains until later windows are forecast no better."""
        return _train(cls.name, history, setting)


class LSTM(Textbook):
    """A long short-term memory over the window."""

    name: ClassVar[str] = "lstm"

    @classmethod
    def fit(cls, history: History, setting: Setting) -> TextbookModel:
        """Trains until later windows are forecast no better."""
        return _train(cls.name, history, setting)


class GRU(Textbook):
    """Gated recurrent units over the window."""

    name: ClassVar[str] = "gru"

    @classmethod
    def fit(cls, history: History, setting: Setting) -> TextbookModel:
        """Trains until later windows are forecast no better."""
        return _train(cls.name, history, setting)


def _train(kind: str, history: History, setting: Setting) -> TextbookModel:
    train, held = split(history, setting)
    with torch.random.fork_rng(devices=[]):  # nobody else's chance is touched
        torch.manual_seed(setting.seed)
        network = _Network(kind, setting)
    random = np.random.default_rng(setting.seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=_RATE)
    best, kept, since = float("inf"), {name: value.clone() for name, value in network.state_dict().items()}, 0
    for _ in range(_EPOCHS):
        network.train()
        for rows in _batches(len(train.scale), random):
            optimiser.zero_grad()
            loss = _loss(network, train, rows)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
        network.eval()
        with torch.inference_mode():
            score = float(_loss(network, held, np.arange(len(held.scale))))
        if score < best * (1 - 1e-4):
            best, kept, since = score, {name: value.clone() for name, value in network.state_dict().items()}, 0
        else:
            since += 1
            if since >= _PATIENCE:
                break
    network.load_state_dict(kept)
    network.eval()
    return _Fitted(network)


def _batches(count: int, random: np.random.Generator) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    order = random.permutation(count)
    for start in range(0, count, _BATCH):
        yield order[start : start + _BATCH]


def _loss(network: _Network, found: Windows, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> torch.Tensor:
    """Pinball of every level, and Poisson deviance of the mean, weighted by what a window can tell: a sale's noise shrinks with the level."""
    inputs, extra, targets, scale = (torch.from_numpy(part[rows]) for part in (found.inputs, found.extra, found.targets, found.scale))
    quantiles, mean = network(inputs, extra)
    levels = torch.tensor(network.setting.levels, dtype=torch.float32)[None, :, None]
    over = targets[:, None] - quantiles
    pinball = torch.maximum(levels * over, (levels - 1) * over).mean(dim=(1, 2))
    deviance = (mean - targets * torch.log(mean)).mean(dim=1)
    weight = scale / (scale + 1)
    total: torch.Tensor = ((pinball + _MEAN_SHARE * deviance) * weight).sum() / weight.sum()
    return total
