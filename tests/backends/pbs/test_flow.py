"""Runs at a fake PBS, through every process of a deployment."""

from __future__ import annotations

from tests.backends.pbs.fake_pbs import FakePbs
from tests.support.fixtures_service import ServiceMaker, sh


def test_each_step_run_is_one_job_and_a_refusal_is_the_words_of_pbs(
    make_service: ServiceMaker, fake_pbs: FakePbs
) -> None:
    service = make_service(HPC_BACKEND="pbs", PBS_CALLS_PER_MINUTE="5000", FOLLOW_SECONDS="1")
    run_id = service.submit(
        sh("true", "many", foreach=[str(n) for n in range(20)]), sh("true", "gather", depends_on=["many"])
    )
    assert service.wait(run_id, 90)["status"] == "COMPLETED"
    assert len(fake_pbs.jobs()) == fake_pbs.calls("qsub") == 21
    assert all(job["job_state"] == "F" for job in fake_pbs.jobs())

    rejected = service.submit(sh("true", resources={"partition": "nowhere"}))
    service.wait(rejected)
    step = service.step(rejected, "only")
    assert (step["status"], step["reason"]) == ("FAILED", "rejected")
    assert "Unknown queue" in step["reason_text"]
