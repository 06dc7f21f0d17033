"""What the simulator knows and its readers may not: rates, what was really sent, sessions' outcomes; and files of all that."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.simulate.intent import CART, KINDS, PURCHASE, VIEW
from stream.simulate.messages import JUNK, user_text
from stream.simulate.plan import PriceChange, Promotion, Spike, Stockout
from stream.simulate.sessions import ORDER, ORDER_BOUNDS_MS, ORDER_LOG_MS, ORDER_SIGMA, SESSION, Records, mean_quantity
from stream.simulate.shop import Chunk, Shop
from stream.simulate.spec import HOUR_MS, TOPICS

if TYPE_CHECKING:
    import pyarrow as pa

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_STEP_MS, _STEPS = 5_000, 16_384
_TAIL = 1e-6


class Rates:
    """The expected order lines of every item, known exactly: lines are Poisson with these means.

    Sessions begin as a Poisson process within each slot, pick items by the slot's weights, and buy by a model whose delays
    are known; so a slot's rate is what the slots before it lead to, less what stockouts send to substitutes.
    """

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._slots = HOUR_MS // shop.spec.slot_ms
        kernels = [_delay_by_slot(shop, which) for which in range(len(shop.intents))]
        self._kernels = np.array([np.pad(k, (0, max(map(len, kernels)) - len(k))) for k in kernels])
        self.mean_quantity = mean_quantity(shop.spec)
        """Expected units of a line, bulk orders included; whatever the item."""
        self._first = shop.spec.start_ms // HOUR_MS

    def lines(self, hour: int) -> Floats:
        """float64[slots, items], expected order lines by the order's time in each slot of an hour.

        Args:
            hour: hours since the epoch, not before the shop's start.
        """
        shop, n, reach = self._shop, self._slots, self._kernels.shape[1]
        rate = np.zeros((n, len(shop.catalog)))
        for earlier in range(max(self._first, hour - -(-(reach - 1) // n)), hour + 1):
            starts = earlier * HOUR_MS + np.arange(n) * shop.spec.slot_ms
            open_ms = np.clip(starts + shop.spec.slot_ms - shop.spec.start_ms, 0, shop.spec.slot_ms)
            sessions = shop.plan.hour(earlier).weights * (shop.spec.sessions_per_second * open_ms / 1000)[:, None]
            which = [shop.maker.conversion_at(int(start)) for start in starts]
            lag = (hour - earlier) * n + np.arange(n)[:, None] - np.arange(n)[None, :]  # int64[slot here, slot there]
            weight = np.where((lag >= 0) & (lag < reach), self._kernels[which, np.clip(lag, 0, reach - 1)], 0.0)
            rate += weight @ sessions
        return self._without_stock(hour, rate)

    def hourly(self, from_ms: int, until_ms: int) -> Iterator[tuple[int, Floats]]:
        """(start of the hour in ms, float64[items] expected lines) for each hour that begins in [from_ms, until_ms).

        Args:
            from_ms: epoch milliseconds.
            until_ms: epoch milliseconds.
        """
        for hour in range(-(-from_ms // HOUR_MS), -(-until_ms // HOUR_MS)):
            yield hour * HOUR_MS, self.lines(hour).sum(axis=0)

    def _without_stock(self, hour: int, rate: Floats) -> Floats:
        """Moves what would be bought of items that are out to those of their category that are not."""
        shop, state = self._shop, self._shop.plan.hour(hour)
        for slot, item in zip(*np.nonzero(state.out), strict=True):
            lost, category = rate[slot, item], shop.catalog.category[item]
            shelf = slice(*shop.catalog.first[category : category + 2].tolist())
            weights = np.where(state.out[slot, shelf], 0.0, state.weights[slot, shelf])
            rate[slot, shelf] += lost * weights / weights.sum()
            rate[slot, item] = 0.0
        return rate


def _delay_by_slot(shop: Shop, which: int) -> Floats:
    """float64[slots], expected order lines of a session by slots since that of its start, which lies anywhere in its slot."""
    fine = shop.intents[which].purchase_delay(_STEP_MS, _STEPS)
    log_ms = np.random.default_rng(0).normal(ORDER_LOG_MS, ORDER_SIGMA, 100_000)
    wait = np.bincount((np.clip(np.exp(log_ms), *ORDER_BOUNDS_MS) / _STEP_MS + 0.5).astype(np.int64), minlength=_STEPS) / 100_000
    fine = np.maximum(np.fft.irfft(np.fft.rfft(fine) * np.fft.rfft(wait), _STEPS), 0)
    per = shop.spec.slot_ms // _STEP_MS
    slot, within = np.arange(_STEPS) // per, np.arange(_STEPS) % per
    share = (within + 0.5) / per
    by_slot = np.bincount(slot, fine * (1 - share)) + np.bincount(slot + 1, fine * share)[: slot[-1] + 1]
    keep = np.searchsorted(np.cumsum(by_slot), by_slot.sum() * (1 - _TAIL)) + 1
    return np.asarray(by_slot[:keep])


class Truth:
    """Keeps the books of what was sent.

    Args:
        shop: whose chunks these are.
        grain_ms: length of the buckets of `counts`, by event time from the epoch.
    """

    def __init__(self, shop: Shop, grain_ms: int = HOUR_MS) -> None:
        self.shop, self.grain_ms = shop, grain_ms
        self.messages: Counter[str] = Counter()
        """By source, unusable ones included."""
        self.malformed: Counter[str] = Counter()
        """By source and what is wrong: "clicks.truncated"."""
        self.clicks: Counter[str] = Counter()
        """Good clicks by kind."""
        self._counts: list[tuple[Ints, Ints]] = []
        self._sent: list[tuple[Ints, Ints]] = []
        self._sessions: list[Records] = []
        self._orders: list[Records] = []
        self._junk: list[tuple[str, int, int]] = []
        self.end_ms = shop.spec.start_ms

    def add(self, chunk: Chunk) -> None:
        """Enter a chunk.

        Args:
            chunk: the shop's, each once, in order.
        """
        self.end_ms = chunk.end_ms
        self._sessions.append(chunk.sessions)
        for source, messages in chunk.sources.items():
            if source != "offers":
                for at in np.flatnonzero(messages.rows["junk"]).tolist():
                    how = int(messages.rows["junk"][at])
                    self._junk.append((source, self.messages[source] + at, how))
                    self.malformed[f"{source}.{JUNK[how].name}"] += 1
            self.messages[source] += len(messages)
        clicks = chunk.sources["clicks"].rows
        clicks = clicks[clicks["junk"] == 0]
        orders = chunk.sources["orders"].rows
        self._orders.append(orders[orders["junk"] == 0])
        for kind, number in enumerate(np.bincount(clicks["kind"], minlength=len(KINDS)).tolist()):
            self.clicks[KINDS[kind]] += number
        self._sent.append(_tally(clicks["session"], np.stack([np.ones(len(clicks), np.int64), clicks["kind"] == PURCHASE], axis=1)))
        kinds = [clicks["kind"] == kind for kind in (VIEW, CART, PURCHASE)]
        shown = np.stack([*kinds, np.where(kinds[2], clicks["quantity"], 0), *[np.zeros(len(clicks))] * 4], axis=1).astype(np.int64)
        self._count(clicks[clicks["item"] >= 0], shown[clicks["item"] >= 0])
        rows = self._orders[-1]
        back = (rows["quantity"] < 0) | rows["cancelled"]
        units = np.abs(rows["quantity"].astype(np.int64))
        zero = np.zeros(len(rows), dtype=np.int64)
        self._count(rows, np.stack([zero, zero, zero, zero, ~back, np.where(back, 0, units), back, np.where(back, units, 0)], axis=1))

    def _count(self, rows: Records, values: NDArray[np.generic]) -> None:
        keys = rows["time_ms"] // self.grain_ms * len(self.shop.catalog) + rows["item"]
        self._counts.append(_tally(keys, values.astype(np.int64)))

    COUNTS = ("views", "carts", "purchases", "purchase_units", "lines", "units", "returned_lines", "returned_units")

    def counts(self) -> tuple[Ints, Ints, Ints]:
        """What was sent: (bucket starts in ms, items, int64[n, COUNTS]), for each bucket and item with anything, in this order.

        purchases are the clickstream's; lines and units the orders' (returns and cancellations apart).
        """
        keys, values = _merge(self._counts, len(self.COUNTS))
        return keys // len(self.shop.catalog) * self.grain_ms, keys % len(self.shop.catalog), values

    def sessions(self) -> tuple[Records, Ints]:
        """(SESSION[n] as made, int64[n, 2] of its clicks and purchase events sent), of sessions begun before the end."""
        made = np.concatenate([np.zeros(0, dtype=SESSION), *self._sessions])
        made = made[made["start_ms"] < self.end_ms]
        keys, values = _merge(self._sent, 2)
        sent = np.zeros((len(made), 2), dtype=np.int64)
        place = np.argsort(made["session"])
        at = np.searchsorted(made["session"], keys, sorter=place)
        known = np.flatnonzero((at < len(made)) & np.isin(keys, made["session"]))
        sent[place[at[known]]] = values[known]
        return made, sent

    def orders(self) -> Records:
        """ORDER[n], the good lines sent, in order of arrival."""
        return np.concatenate([np.zeros(0, dtype=ORDER), *self._orders])

    def summary(self) -> dict[str, object]:
        """The shop's parameters and totals, as JSON-able values."""
        made, sent = self.sessions()
        orders = self.orders()
        back = (orders["quantity"] < 0) | orders["cancelled"]
        people = ~made["bot"]
        begun = slice(self.shop.spec.start_ms, self.end_ms)
        plan = self.shop.plan
        return {
            "spec": msgspec.to_builtins(self.shop.spec),
            "topics": TOPICS,
            "start_ms": begun.start,
            "end_ms": begun.stop,
            "messages": dict(self.messages),
            "malformed": dict(sorted(self.malformed.items())),
            "clicks": dict(self.clicks),
            "sessions": len(made),
            "bots": int(made["bot"].sum()),
            "buyers": int((made["purchases"] > 0).sum()),
            "conversion": float((made["purchases"][people] > 0).mean()) if people.any() else None,
            "conversion_expected": [intent.converts() for intent in self.shop.intents],
            "purchases_sent": int(sent[:, 1].sum()),
            "order_lines": int((~back).sum()),
            "units": int(orders["quantity"][~back].sum()),
            "returned_units": int(np.abs(orders["quantity"][back]).sum()),
            "bulk_orders": int((orders["bulk"] & ~back).sum()),
            "mean_quantity": mean_quantity(self.shop.spec),
            "spikes": sum(s.start_ms < self.end_ms for s in plan.spikes),
            "promotions": sum(p.start_ms < self.end_ms for p in plan.promotions),
            "stockouts": sum(s.start_ms < self.end_ms for s in plan.stockouts),
        }

    def save(self, directory: str | Path, rates: bool = True) -> dict[str, object]:
        """Write truth/*.parquet and truth/summary.json; needs pyarrow.

        Args:
            directory: in which `truth` is made.
            rates: also write the expected lines of each item and hour, the largest table.

        Returns: the summary.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder = Path(directory) / "truth"
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in self._tables(pa).items():
            pq.write_table(table, folder / f"{name}.parquet")
        if rates:
            self._save_rates(folder / "rates.parquet")
        summary = self.summary()
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        return summary

    def _save_rates(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rates, ids = Rates(self.shop), pa.array(self.shop.catalog.ids)
        schema = pa.schema([("hour_ms", pa.int64()), ("item", pa.string()), ("lines", pa.float32()), ("units", pa.float32())])
        with pq.ParquetWriter(path, schema) as writer:
            start = self.shop.spec.start_ms // HOUR_MS * HOUR_MS
            for hour_ms, lines in rates.hourly(start, self.end_ms):
                hour = np.full(len(lines), hour_ms)
                units = lines * rates.mean_quantity
                writer.write_table(pa.table([pa.array(hour), ids, lines.astype(np.float32), units.astype(np.float32)], schema=schema))

    def _tables(self, pa) -> dict[str, pa.Table]:  # type: ignore[no-untyped-def]
        shop, catalog = self.shop, self.shop.catalog
        ids = np.array(catalog.ids, dtype=object)
        bucket, item, counts = self.counts()
        made, sent = self.sessions()
        orders = self.orders()

        def users(codes: Ints) -> list[str | None]:
            return [json.loads(user_text(code)) for code in codes.tolist()]

        session_names = ("start_ms", "end_ms", "purchase_ms", "events", "purchases", "conversion", "bot")
        order_names = ("time_ms", "arrival_ms", "position", "quantity", "price_cents", "cancelled", "bulk")
        tables = {
            "items": pa.table(
                {
                    "item": catalog.ids,
                    "category": [catalog.categories[c] for c in catalog.category],
                    "brand": catalog.brand,
                    "price_cents": catalog.price_cents,
                    "popularity": catalog.popularity,
                    "elasticity": catalog.elasticity,
                }
            ),
            "counts": pa.table({"bucket_ms": bucket, "item": ids[item], **{n: counts[:, i] for i, n in enumerate(self.COUNTS)}}),
            "sessions": pa.table(
                {"session": shop.session_ids(made["session"]), "user": users(made["user"])}
                | {name: np.ascontiguousarray(made[name]) for name in session_names}
                | {"events_sent": sent[:, 0], "purchases_sent": sent[:, 1]}
            ),
            "orders": pa.table(
                {
                    "session": shop.session_ids(orders["session"]),
                    "user": pa.array(users(orders["user"]), pa.string()),
                    "item": ids[orders["item"]],
                }
                | {name: np.ascontiguousarray(orders[name]) for name in order_names}
            ),
            "malformed": pa.table(
                {
                    "source": pa.array([source for source, _, _ in self._junk], pa.string()),
                    "message": pa.array([at for _, at, _ in self._junk], pa.int64()),
                    "how": pa.array([JUNK[how].name for _, _, how in self._junk], pa.string()),
                    "reasons": pa.array([list(JUNK[how].reasons) for _, _, how in self._junk], pa.list_(pa.string())),
                }
            ),
        }
        plan = shop.plan
        kinds: dict[str, tuple[type, Sequence[Spike | Promotion | Stockout | PriceChange]]] = {
            "spikes": (Spike, plan.spikes),
            "promotions": (Promotion, plan.promotions),
            "stockouts": (Stockout, plan.stockouts),
            "prices": (PriceChange, plan.price_changes),
        }
        for name, (kind, entries) in kinds.items():
            begun = sorted((e for e in entries if e.start_ms < self.end_ms), key=lambda e: (e.start_ms, e.item))
            columns = {f.name: [getattr(e, f.name) for e in begun] for f in fields(kind)}
            tables[name] = pa.table(columns | {"item": pa.array([catalog.ids[e.item] for e in begun], pa.string())})
        return tables


def write(
    shop: Shop,
    directory: str | Path,
    until_ms: int | None = None,
    count: int | None = None,
    *,
    drain: bool = False,
    grain_ms: int = HOUR_MS,
    rates: bool = True,
    progress: Callable[[int, int], object] = lambda clicks, time_ms: None,
) -> dict[str, object]:
    """Write clicks.ndjson, orders.ndjson and offers.ndjson, one message a line in order of arrival, and the truth beside them.

    Args:
        shop: the shop.
        directory: made if it does not exist.
        until_ms: as in `Shop.events`.
        count: as in `Shop.events`; one of the two is needed.
        drain: as in `Shop.events`.
        grain_ms: buckets of truth/counts.parquet.
        rates: whether truth/rates.parquet is wanted.
        progress: called after every block with the clicks written so far and the time up to which all has arrived.

    Returns: what truth/summary.json holds.

    Raises:
        ValueError: neither until_ms nor count was given.
    """
    if until_ms is None and count is None:
        raise ValueError("a shop never ends: give until_ms or count")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    truth = Truth(shop, grain_ms)
    with ExitStack() as stack:
        files = {source: stack.enter_context((folder / f"{source}.ndjson").open("wb")) for source in TOPICS}
        for chunk in shop.events(until_ms, count, drain=drain):
            for source, messages in chunk.sources.items():
                if len(messages):
                    files[source].write(b"\n".join(messages.values) + b"\n")
            truth.add(chunk)
            progress(truth.messages["clicks"], chunk.end_ms)
    return truth.save(folder, rates)


def _tally(keys: Ints, values: NDArray[np.generic]) -> tuple[Ints, Ints]:
    """(keys ascending without repeats, sums of their rows)."""
    unique, at = np.unique(keys, return_inverse=True)
    sums = np.zeros((len(unique), values.shape[1]), dtype=np.int64)
    np.add.at(sums, at, values.astype(np.int64))
    return unique, sums


def _merge(parts: list[tuple[Ints, Ints]], width: int) -> tuple[Ints, Ints]:
    if not parts:
        return np.zeros(0, np.int64), np.zeros((0, width), np.int64)
    return _tally(np.concatenate([keys for keys, _ in parts]), np.concatenate([values for _, values in parts]))
