"""What tokens, rights and the audit cost a request: two managers of one deployment, of which one asks for a token."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product

from tests.bench.client import Connection, hammer, message
from tests.bench.deployment import PREFIX, UP, Deployment, free_port
from tests.bench.figures import Figure, middle, ratio_at_least
from tests.bench.sizes import Sizes
from tests.support.waiting import wait_until

_LEAST = 0.9
_MANY_ROUNDS = 3
"""Rounds are short and many: what else the machine does then weighs on both managers alike."""


def identity(there: Deployment, sizes: Sizes) -> Iterator[Figure]:
    body = {"pipeline": there.add_pipeline(), "labels": {"source": "Orion KL"}}
    there.warm_up("bench")
    token = _run(there, "token", "create", "--role", "operator").strip()
    requests = {"POST /runs": ("POST", "/api/v1/runs", body), "GET /runs": ("GET", "/api/v1/runs?limit=20", None)}
    rates = {each: list[float]() for each in product(requests, (False, True))}
    with _manager(there, AUTH_REQUIRED=False) as open_port, _manager(there, AUTH_REQUIRED=True) as closed_port:
        for number, (what, call) in product(range(sizes.rounds * _MANY_ROUNDS + 1), requests.items()):
            asked = [(False, open_port, message(*call)), (True, closed_port, message(*call, token=token))]
            for has_token, port, request in asked if number % 2 else reversed(asked):
                with there.workers_stopped():
                    rate = hammer(port, request, sizes.posts // _MANY_ROUNDS, sizes.connections)
                if number:
                    rates[what, has_token].append(rate)
            there.wait_idle()
    for what in requests:
        ratios = [closed / bare for bare, closed in zip(rates[what, False], rates[what, True], strict=True)]
        bare = middle(rates[what, False])
        yield ratio_at_least(f"{what} with a token", middle(ratios) * bare, "requests/s", bare, "without", _LEAST)


@contextmanager
def _manager(there: Deployment, **settings: object) -> Iterator[int]:
    """One more manager, which serves the API only. Gives its port."""
    port = free_port()
    environment = _environment(there, {"API_PORT": port, "API_REQUESTS_PER_SECOND": 0, **settings})
    process = subprocess.Popen([sys.executable, "-c", UP, "manager", "--no-loops"], env=environment)

    def answers() -> bool:
        if process.poll() is not None:
            raise RuntimeError("the manager did not start")
        try:
            with Connection(port) as connection:
                return connection.exchange(message("GET", "/healthz")).status == 200
        except OSError:
            return False

    try:
        wait_until(answers, 60, "the manager")
        yield port
    finally:
        process.terminate()
        process.wait(60)


def _run(there: Deployment, *arguments: str) -> str:
    """What `ccat-wm` prints for this deployment."""
    command = [sys.executable, "-c", UP, *arguments]
    return subprocess.run(command, env=_environment(there, {}), check=True, stdout=subprocess.PIPE, text=True).stdout


def _environment(there: Deployment, settings: Mapping[str, object]) -> dict[str, str]:
    servers = {"DATABASE_URL": there.database_url, "REDIS_URL": there.redis_url, "DATA_DIR": there.data_dir}
    chosen = {"HPC_BACKEND": "noop", "CONTAINER_RUNTIME": "none", "LOG_LEVEL": "WARNING", **servers, **settings}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return inherited | {PREFIX + name: str(value) for name, value in chosen.items()}
