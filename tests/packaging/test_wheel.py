"""A wheel that is built from the checkout and installed elsewhere works."""

from __future__ import annotations

import re
import tomllib
import zipfile
from pathlib import Path

import pytest

from deploy import release_check
from deploy.client_package import PACKAGE
from tests.packaging.environments import REPOSITORY, run
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    built, _ = release_check.build(REPOSITORY, directory / "dist", directory / "source")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and borrows the libraries of this one."""
    return release_check.install(wheel, tmp_path_factory.mktemp("elsewhere") / "environment")


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    assert release_check.check_contents(REPOSITORY, wheel) == []


def test_files_that_are_not_code_are_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"{PACKAGE}/settings.toml", f"{PACKAGE}/py.typed", f"{PACKAGE}/db/migrations/env.py"} <= names
    assert any(re.fullmatch(PACKAGE + r"/db/migrations/versions/\w+\.py", name) for name in names)


def test_the_installed_package_finds_its_files_and_backends(installed: Path, tmp_path: Path) -> None:
    code = (
        f"import {PACKAGE}; from {PACKAGE} import settings; from importlib.metadata import entry_points;"
        f"print({PACKAGE}.__file__);"
        "print(settings.load_settings().hpc_backend, settings.default_settings_file().is_file(),"
        " len(list(settings.migrations_dir().glob('versions/*.py'))) > 0,"
        " {'local', 'noop', 'concurrent'} <= entry_points(group=settings.BACKEND_GROUP).names)"
    )
    done = run(installed / "python", "-c", code, cwd=tmp_path)
    where, found = done.stdout.splitlines() or [done.stderr, ""]
    assert Path(where).is_relative_to(installed.parent), where
    assert found == "local True True True"


def test_the_command_prints_its_help(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "ccat-wm", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout


@pytest.mark.slow
@pytest.mark.needs("postgresql", "valkey")
def test_the_demo_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "ccat-wm", "demo", cwd=tmp_path, timeout=5 * PATIENCE)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_requirements_and_project_name_the_same_dependencies() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = (REPOSITORY / "requirements" / "runtime.in").read_text().splitlines()
    assert project["dependencies"] == [line for line in wanted if line and not line.startswith(("#", "-"))]


@pytest.mark.parametrize("name", ["build", "runtime", "backends", "radical", "dev"])
def test_lock_files_hold_names_versions_and_hashes_only(name: str) -> None:
    text = (REPOSITORY / "requirements" / f"{name}.txt").read_text()
    line = r"(\s*#.*|[\w.-]+==[\w.]+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?|)"
    odd = [entry for entry in text.splitlines() if not re.fullmatch(line, entry) or "://" in entry]
    assert odd == []


def test_every_backend_of_ours_has_an_extra() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    ours = {"local", "slurm", "kubernetes", "pbs", "aws_batch", "noop", "concurrent", "dask", "radical_pilot"}
    assert ours <= set(project["optional-dependencies"])
