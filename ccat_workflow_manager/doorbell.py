"""The doorbell: messages to workers through Redis and RQ. `listener` takes them.

A message says that there are rows to look at. It may be lost, doubled or late: PostgreSQL holds the work, the loops of
the manager ring again for rows that still wait, and every task is safe to run twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import cached_property, partial
from threading import BoundedSemaphore
from typing import Any, cast
from uuid import uuid4

from redis import Redis
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout
from redis.retry import Retry
from rq import Queue
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import ServiceUnavailable

log = logging.getLogger(__name__)

BATCH = 200
"""Rows that one message stands for: enough to share the cost of a transaction, few enough to share among workers."""

MOST_ROWS = 10 * BATCH
"""Rows that are counted when it is looked up how many messages are needed."""

NOTICES = 500
"""Ended jobs that one task takes."""

_MESSAGE_LIFE_SECONDS = 3600
_ANSWER_LIFE_SECONDS = 60
_REMEMBERED_SECONDS = 90 * 86_400
_RING_SECONDS = 2.0
_MOST_ASK_SECONDS = 30.0
_ASK_AT_ONCE = 8
_QUIET_SECONDS = 5.0


class Bell(StrEnum):
    """Kinds of work for a worker, the most urgent first."""

    ASK = "ask"
    CANCEL = "cancel"
    COLLECT = "collect"
    NOTICE = "notice"
    FOLLOW = "follow"
    REAP = "reap"
    QUEUES = "queues"
    REMOVE = "remove"
    LAUNCH = "launch"


def connect(url: str, *, answer_seconds: float | None = None) -> Redis:
    """A client that fails at once when the server is down."""
    return Redis.from_url(
        url,
        socket_connect_timeout=5,
        socket_timeout=answer_seconds,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 1),
    )


class Doorbell:
    """Sends messages to workers, and keeps hints in Redis that may be lost."""

    def __init__(self, url: str) -> None:
        self.redis = connect(url, answer_seconds=_RING_SECONDS)
        self._patient = connect(url, answer_seconds=_MOST_ASK_SECONDS + _RING_SECONDS)
        self._asking = BoundedSemaphore(_ASK_AT_ONCE)
        self._queues: dict[tuple[Bell, str], Queue] = {}
        self._full: set[str] = set()
        """Queues that had enough messages when this process last rang. To look at one costs less than to fill it up."""
        self._down = False
        self._quiet_until = 0.0

    @cached_property
    def _fill_up(self) -> Script:
        return self.redis.register_script(_FILL_UP)

    def ring(self, bell: Bell, backend: str, rows: int = 1) -> None:
        """Call workers of this backend, for so many rows. Does not fail without Redis: the manager rings again.

        A worker that answers claims a full batch of ready rows, so a message names none. Messages that still wait in
        the queue therefore count: many small requests in a short time become few messages.
        """
        if time.monotonic() < self._quiet_until:
            return
        wanted = -(-rows // BATCH)
        with self.best_effort():
            queue = self._queue(bell, backend)
            if queue.name not in self._full or queue.count < wanted:
                record = [each for field in _message(queue, bell, backend).to_dict().items() for each in field]
                keys = [queue.key, Queue.redis_queues_keys, *(Job.key_for(str(uuid4())) for _ in range(wanted))]
                sent = failpoints.around("bell.ring", lambda: self._fill_up(keys, [_MESSAGE_LIFE_SECONDS, *record]))
                (self._full.discard if sent else self._full.add)(queue.name)
            self._down = False

    def ring_all(self, bell: Bell, ready: Mapping[str, int]) -> None:
        """Ring for each backend that has rows."""
        for backend, rows in ready.items():
            if rows:
                self.ring(bell, backend, rows)

    def notice(self, backend: str, job_ids: Sequence[str]) -> None:
        """Record in a set that these jobs have ended, and ring if one of them is new there.

        Notices gather in the set until a task takes them. Several workers may report the same end.
        """
        with self.best_effort():
            if failpoints.around("bell.notice", lambda: self.redis.sadd(_notices(backend), *job_ids)):
                self.ring(Bell.NOTICE, backend)

    def take_notices(self, backend: str) -> list[str]:
        """Remove up to NOTICES jobs from the set and return them. Rings again if more may be left."""
        taken: list[bytes] = []
        with self.best_effort():
            spop = partial(self.redis.spop, _notices(backend), NOTICES)
            taken = cast("list[bytes]", failpoints.around("bell.take-notices", spop))
            if len(taken) == NOTICES:
                self.ring(Bell.NOTICE, backend)
        return [each.decode("utf-8", "replace") for each in taken]

    def queues_are_due(self, backend: str, seconds: float) -> bool:
        """True at most once per `seconds`. The caller that gets True has the queues of the backend looked at."""
        was_set: object = None
        with self.best_effort():
            was_set = self.redis.set(f"ccat:queues-due:{backend}", b"", ex=max(1, int(seconds)), nx=True)
        return bool(was_set)

    def remember(self, name: str, text: str) -> None:
        """Keep a text for all processes. It is a hint and may be lost."""
        with self.best_effort():
            self.redis.set(f"ccat:{name}", text, ex=_REMEMBERED_SECONDS)

    def remembered(self, name: str) -> str | None:
        text: bytes | None = None
        if time.monotonic() >= self._quiet_until:
            with self.best_effort():
                text = cast("bytes | None", self.redis.get(f"ccat:{name}"))
        return None if text is None else text.decode()

    def depths(self) -> dict[str, int]:
        """How many messages no worker has taken yet, by `BELL:BACKEND`. Raises ServiceUnavailable."""
        with required():
            queues = Queue.all(connection=self.redis, serializer=JSONSerializer)
            pipeline = self.redis.pipeline(transaction=False)
            for each in queues:
                pipeline.llen(each.key)
            return {each.name: int(count) for each, count in zip(queues, pipeline.execute(), strict=True)}

    def waiting(self, bell: Bell, backend: str) -> int:
        """Number of messages that no worker has taken yet. Raises ServiceUnavailable."""
        with required():
            count = self._queue(bell, backend).count
        self._quiet_until = 0.0
        return count

    def ask(self, backend: str, question: Mapping[str, Any], timeout: float) -> Any:
        """Send a question to a worker of this backend and return its answer. Raises ServiceUnavailable.

        Few threads wait for answers at a time, so that the others still serve what needs no worker.
        """
        if time.monotonic() < self._quiet_until:
            raise ServiceUnavailable("Redis did not answer just now; try again in some seconds")
        if not self._asking.acquire(blocking=False):
            raise ServiceUnavailable(f"{_ASK_AT_ONCE} questions wait for workers at this moment; try again later")
        try:
            return self._ask(backend, question, min(timeout, _MOST_ASK_SECONDS))
        except RedisError as error:
            self._note_timeout(error)
            raise ServiceUnavailable(f"Redis cannot be used: {error}") from error
        finally:
            self._asking.release()

    def _ask(self, backend: str, question: Mapping[str, Any], timeout: float) -> Any:
        enqueue = partial(
            Queue(queue_name(Bell.ASK, backend), connection=self._patient, serializer=JSONSerializer).enqueue,
            task_name(Bell.ASK),
            dict(question),
            job_timeout=timeout,
            result_ttl=_ANSWER_LIFE_SECONDS,
            ttl=int(timeout) + 1,
        )
        job = failpoints.around("bell.ask", enqueue)
        result = job.latest_result(timeout=max(1, int(timeout)))
        if result is not None:
            Result.delete_all(job)  # a long log comes in many answers of megabytes
        if result is None:
            raise ServiceUnavailable(f"no worker of the backend {backend} answered within {timeout:g} s")
        if result.type.name != "SUCCESSFUL":
            raise ServiceUnavailable(f"a worker of the backend {backend} could not answer; its log says why")
        return result.return_value

    def ping(self) -> None:
        """Raises ServiceUnavailable if Redis does not answer, or lets this user run no script."""
        with required():
            self.redis.eval("return 1", 0)

    def _queue(self, bell: Bell, backend: str) -> Queue:
        queue = self._queues.get((bell, backend))
        if queue is None:
            queue = Queue(queue_name(bell, backend), connection=self.redis, serializer=JSONSerializer)
            self._queues[bell, backend] = queue
        return queue

    @contextmanager
    def best_effort(self) -> Iterator[None]:
        """Log the first of a series of errors of Redis and go on."""
        try:
            yield
        except RedisError as error:
            if not self._down:
                log.warning("Redis cannot be used: %s; the loops of the manager will send the message again", error)
            self._down = True
            self._note_timeout(error)

    def _note_timeout(self, error: RedisError) -> None:
        """A hanging server costs the time of one call, and not that of every request."""
        if isinstance(error, RedisTimeout):
            self._quiet_until = time.monotonic() + _QUIET_SECONDS


@contextmanager
def required() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise ServiceUnavailable(f"Redis cannot be used: {error}") from error


def _message(queue: Queue, bell: Bell, backend: str) -> Job:
    return queue.create_job(
        task_name(bell),
        args=(backend, []),  # a worker of the version before takes a list of ids, and does not look at it
        timeout=-1,
        result_ttl=0,
        ttl=_MESSAGE_LIFE_SECONDS,
        failure_ttl=60,
        description=f"{bell} {backend}",
    )


_FILL_UP = f"""
local sent = 0
redis.call('SADD', KEYS[2], KEYS[1])
for i = 3 + redis.call('LLEN', KEYS[1]), #KEYS do
  redis.call('HSET', KEYS[i], unpack(ARGV, 2))
  redis.call('EXPIRE', KEYS[i], ARGV[1])
  redis.call('RPUSH', KEYS[1], string.sub(KEYS[i], {len(Job.redis_job_namespace_prefix) + 1}))
  sent = sent + 1
end
return sent
"""
"""Enqueues jobs as RQ does, but only those that are more than the queue has: one round trip, not two.

The keys are those of the queue, of the set of queues, and of the jobs. The values are how long jobs last, and their
common record. Returns how many jobs it has enqueued.
"""


def _notices(backend: str) -> str:
    return f"ccat:notices:{backend}"


def queue_name(bell: Bell, backend: str) -> str:
    return f"{bell}:{backend}"


def task_name(bell: Bell) -> str:
    return f"ccat_workflow_manager.tasks.{bell}"
