"""The page for people with a script and fifty files: its commands work as they stand there, one after the other."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.test_docs import DOCS, REPOSITORY, blocks
from tests.support.fixtures_service import PROGRAM, Service
from tests.support.waiting import PATIENCE

PAGE = DOCS / "fifty-files.md"
EXAMPLE = REPOSITORY / "examples" / "fifty-files"


@pytest.mark.parametrize(("language", "name"), [("python", "reduce.py"), ("yaml", "fifty-files.yaml")])
def test_the_page_shows_the_files_of_the_example(language: str, name: str) -> None:
    assert list(blocks(PAGE, language)) == [(EXAMPLE / name).read_text(encoding="utf-8")]


def run_commands(service: Service, directory: Path, *commands: str) -> None:
    environment = {
        **os.environ,
        "CCAT_WM_URL": str(service.client.base_url).removesuffix("/api/v1/"),
        "PATH": f"{Path(PROGRAM).parent}:{os.environ['PATH']}",
    }
    script = "\n".join(["set -ex", *commands])
    done = subprocess.run(
        ["sh", "-c", script], env=environment, cwd=directory, capture_output=True, text=True, timeout=5 * PATIENCE
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_commands_of_the_page_make_a_map(service: Service, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    run_commands(service, tmp_path, *blocks(PAGE, "sh"))
    picture = tmp_path / "my-scans" / "results" / "combine" / "main" / "plots" / "map.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    [run] = service.call("GET", "/runs?pipeline=fifty-files&limit=1")["items"]
    assert (run["status"], run["counts"]["COMPLETED"]) == ("COMPLETED", 51)
    assert service.step(run["id"], "reduce", "scan_007")["status"] == "COMPLETED"


def test_a_map_without_a_bad_file(service: Service, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "scans")
    tolerant = (EXAMPLE / "fifty-files.yaml").read_text().replace("[reduce]", '[{step: reduce, tolerate: "20%"}]')
    (tmp_path / "scans" / "fifty-files.yaml").write_text(tolerant.replace("name: fifty-files", "name: with-losses"))
    run_commands(
        service,
        tmp_path / "scans",
        "mkdir raw",
        "python3 make_scans.py raw",
        "rm raw/scan_0[1-5]*",
        "echo no numbers > raw/scan_007.txt",
        "ccat-wm pipeline apply fifty-files.yaml",
        "ccat-wm run submit with-losses -p 'scans=@raw/*.txt' --watch",
    )
    [run] = service.call("GET", "/runs?pipeline=with-losses&limit=1")["items"]
    assert (run["status"], run["caveat_count"]) == ("COMPLETED", 1)
    assert (run["counts"]["COMPLETED"], run["counts"]["FAILED"]) == (10, 1)
