"""The programs in the documentation run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE

PAGE = Path(__file__).parents[2] / "docs" / "programs.md"
PROGRAMS = [
    text
    for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    if "asyncio.run(" in text
]


PROGRAMS.append((PAGE.parents[1] / "examples" / "program.py").read_text(encoding="utf-8"))
PRINTED = ["60\n", "name: night\n", "3.1\n"]


@pytest.mark.parametrize(("text", "printed"), list(zip(PROGRAMS, PRINTED, strict=True)))
def test_programs_of_the_page_run(text: str, printed: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(text)
    completed = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.startswith(printed)
