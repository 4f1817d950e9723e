"""The doorbell: how messages gather, and what happens without Redis."""

from __future__ import annotations

from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import TimeoutError as RedisTimeout
from rq import Queue
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer

from ccat_workflow_manager.doorbell import BATCH, NOTICES, Bell, Doorbell
from ccat_workflow_manager.embedded.valkey import EmbeddedValkey
from ccat_workflow_manager.errors import ServiceUnavailable
from tests.support.reaper import Reaper


@pytest.fixture
def doorbell(redis_url: str) -> Doorbell:
    return Doorbell(redis_url)


def test_messages_are_jobs_of_rq_one_for_each_batch_of_rows(doorbell: Doorbell, redis_url: str) -> None:
    doorbell.ring(Bell.LAUNCH, "local", 2 * BATCH + 1)
    [queue] = Queue.all(connection=Redis.from_url(redis_url), serializer=JSONSerializer)
    assert queue.name == "launch:local"
    assert len(jobs := queue.jobs) == len({job.id for job in jobs}) == 3
    assert {(job.func_name, job.get_status()) for job in jobs} == {("ccat_workflow_manager.tasks.launch", "queued")}
    assert [list(job.args) for job in jobs] == [["local", []]] * 3
    assert {(job.timeout, job.result_ttl) for job in jobs} == {(-1, 0)}
    assert all(0 < int(str(doorbell.redis.ttl(job.key))) <= 3600 for job in jobs)


def test_a_waiting_message_stands_for_the_next_one(doorbell: Doorbell) -> None:
    for _ in range(10):
        doorbell.ring(Bell.LAUNCH, "local")
    assert doorbell.waiting(Bell.LAUNCH, "local") == 1
    doorbell.ring(Bell.LAUNCH, "local", 2 * BATCH)
    assert doorbell.waiting(Bell.LAUNCH, "local") == 2
    doorbell.ring(Bell.LAUNCH, "slurm")
    assert doorbell.waiting(Bell.LAUNCH, "slurm") == 1


def test_an_answer_is_deleted_after_it_was_read(doorbell: Doorbell, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_without_redis_ringing_is_no_error(tmp_path: Path, reaper: Reaper) -> None:
    server = EmbeddedValkey(tmp_path)
    doorbell = Doorbell(server.start())
    assert server.pid is not None
    reaper.watch(server.pid)
    doorbell.ring(Bell.LAUNCH, "local")
    server.stop()
    doorbell.ring(Bell.LAUNCH, "local")
    doorbell.notice("local", ["a"])
    assert doorbell.take_notices("local") == []
    with pytest.raises(ServiceUnavailable, match="Redis"):
        doorbell.waiting(Bell.LAUNCH, "local")
    with pytest.raises(ServiceUnavailable):
        doorbell.ping()
    server.start()
    assert server.pid is not None
    reaper.watch(server.pid)
    doorbell.ring(Bell.LAUNCH, "slurm")  # the new server has no script yet
    assert doorbell.waiting(Bell.LAUNCH, "slurm") == 1
    server.stop()


def test_a_user_who_may_run_no_script_is_named_as_the_cause(redis_url: str) -> None:
    with Redis.from_url(redis_url) as admin:
        admin.acl_setuser("plain", enabled=True, nopass=True, keys=["*"], categories=["+@all", "-@scripting"])
        try:
            doorbell = Doorbell(_as_user(redis_url, "plain"))
            with pytest.raises(ServiceUnavailable, match=r"permissions.*eval"):
                doorbell.ping()
        finally:
            admin.acl_deluser("plain")


def _as_user(url: str, name: str) -> str:
    """The URL with the name of a user without a password."""
    scheme, place = url.split("://")
    return f"{scheme}://{name}:-@{place}"


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
