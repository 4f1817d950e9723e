"""Schedulers with a command line: what differs between them is which command to run and what its answer means."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import BackendRejected, BackendUnavailable
from ccat_workflow_manager.hpc.batch.calls import CallBudget, Refusal, SchedulerCommands
from ccat_workflow_manager.hpc.batch.files import output_of
from ccat_workflow_manager.hpc.batch.places import LimitReached
from ccat_workflow_manager.hpc.batch.remote import SubmitNode
from ccat_workflow_manager.hpc.batch.scheduler_backend import COMMAND_SECONDS, BatchBackend
from ccat_workflow_manager.hpc.batch.store import Submission


class CommandBackend(BatchBackend):
    """The doer, with commands. All hooks but those that "ask" are pure."""

    def __init__(
        self,
        *,
        state_dir: str | os.PathLike[str] | None,
        calls_per_minute: int,
        environment: Mapping[str, str],
        looking_environment: Mapping[str, str] | None = None,
        log_limit_mb: float,
        node: SubmitNode | None = None,
    ) -> None:
        super().__init__(state_dir=state_dir, log_limit_mb=log_limit_mb)
        budget = CallBudget(self._store.directory, calls_per_minute)
        self._commands = SchedulerCommands(self.name, budget, environment, COMMAND_SECONDS, looking_environment, node)

    @abstractmethod
    def _submit_command(
        self, submission: Submission, options: Sequence[str], output: str
    ) -> tuple[Sequence[str], bytes]:
        """The command and the script that it is given. `output` is a file, or for an array a directory of them."""

    @abstractmethod
    def _number(self, printed: str) -> str:
        """The number of the job, from what the submit command printed. Raises ValueError."""

    @abstractmethod
    def _refusal(self, returncode: int, words: str) -> Refusal:
        """What it means that the submit command failed."""

    def _goes_on_trying(self, complaints: str) -> object:
        """Whether the submit command has been refused and only waits to try again by itself."""
        return False

    def _submitted(self, submission: Submission, options: Sequence[str]) -> Submission:
        """Run the submit command once. Raises what the scheduler meant by its refusal."""
        argv, script = self._submit_command(submission, options, output_of(submission))
        self._store.add(submission)
        try:
            done = self._commands.run(argv, looking=False, script=script, enough=self._goes_on_trying)
        except shell.CommandError as error:
            return self._look_up(submission, error.message)
        except BackendUnavailable:
            # It was never started.
            self._store.drop(submission)
            raise
        words = " ".join(f"{done.stderr} {done.stdout}".split())[-500:] or "it said nothing"
        if done.returncode == 0:
            try:
                return self._store.numbered(submission, self._number(done.stdout))
            except ValueError as error:
                return self._look_up(submission, f"its answer cannot be read: {error}: {done.output_tail!r}")
        verdict = self._refusal(done.returncode, words)
        if verdict is Refusal.UNSURE:
            return self._look_up(submission, words)
        if verdict is Refusal.FULL and (found := self._found(submission)) is not None:
            return found
        self._store.drop(submission)
        kind = BackendRejected if verdict is Refusal.NEVER else LimitReached
        text = f"{self.name} does not take this job{'' if kind is BackendRejected else ' now'}: {words}"
        raise kind(text, backend=self.name, command=argv, output_tail=done.output_tail)
