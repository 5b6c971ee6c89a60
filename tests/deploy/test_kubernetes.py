"""The manifests are valid by the schemas of Kubernetes, consistent, and have no unneeded rights."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.command_line import check_command
from tests.prometheus import ALERTS

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
BASE, MONITORING, NAMESPACE = FOLDER / "base", FOLDER / "monitoring", FOLDER / "namespace"
OVERLAYS = sorted(path for path in (FOLDER / "overlays").iterdir() if path.is_dir())
JOB: dict[str, Any] = yaml.safe_load((BASE / "job.yaml").read_text())
MONITOR: dict[str, Any] = yaml.safe_load((NAMESPACE / "pod-monitor.yaml").read_text())
POLICY: dict[str, Any] = yaml.safe_load((NAMESPACE / "network-policy.yaml").read_text())
RULE: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus-rule.yaml").read_text())

ENDPOINT = {"port": str, "path": str, "interval": str}
"""Fields of an endpoint in the operator's PodMonitor that are used here."""
RULES = {"record": str, "alert": str, "expr": str, "for": str, "labels": dict, "annotations": dict}
"""Fields of a rule in the operator's PrometheusRule."""


def containers() -> Iterator[dict[str, Any]]:
    """Return every container of the base and of its patches, trainers and sidecars."""
    for path in [BASE / "job.yaml", *FOLDER.glob("overlays/*/*.yaml")]:
        document = yaml.safe_load(path.read_text())
        if document["kind"] == "Job":
            pod = document["spec"]["template"]["spec"]
            yield from pod.get("initContainers", []) + pod["containers"]


def test_the_job_is_valid() -> None:
    """The base and the policy are valid by the schemas of Kubernetes, without unknown fields."""
    command = Path(sys.executable).with_name("kubernetes-validate")
    files = [BASE / "job.yaml", NAMESPACE / "network-policy.yaml"]
    done = subprocess.run([command, "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_monitor_finds_the_pods_by_label_and_port() -> None:
    """The PodMonitor has known fields, selects the pods of the job, and names one of their ports."""
    assert (MONITOR["apiVersion"], MONITOR["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    spec = MONITOR["spec"]
    assert set(spec) == {"jobLabel", "sampleLimit", "selector", "podMetricsEndpoints"}  # only its own namespace
    assert 0 < spec["sampleLimit"] <= 10_000
    pod = JOB["spec"]["template"]
    assert spec["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert spec["jobLabel"] in pod["metadata"]["labels"]
    for endpoint in spec["podMetricsEndpoints"]:
        assert all(isinstance(value, ENDPOINT[field]) for field, value in endpoint.items())
        assert endpoint["port"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}


def ports() -> set[int]:
    """Return the metrics port of every container that has one."""
    named = [port for container in containers() for port in container.get("ports", []) if port.get("name") == "metrics"]
    return {port["containerPort"] for port in named}


def test_only_prometheus_reaches_the_metrics() -> None:
    """The policy allows pods of a named namespace to reach the metrics ports, and pods of jobs to reach each other."""
    spec = POLICY["spec"]
    pod = JOB["spec"]["template"]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"].items() <= pod.items()
    assert spec["policyTypes"] == ["Ingress"]
    from_prometheus, from_each_other = spec["ingress"]
    [peer] = from_prometheus["from"]
    assert peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert peer["podSelector"]["matchLabels"]
    assert {port["port"] for port in from_prometheus["ports"]} == ports()
    assert from_each_other == {"from": [{"podSelector": spec["podSelector"]}]}


def test_the_rule_holds_the_alerts_as_they_are() -> None:
    """The PrometheusRule is what make_rule.py writes from alerts.yml now, with known fields."""
    assert (RULE["apiVersion"], RULE["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert RULE["spec"] == yaml.safe_load(ALERTS.read_text())
    before = (MONITORING / "prometheus-rule.yaml").read_text()
    code = f"import runpy; print(runpy.run_path({str(FOLDER / 'make_rule.py')!r})['rule'](), end='')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == before
    for group in RULE["spec"]["groups"]:
        assert set(group) == {"name", "rules"}
        for rule in group["rules"]:
            assert all(isinstance(value, RULES[field]) for field, value in rule.items())


def test_trainers_run_without_rights() -> None:
    """No container may become root, gain rights or write into its image, or gets a token for the cluster."""
    pod = JOB["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    own = [container for container in containers() if "image" in container]
    assert {container["name"] for container in own} == {"trainer", "metrics"}
    for container in own:
        context = container["securityContext"]
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_every_container_is_bounded_and_watched() -> None:
    """Each has a memory limit and a probe; a trainer requests all the memory that it may use."""
    for container in containers():
        if "image" in container:
            assert container["startupProbe"]
        if "resources" in container:
            assert container["resources"]["limits"]["memory"]
            if container["name"] == "trainer":
                limits = container["resources"]["limits"]
                assert container["resources"]["requests"]["memory"] == limits["memory"]


def test_trainers_run_commands_that_exist() -> None:
    """`streaming` accepts the arguments of each, and its metrics port or file is the one that is scraped."""
    given = [container["args"] for container in containers() if container["name"] == "trainer" and "args" in container]
    assert len(given) == 2
    for arguments in given:
        check_command(arguments)
    [port] = JOB["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert given[0][given[0].index("--metrics-port") + 1] == str(port["containerPort"])


def test_the_sidecar_reads_what_the_trainer_writes() -> None:
    """Both mount the folder of the file, the sidecar read-only, and its port has the name that is scraped."""
    patch = yaml.safe_load((FOLDER / "overlays" / "sidecar" / "textfile.yaml").read_text())
    pod = patch["spec"]["template"]["spec"]
    [sidecar], [trainer] = pod["initContainers"], pod["containers"]
    [reads], [writes] = sidecar["volumeMounts"], trainer["volumeMounts"]
    assert (reads["name"], reads["readOnly"]) == (writes["name"], True)
    assert f"--collector.textfile.directory={reads['mountPath']}" in sidecar["args"]
    target = Path(trainer["args"][trainer["args"].index("--metrics-file") + 1])
    assert (str(target.parent), target.suffix) == (writes["mountPath"], ".prom")
    assert [port["name"] for port in sidecar["ports"]] == [MONITOR["spec"]["podMetricsEndpoints"][0]["port"]]
    assert re.search(r":v\d+\.\d+\.\d+@sha256:[0-9a-f]{64}$", sidecar["image"])


@pytest.mark.parametrize("folder", [BASE, MONITORING, NAMESPACE, *OVERLAYS], ids=lambda path: path.name)
def test_a_kustomization_names_files_that_exist(folder: Path) -> None:
    """Every resource and patch exists, each patch changes an object of the base, and every file is used."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    resources = [(folder / name).resolve() for name in kustomization["resources"]]
    patches = [folder / patch["path"] for patch in kustomization.get("patches", [])]
    for path in resources:
        assert path.is_file() or (path / "kustomization.yaml").is_file(), path
    for path in patches:
        patch = yaml.safe_load(path.read_text())
        assert [patch[key] for key in ("apiVersion", "kind")] == [JOB[key] for key in ("apiVersion", "kind")]
        assert patch["metadata"]["name"] == JOB["metadata"]["name"]
    assert {path.name for path in folder.glob("*.yaml")} == {
        "kustomization.yaml",
        *(path.name for path in [*resources, *patches] if path.is_file()),
    }


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_an_overlay_is_a_run_of_its_own(folder: Path) -> None:
    """It has its own name, which is the `job` of its metrics, and an image of one release."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    [labels] = kustomization["labels"]
    assert labels["includeTemplates"]
    assert kustomization["nameSuffix"] == f"-{labels['pairs'][MONITOR['spec']['jobLabel']]}"
    [image] = kustomization["images"]
    assert image["name"] == JOB["spec"]["template"]["spec"]["containers"][0]["image"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", image["newTag"])
