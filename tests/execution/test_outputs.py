"""From the content of an output directory to products, or to an error that names the fault."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccat_workflow_manager.errors import LeaseLost, OutputError
from ccat_workflow_manager.execution.launch_spec import StepLaunch, UpstreamProduct, UpstreamProducts
from ccat_workflow_manager.execution.layout import AttemptDirs, attempt_dirs
from ccat_workflow_manager.execution.output_limits import OutputLimits
from ccat_workflow_manager.execution.outputs import NO_PRODUCTS, Collected, collect, publish
from ccat_workflow_manager.execution.runtime import NO_RUNTIME
from ccat_workflow_manager.execution.staging import stage
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.opener import stays_inside
from ccat_workflow_manager.lifecycle.models import NewProduct

RUN = str(uuid4())
STEP = StepLaunch("p", RUN, "grid", "k", 1, ["true"])


@pytest.fixture
def dirs(tmp_path: Path) -> AttemptDirs:
    return stage(STEP, base_dir=str(tmp_path), sif_cache_dir=str(tmp_path), runtime=NO_RUNTIME).dirs


@pytest.fixture
def output(dirs: AttemptDirs) -> Path:
    return Path(dirs.output_partial)


def write(output: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def by_path(collected: Collected) -> dict[str, NewProduct]:
    return {product.path: product for product in collected.products}


def refusal(dirs: AttemptDirs) -> str:
    with pytest.raises(OutputError) as refused:
        collect(dirs)
    assert refused.value.reason is FailureReason.OUTPUT_INVALID
    return str(refused.value)


def test_products_are_sorted_into_types_by_their_top_folder(dirs: AttemptDirs, output: Path) -> None:
    names = ["science/map.fits", "qa/m.json", "plots/a/b.png", "statistics/s.json", "logs/l.txt", "other/x", "top.txt"]
    write(output, dict.fromkeys(names, "content"))
    (output / "empty").mkdir()
    collected = collect(dirs)
    assert {product.path: str(product.type) for product in collected.products} == {
        "science/map.fits": "SCIENCE",
        "qa/m.json": "QA_METRIC",
        "plots/a/b.png": "PLOT",
        "statistics/s.json": "STATISTICS",
        "logs/l.txt": "LOG",
        "other/x": "INTERMEDIATE",
        "top.txt": "INTERMEDIATE",
    }
    first = collected.products[0]
    assert (first.name, first.size, first.sha256) == (first.path, 7, hashlib.sha256(b"content").hexdigest())
    assert collected.warnings == []


def test_no_output_is_a_warning(dirs: AttemptDirs) -> None:
    assert collect(dirs) == Collected([], [NO_PRODUCTS])


def test_collecting_again_after_publishing_gives_the_same(dirs: AttemptDirs, output: Path) -> None:
    write(output, {"science/a": "1", "x.zarr/0": "2", "warnings.json": ["careful"]})
    before = collect(dirs)
    publish(dirs)
    publish(dirs)
    assert not output.exists()
    assert collect(dirs) == before
    assert before.warnings == ["careful"]


@pytest.mark.parametrize("name", ["tool", "cube.zarr/tool"])
def test_no_product_runs_with_the_rights_of_the_service(dirs: AttemptDirs, output: Path, name: str) -> None:
    path = output / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh")
    path.chmod(0o6755)
    collect(dirs)
    publish(dirs)
    assert stat.S_IMODE(Path(dirs.output, name).stat().st_mode) == 0o755


def test_publishing_never_overwrites(dirs: AttemptDirs, output: Path) -> None:
    write(Path(dirs.output), {"old": "1"})
    write(output, {"new": "2"})
    with pytest.raises(OutputError) as refused:
        publish(dirs)
    assert refused.value.reason is FailureReason.OUTPUT_INVALID
    assert os.listdir(dirs.output) == ["old"]


def test_a_missing_output_directory(dirs: AttemptDirs, output: Path) -> None:
    output.rmdir()
    for act in (collect, publish):
        with pytest.raises(OutputError) as failed:
            act(dirs)
        assert failed.value.reason is FailureReason.OUTPUT_UNREADABLE
    output.symlink_to("/etc")
    assert "link" in refusal(dirs)


# --- directory products -----------------------------------------------------------------------------------------------


def test_a_directory_product_is_one_product(dirs: AttemptDirs, output: Path) -> None:
    write(output, {"science/cube.zarr/.zarray": "{}", "science/cube.zarr/0/0": "abc", "science/cube.zarr/0/1": "defg"})
    (product,) = collect(dirs).products
    assert (product.path, str(product.type), product.is_directory) == ("science/cube.zarr", "SCIENCE", True)
    assert (product.size, product.file_count) == (9, 3)


def test_the_tree_hash_depends_on_names_and_contents_only(dirs: AttemptDirs, output: Path) -> None:
    def digest(files: dict[str, Any], directory: str = "a.zarr") -> str:
        write(output, {f"{directory}/{name}": content for name, content in files.items()})
        return by_path(collect(dirs))[directory].sha256

    same = digest({"x": "1", "y/z": "2"})
    os.utime(output / "a.zarr/x", (0, 0))
    assert digest({}) == same
    assert digest({"y/z": "2", "x": "1"}, "b.zarr") == same
    assert digest({"x": "1", "y/z": "3"}, "c.zarr") != same
    assert digest({"x": "1", "yz": "2"}, "d.zarr") != same
    (output / "a.zarr/empty").mkdir()
    assert digest({}) != same


def test_a_declared_directory_is_one_product_too(dirs: AttemptDirs, output: Path) -> None:
    declaration = [{"path": "science/cal", "name": "calibration", "type": "INTERMEDIATE", "quality": {"rms": 0.1}}]
    write(output, {"science/cal/a": "1", "science/cal/b": "2", "products.json": declaration})
    (product,) = collect(dirs).products
    assert (product.name, str(product.type), product.file_count) == ("calibration", "INTERMEDIATE", 2)
    assert product.metadata == {"quality": {"rms": 0.1}}


# --- declarations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "products.json is not valid JSON"),
        ("[" * 100_000, "products.json is nested too deeply"),
        ("3", "products.json must be a list"),
        ({"product": []}, "products.json must be a list"),
        ([3], "products.json[0] must be an object"),
        ([{}], "products.json[0].path must be a text"),
        ([{"path": "x", "typ": "LOG"}], "products.json[0].typ is not a known field"),
        ([{"path": "x", "type": "NICE"}], "products.json[0].type 'NICE' is not one of SCIENCE"),
        ([{"path": "x", "type": []}], "products.json[0].type [] is not one of SCIENCE"),
        ([{"path": "../x"}], "products.json[0].path '../x' is not a plain path"),
        ([{"path": "/etc/passwd"}], "is not a plain path"),
        ([{"path": "x"}, {"path": "x"}], "products.json[1].path 'x' is declared twice"),
        ([{"path": "y"}], "products.json declares y, which is not there"),
        ([{"path": "d.zarr/0"}], "products.json declares d.zarr/0, which is part of the product d.zarr"),
        ([{"path": "x", "name": ""}], "products.json[0].name must be a text"),
        ([{"path": "x", "name": "d.zarr"}], "d.zarr and x are both named 'd.zarr'"),
        ([{"name": ""}], "products.json[0].name must be a text"),
        ([{"name": "../x"}], "products.json[0].name '../x' is not a plain path"),
        ([{"name": "the map"}], "declares the map, which is not there; a product whose name is not its path needs"),
        ([{"name": "x"}, {"name": "x"}], "products.json[1].name 'x' is declared twice"),
        ([{"path": "x"}, {"name": "x"}], "products.json[1].name 'x' is declared twice"),
        ([{"path": "x", "quality": {}, "quality_metrics": {}}], "products.json[0].quality_metrics is the same"),
        ([{"path": "x", "quality_metrics": 3}], "products.json[0].quality_metrics must be an object"),
        ([{"path": "x", "quality": 3}], "products.json[0].quality must be an object"),
        ([{"path": "x", "parents": "y"}], "products.json[0].parents must be a list"),
        ([{"path": "x", "parents": ["nobody"]}], "names 'nobody' as a parent of x; no such product was given"),
        ('[{"path": "x", "quality": {"rms": NaN}}]', "products.json[0].quality.rms is not a finite number"),
        ('[{"path": "x", "metadata": {"a": "\\u0000"}}]', "contains a NUL character"),
        ('[{"path": "x", "metadata": {"a": "\\ud800"}}]', "surrogate"),
    ],
)
def test_invalid_declarations(dirs: AttemptDirs, output: Path, content: Any, fault: str) -> None:
    write(output, {"x": "1", "d.zarr/0": "1", "products.json": content})
    assert fault in refusal(dirs)


def test_a_declaration_by_name_only(dirs: AttemptDirs, output: Path) -> None:
    declared = [
        {"name": "science/map.fits", "type": "SCIENCE", "quality_metrics": {"rms": 1.0}, "parents": []},
        {"name": "cal", "type": "qa_metric"},
    ]
    write(output, {"science/map.fits": "1", "cal/a": "1", "cal/b": "2", "products.json": declared})
    found = by_path(collect(dirs))
    map_, cal = found["science/map.fits"], found["cal"]
    assert (map_.name, str(map_.type), map_.metadata) == ("science/map.fits", "SCIENCE", {"quality": {"rms": 1.0}})
    assert (str(cal.type), cal.is_directory) == ("QA_METRIC", True)


@pytest.mark.parametrize("content", ["x", {"a": 1}, [1], "3"])
def test_invalid_warnings(dirs: AttemptDirs, output: Path, content: Any) -> None:
    write(output, {"warnings.json": content})
    assert refusal(dirs).startswith("warnings.json ")


def test_many_and_long_warnings_are_truncated(dirs: AttemptDirs, output: Path) -> None:
    write(output, {"x": "", "warnings.json": {"warnings": ["w" * 5000] * 150}})
    warnings = collect(dirs).warnings
    assert len(warnings) == 101
    assert warnings[-1] == "50 more warnings are not shown"
    assert len(warnings[0]) < 1100


def test_a_declaration_that_is_a_link_is_not_followed(dirs: AttemptDirs, output: Path, tmp_path: Path) -> None:
    (tmp_path / "products.json").write_text("[]")
    (output / "products.json").symlink_to(tmp_path / "products.json")
    assert "products.json is a link" in refusal(dirs)


def test_parents(tmp_path: Path) -> None:
    one, two, three = UUID(int=1), UUID(int=2), UUID(int=3)
    sources = []
    for key, ids in (("a", [one, two]), ("b", [three])):
        directory = attempt_dirs(str(tmp_path), "p", RUN, "cal", key, 1).output
        os.makedirs(directory)
        products = [UpstreamProduct(identity, f"x{identity.int}", "SCIENCE", "x", 1, "0" * 64) for identity in ids]
        sources.append(UpstreamProducts("cal", key, directory, products))
    step = replace(STEP, upstream=sources)
    dirs = stage(step, base_dir=str(tmp_path), sif_cache_dir=str(tmp_path), runtime=NO_RUNTIME).dirs
    declared = [
        {"path": "by-id", "parents": [str(two)]},
        {"path": "by-name", "parents": ["cal/a/x1", "cal/b/x3"]},
        {"path": "by-group", "parents": ["cal/a"]},
        {"path": "by-bare-name", "parents": ["x3"]},
        {"path": "none", "parents": []},
    ]
    names = ["by-id", "by-name", "by-group", "by-bare-name", "none", "undeclared", "logs/l"]
    write(Path(dirs.output_partial), {"products.json": declared, **dict.fromkeys(names, "")})
    found = {path: set(product.parents) for path, product in by_path(collect(dirs)).items()}
    assert found == {
        "by-id": {two},
        "by-name": {one, three},
        "by-group": {one, two},
        "by-bare-name": {three},
        "none": set(),
        "undeclared": set(),
        "logs/l": set(),
    }


def test_a_name_that_several_parents_have(tmp_path: Path) -> None:
    sources = []
    for key in "ab":
        directory = attempt_dirs(str(tmp_path), "p", RUN, "cal", key, 1).output
        os.makedirs(directory)
        sources.append(
            UpstreamProducts("cal", key, directory, [UpstreamProduct(uuid4(), "map", "SCIENCE", "m", 1, "0" * 64)])
        )
    step = replace(STEP, upstream=sources)
    dirs = stage(step, base_dir=str(tmp_path), sif_cache_dir=str(tmp_path), runtime=NO_RUNTIME).dirs
    write(Path(dirs.output_partial), {"x": "", "products.json": [{"path": "x", "parents": ["map"]}]})
    assert "names 'map' as a parent of x, which may be cal/a/map or cal/b/map: say which" in refusal(dirs)


# --- hostile outputs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/etc/passwd", "../config/manifest.json", "a/../../x", "..", "b/.."])
def test_links_that_lead_out(dirs: AttemptDirs, output: Path, target: str) -> None:
    (output / "science").mkdir()
    os.symlink(target, output / "link")
    assert "link is a link to" in refusal(dirs)


def test_links_that_stay_inside_are_no_products_of_their_own(dirs: AttemptDirs, output: Path) -> None:
    write(output, {"science/map.fits": "1"})
    os.symlink("map.fits", output / "science/latest")
    os.symlink("../science", output / "science/again")
    os.symlink("science/./map.fits", output / "top")
    assert list(by_path(collect(dirs))) == ["science/map.fits"]


NAMES = st.lists(st.sampled_from(["a", "b", "..", "."]), min_size=1, max_size=4)
LINKS = st.dictionaries(st.sampled_from(["a", "b", "d/a", "d/b"]), NAMES, max_size=4)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(links=LINKS)
def test_no_allowed_set_of_links_leads_out(
    tmp_path_factory: pytest.TempPathFactory, links: dict[str, list[str]]
) -> None:
    root = tmp_path_factory.mktemp("links") / "x" / "y"
    (root / "d").mkdir(parents=True)
    for path, parts in links.items():
        if stays_inside(path, "/".join(parts)):
            os.symlink("/".join(parts), root / path)
    for path in links:
        if (root / path).is_symlink():
            assert os.path.realpath(root / path).startswith(os.path.realpath(root))


def test_special_files(dirs: AttemptDirs, output: Path) -> None:
    os.mkfifo(output / "pipe")
    assert "pipe is neither a file nor a directory" in refusal(dirs)
    (output / "pipe").unlink()
    (output / "x.zarr").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(output / "x.zarr", os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
        assert "x.zarr/socket is neither" in refusal(dirs)


def test_names_that_are_not_utf8_are_shown_escaped(dirs: AttemptDirs, output: Path) -> None:
    with open(os.fsencode(output) + b"/bad\xff.txt", "w"):
        pass
    assert r"bad\xff.txt" in refusal(dirs)


def test_directories_too_deep(dirs: AttemptDirs, output: Path) -> None:
    os.makedirs(output / "/".join("d" * 80))
    assert "directories deep" in refusal(dirs)


def test_too_many_files(dirs: AttemptDirs, output: Path) -> None:
    write(output, {f"{folder}/{index}": "" for folder in "ab" for index in range(6)})
    with pytest.raises(OutputError, match=r"more than 10 files.*OUTPUT_MAX_FILES"):
        collect(dirs, limits=OutputLimits(max_files=10))
    assert len(collect(dirs, limits=OutputLimits(max_files=12)).products) == 12


def test_a_file_that_cannot_be_read(dirs: AttemptDirs, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(output, {"x": "1"})

    def fail(descriptor: int, amount: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(OutputError, match="x cannot be read: Input/output error") as failed:
        collect(dirs)
    assert failed.value.reason is FailureReason.OUTPUT_UNREADABLE


def test_a_file_that_changes_while_it_is_read(dirs: AttemptDirs, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(output, {"x": "1"})
    read: Callable[[int, int], bytes] = os.read

    def grow(descriptor: int, amount: int) -> bytes:
        data = read(descriptor, amount)
        if not data:
            (output / "x").write_text("more than before")
        return data

    monkeypatch.setattr(os, "read", grow)
    with pytest.raises(OutputError, match="still being written"):
        collect(dirs)


def test_progress_during_large_files(dirs: AttemptDirs, output: Path) -> None:
    for name in "ab":
        with open(output / name, "wb") as file:
            file.truncate(70 * 1024 * 1024)
    calls: list[int] = []
    assert len(collect(dirs, progress=lambda: calls.append(1)).products) == 2
    assert len(calls) > 2

    def lost() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        collect(dirs, progress=lost)


def test_an_outcome_is_a_caveat_and_no_product(dirs: AttemptDirs, output: Path) -> None:
    write(output, {"x": "", "outcome.json": {"outcome": "partial", "text": "t" * 2000}})
    collected = collect(dirs)
    assert list(by_path(collected)) == ["x"]
    [caveat] = collected.caveats
    assert caveat.kind == "partial"
    assert len(caveat.text) == 1003


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"outcome": "fine"}', '{"outcome": 3}', '{"outcome": "no_work", "text": 1}', "[" * 100_000,
     '{"outcome": "no_work", "more": 1}', '{"outcome": "no_work", "text": "\\u0000"}', "x" * 100_000],
)  # fmt: skip
def test_an_outcome_that_is_garbage_is_a_caveat_and_no_failure(dirs: AttemptDirs, output: Path, content: str) -> None:
    write(output, {"x": "", "outcome.json": content})
    collected = collect(dirs)
    assert [caveat.kind for caveat in collected.caveats] == ["unreadable_outcome"]
    assert list(by_path(collected)) == ["x"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)])
def test_an_outcome_that_is_no_file_is_not_read(dirs: AttemptDirs, output: Path, make: Callable[[str], None]) -> None:
    make(str(output / "outcome.json"))
    [caveat] = collect(dirs).caveats
    assert caveat.kind == "unreadable_outcome"
    assert "root" not in caveat.text
