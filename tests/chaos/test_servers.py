"""PostgreSQL and Valkey die, forget, hang and are full while people work: what was promised is kept."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx

from tests.chaos.judging import require_all_is_well
from tests.support.fixtures_service import Service, ServiceMaker, sh
from tests.support.waiting import PATIENCE, wait_for, wait_until

ONLY = {"name": "only", "command": ["a"], "backend": "noop"}
_NOOP_SPEC = {"name": "flow", "steps": [ONLY]}


def create(service: Service, key: str) -> str | None:
    """One try to create a run: its id, if the answer was a promise."""
    try:
        answer = service.client.post(
            "/runs",
            json={"spec": _NOOP_SPEC, "backend": "noop"},
            headers={"Idempotency-Key": key},
            timeout=PATIENCE,
        )
    except httpx.TransportError:
        return None
    assert answer.status_code in (200, 202, 503), answer.text
    found: str | None = answer.json()["id"] if answer.status_code < 300 else None
    return found


_DEATHS, _BETWEEN = 5, 40
"""How often PostgreSQL dies, and how many runs are promised before each death. A busy machine promises few a second."""


def test_every_promise_survives_a_postgresql_that_dies_again_and_again(make_service: ServiceMaker) -> None:
    service = make_service(HPC_BACKEND="noop")
    promised: dict[str, str] = {}
    enough = Event()

    def client(number: int) -> None:
        """Asks for run after run; what was not promised is asked for again under the same key."""
        for count in range(10_000):
            key = f"{number}-{count}"
            while (run_id := create(service, key)) is None:
                if enough.wait(0.05):
                    return
            promised[key] = run_id
            if enough.is_set():
                return

    with ThreadPoolExecutor(4) as clients:
        done = [clients.submit(client, number) for number in range(4)]
        try:
            for _ in range(_DEATHS):
                target = len(promised) + _BETWEEN
                wait_until(lambda target=target: len(promised) >= target, 60, f"{target} runs")  # type: ignore[misc]
                os.kill(wait_for(lambda: service.postgres.pid, 20, "PostgreSQL"), signal.SIGQUIT)
        finally:
            enough.set()
        for each in done:
            each.result(PATIENCE)
    wait_until(service.is_ready, 30, "the service to be ready again")
    assert len(set(promised.values())) == len(promised) >= _DEATHS * _BETWEEN
    require_all_is_well(service, promised.values(), seconds=40)


def leases_are_over(service: Service) -> bool:
    return service.query("SELECT count(*) FROM step_runs WHERE lease_until > now()") == [(0,)]


def test_workers_that_were_stopped_past_their_leases_change_nothing_any_more(make_service: ServiceMaker) -> None:
    service = make_service(LEASE_SECONDS="3", SWEEP_SECONDS="0.3", MAX_WORKER_DEATHS="100", LOCAL_MAX_CPU="8")
    names = [str(number) for number in range(12)]
    start = 'echo started >> "$WORKFLOW_WORKSPACE_DIR/starts"; echo x > "$WORKFLOW_OUTPUT_DIR/x"'
    run_ids = []
    for _ in range(3):
        run_ids.append(service.submit({"name": "many", "foreach": names, "command": ["/bin/sh", "-c", start]}))
        workers = service.worker_pids()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: leases_are_over(service), 10, "the leases of the stopped workers to be over")
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    for run_id in run_ids:
        assert service.wait(run_id)["status"] == "COMPLETED"
    require_all_is_well(service, run_ids, marks=True)


def test_a_cancel_while_all_workers_are_stopped_is_carried_out_when_they_go_on(make_service: ServiceMaker) -> None:
    service = make_service()
    run_id = service.submit(sh("sleep 1000"))
    service.wait_running(run_id)
    workers = wait_for(lambda: service.worker_pids() or None)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    service.call("POST", f"/runs/{run_id}/cancel")
    assert service.step(run_id, "only")["status"] == "RUNNING"
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    assert service.wait(run_id)["status"] == "CANCELLED"
    require_all_is_well(service, [run_id])


def test_a_supervisor_that_is_killed_alone_is_started_again_and_finds_everything(make_service: ServiceMaker) -> None:
    service = make_service()
    gate = service.directory / "gate"
    text = (
        f"echo started >> \"$WORKFLOW_WORKSPACE_DIR/starts\"; while ! test -e '{gate}'; do sleep 0.05; done;"
        ' echo x > "$WORKFLOW_OUTPUT_DIR/x"'
    )
    run_id = service.submit({"name": "many", "foreach": ["a", "b"], "command": ["/bin/sh", "-c", text]})
    wait_until(lambda: all(s["status"] == "RUNNING" for s in service.run(run_id)["step_runs"]), 30, "both to run")
    assert service.process is not None
    children = service.children()
    service.process.kill()
    service.process.wait(PATIENCE)
    wait_until(lambda: not any(child.is_running() for child in children), 30, "manager and workers to end")
    service.start()
    gate.touch()
    assert service.wait(run_id)["status"] == "COMPLETED"
    require_all_is_well(service, [run_id], marks=True)
