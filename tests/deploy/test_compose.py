"""compose.yaml: pinned images, ports on loopback, files that exist, and no more rights than needed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
KNOWN = {
    "build",
    "cap_drop",
    "command",
    "depends_on",
    "environment",
    "healthcheck",
    "image",
    "logging",
    "mem_limit",
    "ports",
    "read_only",
    "restart",
    "security_opt",
    "tmpfs",
    "volumes",
}
"""Keys of a service in the Compose specification that the file uses; add new ones deliberately."""


def test_it_has_the_parts_of_the_specification() -> None:
    """Top level and services have only keys of the Compose specification, and all four services exist."""
    assert {key for key in COMPOSE if not key.startswith("x-")} == {"name", "services", "volumes"}
    assert set(SERVICES) == {"trainer", "prometheus", "alertmanager", "grafana"}
    for name, service in SERVICES.items():
        assert set(service) <= KNOWN, name
        assert set(service.get("depends_on", {})) <= set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_bounded_and_without_rights(name: str) -> None:
    """Its image is one release, memory is limited, root read-only, all capabilities dropped, ports on loopback."""
    service = SERVICES[name]
    if "build" not in service:
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+@sha256:[0-9a-f]{64}", service["image"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in service["ports"])


def test_every_file_that_is_mounted_exists() -> None:
    """Files mounted from the repository exist and are read-only; the other volumes are declared."""
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), (name, source)
                assert volume.endswith(":ro"), (name, volume)
            else:
                assert source in COMPOSE["volumes"], (name, source)


def test_the_trainer_is_built_from_the_repository() -> None:
    """Its context is the repository, which has the named Dockerfile."""
    build = SERVICES["trainer"]["build"]
    context = (DEPLOY / build["context"]).resolve()
    assert context == REPOSITORY
    assert (context / build["dockerfile"]).is_file()
    given = set(re.findall(r"^ARG (\w+)", (context / build["dockerfile"]).read_text(), re.MULTILINE))
    assert set(build["args"]) <= given


def test_prometheus_scrapes_services_that_exist() -> None:
    """Each address in its configuration is a service of the file with a port that it serves, or itself; its rules are
    mounted at the path that it reads."""
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    scrapes = [
        target for job in config["scrape_configs"] for part in job["static_configs"] for target in part["targets"]
    ]
    managers = [
        target for part in config["alerting"]["alertmanagers"] for target in part["static_configs"][0]["targets"]
    ]
    for target in scrapes + managers:
        host, _, port = target.partition(":")
        name = "prometheus" if host == "127.0.0.1" else host
        assert any(mapping.endswith(f":{port}") for mapping in SERVICES[name]["ports"]), target
    mounts = dict(volume.split(":")[1::-1] for volume in SERVICES["prometheus"]["volumes"])
    rules = [DEPLOY / mounts[f"/etc/prometheus/{name}"] for name in config["rule_files"]]
    assert rules == [DEPLOY / "alerts.yml"]


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    """The data source is the Prometheus of the file, and the mounted folder has the home page."""
    provisioning = DEPLOY / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((provisioning / "dashboards" / "streaming.yaml").read_text())["providers"]
    mounts = dict(volume.split(":")[1::-1] for volume in SERVICES["grafana"]["volumes"])
    folder = DEPLOY / mounts[provider["options"]["path"]]
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    overview = json.loads((folder / home.name).read_text())
    assert overview["panels"]
    [runbooks] = [each["query"] for each in overview["templating"]["list"] if each["name"] == "runbooks"]
    assert (DEPLOY / mounts[f"/usr/share/grafana{runbooks}"] / "README.md").exists()


def test_grafana_needs_a_password() -> None:
    """Anonymous access is off, and the password comes from the environment: there is none in the file."""
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert environment["GF_USERS_ALLOW_SIGN_UP"] == "false"
    assert re.fullmatch(r"\$\{GRAFANA_PASSWORD:\?[^}]+\}", environment["GF_SECURITY_ADMIN_PASSWORD"])
