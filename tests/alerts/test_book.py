"""The book of alerts: what opens, joins, escalates, ends and is kept quiet."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.alerting import Alerts, Silence
from stream.alerts.book import REMEMBER_MS, REVIEW_AFTER_MS, Book, Group, Spike
from stream.records import AlertRecord
from tests.alerts.house import HOUR, START, spike

NOW = START + HOUR
MINUTE = 60_000


def book(**settings: Any) -> Book:
    return Book(Alerts(**{"cooldown_ms": 10 * MINUTE, **settings}), "UTC")


def changes(records: list[AlertRecord]) -> list[tuple[str, list[str], str]]:
    return [(record.change, record.items, record.severity) for record in records]


def over(item: str, at_ms: int = START + HOUR, **more: Any) -> Spike:
    return spike(item, state="resolved", bucket_start_ms=at_ms, **more)


def test_items_of_a_category_are_one_alert_and_others_are_their_own() -> None:
    kept = book()
    told = [
        *kept.take(spike("red", category="shoes"), NOW),
        *kept.take(spike("blue", category="shoes"), NOW),
        *kept.take(spike("tea"), NOW),
        *kept.take(spike("green", category="shoes", bucket="1d"), NOW),
    ]
    assert changes(told) == [
        ("opened", ["red"], "warning"),
        ("joined", ["blue", "red"], "warning"),
        ("opened", ["tea"], "warning"),
        ("opened", ["green"], "warning"),
    ]
    assert told[0].alert == told[1].alert
    assert len({record.alert for record in told}) == 3
    assert [record.category for record in told] == ["shoes", "shoes", None, "shoes"]
    assert kept.take(spike("cup", category=""), NOW)[0].category is None
    alone = book(group_by="item")
    assert len({alone.take(spike(item, category="shoes"), NOW)[0].alert for item in ("red", "blue")}) == 2


def test_what_is_told_again_changes_nothing_and_what_is_graver_escalates_once() -> None:
    kept = book()
    kept.take(spike("red", category="shoes"), NOW)
    kept.take(spike("blue", category="shoes"), NOW)
    assert kept.take(spike("red", category="shoes", bucket_start_ms=START + HOUR), NOW) == []
    (record,) = kept.take(spike("blue", category="shoes", severity="critical", p_value=1e-9, observed=400), NOW)
    assert (record.change, record.severity, record.worst.item, record.worst.observed) == ("escalated", "critical", "blue", 400)
    assert kept.take(spike("red", category="shoes", severity="critical", p_value=1e-8), NOW) == []
    assert kept.take(spike("blue", category="shoes"), NOW) == []


def test_an_alert_is_over_when_its_last_spike_has_been_for_the_cooldown() -> None:
    kept = book()
    kept.take(spike("red", category="shoes"), NOW)
    kept.take(spike("blue", category="shoes"), NOW)
    assert changes(kept.take(over("red"), NOW)) == [("left", ["blue"], "warning")]  # its category is known
    assert kept.take(over("blue"), NOW) == []
    assert kept.tick(NOW + 9 * MINUTE) == []
    # A spike that comes back goes on with the alert.
    assert changes(kept.take(spike("blue", category="shoes", bucket_start_ms=START + HOUR), NOW)) == [("joined", ["blue"], "warning")]
    assert kept.take(over("blue", START + 2 * HOUR), NOW) == []
    (record,) = kept.tick(NOW + 10 * MINUTE)
    assert (record.change, record.state, record.items) == ("resolved", "resolved", ["blue", "red"])
    assert record.updated_ms == START + 2 * HOUR
    assert kept.tick(NOW + 20 * MINUTE) == []
    kept.changed.clear()
    assert kept.tick(NOW + 10 * MINUTE + REMEMBER_MS + 1) == []
    assert not kept.groups and kept.changed  # and the ledger learns it


def test_in_a_backlog_event_time_ends_an_alert_that_the_clock_had_no_time_for() -> None:
    kept = book()
    first = kept.take(spike("red"), NOW)
    kept.take(over("red"), NOW)
    told = kept.take(spike("red", bucket_start_ms=START + 3 * HOUR), NOW)
    assert [record.change for record in told] == ["resolved", "opened"]
    assert told[0].alert == first[0].alert != told[1].alert


def test_a_spike_of_which_nothing_is_heard_is_over_one_day() -> None:
    kept = book(cooldown_ms=0, stale_after_ms=HOUR)
    kept.take(spike("red"), NOW)
    assert kept.tick(NOW + 4 * HOUR) == []  # four of its buckets, at least
    assert [record.change for record in kept.tick(NOW + 4 * HOUR + 1)] == ["resolved"]


def test_a_silenced_spike_is_told_once_the_silence_is_over() -> None:
    silence = Silence(name="sale", item="red*", severity="warning", ends_ms=NOW + HOUR)
    kept = book(silences=(silence,))
    assert kept.take(spike("red-1", category="shoes"), NOW) == []
    assert kept.silenced == 1
    assert changes(kept.take(spike("blue", category="shoes"), NOW)) == [("opened", ["blue"], "warning")]
    assert kept.tick(NOW + HOUR - 1) == []
    assert changes(kept.tick(NOW + HOUR)) == [("joined", ["blue", "red-1"], "warning")]
    assert changes(kept.take(spike("red-2", severity="critical"), NOW)) == [("opened", ["red-2"], "critical")]  # warnings only


def test_of_a_backlog_no_silenced_spike_is_told_that_ended_in_it() -> None:
    kept = book(silences=(Silence(name="night", ends_ms=START + 1),))
    kept.take(spike("red"), NOW)
    assert kept.tick(NOW + REVIEW_AFTER_MS) == []
    assert kept.take(over("red"), NOW + REVIEW_AFTER_MS) == []
    assert kept.tick(NOW + 2 * REVIEW_AFTER_MS) == []


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([None, "x", "y"]),
        st.sampled_from(["warning", "critical"]),
        st.sampled_from(["open", "open", "resolved"]),
        st.integers(0, 40),
        st.booleans(),
    ),
    max_size=40,
)


@given(STEPS, st.sampled_from([0, 5 * MINUTE]))
def test_every_alert_opens_once_counts_its_updates_and_ends_at_most_once(steps: list[Any], cooldown_ms: int) -> None:
    """Whatever comes in whatever order; and a book that is written and read after each step says the same."""
    settings = Alerts(cooldown_ms=cooldown_ms, silences=(Silence(name="c", item="c", severity="warning"),))
    kept, reread = Book(settings, "UTC"), Book(settings, "UTC")
    by_alert: dict[str, list[AlertRecord]] = defaultdict(list)
    now = NOW
    for item, category, severity, state, minutes, tick in steps:
        now += minutes * MINUTE
        one = spike(item, category=category, severity=severity, state=state, bucket_start_ms=now - HOUR, p_value=1e-9)
        told = kept.take(one, now) + (kept.tick(now) if tick else [])
        assert reread.take(one, now) + (reread.tick(now) if tick else []) == told
        stored = msgspec.json.encode(list(reread.groups.values()))
        reread = Book(settings, "UTC", msgspec.json.decode(stored, type=list[Group]))
        for record in told:
            by_alert[record.alert].append(record)
    for records in by_alert.values():
        assert [record.update for record in records] == list(range(1, len(records) + 1))
        names = [record.change for record in records]
        assert names[0] == "opened" and "opened" not in names[1:]
        assert "resolved" not in names[:-1]
        ranks = [record.severity == "critical" for record in records]
        assert ranks == sorted(ranks)
        assert all(record.items for record in records)


@pytest.mark.parametrize("wrong", [{"item": ""}, {"bucket": "2h"}, {"bucket_start_ms": -1}, {"category": "c" * 1_025}])
def test_a_spike_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        spike(**{"item": "a", **wrong})
