"""The simulated shop: its messages in order of arrival, as fast as they can be made or at the pace of a clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.simulate.catalog import make_catalog
from stream.simulate.intent import make_intents
from stream.simulate.messages import JUNK, Encoder, Messages
from stream.simulate.plan import Plan
from stream.simulate.sessions import CLICK, ORDER, SESSION, Records, SessionMaker
from stream.simulate.spec import HOUR_MS, ShopSpec

_JUNK_NAMES = [junk.name for junk in JUNK]
_NEEDS_ITEM = [_JUNK_NAMES.index("item_is_object"), _JUNK_NAMES.index("price_is_text")]
_LONG_AGO, _TRUNCATED = [_JUNK_NAMES.index("in_1970"), _JUNK_NAMES.index("last_year")], _JUNK_NAMES.index("truncated")
_NO_ROWS = np.zeros(0, dtype=CLICK)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Everything that arrives in [start_ms, end_ms)."""

    start_ms: int
    end_ms: int
    sources: dict[str, Messages]
    """clicks, orders, offers."""
    sessions: Records
    """SESSION[n], whole sessions whose making fell into this chunk: each is in exactly one chunk, not after its first click."""

    def split(self, arrival_ms: int) -> tuple[Chunk, Chunk]:
        """What arrives before a time, and the rest.

        Args:
            arrival_ms: epoch milliseconds.
        """
        middle = min(max(arrival_ms, self.start_ms), self.end_ms)
        at = {name: int(np.searchsorted(m.arrival_ms, middle)) for name, m in self.sources.items()}
        return self._split(at, middle)

    def split_at_click(self, count: int) -> tuple[Chunk, Chunk]:
        """The first `count` clicks with what arrives before the next one, and the rest.

        Args:
            count: clickstream messages.
        """
        clicks = self.sources["clicks"]
        if count >= len(clicks):  # all of it: what was cut at a click may end with others of the same millisecond
            return self._split({name: len(m) for name, m in self.sources.items()}, self.end_ms)
        middle = int(clicks.arrival_ms[count])
        at = {name: int(np.searchsorted(m.arrival_ms, middle)) for name, m in self.sources.items()} | {"clicks": count}
        return self._split(at, middle)

    def _split(self, at: dict[str, int], middle: int) -> tuple[Chunk, Chunk]:
        head = {name: m.cut(0, at[name]) for name, m in self.sources.items()}
        tail = {name: m.cut(at[name], len(m)) for name, m in self.sources.items()}
        return Chunk(self.start_ms, middle, head, self.sessions), Chunk(middle, self.end_ms, tail, self.sessions[:0])


class Shop:
    """A simulated shop.

    Args:
        spec: its parameters; the defaults without.
        changes: fields of ShopSpec to set otherwise: `Shop(items=1_000, seed=7)`.

    Raises:
        ValueError: parameters that no shop can have; says which.
    """

    def __init__(self, spec: ShopSpec | None = None, /, **changes: object) -> None:
        self.spec = msgspec.convert({**msgspec.structs.asdict(spec or ShopSpec()), **changes}, ShopSpec)
        self.catalog = make_catalog(self.spec)
        self.intents = make_intents(self.spec)
        self.plan = Plan(self.spec, self.catalog)
        self.maker = SessionMaker(self.spec, self.catalog, self.intents, self.plan)

    def session_ids(self, serial: NDArray[np.int64]) -> list[str]:
        """The ids under which sessions appear in messages.

        Args:
            serial: int64[n], as in the `session` columns.
        """
        return Encoder(self.spec.seed, self.catalog).session_ids(serial)

    def events(
        self,
        until_ms: int | None = None,
        count: int | None = None,
        *,
        chunk_events: int | None = None,
        chunk_ms: int | None = None,
        drain: bool = False,
    ) -> Iterator[Chunk]:
        """The shop's messages from its start, in order of arrival; the same bytes whatever the chunks. Each call starts anew.

        Args:
            until_ms: stop before what arrives at this time; without it and `count`, never.
            count: stop after this many clickstream messages (unusable ones included).
            chunk_events: at most this many clickstream messages a chunk.
            chunk_ms: at most this long a chunk.
            drain: no session begins at until_ms or later, but those begun are sent to their ends, with their orders.
        """
        if drain and until_ms is None:
            raise ValueError("drain needs until_ms: the time from which no session begins")
        left = count
        for block in self._blocks(until_ms, drain):
            rest = block
            last = left is not None and len(rest.sources["clicks"]) >= left
            if left is not None:
                rest, _ = rest.split_at_click(left)
                left -= len(rest.sources["clicks"])
            while True:
                chunk = rest
                if chunk_ms is not None:
                    chunk, _ = chunk.split(rest.start_ms - rest.start_ms % chunk_ms + chunk_ms)
                if chunk_events is not None:
                    clicks = len(chunk.sources["clicks"])
                    chunk, _ = chunk.split_at_click(min(chunk_events, clicks))
                whole = chunk.end_ms >= rest.end_ms and len(chunk.sources["clicks"]) == len(rest.sources["clicks"])
                yield chunk
                if whole:
                    break
                rest = _after(rest, chunk)
            if last:
                return

    def _blocks(self, until_ms: int | None, drain: bool) -> Iterator[Chunk]:
        spec, length = self.spec, self.spec.block_ms
        encoder = Encoder(spec.seed, self.catalog)
        clicks: defaultdict[int, list[Records]] = defaultdict(list)
        orders: defaultdict[int, list[Records]] = defaultdict(list)
        leaving: defaultdict[int, list[int]] = defaultdict(list)
        end_ms = until_ms
        number = spec.start_ms // length
        while end_ms is None or number * length < end_ms or (drain and until_ms is not None and number * length < until_ms):
            begin, end = number * length, (number + 1) * length
            sessions = np.zeros(0, dtype=SESSION)
            if not drain or until_ms is None or begin < until_ms:
                made = self.maker.make(number)
                sessions, new, bought = made.sessions, made.clicks, made.orders
                if drain and until_ms is not None:
                    sessions = sessions[sessions["start_ms"] < until_ms]
                    new = new[np.isin(new["session"], sessions["session"])]
                    bought = bought[np.isin(bought["session"], sessions["session"])]
                    firsts = bought[(bought["quantity"] > 0) & ~bought["cancelled"]]
                    sent = [int(rows["arrival_ms"].max()) + 1 for rows in (new, firsts) if len(rows)]
                    end_ms = max([end_ms or 0, *sent])
                encoder.begin(sessions)
                _queue(clicks, new, length)
                _queue(orders, bought, length)
                _retire(leaving, sessions, new, length)
            rng = np.random.default_rng([spec.seed, 5, number])
            click_rows = self._with_junk(rng, _due(clicks, number, CLICK))
            order_rows = self._with_junk(rng, _due(orders, number, ORDER))
            offers = [o for o in self.plan.offers(begin // HOUR_MS) if begin <= o.time_ms < end]
            announced = np.array([o.time_ms for o in offers], dtype=np.int64)
            block = Chunk(
                max(begin, spec.start_ms),
                end,
                {
                    "clicks": Messages(*encoder.clicks(click_rows), click_rows["time_ms"], click_rows["arrival_ms"], click_rows),
                    "orders": Messages(*encoder.orders(order_rows), order_rows["time_ms"], order_rows["arrival_ms"], order_rows),
                    "offers": Messages(*encoder.offers(offers), announced, announced, _NO_ROWS),
                },
                sessions,
            )
            encoder.end(leaving.pop(number, []))
            number += 1
            yield block if end_ms is None or end <= end_ms else block.split(end_ms)[0]

    def _with_junk(self, rng: np.random.Generator, rows: Records) -> Records:
        """The rows, with a spoilt copy behind some."""
        spoilt = rng.random(len(rows)) < self.spec.malformed_share
        how = rng.integers(1, len(JUNK), len(rows))
        if not spoilt.any():
            return rows
        bare = (rows["item"] < 0) & np.isin(how, _NEEDS_ITEM)
        # A reader that knows no time yet could take long ago for now.
        early = np.isin(how, _LONG_AGO) & (rows["arrival_ms"] < self.spec.start_ms + 60_000)
        how[bare | early] = _TRUNCATED
        copies = np.repeat(rows, 1 + spoilt)
        at = np.flatnonzero(spoilt)
        copies["junk"][at + np.arange(1, len(at) + 1)] = how[at]
        return copies


def pace(chunks: Iterator[Chunk], clock_ms: Callable[[], int], sleep: Callable[[float], object], step_ms: int = 20) -> Iterator[Chunk]:
    """The same messages, each not before its arrival by a clock: a shop that starts now then lives in real time.

    Args:
        chunks: as `Shop.events` gives them.
        clock_ms: the time, epoch milliseconds.
        sleep: waits for a number of seconds.
        step_ms: waits are at least this long, so that a busy shop comes in small batches rather than one by one.
    """
    for chunk in chunks:
        rest = chunk
        while True:
            due, rest = rest.split(clock_ms())
            if any(len(m) for m in due.sources.values()) or len(due.sessions):
                yield due
            waiting = [int(m.arrival_ms[0]) for m in rest.sources.values() if len(m)]
            if not waiting:
                break
            sleep(max(step_ms, min(waiting) + 1 - clock_ms()) / 1000)


def _after(whole: Chunk, head: Chunk) -> Chunk:
    sources = {name: m.cut(len(head.sources[name]), len(m)) for name, m in whole.sources.items()}
    return Chunk(head.end_ms, whole.end_ms, sources, whole.sessions[:0])


def _queue(queue: defaultdict[int, list[Records]], rows: Records, length: int) -> None:
    """Put rows where they will arrive."""
    if not len(rows):
        return
    rows = rows[np.argsort(rows["arrival_ms"], kind="stable")]
    block = rows["arrival_ms"] // length
    edges = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(rows)]
    for start, stop in zip(edges, edges[1:], strict=False):
        queue[int(block[start])].append(rows[start:stop])


def _due(queue: defaultdict[int, list[Records]], number: int, dtype: np.dtype[np.void]) -> Records:
    """The rows that arrive in a block, by arrival; ties in the order in which they were made."""
    parts = queue.pop(number, None)
    if not parts:
        return np.zeros(0, dtype=dtype)
    rows = np.concatenate(parts)
    return rows[np.argsort(rows["arrival_ms"], kind="stable")]


def _retire(leaving: defaultdict[int, list[int]], sessions: Records, clicks: Records, length: int) -> None:
    """Note in which block each session's last click arrives."""
    if not len(sessions):
        return
    first = np.flatnonzero(clicks["position"] == 0)
    last = np.maximum.reduceat(clicks["arrival_ms"], first) // length
    order = np.argsort(last, kind="stable")
    blocks, start = np.unique(last[order], return_index=True)
    for block, serials in zip(blocks.tolist(), np.split(clicks["session"][first][order], start[1:]), strict=True):
        leaving[block].extend(serials.tolist())
