"""Prometheus's programs: found where Debian's packages put them, or a skip with a reason."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"

_PACKAGES = {
    "promtool": "prometheus",
    "prometheus": "prometheus",
    "amtool": "prometheus-alertmanager",
    "alertmanager": "prometheus-alertmanager",
}


def program(name: str) -> str:
    """The path of a program, by Prometheus's own name for it."""
    found = shutil.which(name) or shutil.which(f"prometheus-{name}")
    if found is None:
        pytest.skip(f"no {name} here: install Debian's package {_PACKAGES[name]}, or put it on the PATH")
    return found


def ran(name: str, *arguments: str | Path) -> str:
    """What a program says that must succeed."""
    done = subprocess.run([program(name), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def documents(path: Path) -> list[dict[str, Any]]:
    """A file's YAML documents."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]
