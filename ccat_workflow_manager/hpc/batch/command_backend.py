"""The base of backends whose scheduler has a command line: they add the commands and the meaning of the answers."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import BackendRejected, BackendUnavailable
from ccat_workflow_manager.hpc.batch.calls import CallBudget, SchedulerCommands
from ccat_workflow_manager.hpc.batch.refusals import LimitReached, Refusal
from ccat_workflow_manager.hpc.batch.remote import SubmitNode
from ccat_workflow_manager.hpc.batch.scheduler_backend import COMMAND_SECONDS, BatchBackend
from ccat_workflow_manager.hpc.batch.script import scheduler_log
from ccat_workflow_manager.hpc.batch.store import Submission


class CommandBackend(BatchBackend):
    """A batch backend that runs commands. Of its hooks only those that "ask" are not pure."""

    def __init__(
        self,
        *,
        state_dir: str | os.PathLike[str] | None,
        calls_per_minute: int,
        environment: Mapping[str, str],
        looking_environment: Mapping[str, str] | None = None,
        log_limit_mb: float,
        disk_limit_gb: float,
        node: SubmitNode | None = None,
    ) -> None:
        super().__init__(state_dir=state_dir, log_limit_mb=log_limit_mb, disk_limit_gb=disk_limit_gb)
        budget = CallBudget(self._store.directory, calls_per_minute)
        self._commands = SchedulerCommands(self.name, budget, environment, COMMAND_SECONDS, looking_environment, node)

    @abstractmethod
    def _submit_command(
        self, submission: Submission, options: Sequence[str], output: str
    ) -> tuple[Sequence[str], bytes]:
        """The command and its input. `output` is the path of the scheduler's log (`script.scheduler_log`)."""

    @abstractmethod
    def _number(self, printed: str) -> str:
        """The number of the job, from the output of the submit command. Raises ValueError."""

    @abstractmethod
    def _refusal(self, returncode: int, words: str) -> Refusal:
        """The meaning of a submit command that failed."""

    def _retries_itself(self, complaints: str) -> object:
        """Whether the submit command was refused and only waits to try again by itself."""
        return False

    def _submitted(self, submission: Submission, options: Sequence[str]) -> Submission:
        output = scheduler_log(submission)
        if submission.array:
            os.makedirs(output, exist_ok=True)
        argv, script = self._submit_command(submission, options, output)
        self._store.add(submission)
        try:
            done = self._commands.run(argv, looking=False, script=script, enough=self._retries_itself)
        except shell.CommandError as error:
            return self._look_up(submission, error.message)
        except BackendUnavailable:
            # The command was never started.
            self._store.drop(submission)
            raise
        words = " ".join(f"{done.stderr} {done.stdout}".split())[-500:] or "it printed nothing"
        if done.returncode == 0:
            try:
                return self._store.numbered(submission, self._number(done.stdout))
            except ValueError as error:
                return self._look_up(submission, f"its answer cannot be read: {error}: {done.output_tail!r}")
        refusal = self._refusal(done.returncode, words)
        if refusal is Refusal.UNSURE:
            return self._look_up(submission, words)
        if refusal is Refusal.FULL and (found := self._found(submission)) is not None:
            return found
        self._store.drop(submission)
        kind = BackendRejected if refusal is Refusal.NEVER else LimitReached
        text = f"{self.name} does not take this job{'' if kind is BackendRejected else ' now'}: {words}"
        raise kind(text, backend=self.name, command=argv, output_tail=done.output_tail)
