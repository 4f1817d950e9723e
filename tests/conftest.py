"""What every test gets: the list of real parts, and all fixtures of `fixtures_*.py` beside this file."""

from __future__ import annotations

from pathlib import Path

pytest_plugins = ["tests.parts", *sorted(f"tests.{path.stem}" for path in Path(__file__).parent.glob("fixtures_*.py"))]
