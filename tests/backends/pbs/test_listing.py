"""Reading PBS.

`golden/pbs-recorded-23.06.06.*` hold what OpenPBS 23.06.06 printed for three jobs, cut down to the attributes that were
noted then, the same jobs in both modes; `pbs-recorded-slurm-wlm-torque-22.05.8.txt` is one whole answer of the wrappers
around Slurm. The block of Torque, and that of its queue, follow the manuals.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ccat_workflow_manager.hpc.pbs.listing import (
    Queue,
    Seen,
    parse_json,
    parse_number,
    parse_numbers,
    parse_queues,
    parse_text,
    parse_version,
    sequence,
)
from ccat_workflow_manager.hpc.pbs.script import Dialect
from tests.support.golden_files import DIRECTORY

IMPOSSIBLE = "Can Never Run: Insufficient amount of resource: ncpus (R: 99 A: 8 T: 8)"
RECORDED = {
    "0.pbs": Seen(
        "F",
        "exit-3",
        substate=93,
        exit_status=3,
        submitted_at=datetime(2026, 11, 21, 8, 59, 24, tzinfo=UTC),
        used_seconds=3,
        cpu_seconds=0,
        memory_bytes=0,
    ),
    "1[].pbs": Seen("B", "array"),
    "2.pbs": Seen("Q", "impossible", comment=IMPOSSIBLE),
}


def recorded(kind: str) -> str:
    return (DIRECTORY / f"pbs-recorded-23.06.06.{kind}").read_text()


def test_both_modes_say_the_same() -> None:
    assert parse_json(recorded("json")) == RECORDED
    assert parse_text(recorded("txt")) == RECORDED


def test_torque_and_the_wrappers_around_slurm() -> None:
    torque = (
        "Job Id: 522083.site.example\n    Job_Name = ccat-1\n"
        "    resources_used.walltime = 00:00:14\n    job_state = C\n"
        "    Resource_List.walltime = 00:00:10\n    start_time = 1508499041\n    exit_status = 271\n\n"
    )
    seen = parse_text(torque)["522083.site.example"]
    assert (seen.state, seen.exit_status, seen.used_seconds, seen.limit_seconds) == ("C", 271, 14, 10)
    assert seen.started_at == datetime(2017, 10, 20, 11, 30, 41, tzinfo=UTC)
    wrapper = parse_text((DIRECTORY / "pbs-recorded-slurm-wlm-torque-22.05.8.txt").read_text())["2"]
    assert (wrapper.state, wrapper.exit_status, wrapper.queue, wrapper.node) == ("C", None, "main", "p35763n1")
    assert (wrapper.name, wrapper.limit_seconds) == ("ccat-b147eaf798a443bf9e5b34984b590974-1", 180)
    assert wrapper.submitted_at == datetime(2026, 11, 21, 12, 33, 7, tzinfo=UTC)
    assert wrapper.changed_at == datetime(2026, 11, 21, 12, 33, 8, tzinfo=UTC)


def test_values_are_unfolded() -> None:
    text = (
        "Job Id: 3.pbs\n    comment = one t\n\two\n    Variable_List = A=a b,\n\tB=x\n\n    y,C=c\n    job_state = R\n"
    )
    [seen] = parse_text(text).values()
    assert (seen.state, seen.comment) == ("R", "one two")


@pytest.mark.parametrize(
    "text", ["<html>out to lunch</html>", "[]", "{}", '{"pbs_version": "23", "Jobs": []}', '{"pbs']
)
def test_garbage_is_no_answer(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text)
    with pytest.raises(ValueError, match="no attribute"):
        parse_text(text)


def test_half_an_answer_is_no_answer() -> None:
    with pytest.raises(ValueError, match="without a state"):
        parse_text("Job Id: 3.pbs\n    Job_Name = x\n")


def test_no_jobs() -> None:
    head = '{"timestamp": 1795251570, "pbs_version": "23.06.06", "pbs_server": "pbs"}'
    assert parse_json(head) == parse_json("") == parse_text("") == {}


@pytest.mark.parametrize("number", ["0.pbs", "123.pbs-01.site.example", "1[].pbs", "1[0].pbs", "7"])
def test_ids(number: str) -> None:
    assert parse_number(f"{number}\n") == number


@pytest.mark.parametrize("text", ["", "Your job 5 has been submitted, thank you", "../1.pbs", "1.pbs;rm"])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="no job id"):
        parse_number(text)


def test_ids_are_sorted_by_age() -> None:
    assert parse_numbers("10.pbs\n9.pbs\n") == ["9.pbs", "10.pbs"]
    assert sequence("1[5].pbs") == 1


def test_queues() -> None:
    text = (
        "Queue: workq\n    queue_type = Execution\n    total_jobs = 3\n"
        "    state_count = Transit:0 Queued:1 Held:0 Waiting:0 Running:2 Exiting:0 Begun\n\t:0\n"
        "    resources_max.walltime = 48:00:00\n    enabled = True\n    started = True\n\n"
        "Queue: old\n    total_jobs = 0\n    enabled = False\n    started = True\n"
    )
    counts = {"transit": 0, "queued": 1, "held": 0, "waiting": 0, "running": 2, "exiting": 0, "begun": 0}
    assert parse_queues(text) == [Queue("workq", True, True, 3, "48:00:00", counts), Queue("old", False, True, 0)]
    wrapper = (
        "Queue:\tmain\n\tqueue_type = Execution\n\tresources_default.nodes = 4\n\tenabled = yes\n\tstarted = yes\n\n"
    )
    assert parse_queues(wrapper) == [Queue("main", True, True, 0)]


def test_families() -> None:
    assert parse_version("pbs_version = 23.06.06\n") is Dialect.OPENPBS
    assert parse_version("pbs_version = PBSPro_13.1.0\n") is Dialect.OPENPBS
    assert parse_version("Version: 6.1.2\nCommit: 661e092\n") is Dialect.TORQUE
