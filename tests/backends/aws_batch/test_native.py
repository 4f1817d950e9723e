"""Steps that run in their own image: what is asked for, and, in a real container, what the step finds there."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ccat_workflow_manager.errors import BackendRejected, ConfigurationError
from ccat_workflow_manager.hpc.aws_batch.backend import AwsBatchBackend
from ccat_workflow_manager.hpc.aws_batch.native import seen_as, with_links
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.lifecycle.models import Mount
from ccat_workflow_manager.testing.harness import Attempt, BackendHarness, Job
from tests.backends.aws_batch.test_contract import AwsBatchHarness
from tests.stand_ins.aws_batch.server import StandIn


def native(harness: BackendHarness, image: str, attempt: Attempt, places: Path, *command: str) -> JobRequest:
    """A request as the service makes it for backends that run images; the container sees the attempt in `places`."""
    request = harness.request(*command, attempt=attempt)
    return replace(
        request,
        image_ref=image,
        mounts=[
            Mount(str(attempt.workspace), f"{places}/workspace", writable=True),
            Mount(str(attempt.output), f"{places}/output", writable=True),
        ],
    )


def test_links(tmp_path: Path) -> None:
    """They may be there already, and so may empty directories of the image in their place."""
    source, places = tmp_path / "it's", tmp_path / "workflow"
    source.mkdir()
    (places / "output").mkdir(parents=True)
    mounts = [Mount(str(source), f"{places}/output", True), Mount(str(source), f"{places}/.run/step", False)]
    for _ in range(2):
        subprocess.run(["/bin/sh", "-c", with_links("exit 0", mounts)], check=True)
        assert (places / "output").readlink() == (places / ".run/step").readlink() == source
    assert seen_as(str(source), mounts) == f"{places}/output"
    assert seen_as("/else", mounts) == "/else"


def test_links_inside_links(tmp_path: Path) -> None:
    """Products are put into the directory that holds them all."""
    places, product = tmp_path / "places", tmp_path / "product"
    (places / "cal" / "k").mkdir(parents=True)
    product.mkdir()
    upstream = tmp_path / "workflow" / "upstream"
    mounts = [Mount(str(places), str(upstream), False), Mount(str(product), f"{upstream}/cal/k", False)]
    for _ in range(2):
        subprocess.run(["/bin/sh", "-c", with_links("exit 0", mounts)], check=True)
        assert (upstream / "cal" / "k").resolve() == product


def test_an_image_that_lets_nobody_write(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "full").touch()
    script = with_links("exit 0", [Mount(str(tmp_path), f"{tmp_path}/output", True)])
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert "cannot be put into the image" in done.stderr


def test_a_definition_for_each_image(jobs: AwsBatchHarness, aws_batch: StandIn, tmp_path: Path) -> None:
    backend = AwsBatchBackend(**{**jobs.config, "image": "", "mode": "native"})
    assert backend.runs_images
    jobs.create = lambda: backend
    attempt = jobs.attempt()
    request = native(jobs, "docker://maps:2", attempt, tmp_path / "there", "/bin/sh", "-c", 'pwd >"$0"/pwd; echo $PATH')
    request = replace(request, execution_command=[*request.execution_command, str(tmp_path / "there" / "output")])
    (job,) = jobs.submit_all([request])
    assert isinstance(job, Job)
    jobs.until(job, JobStatus.COMPLETED)
    assert aws_batch.site.jobs[job.id.partition(":")[0]].container["image"] == "maps:2"
    assert (attempt.output / "pwd").read_text() == f"{tmp_path}/there/workspace\n"
    (refused,) = backend.submit_many([replace(request, image_ref="x.sif", job_name="ccat-other-1")])
    assert isinstance(refused, BackendRejected)
    assert "no OCI image" in refused.message
    with pytest.raises(ConfigurationError, match="native"):
        AwsBatchBackend(**{**jobs.config, "mode": "native", "job_definition": "x"})
