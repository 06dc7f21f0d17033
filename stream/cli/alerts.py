"""`nowcart alerts`: spikes become alerts, in a topic, at Alertmanager, and at webhooks."""

from __future__ import annotations

import argparse
import logging
from contextlib import ExitStack

from stream.cli.frame import Subparsers, add_command, add_config

log = logging.getLogger("nowcart.alerts")


def add(subparsers: Subparsers) -> None:
    """Describes the command."""
    parser = add_command(
        subparsers,
        "alerts",
        run,
        "turn spikes into alerts, grouped and silenced as configured: in a topic, at Alertmanager, and at webhooks, until Ctrl-C",
        "nowcart alerts shop.toml\nnowcart alerts shop.toml --metrics-port 9465",
        graceful=True,
    )
    add_config(parser)
    parser.add_argument("--metrics-port", type=_port, metavar="N", help="instead of [metrics] port; 0: none")


def run(args: argparse.Namespace) -> int:
    """Runs it."""
    from stream.config import load
    from stream.kafka.admin import Admin
    from stream.kafka.log import Fenced
    from stream.metrics import Metrics, serve
    from stream.tables import UserError

    config = load(args.config)
    admin = Admin(config.kafka)
    admin.ping()
    admin.partitions([config.output.topic(name) for name in ("spikes", "alerts", "alerts.state", "deadletter")])
    try:
        from stream.alerts.consume import run as run_to_end  # Faust takes its time to import: a mistake is told before
        from stream.alerts.desk import Desk
    except ModuleNotFoundError as error:
        raise UserError(f"alerts needs a package that is not installed ({error.name}): pip install 'nowcart[alerts]'") from error

    if config.alerts.alertmanager.url is None and not config.alerts.webhooks:
        log.warning("neither [alerts.alertmanager] nor [[alerts.webhooks]] is configured: alerts go to the topic alone")
    metrics = Metrics()

    async def live() -> None:
        desk = Desk(config, metrics)
        with ExitStack() as stack:
            port = config.metrics.port if args.metrics_port is None else args.metrics_port
            if port:
                endpoint = stack.enter_context(serve(metrics, config.metrics.host, port, desk.health, desk.ready))
                log.info("metrics on http://%s:%d/metrics", config.metrics.host, endpoint.port)
            await desk.run(args.stop)

    try:
        run_to_end(live())
    except Fenced as error:
        raise Fenced(
            f"{error}. Of one prefix ('{config.output.prefix}') one process makes alerts: stop the other one, or give this one an "
            "[output] prefix of its own"
        ) from error
    log.info("stopped")
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"must be a port, from 0 to 65535; got {text!r}")
    return int(text)
