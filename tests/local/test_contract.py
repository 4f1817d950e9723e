"""The local backend keeps every clause of the contract, with control groups and without."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ccat_workflow_manager.core.models import Resources
from ccat_workflow_manager.hpc.local_link import Conversation
from ccat_workflow_manager.testing.backend_contract import BackendContract, BackendHarness
from ccat_workflow_manager.testing.harness import Job
from tests.local.site import Site


class _Harness(BackendHarness):
    def __init__(self, site: Site, workdir: Path) -> None:
        config = {"state_dir": str(site.state_dir), **site._config}
        refused = [
            Resources(partition="fast"),
            Resources(account="me"),
            Resources(cpu=100_000),
            Resources(memory_gb=1_000_000),
        ]
        super().__init__(
            create=site.another,
            workdir=workdir,
            factory="ccat_workflow_manager.hpc.local:LocalBackend",
            config=config,
            refused=refused,
        )
        self._site = site

    @contextmanager
    def service_down(self) -> Iterator[None]:
        """The supervisor is gone, and no other one can start."""
        self.backend._link.ask({"do": "leave"})  # type: ignore[attr-defined]
        away = self._site.state_dir.with_name("away")
        self._site.state_dir.rename(away)
        self._site.state_dir.write_text("in the way")
        try:
            yield
        finally:
            self._site.state_dir.unlink()
            away.rename(self._site.state_dir)

    @contextmanager
    def corrupt_answer(self, job: Job) -> Iterator[None]:
        real = Conversation.ask

        def ask(conversation: Conversation, request: Any) -> Any:
            answer = real(conversation, request)
            return json.loads(json.dumps(answer).replace("finished", "f1n1sh3d"))

        with mock.patch.object(Conversation, "ask", ask):
            yield

    @contextmanager
    def count_status_calls(self) -> Iterator[Callable[[], int]]:
        calls = 0
        real = Conversation.ask

        def ask(conversation: Conversation, request: Any) -> Any:
            nonlocal calls
            calls += 1
            return real(conversation, request)

        with mock.patch.object(Conversation, "ask", ask):
            yield lambda: calls


class TestLocal(BackendContract):
    @pytest.fixture(autouse=True)
    def _site(self, make_site: Callable[..., Site]) -> None:
        self.site = make_site(cpu=4, memory_gb=4)

    def make_harness(self, workdir: Path) -> BackendHarness:
        return _Harness(self.site, workdir)


class TestLocalWithoutControlGroups(TestLocal):
    @pytest.fixture(autouse=True)
    def _site(self, make_site: Callable[..., Site]) -> None:
        self.site = make_site(cpu=4, memory_gb=4, cgroups=False)
