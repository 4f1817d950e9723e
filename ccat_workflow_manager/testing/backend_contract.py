"""What every backend does, as a suite: for the tests of a backend, and for a look at a real site.

In the tests of a backend (with pytest, which this module itself does not need):

    class TestMyBackend(BackendContract):
        def make_harness(self, workdir):
            return BackendHarness(create=MyBackend, workdir=workdir, factory="my_package.backend:MyBackend")

Against a real site, as `ccat-wm backend check NAME` does:

    for result in run_contract("slurm", {"partition": "science"}, Path("/data/contract-check")):
        print(result.clause, result.outcome, result.text)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from tempfile import mkdtemp
from time import monotonic
from typing import Any

from ccat_workflow_manager.errors import ConfigurationError
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.testing.clauses import CLAUSES, Clause
from ccat_workflow_manager.testing.clauses.surroundings import check_arrival
from ccat_workflow_manager.testing.harness import BackendHarness, ClauseFailed, NotClaimed

__all__ = ["CLAUSES", "BackendContract", "BackendHarness", "ClauseResult", "NotClaimed", "Outcome", "run_contract"]

CLAUSE_SECONDS = 300.0


class Outcome(StrEnum):
    """What became of a clause."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_CLAIMED = "not_claimed"


@dataclass(frozen=True, slots=True)
class ClauseResult:
    """What became of one clause, and why."""

    clause: str
    outcome: Outcome
    text: str
    """The clause itself if it passed, else what went wrong or why it does not apply."""
    seconds: float = 0.0


def run_contract(
    name: str,
    config: Mapping[str, Any],
    workdir: Path,
    *,
    clauses: tuple[Clause, ...] = CLAUSES,
    adjust: Callable[[BackendHarness], None] | None = None,
) -> list[ClauseResult]:
    """Run the clauses against the backend of this name. Its jobs must find `workdir` under the same path.

    `adjust` sets what the harness cannot know about a site: resources of an ordinary job, patience, Python. Raises what
    `registry.create` raises if there is no such backend here.
    """
    return list(iterate_contract(name, config, workdir, clauses=clauses, adjust=adjust))


def iterate_contract(
    name: str,
    config: Mapping[str, Any],
    workdir: Path,
    *,
    clauses: tuple[Clause, ...] = CLAUSES,
    adjust: Callable[[BackendHarness], None] | None = None,
) -> Iterator[ClauseResult]:
    """Like `run_contract`, one result at a time, for a display that goes along."""
    json.dumps(dict(config))  # it has to travel to another process
    # Kept open all the while: some backends hold an allocation as long as one of their objects is there.
    with closing(registry.create(name, **config)) as keeping:
        if keeping.runs_images:
            raise ConfigurationError(
                f"the contract starts programs of this machine, under their own paths, and the backend {name} runs the "
                "images of steps instead (mode native): check it in its other mode"
            )
        for clause in clauses:
            harness = BackendHarness(
                create=partial(registry.create, name, **config),
                workdir=Path(mkdtemp(prefix=f"{clause.name}-", dir=workdir)),
                factory=name,
                config=config,
            )
            harness.patience_seconds += keeping.start_seconds
            if adjust is not None:
                adjust(harness)
            yield judge(clause, harness)


def judge(clause: Clause, harness: BackendHarness) -> ClauseResult:
    """Run one clause in a thread of its own: a backend may hang, and may raise anything."""
    started = monotonic()
    errors: list[BaseException] = []
    pool = ThreadPool(1)
    answer = pool.apply_async(_keep, (clause, harness), error_callback=errors.append)
    pool.close()
    answer.wait(CLAUSE_SECONDS)
    if not answer.ready():
        errors.append(ClauseFailed(f"the backend did not answer within {CLAUSE_SECONDS:g} s"))
    outcome, text = _verdict(clause, errors)
    return ClauseResult(clause.name, outcome, text, monotonic() - started)


def _keep(clause: Clause, harness: BackendHarness) -> None:
    try:
        clause.check(harness)
    finally:
        harness.close()


def _verdict(clause: Clause, errors: Sequence[BaseException]) -> tuple[Outcome, str]:
    if not errors:
        return Outcome.PASSED, clause.text
    error = errors[0]
    if isinstance(error, NotClaimed):
        return Outcome.NOT_CLAIMED, str(error)
    if isinstance(error, ClauseFailed):
        return Outcome.FAILED, str(error)
    return Outcome.FAILED, f"{type(error).__name__}: {error}"


class BackendContract:
    """Derive a test class from this one for each backend; pytest runs every clause on it."""

    not_claimed: frozenset[str] = frozenset()
    """The clauses that this backend is known not to claim. Any other one that is left out fails, and so does one of
    these that is kept: a capability neither gets lost nor appears unnoticed."""

    def make_harness(self, workdir: Path) -> BackendHarness:
        raise NotImplementedError("a contract class says how its backend is made")

    def pytest_generate_tests(self, metafunc: Any) -> None:
        if "clause" in metafunc.fixturenames:
            metafunc.parametrize("clause", CLAUSES, ids=[clause.name for clause in CLAUSES])

    def test_clause(self, clause: Clause, tmp_path: Path) -> None:
        import pytest

        try:
            _keep(clause, self.make_harness(tmp_path))
        except NotClaimed as reason:
            if clause.name not in self.not_claimed:
                raise ClauseFailed(f"not claimed, though the test class says it should be: {reason}") from reason
            pytest.skip(f"not claimed: {reason}")
        if clause.name in self.not_claimed:
            raise ClauseFailed("kept, though the test class says that it is not claimed")

    def test_any_text_arrives(self, tmp_path: Path) -> None:
        """Hypothesis looks for an argument or a value of the environment that is changed on its way."""
        import pytest
        from hypothesis import HealthCheck, given, settings
        from hypothesis import strategies as st

        harness = self.make_harness(tmp_path)
        text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
        # Many texts for each of a few jobs: a job of some backends takes seconds. The first example is empty texts.
        texts = st.lists(text, min_size=60, max_size=100)

        @settings(max_examples=3, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
        @given(texts)
        def arrives(values: list[str]) -> None:
            check_arrival(harness, values, {f"VALUE_{number}": value for number, value in enumerate(values)})

        try:
            harness.needs_programs()
            arrives()
        except NotClaimed as reason:
            pytest.skip(f"not claimed: {reason}")
        finally:
            harness.close()
