"""What Slurm is asked and what it answers, as text: no cluster is needed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ccat_workflow_manager.hpc.attempt.record import utc
from ccat_workflow_manager.hpc.batch.refusals import Refusal
from ccat_workflow_manager.hpc.batch.script import render_batch_script
from ccat_workflow_manager.hpc.batch.store import ArrayTask
from ccat_workflow_manager.hpc.queue_hints import QueueLimits
from ccat_workflow_manager.hpc.slurm.listing import (
    Seen,
    parse_config,
    parse_queued,
    parse_sacct,
    parse_sbatch,
    parse_silent_nodes,
    parse_sinfo,
    parse_squeue,
)
from ccat_workflow_manager.hpc.slurm.refusals import is_of_size, never_by_itself, refusal
from ccat_workflow_manager.hpc.slurm.script import output_pattern, render_options, render_sbatch
from ccat_workflow_manager.hpc.slurm.settings import SlurmSettings
from ccat_workflow_manager.lifecycle.models import Resources
from tests.support.golden_files import check_golden

EXTRA = {
    "qos": "long",
    "constraint": "avx512&bigmem",
    "gres": "scratch:10",
    "gpu_type": "a100",
    "reservation": "maintenance test",
    "nodes": "2-4",
    "ntasks": 8,
    "ntasks_per_node": 4,
    "exclusive": True,
    "contiguous": False,
    "exclude": "n[1-3]",
}

SITE = SlurmSettings(partition="science", account="ccat", qos="normal")
ASKED: dict[str, tuple[Resources, int, SlurmSettings]] = {
    "modest": (Resources(cpu=0.5, memory_gb=0.1, time_hours=0.001), 0, SlurmSettings()),
    "site-defaults": (Resources(), 0, SITE.model_copy(update={"signal_seconds": 120})),
    "all": (
        Resources(cpu=3.2, memory_gb=15.5, time_hours=2.26, gpu=2, partition="gpu", account="chai", extra=EXTRA),
        -5,
        SITE,
    ),
    "urgent": (Resources(time_hours=1), 7, SlurmSettings(signal_seconds=0)),
}


def test_what_is_asked_for() -> None:
    rendered: dict[str, Any] = {
        name: render_sbatch(
            render_options(*asked), name=f"ccat-{name}-1", output="/data/logs/scheduler.log", tasks=None
        )
        for name, asked in ASKED.items()
    }
    rendered["array"] = render_sbatch(
        render_options(*ASKED["modest"]), name="ccat-array-0123", output="/data/a.logs/%a", tasks=200, limit=50
    )
    check_golden("slurm-sbatch", rendered)
    assert not any("export" in option for argv in rendered.values() for option in argv)


def test_the_script() -> None:
    members = [
        ArrayTask("ccat-aa-1", "/data/pipelines/chai/run/grid/main/attempt-1/workspace"),
        ArrayTask("ccat-bb-1", "/data/it's $(here)/attempt-1/workspace"),
    ]
    number, start = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}", '"$SLURM_JOB_ID ${SLURM_RESTART_COUNT:-0}"'
    check_golden(
        "slurm-script",
        {
            "job": render_batch_script(
                members[:1], number=number, index=None, home="/home/o'ne", start=start, unset="SLURM_JWT"
            ).splitlines(),
            "array": render_batch_script(
                members, number=number, index='"$SLURM_ARRAY_TASK_ID"', home="/home/one"
            ).splitlines(),
        },
    )


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"export": "ALL"}, "extra.export is not one of"),
        ({"wrap": "rm -rf /"}, "extra.wrap is not one of"),
        ({"qos": "a\nb"}, "extra.qos must be a text"),
        ({"qos": ""}, "extra.qos must be a text"),
        ({"ntasks": 0}, "extra.ntasks must be a whole number"),
        ({"ntasks": True}, "extra.ntasks must be a whole number"),
        ({"exclusive": "yes"}, "extra.exclusive must be true or false"),
    ],
)
def test_options_that_are_refused(extra: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        render_options(Resources(extra=extra), 0, SlurmSettings())


def test_the_time_limit_is_never_shorter_than_asked() -> None:
    for minutes in range(1, 600):
        options = render_options(Resources(time_hours=minutes / 60), 0, SlurmSettings())
        assert f"--time={minutes}" in options


@pytest.mark.parametrize(
    ("path", "pattern"), [("/a/100%/b", "/a/100%%/b"), ("/a\\b", "/dev/null"), ("/a\nb", "/dev/null")]
)
def test_paths_that_mean_something_to_slurm(path: str, pattern: str) -> None:
    assert output_pattern(path) == pattern


SQUEUE = """\
1|COMPLETED|1795261948|1795261949|1795261950|1:00:00|n1|main|4|None|ccat-aa-1
2_2|PENDING|1795261948|N/A|N/A|UNLIMITED||main,short|1|JobArrayTaskLimit|ccat-array-0123
2_0|RUNNING|1795261948|1795261949|1795265549|1-01:00:00|n[1-2]|main|2|None|ccat-array-0123
3+1|RUNNING|1795261948|1795261949|1795265549|1:00:00|n1|main|1|None|somebody's|odd name
"""

SACCT = """\
1|FAILED|3:0|1795261948|1795261949|1795261950|1|60|00:03.250||8|n1|ccat-aa-1
1.batch|FAILED|3:0|1795261949|1795261949|1795261950|1||00:03.250|70916K|8|n1|batch
1.extern|COMPLETED|0:0|1795261949|1795261949|1795261950|1||00:00.001|1M|8|n1|extern
1.0|COMPLETED|0:0|1795261949|1795261949|1795261950|1||00:02.000|104857600|8|n1|srun
2_1|CANCELLED by 1000|0:0|1795261948|1795261949|1795261950|1||1-00:00:01||0|None assigned|ccat-array-0123
2_[2-9]|PENDING|0:0|1795261948|Unknown|Unknown|0|60|00:00:00||0|None assigned|ccat-array-0123
3|RUNNING|0:0|1795261948|1795261949|Unknown|2|60|00:00:00||2|n1|allocation
"""


def test_squeue() -> None:
    jobs = parse_squeue(SQUEUE)
    assert set(jobs) == {("1", None), ("2", 2), ("2", 0)}
    done, waiting, running = jobs["1", None], jobs["2", 2], jobs["2", 0]
    assert (done.state, done.name, done.reason, done.limit_seconds, done.node) == (
        "COMPLETED", "ccat-aa-1", "", 3600, "n1",
    )  # fmt: skip
    assert done.started_at is not None
    assert done.ended_at is not None
    assert (done.ended_at - done.started_at).total_seconds() == 1
    assert (waiting.reason, waiting.started_at, waiting.limit_seconds) == ("JobArrayTaskLimit", None, None)
    assert (done.allocated_seconds, waiting.allocated_seconds) == (4, None)
    assert (running.limit_seconds, running.node) == (25 * 3600, "n[1-2]")


def test_sacct() -> None:
    jobs = parse_sacct(SACCT)
    assert set(jobs) == {("1", None), ("2", 1), ("3", None)}
    failed, cancelled = jobs["1", None], jobs["2", 1]
    assert (failed.exit_code, failed.signal, failed.cpu_seconds, failed.peak_bytes) == (3, None, 3.25, 104857600)
    assert failed.allocated_seconds == 8
    assert (cancelled.state, cancelled.detail, cancelled.node) == ("CANCELLED", "by 1000", None)
    assert cancelled.cpu_seconds == 86401
    assert jobs["3", None].ended_at is None


def test_silent_nodes() -> None:
    text = "n1|idle\nn2|allocated*\nn3|down*\nn4|unknown\nn5|drained*\nn2|allocated*\n"
    assert parse_silent_nodes(text) == {"n2", "n4", "n5"}


def test_sinfo() -> None:
    text = (
        "main*|up|infinite|2/0/0/2|2/6/0/8|4|3000+|mixed|(null)\n"
        "main*|up|infinite|0/2/0/2|0/2K/0/2K|1000+|9216|idle~|gpu:2\n"
        "main*|up|infinite|0/1/0/1|0/4/0/4|4|1024|idle*|(null)\n"
        "main*|up|infinite|0/1K/0/1K|0/0/0/0|4|1024|reserved|(null)\n"
        "old|down|2:00|0/0/1/1|0/0/4/4|4|1024|drained*|gpu:a100:4(S:0-1),gpu:h100:2,scratch:9\n"
    )
    main, old = parse_sinfo(text)
    assert (main.name, main.up, main.nodes["idle"], main.cpus["total"], main.memory_mb, main.gres) == (
        "main", True, 1003, 2012, 9216, ("gpu:2",),
    )  # fmt: skip
    assert main.node_states == {"full": 0, "mixed": 2, "idle": 2, "down": 1, "other": 1000}
    assert old.node_states["down"] == 1
    assert (old.up, old.limit) == (False, "2:00")
    assert main.limits == QueueLimits("main", default=True, cpus=1000, memory_gb=9, gpus=2)
    assert old.limits == QueueLimits("old", cpus=4, memory_gb=1, gpus=6, hours=120 / 3600)


def test_the_queue_says_who_else_waits_and_for_how_long_ours_do() -> None:
    now = datetime.fromtimestamp(1795262248, UTC)
    [main, _] = parse_sinfo("main|up|infinite|1/0/0/1|1/0/0/1|1|1|allocated|\nold|up|1:00|0/0/0/0|0/0/0/0|1|1|idle|")
    jobs = (
        Seen("RUNNING", partition="main", submitted_at=utc(1795262000), started_at=utc(1795262040)),
        Seen("COMPLETED", partition="main", submitted_at=utc(1795261948), started_at=utc(1795262148)),
        Seen("RUNNING", partition="main", submitted_at=utc(1795200000), started_at=utc(1795250000)),
        Seen("PENDING", partition="main,old", submitted_at=utc(1795262188), reason="Priority"),
        Seen("PENDING", partition="main", submitted_at=utc(1795100000), reason="JobHeldAdmin"),
    )
    status = main.status(jobs, None, {}, {"main": 3}, now)
    assert (status.running, status.pending, status.details["held"], status.others_pending) == (2, 2, 1, 3)
    assert (status.waited_seconds, status.waiting_seconds) == (120, 60)
    assert main.status((), None, {}, {}, now).others_pending == 0
    nothing = main.status((), None, {}, None, now)
    assert (nothing.others_pending, nothing.waited_seconds, nothing.waiting_seconds) == (None, None, None)


def test_waiting_jobs_of_others_are_counted_with_the_tasks_of_their_arrays() -> None:
    text = (
        "7|ada|main\n8_[0-9,12-20:4%2]|ada|main,old\n9_3|ada|old\n10+0|ada|old\n11_[5]|ada|gpu\n12_[odd]|ada|gpu\n"
        "13|us|main\n14_[1-99]|us|main\n15|root|main\n"
    )
    assert parse_queued(text, {"14"}, {"root"}) == {"main": 14, "old": 15, "gpu": 2}
    assert parse_queued("", {"14"}, {"root"}) == {}


@pytest.mark.parametrize("text", ["<html>out to lunch</html>", "1|RUNNING", "x|" * 10 + "x", "1|||||||||||"])
def test_what_cannot_be_read_is_an_error(text: str) -> None:
    for parse in (parse_squeue, parse_sacct, parse_sinfo, parse_config, parse_sbatch):
        with pytest.raises(ValueError):  # noqa: PT011 - each has words of its own
            parse(text)


def test_nothing_is_an_answer() -> None:
    assert (parse_squeue(""), parse_sacct(""), parse_sinfo("")) == ({}, {}, [])


@pytest.mark.parametrize(("text", "number"), [("28\n", "28"), ("28;lab\n", "28"), ("a warning\n29\n", "29")])
def test_the_number_of_a_new_job(text: str, number: str) -> None:
    assert parse_sbatch(text) == number


FAILED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        (FAILED + "Socket timed out on send/recv operation", Refusal.UNSURE),
        (FAILED + "Unable to contact slurm controller (connect failure)", Refusal.UNSURE),
        (FAILED + "Zero Bytes were transmitted or received", Refusal.UNSURE),
        (FAILED + "Protocol authentication error", Refusal.UNSURE),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", Refusal.FULL),
        ("sbatch: error: Slurm job queue full, sleeping and retrying", Refusal.FULL),
        (FAILED + "Resource temporarily unavailable", Refusal.FULL),
        (
            f"sbatch: error: Slurm temporarily unable to accept job\n{FAILED}Socket timed out on send/recv operation",
            Refusal.UNSURE,
        ),
        ("Segmentation fault", Refusal.UNSURE),
        ("it said nothing", Refusal.UNSURE),
        (
            FAILED + "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            Refusal.LATER,
        ),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit\n" + FAILED + "Job violates accounting/QOS policy", Refusal.LATER),
        ("sbatch: error: AssocMaxSubmitJobLimit\n" + FAILED + "Job violates accounting/QOS policy", Refusal.LATER),
        ("sbatch: error: QOSMaxCpuPerJobLimit\n" + FAILED + "Job violates accounting/QOS policy", Refusal.NEVER),
        ("sbatch: error: QOSMaxWallDurationPerJobLimit\n" + FAILED + "Job violates accounting/QOS", Refusal.NEVER),
        (FAILED + "Required partition not available (inactive or drain)", Refusal.LATER),
        (FAILED + "Invalid partition name specified", Refusal.NEVER),
        (FAILED + "Requested node configuration is not available", Refusal.NEVER),
        (FAILED + "Invalid account or account/partition combination specified", Refusal.NEVER),
        (FAILED + "Requested time limit is invalid (missing or exceeds some limit)", Refusal.NEVER),
        (FAILED + "Invalid qos specification", Refusal.NEVER),
        ("sbatch: error: Invalid generic resource (gres) specification", Refusal.NEVER),
        ("sbatch: unrecognized option '--bogus=1'", Refusal.NEVER),
        ("sbatch: error: Invalid --time specification", Refusal.NEVER),
    ],
)
def test_what_a_refusal_means(words: str, verdict: Refusal) -> None:
    assert refusal(1, words) is verdict


OF_ONE_JOB = """
AssocMaxBBMinutesPerJob AssocMaxBBPerJob AssocMaxBBPerNode AssocMaxBillingMinutesPerJob AssocMaxBillingPerJob
AssocMaxBillingPerNode AssocMaxCpuMinutesPerJobLimit AssocMaxCpuPerJobLimit AssocMaxCpuPerNode
AssocMaxEnergyMinutesPerJob AssocMaxEnergyPerJob AssocMaxEnergyPerNode AssocMaxGRESMinutesPerJob AssocMaxGRESPerJob
AssocMaxGRESPerNode AssocMaxLicenseMinutesPerJob AssocMaxLicensePerJob AssocMaxMemMinutesPerJob AssocMaxMemPerJob
AssocMaxMemPerNode AssocMaxNodeMinutesPerJob AssocMaxNodePerJobLimit AssocMaxUnknownMinutesPerJob AssocMaxUnknownPerJob
AssocMaxUnknownPerNode AssocMaxWallDurationPerJobLimit QOSMaxBBPerJob QOSMaxBBPerNode QOSMaxBillingMinutesPerJob
QOSMaxBillingPerJob QOSMaxBillingPerNode QOSMaxCpuMinutesPerJobLimit QOSMaxCpuPerJobLimit QOSMaxCpuPerNode
QOSMaxEnergyMinutesPerJob QOSMaxEnergyPerJob QOSMaxEnergyPerNode QOSMaxGRESMinutesPerJob QOSMaxGRESPerJob
QOSMaxGRESPerNode QOSMaxLicenseMinutesPerJob QOSMaxLicensePerJob QOSMaxMemoryMinutesPerJob QOSMaxMemoryPerJob
QOSMaxMemoryPerNode QOSMaxNodeMinutesPerJob QOSMaxNodePerJobLimit QOSMaxUnknownMinutesPerJob QOSMaxUnknownPerJob
QOSMaxUnknownPerNode QOSMaxWallDurationPerJobLimit QOSMinBB QOSMinBilling QOSMinCpuNotSatisfied QOSMinEnergy QOSMinGRES
QOSMinLicense QOSMinMemory QOSMinNode QOSMinUnknown
"""
OF_MANY_JOBS = """
AssocGrpBB AssocGrpBBMinutes AssocGrpBBRunMinutes AssocGrpBilling AssocGrpBillingMinutes AssocGrpBillingRunMinutes
AssocGrpCPUMinutesLimit AssocGrpCPURunMinutesLimit AssocGrpCpuLimit AssocGrpEnergy AssocGrpEnergyMinutes AssocGrpGRES
AssocGrpGRESMinutes AssocGrpGRESRunMinutes AssocGrpLicense AssocGrpMemLimit AssocGrpMemMinutes AssocGrpNodeLimit
AssocGrpNodeMinutes AssocGrpWallLimit AssocGrpEnergyRunMinutes AssocGrpLicenseMinutes AssocGrpLicenseRunMinutes
AssocGrpMemRunMinutes AssocGrpNodeRunMinutes AssocGrpUnknown AssocGrpUnknownMinutes AssocGrpUnknownRunMinutes
QOSGrpBB QOSGrpBBMinutes QOSGrpBBRunMinutes QOSGrpBilling QOSGrpBillingMinutes QOSGrpBillingRunMinutes
QOSGrpCPUMinutesLimit QOSGrpCPURunMinutesLimit QOSGrpCpuLimit QOSGrpEnergy QOSGrpEnergyMinutes QOSGrpEnergyRunMinutes
QOSGrpGRES QOSGrpGRESMinutes QOSGrpGRESRunMinutes QOSGrpLicense QOSGrpLicenseMinutes QOSGrpLicenseRunMinutes
QOSGrpMemLimit QOSGrpMemoryMinutes QOSGrpMemoryRunMinutes QOSGrpNodeLimit QOSGrpNodeMinutes QOSGrpNodeRunMinutes
QOSGrpUnknown QOSGrpUnknownMinutes QOSGrpUnknownRunMinutes QOSGrpWallLimit QOSMaxBBPerUser
QOSMaxBillingPerUser QOSMaxCpuPerUserLimit QOSMaxEnergyPerUser QOSMaxGRESPerUser QOSMaxLicensePerUser
QOSMaxMemoryPerUser QOSMaxNodePerUserLimit QOSMaxUnknownPerUser
MaxBBPerAccount MaxCpuPerAccount MaxGRESPerAccount MaxMemoryPerAccount MaxNodePerAccount
"""
OF_THEIR_NUMBER = """
AssocGrpJobsLimit AssocGrpSubmitJobsLimit AssocMaxJobsLimit AssocMaxSubmitJobLimit QOSGrpJobsLimit QOSGrpSubmitJobsLimit
QOSMaxJobsPerUserLimit QOSMaxSubmitJobPerUserLimit MaxJobsPerAccount MaxSubmitJobsPerAccount
"""
"""Every limit of Slurm 22.05, from its library."""


@pytest.mark.parametrize("word", f"{OF_ONE_JOB} {OF_MANY_JOBS} {OF_THEIR_NUMBER}".split())
def test_which_limits_will_never_let_a_job_through(word: str) -> None:
    words = f"sbatch: error: {word}\n{FAILED}Job violates accounting/QOS policy (job submit limit, user's size ...)"
    alone = word in OF_ONE_JOB.split()
    assert refusal(1, words) is (Refusal.NEVER if alone else Refusal.LATER)
    assert never_by_itself(word) is alone
    assert alone or is_of_size(words) is (word in OF_MANY_JOBS.split())


def test_a_killed_sbatch_may_have_got_through() -> None:
    assert refusal(-9, FAILED + "Invalid partition name specified") is Refusal.UNSURE
