"""Self-supervised pretraining: stretches of an item's own past are hidden, and what an item's layers make of the rest must tell them.

What it teaches the first layers (what sales look like: level, season, silence) needs no future, so every recorded row teaches, those whose
horizon has not passed too. The head that reconstructs is dropped afterwards.
"""

from __future__ import annotations

import models.device  # noqa: F401  (before torch)

# isort: split
import torch
from torch import nn

from models.demand.network import Member
from models.train.fit import Examples, Progress, standardise

_RATE, _DECAY, _BATCH = 2e-3, 1e-2, 256
_HIDDEN = 0.4
"""Share of the lags that is hidden, in stretches of 2 to 8."""
_LONGEST = 8


def pretrain(
    member: Member, examples: Examples, seed: int, steps: int = 300, progress: Progress | None = None, unseen: tuple[int, ...] = ()
) -> float:
    """Teaches the item's layers in place. Columns' means and deviations are taken from the examples.

    Args:
        member: a fresh network.
        examples: rows; their targets are not looked at.
        seed: of order, stretches and dropout.
        steps: batches.
        progress: told now and then.
        unseen: as for standardise().

    Returns:
        The mean squared error of hidden lags over the last tenth, in their deviations: 1 is what knowing nothing gives.
    """
    random = torch.Generator().manual_seed(seed)
    member.noise = torch.Generator().manual_seed(seed + 1)
    standardise(member, examples, member.layout, unseen)
    layout = member.layout
    statics, lags = len(layout.statics), layout.lags
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(member.second.out_features, lags)
    parameters = [*member.embeddings.parameters(), *member.first.parameters(), *member.second.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=_DECAY)
    rows = torch.from_numpy(examples.rows[:, : statics + layout.own])
    member.train()
    losses: list[float] = []
    for step in range(1, steps + 1):
        pick = torch.randint(len(rows), (min(_BATCH, len(rows)),), generator=random)
        own = member.standard(rows[pick, statics:], slice(None, layout.own))
        hidden = _stretches(len(pick), lags, random)
        seen = own.clone()
        seen[:, :lags] = torch.where(hidden, torch.zeros(()), own[:, :lags])
        numbers = [rows[pick, index].long() for index in range(statics)]
        embedded = [table(n % table.num_embeddings) for n, table in zip(numbers, member.embeddings, strict=True)]  # type: ignore[operator]
        item = torch.relu(member.second(member._drop(torch.relu(member.first(torch.cat([seen, *embedded], 1))))))
        off = (head(item) - own[:, :lags]) ** 2 * hidden
        loss = off.sum() / hidden.sum().clamp(min=1)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        if progress is not None and step % 20 == 0:
            progress(step, steps, losses[-1])
    member.noise = None
    member.eval()
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def _stretches(rows: int, lags: int, random: torch.Generator) -> torch.Tensor:
    """bool[rows, lags], true where a stretch hides a lag."""
    count = max(1, round(_HIDDEN * lags / (1 + _LONGEST / 2)))
    start = torch.randint(lags, (rows, count), generator=random)
    length = torch.randint(2, _LONGEST + 1, (rows, count), generator=random)
    at = torch.arange(lags)
    return ((at >= start[..., None]) & (at < (start + length)[..., None])).any(1)
