"""The local backend keeps the contract on machines without control groups too."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest

from ccat_workflow_manager.hpc.supervisor.link import SupervisorLink
from tests.backends.local import test_contract as test_local


@pytest.mark.slow
class TestWithoutControlGroups(test_local.TestLocal):
    @pytest.fixture(autouse=True)
    def _no_control_groups(self) -> Iterator[None]:
        defaults = SupervisorLink.__init__.__kwdefaults__
        assert defaults is not None
        with mock.patch.dict(defaults, {"cgroups": False}):
            yield
