"""What every test gets: the list of real parts, and all fixtures of `support/fixtures_*.py`."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from ccat_workflow_manager.settings.backends import registered

pytest.register_assert_rewrite("tests.support")
pytest_plugins = [
    "tests.parts",
    *sorted(f"tests.support.{path.stem}" for path in (Path(__file__).parent / "support").glob("fixtures_*.py")),
]

# With CI=true the same examples every time, so that a red run is red again; at a desk new ones, to find something new.
# How long an example takes says something about the machine, not about the code.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("at a desk", PATIENT)
settings.register_profile("reproducible", PATIENT, derandomize=True, database=None)
settings.load_profile("reproducible" if os.environ.get("CI") == "true" else "at a desk")

gc.disable()


def pytest_collection_finish() -> None:
    """What was imported and collected stays until the end: garbage collection does not look at it again and again."""
    gc.enable()
    gc.collect()
    gc.freeze()


_FLOWS = "attempts|inputs|losses|runs|secrets|tes"
_HARM = "long_work|neighbours|programs|redis|requests"
_TOGETHER = {
    "pilots": r"tests/(backends/radical_pilot/|flow/.*\[radical_pilot\])",
    "slurm": "tests/backends/(slurm/|pbs/test_torque)",
    "commands": "tests/cli/test_(?!processes|programs)",
    "deployment": rf"tests/(flow/test_({_FLOWS})|hostile/test_({_HARM})|docs/test_fifty_files)\.",
}
"""What is started once for many files: the cluster of Slurm, the deployments of `cli` and of the fixture `service`.

A deployment costs 3 s of CPU time to start, and 4 % of a core as long as it is there. Two pilots starve each
other.
"""


class SharedSites(LoadFileScheduling):  # type: ignore[misc]
    """Files go to the next free process whole. All files that share something of the above go to the same process."""

    def _split_scope(self, nodeid: str) -> str:
        shared = (name for name, files in _TOGETHER.items() if re.match(files, nodeid))
        return next(shared, None) or str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SharedSites:
    return SharedSites(config, log)


@pytest.fixture
def look_again() -> Iterator[Callable[[], None]]:
    """Have the registry look at what is installed: it does so once, and the test installs something."""
    registered.cache_clear()
    yield registered.cache_clear
    registered.cache_clear()
