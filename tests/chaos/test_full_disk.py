"""A disk that is really full, one that is really read-only: a reason, another attempt, and on when there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fixtures_service import PROGRAM, Service, ServiceMaker
from tests.support.waiting import PATIENCE, wait_for, wait_until

pytestmark = pytest.mark.needs("root")

_MEGABYTES = 4
_PATIENT = {"max_attempts": 50, "backoff_seconds": 0.2}
_WORK = 'echo started >> "$WORKFLOW_WORKSPACE_DIR/starts"; echo data > "$WORKFLOW_OUTPUT_DIR/x"'


class SmallDisk:
    """A file system of a few megabytes that only one deployment sees: it goes away together with its processes."""

    def __init__(self, service: Service, mount_point: Path) -> None:
        self._service = service
        self._mount_point = mount_point
        self.ballast = mount_point / "ballast"

    def run(self, *argv: str) -> None:
        assert self._service.process is not None
        entered = ["nsenter", f"--mount=/proc/{self._service.process.pid}/ns/mnt", "--", *argv]
        subprocess.run(entered, check=True, capture_output=True, timeout=PATIENCE)

    def fill(self) -> None:
        # The last write fails: that is the point.
        self.run("sh", "-c", f"cat /dev/zero > '{self.ballast}' || true")

    def empty(self) -> None:
        self.run("rm", "-f", str(self.ballast))

    def has(self, path: str) -> bool:
        assert self._service.process is not None
        return Path(f"/proc/{self._service.process.pid}/root{path}").exists()

    def remount(self, how: str) -> None:
        self.run("mount", "-o", f"remount,{how}", str(self._mount_point))


@pytest.fixture
def on_small_disk(make_service: ServiceMaker, tmp_path: Path) -> Callable[[], tuple[Service, SmallDisk]]:
    mount_point = tmp_path / "pipelines"
    mount_point.mkdir()
    wrapper = tmp_path / "ccat-wm"
    mount = f"mount -t tmpfs -o size={_MEGABYTES}m none '{mount_point}'"
    wrapper.write_text(f'#!/bin/sh\nexec unshare --mount sh -c "{mount} && exec \\"\\$@\\"" sh {PROGRAM} "$@"\n')
    wrapper.chmod(0o755)

    def make() -> tuple[Service, SmallDisk]:
        service = make_service(program=str(wrapper), PIPELINE_BASE_DIR=str(mount_point))
        return service, SmallDisk(service, mount_point)

    return make


def reasons(service: Service, run_id: str) -> list[str]:
    """Why the attempts so far have failed."""
    step = service.step(run_id, "only")
    items = service.call("GET", f"/step-runs/{step['id']}/attempts?limit=100")["items"]
    return [item["reason"] for item in items if item["reason"]]


def failed_first(service: Service, run_id: str) -> list[str]:
    try:
        return wait_for(lambda: reasons(service, run_id) or None, 40, "an attempt to fail")
    except AssertionError as error:
        raise AssertionError(f"{error}; {service.step(run_id, 'only')}; the log: {service.log()}") from None


def test_what_meets_a_full_disk_is_tried_again_until_there_is_room(
    on_small_disk: Callable[[], tuple[Service, SmallDisk]],
) -> None:
    service, disk = on_small_disk()
    disk.fill()
    run_id = service.submit({"name": "only", "command": ["/bin/sh", "-c", _WORK], "retry": _PATIENT})
    failed_first(service, run_id)
    step = service.step(run_id, "only")
    assert (step["status"], step["exit_code"]) != ("FAILED", 0)
    disk.empty()
    assert service.wait(run_id)["status"] == "COMPLETED"
    assert set(reasons(service, run_id)) == {"disk_full"}


def test_a_job_that_fills_the_disk_leaves_whole_products_or_a_reason(
    on_small_disk: Callable[[], tuple[Service, SmallDisk]],
) -> None:
    """It ends with 0: whether there is room for its exit record is not its own doing."""
    service, disk = on_small_disk()
    text = f"{_WORK}; test \"$WORKFLOW_ATTEMPT\" -gt 1 || cat /dev/zero > '{disk.ballast}'; touch '{disk.ballast}.done'"
    run_id = service.submit({"name": "only", "command": ["/bin/sh", "-c", text], "retry": _PATIENT})
    wait_until(lambda: disk.has(f"{disk.ballast}.done") or reasons(service, run_id), 40, "the disk to be full")
    disk.empty()
    assert service.wait(run_id)["status"] == "COMPLETED"
    assert set(reasons(service, run_id)) <= {"disk_full"}
    last = service.step(run_id, "only")
    products = service.call("GET", f"/step-runs/{last['id']}/products")["items"]
    assert [(product["path"], product["size"]) for product in products] == [("x", len("data\n"))]


def test_a_read_only_workspace_is_a_reason_and_is_tried_again_until_it_can_be_written(
    on_small_disk: Callable[[], tuple[Service, SmallDisk]],
) -> None:
    service, disk = on_small_disk()
    disk.remount("ro")
    run_id = service.submit({"name": "only", "command": ["/bin/sh", "-c", _WORK], "retry": _PATIENT})
    assert failed_first(service, run_id)[0] == "staging_failed"
    step = service.step(run_id, "only")
    items = service.call("GET", f"/step-runs/{step['id']}/attempts?limit=100")["items"]
    assert any("ead-only" in (item["reason_text"] or "") for item in items)
    disk.remount("rw")
    assert service.wait(run_id)["status"] == "COMPLETED"
    assert set(reasons(service, run_id)) == {"staging_failed"}
