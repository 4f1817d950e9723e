"""What is going on while something fails: small pieces of work that pass, taken together, every failpoint."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.lifecycle.models import Resources, job_name
from tests.chaos.site import Site
from tests.support.armed import Action, Injection
from tests.support.invariants import STARTS
from tests.support.waiting import wait_for, wait_until

_START = f'echo started >> "$WORKFLOW_WORKSPACE_DIR/{STARTS}"'
_WORK = f'{_START}; sleep 0.2; echo "$WORKFLOW_KEY" > "$WORKFLOW_OUTPUT_DIR/x"'
_SLOW = f'{_START}; sleep 1.2; echo data > "$WORKFLOW_OUTPUT_DIR/x"'
_FAIL_ONCE = f'{_WORK}; test "$WORKFLOW_ATTEMPT" -gt 1'
_LOST = f"{_START}; exit 3"
_FOR_EVER = f"{_START}; while :; do sleep 0.2; done"
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Some work, how it may end, and what has to fail besides so that it gets that far."""

    name: str
    act: Callable[[Site], Collection[str]]
    """Does the work: the ends that the runs have come to."""
    ends: frozenset[str]
    provoked_by: tuple[Injection, ...] = ()


def step(site: Site, name: str, text: str, **more: Any) -> dict[str, Any]:
    """One step, for a backend that runs programs and for one that does not."""
    noop: dict[str, Any] = {"delay_seconds": {_FOR_EVER: 600, _SLOW: 1.2}.get(text, 0.2)}
    if text in (_FAIL_ONCE, _LOST):
        noop["outcome"] = "failed"
    return {
        "name": name,
        "command": ["/bin/sh", "-c", text],
        "image": site.image,
        "resources": {"cpu": 0.2, "memory_gb": 0.2, "extra": noop if site.backend == "noop" else {}},
        "retry": {"max_attempts": 6, "backoff_seconds": 0},
        **more,
    }


def complete(site: Site) -> list[str]:
    """Two and then one, which tolerates the loss of a third; and somebody reads a log."""
    tolerated = {"step": "lost", "tolerate": 1}
    run_id = site.submit(
        step(site, "first", _WORK, foreach=["a", "b"]),
        step(site, "lost", _LOST),
        step(site, "second", _WORK, depends_on=["first", tolerated], files={"table.csv": {"text": "1,2\n"}}),
    )
    end = site.wait(run_id)
    last = site.run(run_id)["step_runs"][-1]
    site.call("GET", f"/step-runs/{last['id']}/log", accept=(404,))
    return [end]


def slow(site: Site) -> list[str]:
    """A program that runs long enough to be asked for."""
    return [site.wait(site.submit(step(site, "only", _SLOW)))]


def cancel(site: Site) -> list[str]:
    """Programs that would run for ever, cancelled as a run and as a step run."""
    first, second = (site.submit(step(site, "only", _FOR_EVER)) for _ in range(2))
    step_run = site.wait_step(first, ("RUNNING",))
    site.call("POST", f"/step-runs/{step_run}/cancel", accept=(409,))
    site.call("POST", f"/runs/{second}/cancel")
    site.call("POST", f"/runs/{second}/cancel")
    return [site.wait(first), site.wait(second)]


def cancel_orphan(site: Site) -> list[str]:
    """A program is cancelled while it is in the hands of a worker that has died: nobody knows yet that it runs."""
    run_id = site.submit(step(site, "only", _FOR_EVER))

    def died() -> bool:
        site.tend()
        return any(line.startswith("worker backend.submit after crash nth=1") for line in site.fired())

    wait_until(died, 20, "the worker to die")
    site.call("POST", f"/runs/{run_id}/cancel")
    return [site.wait(run_id)]


def repair(site: Site) -> list[str]:
    """A pipeline is registered; its runs are held, let go, fail, and are tried again by their owner."""
    name = f"chaos-{next(_numbers)}"
    definition = {"name": name, "steps": [step(site, "only", _FAIL_ONCE)]}
    site.call("PUT", f"/pipelines/{name}", json=definition)
    site.call("PATCH", f"/pipelines/{name}", json={"priority": 5})
    ids = site.call("POST", "/runs/bulk", json={"runs": [{"pipeline": name}] * 2})["ids"]
    for run_id in ids:
        site.acknowledge(run_id)
        # Asked once more after an injection, it may come too late: then there is nothing to hold back.
        site.call("POST", f"/runs/{run_id}/pause", accept=(409,))
        site.call("POST", f"/runs/{run_id}/resume")
    for run_id in ids:
        site.wait(run_id)
    step_run = site.run(ids[0])["step_runs"][0]["id"]
    site.call("POST", f"/step-runs/{step_run}/retry", accept=(409,))
    site.call("POST", f"/runs/{ids[1]}/retry", accept=(409,))
    return [site.wait(run_id) for run_id in ids]


def sign_off(site: Site) -> list[str]:
    """A worker is asked to stop in the middle of work."""
    run_id = site.submit(step(site, "first", _WORK, foreach=["a", "b", "c"]))

    def listening() -> int | None:
        site.tend()
        return next((pid for pid in site.pids("worker") if _catches(pid, signal.SIGTERM)), None)

    os.kill(wait_for(listening, 20, "a worker to listen"), signal.SIGTERM)
    before = site.restarts

    def replaced() -> bool:
        site.tend()
        return site.restarts > before

    wait_until(replaced, 20, "the worker to end")
    return [site.wait(run_id)]


def stray(site: Site) -> list[str]:
    """A job runs for an attempt that is long over; the service finds it, and stops it."""
    run_id = site.submit(step(site, "only", _WORK))
    end = site.wait(run_id)
    [step_run] = site.run(run_id)["step_runs"]
    backend = site.context.backend(site.backend)
    if not backend.capabilities.lists or not backend.capabilities.survives_worker:
        return [end]
    name = job_name(UUID(step_run["id"]), step_run["attempt"])
    site.strays.append(name)
    place = Path(tempfile.mkdtemp(prefix="stray-", dir=site.directory))
    directories = [place / part for part in ("input", "output", "workspace", "logs")]
    for directory in directories:
        directory.mkdir()

    def submitted() -> bool:
        # The first job of this name may not be forgotten yet: then it is the one that is found. The service may be as
        # quick as to have stopped the second already.
        site.tend()
        [job_id] = backend.submit_many([_long_job(place, name)])
        return isinstance(job_id, str) and backend.get_status(job_id).status not in (
            JobStatus.COMPLETED,
            JobStatus.UNKNOWN,
        )

    wait_until(submitted, 20, "the stray to run")

    def gone() -> bool:
        site.tend()
        return not backend.list_jobs()

    wait_until(gone, 30, "the stray to be stopped")
    shutil.rmtree(place)
    return [end]


def held_back(site: Site) -> list[str]:
    """A step fails for everybody until its breaker opens; an operator releases it, and the rest goes on."""
    name = f"chaos-{next(_numbers)}"
    # A pause before the second attempt, so that all have failed before one of them succeeds.
    patient = {"max_attempts": 3, "backoff_seconds": 1.5}
    for_all = step(site, "for-all", _FAIL_ONCE, foreach=list(range(site.settings.breaker_failures)), retry=patient)
    for_one = step(site, "for-one", _FAIL_ONCE, retry={"max_attempts": 1})
    run_id = site.submit(for_all, for_one, name=name)

    opened: dict[str, float] = {}

    def release() -> None:
        for breaker in site.call("GET", "/breakers")["items"]:
            # Not at once: whoever looks at breakers now and then is to see it, too.
            if time.monotonic() > opened.setdefault(breaker["id"], time.monotonic()) + 1:
                site.call("POST", f"/breakers/{breaker['id']}/release", accept=(404,))
                del opened[breaker["id"]]

    def over() -> str | None:
        release()
        return site.ended(run_id)

    end = wait_for(over, 40, f"the run {run_id} to end", interval=0.1)

    def forgotten() -> bool:
        release()
        with site.database.read() as unit:
            return not unit.execute("SELECT count(*) FROM breakers").scalar()

    wait_until(forgotten, 30, "the failures to be forgotten")
    return [end]


def _long_job(place: Path, name: str) -> JobRequest:
    return JobRequest(
        execution_command=["/bin/sleep", "600"],
        image_ref=None,
        sif_path=None,
        input_dir=str(place / "input"),
        output_dir=str(place / "output"),
        workspace_dir=str(place / "workspace"),
        manifest_path=str(place / "manifest.json"),
        resource_requirements=Resources(cpu=0.2, memory_gb=0.2),
        environment_variables={},
        job_name=name,
    )


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has said what it does at this signal; before, it would just die."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return False
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return bool(mask & (1 << (number - 1)))


_COMPLETED = frozenset({"COMPLETED"})


def _worker(point: str, moment: str, action: Action) -> tuple[Injection, ...]:
    return (Injection("worker", point, moment, action),)


PREFERRED = {
    "bell.take-notices": "slow",
    "commit.take-follow": "slow",
    "commit.followed": "slow",
    "commit.alive": "sign off",
    "backend.find": "takeover",
    "commit.swept": "takeover",
    "commit.take-reap": "stray",
    "commit.reaped": "stray",
    "backend.list": "stray",
    "commit.requeue-waiting": "held back",
    "commit.breakers-swept": "held back",
}
"""Points that are passed now and then anywhere, and here for certain."""

SCENARIOS = (
    Scenario("work", complete, _COMPLETED),
    Scenario("slow", slow, _COMPLETED),
    Scenario("cancel", cancel, frozenset({"CANCELLED"})),
    Scenario("repair", repair, frozenset({"COMPLETED", "FAILED"})),
    Scenario("takeover", complete, _COMPLETED, _worker("backend.submit", "after", Action.CRASH)),
    Scenario("left results", complete, _COMPLETED, _worker("commit.collected", "before", Action.CRASH)),
    Scenario("away", complete, _COMPLETED, _worker("backend.submit", "before", Action.TIMEOUT)),
    Scenario("silent", complete, _COMPLETED, _worker("backend.status", "before", Action.TIMEOUT)),
    Scenario(
        "cancel after crash", cancel_orphan, frozenset({"CANCELLED"}), _worker("backend.submit", "after", Action.CRASH)
    ),
    Scenario("sign off", sign_off, _COMPLETED),
    Scenario("stray", stray, _COMPLETED),
    Scenario("held back", held_back, frozenset({"COMPLETED", "FAILED"})),
)
