"""What experts share that have one model an item, for the busiest items only: who these are, and their seats.

A Python call per item and bucket is what decides how many can have one.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.demand.expert import Expert
from models.demand.newborn import Newborn
from models.demand.window import Window
from models.protocol import DemandSpec, Float32, Ints

Model = TypeVar("Model")

_VOLUME_GAIN = np.float32(0.02)
_STAY = 1.25  # a member stays while it ranks within this many times river_items
_RANK_EVERY = 23  # prime: a shop that is shut at the same hours every day learns nothing in them


class Busiest(Expert, Generic[Model]):
    """A partial expert: `river_items` members with a model each, in order of their slots."""

    partial: ClassVar[bool] = True

    def __init__(self, spec: DemandSpec, device: torch.device | None = None) -> None:
        """Makes an expert without slots.

        Args:
            spec: what is forecast.
            device: not used.
        """
        super().__init__(spec, device)
        self._newborn = Newborn()
        self.slots.add("volume", np.float32)
        self.slots.add("row", np.int32, -1)  # among the members; -1: not one of them
        self._members: list[tuple[int, Model]] = []

    @abstractmethod
    def _fresh(self, window: Window, row: int) -> Model:
        """A model for an item that becomes a member.

        Args:
            window: at the newest closed bucket.
            row: the item's.
        """

    @abstractmethod
    def _read(self) -> None:
        """Reads what the members' models have learnt into arrays."""

    def covers(self, window: Window) -> NDArray[np.bool_]:
        """The members."""
        return np.asarray(self.slots.i32("row")[window.slots] >= 0, dtype=np.bool_)

    def _mine(self, window: Window) -> tuple[Ints, Ints]:
        """Rows of the window that are members', and their places among the members: int64[m] each."""
        rows = np.flatnonzero(self.covers(window))
        return rows, np.asarray(self.slots["row"][window.slots[rows]], dtype=np.int64)

    def _rank(self, window: Window, wanted: Float32) -> None:
        """Follows the items' volumes, and now and then chooses members by them, ties by slot; members leave late.

        Args:
            window: of all live items.
            wanted: float32[n], what the closed bucket teaches.
        """
        volume = self.slots.f32("volume")[window.slots]
        gain = np.maximum(_VOLUME_GAIN, 1 / np.maximum(window.age(), 1).astype(np.float32))
        volume = (volume + gain * (wanted - volume)).astype(np.float32)
        self.slots.f32("volume")[window.slots] = volume
        limit = self.spec.river_items
        if window.closed % _RANK_EVERY and len(self._members) >= limit:
            return
        rows = np.argsort(-volume, kind="stable")
        rows = rows[: int(np.count_nonzero(volume > 0))]
        near = set(window.slots[rows[: int(limit * _STAY)]].tolist())
        kept = [member for member in self._members if member[0] in near][:limit]
        have = {slot for slot, _ in kept}
        for row in rows[:limit].tolist():
            if len(kept) >= limit:
                break
            slot = int(window.slots[row])
            if slot not in have:
                kept.append((slot, self._fresh(window, row)))
        self._seat(sorted(kept, key=lambda member: member[0]))

    def _seat(self, members: list[tuple[int, Model]]) -> None:
        self.slots["row"][[slot for slot, _ in self._members]] = -1
        self._members = members
        self.slots["row"][[slot for slot, _ in members]] = np.arange(len(members))

    def forget(self, slots: Ints) -> None:
        """Makes these slots cold; members among them lose their models."""
        gone = set(slots[self.slots.i32("row")[slots] >= 0].tolist())
        if gone:
            self._seat([member for member in self._members if member[0] not in gone])
            self._read()
        super().forget(slots)
