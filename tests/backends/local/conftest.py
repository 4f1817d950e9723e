"""Sites for the tests of the local backend, all of them closed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.local.site import Site


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def make(**options: Any) -> Site:
        sites.append(Site(tmp_path / f"site-{len(sites)}", **options))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


@pytest.fixture(params=["cgroups", "watching"])
def either_site(make_site: Callable[..., Site], request: pytest.FixtureRequest) -> Site:
    """With control groups, where the machine has them, and without."""
    return make_site(cgroups=request.param == "cgroups")
