"""What the tests of the sample plug-in share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import plugin


@pytest.fixture(scope="session")
def plugin_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sample plug-in, installed by pip."""
    target = tmp_path_factory.mktemp("plugin") / "site"
    plugin.install(target)
    return target
