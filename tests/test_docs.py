"""What the pages say is so: examples of records fit their schemas, and every key of the configuration has its line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from stream.records import REASONS
from stream.schemas import schemas
from stream.sources import FIELDS

EXAMPLE = re.compile(r"```json (\S+)\n(.*?)\n```", re.DOTALL)


def examples(root: Path) -> list[tuple[str, str]]:
    return EXAMPLE.findall((root / "docs" / "records.md").read_text(encoding="utf-8"))


def test_every_record_has_an_example_that_its_schema_accepts(root: Path) -> None:
    found = examples(root)
    assert {name for name, _ in found} == schemas().keys()
    for name, text in found:
        record = json.loads(text)
        jsonschema.validate(record, schemas()[name])
        # The schemas allow what later versions add; an example has nothing that nobody knows.
        assert record.keys() <= schemas()[name]["properties"].keys()


def test_every_reason_of_a_dead_letter_is_explained(root: Path) -> None:
    text = (root / "docs" / "records.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == REASONS


def keys(path: Path) -> dict[str, set[str]]:
    """Keys by table in a configuration, those that are commented out included; what a user names stands as NAME."""
    found: dict[str, set[str]] = {}
    table = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        line = re.sub(r"^# (?=[\[a-z\"])", "", line)
        if head := re.match(r"\[+([\w.]+)\]+", line):
            table = re.sub(r"sources\.\w+", "sources.NAME", head[1])
        elif key := re.match(r'"?([a-z_]+)"? = ', line):
            found.setdefault(table, set()).add(key[1])
    return found


@pytest.mark.parametrize(
    "table",
    [
        *("time", "sources.NAME", "demand", "demand.buckets", "intent", "models", "activity", "output", "state"),
        *("alerts", "alerts.alertmanager", "alerts.webhooks", "alerts.silences", "metrics", "device", "serve", "serve.keys", "serve.jwt"),
    ],
)
def test_every_key_has_its_line(root: Path, table: str) -> None:
    pages = re.split(r"^##+ \[+([\w.]+)\]+$", (root / "docs" / "configuration.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    explained = dict(zip(pages[1::2], pages[2::2], strict=True))
    known = keys(root / "examples" / "newcomer.toml")[table]
    assert known
    assert known <= set(re.findall(r"^\| `(\w+)` \|", explained[table], re.MULTILINE))


def test_every_field_of_every_kind_has_its_place(root: Path) -> None:
    text = (root / "docs" / "configuration.md").read_text(encoding="utf-8")
    for kind, fields in FIELDS.items():
        (line,) = re.findall(rf"^\| `{kind}` \|(.*)$", text, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", line)) == set(fields)
