"""The engines' whole state as arrays by name, and back: what a snapshot holds. No file, no format, no pickle.

A shard that restored another's state goes on as that one would have, to the bit. Names are paths ("1h.units.closed"), so
that a reader of a snapshot sees what is what. `VERSION` (stream.engine.version) grows with every change that an older reader
could not follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.demand.network import Weights
from stream.engine.activity import Segment, Source
from stream.engine.columns import Ints
from stream.engine.covariate_state import CovariateNote, covariate_arrays, covariate_note, restore_covariates
from stream.engine.forecast import BUILTIN, ForecastShard, Swap
from stream.engine.forecast import SourceState as SourceProgress
from stream.engine.ingest import IngestShard
from stream.engine.sessions import SessionBook
from stream.engine.version import VERSION
from stream.engine.windows import Channel

State = dict[str, NDArray[Any]]


def pack_texts(texts: Sequence[str]) -> State:
    """Texts as arrays: `bytes` uint8[total] (UTF-8, one after the other) and `ends` int64[texts]."""
    joined = "".join(texts).encode("utf-8", "surrogatepass")
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), dtype=np.int64)
    if not len(ends) or len(joined) == ends[-1]:  # ASCII: a byte a character
        return {"bytes": np.frombuffer(joined, np.uint8).copy(), "ends": ends}
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return {
        "bytes": np.frombuffer(b"".join(encoded), np.uint8).copy(),
        "ends": np.cumsum([len(part) for part in encoded], dtype=np.int64),
    }


def unpack_texts(state: Mapping[str, NDArray[Any]]) -> list[str]:
    """What pack_texts was given."""
    data, ends = state["bytes"].tobytes(), state["ends"].tolist()
    return [data[start:end].decode("utf-8", "surrogatepass") for start, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []


def _below(prefix: str, state: Mapping[str, NDArray[Any]]) -> State:
    return {f"{prefix}{name}": array for name, array in state.items()}


def _under(prefix: str, state: Mapping[str, NDArray[Any]]) -> State:
    return {name[len(prefix) :]: array for name, array in state.items() if name.startswith(prefix)}


def _note(value: object) -> NDArray[np.uint8]:
    """A small value as bytes of msgpack, for what is no column."""
    return np.frombuffer(msgspec.msgpack.encode(value), np.uint8).copy()


# -- ingest ----------------------------------------------------------------------------------------------------------


class _IngestNote(msgspec.Struct):
    max_ms: int
    reached: int | None
    grain: int


def ingest_state(shard: IngestShard) -> State:
    """All that decides what an ingest shard gives from here on."""
    return {name: array.copy() for name, array in ingest_arrays(shard).items()} | ingest_note(shard)


def ingest_arrays(shard: IngestShard) -> State:
    """What there is of each session slot: the arrays themselves. Whoever copies them a piece at a time calls `track_ingest` before and
    `mend_ingest` after, and begins anew where the book has grown.
    """
    book = shard.book
    if book is None:
        return {}
    state: State = {name: getattr(book, name) for name, _ in book.ARRAYS}
    if book.interest is not None:
        state |= {f"interest.{name}": getattr(book.interest, name) for name in book.interest.ARRAYS}
    if book.orders is not None:
        state |= {"orders.probe_ms": book.orders.probe_ms, "orders.ordered_ms": book.orders.ordered_ms}
    return _below("sessions.", state | {"counts": book.counts} | _below("model.", book.model.slot_state()))


def track_ingest(shard: IngestShard) -> None:
    """From here on the slots that change are remembered."""
    if shard.book is not None:
        shard.book.touched = np.zeros(shard.book.capacity, np.bool_)


def mend_ingest(shard: IngestShard, copied: State, most: int) -> bool:
    """Copies again what has changed since it was copied.

    Args:
        shard: tracked.
        copied: of `ingest_arrays`; written to.
        most: False is returned, and tracking goes on, where more slots than this had changed.
    """
    book = shard.book
    if book is None:
        return True
    assert book.touched is not None
    slots = np.flatnonzero(book.touched)
    for name, array in ingest_arrays(shard).items():
        if name == "sessions.counts":
            copied[name][slots] = array[slots]
        else:
            copied[name][..., slots] = array[..., slots]
    book.touched = None if len(slots) <= most else np.zeros(book.capacity, np.bool_)
    return len(slots) <= most


def ingest_note(shard: IngestShard) -> State:
    """The rest of the state: what is small, and the names."""
    state: State = {"note": _note(_IngestNote(shard.max_ms, shard.reached, shard.grain))}
    book = shard.book
    if book is None:
        return state
    own: State = {"free": np.array(book.free, dtype=np.int64)}
    own |= _below("keys.", pack_texts(book.keys)) | _below("users.", pack_texts(book.users))
    own |= _below("standing.", book.standing.state()) | {"history": book.history.counts.copy()}
    if book.interest is not None:
        own |= _below("interest.names.", pack_texts(book.interest.names))
    if book.next_items is not None:
        own |= _below("next.", book.next_items.state()) | _below("next.text.", pack_texts(list(book.next_items.names.values())))
    if book.orders is not None:
        waiting = book.orders.waiting
        own["orders.waiting"] = np.array([[order[0] for order in waiting], [order[1] for order in waiting]], dtype=np.int64)
        own |= _below("orders.keys.", pack_texts([order[2] for order in waiting]))
    return state | _below("sessions.", own | _below("model.", book.model.shared_state()))


def restore_ingest(shard: IngestShard, state: Mapping[str, NDArray[Any]]) -> None:
    """Makes a fresh shard of the same configuration the one that gave the state."""
    note = msgspec.msgpack.decode(state["note"].tobytes(), type=_IngestNote)
    shard.max_ms, shard.reached, shard.grain = note.max_ms, note.reached, note.grain
    if shard.book is not None:
        _restore_book(shard.book, _under("sessions.", state))


def _restore_book(book: SessionBook, state: Mapping[str, NDArray[Any]]) -> None:
    book.resize(len(state["state"]))
    for name, kind in book.ARRAYS:
        if name in state:
            setattr(book, name, np.array(state[name], dtype=kind))
    book.counts = np.array(state["counts"], dtype=np.int64)
    book.free = state["free"].tolist()
    book.keys, book.users = unpack_texts(_under("keys.", state)), unpack_texts(_under("users.", state))
    book.reindex()
    if "history" not in state:
        # Versions 1 and 2: who is in the shop is known; the models saw less of them, and begin to learn anew.
        return
    book.standing.restore(_under("standing.", state))
    book.history.counts = np.array(state["history"], np.int32)
    if book.interest is not None:
        book.interest.restore(_under("interest.", state), unpack_texts(_under("interest.names.", state)))
    if book.next_items is not None:
        book.next_items.restore(_under("next.", state), unpack_texts(_under("next.text.", state)))
    if book.orders is not None:
        book.orders.restore(_under("orders.", state), unpack_texts(_under("orders.keys.", state)), book.ended_by_key())
    book.model.restore(_under("model.", state))


# -- forecast --------------------------------------------------------------------------------------------------------


class _SourceNote(msgspec.Struct):
    name: str
    partition: int
    reached: int | None
    idle: bool
    ended: bool
    max_ms: int | None


class _SwapNote(msgspec.Struct):
    size: str
    version: str
    from_ms: int
    follows: str


class _ForecastNote(msgspec.Struct):
    sources: list[_SourceNote]
    roster_known: bool
    next_epoch: int | None
    closed: list[int | None]
    scales: list[dict[str, int]]
    covariates: CovariateNote = msgspec.field(default_factory=CovariateNote)
    models: dict[str, str] = {}
    """Bucket size -> version of the weights in use; left out where they came with the package."""
    swaps: list[_SwapNote] = []


def forecast_state(shard: ForecastShard) -> State:
    """All that decides what a forecast shard gives from here on."""
    return {name: array.copy() for name, array in forecast_arrays(shard).items()} | forecast_note(shard)


def forecast_note(shard: ForecastShard) -> State:
    """The part that changes with every block: what was heard from the sources, and what waits for its epoch."""
    note = _ForecastNote(
        [_SourceNote(s.name, s.partition, p.reached, p.idle, p.ended, p.max_ms) for s, p in sorted(shard.sources.items(), key=_by_source)],
        shard.roster_known,
        shard.next_epoch,
        [r.windows.closed for r in shard.resolutions],
        [{name: channel.scale for name, channel in r.windows.channels.items()} for r in shard.resolutions],
        covariate_note(shard),
        {size: version for size, version in shard.versions().items() if version != BUILTIN},
        [_SwapNote(s.size, s.version, s.from_ms, s.follows) for s in shard.swaps],
    )
    return {"note": _note(note), "held": _note(dict(sorted(shard.held.items())))}


def forecast_arrays(shard: ForecastShard) -> State:
    """The part that changes with epochs only: the arrays themselves. Whoever copies them a piece at a time sees from
    `shard.changes` whether an epoch came between.
    """
    state: State = {
        "live": shard.live,
        "whole": shard.whole,
        "seen_ms": shard.seen_ms,
        "free": np.array(shard.free, dtype=np.int64),
    }
    state |= _below("names.", pack_texts(shard.names))
    for resolution in shard.resolutions:
        prefix = f"{resolution.spec.size}."
        state |= {f"{prefix}first": resolution.first, f"{prefix}active": resolution.active}
        state[f"{prefix}spikes"] = resolution.spikes.level
        state |= _below(f"{prefix}spikes.", resolution.spikes.state())
        state |= _below(f"{prefix}model.", resolution.forecaster.state(copy=False))
        for name, channel in resolution.windows.channels.items():
            state |= {f"{prefix}{name}.closed": channel.closed, f"{prefix}{name}.open": channel.open}
    return state | covariate_arrays(shard)


def versions_of(state: Mapping[str, NDArray[Any]]) -> set[str]:
    """The trained weights that restore_forecast() needs for this state."""
    note = msgspec.msgpack.decode(state["note"].tobytes(), type=_ForecastNote)
    return {*note.models.values(), *(swap.version for swap in note.swaps)} - {BUILTIN}


def restore_forecast(shard: ForecastShard, state: Mapping[str, NDArray[Any]], weights: Mapping[str, Weights] | None = None) -> None:
    """Makes a fresh shard of the same configuration the one that gave the state.

    The arrays become the shard's own: for a million items copying them took as long as reading them.

    Args:
        shard: fresh.
        state: of forecast_state().
        weights: by version, all of versions_of(state).
    """
    note = msgspec.msgpack.decode(state["note"].tobytes(), type=_ForecastNote)
    known = weights or {}
    shard.swaps = [Swap(s.size, s.version, s.from_ms, known[s.version] if s.version != BUILTIN else None, s.follows) for s in note.swaps]
    shard.sources = {Source(s.name, s.partition): SourceProgress(s.reached, s.idle, s.ended, s.max_ms) for s in note.sources}
    shard.roster_known, shard.next_epoch = note.roster_known, note.next_epoch
    shard.held = msgspec.msgpack.decode(state["held"].tobytes(), type=dict[int, list[Segment]])
    shard.capacity = len(state["live"])
    shard.live, shard.whole = np.asarray(state["live"], dtype=np.bool_), np.asarray(state["whole"], dtype=np.bool_)
    shard.seen_ms = np.asarray(state["seen_ms"], dtype=np.int64)
    shard.free = state["free"].tolist()
    shard.names = unpack_texts(_under("names.", state))
    shard.index = {shard.names[slot]: slot for slot in np.flatnonzero(shard.live).tolist()}
    for resolution, closed, scales in zip(shard.resolutions, note.closed, note.scales, strict=True):
        prefix = f"{resolution.spec.size}."
        resolution.first = np.asarray(state[f"{prefix}first"], dtype=np.int64)
        resolution.active = np.asarray(state[f"{prefix}active"], dtype=np.int64)
        resolution.spikes.restore(state[f"{prefix}spikes"], _under(f"{prefix}spikes.", state))
        version = note.models.get(resolution.spec.size, BUILTIN)
        if version != resolution.forecaster.version:
            resolution.forecaster.load(None if version == BUILTIN else known[version])
        resolution.forecaster.restore(_under(f"{prefix}model.", state), copy=False)
        resolution.windows.closed = closed
        for name, channel in resolution.windows.channels.items():
            cells = _deepened(state[f"{prefix}{name}.closed"], channel.depth, closed)
            _restore_channel(channel, cells, state[f"{prefix}{name}.open"], scales[name])
    restore_covariates(shard, note.covariates, state)


def _restore_channel(channel: Channel, closed: NDArray[Any], open_buckets: NDArray[Any], scale: int) -> None:
    channel.closed, channel.open, channel.scale = closed, open_buckets, scale


def _deepened(cells: NDArray[Any], depth: int, closed: int | None) -> NDArray[Any]:
    """A ring of version 1, in which views and carts had fewer buckets, as one of today's depth; what it never held is zero."""
    if len(cells) >= depth:
        return cells
    deeper = np.zeros((depth, cells.shape[1]), cells.dtype)
    if closed is not None:
        buckets = np.arange(closed - len(cells) + 1, closed + 1)
        deeper[buckets % depth] = cells[buckets % len(cells)]
    return deeper


def _by_source(pair: tuple[Source, object]) -> tuple[str, int]:
    return pair[0].name, pair[0].partition


def size_bytes(state: Mapping[str, NDArray[Any]]) -> int:
    """Bytes of all arrays."""
    return sum(array.nbytes for array in state.values())


__all__ = [
    "VERSION",
    "Ints",
    "State",
    "forecast_arrays",
    "forecast_note",
    "forecast_state",
    "ingest_arrays",
    "ingest_note",
    "ingest_state",
    "mend_ingest",
    "pack_texts",
    "restore_forecast",
    "restore_ingest",
    "size_bytes",
    "track_ingest",
    "unpack_texts",
    "versions_of",
]
