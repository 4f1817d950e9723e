"""The backend `noop` of the deployment is one that the test controls."""

from __future__ import annotations

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.testing.fake_backend import FakeBackend


@pytest.fixture
def backend(context: Context) -> FakeBackend:
    backend = FakeBackend()
    context.use_backend("noop", backend)
    return backend
