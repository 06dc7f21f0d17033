"""How fast a state is written to a folder and read back, verified: `python benchmarks/store.py [MB] [FOLDER]`.

Beside each rate stands its limit in the same run: the bare files, and sha256. On a busy machine the CPU's rate tells more.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stream.kafka.log import Position
from stream.state.manifest import fingerprint
from stream.state.store import State, Store


def shop(megabytes: int) -> State:
    """Rings of 168 hours and 400 days, and some columns an item: mostly small numbers, as a shop's are."""
    chance = np.random.default_rng(1)
    items = megabytes * 1_000_000 // ((168 + 400) * 4 + 1_000)
    return {
        "1h.units.closed": chance.integers(0, 5, (168, items), np.int32),
        "1d.units.closed": chance.integers(0, 99, (400, items), np.int32),
        "1h.model.pending": chance.standard_normal((items, 250), np.float32),
        "names.ends": np.arange(0, items * 12, 12),
        "note": np.frombuffer(b"some notes", np.uint8),
    }


def measure(name: str, size: int, action: Callable[[], object]) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    action()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(f"{name:44} {size / seconds / 1e6:8,.0f} MB/s {seconds:7.2f} s   {size / max(cpu, 1e-9) / 1e6:8,.0f} MB/s of CPU time")


def files(folder: Path, state: State, flush: bool) -> None:
    """The same bytes without hashes, names or a manifest: what this disk takes."""
    for number, array in enumerate(state.values()):
        with (folder / str(number)).open("wb") as file:
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            if flush:
                file.flush()
                os.fsync(file.fileno())


def main() -> None:
    state = shop(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
    size = sum(array.nbytes for array in state.values())
    fingerprint()  # looked up once a process
    print(f"{size / 1e6:,.0f} MB in {len(state)} arrays")
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as name:
        folder = Path(name)

        def write(store: Store, offset: int) -> None:
            made = store.write("forecast", "nowcart.activity", 0, Position(offset), "checksum", state)
            print(f"  {made.new_bytes / 1e6:,.0f} MB new in {len(made.parts)} parts")

        measure("limit: bare files", size, lambda: files(folder, state, False))
        measure("limit: bare files, flushed", size, lambda: files(folder, state, True))
        measure(
            "limit: sha256, one core", size, lambda: [hashlib.sha256(np.ascontiguousarray(array).data).digest() for array in state.values()]
        )
        measure("write, not flushed", size, lambda: write(Store(str(folder / "quick"), "", durable=False), 1))
        store = Store(str(folder / "store"), "nowcart.")
        measure("write", size, lambda: write(store, 1))
        state["1h.units.closed"][5] += 1
        measure("write, one row of a ring has changed", size, lambda: write(store, 2))
        measure("read and verify", size, lambda: Store(str(folder / "store"), "nowcart.").newest("forecast", "nowcart.activity", 0))


if __name__ == "__main__":
    main()
