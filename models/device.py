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


class Lane:
    """How a batch's arrays cross over to a device, and what comes back.

    Between the host and itself nothing is copied. To a CUDA device arrays go through pinned buffers, one a name, by copies that do not block
    (NEVER RUN ON A GPU); `back` waits for all of them. So a name may be sent once before the next `back`.
    """

    def __init__(self, device: torch.device, *, staged: bool | None = None) -> None:
        """Makes the buffers as they are needed.

        Args:
            device: the far end.
            staged: copy through buffers; default: where the device is not the host. True on the host is the same road, for tests of it.
        """
        self.device = device
        self.staged = device.type != "cpu" if staged is None else staged
        self._near: dict[str, torch.Tensor] = {}
        self._far: dict[str, torch.Tensor] = {}

    def there(self, name: str, values: NDArray[np.generic]) -> torch.Tensor:
        """The array on the device; not to be written to.

        Args:
            name: of the buffers: the same kind of elements and the same last axes every time.
            values: at least one axis.
        """
        if not self.staged:
            return torch.from_numpy(values if values.flags.writeable else values.copy())
        near, n = self._pinned(name, values), len(values)
        near.numpy()[:n] = values
        far = self._far.get(name)
        if far is None or len(far) < len(near):
            far = self._far[name] = torch.empty_like(near, device=self.device)
        far[:n].copy_(near[:n], non_blocking=True)
        return far[:n]

    def back(self, values: torch.Tensor) -> NDArray[np.float32]:
        """The array on the host, once everything that was asked of the device is done.

        Args:
            values: float32, on the device; nobody else writes to it from here on.
        """
        if not self.staged:
            return np.asarray(values.numpy())
        n = len(values)
        near = self._pinned("back", np.empty((n, *values.shape[1:]), np.float32))
        near[:n].copy_(values, non_blocking=True)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return np.array(near.numpy()[:n])

    def _pinned(self, name: str, like: NDArray[np.generic]) -> torch.Tensor:
        """A buffer of at least as many rows, which grows by doubling."""
        near = self._near.get(name)
        if near is None or len(near) < len(like):
            rows = max(len(like), TILE_ROWS, 0 if near is None else 2 * len(near))
            kind = torch.from_numpy(np.empty(0, like.dtype)).dtype
            near = self._near[name] = torch.empty((rows, *like.shape[1:]), dtype=kind, pin_memory=self.device.type == "cuda")
        return near


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
        self._lane = Lane(self.device)
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
        with torch.inference_mode():
            return self._lane.back(self.resident(self._lane.there("rows", rows)))

    def resident(self, rows: torch.Tensor) -> torch.Tensor:
        """The same for rows that are on the device, with the same bits: nothing crosses over and nobody waits.

        Args:
            rows: float32[n, width], on the device.

        Returns:
            float32[n, outputs], on the device; new memory.
        """
        out = torch.empty((len(rows), self.outputs), dtype=torch.float32, device=self.device)
        for part, made in zip(rows.split(TILE_ROWS), out.split(TILE_ROWS), strict=True):
            if len(part) == TILE_ROWS:
                self._staged.copy_(part)
                made.copy_(self._run())
            else:
                self._staged[: len(part)] = part
                self._staged[len(part) :] = 0
                made.copy_(self._run()[: len(part)])
        return out

    def _run(self) -> torch.Tensor:
        """The staged tile's results."""
        if self._graph is not None and self._graph_out is not None:
            self._graph.replay()
            return self._graph_out
        return self.fn(self._staged)

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


class SlotTensor:
    """A row of float32 for each slot, on the device; a slot that is forgotten holds zeros. It comes to the host for snapshots alone."""

    def __init__(self, width: int, lane: Lane) -> None:
        """Makes one without slots.

        Args:
            width: of a row.
            lane: to the device.
        """
        self.width, self.lane = width, lane
        self.rows = self._zeros(0)
        """float32[capacity, width]."""

    def _zeros(self, capacity: int) -> torch.Tensor:
        if self.lane.device.type == "cpu":  # the system's own zeros, which take no memory before they are used
            return torch.from_numpy(np.zeros((capacity, self.width), np.float32))
        return torch.zeros((capacity, self.width), dtype=torch.float32, device=self.lane.device)

    def resize(self, capacity: int) -> None:
        """Room for slots [0, capacity); never shrinks."""
        if capacity > len(self.rows):
            old, self.rows = self.rows, self._zeros(capacity)
            self.rows[: len(old)] = old

    def forget(self, slots: NDArray[np.int64]) -> None:
        """Zeros for these slots."""
        # Not through the lane: nobody waits for this, and the buffer might be written to again before it has been read.
        self.rows.index_fill_(0, torch.from_numpy(slots).to(self.lane.device), 0.0)

    def array(self) -> NDArray[np.float32]:
        """float32[width, capacity]: on the host the memory itself, elsewhere a copy as of now."""
        return np.asarray(self.rows.cpu().numpy().T)

    def restore(self, values: NDArray[np.generic]) -> None:
        """Takes what array() gave.

        Args:
            values: float32[width, capacity], copied.
        """
        rows = torch.from_numpy(np.array(values.T, np.float32, order="C"))
        self.rows = rows if self.lane.device.type == "cpu" else rows.to(self.lane.device)


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
