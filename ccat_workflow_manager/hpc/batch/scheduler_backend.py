"""The doer that all batch schedulers share: writes down, submits, follows, cancels, reads logs.

How a scheduler is talked to is in the hooks below; `command_line.py` has those of schedulers with a command line.

`state_dir` should be on a filesystem that all workers of the backend share: what one of them has submitted is found
there by the others, and the budget of calls is kept there for all of them.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from ccat_workflow_manager.errors import (
    BackendConfused,
    BackendError,
    BackendRejected,
    BackendUnavailable,
    JobDeferred,
    WorkflowError,
)
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.logs import read_logs, tail_log
from ccat_workflow_manager.hpc.attempt.script import render_job_script, write_script
from ccat_workflow_manager.hpc.base import BulkBackend, JobRequest, JobSeen, LogStream
from ccat_workflow_manager.hpc.batch.files import claimed, scheduler_words
from ccat_workflow_manager.hpc.batch.places import LimitCache, LimitReached, SubmissionUnconfirmed, SubmitAborted
from ccat_workflow_manager.hpc.batch.store import ArrayTask, Submission, SubmissionStore, array_name
from ccat_workflow_manager.hpc.exit_info import info_of
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
"""A refusal that takes longer is not asked for again with half of the jobs."""
_JOB_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}"


@dataclass(frozen=True, slots=True)
class JobKey:
    """What a job id says: the number at the scheduler, the place in its array, and the name, which is unique for ever.

    Schedulers give a number again some day; with the name it is one job.
    """

    number: str
    index: int | None
    job_name: str


class BatchBackend(BulkBackend):
    """Everything but the text."""

    # A scheduler that stalls may need longer: whoever takes over then finds the submission written down, and waits.
    submit_seconds = 20
    number_pattern: ClassVar[str] = r"\d{1,12}"
    own_cgroup: ClassVar[bool] = False
    """Each job runs in a container, where what the kernel counts is what the job has used."""

    def __init__(self, *, state_dir: str | os.PathLike[str] | None, log_limit_mb: float) -> None:
        default = Path(tempfile.gettempdir(), f"ccat-wm-{os.geteuid()}", self.name)
        self._store = SubmissionStore(Path(state_dir) if state_dir is not None else default)
        self._id = re.compile(rf"({self.number_pattern})(?:_(\d{{1,9}}))?:({_JOB_NAME})")
        self._logs = LogWatch(self.name, log_limit_mb)
        self._full = LimitCache()
        try:
            self._store.prepare()
        except OSError as error:
            raise BackendUnavailable(f"{self._store.directory} cannot be used: {error}", backend=self.name) from error

    # --- hooks: the text ---------------------------------------------------------------------------------------------

    @abstractmethod
    def _options(self, request: JobRequest) -> tuple[str, ...]:
        """What a job asks for; jobs with the same options may become one array. Raises ValueError if it cannot be."""

    @abstractmethod
    def _submitted(self, submission: Submission, options: Sequence[str]) -> Submission:
        """Write a submission down and hand it over, once; with its number, as it is known then.

        Raises BackendRejected if it can never run, LimitReached if a limit of the site keeps it out, and what
        `_look_up` raises if nobody knows whether it was taken.
        """

    def _place(self, options: Sequence[str], words: str) -> Sequence[str]:
        """The part of the options that a limit with these words is about: all jobs that share it have to wait."""
        return options

    @abstractmethod
    def _largest_array(self) -> int:
        """Ask how many tasks an array may have."""

    @abstractmethod
    def _numbers_of(self, name: str, tried_at: float | None) -> Sequence[str]:
        """Ask for the numbers of the jobs of this name, oldest first.

        With `tried_at` a submission of this name was tried then: every witness is to be asked.
        """

    @abstractmethod
    def _observe(self, jobs: Sequence[JobKey]) -> Mapping[JobKey, HPCJobInfo]:
        """Ask for the states of these jobs."""

    @abstractmethod
    def _stop(self, jobs: Sequence[JobKey]) -> None:
        """Ask the scheduler to stop these."""

    # --- submitting --------------------------------------------------------------------------------------------------

    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        results: dict[str, str | BackendError] = {}
        alike: dict[tuple[str, ...], list[ArrayTask]] = {}
        for request in requests:
            try:
                adopted = self.find_tried(request.job_name)
                if adopted is not None:
                    results[request.job_name] = adopted
                else:
                    alike.setdefault(self._prepare(request), []).append(
                        ArrayTask(request.job_name, request.workspace_dir)
                    )
            except BackendError as error:
                results[request.job_name] = error
        away = SubmitAborted()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            tasks = [
                pool.submit(self._hand_over, options, members, away)
                for options, all_members in alike.items()
                for members in self._chunks(all_members)
            ]
            for task in tasks:
                results |= task.result()
        return [results[request.job_name] for request in requests]

    def full(self, resources: Resources, priority: int) -> JobDeferred | None:
        if not self._full:
            return None
        try:
            return self._full_for(self._options(JobRequest(resource_requirements=resources, priority=priority)))
        except (BackendError, ValueError):
            # Submitting will say so, and to whom it belongs.
            return None

    def _full_for(self, options: tuple[str, ...]) -> LimitReached | None:
        return self._full.at(options, self._place(options, ""))

    def _prepare(self, request: JobRequest) -> tuple[str, ...]:
        """Write the job script; the options of the job. Raises BackendRejected."""
        member = ArrayTask(request.job_name, request.workspace_dir)
        try:
            options = self._options(request)
            script = self._job_script(request, member.files)
            write_script(member.files, script)
        except ValueError as error:
            raise BackendRejected(f"{self.name} cannot take this job: {error}", backend=self.name) from error
        except OSError as error:
            text = f"the job script cannot be written: {error.strerror}: {error.filename}"
            raise BackendRejected(text, backend=self.name, reason=FailureReason.STAGING_FAILED) from error
        return options

    def _job_script(self, request: JobRequest, files: AttemptFiles) -> str:
        """Raises ValueError."""
        return render_job_script(
            request.execution_command,
            environment=request.environment_variables,
            cwd=request.workspace_dir,
            files=files,
            own_cgroup=self.own_cgroup,
        )

    def _chunks(self, members: Sequence[ArrayTask]) -> list[Sequence[ArrayTask]]:
        if len(members) == 1:
            return [members]
        try:
            size = self._largest_array()
        except BackendError:
            # Submitting will say so as well, and to each of them.
            size = len(members)
        return [members[start : start + size] for start in range(0, len(members), max(1, size))]

    def _hand_over(
        self, options: tuple[str, ...], members: Sequence[ArrayTask], away: SubmitAborted
    ) -> dict[str, str | BackendError]:
        """Submit alike jobs, as one array if they are more than one."""
        names = [member.job_name for member in members]
        if (known := away.error or self._full_for(options)) is not None:
            return dict.fromkeys(names, known)
        began, now = time.monotonic(), time.time()
        array = len(members) > 1
        submission = Submission(
            name=array_name(names) if array else names[0],
            array=array,
            members=tuple(members),
            tried_at=now,
            settled_at=now + COMMAND_SECONDS + SETTLE_SECONDS,
        )
        try:
            done = self._submitted(submission, options)
        except OSError as error:
            text = f"the job cannot be written down: {error.strerror}: {error.filename}"
            away.error = BackendUnavailable(text, backend=self.name)
            return dict.fromkeys(names, away.error)
        except BackendRejected as error:
            return dict.fromkeys(names, error)
        except SubmissionUnconfirmed as error:
            away.count(error)
            return dict.fromkeys(names, error)
        except JobDeferred as error:
            if array and time.monotonic() - began < _SLOW_SECONDS:
                # A part of it may be free to go.
                half = len(members) // 2
                first = self._hand_over(options, members[:half], away)
                return first | self._hand_over(options, members[half:], away)
            if isinstance(error, LimitReached):
                self._full.note(self._place(options, error.message), error)
            return dict.fromkeys(names, error)
        except (BackendUnavailable, BackendConfused) as error:
            away.error = BackendUnavailable(
                error.message, backend=self.name, command=error.command, output_tail=error.output_tail
            )
            return dict.fromkeys(names, away.error)
        ids = {name: done.job_id(index) for index, name in enumerate(names)}
        return {name: job_id for name, job_id in ids.items() if job_id is not None}

    def _look_up(self, submission: Submission, words: str) -> Submission:
        """The submit command failed in a way that leaves open whether the scheduler has taken the job."""
        found = self._found(submission)
        if found is not None:
            return found
        text = f"{self.name} gave no number for the job, which is looked for again before the next try: {words}"
        raise SubmissionUnconfirmed(text, backend=self.name)

    def _found(self, submission: Submission) -> Submission | None:
        """Ask whether the scheduler has taken it after all; what it says now may change until it is settled."""
        self._store.unsure(submission, time.time() + SETTLE_SECONDS)
        number = self._chosen(submission, submission.members[0])
        return self._store.numbered(submission, number) if number is not None else None

    def _chosen(self, submission: Submission, member: ArrayTask) -> str | None:
        """Ask for the number of a submission: of two jobs of one name that of the one that has started something."""
        numbers = self._numbers_of(submission.name, submission.tried_at)
        claim = self._claim(member)
        return claim if claim in numbers else numbers[0] if numbers else None

    def _claim(self, member: ArrayTask) -> str | None:
        """The number of the job that has started the attempt, as it said itself."""
        claim = "".join(claimed(member))
        return claim if re.fullmatch(self.number_pattern, claim) else None

    # --- finding -----------------------------------------------------------------------------------------------------

    def find(self, job_name: str) -> str | None:
        if not re.fullmatch(_JOB_NAME, job_name):
            return None
        found = self.find_tried(job_name)
        if found is not None:
            return found
        numbers = self._numbers_of(job_name, None)
        return f"{numbers[0]}:{job_name}" if numbers else None

    def find_tried(self, job_name: str) -> str | None:
        """The id of a job that was submitted, or perhaps was. None: it was not, for certain.

        Raises JobDeferred while that cannot be known, BackendUnavailable if the scheduler cannot be asked.
        """
        known = self._known(job_name)
        if known is None:
            return None
        submission, index = known
        if submission.number is None:
            member = submission.members[index]
            number = self._chosen(submission, member) or self._claim(member)
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
        except (OSError, ValueError, TypeError) as error:
            text = f"what was submitted cannot be read in {self._store.directory}: {error}"
            raise BackendUnavailable(text, backend=self.name) from error

    def list_jobs(self) -> list[JobSeen]:
        """A task of an array whose submission is not written down here keeps the name of the array."""
        jobs = []
        for key, since in self._listing():
            known = self._store.in_array(key.job_name, key.index) if key.index is not None else None
            name = known.job_name if known is not None else key.job_name
            if name.startswith(JOB_PREFIX):
                task = f"_{key.index}" if key.index is not None else ""
                jobs.append(JobSeen(f"{key.number}{task}:{name}", name, since))
        return jobs

    def _listing(self) -> Iterable[tuple[JobKey, datetime | None]]:
        """Ask for all jobs of this account that are not over. Backends that claim `lists` have it."""
        raise WorkflowError(f"the backend {self.name} does not list its jobs")

    # --- following ---------------------------------------------------------------------------------------------------

    def get_status(self, job_id: str) -> HPCJobInfo:
        return self.get_statuses([job_id])[job_id]

    def get_statuses(self, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        keys = {job_id: key for job_id in job_ids if (key := self._key(job_id)) is not None}
        seen = dict(self._observe(list(keys.values()))) if keys else {}
        twins = {key: twin for key, info in seen.items() if _may_be_beaten(info) and (twin := self._twin(key))}
        if twins:
            told = self._observe(list(twins.values()))
            seen |= {key: info for key, twin in twins.items() if (info := told.get(twin, UNKNOWN)) != UNKNOWN}
        infos = {job_id: seen.get(keys[job_id], UNKNOWN) if job_id in keys else UNKNOWN for job_id in job_ids}
        return self._logs.apply(infos, self._files, self.cancel_many)

    def _key(self, job_id: str) -> JobKey | None:
        match = self._id.fullmatch(job_id)
        return JobKey(match[1], int(match[2]) if match[2] is not None else None, match[3]) if match else None

    def _member(self, key: JobKey) -> ArrayTask | None:
        known = self._known(key.job_name)
        return known[0].members[known[1]] if known is not None else None

    def _twin(self, key: JobKey) -> JobKey | None:
        """The job of the same name that has taken the attempt, so that this one starts nothing."""
        member = self._member(key)
        claim = self._claim(member) if member is not None else None
        return replace(key, number=claim) if claim is not None and claim != key.number else None

    def _recorded(self, member: ArrayTask) -> HPCJobInfo | None:
        """What the exit record says, if there is one."""
        try:
            text = Path(member.files.record).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            text = f"the exit record of {member.job_name} cannot be read: {error.strerror}"
            raise BackendUnavailable(text, backend=self.name) from error
        return info_of(text, None)

    def _scheduler_words(self, key: JobKey) -> str:
        """The end of what the scheduler itself has written about a job."""
        known = self._known(key.job_name)
        return scheduler_words(*known) if known is not None else ""

    # --- stopping, forgetting, logs ----------------------------------------------------------------------------------

    def cancel(self, job_id: str) -> None:
        self.cancel_many([job_id])

    def cancel_many(self, job_ids: Sequence[str]) -> None:
        keys = [key for job_id in job_ids if (key := self._key(job_id)) is not None]
        if keys:
            self._stop(keys)

    def cleanup(self, job_id: str) -> None:
        self.cleanup_many([job_id])

    def cleanup_many(self, job_ids: Sequence[str]) -> None:
        try:
            for job_id in job_ids:
                if (key := self._key(job_id)) is not None:
                    self._store.forget(key.job_name)
        except OSError as error:
            raise BackendUnavailable(f"cannot forget jobs: {error}", backend=self.name) from error

    def get_logs(self, job_id: str) -> str:
        files = self._files(job_id)
        return "" if files is None else read_logs(files)

    def tail_logs(self, job_id: str, *, stream: LogStream = "stdout", lines: int = 200) -> str:
        files = self._files(job_id)
        return "" if files is None else tail_log(files, stream, lines)

    def _files(self, job_id: str) -> AttemptFiles | None:
        key = self._key(job_id)
        member = self._member(key) if key is not None else None
        return member.files if member is not None else None


def _may_be_beaten(info: HPCJobInfo) -> bool:
    """Whether a job may have ended because another one of its name has taken the attempt."""
    return info.status is JobStatus.FAILED
