"""Statistics of tables that have grown.

PostgreSQL keeps the plan of a statement until it learns something new of its tables. A plan from the time when a table
was small reads all of it, so each claim takes longer than the one before. Autovacuum looks at the tables once a minute.
"""

from __future__ import annotations

from ccat_workflow_manager.db.session import UnitOfWork

_TABLES = ("attempts", "run_steps", "runs", "step_runs")
_FEWEST_PAGES = 16

_GROWN = """
SELECT c.relname FROM pg_class c
WHERE c.oid = ANY(CAST(CAST(:tables AS text[]) AS regclass[])) AND pg_has_role(c.relowner, 'USAGE')
  AND pg_relation_size(c.oid) > 2 * greatest(c.relpages, :pages) * CAST(current_setting('block_size') AS bigint)
"""


def refresh(unit: UnitOfWork) -> list[str]:
    """Have PostgreSQL look anew at the tables that are twice as large as when it did so last. Returns them."""
    grown = [row[0] for row in unit.execute(_GROWN, {"tables": list(_TABLES), "pages": _FEWEST_PAGES})]
    for table in grown:
        unit.execute(f"ANALYZE (SKIP_LOCKED) {table}")
    return grown
