"""HTTP around it all: routes, who may pass, headers, the page's files, the listening socket.

The engine's own metrics port is not used here; `nowcart serve` tells its metrics on one of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import hashlib
import logging
import resource
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from functools import cache, lru_cache
from importlib.resources import files
from typing import NamedTuple

import msgspec
import uvloop
from aiohttp import web
from aiohttp.typedefs import Handler

from stream.config import Config
from stream.serve import api, streaming
from stream.serve.access import ANYBODY, Identity, Refused, Unsure
from stream.serve.answers import JSON, Trouble
from stream.serve.api import IDENTITY, SERVICE
from stream.serve.openapi import document
from stream.serve.service import Service
from stream.serving import check_access, is_loopback
from stream.tables import UserError

log = logging.getLogger("nowcart.serve")
http_log = logging.getLogger("nowcart.serve.http")
"""aiohttp's own: it tells each request that is no HTTP with a traceback, at a stranger's will. Ours say what matters."""
http_log.setLevel(logging.CRITICAL)

_STALLED_MS = 60_000
_LONGEST_TARGET = 16_384
_LONGEST_LINE = 32_768
"""Of a request or a header; what is longer is refused before anybody reads it."""
_SHUTDOWN_S = 3.0

_EVERYWHERE = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Server": "nowcart",
}
_DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

_is_own = lru_cache(128)(is_loopback)

PUBLIC = ("/", "/page/{file}", "/openapi.json", "/healthz", "/readyz")
"""What may be had without a key: nothing of the shop's stands there."""


class File(NamedTuple):
    """A file of the page."""

    body: bytes
    packed: bytes
    kind: str
    tag: str


@cache
def page_files() -> dict[str, File]:
    """The page's files by name."""
    found: dict[str, File] = {}
    for path in files("stream.serve").joinpath("page").iterdir():
        kind = _TYPES.get(path.name.rpartition(".")[2])
        if kind is not None:
            body = path.read_bytes()
            found[path.name] = File(body, gzip.compress(body, mtime=0), kind, f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"')
    return found


# ---- handlers that are not the API


async def _page(request: web.Request) -> web.Response:
    file = page_files().get(request.match_info.get("file", "index.html"))
    if file is None:
        raise Trouble(404, "no such file", "the page has no such file")
    headers = {"ETag": file.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding", "Content-Security-Policy": _PAGE_POLICY}
    if file.tag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    packed = "gzip" in request.headers.get("Accept-Encoding", "")
    if packed:
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=file.packed if packed else file.body, headers={**headers, "Content-Type": file.kind})


async def _openapi(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    body = msgspec.json.encode(document(service.config, not service.access.open))
    return web.Response(body=body, headers={"Content-Type": JSON, "Cache-Control": "no-cache"})


async def _alive(request: web.Request) -> web.Response:
    return _probe(*request.app[SERVICE].is_alive())


async def _ready(request: web.Request) -> web.Response:
    return _probe(*request.app[SERVICE].is_ready())


def _probe(good: bool, why: str) -> web.Response:
    return web.Response(status=200 if good else 503, text=(why or "ok") + "\n", headers={"Cache-Control": "no-store"})


async def _unknown(request: web.Request) -> web.Response:
    raise Trouble(
        404,
        "no such path",
        "here are /v1/overview, /v1/items, /v1/totals, /v1/sessions, /v1/spikes, /v1/alerts, /v1/stream, /v1/health, /openapi.json and the page at /",
    )


# ---- around every request


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return "other" if resource is None or resource.canonical == "/{rest}" else resource.canonical


@web.middleware
async def _answering(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Lets pass who may, and makes of whatever goes wrong an answer that helps and tells nothing that it should not."""
    service, route, began = request.app[SERVICE], _route(request), time.perf_counter()
    status = 500
    try:
        if len(request.raw_path) > _LONGEST_TARGET:
            raise Trouble(414, "address too long", f"at most {_LONGEST_TARGET} characters; got {len(request.raw_path)}")
        request[IDENTITY] = ANYBODY
        if route not in PUBLIC and request.method != "OPTIONS":
            request[IDENTITY] = await _who(request, service)
        response = await handler(request)
        status = response.status
    except Trouble as trouble:
        status = trouble.problem.status
        response = trouble.answer()
    except web.HTTPMethodNotAllowed as refused:
        status = 405
        allowed = ", ".join(sorted(refused.allowed_methods - {"OPTIONS"}))
        response = Trouble(405, "method not allowed", f"{allowed} only", headers={"Allow": allowed}).answer()
    except web.HTTPException as other:
        status = other.status
        response = Trouble(other.status, other.reason.lower(), other.reason).answer()
    except asyncio.CancelledError:
        status = 499
        raise
    except ConnectionError:
        status = 499
        raise
    except Exception as error:
        log.error("a request to %s failed", route, exc_info=error)
        response = Trouble(500, "failed", "it is not your fault; the log says more").answer()
    finally:
        service.counters.request(route, status, None if route == "/v1/stream" else time.perf_counter() - began)
    return response


async def _who(request: web.Request, service: Service) -> Identity:
    if service.access.open:
        # Whoever asks for another name was led here: by a page that had its own name point to this address.
        name = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdecimal() else request.host
        if not _is_own(name):
            raise Trouble(
                403, "host not allowed", "without keys it answers to localhost, 127.0.0.1 and [::1] alone: configure [[serve.keys]]"
            )
        return ANYBODY
    try:
        return await service.access.who(request.headers.get("Authorization"), request.headers.get("X-API-Key"))
    except Unsure:
        raise Trouble(
            503, "tokens cannot be checked", "the issuer's keys cannot be had now; try again", headers={"Retry-After": "10"}
        ) from None
    except Refused:
        wanted = "Authorization: Bearer with a key or a token, or X-API-Key with a key"
        raise Trouble(401, "no valid key", f"needed is {wanted}", headers={"WWW-Authenticate": 'Bearer realm="nowcart"'}) from None


def _heading(config: Config) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    allowed = set(config.serve.cors)

    async def head(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        for name, value in _EVERYWHERE.items():
            headers.setdefault(name, value)
        headers.setdefault("Content-Security-Policy", _DATA_POLICY)
        headers["Server"] = "nowcart"
        origin = request.headers.get("Origin")
        if origin in allowed:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = "ETag, Nowcart-Age-Seconds, Retry-After"
            headers["Vary"] = ", ".join(filter(None, [headers.get("Vary"), "Origin"]))
        else:
            headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")

    return head


async def _preflight(request: web.Request) -> web.Response:
    if request.headers.get("Origin") not in request.app[SERVICE].config.serve.cors:
        raise Trouble(405, "method not allowed", "GET and HEAD only", headers={"Allow": "GET, HEAD"})
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": "GET, HEAD",
            "Access-Control-Allow-Headers": "Authorization, X-API-Key, If-None-Match, Last-Event-ID",
            "Access-Control-Max-Age": "3600",
        },
    )


def application(service: Service) -> web.Application:
    """The routes around a service.

    Args:
        service: what they ask.
    """
    app = web.Application(middlewares=[_answering], client_max_size=1_024)
    app[SERVICE] = service
    app.on_response_prepare.append(_heading(service.config))
    router = app.router
    router.add_get("/", _page)
    router.add_get("/page/{file}", _page)
    router.add_get("/openapi.json", _openapi)
    router.add_get("/healthz", _alive)
    router.add_get("/readyz", _ready)
    router.add_get("/v1/items", api.item_list)
    router.add_get("/v1/items/{item}/demand", api.item_demand)
    router.add_get("/v1/totals", api.totals)
    router.add_get("/v1/sessions", api.session_list)
    router.add_get("/v1/sessions/{session}/intent", api.session_intent)
    router.add_get("/v1/spikes", api.spike_list)
    router.add_get("/v1/alerts", api.alert_list)
    router.add_get("/v1/overview", api.overview)
    router.add_get("/v1/health", api.health)
    router.add_get("/v1/stream", streaming.stream, allow_head=False)
    router.add_route("OPTIONS", "/v1/{rest:.*}", _preflight)
    router.add_get("/{rest:.*}", _unknown)
    return app


def listen(host: str, port: int) -> socket.socket:
    """The listening socket.

    Args:
        host: name or address.
        port: 0: any that is free.

    Raises:
        UserError: the address cannot be listened on.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.create_server(address[:2], family=family, backlog=1_024)
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        why = "another process has it" if taken else str(error)
        raise UserError(f"serve must listen on {host}:{port}, but {why}: choose another [serve] port, or --port") from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Accepted sockets inherit it: one whose other side takes nothing for so long is given up by the kernel, buffers and all.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALLED_MS)
    return listening


def _raise_file_limit(readers: int) -> None:
    """Each reader is an open file, and many systems allow 1,024 until they are asked."""
    wanted = readers + 1_024
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
        if most < wanted:
            log.warning("max_readers is %d, but this process may open %d files only: raise its limit (ulimit -n)", readers, most)


class Server:
    """Serves in a thread of its own; use it in a with block.

    Args:
        config: as configured.
        service: what is asked; its `following` is opened here.

    Raises:
        UserError: it would be open to everybody, or the address cannot be listened on.
        LogError: Kafka cannot be reached, or a topic is missing.
    """

    def __init__(self, config: Config, service: Service) -> None:
        check_access(config.serve)
        self._config, self._service = config, service
        self._socket = listen(config.serve.host, config.serve.port)
        try:
            service.following.open()
        except BaseException:
            self._socket.close()
            raise
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="serve")
        self._failure: BaseException | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._socket.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def wait(self, stop: threading.Event) -> None:
        """Returns when it is to stop.

        Args:
            stop: set to end it.

        Raises:
            Exception: whatever has ended it by itself.
        """
        while not stop.wait(0.25):
            failure = self._failure or self._service.following.failed
            if failure is not None:
                raise failure

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as failure:  # noqa: BLE001 — carried to the main thread
            self._failure = failure

    async def _serve(self) -> None:
        _raise_file_limit(self._config.serve.max_readers)
        runner = web.AppRunner(
            application(self._service),
            handler_cancellation=True,
            access_log=None,
            logger=http_log,
            keepalive_timeout=75.0,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
            shutdown_timeout=_SHUTDOWN_S,
        )
        await runner.setup()
        await web.SockSite(runner, self._socket).start()
        try:
            await self._service.start()
            while not self._stop.is_set():
                await asyncio.sleep(0.1)
        finally:
            await self._service.stop()
            await runner.cleanup()
