"""The connection to a Dask scheduler: every call of this backend to Dask."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Any

from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable
from ccat_workflow_manager.hpc.dask.bundle import on_scheduler, on_worker
from ccat_workflow_manager.hpc.dask.own_cluster import Address, OwnCluster
from ccat_workflow_manager.hpc.dask.status import STATES, DaskError

if TYPE_CHECKING:
    import distributed

ANSWER_SECONDS = 15.0
"""The longest wait for an answer of the scheduler."""
CONNECT_SECONDS = 10.0
NAME = "ccat-workflow-manager"
_PAUSE = Event()


@dataclass(frozen=True, slots=True)
class TaskGroup:
    """Jobs with the same resource request."""

    orders: Mapping[str, Mapping[str, Any]]
    """The argument of the job process, by job name."""
    priority: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    workers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SchedulerInfo:
    """The identity of a scheduler, new with each start, and its workers."""

    id: str
    workers: Mapping[str, Mapping[str, Any]]


class SchedulerClient:
    """One connection, made when first needed and again when it is lost."""

    def __init__(self, address: str, own: OwnCluster | None) -> None:
        self._address = address
        self._own = own
        self._client: distributed.Client | None = None

    # --- asking ------------------------------------------------------------------------------------------------------

    def ask(self, method: str, **arguments: Any) -> Any:
        """One call to the scheduler."""
        client = self._connected()
        try:
            return client.sync(getattr(client.scheduler, method), callback_timeout=ANSWER_SECONDS, **arguments)
        except (OSError, TimeoutError) as error:
            raise self._unavailable(error) from error

    def scheduler(self) -> SchedulerInfo:
        match self.ask("identity"):
            case {"id": str(scheduler_id), "workers": dict(workers)}:
                return SchedulerInfo(scheduler_id, workers)
            case answer:
                raise _unexpected(answer)

    def states(self, keys: Sequence[str]) -> dict[str, str | None]:
        """The state of each task; None for one that the scheduler does not know."""
        if not keys:
            return {}
        answer = self.ask("get_task_status", keys=list(keys))
        if not isinstance(answer, dict) or any(answer.get(key) not in STATES | {None} for key in keys):
            raise _unexpected(answer)
        return {key: answer.get(key) for key in keys}

    def names(self) -> list[str]:
        """The names of all tasks, also of other users of the scheduler."""
        answer = self.ask("who_has")
        if not isinstance(answer, dict):
            raise _unexpected(answer)
        return [key for key in answer if isinstance(key, str)]

    def errors(self, keys: Sequence[str]) -> dict[str, DaskError]:
        """Why Dask could not finish these tasks."""
        if not keys:
            return {}
        answer = self._run_on_scheduler("errors", list(keys))
        if not isinstance(answer, dict):
            raise _unexpected(answer)
        return {key: _error(text) for key, text in answer.items()}

    # --- doing -------------------------------------------------------------------------------------------------------

    def submit(self, groups: Sequence[TaskGroup]) -> None:
        """Submit jobs; the scheduler knows them all when this returns."""
        client = self._connected()
        keys = [key for group in groups for key in group.orders]
        try:
            futures = [future for group in groups for future in self._mapped(client, group)]
            deadline, pause = time.monotonic() + ANSWER_SECONDS, 0.002
            # The graph and the status call travel on different connections.
            while None in self.states(keys).values():
                if time.monotonic() > deadline:
                    raise BackendUnavailable("the Dask scheduler does not take the jobs", backend="dask")
                _PAUSE.wait(pause)
                pause = min(pause * 2, 0.2)
            self._run_on_scheduler("hold", keys)
        except (OSError, TimeoutError) as error:
            raise self._unavailable(error) from error
        for future in futures:
            future.release()

    def release(self, keys: Collection[str]) -> None:
        """Release tasks at the scheduler; one that has not started never will."""
        if keys:
            self._run_on_scheduler("release", list(keys))

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close(timeout=2)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _run_on_scheduler(self, name: str, keys: list[str]) -> Any:
        """Call a function of on_scheduler.py."""
        client = self._connected()
        try:
            return client.sync(client._run_on_scheduler, on_scheduler(name), keys, callback_timeout=ANSWER_SECONDS)
        except (OSError, TimeoutError) as error:
            raise self._unavailable(error) from error

    @staticmethod
    def _mapped(client: distributed.Client, group: TaskGroup) -> Sequence[distributed.Future[None]]:
        futures: Sequence[distributed.Future[None]] = client.map(
            on_worker(),
            list(group.orders.values()),
            key=list(group.orders),
            workers=list(group.workers) or None,
            resources=dict(group.resources) or None,
            priority=group.priority,
            retries=0,
            pure=False,
        )
        return futures

    def _connected(self) -> distributed.Client:
        if self._client is not None and self._client.status == "running":
            return self._client
        self.close()
        where = self._own.address() if self._own is not None else Address(self._address)
        self._client = self._connect(where)
        return self._client

    def _connect(self, where: Address) -> distributed.Client:
        from distributed import Client, Security

        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        tls = where.tls
        security = (
            Security(
                tls_ca_file=tls.certificate,
                tls_client_cert=tls.certificate,
                tls_client_key=tls.key,
                require_encryption=True,
            )
            if tls is not None
            else None
        )
        try:
            return Client(
                where.address,
                timeout=CONNECT_SECONDS,
                set_as_default=False,
                security=security,
                name=NAME,
            )
        except (OSError, TimeoutError, ValueError) as error:
            text = f"the Dask scheduler at {where.address} does not answer: {error}"
            raise BackendUnavailable(text, backend="dask") from error

    def _unavailable(self, error: Exception) -> BackendUnavailable:
        self.close()
        words = str(error) or type(error).__name__
        return BackendUnavailable(f"the Dask scheduler does not answer: {words}", backend="dask")


def _error(text: object) -> DaskError:
    if text is None:
        return DaskError("Dask gave up: the workers that held the task died (KilledWorker)", killed_workers=True)
    return DaskError(f"Dask could not run the task: {text!s:.500}" if text else "Dask gives no reason")


def _unexpected(answer: object) -> BackendConfused:
    text = f"the Dask scheduler gave an unexpected answer: {answer!r:.200}"
    return BackendConfused(text, backend="dask", output_tail=repr(answer)[-2000:])
