"""The parts of river that nowcart uses, imported without what they bring along and never use: a quarter of a process's start.

river.linear_model needs river.proba, which imports one name of scipy.stats, and that takes 0.4 s. It gets a stand-in here that
loads the real one when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from types import ModuleType
from typing import Any

_HEAVY = "scipy.stats"


class _OnFirstUse:
    """A name of a module that is not loaded yet."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *args: Any, **more: Any) -> Any:
        return self._real()(*args, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)

    def _real(self) -> Any:
        return getattr(importlib.import_module(self._module), self._name)


class _Later(ModuleType):
    """A module that gives such names."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _OnFirstUse(self.__name__, name)


_loaded = _HEAVY in sys.modules
if not _loaded:
    sys.modules[_HEAVY] = _Later(_HEAVY)
try:
    from river import linear_model, optim, preprocessing, utils
finally:
    if not _loaded:
        del sys.modules[_HEAVY]  # everybody else gets the real one


@cache
def time_series() -> ModuleType:
    """river.time_series, loaded when it is first asked for: a third of a second, mostly for data sets and metrics."""
    return importlib.import_module("river.time_series")


__all__ = ["linear_model", "optim", "preprocessing", "time_series", "utils"]
