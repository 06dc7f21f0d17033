"""The only place that knows torch devices: which one, its determinism, and how rows reach it and come back.

Import this module before torch anywhere: MKL reads MKL_CBWR when it is loaded. The CUDA road is written with the care
that the CPU road has been tested with, but it HAS NEVER RUN ON A GPU.
"""

from __future__ import annotations

import os

os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

# Matrix products split over threads round by how they are split. One thread a tile; the process scales by partitions.
torch.set_num_threads(1)

TILE_ROWS = 192
"""Rows of a tile. 192 padded rows with MKL_CBWR=AVX2,STRICT and one thread were exact on every kernel that was measured; 256 were not."""

Rows32 = NDArray[np.float32]
TileFunction = Callable[[torch.Tensor], torch.Tensor]


class DeviceError(ValueError):
    """The named device does not exist here, or does not give every row the same bits wherever it stands."""


def pick(name: str) -> torch.device:
    """The torch device for a configured name.

    Args:
        name: "auto" (CUDA where there is one, else CPU), "cpu", "cuda" or "cuda:N".

    Raises:
        DeviceError: no such device here.
    """
    kind, _, number = name.partition(":")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (number and not number.isdigit()):
        raise DeviceError(f'a device is "auto", "cpu", "cuda" or "cuda:N"; got {name!r}')
    count = torch.cuda.device_count()
    if int(number or 0) >= count:
        raise DeviceError(f'device {name!r} must exist; torch sees {count} CUDA devices: set device.name = "auto"')
    return torch.device(name)


class Tiles:
    """Applies a torch function of rows in padded tiles of exactly 192 rows, so that no row's result depends on its neighbours."""

    def __init__(self, fn: TileFunction, width: int, outputs: int, device: torch.device | None = None, *, graph: bool = False) -> None:
        """Takes the function and makes its fixed buffers.

        Args:
            fn: float32[192, width] -> float32[192, outputs] on the device, each row from its own row only.
            width: columns in.
            outputs: columns out.
            device: default CPU.
            graph: capture the function in a CUDA graph (CUDA only; never run on a GPU).
        """
        self.fn = fn
        self.width = width
        self.outputs = outputs
        self.device = device or torch.device("cpu")
        # One staging tile: the same address for every tile, because kernels may round by alignment ("by place").
        self._staged = torch.zeros((TILE_ROWS, width), dtype=torch.float32, device=self.device)
        self._pinned_in: torch.Tensor | None = None
        self._pinned_out: torch.Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._graph_out: torch.Tensor | None = None
        if graph and self.device.type == "cuda":
            self._capture()

    def __call__(self, rows: Rows32) -> Rows32:
        """float32[n, outputs], each row's bits independent of n and of its place.

        Args:
            rows: float32[n, width].
        """
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise ValueError(f"rows must be [n, {self.width}]; got {list(rows.shape)}")
        if not len(rows):
            return np.empty((0, self.outputs), dtype=np.float32)
        with torch.inference_mode():
            return self._cuda(rows) if self.device.type == "cuda" else self._cpu(rows)

    def _cpu(self, rows: Rows32) -> Rows32:
        out = np.empty((len(rows), self.outputs), dtype=np.float32)
        staged = self._staged.numpy()
        for start in range(0, len(rows), TILE_ROWS):
            part = rows[start : start + TILE_ROWS]
            staged[: len(part)] = part
            staged[len(part) :] = 0
            out[start : start + len(part)] = self.fn(self._staged).numpy()[: len(part)]
        return out

    def _cuda(self, rows: Rows32) -> Rows32:
        """Never run on a GPU. Pinned buffers, copies that do not block, one synchronisation after the last tile."""
        n = len(rows)
        padded = -(-n // TILE_ROWS) * TILE_ROWS
        if self._pinned_in is None or self._pinned_out is None or len(self._pinned_in) < padded:
            self._pinned_in = torch.zeros((padded, self.width), dtype=torch.float32, pin_memory=True)
            self._pinned_out = torch.empty((padded, self.outputs), dtype=torch.float32, pin_memory=True)
        staging = self._pinned_in.numpy()
        staging[:n] = rows
        staging[n:padded] = 0
        for start in range(0, padded, TILE_ROWS):
            self._staged.copy_(self._pinned_in[start : start + TILE_ROWS], non_blocking=True)
            if self._graph is not None and self._graph_out is not None:
                self._graph.replay()
                result = self._graph_out
            else:
                result = self.fn(self._staged)
            self._pinned_out[start : start + TILE_ROWS].copy_(result, non_blocking=True)
        torch.cuda.current_stream(self.device).synchronize()
        return self._pinned_out.numpy()[:n].copy()

    def _capture(self) -> None:
        """Never run on a GPU. Warms up on a side stream, as CUDA graphs ask for, then captures one tile."""
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.inference_mode(), torch.cuda.stream(side):
            for _ in range(3):
                self.fn(self._staged)
        torch.cuda.current_stream(self.device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._graph):
            self._graph_out = self.fn(self._staged)

    def prove(self, name: str = "network", seed: int = 0) -> None:
        """Permutes rows through a tile, and puts single ones alone into one; called at start-up for every network.

        Args:
            name: for the message.
            seed: of the rows.

        Raises:
            DeviceError: any bit differed: outputs would depend on how the log was cut into batches.
        """
        random = np.random.default_rng(seed)
        rows = random.normal(size=(TILE_ROWS, self.width)).astype(np.float32)
        expected = self(rows)
        for _ in range(3):
            order = random.permutation(TILE_ROWS)
            if self(rows[order]).tobytes() != expected[order].tobytes():
                raise DeviceError(
                    f"{name}: a row's result must not depend on its place in a tile on {self.device}; it does: use another device"
                )
        for row in random.integers(0, TILE_ROWS, 8):
            if self(rows[row : row + 1]).tobytes() != expected[row].tobytes():
                raise DeviceError(f"{name}: a row's result must not depend on its neighbours on {self.device}; it does: use another device")


def prove(fn: TileFunction, width: int, outputs: int, device: torch.device | None = None, name: str = "network") -> None:
    """Raises if a torch function's rows depend on their place or their neighbours.

    Args:
        fn: as for Tiles.
        width: columns in.
        outputs: columns out.
        device: default CPU.
        name: for the message.

    Raises:
        DeviceError: any bit differed.
    """
    Tiles(fn, width, outputs, device).prove(name)
