"""What PBS is asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ccat_workflow_manager.hpc.batch.refusals import Refusal
from ccat_workflow_manager.hpc.batch.script import render_batch_script
from ccat_workflow_manager.hpc.batch.store import ArrayTask
from ccat_workflow_manager.hpc.pbs.refusals import only_gone, refusal, without_history
from ccat_workflow_manager.hpc.pbs.script import Dialect, output_path, render_options, render_qsub
from ccat_workflow_manager.hpc.pbs.settings import PbsSettings
from ccat_workflow_manager.lifecycle.models import Resources
from tests.support.golden_files import check_golden

PLAIN = Resources(cpu=0.5, memory_gb=0.25, time_hours=0.05)
RICH = Resources(
    cpu=4, memory_gb=16, time_hours=50.5, gpu=2, partition="gpuq", account="ccat", extra={"chunk": "vendor=amd"}
)
SITE = PbsSettings(queue="workq", account="astro")


@pytest.mark.parametrize("dialect", Dialect)
def test_submit_commands(dialect: Dialect) -> None:
    def command(resources: Resources, priority: int = 0) -> list[str]:
        options = render_options(resources, priority, SITE, dialect)
        return render_qsub(options, name="ccat-0123-1", output="/data/a/logs/scheduler.log", script="/data/a/ccat.qsub")

    check_golden(f"pbs-qsub-{dialect.name.lower()}", {"plain": command(PLAIN), "rich": command(RICH, -5000)})


def test_script() -> None:
    member = ArrayTask("ccat-0123-1", "/data/it's/attempt-1/workspace")
    text = render_batch_script([member], number='"$PBS_JOBID"', index=None, home="/home/ccat")
    check_golden("pbs-script", text.splitlines())


def test_extras_of_one_family() -> None:
    extra = replace(PLAIN, extra={"place": "scatter:excl", "project": "chai"})
    assert render_options(extra, 0, SITE, Dialect.OPENPBS)[-4:] == ("-A", "astro", "-P", "chai")
    with pytest.raises(ValueError, match=r"extra\.place is not known to Torque"):
        render_options(extra, 0, SITE, Dialect.TORQUE)


@pytest.mark.parametrize(
    "extra", [{"export": "ALL"}, {"chunk": "a=1+b=2"}, {"chunk": ""}, {"chunk": 3}, {"project": "two words"}]
)
def test_what_is_refused(extra: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"extra\."):
        render_options(replace(PLAIN, extra=extra), 0, SITE, Dialect.OPENPBS)


@pytest.mark.parametrize(
    "path", ["/a:b/log", "/a b/log", "/a,b/log", "/$HOME/log", "/^array_index^/log", "/\u00e9/log"]
)
def test_paths_that_pbs_would_misread(path: str) -> None:
    assert output_path(path) == "/dev/null"
    assert output_path("/data/x_1/attempt-1/logs/scheduler.log") == "/data/x_1/attempt-1/logs/scheduler.log"


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("qsub: Unknown queue", Refusal.NEVER),
        ("qsub: Unknown resource Resource_List.gpus", Refusal.NEVER),
        ("qsub: Illegal attribute or resource value Resource_List.walltime", Refusal.NEVER),
        ("qsub: Job violates queue and/or server resource limits", Refusal.NEVER),
        ("qsub: Unauthorized Request", Refusal.NEVER),
        ("qsub: Invalid Account", Refusal.NEVER),
        ("qsub: submit error (Job exceeds queue resource limits MSG=cannot satisfy queue max mem)", Refusal.NEVER),
        ("qsub: Maximum number of jobs already in queue", Refusal.LATER),
        ("qsub: would exceed queue workq's per-user limit", Refusal.LATER),
        ("qsub: Queue is not enabled", Refusal.LATER),
        ("Connection refused qsub: cannot connect to server pbs (errno=111)", Refusal.UNSURE),
        ("qsub: cannot connect to server pbs (errno=15010)", Refusal.UNSURE),
        ("qsub: End of File", Refusal.UNSURE),
        ("qsub: Batch protocol error", Refusal.UNSURE),
        ("qsub: Request not allowed: Server shutting down", Refusal.UNSURE),
        ("qsub: Invalid credential", Refusal.UNSURE),
        ("it said nothing", Refusal.UNSURE),
    ],
)
def test_refusals(words: str, meaning: Refusal) -> None:
    assert refusal(1, words) is meaning


def test_jobs_that_are_gone() -> None:
    assert only_gone(153, "qstat: Unknown Job Id 999.pbs\n")
    assert only_gone(35, "qstat: 0.pbs Job has finished, use -x or -H to obtain historical job information\n")
    assert only_gone(153, "")
    assert not only_gone(1, "")
    assert not only_gone(153, "qstat: Unknown Job Id 9.pbs\nConnection refused\nqstat: cannot connect to server pbs")
    assert without_history(34, "qstat: PBS is not configured to maintain job history")
