"""The base of backends of batch schedulers: records, submits, polls and cancels jobs.

The hooks below talk to the scheduler; `command_backend.py` has those of schedulers with a command line.

`state_dir` should be on a filesystem that all workers of the backend share: each of them finds there what the others
have submitted, and the budget of calls is kept there for all of them.
"""

from __future__ import annotations

import os
import re
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar

from ccat_workflow_manager.errors import (
    BackendConfused,
    BackendError,
    BackendRejected,
    BackendUnavailable,
    JobDeferred,
    WorkflowError,
)
from ccat_workflow_manager.hpc.attempt.files import JOB_NAME, AttemptFiles
from ccat_workflow_manager.hpc.attempt.script import render_job_script
from ccat_workflow_manager.hpc.base import JobRequest, JobSeen
from ccat_workflow_manager.hpc.batch.refusals import LimitCache, LimitReached, SubmissionUnconfirmed, SubmitAborted
from ccat_workflow_manager.hpc.batch.script import read_scheduler_log
from ccat_workflow_manager.hpc.batch.store import ArrayTask, Submission, SubmissionStore, array_name
from ccat_workflow_manager.hpc.exit_info import info_of
from ccat_workflow_manager.hpc.file_backend import FileBackend, state_directory
from ccat_workflow_manager.hpc.log_watch import LogWatch
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import JOB_PREFIX, Resources

COMMAND_SECONDS = 60.0
"""A dead authentication service keeps a command for most of a minute."""
SETTLE_SECONDS = 15.0
"""After a submit command has ended without an answer, the scheduler may still take the job for this long."""
AT_ONCE = 4
"""Submit commands at the same time; more make a scheduler slower."""
_SLOW_SECONDS = 10.0
"""After a refusal that takes longer, the halves of an array are not tried."""


@dataclass(frozen=True, slots=True)
class JobKey:
    """The parts of a job id: the number at the scheduler, the index in its array, and the name.

    Schedulers reuse numbers; the name is unique for ever.
    """

    number: str
    index: int | None
    job_name: str


class BatchBackend(FileBackend):
    """All that does not depend on the scheduler."""

    # A scheduler that stalls may need longer: a worker that takes over then finds the submission recorded, and waits.
    submit_seconds = 20
    number_pattern: ClassVar[str] = r"\d{1,12}"
    own_cgroup: ClassVar[bool] = False
    """Each job runs in a container, where the kernel's counters are those of the job."""

    def __init__(
        self, *, state_dir: str | os.PathLike[str] | None, log_limit_mb: float, disk_limit_gb: float = 0
    ) -> None:
        self._store = SubmissionStore(state_directory(self.name, state_dir), self.name)
        self._id = re.compile(rf"({self.number_pattern})(?:_(\d{{1,9}}))?:({JOB_NAME.pattern})", re.ASCII)
        self._logs = LogWatch(self.name, log_limit_mb, disk_limit_gb)
        self._limits = LimitCache()

    # --- hooks -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def _options(self, request: JobRequest) -> tuple[str, ...]:
        """The requirements of a job; jobs with the same ones may become one array. Raises ValueError."""

    @abstractmethod
    def _submitted(self, submission: Submission, options: Sequence[str]) -> Submission:
        """Record a submission and submit it, once. Returns it with its number.

        Raises BackendRejected if it can never run, LimitReached if a limit of the site keeps it out, and what
        `_look_up` raises if it may have been taken.
        """

    def _limit_scope(self, options: Sequence[str], words: str) -> Sequence[str]:
        """The part of the options that a limit with these words depends on; all jobs that share it have to wait."""
        return options

    @abstractmethod
    def _largest_array(self) -> int:
        """Ask how many tasks an array may have."""

    @abstractmethod
    def _numbers_of(self, name: str, tried_at: float | None) -> Sequence[str]:
        """Ask for the numbers of the jobs of this name, oldest first.

        With `tried_at` a submission of this name was tried then: every witness has to be asked.
        """

    @abstractmethod
    def _observe(self, jobs: Sequence[JobKey]) -> Mapping[JobKey, HPCJobInfo]:
        """Ask for the states of these jobs."""

    @abstractmethod
    def _stop(self, jobs: Sequence[JobKey]) -> None:
        """Ask the scheduler to stop these jobs."""

    # --- submitting --------------------------------------------------------------------------------------------------

    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        results: dict[str, str | BackendError] = {}
        alike: dict[tuple[str, ...], list[ArrayTask]] = {}
        for request in requests:
            name = request.job_name
            try:
                adopted = self.find_tried(name)
                if adopted is not None:
                    results[name] = adopted
                else:
                    alike.setdefault(self._prepared(request), []).append(ArrayTask(name, request.workspace_dir))
            except BackendError as error:
                results[name] = error
        aborted = SubmitAborted()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            tasks = [
                pool.submit(self._hand_over, options, members, aborted)
                for options, all_members in alike.items()
                for members in self._chunks(all_members)
            ]
            for task in tasks:
                results |= task.result()
        return [results[request.job_name] for request in requests]

    def full(self, resources: Resources, priority: int) -> JobDeferred | None:
        if not self._limits:
            return None
        try:
            return self._reached_limit(self._options(JobRequest(resource_requirements=resources, priority=priority)))
        except (BackendError, ValueError):
            # Submitting reports it, for the job that it belongs to.
            return None

    def _reached_limit(self, options: tuple[str, ...]) -> LimitReached | None:
        return self._limits.get(options, self._limit_scope(options, ""))

    def _prepared(self, request: JobRequest) -> tuple[str, ...]:
        """Write the job script. Returns the options of the job. Raises BackendRejected."""
        try:
            options = self._options(request)
        except ValueError as error:
            raise self.rejected(str(error)) from error
        self.prepare_script(request, lambda files: self._job_script(request, files))
        return options

    def _job_script(self, request: JobRequest, files: AttemptFiles) -> str:
        """Raises ValueError."""
        return render_job_script(
            request.execution_command,
            environment=request.environment_variables,
            cwd=request.workspace_dir,
            files=files,
            own_cgroup=self.own_cgroup,
            secrets=request.secrets,
        )

    def _chunks(self, members: Sequence[ArrayTask]) -> list[Sequence[ArrayTask]]:
        if len(members) == 1:
            return [members]
        try:
            size = self._largest_array()
        except BackendError:
            # Submitting reports it, for each of them.
            size = len(members)
        return [members[start : start + size] for start in range(0, len(members), max(1, size))]

    def _hand_over(
        self, options: tuple[str, ...], members: Sequence[ArrayTask], aborted: SubmitAborted
    ) -> dict[str, str | BackendError]:
        """Submit alike jobs, as one array if they are more than one."""
        names = [member.job_name for member in members]
        if (known := aborted.error or self._reached_limit(options)) is not None:
            return dict.fromkeys(names, known)
        began = time.monotonic()
        try:
            done = self._submitted(_new_submission(members), options)
        except BackendRejected as error:
            return dict.fromkeys(names, error)
        except SubmissionUnconfirmed as error:
            aborted.count(error)
            return dict.fromkeys(names, error)
        except JobDeferred as error:
            if len(members) > 1 and time.monotonic() - began < _SLOW_SECONDS:
                # A part of it may fit.
                half = len(members) // 2
                first = self._hand_over(options, members[:half], aborted)
                return first | self._hand_over(options, members[half:], aborted)
            if isinstance(error, LimitReached):
                self._limits.put(self._limit_scope(options, error.message), error)
            return dict.fromkeys(names, error)
        except (OSError, BackendUnavailable, BackendConfused) as error:
            aborted.error = self._unavailable(error)
            return dict.fromkeys(names, aborted.error)
        ids = {name: done.job_id(index) for index, name in enumerate(names)}
        return {name: job_id for name, job_id in ids.items() if job_id is not None}

    def _unavailable(self, error: OSError | BackendError) -> BackendUnavailable:
        if isinstance(error, OSError):
            text = f"the job cannot be recorded: {error.strerror}: {error.filename}"
            return BackendUnavailable(text, backend=self.name)
        return BackendUnavailable(
            error.message, backend=self.name, command=error.command, output_tail=error.output_tail
        )

    def _look_up(self, submission: Submission, words: str) -> Submission:
        """Ask for a submission that the scheduler may have taken although the submit command failed."""
        found = self._found(submission)
        if found is not None:
            return found
        text = f"{self.name} gave no number for the job, which is looked for again before the next try: {words}"
        raise SubmissionUnconfirmed(text, backend=self.name)

    def _found(self, submission: Submission) -> Submission | None:
        """Ask whether the scheduler has taken a submission. Until it is settled, None may change to a number."""
        self._store.unconfirmed(submission, time.time() + SETTLE_SECONDS)
        number = self._chosen(submission, submission.members[0])
        return self._store.numbered(submission, number) if number is not None else None

    def _chosen(self, submission: Submission, member: ArrayTask) -> str | None:
        """Ask for the number of a submission: of two jobs of one name that of the one that has claimed the attempt."""
        numbers = self._numbers_of(submission.name, submission.tried_at)
        owner = self._owner(member)
        return owner if owner in numbers else numbers[0] if numbers else None

    def _owner(self, member: ArrayTask) -> str | None:
        """The number of the job that has claimed the attempt."""
        claim = self.claim_of(member.files)
        return claim.owner if claim is not None and re.fullmatch(self.number_pattern, claim.owner) else None

    # --- finding -----------------------------------------------------------------------------------------------------

    def find(self, job_name: str) -> str | None:
        if not JOB_NAME.fullmatch(job_name):
            return None
        found = self.find_tried(job_name)
        if found is not None:
            return found
        numbers = self._numbers_of(job_name, None)
        return f"{numbers[0]}:{job_name}" if numbers else None

    def find_tried(self, job_name: str) -> str | None:
        """The id of a job that was submitted, or may have been. None: it certainly was not.

        Raises JobDeferred while that cannot be known, BackendUnavailable if the scheduler cannot be asked.
        """
        known = self._known(job_name)
        if known is None:
            return None
        submission, index = known
        if submission.number is None:
            member = submission.members[index]
            number = self._chosen(submission, member) or self._owner(member)
            if number is None:
                if time.time() < submission.settled_at:
                    text = f"whether {self.name} has taken the job {job_name} is not known yet"
                    raise SubmissionUnconfirmed(text, backend=self.name)
                self._store.drop(submission)
                return None
            submission = self._store.numbered(submission, number)
        return submission.job_id(index)

    def _known(self, job_name: str) -> tuple[Submission, int] | None:
        try:
            return self._store.of_job(job_name)
        except OSError as error:
            text = f"the submissions in {self._store.directory} cannot be read: {error}"
            raise BackendUnavailable(text, backend=self.name) from error

    def list_jobs(self) -> list[JobSeen]:
        """A task of an array whose submission is not recorded here keeps the name of the array."""
        jobs = []
        for key, since in self._listing():
            known = self._store.in_array(key.job_name, key.index) if key.index is not None else None
            name = known.job_name if known is not None else key.job_name
            if name.startswith(JOB_PREFIX):
                task = f"_{key.index}" if key.index is not None else ""
                jobs.append(JobSeen(f"{key.number}{task}:{name}", name, since))
        return jobs

    def _listing(self) -> Iterable[tuple[JobKey, datetime | None]]:
        """Ask for all jobs of this account that are not over. Backends that declare `lists` implement it."""
        raise WorkflowError(f"the backend {self.name} does not list its jobs")

    # --- polling -----------------------------------------------------------------------------------------------------

    def get_statuses(self, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        keys = {job_id: key for job_id in job_ids if (key := self._key(job_id)) is not None}
        infos = dict(self._observe(list(keys.values()))) if keys else {}
        failed = [key for key, info in infos.items() if info.status is JobStatus.FAILED]
        if twins := {key: twin for key in failed if (twin := self._twin(key)) is not None}:
            of_twins = self._observe(list(twins.values()))
            infos |= {key: info for key, twin in twins.items() if (info := of_twins.get(twin, UNKNOWN)) != UNKNOWN}
        by_id = {job_id: infos.get(keys[job_id], UNKNOWN) if job_id in keys else UNKNOWN for job_id in job_ids}
        return self._logs.apply(by_id, self.attempt_files, self.cancel_many)

    def _key(self, job_id: str) -> JobKey | None:
        match = self._id.fullmatch(job_id)
        return JobKey(match[1], int(match[2]) if match[2] is not None else None, match[3]) if match else None

    def _member(self, key: JobKey) -> ArrayTask | None:
        known = self._known(key.job_name)
        return known[0].members[known[1]] if known is not None else None

    def _twin(self, key: JobKey) -> JobKey | None:
        """The other job of the same name, if that one has claimed the attempt, so that this one starts nothing."""
        member = self._member(key)
        owner = self._owner(member) if member is not None else None
        return replace(key, number=owner) if owner is not None and owner != key.number else None

    def _record_info(self, member: ArrayTask) -> HPCJobInfo | None:
        """The status according to the exit record; None if there is no record."""
        text = self.record_of(member.files)
        return None if text is None else info_of(text, None)

    def _scheduler_words(self, key: JobKey) -> str:
        """The end of the scheduler's own log about a job."""
        known = self._known(key.job_name)
        return read_scheduler_log(*known) if known is not None else ""

    # --- stopping, forgetting, logs ----------------------------------------------------------------------------------

    def cancel_many(self, job_ids: Sequence[str]) -> None:
        keys = [key for job_id in job_ids if (key := self._key(job_id)) is not None]
        if keys:
            self._stop(keys)

    def cleanup_many(self, job_ids: Sequence[str]) -> None:
        try:
            for job_id in job_ids:
                if (key := self._key(job_id)) is not None:
                    self._store.forget(key.job_name)
        except OSError as error:
            raise BackendUnavailable(f"cannot forget jobs: {error}", backend=self.name) from error

    def attempt_files(self, job_id: str) -> AttemptFiles | None:
        key = self._key(job_id)
        member = self._member(key) if key is not None else None
        return member.files if member is not None else None


def _new_submission(members: Sequence[ArrayTask]) -> Submission:
    names, now = [member.job_name for member in members], time.time()
    array = len(members) > 1
    return Submission(
        name=array_name(names) if array else names[0],
        array=array,
        members=tuple(members),
        tried_at=now,
        settled_at=now + COMMAND_SECONDS + SETTLE_SECONDS,
    )
