"""From a request to the Job that is sent: golden files, the official schemas, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import kubernetes_validate
import pytest

from ccat_workflow_manager.errors import ConfigurationError
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.hpc.kubernetes.manifest import object_name, render_job
from ccat_workflow_manager.hpc.kubernetes.patch import merged
from ccat_workflow_manager.hpc.kubernetes.script import render_pod_script
from ccat_workflow_manager.hpc.kubernetes.settings import KubernetesSettings
from ccat_workflow_manager.hpc.kubernetes.site import Site, site_of
from ccat_workflow_manager.lifecycle.models import Mount, Resources
from ccat_workflow_manager.settings import settings_of
from tests.support.golden_files import check_golden

CURRENT = (1, 37)
ATTEMPT = "/data/pipelines/map/0190/grid/main/attempt-1"
NAME = "ccat-0190f2a4c0de7000800000000000abcd-1"

REQUEST = JobRequest(
    execution_command=["grid", "--all"],
    image_ref="docker://registry.example.org/ccat/grid:2.1",
    sif_path=None,
    input_dir=f"{ATTEMPT}/input",
    output_dir=f"{ATTEMPT}/output.partial",
    workspace_dir=f"{ATTEMPT}/workspace",
    manifest_path=f"{ATTEMPT}/config/manifest.json",
    resource_requirements=Resources(cpu=1.5, memory_gb=2.5, time_hours=0.5),
    environment_variables={"A": "1"},
    job_name=NAME,
)


def site(*, base_dir: str = "/data/pipelines", image_dir: str = "/data/sif-cache", **given: Any) -> Site:
    known = {
        "namespace": "ccat", "volume": "pvc:pipelines", "sif_volume": "pvc:images/sif", "run_as": "1000:100",
        "launcher_image": "registry.example.org/ccat/launcher:1", "allowed_node_labels": "zone, disk=ssd",
        "allowed_tolerations": "gpu", "allowed_priority_classes": "urgent", **given,
    }  # fmt: skip
    settings = settings_of(KubernetesSettings, "kubernetes", known)
    return site_of(settings, base_dir=base_dir, image_dir=image_dir, grace_seconds=5)


RICH: dict[str, Any] = {
    "service_account": "steps", "pull_secrets": "one, two", "priority_class": "science", "privileged": True,
    "node_selector": "{disk: ssd}", "tolerations": "[{key: ccat, operator: Exists}]",
    "volume": "nfs:nfs.example.org:/export/pipelines", "sif_volume": "hostpath:/opt/images",
    "pod_patch": "spec: {hostUsers: false, volumes: [{name: fuse, hostPath: {path: /dev/fuse}}], "
                 "containers: [{name: step, volumeMounts: [{name: fuse, mountPath: /dev/fuse}]}]}",
}  # fmt: skip
RESOURCES = Resources(
    cpu=8, memory_gb=64, time_hours=12, gpu=2,
    extra={"resources": {"ephemeral-storage": "10Gi", "vendor.example/fpga": 1}, "node_selector": {"zone": "a"},
           "tolerations": [{"key": "gpu", "operator": "Exists"}], "priority_class": "urgent"},
)  # fmt: skip
MOUNTS = (
    Mount(f"{ATTEMPT}/input", "/workflow/input", False),
    Mount(f"{ATTEMPT}/workspace", "/workflow/workspace", True),
    Mount("/data/pipelines/map/0190/calibrate", "/workflow/.run/calibrate", False),
)
CASES = {
    "apptainer": (REQUEST, site(), CURRENT),
    "old-server": (REQUEST, site(), (1, 20)),
    "rich": (replace(REQUEST, resource_requirements=RESOURCES), site(**RICH), CURRENT),
    "native": (REQUEST, site(mode="native", volume="pvc:data/pipelines"), CURRENT),
    "native-upstream": (replace(REQUEST, mounts=MOUNTS), site(mode="native", run_as="image"), CURRENT),
    "defaults": (REQUEST, site(volume="", sif_volume="", image_dir="/data/pipelines/images"), CURRENT),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    check_golden(f"kubernetes-job-{name}", render_job(*CASES[name]))


@pytest.mark.parametrize("name", [name for name in CASES if name != "old-server"])
@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_the_official_schema_takes_it(name: str, version: str) -> None:
    kubernetes_validate.validate(render_job(*CASES[name]), version, strict=True)


@pytest.mark.parametrize("native", [False, True])
def test_golden_script(native: bool) -> None:
    files = AttemptFiles.of(REQUEST.workspace_dir, NAME)
    text = render_pod_script(["grid", "--name", "it's"], environment={"A": "1"}, files=files, native=native)
    check_golden(f"kubernetes-script-{'native' if native else 'apptainer'}", text.splitlines())


@pytest.mark.parametrize(
    ("job_name", "expected"),
    [
        (NAME, NAME),
        ("CCAT-Upper.case_1", "ccat-upper-case-1-8a7fbd17e2a4a4c7"),
        ("_", "job-"),
        ("x" * 64, "x" * 46 + "-"),
        ("trailing-", "trailing-"),
    ],
)
def test_names(job_name: str, expected: str) -> None:
    name = object_name(job_name)
    assert len(name) <= 63
    assert name.rpartition("-")[0] == expected.rpartition("-")[0]
    kubernetes_validate.validate(render_job(replace(REQUEST, job_name=job_name), site(), CURRENT), "1.37", strict=True)


def test_names_that_are_alike_stay_apart() -> None:
    names = {object_name(name) for name in ("a.b", "a_b", "A-b", "a-B", "a-b", "x" * 63, "x" * 64, "x" * 65)}
    assert len(names) == 8


def test_a_dollar_in_a_path_is_not_a_variable_of_kubernetes() -> None:
    odd = replace(REQUEST, workspace_dir="/data/pipelines/$(HOME)/attempt-1/workspace")
    container = render_job(odd, site(), CURRENT)["spec"]["template"]["spec"]["containers"][0]
    assert container["command"][1].startswith("/data/pipelines/$$(HOME)/attempt-1/")


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (Resources(partition="science"), "no partitions"),
        (Resources(account="ccat"), "no accounts"),
        (Resources(extra={"qos": "long"}), "known are"),
        (Resources(extra={"resources": {"memory": "1Gi"}}), "cannot be asked for"),
        (Resources(extra={"resources": {"a b": "1"}}), "cannot be asked for"),
        (Resources(extra={"resources": {"vendor.example/fpga": "many"}}), "no quantity"),
        (Resources(extra={"resources": {"vendor.example/fpga": True}}), "no quantity"),
        (Resources(extra={"resources": 1}), "does not accept"),
        (Resources(extra={"node_selector": {"disk": 1}}), "does not accept"),
        (Resources(extra={"tolerations": "all"}), "does not accept"),
        (Resources(extra={"priority_class": 5}), "PriorityClass"),
    ],
)
def test_refused(resources: Resources, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        render_job(replace(REQUEST, resource_requirements=resources), site(), CURRENT)


NOT_ALLOWED = [
    ({"priority_class": "system-cluster-critical"}, "KUBERNETES_ALLOWED_PRIORITY_CLASSES"),
    ({"tolerations": [{"operator": "Exists"}]}, "KUBERNETES_ALLOWED_TOLERATIONS"),
    ({"tolerations": {"key": "node-role.kubernetes.io/control-plane"}}, "KUBERNETES_ALLOWED_TOLERATIONS"),
    ({"node_selector": {"disk": "hdd"}}, "KUBERNETES_ALLOWED_NODE_LABELS"),
    ({"node_selector": {"zone": "a", "kubernetes.io/hostname": "n1"}}, "KUBERNETES_ALLOWED_NODE_LABELS"),
]


@pytest.mark.parametrize(("extra", "setting"), NOT_ALLOWED)
def test_a_step_chooses_only_what_the_site_allows(extra: dict[str, Any], setting: str) -> None:
    request = replace(REQUEST, resource_requirements=Resources(extra=extra))
    with pytest.raises(ValueError, match=setting):
        render_job(request, site(), CURRENT)


@pytest.mark.parametrize("extra", [RESOURCES.extra, {"node_selector": {"zone": "b", "disk": "ssd"}}])
def test_a_site_allows_nothing_by_default(extra: dict[str, Any]) -> None:
    request = replace(REQUEST, resource_requirements=Resources(extra=extra))
    render_job(request, site(), CURRENT)
    closed = site(allowed_node_labels="", allowed_tolerations="", allowed_priority_classes="")
    with pytest.raises(ValueError, match=r"KUBERNETES_ALLOWED_.* nothing"):
        render_job(request, closed, CURRENT)


@pytest.mark.parametrize("mode", ["apptainer", "native"])
def test_nothing_outside_of_the_volume_is_mounted(mode: str) -> None:
    outside = replace(REQUEST, workspace_dir="/home/me/attempt-1/workspace", input_dir="/home/me/attempt-1/input")
    with pytest.raises(ValueError, match="is not below /data/pipelines"):
        render_job(outside, site(mode=mode), CURRENT)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "docker"}, "KUBERNETES_MODE"),
        ({"namespace": "Ccat"}, "KUBERNETES_NAMESPACE"),
        ({"launcher_image": ""}, "KUBERNETES_LAUNCHER_IMAGE"),
        ({"base_dir": "/data:x"}, "PIPELINE_BASE_DIR"),
        ({"volume": "pipelines"}, "KUBERNETES_VOLUME"),
        ({"volume": "pvc:../x"}, "KUBERNETES_VOLUME"),
        ({"volume": "nfs:/export"}, "KUBERNETES_VOLUME"),
        ({"sif_volume": "pvc:UPPER"}, "KUBERNETES_SIF_VOLUME"),
        ({"run_as": "root"}, "KUBERNETES_RUN_AS"),
        ({"node_selector": "disk"}, "KUBERNETES_NODE_SELECTOR"),
        ({"node_selector": "{disk: 1}"}, "KUBERNETES_NODE_SELECTOR"),
        ({"tolerations": "[1]"}, "KUBERNETES_TOLERATIONS"),
        ({"pod_patch": "[1]"}, "KUBERNETES_POD_PATCH"),
        ({"pod_patch": "{a: ["}, "no YAML"),
        ({"pod_patch": "spec: {containers: [{image: x}]}"}, "has no name"),
        ({"deployment": "-"}, "KUBERNETES_DEPLOYMENT"),
    ],
)
def test_faults_of_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        site(**settings)


POD = {"spec": {"containers": [{"name": "step", "env": [{"name": "A", "value": "1"}]}], "nodeSelector": {"a": "1"}}}


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({}, POD),
        (
            {"spec": {"nodeSelector": {"b": "2"}}},
            {"spec": {"containers": POD["spec"]["containers"], "nodeSelector": {"a": "1", "b": "2"}}},
        ),
        ({"spec": {"nodeSelector": None}}, {"spec": {"containers": POD["spec"]["containers"]}}),
        (
            {"spec": {"nodeSelector": {"$patch": "replace", "c": "3"}}},
            {"spec": {"containers": POD["spec"]["containers"], "nodeSelector": {"c": "3"}}},
        ),
        (
            {"spec": {"containers": [{"name": "step", "env": [{"name": "A", "$patch": "delete"}]}, {"name": "side"}]}},
            {"spec": {"containers": [{"name": "step", "env": []}, {"name": "side"}], "nodeSelector": {"a": "1"}}},
        ),
        (
            {"spec": {"containers": [{"$patch": "replace"}, {"name": "only"}]}},
            {"spec": {"containers": [{"name": "only"}], "nodeSelector": {"a": "1"}}},
        ),
        ({"spec": {"tolerations": [{"key": "x"}]}}, {"spec": {**POD["spec"], "tolerations": [{"key": "x"}]}}),
    ],
)
def test_strategic_merge(patch: dict[str, Any], expected: dict[str, Any]) -> None:
    assert merged(POD, patch) == expected
    assert POD["spec"]["nodeSelector"] == {"a": "1"}


INPUT_VOLUMES = "/data/raw=pvc:raw/nights, /data/calib=hostpath:/calib"


def pod_of(request: JobRequest, where: Site) -> dict[str, Any]:
    found: dict[str, Any] = render_job(request, where, CURRENT)["spec"]["template"]["spec"]
    return found


def test_inputs_of_a_native_pod_are_read_only_parts_of_their_volumes() -> None:
    scan = Mount("/data/raw/n1/scan.fits", "/workflow/input/scan.fits", False)
    pod = pod_of(replace(REQUEST, mounts=[scan]), site(mode="native", input_volumes=INPUT_VOLUMES))
    [mount] = [each for each in pod["containers"][0]["volumeMounts"] if each["mountPath"] == scan.target]
    assert (mount["subPath"], mount["readOnly"]) == ("nights/n1/scan.fits", True)
    assert [each["name"] for each in pod["volumes"]] == ["pipelines", mount["name"]]
    with pytest.raises(ValueError, match="KUBERNETES_INPUT_VOLUMES"):
        pod_of(replace(REQUEST, mounts=[scan]), site(mode="native"))


def test_a_pod_with_apptainer_sees_the_directories_of_inputs_at_their_paths() -> None:
    pod = pod_of(REQUEST, site(input_volumes=INPUT_VOLUMES))
    mounts = {each["mountPath"]: each for each in pod["containers"][0]["volumeMounts"]}
    assert mounts["/data/raw"] == {"name": "input-0", "mountPath": "/data/raw", "subPath": "nights", "readOnly": True}
    assert mounts["/data/calib"] == {"name": "input-1", "mountPath": "/data/calib", "readOnly": True}
    assert {each["name"] for each in pod["volumes"]} >= {"input-0", "input-1"}


@pytest.mark.parametrize("bad", ["/data/raw", "raw=pvc:raw", "/data/raw=pvc:.."])
def test_volumes_of_inputs_that_cannot_be(bad: str) -> None:
    with pytest.raises(ConfigurationError, match="INPUT_VOLUMES"):
        site(input_volumes=bad)


def test_the_disk_of_a_node_is_limited_unless_the_step_asks_for_more() -> None:
    limited = replace(site(), disk_limit_gb=1.5)
    [container] = render_job(REQUEST, limited, CURRENT)["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["ephemeral-storage"] == "1536Mi"
    assert container["resources"]["requests"]["ephemeral-storage"] == "0"
    asking = replace(REQUEST, resource_requirements=Resources(extra={"resources": {"ephemeral-storage": "10Gi"}}))
    [container] = render_job(asking, limited, CURRENT)["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["ephemeral-storage"] == "10Gi"
