"""Takes the messages of the doorbell in a worker, and runs their tasks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from threading import Event
from types import FrameType
from typing import Any
from uuid import uuid4

from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.exceptions import DeserializationError, StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

from ccat_workflow_manager.doorbell import Bell, connect, queue_name, task_name

log = logging.getLogger(__name__)

_LISTEN_SECONDS = 15
_DRAINED_SECONDS = 1.0
_HEARTBEAT_SECONDS = 5.0
_TASKS = frozenset(map(task_name, Bell))


class _Message(Job):
    """A job that runs a task of ours and nothing else.

    RQ imports the functions that a message names, so a writer to Redis could run any function in a worker.
    """

    @property
    def func(self) -> Callable[..., Any]:
        if self.func_name not in _TASKS or self.instance is not None:
            raise ValueError(f"{self.func_name!r} is not a task")
        task: Callable[..., Any] = super().func
        return task

    success_callback = failure_callback = stopped_callback = None


class _Listener(SimpleWorker):
    """RQ's worker without fork, remote commands and records of its jobs."""

    max_connection_wait_time = 2.0
    log_result_lifespan = False
    on_alive: Callable[[], None] = staticmethod(lambda: None)
    is_drained: Callable[[], bool] = staticmethod(lambda: False)
    asked_to_stop = False
    _last_heartbeat = -_HEARTBEAT_SECONDS
    _resumed = Event()  # never set: a wait for it can be interrupted by a signal

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run the task of a message and delete the message.

        RQ makes twenty round trips to Redis for the records of a job. Only a question needs them: its answer is such a
        record. The outcome of every other task is in PostgreSQL.
        """
        if job.result_ttl != 0:
            super().execute_job(job, queue)
            return
        self._state = WorkerStatus.BUSY  # so that a signal does not interrupt the task
        try:
            job.func(*job.args)
        except (ImportError, AttributeError, ValueError, DeserializationError) as error:
            log.warning("a message that cannot be read is dropped: %s", error)
        finally:
            self._state = WorkerStatus.IDLE
        self.connection.delete(job.key)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Take the next message, once the worker is not drained. A signal ends the wait for that."""
        self.set_state(WorkerStatus.IDLE)
        self.heartbeat()
        while self.is_drained():
            self._resumed.wait(_DRAINED_SECONDS)
            self.heartbeat()
        found: tuple[Job, Queue] | None = super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
        return found

    def set_state(self, state: str, pipeline: Any = None) -> None:
        """Keep the state in this process: Redis need not know it."""
        self._state = state

    def subscribe(self) -> None:
        """No remote commands, which saves a thread and a connection."""

    def unsubscribe(self) -> None:
        """See `subscribe`."""

    def check_for_suspension(self, burst: bool) -> None:
        """Only signals stop a worker."""

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """On SIGTERM or SIGINT, finish the task and take no other."""
        self.asked_to_stop = True
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def procline(self, message: str) -> None:
        """Do not change the title of the process."""

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """RQ's main loop calls this before and after it waits, so a worker that hangs gives no sign of life."""
        now = time.monotonic()
        if pipeline is not None or now - self._last_heartbeat >= _HEARTBEAT_SECONDS:
            self._last_heartbeat = now
            super().heartbeat(timeout, pipeline)
        if pipeline is None:
            self._report_alive()

    def _report_alive(self) -> None:
        """Call `on_alive`. A signal waits until it has returned, because it would interrupt a transaction."""
        before, self._state = self._state, WorkerStatus.BUSY
        try:
            self.on_alive()
        finally:
            self._state = before
        if self._stop_requested and before != WorkerStatus.BUSY:
            raise StopRequested


def listen(
    url: str,
    backends: Iterable[str],
    *,
    name: str,
    on_alive: Callable[[], None],
    is_drained: Callable[[], bool] = lambda: False,
) -> None:
    """Run the tasks of messages until SIGTERM or SIGINT. The current task is finished first.

    While `is_drained`, messages are left to other workers.
    """
    names = list(backends)
    queues = [queue_name(bell, backend) for bell in Bell for backend in names]
    while True:
        connection = connect(url)
        worker = _Listener(
            [Queue(queue, connection=connection, serializer=JSONSerializer, job_class=_Message) for queue in queues],
            name=f"{name}:{uuid4().hex[:8]}",
            connection=connection,
            serializer=JSONSerializer,
            job_class=_Message,
            worker_ttl=_LISTEN_SECONDS + 15,
            log_job_description=False,
        )
        worker.on_alive, worker.is_drained = on_alive, is_drained
        try:
            worker.work(logging_level="WARNING")
        except RedisError as error:
            log.warning("the connection to Redis was lost: %s", error)
        finally:
            connection.close()
        if worker.asked_to_stop:
            return
        on_alive()
