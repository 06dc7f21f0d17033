"""Imports point down: what each module may know is decided here, and a reader who opens a file can rely on it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LAYERS: tuple[tuple[str, ...], ...] = (
    ("models",),
    ("stream.engine.columns",),
    ("stream.engine",),
    ("stream.tables", "stream.collector"),
    ("stream.sources", "stream.alerting", "stream.serving", "stream.calendar"),
    ("stream.config",),
    ("stream.mapping", "stream.records", "stream.simulate"),
    ("stream.schemas",),
    ("stream.metrics",),
    ("stream.kafka",),
    ("stream.topics", "stream.state"),
    ("stream.runners", "stream.check", "stream.alerts", "stream.serve"),
    ("stream.replay", "stream.demo"),
    ("stream.bench", "stream.backtest"),
    ("stream.train",),
    ("stream.cli",),
)
"""From the lowest up. A module may import its own package and those of lower layers, not its neighbours'."""

WALLS: dict[str, tuple[str, ...]] = {
    "confluent_kafka": ("stream.kafka",),
    "noida_db": ("stream.kafka.embedded",),
    "faust": ("stream.alerts.consume",),
    "aiokafka": ("stream.alerts.consume",),
    "mode": ("stream.alerts.consume",),
    "prometheus_client": ("stream.metrics", "stream.serve.counters"),
    "torch": ("models",),
    "river": ("models", "stream.bench.spike_peers"),
    "holidays": ("stream.calendar",),
    "fsspec": ("stream.state.folder",),
    "s3fs": ("stream.state.folder",),
    "aiohttp": ("stream.serve", "stream.alerts"),
    "jwt": ("stream.serve.access",),
    "uvloop": ("stream.serve.server",),
    "argparse": ("stream.cli",),
    "rich": ("stream.cli", "stream.demo"),
    "plotly": ("stream.backtest.report", "stream.backtest.intent_report"),
    "tensorboardX": ("stream.train.curves",),
    "wandb": ("stream.train.curves",),
    "statsforecast": ("stream.backtest.library",),
    "lightgbm": ("models.demand.trees", "models.train.boosting", "stream.backtest.boosted", "stream.backtest.intent_peers"),
    "xgboost": ("stream.backtest.intent_peers",),
}
"""One package, one place that knows it."""

ENGINE_MAY = {"msgspec", "numpy", "models", "stream"}
"""What the engine may import beside the standard library (msgspec: blocks are bytes in, bytes out)."""

ENGINE_MAY_NOT = {"asyncio", "io", "logging", "os", "pathlib", "random", "socket", "subprocess", "tempfile", "threading", "time"}
"""Of the standard library: no I/O, no clock, no logging, no chance."""

STANDARD = {
    "__future__",
    "abc",
    "bisect",
    "collections",
    "contextlib",
    "copy",
    "dataclasses",
    "datetime",
    "enum",
    "functools",
    "hashlib",
    "heapq",
}
STANDARD |= {"itertools", "json", "math", "operator", "re", "struct", "sys", "typing", "zlib", "zoneinfo"}


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def layer_of(module: str) -> int:
    """The layer of the longest name that holds the module."""
    held = [(len(package), rank) for rank, packages in enumerate(LAYERS) for package in packages if within(module, package)]
    return max(held)[1] if held else -1


def package_of(module: str) -> str:
    return max((package for packages in LAYERS for package in packages if within(module, package)), key=len)


def name_of(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of everything imported, inside functions and for type checkers too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*above, base] if base else above)
            # `from stream import records` imports the module stream.records; `from stream.records import X` an X of it.
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def complaints(module: str, source: str, is_package: bool = False) -> list[str]:
    """What a module imports that it must not."""
    if module == "stream":
        return [f"line {line}: the package itself imports nothing; got {name}" for line, name in imports(source, module, True)]
    own, found = layer_of(module), []
    if own < 0:
        return ["it stands in no layer: give it a place in LAYERS"]
    for line, name in imports(source, module, is_package):
        where = f"line {line}: {name}"
        if name.split(".")[0] in ("stream", "models"):
            theirs = layer_of(name)
            if theirs > own or theirs < 0:
                found.append(f"{where} is above {module}")
            elif theirs == own and package_of(name) != package_of(module):
                found.append(f"{where} is a neighbour of {module}")
            if within(module, "models") and not within(name, "models"):
                found.append(f"{where}: models know nothing of stream")
        for package, places in WALLS.items():
            if within(name, package) and not any(within(module, place) for place in places):
                found.append(f"{where} belongs to {', '.join(places)} alone")
        top = name.split(".")[0]
        if within(module, "stream.engine") and (top in ENGINE_MAY_NOT or top not in ENGINE_MAY | STANDARD):
            found.append(f"{where}: the engine is pure")
    return found


ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(file for package in ("stream", "models") for file in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: name_of(file, ROOT))
def test_imports_point_down(file: Path) -> None:
    found = complaints(name_of(file, ROOT), file.read_text(encoding="utf-8"), file.name == "__init__.py")
    assert not found, "\n".join([str(file.relative_to(ROOT)), *found])


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("models.council", "from stream.engine.columns import Rows"),
        ("models.council", "import stream"),
        ("stream.engine.ingest", "import time"),
        ("stream.engine.ingest", "from stream.kafka.log import Records"),
        ("stream.engine.ingest", "import pandas"),
        ("stream.engine.columns", "from stream.engine.time import Zone"),
        ("stream.engine.columns", "from .time import Zone"),
        ("stream.records", "def f():\n    from stream.mapping import Decoder"),
        ("stream.kafka.client", "from ..runners import loop"),
        ("stream.runners.loop", "import confluent_kafka.admin"),
        ("stream.kafka.client", "import noida_db"),
        ("stream.runners.loop", "from stream import cli"),
        ("stream.something_new", ""),
    ],
)
def test_what_points_up_is_found(module: str, source: str) -> None:
    assert complaints(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("stream.engine.ingest", "import numpy as np\nfrom .columns import Rows\nfrom models.protocol import IntentModel"),
        ("stream.cli.main", "from stream.runners import engine\nfrom stream.config import load"),
        ("stream.kafka.client", "from confluent_kafka import Consumer\nfrom stream.kafka.log import Records"),
    ],
)
def test_what_points_down_is_fine(module: str, source: str) -> None:
    assert complaints(module, source) == []
