"""docker-compose.yml and the image: what can be seen of them without an engine to run them."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from stream.metrics import Metrics, serve
from tests.deploy.compose import FILE, commands_understood, environment_of, loaded
from tests.deploy.tools import DEPLOY, ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("nowcart:")}
ENDING = {"topics"}
"""Jobs, rather than services."""
DOCKERFILE = (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")


def test_it_fits_the_compose_specification() -> None:
    # Of the package its files alone are wanted; to import it takes a newer click than others here do.
    package = importlib.util.find_spec("check_jsonschema")
    assert package is not None and package.origin is not None
    schema = Path(package.origin).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(COMPOSE, json.loads(schema.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r".+:v?\d+\.\d+\.\d+(-\S+)?", service["image"]), "pinned, to the patch"
    assert service["user"].split(":")[0] not in ("0", "root")
    assert service["cap_drop"] == ["ALL"] and "privileged" not in service and "cap_add" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["read_only"] is True or name == "kafka"
    limits = service["deploy"]["resources"]["limits"]
    assert limits["memory"] and limits["cpus"] and limits["pids"]
    assert service["restart"] == ("on-failure:10" if name in ENDING else "unless-stopped")
    assert name in ENDING | {"simulate"} or service["healthcheck"]["test"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    if "ports" in service:
        networks = [COMPOSE["networks"][network] for network in service["networks"]]
        assert any(not network.get("internal") for network in networks), "a port of an inner network is reached by nobody"


def test_what_is_mounted_is_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"]
        for other, condition in service.get("depends_on", {}).items():
            healthy = condition["condition"] == "service_healthy"
            assert "test" in SERVICES[other]["healthcheck"] if healthy else other in ENDING


def test_every_process_can_read_its_configuration_and_knows_its_command() -> None:
    text = (DEPLOY / "nowcart.toml").read_text(encoding="utf-8")
    for service in OURS.values():
        assert environment_of(text) <= service["environment"].keys()
        commands_understood(service["command"])
    config = loaded(DEPLOY / "nowcart.toml", OURS["ingest"]["environment"] | {"NOWCART_SERVE_KEY_SHA256": "0" * 64})
    host, port = str(config.kafka["bootstrap.servers"]).split(":")
    assert f"INSIDE://{host}:{port}" in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert config.alerts.alertmanager.url == "http://alertmanager:9093" and "alertmanager" in SERVICES
    assert config.metrics.host == "0.0.0.0"
    example = (DEPLOY / "compose.env.example").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+)[:}]", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    assert asked == set(re.findall(r"(?m)^(\w+)=", example))
    assert all(value == "" for value in re.findall(r"(?m)^\w+=(.*)$", example))
    instances = [service["command"][-1] for service in OURS.values() if "--instance" in service["command"]]
    assert len(instances) == len(set(instances)) == 2


def test_prometheus_scrapes_every_process_where_it_listens() -> None:
    jobs = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    targets = {
        target.split(":")[0]: int(target.split(":")[1]) for job in jobs for entry in job["static_configs"] for target in entry["targets"]
    }
    config = loaded(DEPLOY / "nowcart.toml", OURS["ingest"]["environment"] | {"NOWCART_SERVE_KEY_SHA256": "0" * 64})
    for name in ("ingest", "forecast", "alerts"):
        assert targets[name] == config.metrics.port
        assert "NOWCART_HEALTH_PORT" not in SERVICES[name]["environment"]
    assert targets["serve"] == int(SERVICES["serve"]["environment"]["NOWCART_HEALTH_PORT"])
    assert targets.keys() - {"localhost"} <= SERVICES.keys()


# ---- the image


def kept(path: str) -> bool:
    """Whether .dockerignore lets a file into the build."""
    inside = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            parents = [path, *map(str, Path(path).parents)]
            names = [path, Path(path).name, *parents] + [Path(each).name for each in parents if line.startswith("**/")]
            if any(fnmatch.fnmatch(name, pattern) for name in names):
                inside = line.startswith("!")
    return inside


def test_the_image_is_made_of_what_is_there_and_nothing_else() -> None:
    for line in re.findall(r"(?m)^COPY (?!--from)(.+)$", DOCKERFILE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert kept(source.removeprefix("./")), f".dockerignore leaves {source} out"
    assert kept("stream/cli/main.py") and kept("stream/py.typed")
    for path in (".git/config", ".env", "tests/conftest.py", "deploy/compose.env.example", "stream/__pycache__/config.cpython-311.pyc"):
        assert not kept(path), path


def test_the_image_is_pinned_and_does_not_run_as_root() -> None:
    assert re.search(r"(?m)^ARG PYTHON=\d+\.\d+\.\d+-slim-\w+$", DOCKERFILE)
    assert set(re.findall(r"(?m)^FROM (\S+)", DOCKERFILE)) == {"python:${PYTHON}"}
    (user,) = re.findall(r"(?m)^USER (\S+)$", DOCKERFILE)
    assert user == OURS["ingest"]["user"]
    assert "-c constraints.txt" in DOCKERFILE
    last = DOCKERFILE.rsplit("FROM", 1)[1]
    assert "HEALTHCHECK" in last and "pip" not in last
    assert f'CMD ["run", "{FILE}"]' in last


@pytest.mark.parametrize("well", [True, False])
def test_the_health_check_says_what_the_process_says(well: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    code = compile((DEPLOY / "docker" / "healthcheck.py").read_text(encoding="utf-8"), "healthcheck.py", "exec")
    with serve(Metrics(False), "127.0.0.1", 0, lambda: (well, "it hangs"), lambda: (True, "")) as endpoint:
        monkeypatch.setenv("NOWCART_HEALTH_PORT", str(endpoint.port))
        with pytest.raises(SystemExit) as ended:
            exec(code, {})
    assert ended.value.code == (0 if well else 1)
    with pytest.raises(SystemExit) as ended:  # nobody is there any more
        exec(code, {})
    assert ended.value.code == 1
