"""What a view of a namespace does when its watches or its lists fail in an unforeseen way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
import yaml

from ccat_workflow_manager.hpc.kubernetes.client import KubernetesClient, Listed, Watching
from ccat_workflow_manager.hpc.kubernetes.view import View
from tests.support.waiting import PATIENCE, wait_until


class _Scripted:
    """The API server of an empty namespace. Its watches stand until they are cut, or raise `trouble`."""

    def __init__(self) -> None:
        self.lists = 0
        self.trouble: BaseException | None = None
        self.met = threading.Semaphore(0)
        self._end = threading.Event()

    def list(self, kind: str, namespace: str, selector: str) -> Listed:
        self.lists += 1
        return Listed([], "1")

    def watch(
        self, kind: str, namespace: str, selector: str, version: str, opened: Watching
    ) -> Iterator[dict[str, Any]]:
        self._raise_trouble()
        opened.connected()
        while not opened.over:
            if self._end.wait(0.05):
                self._end.clear()
                break
        self._raise_trouble()
        yield from ()

    def _raise_trouble(self) -> None:
        if self.trouble is not None:
            self.met.release()
            raise self.trouble

    def fail(self, trouble: BaseException) -> None:
        """Let both watches fail with it."""
        self.trouble = trouble
        for _ in range(2):
            self._end.set()
            assert self.met.acquire(timeout=PATIENCE)

    def end(self) -> None:
        self._end.set()


@pytest.fixture
def server() -> Iterator[_Scripted]:
    scripted = _Scripted()
    yield scripted
    scripted.trouble = None
    scripted.end()


def view_on(server: _Scripted, *, watch: bool = True, poll_seconds: float = 3600) -> View:
    return View(cast("KubernetesClient", server), "ns", poll_seconds=poll_seconds, watch=watch)


def watched_view(server: _Scripted) -> View:
    view = view_on(server, poll_seconds=0)
    view.refresh()
    view.begin_watching()
    wait_until(lambda: view.watched, 10, "the watches to stand")
    return view


def test_a_watch_goes_on_after_an_unforeseen_error(server: _Scripted) -> None:
    view = watched_view(server)
    server.fail(yaml.YAMLError("the kubeconfig is being rewritten"))
    wait_until(lambda: not view.watched, 10, "the watches to be given up")
    before = server.lists
    view.look([])
    assert server.lists > before
    server.trouble = None
    wait_until(lambda: view.watched, 20, "the watches to stand again")
    view.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_thread_of_a_watch_that_has_died_is_started_again(server: _Scripted) -> None:
    class Deadly(BaseException):
        """No thread survives it."""

    view = watched_view(server)
    server.fail(Deadly())
    wait_until(lambda: not view.watched, 10, "the watches to be given up")
    assert not view.is_recent
    server.trouble = None

    def looked() -> bool:
        view.look([])
        return view.watched

    wait_until(looked, 20, "the watches to stand again")
    view.close()


def test_a_job_missing_in_a_fresh_list_causes_no_other_list(server: _Scripted) -> None:
    view = view_on(server, watch=False)
    for _ in range(10):
        view.look(["gone"])
    assert server.lists == 2  # Jobs and pods


def test_a_job_missing_in_an_old_list_causes_another_list(server: _Scripted) -> None:
    view = view_on(server, watch=False, poll_seconds=0)
    for _ in range(3):
        view.look(["gone"])
    assert server.lists == 6
