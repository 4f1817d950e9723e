"""Programs of the flow package on a real pilot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.programs.anywhere import require_executable_tasks, require_function_tasks
from tests.support.fixtures_radical import Site

pytestmark = [pytest.mark.needs("radical"), pytest.mark.slow]


def test_tasks_and_functions(radical_site: Site, tmp_path: Path) -> None:
    """In one test, on one pilot, whose start is long."""
    require_executable_tasks("radical_pilot", tmp_path / "work", **radical_site.config)
    require_function_tasks("radical_pilot", tmp_path / "functions", **radical_site.config)
