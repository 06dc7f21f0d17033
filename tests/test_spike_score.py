"""How the spikes' yardstick counts: one alert a spike, all others false, and nothing said about spikes that the hours cut off."""

from __future__ import annotations

import numpy as np

from stream.bench.spike_score import Target, match, openings


def target(item: int, first: int, last: int, side: int = 0, whole: bool = True) -> Target:
    return Target(item, first, last, side, "sudden", 5.0, 10.0, float(first), whole)


def test_an_alert_matches_a_spike_of_its_item_and_direction_from_its_onset_to_the_bucket_after_its_end() -> None:
    wanted = [target(1, 10, 14), target(1, 30, 32, side=1), target(2, 10, 14)]
    result = match([(9, 1, 0), (10, 1, 0), (14, 2, 0), (30, 1, 0), (32, 1, 1)], wanted, 0)
    assert result.found == {0: 10, 1: 32, 2: 14}
    assert result.false == 2  # too early, and in the wrong direction


def test_a_second_alert_about_the_same_spike_is_false() -> None:
    assert match([(10, 1, 0), (12, 1, 0)], [target(1, 10, 14)], 0).false == 1


def test_a_spike_that_the_hours_cut_off_is_neither_to_be_found_nor_false() -> None:
    cut = [target(1, 2, 8, whole=False)]
    result = match([(8, 1, 0), (9, 1, 0), (8, 1, 1), (4, 1, 0)], cut, 5)
    assert result.found == {}
    assert result.false == 2  # over, and in the other direction; before the hours that count nothing is looked at


def test_what_was_over_the_threshold_before_the_hours_that_count_opens_no_more() -> None:
    scores = np.zeros((2, 100, 2), np.float32)
    scores[0, 55:65, 0] = 9  # goes on from before
    scores[0, 70, 1] = scores[0, 75, 1] = scores[0, 90, 1] = 9
    assert openings(scores, 8.0, 60) == [(70, 1, 0), (90, 1, 0)]
