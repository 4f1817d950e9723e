"""Expands the patterns of `foreach` when a run is planned, before the transaction that creates it.

The step runs are rows of the run from its first moment, with counters and edges, so their number must be known then.
The manager looks itself where it sees the directory, and asks a worker of the backend where it does not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from ccat_workflow_manager.definition.input_roots import InputRoots
from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.execution.globbing import TooManyNames, expand
from ccat_workflow_manager.execution.inputs import is_below
from ccat_workflow_manager.json_values import text_problem
from ccat_workflow_manager.limits import limits
from ccat_workflow_manager.services.questions import Questions

_MAGIC = re.compile(r"[*?[]")


class Globs:
    """The matches of patterns on the hosts of one deployment."""

    def __init__(self, questions: Questions, roots: InputRoots, max_names: int) -> None:
        self._questions = questions
        self._roots = roots
        self._max_names = max_names

    def matches(self, pattern: str, path: str, backend: str) -> list[str]:
        """The matches of a pattern, which has this path in the definition. Raises Invalid or ServiceUnavailable."""
        if problem := self._roots.template_problem(pattern):
            raise Invalid(faults=[Fault(path, problem)])
        most = limits().request_step_runs
        if _is_visible(pattern):
            found = matches_here(pattern, most, self._max_names, self._roots)
        else:
            question = {"glob": pattern, "most": most}
            found = self._questions.ask(backend, question) or {"problem": "no worker could look for it"}
        if problem := found.get("problem"):
            raise Invalid(faults=[Fault(path, f"{pattern} {problem}")])
        matches: list[str] = found["matches"]
        if not matches:
            raise Invalid(faults=[Fault(path, f"no file matches {pattern}")])
        return matches


def matches_here(pattern: str, most: int, max_names: int, roots: InputRoots) -> dict[str, Any]:
    """The matches that this host sees, or the problem with them: an answer as `doorbell.ask` can send it."""
    try:
        found = expand(pattern, most=most, most_names=max(max_names, 2 * most))
    except TooManyNames as error:
        return {"problem": f"{error}; one run may have {most} step runs, the limit REQUEST_STEP_RUNS"}
    for each in found:
        if problem := text_problem(each):
            return {"problem": f"matches {each!r}, which {problem}"}
    for directory in {os.path.dirname(each) for each in found}:
        if not is_below(os.path.realpath(directory), roots):
            return {"problem": f"matches files in {directory}, which leads out of INPUT_ROOTS"}
    return {"matches": found}


def answer(question: Mapping[str, Any], max_names: int, roots: InputRoots) -> dict[str, Any]:
    """The answer of a worker."""
    pattern = str(question["glob"])
    if roots.template_problem(pattern):
        return {"problem": "is not below the INPUT_ROOTS of the worker"}
    return matches_here(pattern, int(question["most"]), max_names, roots)


def _is_visible(pattern: str) -> bool:
    """Whether this host has the directory in which the pattern begins."""
    fixed = _MAGIC.split(pattern, maxsplit=1)[0]
    return os.path.isdir(os.path.dirname(fixed))
