"""GET /v1/stream: server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import time

import msgspec
from aiohttp import web

from stream.serve.answers import Query, Trouble, shortened
from stream.serve.api import IDENTITY, LONGEST_ID, SERVICE
from stream.serve.feed import Gap, Wanted, event, read_id
from stream.serve.readers import Reader
from stream.serve.view import TOPICS

STREAMED = (*TOPICS, "overview")
USUAL = ("spikes", "alerts")

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # a proxy that collects 4 KB before it passes anything on would make it late
}


async def stream(request: web.Request) -> web.StreamResponse:
    """Records as they come, and from where the reader was if it says so."""
    service = request.app[SERVICE]
    identity = request[IDENTITY]
    query = Query(request, ("topics", "item", "session", "after"))
    topics = query.choices("topics", STREAMED, USUAL)
    item, session = query.text("item", LONGEST_ID), query.text("session", LONGEST_ID)
    if identity.masked and session is not None:
        known = service.view.sessions.find(session, masked=True)
        if known is None:
            raise Trouble(404, "unknown session", "no such session is live", parameter="session", got=shortened(session))
        session = known.name
    after, foreign = query.text("after", 16_384), False
    if after is not None and read_id(after) is None:
        raise query.wrong("after", "must be the id of an event of this stream")
    last = request.headers.get("Last-Event-ID", "")
    if last:  # of what the reader has, the latest: `after` stands in its address for ever
        after, foreign = last, read_id(last) is None
    if len(service.readers.all) >= service.config.serve.max_readers:
        raise Trouble(503, "too many readers", f"{service.config.serve.max_readers} streams are open", headers={"Retry-After": "10"})

    response = web.StreamResponse(headers=_HEADERS)
    await response.prepare(request)
    transport = request.transport
    if transport is None:
        return response
    wanted = Wanted(tuple(topic for topic in topics if topic != "overview"), item, session, identity.masked)
    # Between these lines and add() nothing else runs, or records could fall between them.
    asked = read_id(after) if after else None
    places, gaps = service.feed.start(wanted, asked)
    seq = 0 if asked else service.feed.seq
    reader = Reader(wanted, "overview" in topics, places, seq, transport, chunked="Transfer-Encoding" in response.headers)
    if foreign:
        gaps = [Gap(topic, -1, -1, -1, "the last id is none of ours: going on from now") for topic in wanted.topics]
    for gap in gaps:
        reader.write(event("gap", msgspec.json.encode(gap._asdict())))
    if reader.overview:
        reader.write(event("overview", service.overview().data))
    service.readers.add(reader)
    timer = None
    if identity.expires_s is not None:
        left = max(0.0, identity.expires_s - time.time())
        timer = asyncio.get_running_loop().call_later(min(left, 10**7), reader.end, "expired", {"reason": "the token has ended"})
    try:
        with contextlib.suppress(ConnectionError):
            await service.readers.attend(reader, response.write)
    finally:
        service.readers.remove(reader)
        if timer is not None:
            timer.cancel()
        if not reader.closed:
            service.counters.reader_ended("closed")
    with contextlib.suppress(ConnectionError):
        await response.write_eof()
    return response
