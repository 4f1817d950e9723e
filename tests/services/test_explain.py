"""Constructed situations: the stated root is the planted one, and only its removal lets the step run go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries.explain import waiting_groups
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import Facts, Lease, Resources, Transition, TransitionEvent
from ccat_workflow_manager.lifecycle.states import Event
from ccat_workflow_manager.managers.loops import LeaseSweep
from ccat_workflow_manager.services.explain import explain_run, explain_step_run, explain_waiting
from ccat_workflow_manager.services.run_request import RunRequest

VISIT: list[dict[str, Any]] = [
    {"name": "calibrate", "foreach": [1, 2, 3], "command": ["a"]},
    {"name": "baseline", "foreach": [1, 2, 3], "depends_on": ["calibrate"], "command": ["b"]},
    {"name": "map", "depends_on": [{"step": "baseline", "match": "all"}], "command": ["c"]},
]
ONE: list[dict[str, Any]] = [{"name": "map", "command": ["c"]}]
TOLERANT = [*VISIT[:2], {"name": "map", "depends_on": [{"step": "baseline", "tolerate": 1}], "command": ["c"]}]
WEAK = [*VISIT[:2], {"name": "map", "depends_on": [{"step": "baseline", "weak": True}], "command": ["c"]}]


class Site:
    """One deployment with one run, which a test brings into a situation."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.run_id = uuid4()

    def start(self, steps: list[dict[str, Any]]) -> None:
        definition = {"name": "visit", "steps": steps}
        self.context.catalogue.apply(definition)
        self.run_id, *_ = self.context.submitter.submit(RunRequest(pipeline="visit"), actor="test")
        self.sql("INSERT INTO workers (id, host, pid, backends) VALUES ('w', 'h', 1, '{noop}') ON CONFLICT DO NOTHING")

    def sql(self, statement: str, **parameters: Any) -> list[Any]:
        with self.context.database.begin() as unit:
            return unit.execute(statement, parameters).all()

    def id_of(self, step: str, key: str = "main") -> UUID:
        found = self.sql("SELECT id FROM step_runs WHERE run_id = :r AND step = :s AND key = :k",
                         r=self.run_id, s=step, k=key)  # fmt: skip
        return UUID(str(found[0][0]))

    def status(self, step_run_id: UUID) -> str:
        return str(self.sql("SELECT status FROM step_runs WHERE id = :id", id=step_run_id)[0][0])

    def apply(self, step_run_id: UUID, *events: TransitionEvent, job: bool = True) -> None:
        facts = Facts(job_id=f"job-{step_run_id}") if job else None
        with self.context.database.begin() as unit:
            done = RunStore(unit).apply([Transition(step_run_id, events, facts=facts, lease=Lease("gone", 60))])
        assert done.applied, done.refused

    def end(self, step: str, key: str, reason: FailureReason | None = None, text: str = "x") -> None:
        """Let a step run complete, or fail for this reason."""
        begin = [event(Event.CLAIMED), event(Event.JOB_SUBMITTED)]
        if reason is None:
            self.apply(self.id_of(step, key), *begin, event(Event.JOB_SUCCEEDED), event(Event.RESULTS_COLLECTED))
        else:
            self.apply(self.id_of(step, key), *begin, event(Event.FAILED, reason=reason, text=text))

    def go(self) -> None:
        """What the processes of the deployment do: sweep, launch, and let jobs end that the scheduler runs."""
        LeaseSweep(self.context.database, self.context.doorbell).tick()
        for _ in range(4):
            if self.sql("SELECT 1 FROM workers WHERE 'noop' = ANY(backends)"):
                self.context.launcher.launch("noop", 20)

    def explain(self, step_run_id: UUID) -> dict[str, Any]:
        with self.context.database.read() as unit:
            found = explain_step_run(unit, step_run_id)
        assert found is not None
        json.dumps(found)
        return found


def event(event: Event, **more: Any) -> TransitionEvent:
    return TransitionEvent(event, "test", **more)


# --- what keeps a step run from going on, and its removal -------------------------------------------------------------


def pause(site: Site, target: UUID) -> None:
    site.context.requests.pause([site.run_id], paused=True)


def open_breaker(site: Site, target: UUID) -> None:
    site.sql(
        "INSERT INTO breakers (breaker_key, pipeline, step, opened_at, failure_signature, reason_text)"
        " SELECT breaker_key, 'visit', step, now(), 'image_pull', 'image_pull: the registry answers 401'"
        " FROM step_runs WHERE id = :id",
        id=target,
    )


def lose_backend(site: Site, target: UUID) -> None:
    site.sql("INSERT INTO backends (name, problem, problem_since, retry_at)"
             " VALUES ('noop', 'no route to the host', now(), now() + interval '1 hour')"
             " ON CONFLICT (name) DO UPDATE SET problem = excluded.problem, problem_since = now(),"
             " retry_at = excluded.retry_at")  # fmt: skip


def lose_worker(site: Site, target: UUID) -> None:
    site.sql("DELETE FROM workers")


def fill_place(site: Site, target: UUID) -> None:
    place = json.dumps(asdict(Resources(memory_gb=7)))
    site.sql("UPDATE step_runs SET resources = CAST(:place AS jsonb) WHERE id = :id", place=place, id=target)
    site.sql(
        "INSERT INTO full_places (backend, resources, text, retry_at)"
        " VALUES ('noop', CAST(:place AS jsonb), 'QOSMaxJobsPerUserLimit', now() + interval '1 hour')",
        place=place,
    )


def hold(kind: str, name: str, mode: str = "pause") -> Callable[[Site, UUID], None]:
    def plant(site: Site, target: UUID) -> None:
        site.sql(
            "INSERT INTO holds (kind, name, mode, why, actor) VALUES (:kind, :name, :mode, 'a new calibration', :by)",
            kind=kind, name=name, mode=mode, by="anna",
        )  # fmt: skip

    return plant


def limit(**limits: int) -> Callable[[Site, UUID], None]:
    def plant(site: Site, target: UUID) -> None:
        site.sql(
            "INSERT INTO projects (name, max_live, max_cpus) VALUES ('default', :max_live, :max_cpus)",
            **{"max_live": None, "max_cpus": None, **limits},
        )

    return plant


def back_off(site: Site, target: UUID) -> None:
    site.apply(target, event(Event.CLAIMED), event(Event.FAILED, reason=FailureReason.NODE_FAILURE, text="gone"),
               event(Event.RETRIED, text="attempt 2 of 2 in 60 min", delay_seconds=3600), job=False)  # fmt: skip


def defer(words: str) -> Callable[[Site, UUID], None]:
    def plant(site: Site, target: UUID) -> None:
        site.apply(target, event(Event.CLAIMED), event(Event.RELEASED, text=words, delay_seconds=3600), job=False)

    return plant


def at_scheduler(words: str, *events: Event) -> Callable[[Site, UUID], None]:
    def plant(site: Site, target: UUID) -> None:
        site.apply(target, event(Event.CLAIMED), event(Event.JOB_SUBMITTED), *map(event, events))
        site.sql("UPDATE step_runs SET waiting_for = :words WHERE id = :id", words=words, id=target)

    return plant


def forget_job(site: Site, target: UUID) -> None:
    at_scheduler("noop does not know the job", Event.JOB_STARTED)(site, target)
    site.sql("UPDATE step_runs SET unknown_since = now() WHERE id = :id", id=target)


def kill_worker(site: Site, target: UUID) -> None:
    site.apply(target, event(Event.CLAIMED), job=False)
    site.sql("UPDATE step_runs SET lease_until = now() + interval '1 hour' WHERE id = :id", id=target)


REMOVALS: dict[str, Callable[[Site, UUID], object]] = {
    "paused": lambda site, root: site.context.requests.pause([site.run_id], paused=False),
    "breaker": lambda site, root: site.sql("DELETE FROM breakers"),
    "backend_away": lambda site, root: site.sql("UPDATE backends SET problem = NULL, retry_at = NULL"),
    "no_worker": lambda site, root: site.sql(
        "INSERT INTO workers (id, host, pid, backends) VALUES ('w', 'h', 1, '{noop}') ON CONFLICT DO NOTHING"
    ),
    "on_hold": lambda site, root: site.sql("DELETE FROM holds"),
    "quota": lambda site, root: site.sql("DELETE FROM projects"),
    "full_place": lambda site, root: site.sql("DELETE FROM full_places"),
    "back_off": lambda site, root: site.sql("UPDATE step_runs SET not_before = NULL WHERE claims = 0"),
    "deferred": lambda site, root: site.sql("UPDATE step_runs SET not_before = NULL WHERE claims > 0"),
    "scheduler": lambda site, root: end_job(site, "SUBMITTED", "queued"),
    "action_required": lambda site, root: end_job(site, "SUBMITTED", "action"),
    "running": lambda site, root: end_job(site, "RUNNING", "runs"),
    "unknown_job": lambda site, root: end_job(site, "RUNNING", "noop does not know"),
    "staging": lambda site, root: site.sql(
        "UPDATE step_runs SET lease_until = now() - interval '1 second' WHERE status = 'STAGING_DATA'"
    ),
    "results": lambda site, root: collect(site),
    "cancelling": lambda site, root: confirm_cancel(site),
    "failed": lambda site, root: retry(site, "FAILED"),
    "cancelled": lambda site, root: retry(site, "CANCELLED"),
}


def end_job(site: Site, status: str, words: str) -> None:
    """The job of this kind that the scheduler has comes to its end."""
    found = site.sql("SELECT id FROM step_runs WHERE status = :s AND waiting_for LIKE :w", s=status, w=f"{words}%")
    for (step_run_id,) in found:
        site.apply(step_run_id, event(Event.JOB_SUCCEEDED), event(Event.RESULTS_COLLECTED))


def collect(site: Site) -> None:
    for (step_run_id,) in site.sql("SELECT id FROM step_runs WHERE status = 'COLLECTING_RESULTS'"):
        site.apply(step_run_id, event(Event.RESULTS_COLLECTED))


def confirm_cancel(site: Site) -> None:
    for (step_run_id,) in site.sql("SELECT id FROM step_runs WHERE cancel_requested_at IS NOT NULL AND job_id <> ''"):
        if site.status(step_run_id) == "RUNNING":
            site.apply(step_run_id, event(Event.CANCELLED, reason=FailureReason.CANCELLED, text="gone"))
            retry(site, "CANCELLED")


def retry(site: Site, status: str) -> None:
    found = site.sql("SELECT id FROM step_runs WHERE status = :s", s=status)
    if found:
        site.context.requests.retry_step_runs([row[0] for row in found], actor="anna")


def request_cancel(site: Site, target: UUID) -> None:
    at_scheduler("stopping", Event.JOB_STARTED)(site, target)
    site.context.requests.cancel_step_runs([target], actor="anna")


def fail(reason: FailureReason) -> Callable[[Site, UUID], None]:
    def plant(site: Site, target: UUID) -> None:
        site.apply(target, event(Event.CLAIMED), event(Event.FAILED, reason=reason, text="the text"), job=False)

    return plant


def end_succeeded(site: Site, target: UUID) -> None:
    site.apply(target, event(Event.CLAIMED), event(Event.JOB_SUBMITTED), event(Event.JOB_SUCCEEDED))
    site.sql("UPDATE step_runs SET lease_owner = NULL, lease_until = NULL WHERE id = :id", id=target)


@dataclass(frozen=True)
class Situation:
    name: str
    plant: Callable[[Site, UUID], None]
    cause: str
    move: str
    words: str = ""
    steps: tuple[dict[str, Any], ...] = tuple(ONE)
    at: tuple[str, str] = ("map", "main")
    """Where it is planted; the map is explained."""
    lost: tuple[str, ...] = ()
    """Keys whose calibration has failed."""
    done: tuple[str, ...] = ()


_F = FailureReason
FAN, IN = tuple(VISIT), ("calibrate", "2")
SITUATIONS = [
    Situation("paused", pause, "paused", "operator"),
    Situation("breaker", open_breaker, "breaker", "site", "401"),
    Situation("backend away", lose_backend, "backend_away", "site", "no route"),
    Situation("no worker", lose_worker, "no_worker", "operator"),
    Situation("pipeline paused", hold("pipeline", "visit"), "on_hold", "operator", "anna"),
    Situation("project paused", hold("project", "default"), "on_hold", "operator", "a new calibration"),
    Situation("backend paused", hold("backend", "noop"), "on_hold", "operator", "ccat-wm resume backend noop"),
    Situation("service paused", hold("service", ""), "on_hold", "operator", "the service is paused by anna"),
    Situation("drained", hold("pipeline", "visit", "drain"), "on_hold", "operator", "is drained by anna"),
    Situation("limit of live step runs", limit(max_live=0), "quota", "operator", "set default --max-live N"),
    Situation("limit of CPUs", limit(max_cpus=0), "quota", "operator", "set default --max-cpus N"),
    Situation("paused before", hold("project", "default"), "on_hold", "operator", "anna", FAN, IN),
    Situation("full partition", fill_place, "full_place", "site", "QOSMaxJobs"),
    Situation("back-off", back_off, "back_off", "system", "attempt 2"),
    Situation("image", defer("the image x.sif is being pulled"), "deferred", "site", "x.sif"),
    Situation("disk", defer("no space left on /data"), "deferred", "site", "/data"),
    Situation("scheduler", at_scheduler("queued: Resources"), "scheduler", "site", "Resources"),
    Situation("partition limit", at_scheduler("queued: PartitionTimeLimit"), "scheduler", "site", "PartitionTimeLimit"),
    Situation("licence", at_scheduler("queued: Licenses"), "scheduler", "site", "Licenses"),
    Situation("reservation", at_scheduler("queued: Reservation"), "scheduler", "site", "Reservation"),
    Situation("held", at_scheduler("action required: JobHeldAdmin"), "action_required", "operator", "JobHeldAdmin"),
    Situation("running", at_scheduler("runs", Event.JOB_STARTED), "running", "system"),
    Situation("unknown", forget_job, "unknown_job", "site", "does not know"),
    Situation("in hand", kill_worker, "staging", "system"),
    Situation("results", end_succeeded, "results", "system"),
    Situation("cancelling", request_cancel, "cancelling", "site"),
    Situation("program", fail(_F.PROGRAM_FAILED), "failed", "author", "the text"),
    Situation("memory", fail(_F.OUT_OF_MEMORY), "failed", "author", "the text"),
    Situation("node", fail(_F.NODE_FAILURE), "failed", "site", "the text"),
    Situation("lost message", fail(_F.LOST), "failed", "site", "the text"),
    Situation("internal", fail(_F.INTERNAL_ERROR), "failed", "operator", "the text"),
    Situation("breaker before", open_breaker, "breaker", "site", "401", FAN, IN),
    Situation("back-off before", back_off, "back_off", "system", "attempt 2", FAN, IN),
    Situation("full partition before", fill_place, "full_place", "site", "QOSMax", FAN, IN),
    Situation("image before", defer("the image x.sif is being pulled"), "deferred", "site", "x.sif", FAN, IN),
    Situation("queued before", at_scheduler("queued: Priority"), "scheduler", "site", "Priority", FAN, IN,
              done=("1", "3")),
    Situation("held before", at_scheduler("action required: held"), "action_required", "operator", "held", FAN, IN),
    Situation("unknown before", forget_job, "unknown_job", "site", "does not know", FAN, IN),
    Situation("failed before", fail(_F.DISK_FULL), "failed", "site", "the text", FAN, IN),
    Situation("cancelled before", lambda site, root: site.context.requests.cancel_step_runs([root], actor="anna"),
              "cancelled", "operator", "anna", FAN, IN),
    Situation("tolerance undecided", back_off, "back_off", "system", "", tuple(TOLERANT), IN, lost=("1",)),
    Situation("tolerance exceeded", fail(_F.OUT_OF_MEMORY), "failed", "author", "", tuple(TOLERANT), IN, lost=("1",)),
    Situation("weak edge", open_breaker, "breaker", "site", "401", tuple(WEAK), IN, lost=("1",)),
]  # fmt: skip


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda each: each.name)
def test_only_the_removal_of_the_root_lets_it_go_on(context: Context, situation: Situation) -> None:
    site = Site(context)
    site.start(list(situation.steps))
    for key in situation.done:
        site.end("calibrate", key)
    for key in situation.lost:
        site.end("calibrate", key, _F.PROGRAM_FAILED)
    target, planted = site.id_of("map"), site.id_of(*situation.at)
    situation.plant(site, planted)
    if situation.name != "queued before":
        site.go()
    found = site.explain(target)
    root = found["root"]
    assert (root["cause"], root["move"]) == (situation.cause, situation.move), found["summary"]
    assert root["step"] == situation.at[0]
    if situation.cause not in ("breaker", "failed", "on_hold"):  # several step runs may have the same one
        assert root["step_run_id"] == str(planted)
    assert situation.words in f"{root['words']} {root['scheduler']}"
    assert root["remedy"]
    assert root["since"]
    assert len(found["chain"]) == (1 if situation.steps == tuple(ONE) else 3)
    before = site.status(target)
    for cause, remove in REMOVALS.items():
        if cause != situation.cause:
            remove(site, planted) if cause not in ("failed", "cancelled") or not situation.lost else None
            site.go()
            assert site.status(target) == before, cause
    REMOVALS[situation.cause](site, planted)
    site.go()
    assert site.status(target) == "COMPLETED"


def test_why_it_ran_again_is_told_with_the_last_first(context: Context) -> None:
    site = Site(context)
    site.start(ONE)
    back_off(site, site.id_of("map"))
    again = site.explain(site.id_of("map"))["again"]
    assert [each["event"] for each in again] == ["retried", "failed"]
    assert again[1]["reason"] == "node_failure"


def test_a_run_names_its_most_serious_cause(context: Context) -> None:
    site = Site(context)
    site.start(VISIT)
    site.end("calibrate", "1", _F.PROGRAM_FAILED, "broken pixel")
    back_off(site, site.id_of("calibrate", "2"))
    with context.database.read() as unit:
        found = explain_run(unit, {"id": site.run_id, "status": "RUNNING"})
    assert found["root"]["cause"] == "failed"
    assert "broken pixel" in found["summary"]
    counts = {each["cause"]: each["count"] for each in found["causes"]}
    assert counts == {"failed": 1, "back_off": 1, "queued": 1, "upstream": 2, "blocked": 2}
    assert sum(counts.values()) == 7


def test_a_run_that_is_cancelled_names_what_still_runs(context: Context) -> None:
    site = Site(context)
    site.start(VISIT)
    request_cancel(site, site.id_of("calibrate", "1"))
    site.context.requests.cancel([site.run_id], actor="anna")
    with context.database.read() as unit:
        found = explain_run(unit, {"id": site.run_id, "status": "RUNNING"})
    assert (found["root"]["cause"], found["root"]["key"]) == ("cancelling", "1")
    assert [each["cause"] for each in found["causes"]] == ["cancelling", "cancelled"]


def test_a_cancel_that_no_worker_can_make_true_asks_for_a_worker(context: Context) -> None:
    site = Site(context)
    site.start(ONE)
    request_cancel(site, site.id_of("map"))
    site.sql("DELETE FROM workers")
    root = site.explain(site.id_of("map"))["root"]
    assert (root["cause"], root["move"]) == ("no_worker", "operator")


@pytest.mark.parametrize("map_fails", [True, False])
def test_a_loss_that_is_tolerated_hides_no_other_failure(context: Context, map_fails: bool) -> None:
    site = Site(context)
    site.start(TOLERANT)
    for key in ("1", "2", "3"):
        site.end("calibrate", key)
        site.end("baseline", key, _F.PROGRAM_FAILED if key == "1" else None, "broken pixel")
    site.end("map", "main", _F.PROGRAM_FAILED if map_fails else None, "no rows")
    with context.database.read() as unit:
        found = explain_run(unit, {"id": site.run_id, "status": "FAILED" if map_fails else "COMPLETED"})
    groups = {each["text"].split(":")[0]: each["tolerated"] for each in found["causes"]}
    assert groups == {"baseline": True} | ({"map": False} if map_fails else {})
    assert found["root"]["step"] == ("map" if map_fails else "baseline")
    [(status, reason)] = site.sql("SELECT status, status_reason FROM runs WHERE id = :r", r=site.run_id)
    expected = ("FAILED", "map/main: program_failed: no rows") if map_fails else ("COMPLETED", None)
    assert (status, reason) == expected


def test_all_that_waits_is_grouped(context: Context) -> None:
    """10,000 waiting step runs, in one query."""
    site = Site(context)
    for count in (5000, 4990):
        site.start([{"name": "wide", "foreach": list(range(count)), "command": ["a"]},
                    {"name": "map", "depends_on": ["wide"], "command": ["c"]}])  # fmt: skip
    pause(site, site.run_id)
    site.start(ONE)
    with context.database.read() as unit:
        found = explain_waiting(unit, None, 100)
    groups = {each["cause"]: each["count"] for each in found["items"]}
    assert groups == {"queued": 5001, "paused": 4991, "upstream": 1}
    assert found["total"] == 9993
    with context.database.read() as unit:
        assert waiting_groups(unit, frozenset({"other"}), 100) == []


def test_an_unknown_step_run(context: Context) -> None:
    with context.database.read() as unit:
        assert explain_step_run(unit, uuid4()) is None
