"""Commands as processes: what they import, how they start, and how they end on a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedValkey
from ccat_workflow_manager.local_api import deployment_url
from tests.cli.commands import PROGRAM, QUIET, answer, process, refused, variables
from tests.cli.conftest import Deployment
from tests.cli.fake_api import fake_api
from tests.support.reaper import Reaper
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.whole

HEAVY = ("fastapi", "uvicorn", "sqlalchemy", "alembic", "redis", "rq", "dynaconf", "psycopg")
LISTING = "import sys; sys.argv = {argv!r}\n{body}\nprint(sorted(set(sys.modules) & set({names!r})))"
BODY = (
    "from ccat_workflow_manager.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "submit", "--help"], ["--version"], ["run", "list"]])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    names = (*HEAVY, "httpx") if arguments != ["run", "list"] else HEAVY
    script = LISTING.format(argv=["ccat-wm", *arguments], body=BODY, names=names)
    with fake_api({"items": [], "next_cursor": None}) as url:
        env = {**os.environ, **QUIET, "CCAT_WM_URL": url}
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_process_that_cannot_start_says_so_in_the_form_of_its_log(tmp_path: Path) -> None:
    env = variables(
        DATABASE_URL="postgresql://nobody@127.0.0.1:1/none",
        REDIS_URL="redis://127.0.0.1:1/0",
        DATA_DIR=tmp_path,
        CONTAINER_RUNTIME="none",
    )
    output = tmp_path / "worker.out"
    with process("worker", env=env | variables(LOG_FORMAT="json"), output=output) as worker:
        assert worker.wait(PATIENCE) == 3
    last = json.loads(output.with_suffix(".stderr").read_text().splitlines()[-1])
    assert last["level"] == "CRITICAL"


# Each ends where it would begin to wait for work.
MANAGER = "import uvicorn; uvicorn.Server.run = lambda self, sockets: None\n"
WORKER = "import ccat_workflow_manager.processes as p; p.listen = lambda *arguments, **named: None\n"
UNUSED = (
    "alembic", "boto3", "distributed", "dynaconf", "httpx", "jsonschema", "kubernetes", "rich.console", "sqlalchemy",
)  # fmt: skip
"""What neither a manager nor a worker needs before there is work for it."""
OF_MANAGERS = ("fastapi", "jinja2", "prometheus_client", "starlette", "uvicorn", "ccat_workflow_manager.managers.loops")


@pytest.mark.parametrize(
    ("role", "ends", "names"), [("manager", MANAGER, UNUSED), ("worker", WORKER, (*UNUSED, *OF_MANAGERS))]
)
def test_an_idle_process_has_imported_only_what_it_needs(
    role: str, ends: str, names: tuple[str, ...], migrated_url: str, redis_url: str, tmp_path: Path
) -> None:
    script = LISTING.format(argv=["ccat-wm", role], body=ends + BODY, names=names)
    env = {**os.environ, **QUIET, **variables(
        DATABASE_URL=migrated_url, REDIS_URL=redis_url, DATA_DIR=tmp_path, HPC_BACKEND="local", CONTAINER_RUNTIME="none"
    )}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_closed_stdout_is_no_error(deployment: Deployment) -> None:
    env = {**os.environ, **QUIET, **deployment.env}
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*PROGRAM, "run", "list"], env=env, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=PATIENCE
        )
        listed = subprocess.run(
            [*PROGRAM, "backends", "--json"],
            env=env,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
        )
        table = subprocess.run(
            [*PROGRAM, "backends"], env=env, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=PATIENCE
        )
    finally:
        os.close(writer)
    assert (table.returncode, table.stderr) == (141, "")
    assert done.stderr in ("", "No runs match.\n")
    assert (listed.returncode, listed.stderr) == (141, "")


def test_ctrl_c_while_watching(deployment: Deployment, greet: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow.yaml"
    extra = "resources: {extra: {delay_seconds: 600}}\n    foreach: "
    slow.write_text(greet.read_text().replace("foreach: ", extra))
    output = tmp_path / "watch.out"
    with process("run", "submit", "--spec", str(slow), "--watch", env=deployment.env, output=output) as watching:
        wait_until(lambda: "running" in output.read_text(), 20, "a line about what is running")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(PATIENCE) == 130
    said = output.with_suffix(".stderr").read_text()
    assert "Traceback" not in said
    assert "ccat-wm run watch" in said
    with process("run", "cancel", "latest", env=deployment.env, output=output) as cancelling:
        assert cancelling.wait(PATIENCE) == 0


def test_ctrl_c_during_the_demo_leaves_nothing_behind(tmp_path: Path, reaper: Reaper) -> None:
    env = variables(CONTAINER_RUNTIME="none", NOOP_DELAY_SECONDS=600)
    output = tmp_path / "demo.out"
    arguments = ("demo", "--data-dir", str(tmp_path / "data"), "--backend", "noop", "--port", "0")
    with process(*arguments, env=env, output=output) as demo:
        reaper.watch(demo.pid)
        wait_until(lambda: "12 running" in output.read_text(), 60, "a run in progress")
        demo.send_signal(signal.SIGINT)
        assert demo.wait(PATIENCE) == 130
    assert output.with_suffix(".stderr").read_text() == ""
    assert EmbeddedPostgres(tmp_path / "data").pid is None
    assert EmbeddedValkey(tmp_path / "data").pid is None


def test_the_demo_prints_resources_and_products(tmp_path: Path, reaper: Reaper) -> None:
    output = tmp_path / "demo.out"
    arguments = ("demo", "--data-dir", str(tmp_path / "data"), "--backend", "concurrent", "--port", "0", "--scans", "2")
    with process(*arguments, env=variables(CONTAINER_RUNTIME="none"), output=output) as demo:
        reaper.watch(demo.pid)
        assert demo.wait(3 * PATIENCE) == 0, output.with_suffix(".stderr").read_text()
    text = output.read_text()
    assert "the steps run as plain processes" in text
    for word in ("COMPLETED", "wall time", "CPU hours", "peak memory", "API: http://127.0.0.1:"):
        assert word in text
    after = text.partition("Products:\n")[2].splitlines()
    assert after[0].endswith("map.png")
    products = [Path(line.split()[-1]) for line in after if line.startswith("  ")]
    assert len(products) > 3
    assert all(path.is_file() for path in products)


@pytest.mark.parametrize(("setting", "warned"), [("auto", True), ("none", False)])
def test_up_warns_that_there_are_no_containers(
    setting: str, warned: bool, postgres_url: str, redis_url: str, tmp_path: Path, reaper: Reaper
) -> None:
    servers = variables(DATABASE_URL=postgres_url, REDIS_URL=redis_url)
    env = variables(CONTAINER_RUNTIME=setting, HPC_BACKEND="noop", WORKERS=1) | servers
    env["PATH"] = str(tmp_path / "nothing")
    output = tmp_path / "up.out"
    log = output.with_suffix(".stderr")
    with process("up", "--data-dir", str(tmp_path / "data"), "--port", "0", env=env, output=output) as up:
        reaper.watch(up.pid)
        wait_until(lambda: "serves noop" in log.read_text() and "Ctrl-C" in output.read_text(), 60, "the worker")
        up.send_signal(signal.SIGTERM)
        assert up.wait(PATIENCE) == 0
    words = "neither Apptainer nor Singularity here: steps run as plain processes"
    assert (words in output.read_text()) is warned
    warnings = [line for line in log.read_text().splitlines() if words in line]
    assert len(warnings) == warned
    assert all("WARNING" in line for line in warnings)


def test_commands_find_a_service_at_any_port_while_it_is_up(
    postgres_url: str, redis_url: str, tmp_path: Path, reaper: Reaper
) -> None:
    env = variables(DATA_DIR=tmp_path / "data", HPC_BACKEND="noop", WORKERS=1)
    output = tmp_path / "up.out"
    log = output.with_suffix(".stderr")
    servers = variables(DATABASE_URL=postgres_url, REDIS_URL=redis_url)
    with process("up", "--port", "0", env=env | servers, output=output) as up:
        reaper.watch(up.pid)
        wait_until(lambda: "Ctrl-C" in output.read_text(), 60, log.read_text)
        assert answer("run", "list", env=env) == []
        assert "127.0.0.1:1" in refused("run", "list", env=env | variables(API_PORT=1), code=3)
        up.send_signal(signal.SIGTERM)
        assert up.wait(PATIENCE) == 0
    assert deployment_url(tmp_path / "data") == ""


def test_no_process_keeps_the_libraries_of_the_first_migration(
    postgres_url: str, redis_url: str, tmp_path: Path, reaper: Reaper
) -> None:
    env = variables(DATABASE_URL=postgres_url, REDIS_URL=redis_url, HPC_BACKEND="noop", WORKERS=1)
    output = tmp_path / "up.out"
    with process("up", "--data-dir", str(tmp_path / "data"), "--port", "0", env=env, output=output) as up:
        reaper.watch(up.pid)
        wait_until(lambda: "Ctrl-C" in output.read_text(), 60, output.with_suffix(".stderr").read_text)
        pids = [up.pid, *(child.pid for child in psutil.Process(up.pid).children(recursive=True))]
        mapped = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in pids}
    assert len(mapped) == 3, "up, the manager and the worker"
    assert all("/psycopg" in text for text in mapped.values())
    assert not [pid for pid, text in mapped.items() if "/sqlalchemy/" in text]


@pytest.mark.needs("root")
def test_up_as_the_first_process_of_a_container(
    postgres_url: str, redis_url: str, tmp_path: Path, reaper: Reaper
) -> None:
    env = variables(DATABASE_URL=postgres_url, REDIS_URL=redis_url, HPC_BACKEND="noop", WORKERS=1)
    output = tmp_path / "up.out"
    log = output.with_suffix(".stderr")
    arguments = ("up", "--data-dir", str(tmp_path / "data"), "--port", "0")
    apart = ("unshare", "--pid", "--mount-proc", "--fork", "--kill-child")
    with process(*arguments, env=env, output=output, within=apart) as container:
        reaper.watch(container.pid)
        wait_until(lambda: "serves noop" in log.read_text() and "Ctrl-C" in output.read_text(), 60, "the worker")
        (up,) = psutil.Process(container.pid).children()
        up.send_signal(signal.SIGTERM)
        assert container.wait(PATIENCE) == 0
    assert "is started again" not in log.read_text()


def test_processes_of_their_own(postgres_url: str, redis_url: str, tmp_path: Path, reaper: Reaper) -> None:
    env = variables(DATA_DIR=tmp_path, DATABASE_URL=postgres_url, REDIS_URL=redis_url, HPC_BACKEND="noop", API_PORT=0)
    output = tmp_path / "manager.out"
    errors = output.with_suffix(".stderr")
    with process("manager", env=env, output=output) as manager:
        assert manager.wait(PATIENCE) == 3
    assert "run: ccat-wm db upgrade" in errors.read_text()
    with process("db", "upgrade", env=env, output=output) as upgrade:
        assert upgrade.wait(PATIENCE) == 0
    astray = variables(REDIS_URL="redis://127.0.0.1:1/0")
    with process("worker", "--backend", "noop", env=env | astray, output=output) as worker:
        assert worker.wait(PATIENCE) == 3
    assert "error: Redis cannot be used" in errors.read_text()
    assert "Traceback" not in errors.read_text()
    with (
        process("manager", env=env, output=output) as manager,
        process("worker", "--backend", "noop", env=env, output=tmp_path / "worker.out") as worker,
    ):
        reaper.watch(manager.pid)
        reaper.watch(worker.pid)
        wait_until(lambda: "Uvicorn running" in errors.read_text(), 30, "the API")
        log = tmp_path / "worker.stderr"
        wait_until(lambda: "serves noop" in log.read_text(), 30, "the worker")
        for each in (manager, worker):
            each.send_signal(signal.SIGTERM)
            assert each.wait(PATIENCE) == 0
    assert "Traceback" not in errors.read_text() + log.read_text()


def test_a_second_up_of_one_directory_refuses(deployment: Deployment, tmp_path: Path) -> None:
    output = tmp_path / "second"
    with process("up", "--port", "0", env=deployment.env, output=output) as second:
        assert second.wait(PATIENCE) == 3
    error = output.with_suffix(".stderr").read_text()
    assert f"uses {deployment.data_dir}" in error
    assert "Traceback" not in error


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    output = tmp_path / "up"
    with process("up", "--port", "0", "--data-dir", str(tmp_path / "file" / "x"), env={}, output=output) as up:
        assert up.wait(PATIENCE) == 3
    error = output.with_suffix(".stderr").read_text()
    assert f"{tmp_path}/file" in error
    assert "Traceback" not in error
