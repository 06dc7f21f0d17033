"""The rules and the routes as their own programs see them, and every name in them as the engine has it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream.metrics import Metrics
from tests.deploy.tools import DEPLOY, documents, ran

RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
NAME = re.compile(r"\bnowcart_[a-z0-9_]+\b")


def known_names() -> set[str]:
    """Every sample that a process may show."""
    names = set()
    for metric in Metrics(process=False).registry.collect():
        suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}[metric.type]
        names |= {metric.name + suffix for suffix in suffixes}
    return names


def rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for document in documents(path) for group in document["groups"] for rule in group["rules"]]


def test_the_configuration_and_the_rules_are_good_and_do_what_their_tests_say() -> None:
    ran("promtool", "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    ran("promtool", "check", "rules", *RULES)
    ran("promtool", "test", "rules", DEPLOY / "prometheus" / "tests" / "alerts.test.yml")


def test_every_alert_is_tried_or_too_simple_to_be() -> None:
    """A rule that nobody tries is a rule that never fires."""
    (tests,) = documents(DEPLOY / "prometheus" / "tests" / "alerts.test.yml")
    tried = {case["alertname"] for test in tests["tests"] for case in test.get("alert_rule_test", [])}
    simple = {"NowcartWatchdog", "NowcartMissing", "NowcartBrokerUnreachable", "NowcartPrometheusAlone"}
    assert {rule["alert"] for rule in rules() if "alert" in rule} == tried | simple


def test_every_metric_in_the_rules_is_one_that_the_engine_shows() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        expression = rule["expr"]
        for name in re.findall(r"[a-z_]+(?::[a-z0-9_]+)+", expression):
            assert name in recorded, (rule.get("alert"), name)
        plain = re.sub(r"[a-z_]+(?::[a-z0-9_]+)+", "", expression)
        assert set(NAME.findall(plain)) <= known_names(), rule


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("critical", "warning", "none")
            assert rule["annotations"]["summary"]
            assert rule["alert"] == "NowcartWatchdog" or rule["annotations"]["description"]


@pytest.mark.parametrize("name", ["alertmanager.yml", "alertmanager.demo.yml"])
def test_alertmanagers_configuration_is_good_and_routes_as_it_should(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "alertmanager"
    shutil.copytree(DEPLOY / "alertmanager", folder)
    ran("amtool", "check-config", folder / name)

    def routed(*labels: str) -> str:
        said = ran("amtool", "config", "routes", "test", f"--config.file={folder / name}", *labels)
        return next(line for line in said.splitlines() if not line.startswith("Warning"))

    assert routed("alertname=NowcartDemandSpike", "severity=critical") == "shop-urgent,shop"
    assert routed("alertname=NowcartDemandSpike", "severity=warning") == "shop"
    assert routed("alertname=NowcartDown", "severity=critical") == "platform-pager"
    assert routed("alertname=NowcartDeadLetters", "severity=warning") == "platform"
    assert routed("alertname=NowcartWatchdog", "severity=none") == "watchdog"


def test_both_of_alertmanagers_configurations_route_alike_and_hold_no_secret() -> None:
    real, demo = (yaml.safe_load((DEPLOY / "alertmanager" / name).read_text()) for name in ("alertmanager.yml", "alertmanager.demo.yml"))
    assert real["route"] == demo["route"]
    assert real["inhibit_rules"] == demo["inhibit_rules"]
    assert {one["name"] for one in real["receivers"]} == {one["name"] for one in demo["receivers"]}
    text = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text()
    assert not re.search(r"(api_url|routing_key|password|credentials|bearer_token):", text)


def test_inhibitions_name_alerts_that_exist() -> None:
    names = {rule["alert"] for rule in rules() if "alert" in rule} | {"NowcartDemandSpike"}
    config = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())
    assert set(re.findall(r"Nowcart\w+", str(config["inhibit_rules"]) + str(config["route"]))) <= names
