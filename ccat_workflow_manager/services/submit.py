"""Creates runs: one at a time, or many all or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple
from uuid import UUID

from ccat_workflow_manager.db.creation import KeyOfCreator, NewRun, create_runs, runs_by_idempotency_key
from ccat_workflow_manager.db.pipelines import PipelineStore
from ccat_workflow_manager.db.queries.runs import existing_runs
from ccat_workflow_manager.db.session import Database, UnitOfWork
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.errors import Conflict, Fault, LimitReached, RequestError
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.services.catalogue import Catalogue
from ccat_workflow_manager.services.combining import Combiner
from ccat_workflow_manager.services.globs import Globs
from ccat_workflow_manager.services.ringer import Ringer
from ccat_workflow_manager.services.run_planning import PlannedRun, RunPlanner
from ccat_workflow_manager.services.run_request import RunRequest, RunSubmission, submissions_of_bulk


class Submitted(NamedTuple):
    """The run of a request."""

    run_id: UUID
    is_new: bool
    """False if an earlier request with the same idempotency key created it."""
    shown: str | None = None
    """The run as JSON, where the statement that created it has returned it."""


class Submitter:
    """Creates the runs of one deployment."""

    def __init__(
        self,
        database: Database,
        doorbell: Doorbell,
        catalogue: Catalogue,
        globs: Globs,
        *,
        default_backend: str,
        known_backends: Set[str],
    ) -> None:
        self._database = database
        self._ringer = Ringer(doorbell)
        self._catalogue = catalogue
        self._globs = globs
        self._default_backend = default_backend
        self._known_backends = known_backends
        self._combiner: Combiner[PlannedRun, Submitted] = Combiner(self._create)

    def submit(
        self, request: RunRequest, *, actor: str, projects: Projects = None, idempotency_key: str | None = None
    ) -> Submitted:
        """Create one run, or find the run that the same request with the same key created before."""
        submission = RunSubmission(request, actor, idempotency_key)
        if idempotency_key is not None:
            with self._database.read() as unit:
                run_id = submission.made_before(_known(unit, [submission]))
            if run_id is not None:
                return _found(submission, run_id)
        return self._combiner.do(self._planner(projects).plan(submission))

    def check(self, request: RunRequest, *, actor: str, projects: Projects = None) -> int:
        """How many step runs a run would have. Raises as `submit` does, and creates nothing."""
        return self._planner(projects).plan(RunSubmission(request, actor)).plan.total

    def submit_bulk(
        self,
        requests: Sequence[RunRequest],
        *,
        actor: str,
        projects: Projects = None,
        idempotency_key: str | None = None,
    ) -> tuple[list[UUID], bool]:
        """Create all runs or none, or find those that the same requests with the same key created before.

        Returns their ids in order, and whether they are new.
        """
        submissions = submissions_of_bulk(requests, actor, idempotency_key)
        with self._database.read() as unit:
            if (made := self._bulk_made_before(unit, submissions)) is not None:
                return made, False
        planner = self._planner(projects)
        planned = planner.plan_all(submissions)
        with self._database.begin("commit.create-many") as unit:
            created = create_runs(unit, _new_runs(unit, planned))
            if created.refused:
                raise LimitReached(faults=_faults(planned, created.refused))
            if None in created.run_ids:  # a concurrent call with the same key has committed first
                if (made := self._bulk_made_before(unit, submissions)) is None:
                    raise Conflict("runs with this Idempotency-Key were created and removed meanwhile; try again")
                return made, False
            unit.after_commit(lambda: self._ringer.ring(created.ready))
        return [run_id for run_id in created.run_ids if run_id is not None], True

    def planner(self, projects: Projects = None) -> RunPlanner:
        """A planner for runs that are created by `create_planned`."""
        return self._planner(projects)

    def create_planned(self, planned: Sequence[PlannedRun]) -> list[Submitted | RequestError]:
        """Create these runs, each for itself. Returns one outcome each."""
        return self._create(planned)

    def close(self) -> None:
        """Send the messages for the runs that were created last."""
        self._ringer.close()

    # --- single runs, several of them in one transaction -------------------------------------------------------------

    def _create(self, planned: Sequence[PlannedRun]) -> list[Submitted | RequestError]:
        """Create these runs in one transaction, but those whose key is in use. Returns one outcome each."""
        submissions = [each.submission for each in planned]
        # In the order of their keys, or two transactions with the same keys could wait for each other.
        order = sorted(range(len(planned)), key=lambda index: (submissions[index].actor, submissions[index].key or ""))

        def work(unit: UnitOfWork) -> list[Submitted | RequestError]:
            outcomes: dict[int, Submitted | RequestError] = {}
            new: list[int] = []
            known = _known(unit, submissions)
            for index in order:
                try:
                    if (run_id := submissions[index].made_before(known)) is None:
                        new.append(index)
                    else:
                        outcomes[index] = _found(submissions[index], run_id)
                except RequestError as error:
                    outcomes[index] = error
            if new:
                created = create_runs(unit, _new_runs(unit, [planned[index] for index in new]), shown=True)
                unit.after_commit(lambda: self._ringer.ring(created.ready))
                for index, run_id in zip(new, created.run_ids, strict=True):
                    if (refused := created.refused.get(submissions[index].run_id)) is not None:
                        outcomes[index] = LimitReached(refused)
                    elif run_id is None:
                        outcomes[index] = _made_meanwhile(unit, submissions[index])
                    else:
                        outcomes[index] = Submitted(run_id, True, created.shown.get(run_id))
            return [outcomes[index] for index in range(len(planned))]

        # An inline definition is stored by a statement of its own.
        one_statement = all(each.version is not None for each in planned)
        return self._database.transact("commit.create", work, one_statement=one_statement)

    def _bulk_made_before(self, unit: UnitOfWork, submissions: Sequence[RunSubmission]) -> list[UUID] | None:
        known = _known(unit, submissions)
        made = [submission.made_before(known) for submission in submissions]
        found = [run_id for run_id in made if run_id is not None]
        if found and len(found) < len(made):
            raise Conflict("some of the runs that were created with this Idempotency-Key have been removed since")
        return found or None

    def _planner(self, projects: Projects = None) -> RunPlanner:
        return RunPlanner(
            self._database,
            self._catalogue,
            self._globs,
            default_backend=self._default_backend,
            known_backends=self._known_backends,
            projects=projects,
        )


def _faults(planned: Sequence[PlannedRun], refused: Mapping[UUID, str]) -> list[Fault]:
    """Which runs of a bulk call are over a limit."""
    ids = [each.submission.run_id for each in planned]
    return [Fault(f"runs[{index}]", refused[run_id]) for index, run_id in enumerate(ids) if run_id in refused]


def _new_runs(unit: UnitOfWork, planned: Sequence[PlannedRun]) -> list[NewRun]:
    store, inline = PipelineStore(unit), dict[str, UUID]()
    return [each.new_run(store, inline) for each in planned]


def _known(unit: UnitOfWork, submissions: Sequence[RunSubmission]) -> dict[KeyOfCreator, tuple[UUID, str]]:
    """The run and the request digest of each idempotency key that is in use."""
    keys = [(submission.actor, submission.key) for submission in submissions if submission.key is not None]
    return runs_by_idempotency_key(unit, keys) if keys else {}


def _found(submission: RunSubmission, run_id: UUID) -> Submitted:
    # A run with the id of this submission comes from its first try, whose answer was lost: to the client it is new.
    return Submitted(run_id, run_id == submission.run_id)


def _made_meanwhile(unit: UnitOfWork, submission: RunSubmission) -> Submitted | RequestError:
    """The run whose id or idempotency key kept the run of this submission from being inserted."""
    try:
        run_id = submission.made_before(_known(unit, [submission]))
    except RequestError as error:
        return error
    if run_id is None and existing_runs(unit, [submission.run_id]):
        run_id = submission.run_id
    if run_id is None:
        return Conflict("a run with this Idempotency-Key was created and removed meanwhile; try again")
    return _found(submission, run_id)
