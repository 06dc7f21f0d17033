"""Fits the global network to examples: quantiles by pinball loss, a count's mean and dispersion by likelihood."""

from __future__ import annotations

import models.device  # noqa: F401  (before torch)

# isort: split
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.demand.encoder import Layout
from models.demand.network import FAR, LOG_DISPERSION, LOG_VARIANCE, Member, Shape
from models.protocol import Float32

Progress = Callable[[int, int, float], None]
"""Told (steps done, steps in all, loss)."""

After = Callable[[int, Mapping[str, torch.Tensor]], bool]
"""Told (epochs done, the moving average of the weights) after every epoch; True ends the fitting."""

IGNORED, SEEN, AT_LEAST = 0, 1, 2
"""What a target says: nothing, the demand, or a lower bound of it (stock ran out)."""


@dataclass(frozen=True, slots=True)
class Examples:
    """What is learnt from. S issues of items."""

    rows: Float32
    """float32[S, width]."""
    scale: Float32
    """float32[S]."""
    units: Float32
    """float32[S, horizon]."""
    says: NDArray[np.int8]
    """int8[S, horizon]: IGNORED, SEEN or AT_LEAST."""
    issue: NDArray[np.int64]
    """int64[S], the bucket that had closed."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def whole(self) -> bool:
        """Whether all units are counts."""
        return bool((self.units == np.rint(self.units)).all())


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the network is fitted."""

    epochs: int = 12
    batch: int = 256
    rate: float = 4e-3
    decay: float = 1e-2
    average: float = 0.995
    volume: float = 0.25
    """Power of an item's size in its weight: 0 every item alike, 1 by units."""
    half_life: float = 0.0
    """Buckets after which an example counts half; 0: never."""
    counts: float = 0.5
    """Weight of the likelihood of counts beside the pinball loss."""
    raw: float = 0.0
    """Share of the pinball loss that is taken in units relative to the scale instead of on the network's own scale."""
    unseen: tuple[int, ...] = ()
    """Columns of a step that say nothing: see Trainer.unseen."""


def fit(
    member: Member,
    examples: Examples,
    levels: tuple[float, ...],
    recipe: Recipe,
    seed: int,
    progress: Progress | None = None,
    fresh: bool = True,
    after: After | None = None,
) -> float:
    """Fits one network in place and leaves it in evaluation mode, with the moving average of its weights.

    Args:
        member: the network.
        examples: at least one.
        levels: of the quantiles.
        recipe: how.
        seed: of order, dropout and jitter.
        progress: told now and then.
        fresh: the columns' means and deviations are taken from these examples (or stay, when fitting goes on).
        after: told after every epoch; may end it.

    Returns:
        The loss over the last epoch.
    """
    random = torch.Generator().manual_seed(seed)
    member.noise = torch.Generator().manual_seed(seed + 1)
    layout = member.layout
    if fresh:
        standardise(member, examples, layout, recipe.unseen)
    else:
        _widen(member, examples)
    rows, scale, units = (torch.from_numpy(part) for part in (examples.rows, examples.scale, examples.units))
    says = torch.from_numpy(examples.says)
    whole = examples.whole
    weight = (scale + 1.0) ** recipe.volume
    if recipe.half_life:
        age = torch.from_numpy((examples.issue.max() - examples.issue).astype(np.float32))
        weight = weight * torch.exp(-math.log(2) * age / recipe.half_life)
    weight = weight / weight.mean()
    count = len(rows)
    batches = -(-count // recipe.batch)
    total = max(2, recipe.epochs * batches)
    optimiser = torch.optim.AdamW(
        [value for value in member.parameters() if value.requires_grad], lr=recipe.rate, weight_decay=recipe.decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=total + 1, pct_start=0.15)
    averaged = {name: value.detach().clone() for name, value in member.named_parameters()}
    p = torch.tensor(levels)
    member.train()
    done, loss_sum = 0, 0.0
    for epoch in range(1, recipe.epochs + 1):
        order = torch.randperm(count, generator=random)
        loss_sum = 0.0
        for start in range(0, count, recipe.batch):
            pick = order[start : start + recipe.batch]
            loss = losses(member, rows[pick], scale[pick], units[pick], says[pick], weight[pick], p, recipe, whole, random)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(member.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            done += 1
            # The first steps count less in the average than a fixed memory would have it.
            keep = min(recipe.average, done / (done + 10))
            with torch.no_grad():
                for name, value in member.named_parameters():
                    averaged[name].lerp_(value, 1 - keep)
            loss_sum += float(loss.detach()) * len(pick)
        if progress is not None:
            progress(done, total, loss_sum / count)
        if after is not None and after(epoch, averaged):
            break
    with torch.no_grad():
        for name, value in member.named_parameters():
            value.copy_(averaged[name])
    member.noise = None
    member.eval()
    return loss_sum / count


def losses(
    member: Member,
    rows: torch.Tensor,
    scale: torch.Tensor,
    units: torch.Tensor,
    says: torch.Tensor,
    weight: torch.Tensor,
    levels: torch.Tensor,
    recipe: Recipe,
    whole: bool,
    random: torch.Generator,
) -> torch.Tensor:
    """The loss of a batch."""
    out = member(rows)  # [n, horizon, levels + 2]
    y = units
    if whole:
        # Quantiles of counts by jitter (Machado and Silva 2005): y - 1 + U has the distribution function joined linearly between counts.
        y = units - torch.rand(units.shape, generator=random)
    size = (scale + 1.0)[:, None]
    target = torch.log((y + 1.0) / size + 0.1)
    over = target[..., None] - out[..., : len(levels)]
    # A lower bound teaches only that demand was not below it.
    over = torch.where((says == AT_LEAST)[..., None], over.clamp(min=0), over)
    pinball = torch.maximum(levels * over, (levels - 1) * over).mean(-1)
    if recipe.raw:
        units_of = out[..., : len(levels)].exp() - 0.1
        off = ((y + 1.0) / size)[..., None] - units_of
        off = torch.where((says == AT_LEAST)[..., None], off.clamp(min=0), off)
        pinball = (1 - recipe.raw) * pinball + recipe.raw * torch.maximum(levels * off, (levels - 1) * off).mean(-1)
    loss = pinball
    if recipe.counts:
        loss = loss + recipe.counts * _likelihood(out[..., -2], out[..., -1], scale, units, says, whole)
    held = (says > 0).float() * weight[:, None]
    return (loss * held).sum() / held.sum().clamp(min=1e-6)


def _likelihood(
    mean: torch.Tensor, dispersion: torch.Tensor, scale: torch.Tensor, units: torch.Tensor, says: torch.Tensor, whole: bool
) -> torch.Tensor:
    """Negative log likelihood of a negative binomial (a gamma for kilograms), less what neither mean nor dispersion can change."""
    m = torch.exp(mean.clamp(-6, 4)) * (scale + 0.05)[:, None]
    a = torch.exp(dispersion.clamp(*(LOG_DISPERSION if whole else LOG_VARIANCE)))
    if not whole:
        # A gamma with a shape of thousands pulls thousands of times as hard at its mean as the quantiles do at theirs: times the root of its
        # variance (Seitzer and others 2022), both pull alike.
        shape, ratio = 1 / a, (units / m).clamp(min=1e-3)
        loss = torch.lgamma(shape) - shape * torch.log(shape) + shape * (ratio - torch.log(ratio))
        return loss * a.detach().sqrt()
    r = 1 / a
    y = units
    loss = torch.lgamma(r) - torch.lgamma(y + r) + torch.lgamma(y + 1) - r * torch.log(r / (r + m)) - y * torch.log(m / (r + m) + 1e-12)
    # Where the count is a lower bound only the mean may be drawn up: below it the likelihood says nothing.
    bound = (says == AT_LEAST) & (m.detach() >= units)
    loss = torch.where(bound, torch.zeros_like(loss), loss)
    return loss / (1 + 0.25 * torch.log1p(scale))[:, None]


def standardise(member: Member, examples: Examples, layout: Layout, unseen: tuple[int, ...] = ()) -> None:
    """Sets the means, deviations and bounds of the columns from the examples.

    Args:
        member: changed in place.
        examples: at least one.
        layout: of their rows.
        unseen: columns of a step that the network is not to look at.
    """
    own, steps = _columns(examples, layout)
    mean = np.concatenate([own.mean(0, dtype=np.float64), steps.mean(0, dtype=np.float64)])
    spread = np.concatenate([own.std(0, dtype=np.float64), steps.std(0, dtype=np.float64)])
    member.mean.copy_(torch.from_numpy(mean.astype(np.float32)))
    # A column that never moved in training says nothing: it must not explode when it does move later.
    inverse = np.where(spread > 1e-3, 1 / np.maximum(spread, 1e-3), 0.0)
    inverse[[layout.own + column for column in unseen]] = 0.0
    member.inverse.copy_(torch.from_numpy(inverse.astype(np.float32)))
    member.low.fill_(FAR)
    member.high.fill_(-FAR)
    _widen(member, examples)


def _columns(examples: Examples, layout: Layout) -> tuple[Float32, Float32]:
    """float32[S, own], items' own columns, and float32[S x horizon, step], those of every step."""
    statics = len(layout.statics)
    return examples.rows[:, statics : statics + layout.own], examples.rows[:, statics + layout.own :].reshape(-1, layout.step)


def _widen(member: Member, examples: Examples) -> None:
    """The columns' bounds hold these examples, too."""
    own, steps = _columns(examples, member.layout)
    for bound, wider, ends in (
        (member.low, torch.minimum, (own.min(0), steps.min(0))),
        (member.high, torch.maximum, (own.max(0), steps.max(0))),
    ):
        values = (torch.from_numpy(np.concatenate(ends)) - member.mean) * member.inverse
        bound.copy_(wider(bound, values.clamp(-FAR, FAR)))


def members(layout: Layout, levels: tuple[float, ...], shape: Shape, seed: int) -> list[Member]:
    """Fresh networks.

    Args:
        layout: the columns.
        levels: of the quantiles.
        shape: sizes and how many.
        seed: of the first; the others follow.
    """
    made = []
    for number in range(shape.members):
        torch.manual_seed(seed + number)
        made.append(Member(layout, len(levels), shape).eval())
    return made
