"""Scores of several partitions, as the gauges show them."""

from __future__ import annotations

from stream.runners.forecast import mean_scores


def test_scores_are_the_mean_over_the_partitions_that_have_them() -> None:
    one = {"wape": {"ewma": {"1": 0.2, "7": 0.4}}, "coverage": {"0.9": {"below": 0.8, "at_or_below": 1.0}}}
    two = {"wape": {"ewma": {"1": 0.4}, "river": {"1": 0.3}}, "coverage": {}}
    assert mean_scores([one, two]) == {
        "wape": {"ewma": {"1": 0.30000000000000004, "7": 0.4}, "river": {"1": 0.3}},
        "coverage": {"0.9": {"below": 0.8, "at_or_below": 1.0}},
    }
