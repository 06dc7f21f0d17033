"""The hidden Markov model of a session: states, what each emits, and what follows exactly from that. No sampling here.

A session is a walk over hidden states until END. Each step emits an event: its kind, the gap since the last event, and,
for a view, how the item relates to the one shown before (the same; one of its category; any). Probabilities are whole
multiples of 1/65536, so that a table look-up by a random uint16 samples them exactly as the oracle believes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.simulate.spec import ShopSpec

Floats = NDArray[np.float64]

GLANCE, BROWSE, COMPARE, BUY, CHECKOUT, PAY, DONE, BOT, END = range(9)
STATES = ("glance", "browse", "compare", "buy", "checkout", "pay", "done", "bot")
VIEW, SEARCH, CART, REMOVE, PURCHASE, OTHER = range(6)
KINDS = ("view", "search", "cart", "remove", "purchase", "other")
SAME, CATEGORY, ANY = range(3)
UNIT = 65_536

GAP_MIN_MS, GAP_MAX_MS = 50.0, 1_200_000.0
"""Gaps are cut to this (times dwell): no session pauses for the half hour that would end it."""

_EMIT = np.array(
    [  # view search cart remove purchase other
        [0.90, 0.06, 0.00, 0.00, 0.00, 0.04],
        [0.72, 0.20, 0.01, 0.003, 0.00, 0.067],
        [0.84, 0.05, 0.045, 0.015, 0.00, 0.05],
        [0.43, 0.02, 0.42, 0.05, 0.00, 0.08],
        [0.06, 0.00, 0.08, 0.05, 0.00, 0.81],
        [0.00, 0.00, 0.00, 0.00, 1.00, 0.00],
        [0.60, 0.10, 0.03, 0.00, 0.00, 0.27],
        [0.96, 0.03, 0.00, 0.00, 0.00, 0.01],
    ]
)
_RELATE = np.array(
    [  # same category any
        [0.10, 0.30, 0.60],
        [0.15, 0.45, 0.40],
        [0.35, 0.58, 0.07],
        [0.60, 0.35, 0.05],
        [0.80, 0.15, 0.05],
        [1.00, 0.00, 0.00],
        [0.10, 0.60, 0.30],
        [0.02, 0.18, 0.80],
    ]
)
_GAP_MEDIAN_S = np.array([12.0, 22.0, 14.0, 9.0, 25.0, 35.0, 30.0, 1.2])
_GAP_SIGMA = np.array([1.0, 1.0, 0.9, 0.8, 0.7, 0.6, 1.0, 0.3])
_START = np.array([0.40, 0.44, 0.125, 0.035, 0, 0, 0, 0, 0])
_MOVE = np.array(
    [  # glance browse compare buy checkout pay done bot end
        [0.40, 0.12, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.48],
        [0.00, 0.76, 0.08, 0.004, 0.00, 0.00, 0.00, 0.00, 0.156],
        [0.00, 0.08, 0.75, 0.07, 0.00, 0.00, 0.00, 0.00, 0.10],
        [0.00, 0.03, 0.09, 0.60, 0.20, 0.00, 0.00, 0.00, 0.08],
        [0.00, 0.00, 0.04, 0.06, 0.45, 0.36, 0.00, 0.00, 0.09],
        [0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.60, 0.00, 0.40],
        [0.00, 0.08, 0.00, 0.03, 0.00, 0.00, 0.50, 0.00, 0.39],
        [0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.50, 0.50],
    ]
)


@dataclass(frozen=True, slots=True)
class Intent:
    """The model of sessions that start under one conversion; all probabilities as they are sampled."""

    start: Floats
    """float64[8], of the first state."""
    move: Floats
    """float64[8, 9], to the next state; column END ends the session."""
    emit: Floats
    """float64[8, 6], of the kinds."""
    relate: Floats
    """float64[8, 3], same | category | any, for a view that follows an item."""
    gap_mu: Floats
    """float64[8], log milliseconds: the gap before an event of the state is log-normal, cut to [gap_min, gap_max]."""
    gap_sigma: Floats
    gap_min_ms: float
    gap_max_ms: float

    def reach(self, kind: int) -> Floats:
        """float64[8], P(an event of `kind` follows before the end | the state of the event just seen).

        Args:
            kind: VIEW … OTHER.
        """
        stay, hit = self.move[:, :END], self.emit[:, kind]
        return np.asarray(np.linalg.solve(np.eye(END) - stay * (1 - hit), stay @ hit))

    def visits(self) -> Floats:
        """float64[8], expected events of a session in each state."""
        return np.asarray(np.linalg.solve(np.eye(END) - self.move[:, :END].T, self.start))

    def converts(self) -> float:
        """P(a session that is not a bot's buys)."""
        people = self.start.copy()
        people[BOT] = 0
        return float(people @ self.reach(PURCHASE) / people.sum())

    def purchase_delay(self, step_ms: float, steps: int) -> Floats:
        """float64[steps], expected purchases of a session by their time since its first event, in bins of step_ms.

        With D(w) the diagonal of the gaps' transforms, Σ start (move D)^n = start (I - move D)^-1: one solve a frequency.

        Args:
            step_ms: width of a bin.
            steps: bins; what falls beyond wraps around, so take many.
        """
        edges = (np.arange(steps + 1) - 0.5) * step_ms
        gaps = np.diff(np.array([[self.gap_cdf(s, edge) for edge in edges] for s in range(END)]), axis=1)
        turn = np.fft.rfft(gaps, axis=1)  # complex[8, frequencies]
        chain = np.eye(END)[None] - self.move[None, :, :END] * turn.T[:, None, :]
        hits = np.linalg.solve(np.swapaxes(chain, 1, 2), np.broadcast_to(self.start, (len(chain), END))[..., None])[..., 0]
        return np.asarray(np.fft.irfft(hits[:, PAY], steps))

    def gap_cdf(self, state: int, gap_ms: float) -> float:
        """P(gap before an event of `state` ≤ gap_ms).

        Args:
            state: GLANCE … BOT.
            gap_ms: milliseconds.
        """
        if gap_ms < self.gap_min_ms:
            return 0.0
        if gap_ms >= self.gap_max_ms:
            return 1.0
        return 0.5 * math.erfc(-(math.log(gap_ms) - self.gap_mu[state]) / (self.gap_sigma[state] * math.sqrt(2)))


def make_intents(spec: ShopSpec) -> tuple[Intent, ...]:
    """The session model, and a second one for after `conversion_change`.

    Args:
        spec: the shop; its session_events, conversion, bot_share, bot_events and dwell are met.
    """
    # Longer sessions buy more, and buyers stay longer, so the two odds are solved for in turn until both hold.
    leave, enter = 1.0, 1.0
    for _ in range(8):
        leave = _solve(lambda x, e=enter: -_length(spec, x, e), -spec.human_events)
        enter = _solve(lambda x, at=leave: _build(spec, at, x, 1.0).converts(), spec.conversion)
    base = _build(spec, leave, enter, 1.0)
    if spec.conversion_change is None:
        return (base,)
    wanted = base.converts() * spec.conversion_change[1]
    if _build(spec, leave, enter, 1e4).converts() < wanted:
        raise ValueError(f"conversion_change cannot raise conversion from {base.converts():.3f} to {wanted:.3f}: lower its factor")
    return base, _build(spec, leave, enter, _solve(lambda x: _build(spec, leave, enter, x).converts(), wanted))


def _solve(function, target: float) -> float:  # type: ignore[no-untyped-def]
    """The odds factor at which a rising function meets a target, by bisection of its logarithm."""
    low, high = -12.0, 12.0
    for _ in range(36):
        middle = (low + high) / 2
        low, high = (middle, high) if function(math.exp(middle)) < target else (low, middle)
    return math.exp((low + high) / 2)


def _length(spec: ShopSpec, leave: float, enter: float) -> float:
    """Expected events of a session that is not a bot's."""
    visits = _build(spec, leave, enter, 1.0).visits()
    return float((visits.sum() - visits[BOT]) / (1 - spec.bot_share))


def _build(spec: ShopSpec, leave: float, enter: float, check_out: float) -> Intent:
    """The model with the odds of leaving, of beginning to buy and of going to the checkout multiplied."""
    move = _MOVE.copy()
    move[BOT, END] = 1 / spec.bot_events
    move[BOT, BOT] = 1 - move[BOT, END]
    start = _START.copy()
    # Less of the tilt at the start: those who come to buy show it at once, and the first events are worth something.
    _tilt(start, BUY, enter**0.25)
    for state in (BROWSE, COMPARE, DONE):
        _tilt(move[state], BUY, enter)
    _tilt(move[BUY], CHECKOUT, check_out)
    for state in range(BOT):
        _tilt(move[state], END, leave)
    start *= 1 - spec.bot_share
    start[BOT] = spec.bot_share
    shift = math.log(spec.dwell)
    return Intent(
        start=_whole(start[None, :END])[0],
        move=_whole(move),
        emit=_whole(_EMIT),
        relate=_whole(_RELATE),
        gap_mu=np.log(_GAP_MEDIAN_S * 1000) + shift,
        gap_sigma=_GAP_SIGMA,
        gap_min_ms=max(1.0, GAP_MIN_MS * spec.dwell),
        gap_max_ms=max(2.0, GAP_MAX_MS * spec.dwell),
    )


def _tilt(row: Floats, target: int, odds: float) -> None:
    """Multiply the odds of one entry of a probability row, in place; the others keep their proportions."""
    old = row[target]
    new = odds * old / (1 - old + odds * old)
    row *= (1 - new) / (1 - old)
    row[target] = new


def _whole(rows: Floats) -> Floats:
    """Round probability rows to multiples of 1/65536 that sum to 1; what rounding leaves goes to the largest."""
    counts = np.round(rows * UNIT)
    counts[np.arange(len(rows)), rows.argmax(axis=1)] += UNIT - counts.sum(axis=1)
    return np.asarray(counts / UNIT)


def lookup(rows: Floats) -> NDArray[np.int8]:
    """int8[rows * 65536], the column that a uint16 draw picks in each row.

    Args:
        rows: float64[rows, columns], multiples of 1/65536.
    """
    counts = np.round(rows * UNIT).astype(np.int64)
    columns = np.tile(np.arange(rows.shape[1], dtype=np.int8), len(rows))
    return np.repeat(columns, counts.ravel())
