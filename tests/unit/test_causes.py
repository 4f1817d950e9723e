"""What an explanation tells people to do about a failure."""

from __future__ import annotations

import re

import pytest
from typer.main import get_command

from ccat_workflow_manager.cli import app
from ccat_workflow_manager.failures import FAILURES, FailureReason
from ccat_workflow_manager.lifecycle.causes import Cause, Place, remedy_of

PLACE = Place("0197c9a4", "reduce", "scan_003")


@pytest.mark.parametrize("reason", [*FAILURES, None, "of a later version"])
def test_every_failure_has_commands_that_can_be_pasted(reason: str | None) -> None:
    remedy = remedy_of(Cause.FAILED, None, reason, PLACE)
    assert re.search(r"0197c9a4", remedy)
    assert not re.search(r"\b(?:RUN|STEP|KEY)\b", remedy)
    for command in re.findall(r"`ccat-wm ([a-z ]+) ", remedy):
        words = command.split()
        group = get_command(app)
        for word in words:
            group = group.commands[word]  # type: ignore[attr-defined]


def test_resources_are_those_of_the_step() -> None:
    memory = remedy_of(Cause.FAILED, None, FailureReason.OUT_OF_MEMORY, PLACE)
    assert "ccat-wm run retry 0197c9a4 --step reduce --memory" in memory
    assert "ccat-wm run logs 0197c9a4 reduce/scan_003" in remedy_of(Cause.FAILED, None, "program_failed", PLACE)
