"""The dashboards are what the code makes, and ask for nothing that is not there."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_prometheus import NAME, known_names, rules
from tests.deploy.tools import DEPLOY, ran

GRAFANA = DEPLOY / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))

OTHERS = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def test_the_files_are_what_the_code_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("dashboards", GRAFANA / "dashboards.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "dashboards", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    assert {path.stem for path in FILES} == set(module.BOARDS)
    for path in FILES:
        assert path.read_text(encoding="utf-8") == module.build(module.BOARDS[path.stem]), f"{path.name}: run deploy/grafana/dashboards.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_metric_is_one_that_the_engine_or_a_rule_makes(path: Path) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for expression in expressions(json.loads(path.read_text(encoding="utf-8"))):
        found = set(re.findall(r"[a-z_]+(?::[a-z0-9_]+)+", expression))
        assert found <= recorded, expression
        plain = re.sub(r"[a-z_]+(?::[a-z0-9_]+)+", "", expression)
        names = set(NAME.findall(plain))
        assert names <= known_names(), expression
        assert found or names or any(other in expression for other in OTHERS), expression


def test_every_expression_is_promql(tmp_path: Path) -> None:
    asked = [expression for path in FILES for expression in expressions(json.loads(path.read_text(encoding="utf-8")))]
    # promtool reads expressions in rules; Grafana's variables get a value first, as Grafana gives them one.
    each = [expression.replace("$__rate_interval", "1m").replace("$instance", ".*") for expression in asked]
    rules = {"groups": [{"name": "asked", "rules": [{"record": f"asked:number_{n}", "expr": one} for n, one in enumerate(each)]}]}
    path = tmp_path / "asked.yml"
    path.write_text(yaml.safe_dump(rules), encoding="utf-8")
    ran("promtool", "check", "rules", path)


def test_what_is_provisioned_hangs_together() -> None:
    (sources,) = (yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()),)
    known = {source["uid"] for source in sources["datasources"]}
    dashboards = [json.loads(path.read_text(encoding="utf-8")) for path in FILES]
    assert {panel["datasource"]["uid"] for board in dashboards for panel in board["panels"] if "targets" in panel} <= known
    uids = [board["uid"] for board in dashboards]
    assert len(uids) == len(set(uids))
    compose = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text(encoding="utf-8"))
    provider = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "nowcart.yml").read_text())
    mounts = {volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]}
    assert provider["providers"][0]["options"]["path"] in mounts
