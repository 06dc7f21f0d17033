"""Whatever comes in from outside, and however it goes away: a clear answer, no word of it in the log, and everybody else is served."""

from __future__ import annotations

import logging
import socket
import struct
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from stream.serve.access import Access
from tests.serve.rig import Rig, config, demand, intent, spike
from tests.serve.test_access import KEY, KEYS, TOKENS, Keys, bearer, claims, token


def reset(connection: socket.socket) -> None:
    """Hangs up without a goodbye: what was sent to it comes back as an error."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_strangers_and_those_who_hang_up_leave_no_word_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    signing = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    settings = config(KEYS + TOKENS)
    caplog.set_level(logging.INFO)
    with Rig(settings, access=Access(settings.serve, Keys(signing))) as rig:
        rig.give("demand", [demand("tea", hour) for hour in range(3)])
        good = rig.stream("topics=spikes,intent,overview", bearer(KEY)).joined()
        caplog.clear()
        expired = token(signing, claims(exp=time.time() - 60))
        assert rig.get("/v1/items/tea/demand", bearer(expired)).status == 401
        assert rig.get("/v1/stream", bearer(expired)).status == 401
        for key in ("wrong-wrong-wrong", "x" * 20_000, "a.b.c", "🫖".encode().decode("latin-1")):
            assert rig.get("/v1/items", {"X-API-Key": key}).status == 401
        for path, status in {
            "/v1/items/nobody/demand": 404,
            "/v1/sessions/nobody/intent": 404,
            "/v1/items?limit=many": 422,
            "/v1/items?cursor=" + "A" * 4_000: 422,
            "/v1/items?q=" + "x" * 16_380: 414,
            "/v1/stream?after=" + "9." * 4_000: 422,
            "/v1/stream?item=": 422,
        }.items():
            answer = rig.get(path, bearer(KEY))
            assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json"), path
        lines = f"Host: localhost\r\nX-API-Key: {KEY}\r\n".encode()
        for sent in (
            b"",
            b"GET /v1/over",
            b"GET /v1/overview HTTP/1.1\r\n" + lines,
            b"GET /v1/overview HTTP/1.1\r\n" + lines + b"\r\n",
            b"GET /v1/items?limit=200&spark=100 HTTP/1.1\r\n" + lines + b"\r\n" * 2,
            b"GET /v1/stream?topics=spikes,intent HTTP/1.1\r\n" + lines + b"\r\n",
            b"GET /v1/stream?topics=overview&after= HTTP/1.1\r\n" + lines + b"\r\n",
            b"POST /v1/overview HTTP/1.1\r\n" + lines + b"Content-Length: 1000000\r\n\r\n" + b"x" * 5_000,
            b"\x00\xff nonsense \r\n\r\n",
        ):
            for hang_up in (reset, socket.socket.close):
                connection = socket.create_connection(("127.0.0.1", rig.port), timeout=20)
                connection.sendall(sent)
                if b"/v1/stream?topics=spikes" in sent:
                    assert connection.recv(12) == b"HTTP/1.1 200"
                hang_up(connection)
                rig.give("spikes", [spike("tea")])
                rig.give("intent", [intent("s", 0.5)])
                rig.call(rig.service.readers.flush)  # writes to those who have just gone
        with socket.create_connection(("127.0.0.1", rig.port), timeout=20) as connection:
            connection.sendall(b"HEAD /v1/overview HTTP/1.1\r\n" + lines + b"\r\n")
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
            connection.sendall(b"\x00\xff nonsense after a good question\r\n\r\n")
            assert b" 400 " in connection.recv(65_536)
        for _ in range(200):
            if rig.call(lambda: len(rig.service.readers.all)) == 1:
                break
            rig.give("spikes", [spike("tea")])
        else:
            raise AssertionError("readers that hung up are still there")
        assert rig.get("/v1/overview", bearer(KEY)).status == 200
        assert {event.name for event in good.take(30)} >= {"spikes", "intent"}
    assert [record.getMessage() for record in caplog.records] == []
