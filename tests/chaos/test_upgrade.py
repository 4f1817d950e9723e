"""The upgrade drill: programs of the release before go on while the schema of the next one is put in under them.

There is no release yet. The next one is a copy of this program with one more migration, which adds to the tables that
every process writes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import ccat_workflow_manager
from ccat_workflow_manager.db import migrate
from tests.chaos.judging import require_all_is_well
from tests.support.fixtures_service import Service, new_service, sh
from tests.support.reaper import Reaper
from tests.support.waiting import PATIENCE, wait_until

_MIGRATION = """
from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None
{works_with}

def upgrade():
    for table in ("runs", "step_runs", "attempts", "events", "products", "audit", "workers"):
        op.execute(f"ALTER TABLE {{table}} ADD COLUMN next_note TEXT DEFAULT 'next' NOT NULL")
    op.execute("CREATE TABLE next_notes (run_id UUID NOT NULL REFERENCES runs ON DELETE CASCADE)")
"""
_STEP = """
echo started >> '{marks}'/"$WORKFLOW_STEP-$WORKFLOW_KEY"
until test -e '{gate}'; do sleep 0.1; done
echo made > "$WORKFLOW_OUTPUT_DIR/product"
"""


@pytest.fixture
def service(reaper: Reaper) -> Iterator[Service]:
    service = new_service(reaper)
    try:
        service.start()
        yield service
    finally:
        service.close()


def next_release(home: Path, *, adds: bool) -> dict[str, str]:
    """Another tree of the program, with one more migration. Returns the variables by which a process uses it."""
    package = home / "ccat_workflow_manager"
    shutil.copytree(Path(ccat_workflow_manager.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    before = migrate.newest_revision()
    revision = f"{int(before) + 1:04}"
    text = _MIGRATION.format(revision=revision, before=before, works_with=f'works_with = "{before}"' if adds else "")
    (package / "db" / "migrations" / "versions" / f"{revision}_next.py").write_text(text)
    return {"PYTHONPATH": str(home)}


def test_runs_go_on_while_the_schema_of_the_next_release_is_put_in(service: Service, tmp_path: Path) -> None:
    """The manager and the worker of `up` are of the release before; so is a worker that is started later."""
    gate, marks = tmp_path / "gate", tmp_path / "marks"
    marks.mkdir()
    text, keys = _STEP.format(gate=gate, marks=marks), [str(number) for number in range(3)]
    steps = [sh(text, "first", foreach=keys), sh(text, "second", foreach=keys, depends_on=["first"])]
    runs = [service.submit(*steps)]
    wait_until(lambda: len(list(marks.iterdir())) == len(keys), 60, "jobs that run")
    newer = next_release(tmp_path / "next", adds=True)
    upgraded = service.start_another("db", "upgrade", **newer)
    assert upgraded.wait(PATIENCE) == 0, service.log()
    assert service.is_ready(), "the manager"
    service.start_another("worker", "--backend", "local", **newer)
    service.start_another("worker", "--backend", "concurrent", **newer)
    service.start_another("worker", "--backend", "local")
    wait_until(
        lambda: len(service.call("GET", "/workers")["items"]) >= 4, 60, lambda: f"workers of both; {service.log()}"
    )
    runs.append(service.submit(*steps))
    runs.append(service.submit(*steps, backend="concurrent"))
    gate.touch()
    for run_id in runs:
        assert service.wait(run_id)["status"] == "COMPLETED"
    assert {step["attempt"] for run_id in runs for step in service.run(run_id)["step_runs"]} == {1}
    assert {mark.read_text() for mark in marks.iterdir()} == {"started\n" * len(runs)}
    require_all_is_well(service, runs)


def test_a_schema_that_takes_something_away_is_refused(service: Service, tmp_path: Path) -> None:
    newer = next_release(tmp_path / "next", adds=False)
    assert service.start_another("db", "upgrade", **newer).wait(PATIENCE) == 0, service.log()
    assert service.start_another("worker", "--backend", "noop").wait(PATIENCE) == 3
    assert not service.is_ready()
