"""Streams of events through managers that end: in order, or killed."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from ccat_workflow_manager.client import Client as ApiClient
from tests.support.fixtures_service import Process, Service, ServiceMaker, sh
from tests.support.waiting import PATIENCE, wait_until

_STREAM = {"Accept": "text/event-stream"}
_PAUSE = threading.Event()
"""Never set: to wait for it is a pause."""


class OtherManager:
    """A further manager of a deployment, at a port of its own."""

    def __init__(self, service: Service) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._service = service
        self.process = self._start()

    def _start(self) -> Process:
        process = self._service.start_another("manager", CCAT_WORKFLOW_MANAGER_API_PORT=str(self.port))
        wait_until(self.is_ready, 60, "the other manager")
        return process

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=PATIENCE).status_code == 200
        except httpx.TransportError:
            return False

    def kill_and_start_again(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        self.process = self._start()


def lines(port: int, last: str | None) -> Iterator[str]:
    """The lines of a stream until it ends or breaks."""
    headers = {**_STREAM, **({"Last-Event-ID": last} if last else {})}
    url = f"http://127.0.0.1:{port}/api/v1/events"
    try:
        with httpx.stream("GET", url, headers=headers, timeout=PATIENCE) as response:
            assert response.status_code == 200, response.read()
            yield from response.iter_lines()
    except httpx.TransportError:
        return


def ids_of_all(service: Service) -> list[str]:
    found: list[str] = []
    after = ""
    while True:
        page = service.call("GET", f"/events?limit=1000{after}")
        found += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            return found
        after = f"&after={page['next_cursor']}"


def test_a_manager_that_stops_ends_its_streams(make_service: ServiceMaker) -> None:
    service = make_service()
    other = OtherManager(service)
    stream = lines(other.port, None)
    assert next(stream) == ": events"
    run_id = service.submit(sh("true"), backend="noop")
    assert next(stream).startswith("id: ")
    other.process.send_signal(signal.SIGTERM)
    assert other.process.wait(PATIENCE) == 0
    rest = list(stream)
    service.wait(run_id)
    everything = ids_of_all(service)
    # What the stream sent before it ended is the beginning of all, and a stream elsewhere goes on behind it.
    seen = [everything[0], *(line[4:] for line in rest if line.startswith("id: "))]
    assert seen == everything[: len(seen)]
    going_on = lines(service.port, seen[-1])
    missing = everything[len(seen) :]
    assert [line[4:] for line in _take(going_on, "id: ", len(missing))] == missing


def test_a_client_waits_for_many_runs_by_one_stream(service: Service, tmp_path: Path) -> None:
    calls: list[str] = []
    gate = tmp_path / "gate"

    class Counting(httpx.HTTPTransport):
        """Lets the runs end once the client has asked for the stream that tells of their ends."""

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            calls.append(request.url.path)
            if calls.count("/api/v1/events") == 2:
                gate.touch()
            return super().handle_request(request)

    step = sh(f"until test -e '{gate}'; do sleep 0.05; done")
    ids = [service.submit(step) for _ in range(4)]
    token = (service.data_dir / "api-secret").read_text().strip()
    with ApiClient(f"http://127.0.0.1:{service.port}", token, transport=Counting()) as client:
        assert [run.status for run in client.runs.wait_many(ids, timeout=PATIENCE)] == ["COMPLETED"] * 4
    assert calls.count("/api/v1/events") == 2
    assert len(calls) <= 2 + 2 * len(ids)


def _take(stream: Iterator[str], prefix: str, count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        line = next(stream)
        if line.startswith(prefix):
            found.append(line)
    return found


class Client(threading.Thread):
    """Connects again and again to one of the managers, and leaves at random moments."""

    def __init__(self, ports: list[int], total: int, first: str, seed: int) -> None:
        super().__init__()
        self._ports = ports
        self._total = total
        self._chance = random.Random(seed)
        self.seen = [first]

    def run(self) -> None:
        while len(self.seen) < self._total:
            enough = min(len(self.seen) + self._chance.randint(1, 200), self._total)
            for line in lines(self._chance.choice(self._ports), self.seen[-1]):
                # The id is valid once the empty line behind its event has come.
                if line.startswith("id: "):
                    coming = line[4:]
                elif line.startswith("data: "):
                    self.seen.append(coming)
                if len(self.seen) >= enough:
                    break
            else:
                _PAUSE.wait(0.05)


def write(url: str, seed: int, transactions: int) -> None:
    chance = random.Random(seed)
    with psycopg.connect(url) as connection:
        for _ in range(transactions):
            for _ in range(2):
                connection.execute(
                    "INSERT INTO events (run_id, event, to_status, attempt, actor)"
                    " VALUES (gen_random_uuid(), 'run_finished', 'COMPLETED', 0, 'writer')"
                )
                _PAUSE.wait(chance.random() * 0.05)
            connection.commit()


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_comes_twice_through_managers_that_die(make_service: ServiceMaker) -> None:
    writers, transactions = 50, 20
    service = make_service()
    other = OtherManager(service)
    service.wait(service.submit(sh("true"), backend="noop"))
    before = ids_of_all(service)
    total = len(before) + writers * transactions * 2
    url = service.postgres.url.replace("+psycopg", "")
    clients = [Client([service.port, other.port], total - len(before) + 1, before[-1], seed) for seed in range(20)]
    threads = [threading.Thread(target=write, args=(url, seed, transactions)) for seed in range(writers)]
    for thread in [*clients, *threads]:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        other.kill_and_start_again()
    for thread in [*threads, *clients]:
        thread.join(4 * PATIENCE)
    everything = ids_of_all(service)
    assert len(everything) == total
    for client in clients:
        assert client.seen == everything[len(before) - 1 :]
