"""What a snapshot says of itself: one JSON document, written after all its parts, with its own checksum in its name."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np

from stream.engine.version import OLDEST, VERSION
from stream.state.errors import Damaged, SnapshotFromElsewhere

FORMAT = 1
"""Of manifests and parts; grows with every change that an older reader could not follow. Fields may be added without."""

_NAME = re.compile(r"(\d{20})-(\d{10})-([0-9a-f]{64})\.json")


class Key(msgspec.Struct, frozen=True, order=True):
    """Whose state it is: one partition of one stage's input."""

    stage: str
    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.stage} {self.topic}[{self.partition}]"


class Array(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where one array of the state stands."""

    dtype: str
    """numpy's own name of it, one of stream.state.tensors.KINDS."""
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    """sha256, in hexadecimal, of each part, in the order of the array's rows."""
    rows: int = 0
    """Of each part but the last, which may have fewer; its tensor is called "rows". 0: it stands whole in one part, under its own name."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot: the state of one partition as of one committed position."""

    format: int = FORMAT
    version: int
    """Of the state's arrays (stream.engine.version)."""
    stage: str
    topic: str
    partition: int
    offset: int
    """The next message to read, as committed."""
    metadata: str
    """The text that was committed with the offset."""
    sequence: int
    """Of the partition's snapshots, in the order in which they were written."""
    checksum: str
    """Of the configuration that shaped the state."""
    fingerprint: dict[str, str | int]
    """Where it was made: versions, CPU kind, threads. The same bits are promised on the same only."""
    created_ms: int
    bytes: int
    """Of all parts."""
    new_bytes: int
    """Of the parts that the store did not have."""
    parts: dict[str, int]
    """sha256 of each part, and its size in bytes."""
    arrays: dict[str, Array]

    @property
    def key(self) -> Key:
        """Whose state it is."""
        return Key(self.stage, self.topic, self.partition)


class _Head(msgspec.Struct):
    format: int
    version: int


_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(Manifest).decode
_decode_head = msgspec.json.Decoder(_Head).decode


def encode(manifest: Manifest) -> tuple[str, bytes]:
    """(file name, content) of a manifest. Names sort from the oldest to the newest."""
    content = _encode(manifest)
    return f"{manifest.offset:020d}-{manifest.sequence:010d}-{hashlib.sha256(content).hexdigest()}.json", content


def place(name: str) -> tuple[int, int] | None:
    """(offset, sequence) of a manifest with this file name; None if it is no manifest's."""
    found = _NAME.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else None


def decode(name: str, content: bytes) -> Manifest:
    """Reads a manifest.

    Args:
        name: of its file.
        content: of its file.

    Raises:
        Damaged: not what was written.
        SnapshotFromElsewhere: a newer nowcart wrote it.
    """
    found = _NAME.fullmatch(name)
    if found is None or hashlib.sha256(content).hexdigest() != found[3]:
        raise Damaged("its manifest is not what was written")
    try:
        head = _decode_head(content)
        if head.format > FORMAT or head.version > VERSION:
            raise SnapshotFromElsewhere(
                f"a snapshot must be of format {FORMAT} and state version {VERSION} or older; got format {head.format} and state version "
                f"{head.version} in {name}: run the newer nowcart that wrote it, or name another state.url"
            )
        if head.version < OLDEST:
            raise SnapshotFromElsewhere(
                f"a snapshot must be of state version {OLDEST} or newer; got {head.version} in {name}, which this nowcart cannot read: "
                "name another state.url, and the state is rebuilt from the log"
            )
        return _decode(content)
    except msgspec.DecodeError as error:
        raise Damaged(f"its manifest cannot be understood: {error}") from None


@lru_cache(maxsize=1)
def fingerprint() -> dict[str, str | int]:
    """What decides the bits of float results here: versions of libraries, CPU kind, threads."""
    simd = np.show_config(mode="dicts").get("SIMD Extensions", {})
    found: dict[str, str | int] = {
        "nowcart": _version("nowcart"),
        "python": platform.python_version(),
        "cpu": _cpu(),
        "simd": " ".join(simd.get("found", [])) or "baseline",
        "threads": int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0])),
    }
    return found | {name: _version(name) for name in ("numpy", "scipy", "torch", "river")}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return f"{platform.machine()} {named[1].strip() if named else platform.processor()}".strip()
