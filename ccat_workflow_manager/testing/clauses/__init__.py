"""The clauses of the backend contract: plain functions `clause_...(harness)`, grouped by what they are about.

A clause returns if the backend keeps it, raises `ClauseFailed` (or the error of the backend) if it does not, and
`NotClaimed` if its capabilities say that it does not do this. The docstring is the text of the clause.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import cleandoc
from types import ModuleType

from ccat_workflow_manager.testing.clauses import (
    bulk,
    cancelling,
    endings,
    identity,
    limits,
    listing,
    logs,
    service,
    surroundings,
)
from ccat_workflow_manager.testing.harness import BackendHarness


@dataclass(frozen=True, slots=True)
class Clause:
    """One thing that every backend does."""

    name: str
    text: str
    check: Callable[[BackendHarness], None]


def _of(module: ModuleType) -> list[Clause]:
    return [
        Clause(name.removeprefix("clause_"), cleandoc(function.__doc__ or ""), function)
        for name, function in vars(module).items()
        if name.startswith("clause_")
    ]


CLAUSES = tuple(
    clause
    for module in (identity, endings, surroundings, logs, cancelling, limits, bulk, listing, service)
    for clause in _of(module)
)
