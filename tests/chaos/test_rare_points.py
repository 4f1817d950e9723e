"""The failpoints that no process of the matrix comes by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.migrate import state, upgrade
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.errors import AttemptError, ServiceUnavailable
from ccat_workflow_manager.execution.image_cache import pulled_image
from ccat_workflow_manager.execution.launch_spec import no_progress
from ccat_workflow_manager.execution.runtime import Runtime, RuntimeKind
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.services import poll as follow
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.chaos.executing import Executing, start_one, sweep
from tests.support.armed import Injected, Plan
from tests.support.step_runs import cancel_wanted, one_step, poll, start
from tests.support.waiting import PATIENCE


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None)


def test_a_migration_that_breaks_off_is_done_again(postgres_url: str) -> None:
    database = Database(postgres_url)
    failpoints.arm(Plan("* commit.migrate before raise; * commit.migrate after timeout nth=1"))
    with pytest.raises(Injected):
        upgrade(database)
    assert not state(database).is_current
    with pytest.raises(ServiceUnavailable):
        upgrade(database)
    assert state(database).is_current
    upgrade(database)
    database.close()


@pytest.mark.parametrize("injection", ["before raise", "after raise", "after timeout", "before twice"])
def test_a_job_script_that_cannot_be_written_is_written_by_another_attempt(context: Context, injection: str) -> None:
    backend = Executing()
    context.use_backend("noop", backend)
    start(context)
    failpoints.arm(Plan(f"* files.script {injection}"))
    while context.launcher.launch("noop", 1):
        pass
    [job] = backend.jobs.values()
    assert Path(job.request.execution_command[1]).read_text().startswith("#!/bin/sh")


@pytest.mark.parametrize("injection", ["before raise", "after raise", "after timeout", "before twice"])
def test_secrets_that_cannot_be_handed_over_are_those_of_another_attempt(
    context: Context, monkeypatch: pytest.MonkeyPatch, injection: str
) -> None:
    monkeypatch.setenv("CCAT_WM_SECRET_default__archive", "canary")
    backend = Executing()
    context.use_backend("noop", backend)
    start(context, one_step(environment={"TOKEN": {"secret": "archive"}}))
    failpoints.arm(Plan(f"* files.secrets {injection}"))
    while context.launcher.launch("noop", 1):
        pass
    [job] = backend.jobs.values()
    [left] = context.settings.pipeline_base_dir.rglob("*.secrets")
    assert left.name.removesuffix(".secrets") == job.request.job_name
    assert left.read_text() == "export TOKEN=canary\n"


@pytest.mark.parametrize("injection", ["before raise", "before timeout"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_pull_that_breaks_off_leaves_nothing_but_its_lock(tmp_path: Path, injection: str) -> None:
    failpoints.arm(Plan(f"* files.pull {injection}"))
    with pytest.raises(AttemptError) as caught:
        pulled_image(
            "docker://nowhere.invalid/image",
            cache_dir=str(tmp_path),
            runtime=Runtime(RuntimeKind.APPTAINER, "/bin/false"),
            progress=no_progress,
            timeout=PATIENCE,
        )
    assert caught.value.reason is FailureReason.IMAGE_PULL
    assert [path.suffix for path in (tmp_path / "references").iterdir()] == [".lock"]


def test_following_goes_on_after_it_broke_off_between_two_pages(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FakeBackend()
    context.use_backend("noop", backend)
    monkeypatch.setattr(follow, "PAGE", 2)
    start(context, count=5)
    context.launcher.launch("noop", 5)
    for job_id in backend.jobs:
        backend.set_state(job_id, HPCJobInfo(JobStatus.COMPLETED, 0))
    failpoints.arm(Plan("* commit.go-on-following before raise"))
    with pytest.raises(Injected):
        poll(context)
    poll(context)
    with context.database.read() as unit:
        assert unit.execute("SELECT DISTINCT status FROM runs").all() == [("COMPLETED",)]


def test_a_late_job_that_cannot_be_stopped_is_named_in_the_log(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Executing()
    context.use_backend("noop", backend)
    run_id = start_one(context)

    def cancelled_elsewhere() -> None:
        context.requests.cancel([run_id], actor="anna")
        sweep(context)
        cancel_wanted(context)

    backend.meanwhile = cancelled_elsewhere
    failpoints.arm(Plan("* backend.undo before timeout"))
    assert context.launcher.launch("noop", 1) == 1
    assert "stop these jobs by hand" in caplog.text
    assert "fake-1" in caplog.text
