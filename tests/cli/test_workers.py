"""`ccat-wm workers`."""

from __future__ import annotations

from tests.cli.commands import answer, invoke
from tests.cli.conftest import Deployment


def test_a_worker_is_drained_listed_and_resumed(deployment: Deployment) -> None:
    env = deployment.env
    worker = answer("workers", env=env)[0]["id"]
    drained = invoke("workers", "drain", worker, "--why", "new memory", env=env)
    assert drained.stdout == f"the worker {worker} takes no new work\n"
    assert "new memory" in invoke("workers", env=env).stdout
    assert invoke("workers", "drain", worker, env=env).exit_code == 2
    assert invoke("workers", "resume", worker, env=env).stdout == f"the worker {worker} takes work again\n"
    assert invoke("workers", "resume", "nothing", env=env).exit_code == 2
