"""The manifests fit Kubernetes's own schemas and one another, as far as that can be seen without a cluster."""

from __future__ import annotations

import importlib.util
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.compose import commands_understood, environment_of, loaded
from tests.deploy.kustomize import Object, build, containers, pod
from tests.deploy.tools import DEPLOY, documents

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ("dev", "production", "gpu")
VERSION = "1.33"
CUSTOM = {"ServiceMonitor", "PrometheusRule", "ScaledObject"}
"""Of operators; Kubernetes has no schemas of them."""


@cache
def built(overlay: str) -> list[Object]:
    return build(KUBERNETES / "overlays" / overlay)


def of_kind(overlay: str, *kinds: str) -> list[Object]:
    return [one for one in built(overlay) if one["kind"] in kinds]


def named(overlay: str, kind: str, name: str) -> Object:
    (one,) = [one for one in of_kind(overlay, kind) if one["metadata"]["name"] == name]
    return one


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_fits_its_schema(overlay: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the validator's own dependencies
        import kubernetes_validate

    objects = built(overlay)
    assert len(objects) > 15
    for one in objects:
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, VERSION, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_restricted_and_their_images_pinned(overlay: str) -> None:
    pods = [one for one in built(overlay) if pod(one)]
    assert {one["metadata"]["name"] for one in pods} >= {"nowcart-ingest", "nowcart-forecast", "nowcart-serve", "nowcart-alerts"}
    for one in pods:
        security = pod(one)["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] >= 10_000 and security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod(one)["automountServiceAccountToken"] is False
        for container in containers(one):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            tag = container["image"].rsplit(":", 1)[-1]
            assert tag not in ("latest", container["image"])
            assert container["resources"]["requests"] and container["resources"]["limits"]["memory"]
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod(one)["volumes"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_refers_to_something_finds_it(overlay: str) -> None:
    maps = {one["metadata"]["name"] for one in of_kind(overlay, "ConfigMap")}
    claims = {one["metadata"]["name"] for one in of_kind(overlay, "PersistentVolumeClaim")}
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in built(overlay) if pod(one)]
    for one in (one for one in built(overlay) if pod(one)):
        used = [source["configMapRef"]["name"] for c in containers(one) for source in c["envFrom"] if "configMapRef" in source]
        used += [volume["configMap"]["name"] for volume in pod(one)["volumes"] if "configMap" in volume]
        assert set(used) <= maps
        assert {v["persistentVolumeClaim"]["claimName"] for v in pod(one)["volumes"] if "persistentVolumeClaim" in v} <= claims
        for container in containers(one):
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            probes = [container[name] for name in ("startupProbe", "livenessProbe", "readinessProbe") if name in container]
            assert all(probe["httpGet"]["port"] in ports for probe in probes)
            assert len(probes) in (0, 3)
    for one in of_kind(overlay, "Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = one["spec"]
        selector = spec.get("podSelector", spec.get("selector"))
        wanted = selector.get("matchLabels", {} if "matchExpressions" in selector else selector)
        found = [each for each in labels if wanted.items() <= each.items()]
        for expression in selector.get("matchExpressions", []):
            found = [each for each in found if each.get(expression["key"]) in expression["values"]]
        assert found, one["metadata"]["name"]
    for one in of_kind(overlay, "HorizontalPodAutoscaler", "ScaledObject"):
        target = one["spec"]["scaleTargetRef"]
        assert named(overlay, target["kind"], target["name"])


def test_stages_have_names_that_stay_and_alerts_are_made_by_one() -> None:
    for stage in ("ingest", "forecast"):
        one = named("production", "StatefulSet", f"nowcart-{stage}")
        assert one["spec"]["replicas"] == 2
        environment = {entry["name"]: entry for entry in containers(one)[0]["env"]}
        assert environment["NOWCART_INSTANCE"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
        assert one["spec"]["serviceName"] in {each["metadata"]["name"] for each in of_kind("production", "Service")}
    alerts = named("production", "Deployment", "nowcart-alerts")["spec"]
    assert (alerts["replicas"], alerts["strategy"]) == (1, {"type": "Recreate"})


def test_forecasts_run_on_gpus_where_that_was_asked_for() -> None:
    one = named("gpu", "StatefulSet", "nowcart-forecast")
    assert containers(one)[0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert containers(one)[0]["image"].endswith("-cuda")
    assert pod(one)["nodeSelector"] and pod(one)["tolerations"]
    assert "nvidia.com/gpu" not in containers(named("gpu", "StatefulSet", "nowcart-ingest"))[0]["resources"]["limits"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_can_read_its_configuration_and_knows_its_command(overlay: str, tmp_path: Path) -> None:
    (text,) = named(overlay, "ConfigMap", "nowcart-config")["data"].values()
    path = tmp_path / "nowcart.toml"
    path.write_text(text, encoding="utf-8")
    environment = dict(named(overlay, "ConfigMap", "nowcart-environment")["data"])
    if overlay != "dev":
        (secrets, _) = documents(KUBERNETES / "overlays" / "production" / "secrets.example.yaml")
        environment |= secrets["stringData"]
    assert environment_of(text) <= environment.keys()
    config = loaded(path, environment)
    for one in (one for one in built(overlay) if pod(one)):
        (container,) = containers(one)
        commands_understood(container["args"])
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        if one["metadata"]["name"] in ("nowcart-ingest", "nowcart-forecast", "nowcart-alerts"):
            assert ports == {"metrics": config.metrics.port}
    for one in of_kind(overlay, "ScaledObject"):
        (trigger,) = one["spec"]["triggers"]
        stage = one["metadata"]["name"].removeprefix("nowcart-")
        assert trigger["metadata"]["consumerGroup"] == config.output.prefix + stage
        topics = {"ingest": {source.topic for source in config.sources.values()}, "forecast": {config.output.topic("activity")}}
        assert trigger["metadata"]["topic"] in topics[stage]
        assert one["spec"]["maxReplicaCount"] <= config.activity.partitions


def test_the_configuration_is_the_one_of_compose_and_the_rules_are_prometheuss() -> None:
    assert (KUBERNETES / "base" / "nowcart.toml").read_bytes() == (DEPLOY / "nowcart.toml").read_bytes()
    spec = importlib.util.spec_from_file_location("rules", KUBERNETES / "rules.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text(encoding="utf-8") == module.build(), "run deploy/kubernetes/rules.py"


def test_no_secret_is_committed() -> None:
    for path in KUBERNETES.rglob("*.yaml"):
        for one in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if one and one.get("kind") == "Secret":
                assert path.name == "secrets.example.yaml"
                assert all(value in ("", "nowcart") for value in one["stringData"].values())
