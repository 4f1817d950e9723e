"""PBS, through its commands: `qsub`, `qstat`, `qdel`, `qselect`. OpenPBS and PBS Pro, and Torque.

One `qstat` answers for all jobs that it is asked for. A `qsub` takes milliseconds, so jobs go one by one, four at a
time, rather than as arrays: every job keeps a name, a status and an end of its own.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable
from ccat_workflow_manager.hpc.base import Availability, Capabilities, JobRequest, QueueLimits, QueueStatus
from ccat_workflow_manager.hpc.batch.calls import Refusal
from ccat_workflow_manager.hpc.batch.command_line import CommandBackend
from ccat_workflow_manager.hpc.batch.scheduler_backend import JobKey
from ccat_workflow_manager.hpc.batch.script import render_batch_script
from ccat_workflow_manager.hpc.batch.store import Submission
from ccat_workflow_manager.hpc.pbs.listing import (
    CLOCK,
    NUMBER,
    Queue,
    Seen,
    parse_json,
    parse_number,
    parse_numbers,
    parse_queues,
    parse_text,
    parse_version,
    sequence,
)
from ccat_workflow_manager.hpc.pbs.refusals import only_gone, refusal, without_history
from ccat_workflow_manager.hpc.pbs.script import (
    Dialect,
    output_path,
    place_of,
    render_options,
    render_qsub,
)
from ccat_workflow_manager.hpc.pbs.settings import PbsSettings
from ccat_workflow_manager.hpc.pbs.states import Evidence, merge, over
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo
from ccat_workflow_manager.settings import settings_of

_PROGRAMS = ("qsub", "qstat", "qdel")
_PASSED_ON = ("PBS_DEFAULT", "PBS_SERVER", "PBS_CONF_FILE", "PERL5LIB", "LD_LIBRARY_PATH", "SLURM_CONF")
_NO_HISTORY_SECONDS = 600.0
_AT_A_TIME = 5000
"""So many ids fit into one command."""

_T = TypeVar("_T")


class PbsBackend(CommandBackend):
    """Jobs at a PBS server; see docs/backends/pbs.md."""

    name = "pbs"
    capabilities = Capabilities(bulk_status=True, find=True, exit_record=True, gpu=True, lists=True)
    settings = PbsSettings
    number_pattern = NUMBER

    def __init__(self, *, log_limit_mb: float = 512, **settings: Any) -> None:
        site = settings_of(PbsSettings, self.name, settings)
        super().__init__(
            state_dir=site.state_dir or None,
            calls_per_minute=site.calls_per_minute,
            environment={name: value for name in _PASSED_ON if (value := os.environ.get(name))},
            looking_environment=CLOCK,
            log_limit_mb=log_limit_mb,
        )
        self._site = site
        self._known_dialect: Dialect | None = None
        self._json = True
        self._no_history_until = 0.0

    @classmethod
    def is_available(cls) -> Availability:
        missing = [program for program in _PROGRAMS if shutil.which(program) is None]
        if not missing:
            return Availability(True)
        hint = "run the worker on a submit host of PBS, with its commands on the search path (often /opt/pbs/bin)"
        return Availability(False, f"not on the search path: {', '.join(missing)}", hint)

    @property
    def _dialect(self) -> Dialect:
        """Which family answers here. The question is about the program, and needs no server."""
        if self._known_dialect is None:
            done = self._run_looking(["qstat", "--version"])
            self._known_dialect = parse_version(done.stdout + done.stderr)
        return self._known_dialect

    # --- submitting --------------------------------------------------------------------------------------------------

    def _options(self, request: JobRequest) -> tuple[str, ...]:
        return render_options(request.resource_requirements, request.priority, self._site, self._dialect)

    def _submit_command(
        self, submission: Submission, options: Sequence[str], output: str
    ) -> tuple[Sequence[str], bytes]:
        script = render_batch_script(
            submission.members,
            number='"$PBS_JOBID"',
            index=None,
            home=pwd.getpwuid(os.geteuid()).pw_dir,
        )
        # The wrappers around Slurm read no script from their input, and every `qsub` copies a file when it is called.
        file = submission.members[0].files.script.removesuffix(".sh") + ".qsub"
        Path(file).write_bytes(script.encode("utf-8", "surrogateescape"))
        return render_qsub(options, name=submission.name, output=output_path(output), script=file), b""

    def _number(self, printed: str) -> str:
        return parse_number(printed)

    def _refusal(self, returncode: int, words: str) -> Refusal:
        return refusal(returncode, words)

    def _place(self, options: Sequence[str], words: str) -> Sequence[str]:
        return options if "limit of resource" in words else place_of(options)

    def _largest_array(self) -> int:
        return 1

    def _numbers_of(self, name: str, tried_at: float | None) -> Sequence[str]:
        if shutil.which("qselect") is None:
            # The wrappers around Slurm have none.
            jobs = self._listed(())
            return sorted((number for number, seen in jobs.items() if seen.name == name), key=sequence)
        me = pwd.getpwuid(os.geteuid()).pw_name
        done = self._with_history(lambda history: ["qselect", *history, "-u", me, "-N", name])
        if done.returncode != 0:
            raise self._commands.failed(done)
        return self._read("qselect", parse_numbers, done.stdout)

    def _listing(self) -> Iterable[tuple[JobKey, datetime | None]]:
        if shutil.which("qselect") is None:
            listed = self._listed(())
        else:
            done = self._run_looking(["qselect", "-u", pwd.getpwuid(os.geteuid()).pw_name])
            if done.returncode != 0:
                raise self._commands.failed(done)
            listed = self._listed_of(self._read("qselect", parse_numbers, done.stdout))
        live = {number: seen for number, seen in listed.items() if not over(seen)}
        return [(JobKey(number, None, seen.name), seen.submitted_at) for number, seen in live.items()]

    # --- following ---------------------------------------------------------------------------------------------------

    def _observe(self, jobs: Sequence[JobKey]) -> Mapping[JobKey, HPCJobInfo]:
        listed = self._own(jobs)
        now = datetime.now(UTC)
        return {key: self._judge(key, listed.get(key), now) for key in jobs}

    def _judge(self, key: JobKey, seen: Seen | None, now: datetime) -> HPCJobInfo:
        if seen is not None and not over(seen):
            return merge(Evidence(seen, None, now))
        member = self._member(key)
        record = self._recorded(member) if member is not None else None
        failed = seen is not None and seen.exit_status != 0
        log = self._scheduler_words(key) if failed else ""
        return merge(Evidence(seen, record, now, self._dialect, log))

    def _own(self, jobs: Sequence[JobKey]) -> dict[JobKey, Seen]:
        """What the server says of these; a number may have been given to somebody else's job meanwhile."""
        listed = self._listed_of(sorted({key.number for key in jobs}, key=sequence))
        return {key: seen for key in jobs if (seen := listed.get(key.number)) and seen.name == key.job_name}

    def _listed_of(self, numbers: Sequence[str]) -> dict[str, Seen]:
        listed: dict[str, Seen] = {}
        for start in range(0, len(numbers), _AT_A_TIME):
            listed |= self._listed(numbers[start : start + _AT_A_TIME])
        return listed

    def _listed(self, numbers: Sequence[str]) -> dict[str, Seen]:
        """`qstat` for these jobs, or for all; what the server does not know is not in the answer."""
        if self._json and self._dialect is Dialect.OPENPBS:
            done = self._asked(["-f", "-F", "json"], numbers)
            if done is not None:
                try:
                    return parse_json(done.stdout)
                except json.JSONDecodeError:
                    # Some versions forget to quote what users may choose freely. The text mode cannot go wrong there.
                    pass
                except ValueError as error:
                    raise self._confused("qstat", error, done.stdout) from error
            else:
                self._json = False
        done = self._asked(["-f"], numbers)
        if done is None:
            raise BackendConfused("qstat does not know its option -f", backend=self.name)
        return self._read("qstat", parse_text, done.stdout)

    def _asked(self, options: Sequence[str], numbers: Sequence[str]) -> shell.Completed | None:
        """What `qstat` answers; None if it does not know its options."""
        done = self._with_history(lambda history: ["qstat", *history, *options, *numbers])
        if done.returncode == 0 and numbers and not done.stdout.strip():
            raise BackendConfused("qstat printed nothing, and called that a success", backend=self.name)
        if done.returncode != 0 and not only_gone(done.returncode, done.stderr):
            if "usage:" in done.stderr.lower() or "invalid option" in done.stderr:
                return None
            raise self._commands.failed(done)
        if done.truncated:
            raise BackendConfused("qstat printed more than can be read", backend=self.name, command=done.argv)
        return done

    def _with_history(self, argv: Callable[[Sequence[str]], Sequence[str]]) -> shell.Completed:
        """Run a command that may ask for finished jobs as well. (To Torque `-x` means something else.)"""
        if self._dialect is Dialect.OPENPBS and time.monotonic() >= self._no_history_until:
            done = self._run_looking(argv(["-x"]))
            if done.returncode == 0 or not without_history(done.returncode, done.stderr):
                return done
            self._no_history_until = time.monotonic() + _NO_HISTORY_SECONDS
        return self._run_looking(argv([]))

    def _run_looking(self, argv: Sequence[str]) -> shell.Completed:
        try:
            return self._commands.run(argv, looking=True)
        except shell.CommandError as error:
            raise BackendUnavailable(error.message, backend=self.name, command=argv) from error

    def _read(self, command: str, parse: Callable[[str], _T], text: str) -> _T:
        try:
            return parse(text)
        except ValueError as error:
            raise self._confused(command, error, text) from error

    def _confused(self, command: str, error: ValueError, text: str) -> BackendConfused:
        return BackendConfused(
            f"the answer of {command} cannot be read: {error}", backend=self.name, output_tail=text[-2000:]
        )

    # --- stopping ----------------------------------------------------------------------------------------------------

    def _stop(self, jobs: Sequence[JobKey]) -> None:
        live = self._live(jobs)
        live |= self._live([twin for key in jobs if key not in live and (twin := self._twin(key))])
        numbers = sorted({key.number for key in live}, key=sequence)
        for start in range(0, len(numbers), _AT_A_TIME):
            argv = ["qdel", *numbers[start : start + _AT_A_TIME]]
            try:
                done = self._commands.run(argv, looking=False)
            except shell.CommandError as error:
                raise BackendUnavailable(error.message, backend=self.name, command=argv) from error
            if done.returncode != 0 and not only_gone(done.returncode, done.stderr):
                raise self._commands.failed(done)

    def _live(self, jobs: Sequence[JobKey]) -> set[JobKey]:
        return {key for key, seen in self._own(jobs).items() if not over(seen)} if jobs else set()

    # --- for operators -----------------------------------------------------------------------------------------------

    def queue_status(self) -> list[QueueStatus]:
        text = self._commands.look(["qstat", "-Q", "-f"])
        return [self._queue(queue) for queue in self._read("qstat", parse_queues, text)]

    def _queue(self, queue: Queue) -> QueueStatus:
        budget = self._commands.budget
        waiting = ("queued", "held", "waiting", "transit")
        return QueueStatus(
            queue.name,
            available=queue.enabled and queue.started,
            running=queue.counts.get("running", 0),
            pending=sum(queue.counts.get(state, 0) for state in waiting),
            limits=QueueLimits(queue.name, hours=queue.most_hours),
            details={
                "enabled": queue.enabled,
                "started": queue.started,
                "jobs": queue.jobs,
                "time_limit": queue.limit,
                "calls_per_minute": budget.per_minute,
                "calls_in_the_last_minute": budget.used(),
                "history": "none" if time.monotonic() < self._no_history_until else "ok",
            },
        )
