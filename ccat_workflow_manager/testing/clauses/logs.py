"""What a job prints can be read."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import BackendHarness, NotClaimed, check
from ccat_workflow_manager.testing.programs import WAIT_FOR_FILE, sh


def clause_logs_after_the_end(harness: BackendHarness) -> None:
    """Both streams of a finished job are in its log, whatever bytes it has printed."""
    harness.needs_programs()
    job = harness.submit(*sh(r"echo 'to stdout'; echo 'to stderr' >&2; printf 'bytes \377\000 end\n'; exit 1"))
    harness.until(job, JobStatus.FAILED)
    log = harness.backend.get_logs(job.id)
    check(isinstance(log, str), f"a log is text, not {type(log).__name__}")
    check("to stdout" in log and "to stderr" in log, f"both streams must be in the log, which is {log!r}")
    check("bytes" in log and "end" in log, f"bytes that are no text must not spoil the log, which is {log!r}")


def clause_logs_are_kept_apart(harness: BackendHarness) -> None:
    """Jobs whose workspaces lie side by side, or are the same, each have a log of their own."""
    harness.needs_programs()
    attempt = harness.attempt()
    workspaces = [attempt.root / "first", attempt.root / "second", attempt.root / "second", attempt.workspace]
    requests = []
    for number, workspace in enumerate(workspaces):
        workspace.mkdir(exist_ok=True)
        request = harness.request(*sh(f"echo this is number {number}"), attempt=attempt)
        requests.append(replace(request, workspace_dir=str(workspace), job_name=f"apart-{uuid4().hex}"))
    jobs = [harness.submit_request(request) for request in requests]
    for job in jobs:
        harness.until(job, JobStatus.COMPLETED)
    logs = [harness.backend.get_logs(job.id) for job in jobs]
    expected = [f"this is number {number}\n" for number in range(len(jobs))]
    check(logs == expected, f"each job has printed its own number, and the logs are {logs}")


def clause_logs_while_running(harness: BackendHarness) -> None:
    """What a running job has printed so far can be read."""
    harness.needs_programs()
    if not harness.backend.capabilities.live_logs:
        raise NotClaimed("logs while the job runs are not claimed")
    gate = harness.attempt().root / "go"
    job = harness.submit(*sh("echo before; " + WAIT_FOR_FILE + "; echo after", str(gate)))
    harness.poll(lambda: "before" in harness.backend.get_logs(job.id), "the first line in the log of a running job")
    harness.until(job, JobStatus.RUNNING)
    check("after" not in harness.backend.get_logs(job.id), "the log knows more than the program has printed")
    gate.touch()
    harness.until(job, JobStatus.COMPLETED)
    log = harness.backend.get_logs(job.id)
    check(log.index("before") < log.index("after"), f"the log is out of order: {log!r}")


def clause_tail_of_a_stream(harness: BackendHarness) -> None:
    """`tail_logs` gives the last lines, and no more."""
    harness.needs_programs()
    job = harness.submit(*sh("for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done"))
    harness.until(job, JobStatus.COMPLETED)
    tail = harness.backend.tail_logs(job.id, stream="stdout", lines=2)
    check(tail == "line 8\nline 9\n", f"the last two lines are {tail!r}")
    check(harness.backend.tail_logs(job.id, lines=0) == "", "no lines were asked for")
    check(harness.backend.tail_logs("no-such-job") == "", "an unknown job has no log")
