"""Thousands of schedules of failure, each with the output and the state of the undisturbed run. More: python -m tests.runners.schedules."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.runners import schedules

AT_ONCE = 100


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Every fault would be a warning."""
    logger = logging.getLogger("nowcart")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


@pytest.mark.parametrize("first", range(0, 2000, AT_ONCE))
def test_whatever_goes_wrong_outputs_and_state_are_those_of_the_undisturbed_run(first: int) -> None:
    said: list[str] = []
    failed = schedules.run_all(range(first, first + AT_ONCE), said.append)
    assert not failed, "\n".join(said)


def test_schedules_do_what_they_say() -> None:
    """Each kind of fault strikes in some of the first schedules: what is never drawn proves nothing."""
    told = [line for seed in range(60) for line in schedules.run(seed)[1]]
    whats = {line.partition(": ")[2] for line in told}
    for step in ("begin", "produce", "offsets", "commit", "done"):
        assert f"crash at {step}" in whats, step
    for kind in ("abort at commit", "unknown_committed at commit", "unknown_aborted at offsets", "away at fetch"):
        assert kind in whats, kind
    for what in ("sleeps", "is thrown out", "sleeps and is thrown out", "leaves", "transactions expire"):
        assert what in whats, what
