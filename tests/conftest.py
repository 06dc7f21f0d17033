"""What all tests share: hypothesis settings, and the shops' real files."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A failing property test prints the blob that replays it. No deadline: the machine is shared, and a slow example is no wrong one.
settings.register_profile("usual", max_examples=60, deadline=None, print_blob=True)
settings.register_profile("thorough", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("NOWCART_HYPOTHESIS", "usual"))

_THRESHOLDS = gc.get_threshold()
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", autouse=True)
def collector() -> Iterator[None]:
    """Engines that run in this process tell the collector to rest; what they leave behind would add up to gigabytes."""
    yield
    gc.unfreeze()
    gc.set_threshold(*_THRESHOLDS)
    gc.collect()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_file() -> Callable[[str], Path]:
    """Finds a file of the real shops by name, or skips: in NOWCART_TEST_DATA, else beside the checkout."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("NOWCART_TEST_DATA") or ROOT.parent / "shared" / "data")
        if not (folder / name).is_file():
            pytest.skip(f"no {name} in {folder}: name its folder in NOWCART_TEST_DATA")
        return folder / name

    return find
