"""Rules of the code that no linter checks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends import OURS

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "ccat_workflow_manager"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))
# The style asks for 400 and 50.
FILE_LINES = 440
FUNCTION_LINES = 60


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_holds_one_concept(path: Path) -> None:
    assert path.stem not in ("utils", "util", "helpers", "helper", "common", "misc")
    if path.parent.name != "versions":  # a migration holds the whole schema as PostgreSQL is to have it
        assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES
    long = [
        f"{f.name}: {f.end_lineno - f.lineno + 1} lines"
        for f in functions(path)
        if f.end_lineno and f.end_lineno - f.lineno >= FUNCTION_LINES
    ]
    assert long == []


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_tests_wait_for_conditions_and_not_for_time(path: Path) -> None:
    assert not re.search(r"^\s*(time\.)?sleep\(", path.read_text(encoding="utf-8"), re.MULTILINE)


EDGES = (
    "a request", "a task", "the tick of a loop", "a call of a backend", "one step run of many", "code of a program",
    "the end of a thread", "the end of a process",
)  # fmt: skip
"""Where the code may catch everything; docs/contributing/architecture.md has the same list."""


_CATCHES = re.compile(r"\b(Base)?Exception\b|\bexcept\s*:")


def _catches_everything(handler: ast.ExceptHandler) -> bool:
    names = (
        {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else {"Exception"}
    )
    raises_again = isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None
    return bool(names & {"Exception", "BaseException"}) and not raises_again


def test_what_catches_everything_says_at_which_edge_it_stands() -> None:
    guilty = []
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        if not _CATCHES.search(text):
            continue
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ExceptHandler) and _catches_everything(node):
                comment = lines[node.lineno - 1].partition("#")[2].removeprefix(" noqa: BLE001 -").strip()
                if not comment.startswith(EDGES):
                    guilty.append(f"{name_of(path)}:{node.lineno} {comment}")
    assert guilty == []


def test_no_module_imports_a_backend() -> None:
    """The registry loads every backend by its entry point, third-party or not."""
    concrete = re.compile(rf"ccat_workflow_manager\.hpc(?:\.| import )({'|'.join(OURS)})\b")
    guilty = [
        f"{name_of(path)}: {match[1]}"
        for path in MODULES
        for match in concrete.finditer(path.read_text(encoding="utf-8"))
        if path.parent != PACKAGE / "hpc" / match[1]  # a backend of several files is a package of its own
    ]
    assert guilty == []


SQL = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM) ")
_MAY_BE_SQL = re.compile("SELECT|INSERT|UPDATE|DELETE")
SQL_OUTSIDE_DB = {
    "embedded/postgres.py": "creates the database before anything can connect to it",
}


def strings(path: Path) -> Iterator[ast.Constant]:
    """The string constants of a module that are not docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def test_sql_is_only_in_db() -> None:
    outside = [
        path for path in MODULES if not path.is_relative_to(PACKAGE / "db") and _MAY_BE_SQL.search(path.read_text())
    ]
    found = {
        path.relative_to(PACKAGE).as_posix(): node.lineno
        for path in outside
        for node in strings(path)
        if SQL.search(str(node.value))
    }
    assert found.keys() == SQL_OUTSIDE_DB.keys(), found


HIDDEN_SUBJECT = re.compile(
    r"(?<![`\"'])\b(some|no|any)body\b|\bwhoever\b|\b(is|are|was|were|be) told\b", re.IGNORECASE
)


def test_a_sentence_names_its_subject() -> None:
    """See docs/contributing/style.md. In quotes `nobody` is a user of Unix, or a word of the format of claims."""
    guilty = [
        f"{name_of(path)}:{number}: {match[0]}"
        for path in MODULES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (match := HIDDEN_SUBJECT.search(line))
    ]
    assert guilty == []


def test_no_path_of_a_machine_and_no_address_of_a_registry_is_in_the_project() -> None:
    deploy = [path for path in (REPOSITORY / "deploy").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    kept = [*MODULES, *TESTS, *deploy]
    # In pieces, so that this file passes its own rule.
    registries = ("py pi", "python hosted", "registry . npm js", "deb . debian . org")
    addresses = "|".join(re.escape(pieces.replace(" ", "")) for pieces in registries)
    bad = re.compile(rf"/(work|root)/[a-z]|{addresses}")
    found = [name_of(path) for path in kept if bad.search(path.read_text(encoding="utf-8", errors="replace"))]
    assert found == []
