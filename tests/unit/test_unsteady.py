"""The list of unsteady tests is short, dated, and about tests that exist."""

from __future__ import annotations

from datetime import UTC, date, datetime
from functools import reduce
from importlib import import_module
from typing import cast

import pytest

from tests.support.unsteady import LIST, Entry, parse, problems

TODAY = date(2026, 1, 31)


def test_the_list_is_valid() -> None:
    entries = parse(LIST.read_text(encoding="utf-8"))
    assert problems(entries, [], datetime.now(UTC).date()) == []
    for entry in entries:
        path, *names = entry.test.partition("[")[0].split("::")
        module = import_module(path.removesuffix(".py").replace("/", "."))
        assert callable(reduce(getattr, names, cast("object", module)))


def test_a_repeated_test_passes_only_if_it_is_listed() -> None:
    entries = [Entry(TODAY, "tests/a.py::test_a[1 | 2]", "a slow disk")]
    assert problems(entries, ["tests/a.py::test_a[1 | 2]"], TODAY) == []
    [problem] = problems(entries, ["tests/a.py::test_b"], TODAY)
    assert "tests/a.py::test_b" in problem


@pytest.mark.parametrize(("since", "is_too_old"), [(date(2026, 1, 1), False), (date(2025, 12, 31), True)])
def test_an_entry_lives_thirty_days(since: date, is_too_old: bool) -> None:
    assert bool(problems([Entry(since, "tests/a.py::test_a", "a slow disk")], [], TODAY)) == is_too_old


@pytest.mark.parametrize("line", ["tests/a.py::test_a", "2026-01-31 | tests/a.py::test_a | ", "soon | a | b"])
def test_a_line_without_date_test_or_reason_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=LIST.name):
        parse(line)
