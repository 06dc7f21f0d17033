"""When the shop is shut: learnt from empty days, told ahead by weeks and signals, and never from a quiet hour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.demand.forecaster import DemandForecaster
from models.demand.opening import Opening
from models.demand.window import Window
from tests.models.shops import START, Shop, spec

WEEK = {"size": "1d", "horizon": 14, "seasons": (7,), "totals": (7,), "probes": (1, 7, 14)}


def shop(days: int, shut: set[int], items: int = 40, seed: int = 1) -> Shop:
    """Days on which all items sell one or two, but for the shut ones."""
    units = np.random.default_rng(seed).poisson(1.5, (days, items)).astype(np.float64)
    units[sorted(shut)] = 0
    return Shop(units, spec(**WEEK), 80)


def test_the_day_on_which_the_shop_never_sells_is_known_ahead() -> None:
    saturdays = {day for day in range(70) if (START + day) % 7 == 3}
    opening, days = Opening(spec(**WEEK)), shop(70, saturdays)
    for day in range(70):
        opening.learn(days.panel(day))
    window = Window(opening.extend(days.panel(69)))
    past = {day for day in range(20, 70) if window.shut(START + day)}
    assert past == {day for day in saturdays if day >= 20}
    ahead = {day for day in range(70, 84) if window.shut(START + day)}
    assert ahead == {day for day in range(70, 84) if (START + day) % 7 == 3}


def test_one_holiday_says_nothing_of_the_next_week_but_a_signal_that_always_shuts_does() -> None:
    holidays = {20, 41, 55}
    opening, days = Opening(spec(**WEEK)), shop(66, holidays)
    for day in range(66):
        opening.learn(days.panel(day))
    plain = Window(opening.extend(days.panel(65)))
    assert not any(plain.shut(START + day) for day in range(66, 80))
    assert plain.shut(START + 55)
    span = 120
    ring = np.zeros((span, 1), np.float32)
    for day in (*holidays, 70):
        ring[(START + day) % span] = 1
    told = Window(opening.extend(replace(days.panel(65), known={"holiday": ring})))
    assert [day for day in range(66, 80) if told.shut(START + day)] == [70]


def test_a_shop_that_opens_again_is_open_the_week_after() -> None:
    shut = {day for day in range(63) if (START + day) % 7 == 3}
    last = max(shut)
    opening, days = Opening(spec(**WEEK)), shop(63, shut - {last})
    for day in range(63):
        opening.learn(days.panel(day))
    window = Window(opening.extend(days.panel(62)))
    assert not window.shut(START + last)
    assert not window.shut(START + last + 7)


def test_a_quiet_partition_is_not_shut() -> None:
    units = np.zeros((60, 3))
    units[::9] = 1
    days, opening = Shop(units, spec(**WEEK), 80), Opening(spec(**WEEK))
    for day in range(60):
        opening.learn(days.panel(day))
    assert opening.extend(days.panel(59)).shut is None


def test_nothing_is_forecast_for_shut_days_and_nothing_is_scored_by_them() -> None:
    saturdays = {day for day in range(70) if (START + day) % 7 == 3}
    days = shop(70, saturdays)
    forecaster = DemandForecaster(spec(**WEEK, experts=("ewma", "empirical")))
    forecaster.resize(days.capacity)
    for day in range(70):
        panel = days.panel(day)
        forecaster.close(panel)
        found = forecaster.forecast(panel)
        forecaster.hold(panel, found)
    ahead = [step for step in range(14) if (START + 70 + step) % 7 == 3]
    assert len(ahead) == 2
    assert (found.mean[:, ahead] == 0).all() and (found.quantiles[:, :, ahead] == 0).all()
    opened = [step for step in range(14) if step not in ahead]
    np.testing.assert_allclose(found.mean[:, opened].mean(), 1.5, rtol=0.1)
