"""What may happen next: every step of a worker, of the manager, of a job and of a user, and every misfortune.

A step is as large as what nothing can come between: a transaction, a call of the backend. The rules that decide are
imported: `validate_transitions` with its table and its fence, `judge`, `failed`, `stop_is_confirmed`, `is_sought`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ccat_workflow_manager.doorbell import Bell
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import TransitionEvent
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, LIVE, RETRYABLE, Event, Status
from ccat_workflow_manager.lifecycle.verdict import cancelled, failed, is_sought, judge, stop_is_confirmed
from tests.model.world import ENDS, POLICY, QUEUED, RUNNING, Job, Label, Row, Rules, Worker, World, item_of, written

_ACTOR = "worker"


class Move(NamedTuple):
    """A move, the events that it stores, and the world behind it."""

    name: str
    world: World
    labels: tuple[Label, ...] = ()
    is_misfortune: bool = False
    """It need not happen, and is not relied on."""


def moves(world: World, rules: Rules) -> Iterator[Move]:
    for index, worker in enumerate(world.workers):
        if worker.doing == "nothing":
            yield from _messages(world, rules, index)
        else:
            yield from _STEPS[worker.doing](world, rules, index, worker)
            yield from _misfortune(world, "crashes", "a worker dies", world.with_worker(index, Worker()))
    yield from _manager(world, rules)
    yield from _jobs(world, rules)
    yield from _users(world)
    yield from _lost_and_late(world, rules)


def _misfortune(world: World, kind: str, name: str, after: World, labels: tuple[Label, ...] = ()) -> Iterator[Move]:
    left = world.budget.spend(kind)
    if left is not None:
        yield Move(name, after._replace(budget=left), labels, True)


def _write(
    world: World, rules: Rules, events: tuple[TransitionEvent, ...], row: Row, job: int | None = None,
    owner: int | None = None,
) -> tuple[World, tuple[Label, ...]] | None:  # fmt: skip
    """A write of a worker that has read `row`."""
    result = written(world.row, events, row.token if rules.fence else None, job, owner)
    if result is None:
        return None
    after, labels = result
    world = world._replace(row=after)
    return (world.ring(Bell.LAUNCH) if _is_claimable(after) else world), labels


# --- workers ---------------------------------------------------------------------------------------------------------


def _messages(world: World, rules: Rules, index: int) -> Iterator[Move]:
    """A worker without work takes a message; one that was delivered twice is still there afterwards."""
    for bell in sorted(world.bells):
        for move in TASKS[bell](world, rules, index):
            yield move._replace(world=move.world._replace(bells=move.world.bells - {bell}))
            yield from _misfortune(world, "doubles", f"{move.name}, told twice", move.world, move.labels)


def _launch(world: World, rules: Rules, index: int) -> Iterator[Move]:
    name = "a worker claims"
    if not _is_claimable(world.row):
        yield Move(f"{name} nothing", world)
        return
    result = written(world.row, (TransitionEvent(Event.CLAIMED, _ACTOR),), None, None, index)
    assert result is not None
    row, labels = result
    yield Move(name, world._replace(row=row).with_worker(index, Worker("launch", row)), labels)


def _is_claimable(row: Row) -> bool:
    """`db.conditions.CLAIMABLE`, of a step run without dependencies and back-off."""
    return row.status is Status.PENDING and not row.cancel


def _holds(world: World, rules: Rules, index: int, row: Row) -> bool:
    """Whether `LeaseStore.renew` renews the lease."""
    return world.row.owner == index and (not rules.fence or world.row.token == row.token)


def _renewed(world: World) -> World:
    return world._replace(row=world.row._replace(expired=False))


def _continue_launch(world: World, rules: Rules, index: int, worker: Worker) -> Iterator[Move]:
    """Renew the lease; then adopt the job of an earlier try, or stage."""
    row = worker.row
    if not _holds(world, rules, index, row):
        yield Move("a worker has lost its lease", world.with_worker(index, Worker()))
        return
    world = _renewed(world)
    if world.row.cancel:
        may_have_a_job = row.claims > 1
        released = TransitionEvent(Event.RELEASED, _ACTOR)
        told = (released if may_have_a_job else cancelled(_ACTOR),)
        yield Move("a worker is told of the cancel", world.with_worker(index, Worker("record", row, None, told)))
        return
    found = next((job for job in world.jobs if job.attempt == row.attempt), None) if row.claims > 1 else None
    if found is not None:
        adopted = (TransitionEvent(Event.JOB_SUBMITTED, _ACTOR),)
        yield Move(f"a worker finds job {found.number}",
                   world.with_worker(index, Worker("record", row, found.number, adopted)))  # fmt: skip
        return
    yield Move("a worker goes to submit", world.with_worker(index, Worker("submit", row)))
    for text, events in (
        ("has to wait", (TransitionEvent(Event.RELEASED, _ACTOR),)),
        ("cannot stage", _failed(row, FailureReason.STAGING_FAILED)),
    ):
        after = world.with_worker(index, Worker("record", row, None, events))
        yield from _misfortune(world, "deferrals", f"a worker {text}", after)


def _failed(row: Row, reason: FailureReason) -> tuple[TransitionEvent, ...]:
    return failed(item_of(row), POLICY, reason, None, actor=_ACTOR, jitter=0)


def _submit(world: World, rules: Rules, index: int, worker: Worker) -> Iterator[Move]:
    number = 1 + max((job.number for job in world.jobs), default=0)
    world = world._replace(jobs=(*world.jobs, Job(number, worker.row.attempt)))
    after = Worker("record", worker.row, number, (TransitionEvent(Event.JOB_SUBMITTED, _ACTOR),))
    yield Move(f"a worker submits job {number}", world.with_worker(index, after))


def _record(world: World, rules: Rules, index: int, worker: Worker) -> Iterator[Move]:
    result = _write(world, rules, worker.events, worker.row, worker.job)
    if result is not None:
        after, labels = result
        yield Move("a worker records", after.with_worker(index, Worker()), labels)
        return
    then = Worker("stop late job", worker.row, worker.job) if worker.job is not None else Worker()
    yield Move("a worker is refused", world.with_worker(index, then))


def _stop_late_job(world: World, rules: Rules, index: int, worker: Worker) -> Iterator[Move]:
    late = item_of(worker.row._replace(status=Status.SUBMITTED, job=worker.job))
    job = world.job(worker.job)
    world = world.with_worker(index, Worker())
    if job is not None and job.live and not is_sought(late, item_of(world.row)):
        world = world.with_job(job._replace(state="stopped"))
    yield Move("a worker sees to its late job", world)


def _poll(world: World, rules: Rules, index: int) -> Iterator[Move]:
    row, job = world.row, world.job(world.row.job)
    events: tuple[TransitionEvent, ...] = ()
    if row.status in LIVE and job is not None:
        events = judge(item_of(row), job.info, POLICY, actor="model", grace_seconds=60, jitter=0).events
    after = world.with_worker(index, Worker("record verdict", row, None, events)) if events else world
    yield Move("a worker polls", after)


def _record_verdict(world: World, rules: Rules, index: int, worker: Worker) -> Iterator[Move]:
    succeeds = worker.events[-1].event is Event.JOB_SUCCEEDED
    result = _write(world, rules, worker.events, worker.row, owner=index if succeeds else None)
    if result is None:
        yield Move("a worker is refused its verdict", world.with_worker(index, Worker()))
        return
    after, labels = result
    then = Worker("collect", after.row) if succeeds else Worker()
    yield Move("a worker records its verdict", after.with_worker(index, then), labels)


def _take_results(world: World, rules: Rules, index: int) -> Iterator[Move]:
    row = world.row
    if row.status is not Status.COLLECTING_RESULTS or row.leased:
        yield Move("a worker collects nothing", world)
        return
    left = world.budget.spend("takings")
    if left is None:
        return
    row = row._replace(owner=index, expired=False, token=row.token + 1)
    after = world._replace(row=row, budget=left).with_worker(index, Worker("collect", row))
    yield Move("a worker takes results", after)


def _collect(world: World, rules: Rules, index: int, worker: Worker) -> Iterator[Move]:
    if not _holds(world, rules, index, worker.row):
        yield Move("a worker has lost its lease", world.with_worker(index, Worker()))
        return
    world, row = _renewed(world), worker.row
    events = (cancelled(_ACTOR) if world.row.cancel else TransitionEvent(Event.RESULTS_COLLECTED, _ACTOR),)
    yield Move("a worker publishes", world.with_worker(index, Worker("record", row, None, events)))
    spoilt = world.with_worker(index, Worker("record", row, None, _failed(row, FailureReason.OUTPUT_INVALID)))
    yield from _misfortune(world, "deferrals", "a worker cannot collect", spoilt)


def _cancel(world: World, rules: Rules, index: int) -> Iterator[Move]:
    """Find the job, and have it stopped."""
    row = world.row
    if not row.cancel or row.status not in CANCELLABLE or row.leased:
        yield Move("a worker cancels nothing", world)
        return
    job = world.job(row.job)
    if job is None and row.claims > 0:
        job = next((each for each in world.jobs if each.attempt == row.attempt), None)
    if job is not None and job.live:
        world = world.with_job(job._replace(state="stopped"))
    number = None if job is None else job.number
    yield Move(f"a worker stops {number}", world.with_worker(index, Worker("confirm", row, number)))


def _confirm(world: World, rules: Rules, index: int, worker: Worker) -> Iterator[Move]:
    job = world.job(worker.job)
    idle = world.with_worker(index, Worker())
    name = "a worker confirms the cancel"
    if stop_is_confirmed(worker.row.status, None if job is None else job.info):
        result = _write(idle, rules, (cancelled("model"),), worker.row)
        if result is not None:
            yield Move(name, *result)
            return
    yield Move(f"{name} not", idle)


TASKS = {Bell.LAUNCH: _launch, Bell.FOLLOW: _poll, Bell.COLLECT: _take_results, Bell.CANCEL: _cancel}
_STEPS = {
    "launch": _continue_launch,
    "submit": _submit,
    "record": _record,
    "stop late job": _stop_late_job,
    "record verdict": _record_verdict,
    "collect": _collect,
    "confirm": _confirm,
}


# --- the manager, the backend, users, the clock ----------------------------------------------------------------------


def _manager(world: World, rules: Rules) -> Iterator[Move]:
    row = world.row
    if row.status is Status.STAGING_DATA and row.expired:
        result = _write(world, rules, (TransitionEvent(Event.RELEASED, "sweep"),), row)
        assert result is not None
        yield Move("the manager releases the lease", *result)
    due = {
        Bell.LAUNCH: _is_claimable(row),
        Bell.FOLLOW: row.status in LIVE,
        Bell.COLLECT: row.status is Status.COLLECTING_RESULTS and not row.leased,
        Bell.CANCEL: row.cancel and row.status in CANCELLABLE and not row.leased,
    }
    for bell, wanted in due.items():
        if wanted and rules.sweep and bell not in world.bells:
            yield Move(f"the manager rings {bell.name}", world.ring(bell))
    for job in world.jobs:
        is_orphan = job.attempt < row.attempt or row.status not in CANCELLABLE or row.status is Status.PENDING
        if job.live and is_orphan and (job.attempt < row.attempt or row.status in _OVER):
            yield Move(f"the manager stops orphan {job.number}", world.with_job(job._replace(state="stopped")))


_OVER = frozenset(Status) - CANCELLABLE


def _jobs(world: World, rules: Rules) -> Iterator[Move]:
    for job in world.jobs:
        if job.state == QUEUED:
            claimed = rules.claim and any(each.started for each in world.jobs if each.attempt == job.attempt)
            if claimed:
                after = job._replace(state="found the attempt claimed")
                yield Move(f"job {job.number} finds its attempt claimed", world.with_job(after))
            else:
                yield Move(f"job {job.number} starts", world.with_job(job._replace(state=RUNNING, started=True)))
        elif job.state == RUNNING:
            for end in list(ENDS)[:3]:
                yield Move(f"job {job.number} {end}", world.with_job(job._replace(state=end)))


def _users(world: World) -> Iterator[Move]:
    row = world.row
    if row.status in CANCELLABLE and not row.cancel:
        after = world._replace(row=row._replace(cancel=True)).ring(Bell.CANCEL)
        labels: tuple[Label, ...] = ()
        if row.status is Status.PENDING and row.claims == 0:
            result = written(after.row, (cancelled("user"),), None, None, None)
            assert result is not None
            after, labels = after._replace(row=result[0]), result[1]
        yield from _misfortune(world, "cancels", "a user cancels", after, labels)
    for event, allowed, kind in (
        (Event.RETRIED, row.status in RETRYABLE, "retries"),
        (Event.SKIPPED, row.status is Status.PENDING, "outside"),
        (Event.REUSED, row.status is Status.STAGING_DATA, "outside"),
    ):
        result = written(row, (TransitionEvent(event, "user"),), None, None, None) if allowed else None
        if result is not None:
            after = world._replace(row=result[0])
            after = after.ring(Bell.LAUNCH) if event is Event.RETRIED else after
            yield from _misfortune(world, kind, f"it is {event}", after, result[1])


def _lost_and_late(world: World, rules: Rules) -> Iterator[Move]:
    for bell in sorted(world.bells):
        lost = world._replace(bells=world.bells - {bell})
        yield from _misfortune(world, "losses", f"the message {bell.name} is lost", lost)
    row = world.row
    if not row.leased:
        return
    assert row.owner is not None
    worker = world.workers[row.owner]
    late = world._replace(row=row._replace(expired=True))
    if worker.doing in ("nothing", "stop late job", "confirm", "record verdict"):
        yield Move("the lease of a dead worker expires", late)
    elif not (rules.punctual and worker.doing == "submit"):
        yield from _misfortune(world, "expiries", "the lease of a worker expires while it works", late)
