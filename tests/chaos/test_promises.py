"""One key, fifty clients, and a service that dies between its commit and its answer: one run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from uuid import uuid4

import pytest

from tests.chaos.judging import require_all_is_well
from tests.chaos.test_servers import create
from tests.support.fixtures_service import new_service
from tests.support.reaper import Reaper
from tests.support.waiting import PATIENCE, wait_until

_CLIENTS = 50
_PATIENCE_SECONDS = 0.1
_TRIES = 3000


@pytest.mark.parametrize("moment", [pytest.param("before", marks=pytest.mark.slow), "after"])
def test_fifty_clients_with_one_key_and_a_service_that_dies_at_the_commit(
    reaper: Reaper, tmp_path: Path, moment: str
) -> None:
    (tmp_path / "plan").write_text(f"manager commit.create {moment} crash nth=3")
    service = new_service(reaper, HPC_BACKEND="noop")
    service.inject(f"@{tmp_path}")
    barrier, key, pause = Barrier(_CLIENTS), uuid4().hex, Event()

    def ask(number: int) -> str:
        """As a client does that has got no answer: the same once more."""
        barrier.wait(PATIENCE)
        for _ in range(_TRIES):
            if (run_id := create(service, key)) is not None:
                return run_id
            pause.wait(_PATIENCE_SECONDS)
        raise AssertionError("no answer")

    try:
        service.start()
        others = [create(service, f"other-{number}") for number in range(2)]
        with ThreadPoolExecutor(_CLIENTS) as clients:
            answers = list(clients.map(ask, range(_CLIENTS)))
        assert (tmp_path / "fired").read_text().startswith(f"manager commit.create {moment} crash")
        assert len(set(answers)) == 1
        assert len(service.call("GET", "/runs?limit=100")["items"]) == 3
        wait_until(service.is_ready, 30, "the service")
        promised = [run_id for run_id in (*others, answers[0]) if run_id is not None]
        for run_id in promised:
            assert service.wait(run_id)["status"] == "COMPLETED"
        require_all_is_well(service, promised)
    finally:
        service.close()
