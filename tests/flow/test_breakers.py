"""A step that fails for everybody is stopped early, and goes on when it works again."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.fixtures_service import PROGRAM, Service, ServiceMaker
from tests.support.waiting import PATIENCE, wait_for, wait_until

ITEMS = 100
BROKEN = 'test -e "$1" || { sleep 0.2; exit 3; }'


def fan_out(service: Service, repaired: Path, **step: Any) -> str:
    command = ["sh", "-c", BROKEN, "sh", str(repaired)]
    fan = {"name": "calibrate", "foreach": list(range(ITEMS)), "command": command, "resources": {"cpu": 1}, **step}
    return service.submit(fan)


def counts(service: Service, run_id: str) -> Counter[str]:
    return Counter(each["status"] for each in service.run(run_id)["step_runs"])


def held_back(service: Service, run_id: str) -> Counter[str]:
    """The run once nothing of it is at the backend any more."""

    def at_rest() -> Counter[str] | None:
        found = counts(service, run_id)
        return found if set(found) <= {"FAILED", "PENDING"} and found["FAILED"] else None

    return wait_for(at_rest, 90, lambda: f"the breaker to open; the log: {service.log()}")


def breakers(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.call("GET", "/breakers")["items"]
    return found


def command(service: Service, *arguments: str) -> str:
    environment = {**os.environ, "CCAT_WM_URL": f"http://127.0.0.1:{service.port}"}
    done = subprocess.run([PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_rest_of_a_broken_step_waits_until_an_operator_releases_it(
    make_service: ServiceMaker, tmp_path: Path
) -> None:
    service = make_service(BREAKER_FAILURES="5", WORKERS="2")
    run_id = fan_out(service, tmp_path / "repaired")
    found = held_back(service, run_id)
    assert 5 <= found["FAILED"] < ITEMS
    (breaker,) = breakers(service)
    assert breaker["held_back"] == found["PENDING"]
    waits = {each["waiting_for"] for each in service.run(run_id)["step_runs"] if each["status"] == "PENDING"}
    (why,) = waits
    assert why.startswith("held back: ")
    assert "flow/calibrate (without an image) failed the same way (program_failed, exit code 3)" in why
    assert why.endswith(f"release with `ccat-wm breakers release {breaker['id']}`")
    # Others are not concerned, and while they come and go nothing of it is launched.
    for _ in range(3):
        other = service.submit({"name": "other", "command": ["true"]})
        assert service.wait(other)["status"] == "COMPLETED"
    assert counts(service, run_id) == found
    # The same step in another run waits at once; corrected, it goes through.
    again = fan_out(service, tmp_path / "repaired")
    assert set(counts(service, again)) == {"PENDING"}
    corrected = fan_out(service, tmp_path / "repaired", command=["true"])
    assert service.wait(corrected)["status"] == "COMPLETED"
    assert set(counts(service, again)) == {"PENDING"}
    service.call("POST", f"/runs/{again}/cancel")
    assert service.wait(again)["status"] == "CANCELLED"

    (tmp_path / "repaired").touch()
    assert breaker["id"] in command(service, "breakers")
    assert "released" in command(service, "breakers", "release", breaker["id"])
    service.wait(run_id)
    assert counts(service, run_id) == {"FAILED": found["FAILED"], "COMPLETED": found["PENDING"]}
    assert breakers(service) == []
    assert "opened" in command(service, "breakers", "events", breaker["id"])


@pytest.mark.slow
def test_one_that_is_tried_again_and_succeeds_lets_all_go(make_service: ServiceMaker, tmp_path: Path) -> None:
    service = make_service(BREAKER_FAILURES="5", BREAKER_PROBE_MINUTES="0.02")
    run_id = fan_out(service, tmp_path / "repaired")
    wait_until(lambda: breakers(service), 90, lambda: f"the breaker to open; the log: {service.log()}")
    (breaker,) = breakers(service)

    def events() -> list[str]:
        return [each["event"] for each in service.call("GET", f"/breakers/{breaker['id']}/events")["items"]]

    wait_until(lambda: events().count("probed") >= 2, 90, "two that are tried in vain, one after the other")
    (tmp_path / "repaired").touch()
    service.wait(run_id, 120)
    found = counts(service, run_id)
    assert set(found) == {"FAILED", "COMPLETED"}
    assert found["COMPLETED"] > 0
    assert events()[-1] == "closed"
    assert breakers(service) == []
