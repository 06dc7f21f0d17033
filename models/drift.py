"""Whether errors have changed lately: river's ADWIN over a bounded past, so that its state is an array.

Source: Bifet and Gavaldà, Learning from time-changing data with adaptive windowing (2007).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.protocol import Float64, State

_PAST = 192  # ticks
_EVERY = 4
_HASTE = 24  # ticks for which a change lasts
_CONFIDENCE = 0.002


class Drift:
    """Watches one error a tick."""

    def __init__(self) -> None:
        self._errors: Float64 = np.zeros(0)
        self._ticks = 0
        self._left = 0

    def update(self, error: float) -> bool:
        """Takes the error of a tick; True while a recent change lasts.

        Args:
            error: at least 0.
        """
        from models.rivers import ADWIN

        self._errors = np.append(self._errors[-(_PAST - 1) :], error)
        self._ticks += 1
        self._left = max(0, self._left - 1)
        if self._ticks % _EVERY == 0 and len(self._errors) >= 16:
            # ADWIN's own state has no form as an array: it is led through the past again, a microsecond a tick.
            adwin = ADWIN(delta=_CONFIDENCE, clock=_EVERY)
            found = False
            for value in self._errors.tolist():
                adwin.update(value)
                found = bool(adwin.drift_detected)
            if found:
                self._left = _HASTE
                self._errors = self._errors[-int(max(adwin.width, 8)) :]
        return self._left > 0

    def state(self) -> State:
        """The past and what is left of a change."""
        errors = np.full(_PAST, np.nan)
        errors[: len(self._errors)] = self._errors
        return {"errors": errors, "count": np.array([self._ticks, self._left], dtype=np.int64)}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes what state() gave."""
        errors = np.asarray(state["errors"], np.float64)
        self._errors = errors[np.isfinite(errors)].copy()
        self._ticks, self._left = np.asarray(state["count"], np.int64).tolist()
