"""What the backend does beyond the contract: arrays, pages, queues, definitions, logs of containers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ccat_workflow_manager.errors import BackendRejected, BackendUnavailable, ConfigurationError
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.aws_batch.backend import AwsBatchBackend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import Job
from tests.backends.aws_batch.conftest import JobsWith
from tests.backends.aws_batch.harness import SH, AwsBatchHarness, number_of
from tests.stand_ins.aws_batch.server import StandIn
from tests.support.waiting import wait_for, wait_until

MANY = 120
"""More than one call describes."""
STOPPING = ("TerminateJob", "CancelJob")


def submit_many(jobs: AwsBatchHarness, number: int, *command: str) -> list[Job]:
    return jobs.submit_each([jobs.request(*command) for _ in range(number)])


# --- arrays and pages -------------------------------------------------------------------------------------------------


def test_a_large_array_is_followed_in_a_few_calls(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    aws_batch.site.held = True
    many = submit_many(jobs, MANY, *SH, "exit 0")
    assert len({number_of(job) for job in many}) == 1
    ids = [job.id for job in many]
    parent = jobs.at_aws(many[0])
    wait_until(lambda: parent.summary_of_children()["RUNNABLE"] == MANY, 10, "all to be runnable")
    with jobs.count_status_calls() as calls:
        assert {info.status for info in jobs.backend.get_statuses(ids).values()} == {JobStatus.PENDING}
        assert calls() == 1
    aws_batch.site.held = False

    def over() -> bool:
        with jobs.count_status_calls() as calls:
            infos = jobs.backend.get_statuses(ids)
            assert calls() <= 5
        assert {info.status for info in infos.values()} <= {JobStatus.PENDING, JobStatus.RUNNING, JobStatus.COMPLETED}
        return all(info.status is JobStatus.COMPLETED for info in infos.values())

    wait_until(over, 60, "all to complete")
    with jobs.count_status_calls() as calls:
        fresh = jobs.create().get_statuses(ids)
        assert {info.status for info in fresh.values()} == {JobStatus.COMPLETED}
        assert calls() == 2  # the array, and a list of the children that have succeeded


def test_a_whole_array_is_cancelled_by_one_call(jobs: AwsBatchHarness) -> None:
    many = submit_many(jobs, 20, "sleep", "1000")
    jobs.until(many[0], JobStatus.RUNNING)
    with jobs.count_calls(*STOPPING) as calls:
        jobs.backend.cancel_many([job.id for job in many])
        assert calls() == 1
    for job in many:
        jobs.until(job, JobStatus.CANCELLED)


def test_children_that_ended_before_their_array_was_cancelled(jobs: AwsBatchHarness) -> None:
    texts = ["exit 3", "kill -9 $$", "exec sleep 1000", "exec sleep 1000"]
    failed, killed, *endless = jobs.submit_each([jobs.request(*SH, text) for text in texts])
    array = jobs.at_aws(failed)
    assert number_of(endless[-1]) == number_of(failed)
    wait_until(lambda: array.summary_of_children()["FAILED"] == 2, 10, "two to fail unseen")
    for job in endless:
        jobs.until(job, JobStatus.RUNNING)
    with jobs.count_calls("TerminateJob") as calls:
        jobs.backend.cancel_many([job.id for job in endless])
        assert calls() == 1
    for job in endless:
        jobs.until(job, JobStatus.CANCELLED)
    infos = jobs.create().get_statuses([failed.id, killed.id])
    assert [(info.status, info.reason, info.exit_code) for info in infos.values()] == [
        (JobStatus.FAILED, FailureReason.PROGRAM_FAILED, 3),
        (JobStatus.FAILED, FailureReason.KILLED_BY_SIGNAL, 137),
    ]


def test_a_part_of_an_array_is_cancelled_one_by_one(jobs: AwsBatchHarness) -> None:
    many = submit_many(jobs, 4, "sleep", "1000")
    for job in many:
        jobs.until(job, JobStatus.RUNNING)
    jobs.backend.cancel_many([job.id for job in many[:2]])
    for job in many[:2]:
        jobs.until(job, JobStatus.CANCELLED)
    assert [jobs.backend.get_status(job.id).status for job in many[2:]] == [JobStatus.RUNNING] * 2


def test_pages(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    """Listings come in pages."""
    with mock.patch.object(aws_batch.operations, "most_listed", 7):
        for job in submit_many(jobs, 20, "true"):
            jobs.until(job, JobStatus.COMPLETED)
        aws_batch.site.held = True
        waiting = [jobs.submit("true") for _ in range(10)]
        assert {job.id for job in waiting} <= {each.job_id for each in jobs.backend.list_jobs()}


# --- queues, machines, definitions ------------------------------------------------------------------------------------


def test_the_log_of_a_container_where_there_is_no_file(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    """What went wrong before the command could be started is only in CloudWatch, page by page."""
    aws_batch.site.held = True
    job = jobs.submit("true")
    script = Path(str(jobs.at_aws(job).container["command"][1]))
    script.write_text("for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done; exit 9")
    with mock.patch.object(aws_batch.operations, "log_page", 2):
        aws_batch.site.held = False
        info = jobs.until(job, JobStatus.FAILED)
        assert info.reason is FailureReason.BACKEND_FAILED
        assert "line 1 line 2" in str(info.message)
        assert jobs.backend.get_logs(job.id) == "".join(f"line {i}\n" for i in range(1, 10))
        assert jobs.backend.tail_logs(job.id, lines=2) == "line 8\nline 9\n"
    assert jobs.backend.tail_logs(job.id, stream="stderr", lines=2) == ""


def test_queues(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    """Jobs are found in every queue that was ever used; one that is gone takes nothing with it."""
    with pytest.raises(BackendRejected, match="nowhere"):
        jobs.submit("true", resources=replace(jobs.resources, partition="nowhere"))
    with mock.patch.object(aws_batch.site, "queues", {"main", "other"}):
        job = jobs.submit("sleep", "1000", resources=replace(jobs.resources, partition="other"))
        other = jobs.create()
        assert job.id in {each.job_id for each in other.list_jobs()}
        assert {queue.name for queue in other.queue_status()} == {"main", "other"}
        jobs.backend.cancel(job.id)
        jobs.until(job, JobStatus.CANCELLED)
    assert job.id not in {each.job_id for each in other.list_jobs()}
    assert [queue.name for queue in other.queue_status()] == ["main"]


def test_no_image(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    aws_batch.site.missing_images.add("launcher:1")
    info = jobs.until(jobs.submit("true"), JobStatus.FAILED)
    assert info.reason is FailureReason.IMAGE_MISSING
    assert "launcher:1" in str(info.message)


def test_a_job_larger_than_any_machine_waits_for_a_person(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    with mock.patch.object(aws_batch.site, "largest_memory_mb", 10):
        job = jobs.submit("true")
        info = wait_for(lambda: i if (i := jobs.backend.get_status(job.id)).attention else None, 10)
        assert "no instance type" in str(info.message)


def test_definitions_are_shared_and_registered_again_if_need_be(jobs: AwsBatchHarness, jobs_with: JobsWith) -> None:
    name = jobs.at_aws(jobs.submit("true")).definition
    other = jobs_with()
    with jobs.count_calls("RegisterJobDefinition") as calls:
        assert other.at_aws(other.submit("true")).definition == name
        assert calls() == 0
        jobs.aws.operations.deregister({"jobDefinition": name})
        with pytest.raises(BackendUnavailable, match="not found"):
            jobs.submit("true")
        jobs.until(jobs.submit("true"), JobStatus.COMPLETED)
        assert calls() == 1


def test_a_given_definition(jobs: AwsBatchHarness, jobs_with: JobsWith, aws_batch: StandIn) -> None:
    jobs.submit("true")
    given = jobs_with(image="", volumes="", job_definition=next(reversed(aws_batch.site.definitions)))
    with jobs.count_calls("DescribeJobDefinitions") as calls:
        given.until(given.submit("true"), JobStatus.COMPLETED)
        assert calls() == 0


def test_a_directory_that_jobs_do_not_see(jobs_with: JobsWith) -> None:
    with pytest.raises(BackendRejected, match="AWS_BATCH_VOLUMES"):
        jobs_with(volumes="/elsewhere").submit("true")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"image": ""}, "AWS_BATCH_IMAGE"),
        ({"volumes": "data=/x"}, "data=/x"),
        ({"platform": "EKS"}, "EKS"),
        ({"mode": "singularity"}, "singularity"),
        ({"platform": "FARGATE"}, "execution role"),
        ({"region": ""}, "AWS_BATCH_REGION"),
        ({"mode": "native", "image": "", "job_definition": "x"}, "native"),
        ({"mode": "native", "image": ""}, "AWS_BATCH_NATIVE_TRUSTED=true"),
        *(
            ({"volumes": "", "s3_prefix": url}, "AWS_BATCH_S3_PREFIX")
            for url in ("bucket/x", "https://bucket", "s3://")
        ),
    ],
)
def test_settings_that_cannot_be_used(jobs: AwsBatchHarness, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        AwsBatchBackend(**{**jobs.config, **wrong})


def test_a_queue_has_to_be_named(aws_batch: StandIn) -> None:
    with pytest.raises(ConfigurationError, match="job_queue"):
        registry.create("aws_batch", region="eu-central-1", image="x")
