"""`verify` asks a real cluster: what `scancel` and `sbatch` do behind the back of the service is found and named."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.lifecycle.models import job_name
from ccat_workflow_manager.services.verify_jobs import JobVerification
from tests.backends.slurm.cluster import Cluster
from tests.support.fixtures_store import ContextMaker
from tests.support.step_runs import rows, start
from tests.support.waiting import wait_until

pytestmark = pytest.mark.needs("slurm")
_KEYS = 3
_WAITING = {
    "name": "many",
    "steps": [{"name": "only", "foreach": list(range(_KEYS)), "command": ["/bin/sleep", "600"],
               "resources": {"memory_gb": 0.1}}],
}  # fmt: skip


@pytest.fixture
def slurm_context(make_context: ContextMaker, slurm_cluster: Cluster) -> Context:
    return make_context("slurm", SLURM_CONF=str(slurm_cluster.conf), SLURM_CALLS_PER_MINUTE="2000",
                        SLURM_POLL_SECONDS="0")  # fmt: skip


def findings(context: Context) -> dict[str, str]:
    check = JobVerification(context.database, context.doorbell, context.backend_handle, settle_seconds=0)
    found = {each.subject: each.text for each in check.findings()}
    assert check.unchecked == {}
    return found


def test_what_happens_to_jobs_behind_the_back_of_the_service_is_found(
    slurm_context: Context, slurm_cluster: Cluster
) -> None:
    start(slurm_context, _WAITING)
    assert slurm_context.launcher.launch("slurm", _KEYS) == _KEYS

    def running() -> list[Any]:
        slurm_context.poller.poll_all("slurm")
        return [row for row in rows(slurm_context) if row.status == "RUNNING"]

    wait_until(lambda: len(running()) == _KEYS, 30, "the jobs to run")
    assert findings(slurm_context) == {}
    cancelled, doubled, _ = rows(slurm_context)
    slurm_cluster.ask("scancel", cancelled.job_id.partition(":")[0])
    name = job_name(UUID(str(doubled.id)), 1)
    slurm_cluster.ask("sbatch", "-J", name, "-o", "/dev/null", "--mem=10", "--wrap", "exec sleep 600")
    subjects = {f"step-runs/{cancelled.id}", f"step-runs/{doubled.id}"}
    wait_until(lambda: set(findings(slurm_context)) == subjects, 30, "both damages to be found")
    found = findings(slurm_context)
    assert "cancelled at slurm" in found[f"step-runs/{cancelled.id}"]
    assert doubled.job_id in found[f"step-runs/{doubled.id}"]
