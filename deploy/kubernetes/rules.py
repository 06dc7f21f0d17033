"""Makes components/monitoring/rules.yaml, a PrometheusRule, of deploy/prometheus/rules: `python deploy/kubernetes/rules.py`.

A test holds the two together.
"""

from __future__ import annotations

from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
TARGET = HERE / "components" / "monitoring" / "rules.yaml"
HEAD = "# Made by deploy/kubernetes/rules.py of deploy/prometheus/rules; change it there.\n"


def build() -> str:
    """The file's text."""
    sources = sorted((HERE.parent / "prometheus" / "rules").glob("*.yml"), reverse=True)  # what is recorded first
    groups = [group for path in sources for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "nowcart"},
        "spec": {"groups": groups},
    }
    text: str = yaml.safe_dump(rule, sort_keys=False, width=140, allow_unicode=True)
    return HEAD + text


if __name__ == "__main__":
    TARGET.write_text(build(), encoding="utf-8")
