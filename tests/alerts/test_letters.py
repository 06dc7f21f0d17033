"""Requests to receivers: what an answer means, how long to wait, and what Alertmanager reads."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from stream.alerting import Alertmanager, Alerts
from stream.alerts.book import REMEMBER_MS, Book
from stream.alerts.letters import FIRST_WAIT_S, LONGEST_WAIT_S, Answer, answer_of, signature, wait_s
from stream.alerts.post import body_of, posts_of
from tests.alerts.house import HOUR, START, spike

NOW = START + HOUR


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, Answer.DELIVERED), (204, Answer.DELIVERED), (301, Answer.RETRY), (400, Answer.REFUSED), (401, Answer.RETRY), (404, Answer.RETRY),
        (408, Answer.RETRY), (410, Answer.REFUSED), (422, Answer.REFUSED), (429, Answer.RETRY), (500, Answer.RETRY), (503, Answer.RETRY),
    ],
)  # fmt: skip
def test_what_a_status_means(status: int, answer: Answer) -> None:
    assert answer_of(status) is answer


def test_the_signature_is_the_one_that_the_pages_show() -> None:
    # printf '1764300000.{"a":1}' | openssl dgst -sha256 -hmac secret
    assert signature(b"secret", 1_764_300_000, b'{"a":1}') == (
        "t=1764300000,v1=eec4c9162713f882925429ee4bd247c77b1c6b3f1eff0c9f737ef0ae5b2befb6"
    )


def test_waits_double_up_to_a_limit_and_never_vanish() -> None:
    longest = [wait_s(failures, lambda: 1.0) for failures in range(1, 100)]
    assert longest[:3] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert longest[-1] == LONGEST_WAIT_S
    assert wait_s(1, lambda: 0.0) == FIRST_WAIT_S / 2


def moment(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def test_alertmanager_is_told_what_is_open_what_became_graver_and_what_is_over() -> None:
    book, settings = Book(Alerts(cooldown_ms=0), "UTC"), Alertmanager(expires_ms=300_000)

    def told(now: int) -> dict[str, tuple[int, int]]:
        """By severity: start and end."""
        alerts = json.loads(body_of(posts_of(book.groups.values(), "nowcart.", now), settings, now))
        assert all(alert["labels"]["alertname"] == "NowcartDemandSpike" for alert in alerts)
        return {alert["labels"]["severity"]: (moment(alert["startsAt"]), moment(alert["endsAt"])) for alert in alerts}

    book.take(spike("red"), NOW)
    assert told(NOW) == {"warning": (START, NOW + 300_000)}
    book.take(spike("red", severity="critical", p_value=1e-9), NOW + 1000)
    assert told(NOW + 1000) == {"critical": (START, NOW + 301_000), "warning": (START, NOW + 1000)}
    book.take(spike("red", state="resolved"), NOW + 2000)
    assert told(NOW + 3000) == {"critical": (START, NOW + 2000), "warning": (START, NOW + 1000)}
    book.tick(NOW + 3000 + REMEMBER_MS)
    assert told(NOW + 3000 + REMEMBER_MS) == {}


def test_a_shop_whose_clock_is_ahead_is_told_as_of_now() -> None:
    book = Book(Alerts(), "UTC")
    book.take(spike("red", bucket_start_ms=NOW + 24 * HOUR), NOW)
    (alert,) = json.loads(body_of(posts_of(book.groups.values(), "nowcart.", NOW), Alertmanager(), NOW))
    assert moment(alert["startsAt"]) < moment(alert["endsAt"])
