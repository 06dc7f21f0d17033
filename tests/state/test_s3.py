"""The same over S3's own protocol, to moto's server in a process of its own."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

from stream.kafka.log import Position
from stream.state.errors import StoreUnavailable
from stream.state.store import Store
from tests.state.states import same, shop

MISSING = [name for name in ("s3fs", "moto", "flask", "flask_cors") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: pip install 'nowcart[dev]'")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 60
            while not answers(f"{url}/moto-api/") and time.monotonic() < until and process.poll() is None:
                time.sleep(0.05)  # another process: there is nothing to be told by
            assert process.poll() is None
            yield url
        finally:
            process.terminate()


@pytest.fixture
def bucket(server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a fresh bucket, reached as a user would: through AWS's own environment variables."""
    import s3fs

    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    name = request.node.name.replace("_", "-").lower()[:60].strip("-")
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}/nowcart/state"


def store(bucket: str) -> Store:
    return Store(bucket, "nowcart.")


def test_write_and_newest(bucket: str) -> None:
    writer = store(bucket)
    assert writer.newest("forecast", "t", 0) is None
    first = writer.write("forecast", "t", 0, Position(1, "{}"), "c", shop(1))
    assert first.new_bytes == first.bytes
    changed = shop(1)
    changed["1h.units.closed"][7] += 1
    second = writer.write("forecast", "t", 0, Position(2, "{}"), "c", changed)
    assert 0 < second.new_bytes < second.bytes / 4
    found = store(bucket).newest("forecast", "t", 0, 2, checksum="c")
    assert found is not None and found[0] == second and same(found[1], changed)
    found = store(bucket).newest("forecast", "t", 0, 1)
    assert found is not None and found[0] == first and same(found[1], shop(1))


def test_damaged(bucket: str) -> None:
    writer = store(bucket)
    first = writer.write("forecast", "t", 0, Position(1), "c", shop(1))
    second = writer.write("forecast", "t", 0, Position(2), "c", shop(2))
    own = sorted(set(second.parts) - set(first.parts))
    path = f"{writer.folder.root}/nowcart./forecast/t/0/parts/{own[0]}.safetensors"
    content = writer.folder.get(path)
    writer.folder.put(path, [content[:-1] + bytes([content[-1] ^ 1])])
    found = store(bucket).newest("forecast", "t", 0)
    assert found is not None and found[0].offset == 1 and same(found[1], shop(1))
    writer.folder.remove(path)
    assert [bool(snapshot.problem) for snapshot in store(bucket).list()] == [True, False]


def test_prune(bucket: str) -> None:
    for offset in range(1, 5):
        store(bucket).write("forecast", "t", 0, Position(offset), "c", shop(offset))
    pruned = store(bucket).prune(1)
    assert [snapshot.offset for snapshot in pruned.snapshots] == [3, 2, 1] and pruned.bytes > 0
    left = store(bucket).list()
    assert [snapshot.offset for snapshot in left] == [4] and store(bucket).verify(left[0]) == ""
    parts = store(bucket).folder.files(store(bucket).folder.path("nowcart.", "forecast", "t", "0", "parts"))
    assert left[0].manifest is not None and {part.name.partition(".")[0] for part in parts} == set(left[0].manifest.parts)
    assert all(part.modified_ms is not None and abs(part.modified_ms / 1000 - time.time()) < 300 for part in parts)


def test_a_bucket_that_is_not_there_takes_nothing_in_silence(bucket: str) -> None:
    with pytest.raises(StoreUnavailable, match=r"the state store s3://no-such-bucket.* must answer; could not write"):
        store("s3://no-such-bucket/state").write("forecast", "t", 0, Position(1), "c", shop(1))
