"""The textbook models on plain arrays: they learn what is there, the same every time, and say what cannot be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.demand.textbook import TEXTBOOK, fit
from models.protocol import Float32

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
HORIZON, SEASON = 7, 7
every = pytest.mark.parametrize("name", sorted(TEXTBOOK))


def shop(items: int = 80, steps: int = 90, seed: int = 0) -> Float32:
    """float32[items, steps], Poisson units with a strong week and rates that differ by item."""
    random = np.random.default_rng(seed)
    rate = 6 * np.exp(random.normal(0, 0.8, items))[:, None] * (1 + 0.9 * np.sin(2 * np.pi * np.arange(steps) / SEASON))
    return random.poisson(rate).astype(np.float32)


@every
def test_it_learns_a_season_and_its_quantiles_hold(name: str) -> None:
    units = shop()
    history, actual = units[:, :-HORIZON], units[:, -HORIZON:]
    found = fit(name, history, HORIZON, LEVELS, season=SEASON).forecast(history)
    assert found.mean.shape == (80, HORIZON)
    assert found.quantiles.shape == (80, len(LEVELS), HORIZON)
    assert (np.diff(found.quantiles, axis=1) >= 0).all()
    assert (found.quantiles >= 0).all() and (found.mean >= 0).all()
    assert (found.quantiles == np.rint(found.quantiles)).all()
    flat = np.abs(history[:, -4 * SEASON :].mean(axis=1, keepdims=True) - actual).sum()
    assert np.abs(found.mean - actual).sum() < 0.75 * flat
    assert np.abs(found.quantiles[:, 2] - actual).sum() < 0.75 * flat
    inside = (actual >= found.quantiles[:, 0]) & (actual <= found.quantiles[:, -1])
    assert 0.7 < inside.mean() < 0.97


@every
def test_a_seed_is_a_model_and_nobody_elses_chance_is_touched(name: str) -> None:
    history = shop(30, 60)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again = (fit(name, history, HORIZON, LEVELS, season=SEASON, seed=3).forecast(history) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.quantiles.tobytes() == again.quantiles.tobytes()
    assert first.mean.tobytes() == again.mean.tobytes()


@every
def test_young_items_and_kilograms(name: str) -> None:
    history = shop(30, 60, seed=2)
    history[:5, :55] = np.nan  # first seen five days ago
    history[5:10] += np.float32(0.3)
    found = fit(name, history, HORIZON, LEVELS, season=SEASON).forecast(history)
    assert np.isfinite(found.mean).all() and np.isfinite(found.quantiles).all()
    assert (found.quantiles[5:10] != np.rint(found.quantiles[5:10])).any()


@every
def test_only_the_end_of_a_history_matters_to_a_forecast(name: str) -> None:
    history = shop(20, 60, seed=3)
    model = fit(name, history, HORIZON, LEVELS, season=SEASON, length=14)
    changed = history.copy()
    changed[:, : 60 - 14] = 0
    assert model.forecast(history).mean.tobytes() == model.forecast(changed).mean.tobytes()
    changed[:, -1] += 40
    assert (model.forecast(changed).mean.sum(axis=1) > model.forecast(history).mean.sum(axis=1)).mean() > 0.8


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match="one of"):
        fit("transformer", shop(3, 60), HORIZON, LEVELS)
    with pytest.raises(ValueError, match="at least 22 steps"):
        fit("mlp", shop(3, 20), HORIZON, LEVELS, length=14)
    with pytest.raises(ValueError, match="got 8"):
        fit("mlp", shop(3, 8), HORIZON, LEVELS)
