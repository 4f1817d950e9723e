"""The partitions of `events`, one for each month: made in advance, and dropped when they are old."""

from __future__ import annotations

from ccat_workflow_manager.db.session import Database, UnitOfWork

CREATE_EVENT_PARTITIONS = """
DO $$
DECLARE
  month date;
BEGIN
  FOR ahead IN 0..2 LOOP
    month := date_trunc('month', now() AT TIME ZONE 'UTC') + ahead * interval '1 month';
    EXECUTE 'CREATE TABLE IF NOT EXISTS events_' || to_char(month, 'YYYY_MM')
      || ' PARTITION OF events FOR VALUES FROM ('
      || quote_literal(month || ' 00:00:00+00') || ') TO ('
      || quote_literal((month + interval '1 month')::date || ' 00:00:00+00') || ')';
  END LOOP;
END $$
"""
"""Makes the partitions of this month and the two after it. `events_rest` takes what has none."""
_LOCK = 0x65766E74
_PARTITIONS = r"""
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'events'::regclass AND c.relname ~ '^events_[0-9]{4}_[0-9]{2}$' ORDER BY c.relname
"""
_OLDEST_KEPT = """
SELECT 'events_' ||
  to_char(date_trunc('month', now() AT TIME ZONE 'UTC') - (:months - 1) * interval '1 month', 'YYYY_MM')
"""


def maintain_events(database: Database, keep_months: int) -> list[str]:
    """Make the partitions of the coming months, and drop those of events older than `keep_months` (0: none).

    Returns the partitions that were dropped. The present month counts as one.
    """
    with database.begin("commit.partitions") as unit:
        # A partition is attached and dropped under a lock that nothing must wait behind for long.
        unit.execute("SET LOCAL lock_timeout = '2s'")
        unit.execute("SELECT pg_advisory_xact_lock(:lock)", {"lock": _LOCK})
        unit.execute(CREATE_EVENT_PARTITIONS)
        dropped = _expired(unit, keep_months) if keep_months else []
        for name in dropped:
            unit.execute(f"DROP TABLE {name}")
    return dropped


def _expired(unit: UnitOfWork, keep_months: int) -> list[str]:
    oldest = unit.execute(_OLDEST_KEPT, {"months": keep_months}).scalar_one()
    return [name for (name,) in unit.execute(_PARTITIONS) if name < oldest]
