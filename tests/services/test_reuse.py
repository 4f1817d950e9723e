"""Runs that take over the products of an earlier run, with real programs."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries.products import lineage
from ccat_workflow_manager.db.queries.runs import run_detail
from ccat_workflow_manager.errors import NotFound
from ccat_workflow_manager.services.run_request import RunRequest
from tests.chaos.executing import sweep
from tests.support.armed import Injected, Plan
from tests.support.inline import Inline, ran, work
from tests.support.invariants import at_rest, while_working

COPY = "cat $WORKFLOW_UPSTREAM_DIR/*/*/science/* > $WORKFLOW_OUTPUT_DIR/science/x 2>/dev/null; "
WRITE = "mkdir -p $WORKFLOW_OUTPUT_DIR/science; "


def sh(text: str, **more: Any) -> dict[str, Any]:
    return {"command": ["/bin/sh", "-c", WRITE + text], **more}


def spec(reduce: str = "echo $WORKFLOW_KEY >> $WORKFLOW_OUTPUT_DIR/science/x", clean: str = COPY) -> dict[str, Any]:
    return {
        "name": "two",
        "parameters": {"type": "object", "properties": {"keys": {"type": "array"}, "line": {"default": "CO"}}},
        "steps": [
            {"name": "reduce", "foreach": "${parameters.keys}", **sh(reduce)},
            {"name": "clean", "foreach": "${parameters.keys}", "depends_on": ["reduce"], **sh(clean)},
            {"name": "map", "depends_on": ["clean"], **sh(COPY), "environment": {"LINE": "${parameters.line}"}},
        ],
    }


@pytest.fixture
def backend(context: Context) -> Inline:
    backend = Inline()
    context.use_backend("noop", backend)
    return backend


class Lab:
    """Runs of one deployment, each worked off at once."""

    def __init__(self, context: Context, backend: Inline) -> None:
        self.context, self.backend = context, backend

    def submit(self, definition: dict[str, Any], keys: str = "ab", **more: Any) -> UUID:
        parameters = {"keys": list(keys), **more.pop("parameters", {})}
        return self.context.submitter.submit(
            RunRequest(spec=definition, parameters=parameters, **more), actor="test"
        ).run_id

    def run(self, *arguments: Any, **more: Any) -> UUID:
        run_id = self.submit(*arguments, **more)
        work(self.context)
        shown = self.shown(run_id)
        assert shown["status"] == "COMPLETED", shown
        self.check()
        return run_id

    def shown(self, run_id: UUID) -> dict[str, Any]:
        with self.context.database.read() as unit:
            found = run_detail(unit, run_id)
        assert found is not None
        shown: dict[str, Any] = json.loads(found.text())
        return shown

    def step_runs(self, run_id: UUID) -> dict[str, dict[str, Any]]:
        return {f"{each['step']}/{each['key']}": each for each in self.shown(run_id)["step_runs"]}

    def started(self, run_id: UUID) -> set[str]:
        """The step runs of the run whose programs were started."""
        started = set(map(str, ran(self.backend)))
        return {name for name, each in self.step_runs(run_id).items() if each["id"] in started}

    def reused(self, run_id: UUID) -> set[str]:
        return {name for name, each in self.step_runs(run_id).items() if each["reused"]}

    def products(self, run_id: UUID) -> dict[str, tuple[str, bytes]]:
        """By step run: the checksum in the table, and the content on disk."""
        statement = """SELECT s.step, s.key, p.attempt, p.path, p.sha256 FROM products p
            JOIN step_runs s ON s.id = p.step_run_id WHERE p.run_id = :id AND p.type = 'SCIENCE'"""
        with self.context.database.read() as unit:
            found = unit.execute(statement, {"id": run_id}).all()
        base = Path(self.context.settings.pipeline_base_dir) / "two" / str(run_id)
        return {
            f"{step}/{key}": (digest, (base / step / key / f"attempt-{attempt}" / "output" / path).read_bytes())
            for step, key, attempt, path, digest in found
        }

    def why(self, run_id: UUID, name: str) -> dict[str, Any]:
        step_run = UUID(self.step_runs(run_id)[name]["id"])
        found: dict[str, Any] = json.loads(self.context.why_not_reused.explain(step_run))
        return found

    def check(self) -> None:
        with self.context.database.read() as unit:
            assert [*while_working(unit), *at_rest(unit)] == []


@pytest.fixture
def lab(context: Context, backend: Inline) -> Lab:
    return Lab(context, backend)


ALL = {"reduce/a", "reduce/b", "clean/a", "clean/b", "map/main"}


def test_an_equal_run_starts_nothing(lab: Lab) -> None:
    first = lab.run(spec())
    second = lab.run(spec(), reuse=first)
    assert (lab.started(second), lab.reused(second)) == (set(), ALL)
    assert lab.products(second) == lab.products(first)
    third = lab.run(spec(), reuse=second)
    assert lab.reused(third) == ALL
    assert lab.products(third) == lab.products(first)


def test_nothing_is_copied_and_the_lineage_leads_to_the_old_product(lab: Lab) -> None:
    first = lab.run(spec())
    second = lab.run(spec(), reuse=first)
    base = Path(lab.context.settings.pipeline_base_dir) / "two"
    old, new = (base / str(run) / "map" / "main" / "attempt-1" / "output/science/x" for run in (first, second))
    assert os.path.samefile(old, new)
    with lab.context.database.read() as unit:
        rows = unit.execute(
            "SELECT p.run_id, p.id FROM products p JOIN step_runs s ON s.id = p.step_run_id"
            " WHERE s.step = 'map' AND p.type = 'SCIENCE'"
        ).all()
        found = {row[0]: row[1] for row in rows}
        shown = json.loads(lineage(unit, found[second], 100) or "")
    edges = {(edge["parent"], edge["child"], edge["declared"]) for edge in shown["edges"]}
    assert (str(found[first]), str(found[second]), True) in edges


def test_a_change_runs_what_it_concerns_and_stops_where_the_products_are_equal(lab: Lab) -> None:
    first = lab.run(spec())
    same_product = spec(reduce="echo $WORKFLOW_KEY > $WORKFLOW_OUTPUT_DIR/science/x")
    second = lab.run(same_product, reuse=first)
    assert lab.started(second) == {"reduce/a", "reduce/b"}
    assert lab.products(second) == lab.products(first)
    other_product = spec(reduce="echo new $WORKFLOW_KEY > $WORKFLOW_OUTPUT_DIR/science/x")
    third = lab.run(other_product, reuse=second)
    assert lab.started(third) == ALL
    assert lab.products(third) == lab.products(lab.run(other_product))


def test_a_new_key_and_a_parameter_run_only_what_uses_them(lab: Lab) -> None:
    first = lab.run(spec())
    second = lab.run(spec(), "abc", reuse=first)
    assert lab.started(second) == {"reduce/c", "clean/c", "map/main"}
    third = lab.run(spec(), "abc", reuse=second, parameters={"line": "CII"})
    assert lab.started(third) == {"map/main"}
    assert [each["part"] for each in lab.why(third, "map/main")["differs"]] == ["environment", "parameters"]
    assert "no completed step run reduce/c" in lab.why(second, "reduce/c")["text"]
    assert lab.why(third, "reduce/a")["reused"]


def test_why_not_names_the_part(lab: Lab) -> None:
    first = lab.run(spec())
    other = lab.run(spec(clean=f"{COPY}:"), reuse=first)
    why = lab.why(other, "clean/a")
    assert (why["reused"], [each["part"] for each in why["differs"]]) == (False, ["command"])
    assert why["compared_with"] == lab.step_runs(first)["clean/a"]["id"]
    assert lab.why(first, "clean/a")["differs"] == []
    changed = lab.run(spec(reduce="echo $$ > $WORKFLOW_OUTPUT_DIR/science/x"), reuse=first)
    assert "upstream" in [each["part"] for each in lab.why(changed, "clean/a")["differs"]]
    waiting = lab.submit(spec(), reuse=first)
    assert lab.why(waiting, "clean/a")["differs"] == []


def test_a_program_of_the_host_that_changed_is_noticed(lab: Lab, tmp_path: Path) -> None:
    script = tmp_path / "reduce.sh"
    definition = {"name": "two", "steps": [{"name": "only", "command": ["/bin/sh", str(script)]}]}
    script.write_text(WRITE + "echo one > $WORKFLOW_OUTPUT_DIR/science/x")
    first = lab.run(definition, "")
    assert lab.reused(lab.run(definition, "", reuse=first)) == {"only/main"}
    script.write_text(WRITE + "echo two > $WORKFLOW_OUTPUT_DIR/science/x")
    second = lab.run(definition, "", reuse=first)
    assert lab.started(second) == {"only/main"}
    assert [each["part"] for each in lab.why(second, "only/main")["differs"]] == ["programs"]


def test_products_that_are_gone_or_cut_are_made_again(lab: Lab) -> None:
    first = lab.run(spec())
    before = lab.products(first)
    base = Path(lab.context.settings.pipeline_base_dir) / "two" / str(first)
    (base / "reduce/a/attempt-1/output/science/x").unlink()
    (base / "clean/b/attempt-1/output/science/x").write_text("")
    second = lab.run(spec(), reuse=first)
    assert lab.started(second) == {"reduce/a", "clean/b"}
    assert lab.products(second) == before


def test_without_a_digest_nothing_is_reused(lab: Lab) -> None:
    first = lab.run(spec())
    with lab.context.database.begin() as unit:
        unit.execute("UPDATE attempts SET provenance = '{\"image\": null}'")
    second = lab.run(spec(), reuse=first)
    assert lab.started(second) == ALL
    assert "digest" in lab.why(second, "reduce/a")["text"]


def test_what_did_not_complete_runs(lab: Lab) -> None:
    broken = lab.submit(spec(clean=f"{COPY} test $WORKFLOW_KEY = a"))
    work(lab.context)
    assert lab.shown(broken)["status"] == "FAILED"
    second = lab.run(spec(), reuse=broken)
    assert lab.started(second) == {"clean/a", "clean/b", "map/main"}


@pytest.mark.parametrize(
    "point", ["files.reuse before", "files.reuse after", "files.publish after", "commit.launched before"]
)
def test_a_worker_that_dies_while_it_takes_over_leaves_nothing_behind(lab: Lab, point: str) -> None:
    first = lab.run(spec())
    second = lab.submit(spec(), reuse=first)
    failpoints.arm(Plan(f"* {point} raise nth=1"))
    with suppress(Injected):
        lab.context.launcher.launch("noop", 100)
    failpoints.arm(None)
    sweep(lab.context)
    work(lab.context)
    assert lab.shown(second)["status"] == "COMPLETED"
    assert lab.reused(second) == ALL
    assert lab.products(second) == lab.products(first)
    lab.check()


def test_a_run_that_does_not_exist_cannot_be_reused(lab: Lab) -> None:
    with pytest.raises(NotFound) as caught:
        lab.submit(spec(), reuse=UUID(int=7))
    assert [fault.path for fault in caught.value.faults] == ["reuse"]
