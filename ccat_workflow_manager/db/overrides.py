"""Overrides: changes that end by themselves. Each row is one field of something, with the value that it had before.

What carries out a change records it in the same transaction, after it has locked what it changes. The end of an
override takes its row after the same lock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple
from uuid import UUID

from ccat_workflow_manager.db.session import UnitOfWork, json_list
from ccat_workflow_manager.lifecycle.overrides import Changed, FieldChange, Override, Term
from ccat_workflow_manager.lifecycle.states import Status

_ENTRIES = """json_to_recordset(CAST(:entries AS json)) AS e(kind text, name text, field text, project text, title text,
  before jsonb, value jsonb)"""

_OF_ENTRIES = "o.kind = e.kind AND o.name = e.name AND o.field = e.field"

_RECORD = f"""
INSERT INTO overrides (kind, name, field, project, title, before, value, why, actor, until)
SELECT e.kind, e.name, e.field, e.project, e.title, e.before, e.value, :why, :actor, :until FROM {_ENTRIES}
ON CONFLICT (kind, name, field) DO UPDATE SET value = excluded.value, why = excluded.why, actor = excluded.actor,
  until = excluded.until, since = now(), project = excluded.project
"""
"""A second override of the same field keeps the value that was before the first."""

_FORGET = f"DELETE FROM overrides o USING {_ENTRIES} WHERE {_OF_ENTRIES}"
_FORGET_EQUAL = f"{_FORGET} AND o.before IS NOT DISTINCT FROM o.value"

COLUMNS = "o.id, o.kind, o.name, o.field, o.project, o.title, o.before, o.value, o.why, o.actor, o.since, o.until"

_DUE = "SELECT id, kind, name, project FROM overrides o WHERE until <= now() ORDER BY kind, name, id LIMIT :limit"
_TAKE = f"DELETE FROM overrides o WHERE id = ANY(:ids) AND (until <= now() OR :early) RETURNING {COLUMNS}"

_FREED = "SELECT name FROM overrides WHERE kind = 'breaker' AND name = ANY(:names) AND until > now()"

_LOCK = {
    Changed.PROJECT: "SELECT 1 FROM projects WHERE name = ANY(:names) ORDER BY name FOR NO KEY UPDATE",
    Changed.PIPELINE: "SELECT 1 FROM pipelines WHERE name = ANY(:names) ORDER BY name FOR UPDATE",
    Changed.BREAKER: None,
    Changed.RUN: "SELECT 1 FROM step_runs WHERE run_id = ANY(CAST(:names AS uuid[])) ORDER BY id FOR NO KEY UPDATE",
    Changed.STEP_RUN: "SELECT 1 FROM step_runs WHERE id = ANY(CAST(:names AS uuid[])) ORDER BY id FOR NO KEY UPDATE",
}

_GIVE_BACK = f"""
UPDATE step_runs s SET
  resources = CASE WHEN e.field = 'resources' THEN e.before ELSE s.resources END,
  backend = CASE WHEN e.field = 'backend' THEN e.before #>> '{{}}' ELSE s.backend END
FROM json_to_recordset(CAST(:entries AS json)) AS e(name uuid, field text, before jsonb, value jsonb)
WHERE s.id = e.name AND s.status = '{Status.PENDING}'
  AND CASE e.field WHEN 'resources' THEN s.resources = e.value ELSE to_jsonb(s.backend) = e.value END
"""
"""What has a job keeps what it has, and so does what a retry has given something else meanwhile."""


class Due(NamedTuple):
    """An override whose time is over."""

    id: int
    kind: str
    name: str
    project: str


class OverrideStore:
    """Records and ends overrides inside the caller's transaction."""

    def __init__(self, unit: UnitOfWork) -> None:
        self.unit = unit

    def record(self, changes: Sequence[FieldChange], term: Term) -> None:
        """Note what these changes will end with. Without an end they are for good, and end overrides of before."""
        if not changes:
            return
        entries = {"entries": json_list([asdict(each) for each in changes])}
        if term.until is None:
            self.unit.execute(_FORGET, entries)
            return
        self.unit.execute(_RECORD, {**entries, "why": term.why, "actor": term.actor or "", "until": term.until})
        self.unit.execute(_FORGET_EQUAL, entries)

    def due(self, limit: int) -> list[Due]:
        return [Due(*row) for row in self.unit.execute(_DUE, {"limit": limit})]

    def take(self, kind: Changed, names: Collection[str], ids: Collection[int], *, early: bool) -> list[Override]:
        """Lock what is changed, and remove these overrides; those that have not ended only if `early`."""
        lock = _LOCK[kind]
        if lock is not None:
            self.unit.execute(lock, {"names": sorted(names)})
        found = self.unit.records(_TAKE, {"ids": sorted(ids), "early": early})
        return [override_of(record) for record in found]

    def give_back(self, ended: Sequence[Override]) -> None:
        """Give step runs that have not started the resources and backends of before."""
        for field in ("resources", "backend"):
            entries = [
                {"name": each.name, "field": field, "before": each.before, "value": each.value}
                for each in ended
                if each.field == field
            ]
            if entries:
                self.unit.execute(_GIVE_BACK, {"entries": json_list(entries)})


def override_of(record: Mapping[str, Any]) -> Override:
    """The override with these columns."""
    return Override(**{**record, "kind": Changed(record["kind"])})


def freed_breakers(unit: UnitOfWork, keys: Collection[UUID]) -> set[UUID]:
    """Those of these breakers that an operator has released until a time to come."""
    found = unit.execute(_FREED, {"names": sorted(map(str, keys))})
    return {UUID(name) for (name,) in found}


def changes(
    kind: Changed, name: str, project: str, title: str, before: Mapping[str, Any], values: Mapping[str, Any]
) -> list[FieldChange]:
    """One change for each of these values."""
    return [FieldChange(kind, name, field, project, title, before.get(field), value) for field, value in values.items()]
