"""A short chaos: about a dozen kills of real processes and brokers. `make chaos` is the long one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.chaos.run import Chaos
from tests.real_kafka import NO_SCRIPT, script

SECONDS, EVERY_S, RATE = 45.0, 4.0, 400.0
SEED = 7


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(1500)  # two minutes on two cores that are free
def test_nothing_is_lost_or_twice_or_different_after_a_dozen_kills(tmp_path: Path) -> None:
    start = script()
    if start is None:
        pytest.skip(NO_SCRIPT)
    if shutil.which("java") is None:
        pytest.skip("Apache Kafka needs Java 17")
    said: list[str] = []
    outcome = Chaos(start, tmp_path, SEED, SECONDS, EVERY_S, RATE, said.append).run()
    print("\n".join(said))
    assert outcome.kills >= 8
    assert not outcome.wrong_source
    assert outcome.line == f"{outcome.kills} kills, 0 lost, 0 duplicated, 0 different", "\n".join([*said, f"the logs are in {tmp_path}"])
