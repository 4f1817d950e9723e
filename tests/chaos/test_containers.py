"""Everything but the containers is killed with -9 and started again: they are found, finish, and are collected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.chaos.judging import require_all_is_well
from tests.support.fixtures_service import ServiceMaker
from tests.support.waiting import wait_until

pytestmark = pytest.mark.needs("apptainer")

_KEYS = ("a", "b")


def marked(word: str) -> Iterator[int]:
    """The processes with this word on their command lines."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if word in process.cmdline():
                yield process.pid


def test_up_is_killed_and_started_again(make_service: ServiceMaker, tools_image: Path) -> None:
    service = make_service(CONTAINER_RUNTIME="apptainer")
    word = f"only-{service.directory.name}"
    text = (
        'echo started >> "$WORKFLOW_WORKSPACE_DIR/starts"; while ! test -e "$WORKFLOW_WORKSPACE_DIR/gate"; do'
        ' sleep 0.1; done; echo data > "$WORKFLOW_OUTPUT_DIR/x"'
    )
    run_id = service.submit(
        {"name": "only", "image": str(tools_image), "foreach": list(_KEYS), "command": ["/bin/sh", "-c", text, word]}
    )
    places = [service.attempt_dir(run_id, "only", key) / "workspace" for key in _KEYS]
    wait_until(lambda: all((place / "starts").exists() for place in places), 60, "both containers to run")
    inside = set(marked(word))
    service.kill()
    for supervisor in psutil.process_iter():
        with suppress(psutil.Error):
            line = " ".join(supervisor.cmdline())
            if "supervisor/start.py" in line and str(service.directory) in line:
                supervisor.kill()
    service.start()
    assert inside <= set(marked(word)), "the containers are the same"
    assert {step["status"] for step in service.run(run_id)["step_runs"]} == {"RUNNING"}
    for place in places:
        (place / "gate").touch()
    run = service.wait(run_id)
    assert run["status"] == "COMPLETED"
    assert [step["attempt"] for step in run["step_runs"]] == [1, 1]
    require_all_is_well(service, [run_id], marks=True)
