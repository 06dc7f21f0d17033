"""A part's bytes: arrays by name in the safetensors format, without copying them.

The format is eight bytes of length, a JSON header, and the arrays' bytes. The library `safetensors` copies every array twice to write
it (962 MB/s of CPU time, where sha256 does 1.9 GB/s), and a part that the store already has is only hashed; so the header is made
here, and the tests read these bytes with the library and the library's with this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.state.errors import Damaged

KINDS = {
    "BOOL": "|b1",
    "U8": "|u1",
    "I8": "|i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}
"""numpy's kinds by the format's names. Objects and texts are no arrays of numbers, and never will be."""

_NAMES = {kind: name for name, kind in KINDS.items()}
_HEADER_MOST = 100_000_000


class _Tensor(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(dict[str, _Tensor]).decode


def require_kind(name: str, array: NDArray[Any]) -> None:
    """Refuses what cannot be stored.

    Raises:
        TypeError: not one of KINDS.
    """
    if array.dtype.str not in _NAMES:
        raise TypeError(f"state may hold {', '.join(_NAMES)}; got {array.dtype.str} in {name}")


def pieces(arrays: Mapping[str, NDArray[Any]]) -> list[memoryview]:
    """A part as buffers to be hashed and written one after the other; C-contiguous arrays are not copied.

    Args:
        arrays: by name, each of one of KINDS.
    """
    header: dict[str, _Tensor] = {}
    buffers, end = [], 0
    # The widest first: every array then starts at a multiple of its items' size.
    for name, array in sorted(arrays.items(), key=lambda pair: (-pair[1].dtype.itemsize, pair[0])):
        header[name] = _Tensor(_NAMES[array.dtype.str], array.shape, (end, end + array.nbytes))
        end += array.nbytes
        if array.nbytes:
            buffers.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    text = _encode(header)
    text += b" " * (-len(text) % 8)
    return [memoryview(len(text).to_bytes(8, "little") + text), *buffers]


def tensors(data: bytes | memoryview) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of a part, as views of its bytes.

    Args:
        data: a whole part.

    Raises:
        Damaged: not such a part.
    """
    view = memoryview(data)
    header, length = _read_header(view)
    body = view[8 + length :]
    for name, tensor in header.items():
        start, stop = tensor.data_offsets
        kind = KINDS.get(tensor.dtype)
        if kind is None:
            raise Damaged(f"{name} is of the unknown kind {tensor.dtype}")
        size = np.dtype(kind).itemsize
        for length in tensor.shape:
            size *= length
        if min(tensor.shape, default=0) < 0 or not 0 <= start <= stop <= len(body) or stop - start != size:
            raise Damaged(f"{name} does not have the bytes of its shape")
        yield name, np.frombuffer(body[start:stop], kind).reshape(tensor.shape)


def is_head(data: memoryview, name: str, array: NDArray[Any]) -> bool:
    """Whether a part's bytes before its arrays announce this one alone.

    Args:
        data: all that stands before them.
        name: the array's.
        array: of the type and shape that it should have.

    Raises:
        Damaged: not such bytes.
    """
    header, length = _read_header(data)
    return 8 + length == len(data) and header == {name: _Tensor(_NAMES[array.dtype.str], array.shape, (0, array.nbytes))}


def _read_header(view: memoryview) -> tuple[dict[str, _Tensor], int]:
    """What a part announces, and how long the announcement is."""
    length = int.from_bytes(view[:8], "little")
    if len(view) < 8 or not 2 <= length <= min(len(view) - 8, _HEADER_MOST):
        raise Damaged("it is too short for its header")
    try:
        return _decode(view[8 : 8 + length]), length
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Damaged(f"its header cannot be read: {error}") from None
