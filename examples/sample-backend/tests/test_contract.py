"""The sample backend keeps the contract: one class, and the clauses that it does not claim."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from ccat_workflow_manager.errors import ConfigurationError, JobDeferred
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.backend_contract import BackendContract, BackendHarness


class TestSample(BackendContract):
    not_claimed = frozenset(
        {
            "cancelled_by_the_listed_id",
            "cancelled_from_another_process",
            "ends_are_notified",
            "exit_record_is_there",
            "fifty_ids_one_status_call",
            "find_adopts",
            "find_by_name",
            "followed_from_another_process",
            "lists_each_of_many",
            "lists_what_has_not_ended",
            "memory_limit",
            "metrics_are_plausible",
            "service_down_is_unavailable",
            "time_limit",
            "unreadable_answer_is_confused",
        }
    )

    def make_harness(self, workdir: Path) -> BackendHarness:
        return BackendHarness(create=partial(registry.create, "sample"), workdir=workdir, factory="sample")


def test_a_worker_that_is_full_defers_the_next_job(tmp_path: Path) -> None:
    jobs = BackendHarness(create=partial(registry.create, "sample", max_jobs=1), workdir=tmp_path)
    first = jobs.submit_endless()
    with pytest.raises(JobDeferred, match="SAMPLE_MAX_JOBS"):
        jobs.submit("true")
    jobs.backend.cancel(first.id)
    jobs.until(first, JobStatus.CANCELLED)
    jobs.until(jobs.submit("true"), JobStatus.COMPLETED)
    jobs.close()


def test_a_bad_value_is_refused_with_its_name() -> None:
    with pytest.raises(ConfigurationError, match=r"SAMPLE_MAX_JOBS: '-1' is not allowed; allowed: a whole number, 0"):
        registry.create("sample", max_jobs=-1)
