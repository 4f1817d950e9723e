"""Hostile words as names of files: a product keeps its name, and the name does nothing on the way to the user."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from fastapi.testclient import TestClient

from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.client import Client
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import OutputError
from ccat_workflow_manager.execution.layout import AttemptDirs, attempt_dirs
from ccat_workflow_manager.execution.output_limits import OutputLimits
from ccat_workflow_manager.execution.outputs import collect, publish
from ccat_workflow_manager.lifecycle.models import WorkItem
from tests.api.rest import BASE_URL, Hand, Rest
from tests.client.test_client import URL, Through
from tests.hostile.words import NAMES

LIMITS = OutputLimits(
    max_files=1000, max_entries=1000, limit_gb=1, sparse_gb=1, limit_seconds=60, metadata_kb=1, max_parents=3
)


@pytest.fixture
def app(context: Context) -> Iterator[TestClient]:
    with TestClient(create_app(context), base_url=BASE_URL) as client:
        yield client


@pytest.fixture
def item(app: TestClient, context: Context) -> WorkItem:
    """A step run that is claimed."""
    Rest(app).run()
    return Hand(context).claim()[0]


@pytest.fixture
def output(item: WorkItem, context: Context) -> AttemptDirs:
    dirs = attempt_dirs(str(context.settings.pipeline_base_dir), "one", str(item.run.run_id), "only", "main", 1)
    Path(dirs.output_partial).mkdir(parents=True)
    return dirs


def test_products_keep_their_names_on_every_way_out(
    app: TestClient, context: Context, item: WorkItem, output: AttemptDirs, tmp_path: Path
) -> None:
    partial = Path(output.output_partial)
    tree = partial / "cube.zarr"
    tree.mkdir()
    for name in NAMES.values():
        (partial / name).write_text(f"file {name}", encoding="utf-8")
        (tree / name).write_text(f"part {name}", encoding="utf-8")
    products = collect(output, limits=LIMITS).products
    assert {each.path for each in products} == {*NAMES.values(), "cube.zarr"}
    publish(output)
    Hand(context).complete(item, *products)
    client = Client(URL, "", transport=Through(app))
    listed = list(client.runs.products(str(item.run.run_id)))
    assert {each["name"] for each in listed} == {*NAMES.values(), "cube.zarr"}
    for each in listed:
        answer = app.get(f"/api/v1/products/{each['id']}/content")
        assert answer.status_code == 200
        sent = answer.headers["content-disposition"]
        assert re.fullmatch(r"(attachment|inline); filename\*=UTF-8''[A-Za-z0-9%._~-]+", sent)
        if each["is_directory"]:
            with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
                assert {os.path.basename(name) for name in archive.getnames()} == {*NAMES.values(), "cube.zarr"}
        else:
            assert unquote(sent.partition("''")[2]) == each["path"]
            assert answer.text == f"file {each['path']}"
    client.runs.download(str(item.run.run_id), tmp_path / "down")
    down = tmp_path / "down" / "only" / "main"
    assert set(os.listdir(down)) == {*NAMES.values(), "cube.zarr"}
    assert set(os.listdir(down / "cube.zarr")) == set(NAMES.values())
    page = app.get(f"/step-runs/{item.step_run_id}", headers={"Accept": "text/html"}).text
    assert "<script>alert" not in page
    assert "<b onmouseover" not in page


@pytest.mark.parametrize("name", [b"bad\xff.fits", b"\xed\xa0\x80"])
def test_a_name_that_is_no_text_is_refused_with_its_path(output: AttemptDirs, name: bytes) -> None:
    with open(os.fsencode(output.output_partial) + b"/" + name, "wb"):
        pass
    with pytest.raises(OutputError, match=re.escape(repr(name)[2:-1])):
        collect(output, limits=LIMITS)
