"""What the tests on real shops' files share: whole runs, and engines in processes of their own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from stream.cli.main import main
from stream.config import load
from stream.kafka.admin import Admin, Topic
from stream.kafka.embedded import EmbeddedBroker
from stream.kafka.reader import follow
from stream.kafka.sender import Sender
from stream.topics import own_topics

PATIENCE_S = 150.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They all take long, and a machine that is busy with the others as well."""
    for item in items:
        if "realdata" in item.path.parts:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def embedded() -> Iterator[str]:
    """Bootstrap servers of an embedded broker."""
    if importlib.util.find_spec("noida_db") is None:
        pytest.skip("the embedded broker is not installed: pip install 'nowcart[local]'")
    with EmbeddedBroker() as broker:
        yield broker.bootstrap_servers


def whole_run(config: Path, out: Path, *sources: str, partitions: int = 4) -> dict[str, Any]:
    """`nowcart replay … --embedded --out …`; the summary."""
    if importlib.util.find_spec("noida_db") is None:
        pytest.skip("the embedded broker is not installed: pip install 'nowcart[local]'")
    named = [argument for source in sources for argument in ("--source", source)]
    assert main(["replay", str(config), *named, "--embedded", "--out", str(out), "--partitions", str(partitions)]) == 0
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def records(file: Path, before: bytes = b"") -> Iterator[dict[str, Any]]:
    """The records of an output file; with `before`, of each only what stands before that: a forecast is long to read."""
    with file.open("rb") as lines:
        for line in lines:
            value = line[line.index(b'"value":') + 8 :]
            yield json.loads(value[: value.index(before)] + b"}" if before else line)


class Row(NamedTuple):
    """A message of a shop's topic."""

    key: bytes
    value: bytes


class Layout(NamedTuple):
    """How a log is cut, and by whom it is read."""

    partitions: int
    """Of the source topic."""
    processes: int = 1
    fetch_bytes: int = 1_048_576
    """The most that a fetch brings of a partition: small ones cut the log into many batches."""


Demand = Mapping[str, Sequence[bytes]]
"""By item, the values of its records in their order."""


def run_layout(bootstrap: str, config_text: str, folder: Path, name: str, rows: Sequence[Row], layout: Layout) -> Demand:
    """Sends rows by their keys to a topic of so many partitions and runs so many processes to the end of it.

    Args:
        bootstrap: of a broker.
        config_text: TOML, with one source on the topic "shop" and without [kafka], [output], [state] and [metrics].
        folder: for files.
        name: of this run.
        rows: in the order in which they are sent.
        layout: of topic and processes.
    """
    path = folder / f"{name}.toml"
    text = config_text.replace('topic = "shop"', f'topic = "{name}.shop"')
    path.write_text(
        f'[kafka]\nbootstrap_servers = "{bootstrap}"\nfetch.message.max.bytes = {layout.fetch_bytes}\n{text}\n'
        f'[output]\nprefix = "{name}."\n[metrics]\nport = 0\n[state]\nurl = "file:{folder}/{name}"\n',
        encoding="utf-8",
    )
    config = load(path)
    kafka = {"bootstrap.servers": bootstrap}
    admin = Admin(kafka)
    admin.create([*own_topics(config), Topic(f"{name}.shop", layout.partitions)])
    with Sender(kafka) as sender:
        sender.send(f"{name}.shop", [row.value for row in rows], [row.key for row in rows])
    command = [sys.executable, "-m", "stream.cli.main", "run", str(path), "--until-end", "--log-level", "warning"]
    started = [
        subprocess.Popen([*command, "--instance", f"p{number}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for number in range(layout.processes)
    ]
    try:
        for process in started:
            said, _ = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, said
    finally:
        for process in started:
            process.kill()
            process.communicate()
    found: dict[str, list[bytes]] = defaultdict(list)
    for record in follow(kafka, [f"{name}.demand"], until_end=True):
        assert record.key is not None
        assert record.value is not None
        found[record.key.decode()].append(record.value)
    admin.delete([*(topic.name for topic in own_topics(config)), f"{name}.shop"])  # the broker keeps topics in memory
    return found


def require_same(layouts: Mapping[Layout, Demand]) -> None:
    """The same records, byte for byte and in the same order, for every item."""
    (first, expected), *others = layouts.items()
    assert expected, "nothing was published at all"
    for layout, found in others:
        assert found.keys() == expected.keys(), f"{layout} has other items than {first}"
        for item, values in expected.items():
            for number, (theirs, ours) in enumerate(zip(found[item], values, strict=False)):
                assert theirs == ours, f"record {number} of item {item}: {layout} differs from {first}"
            assert len(found[item]) == len(values), f"item {item}: {layout} has other records than {first}"


def final_observed(demand: Demand) -> dict[tuple[str, str, int], tuple[float, float, int]]:
    """Units ordered, units returned and order lines by item and bucket, as last said."""
    found = {}
    for values in demand.values():
        for value in values:
            record = json.loads(value)
            found[record["item"], record["bucket"], record["bucket_start_ms"]] = (record["observed"], record["returned"], record["orders"])
    return found


RealFile = Callable[[str], Path]
