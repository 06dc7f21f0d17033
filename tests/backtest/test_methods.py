"""Every method forecasts what its round may know, and nothing else; what it gives is a distribution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stream.backtest.data import Dataset, View, cut_rounds
from stream.backtest.drive import Drive
from stream.backtest.method import RoundForecast, Task
from stream.backtest.nowcart import Rounds
from stream.backtest.peers import METHODS, make_methods
from stream.backtest.run import backtest
from tests.backtest.shop import LEVELS, read

TASK = Task(3, LEVELS, (3,), (1, 3))


def forecast(name: str, data: Dataset, gap: int = 1) -> list[RoundForecast]:
    rounds = cut_rounds(data, 3, 2, 4, gap)
    return list(make_methods([name], data)[0].run([View(data, one) for one in rounds], TASK, lambda share: None))


def with_another_future(data: Dataset, end: int, until: int) -> Dataset:
    """Everything that a round may not know is something else."""
    y = data.y.copy()
    y[:, end:] = 1_000 - y[:, end:]
    past = {name: values.copy() for name, values in data.past.items()}
    known = {name: values.copy() for name, values in data.known.items()}
    for values in past.values():
        values[:, end:] = 77
    for values in known.values():
        values[:, until:] = 55
    return replace(data, y=y, past=past, known=known)


@pytest.fixture(scope="module")
def history() -> Dataset:
    return read(late=66, items=5).data


@pytest.fixture(scope="module")
def short() -> Dataset:
    """For methods that fit each item for long."""
    return read(late=36, items=3, days=40).data


@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_distributions_of_what_is_there_and_knows_no_future(name: str, short: Dataset) -> None:
    history = short
    made = forecast(name, history)
    rounds = cut_rounds(history, 3, 2, 4, 1)
    assert [one.number for one in made] == [1, 2]
    for one, cut in zip(made, rounds, strict=True):
        there = np.isfinite(history.y[:, : cut.end]).any(axis=1)
        assert there.tolist() == [True] * 2 + [False], "the last item has not begun"
        assert np.isfinite(one.mean[there]).all()
        assert np.isnan(one.mean[~there]).all()
        assert np.isnan(one.quantiles[~there]).all()
        q = one.quantiles[there]
        assert (q >= 0).all()
        assert (one.mean[there] >= 0).all()
        assert (np.diff(q, axis=1) >= 0).all()
        assert (q == np.floor(q)).all(), "demand is whole numbers"
        for steps, totals in one.totals.items():
            assert (np.diff(totals[there], axis=1) >= 0).all(), steps
    again = forecast(name, with_another_future(history, rounds[1].end, rounds[1].cut + 3))
    for one, other in zip(made, again, strict=True):
        np.testing.assert_array_equal(one.mean, other.mean)
        np.testing.assert_array_equal(one.quantiles, other.quantiles)
    # The first round does not know the second's history either, though both views were there.
    earlier = forecast(name, with_another_future(history, rounds[0].end, rounds[0].cut + 3))[0]
    np.testing.assert_array_equal(made[0].quantiles, earlier.quantiles)


def test_a_view_holds_nothing_behind_its_round(history: Dataset) -> None:
    cut = cut_rounds(history, 3, 2, 4, 2)[0]
    view = View(history, cut)
    assert view.y.shape[1] == view.past["views"].shape[1] == cut.cut - 2
    assert view.known["price"].shape[1] == cut.cut + 3, "known columns reach over gap and horizon, not further"
    with pytest.raises(ValueError, match="read-only"):
        view.y[0, 0] = 1


def points(name: str, values: list[float], season: int, gap: int = 0) -> list[float]:
    data = read(items=1).data
    y = np.array([values + [0.0] * (gap + 3)])
    small = replace(data, y=y, seasons=(season,), known={}, past={}, items=("i0",), keys=(("i0",),), first=np.zeros(1, np.int64))
    rounds = cut_rounds(small, 3, 1, 1, gap)
    made = next(iter(make_methods([name], small)[0].run([View(small, one) for one in rounds], TASK, lambda share: None)))
    return [float(value) for value in made.mean[0]]


def test_simple_peers_by_hand() -> None:
    nan = float("nan")
    assert points("mean", [1, 2, nan, 3], 1) == [2, 2, 2]
    assert points("naive", [1, 2, 5, nan], 1) == [5, 5, 5]
    assert points("seasonal_naive", [1, 2, 3, 4, 5], 3) == [3, 4, 5]
    assert points("seasonal_naive", [1, 2, 3, 4, 5], 3, gap=1) == [4, 5, 3]
    assert points("seasonal_naive", [1, 2, 3, nan, 5], 3) == [3, 1, 5], "a season further back where one is unknown"
    assert points("seasonal_naive", [7], 3) == [7, 7, 7]


def test_empirical_quantiles_know_the_days_on_which_the_shop_is_shut(history: Dataset) -> None:
    rounds = cut_rounds(history, 7, 1, 1)
    task = Task(7, LEVELS, (7,), (1, 7))
    made = next(iter(make_methods(["empirical_quantiles_56"], history)[0].run([View(history, rounds[0])], task, lambda share: None)))
    shut = (rounds[0].cut + np.arange(7)) % 7 == 5
    assert (made.mean[:4][:, shut] == 0).all()
    assert (made.mean[:4][:, ~shut] > 0).all()
    assert made.totals[7][0, 2] > 0


def test_a_sample_forecasts_so_many_items_and_leaves_the_others_out(history: Dataset) -> None:
    rounds = cut_rounds(history, 3, 2, 3)
    result = backtest(history, rounds, TASK, make_methods(["naive", "naive@2"], history))
    whole, sample = result.outcomes
    some = np.isfinite(sample.mean).all(axis=(0, 2))
    assert some.sum() in (1, 2), "one of them may not have begun"
    np.testing.assert_array_equal(sample.mean[:, some], whole.mean[:, some])
    assert "sample of 2 of 5" in sample.note


def test_censored_and_unknown_cells_are_not_scored(history: Dataset) -> None:
    rounds = cut_rounds(history, 3, 1, 1)
    cut = rounds[0].cut
    y, censored = history.y.copy(), np.zeros(history.y.shape, np.bool_)
    y[0, cut] = np.nan
    censored[1, cut + 1] = True
    result = backtest(replace(history, y=y, censored=censored), rounds, TASK, make_methods(["naive"], history))
    assert not result.scored[0, 0, 0]
    assert not result.scored[0, 1, 1]
    assert result.scored[0, 2].all()


def test_peers_do_not_take_what_stock_cut_off_for_demand(history: Dataset) -> None:
    rounds = cut_rounds(history, 3, 1, 1)
    y, censored = history.y.copy(), np.zeros(history.y.shape, np.bool_)
    y[:4, rounds[0].cut - 1], y[:4, rounds[0].cut - 2] = 0, 9
    censored[:, rounds[0].cut - 1] = True
    data = replace(history, y=y, censored=censored)
    result = backtest(data, rounds, TASK, make_methods(["naive", "naive@3"], data))
    assert (result.outcomes[0].mean[0, :4] == 9).all()
    sampled = result.outcomes[1].mean[0, :4]
    assert np.isfinite(sampled).any()
    assert (sampled[np.isfinite(sampled)] == 9).all()


def test_a_round_begins_where_the_untrained_engine_stood_whatever_the_round_before_made_of_it(history: Dataset) -> None:
    views = [View(history, one) for one in cut_rounds(history, 3, 2, 4)]
    rounds = Rounds(views, TASK, 1, lambda share: None)
    for number in range(2):
        rounds.forecast(number)
    kept = rounds.kept
    assert kept is not None
    at, state = kept
    alone = Drive(views[1], TASK, rounds.layout.lookback)
    alone.go(views[1], at)
    told = alone.state()
    assert state.keys() == told.keys()
    assert not [name for name, values in told.items() if values.tobytes() != state[name].tobytes()]
