"""What every test gets: the list of real parts, and all fixtures of `fixtures_*.py` beside this file."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import settings

pytest_plugins = ["tests.parts", *sorted(f"tests.{path.stem}" for path in Path(__file__).parent.glob("fixtures_*.py"))]

# With CI=true the same examples every time, so that a red run is red again; at a desk new ones, to find something new.
settings.register_profile("reproducible", derandomize=True, database=None)
if os.environ.get("CI") == "true":
    settings.load_profile("reproducible")
