"""A program in a pod of its own image that tampers with everything it can write, and a pod with hostile words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.testing.harness import Job
from tests.backends.kubernetes.conftest import JobsOn
from tests.backends.kubernetes.harness import KubernetesHarness
from tests.stand_ins.kubernetes import ApiServer

IN_POD_DIR = (
    "cd /workflow/.attempt && claim=$(echo *.claim) && record=${claim%.claim}.exit.json && part=${record%json}part; "
)
TAKEN = {
    "a FIFO": 'rm -f "$x"; mkfifo "$x"',
    "a link out": 'ln -sf /etc/passwd "$x"',
    "a link to nothing": 'ln -sf /nowhere "$x"',
    "a directory": 'rm -f "$x"; mkdir "$x"',
    "too large": 'rm -f "$x"; head -c 3000000 /dev/zero > "$x"',
    "garbage": r"""printf '\000\377{"version":1' > "$x" """,
    "closed": 'rm -f "$x"; : > "$x"; chmod 0 "$x" .',
    "empty": ': > "$x"',
    "nothing": 'rm -f "$x"',
}


@pytest.fixture
def native(cluster: ApiServer, jobs_on: JobsOn) -> KubernetesHarness:
    return jobs_on(cluster, mode="native")


def submit(jobs: KubernetesHarness, program: str) -> Job:
    request = jobs.request("/bin/sh", "-c", program)
    return jobs.submit_request(replace(request, image_ref="ccat/hostile:1"))


def ended(jobs: KubernetesHarness, job: Job) -> HPCJobInfo:
    jobs.poll(lambda: jobs.backend.get_status(job.id).finished, "the end of the job")
    # Another worker, which has seen nothing of it, comes to the same end.
    other = jobs.create()
    info = other.get_status(job.id)
    other.close()
    same = jobs.backend.get_status(job.id)
    assert (info.status, info.reason, info.exit_code) == (same.status, same.reason, same.exit_code)
    return info


@pytest.mark.parametrize("what", TAKEN.values(), ids=TAKEN)
def test_in_place_of_the_claim(native: KubernetesHarness, what: str) -> None:
    info = ended(native, submit(native, f"{IN_POD_DIR} x=$claim; {what}"))
    assert info.status is JobStatus.COMPLETED, info


@pytest.mark.parametrize("what", TAKEN.values(), ids=TAKEN)
def test_in_place_of_the_exit_record(native: KubernetesHarness, what: str) -> None:
    info = ended(native, submit(native, f"{IN_POD_DIR} x=$record; {what}; kill -9 $PPID; sleep 5"))
    assert info.status is JobStatus.FAILED, info
    assert info.reason in (FailureReason.EXIT_RECORD_UNREADABLE, FailureReason.KILLED_BY_SIGNAL), info
    assert "root:" not in str(info.message)


def test_nothing_else_of_the_attempt_is_writable(native: KubernetesHarness) -> None:
    job = submit(
        native, "echo : > /workflow/.attempt.sh; echo {} > /workflow/config/manifest.json; ls -A /workflow/.attempt"
    )
    script = Path(job.request.workspace_dir).parent / f"{job.request.job_name}.sh"
    files = [script, Path(job.request.manifest_path)]
    before = [file.read_bytes() for file in files]
    ended(native, job)
    assert [file.read_bytes() for file in files] == before
    found = native.backend.get_logs(job.id).split()
    assert {f"{job.request.job_name}.claim", f"{job.request.job_name}.exit.part"} <= set(found)
    assert not [name for name in found if name.endswith((".sh", ".cancel", "workspace"))]
