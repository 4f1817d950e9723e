"""What a program finds when it starts: its arguments, its environment, its directory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock
from uuid import uuid4

from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import BackendHarness, check
from ccat_workflow_manager.testing.programs import REPORT, sh

AWKWARD = (
    "",
    " ",
    "two words",
    " leading and trailing ",
    "single ' quote",
    'double " quote',
    "'\"'\"'",
    "$HOME ${HOME} $(id) `id`",
    "back\\slash \\n \\",
    "a;b|c&d>e<f",
    "* ? [a-z] ~ {a,b}",
    "#hash !bang %d %s",
    "line\nbreak\n",
    "tab\tand\rreturn",
    "--option=value",
    "-",
    "key=value:other,third",
    "{{ braces }} @at ^caret",
    "\u00e9\u00e8 \u4e16\u754c \u03b1\u03b2",
    "\x01\x1b[31m\x7f",
    "long " + "x" * 5000,
)

AWKWARD_DIRECTORY = 'it\'s:a,"strange" $(place) \u00e9'
SECRET = "CCAT_WM_CONTRACT_SECRET"


def clause_arguments_and_environment_arrive(harness: BackendHarness) -> None:
    """Arguments and environment variables arrive as they are: spaces, quotes, `$()`, line breaks, non-ASCII."""
    harness.needs_programs()
    environment = {f"AWKWARD_{number}": value for number, value in enumerate(AWKWARD)}
    check_arrival(harness, AWKWARD, environment)


def clause_awkward_paths(harness: BackendHarness) -> None:
    """Directories may have spaces, quotes, `:`, `,`, `$` and non-ASCII in their names."""
    harness.needs_programs()
    check_arrival(harness, ["plain"], {"PLAIN": "plain"}, directory=AWKWARD_DIRECTORY)


def clause_environment_is_clean(harness: BackendHarness) -> None:
    """A job has PATH, HOME, a UTF-8 locale and its own variables, but nothing of the process that submitted it."""
    harness.needs_programs()
    with mock.patch.dict(os.environ, {SECRET: "must not be seen"}):
        seen = report(harness, [], {"OWN": "seen"})["environment"]
    check(SECRET not in seen, "the job gets a variable of the submitting process")
    check(seen.get("OWN") == "seen", "the job does not see its own variable")
    check("PATH" in seen and "HOME" in seen, f"PATH and HOME must be set, the job sees {sorted(seen)}")
    locale = (seen.get("LC_ALL") or seen.get("LANG") or "").lower().replace("-", "")
    check("utf8" in locale, f"the locale must be a UTF-8 one, not {locale!r}")


def clause_own_variables_win(harness: BackendHarness) -> None:
    """A job that brings its own PATH, HOME or LANG gets them."""
    harness.needs_programs()
    wanted = {"PATH": "/bin:/usr/bin:/own", "HOME": "/nowhere", "LANG": "C.UTF-8"}
    seen = report(harness, [], wanted)["environment"]
    got = {name: seen.get(name) for name in wanted}
    check(got == wanted, f"asked for {wanted}, the job sees {got}")


def clause_starts_in_workspace(harness: BackendHarness) -> None:
    """A program starts in its workspace."""
    harness.needs_programs()
    attempt = harness.attempt()
    target = attempt.output / "report.json"
    job = harness.submit(harness.python, "-I", "-c", REPORT, str(target), attempt=attempt)
    harness.until(job, JobStatus.COMPLETED)
    directory = json.loads(target.read_text())["directory"]
    check(os.path.realpath(directory) == os.path.realpath(attempt.workspace), f"the program started in {directory}")


def clause_only_the_workspace_exists(harness: BackendHarness) -> None:
    """Of the directories of a job, only its workspace has to exist, under any name."""
    harness.needs_programs()
    root = harness.workdir / "only" / uuid4().hex
    workspace = root / "place"
    workspace.mkdir(parents=True)
    request = replace(
        harness.request(*sh("echo it runs; echo here > left")),
        workspace_dir=str(workspace),
        input_dir=str(root / "input"),
        output_dir=str(root / "output"),
        manifest_path=str(root / "manifest.json"),
        job_name=f"only-{uuid4().hex}",
    )
    job = harness.submit_request(request)
    harness.until(job, JobStatus.COMPLETED)
    check((workspace / "left").read_text() == "here\n", "the job has not run in its workspace")
    log = harness.backend.get_logs(job.id)
    check(log == "it runs\n", f"the log of the job is {log!r}")


def check_arrival(
    harness: BackendHarness, arguments: Sequence[str], environment: Mapping[str, str], directory: str = ""
) -> None:
    """Run a program with these and compare what it saw."""
    seen = report(harness, arguments, environment, directory)
    check(seen["arguments"] == list(arguments), f"the arguments {list(arguments)!r} arrived as {seen['arguments']!r}")
    for name, value in environment.items():
        got = seen["environment"].get(name)
        check(got == value, f"the environment variable {name}={value!r} arrived as {got!r}")


def report(
    harness: BackendHarness, arguments: Sequence[str], environment: Mapping[str, str], directory: str = ""
) -> dict[str, Any]:
    """What a program sees that is started with these."""
    attempt = harness.attempt(directory)
    target = attempt.output / "report.json"
    # -X utf8: the program reads its arguments as UTF-8 whatever locale it was given; that has a clause of its own.
    command = (harness.python, "-I", "-X", "utf8", "-c", REPORT, str(target), *arguments)
    job = harness.submit(*command, environment=environment, attempt=attempt)
    harness.until(job, JobStatus.COMPLETED)
    seen: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return seen
