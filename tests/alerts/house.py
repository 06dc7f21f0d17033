"""What the tests of alerts share: spikes, a shop's configuration for them, and a receiver that answers as it is told."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from stream.alerts.book import Spike
from stream.config import Config, load
from stream.kafka.admin import Admin
from stream.kafka.reader import follow
from stream.tables import as_toml
from stream.topics import own_topics

HOUR = 3_600_000
START = 1_700_006_400_000
"""A whole hour."""


def spike(item: str = "a", **more: Any) -> Spike:
    """An open warning of an hour's bucket, but for what is said otherwise."""
    usual = {"bucket": "1h", "bucket_start_ms": START, "observed": 40, "expected": 5.5, "p_value": 1e-5, "model_version": "builtin-1"}
    return Spike(**{"item": item, "severity": "warning", "state": "open", **usual, **more})


def as_json(one: Spike) -> bytes:
    fields = {name: getattr(one, name) for name in one.__struct_fields__}
    if fields["category"] is None:
        del fields["category"]
    return json.dumps(fields).encode()


class Receiver:
    """An HTTP server that remembers what was sent to it, and answers 200 or what `answers` says next."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        """Path, headers and body of those that were taken."""
        self.refused = 0
        self.answers: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.answers.pop(0) if receiver.answers else 200
                if status == 200:
                    receiver.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                else:
                    receiver.refused += 1
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._handler = Handler
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._serve()

    def _serve(self) -> None:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def at(self, path: str) -> list[dict[str, Any]]:
        """Bodies of what came to a path."""
        return [json.loads(body) for where, _, body in self.requests if where == path]

    def down(self) -> None:
        """Refuses connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def up(self) -> None:
        """Takes them again."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        self._serve()


class House:
    """A prefix of its own on a broker, with the topics for alerts."""

    def __init__(self, broker: str, folder: Path, **alerts: Any) -> None:
        self.broker, self.folder = broker, folder
        self.prefix = f"house-{uuid.uuid4().hex[:8]}."
        self.alerts = alerts
        self.kafka = {"bootstrap.servers": broker}
        Admin(self.kafka).create(own_topics(self.config()))

    def file(self) -> Path:
        values = {
            "kafka": {"bootstrap_servers": self.broker},
            "sources": {"orders": {"kind": "orders", "topic": "shop.orders", "fields": {"time": "t", "item": "i", "quantity": "n"}}},
            "output": {"prefix": self.prefix, "partitions": 2},
            "metrics": {"port": 0},
            "alerts": self.alerts,
        }
        path = self.folder / f"{self.prefix}toml"
        path.write_text(as_toml(values), encoding="utf-8")
        return path

    def config(self) -> Config:
        return load(self.file())

    def send(self, *values: Spike | bytes | None, abort: bool = False) -> None:
        """Publishes spikes as the engine does, in a transaction.

        The embedded broker tells of aborted transactions that ended before what was asked for, and the reader would take later records of
        the same producer for part of them: so each call has a producer of its own.
        """
        producer = Producer({**self.kafka, "transactional.id": f"{self.prefix}{uuid.uuid4().hex}", "compression.type": "lz4"})
        producer.init_transactions(30)
        producer.begin_transaction()
        for value in values:
            key = value.item.encode() if isinstance(value, Spike) else b"bad"
            producer.produce(f"{self.prefix}spikes", as_json(value) if isinstance(value, Spike) else value, key)
        assert producer.flush(30) == 0
        producer.abort_transaction(30) if abort else producer.commit_transaction(30)

    def published(self, topic: str) -> list[dict[str, Any]]:
        """Committed records of a topic, oldest first in each partition."""
        found = follow(self.kafka, [self.prefix + topic], until_end=True)
        return [json.loads(record.value) for record in found if record.value is not None]

    def dead(self) -> list[dict[str, str]]:
        """Headers of the dead letters."""
        return [
            {name: value.decode() for name, value in record.headers}
            for record in follow(self.kafka, [f"{self.prefix}deadletter"], until_end=True)
        ]

    def pending(self) -> int:
        """Requests that the ledger still holds."""
        held: dict[bytes | None, bool] = {}
        for record in follow(self.kafka, [f"{self.prefix}alerts.state"], until_end=True):
            held[record.key] = record.value is not None
        return sum(there for key, there in held.items() if (key or b"").startswith(b"delivery "))


def receivers() -> Iterator[Receiver]:
    """For a fixture."""
    receiver = Receiver()
    yield receiver
    receiver.down()
