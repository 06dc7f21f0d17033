"""Runs a function over things in a few threads that never keep the process from ending.

Not concurrent.futures: its threads are joined when the interpreter ends, so a store that hangs would hang a stopped engine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Given = TypeVar("Given")
Got = TypeVar("Got")


def each(function: Callable[[Given], Got], things: Iterable[Given], threads: int) -> list[Got]:
    """What the function gives for each thing, in order. After a failure no further thing is begun.

    Args:
        function: called in several threads at once.
        things: taken one by one, as threads become free.
        threads: how many at the most.

    Raises:
        Exception: the first that the function raised.
    """
    work = _Work(function, enumerate(things))
    if threads <= 1:
        work.run()
    else:
        crew = [threading.Thread(target=work.run, name=f"state-{index}", daemon=True) for index in range(threads)]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
    if work.failure is not None:
        raise work.failure
    return [work.done[index] for index in range(len(work.done))]


class _Work(Generic[Given, Got]):
    def __init__(self, function: Callable[[Given], Got], things: Iterator[tuple[int, Given]]) -> None:
        self.function, self.things = function, things
        self.lock = threading.Lock()
        self.done: dict[int, Got] = {}
        self.failure: BaseException | None = None

    def run(self) -> None:
        while True:
            with self.lock:
                if self.failure is not None or (taken := next(self.things, None)) is None:
                    return
            try:
                got = self.function(taken[1])
            except BaseException as failure:  # noqa: BLE001 — carried to whoever waits for all
                with self.lock:
                    self.failure = failure
                return
            with self.lock:
                self.done[taken[0]] = got
