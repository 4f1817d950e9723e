"""Commands without a service: doctor, backends and db."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccat_workflow_manager import __version__
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.workers import WorkerStore
from tests.cli.commands import answer, invoke, refused, variables


def checks(env: dict[str, str], code: int) -> dict[str, dict[str, object]]:
    return {check["name"]: check for check in answer("doctor", env=env, code=code)["checks"]}


def test_version() -> None:
    assert invoke("--version").stdout == f"ccat-wm {__version__}\n"


def test_every_command_has_an_example() -> None:
    from ccat_workflow_manager.cli import app

    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    callbacks = [command.callback for group in groups if group for command in group.registered_commands]
    assert len(callbacks) > 20
    assert [each.__name__ for each in callbacks if each and "Example:  " not in (each.__doc__ or "")] == []


def test_doctor_before_the_first_start(tmp_path: Path) -> None:
    found = checks(variables(DATA_DIR=tmp_path, HPC_BACKEND="noop", CONTAINER_RUNTIME="none"), 0)
    assert found["postgres"]["ok"] is None
    assert "not running" in str(found["postgres"]["message"])
    assert "ccat-wm up" in str(found["redis"]["hint"])
    assert (found["clock"]["ok"], "without PostgreSQL" in str(found["clock"]["message"])) == (None, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "name", "expected"),
    [
        ({"DATABASE_URL": "postgresql://127.0.0.1:1/x"}, "postgres", "refused"),
        ({"REDIS_URL": "redis://127.0.0.1:1/0"}, "redis", "refused"),
        ({"HPC_BACKEND": "nope"}, "backend nope", "not installed"),
        ({"PIPELINE_BASE_DIR": f"{__file__}/pipelines"}, "disk", "cannot be written"),
        ({"CONTAINER_RUNTIME": "singularity", "PATH": "/nowhere"}, "containers", "singularity is not on the PATH"),
        ({"API_PORT": "x"}, "settings", "API_PORT"),
    ],
)
def test_doctor_reports_what_is_broken(
    settings: dict[str, str], name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path := settings.pop("PATH", None):
        monkeypatch.setenv("PATH", path)
    given = {"DATA_DIR": tmp_path, "HPC_BACKEND": "noop", "CONTAINER_RUNTIME": "none", **settings}
    found = checks(variables(**given), 3)
    assert found[name]["ok"] is False
    assert expected in str(found[name]["message"])
    assert found[name]["hint"]


@pytest.mark.parametrize(("client", "code", "ok"), [("2.0", 0, None), ("1.0", 3, False)])
def test_doctor_names_a_client_that_has_files_of_the_service(
    client: str, code: int, ok: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = variables(DATA_DIR=tmp_path, HPC_BACKEND="noop", CONTAINER_RUNTIME="none")
    assert "client" not in checks(env, 0)
    versions = {"ccat-workflow-manager-client": client, "ccat-workflow-manager": "2.0"}
    monkeypatch.setattr("ccat_workflow_manager.commands.checks.metadata.version", versions.__getitem__)
    found = checks(env, code)["client"]
    assert found["ok"] is ok
    assert "--force-reinstall --no-deps ccat-workflow-manager==2.0" in str(found["hint"])


def test_doctor_reports_missing_migrations(postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    env = variables(DATA_DIR=tmp_path, DATABASE_URL=postgres_url, REDIS_URL=redis_url, HPC_BACKEND="noop")
    assert checks(env, 3)["migrations"]["hint"] == "run: ccat-wm db upgrade"
    assert "ccat-wm db upgrade" in invoke("db", "check", env=env).stdout
    assert invoke("db", "check", env=env).exit_code == 3
    assert "from nothing to" in invoke("db", "upgrade", env=env).stdout
    assert invoke("db", "check", env=env).exit_code == 0
    found = checks(env, 0)
    assert found["migrations"]["ok"] is True
    assert "none known for noop" in str(found["workers"]["message"])


def test_doctor_calls_no_worker_ok_that_has_died_with_the_service(context: Context, tmp_path: Path) -> None:
    settings = context.settings
    urls = variables(DATABASE_URL=settings.database_url, REDIS_URL=settings.redis_url)
    env = urls | variables(DATA_DIR=tmp_path, HPC_BACKEND="noop")
    with context.database.begin() as unit:
        WorkerStore(unit).register("w", "h", 1, ["noop"])
    assert checks(env, 0)["workers"]["ok"] is True
    with context.database.begin() as unit:
        unit.execute("UPDATE workers SET seen_at = now() - interval '2 hours'")
    found = checks(env, 0)["workers"]
    assert found["ok"] is None
    assert "silent" in str(found["hint"])


def test_an_unreachable_database() -> None:
    env = variables(DATABASE_URL="postgresql://127.0.0.1:1/x")
    assert "PostgreSQL cannot be used" in refused("db", "check", env=env, code=3)


def test_backends_are_listed_with_reason_and_hint() -> None:
    found = {backend["name"]: backend for backend in answer("backends")}
    assert found["noop"]["available"] is True
    assert found["noop"]["capabilities"]["bulk_submit"] is True
    assert "noop" in invoke("backends").stdout


def test_detect_prints_one_name() -> None:
    assert invoke("backend", "detect").stdout == answer("backend", "detect")["name"] + "\n"


def test_check_prints_clause_by_clause(tmp_path: Path) -> None:
    env = variables(DATA_DIR=tmp_path, CONTAINER_RUNTIME="none")
    results = answer("backend", "check", "noop", env=env)
    assert {result["outcome"] for result in results} <= {"passed", "not_claimed"}
    clause = results[0]["clause"]
    one = invoke("backend", "check", "noop", "--clause", clause, env=env)
    assert one.exit_code == 0
    assert one.stdout.split()[:2] == ["passed", clause]
    assert list((tmp_path / "pipelines").iterdir()) == []
