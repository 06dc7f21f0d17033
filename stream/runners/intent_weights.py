"""Weights of models as files: safetensors in, named arrays out; and the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.intent.weights import IntentWeights
from stream.state.errors import Damaged
from stream.state.tensors import pieces, tensors
from stream.tables import UserError


def load_intent(path: str, features: int) -> IntentWeights:
    """Reads trained weights of the intent model; their version is the file's name.

    Args:
        path: of a .safetensors file, as `nowcart backtest --intent --weights` writes it.
        features: that the engine makes.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        arrays: dict[str, Any] = dict(tensors(Path(path).read_bytes()))
        weights = IntentWeights.of(Path(path).stem, arrays)
    except OSError as error:
        raise UserError(f"intent.weights must be a file that can be read; got {path}: {error.strerror}") from error
    except (Damaged, ValueError) as error:
        raise UserError(f"intent.weights must be weights of the intent model; {path}: {error}") from error
    if len(weights.mean) != features:
        raise UserError(
            f"intent.weights must be for {features} features; {path} is for {len(weights.mean)}: train it anew with this version"
        )
    return weights


def save_intent(path: Path, weights: IntentWeights) -> None:
    """Writes weights.

    Args:
        path: of the file.
        weights: to keep.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.write_bytes(b"".join(bytes(piece) for piece in pieces(weights.arrays())))
    except OSError as error:
        raise UserError(f"{path} must be writable: {error.strerror}") from error
