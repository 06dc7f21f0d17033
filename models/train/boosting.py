"""Trains the trees beside the network, on the same examples: quantiles of counts spread evenly over (y - 1, y], on the network's scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from models.demand.encoder import Layout, to_scale
from models.demand.trees import Trees, columns
from models.train.fit import SEEN, Examples

_CELLS = 80_000
"""Steps of items that are learnt from; the newer the likelier."""
_POWER = 0.5
"""Of an item's size, in a cell's weight: a loss on the scale of logarithms says nothing of how much is sold; half way to units, the rare are heard
as well."""
ROUNDS = 160
"""Trees of an ensemble."""
_MOST_CODES = 2_000
"""A static of more values than this is a name, of which a tree learns nothing but the past by heart."""
_PARAMS: dict[str, Any] = {
    "objective": "quantile",
    "learning_rate": 0.08,
    "num_leaves": 31,
    "min_data_in_leaf": 40,
    "feature_fraction": 0.4,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "cat_smooth": 20,
    "max_cat_threshold": 16,
    "max_bin": 63,
    "verbosity": -1,
    "force_row_wise": True,
    "deterministic": True,
}


def boost(
    examples: Examples,
    layout: Layout,
    levels: tuple[float, ...],
    half_life: float,
    seed: int,
    tell: Callable[[float], None] | None = None,
    unseen: tuple[int, ...] = (),
    rounds: int = ROUNDS,
) -> Trees:
    """Trains an ensemble a level.

    Args:
        examples: at least one whose demand was seen. What stock cut off teaches nothing here.
        layout: of their rows.
        levels: of the quantiles.
        half_life: buckets after which a cell is half as likely to be learnt from; 0: never.
        seed: of all that is drawn.
        tell: told which share is done.
        unseen: columns of a step that they are not to look at.
        rounds: trees of an ensemble.
    """
    import lightgbm

    random = np.random.default_rng(seed)
    item, step = np.nonzero(examples.says == SEEN)
    weight = np.ones(len(item))
    if half_life:
        weight = np.exp2(-(examples.issue.max() - examples.issue[item]) / half_life)
    if len(item) > _CELLS:  # Efraimidis and Spirakis 2006: a weighted sample without replacement
        keep = np.sort(np.argpartition(random.exponential(size=len(item)) / weight, _CELLS)[:_CELLS])
        item, step, weight = item[keep], step[keep], np.ones(_CELLS)
    codes = []
    for number in range(len(layout.statics)):
        values = np.unique(examples.rows[:, number].astype(np.int64))
        codes.append(values if len(values) <= _MOST_CODES else np.zeros(0, np.int64))
    x = columns(examples.rows, layout, codes, item, step)
    x[:, [layout.own + column for column in unseen]] = 0
    units, scale = examples.units[item, step], examples.scale[item]
    if examples.whole:
        units = (units - random.random(len(units))).astype(np.float32)
    weight = weight * (scale + 1.0) ** _POWER
    categories = list(range(x.shape[1] - len(codes), x.shape[1]))
    params = {**_PARAMS, "seed": seed + 1, "num_threads": torch.get_num_threads()}
    data = lightgbm.Dataset(x, to_scale(units, scale), weight=weight, categorical_feature=categories, free_raw_data=False, params=params)
    texts = []
    for level in levels:
        made = lightgbm.train({**params, "alpha": level}, data, rounds)
        texts.append(made.model_to_string())
        if tell is not None:
            tell(len(texts) / len(levels))
    return Trees(tuple(texts), tuple(codes))
