"""The progress of a run and the table of resources at its end."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from rich.console import Console

from ccat_workflow_manager.commands.watch import progress, steps_of, steps_table, summary, watch_run
from ccat_workflow_manager.errors import ServiceUnavailable

RUN = "01990000-0000-7000-8000-000000000001"


def step_run(step: str, status: str, key: str = "main", **facts: Any) -> dict[str, Any]:
    blank = dict.fromkeys(
        ("reason", "reason_text", "waiting_for", "exit_code", "wall_time_seconds", "cpu_hours", "peak_memory_gb",
         "started_at", "finished_at")
    )  # fmt: skip
    return {"step": step, "key": key, "status": status, **blank, **facts}


def a_run(status: str, *step_runs: dict[str, Any], **facts: Any) -> dict[str, Any]:
    return {
        "id": RUN, "pipeline": "greet", "status": status, "paused": False, "cancel_requested_at": None,
        "created_at": "2026-01-31T12:00:00.000000Z", "finished_at": None, "step_runs": list(step_runs), **facts,
    }  # fmt: skip


class FakeSource:
    """Returns one state of a run after the other; raises those that are errors."""

    def __init__(self, states: Iterable[dict[str, Any] | Exception]) -> None:
        self._states: Iterator[dict[str, Any] | Exception] = iter(states)

    def run(self, run_id: str) -> dict[str, Any]:
        state = next(self._states)
        if isinstance(state, Exception):
            raise state
        return state


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=160, force_terminal=terminal, color_system=None, markup=False)


def printed(out: Console) -> str:
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def drawn(thing: Any) -> str:
    out = console()
    out.print(thing)
    return printed(out)


PENDING = a_run("PENDING", step_run("hello", "PENDING", "a", waiting_for="queued"), step_run("sum", "PENDING"))
RUNNING = a_run("RUNNING", step_run("hello", "RUNNING", "a"), step_run("sum", "PENDING", waiting_for="waits for hello"))
DONE = a_run("COMPLETED", step_run("hello", "COMPLETED", "a"), step_run("sum", "COMPLETED"))


@pytest.mark.parametrize("terminal", [True, False])
def test_it_watches_until_the_run_is_finished(terminal: bool) -> None:
    pauses: list[float] = []
    out = console(terminal=terminal)
    finished = watch_run(FakeSource([PENDING, RUNNING, DONE]), "latest", out, pause=pauses.append)
    assert finished is DONE
    assert len(pauses) == 2
    assert all(0.1 <= pause <= 1 for pause in pauses)


def test_without_a_terminal_each_change_is_one_line() -> None:
    out = console()
    watch_run(FakeSource([PENDING, PENDING, RUNNING, RUNNING, DONE]), RUN, out, pause=lambda seconds: None)
    lines = [line.partition(" s  ")[2] for line in printed(out).splitlines()]
    assert lines == [
        f"greet {RUN}: PENDING",
        "hello: 0/1 completed, 1 waiting (queued)",
        "sum: 0/1 completed, 1 waiting",
        f"greet {RUN}: RUNNING",
        "hello: 0/1 completed, 1 running",
        "sum: 0/1 completed, 1 waiting (waits for hello)",
        f"greet {RUN}: COMPLETED",
        "hello: 1/1 completed",
        "sum: 1/1 completed",
    ]


def test_watching_survives_a_short_outage() -> None:
    out = console()
    states: list[dict[str, Any] | Exception] = [PENDING, *[ServiceUnavailable("gone") for _ in range(2)], DONE]
    assert watch_run(FakeSource(states), RUN, out, pause=lambda seconds: None) is DONE
    assert printed(out).count("gone; trying again") == 1


def test_watching_needs_a_service_at_the_start() -> None:
    with pytest.raises(ServiceUnavailable):
        watch_run(FakeSource([ServiceUnavailable("gone")]), RUN, console(), pause=lambda seconds: None)


def test_the_progress_shows_counts_failures_and_waits() -> None:
    failed = step_run("hello", "FAILED", "b", reason="program_failed", reason_text="It ended badly.", exit_code=3)
    text = drawn(
        progress(
            a_run(
                "RUNNING", step_run("hello", "COMPLETED", "a"), failed, step_run("hello", "STAGING_DATA", "c"),
                step_run("sum", "PENDING", waiting_for="waits for hello"), paused=True,
            )
        )
    )  # fmt: skip
    assert "RUNNING, paused" in text
    assert "1/3" in text
    assert "1 staging, 1 failed" in text
    assert "1 waiting  waits for hello" in text
    assert "hello/b failed: It ended badly.\n" in text


def test_the_progress_shows_few_of_many_failures() -> None:
    many = [step_run("hello", "FAILED", str(n), reason_text="no") for n in range(4000)]
    text = drawn(progress(a_run("FAILED", *many)))
    assert len(text.splitlines()) < 12
    assert "and 3995 more failed" in text


def test_control_characters_are_escaped() -> None:
    evil = step_run("hello", "FAILED", "k", reason_text="\x1b]0;title\x07 [red]x[/red]")
    text = drawn(progress(a_run("FAILED", evil)))
    assert "\x1b" not in text
    assert "\\x1b]0;title\\x07 [red]x[/red]" in text


def test_the_table_of_resources() -> None:
    first = {"started_at": "2026-01-31T12:00:00Z", "finished_at": "2026-01-31T12:00:10Z"}
    second = {"started_at": "2026-01-31T12:00:05Z", "finished_at": "2026-01-31T12:02:05Z"}
    run = a_run(
        "COMPLETED",
        step_run("hello", "COMPLETED", "a", **first, cpu_hours=0.001, peak_memory_gb=0.5),
        step_run("hello", "COMPLETED", "b", **second, cpu_hours=2.5, peak_memory_gb=1.25),
        step_run("sum", "COMPLETED", **second, wall_time_seconds=3.25, cpu_hours=None, peak_memory_gb=None),
    )
    lines = [line.split() for line in drawn(steps_table(run)).splitlines()]
    assert ["hello", "2", "completed", "2", "min", "05", "s", "2.50", "1.2", "GB"] in lines
    assert ["sum", "completed", "3.2", "s"] in lines
    assert ["run", "COMPLETED", "2", "min", "05", "s", "2.50", "1.2", "GB"] in lines


def test_the_summary_of_a_failed_run_names_its_log() -> None:
    out = console()
    failed = step_run("hello", "FAILED", "b", reason_text="no", started_at="2026-01-31T12:00:00Z")
    summary(a_run("FAILED", failed, step_run("sum", "SKIPPED")), out)
    assert f"ccat-wm run logs {RUN} hello/b" in printed(out)
    assert "1 skipped" in printed(out)
    out = console()
    summary(a_run("FAILED", step_run("hello", "FAILED", "b", reason_text="no image")), out)
    assert "run logs" not in printed(out)


def test_steps_keep_the_order_of_the_definition() -> None:
    assert [step.name for step in steps_of(PENDING)] == ["hello", "sum"]
