"""Small parts, so that small states have many."""

from __future__ import annotations

import pytest

from stream.state import cutting


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "PART_BYTES", 400_000)
    monkeypatch.setattr(cutting, "SMALL_BYTES", 50_000)
