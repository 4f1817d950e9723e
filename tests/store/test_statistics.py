"""Statistics of tables that have grown."""

from __future__ import annotations

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.statistics import refresh
from ccat_workflow_manager.services.run_request import RunRequest

PAGES = "SELECT relpages, pg_relation_size(oid) / 8192 FROM pg_class WHERE relname = 'step_runs'"
SPEC = {"name": "a", "steps": [{"name": "s", "foreach": list(range(3000)), "command": ["true"]}]}


def test_a_table_that_has_grown_is_looked_at_once(context: Context) -> None:
    context.submitter.submit(RunRequest(spec=SPEC), actor="test")
    with context.database.read() as unit:
        refresh(unit)
        known, present = unit.execute(PAGES).one()
        assert 2 * known > present > 100  # autovacuum may have looked at it while it grew
        assert refresh(unit) == []
