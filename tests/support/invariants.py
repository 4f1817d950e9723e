"""What must be true of a deployment that has come to rest, whatever has happened to it before.

`violations` looks at the database, the backends, the processes, the disk and Redis, and says in words what is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from ccat_workflow_manager.db.conditions import met
from ccat_workflow_manager.db.queries import verify
from ccat_workflow_manager.db.session import Database, UnitOfWork
from ccat_workflow_manager.errors import WorkflowError
from ccat_workflow_manager.execution.layout import AttemptDirs, attempt_dirs
from ccat_workflow_manager.execution.outputs import collect
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.base import HPCBackend, JobStatus
from ccat_workflow_manager.lifecycle.models import job_name, parse_job_name
from ccat_workflow_manager.lifecycle.states import FINISHED, Status

STARTS = "starts"
"""Programs of tests add a line to this file in their workspace when they start: two, and something ran twice."""

_ENDED = ", ".join(f"'{status}'" for status in FINISHED)
_MET = met("u.")
_LOST = f"u.status IN ({_ENDED}) AND NOT {_MET}"
_BEHIND_AN_END = f"""
SELECT s.id, s.status, u.step || '/' || u.key || ' is ' || u.status
FROM step_runs s JOIN run_steps r ON r.run_id = s.run_id
JOIN step_runs u ON u.run_id = r.run_id AND u.position = r.position AND {_LOST}
WHERE s.status = 'PENDING' AND s.position <> ALL(r.soft)
  AND (s.position = ANY(r.downstream_all) OR s.position = ANY(r.downstream_key) AND u.key = s.key)
"""
_SKIPPED_FOR_NOTHING = f"""
SELECT s.id, s.reason FROM step_runs s
WHERE s.status = 'SKIPPED' AND s.reason IN ('{FailureReason.UPSTREAM_FAILED}', '{FailureReason.UPSTREAM_CANCELLED}')
  AND NOT EXISTS (
    SELECT 1 FROM run_steps r JOIN step_runs u ON u.run_id = r.run_id AND u.position = r.position AND {_LOST}
    WHERE r.run_id = s.run_id
      AND (s.position = ANY(r.downstream_all) OR s.position = ANY(r.downstream_key) AND u.key = s.key))
"""


@dataclass(frozen=True, slots=True)
class Ground:
    """A deployment, as seen from the outside."""

    database: Database
    data_dir: Path
    base_dir: Path
    backends: Mapping[str, HPCBackend]
    marks: bool = True
    """Whether the programs leave marks."""
    own: Callable[[], Collection[int]] = lambda: ()
    """The processes that belong to the deployment itself."""
    submitted: Callable[[], Mapping[str, int]] = dict
    """The names of all jobs that a scheduler has ever been given, and how many jobs of that name."""
    keys: Callable[[], Mapping[str, int]] = dict
    """The keys in Redis, and how long each lives (-1: for ever)."""
    directories: Sequence[Path] = field(default=())
    """Directories that must be empty: where temporary files would be."""


def violations(ground: Ground, acknowledged: Collection[UUID]) -> list[str]:
    """What is wrong, in words; nothing if all is well. `acknowledged` are the runs that somebody was promised."""
    wrong: list[str] = []
    with ground.database.read() as unit:
        wrong += _runs(unit, acknowledged)
        wrong += while_working(unit)
        wrong += at_rest(unit)
        wrong += _jobs(unit, ground.backends)
        wrong += _submitted(ground.submitted())
        wrong += _disk(unit, ground, acknowledged)
    wrong += _processes(ground)
    wrong += _mounts(ground)
    wrong += _queues(ground.keys())
    wrong += [f"left over: {path}" for directory in ground.directories for path in directory.iterdir()]
    return wrong


def while_working(unit: UnitOfWork) -> Iterator[str]:
    """What is wrong with the rows, at any moment."""
    run_ids = [row[0] for row in unit.execute("SELECT id FROM runs")]
    yield from map(str, verify.findings(unit, run_ids))


def at_rest(unit: UnitOfWork) -> Iterator[str]:
    """What is wrong with the rows once nobody works on them any more."""
    for step_run_id, status, before in unit.execute(_BEHIND_AN_END):
        yield f"{step_run_id} is {status} for ever: before it {before} will not complete"
    for step_run_id, reason in unit.execute(_SKIPPED_FOR_NOTHING):
        yield f"{step_run_id} is SKIPPED ({reason}), and nothing before it has ended without completing"


def _runs(unit: UnitOfWork, acknowledged: Collection[UUID]) -> Iterator[str]:
    """Every acknowledged run is there, and over."""
    rows = unit.execute("SELECT id, status FROM runs WHERE id = ANY(:ids)", {"ids": list(acknowledged)})
    found = {row[0]: row[1] for row in rows}
    for run_id in acknowledged:
        if run_id not in found:
            yield f"the run {run_id} was acknowledged and is not there"
        elif found[run_id] in ("PENDING", "RUNNING"):
            yield f"the run {run_id} is still {found[run_id]}"


def _jobs(unit: UnitOfWork, backends: Mapping[str, HPCBackend]) -> Iterator[str]:
    """No job lives without an attempt that lives."""
    rows = unit.execute(
        "SELECT a.backend, a.job_id, a.step_run_id, a.number FROM attempts a JOIN step_runs s ON s.id = a.step_run_id"
        f" WHERE s.status IN ({_ENDED}) OR a.number < s.attempt"
    ).all()
    for name, backend in backends.items():
        if not backend.capabilities.executes:
            continue  # nothing runs there that could go on
        if backend.capabilities.lists:
            yield from _listed(unit, name, backend)
            continue
        known = {job_id: job_name(step_run_id, n) for where, job_id, step_run_id, n in rows if where == name and job_id}
        names = [job_name(step_run_id, n) for where, job_id, step_run_id, n in rows if where == name and not job_id]
        try:
            known |= {found: each for each in names if (found := backend.find(each)) is not None}
            infos = backend.get_statuses(sorted(known))
        except WorkflowError as error:
            yield f"{name} cannot be asked: {error.message}"
            continue
        for job_id, info in infos.items():
            if info.status in (JobStatus.PENDING, JobStatus.RUNNING):
                yield f"the job {job_id} ({known[job_id]}) is {info.status} at {name}; its attempt is over"


def _listed(unit: UnitOfWork, name: str, backend: HPCBackend) -> Iterator[str]:
    """The same, of a backend that names all of its jobs by itself."""
    statement = f"SELECT id, attempt FROM step_runs WHERE backend = :name AND status NOT IN ({_ENDED})"
    live = {(row[0], row[1]) for row in unit.execute(statement, {"name": name})}
    try:
        jobs = list(backend.list_jobs())
    except WorkflowError as error:
        yield f"{name} cannot be asked: {error.message}"
        return
    for job in jobs:
        if parse_job_name(job.job_name) not in live:
            yield f"the job {job.job_id} ({job.job_name}) is alive at {name}; no live attempt has this name"


def _submitted(counts: Mapping[str, int]) -> Iterator[str]:
    """Each attempt, and each array of attempts, was submitted once."""
    for name, count in counts.items():
        if count > 1:
            yield f"{count} jobs of the name {name} were submitted"


# --- disk ---------------------------------------------------------------------------------------------------------


def _disk(unit: UnitOfWork, ground: Ground, acknowledged: Collection[UUID]) -> Iterator[str]:
    """Each attempt has started once at most; products are complete and checksummed, or there are none."""
    products: dict[UUID, set[tuple[int, str, int, str]]] = {}
    ids = {"ids": list(acknowledged)}
    for step_run_id, attempt, path, size, digest in unit.execute(
        "SELECT step_run_id, attempt, path, size, sha256 FROM products WHERE run_id = ANY(:ids)", ids
    ):
        products.setdefault(step_run_id, set()).add((attempt, path, size, digest))
    for step_run_id, run_id, pipeline, step, key, backend, status, number, current in unit.execute(
        "SELECT s.id, s.run_id, r.pipeline, s.step, s.key, s.backend, s.status, a.number, s.attempt FROM step_runs s"
        " JOIN runs r ON r.id = s.run_id JOIN attempts a ON a.step_run_id = s.id WHERE s.run_id = ANY(:ids)",
        ids,
    ):
        what = f"attempt {number} of {step}/{key} ({step_run_id}, {status})"
        dirs = attempt_dirs(str(ground.base_dir), pipeline, str(run_id), step, key, number)
        completed = status == Status.COMPLETED and number == current
        if ground.backends[backend].capabilities.executes:
            yield from _attempt(dirs, what, ground.marks, completed)
        if completed and ground.backends[backend].capabilities.executes:
            found = {(number, p.path, p.size, p.sha256) for p in collect(dirs).products}
            if found != products.get(step_run_id, set()):
                yield f"{what}: on disk are {found}, in the table {products.get(step_run_id)}"
        elif number == current and step_run_id in products and not completed:
            yield f"{what} has products: {products[step_run_id]}"


def _attempt(dirs: AttemptDirs, what: str, marks: bool, completed: bool) -> Iterator[str]:
    starts = _lines(Path(dirs.workspace) / STARTS)
    if starts > 1 or (marks and completed and starts == 0):
        yield f"{what} was started {starts} times"
    if os.path.lexists(dirs.output) and os.path.lexists(dirs.output_partial):
        yield f"{what} has published output, and more beside it"
    if completed and not os.path.lexists(dirs.output):
        yield f"{what} has no published output"
    yield from (f"half written: {path}" for path in Path(dirs.config).glob("*.part"))


def _lines(path: Path) -> int:
    try:
        return path.read_text(encoding="utf-8", errors="replace").count("\n")
    except FileNotFoundError:
        return 0


# --- this machine -------------------------------------------------------------------------------------------------


def _processes(ground: Ground) -> Iterator[str]:
    """Nothing runs on behalf of a job: no program, no container, no squashfuse, nothing in its control group."""
    place = os.fsencode(ground.base_dir)
    local = ground.data_dir / "backends" / "local"
    group = f"/ccat-wm-{local.stat().st_ino}/job-".encode() if local.exists() else None
    own = {os.getpid(), *ground.own()}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        if pid in own:
            continue
        try:
            traces = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
            traces.append(os.fsencode(os.readlink(f"/proc/{pid}/cwd")))
            held = group is not None and group in Path(f"/proc/{pid}/cgroup").read_bytes()
        except OSError:
            continue
        if held or any(place in text for text in traces):
            yield f"left over: process {pid} {traces[0].replace(bytes(1), b' ').decode(errors='replace')[:200]}"


def control_groups(data_dir: Path, root: str = "/sys/fs/cgroup") -> list[Path]:
    """The control groups of the local jobs of a deployment; none is there once their supervisor has left.

    `os.walk`, since other groups come and go meanwhile: `rglob` fails on one that goes while it looks.
    """
    local = data_dir / "backends" / "local"
    if not local.exists():
        return []
    name = f"ccat-wm-{local.stat().st_ino}"
    return [Path(parent, name) for parent, inner, _ in os.walk(root) if name in inner]


def _mounts(ground: Ground) -> Iterator[str]:
    """Nothing is mounted."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if str(ground.data_dir) in line:
            yield f"left over: mount {line}"


def _queues(keys: Mapping[str, int]) -> Iterator[str]:
    """Whatever a message or a dead worker leaves in Redis goes away by itself."""
    for key, seconds in keys.items():
        if key.startswith(("rq:job:", "rq:results:", "rq:queue:")) and seconds < 0:
            yield f"left over for ever: {key} in Redis"
