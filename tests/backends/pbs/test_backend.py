"""What PBS does on a bad day, or with another configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from ccat_workflow_manager.errors import BackendConfused, BackendRejected, BackendUnavailable, JobDeferred
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.hpc.batch import scheduler_backend
from ccat_workflow_manager.hpc.pbs.backend import PbsBackend
from ccat_workflow_manager.hpc.pbs.client import PbsClient
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import Job
from ccat_workflow_manager.testing.programs import WAIT_FOR_FILE, sh
from tests.backends.pbs.fake_pbs import FakePbs
from tests.backends.pbs.test_contract import PbsHarness, pbs_harness
from tests.support.waiting import wait_for, wait_until


@pytest.fixture
def jobs(fake_pbs: FakePbs, tmp_path: Path) -> Iterator[PbsHarness]:
    harness = pbs_harness(fake_pbs, tmp_path)
    yield harness
    harness.close()


def waiting_for(jobs: PbsHarness, job: Job, words: str) -> None:
    wait_until(lambda: words in (jobs.backend.get_status(job.id).message or ""), what=words)


def submit(jobs: PbsHarness, request: JobRequest) -> str:
    [result] = jobs.backend.submit_many([request])
    if isinstance(result, Exception):
        raise result
    return result


def once(jobs: PbsHarness) -> tuple[JobRequest, Path]:
    """A job that tells of each of its starts."""
    starts = jobs.attempt().root / "starts"
    return jobs.request(*sh('echo once >> "$1"', str(starts))), starts


def test_an_answer_that_got_lost_is_looked_up(jobs: PbsHarness, fake_pbs: FakePbs) -> None:
    request, starts = once(jobs)
    with fake_pbs.switched("lose_answer"):
        job_id = submit(jobs, request)
    assert submit(jobs, request) == job_id == jobs.create().find(request.job_name)
    wait_until(lambda: jobs.backend.get_status(job_id).finished)
    assert starts.read_text() == "once\n"
    assert len(fake_pbs.jobs()) == 1


@pytest.mark.parametrize("history", [True, False])
def test_an_answer_that_got_lost_with_the_server(jobs: PbsHarness, fake_pbs: FakePbs, history: bool) -> None:
    """The next try, by whomever, finds the job before it would submit another: by its name or by its claim."""
    request, starts = once(jobs)
    if not history:
        (fake_pbs.directory / "no_history").touch()
    real = fake_pbs.bin / "qselect"
    aside = real.rename(real.with_suffix(".aside"))
    real.write_text("#!/bin/sh\necho 'qselect: cannot connect to server pbs (errno=15010)' >&2\nexit 1\n")
    real.chmod(0o755)
    with fake_pbs.switched("lose_answer"), pytest.raises(BackendUnavailable, match="errno=15010"):
        submit(jobs, request)
    wait_until(lambda: fake_pbs.jobs()[0]["job_state"] == "F")
    aside.rename(real)
    other = jobs.create()
    [job_id] = other.submit_many([request])
    assert isinstance(job_id, str)
    assert job_id.startswith("0.pbs:")
    assert other.get_status(job_id).status is JobStatus.COMPLETED
    assert starts.read_text() == "once\n"
    assert len(fake_pbs.jobs()) == 1


def test_a_job_that_never_was_is_submitted_again(jobs: PbsHarness, fake_pbs: FakePbs) -> None:
    request, starts = once(jobs)
    with mock.patch.object(scheduler_backend, "SETTLE_SECONDS", 0.0):
        with fake_pbs.switched("down"), pytest.raises(BackendUnavailable, match=r"cannot connect to server pbs"):
            submit(jobs, request)
        job_id = submit(jobs, request)
    wait_until(lambda: jobs.backend.get_status(job_id).finished)
    assert starts.read_text() == "once\n"


def test_a_full_queue_is_a_wait_and_not_a_failure(jobs: PbsHarness, fake_pbs: FakePbs) -> None:
    request, _ = once(jobs)
    with fake_pbs.switched("full"), pytest.raises(JobDeferred, match="Maximum number of jobs"):
        submit(jobs, request)
    calls = fake_pbs.calls("qsub")
    with pytest.raises(JobDeferred, match="Maximum number of jobs"):
        submit(jobs, request)
    assert fake_pbs.calls("qsub") == calls, "not asked again at once"
    assert "Maximum number of jobs" in str(jobs.backend.full(jobs.resources, 0))
    assert jobs.backend.full(replace(jobs.resources, partition="other"), 0) is None
    assert submit(jobs, replace(request, resource_requirements=replace(jobs.resources, partition="workq")))


def test_what_pbs_says_of_a_refusal(jobs: PbsHarness) -> None:
    with pytest.raises(BackendRejected, match="Unknown queue"):
        jobs.submit("true", resources=replace(jobs.resources, partition="nowhere"))


@pytest.mark.parametrize("switch", ["no_history", "no_json", "torque"])
def test_other_servers(jobs: PbsHarness, fake_pbs: FakePbs, switch: str) -> None:
    """No history, no JSON, or Torque: ends, limits and deletions are distinguished all the same."""
    (fake_pbs.directory / switch).touch()
    assert jobs.ended(jobs.submit("true")).status is JobStatus.COMPLETED
    failed = jobs.ended(jobs.submit(*sh("exit 3")))
    assert (failed.exit_code, failed.reason) == (3, FailureReason.PROGRAM_FAILED)
    endless = jobs.submit_endless()
    jobs.until(endless, JobStatus.RUNNING)
    assert jobs.backend.find(endless.request.job_name) == endless.id
    jobs.backend.cancel(endless.id)
    wait_until(lambda: fake_pbs.jobs()[-1]["job_state"] in "FC")
    jobs.backend.cancel(endless.id)
    if switch == "no_history":
        # What was killed with its script leaves no word anywhere.
        assert jobs.backend.get_status(endless.id).status in (JobStatus.UNKNOWN, JobStatus.FAILED)
        return
    assert jobs.ended(endless).status is JobStatus.CANCELLED
    limited = jobs.submit("sleep", "1000", resources=replace(jobs.resources, time_hours=1 / 3600))
    assert jobs.until(limited, JobStatus.FAILED).reason is FailureReason.TIME_LIMIT


def test_reasons_of_a_wait(jobs: PbsHarness, fake_pbs: FakePbs) -> None:
    with fake_pbs.switched("hold"):
        job = jobs.submit("true")
        waiting_for(jobs, job, "held at PBS until a person releases it: Job held by somebody")
    assert jobs.ended(job).status is JobStatus.COMPLETED
    with fake_pbs.switched("never"):
        impossible = jobs.submit("true")
        waiting_for(jobs, impossible, "Can Never Run: Insufficient amount of resource")
        jobs.backend.cancel(impossible.id)
        assert jobs.ended(impossible).status is JobStatus.CANCELLED


def test_a_number_that_now_is_another_job(jobs: PbsHarness, fake_pbs: FakePbs) -> None:
    job = jobs.submit_endless()
    jobs.until(job, JobStatus.RUNNING)
    stranger = f"{job.id.partition(':')[0]}:ccat-somebody-else"
    jobs.backend.cancel(stranger)
    assert jobs.backend.get_status(stranger).status is JobStatus.UNKNOWN
    assert not list(fake_pbs.directory.glob("jobs/*/delete"))


def test_what_the_scheduler_says_goes_beside_the_logs(jobs: PbsHarness) -> None:
    job = jobs.submit("sleep", "1000", resources=replace(jobs.resources, time_hours=1 / 3600))
    jobs.until(job, JobStatus.FAILED)
    log = wait_for(
        (job.attempt.root / f"{job.request.job_name}.scheduler.log").read_text, what="the scheduler's own log"
    )
    assert "=>> PBS: job killed: walltime" in log


def test_queues(jobs: PbsHarness) -> None:
    gate = jobs.attempt().root / "go"
    job = jobs.submit(*sh(WAIT_FOR_FILE, str(gate)))
    jobs.until(job, JobStatus.RUNNING)
    [queue] = jobs.backend.queue_status()
    gate.touch()
    assert (queue.name, queue.available, queue.running, queue.pending) == ("workq", True, 1, 0)
    assert (queue.others_pending, queue.waiting_seconds) == (0, None)
    assert queue.waited_seconds is not None
    assert queue.details["calls_in_the_last_minute"] > 0


def test_queues_cost_few_calls(jobs: PbsHarness, fake_pbs: FakePbs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(jobs.backend, PbsBackend)
    budget = jobs.backend._commands.budget

    def cost() -> int:
        before = budget.used()
        [queue] = jobs.backend.queue_status()
        assert queue.pending == 1
        return budget.used() - before

    with fake_pbs.switched("hold"):
        jobs.submit("true")
        cost()
        assert cost() == 1
        monkeypatch.setattr("ccat_workflow_manager.hpc.pbs.client._RECENT_SECONDS", 0)
        assert cost() == 3
        with monkeypatch.context() as short:
            short.setattr(budget, "per_minute", budget.used() * 3 // 2)
            assert cost() == 1


def test_the_waiting_jobs_of_others_are_those_of_the_queue_without_ours(
    jobs: PbsHarness, fake_pbs: FakePbs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_pbs.switched("hold"):
        jobs.submit("true")
        jobs.submit("true")
        mine = [each["id"] for each in fake_pbs.jobs()][:1]
        monkeypatch.setattr(PbsClient, "_selected", lambda *_: mine)
        [queue] = jobs.backend.queue_status()
        assert (queue.pending, queue.details["held"], queue.others_pending) == (1, 1, 1)
        monkeypatch.setattr(PbsClient, "knows_ours", False)
        assert jobs.backend.queue_status()[0].others_pending is None


def test_nothing_is_no_answer(jobs: PbsHarness, fake_pbs: FakePbs) -> None:
    job = jobs.submit("true")
    jobs.ended(job)
    with fake_pbs.switched("silent"), pytest.raises(BackendConfused, match="nothing"):
        jobs.backend.get_status(job.id)


@pytest.mark.parametrize(
    "call", [lambda b: b.queue_status(), lambda b: b.find("ccat-x-1"), lambda b: b.get_status("0.pbs:x")]
)
def test_no_server(jobs: PbsHarness, fake_pbs: FakePbs, call: Callable[[PbsBackend], object]) -> None:
    assert isinstance(jobs.backend, PbsBackend)
    with (
        fake_pbs.switched("down"),
        pytest.raises(BackendUnavailable, match=r"cannot connect to server pbs \(errno=111\)"),
    ):
        call(jobs.backend)


def test_availability(fake_pbs: FakePbs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PbsBackend.is_available().available
    (fake_pbs.bin / "qdel").unlink()
    monkeypatch.setenv("PATH", str(fake_pbs.bin))
    found = PbsBackend.is_available()
    assert (found.available, found.reason) == (False, "not on the search path: qdel")
