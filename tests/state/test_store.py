"""Snapshots come back to the bit, what did not change is not written again, and what is damaged is passed over."""

from __future__ import annotations

import ast
import logging
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from stream.kafka.log import Position
from stream.state import manifest as manifests
from stream.state.errors import SnapshotFromElsewhere, StoreUnavailable
from stream.state.manifest import Key, Manifest
from stream.state.store import State, Store
from tests.state.faulty import Faults, FaultyBucket, FaultyDisk
from tests.state.states import same, shop

KEY = Key("forecast", "nowcart.activity", 3)
HOUR_MS = 3_600_000


class Shelf:
    """A store whose files a test can reach, and whose clock it moves."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder, self.faults, self.now = kind, folder, Faults(), 1_800_000_000.0
        self.filesystem = FaultyDisk(self.faults) if kind == "disk" else FaultyBucket(self.faults)
        self.url = str(folder) if kind == "disk" else "memory://bucket/state"

    def open(self, **more: Any) -> Store:
        """As a process that has just started would."""
        return Store(self.url, "nowcart.", filesystem=self.filesystem, wall=lambda: self.now, durable=False, **more)

    def paths(self, kind: str, key: Key = KEY) -> list[str]:
        found = self.filesystem.find(f"{self.url.removeprefix('memory:/')}/nowcart./{key.stage}/{key.topic}/{key.partition}/{kind}")
        return sorted(str(path) for path in found)

    def read(self, path: str) -> bytes:
        return bytes(self.filesystem.cat_file(path))

    def damage(self, path: str, content: bytes) -> None:
        faults, self.filesystem.faults = self.filesystem.faults, Faults()
        if self.kind == "disk":
            Path(path).write_bytes(content)
        else:
            self.filesystem.pipe_file(path, content)
        self.filesystem.faults = faults


@pytest.fixture(params=["disk", "bucket"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    return Shelf(request.param, tmp_path / "state")


def write(store: Store, offset: int, state: State, key: Key = KEY, checksum: str = "a" * 64) -> Manifest:
    return store.write(key.stage, key.topic, key.partition, Position(offset, f'{{"count":{offset}}}'), checksum, state)


def newest(store: Store, at_most_offset: int | None = None, key: Key = KEY, **more: Any) -> tuple[Manifest, State] | None:
    return store.newest(key.stage, key.topic, key.partition, at_most_offset, **more)


def offset_of(found: tuple[Manifest, State] | None) -> int | None:
    return found[0].offset if found else None


def test_a_state_comes_back_to_the_bit_in_another_process(shelf: Shelf) -> None:
    state = shop(1)
    made = write(shelf.open(), 77, state)
    found = newest(shelf.open(), 77, checksum="a" * 64)
    assert found is not None and found[0] == made
    assert (made.offset, made.metadata, made.sequence, made.key) == (77, '{"count":77}', 1, KEY)
    assert made.new_bytes == made.bytes == sum(made.parts.values()) >= sum(array.nbytes for array in state.values())
    assert len(made.arrays["1h.units.closed"].parts) > 3
    assert same(found[1], state)
    found[1]["1h.units.closed"][0, 0] = 7  # a restored state is the engine's own to change


def test_there_may_be_none_and_partitions_do_not_mix(shelf: Shelf) -> None:
    store = shelf.open()
    assert newest(store) is None
    assert store.list() == [] and store.keys() == []
    other = Key("ingest", "shop.events", 0)
    write(store, 5, {"a": np.arange(3)}, other)
    assert newest(store) is None
    assert offset_of(newest(store, key=other)) == 5
    assert store.keys() == [other]


def test_rows_that_did_not_change_are_not_written_again(shelf: Shelf) -> None:
    store, state = shelf.open(), shop(1)
    first = write(store, 1, state)
    state["1h.units.closed"][5] += 1
    second = write(store, 2, state)
    assert set(first.parts.items()) & set(second.parts.items())
    ring = [part for name in (first, second) for part in name.arrays["1h.units.closed"].parts]
    assert second.new_bytes == second.parts[next(part for part in second.parts if part not in first.parts)] < second.bytes / 4
    assert len(set(ring)) == len(first.arrays["1h.units.closed"].parts) + 1
    third = write(store, 3, state)
    assert third.new_bytes == 0 and third.parts == second.parts
    found = newest(shelf.open())
    assert found is not None and same(found[1], state)
    # Whoever has restored and so verified a snapshot goes on from it in the same way.
    successor = shelf.open()
    assert newest(successor) is not None
    assert write(successor, 4, state).new_bytes == 0


def test_rows_that_are_the_same_are_kept_once(shelf: Shelf) -> None:
    state = {"zeros": np.zeros((400, 1000), np.int64), "more zeros": np.zeros((400, 1000), np.int64)}
    made = write(shelf.open(), 1, state)
    assert made.bytes == made.new_bytes < 500_000
    found = newest(shelf.open())
    assert found is not None and same(found[1], state)


def test_a_part_is_only_relied_on_by_who_wrote_or_verified_it(shelf: Shelf) -> None:
    state = shop(1)
    write(shelf.open(), 1, state)
    for path in shelf.paths("parts"):
        content = shelf.read(path)
        shelf.damage(path, content[:-1] + bytes([content[-1] ^ 1]))  # the same name, the same size
    write(shelf.open(), 2, state)
    found = newest(shelf.open())
    assert found is not None and found[0].offset == 2 and same(found[1], state)


def test_parts_that_somebody_deleted_are_written_again(shelf: Shelf) -> None:
    store, state = shelf.open(), shop(1)
    write(store, 1, state)
    for path in shelf.paths("parts")[::2]:
        shelf.filesystem.rm_file(path)
    assert write(store, 2, state).new_bytes > 0
    found = newest(shelf.open())
    assert found is not None and found[0].offset == 2 and same(found[1], state)


def test_offsets_decide_which_is_newest_and_what_is_beyond_the_committed_one_is_passed_over(shelf: Shelf) -> None:
    store = shelf.open()
    for offset in (10, 30, 20, 30):
        write(store, offset, {"offset": np.array([offset])})
    found = newest(store)
    assert found is not None and (found[0].offset, found[0].sequence) == (30, 4)
    assert [offset_of(newest(store, most)) for most in (30, 29, 19, 10, 9)] == [30, 20, 10, 10, None]


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "longer", "gone", "another's"])
@pytest.mark.parametrize("kind", ["parts", "manifests"])
def test_a_damaged_snapshot_is_skipped_with_a_warning_for_the_one_before(
    shelf: Shelf, kind: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = shop(1), shop(2)
    store = shelf.open()
    write(store, 1, old)
    before = set(shelf.paths(kind))
    write(store, 2, new)
    for path in set(shelf.paths(kind)) - before:
        content = shelf.read(path)
        if harm == "gone":
            shelf.filesystem.rm_file(path)
        else:
            half = len(content) // 2
            flipped = content[:half] + bytes([content[half] ^ 16]) + content[half + 1 :]
            changed = {"flip": flipped, "cut": content[:half], "empty": b"", "longer": content + b"x", "another's": shelf.read(min(before))}
            shelf.damage(path, changed[harm])
        with caplog.at_level(logging.WARNING):
            found = newest(shelf.open(), 2)
        assert found is not None and found[0].offset == 1 and same(found[1], old)
        if not (kind == "manifests" and harm == "gone"):  # that one has simply never been
            assert "going back to the one before" in caplog.text
        break
    # The next snapshot mends what was damaged.
    successor = shelf.open()
    newest(successor)
    write(successor, 3, new)
    found = newest(shelf.open())
    assert found is not None and found[0].offset == 3 and same(found[1], new)


def test_another_configurations_snapshot_is_refused_and_the_message_says_what_to_do(shelf: Shelf) -> None:
    write(shelf.open(), 1, {"a": np.arange(3)})
    with pytest.raises(
        SnapshotFromElsewhere, match=r"of this configuration \(bbbb.*another \(aaaa.*offset 1: set .* back .* or name another state.url"
    ):
        newest(shelf.open(), checksum="b" * 64)


@pytest.mark.parametrize("field", ["format", "version"])
def test_a_newer_nowcarts_snapshot_is_refused_and_never_pruned(shelf: Shelf, field: str) -> None:
    store = shelf.open()
    made = write(store, 1, {"a": np.arange(3)})
    content = msgspec.json.decode(msgspec.json.encode(msgspec.structs.replace(made, offset=2, **{field: 1_000})))
    raw = msgspec.json.encode({"format": content["format"], "version": content["version"], "something": "else"})
    import hashlib

    name = f"{2:020d}-{2:010d}-{hashlib.sha256(raw).hexdigest()}.json"
    shelf.damage(shelf.paths("manifests")[0].rpartition("/")[0] + "/" + name, raw)
    with pytest.raises(SnapshotFromElsewhere, match=r"got format .* run the newer nowcart that wrote it, or name another state.url"):
        newest(shelf.open())
    shelf.now += 10 * HOUR_MS
    assert shelf.open().prune(1).files == 0
    assert [snapshot.newer for snapshot in shelf.open().list()] == [True, False]
    assert offset_of(newest(shelf.open(), 1)) == 1


def test_fields_that_a_later_version_adds_are_no_obstacle(shelf: Shelf) -> None:
    made = write(shelf.open(), 1, {"a": np.arange(3)})
    import hashlib

    raw = msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(made)) | {"offset": 2, "added": [1, 2]})
    name = f"{2:020d}-{2:010d}-{hashlib.sha256(raw).hexdigest()}.json"
    shelf.damage(shelf.paths("manifests")[0].rpartition("/")[0] + "/" + name, raw)
    found = newest(shelf.open())
    assert found is not None and found[0].offset == 2 and same(found[1], {"a": np.arange(3)})


def test_a_store_that_does_not_answer_is_not_an_empty_one(shelf: Shelf) -> None:
    write(shelf.open(), 1, shop(1))
    for where in ("manifests", "parts"):
        shelf.faults.fails_on = where
        with pytest.raises(StoreUnavailable, match=r"the state store .* must answer; could not .*: the store has failed"):
            newest(shelf.open())
    shelf.faults.fails_on = ""
    assert offset_of(newest(shelf.open())) == 1


def test_made_elsewhere_is_warned_of(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    write(shelf.open(), 1, {"a": np.arange(3)})
    newest(shelf.open())
    assert not caplog.records
    here = dict(manifests.fingerprint())
    monkeypatch.setattr(manifests, "fingerprint", lambda: here | {"torch": "9.9", "threads": 99})
    assert newest(shelf.open()) is not None
    assert "made elsewhere" in caplog.text and "here 9.9" in caplog.text and "here 99" in caplog.text and "numpy" not in caplog.text


def test_progress_ends_with_all_bytes(shelf: Shelf) -> None:
    made = write(shelf.open(), 1, shop(1))
    told: list[tuple[int, int]] = []
    newest(shelf.open(), progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told) and told[-1] == (made.bytes, made.bytes) and len(told) == len(made.parts)


# -- list, verify, prune ---------------------------------------------------------------------------------------------


def test_prune_keeps_the_newest_and_their_parts_alone(shelf: Shelf) -> None:
    store = shelf.open()
    states = {}
    for offset in range(1, 6):
        states[offset] = shop(offset)
        write(store, offset, states[offset])
    pruned = store.prune(2)
    assert [snapshot.offset for snapshot in pruned.snapshots] == [3, 2, 1]
    assert [snapshot.offset for snapshot in shelf.open().list()] == [5, 4]
    named = {f"{part}.safetensors" for snapshot in store.list() if snapshot.manifest for part in snapshot.manifest.parts}
    assert {path.rpartition("/")[2] for path in shelf.paths("parts")} == named
    for most in (5, 4):
        found = newest(shelf.open(), most)
        assert found is not None and same(found[1], states[most])
    assert write(store, 6, states[5]).new_bytes == 0
    assert shelf.open().prune(0).files > 0 and offset_of(newest(shelf.open())) == 6


def test_prune_never_takes_the_newest_intact_one(shelf: Shelf) -> None:
    for offset in range(1, 5):
        write(shelf.open(), offset, shop(offset))
        if offset == 2:
            whole = set(shelf.paths("parts"))
    for path in set(shelf.paths("parts")) - whole:  # 3 and 4 are damaged, with sizes as they should be
        content = shelf.read(path)
        shelf.damage(path, content[:-1] + bytes([content[-1] ^ 1]))
    shelf.open().prune(1)
    found = newest(shelf.open())
    assert found is not None and found[0].offset == 2 and same(found[1], shop(2))
    for path in shelf.paths("parts"):  # and where nothing is intact, nothing is deleted
        shelf.damage(path, b"")
    left = shelf.paths("parts") + shelf.paths("manifests")
    assert shelf.open().prune(1).files == 0
    assert shelf.paths("parts") + shelf.paths("manifests") == left


def test_a_part_that_another_writer_may_be_about_to_name_is_left_alone_for_a_while(shelf: Shelf) -> None:
    store = shelf.open()
    write(store, 1, shop(1))
    stranger = shelf.paths("parts")[0].rpartition("/")[0] + "/" + "f" * 64 + ".safetensors"
    shelf.damage(stranger, b"half a snapsh")
    shelf.damage(stranger + ".0123.tmp", b"ha")
    import time

    shelf.now = time.time() + 60
    assert store.prune(1).files == 0
    shelf.now += 2 * HOUR_MS / 1000
    assert store.prune(1).files == 2
    found = newest(shelf.open())
    assert found is not None and same(found[1], shop(1))


def test_list_sees_missing_parts_and_verify_sees_every_flipped_bit(shelf: Shelf) -> None:
    write(shelf.open(), 1, shop(1))
    write(shelf.open(), 2, shop(2))
    assert [(snapshot.offset, snapshot.problem) for snapshot in shelf.open().list(KEY)] == [(2, ""), (1, "")]
    store = shelf.open()
    assert [store.verify(snapshot) for snapshot in store.list()] == ["", ""]
    newer = store.list()[0].manifest
    assert newer is not None
    own = [path for path in shelf.paths("parts") if path.rpartition("/")[2].partition(".")[0] in newer.parts]
    content = shelf.read(own[0])
    shelf.damage(own[0], content[:-1] + bytes([content[-1] ^ 1]))
    assert [snapshot.problem for snapshot in store.list()] == ["", ""]
    assert ["is not what was written" in store.verify(snapshot) for snapshot in store.list()] == [True, False]
    shelf.filesystem.rm_file(own[0])
    assert [snapshot.problem for snapshot in store.list()] == ["1 of its parts are missing or short", ""]


def test_an_array_that_has_no_place_in_a_snapshot_writes_nothing(shelf: Shelf) -> None:
    with pytest.raises(TypeError, match=r"got \|O in names"):
        write(shelf.open(), 1, {"names": np.array(["a", None], object)})
    assert shelf.open().list() == []


def test_a_url_that_nothing_can_open_is_the_users_mistake() -> None:
    with pytest.raises(StoreUnavailable, match=r'state.url must be .* got "nonsense://x"'):
        Store("nonsense://x", "nowcart.")


def test_a_plain_folder_and_a_file_url_are_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Store("file:.nowcart/state", "nowcart."), 1, {"a": np.arange(3)})
    for url in (".nowcart/state", str(tmp_path / ".nowcart/state"), f"file://{tmp_path}/.nowcart/state/"):
        assert offset_of(newest(Store(url, "nowcart."))) == 1
    assert newest(Store(".nowcart/state", "other.")) is None
    assert not list(tmp_path.rglob("*.tmp"))


def test_nothing_here_can_pickle(root: Path) -> None:
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for file in [
        *(root / "stream" / "state").glob("*.py"),
        root / "stream" / "engine" / "state.py",
        root / "stream" / "cli" / "snapshots.py",
    ]:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {
            alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names
        }
        names |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        called = {
            (node.value.id, node.attr) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        assert not names & forbidden, file
        assert not called & {("np", "save"), ("np", "load"), ("np", "savez"), ("torch", "save"), ("torch", "load")}, file
