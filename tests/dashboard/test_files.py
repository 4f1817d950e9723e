"""What is shipped with the pages: nothing inline, files of others unchanged, readable colours."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from ccat_workflow_manager import dashboard
from ccat_workflow_manager.dashboard import assets
from tests.api.rest import Rest

ROOT = Path(dashboard.__file__).parent
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
SCRIPTS = sorted((ROOT / "static" / "js").glob("*.js"))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_have_no_inline_style_and_no_inline_script(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\sstyle\s*=|\son[a-z]+\s*=|<style|javascript:|\|safe", text)
    assert re.findall(r"<script(?![^>]*\ssrc=)", text) == []
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_small_and_build_no_html_from_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 260
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)


def test_files_of_others_are_as_their_authors_made_them() -> None:
    static = ROOT / "static"
    listed = dict(
        line.split()[::-1] for line in (static / "vendor" / "CHECKSUMS").read_text(encoding="utf-8").splitlines()
    )
    assert {name: hashlib.sha256((static / name).read_bytes()).hexdigest() for name in listed} == listed


def test_all_scripts_and_the_stylesheet_are_small() -> None:
    packed = {name: len(asset.compressed or asset.content) for name, asset in assets.assets().items()}
    assert sum(size for name, size in packed.items() if name.endswith(".js")) < 45_000
    assert packed["dashboard.css"] < 20_000
    assert sum(size for name, size in packed.items() if not name.endswith(".txt")) < 250_000


def test_static_files_are_kept_for_a_year_under_an_address_of_their_content(rest: Rest) -> None:
    answer = rest.client.get(assets.address("dashboard.css"))
    assert answer.status_code == 200
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-encoding"] == "gzip"
    old = rest.client.get("/static/000000000000/dashboard.css")
    assert old.headers["cache-control"] == "no-cache"
    assert rest.client.get("/static/x/../../settings.toml").status_code == 404
    assert rest.client.get("/static/x/%2e%2e/router.py").status_code == 404


def test_the_head_of_a_file_and_other_methods(rest: Rest) -> None:
    path = "/static/000000000000/dashboard.css"
    whole, head, other = rest.client.get(path), rest.client.head(path), rest.client.post(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]
    assert (other.status_code, other.headers.get("allow")) == (405, "GET, HEAD")
    assert rest.client.head("/openapi.json").status_code == 200
    assert rest.client.post("/static").status_code == 404
