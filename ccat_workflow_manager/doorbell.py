"""The doorbell: Redis and RQ, and nothing else here knows of them.

A message says "look at these rows", no more. It may be lost, doubled or late: PostgreSQL knows what there is to do, the
loops of the manager ring again for whatever nobody answered, and every task is safe to run twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from types import FrameType
from typing import Any, cast
from uuid import UUID, uuid4

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout
from redis.retry import Retry
from rq import Queue, SimpleWorker
from rq.exceptions import DeserializationError, StopRequested
from rq.job import Job
from rq.queue import EnqueueData
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import ServiceUnavailable

log = logging.getLogger(__name__)

BATCH = 200
"""Ids in one message: enough to share the cost of a transaction, few enough for several workers to share the work."""

NOTICES = 500
"""Ended jobs that are looked at together."""

_MESSAGE_LIFE_SECONDS = 3600
_ANSWER_LIFE_SECONDS = 60
_QUEUES_LIFE_SECONDS = 7 * 86_400
_LISTEN_SECONDS = 15
_RING_SECONDS = 2.0
_QUIET_SECONDS = 5.0
_TELL_SECONDS = 5.0


class Bell(StrEnum):
    """The kinds of work a worker is called for, the most pressing first."""

    ASK = "ask"
    CANCEL = "cancel"
    COLLECT = "collect"
    NOTICE = "notice"
    FOLLOW = "follow"
    REAP = "reap"
    QUEUES = "queues"
    LAUNCH = "launch"


def connect(url: str, *, answer_seconds: float | None = None) -> Redis:
    """A client that fails at once instead of waiting for a server that is away."""
    return Redis.from_url(
        url,
        socket_connect_timeout=5,
        socket_timeout=answer_seconds,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 1),
    )


class Doorbell:
    """Rings for work."""

    def __init__(self, url: str) -> None:
        self.redis = connect(url, answer_seconds=_RING_SECONDS)
        self._patient = connect(url)
        self._queues: dict[tuple[Bell, str], Queue] = {}
        self._down = False
        self._quiet_until = 0.0

    def ring(self, bell: Bell, backend: str, ids: Sequence[UUID | str] = ()) -> None:
        """Call workers of this backend. A Redis that is away is no error: the loops of the manager ring again.

        Whoever answers takes a whole batch of whatever is there, so messages that nobody has taken yet count: many
        small requests in a short time become few messages.
        """
        if time.monotonic() < self._quiet_until:
            return
        texts = [str(each) for each in ids]
        batches = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)] or [[]]
        try:
            queue = self._queue(bell, backend)
            missing = batches[: max(0, len(batches) - queue.count)]
            if missing:
                messages = [_message(bell, backend, batch) for batch in missing]
                failpoints.around("bell.ring", lambda: queue.enqueue_many(messages))
        except RedisError as error:
            self._is_down(error)
        else:
            self._down = False

    def notice(self, backend: str, job_ids: Sequence[str]) -> None:
        """Jobs have ended. Notices gather in a set while nobody has come for them: one look then serves them all.

        Every worker that listens tells of every end; only the first of them rings.
        """
        try:
            new = failpoints.around("bell.notice", lambda: self.redis.sadd(_notices(backend), *job_ids))
        except RedisError as error:
            self._is_down(error)
        else:
            if new:
                self.ring(Bell.NOTICE, backend)

    def take_notices(self, backend: str) -> list[str]:
        """The jobs that ended, as far as one batch goes; if there are more, somebody is called for them."""
        try:
            spop = partial(self.redis.spop, _notices(backend), NOTICES)
            taken = cast("list[bytes]", failpoints.around("bell.take-notices", spop))
            if len(taken) == NOTICES:
                self.ring(Bell.NOTICE, backend)
        except RedisError as error:
            self._is_down(error)
            return []
        return [each.decode() for each in taken]

    def queues_are_due(self, backend: str, seconds: float) -> bool:
        """Whether nobody has asked for the queues of this backend for so long; whoever is told so sees to it."""
        try:
            return bool(self.redis.set(f"ccat:queues-due:{backend}", b"", ex=max(1, int(seconds)), nx=True))
        except RedisError as error:
            self._is_down(error)
            return False

    def remember_queues(self, backend: str, text: str) -> None:
        """What was last seen of the queues of a backend. To lose it does no harm."""
        try:
            self.redis.set(_queues(backend), text, ex=_QUEUES_LIFE_SECONDS)
        except RedisError as error:
            self._is_down(error)

    def remembered_queues(self, backend: str) -> str | None:
        if time.monotonic() < self._quiet_until:
            return None
        try:
            text = cast("bytes | None", self.redis.get(_queues(backend)))
        except RedisError as error:
            self._is_down(error)
            return None
        return None if text is None else text.decode()

    def _is_down(self, error: RedisError) -> None:
        if not self._down:
            log.warning("the doorbell does not ring, Redis says: %s; the loops of the manager will repeat it", error)
        self._down = True
        if isinstance(error, RedisTimeout):
            # A server that hangs costs the time of one call; nobody is to pay it for every request.
            self._quiet_until = time.monotonic() + _QUIET_SECONDS

    def ring_all(self, bell: Bell, ready: Mapping[str, Sequence[UUID]]) -> None:
        for backend, ids in ready.items():
            self.ring(bell, backend, ids)

    def waiting(self, bell: Bell, backend: str) -> int:
        """How many messages nobody has taken yet."""
        try:
            count = self._queue(bell, backend).count
        except RedisError as error:
            raise ServiceUnavailable(f"Redis cannot be used: {error}") from error
        self._quiet_until = 0.0
        return count

    def ask(self, backend: str, question: Mapping[str, Any], timeout: float) -> Any:
        """Have a worker of this backend answer a question that only a worker can answer; None if it said nothing."""
        try:
            enqueue = partial(
                Queue(_queue_name(Bell.ASK, backend), connection=self._patient, serializer=JSONSerializer).enqueue,
                _task(Bell.ASK),
                dict(question),
                job_timeout=timeout,
                result_ttl=_ANSWER_LIFE_SECONDS,
                ttl=int(timeout) + 1,
            )
            job = failpoints.around("bell.ask", enqueue)
            result = job.latest_result(timeout=max(1, int(timeout)))
            if result is not None:
                Result.delete_all(job)  # a long log comes in many answers of megabytes
        except RedisError as error:
            raise ServiceUnavailable(f"Redis cannot be used: {error}") from error
        if result is None:
            raise ServiceUnavailable(f"no worker of the backend {backend} answered within {timeout:g} s")
        if result.type.name != "SUCCESSFUL":
            raise ServiceUnavailable(f"a worker of the backend {backend} could not answer; its log says why")
        return result.return_value

    def ping(self) -> None:
        try:
            self.redis.ping()
        except RedisError as error:
            raise ServiceUnavailable(f"Redis cannot be used: {error}") from error

    def _queue(self, bell: Bell, backend: str) -> Queue:
        queue = self._queues.get((bell, backend))
        if queue is None:
            queue = Queue(_queue_name(bell, backend), connection=self.redis, serializer=JSONSerializer)
            self._queues[bell, backend] = queue
        return queue


class _Listener(SimpleWorker):
    """RQ's worker without fork, without remote commands and without a life of its own between messages."""

    max_connection_wait_time = 2.0
    log_result_lifespan = False
    on_alive: Callable[[], None] = staticmethod(lambda: None)
    asked_to_stop = False
    _told = -_TELL_SECONDS

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Do what a message says, and throw it away.

        RQ's own way takes twenty round trips to Redis for the records of a job. They are worth it for a question, whose
        answer is such a record; whether a call was answered is seen in PostgreSQL.
        """
        if job.result_ttl != 0:
            super().execute_job(job, queue)
            return
        self._state = WorkerStatus.BUSY  # so that a signal lets the work in hand come to its end
        try:
            job.func(*job.args)
        except (ImportError, AttributeError, ValueError, DeserializationError) as error:
            log.warning("a message that cannot be understood is thrown away: %s", error)
        finally:
            self._state = WorkerStatus.IDLE
        self.connection.delete(job.key)

    def set_state(self, state: str, pipeline: Any = None) -> None:
        """Whether a worker is busy is its own business."""
        self._state = state

    def subscribe(self) -> None:
        """No remote commands: one thread and one connection less."""

    def unsubscribe(self) -> None:
        """See `subscribe`."""

    def check_for_suspension(self, burst: bool) -> None:
        """Workers are stopped by a signal, not through Redis."""

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT: what is in hand is finished, nothing new is taken."""
        self.asked_to_stop = True
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def procline(self, message: str) -> None:
        """Keep the name of the process."""

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Called by the main loop before and after it waits: the one honest sign of life."""
        now = time.monotonic()
        if pipeline is not None or now - self._told >= _TELL_SECONDS:
            self._told = now
            super().heartbeat(timeout, pipeline)
        if pipeline is None:
            self._tell()

    def _tell(self) -> None:
        """A signal waits until this is over: it would tear up a transaction, and the request would be lost with it."""
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
) -> None:
    """Answer the bell until the process is asked to stop (SIGTERM or SIGINT finish the work in hand first)."""
    names = list(backends)
    queues = [_queue_name(bell, backend) for bell in Bell for backend in names]
    while True:
        connection = connect(url)
        worker = _Listener(
            [Queue(queue, connection=connection, serializer=JSONSerializer) for queue in queues],
            name=f"{name}:{uuid4().hex[:8]}",
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=_LISTEN_SECONDS + 15,
            log_job_description=False,
        )
        worker.on_alive = on_alive
        try:
            worker.work(logging_level="WARNING")
        except RedisError as error:
            log.warning("Redis went away: %s", error)
        finally:
            connection.close()
        if worker.asked_to_stop:
            return
        on_alive()


def _message(bell: Bell, backend: str, batch: Sequence[str]) -> EnqueueData:
    return Queue.prepare_data(
        _task(bell),
        args=(backend, batch),
        timeout=-1,
        result_ttl=0,
        ttl=_MESSAGE_LIFE_SECONDS,
        failure_ttl=60,
        description=f"{bell} {backend} {len(batch)}",
    )


def _notices(backend: str) -> str:
    return f"ccat:notices:{backend}"


def _queues(backend: str) -> str:
    return f"ccat:queues:{backend}"


def _queue_name(bell: Bell, backend: str) -> str:
    return f"{bell}:{backend}"


def _task(bell: Bell) -> str:
    return f"ccat_workflow_manager.tasks.{bell}"
