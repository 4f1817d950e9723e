"""The engine: calls of tasks become a graph, and each task starts once all it depends on is done."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from ccat_workflow_manager.flow import arguments, files, lifetime
from ccat_workflow_manager.flow.creation import Creation, backends_of, directory_of
from ccat_workflow_manager.flow.decorators import Decorators
from ccat_workflow_manager.flow.definition import Choices, Definition, Kind, command_of
from ccat_workflow_manager.flow.errors import DependencyFailed, FlowError, named
from ccat_workflow_manager.flow.execution import ExecutionBackend, Failed, Work
from ccat_workflow_manager.flow.export import Recorder, as_yaml
from ccat_workflow_manager.flow.future import BlockFuture, TaskFuture
from ccat_workflow_manager.flow.options import TaskOptions, options_of
from ccat_workflow_manager.flow.scope import Scope, enter
from ccat_workflow_manager.flow.service import step_name

_END_SECONDS = 30.0


@dataclass(slots=True, eq=False)
class _Call:
    """One unfinished call of a task or a block."""

    definition: Definition
    future: TaskFuture
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: TaskOptions
    scope: Scope
    missing: int = 0
    """How many dependencies are not done yet."""
    body: asyncio.Task[Any] | None = None
    """The coroutine of a block, or the one that makes a command."""
    work: Work | None = None
    has_outputs: bool = False
    after: Sequence[TaskFuture] = ()
    """Its dependencies, while the program is exported."""


class WorkflowEngine(Decorators):
    """Runs tasks on these backends, by default on the first; without any in threads of this process.

    With `dry_run` no task is executed. Programs run in `work_dir`, by default the present directory. An engine is made
    in a running event loop, with `await WorkflowEngine.create(...)` or by a call of the class.
    """

    def __init__(
        self,
        backend: ExecutionBackend | Sequence[ExecutionBackend] | None = None,
        dry_run: bool = False,
        uid: str | None = None,
        work_dir: str | os.PathLike[str] | None = None,
        *,
        implicit_data: bool = True,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        backends = backends_of(backend, dry_run)
        self.uid = uid or f"flow.{uuid4().hex[:8]}"
        self.dry_run = dry_run
        self.work_dir = directory_of(work_dir)
        self.backends = {each.name: each for each in backends}
        self.backend = backends[0]
        self._scope: contextvars.ContextVar[Scope] = contextvars.ContextVar("flow", default=Scope())  # noqa: B039
        self._live: dict[TaskFuture, _Call] = {}
        self._numbers: dict[str, int] = {}
        self._ended: asyncio.Future[None] | None = None
        self._recorder: Recorder | None = None
        for each in backends:
            each.attach(self._loop, self._report, self.work_dir)
        self._lifetime = lifetime.Lifetime(self._loop, self.shutdown, self.abandon)

    @classmethod
    def create(
        cls,
        backend: ExecutionBackend | Sequence[ExecutionBackend] | None = None,
        dry_run: bool = False,
        uid: str | None = None,
        work_dir: str | os.PathLike[str] | None = None,
        *,
        implicit_data: bool = True,
    ) -> Creation[WorkflowEngine]:
        """An engine, to be awaited or entered. All tasks work in one directory, so `implicit_data` changes nothing."""
        return Creation(lambda: cls(backend, dry_run, uid, work_dir))

    async def __aenter__(self) -> WorkflowEngine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown()

    # --- definitions -------------------------------------------------------------------------------------------------

    def define(self, kind: Kind, function: Callable[..., Any], choices: Choices) -> Definition:
        return Definition(self, kind, function, choices)

    def backend_for(self, task: str, kind: Kind, name: str | None) -> ExecutionBackend:
        """The backend of a definition. Raises FlowError if it is unknown or cannot run this kind of task."""
        if name is not None and name not in self.backends:
            known = ", ".join(self.backends)
            raise FlowError(f"task {task} names the backend {name!r}, but the engine has: {known}")
        backend = self.backends[name] if name is not None else self.backend
        if kind is Kind.FUNCTION and (why := backend.refuses_functions) is not None:
            raise FlowError(f"task {task}: {why}")
        return backend

    @asynccontextmanager
    async def workflow_scope(self, workflow_id: str | None = None) -> AsyncIterator[str]:
        """Calls inside belong to the workflow with this id; a new id if none is given."""
        scope = self._scope.get()
        chosen = workflow_id or f"wf-{uuid4().hex[:8]}"
        token = self._scope.set(Scope(chosen, scope.blocks))
        try:
            yield chosen
        finally:
            self._scope.reset(token)

    async def export(self, program: Coroutine[Any, Any, Any], name: str | None = None) -> str:
        """The pipeline definition, as YAML, of the executable tasks that a coroutine calls. None is executed."""
        if not inspect.iscoroutine(program):
            raise FlowError(f"flow.export takes a coroutine, such as main(), not {program!r:.200}")
        if self._live or self._recorder is not None:
            program.close()
            raise FlowError("flow.export needs an engine without unfinished tasks: export first, or make another one")
        self._recorder = recorder = Recorder()
        recorder.attach(self._loop, self._report, self.work_dir)
        try:
            await program
            if self._live:
                await asyncio.wait(list(self._live))
        finally:
            self._recorder = None
        return as_yaml(recorder.definition(name or step_name(getattr(program, "__name__", "program"))))

    # --- calls -------------------------------------------------------------------------------------------------------

    def call(self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskFuture:
        """Make a task of a call. `workflow_id` and `task_description` are for the engine, not for the function."""
        name = definition.name
        self._check_usable(name)
        scope = self._scope.get()
        workflow_id, options = scope.workflow_id, definition.options
        if kwargs:
            workflow_id = kwargs.pop("workflow_id", None) or workflow_id
            options = options_of(name, kwargs.pop("task_description", None), options)
        definition.check_arguments(args, kwargs)
        dependencies = arguments.futures_in(name, args, kwargs)
        for each in dependencies:
            self._check_dependency(name, each)
        number = self._numbers[name] = self._numbers.get(name, 0) + 1
        make = BlockFuture if definition.kind is Kind.BLOCK else TaskFuture
        future = make(self._loop, self, name, number)
        future.workflow_id, future.backend = workflow_id, definition.backend.name
        if scope.blocks or isinstance(future, BlockFuture):
            enter(scope, future, dependencies, self._check_await)
        call = _Call(definition, future, args, kwargs, options, scope)
        self._live[future] = call
        if self._recorder is not None:
            call.after = [each for each in dependencies if isinstance(each, TaskFuture)]
        future.on_cancel(self._cancelled)
        self._wait_for(call, dependencies)
        return future

    def _check_usable(self, name: str) -> None:
        if self._ended is not None:
            raise FlowError(f"task {name} cannot start: its engine is shut down")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not self._loop:
            where = "after that loop was closed" if self._loop.is_closed() else "from another thread or loop"
            raise FlowError(f"task {name} belongs to the event loop of its engine, but was called {where}")

    def _check_dependency(self, name: str, future: asyncio.Future[Any]) -> None:
        if isinstance(future, TaskFuture) and future.engine is not self:
            raise FlowError(f"task {name} got {future.id} of another engine; await it and pass its result")
        if future.get_loop() is not self._loop:
            raise FlowError(f"task {name} got a future of another event loop; await it there and pass its result")

    def _check_await(self, block: BlockFuture) -> None:
        if block in self._scope.get().blocks:
            raise FlowError(f"block {block.id} awaits itself, so it could not end")

    def _wait_for(self, call: _Call, dependencies: Sequence[asyncio.Future[Any]]) -> None:
        for each in dependencies:
            if each.done():
                self._failed_through(call, each, dependencies)
                if call.future.done():
                    return
            else:
                call.missing += 1
        if not call.missing:
            self._ready(call)
            return

        def done(dependency: asyncio.Future[Any]) -> None:
            if call.future.done():
                return
            self._failed_through(call, dependency, dependencies)
            call.missing -= 1
            if not call.missing and not call.future.done():
                self._ready(call)

        for each in dependencies:
            if not each.done():
                each.add_done_callback(done)

    def _failed_through(
        self, call: _Call, dependency: asyncio.Future[Any], dependencies: Sequence[asyncio.Future[Any]]
    ) -> None:
        """End a call if this one of its dependencies has failed or was cancelled."""
        if dependency.cancelled():
            call.future.cancel()
        elif dependency.exception() is not None:
            failed = [each for each in dependencies if each.done() and not each.cancelled() and each.exception()]
            self._fail(call.future, DependencyFailed(call.future.id, dependency, failed), reported=True)

    # --- running -----------------------------------------------------------------------------------------------------

    def _ready(self, call: _Call) -> None:
        """Start a call whose dependencies are done."""
        self._report_errors(call, lambda: self._begin(call))

    def _report_errors(self, call: _Call, act: Callable[[], None]) -> None:
        """Whatever the code of the program raises is raised where the task is awaited."""
        try:
            act()
        except Exception as error:  # noqa: BLE001 - code of a program: raised where the task is awaited
            self._fail(call.future, named(error, call.future.id))

    def _begin(self, call: _Call) -> None:
        definition, future = call.definition, call.future
        call.args, call.kwargs = arguments.resolved(call.args, call.kwargs)
        if definition.kind is not Kind.BLOCK and definition.backend.executes and self._recorder is None:
            self._check_files(call)
        if definition.kind is Kind.FUNCTION:
            self._start(call, Work(future, None, definition.function, call.args, call.kwargs, call.options))
            return
        made = definition.function(*call.args, **call.kwargs)
        if asyncio.iscoroutine(made):
            self._run_body(call, made)
        else:
            self._body_returned(call, made)

    def _check_files(self, call: _Call) -> None:
        own = call.definition.kind is Kind.EXECUTABLE and call.definition.backend.own_directories
        call.has_outputs = files.check(call.future.id, call.args, call.kwargs, self.work_dir, shared=not own)

    def _run_body(self, call: _Call, coroutine: Coroutine[Any, Any, Any]) -> None:
        context = contextvars.copy_context()
        if isinstance(call.future, BlockFuture):
            scope = Scope(call.future.workflow_id or call.future.id, (*call.scope.blocks, call.future))
            context.run(self._scope.set, scope)
            call.future.is_running = True
        call.body = self._loop.create_task(coroutine, context=context)
        call.body.add_done_callback(lambda task: self._body_ended(call, task))

    def _body_ended(self, call: _Call, body: asyncio.Task[Any]) -> None:
        if call.future.done():
            if not body.cancelled():
                body.exception()
        elif body.cancelled():
            call.future.cancel()
        elif (error := body.exception()) is not None:
            self._fail(call.future, named(error, call.future.id))
        else:
            self._report_errors(call, lambda: self._body_returned(call, body.result()))

    def _body_returned(self, call: _Call, value: Any) -> None:
        if call.definition.kind is Kind.BLOCK:
            self._finish(call.future, value)
            return
        command = command_of(call.future.id, value, call.definition.uses_shell(call.options))
        work = Work(call.future, command, options=call.options, capture_stdio=call.definition.capture_stdio)
        self._start(call, work)

    def _start(self, call: _Call, work: Work) -> None:
        if self._recorder is not None:
            self._recorder.record(work, call.after, call.scope.blocks)
            self._recorder.start(work)
            return
        call.work = work
        call.definition.backend.start(work)

    def _report(self, work: Work, outcome: Any) -> None:
        """The end of a work, from its backend."""
        future = work.future
        if future.done():
            return
        call = self._live[future]
        if isinstance(outcome, Failed):
            repeats = work.command is not None and call.definition.backend.retries
            if work.attempt < work.options.max_attempts and not repeats:
                self._again(call, work)
            else:
                self._fail(future, outcome.error)
        elif call.has_outputs and (lacking := files.missing(files.OutputFile, call.args, call.kwargs, self.work_dir)):
            self._fail(future, FlowError(f"task {future.id} ended without writing {', '.join(lacking)}"))
        else:
            self._finish(future, outcome)

    def _again(self, call: _Call, work: Work) -> None:
        future = work.future
        future.attempts, future.is_running = work.attempt + 1, False
        again = Work(
            future, work.command, work.function, work.args, work.kwargs, work.options, work.capture_stdio,
            future.attempts,
        )  # fmt: skip
        try:
            self._start(call, again)
        except FlowError as error:
            self._fail(future, error)

    # --- ends --------------------------------------------------------------------------------------------------------

    def _finish(self, future: TaskFuture, value: Any) -> None:
        self._forget(future)
        future.set_result(value)

    def _fail(self, future: TaskFuture, error: BaseException, *, reported: bool = False) -> None:
        self._forget(future)
        future.fail(error, reported=reported)

    def _forget(self, future: TaskFuture) -> _Call | None:
        call = self._live.pop(future, None)
        future.on_cancel(None)
        if call is not None:
            for block in call.scope.blocks:
                block.members.discard(future)
        if isinstance(future, BlockFuture):
            future.waits_for.clear()
        return call

    def _cancelled(self, future: TaskFuture) -> None:
        """A future was cancelled: end what runs for it."""
        call = self._forget(future)
        if call is None:
            return
        ends = self._ended is not None or self._lifetime.is_ending
        if call.work is not None and not (ends and call.definition.backend.durable):
            call.definition.backend.cancel(call.work)
        if call.body is not None:
            call.body.cancel()
        if isinstance(future, BlockFuture):
            for member in list(future.members):
                member.cancel()

    async def shutdown(
        self,
        skip_execution_backend: bool = False,
        *,
        wait: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> None:
        """End the engine: cancel all tasks, or with `wait` let them finish first, at most `timeout` seconds.

        All processes of the tasks have ended when this returns. `skip_execution_backend` leaves the backends open for
        another engine.
        """
        if self._ended is not None:
            await asyncio.shield(self._ended)
            return
        if wait and self._live:
            await asyncio.wait(list(self._live), timeout=timeout)
        self._ended = self._loop.create_future()
        with ExitStack() as ending:
            ending.callback(self._ended.set_result, None)
            ending.callback(self._lifetime.close)
            with ExitStack() as unless_ended:
                unless_ended.callback(self.abandon)
                await self._end(skip_execution_backend)
                unless_ended.pop_all()

    async def _end(self, skip_execution_backend: bool) -> None:
        bodies = [call.body for call in self._live.values() if call.body is not None]
        for future in list(self._live):
            future.cancel()
        if others := [body for body in bodies if body is not asyncio.current_task()]:
            await asyncio.wait(others, timeout=_END_SECONDS)
        for backend in self.backends.values():
            backend.detach()
        if not skip_execution_backend:
            await asyncio.gather(*(each.shutdown() for each in self.backends.values()))

    def abandon(self) -> None:
        """The loop ends without a shutdown: no process may stay behind."""
        for backend in self.backends.values():
            backend.abandon()
