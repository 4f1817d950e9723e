"""Deleting runs: what goes, what stays, what is refused, and that an interrupted deletion is finished."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.inputs import save_inputs
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.errors import Conflict, NotFound
from ccat_workflow_manager.execution.layout import create
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import Facts, NewProduct, Transition, TransitionEvent, What, WorkItem
from ccat_workflow_manager.lifecycle.states import Event
from ccat_workflow_manager.services.deletion import Retention
from tests.support.armed import Plan
from tests.support.step_runs import rows, start

FAR = 3600.0


def event(kind: Event) -> TransitionEvent:
    return TransitionEvent(kind, "test")


class Site:
    """A run by hand, with the directories of its attempts."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def claim(self) -> WorkItem:
        [self.run_id] = start(self.context)
        with self.context.database.begin() as unit:
            [item] = RunStore(unit).claim("noop", "test", 1, 60)
        dirs = self.context.worker_context.host.dirs(item)
        create(dirs, contained=True)
        for place in (dirs.workspace, dirs.scratch, dirs.output_partial):
            Path(place, "file").write_text("x")
        return item

    def apply(self, item: WorkItem, *events: TransitionEvent, parents: list[UUID] | None = None) -> None:
        product = NewProduct("file", "SCIENCE", "file", 1, "0" * 64, parents=parents or [])
        products = [product] if events[-1].event is Event.RESULTS_COLLECTED else []
        facts = Facts(job_id=item.job_name)
        with self.context.database.begin() as unit:
            done = RunStore(unit).apply([Transition(item.step_run_id, events, item.token, facts, products=products)])
        assert done.refused == {}

    def completed(self, parents: list[UUID] | None = None) -> Path:
        item = self.claim()
        dirs = self.context.worker_context.host.dirs(item)
        os.rename(dirs.output_partial, dirs.output)
        kinds = (Event.JOB_SUBMITTED, Event.JOB_SUCCEEDED, Event.RESULTS_COLLECTED)
        self.apply(item, *map(event, kinds), parents=parents)
        return Path(dirs.run)

    def failed(self) -> Path:
        item = self.claim()
        self.apply(item, TransitionEvent(Event.FAILED, "test", FailureReason.PROGRAM_FAILED, "it broke"))
        return Path(self.context.worker_context.host.dirs(item).run)

    def age(self, days: int) -> None:
        with self.context.database.begin() as unit:
            for column in ("created_at", "finished_at"):
                unit.execute(f"UPDATE runs SET {column} = {column} - make_interval(days => :days)", {"days": days})


@pytest.fixture
def site(context: Context) -> Site:
    return Site(context)


def deletions(context: Context) -> tuple[int, int]:
    """How many are recorded, and how many are done."""
    with context.database.read() as unit:
        return tuple(unit.execute("SELECT count(*), count(done_at) FROM deletions").one())


def names(run: Path) -> set[str]:
    """What the directory of the only attempt holds."""
    return {each.name for each in run.glob("*/*/attempt-1/*")}


def test_a_deleted_run_leaves_nothing(site: Site) -> None:
    context, run = site.context, site.completed()
    outside = run.parents[2] / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    (run / "only" / "link").symlink_to(outside)
    [size] = context.deletions.request([site.run_id], What.RUN, actor="ada", dry_run=True)
    assert (size.step_runs, size.products, size.bytes) == (1, 1, 1)
    assert run.exists()
    assert not rows(context, "*", "runs")[0].status_reason
    context.deletions.request([site.run_id], What.RUN, actor="ada")
    assert "requested by ada" in rows(context, "*", "runs")[0].status_reason
    assert context.remover.remove("noop") is False
    assert not run.exists()
    assert list(run.parent.iterdir()) == []
    assert (outside / "kept").exists()
    for table in ("runs", "step_runs", "products"):
        assert rows(context, "*", table) == []
    [recorded] = rows(context, "actor, action, object, before", "audit")
    assert (recorded.actor, recorded.action, recorded.object) == ("ada", "run.deleted", f"runs/{site.run_id}")
    assert recorded.before["pipeline"] == "one"
    with pytest.raises(NotFound):
        context.deletions.request([site.run_id], What.RUN, actor="ada")


def test_a_run_that_never_started_needs_no_worker(context: Context) -> None:
    run_ids = start(context)
    with pytest.raises(Conflict, match="is not over"):
        context.deletions.request(run_ids, What.RUN, actor="ada")
    context.requests.cancel(run_ids, actor="ada")
    context.deletions.request(run_ids, What.RUN, actor="ada")
    assert rows(context, "*", "runs") == []


def test_a_run_whose_products_are_used_stays(site: Site) -> None:
    context, used = site.context, site.completed()
    first, [product] = site.run_id, rows(site.context, "id", "products")
    site.completed(parents=[product.id])
    second = site.run_id
    with pytest.raises(Conflict, match=str(second)):
        context.deletions.request([first], What.RUN, actor="ada")
    site.age(10)
    Retention(context.database, {What.RUN: 5}).tick()
    context.remover.remove("noop")
    assert [row.id for row in rows(context, "id", "runs")] == [first]
    assert used.exists()
    Retention(context.database, {What.RUN: 5}).tick()
    context.remover.remove("noop")
    assert rows(context, "id", "runs") == []


def test_a_run_whose_files_are_inputs_of_another_stays(site: Site) -> None:
    site.completed()
    first = site.run_id
    [product] = rows(site.context, "step_run_id", "products")
    site.completed()
    second = next(row.id for row in rows(site.context) if row.id != product.step_run_id)
    with site.context.database.begin() as unit:
        save_inputs(unit, {second: ([], [first])})
    with pytest.raises(Conflict, match=str(site.run_id)):
        site.context.deletions.request([first], What.RUN, actor="ada")
    assert site.context.deletions.request([site.run_id], What.RUN, actor="ada") != []


def test_a_retry_of_a_run_that_is_being_deleted_is_refused(site: Site) -> None:
    site.failed()
    site.context.deletions.request([site.run_id], What.RUN, actor="ada")
    with pytest.raises(Conflict, match="is being deleted"):
        site.context.requests.retry([site.run_id], actor="ada")


@pytest.mark.parametrize(
    ("what", "completed", "failed"),
    [
        (What.WORKSPACES, {"output"}, {"output.partial"}),
        (What.FAILED_OUTPUT, {"output", "workspace", "scratch"}, {"workspace", "scratch"}),
    ],
)
def test_a_part_goes_and_the_rest_stays(site: Site, what: What, completed: set[str], failed: set[str]) -> None:
    context = site.context
    runs = [(site.completed(), completed), (site.failed(), failed)]
    young = Retention(context.database, {what: 1, What.RUN: 0})
    young.tick()
    assert deletions(context) == (0, 0)
    site.age(2)
    young.tick()
    context.remover.remove("noop")
    for run, left in runs:
        assert names(run) == {"input", "upstream", "config", "logs", *left}
    assert deletions(context) == (2, 2)
    young.tick()
    assert deletions(context) == (2, 2)  # what is done is not repeated


@pytest.mark.usefixtures("disarmed")
@pytest.mark.parametrize("point", ["files.remove", "commit.removed", "commit.delete-rows", "commit.take-removal"])
def test_an_interrupted_deletion_is_finished(site: Site, point: str) -> None:
    class Killed(BaseException):
        """What ends a process."""

    class Kill(Plan):
        def at(self, name: str, moment: str) -> None:
            if name == point and moment == failpoints.BEFORE:
                raise Killed

    context, run = site.context, site.completed()
    context.deletions.request([site.run_id], What.RUN, actor="ada")
    failpoints.arm(Kill(""))
    with pytest.raises(Killed):
        context.remover.remove("noop")
    failpoints.arm(None)
    with context.database.begin() as unit:
        unit.execute("UPDATE deletions SET lease_until = NULL")
    context.remover.remove("noop")
    context.deletions.advance()
    assert rows(context, "*", "runs") == []
    assert not run.exists()


def test_what_cannot_be_removed_is_tried_again_later(site: Site) -> None:
    context, run = site.context, site.completed()
    elsewhere = run.parent.rename(run.parent.with_name("elsewhere"))
    run.parent.symlink_to(elsewhere)
    context.deletions.request([site.run_id], What.RUN, actor="ada")
    assert context.remover.remove("noop") is False
    with context.database.read() as unit:
        assert "cannot be removed" in unit.execute("SELECT problem FROM deletions").scalar_one()
    assert (elsewhere / run.name / "only").exists()
