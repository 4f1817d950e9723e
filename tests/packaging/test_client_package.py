"""The distribution of the client alone: what it holds, what it needs, and that it works."""

from __future__ import annotations

import json
import sysconfig
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from deploy import client_package, release_check
from deploy.client_package import NAME, PACKAGE
from tests.packaging import environments
from tests.packaging.environments import REPOSITORY, pip, run
from tests.support.fixtures_service import Service

FEWER_THAN = 10
SERVER = ("api", "app", "dashboard", "db", "managers", "services", "settings", "tasks", "commands", "cli")

PROGRAM = """
import sys
from ccat_workflow_manager.client import Client

step = {"name": "measure", "command": ["/bin/sh", "-c", 'echo 42 | tee "$WORKFLOW_OUTPUT_DIR/answer"']}
with Client(sys.argv[1]) as client:
    client.pipelines.apply({"name": "alone", "steps": [step]})
    run = client.runs.wait(client.runs.submit("alone"))
    client.runs.download(run, "fetched")
    print(run.status, *client.step_runs.logs(run.step_run("measure")))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist."""
    directory = tmp_path_factory.mktemp("client")
    return release_check.build_client(REPOSITORY, directory / "dist", directory / "source")


@pytest.fixture(scope="module")
def alone(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, what its metadata require, and nothing else."""
    environment = tmp_path_factory.mktemp("alone") / "environment"
    venv.create(environment, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    pip(environment, "install", "--no-index", "--no-deps", built[0])
    [client] = metadata.distributions(name=NAME, path=[str(site)])
    environments.install(site, environments.closure(environments.requirements(client.requires or ())))
    return environment


def test_wheel_and_sdist_hold_what_the_client_imports_and_no_server(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    files = {path.as_posix() for path in client_package.closure(REPOSITORY)[0]}
    assert release_check.check_contents(REPOSITORY, wheel, files) == []
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if name.endswith((".py", ".typed"))}
    assert names == files
    assert [name for name in names if name.split("/")[1].removesuffix(".py") in SERVER] == []


def test_beside_the_service_both_have_the_same_files(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        shared = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert shared == {name: (REPOSITORY / name).read_bytes() for name in shared}


def test_fewer_than_ten_distributions_are_installed(alone: Path) -> None:
    listed = json.loads(pip(alone, "list", "--format", "json"))
    assert {NAME, "httpx"} < {each["name"] for each in listed}
    assert len(listed) < FEWER_THAN, listed
    pip(alone, "check")


def test_a_program_with_the_client_alone_runs_a_pipeline(alone: Path, service: Service, tmp_path: Path) -> None:
    done = run(alone / "bin" / "python", "-c", PROGRAM, f"http://127.0.0.1:{service.port}", cwd=tmp_path)
    assert done.stdout.split() == ["COMPLETED", "42"], done.stderr
    assert [file.read_text() for file in (tmp_path / "fetched").rglob("answer")] == ["42\n"]


def test_an_extra_that_names_something_else_is_refused(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "LICENSE"):
        (tmp_path / name).write_text((REPOSITORY / name).read_text())
    package = tmp_path / PACKAGE
    (package / "client").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "used.py").write_text("def later():\n    import re2")
    (package / "client" / "__init__.py").write_text(f"from {PACKAGE} import used")
    with pytest.raises(ValueError, match=r"httpx.*re2"):
        client_package.stage(tmp_path, tmp_path / "source")
