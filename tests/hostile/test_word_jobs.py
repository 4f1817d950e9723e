"""Hostile words in what is sent to Kubernetes and AWS Batch: byte for byte, or refused with the path."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import kubernetes_validate
import pytest

from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.aws_batch.definition import render_definition
from ccat_workflow_manager.hpc.aws_batch.native import with_links
from ccat_workflow_manager.hpc.aws_batch.request import render_ask, render_submit
from ccat_workflow_manager.hpc.kubernetes.manifest import render_job
from ccat_workflow_manager.hpc.kubernetes.script import render_pod_script
from ccat_workflow_manager.lifecycle.models import Mount, Resources, job_name
from tests.backends.aws_batch.test_requests import SITE, in_model
from tests.backends.kubernetes.test_manifest import ATTEMPT, CURRENT, REQUEST, site
from tests.hostile.words import NAMES, WORDS
from tests.support.waiting import PATIENCE

TEXTS = list(WORDS.values())
_LABEL = re.compile(r"(|[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)")
"""What Kubernetes takes as the value of a label."""
ORDINARY = Resources(cpu=1, memory_gb=1, time_hours=1)


@pytest.mark.parametrize("mode", ["apptainer", "native"])
@pytest.mark.parametrize("word", NAMES)
def test_a_manifest_is_valid_in_any_directory(mode: str, word: str) -> None:
    attempt = f"/data/pipelines/map/{NAMES[word]}/grid/main/attempt-1"
    moved = {
        field: getattr(REQUEST, field).replace(ATTEMPT, attempt)
        for field in ("input_dir", "output_dir", "workspace_dir", "manifest_path")
    }
    job = render_job(replace(REQUEST, **moved), site(mode=mode, volume="pvc:data/pipelines"), CURRENT)
    kubernetes_validate.validate(job, "1.31", strict=True)
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        assert all(_LABEL.fullmatch(value) for value in metadata["labels"].values())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    script = container["command"][-1]
    # Kubernetes turns `$$` into `$`, and anything like $(NAME) into a variable.
    assert "$(" not in script.replace("$$", "")
    paths = [script.replace("$$", "$"), *(each.get("subPath", "") for each in container["volumeMounts"])]
    assert any(NAMES[word] in path for path in paths)


@pytest.mark.parametrize("word", WORDS)
def test_a_word_is_no_name_of_a_job_and_no_image(word: str) -> None:
    text = WORDS[word]
    with pytest.raises(ValueError, match="name of a job"):
        render_job(replace(REQUEST, job_name=text), site(), CURRENT)
    with pytest.raises(ValueError, match="no OCI image"):
        render_job(replace(REQUEST, image_ref=text), site(mode="native", volume="pvc:data/pipelines"), CURRENT)


def _extra(key: str, value: Any) -> Resources:
    return replace(ORDINARY, extra={key: value})


@pytest.mark.parametrize("word", WORDS)
def test_kubernetes_refuses_words_where_the_site_decides(word: str) -> None:
    text = WORDS[word]
    open_site = site(allowed_node_labels="zone", allowed_tolerations="gpu", allowed_priority_classes="urgent")
    for path, resources in (
        ("resources.extra.priority_class", _extra("priority_class", text)),
        ("resources.extra.node_selector", _extra("node_selector", {"zone": text})),
        ("resources.extra.node_selector", _extra("node_selector", {text: "a"})),
        ("resources.extra.tolerations", _extra("tolerations", [{"key": text, "operator": "Exists"}])),
        ("resources.extra.resources", _extra("resources", {text: 1})),
        ("resources.extra.resources", _extra("resources", {"vendor.example/fpga": text})),
        ("resources.extra", _extra(text, 1)),
    ):
        with pytest.raises(ValueError, match=re.escape(path)):
            render_job(replace(REQUEST, resource_requirements=resources), open_site, CURRENT)


@pytest.mark.parametrize("word", NAMES)
def test_aws_batch_gets_the_path_of_a_script_as_it_is(word: str) -> None:
    command = ["/bin/sh", f"/data/{NAMES[word]}/attempt-1.sh"]
    ask = render_ask(ORDINARY, 0, SITE)
    request = render_submit(ask, name="ccat-1", definition="d:1", command=command, size=2)
    in_model("SubmitJob", request)
    assert request["containerOverrides"]["command"] == command


@pytest.mark.parametrize("word", WORDS)
def test_aws_batch_refuses_words_where_names_are_meant(word: str) -> None:
    text = WORDS[word]
    definition = render_definition(text, SITE, ())
    in_model("RegisterJobDefinition", definition)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", definition["jobDefinitionName"])
    for path, resources in (
        ("resources.partition", replace(ORDINARY, partition=text)),
        ("resources.account", replace(ORDINARY, account=text)),
        ("resources.extra.scheduling_priority", _extra("scheduling_priority", text)),
        ("resources.extra", _extra(text, 1)),
    ):
        with pytest.raises(ValueError, match=re.escape(path)):
            render_ask(resources, 0, SITE)


_TELL = (
    "import json, os, sys; print(json.dumps([sys.argv[1:], [os.environ[f'W{n}'] for n in range(len(sys.argv) - 1)]]))"
)


def _in_a_pod(command: list[str], environment: dict[str, str], files: AttemptFiles, _: Path) -> str:
    return render_pod_script(command, environment=environment, files=files, native=False)


def _in_an_image(command: list[str], environment: dict[str, str], files: AttemptFiles, tmp_path: Path) -> str:
    """As AWS Batch starts the image of a step: its directories have such names, too."""
    links = [Mount(files.workspace, str(tmp_path / "seen by the $step `id`"), True)]
    return with_links(render_pod_script(command, environment=environment, files=files, native=False), links)


@pytest.mark.parametrize("render", [_in_a_pod, _in_an_image])
def test_a_script_in_a_container_passes_words_to_the_program_alone(
    tmp_path: Path, render: Callable[[list[str], dict[str, str], AttemptFiles, Path], str]
) -> None:
    workspace = tmp_path / NAMES["shell"] / "workspace"
    (workspace.parent / "logs").mkdir(parents=True)
    workspace.mkdir()
    files = AttemptFiles.of(str(workspace), job_name(UUID(int=1), 1))
    Path(files.base + ".pod").mkdir()
    words = {f"W{number}": text for number, text in enumerate(TEXTS)}
    command = ["/usr/bin/env", "python3", "-c", _TELL, *TEXTS]
    script = render(command, {**words, "PATH": os.environ["PATH"]}, files, tmp_path)
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        capture_output=True,
        cwd=tmp_path,
        env={"CCAT_WM_POD": "p"},
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(Path(files.stdout).read_text(encoding="utf-8")) == [TEXTS, TEXTS]
