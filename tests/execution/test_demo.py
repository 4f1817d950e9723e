"""The demo from end to end: planned, staged, run, collected and published, with and without containers."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ccat_workflow_manager.definition.compiled import compile_pipeline
from ccat_workflow_manager.definition.planning import plan
from ccat_workflow_manager.definition.spec import parse_pipeline, parse_pipeline_text
from ccat_workflow_manager.definition.substitution import substitute_step
from ccat_workflow_manager.demo import PIPELINE_FILE, demo_pipeline, ensure_demo_image
from ccat_workflow_manager.demo.image import LATEST, PROGRAM
from ccat_workflow_manager.execution.launch_spec import UpstreamProduct, UpstreamProducts
from ccat_workflow_manager.execution.outputs import Collected, collect, publish
from ccat_workflow_manager.execution.runtime import Runtime
from ccat_workflow_manager.lifecycle.models import NewProduct
from tests.execution.conftest import StepRunner

SCANS = ["scan-01", "scan-02", "scan 3"]
Results = dict[tuple[str, str], Collected]


@pytest.fixture(scope="session")
def demo_images(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    directory = tmp_path_factory.mktemp("demo-images")
    return directory, ensure_demo_image(str(directory), runtime)


def run_demo(runner: StepRunner, image: str | None, **parameters: Any) -> tuple[Results, Path]:
    """Run all step runs in order, as the service does."""
    definition = demo_pipeline(image)
    items = definition["parameters"]["properties"]["scans"]["items"]
    items["pattern"] = "^[A-Za-z0-9. _-]{1,40}$"
    spec = parse_pipeline(definition)
    filled = compile_pipeline(spec).validate_parameters(parameters)
    run_id = str(uuid4())
    results: Results = {}
    published: dict[str, list[UpstreamProducts]] = {}
    output = Path()
    for planned in plan(compile_pipeline(spec), filled).steps:
        step = next(step for step in spec.steps if step.name == planned.name)
        published[step.name] = []
        for each in planned.step_runs:
            key, item = each.key, each.item
            texts = substitute_step(step, filled, item, run_id, step.name)
            above = [source for needed in step.depends_on for source in published[needed.step]]
            upstream = [source for source in above if source.key == key] or above
            names = {"pipeline": spec.name, "run_id": run_id, "step": step.name, "key": key}
            ended = runner.run(
                list(texts.command), image=texts.image, parameters=filled, item=item, upstream=upstream, **names
            )
            assert ended.exit_code == 0, ended.stderr
            results[step.name, key] = collected = collect(ended.staged.dirs)
            publish(ended.staged.dirs)
            output = Path(ended.staged.dirs.output)
            products = [as_upstream(product) for product in collected.products]
            published[step.name].append(UpstreamProducts(step.name, key, str(output), products))
    return results, output


def as_upstream(product: NewProduct) -> UpstreamProduct:
    identity = uuid4()
    return UpstreamProduct(
        identity, product.name, product.type, product.path, product.size, product.sha256, product.is_directory
    )


def check_map(results: Results, output: Path, scans: int) -> None:
    numbers = json.loads((output / "statistics/statistics.json").read_text())
    assert numbers["scans"] == scans
    assert numbers["spectra"] == 72 * 72
    assert 50 < numbers["signal_to_noise"] < 1000
    for name in ("map", "velocity", "spectrum"):
        check_png(output / f"plots/{name}.png")
    check_fits(output / "science/map.fits")
    final = next(collected for (step, _), collected in results.items() if step == "grid")
    assert {str(product.type) for product in final.products} == {"SCIENCE", "PLOT", "STATISTICS", "QA_METRIC"}
    science = next(product for product in final.products if product.type == "SCIENCE")
    assert science.metadata["quality"]["signal_to_noise"] == numbers["signal_to_noise"]
    assert science.parents == (), "lineage derives the products of the steps before"
    raw = next(collected for (step, _), collected in results.items() if step == "observe").products[0]
    assert (raw.is_directory, raw.file_count) == (True, 10)


def check_png(path: Path) -> None:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    length = int.from_bytes(data[33:37], "big")
    pixels = zlib.decompress(data[41 : 41 + length])
    assert len(pixels) == (width * 3 + 1) * height
    assert len(set(pixels)) > 100


def check_fits(path: Path) -> None:
    data = path.read_bytes()
    assert len(data) % 2880 == 0
    cards = [data[start : start + 80].decode("ascii") for start in range(0, 2880, 80)]
    assert cards[0].startswith("SIMPLE  =                    T")
    assert any(card.startswith("END  ") for card in cards)
    values = dict(card[:30].split("= ") for card in cards if card[8:10] == "= ")
    assert (int(values["NAXIS1  "]), int(values["NAXIS2  "]), int(values["BITPIX  "])) == (144, 144, -32)
    pixels = struct.unpack(f">{144 * 144}f", data[2880 : 2880 + 4 * 144 * 144])
    assert max(pixels) > 20


def test_the_pipeline_file_is_valid() -> None:
    spec = parse_pipeline_text(PIPELINE_FILE.read_text())
    assert {step.image for step in spec.steps} == {LATEST}
    steps = plan(compile_pipeline(spec), compile_pipeline(spec).validate_parameters({})).steps
    assert [len(step.step_runs) for step in steps] == [12, 12, 12, 1]


def test_without_containers(bare_runner: StepRunner) -> None:
    results, output = run_demo(bare_runner, None, scans=SCANS)
    check_map(results, output, 3)


def test_a_cloudy_scan_gets_a_warning(bare_runner: StepRunner) -> None:
    scans = [f"s{number}" for number in range(6)]
    results, _ = run_demo(bare_runner, None, scans=scans)
    warned = [key for (_, key), collected in results.items() if collected.warnings]
    assert warned == ["s4"]
    (warning,) = results["calibrate", "s4"].warnings
    assert warning.startswith("s4: Tsys")


@pytest.mark.needs("apptainer")
def test_containers_give_the_same_result(
    runner: StepRunner, bare_runner: StepRunner, demo_images: tuple[Path, str]
) -> None:
    directory, image = demo_images
    contained, output = run_demo(replace(runner, images=directory), image, scans=SCANS)
    check_map(contained, output, 3)
    bare, _ = run_demo(bare_runner, None, scans=SCANS)
    assert digests(contained) == digests(bare)


@pytest.mark.needs("apptainer")
def test_a_first_script_finds_the_standard_library(runner: StepRunner, demo_images: tuple[Path, str]) -> None:
    directory, image = demo_images
    modules = "argparse csv ctypes datetime glob gzip json math pathlib re sqlite3 statistics subprocess urllib.request"
    script = "import " + ", ".join(modules.split())
    ended = replace(runner, images=directory).run(["python3", "-c", script], image=image)
    assert (ended.exit_code, ended.stderr) == (0, "")


def digests(results: Results) -> dict[tuple[str, str, str], str]:
    return {
        (*key, product.path): product.sha256 for key, collected in results.items() for product in collected.products
    }


@pytest.mark.needs("apptainer")
def test_the_image_is_built_once_for_each_program(
    runtime: Runtime, demo_images: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, image = demo_images
    built = (directory / image).stat()
    assert ensure_demo_image(str(directory), runtime) == image
    assert (directory / image).stat().st_mtime_ns == built.st_mtime_ns
    assert built.st_size < 40 * 1024**2
    assert os.readlink(directory / LATEST) == image
    assert sorted(os.listdir(directory)) == sorted([".ccat-demo.lock", LATEST, image])

    changed = tmp_path / "program"
    shutil.copytree(PROGRAM.parent, changed)
    with (changed / "reduce.py").open("a") as file:
        file.write("# changed\n")
    monkeypatch.setattr("ccat_workflow_manager.demo.image.PROGRAM", changed / "reduce.py")
    assert ensure_demo_image(str(directory), runtime) != image
