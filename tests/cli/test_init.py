"""The first files of a pipeline: each shape validates, applies and runs as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import answer, invoke, refused
from tests.support.fixtures_service import Service, running_service
from tests.support.reaper import Reaper

pytestmark = pytest.mark.whole

MADE = {
    "files": "table/main/science/table.csv",
    "chain": "map/main/science/map.txt",
    "sweep": "best/main/science/best.json",
}


@pytest.mark.parametrize("shape", MADE)
def test_every_shape_runs_as_it_is(shape: str, service: Service, tmp_path: Path) -> None:
    apply_and_run(shape, service, tmp_path)


@pytest.mark.needs("apptainer")
def test_it_runs_as_it_is_in_containers(reaper: Reaper, tmp_path: Path) -> None:
    with running_service(reaper, CONTAINER_RUNTIME="apptainer") as contained:
        apply_and_run("chain", contained, tmp_path)


def apply_and_run(shape: str, service: Service, tmp_path: Path) -> None:
    env = {"CCAT_WM_URL": f"http://127.0.0.1:{service.port}"}
    directory = tmp_path / f"My {shape}"
    written = invoke("init", str(directory), "--shape", shape)
    assert written.exit_code == 0, written.output
    assert f"'{directory}/pipeline.yaml'" in written.stdout  # can be pasted
    file = str(directory / "pipeline.yaml")
    name = answer("pipeline", "validate", file)["name"]
    assert name == f"my-{shape}"
    applied = invoke("pipeline", "apply", file, env=env)
    assert (applied.exit_code, applied.stderr) == (0, "")
    run = answer("run", "submit", name, "--watch", env=env)
    assert run["status"] == "COMPLETED"
    assert "run download latest results" in (directory / "pipeline.yaml").read_text()
    invoke("run", "download", run["id"], str(directory / "results"), env=env)
    assert (directory / "results" / MADE[shape]).stat().st_size > 0
    assert "results/" in (directory / ".gitignore").read_text().splitlines()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "measure.py").write_text("mine")
    assert "measure.py exists" in refused("init", str(tmp_path))
    assert [each.name for each in tmp_path.iterdir()] == ["measure.py"]
    assert "--name" in refused("init", str(tmp_path / "new"), "--name", "No Name")
    assert "'round' is not one of 'files', 'chain', 'sweep'" in refused("init", str(tmp_path), "--shape", "round")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("init", str(tmp_path / "file"))
