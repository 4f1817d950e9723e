"""Parts of the cluster die, lie or fall silent in the middle of work: nothing is lost, nothing runs twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.errors import BackendUnavailable, JobDeferred
from ccat_workflow_manager.hpc.batch import scheduler_backend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from tests.backends.slurm.cluster import Cluster
from tests.backends.slurm.conftest import SlurmService, settings
from tests.backends.slurm.shims import accepts_and_times_out, shim
from tests.backends.slurm.test_contract import SlurmHarness, slurm_harness
from tests.support.fixtures_service import Service
from tests.support.reaper import Reaper
from tests.support.waiting import wait_for, wait_until

pytestmark = pytest.mark.needs("slurm")
SH = ["/bin/sh", "-c"]
KEYS = 6


def gated(gate: Path, marks: Path, keys: int = KEYS) -> dict[str, Any]:
    """Steps that note each start, and go on once the gate is open."""
    text = (
        f"echo started >> '{marks}/'\"$WORKFLOW_KEY\"; while ! test -e '{gate}'; do sleep 0.05; done;"
        ' echo done > "$WORKFLOW_OUTPUT_DIR/x"'
    )
    return {
        "name": "many",
        "foreach": [str(number) for number in range(keys)],
        "command": [*SH, text],
        "resources": {"memory_gb": 0.1},
    }


def check_once(marks: Path, keys: int = KEYS) -> None:
    assert {path.name: path.read_text() for path in marks.iterdir()} == {str(n): "started\n" for n in range(keys)}


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


@pytest.fixture
def jobs(slurm_cluster: Cluster, tmp_path: Path) -> Iterator[SlurmHarness]:
    harness = slurm_harness(slurm_cluster, tmp_path)
    yield harness
    harness.close()


def problem(service: Service) -> str:
    backends = service.call("GET", "/backends")
    items = backends["items"] if isinstance(backends, dict) else backends
    return str(next(item for item in items if item["name"] == "slurm")["problem"] or "")


def submit_and_start(service: Service, gate: Path, marks: Path) -> str:
    run_id = service.submit(gated(gate, marks))
    wait_until(lambda: len(list(marks.iterdir())) == KEYS, 60, f"all to start; {service.log()}")
    return run_id


@pytest.mark.slow
def test_the_controller_is_killed_while_jobs_run(
    slurm_service: Service, slurm_cluster: Cluster, gate: Path, marks: Path
) -> None:
    run_id = submit_and_start(slurm_service, gate, marks)
    unwanted = slurm_service.submit({"name": "only", "command": [*SH, "sleep 1000 & exec sleep 1000"]})
    job = slurm_service.wait_step(unwanted, "only", is_running)["job_id"]
    saved = slurm_cluster.directory / "state" / "job_state"
    changed = time.time()
    slurm_cluster.ask("sbatch", "--hold", "-o", "/dev/null", "--wrap", "true")
    wait_until(lambda: saved.exists() and saved.stat().st_mtime > changed, 30, "the controller to save its state")
    slurm_cluster.kill_daemon("slurmctld")
    wait_until(lambda: "Unable to contact slurm controller" in problem(slurm_service), 30, "the words of the trouble")
    late = slurm_service.submit({"name": "only", "command": ["/bin/true"]})
    slurm_service.call("POST", f"/runs/{unwanted}/cancel")
    step = slurm_service.wait_step(unwanted, "only", lambda step: "not confirmed" in (step["waiting_for"] or ""))
    assert step["status"] == "RUNNING"
    assert "Unable to contact slurm controller" in step["waiting_for"]
    gate.touch()
    slurm_cluster.start()
    assert slurm_service.wait(run_id, 100)["status"] == "COMPLETED"
    assert slurm_service.wait(late, 100)["status"] == "COMPLETED"
    assert slurm_service.wait(unwanted, 100)["status"] == "CANCELLED"
    listed = ("squeue", "-h", "-t", "all", "-o", "%T", "-j", job.partition(":")[0])
    wait_until(lambda: "RUNNING" not in slurm_cluster.ask(*listed), 30, "the job to be gone")
    check_once(marks)


def test_the_accounting_is_away_for_the_whole_life_of_a_job(slurm_service: Service, slurm_cluster: Cluster) -> None:
    slurm_cluster.kill_daemon("slurmdbd")
    good = slurm_service.submit({"name": "only", "command": ["/bin/true"]})
    bad = slurm_service.submit({"name": "only", "command": [*SH, "exit 4"], "retry": {"max_attempts": 1}})
    assert slurm_service.wait(good)["status"] == "COMPLETED"
    assert slurm_service.wait(bad)["status"] == "FAILED"
    step = slurm_service.step(bad, "only")
    assert (step["reason"], step["exit_code"]) == ("program_failed", 4)


def test_the_accounting_is_restarted_while_jobs_run(
    slurm_service: Service, slurm_cluster: Cluster, gate: Path, marks: Path
) -> None:
    """Some end while it is away, some after it has come back; what it missed it learns from the controller."""
    run_id = submit_and_start(slurm_service, gate, marks)
    slurm_cluster.kill_daemon("slurmdbd")
    bad = slurm_service.submit({"name": "only", "command": [*SH, "exit 4"], "retry": {"max_attempts": 1}})
    assert end_of(slurm_service, bad) == "program_failed"
    slurm_cluster.start()
    gate.touch()
    assert slurm_service.wait(run_id)["status"] == "COMPLETED"
    check_once(marks)
    steps = slurm_service.run(run_id)["step_runs"]
    assert {(step["attempt"], step["exit_code"]) for step in steps} == {(1, 0)}
    number = slurm_service.step(bad, "only")["job_id"].partition(":")[0]
    listed = ("sacct", "-n", "-X", "-P", "-o", "State", "-j", number)
    wait_until(lambda: slurm_cluster.ask(*listed) == "FAILED", 60, "the accounting to know of what it missed")


def test_a_node_daemon_is_killed_while_jobs_run(
    slurm_service: Service, slurm_cluster: Cluster, gate: Path, marks: Path
) -> None:
    run_id = submit_and_start(slurm_service, gate, marks)
    for node in slurm_cluster.nodes:
        slurm_cluster.kill_daemon(node)
    gate.touch()
    slurm_cluster.start()
    assert slurm_service.wait(run_id, 100)["status"] == "COMPLETED"
    check_once(marks)


def test_the_authentication_is_killed_while_jobs_run(
    slurm_service: Service,
    slurm_cluster: Cluster,
    slurm_calls: Callable[[], Counter[str]],
    gate: Path,
    marks: Path,
) -> None:
    run_id = submit_and_start(slurm_service, gate, marks)
    slurm_cluster.kill_daemon("munged")
    calls = slurm_calls()
    late = slurm_service.submit({"name": "only", "command": ["/bin/true"]})
    gate.touch()
    wait_until(lambda: slurm_calls()["squeue"] > calls["squeue"], 30, "a look at the queue")
    wait_until(lambda: slurm_calls()["sbatch"] > calls["sbatch"], 60, "a job to be submitted")
    assert slurm_service.run(run_id)["status"] == "RUNNING"
    slurm_cluster.start()
    assert slurm_service.wait(run_id, 100)["status"] == "COMPLETED"
    assert slurm_service.wait(late, 100)["status"] == "COMPLETED"
    check_once(marks)


@pytest.mark.slow
@pytest.mark.parametrize("accounting", [True, False], ids=["accounting", "no accounting"])
def test_forgotten_before_anybody_asked(
    reaper: Reaper, make_service: Any, gate: Path, marks: Path, accounting: bool
) -> None:
    """The whole deployment is dead while jobs end and the controller forgets them."""
    cluster = Cluster(reaper, nodes=2, accounting=accounting, extra=["MinJobAge=2"])
    wait_for_gate = f"while ! test -e '{gate}'; do sleep 0.05; done"
    alone = {"resources": {"memory_gb": 0.1}, "retry": {"max_attempts": 1}}
    try:
        cluster.start()
        service = make_service(**settings(cluster), UNKNOWN_GRACE_SECONDS="2")
        run_id = service.submit(gated(gate, marks, keys=1))
        bad = service.submit({"name": "only", "command": [*SH, f"{wait_for_gate}; exit 4"], **alone})
        killed = service.submit({"name": "only", "command": [*SH, f"{wait_for_gate}; kill -9 $$"], **alone})
        stopped = service.submit({"name": "only", "command": [*SH, "exec sleep 1000"], **alone})
        tasks = service.submit({"name": "only", "command": [*SH, "exec sleep 1000"], "foreach": ["a", "b"], **alone})
        for each in (bad, killed):
            service.wait_step(each, "only", is_running)
        numbers = [service.wait_step(stopped, "only", is_running)["job_id"].partition(":")[0]]
        numbers += [service.wait_step(tasks, "only", is_running, key)["job_id"].partition(":")[0] for key in "ab"]
        assert all("_" in number for number in numbers[1:]), "tasks of an array"
        service.kill()
        gate.touch()
        cluster.ask("scancel", *numbers)
        wait_until(lambda: not cluster.ask("squeue", "-h", "-t", "all", "-o", "%A"), 60, "the controller to forget")
        service.start()
        assert service.wait(run_id)["status"] == "COMPLETED"
        reasons = {
            name: end_of(service, each) for name, each in (("bad", bad), ("killed", killed), ("stopped", stopped))
        }
        assert reasons == {"bad": "program_failed", "killed": "killed_by_signal", "stopped": "stopped_outside"}
        service.wait(tasks)
        assert [service.step(tasks, "only", key)["reason"] for key in "ab"] == ["stopped_outside"] * 2
        check_once(marks, 1)
    finally:
        cluster.close()


def is_running(step: Mapping[str, Any]) -> bool:
    return bool(step["status"] == "RUNNING")


def end_of(service: Service, run_id: str) -> str:
    service.wait(run_id)
    return str(service.step(run_id, "only")["reason"])


# --- an `sbatch` that lies --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_never_two_jobs(jobs: SlurmHarness, slurm_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    accepts_and_times_out(jobs.workdir / "programs")
    monkeypatch.setenv("PATH", str(jobs.workdir / "programs"), prepend=":")
    started = jobs.workdir / "started"
    for _ in range(100):
        jobs.submit(*SH, f"echo >> '{started}'")
    results = jobs.backend.submit_many([jobs.request(*SH, f"echo >> '{started}'") for _ in range(100)])
    assert all(isinstance(result, str) for result in results), results[:3]
    monkeypatch.undo()
    wait_until(lambda: started.exists() and len(started.read_text()) == 200, 60, "two hundred jobs to run")
    slurm_cluster.drop_all()
    assert len(started.read_text()) == 200
    jobs._jobs.clear()  # they are over; asking for each of them by itself takes long


def test_a_silent_controller_is_asked_again_before_the_next_try(
    jobs: SlurmHarness, slurm_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepts_and_times_out(jobs.workdir / "programs")
    silent = jobs.workdir / "silent"
    silent.touch()
    shim(
        jobs.workdir / "programs",
        "squeue",
        f'test -e {silent} && {{ echo "Unable to contact" >&2; exit 1; }}; exec "$real" "$@"',
    )
    monkeypatch.setenv("PATH", str(jobs.workdir / "programs"), prepend=":")
    request = jobs.request(*SH, "exec sleep 1000")
    with pytest.raises(BackendUnavailable, match="Unable to contact"):
        jobs.submit_request(request)
    with pytest.raises(BackendUnavailable):
        jobs.backend.find(request.job_name)
    silent.unlink()
    found = jobs.backend.find(request.job_name)
    assert jobs.submit_request(request).id == found
    assert len(slurm_cluster.jobs(request.job_name)) == 1


def test_what_was_never_taken_is_submitted_again_only_when_that_is_certain(
    jobs: SlurmHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim(jobs.workdir / "programs", "sbatch", 'echo "sbatch: error: Socket timed out" >&2; exit 1')
    monkeypatch.setattr(scheduler_backend, "SETTLE_SECONDS", 12.0)
    request = jobs.request("true")
    with monkeypatch.context() as broken:
        broken.setenv("PATH", str(jobs.workdir / "programs"), prepend=":")
        with pytest.raises(JobDeferred, match="looked for again"):
            jobs.submit_request(request)
    with pytest.raises(JobDeferred, match="not known yet"):
        jobs.submit_request(request)
    wait_for(lambda: jobs.backend.find(request.job_name) is None if _settled(jobs, request.job_name) else None, 30)
    jobs.until(jobs.submit_request(request), JobStatus.COMPLETED)


def _settled(jobs: SlurmHarness, job_name: str) -> bool:
    assert isinstance(jobs.backend, scheduler_backend.BatchBackend)
    known = jobs.backend._store.of_job(job_name)
    return known is None or time.time() >= known[0].settled_at


def test_a_second_job_of_the_same_attempt_does_not_run_it(jobs: SlurmHarness, slurm_cluster: Cluster) -> None:
    """Even if Slurm had two jobs of one name, the program would run once."""
    started = jobs.workdir / "started"
    job = jobs.submit(*SH, f"echo >> '{started}'")
    jobs.until(job, JobStatus.COMPLETED)
    script = slurm_cluster.ask("scontrol", "write", "batch_script", job.id.partition(":")[0], "-")
    twin = jobs.workdir / "twin.sh"
    twin.write_text(script)
    slurm_cluster.ask("sbatch", "--parsable", "-J", job.request.job_name, "-o", "/dev/null", str(twin))
    slurm_cluster.drop_all()
    wait_until(lambda: len(slurm_cluster.jobs(job.request.job_name)) == 2, 10, "two jobs of one name")
    assert len(started.read_text()) == 1
    assert jobs.backend.get_status(job.id).status is JobStatus.COMPLETED


@pytest.mark.slow
def test_a_worker_dies_between_sbatch_and_the_record(
    make_slurm_service: SlurmService, tmp_path: Path, gate: Path, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = tmp_path / "once"
    shim(
        tmp_path / "programs",
        "sbatch",
        f'number=$("$real" "$@") || exit; mkdir {once} 2>/dev/null && kill -9 $PPID; echo "$number"',
    )
    monkeypatch.setenv("PATH", str(tmp_path / "programs"), prepend=":")
    service = make_slurm_service()
    run_id = service.submit(gated(gate, marks))
    gate.touch()
    assert service.wait(run_id, 100)["status"] == "COMPLETED"
    assert once.exists()
    check_once(marks)
    assert all(step["attempt"] == 1 for step in service.run(run_id)["step_runs"])
