"""Valkey is killed, forgets everything, is full, and hangs: no run is lost, and soon all goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from uuid import uuid4

import pytest
import redis

from ccat_workflow_manager.embedded import EmbeddedValkey
from tests.chaos.judging import require_all_is_well
from tests.chaos.test_servers import create
from tests.support.fixtures_service import Service, ServiceMaker
from tests.support.waiting import wait_until

_BACK_SECONDS = 40
_HANGS_SECONDS = 35
"""Longer than the life of a worker in Redis without a heartbeat."""


class Trouble:
    """One deployment and what happens to its Valkey."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.valkey = service.valkey
        self.run_ids: list[str] = []

    def promise(self) -> None:
        """A request is answered, whatever Redis is doing: it does not wait until Redis is back."""
        run_id = create(self.service, uuid4().hex)
        assert run_id is not None
        self.run_ids.append(run_id)

    @contextmanager
    def during(self) -> Iterator[redis.Redis]:
        """Promises are made before, during and after; all are kept soon after the end."""
        self.promise()
        with redis.Redis.from_url(self.valkey.url) as client:
            yield client
        self.promise()
        for run_id in self.run_ids:
            assert self.service.wait(run_id, _BACK_SECONDS)["status"] == "COMPLETED"


def pid_of(valkey: EmbeddedValkey) -> int:
    assert valkey.pid is not None
    return valkey.pid


def test_valkey_forgets_is_full_is_killed_and_hangs(make_service: ServiceMaker) -> None:
    service = make_service(HPC_BACKEND="noop")
    there = Trouble(service)
    with there.during() as client:
        client.flushall()
        there.promise()
        client.flushall()
    with there.during() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("anything", "at all")
        there.promise()
        client.config_set("maxmemory", 0)
    with there.during():
        before = pid_of(there.valkey)
        os.kill(before, signal.SIGKILL)
        there.promise()
        wait_until(lambda: there.valkey.pid not in (None, before), 20, "another Valkey")
    with there.during():
        pid = pid_of(there.valkey)
        os.kill(pid, signal.SIGSTOP)
        over = Timer(_HANGS_SECONDS, os.kill, (pid, signal.SIGCONT))
        over.start()
        try:
            there.promise()
            over.join()
        finally:
            os.kill(pid, signal.SIGCONT)
            over.cancel()
    require_all_is_well(service, there.run_ids)
