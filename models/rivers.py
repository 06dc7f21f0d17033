"""The parts of river that nowcart uses, imported without what they bring along and never use: a quarter of a process's start.

river.linear_model needs river.proba, which imports one name of scipy.stats, and that takes 0.4 s; river.preprocessing and river.drift
bring along trees, data sets and images. They get stand-ins here that load the real one when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from types import ModuleType
from typing import Any

_HEAVY = ("scipy.stats", "scipy.ndimage", "river.drift.datasets", "river.tree", "river.tree.padded")


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


_absent = [name for name in _HEAVY if name not in sys.modules]
sys.modules |= {name: _Later(name) for name in _absent}
try:
    from river import linear_model, optim, preprocessing, utils
    from river.drift import ADWIN
finally:
    for _name in _absent:
        del sys.modules[_name]  # everybody else gets the real one


@cache
def time_series() -> ModuleType:
    """river.time_series, loaded when it is first asked for: a third of a second, mostly for data sets and metrics."""
    return importlib.import_module("river.time_series")


__all__ = ["ADWIN", "linear_model", "optim", "preprocessing", "time_series", "utils"]
