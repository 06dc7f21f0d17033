"""Gradient-boosted trees beside the network: LightGBM's, an ensemble a quantile level, on the columns that the network reads.

They are slower than it by far (every tree is walked for every item, step and level), and right where a network extrapolates: a tree never
says what it has not seen. Only this module and models.train.boosting know LightGBM.
"""

from __future__ import annotations

import models.device  # noqa: F401  (torch before any other OpenMP)

# isort: split
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.demand.encoder import Layout, raw_known
from models.protocol import Float32, Ints

_CHUNK = 1024
"""Items at once: some tens of megabytes of columns."""


@dataclass(frozen=True)
class Trees:
    """Trained ensembles."""

    texts: tuple[str, ...]
    """LightGBM's own words for a model, one a level."""
    codes: tuple[Ints, ...]
    """int64[values] a static, ascending: its hashes as they were in training. A value's place is its category."""

    @cached_property
    def boosters(self) -> list[Any]:
        """The ensembles, read once."""
        import lightgbm

        return [lightgbm.Booster(model_str=text) for text in self.texts]

    def outputs(self, rows: Float32, layout: Layout) -> Float32:
        """float32[n, horizon, levels], quantiles on the network's scale, ascending. A row's bits are its own.

        Args:
            rows: float32[n, width], encoded by the layout.
            layout: that they were trained with.
        """
        n, horizon, levels = len(rows), layout.horizon, len(self.texts)
        out = np.empty((n, horizon, levels), np.float32)
        item, step = np.repeat(np.arange(min(n, _CHUNK)), horizon), np.tile(np.arange(horizon), min(n, _CHUNK))
        threads = torch.get_num_threads()
        for start in range(0, n, _CHUNK):
            part = rows[start : start + _CHUNK]
            cells = len(part) * horizon
            x = columns(part, layout, self.codes, item[:cells], step[:cells])
            for level, booster in enumerate(self.boosters):
                out[start : start + _CHUNK, :, level] = booster.predict(x, num_threads=threads).reshape(len(part), horizon)
        out.sort(axis=2)
        return out

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Their bytes by name."""
        found: dict[str, NDArray[Any]] = {
            f"trees.{level}": np.frombuffer(text.encode(), np.uint8).copy() for level, text in enumerate(self.texts)
        }
        return found | {f"trees.codes.{number}": codes for number, codes in enumerate(self.codes)}


def trees_of(arrays: Mapping[str, NDArray[Any]], layout: Layout, levels: int) -> Trees | None:
    """What arrays() gave; None: there are none.

    Args:
        arrays: by name, with or without.
        layout: that they were trained with.
        levels: quantiles.

    Raises:
        ValueError: they are not those of such a layout.
    """
    if "trees.0" not in arrays:
        return None
    names = [*(f"trees.{level}" for level in range(levels)), *(f"trees.codes.{number}" for number in range(len(layout.statics)))]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(f"trees must have {levels} levels and {len(layout.statics)} statics; there is no {', '.join(missing)}")
    found = Trees(
        tuple(np.asarray(arrays[f"trees.{level}"], np.uint8).tobytes().decode() for level in range(levels)),
        tuple(np.asarray(arrays[f"trees.codes.{number}"], np.int64) for number in range(len(layout.statics))),
    )
    try:
        import lightgbm
    except (ImportError, OSError) as error:
        raise ValueError(f"trees need the package lightgbm and the system's OpenMP (apt-get install libgomp1): {error}") from None
    wanted = width(layout)
    try:
        boosters = found.boosters
    except lightgbm.basic.LightGBMError as error:
        raise ValueError(f"trees must be LightGBM's own text of a model: {error}") from None
    for booster in boosters:
        if booster.num_feature() != wanted:
            raise ValueError(f"trees must read {wanted} columns; got {booster.num_feature()}")
    return found


def width(layout: Layout) -> int:
    """Columns that a tree sees."""
    return layout.own + layout.step + len(layout.known) + len(layout.statics)


def columns(rows: Float32, layout: Layout, codes: Sequence[Ints], item: Ints, step: Ints) -> Float32:
    """float32[cells, width], what a tree sees of an item's step: its own columns, the step's, covariates as they are, and last what it is.

    Args:
        rows: float32[n, width].
        layout: of the rows.
        codes: of the statics.
        item: int64[cells], which row.
        step: int64[cells], from 0.
    """
    statics, both = len(layout.statics), layout.own + layout.step
    found = np.empty((len(item), width(layout)), np.float32)
    found[:, : layout.own] = rows[:, statics : statics + layout.own][item]
    found[:, layout.own : both] = rows[:, statics + layout.own :].reshape(len(rows), layout.horizon, layout.step)[item, step]
    found[:, both : both + len(layout.known)] = raw_known(layout, found[:, : layout.own], found[:, layout.own : both])
    for number, known in enumerate(codes):
        value = rows[:, number].astype(np.int64)
        place = np.minimum(np.searchsorted(known, value), max(len(known) - 1, 0))
        code = np.where(known[place] == value, place, -1) if len(known) else np.full(len(value), -1)  # below 0 is unknown, to LightGBM too
        found[:, both + len(layout.known) + number] = code[item]
    return found
