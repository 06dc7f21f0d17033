"""Requests that leave the house: one worker a webhook, one for Alertmanager. Each has its own pace; none waits for another."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from stream.alerting import Alertmanager, Webhook
from stream.alerts.book import REMEMBER_MS, Group
from stream.alerts.ledger import Delivery, now_ms, place_of
from stream.alerts.letters import Answer, answer_of, headers_of, wait_s
from stream.metrics import Metrics
from stream.tables import UserError

log = logging.getLogger("nowcart.alerts")

LISTED_ITEMS = 20
"""In an annotation."""
_SAID_BYTES = 200


class Settled(msgspec.Struct, frozen=True):
    """A delivery that is done with."""

    delivery: Delivery
    refused: str = ""
    """Why it never arrived; empty: it did."""


async def attempt(session: aiohttp.ClientSession, url: str, body: bytes, headers: Mapping[str, str], timeout_ms: int) -> tuple[Answer, str]:
    """One request; never raises.

    Args:
        session: to send it with.
        url: where to.
        body: of the request.
        headers: of the request.
        timeout_ms: for all of it.

    Returns:
        What became of it, and why.
    """
    try:
        timeout = aiohttp.ClientTimeout(total=timeout_ms / 1000)
        async with session.post(url, data=body, headers=headers, timeout=timeout, allow_redirects=False) as response:
            said = (await response.content.read(_SAID_BYTES)).decode(errors="replace").strip()
            return answer_of(response.status), f"HTTP {response.status}{': ' if said else ''}{said}"
    except TimeoutError:
        return Answer.RETRY, f"no answer within {timeout_ms} ms"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Answer.RETRY, f"{type(error).__name__}: {error}"


class WebhookWorker:
    """Delivers to one webhook: the updates of an alert in their order, an alert that fails holding up no other.

    Args:
        webhook: whom.
        settle: called with each delivery that is done with; it is not sent again by this process.
        metrics: counts attempts.
    """

    def __init__(self, webhook: Webhook, settle: Callable[[Settled], None], metrics: Metrics) -> None:
        self.webhook = webhook
        self._settle, self._metrics = settle, metrics
        self._secret = _secret(webhook)
        self._pending: dict[str, Delivery] = {}
        self._settled: set[str] = set()
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._closing = False

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Takes deliveries that are committed.

        Args:
            deliveries: for this webhook, an alert's in their order.
        """
        for delivery in deliveries:
            if place_of(delivery) not in self._settled:
                self._pending.setdefault(place_of(delivery), delivery)
        self._metrics.deliveries_pending(self.webhook.name, len(self._pending))
        self._wake.set()

    def forget(self, deliveries: Iterable[Delivery]) -> None:
        """The ledger has it that these are done with.

        Args:
            deliveries: that were settled.
        """
        self._settled.difference_update(place_of(delivery) for delivery in deliveries)

    def close(self) -> None:
        """What is on its way still arrives; nothing new leaves."""
        self._closing = True
        self._wake.set()

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Until it is closed.

        Args:
            session: to send with.
        """
        while not self._closing:
            self._wake.clear()
            found = self._next()
            if found is None:
                await self._wake.wait()
                continue
            place, due = found
            if (left := due - time.monotonic()) > 0:
                try:
                    await asyncio.wait_for(self._wake.wait(), left)
                except TimeoutError:
                    continue
            else:
                await self._send(session, place)

    def _next(self) -> tuple[str, float] | None:
        """The delivery that is due first, of those that no earlier update of the same alert stands before."""
        first: dict[str, str] = {}
        for place, delivery in self._pending.items():
            first.setdefault(delivery.alert, place)
        return min(((place, self._due.get(place, 0.0)) for place in first.values()), key=lambda each: each[1], default=None)

    async def _send(self, session: aiohttp.ClientSession, place: str) -> None:
        delivery, webhook = self._pending[place], self.webhook
        body = delivery.body.encode()
        headers = headers_of(delivery.key, body, int(time.time()), self._secret)
        answer, why = await attempt(session, webhook.url, body, headers, webhook.timeout_ms)
        if answer is Answer.RETRY and now_ms() - delivery.made_ms >= webhook.give_up_after_ms:
            answer, why = Answer.REFUSED, f"given up after {webhook.give_up_after_ms} ms; at last {why}"
        self._metrics.delivery(webhook.name, answer.value)
        if answer is Answer.RETRY:
            failures = self._failures[place] = self._failures.get(place, 0) + 1
            wait = wait_s(failures, random.random)
            self._due[place] = time.monotonic() + wait
            log.log(
                logging.WARNING if failures == 1 else logging.INFO,
                "webhook '%s' did not take %s (%s); again in %.1f s",
                webhook.name, delivery.key, why, wait,
            )  # fmt: skip
            return
        if answer is Answer.REFUSED:
            log.error("webhook '%s' will not take %s (%s): it is a dead letter", webhook.name, delivery.key, why)
        for kept in (self._pending, self._failures, self._due):
            kept.pop(place, None)
        self._settled.add(place)
        self._metrics.deliveries_pending(webhook.name, len(self._pending))
        self._settle(Settled(delivery, why if answer is Answer.REFUSED else ""))


def _secret(webhook: Webhook) -> bytes | None:
    if webhook.secret_file is None:
        return None if webhook.secret is None else webhook.secret.encode()
    try:
        secret = Path(webhook.secret_file).read_bytes().strip()
    except OSError as error:
        raise UserError(
            f"the secret_file of webhook '{webhook.name}' must be a file that can be read; got {webhook.secret_file}: {error.strerror}"
        ) from error
    if not secret:
        raise UserError(f"the secret_file of webhook '{webhook.name}' must not be empty: write the secret into {webhook.secret_file}")
    return secret


# ---- Alertmanager


class Post(msgspec.Struct, frozen=True):
    """An alert as Alertmanager is told of it."""

    labels: dict[str, str]
    annotations: dict[str, str]
    starts_ms: int
    ended_ms: int | None
    """By the clock; None: it is open."""


def posts_of(groups: Iterable[Group], prefix: str, now: int) -> list[Post]:
    """What Alertmanager is to know.

    Its alerts are what their labels are, so that one that has become critical is another: the warning is told to be over for a while.

    Args:
        groups: all.
        prefix: of our topics, to tell several nowcarts from one another.
        now: the clock, epoch milliseconds.
    """
    posts = []
    for group in groups:
        if group.phase == "none" or group.worst is None:
            continue
        labels = {"alertname": "NowcartDemandSpike", "alert": group.alert, "bucket": group.bucket, "nowcart": prefix}
        labels |= {"item": group.item} if group.item is not None else {"category": str(group.category)}
        loud = sorted(entry.spike.item for entry in group.loud)
        worst = group.worst
        annotations = {
            "summary": f"{group.item or group.category}: demand far beyond its forecast in {group.bucket} buckets",
            "description": f"{worst.item} sold {worst.observed:g} against {worst.expected:g} expected (p = {worst.p_value:g})",
            "items": ", ".join(loud[:LISTED_ITEMS]) + (f" and {len(loud) - LISTED_ITEMS} more" if len(loud) > LISTED_ITEMS else ""),
        }
        ended = group.over_ms if group.phase == "over" else None
        posts.append(Post(labels | {"severity": group.severity}, annotations, group.started_ms, ended))
        if group.escalated_ms and now - group.escalated_ms <= REMEMBER_MS:
            posts.append(Post(labels | {"severity": "warning"}, annotations, group.started_ms, group.escalated_ms))
    return posts


def body_of(posts: Sequence[Post], settings: Alertmanager, now: int) -> bytes:
    """The body of POST /api/v2/alerts.

    Args:
        posts: what is to be told.
        settings: say how long it holds.
        now: the clock, epoch milliseconds.
    """

    def alert(post: Post) -> dict[str, Any]:
        ends = now + settings.expires_ms if post.ended_ms is None else post.ended_ms
        starts = min(post.starts_ms, ends - 1)  # a shop whose clock is ahead; Alertmanager refuses what ends before it starts
        return {"labels": post.labels, "annotations": post.annotations, "startsAt": _stamp(starts), "endsAt": _stamp(ends)}

    return msgspec.json.encode([alert(post) for post in posts])


def _stamp(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class AlertmanagerWorker:
    """Tells Alertmanager what is open: at once when it changes, and again and again, for it forgets.

    Args:
        settings: where it is.
        metrics: counts attempts.
    """

    NAME = "alertmanager"

    def __init__(self, settings: Alertmanager, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._posts: list[Post] = []
        self._wake = asyncio.Event()
        self._closing = False

    def show(self, posts: list[Post]) -> None:
        """Takes what is committed.

        Args:
            posts: all of it.
        """
        if posts != self._posts:
            self._posts = posts
            self._wake.set()

    def close(self) -> None:
        """Nothing more is told."""
        self._closing = True
        self._wake.set()

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Until it is closed.

        Args:
            session: to send with.
        """
        failures = 0
        while not self._closing:
            self._wake.clear()
            wait = self._settings.repost_ms / 1000
            if self._posts:
                answer, why = await self._tell(session)
                self._metrics.delivery(self.NAME, answer.value)
                failures = 0 if answer is Answer.DELIVERED else failures + 1
                if failures:
                    wait = min(wait, wait_s(failures, random.random))
                    level = logging.WARNING if failures == 1 else logging.INFO
                    log.log(level, "Alertmanager at %s was not told (%s); again in %.1f s", self._settings.url, why, wait)
            try:
                await asyncio.wait_for(self._wake.wait(), wait)
            except TimeoutError:
                continue
            if failures and not self._closing:  # a change does not hurry somebody who is down
                await asyncio.sleep(min(wait, 1.0))

    async def _tell(self, session: aiohttp.ClientSession) -> tuple[Answer, str]:
        headers = {"content-type": "application/json", "user-agent": "nowcart"}
        if self._settings.authorization:
            headers["authorization"] = self._settings.authorization
        body = body_of(self._posts, self._settings, now_ms())
        return await attempt(session, f"{self._settings.url}/api/v2/alerts", body, headers, self._settings.timeout_ms)
