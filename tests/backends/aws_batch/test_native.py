"""Steps that run in their own image: their requests, and what the step finds in the container."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

from ccat_workflow_manager.errors import BackendRejected
from ccat_workflow_manager.hpc.aws_batch.native import seen_as, with_links
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.lifecycle.models import Mount
from tests.backends.aws_batch.conftest import JobsWith
from tests.backends.aws_batch.harness import SH, native_request


def test_links(tmp_path: Path) -> None:
    """They may be there already, and so may empty directories of the image in their place."""
    source, places = tmp_path / "it's", tmp_path / "workflow"
    source.mkdir()
    (places / "output").mkdir(parents=True)
    mounts = [Mount(str(source), f"{places}/output", True), Mount(str(source), f"{places}/.run/step", False)]
    for _ in range(2):
        subprocess.run([*SH, with_links("exit 0", mounts)], check=True)
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
        subprocess.run([*SH, with_links("exit 0", mounts)], check=True)
        assert (upstream / "cal" / "k").resolve() == product


def test_an_image_in_which_the_links_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "full").touch()
    script = with_links("exit 0", [Mount(str(tmp_path), f"{tmp_path}/output", True)])
    done = subprocess.run([*SH, script], capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert "cannot be put into the image" in done.stderr


def test_a_definition_for_each_image(jobs_with: JobsWith, tmp_path: Path) -> None:
    jobs = jobs_with(image="", mode="native", native_trusted=True)
    assert jobs.backend.runs_images
    attempt, inside = jobs.attempt(), tmp_path / "there"
    request = native_request(
        jobs, "docker://maps:2", attempt, inside, *SH, 'pwd >"$0"/pwd; echo $PATH', f"{inside}/output"
    )
    [job] = jobs.submit_each([request])
    jobs.until(job, JobStatus.COMPLETED)
    assert jobs.at_aws(job).container["image"] == "maps:2"
    assert (attempt.output / "pwd").read_text() == f"{inside}/workspace\n"
    [refused] = jobs.submit_all([replace(request, image_ref="x.sif", job_name="ccat-other-1")])
    assert isinstance(refused, BackendRejected)
    assert "no OCI image" in refused.message
