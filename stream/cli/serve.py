"""`nowcart serve`: REST, server-sent events and the live page."""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import ExitStack

from stream.cli.frame import Subparsers, add_command, add_config

log = logging.getLogger("nowcart.serve")

_TURN_S = 0.001
"""The thread that reads gives way to the one that answers after so long; Python's own 5 ms would be in every answer while a bucket closes."""


def add(subparsers: Subparsers) -> None:
    """Describes the command."""
    parser = add_command(
        subparsers,
        "serve",
        run,
        "serve what nowcart has published over HTTP: REST, server-sent events and the live page, until Ctrl-C",
        "nowcart serve shop.toml\nnowcart serve shop.toml --host 0.0.0.0 --port 80",
        graceful=True,
    )
    add_config(parser)
    parser.add_argument("--host", metavar="NAME", help="instead of [serve] host; other than this machine's own it needs keys")
    parser.add_argument("--port", type=_port, metavar="N", help="instead of [serve] port; 0: any that is free")
    parser.add_argument("--metrics-port", type=_port, metavar="N", help="instead of [serve] metrics_port; 0: none")


def run(args: argparse.Namespace) -> int:
    """Runs it."""
    import msgspec

    from stream.collector import calm_collector
    from stream.config import UserError, load
    from stream.metrics import serve

    try:
        from stream.serve.counters import Counters
        from stream.serve.server import Server
        from stream.serve.service import Service
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] not in ("aiohttp", "jwt", "uvloop"):
            raise
        raise UserError(f"nowcart serve needs {missing.name}, which is not installed: pip install 'nowcart[serve]'") from missing
    config = load(args.config)
    given = {
        name: value for name, value in (("host", args.host), ("port", args.port), ("metrics_port", args.metrics_port)) if value is not None
    }
    config = msgspec.structs.replace(config, serve=msgspec.structs.replace(config.serve, **given))
    calm_collector()
    sys.setswitchinterval(_TURN_S)
    with ExitStack() as stack:
        counters = Counters()
        service = Service(config, counters)
        server = stack.enter_context(Server(config, service))
        if config.serve.metrics_port:
            endpoint = stack.enter_context(
                serve(counters, config.metrics.host, config.serve.metrics_port, service.is_alive, service.is_ready, "[serve] metrics_port")
            )
            log.info("metrics on http://%s:%d/metrics", config.metrics.host, endpoint.port)
        print(f"nowcart serves on {server.url}", flush=True)
        server.wait(args.stop)
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"must be a port, from 0 to 65535; got {text!r}")
    return int(text)
