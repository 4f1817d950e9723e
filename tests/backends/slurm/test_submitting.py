"""A limit that keeps one job out keeps no other out: a Slurm that is made of text."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import BackendError, BackendUnavailable, JobDeferred
from ccat_workflow_manager.hpc.attempt.claim import cancel_requested_at
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.hpc.batch import refusals, scheduler_backend
from ccat_workflow_manager.hpc.batch.store import ARRAY_PREFIX, ArrayTask, Submission, SubmissionStore, array_name
from ccat_workflow_manager.hpc.slurm.backend import SlurmBackend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.lifecycle.models import Resources

POLICY = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)"
FULL = f"sbatch: error: AssocMaxSubmitJobLimit\n{POLICY}"
ORDINARY = Resources(partition="main", memory_gb=1)


class TextSlurm:
    """Jobs as lines of `squeue`, and a rule for what `sbatch` refuses."""

    def __init__(self) -> None:
        self.tried: list[Sequence[str]] = []
        self.cancelled: list[str] = []
        self.states: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.refuses: Callable[[Sequence[str]], str] = lambda argv: ""
        self.accounting = ""
        self.others, self.config = "", ""

    def run(self, argv: Sequence[str], **_: Any) -> shell.Completed:
        answer: Mapping[str, Callable[[Sequence[str]], tuple[str, str]]] = {
            "sbatch": self._sbatch,
            "squeue": self._squeue,
            "sacct": lambda argv: ("", self.accounting),
            "scontrol": lambda argv: (f"MaxArraySize = 1001\n{self.config}", ""),
            "scancel": self._scancel,
            "sinfo": lambda argv: ("main*|up|infinite|1/1/0/2|2/6/0/8|4|3000|mixed|(null)", ""),
        }
        stdout, stderr = answer[argv[0]](argv)
        return shell.Completed(tuple(argv), 1 if stderr else 0, stdout, stderr)

    def tasks(self) -> list[int]:
        """How many jobs each `sbatch` was to hand over."""
        arrays = [[word for word in argv if word.startswith("--array=0-")] for argv in self.tried]
        return [int(array[0].rpartition("-")[2]) + 1 if array else 1 for array in arrays]

    def add(self, place: str, name: str, state: str = "RUNNING") -> None:
        self.states[place], self.names[place] = state, name

    def _sbatch(self, argv: Sequence[str]) -> tuple[str, str]:
        self.tried.append(argv)
        words = self.refuses(argv)
        return ("" if words else str(len(self.tried) + 100), words)

    def _squeue(self, argv: Sequence[str]) -> tuple[str, str]:
        if "--states=PENDING" in argv:
            return ("", self.others) if "error" in self.others else (self.others, "")
        wanted = [word.removeprefix("--name=") for word in argv if word.startswith("--name=")]
        ended = int(time.time()) - 60
        lines = [
            f"{place}|{state}|1795261948|1795261949|{ended}|1:00:00|n1|main|1|None|{self.names[place]}"
            for place, state in self.states.items()
            if not wanted or self.names[place] in wanted
        ]
        return "\n".join(lines), ""

    def _scancel(self, argv: Sequence[str]) -> tuple[str, str]:
        self.cancelled += argv[1:]
        return "", ""


@pytest.fixture
def slurm() -> TextSlurm:
    return TextSlurm()


@pytest.fixture
def backend(slurm: TextSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmBackend:
    monkeypatch.setattr(scheduler_backend, "AT_ONCE", 1)
    return worker(slurm, tmp_path)


def worker(slurm: TextSlurm, tmp_path: Path) -> SlurmBackend:
    made = SlurmBackend(state_dir=tmp_path / "state", poll_seconds=0)
    made._commands.run = slurm.run  # type: ignore[method-assign]
    return made


def request(root: Path, name: str, resources: Resources = ORDINARY) -> JobRequest:
    workspace = root / name / "workspace"
    for directory in (workspace, root / name / "logs"):
        directory.mkdir(parents=True, exist_ok=True)
    at = str(workspace)
    return JobRequest(["true"], None, None, at, at, at, f"{at}/m", resources, {}, name)


def requests(root: Path, word: str, count: int, resources: Resources = ORDINARY) -> list[JobRequest]:
    return [request(root, f"ccat-{word}-{number}", resources) for number in range(count)]


def kinds(results: Sequence[str | BackendError]) -> list[type]:
    return [type(result) for result in results]


def in_partition(name: str, words: str) -> Callable[[Sequence[str]], str]:
    return lambda argv: words if f"--partition={name}" in argv else ""


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_full_partition_keeps_no_other_job_out(backend: SlurmBackend, slurm: TextSlurm, tmp_path: Path) -> None:
    slurm.refuses = in_partition("full", FULL)
    crowd = [request(tmp_path, f"ccat-full-{size}", Resources(partition="full", memory_gb=size)) for size in (1, 2, 3)]
    others = requests(tmp_path, "free", 2, Resources(partition="free"))
    results = backend.submit_many([*crowd, *others])
    assert kinds(results) == [refusals.LimitReached] * 3 + [str] * 2
    refused = results[0]
    assert isinstance(refused, JobDeferred)
    assert not isinstance(refused, BackendUnavailable)
    assert "AssocMaxSubmitJobLimit" in refused.message
    assert len(slurm.tried) == 2, "one word of a place is enough for all who want to go there"


def test_a_full_place_is_remembered_for_a_moment(
    backend: SlurmBackend, slurm: TextSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(refusals, "time", SimpleNamespace(monotonic=lambda: now))
    full, free = Resources(partition="full"), Resources(partition="free")
    assert backend.full(full, 0) is None
    slurm.refuses = in_partition("full", FULL)
    backend.submit_many(requests(tmp_path, "a", 1, full))
    slurm.refuses = lambda argv: ""
    limit = backend.full(replace(full, cpu=3), -1)
    assert limit is not None
    assert "AssocMaxSubmitJobLimit" in limit.message
    assert backend.full(free, 0) is None
    assert backend.full(replace(full, extra={"no": "such"}), 0) is None
    assert kinds(backend.submit_many(requests(tmp_path, "b", 3, full))) == [refusals.LimitReached] * 3
    assert len(slurm.tried) == 1
    now += refusals.FULL_SECONDS
    assert backend.full(full, 0) is None
    assert kinds(backend.submit_many(requests(tmp_path, "b", 3, full))) == [str] * 3


def test_an_array_is_not_halved_further_than_to_the_first_job(
    backend: SlurmBackend, slurm: TextSlurm, tmp_path: Path
) -> None:
    slurm.refuses = lambda argv: FULL
    assert kinds(backend.submit_many(requests(tmp_path, "a", 16))) == [refusals.LimitReached] * 16
    assert slurm.tasks() == [16, 8, 4, 2, 1]


def test_a_limit_on_size_leaves_room_for_the_smaller(backend: SlurmBackend, slurm: TextSlurm, tmp_path: Path) -> None:
    words = f"sbatch: error: QOSMaxCpuPerUserLimit\n{POLICY}"
    slurm.refuses = lambda argv: words if "--cpus-per-task=64" in argv else ""
    small = request(tmp_path, "ccat-small-1")
    [large] = requests(tmp_path, "large", 1, replace(ORDINARY, cpu=64))
    assert kinds(backend.submit_many([large, small])) == [refusals.LimitReached, str]
    assert backend.full(large.resource_requirements, 0) is not None
    assert backend.full(small.resource_requirements, 0) is None


@pytest.mark.parametrize("taken", [False, True])
def test_a_cluster_that_takes_no_more_jobs(
    slurm: TextSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """`sbatch` itself would go on trying for two minutes; what it has done is looked up."""
    programs = tmp_path / "programs"
    programs.mkdir()
    name = "ccat-a-1"
    line = f"7|RUNNING|1795261948|1795261949|0|1:00:00|n1|main|1|None|{name}"
    words = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying."
    for program, text in {
        "sbatch": f"echo '{words}' >&2; exec sleep 1000",
        "squeue": f"echo '{line}'" if taken else "true",
        "sacct": "true",
    }.items():
        (programs / program).write_text(f"#!/bin/sh\n{text}\n")
        (programs / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    backend = SlurmBackend(state_dir=tmp_path / "state", poll_seconds=0)
    [result] = backend.submit_many([request(tmp_path, name)])
    if taken:
        assert result == f"7:{name}"
    else:
        assert isinstance(result, refusals.LimitReached)
        assert words in result.message
        assert backend.find(name) is None, "it may be submitted again at once"


def test_a_cluster_with_little_room_takes_a_part_of_an_array(
    backend: SlurmBackend, slurm: TextSlurm, tmp_path: Path
) -> None:
    words = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying."
    slurm.refuses = lambda argv: words if "--array=0-3" not in argv else ""
    results = backend.submit_many(requests(tmp_path, "a", 8))
    assert kinds(results) == [str] * 8
    assert slurm.tasks() == [8, 4, 4]


# --- doubt ------------------------------------------------------------------------------------------------------------


def doubtful(*names: str) -> Callable[[Sequence[str]], str]:
    return lambda argv: "Segmentation fault" if any(f"--job-name={name}" in argv for name in names) else ""


def alone(root: Path, count: int) -> list[JobRequest]:
    """Jobs of which no two are alike."""
    return [request(root, f"ccat-x-{size}", replace(ORDINARY, memory_gb=size)) for size in range(1, count + 1)]


def test_one_job_in_doubt_stops_no_other(backend: SlurmBackend, slurm: TextSlurm, tmp_path: Path) -> None:
    slurm.refuses = doubtful("ccat-x-1")
    results = backend.submit_many(alone(tmp_path, 3))
    assert kinds(results) == [refusals.SubmissionUnconfirmed, str, str]
    assert "looked for again" in str(results[0])
    with pytest.raises(JobDeferred, match="not known yet"):
        backend.find("ccat-x-1")
    slurm.refuses = lambda argv: ""
    more = request(tmp_path, "ccat-y-1")
    assert kinds(backend.submit_many([*alone(tmp_path, 1), more])) == [refusals.SubmissionUnconfirmed, str]


def test_when_nothing_is_certain_it_is_the_scheduler(backend: SlurmBackend, slurm: TextSlurm, tmp_path: Path) -> None:
    slurm.refuses = lambda argv: "Segmentation fault"
    results = backend.submit_many(alone(tmp_path, 5))
    assert kinds(results) == [refusals.SubmissionUnconfirmed] * 3 + [BackendUnavailable] * 2
    assert len(slurm.tried) == 3


def test_what_another_worker_has_taken_over_is_left_to_it(
    backend: SlurmBackend, slurm: TextSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = requests(tmp_path, "a", 4)
    options = backend._options

    def overtaken(each: JobRequest) -> tuple[str, ...]:
        if each is wanted[0]:
            other, now = SubmissionStore(tmp_path / "state"), time.time()
            member = ArrayTask(each.job_name, each.workspace_dir)
            other.add(Submission(each.job_name, False, (member,), now, now + 60))
        return options(each)

    monkeypatch.setattr(backend, "_options", overtaken)
    results = backend.submit_many(wanted)
    assert kinds(results) == [JobDeferred, str, str, str]
    assert "another worker" in str(results[0])


# --- which job it is --------------------------------------------------------------------------------------------------


def written_down(root: Path, number: str | None, *names: str) -> Submission:
    members = tuple(ArrayTask(name, request(root, name).workspace_dir) for name in names)
    array, now = len(names) > 1, time.time()
    name = array_name(names) if array else names[0]
    store = SubmissionStore(root / "state")
    made = Submission(name, array, members, now, now + 60)
    store.add(made)
    return store.numbered(made, number) if number is not None else made


def test_a_number_that_now_is_another_array(backend: SlurmBackend, slurm: TextSlurm, tmp_path: Path) -> None:
    """Numbers are given again when Slurm has lost its state, or when they are used up."""
    names = [f"ccat-old-{number}" for number in range(3)]
    submission = written_down(tmp_path, "5", *names)
    job_id = f"5_1:{names[1]}"
    slurm.add("5_1", submission.name)
    assert backend.get_status(job_id).status is JobStatus.RUNNING
    for index in range(3):
        slurm.add(f"5_{index}", ARRAY_PREFIX + "f" * 24)
    assert backend.get_status(job_id).status is JobStatus.UNKNOWN
    backend.cancel(job_id)
    assert slurm.cancelled == []
    del slurm.states["5_1"]
    assert backend.get_status(job_id).status is JobStatus.UNKNOWN, "not taken out of the array of another user"
    slurm.states = {}
    slurm.add("5_0", submission.name)
    assert backend.get_status(job_id).status is JobStatus.CANCELLED


def test_an_array_without_a_record(backend: SlurmBackend, slurm: TextSlurm) -> None:
    slurm.add("5_1", ARRAY_PREFIX + "f" * 24)
    assert backend.get_status("5_1:ccat-lost-1").status is JobStatus.RUNNING


def claim(submission: Submission, number: str) -> None:
    for member in submission.members:
        Path(member.files.claim).write_text(f"{number}\n")


def test_of_two_jobs_of_one_name_the_one_that_runs_is_followed(
    backend: SlurmBackend, slurm: TextSlurm, tmp_path: Path
) -> None:
    submission = written_down(tmp_path, None, "ccat-x-1")
    slurm.add("11", "ccat-x-1", "FAILED")
    slurm.add("12", "ccat-x-1")
    claim(submission, "12")
    assert backend.find("ccat-x-1") == "12:ccat-x-1"


@pytest.mark.parametrize("names", [("ccat-x-1",), ("ccat-x-1", "ccat-x-2")])
def test_a_job_that_found_its_attempt_taken_tells_how_the_other_is(
    backend: SlurmBackend, slurm: TextSlurm, tmp_path: Path, names: tuple[str, ...]
) -> None:
    submission = written_down(tmp_path, "11", *names)
    task = "_0" if submission.array else ""
    job_id = f"11{task}:ccat-x-1"
    slurm.add(f"11{task}", submission.name, "FAILED")
    slurm.add(f"12{task}", submission.name)
    claim(submission, "12")
    assert backend.get_status(job_id).status is JobStatus.RUNNING
    backend.cancel(job_id)
    assert slurm.cancelled == [f"12{task}"]
    assert cancel_requested_at(submission.members[0].files), "else a cancel by root looks like one of Slurm itself"
    slurm.states[f"12{task}"] = "CANCELLED"
    assert backend.get_status(job_id).status is JobStatus.CANCELLED


@pytest.mark.parametrize("text", ["11", "", "not a number", "77"])
def test_a_claim_that_leads_nowhere_changes_nothing(
    backend: SlurmBackend, slurm: TextSlurm, tmp_path: Path, text: str
) -> None:
    submission = written_down(tmp_path, "11", "ccat-x-1")
    slurm.add("11", "ccat-x-1", "FAILED")
    claim(submission, text)
    assert backend.get_status("11:ccat-x-1").status is JobStatus.FAILED


# --- for operators ----------------------------------------------------------------------------------------------------


def accounting_shown(backend: SlurmBackend) -> str:
    return str(backend.queue_status()[0].details["accounting"])


def test_the_waiting_jobs_of_others_are_shown_as_far_as_the_scheduler_tells(
    backend: SlurmBackend, slurm: TextSlurm, tmp_path: Path
) -> None:
    def others() -> int | None:
        return backend.queue_status()[0].others_pending

    slurm.add("11", "ccat-x-1", "PENDING")
    slurm.others = "11|us|main\n12_[0-9]|us|main\n13_[0-9]|ada|main\n"
    assert others() == 10
    slurm.others = "squeue: error: slurm_load_jobs error: Unable to contact the controller"
    assert others() is None
    slurm.others = "13|ada|main"
    slurm.config = "PrivateData = accounts,jobs\n"
    assert (others(), worker(slurm, tmp_path).queue_status()[0].others_pending) == (1, None)
    while (budget := backend._commands.budget).used() <= budget.per_minute / 2:
        budget.take(looking=False)
    assert others() is None, "few calls are left"


def test_how_the_accounting_is_all_workers_know(backend: SlurmBackend, slurm: TextSlurm, tmp_path: Path) -> None:
    other = worker(slurm, tmp_path)
    assert accounting_shown(backend) == accounting_shown(other) == "not asked yet"
    slurm.accounting = "sacct: error: Problem talking to the database: Connection refused"
    backend.get_status("1:ccat-nobody")
    assert "Problem talking to the database: Connection refused" in accounting_shown(other)
    slurm.accounting = ""
    backend.get_status("1:ccat-nobody")
    assert accounting_shown(other) == "ok"
    slurm.accounting = "Slurm accounting storage is disabled"
    backend.get_status("1:ccat-nobody")
    assert accounting_shown(other) == "none"
    assert "accounting_since" in other.queue_status()[0].details
