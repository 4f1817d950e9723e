"""Requests about thousands of runs: the scheduler is called a few times, and each member that is refused is named."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.services.cancel import PAGE
from ccat_workflow_manager.services.replay_request import ReplayOptions
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.step_runs import cancel_wanted, launch, one_step, start


class Counting(FakeBackend):
    """Counts the calls that stop jobs."""

    cancel_calls = 0

    def cancel_many(self, job_ids: Sequence[str]) -> None:
        self.cancel_calls += 1
        super().cancel_many(job_ids)


@pytest.mark.parametrize("count", [PAGE + 100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_mass_cancel_calls_the_scheduler_once_a_page(context: Context, count: int) -> None:
    backend = Counting()
    context.use_backend("noop", backend)
    [run_id] = start(context, one_step(foreach=list(range(count))))
    while launch(context, 1000):
        pass
    for job_id in backend.jobs:
        backend.set_state(job_id, HPCJobInfo(JobStatus.RUNNING))
    asked = backend.status_calls
    context.requests.cancel([run_id], actor="test")
    assert cancel_wanted(context) == count
    pages = -(-count // PAGE)
    assert backend.cancel_calls == pages
    assert backend.status_calls - asked <= 2 * pages
    assert backend.find_calls == 0


_COMPLETE = """
WITH done AS (
  UPDATE step_runs SET status = 'COMPLETED', finished_at = now() WHERE run_id = ANY(:ids) RETURNING run_id)
UPDATE runs r SET n_pending = 0, n_completed = 1, finished_at = now() FROM done d WHERE d.run_id = r.id
"""


@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_a_bulk_replay_names_each_that_cannot_be(context: Context, count: int) -> None:
    ids = start(context, one_step(), count)
    illegal = set(ids[7::100])
    with context.database.begin() as unit:
        unit.execute(_COMPLETE, {"ids": [each for each in ids if each not in illegal]})
    options = ReplayOptions.model_validate({"from": "only", "reuse": False})
    answers = context.replays.replay(ids, options, actor="test", projects=None, key="once")
    assert [UUID(answer["run_id"]) for answer in answers] == ids
    refused = {UUID(answer["run_id"]): answer["reason"] for answer in answers if answer["outcome"] == "refused"}
    assert refused.keys() == illegal
    assert all(str(run_id) in reason and "PENDING" in reason for run_id, reason in refused.items())
    with context.database.read() as unit:
        made = unit.execute("SELECT count(*) FROM runs WHERE replay_of IS NOT NULL").scalar()
    assert made == count - len(illegal)
