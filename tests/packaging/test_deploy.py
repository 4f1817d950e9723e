"""The files under deploy/, by the tools that read them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from ccat_workflow_manager.settings import load_settings
from ccat_workflow_manager.settings.model import PREFIX

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
KUBERNETES = DEPLOY / "kubernetes"
EXPOSURE = {"ccat-wm-manager.service": 20, "ccat-wm-worker@.service": 32, "ccat-wm-up.service": 32}
"""Tenths. What starts local jobs must leave them the namespaces and mounts of their containers."""


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_gives_its_process_no_more_than_it_needs(unit: Path) -> None:
    argv = [
        "systemd-analyze",
        "security",
        "--offline=yes",
        "--no-pager",
        f"--threshold={EXPOSURE[unit.name]}",
        str(unit),
    ]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def kustomization() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    return read


def objects() -> Iterator[dict[str, Any]]:
    for name in kustomization()["resources"]:
        yield from yaml.safe_load_all((KUBERNETES / name).read_text())


def named(kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in objects() if each["kind"] == kind}


def pods() -> list[dict[str, Any]]:
    """The templates from which Kubernetes makes pods."""
    return [each["spec"]["template"] for each in objects() if "template" in each.get("spec", {})]


def test_kubernetes_accepts_each_object() -> None:
    for each in objects():
        kubernetes_validate.validate(each, "1.31", strict=True)


def test_each_object_of_kubernetes_finds_those_that_it_names() -> None:
    generated = {each["name"] for each in kustomization()["configMapGenerator"]}
    labels = [pod["metadata"]["labels"] for pod in pods()]
    for spec in (pod["spec"] for pod in pods()):
        [container] = spec["containers"]
        assert {each["configMapRef"]["name"] for each in container["envFrom"]} <= generated
        assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in spec["volumes"]}
        assert spec.get("serviceAccountName") in {None, *named("ServiceAccount")}
    for each in objects():
        selector = each["spec"].get("selector", {}) if each["kind"] in ("Service", "PodDisruptionBudget") else {}
        wanted = selector.get("matchLabels", selector).items()
        assert any(wanted <= found.items() for found in labels), each["metadata"]


def test_pods_run_without_privileges_on_a_root_filesystem_that_they_cannot_write() -> None:
    for spec in (pod["spec"] for pod in pods()):
        assert spec["securityContext"]["runAsNonRoot"]
        [container] = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    return read


def of_kubernetes() -> dict[str, str]:
    lines = (KUBERNETES / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def of_compose() -> dict[str, str]:
    """As README.md says for a service, else with the defaults. `test_compose.py` starts what is written there."""
    written = {name: str(value) for name, value in compose()["x-service"]["environment"].items()}
    found = {name: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value) for name, value in written.items()}
    return {**found, "ENV_FOR_DYNACONF": "production", PREFIX + "CONTAINER_RUNTIME": "auto"}


def of_systemd() -> dict[str, str]:
    lines = (DEPLOY / "systemd" / "environment.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("read", [of_kubernetes, of_compose, of_systemd])
def test_the_settings_of_a_deployment_are_accepted(
    read: Callable[[], Mapping[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    secrets = {"database": "postgresql://ccat:vKq3-xW81@db/ccat", "redis": "redis://:vKq3-xW81@redis:6379/0"}
    for kind, secret in secrets.items():
        (tmp_path / kind).write_text(secret)
    for name, value in read().items():
        kind = "database" if "DATABASE" in name else "redis"
        given = str(tmp_path / kind) if name.endswith("_URL_FILE") else value
        monkeypatch.setenv(name, given.replace("CHANGE-ME", "vKq3-xW81"))
    assert load_settings().environment == "production"


def test_services_of_compose_find_what_they_name() -> None:
    read = compose()
    for service in read["services"].values():
        assert set(service.get("secrets", ())) <= read["secrets"].keys()
        assert {volume.partition(":")[0] for volume in service.get("volumes", ())} <= read["volumes"].keys()
        assert service.get("depends_on", {}).keys() <= read["services"].keys()
