"""The model card: what a trained network says of itself beside its weights. No torch here: who lists artefacts needs none."""

from __future__ import annotations

from typing import Any

import msgspec

FORMAT = 1
"""Of cards and arrays; grows with every change that an older reader could not follow. Fields may be added without."""

Scores = dict[str, float | None]
"""Name -> value; None where undefined."""


class CardError(ValueError):
    """Not a model card, or not one of ours; the message says what is wrong."""


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """What the network was trained on."""

    source: str
    """The topic or file."""
    first_ms: int
    """Event time, epoch milliseconds: the first bucket."""
    until_ms: int
    """Event time: the end of the last bucket whose demand was learnt from. Only what comes after it may judge the network."""
    examples: int
    items: int


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A model card."""

    format: int = FORMAT
    model: str = "demand"
    version: str
    size: str
    """The bucket size."""
    horizon: int
    levels: tuple[float, ...]
    layout: dict[str, Any]
    """models.demand.encoder.Layout, by field."""
    shape: dict[str, int]
    """models.demand.network.Shape, by field."""
    follows: str = ""
    """The version that it carries on from: what a council has learnt of that one holds of it."""
    data: Data
    metrics: dict[str, Any]
    """On the newest part of the data, by a twin that was not trained on it: {"network": Scores, "untrained": Scores, "held_out": {"from_ms",
    "until_ms"}}."""
    recipe: dict[str, Any]
    """How it was fitted: epochs, batch, pretraining, fine-tuning, early stopping."""
    seed: int
    checksum: str
    """Of the configuration."""
    versions: dict[str, str]
    """Of nowcart and the libraries."""
    sha256: str
    """Of the file of weights."""
    bytes: int


_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(Card).decode


def encode_card(card: Card) -> bytes:
    """A card as JSON, indented for people."""
    return msgspec.json.format(_encode(card), indent=2) + b"\n"


def decode_card(content: bytes) -> Card:
    """Reads a card.

    Args:
        content: as encode_card() made it.

    Raises:
        CardError: it is none, or a newer nowcart wrote it.
    """
    try:
        head = msgspec.json.decode(content)
        found = head.get("format") if isinstance(head, dict) else None
        if isinstance(found, int) and found > FORMAT:
            raise CardError(f"a model card must be of format {FORMAT} or older; got {found}: run the newer nowcart that wrote it")
        return _decode(content)
    except msgspec.DecodeError as error:
        raise CardError(f"it is no model card: {error}") from None


def version_name(model: str, size: str, until_ms: int, sha256: str) -> str:
    """The name of a version: of the data's end and the weights, so that the same training gives the same name; later data sort later.

    Args:
        model: demand.
        size: the bucket size.
        until_ms: end of the training data, epoch milliseconds.
        sha256: of the weights, hexadecimal.
    """
    from datetime import UTC, datetime

    return f"{model}-{size}-{datetime.fromtimestamp(until_ms / 1000, UTC):%Y%m%dT%H%M}-{sha256[:6]}"
