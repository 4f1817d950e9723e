"""The suite catches what it is there to catch: the sample backend with one fault each, and the clause that sees it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest

from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.base import Capabilities, HPCBackend, JobRequest
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.testing import backend_contract
from ccat_workflow_manager.testing.backend_contract import BackendHarness, ClauseResult, Outcome, run_contract
from ccat_workflow_manager.testing.clauses import CLAUSES
from ccat_workflow_manager.testing.harness import Job

Fault = dict[str, Any]


def _on_submit(change: Callable[[dict[str, Any]], None]) -> Callable[[type[HPCBackend]], Fault]:
    """A fault in the arguments of `submit`."""

    def fault(sound: type[HPCBackend]) -> Fault:
        def submit(self: HPCBackend, **arguments: Any) -> str:
            change(arguments)
            return sound.submit(self, **arguments)

        return {"submit": submit}

    return fault


def _on_status(change: Callable[[HPCJobInfo], HPCJobInfo]) -> Callable[[type[HPCBackend]], Fault]:
    """A fault in the answer of `get_status`."""
    return lambda sound: {"get_status": lambda self, job_id: change(sound.get_status(self, job_id))}


def _claim(**capabilities: Any) -> Callable[[type[HPCBackend]], Fault]:
    """A claim that is not kept."""
    return lambda sound: {"capabilities": replace(sound.capabilities, **capabilities)}


def _in_words(arguments: dict[str, Any]) -> None:
    arguments["execution_command"] = ["/bin/sh", "-c", " ".join(arguments["execution_command"])]


def _with_all_variables(arguments: dict[str, Any]) -> None:
    arguments["environment_variables"] = {**os.environ, **arguments["environment_variables"]}


def _without_own_path(arguments: dict[str, Any]) -> None:
    arguments["environment_variables"] = {**arguments["environment_variables"], "PATH": os.defpath}


def _elsewhere(arguments: dict[str, Any]) -> None:
    arguments["execution_command"] = ["env", "-C", "/", *arguments["execution_command"]]


def _without_extra(arguments: dict[str, Any]) -> None:
    arguments["resource_requirements"] = Resources()


def _unknown_is_completed(info: HPCJobInfo) -> HPCJobInfo:
    return HPCJobInfo(JobStatus.COMPLETED, exit_code=0) if info.status is JobStatus.UNKNOWN else info


def _cancelled_is_failed(info: HPCJobInfo) -> HPCJobInfo:
    return HPCJobInfo(JobStatus.FAILED) if info.status is JobStatus.CANCELLED else info


def _kill_the_leader_only(sound: type[HPCBackend]) -> Fault:
    def cancel(self: Any, job_id: str) -> None:
        if (process := self._jobs.get(job_id)) is not None and process.poll() is None:
            self._cancelled.add(job_id)
            os.kill(process.pid, signal.SIGKILL)

    return {"cancel": cancel}


def _cancel_complains(sound: type[HPCBackend]) -> Fault:
    def cancel(self: Any, job_id: str) -> None:
        self._jobs[job_id]
        sound.cancel(self, job_id)

    return {"cancel": cancel}


def _logs_at_the_end_only(sound: type[HPCBackend]) -> Fault:
    def get_logs(self: HPCBackend, job_id: str) -> str:
        return sound.get_logs(self, job_id) if self.get_status(job_id).finished else ""

    return {"get_logs": get_logs}


def _one_log_for_all(sound: type[HPCBackend]) -> Fault:
    return {"get_logs": lambda self, job_id: sound.get_logs(self, list(self._jobs)[-1])}


def _wants_an_output(arguments: dict[str, Any]) -> None:
    os.listdir(arguments["output_dir"])


def _all_or_nothing(sound: type[HPCBackend]) -> Fault:
    def submit_many(self: HPCBackend, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        results = sound.submit_many(self, requests)
        errors = [result for result in results if isinstance(result, BackendError)]
        return [errors[0]] * len(results) if errors else results

    return {"submit_many": submit_many}


def _find_guesses(sound: type[HPCBackend]) -> Fault:
    capabilities = replace(sound.capabilities, find=True)
    return {"capabilities": capabilities, "find": lambda self, job_name: next(iter(self._jobs), "guess")}


FAULTS: dict[str, tuple[Callable[[type[HPCBackend]], Fault], str]] = {
    "joins the vector": (_on_submit(_in_words), "arguments_and_environment_arrive"),
    "joins the vector (paths)": (_on_submit(_in_words), "awkward_paths"),
    "leaks the environment": (_on_submit(_with_all_variables), "environment_is_clean"),
    "insists on its PATH": (_on_submit(_without_own_path), "own_variables_win"),
    "starts somewhere else": (_on_submit(_elsewhere), "starts_in_workspace"),
    "drops resources": (_on_submit(_without_extra), "unsupported_resources_are_refused"),
    "takes silence for success": (_on_status(_unknown_is_completed), "unknown_id_is_unknown"),
    "takes a cancel for a failure": (_on_status(_cancelled_is_failed), "cancel_running"),
    "forgets exit codes": (_on_status(lambda info: replace(info, exit_code=None)), "exit_3_is_failed"),
    "forgets signals": (_on_status(lambda info: replace(info, signal=None)), "killed_by_signal_is_failed"),
    "is always running": (_on_status(lambda info: replace(info, status=JobStatus.RUNNING)), "exit_0_is_completed"),
    "invents a reason": (
        _on_status(lambda info: replace(info, reason=FailureReason.OUT_OF_MEMORY)),
        "killed_by_signal_is_failed",
    ),
    "invents metrics": (_on_status(lambda info: replace(info, cpu_hours=0.4)), "metrics_are_plausible"),
    "leaves children behind": (_kill_the_leader_only, "cancel_kills_the_whole_tree"),
    "complains about a late cancel": (_cancel_complains, "cancel_unknown"),
    "shows logs late": (_logs_at_the_end_only, "logs_while_running"),
    "loses logs": (lambda sound: {"get_logs": lambda self, job_id: ""}, "logs_after_the_end"),
    "keeps one log for all": (_one_log_for_all, "logs_are_kept_apart"),
    "wants more directories": (_on_submit(_wants_an_output), "only_the_workspace_exists"),
    "refuses all for one": (_all_or_nothing, "submit_many_errors_one_by_one"),
    "guesses names": (_find_guesses, "find_by_name"),
    "claims a time limit": (_claim(time_limit=True), "time_limit"),
    "claims a memory limit": (_claim(memory_limit=True), "memory_limit"),
    "claims exit records": (_claim(exit_record=True), "exit_record_is_there"),
    "claims bulk": (_claim(bulk_status=True), "fifty_ids_one_status_call"),
    "claims to survive": (_claim(survives_worker=True), "followed_from_another_process"),
    "claims news": (_claim(notifies=True), "ends_are_notified"),
}


@pytest.fixture
def sample(plugin_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[HPCBackend]]:
    """The class; what its faulty versions leave behind is ended afterwards."""
    monkeypatch.syspath_prepend(str(plugin_path))
    yield cast("type[HPCBackend]", import_module("ccat_wm_sample_backend.backend").SampleBackend)
    for path in tmp_path.rglob("*.pid"):
        with suppress(ProcessLookupError):
            os.killpg(int(path.read_text()), signal.SIGKILL)


class _Hurried(BackendHarness):
    """What does not come soon does not come."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(patience_seconds=2, **arguments)


def _judge(harness: BackendHarness, name: str) -> ClauseResult:
    [clause] = [clause for clause in CLAUSES if clause.name == name]
    return backend_contract.judge(clause, harness)


@pytest.mark.parametrize("fault", FAULTS)
def test_finds_the_fault(sample: type[HPCBackend], tmp_path: Path, fault: str) -> None:
    make_faulty, clause = FAULTS[fault]
    faulty = type("Faulty", (sample,), make_faulty(sample))
    result = _judge(_Hurried(create=faulty, workdir=tmp_path, factory="sample"), clause)
    assert result.outcome is Outcome.FAILED, result
    assert len(result.text) > 15


class _SilentService(BackendHarness):
    """The hooks are there, but the backend hides the trouble."""

    def service_down(self) -> AbstractContextManager[None]:
        return nullcontext()

    def corrupt_answer(self, job: Job) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.mark.parametrize("clause", ["service_down_is_unavailable", "unreadable_answer_is_confused"])
def test_finds_hidden_trouble(sample: type[HPCBackend], tmp_path: Path, clause: str) -> None:
    result = _judge(_SilentService(create=sample, workdir=tmp_path), clause)
    assert result.outcome is Outcome.FAILED
    assert "and yet" in result.text


def test_a_backend_that_hangs_fails_in_time(
    sample: type[HPCBackend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threading import Event

    over = Event()
    monkeypatch.setattr(backend_contract, "CLAUSE_SECONDS", 0.2)
    hanging = type("Hanging", (sample,), {"submit": lambda self, **_: over.wait(60)})
    try:
        result = _judge(BackendHarness(create=hanging, workdir=tmp_path), "exit_0_is_completed")
    finally:
        over.set()
    assert (result.outcome, result.text) == (Outcome.FAILED, "the backend did not answer within 0.2 s")


def test_a_backend_that_raises_anything_fails(sample: type[HPCBackend], tmp_path: Path) -> None:
    def submit(self: HPCBackend, **_: Mapping[str, Any]) -> str:
        raise ZeroDivisionError("oops")

    raising = type("Raising", (sample,), {"submit": submit})
    result = _judge(BackendHarness(create=raising, workdir=tmp_path), "exit_0_is_completed")
    assert (result.outcome, result.text) == (Outcome.FAILED, "ZeroDivisionError: oops")


def test_an_unknown_backend_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(registry.UnknownBackend):
        run_contract("no-such-backend", {}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_of_clauses_are_different_and_have_a_text() -> None:
    assert len({clause.name for clause in CLAUSES}) == len(CLAUSES) > 30
    assert all(len(clause.text) > 20 and clause.text.rstrip().endswith(".") for clause in CLAUSES)


def test_default_capabilities_claim_what_four_methods_can_keep() -> None:
    assert not Capabilities().find
    assert not Capabilities().exit_record
