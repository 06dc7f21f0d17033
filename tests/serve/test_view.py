"""What is known of items and sessions: sums, orders, pasts, and that all of it stays bounded."""

from __future__ import annotations

import json
import random
from collections import OrderedDict
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.serve.counters import Counters
from stream.serve.panel import DemandRecord
from stream.serve.service import Service
from stream.serve.sessions import IntentRecord
from stream.serve.view import View
from tests.serve.rig import HOUR_MS, T0, config, correction, demand, intent, spike


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def view(serve: str = "") -> View:
    return View(config(serve), None, Clock())


def slot(seen: View, item: str) -> int:
    return seen.items.slots[item]


def test_an_item_has_its_newest_forecast_and_its_past() -> None:
    seen = view("history = 4")
    for hour in range(6):
        seen.take("demand", [demand("tea", hour, observed=hour + 1, mean=10.0 + hour)])
    panel = seen.items.panels["1h"]
    at = slot(seen, "tea")
    assert json.loads(panel.raw[at] or b"")["mean"][0] == 15.0
    past = panel.past(at, 10)
    assert past.start_ms == [T0 + hour * HOUR_MS for hour in range(2, 6)]
    assert past.observed == [3.0, 4.0, 5.0, 6.0]
    assert past.near[0] == pytest.approx([2.4, 12.0, 21.6])  # a tenth, a half and nine tenths of twice the mean of hour 2
    assert past.far_steps == 6
    assert panel.spark(at, 6) == [0.0, 0.0, 3.0, 4.0, 5.0, 6.0]
    assert panel.observed[at] == 18.0
    assert panel.expected[at] == 24 * 15.0


def test_a_correction_changes_the_past_and_nothing_else() -> None:
    seen = view()
    seen.take("demand", [demand("tea", hour, observed=5) for hour in range(3)])
    seen.take("demand", [correction("tea", 1, 9), correction("tea", -50, 4)])
    panel = seen.items.panels["1h"]
    at = slot(seen, "tea")
    assert panel.past(at, 9).observed == [5.0, 9.0, 5.0]
    assert panel.latest[at] == 5.0
    assert panel.observed[at] == 19.0
    assert panel.seen_before(T0 + 3 * HOUR_MS, 9)[1] == [5.0, 9.0, 5.0]
    seen.take("demand", [correction("tea", 2, 6)])
    assert panel.latest[at] == 6.0


def test_records_that_come_again_count_once() -> None:
    seen = view()
    records = [demand(item, hour, observed=2) for hour in range(3) for item in ("a", "b")]
    seen.take("demand", records)
    seen.take("demand", records[2:])
    assert seen.items.panels["1h"].seen_before(T0 + 9 * HOUR_MS, 9)[1] == [4.0, 4.0, 4.0]


def test_the_next_hour_stands_beside_the_same_hour_before() -> None:
    seen = view()
    seen.take("demand", [demand(item, hour, observed=hour % 24, mean=4.5) for hour in range(24 * 7 + 1) for item in ("a", "b")])
    seen.take("demand", [demand("idle", 24 * 7 - 2, mean=1.0)])
    found = seen.next_hour()
    assert found is not None
    assert (found.start_ms, found.end_ms) == (T0 + (24 * 7 + 1) * HOUR_MS, T0 + (24 * 7 + 2) * HOUR_MS)
    assert found.expected == 10.0  # the idle one's forecast is older, and speaks of this hour with a later step
    assert (found.last_week, found.yesterday, found.hour_before) == (2.0, 2.0, 0.0)


def walk(seen: View, sort: str, descending: bool, size: int, between: Any = None) -> list[str]:
    """All items, page by page, as the API does it."""
    items, place = seen.items, None
    names: list[str] = []
    while True:
        order = items.order("1h", sort, descending)
        start = 0 if place is None else items.after(order, sort, descending, *place)
        page = order.slots[start : start + size].tolist()
        if not page:
            return names
        names += [items.name(at) for at in page]
        value = float(order.values[start + len(page) - 1])
        place = (-value if descending else value, names[-1])
        if between is not None:
            between()


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.text("abcß\n z", min_size=1, max_size=4), st.integers(0, 3)), min_size=1, max_size=30, unique_by=lambda pair: pair[0]
    ),
    st.sampled_from(["name", "observed", "expected", "change", "latest", "next", "spikes", "updated"]),
    st.booleans(),
    st.integers(1, 7),
)
def test_pages_hold_every_item_once_and_in_order(found: list[tuple[str, int]], sort: str, descending: bool, size: int) -> None:
    seen = view()
    seen.take("demand", [demand(name, 0, observed=units, mean=units / 2) for name, units in found])
    names = walk(seen, sort, descending, size)
    assert sorted(names) == sorted(name for name, _ in found)
    if sort == "name":
        assert names == sorted(names, reverse=descending)
    elif sort == "observed":
        units = dict(found)
        assert [units[name] for name in names] == sorted(units.values(), reverse=descending)


def test_a_walk_goes_on_although_items_move_and_come() -> None:
    seen = view()
    clock: Clock = seen.items._clock  # type: ignore[assignment]
    seen.take("demand", [demand(f"i{n:02}", 0, observed=n) for n in range(40)])
    moved = iter(range(1, 100))

    def between() -> None:
        clock.now += 1
        hour = next(moved)
        seen.take("demand", [demand("i39", hour, observed=0), demand(f"new{hour}", hour, observed=-1)])

    names = walk(seen, "observed", True, 5, between)
    stayed = [name for name in names if name.startswith("i")]
    assert len(stayed) == len(set(stayed))
    assert set(stayed) >= {f"i{n:02}" for n in range(39)}


def test_an_order_is_kept_for_twenty_times_what_it_took_and_no_longer() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.01  # what an order takes to make
        return now[0]

    items = View(config(), None, clock).items

    def take(hour: int, a: float, b: float) -> None:
        records = [demand("a", hour, mean=a), demand("b", hour, mean=b)]
        items.take([msgspec.json.decode(record, type=DemandRecord) for record in records], records)

    def first() -> str:
        return items.name(items.order("1h", "next").slots[0])

    take(0, 2, 1)
    order = items.order("1h", "next")
    assert (items.name(order.slots[0]), items.is_new("1h", order)) == ("a", True)
    take(1, 1, 2)
    assert (first(), items.is_new("1h", order)) == ("a", False)
    now[0] += 0.2
    assert first() == "b"


def test_a_search_finds_what_contains_it_whatever_the_case() -> None:
    seen = view()
    names = ["Tea pot", "TEAPOT 2", "pot", "a\nb", "Straße"]
    seen.take("demand", [demand(name, 0) for name in names])
    items = seen.items

    def found(text: str) -> set[str]:
        mask = items.matching(text)
        return {name for name in names if mask[items.slots[name]]}

    assert found("tea") == {"Tea pot", "TEAPOT 2"}
    assert found("POT") == {"Tea pot", "TEAPOT 2", "pot"}
    assert found("strasse") == {"Straße"}
    assert found("t\np") == set()
    seen.take("demand", [demand("new tea", 0)])
    assert items.matching("tea")[items.slots["new tea"]]


def test_the_longest_silent_items_leave_when_there_are_too_many() -> None:
    seen = view("max_items = 100")
    for hour in range(30):
        seen.take("demand", [demand(f"h{hour}-{n}", hour) for n in range(10)])
        seen.take("demand", [demand("always", hour)])
    assert len(seen.items) <= 100
    assert "always" in seen.items.slots
    assert "h29-9" in seen.items.slots
    assert "h0-0" not in seen.items.slots
    assert sorted(seen.items.slots) == seen.items.sorted
    assert set(walk(seen, "name", False, 7)) == set(seen.items.slots)
    assert seen.items.panels["1h"].past(slot(seen, "h29-9"), 50).start_ms == [T0 + 29 * HOUR_MS]  # nothing of who had the slot before


def test_a_mistyped_item_is_told_its_neighbour() -> None:
    seen = view()
    seen.take("demand", [demand(f"SKU-{n:04}", 0) for n in range(2000)])
    assert seen.items.near("SKU-1234 ") == "SKU-1234"
    assert seen.items.near("sku-0777") == "SKU-0777"
    assert seen.items.near("%%%") is None


def test_sessions_come_move_end_and_leave() -> None:
    seen = view('session_quiet = "60s"\nended_stay = "10s"')
    sessions = seen.sessions
    seen.take("intent", [intent("a", 0.2, 0), intent("b", 0.9, 1), intent("a", 0.4, 2), intent("c", 0.95, 3, bot=True)])
    assert [session.name for session in sessions.hot(9)] == ["b", "a"]
    found = sessions.find("a", masked=False)
    assert found is not None
    assert found.way.tolist() == [T0, 0.2, T0 + 2000, 0.4]
    seen.take("intent", [intent("b", 0.9, 4, ended=True)])
    assert sessions.live == 2
    seen.take("intent", [intent("b", 0.1, 5)])  # the id has come back
    found = sessions.find("b", masked=False)
    assert found is not None
    assert found.way.tolist() == [T0 + 5000, 0.1]
    seen.take("intent", [intent("a", 0.4, 6, ended=True), intent("d", 0.3, 17)])
    assert sessions.find("a", masked=False) is None
    seen.take("intent", [intent("e", 0.3, 70)])
    assert [session.name for session in sessions.recent(9)] == ["e", "d"]
    assert sessions.live == 2


def test_the_likeliest_of_many_sessions_are_found() -> None:
    now = [0.0]
    sessions = View(config("max_sessions = 1500"), None, lambda: now[0]).sessions
    assert sessions.hot(5) == []
    chance, known = random.Random(3), OrderedDict[str, tuple[float, bool]]()
    for second in range(6_000):
        name, p = f"s{chance.randrange(2_500)}", chance.randrange(40) / 40  # many are equally likely
        lot = {word: chance.random() < 0.1 for word in ("ended", "purchased", "bot")}
        sessions.take(msgspec.json.decode(intent(name, p, 0, **lot), type=IntentRecord), b"")
        known.pop(name, None)
        known[name] = (p, not any(lot.values()))
        if len(known) > 1_500:
            known.popitem(last=False)
        if second % 500 == 0 or second == 5_999:
            now[0] += 1
            likely = sorted(((p, name) for name, (p, listed) in known.items() if listed), reverse=True)[:500]
            assert [session.name for session in sessions.hot(500)] == [name for _, name in likely]


def test_who_was_told_of_a_record_finds_it_among_the_likeliest() -> None:
    service = Service(config(), Counters(process=False), None)
    service.overview()
    sessions = service.view.sessions
    sessions.take(msgspec.json.decode(intent("a", 0.2), type=IntentRecord), b"")
    assert [session.name for session in sessions.hot(5)] == ["a"]
    sessions.take(msgspec.json.decode(intent("b", 0.9), type=IntentRecord), b"")
    service._overview = (float("-inf"), service._overview[1])  # half a second has passed since
    service.overview()
    assert [session.name for session in sessions.hot(5)] == ["b", "a"]


def test_sessions_are_no_more_than_allowed() -> None:
    seen = view("max_sessions = 10")
    seen.take("intent", [intent(f"s{n}", 0.5, n, ended=n % 3 == 0) for n in range(100)])
    assert len(seen.sessions) == 10
    assert seen.sessions.live == sum(n % 3 != 0 for n in range(90, 100))


def test_spikes_open_and_resolve() -> None:
    seen = view()
    seen.take("demand", [demand("a", 0), demand("b", 0)])
    seen.take("spikes", [spike("a"), spike("b", severity="warning"), spike("a", "resolved", hour=1)])
    assert (seen.spikes.open, seen.spikes.critical) == (1, 0)
    assert [json.loads(raw)["item"] for raw in seen.spikes.list("open", None, None, 9)] == ["b"]
    assert [json.loads(raw)["state"] for raw in seen.spikes.list("all", "a", None, 9)] == ["resolved", "open"]
    assert seen.items.row("1h", slot(seen, "a"), 0).spikes == 0
    assert seen.items.row("1h", slot(seen, "b"), 0).spikes == 1


def test_what_cannot_be_read_is_counted_and_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    seen = view()
    got = seen.take("demand", [b"{", demand("a", 0), b'{"item": 3}', None, b"\xff", demand("b", 0, bucket="9y")])
    assert got == [None, "a", None, None, None, "b"]
    assert seen.unreadable == 3
    assert "cannot be read" in caplog.text
    assert seen.take("alerts", [b'{"alert": "x", "unheard": {"of": 1}, "items": ["a"], "severity": "critical", "state": "open"}']) == [""]
    assert seen.alerts.open == 1
