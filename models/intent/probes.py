"""Features of sessions as they stood at fixed positions, kept until the session's outcome is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.exact import SlotArrays, halves
from models.protocol import Float32, Ints

HEADS = ("purchase", "cart")
PRIORS = (0.03, 0.08)
"""What is said of a session before anything was learnt."""


def logit(p: float) -> float:
    """The log odds of a probability.

    Args:
        p: in (0, 1).
    """
    return float(np.log(p / (1 - p)))


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64, probabilities of log odds, cut at ±30 so that none is 0 or 1.

    Args:
        logits: float64, contiguous (numpy's exp may round strided arrays otherwise).
    """
    return np.asarray(1 / (1 + np.exp(-np.clip(np.ascontiguousarray(logits), -30.0, 30.0))), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Samples:
    """What ended sessions teach: m kept probes, sessions in the given order, positions ascending within one."""

    features: Float32
    """float32[m, width]."""
    group: Ints
    """int64[m], index of the position."""
    label: NDArray[np.float64]
    """float64[2, m], per head: 1 where it happened after this position."""
    at_risk: NDArray[np.bool_]
    """bool[2, m], per head: it had not happened by this position; the rest teaches nothing."""
    row: Ints
    """int64[m], which of the given sessions."""

    def cut(self, rows: Ints) -> Samples:
        """Some of them.

        Args:
            rows: int64[k].
        """
        return Samples(self.features[rows], self.group[rows], self.label[:, rows], self.at_risk[:, rows], self.row[rows])


class Probes:
    """Kept features by slot, float16."""

    def __init__(self, positions: tuple[int, ...], width: int) -> None:
        """Makes an empty store.

        Args:
            positions: ascending, from 1 up.
            width: features a probe.
        """
        if not positions or list(positions) != sorted(set(positions)) or positions[0] < 1:
            raise ValueError(f"positions must ascend from 1 up; got {positions}")
        self.positions = np.array(positions, dtype=np.int64)
        self.slots = SlotArrays()
        self.slots.add("features", np.float16, 0, (len(positions), width), whole=True)
        self.slots.add("kept", np.bool_, 0, (len(positions),), whole=True)
        self._group: Ints = np.full(positions[-1] + 2, -1, np.int64)
        self._group[self.positions] = np.arange(len(positions))

    def keep(self, slot: Ints, position: Ints, features: Float32) -> None:
        """Keeps the features of rows that stand at a probe position.

        Args:
            slot: int64[n].
            position: int64[n], from 1 up.
            features: float32[n, width].
        """
        rows, group = self.standing(position)
        at = slot[rows]
        kept = self.slots.rows("kept")
        kept[slot[position == 1]] = False
        kept[at, group] = True
        self.slots.rows("features")[at, group] = halves(features[rows])

    def standing(self, position: Ints) -> tuple[Ints, Ints]:
        """(rows that stand at a probe position, index of the position of each), int64[m] each.

        Args:
            position: int64[n], from 1 up.
        """
        group = self._group[np.minimum(position, len(self._group) - 1)]
        rows = np.flatnonzero(group >= 0)
        return rows, group[rows]

    def samples(self, slots: Ints, purchase_position: Ints, cart_position: Ints) -> Samples:
        """What these ended sessions teach.

        Args:
            slots: int64[n].
            purchase_position: int64[n], 0 for never.
            cart_position: int64[n], 0 for never.
        """
        kept = np.asarray(self.slots["kept"][:, slots], dtype=np.bool_).T  # [n, positions]
        row, group = np.nonzero(kept)
        features = np.ascontiguousarray(self.slots["features"][group, :, slots[row]], dtype=np.float32)
        position = self.positions[group]
        happened = np.stack([purchase_position[row], cart_position[row]])
        at_risk = (happened == 0) | (position < happened)
        return Samples(
            features, np.asarray(group, dtype=np.int64), (happened > position).astype(np.float64), at_risk, np.asarray(row, dtype=np.int64)
        )

    def group_of(self, position: Ints) -> Ints:
        """int64[n], index of the last probe position that each position has reached.

        Args:
            position: int64[n], from 1 up.
        """
        return np.asarray(np.maximum(np.searchsorted(self.positions, position, side="right") - 1, 0), dtype=np.int64)
