"""What the backend does beyond the contract: large arrays, definitions, logs of containers, what is refused at once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ccat_workflow_manager.errors import BackendRejected, BackendUnavailable, ConfigurationError
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.aws_batch import credentials as here
from ccat_workflow_manager.hpc.aws_batch.backend import AwsBatchBackend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import Job
from tests.backends.aws_batch.test_contract import AwsBatchHarness
from tests.stand_ins.aws_batch.server import StandIn
from tests.support.fixtures_aws_batch import CREDENTIALS, NO_CONFIGURATION, aws_batch_config
from tests.support.waiting import wait_for, wait_until

MANY = 120


def submit_many(jobs: AwsBatchHarness, number: int, *command: str) -> list[Job]:
    results = jobs.submit_all([jobs.request(*command) for _ in range(number)])
    assert all(isinstance(each, Job) for each in results), results[0]
    return [each for each in results if isinstance(each, Job)]


def number_of(job: Job) -> str:
    return job.id.partition("_")[0].partition(":")[0]


def test_a_large_array_is_followed_in_a_few_calls(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    aws_batch.site.held = True
    many = submit_many(jobs, MANY, "/bin/sh", "-c", "exit 0")
    assert len({number_of(job) for job in many}) == 1
    ids = [job.id for job in many]
    backend = jobs.backend
    parent = aws_batch.site.jobs[number_of(many[0])]
    wait_until(lambda: parent.summary_of_children()["RUNNABLE"] == MANY, 10, "all to be runnable")
    with jobs.count_status_calls() as calls:
        assert {info.status for info in backend.get_statuses(ids).values()} == {JobStatus.PENDING}
        assert calls() == 1
    aws_batch.site.held = False

    def over() -> bool:
        with jobs.count_status_calls() as calls:
            infos = backend.get_statuses(ids)
            assert calls() <= 5
        assert {info.status for info in infos.values()} <= {JobStatus.PENDING, JobStatus.RUNNING, JobStatus.COMPLETED}
        return all(info.status is JobStatus.COMPLETED for info in infos.values())

    wait_until(over, 60, "all to complete")
    with jobs.count_status_calls() as calls:
        fresh = jobs.create().get_statuses(ids)
        assert {info.status for info in fresh.values()} == {JobStatus.COMPLETED}
        assert calls() == 2, "the array, and a list of what has succeeded"


def test_a_whole_array_is_cancelled_by_one_call(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    many = submit_many(jobs, 20, "sleep", "1000")
    wait_until(lambda: jobs.backend.get_status(many[0].id).status is JobStatus.RUNNING, 10, "the first to run")
    before = aws_batch.calls["TerminateJob"] + aws_batch.calls["CancelJob"]
    jobs.backend.cancel_many([job.id for job in many])
    assert aws_batch.calls["TerminateJob"] + aws_batch.calls["CancelJob"] - before == 1
    for job in many:
        jobs.until(job, JobStatus.CANCELLED)


def test_what_had_ended_before_its_array_was_cancelled_keeps_its_own_end(
    jobs: AwsBatchHarness, aws_batch: StandIn
) -> None:
    words = [("exit 3",), ("kill -9 $$",), ("exec sleep 1000",), ("exec sleep 1000",)]
    results = jobs.submit_all([jobs.request("/bin/sh", "-c", *each) for each in words])
    failed, killed, *endless = [each for each in results if isinstance(each, Job)]
    array = aws_batch.site.jobs[number_of(failed)]
    assert number_of(endless[-1]) == number_of(failed)
    wait_until(lambda: array.summary_of_children()["FAILED"] == 2, 10, "two to fail before anybody looks")
    for job in endless:
        jobs.until(job, JobStatus.RUNNING)
    before = aws_batch.calls["TerminateJob"]
    jobs.backend.cancel_many([job.id for job in endless])
    assert aws_batch.calls["TerminateJob"] - before == 1
    for job in endless:
        jobs.until(job, JobStatus.CANCELLED)
    infos = jobs.create().get_statuses([failed.id, killed.id])
    ends = [(info.status, info.reason, info.exit_code) for info in infos.values()]
    assert ends == [
        (JobStatus.FAILED, FailureReason.PROGRAM_FAILED, 3),
        (JobStatus.FAILED, FailureReason.KILLED_BY_SIGNAL, 137),
    ]


def test_a_part_of_an_array_is_cancelled_one_by_one(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    many = submit_many(jobs, 4, "sleep", "1000")
    for job in many:
        jobs.until(job, JobStatus.RUNNING)
    jobs.backend.cancel_many([job.id for job in many[:2]])
    for job in many[:2]:
        jobs.until(job, JobStatus.CANCELLED)
    assert [jobs.backend.get_status(job.id).status for job in many[2:]] == [JobStatus.RUNNING] * 2


def test_pages(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    """Listings and logs come in pages."""
    with mock.patch("tests.stand_ins.aws_batch.operations._MOST_LISTED", 7):
        many = submit_many(jobs, 120, "true")
        for job in many:
            jobs.until(job, JobStatus.COMPLETED)
        aws_batch.site.held = True
        waiting = [jobs.submit("true") for _ in range(10)]
        listed = {each.job_id for each in jobs.backend.list_jobs()}
        assert {job.id for job in waiting} <= listed


def test_the_log_of_a_container_where_there_is_no_file(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    """What went wrong before the command could be started is only in CloudWatch."""
    aws_batch.site.held = True
    job = jobs.submit("true")
    script = Path(str(aws_batch.site.jobs[number_of(job)].container["command"][1]))
    script.write_text("for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done; exit 9")
    with mock.patch.object(aws_batch, "log_page", 2):
        aws_batch.site.held = False
        info = jobs.until(job, JobStatus.FAILED)
        assert info.reason is FailureReason.BACKEND_FAILED
        assert "line 1 line 2" in str(info.message)
        assert jobs.backend.get_logs(job.id) == "".join(f"line {i}\n" for i in range(1, 10))
        assert jobs.backend.tail_logs(job.id, lines=2) == "line 8\nline 9\n"
    assert jobs.backend.tail_logs(job.id, stream="stderr", lines=2) == ""


def test_queues(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    """Jobs are found in every queue that was ever used; one that is gone takes nothing with it."""
    with pytest.raises(BackendRejected, match="no job queue nowhere"):
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


def test_definitions_are_shared_and_registered_again_if_need_be(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    jobs.submit("true")
    before = aws_batch.calls["RegisterJobDefinition"]
    other = jobs.create()
    assert isinstance(other, AwsBatchBackend)
    name = other._definition("launcher:1")
    assert aws_batch.calls["RegisterJobDefinition"] == before
    aws_batch.operations.deregister({"jobDefinition": name})
    with pytest.raises(BackendUnavailable, match="not found"):
        jobs.submit("true")
    jobs.until(jobs.submit("true"), JobStatus.COMPLETED)
    assert aws_batch.calls["RegisterJobDefinition"] == before + 1


def test_a_given_definition(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    jobs.submit("true")
    given = next(reversed(aws_batch.site.definitions))
    jobs.create = lambda: AwsBatchBackend(**{**jobs.config, "image": "", "volumes": "", "job_definition": given})
    jobs._backend = None
    before = aws_batch.calls["DescribeJobDefinitions"]
    jobs.until(jobs.submit("true"), JobStatus.COMPLETED)
    assert aws_batch.calls["DescribeJobDefinitions"] == before


def test_a_directory_that_jobs_do_not_see(jobs: AwsBatchHarness) -> None:
    backend = AwsBatchBackend(**{**jobs.config, "volumes": "/elsewhere"})
    jobs.create = lambda: backend
    with pytest.raises(BackendRejected, match="no volume of AWS_BATCH_VOLUMES"):
        jobs.submit("true")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"image": ""}, "AWS_BATCH_IMAGE"),
        ({"volumes": "data=/x"}, "data=/x"),
        ({"platform": "EKS"}, "EKS"),
        ({"mode": "singularity"}, "singularity"),
        ({"platform": "FARGATE"}, "execution role"),
        ({"region": ""}, "AWS_BATCH_REGION"),
    ],
)
def test_settings_that_cannot_be_used(jobs: AwsBatchHarness, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        AwsBatchBackend(**{**jobs.config, **wrong})


def test_a_queue_has_to_be_named(aws_batch: StandIn) -> None:
    with pytest.raises(ConfigurationError, match="job_queue"):
        registry.create("aws_batch", region="eu-central-1", image="x")


# --- whether it can be used here --------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine that AWS knows nothing of."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in NO_CONFIGURATION.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(here, "_MACHINE", Path("/nonexistent"))
    return monkeypatch


def test_no_credentials(nowhere: pytest.MonkeyPatch) -> None:
    availability = registry.list_backends()["aws_batch"]
    assert (availability.available, availability.reason) == (False, "there are no credentials for AWS")
    assert "aws configure" in availability.installation_hint


@pytest.mark.parametrize(
    "variables", [CREDENTIALS, {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/role"}], ids=["keys", "container"]
)
def test_credentials(nowhere: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        nowhere.setenv(name, value)
    assert registry.list_backends()["aws_batch"].available


def test_a_machine_at_aws(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    vendor = tmp_path / "vendor"
    vendor.write_text("Amazon EC2\n")
    nowhere.setattr(here, "_MACHINE", vendor)
    assert registry.list_backends()["aws_batch"].available


def test_a_broken_configuration(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile")
    nowhere.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert "cannot be read" in registry.list_backends()["aws_batch"].reason


def test_the_region_of_the_files(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert here.region() is None
    (tmp_path / "config").write_text("[default]\nregion = eu-west-1\n")
    nowhere.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert here.region() == "eu-west-1"
    nowhere.setenv("AWS_REGION", "us-east-2")
    assert here.region() == "us-east-2"


@pytest.fixture
def profiles(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Two sites in AWS's own files."""
    (tmp_path / "config").write_text("[default]\nregion = eu-west-1\n[profile south]\nregion = af-south-1\n")
    (tmp_path / "keys").write_text("[south]\naws_access_key_id = a\naws_secret_access_key = b\n")
    nowhere.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    nowhere.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    return nowhere


def test_the_region_of_a_profile(profiles: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert here.region("south") == "af-south-1"
    backend = AwsBatchBackend(
        job_queue="main", image="x", profile="south", volumes="/tmp", state_dir=tmp_path / "state"
    )
    assert backend._aws.address("batch") == "https://batch.af-south-1.amazonaws.com"
    profiles.setenv("AWS_PROFILE", "south")
    assert here.region() == "af-south-1"


def test_a_profile_that_is_not_there(profiles: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"AWS_BATCH_PROFILE.*north"):
        AwsBatchBackend(job_queue="main", image="x", profile="north", volumes="/tmp", state_dir=tmp_path / "state")
    listed = registry.list_backends(lambda name: {"profile": "north"} if name == "aws_batch" else {})["aws_batch"]
    assert not listed.available
    assert "north" in listed.reason
    profiles.setenv("AWS_PROFILE", "east")
    assert "east" in registry.list_backends()["aws_batch"].reason
    assert registry.list_backends(lambda name: {"profile": "south"})["aws_batch"].available


def test_the_endpoint_is_that_of_batch_alone(
    nowhere: pytest.MonkeyPatch, tmp_path: Path, aws_batch_stand_in: StandIn
) -> None:
    """A VPC endpoint of AWS Batch knows nothing of logs and buckets; these have AWS's own words for theirs."""
    config = aws_batch_config(aws_batch_stand_in, tmp_path)
    aws = AwsBatchBackend(**{**config, "endpoint_url": "https://vpce-1.batch.eu-central-1.vpce.amazonaws.com"})._aws
    assert [aws.address(service) for service in ("batch", "logs", "s3")] == [
        "https://vpce-1.batch.eu-central-1.vpce.amazonaws.com",
        "https://logs.eu-central-1.amazonaws.com",
        "https://s3.eu-central-1.amazonaws.com",
    ]
    nowhere.setenv("AWS_ENDPOINT_URL_S3", "https://minio.example")
    nowhere.setenv("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", "https://logs.example")
    aws = AwsBatchBackend(**config)._aws
    assert [aws.address(service) for service in ("batch", "logs", "s3")] == [
        aws_batch_stand_in.url, "https://logs.example", "https://minio.example"
    ]  # fmt: skip


def test_an_address_that_is_none(nowhere: pytest.MonkeyPatch, tmp_path: Path, aws_batch_stand_in: StandIn) -> None:
    nowhere.setenv("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", "logs here")
    aws = AwsBatchBackend(**aws_batch_config(aws_batch_stand_in, tmp_path))._aws
    with pytest.raises(BackendUnavailable, match="logs here"):
        aws.look("logs", "get_log_events", logGroupName="g", logStreamName="s")


def test_without_boto3(nowhere: pytest.MonkeyPatch) -> None:
    nowhere.setattr(registry, "_installed", lambda package: package != "boto3")
    availability = registry.list_backends()["aws_batch"]
    assert (availability.available, availability.reason) == (False, "not installed: boto3")
    assert availability.installation_hint == "pip install 'ccat-workflow-manager[aws_batch]'"
