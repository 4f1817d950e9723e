"""The doorbell on fakeredis: how messages gather, and what happens without Redis."""

from __future__ import annotations

from threading import BoundedSemaphore
from typing import Any
from uuid import uuid4

import fakeredis
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout
from rq import Queue
from rq.job import Job
from rq.results import Result

from ccat_workflow_manager.doorbell import BATCH, NOTICES, Bell, Doorbell
from ccat_workflow_manager.errors import ServiceUnavailable


@pytest.fixture
def server() -> fakeredis.FakeServer:
    return fakeredis.FakeServer()


@pytest.fixture
def doorbell(server: fakeredis.FakeServer) -> Doorbell:
    doorbell = Doorbell("redis://nowhere")
    doorbell.redis = fakeredis.FakeRedis(server=server)
    return doorbell


def test_ids_go_in_batches(doorbell: Doorbell) -> None:
    ids = [uuid4() for _ in range(2 * BATCH + 1)]
    doorbell.ring(Bell.LAUNCH, "local", ids)
    jobs = doorbell._queue(Bell.LAUNCH, "local").jobs
    assert [len(job.args[1]) for job in jobs] == [BATCH, BATCH, 1]
    assert [text for job in jobs for text in job.args[1]] == [str(each) for each in ids]
    assert {job.func_name for job in jobs} == {"ccat_workflow_manager.tasks.launch"}
    assert {job.timeout for job in jobs} == {-1}


def test_a_waiting_message_stands_for_the_next_one(doorbell: Doorbell) -> None:
    for _ in range(10):
        doorbell.ring(Bell.LAUNCH, "local", [uuid4()])
    assert doorbell.waiting(Bell.LAUNCH, "local") == 1
    doorbell.ring(Bell.LAUNCH, "slurm", [uuid4()])
    assert doorbell.waiting(Bell.LAUNCH, "slurm") == 1


def test_an_answer_is_deleted_after_it_was_read(
    doorbell: Doorbell, server: fakeredis.FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    doorbell._patient = fakeredis.FakeRedis(server=server)
    enqueue = Queue.enqueue

    def answered(self: Queue, *args: Any, **more: Any) -> Job:
        job = enqueue(self, *args, **more)
        Result.create(job, Result.Type.SUCCESSFUL, ttl=60, return_value={"text": job.args[0]["echo"]})
        return job

    monkeypatch.setattr(Queue, "enqueue", answered)
    assert doorbell.ask("local", {"echo": "x" * 1000}, 5) == {"text": "x" * 1000}
    assert list(doorbell.redis.scan_iter("rq:results:*")) == []


def test_notices_gather_and_are_taken_once(doorbell: Doorbell) -> None:
    doorbell.notice("local", ["a", "b"])
    doorbell.notice("local", ["b", "c"])
    assert doorbell.waiting(Bell.NOTICE, "local") == 1
    assert sorted(doorbell.take_notices("local")) == ["a", "b", "c"]
    assert doorbell.take_notices("local") == []


def test_taking_a_full_batch_of_notices_rings_again(doorbell: Doorbell) -> None:
    doorbell.notice("local", [str(number) for number in range(NOTICES + 5)])
    doorbell.redis.delete(doorbell._queue(Bell.NOTICE, "local").key)
    assert len(doorbell.take_notices("local")) == NOTICES
    assert doorbell.waiting(Bell.NOTICE, "local") == 1
    assert len(doorbell.take_notices("local")) == 5


def test_without_redis_ringing_is_no_error(doorbell: Doorbell, server: fakeredis.FakeServer) -> None:
    server.connected = False
    doorbell.ring(Bell.LAUNCH, "local", [uuid4()])
    doorbell.notice("local", ["a"])
    assert doorbell.take_notices("local") == []
    with pytest.raises(ServiceUnavailable, match="Redis"):
        doorbell.waiting(Bell.LAUNCH, "local")
    with pytest.raises(ServiceUnavailable):
        doorbell.ping()
    with pytest.raises(RedisConnectionError):
        doorbell.redis.ping()
    server.connected = True
    doorbell.ring(Bell.LAUNCH, "local", [uuid4()])
    assert doorbell.waiting(Bell.LAUNCH, "local") == 1


def test_few_questions_wait_at_a_time(doorbell: Doorbell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waits for a worker serves nothing else."""

    def ask_again(*_: object, **__: object) -> None:
        with pytest.raises(ServiceUnavailable, match="questions wait"):
            doorbell.ask("local", {}, 5)
        raise RedisTimeout

    monkeypatch.setattr("ccat_workflow_manager.doorbell._ASK_AT_ONCE", 1)
    doorbell._asking = BoundedSemaphore(1)
    monkeypatch.setattr(Queue, "enqueue", ask_again)
    with pytest.raises(ServiceUnavailable, match="Redis cannot be used"):
        doorbell.ask("local", {}, 5)
    with pytest.raises(ServiceUnavailable, match="did not answer just now"):
        doorbell.ask("local", {}, 5)
