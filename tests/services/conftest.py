"""The backend `noop` of the deployment is one that the test controls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.testing.fake_backend import FakeBackend


@pytest.fixture
def backend(context: Context) -> FakeBackend:
    backend = FakeBackend()
    context.use_backend("noop", backend)
    return backend


@pytest.fixture
def disarmed() -> Iterator[None]:
    """After the test no failpoint of this process is armed."""
    yield
    failpoints.arm(None)
