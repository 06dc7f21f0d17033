"""How the shop's messages are to be read: the `[sources]` of a configuration, for whoever runs an engine on them."""

from __future__ import annotations

from typing import Any


def sources(shop: str = "shop") -> dict[str, Any]:
    """The table `sources` of a configuration, as tomllib would give it.

    Args:
        shop: how the topics' names begin.
    """
    return {
        "clicks": {
            "kind": "clickstream",
            "topic": f"{shop}.events",
            "fields": {
                "time": "ts",
                "event": "type",
                "session": "sid",
                "user": "uid",
                "item": "sku",
                "price": "price",
                "quantity": "quantity",
            },
            "events": {
                "view": "view",
                "search": "search",
                "add_to_cart": "cart",
                "remove_from_cart": "remove",
                "purchase": "purchase",
                "page": "other",
            },
        },
        "orders": {
            "kind": "orders",
            "topic": f"{shop}.orders",
            "fields": {
                "order": "order_id",
                "time": "created",
                "item": "sku",
                "quantity": "quantity",
                "price": "unit_price",
                "user": "uid",
                "session": "sid",
                "cancelled": "cancelled",
            },
        },
        "offers": {
            "kind": "offers",
            "topic": f"{shop}.offers",
            "fields": {
                "time": "announced",
                "item": "sku",
                "price": "price",
                "regular_price": "list_price",
                "promotion": "promo",
                "starts": "valid_from",
                "ends": "valid_until",
                "stock": "stock",
                "category": "category",
                "brand": "brand",
            },
        },
    }
