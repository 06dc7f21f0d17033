"""Public holidays: which days they are, how much of a bucket, and how they reach the models, live and in a backtest."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest

from stream.backtest.shape import read_table
from stream.calendar import holiday_days, holiday_shares
from stream.config import ConfigError, parse
from stream.engine.announced import HOLIDAY
from stream.engine.forecast import ForecastShard
from stream.engine.state import forecast_state, restore_forecast
from stream.engine.time import DAY_MS, HOUR_MS, Zone
from stream.tables import UserError
from tests.backtest.test_read import SALES, sales
from tests.engine.test_forecast import BASE, spec
from tests.engine.told import shown, told

CHRISTMAS = dt.date(2024, 12, 25).toordinal() - dt.date(1970, 1, 1).toordinal()
LONDON = Zone("Europe/London")
CONFIG = {"sources": {"orders": {"kind": "orders", "topic": "o", "fields": {"time": "t", "item": "i", "quantity": "q"}}}}


def test_a_countrys_days_and_a_parts() -> None:
    britain = holiday_days("GB")
    assert {CHRISTMAS, CHRISTMAS + 1} <= set(britain)
    assert CHRISTMAS + 2 not in britain
    assert list(britain) == sorted(set(britain))
    assert set(britain) < set(holiday_days("gb-sct"))  # which has St Andrew's Day as well


@pytest.mark.parametrize(
    ("place", "says"), [("XX", 'got "XX"'), ("GB-XX", "its parts are ENG, NIR, SCT, WLS"), ("Britain", 'such as "GB"')]
)
def test_what_is_no_country_is_refused(place: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        holiday_days(place)
    with pytest.raises(ConfigError, match=rf"demand\.holidays must be .*{says}"):
        parse(CONFIG | {"demand": {"holidays": place}})


def test_a_bucket_has_its_share_of_the_local_day() -> None:
    days = (CHRISTMAS, CHRISTMAS + 1)
    at = CHRISTMAS * DAY_MS
    edges = at + np.arange(-1, 4) * DAY_MS
    assert holiday_shares(days, edges, LONDON).tolist() == [0, 1, 1, 0]
    assert holiday_shares(days, np.array([at - 2 * DAY_MS, at + 5 * DAY_MS]), LONDON).tolist() == [2 / 7]
    hours = at + np.arange(-2, 3) * HOUR_MS
    assert holiday_shares(days, hours, LONDON).tolist() == [0, 0, 1, 1]
    assert holiday_shares(days, hours, Zone("America/New_York")).tolist() == [0, 0, 0, 0]  # where it is still the 24th


def test_forecasts_know_them_ahead_and_what_the_shop_says_counts_for_more() -> None:
    today = BASE // DAY_MS
    which = replace(spec(), holidays=(today, today + 2))
    orders = [(BASE + hour * HOUR_MS, "a", 1.0) for hour in range(30)]
    run = shown(orders, [], which)
    assert run.known("1d", today, HOLIDAY, "a", [0, 1, 2, 3]) == [1, None, 1, None]
    open_after_all = told("signals", [{"time": BASE, "name": HOLIDAY, "value": 0, "starts": BASE + 2 * DAY_MS, "ends": BASE + 3 * DAY_MS}])
    assert shown(orders, open_after_all, which).known("1d", today, HOLIDAY, "a", [0, 1, 2]) == [1, None, 0]
    again = ForecastShard(which)
    restore_forecast(again, forecast_state(run.shard))
    assert {name: array.tobytes() for name, array in forecast_state(again).items()} == {
        name: array.tobytes() for name, array in forecast_state(run.shard).items()
    }


def test_they_are_part_of_what_shapes_state_where_there_are_any() -> None:
    assert parse(CONFIG | {"demand": {"holidays": "GB"}}).checksum() != parse(CONFIG).checksum()
    assert parse(CONFIG | {"demand": {"holidays": ""}}).checksum() == parse(CONFIG).checksum()


def test_a_backtest_knows_them_as_it_knows_a_column() -> None:
    days = [dt.date(2024, 12, day) for day in range(20, 32)]
    rows = sales(list(days), [1.0] * len(days))
    known = read_table(rows, replace(SALES, holidays="GB")).data.known[HOLIDAY]
    assert known.tolist() == [[0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]]
    weeks = sales([dt.date(2024, 12, 2) + dt.timedelta(weeks=week) for week in range(5)], [1.0] * 5)
    assert read_table(weeks, replace(SALES, holidays="GB")).data.known[HOLIDAY].tolist() == [[0, 0, 0, 2 / 7, 1 / 7]]
    with pytest.raises(UserError, match="--holidays needs dates"):
        read_table(sales([1, 2, 3], [1.0, 2.0, 3.0]), replace(SALES, frequency="D", holidays="GB"))
    with pytest.raises(UserError, match='got "XX"'):
        read_table(rows, replace(SALES, holidays="XX"))
    with pytest.raises(UserError, match="--known"):
        read_table(rows.append_column(HOLIDAY, [[0.0] * len(days)]), replace(SALES, holidays="GB", known=(HOLIDAY,)))
