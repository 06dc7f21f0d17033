"""Trained weights in the store: versioned, verified by sha256, written part first and manifest last.

    <url>/<namespace>/models/<version>/<sha256>.safetensors
                                      /manifest.json            (the model card)

Nothing of nowcart deletes them: a snapshot, or a committed offset, may name a version long after another took its place. They stand
beside the snapshots, and `nowcart snapshots prune` knows nothing of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from numpy.typing import NDArray

from models.train.card import Card, CardError, decode_card, encode_card
from stream.config import Config
from stream.state import tensors
from stream.state.errors import Damaged, StoreError
from stream.state.folder import Folder

MODELS = "models"
MANIFEST = "manifest.json"
VERSION_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class ArtefactUnusable(StoreError):
    """A version that is not there, is damaged, or was not made by us."""


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """What is said on `nowcart.models`, keyed model@version: from now on these weights forecast. The newest of a bucket size counts."""

    model: str
    version: str
    size: str
    """The bucket size."""
    uri: str = ""
    """Of the manifest; "" for the weights that come with the package."""
    sha256: str = ""
    """Of the manifest, which holds that of the weights."""
    bytes: int = 0
    """Of the weights."""
    from_ms: int = 0
    """Event time from which on they forecast; 0: at once."""
    why: str = ""


def encode_announcement(announcement: Announcement) -> tuple[bytes, bytes]:
    """A message's key and value."""
    return f"{announcement.model}@{announcement.version}".encode(), msgspec.json.encode(announcement)


def decode_announcement(value: bytes) -> Announcement:
    """Reads one.

    Raises:
        ArtefactUnusable: it is none.
    """
    try:
        found = msgspec.json.decode(value, type=Announcement)
    except msgspec.DecodeError as error:
        raise ArtefactUnusable(f"what stands on the topic of models must be an announcement; got {value[:80]!r} ({error})") from None
    if VERSION_FORM.fullmatch(found.version) is None:
        raise ArtefactUnusable(f"a version must be letters, digits, dots and dashes; got {found.version!r}")
    return found


class Artefacts:
    """The trained weights of one engine. Several threads may use it.

    Args:
        url: of the state store.
        namespace: keeps several engines in one place apart.
        filesystem: in place of what the URL names (for tests).

    Raises:
        StoreUnavailable: a URL that nothing here can open.
    """

    def __init__(self, url: str, namespace: str, filesystem: Any = None) -> None:
        self.folder = Folder(url, filesystem)
        self.namespace = namespace

    def write(self, card: Card, arrays: Mapping[str, NDArray[Any]], why: str = "") -> Announcement:
        """Writes weights and their card; the same ones again change nothing.

        Args:
            card: with the sha256 that `digest` gave.
            arrays: float32 by name.
            why: for the announcement.

        Raises:
            StoreUnavailable: the store does not take it.
        """
        buffers = tensors.pieces(arrays)
        self.folder.put(self._path(card.version, f"{card.sha256}.safetensors"), buffers)
        content = encode_card(card)
        path = self._path(card.version, MANIFEST)
        self.folder.put(path, [content])
        return self._announcement(card, content, why)

    def announcement(self, version: str, why: str = "") -> Announcement:
        """What to announce of a version that is there and whole.

        Raises:
            ArtefactUnusable: it is not.
            StoreUnavailable: the store does not answer.
        """
        card, _ = self.read(version)
        return self._announcement(card, self.folder.get(self._path(version, MANIFEST)), why)

    def read(self, version: str, uri: str = "", sha256: str = "") -> tuple[Card, dict[str, NDArray[Any]]]:
        """Reads weights and verifies every byte.

        Args:
            version: which.
            uri: of its manifest; "": in this store.
            sha256: of its manifest; "": any.

        Raises:
            ArtefactUnusable: missing, damaged, or not ours.
            StoreUnavailable: the store does not answer.
        """
        where = uri or self.folder.filesystem.unstrip_protocol(self._path(version, MANIFEST))
        try:
            folder, path = self._open(version, uri)
            content = folder.get(path)
            if sha256 and hashlib.sha256(content).hexdigest() != sha256:
                raise Damaged("its manifest is not what was announced")
            card = decode_card(content)
            if card.version != version:
                raise Damaged(f"its manifest is that of {card.version}")
            data = folder.get(f"{path.rpartition('/')[0]}/{card.sha256}.safetensors")
            if hashlib.sha256(data).hexdigest() != card.sha256:
                raise Damaged("its weights are not what was written")
            return card, dict(tensors.tensors(data))
        except (Damaged, CardError) as problem:
            raise ArtefactUnusable(
                f"the model {version} must stand whole at {where}; {problem}: bring the file back, or announce another version "
                f"(nowcart train CONFIG --announce VERSION)"
            ) from None

    def versions(self) -> list[str]:
        """Every version that has a manifest, ascending.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        names = [file.name for file in self.folder.files(self.folder.path(self.namespace, MODELS)) if file.is_folder]
        return sorted(
            name
            for name in names
            if any(file.name == MANIFEST for file in self.folder.files(self.folder.path(self.namespace, MODELS, name)))
        )

    def _open(self, version: str, uri: str) -> tuple[Folder, str]:
        if not uri:
            return self.folder, self._path(version, MANIFEST)
        own = self.folder.filesystem.unstrip_protocol(self._path(version, MANIFEST))
        if uri == own:
            return self.folder, self._path(version, MANIFEST)
        parent, _, name = uri.rpartition("/")
        folder = Folder(parent)
        return folder, folder.path(name)

    def _announcement(self, card: Card, content: bytes, why: str) -> Announcement:
        uri = self.folder.filesystem.unstrip_protocol(self._path(card.version, MANIFEST))
        digest = hashlib.sha256(content).hexdigest()
        return Announcement(model=card.model, version=card.version, size=card.size, uri=uri, sha256=digest, bytes=card.bytes, why=why)

    def _path(self, version: str, *names: str) -> str:
        return self.folder.path(self.namespace, MODELS, version, *names)


def digest(arrays: Mapping[str, NDArray[Any]]) -> tuple[str, int]:
    """(sha256 in hexadecimal, bytes) of weights as they will be written.

    Args:
        arrays: by name.
    """
    hashing, size = hashlib.sha256(), 0
    for name, array in arrays.items():
        tensors.require_kind(name, array)
    for buffer in tensors.pieces(arrays):
        hashing.update(buffer)
        size += buffer.nbytes
    return hashing.hexdigest(), size


def open_artefacts(config: Config) -> Artefacts:
    """Those of a configuration's engine.

    Raises:
        StoreUnavailable: state.url cannot be opened.
    """
    return Artefacts(config.state.url, config.output.prefix)
