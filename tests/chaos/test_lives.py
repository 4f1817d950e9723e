"""Cancel, retry, pause, success, failure, silence and the deaths of workers in any order, against the real database."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.managers.loops import LeaseSweep
from ccat_workflow_manager.services.run_request import RunRequest
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support import invariants
from tests.support.armed import Injected, Plan
from tests.support.fixtures_store import ContextMaker

SPEC: dict[str, Any] = {
    "name": "lives",
    "parameters": {"type": "object", "properties": {"items": {"type": "array"}}},
    "steps": [
        {"name": "first", "command": ["a"], "foreach": "${parameters.items}", "retry": {"backoff_seconds": 0}},
        {"name": "same", "command": ["b"], "foreach": "${parameters.items}", "depends_on": ["first"]},
        {"name": "last", "command": ["c"], "depends_on": ["same", "first"]},
    ],
}
ENDS = [
    HPCJobInfo(JobStatus.COMPLETED, 0),
    HPCJobInfo(JobStatus.COMPLETED, 0),
    HPCJobInfo(JobStatus.FAILED, 3),
    HPCJobInfo(JobStatus.FAILED, reason=FailureReason.NODE_FAILURE),
    HPCJobInfo(JobStatus.CANCELLED),
    HPCJobInfo(JobStatus.RUNNING),
]


class Lives(RuleBasedStateMachine):
    """Two workers, one of which may die, and people who press all buttons."""

    contexts: tuple[Context, Context]
    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeBackend()
        self.known: list[UUID] = []
        for context in self.contexts:
            context.use_backend("noop", self.fake)
        with self.contexts[0].database.begin() as unit:
            unit.execute("TRUNCATE runs, backends CASCADE")

    # --- people ------------------------------------------------------------------------------------------------------

    @rule(target=runs, items=st.integers(0, 3))
    def create(self, items: int) -> UUID:
        request = RunRequest(spec=SPEC, parameters={"items": list(range(items))})
        run_id, *_ = self.contexts[0].submitter.submit(request, actor="test")
        self.known.append(run_id)
        return run_id

    @rule(run_id=runs)
    def cancel(self, run_id: UUID) -> None:
        self.contexts[0].requests.cancel([run_id], actor="anna")

    @rule(run_id=runs)
    def retry(self, run_id: UUID) -> None:
        self.contexts[0].requests.retry([run_id], actor="anna")

    @rule(run_id=runs, paused=st.booleans())
    def pause(self, run_id: UUID, paused: bool) -> None:
        self.contexts[0].requests.pause([run_id], paused=paused)

    # --- workers -----------------------------------------------------------------------------------------------------

    @rule(limit=st.integers(1, 4), who=st.sampled_from([0, 1]))
    def launch(self, limit: int, who: int) -> None:
        self._hurry()
        self.contexts[who].launcher.launch("noop", limit)

    @rule(limit=st.integers(1, 4))
    def die_while_launching(self, limit: int) -> None:
        failpoints.arm(Plan("* commit.launched before raise"))
        try:
            self.contexts[0].launcher.launch("noop", limit)
        except Injected:
            pass
        finally:
            failpoints.arm(None)

    @rule(limit=st.integers(1, 4), accepted=st.booleans())
    def backend_away(self, limit: int, accepted: bool) -> None:
        self._hurry()
        error = BackendUnavailable("away")
        self.fake.accept_then_fail, self.fake.submit_error = (error, None) if accepted else (None, error)
        self.contexts[1].launcher.launch("noop", limit)
        self.fake.accept_then_fail = self.fake.submit_error = None

    @rule(info=st.sampled_from(ENDS), which=st.integers(0, 100))
    def job_ends(self, info: HPCJobInfo, which: int) -> None:
        going = [job_id for job_id, job in self.fake.jobs.items() if not job.info.finished]
        if going:
            self.fake.set_state(going[which % len(going)], info)

    @rule(which=st.integers(0, 100))
    def job_is_forgotten(self, which: int) -> None:
        if self.fake.jobs:
            self.fake.drop(list(self.fake.jobs)[which % len(self.fake.jobs)])

    @rule(who=st.sampled_from([0, 1]))
    def follow(self, who: int) -> None:
        self.contexts[who].poller.poll_all("noop")

    @rule()
    def carry_out_cancels(self) -> None:
        self.contexts[1].canceller.cancel_wanted("noop")

    @rule()
    def time_passes(self) -> None:
        with self.contexts[0].database.begin() as unit:
            unit.execute("UPDATE step_runs SET lease_until = now() - interval '1 second' WHERE lease_until IS NOT NULL")
            unit.execute(
                "UPDATE step_runs SET unknown_since = now() - interval '1 hour' WHERE unknown_since IS NOT NULL"
            )
        LeaseSweep(self.contexts[0].database, self.contexts[0].doorbell).tick()

    def _hurry(self) -> None:
        """Let every back-off be over."""
        with self.contexts[0].database.begin() as unit:
            unit.execute("UPDATE step_runs SET not_before = NULL WHERE not_before IS NOT NULL")
            unit.execute("UPDATE backends SET retry_at = now() WHERE retry_at IS NOT NULL")

    # --- what is always so -------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_wrong(self) -> None:
        with self.contexts[0].database.read() as unit:
            assert list(invariants.while_working(unit)) == []
        names = [job.request.job_name for job in self.fake.jobs.values()]
        assert len(names) == len(set(names)), "an attempt has two jobs"

    def teardown(self) -> None:
        """Whatever has happened: it can be brought to an end."""
        if self.known:
            self.contexts[0].requests.pause(self.known, paused=False)
        for _ in range(40):
            self.time_passes()
            self.carry_out_cancels()
            self.launch(50, 0)
            for job_id, job in self.fake.jobs.items():
                if not job.info.finished:
                    self.fake.set_state(job_id, HPCJobInfo(JobStatus.COMPLETED, 0))
            self.follow(1)
            with self.contexts[0].database.read() as unit:
                if not unit.execute("SELECT 1 FROM runs WHERE finished_at IS NULL LIMIT 1").first():
                    break
        self.nothing_is_wrong()
        with self.contexts[0].database.read() as unit:
            left = unit.execute("SELECT step, key, status, waiting_for FROM step_runs WHERE finished_at IS NULL").all()
        assert left == []


def test_any_order_of_events_leaves_a_state_that_makes_sense(make_context: ContextMaker) -> None:
    first = make_context("noop", CANCEL_CONFIRM_SECONDS=0.01)
    Lives.contexts = (first, make_context("noop", CANCEL_CONFIRM_SECONDS=0.01))
    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=8,
            stateful_step_count=20,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
