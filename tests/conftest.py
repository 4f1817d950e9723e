"""What every test gets: the list of real parts, and all fixtures of `support/fixtures_*.py`."""

from __future__ import annotations

import os
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


ON_SLURM = ("/backends/slurm/", "/backends/pbs/test_torque.py")


class SharedSites(LoadFileScheduling):  # type: ignore[misc]
    """Files go to the next free process whole. All tests of some sites go to the same process, which starts one site.

    Two pilots starve each other. A Slurm cluster with its deployment takes half a minute to start.
    """

    def _split_scope(self, nodeid: str) -> str:
        if "radical" in nodeid:
            return "pilots"
        return "slurm" if any(each in nodeid for each in ON_SLURM) else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SharedSites:
    return SharedSites(config, log)


@pytest.fixture
def look_again() -> Iterator[Callable[[], None]]:
    """Have the registry look at what is installed: it does so once, and the test installs something."""
    registered.cache_clear()
    yield registered.cache_clear
    registered.cache_clear()
