"""REST over a real port: what is answered, what is said to bad questions, and that nothing leaks and nothing breaks."""

from __future__ import annotations

import json
import socket
import urllib.parse
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from stream.serve.openapi import document
from tests.serve.rig import HOUR_MS, T0, Answer, Rig, config, correction, demand, intent, spike

ODD = ["a/b", "50 %", "äöü ☕", "a?b#c&d=e", "..", ".", "a+b", "%2F", "'\"<script>", "x" * 1024]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        rig.give(
            "demand",
            [demand(name, hour, observed=hour + len(name) % 5) for hour in range(30) for name in (*ODD, *(f"i{n:03}" for n in range(120)))],
        )
        rig.give("demand", [correction("i000", 3, 7)], partition=1)
        rig.give("intent", [intent(f"s{n}", n / 100, n) for n in range(60)])
        rig.give("spikes", [spike("i001"), spike("i002", severity="warning"), spike("i003"), spike("i003", "resolved")])
        rig.give("alerts", [b'{"alert":"a1","severity":"critical","state":"open","items":["i001"],"summary":"much","new_field":{"x":1}}'])
        yield rig


def problem(answer: Answer, status: int) -> Any:
    assert answer.status == status, answer
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert b"Traceback" not in answer.body
    found = answer.json()
    assert found["status"] == status
    assert found["detail"]
    return found


def test_an_item_is_its_newest_records_and_its_past(rig: Rig) -> None:
    found = rig.json("/v1/items/i007/demand?history=5")
    assert found["buckets"]["1h"]["record"] == json.loads(demand("i007", 29, observed=29 + 4))
    assert found["buckets"]["1h"]["history"]["start_ms"] == [T0 + hour * HOUR_MS for hour in range(25, 30)]
    assert found["spikes"] == []
    assert [record["severity"] for record in rig.json("/v1/items/i001/demand")["spikes"]] == ["critical"]


@pytest.mark.parametrize("name", ODD)
def test_whatever_an_item_is_called_it_is_found(rig: Rig, name: str) -> None:
    # A client that writes %2E for a dot: one that follows RFC 3986 would take ".." out of a path before it is sent.
    quoted = urllib.parse.quote(name, safe="").replace(".", "%2E")
    answer = rig.get(f"/v1/items/{quoted}/demand")
    if name in (".", ".."):
        assert answer.status in (200, 404)  # such a path is rewritten on the way; the list has it all the same
    else:
        assert answer.json()["item"] == name
    assert name in [row["item"] for row in rig.json(f"/v1/items?q={urllib.parse.quote(name[:100])}&limit=200")["items"]]


def test_what_is_the_same_is_not_sent_again(rig: Rig) -> None:
    for path in ("/v1/items?limit=3", "/v1/items/i007/demand", "/v1/spikes", "/v1/sessions", "/v1/totals"):
        first = rig.get(path)
        again = rig.get(path, {"If-None-Match": f'W/"other", {first.headers["ETag"]}'})
        assert (again.status, again.body) == (304, b""), path
        assert again.headers["ETag"] == first.headers["ETag"]
        assert rig.get(path, {"If-None-Match": '"other"'}).status == 200
        head = rig.get(path, method="HEAD")
        assert (head.status, head.body, head.headers["ETag"]) == (200, b"", first.headers["ETag"])


def test_pages_by_cursor_and_by_offset_hold_the_same(rig: Rig) -> None:
    by_cursor: list[str] = []
    cursor = ""
    while True:
        page = rig.json(f"/v1/items?sort=observed&limit=37{cursor}")
        by_cursor += [row["item"] for row in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    by_offset = [row["item"] for at in range(0, 140, 50) for row in rig.json(f"/v1/items?sort=observed&limit=50&offset={at}")["items"]]
    assert by_cursor == by_offset
    assert len(by_cursor) == len(set(by_cursor)) == 130
    found: list[str] = []
    following: str | None = ""
    while following is not None:
        page = rig.json(f"/v1/items?q=I0&limit=9{following and '&cursor=' + following}")
        assert page["total"] == 100
        found += [row["item"] for row in page["items"]]
        following = page["next_cursor"]
    assert sorted(found) == [f"i{n:03}" for n in range(100)]


def test_lists(rig: Rig) -> None:
    row = rig.json("/v1/items?q=i007&spark=3")["items"][0]
    assert row == {
        "item": "i007", "issued_at_ms": T0 + 30 * HOUR_MS, "observed": sum(hour + 4 for hour in range(6, 30)), "expected": 48, "change": 48 - 516,
        "latest": 33, "next": 2, "spikes": 0, "spark": [31, 32, 33],
    }  # fmt: skip
    assert [record["item"] for record in rig.json("/v1/spikes")["records"]] == ["i002", "i001"]
    assert [record["item"] for record in rig.json("/v1/spikes?severity=critical&state=all&item=i003")["records"]] == ["i003"]
    assert [record["item"] for record in rig.json("/v1/spikes?state=resolved")["records"]] == ["i003"]
    assert [s["record"]["session"] for s in rig.json("/v1/sessions?limit=2")["sessions"]] == ["s59", "s58"]
    assert rig.json("/v1/alerts")["records"][0]["new_field"] == {"x": 1}
    total = rig.json("/v1/totals?history=2")
    assert (len(total["observed"]), len(total["expected"])) == (2, 24)
    assert total["expected"][0] == 130 * 2
    seen = rig.json("/v1/overview")
    assert (seen["items"], seen["live_sessions"], seen["spikes_open"], seen["spikes_critical"], seen["alerts_open"]) == (130, 60, 2, 1, 1)
    assert seen["next_hour"]["expected"] == 260


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/v1/items/i0071/demand", 404, {"did_you_mean": "i007", "got": "i0071", "parameter": "item"}),
        ("/v1/sessions/nobody/intent", 404, {"parameter": "session"}),
        ("/v1/itms", 404, {}),
        ("/v1/items/a/b/c/demand", 404, {}),
        ("/v1/items?srot=name", 422, {"parameter": "srot", "did_you_mean": "sort"}),
        ("/v1/items?sort=nmae", 422, {"parameter": "sort", "got": "nmae", "did_you_mean": "name"}),
        ("/v1/items?limit=0", 422, {"parameter": "limit", "got": "0"}),
        ("/v1/items?limit=1e3", 422, {"got": "1e3"}),
        ("/v1/items?limit=%D9%A1", 422, {"parameter": "limit"}),
        ("/v1/items?limit=5&limit=6", 422, {"parameter": "limit"}),
        ("/v1/items?bucket=5m", 422, {"allowed": ["1h", "1d"]}),
        ("/v1/items?q=", 422, {"parameter": "q"}),
        ("/v1/items?q=" + "x" * 101, 422, {"parameter": "q"}),
        ("/v1/items?q=%00", 422, {"parameter": "q"}),
        ("/v1/items?cursor=AAAA", 422, {"parameter": "cursor"}),
        ("/v1/items?cursor=%ff%fe", 422, {"parameter": "cursor"}),
        ("/v1/items?cursor=x&offset=1", 422, {"parameter": "cursor"}),
        ("/v1/items?" + "q=" + "%41" * 6000, 414, {}),
        ("/v1/items/" + "x" * 1025 + "/demand", 422, {"parameter": "item"}),
        ("/v1/items/%ff%fe/demand", 404, {}),
        ("/v1/items/%00/demand", 404, {}),
        ("/v1/items/i007/demand?history=-1", 422, {"parameter": "history"}),
        ("/v1/stream?topics=demnad", 422, {"parameter": "topics", "did_you_mean": "demand"}),
        ("/v1/stream?after=demand", 422, {"parameter": "after"}),
        ("/page/../server.py", 404, {}),
        ("/page/%2e%2e%2fserver.py", 404, {}),
        ("/page/__init__.py", 404, {}),
    ],
)
def test_bad_questions_get_answers_that_help(rig: Rig, path: str, status: int, said: dict[str, Any]) -> None:
    found = problem(rig.get(path), status)
    assert said.items() <= found.items()


def test_a_cursor_belongs_to_its_list(rig: Rig) -> None:
    cursor = rig.json("/v1/items?sort=observed&limit=3")["next_cursor"]
    assert "same bucket, sort and order" in problem(rig.get(f"/v1/items?sort=expected&cursor={cursor}"), 422)["detail"]


def test_only_reading_is_allowed(rig: Rig) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = rig.get("/v1/overview", method=method)
        problem(answer, 405)
        assert answer.headers["Allow"] == "GET, HEAD"
    problem(rig.get("/v1/overview", method="OPTIONS"), 405)


def test_every_answer_has_its_headers(rig: Rig) -> None:
    for path in ("/", "/page/app.js", "/v1/overview", "/v1/nowhere", "/v1/items?limit=x", "/openapi.json", "/readyz"):
        headers = rig.get(path, {"Origin": "https://other.example"}).headers
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Server"] == "nowcart"
        assert "Access-Control-Allow-Origin" not in headers


def test_other_origins_are_let_in_by_name() -> None:
    with Rig(config('cors = ["https://shop.example"]')) as rig:
        answer = rig.get("/v1/overview", {"Origin": "https://shop.example"})
        assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example"
        assert "Origin" in answer.headers["Vary"]
        before = rig.get("/v1/overview", {"Origin": "https://shop.example"}, "OPTIONS")
        assert (before.status, before.headers["Access-Control-Allow-Methods"]) == (204, "GET, HEAD")
        for origin in ("https://evil.example", "https://shop.example.evil", "null"):
            assert "Access-Control-Allow-Origin" not in rig.get("/v1/overview", {"Origin": origin}).headers
            assert rig.get("/v1/overview", {"Origin": origin}, "OPTIONS").status == 405


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /v1/overview HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1/items?q=\xff\xfe\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 5_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_nobody_else_notices(rig: Rig, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", rig.port), timeout=20) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        got = b""
        try:
            while more := connection.recv(65_536):
                got += more
        except ConnectionError:
            pass
    assert b"Traceback" not in got
    assert b'File "' not in got
    assert not got.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2"))
    assert rig.get("/v1/overview").status == 200


def test_a_failure_of_ours_tells_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the secret is 1234")

    with monkeypatch.context() as patched:
        patched.setattr(rig.service.view.spikes, "list", fail)
        answer = rig.get("/v1/spikes?limit=99")
    assert "1234" not in json.dumps(problem(answer, 500))
    assert "1234" in caplog.text
    assert rig.get("/v1/spikes?limit=99").status == 200


def test_kafka_gone_is_said_and_what_is_known_is_served(rig: Rig) -> None:
    import time

    rig.given.trouble, rig.given.answered = "no broker answers", time.monotonic() - 42
    try:
        found = rig.json("/v1/health")
        assert (found["status"], found["kafka_reachable"], found["detail"]) == ("stale", False, "no broker answers")
        assert found["age_seconds"] >= 42
        answer = rig.get("/v1/items/i007/demand")
        assert answer.status == 200
        assert float(answer.headers["Nowcart-Age-Seconds"]) >= 42
        assert rig.get("/healthz").status == rig.get("/readyz").status == 200
        rig.given.failed = RuntimeError("gone for good")
        assert rig.get("/healthz").status == 503
    finally:
        rig.given.trouble, rig.given.failed = "", None
    assert rig.json("/v1/health")["status"] == "ok"


def test_answers_are_as_the_document_says(rig: Rig) -> None:
    described = document(rig.config, locked=False)
    for path in ("/v1/overview", "/v1/health", "/v1/items", "/v1/totals", "/v1/sessions", "/v1/spikes", "/v1/alerts"):
        schema = described["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(rig.json(path), {**schema, "components": described["components"]})
    schema = described["paths"]["/v1/items/{item}/demand"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(rig.json("/v1/items/i001/demand?history=9"), {**schema, "components": described["components"]})
    problem_schema = {**described["components"]["schemas"]["Problem"], "components": described["components"]}
    jsonschema.validate(problem(rig.get("/v1/items?limit=x"), 422), problem_schema)


def test_what_happens_is_measured(rig: Rig) -> None:
    from prometheus_client import generate_latest

    rig.get("/v1/items/i007/demand")
    rig.get("/v1/whatever/else")
    text = generate_latest(rig.counters.registry).decode()
    assert 'nowcart_serve_requests_total{route="/v1/items/{item}/demand",status="200"}' in text
    assert 'route="other",status="404"' in text
    assert "nowcart_serve_items 130.0" in text
    assert "i007" not in text


def test_an_answer_that_is_kept_is_never_older_than_its_records() -> None:
    with Rig() as rig:
        rig.give("demand", [demand(name, 0, observed=3) for name in ("a", "b")])
        paths = ["/v1/items/a/demand?history=5", "/v1/items/b/demand", "/v1/items?sort=name", "/v1/items?sort=latest"]
        paths += ["/v1/totals", "/v1/spikes"]
        before = {path: rig.get(path) for path in paths}
        assert [rig.get(path).body for path in paths] == [before[path].body for path in paths]
        rig.give("demand", [demand("a", 1, observed=8)])
        rig.give("spikes", [spike("a")])
        after = {path: rig.get(path) for path in paths}
        assert [path for path in paths if after[path].body == before[path].body] == ["/v1/items/b/demand"]
        assert after[paths[0]].json()["buckets"]["1h"]["record"]["observed"] == 8
        rows = {row["item"]: row for row in after["/v1/items?sort=latest"].json()["items"]}
        assert (rows["a"]["latest"], rows["a"]["spikes"], rows["b"]["latest"]) == (8, 1, 3)
        assert after["/v1/items?sort=name"].headers["ETag"] == rig.get("/v1/items?sort=name").headers["ETag"]
