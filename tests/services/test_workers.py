"""Workers: a drained one leaves messages to others and ends at a signal; each says how much it has ended."""

from __future__ import annotations

import subprocess
import sys

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.doorbell import Bell
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.services.heartbeat import Pace
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.step_runs import launch, one_step, poll, rows, start
from tests.support.waiting import PATIENCE

DRAINED = """
import sys
from ccat_workflow_manager.listener import listen
listen(sys.argv[1], ["noop"], name="drained", on_alive=lambda: print("alive", flush=True), is_drained=lambda: True)
"""


def test_a_drained_worker_takes_no_message_and_ends_at_a_signal(context: Context) -> None:
    context.doorbell.ring(Bell.LAUNCH, "noop")
    command = [sys.executable, "-c", DRAINED, context.settings.redis_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        for _ in range(3):
            assert worker.stdout.readline() == "alive\n"
        worker.terminate()
        assert worker.wait(PATIENCE) == 0
    assert context.doorbell.waiting(Bell.LAUNCH, "noop") == 1


def test_the_minutes_of_a_worker_begin_with_it_and_are_those_of_an_hour() -> None:
    now = [30.0]
    pace = Pace(lambda: now[0])
    pace.add(2)
    assert pace.by_minute() == [2]
    now[0] = 150.0
    pace.add(1)
    assert pace.by_minute() == [2, 0, 1]
    now[0] = 60.0 * 60 + 1
    assert pace.by_minute() == [0, 1, *[0] * 58]
    now[0] = 60.0 * 300
    assert pace.by_minute() == [0] * 60


def test_a_worker_counts_the_step_runs_that_it_ends_and_not_what_is_tried_again(
    context: Context, backend: FakeBackend
) -> None:
    context.heartbeat.beat()
    start(context, one_step(retry={"max_attempts": 2, "backoff_seconds": 0}))
    lost = HPCJobInfo(JobStatus.FAILED, reason=FailureReason.NODE_FAILURE)
    for job_id, info in (("fake-1", lost), ("fake-2", HPCJobInfo(JobStatus.COMPLETED, 0))):
        assert launch(context) == 1
        backend.set_state(job_id, info)
        poll(context)
    assert rows(context, "status") == [("COMPLETED",)]
    context.heartbeat.report()
    (found,) = rows(context, "ended_by_minute", "workers")
    assert sum(found.ended_by_minute) == 1
