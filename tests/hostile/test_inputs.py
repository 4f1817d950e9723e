"""Inputs out of reach, and names and files that harm: refused or failed with the path, and nothing is staged."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.definition.input_roots import InputRoots
from ccat_workflow_manager.definition.inputs import WantedInput
from ccat_workflow_manager.errors import Invalid, StagingError
from ccat_workflow_manager.execution.inputs import InputLimits, find_inputs
from ccat_workflow_manager.execution.launch_spec import no_progress
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.services.run_request import RunRequest
from tests.support.fixtures_store import ContextMaker
from tests.support.inputs import no_fetch
from tests.support.step_runs import rows


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    directory = tmp_path / "raw"
    directory.mkdir()
    (directory / "scan").write_text("scan")
    return directory


def failure(raw: Path, source: str) -> tuple[FailureReason, str]:
    roots, wanted = InputRoots.of([str(raw)], free=False), WantedInput(source, None, "*" in source)
    with pytest.raises(StagingError) as failed:
        find_inputs([wanted], roots, InputLimits(), known=None, fetch=no_fetch, progress=no_progress)
    return failed.value.reason, failed.value.message


@pytest.mark.parametrize("kind", ["fifo", "socket", "in a directory"])
def test_what_is_neither_a_file_nor_a_directory_does_not_hold_up_the_worker(raw: Path, kind: str) -> None:
    path = raw / "odd"
    with socket.socket(socket.AF_UNIX) as made:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            made.bind(os.path.relpath(path))
        else:
            path.mkdir()
            os.mkfifo(path / "inside")
        reason, message = failure(raw, str(path))
    assert reason is FailureReason.INPUT_UNREADABLE
    assert str(path) in message


@pytest.mark.parametrize("name", [b"bad\xff", b"line\nbreak", b"\x1b[2J"])
def test_names_that_no_manifest_can_hold(raw: Path, name: bytes) -> None:
    Path(os.fsdecode(bytes(raw) + b"/" + name)).touch()
    reason, message = failure(raw, f"{raw}/*")
    assert reason is FailureReason.INPUT_REFUSED
    assert message.isprintable()


def test_a_chain_of_links_that_leaves_the_root(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").touch()
    (raw / "one").symlink_to("two")
    (raw / "two").symlink_to(tmp_path / "secret")
    (raw / "circle").symlink_to("circle")
    assert failure(raw, f"{raw}/one/key")[0] is FailureReason.INPUT_REFUSED
    assert failure(raw, f"{raw}/one/*")[0] is FailureReason.INPUT_REFUSED
    assert failure(raw, f"{raw}/circle")[0] is FailureReason.INPUT_UNREADABLE


def step(**more: Any) -> dict[str, Any]:
    return {"name": "p", "steps": [{"name": "s", "command": ["true"], **more}]}


BAD: list[dict[str, Any]] = [
    {"inputs": ["/etc/passwd"]},
    {"inputs": ["RAW/../secret"]},
    {"inputs": ["RAW/${item}"], "foreach": ["../secret"]},
    {"inputs": ["RAW/${item}"], "foreach": ["a\nb"]},
    {"inputs": ["${item}"], "foreach": ["/etc/passwd"]},
    {"inputs": ["s3://elsewhere/key"]},
    {"inputs": ["http://169.254.169.254/latest/meta-data"]},
    {"foreach": {"glob": "/etc/*"}},
    {"foreach": {"glob": "RAW/none*"}},
    {"foreach": {"glob": "RAW/out/*"}},
    {"foreach": {"glob": "RAW/many/*"}},
    {"inputs": ["RAW/a\0b"]},
]


@pytest.mark.parametrize("bad", BAD, ids=[str(each)[:50] for each in BAD])
def test_a_request_is_refused_and_leaves_nothing(
    make_context: ContextMaker, raw: Path, tmp_path: Path, bad: dict[str, Any]
) -> None:
    context = make_context("noop", INPUT_ROOTS=f"{raw},s3://night,http://archive", REQUEST_STEP_RUNS=20)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").touch()
    (raw / "out").symlink_to(tmp_path / "secret")
    (raw / "many").mkdir()
    for number in range(21):
        (raw / "many" / str(number)).touch()
    given = json.loads(json.dumps(step(**bad)).replace("RAW", str(raw)))
    with pytest.raises(Invalid) as refused:
        context.submitter.submit(RunRequest(spec=given), actor="mallory")
    assert all(fault.path.startswith("spec.steps[0].") for fault in refused.value.faults)
    assert rows(context, "*", "runs") == []
