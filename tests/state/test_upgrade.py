"""What earlier versions wrote is still read: each folder in tests/state/data was written by the version of its day (tests/state/kept.py)."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from stream.engine.forecast import ForecastShard
from stream.engine.state import VERSION, forecast_state, restore_forecast, restore_ingest
from stream.state.manifest import FORMAT
from stream.state.store import Store
from tests.engine.test_forecast import spec
from tests.engine.test_state import fresh_ingest
from tests.state.kept import CHECKSUM, DATA, FORECAST, INGEST, NAMESPACE, POSITIONS, forecast_content, ingest_content
from tests.state.states import same

KEPT = sorted(folder for folder in DATA.iterdir() if folder.is_dir())


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_a_kept_snapshot_is_read_and_the_engines_know_what_they_knew(folder: Path) -> None:
    content = msgspec.json.decode((folder / "content.json").read_bytes())
    store, found = Store(str(folder), NAMESPACE), {}
    for key, position in POSITIONS.items():
        one = store.newest(key.stage, key.topic, key.partition, position.offset, checksum=CHECKSUM)
        assert one is not None
        assert (one[0].offset, one[0].metadata, one[0].key) == (*position, key)
        assert len(one[0].parts) > 1
        found[key] = one[1]
    forecast, ingest = ForecastShard(spec()), fresh_ingest()
    restore_forecast(forecast, found[FORECAST])
    restore_ingest(ingest, found[INGEST])
    assert msgspec.json.decode(msgspec.json.encode(forecast_content(forecast))) == content["forecast"]
    assert msgspec.json.decode(msgspec.json.encode(ingest_content(ingest))) == content["ingest"]


def test_this_versions_snapshot_is_kept_and_goes_through_an_engine_unchanged(tmp_path: Path) -> None:
    versions = {}
    for folder in KEPT:
        shutil.copytree(folder, tmp_path / folder.name)  # nothing here may write where they are kept
        store = Store(str(tmp_path / folder.name), NAMESPACE)
        for snapshot in store.list(FORECAST):
            assert snapshot.manifest is not None and not snapshot.problem
            versions[snapshot.manifest.format, snapshot.manifest.version] = store
    assert (FORMAT, VERSION) in versions, "write one: python -m tests.state.kept NAME"
    one = versions[FORMAT, VERSION].newest(FORECAST.stage, FORECAST.topic, FORECAST.partition)
    assert one is not None
    shard = ForecastShard(spec())
    restore_forecast(shard, one[1])
    assert same(forecast_state(shard), one[1])
