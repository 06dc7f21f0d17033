"""`nowcart backtest --intent`: split by time, train, replay on, compare with peers and, of a simulated shop, with what can be known at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.intent.weights import IntentWeights
from models.train.intent import Training, fit_intent
from stream.backtest.intent_next import next_items
from stream.backtest.intent_peers import PEERS
from stream.backtest.intent_record import POSITIONS, Counts, Events, Recorder, replay
from stream.backtest.intent_scores import paired, reliability, scores
from stream.config import Config, Source
from stream.engine.features import OPTIONAL_COLUMNS
from stream.engine.time import DAY_MS, Zone
from stream.mapping import Piece
from stream.tables import UserError

MOST_ROWS = 300_000
"""Rows that a peer is trained on, at most: the newest."""
MAIN = "nowcart"

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Oracle = Callable[[Events, NDArray[np.bool_]], Floats]


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked."""

    cuts: tuple[int, ...]
    """Event times, ascending, epoch milliseconds: training looks at what was known by the first; peers train anew at each."""
    warm_ms: int
    """After the first cut, for the models' weights and calibration to find themselves; not scored."""
    until_ms: int | None = None
    """Sessions that begin later are not scored."""
    refit: bool = False
    """Train the recurrent model at every cut, not at the first alone."""
    peers: tuple[str, ...] = tuple(PEERS)
    training: Training = field(default_factory=lambda: Training(optional=OPTIONAL_COLUMNS))


@dataclass(slots=True)
class Result:
    """What came out."""

    table: dict[str, Any]
    """`settings`, `counts`, and by model the scores, overall and by position."""
    diagrams: dict[str, tuple[Floats, Floats, Floats]]
    """Reliability by model."""
    weights: IntentWeights | None


def day_cuts(first_ms: int, last_ms: int, zone: Zone) -> tuple[int, ...]:
    """The first cut and the starts of the local days behind it.

    Args:
        first_ms: epoch milliseconds.
        last_ms: of the history.
        zone: the shop's.
    """
    days = zone.days(np.array([first_ms, last_ms], dtype=np.int64))
    starts = zone.day_starts(np.arange(int(days[0]) + 1, int(days[1]) + 1, dtype=np.int64))
    return (first_ms, *(start for start in starts.tolist() if start > first_ms + DAY_MS // 4))


def backtest(
    config: Config,
    source: Source,
    pieces: Iterable[Piece],
    task: Task,
    oracle: Oracle | None = None,
    tell: Callable[[str, int], None] = lambda *_: None,
) -> Result:
    """Runs it.

    Args:
        config: the user's.
        source: its clickstream.
        pieces: the messages, in order of the log.
        task: what is asked.
        oracle: for a simulated shop.
        tell: told what is being done, and how much of it.

    Raises:
        UserError: nobody bought before the first cut, or nothing can be scored behind it.
    """
    fitted: list[tuple[IntentWeights, dict[str, Any]]] = []

    def reached(number: int, recorder: Recorder) -> None:
        if number and not task.refit:
            return
        events = recorder.events()
        sessions = events.sessions()
        try:
            fitted.append(
                fit_intent(
                    sessions, task.training, f"fitted-{number + 1}", lambda epoch, loss: tell(f"training, loss {loss:.4f}", epoch + 1)
                )
            )
        except ValueError as error:
            if number == 0 and not task.refit:
                raise UserError(f"backtest --intent: {error}") from error
            return  # too few so far: the drawn weights go on
        recorder.scorer.swap(fitted[-1][0])

    events, counts = replay(config, source, pieces, task.cuts, reached, lambda done: tell("replaying", done))
    start = events.start_ms[events.session]
    until = np.iinfo(np.int64).max if task.until_ms is None else task.until_ms
    scored = events.risk() & (start >= task.cuts[0] + task.warm_ms) & (start < until)
    if not scored.any():
        raise UserError(
            "backtest --intent must have sessions that end behind the first cut; got none: take a longer history, or an earlier cut"
        )
    said = {name: events.said[:, column].astype(np.float64) for column, name in enumerate(events.models)}
    for name in task.peers:
        tell(f"training {name}", 0)
        said[name] = _peer(name, events, task, scored)
    best = None
    if oracle is not None:
        tell("asking the oracle", 0)
        best = oracle(events, scored)
        said["oracle"] = best
    return _summary(events, counts, task, said, best, scored, fitted)


def _peer(name: str, events: Events, task: Task, scored: NDArray[np.bool_]) -> Floats:
    risk, label = events.risk(), events.label()
    known = events.known_ms[events.session]
    begun = events.start_ms[events.session]
    out = np.full(len(events.session), np.nan)
    bounds = [*task.cuts, np.iinfo(np.int64).max]
    for cut, following in zip(bounds[:-1], bounds[1:], strict=True):
        rows = np.flatnonzero(scored & (begun >= cut) & (begun < following))
        train = np.flatnonzero(risk & (known <= cut))[-MOST_ROWS:]
        if not len(rows):
            continue
        if not 0 < label[train].sum() < len(train):
            out[rows] = max(float(label[train].mean()) if len(train) else 0.0, 1e-4)
            continue
        out[rows] = PEERS[name](events.x[train], label[train])(events.x[rows])
    return out


def _summary(
    events: Events,
    counts: Counts,
    task: Task,
    said: dict[str, Floats],
    best: Floats | None,
    scored: NDArray[np.bool_],
    fitted: Sequence[tuple[IntentWeights, dict[str, Any]]],
) -> Result:
    rows = np.flatnonzero(scored)
    session, position, label = events.session[rows], events.position[rows], events.label()[rows]
    weight = 1.0 / np.bincount(session, minlength=len(events.purchase_position))[session]
    top = None if best is None else best[rows]
    models: dict[str, Any] = {}
    diagrams = {}
    for name, p in said.items():
        mine = p[rows]
        found = {"overall": scores(mine, label, weight, top)}
        for at in POSITIONS:
            here = np.flatnonzero(position == at)
            found[str(at)] = scores(mine[here], label[here], np.ones(len(here)), None if top is None else top[here])
        if name not in (MAIN, "oracle"):
            found["paired"] = paired(said[MAIN][rows], mine, label, weight, session)
        models[name] = found
        diagrams[name] = reliability(mine, label, np.ones(len(mine)))  # as the calibration error: every event alike
    robots = int((events.bot & (events.start_ms >= task.cuts[0])).sum())
    table = {
        "settings": {
            "cuts_ms": list(task.cuts), "warm_ms": task.warm_ms, "refit": task.refit, "positions": list(POSITIONS), "until_ms": task.until_ms,
        },
        "counts": {
            "messages": counts.messages, "events": counts.events, "rejected": counts.rejected, "too_late": counts.late,
            "sessions": len(events.purchase_position), "scored_sessions": len(np.unique(session)), "scored_events": len(rows),
            "buyers_scored": int((events.purchase_position[np.unique(session)] > 0).sum()), "robots_left_out": robots,
        },
        "training": [card for _, card in fitted],
        "next_items": next_items(events, rows, task.cuts),
        "models": models,
    }  # fmt: skip
    return Result(table, diagrams, fitted[-1][0] if fitted else None)
