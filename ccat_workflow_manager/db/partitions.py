"""The partitions of `events` and `audit`, one for each month: made in advance, and dropped when they are old."""

from __future__ import annotations

from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.session import Database, UnitOfWork
from ccat_workflow_manager.identity import Identity, Role

HISTORY = Identity("history", "history", Role.ADMIN)
"""Who drops what is older than the settings say, in the audit."""

_CREATE_PARTITIONS = """
DO $$
DECLARE
  month date;
  name text;
  until text;
BEGIN
  FOR ahead IN 0..2 LOOP
    month := date_trunc('month', now() AT TIME ZONE 'UTC') + ahead * interval '1 month';
    name := '%table%_' || to_char(month, 'YYYY_MM');
    CONTINUE WHEN to_regclass(name) IS NOT NULL;
    until := ') TO (' || quote_literal((month + interval '1 month')::date || ' 00:00:00+00') || ')';
    BEGIN
      EXECUTE 'CREATE TABLE ' || name || ' PARTITION OF %table% FOR VALUES FROM ('
        || quote_literal(month || ' 00:00:00+00') || until;
    EXCEPTION WHEN check_violation THEN
      -- `rest` has rows of this month, which came before its partition: it becomes the partition.
      SELECT date_trunc('month', min(at) AT TIME ZONE 'UTC') INTO month FROM %table%_rest;
      BEGIN
        ALTER TABLE %table% DETACH PARTITION %table%_rest;
        EXECUTE 'ALTER TABLE %table%_rest RENAME TO ' || name;
        EXECUTE 'ALTER TABLE %table% ATTACH PARTITION ' || name || ' FOR VALUES FROM ('
          || quote_literal(month || ' 00:00:00+00') || until;
        CREATE TABLE %table%_rest PARTITION OF %table% DEFAULT;
      EXCEPTION WHEN invalid_object_definition OR check_violation THEN
        -- It also has rows from before or after months that have a partition, and keeps them all.
        NULL;
      END;
    END;
  END LOOP;
END $$
"""
"""Makes the partitions of this month and the two after it. The partition `rest` takes what has none."""
CREATE_EVENT_PARTITIONS = _CREATE_PARTITIONS.replace("%table%", "events")
CREATE_AUDIT_PARTITIONS = _CREATE_PARTITIONS.replace("%table%", "audit")

APPEND_ONLY_AUDIT = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION USING MESSAGE = 'rows of ' || TG_TABLE_NAME || ' are never changed or deleted',
    ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
"""
"""Whatever role the service has: it cannot change what it wrote. Old months go as whole partitions."""

_LOCK = 0x65766E74
_PARTITIONS = r"""
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = CAST(:table AS regclass) AND c.relname ~ '_[0-9]{4}_[0-9]{2}$' ORDER BY c.relname
"""
_OLDEST_KEPT = """
SELECT to_char(date_trunc('month', now() AT TIME ZONE 'UTC') - (:months - 1) * interval '1 month', 'YYYY_MM')
"""


def maintain_events(database: Database, keep_months: int, by: Identity = HISTORY) -> list[str]:
    """Make the partitions of the coming months, and drop those of events older than `keep_months` (0: none).

    Returns the partitions that were dropped. The present month counts as one.
    """
    return _maintain(database, "events", CREATE_EVENT_PARTITIONS, keep_months, by)


def maintain_audit(database: Database, keep_months: int) -> list[str]:
    """The same for the audit."""
    return _maintain(database, "audit", CREATE_AUDIT_PARTITIONS, keep_months, HISTORY)


def _maintain(database: Database, table: str, create: str, keep_months: int, by: Identity) -> list[str]:
    change = audit.Change(by, "prune", table)
    with audit.audited(change), database.begin("commit.partitions") as unit:
        # A partition is attached and dropped under a lock that nothing must wait behind for long.
        unit.execute("SET LOCAL lock_timeout = '2s'")
        unit.execute("SELECT pg_advisory_xact_lock(:lock)", {"lock": _LOCK})
        unit.execute(create)
        dropped = _expired(unit, table, keep_months) if keep_months else []
        for name in dropped:
            unit.execute(f"DROP TABLE {name}")
        change.after = {"dropped": dropped, "keep_months": keep_months}
        change.written_elsewhere = not dropped
    return dropped


def _expired(unit: UnitOfWork, table: str, keep_months: int) -> list[str]:
    oldest = f"{table}_" + str(unit.execute(_OLDEST_KEPT, {"months": keep_months}).scalar_one())
    return [name for (name,) in unit.execute(_PARTITIONS, {"table": table}) if name < oldest]
