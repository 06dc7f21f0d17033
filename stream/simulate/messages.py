"""The shop's messages: JSON bytes from columns, and messages that no one can use. The shop's words differ from nowcart's,
as a real shop's do; examples/simulated.toml translates."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.simulate.catalog import Catalog
from stream.simulate.intent import OTHER, PURCHASE, SEARCH
from stream.simulate.plan import Offer
from stream.simulate.sessions import ANONYMOUS, NEW_USER, Records

KIND_NAMES = ("view", "search", "add_to_cart", "remove_from_cart", "purchase", "page")
"""The shop's names of the kinds, in the order of intent.KINDS."""


class Junk(NamedTuple):
    """One way in which a message is unusable."""

    name: str
    reasons: tuple[str, ...]
    """What a reader may call it."""


JUNK = (
    Junk("", ()),
    Junk("truncated", ("malformed",)),
    Junk("empty", ("malformed",)),
    Junk("no_time", ("missing_field",)),
    Junk("no_id", ("missing_field",)),
    Junk("item_is_object", ("bad_value",)),
    Junk("price_is_text", ("bad_value",)),
    Junk("time_is_text", ("bad_time",)),
    Junk("far_future", ("future", "bad_time")),
    Junk("in_1970", ("bad_time", "too_late")),
    Junk("last_year", ("too_late",)),
)
"""By the number in the `junk` columns."""

_PAGES = ("help", "account", "shipping", "stores")


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages of one source in order of arrival, and the rows that they were written from."""

    keys: list[bytes]
    values: list[bytes]
    time_ms: NDArray[np.int64]
    """int64[n], event time (of junk: of the message it was made from)."""
    arrival_ms: NDArray[np.int64]
    """int64[n], ascending: when the message reaches the log."""
    rows: Records
    """CLICK[n] or ORDER[n]; offers: none."""

    def __len__(self) -> int:
        return len(self.values)

    def cut(self, start: int, stop: int) -> Messages:
        """Messages [start, stop).

        Args:
            start: first message.
            stop: one past the last.
        """
        part = slice(start, stop)
        return Messages(self.keys[part], self.values[part], self.time_ms[part], self.arrival_ms[part], self.rows[part])


class _ItemTexts(dict[int, str]):
    """The end of a click's message by item and price (item << 32 | cents), written once each."""

    def __init__(self, catalog: Catalog) -> None:
        super().__init__()
        self._catalog = catalog

    def __missing__(self, key: int) -> str:
        item, cents = key >> 32, key & 0xFFFF_FFFF
        if item < 0:  # a search or a page: -kind << 32 | a number that varies it
            shop = self._catalog
            words = shop.categories[shop.category[cents]].replace(".", " ")
            text = f'"query":"{words}"}}' if item == -SEARCH else f'"page":"{_PAGES[cents % len(_PAGES)]}"}}'
        else:
            shop = self._catalog
            about = f'"category":"{shop.categories[shop.category[item]]}","brand":"{shop.brand[item]}"'
            text = f'"sku":"{shop.ids[item]}",{about},"price":{_money(cents)}}}'
        self[key] = text
        return text


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


class Encoder:
    """Writes a shop's messages."""

    def __init__(self, seed: int, catalog: Catalog) -> None:
        self._catalog = catalog
        self._texts = _ItemTexts(catalog)
        self._salt = np.uint64(_scramble(np.array([seed], dtype=np.uint64))[0])
        self._sessions: dict[int, tuple[bytes, str]] = {}

    def session_ids(self, serial: NDArray[np.int64]) -> list[str]:
        """The ids of sessions, 16 hexadecimal digits each.

        Args:
            serial: int64[n], numbers of sessions.
        """
        return [f"{code:016x}" for code in _scramble(serial.astype(np.uint64) ^ self._salt).tolist()]

    def begin(self, sessions: Records) -> None:
        """Write the parts that a session's clicks share, before the first is encoded.

        Args:
            sessions: SESSION[n].
        """
        for serial, code, user in zip(
            sessions["session"].tolist(), self.session_ids(sessions["session"]), sessions["user"].tolist(), strict=True
        ):
            self._sessions[serial] = code.encode(), f'"sid":"{code}","uid":{user_text(user)},'

    def end(self, serials: list[int]) -> None:
        """Forget sessions whose clicks are all encoded.

        Args:
            serials: their numbers.
        """
        for serial in serials:
            del self._sessions[serial]

    def clicks(self, rows: Records) -> tuple[list[bytes], list[bytes]]:
        """Keys and values of clickstream messages.

        Args:
            rows: CLICK[n].
        """
        kind, item = rows["kind"], rows["item"].astype(np.int64)
        about = rows["session"] % len(self._catalog)
        bare = (kind == SEARCH) | (kind == OTHER)
        code = np.where(bare, (-kind.astype(np.int64) << 32) | about, (item << 32) | rows["price_cents"])
        shared = [self._sessions[serial] for serial in rows["session"].tolist()]
        names = [f'"type":"{name}",' for name in KIND_NAMES]
        text = self._texts
        lines = [
            f'{{"ts":{time},{names[k]}{own[1]}{text[c]}'
            for time, k, own, c in zip(rows["time_ms"].tolist(), kind.tolist(), shared, code.tolist(), strict=True)
        ]
        for at in np.flatnonzero(kind == PURCHASE).tolist():
            lines[at] = f'{lines[at][:-1]},"quantity":{rows["quantity"][at]}}}'
        # One encode for all: a call a message would cost a tenth of the whole.
        values = "\n".join(lines).encode().split(b"\n") if lines else []
        self._spoil(values, rows)
        return [own[0] for own in shared], values

    def orders(self, rows: Records) -> tuple[list[bytes], list[bytes]]:
        """Keys (order ids) and values of order messages.

        Args:
            rows: ORDER[n].
        """
        keys, values = [], []
        for row, code in zip(rows.tolist(), self.session_ids(rows["session"]), strict=True):
            _, time, _, user, item, cents, quantity, position, cancelled, _, _ = row
            gone = ',"cancelled":true' if cancelled else ""
            keys.append(f"o{code}".encode())
            values.append(
                f'{{"order_id":"o{code}","line":{position},"created":{time},"sku":"{self._catalog.ids[item]}","quantity":{quantity},'
                f'"unit_price":{_money(cents)},"uid":{user_text(user)},"sid":"{code}"{gone}}}'.encode()
            )
        self._spoil(values, rows)
        return keys, values

    def offers(self, offers: list[Offer]) -> tuple[list[bytes], list[bytes]]:
        """Keys (items) and values of offer messages.

        Args:
            offers: by time.
        """
        shop = self._catalog
        values = []
        for offer in offers:
            body: dict[str, object] = {"announced": offer.time_ms, "sku": shop.ids[offer.item]}
            if offer.new:
                body |= {"category": shop.categories[shop.category[offer.item]], "brand": shop.brand[offer.item]}
            if offer.price_cents is not None:
                body["price"] = offer.price_cents / 100
            if offer.regular_cents is not None:
                body["list_price"] = offer.regular_cents / 100
            told = {"promo": offer.promotion, "valid_from": offer.starts_ms, "valid_until": offer.ends_ms, "stock": offer.stock}
            body |= {name: value for name, value in told.items() if value is not None}
            values.append(json.dumps(body, separators=(",", ":")).encode())
        return [shop.ids[offer.item].encode() for offer in offers], values

    def _spoil(self, values: list[bytes], rows: Records) -> None:
        for at in np.flatnonzero(rows["junk"]).tolist():
            values[at] = _spoilt(values[at], JUNK[rows["junk"][at]].name)


def _spoilt(value: bytes, how: str) -> bytes:
    """A good message made unusable."""
    if how == "truncated":
        return value[: len(value) * 2 // 3]
    if how == "empty":
        return b""
    body = json.loads(value)
    time = "ts" if "ts" in body else "created"
    price = "price" if time == "ts" else "unit_price"
    if how == "no_time":
        del body[time]
    elif how == "no_id":
        del body["sid" if time == "ts" else "sku"]
    elif how == "item_is_object":
        body["sku"] = {"id": body["sku"]}
    elif how == "price_is_text":
        body[price] = "cheap"
    else:
        year = 365 * 86_400_000
        moved = {"time_is_text": "yesterday", "far_future": body[time] + 40 * year, "in_1970": 86_400_000, "last_year": body[time] - year}
        body[time] = moved[how]
    return json.dumps(body, separators=(",", ":")).encode()


def user_text(user: int) -> str:
    """A user's id as JSON: a string, or null without one.

    Args:
        user: its number.
    """
    if user == ANONYMOUS:
        return "null"
    return f'"n{user - NEW_USER}"' if user >= NEW_USER else f'"u{user}"'


def _scramble(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64: ids that look random and are all different."""
    with np.errstate(over="ignore"):
        x = values + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
