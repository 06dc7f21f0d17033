"""Textbook models by name, so that anyone can see what they are worth on their own data: ar_k, mlp, lstm, gru.

They are trained on a history and forecast from it: no experts of the council, nothing online, not exact under batching. All forecast every
step at once (direct), from an item's latest buckets relative to their mean.
"""

from __future__ import annotations

from models.demand.textbook.ar_k import ARK
from models.demand.textbook.networks import GRU, LSTM, MLP
from models.demand.textbook.windows import History, Setting, Textbook, TextbookForecast, TextbookModel

TEXTBOOK: dict[str, type[Textbook]] = {model.name: model for model in (ARK, MLP, LSTM, GRU)}
"""Models by name."""


def fit(
    name: str, history: History, horizon: int, levels: tuple[float, ...], *, season: int = 0, length: int | None = None, seed: int = 0
) -> TextbookModel:
    """Trains a model.

    Args:
        name: one of TEXTBOOK.
        history: float32[items, steps], units a bucket, oldest first; NaN before an item was first seen.
        horizon: steps to forecast.
        levels: quantile levels, ascending.
        season: length in buckets; 0 for none.
        length: buckets that a forecast is made from; default two seasons, at least 14, as far as the history allows.
        seed: of weights and batches.

    Raises:
        ValueError: there is no such model, or the history is too short.
    """
    if name not in TEXTBOOK:
        raise ValueError(f"a textbook model is one of {sorted(TEXTBOOK)}; got {name!r}")
    steps = history.shape[1]
    wanted = max(2 * season, 14) if length is None else length
    if length is None:
        wanted = min(wanted, (steps - horizon) // 2)
    if wanted < 1 or steps < wanted + horizon + 1:
        raise ValueError(f"a history must have at least {max(wanted, 1) + horizon + 1} steps for a horizon of {horizon}; got {steps}")
    return TEXTBOOK[name].fit(history, Setting(horizon, levels, season, wanted, seed))


__all__ = ["ARK", "GRU", "LSTM", "MLP", "TEXTBOOK", "Setting", "Textbook", "TextbookForecast", "TextbookModel", "fit"]
