"""Rules of the house that no tool checks for us."""

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
# The architecture says "about" 400 and 50.
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


def test_nobody_imports_a_backend() -> None:
    """The registry loads each by its entry point, ours through the same door as a stranger's."""
    concrete = re.compile(rf"ccat_workflow_manager\.hpc(?:\.| import )({'|'.join(OURS)})\b")
    guilty = [
        f"{name_of(path)}: {match[1]}"
        for path in MODULES
        for match in concrete.finditer(path.read_text(encoding="utf-8"))
        if path.parent != PACKAGE / "hpc" / match[1]  # a backend of several files is a package of its own
    ]
    assert guilty == []


def test_no_path_of_a_machine_and_no_address_of_a_registry_is_in_the_project() -> None:
    kept = [path for path in [*MODULES, *TESTS, *(REPOSITORY / "deploy").rglob("*")] if path.is_file()]
    # In pieces, so that this file passes its own rule.
    registries = ("py pi", "python hosted", "registry . npm js", "deb . debian . org")
    addresses = "|".join(re.escape(pieces.replace(" ", "")) for pieces in registries)
    bad = re.compile(rf"/(work|root)/[a-z]|{addresses}")
    found = [name_of(path) for path in kept if bad.search(path.read_text(encoding="utf-8", errors="replace"))]
    assert found == []
