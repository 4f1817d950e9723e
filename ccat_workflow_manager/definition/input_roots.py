"""Where inputs may come from: the setting INPUT_ROOTS. Pure text; `execution.inputs` resolves links."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ccat_workflow_manager.definition.compiled import CompiledPipeline, GlobUse
from ccat_workflow_manager.definition.inputs import InputSpec, is_url, substituted_inputs
from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.json_values import JSON, listed

SETTING = "INPUT_ROOTS"
_FIXED = re.compile(r"(?:(?!\$\{)[^*?[])*")
"""What a text begins with in any case: up to its first substitution or sign of a pattern."""


@dataclass(frozen=True, slots=True)
class InputRoots:
    """Directories, `s3://BUCKET/PREFIX` and `https://HOST/PATH` below which inputs may lie.

    `free` is localdev: what no root is given for is allowed. Nothing comes from the directories in `closed`.
    """

    paths: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    free: bool = False
    closed: tuple[str, ...] = ()

    @classmethod
    def of(cls, roots: Iterable[str], *, free: bool, closed: Iterable[str] = ()) -> InputRoots:
        found = [each.strip() for each in roots if each.strip()]
        paths = tuple(os.path.normpath(each) for each in found if not is_url(each))
        return cls(paths, tuple(each.rstrip("/") for each in found if is_url(each)), free, tuple(closed))

    def problem(self, source: str) -> str | None:
        """Why this path or URL is not allowed; None if it is. Links in a path are another matter."""
        if is_url(source):
            roots = [each for each in self.urls if _scheme(each) == _scheme(source)]
            if self._is_below(source, roots):
                return None
            return f"{source} is not below {self._shown(roots)}"
        path = os.path.normpath(source)
        if self.is_closed(path):
            return f"{source} holds secrets, which are no inputs"
        return None if self._is_below(path, self.paths) else f"{source} {self.refusal}"

    def is_closed(self, path: str) -> bool:
        """Whether this is a closed directory, or a path below or above one."""
        return any(f"{path}/".startswith(f"{each}/") or f"{each}/".startswith(f"{path.rstrip('/')}/")
                   for each in self.closed)  # fmt: skip

    @property
    def refusal(self) -> str:
        return f"is not below {self._shown(self.paths)}"

    def template_problem(self, text: str) -> str | None:
        """Why no value of the substitutions in this text can make it allowed; None if one can."""
        known = _FIXED.match(text)[0]  # type: ignore[index]
        if known == text:
            return self.problem(text)
        roots = self.urls if is_url(text) else self.paths
        if not known or (self.free and not self._of_kind(text, roots)):
            return None
        if any(f"{root}/".startswith(known) or known.startswith(f"{root.rstrip('/')}/") for root in roots):
            return None
        return f"{text} {'is not below ' + self._shown(roots)}"

    def faults(self, compiled: CompiledPipeline) -> Iterator[Fault]:
        """The inputs of a definition that no run could use."""
        known: set[str] = set()
        for step in compiled.steps:
            if isinstance(step.items, GlobUse) and (problem := self.template_problem(step.items.pattern)):
                yield Fault(step.items.path, problem)
            for at, entry in step.inputs:
                if at not in known and (problem := self.template_problem(entry.source)):
                    yield Fault(at, problem)
                known.add(at)

    def faults_of(
        self, entries: Iterable[tuple[str, InputSpec]], parameters: Mapping[str, JSON], item: JSON, run: str, step: str
    ) -> Iterator[Fault]:
        """The inputs of one step run that are not allowed."""
        for entry in entries:
            try:
                [wanted] = substituted_inputs([entry], parameters, item, run, step)
            except Invalid as error:
                yield from error.faults
                continue
            problem = self.template_problem(wanted.source) if wanted.is_pattern else self.problem(wanted.source)
            if problem:
                yield Fault(entry[0], problem)

    def _is_below(self, source: str, roots: Iterable[str]) -> bool:
        roots = list(roots)
        if not roots:
            return self.free
        return any(source == root or source.startswith(f"{root.rstrip('/')}/") for root in roots)

    @staticmethod
    def _of_kind(text: str, roots: Iterable[str]) -> list[str]:
        return [each for each in roots if not is_url(text) or _scheme(each) == _scheme(text)]

    @staticmethod
    def _shown(roots: Iterable[str]) -> str:
        known = list(roots)
        return f"{listed(known)} ({SETTING})" if known else f"any of {SETTING}: the setting names no place for it"


def _scheme(url: str) -> str:
    return urlsplit(url).scheme
