"""Tasks on the service: every executable task is a run that outlives the program."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

from ccat_workflow_manager.client import AsyncClient, Run, StepRun
from ccat_workflow_manager.errors import WorkflowError
from ccat_workflow_manager.failures import RETRYABLE_BY_DEFAULT, FailureReason
from ccat_workflow_manager.flow.errors import FlowError, TaskFailed
from ccat_workflow_manager.flow.execution import ExecutionBackend, Failed, Report, Work, failure
from ccat_workflow_manager.flow.options import TaskOptions
from ccat_workflow_manager.flow.pool import LONGEST_SHUTDOWN_SECONDS, PoolBackend, default_places
from ccat_workflow_manager.flow.programs import TAIL

_CALLS_AT_ONCE = 32
_LONGEST_WAIT_SECONDS = 30.0
_RETRIED = sorted(
    reason.value for reason in RETRYABLE_BY_DEFAULT | {FailureReason.PROGRAM_FAILED, FailureReason.KILLED_BY_SIGNAL}
)
"""As other backends of programs repeat a task, whatever has failed."""
_TAIL_LINES = 1000
_PATIENCE_SECONDS = 3600.0
"""How long a service may be away: its runs go on or wait, and so does the program."""


class ServiceBackend(ExecutionBackend):
    """Submits each executable task as a run of one step, under a key made of what the task is.

    The program that is started again with the same workflow id makes the same keys, so it finds the runs that exist.
    Function tasks run in threads of the program, and again when it is started again.
    """

    retries = True
    durable = True

    def __init__(
        self,
        name: str,
        *,
        url: str | None = None,
        token: str | None = None,
        image: str | None = None,
        backend: str | None = None,
        project: str | None = None,
        max_workers: int | None = None,
    ) -> None:
        super().__init__(name)
        self._client = AsyncClient(url, token, patience=_PATIENCE_SECONDS)
        self._image = image
        self._fields: dict[str, Any] = {"backend": backend, "project": project}
        self._functions = PoolBackend(f"{name}-functions", max_workers or default_places())
        self._calls = asyncio.Semaphore(_CALLS_AT_ONCE)
        self._tasks: dict[Work, asyncio.Task[None]] = {}
        self._cancels: set[asyncio.Task[None]] = set()
        self._runs: dict[Work, str] = {}
        self._wanted: dict[Work, bool] = {}
        """Whether a run is still wanted whose id is not known yet: its request is on the way."""
        self._seen: dict[str, int] = {}
        self._closed = False

    def attach(self, loop: asyncio.AbstractEventLoop, report: Report, work_dir: str) -> None:
        super().attach(loop, report, work_dir)
        self._functions.attach(loop, report, work_dir)

    def detach(self) -> None:
        super().detach()
        self._functions.detach()

    @property
    def own_directories(self) -> bool:
        return True

    async def connect(self) -> None:
        """Raises what the service refuses, so that a wrong address or token is noticed before the first task."""
        self._client.api.patience = 0
        try:
            await self._client.backends.list()
        except WorkflowError:
            await self._client.close()
            raise
        self._client.api.patience = _PATIENCE_SECONDS

    def start(self, work: Work) -> None:
        if self._closed:
            raise FlowError(f"task {work.name} cannot start: the backend {self.name} is shut down")
        if work.command is None:
            self._functions.start(work)
            return
        # The key is made here, in the order of the calls of the program.
        key = self._key(work)
        task = asyncio.get_running_loop().create_task(self._follow(work, key), name=work.name)
        self._tasks[work] = task
        task.add_done_callback(lambda _: self._tasks.pop(work, None))

    def cancel(self, work: Work) -> None:
        if work.command is None:
            self._functions.cancel(work)
            return
        if work in self._wanted:
            self._wanted[work] = False
            return
        if (task := self._tasks.get(work)) is not None:
            task.cancel()
        if (run_id := self._runs.pop(work, None)) is not None:
            self._in_background(self._client.runs.cancel(run_id))

    def _in_background(self, call: Awaitable[Any]) -> None:
        async def made() -> None:
            await call

        task = asyncio.get_running_loop().create_task(made())
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)

    async def shutdown(self) -> None:
        """Stop following. The runs go on, but for those that are to be cancelled."""
        self._closed = True
        for work, task in list(self._tasks.items()):
            if self._wanted.get(work, True):
                task.cancel()
        if pending := [*self._tasks.values(), *self._cancels]:
            _, late = await asyncio.wait(pending, timeout=LONGEST_SHUTDOWN_SECONDS)
            for task in late:
                task.cancel()
        await self._functions.shutdown()
        await self._client.close()

    def abandon(self) -> None:
        self._functions.abandon()

    # --- one task ----------------------------------------------------------------------------------------------------

    async def _follow(self, work: Work, key: str) -> None:
        try:
            self.post(work, await self._outcome(work, key))
        except TaskFailed as error:
            self.post(work, Failed(error))
        except WorkflowError as error:
            self.post(work, failure(work, error))

    async def _outcome(self, work: Work, key: str) -> str:
        run, wait = await self._created(work, key), 1.0
        self._runs[work] = run.id
        while not run.is_finished:
            work.future.is_running = run.status == "RUNNING"
            until = "finished" if work.future.is_running else "changed"
            async with self._calls:
                run = await self._client.runs.watch(run, wait, until)
            # Others want to ask, too.
            wait = max(1.0, _LONGEST_WAIT_SECONDS * _CALLS_AT_ONCE / max(_CALLS_AT_ONCE, len(self._tasks)))
        self._runs.pop(work, None)
        async with self._calls:
            return await self._ended(work, run)

    async def _created(self, work: Work, key: str) -> Run:
        """The run of a task. A cancel while its id is not known ends it here."""
        async with self._calls:
            self._wanted[work] = True
            try:
                run = await self._client.runs.submit(
                    spec=self._spec(work), labels=self._labels(work), idempotency_key=key, **self._fields
                )
                # The same key has found a run of an earlier start of the program.
                if self._wanted[work] and run.is_finished and not run.succeeded:
                    run = await self._client.runs.retry(run)
                if not self._wanted[work]:
                    if not run.is_finished:
                        await self._client.runs.cancel(run)
                    raise asyncio.CancelledError
            finally:
                del self._wanted[work]
        return run

    async def _ended(self, work: Work, run: Run) -> str:
        step_run = run.step_runs[0]
        work.future.attempts = step_run["attempt"] or 1
        if work.capture_stdio:
            await self._keep(work, step_run)
        if not run.succeeded:
            out, err = [await self._log(step_run, stream, tail=_TAIL_LINES) for stream in ("stdout", "stderr")]
            ends = [(each["exit_code"], each["signal"]) async for each in self._client.step_runs.attempts(step_run)]
            code, signal = ends[-1] if ends else (None, None)
            raise TaskFailed(
                work.name,
                f"its run {run.id} is {run.status}: {step_run.get('reason_text') or run.get('status_reason')}",
                exit_code=code if signal is None else -signal,
                stdout=out[-TAIL:],
                stderr=err[-TAIL:],
                attempts=step_run["attempt"],
            )
        return work.future.stdout or await self._log(step_run, "stdout")

    async def _keep(self, work: Work, step_run: StepRun) -> None:
        """Write the logs beside the files of the program."""
        files = []
        for stream in ("stdout", "stderr"):
            files.append(Path(self.work_dir, f"{work.name}.{stream}"))
            text = await self._log(step_run, stream)
            await asyncio.to_thread(files[-1].write_text, text)
        work.future.stdout, work.future.stderr = map(str, files)

    async def _log(self, step_run: StepRun, stream: str, tail: int | None = None) -> str:
        if not step_run["attempt"]:
            return ""
        return "".join([text async for text in self._client.step_runs.logs(step_run, stream=stream, tail=tail)])

    # --- what a task is ----------------------------------------------------------------------------------------------

    def _spec(self, work: Work) -> dict[str, Any]:
        name = step_name(work.future.name)
        step: dict[str, Any] = {
            "name": name,
            "command": [literal(word) for word in work.command or ()],
            "image": work.options.image or self._image,
            **step_of(work.name, work.options),
        }
        step["retry"] = step["retry"] or {"max_attempts": 1}
        return {"name": name, "steps": [{key: value for key, value in step.items() if value}]}

    @staticmethod
    def _labels(work: Work) -> Mapping[str, str]:
        return {"flow.workflow": _workflow(work)[:200], "flow.task": work.future.name[:200]}

    def _key(self, work: Work) -> str:
        """The same for the same call of the same workflow, in whatever order its tasks become ready."""
        content = json.dumps([_workflow(work), work.future.name, self._spec(work), self._fields], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()
        number = self._seen[digest] = self._seen.get(digest, 0) + 1
        return f"flow-{digest}-{number}"


def _workflow(work: Work) -> str:
    return work.future.workflow_id or str(getattr(work.future.engine, "uid", ""))


def step_of(name: str, options: TaskOptions) -> dict[str, Any]:
    """What a task description says of a step. The definition leaves the rest to the service.

    Raises FlowError for a directory: each attempt of a step has one of its own.
    """
    if options.cwd:
        raise FlowError(f"task {name} cannot have a cwd: on the service it has a directory of its own")
    return {
        "environment": {key: literal(value) for key, value in options.environment.items()},
        "resources": {key: value for key, value in options.asked.items() if value is not None},
        "retry": {"max_attempts": options.max_attempts, "on": list(_RETRIED)} if options.max_attempts > 1 else {},
    }


def literal(text: str) -> str:
    """A text in which a definition substitutes nothing."""
    return text.replace("${", "$${")


def step_name(task: str) -> str:
    """The name of a task as the name of a step."""
    return (re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-") or "task")[:63]
